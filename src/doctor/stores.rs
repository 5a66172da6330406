//! PostgreSQL and Redis: whether they answer, and keep what they have to.

use time::OffsetDateTime;
use uuid::Uuid;

use super::{ANSWER_MAX, Finding, in_time, unanswered};
use crate::hot::spill::{Depth, Spill};
use crate::hot::{Hot, HotError};
use crate::journal::{Journal, JournalError, JournalOptions, migrations};
use crate::run;
use crate::settings::{QueueDurability, RedisUrl, Settings};

const POSTGRES: &str = "PostgreSQL";
const REDIS: &str = "Redis";
/// Questions that are asked at the same time.
const CONNECTIONS: usize = 4;
/// Clocks that differ by more than this are not looked after.
const CLOCK_NOTE_MS: u64 = 5_000;
/// With this much a notification of Twitch's may be refused: see `twitch/signature.rs`.
const CLOCK_BAD_MS: u64 = 60_000;

/// Looks at PostgreSQL. The journal is there for further questions if they can be answered.
pub(super) async fn postgres(settings: &Settings) -> (Vec<Finding>, Option<Journal>) {
    let database = &settings.database;
    if database.url.expose().is_empty() {
        let remedy = "set DATABASE_URL to postgres://user:password@host:port/name";
        return (vec![Finding::bad(POSTGRES, "database.url is not set", remedy)], None);
    }
    let options = JournalOptions {
        pool_size: CONNECTIONS,
        connect_timeout: database.connect_timeout.min(ANSWER_MAX),
        statement_timeout: database.statement_timeout.min(ANSWER_MAX),
    };
    let journal = match Journal::new(database.url.expose(), &options, Uuid::nil()) {
        Ok(journal) => journal,
        Err(error) => return (vec![unanswered(POSTGRES, &error)], None),
    };
    if let Err(error) = in_time(journal.ping(), JournalError::Away).await {
        return (vec![unanswered(POSTGRES, &error)], None);
    }
    let (durability, schema, clock) = tokio::join!(
        in_time(journal.check_durability(), JournalError::Away),
        in_time(journal.check_schema(), JournalError::Away),
        in_time(clock_difference(&journal), JournalError::Away),
    );
    let mut findings = vec![Finding::good(POSTGRES, format!("{} answers", database.url))];
    findings.extend(durability_findings(&durability));
    findings.push(match &schema {
        Ok(()) => {
            let needed = migrations::newest_version();
            Finding::good(POSTGRES, format!("the schema has what this release needs, version {needed}"))
        }
        Err(error) => unanswered(POSTGRES, error),
    });
    findings.push(match &clock {
        Ok(ahead_ms) => clock_finding(*ahead_ms),
        Err(error) => unanswered(POSTGRES, error),
    });
    (findings, schema.is_ok().then_some(journal))
}

fn durability_findings(durability: &Result<Vec<String>, JournalError>) -> Vec<Finding> {
    match durability {
        Err(error) => vec![unanswered(POSTGRES, error)],
        Ok(risks) if risks.is_empty() => vec![Finding::good(POSTGRES, "it keeps what it has acknowledged")],
        Ok(risks) => {
            let note = |risk: &String| Finding::note(POSTGRES, risk.clone(), "change it in postgresql.conf");
            risks.iter().map(note).collect()
        }
    }
}

/// By how many milliseconds this machine's clock is ahead of PostgreSQL's, at least.
async fn clock_difference(journal: &Journal) -> Result<i64, JournalError> {
    let asked_ms = now_ms();
    let told = journal.server_clock().await?;
    Ok(ahead_of(told.0, asked_ms, now_ms()))
}

fn now_ms() -> i64 {
    let now = OffsetDateTime::now_utc();
    now.unix_timestamp() * 1_000 + i64::from(now.millisecond())
}

/// What was told was so at some time between question and answer: what lies between them is no difference.
fn ahead_of(told_ms: i64, asked_ms: i64, answered_ms: i64) -> i64 {
    if told_ms < asked_ms {
        asked_ms - told_ms
    } else if told_ms > answered_ms {
        answered_ms - told_ms
    } else {
        0
    }
}

fn clock_finding(ahead_ms: i64) -> Finding {
    let by_ms = ahead_ms.unsigned_abs();
    if by_ms <= CLOCK_NOTE_MS {
        return Finding::good(POSTGRES, "its clock and this machine's agree");
    }
    let (seconds, way) = (by_ms / 1_000, if ahead_ms > 0 { "ahead of" } else { "behind" });
    let said = format!("this machine's clock is {seconds} s {way} PostgreSQL's");
    let remedy = "have both machines take the time from the network (NTP): a machine whose clock is 1 minute behind \
                  Twitch's, or 10 minutes ahead, refuses notifications";
    if by_ms > CLOCK_BAD_MS {
        Finding::bad(POSTGRES, said, remedy)
    } else {
        Finding::note(POSTGRES, said, remedy)
    }
}

/// Looks at Redis in each of its roles.
pub(super) async fn redis(settings: &Settings) -> Vec<Finding> {
    let redis = &settings.redis;
    if redis.url.expose().next().is_none() {
        return vec![Finding::bad(REDIS, "redis.url is not set", "set REDIS_URL to redis://host:port")];
    }
    let (cache, limits, queue) = tokio::join!(
        role(settings, "cache and sessions", "redis.url", &redis.url),
        role(settings, "rate limits", "redis.rate_limit_url", &redis.rate_limit_url),
        queue(settings),
    );
    let mut findings = vec![cache, limits];
    findings.extend(queue);
    findings
}

async fn role(settings: &Settings, name: &str, key: &str, url: &RedisUrl) -> Finding {
    let probed = match Hot::connect(&run::redis_options(&settings.redis, url)) {
        Ok(hot) => in_time(hot.probe(), HotError::Connection).await,
        Err(error) => Err(error),
    };
    match probed {
        Ok(()) => Finding::good(REDIS, format!("{name}: {url} answers, and takes writes")),
        Err(error) => away(name, key, url, &error),
    }
}

async fn queue(settings: &Settings) -> Vec<Finding> {
    let redis = &settings.redis;
    let spill = match run::spill(redis, Uuid::nil()) {
        Ok(spill) => spill,
        Err(error) => return vec![away("queue", "redis.queue_url", &redis.queue_url, &error)],
    };
    match in_time(spill.probe(), HotError::Connection).await {
        Err(error) => vec![away("queue", "redis.queue_url", &redis.queue_url, &error)],
        Ok(depth) => queue_findings(&depth, why_fleeting(&spill, settings).as_deref()),
    }
}

fn away(name: &str, key: &str, url: &RedisUrl, error: &HotError) -> Finding {
    let remedy = format!("check {key} ({url}); what each role needs stands in config/redis/README.md");
    Finding::bad(REDIS, format!("{name}: {error}"), remedy)
}

/// Why no vote is put into the queue; `None` when its server is durable.
fn why_fleeting(spill: &Spill, settings: &Settings) -> Option<String> {
    if spill.is_durable() {
        return None;
    }
    Some(match spill.why_fleeting() {
        _ if settings.redis.queue_is_durable == QueueDurability::No => {
            "redis.queue_is_durable is \"no\"".to_owned()
        }
        Some(why) => format!("its server may lose what it has acknowledged ({why})"),
        None => "it is not known whether its server keeps what it has acknowledged".to_owned(),
    })
}

fn queue_findings(depth: &Depth, why_fleeting: Option<&str>) -> Vec<Finding> {
    let waiting = depth.waiting;
    let mut findings = vec![match why_fleeting {
        None => Finding::good(REDIS, format!("queue: it is durable; votes that wait in it: {waiting}")),
        Some(why) => {
            let said = format!("queue: {why}, so no votes wait there while PostgreSQL is away");
            let remedy = "give its server the settings of config/redis/queue.conf, or, if it keeps what it \
                          acknowledges and can't be asked, set redis.queue_is_durable to \"yes\"";
            Finding::note(REDIS, said, remedy)
        }
    }];
    if depth.dead_letters > 0 {
        let said = format!("queue: votes that PostgreSQL refused for good: {}", depth.dead_letters);
        let remedy = "GET /admin/api/v1/dead-letters says why; …/{id}/retry puts one back";
        findings.push(Finding::note(REDIS, said, remedy));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn the_way_of_question_and_answer_is_no_difference_of_clocks() {
        assert_eq!(ahead_of(1_500, 1_000, 2_000), 0);
        assert_eq!(ahead_of(400, 1_000, 2_000), 600);
        assert_eq!(ahead_of(9_000, 1_000, 2_000), -7_000);
    }

    #[test]
    fn clocks_that_differ_too_much_are_told_with_the_way_they_do() {
        assert_eq!(clock_finding(5_000).verdict, Verdict::Good);
        assert_eq!(clock_finding(5_001).verdict, Verdict::Note);
        let behind = clock_finding(-61_000);
        assert_eq!(
            (behind.verdict, behind.said.as_str()),
            (Verdict::Bad, "this machine's clock is 61 s behind PostgreSQL's")
        );
        assert!(clock_finding(7_000).said.contains("7 s ahead of"));
        assert_eq!(clock_finding(i64::MIN).verdict, Verdict::Bad);
    }

    #[test]
    fn a_server_that_forgets_is_bad_and_one_at_risk_is_noted() {
        let forgets = Err(JournalError::NotDurable("it runs with fsync = off; set fsync = on".into()));
        let findings = durability_findings(&forgets);
        assert_eq!(findings, [Finding::bad(POSTGRES, "it runs with fsync = off", "set fsync = on")]);
        let risks = durability_findings(&Ok(vec!["a".into(), "b".into()]));
        assert!(risks.len() == 2 && risks.iter().all(|finding| finding.verdict == Verdict::Note));
        assert_eq!(durability_findings(&Ok(Vec::new()))[0].verdict, Verdict::Good);
    }

    #[test]
    fn a_fleeting_queue_is_worth_a_note_and_so_are_dead_letters() {
        let empty = Depth { waiting: 0, dead_letters: 0 };
        assert_eq!(queue_findings(&empty, None)[0].verdict, Verdict::Good);
        let fleeting = queue_findings(&empty, Some("appendfsync is everysec instead of always"));
        assert_eq!(fleeting[0].verdict, Verdict::Note);
        assert!(fleeting[0].said.contains("appendfsync is everysec"), "{}", fleeting[0].said);
        let dead = queue_findings(&Depth { waiting: 3, dead_letters: 2 }, None);
        assert!(dead[0].said.contains("wait in it: 3"));
        assert_eq!(dead[1].verdict, Verdict::Note);
    }

    #[test]
    fn a_role_that_is_away_is_told_with_its_setting() {
        let finding = away("rate limits", "redis.rate_limit_url", &RedisUrl::default(), &HotError::Away);
        assert_eq!(finding.verdict, Verdict::Bad);
        assert!(finding.remedy.unwrap().contains("redis.rate_limit_url"));
    }
}
