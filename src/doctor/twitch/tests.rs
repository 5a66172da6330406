use super::super::Verdict;
use super::*;

const CALLBACK: &str = "https://pulse.example.com/webhooks/eventsub";
const FRESH: TokenTimes =
    TokenTimes { validated_ago: Duration::from_secs(720), expires_in: Duration::from_secs(3_600) };

fn identity(scopes: &[&str]) -> Identity {
    Identity {
        user_id: "7".into(),
        login: "pulsebot".into(),
        scopes: scopes.iter().map(ToString::to_string).collect(),
        client_id: "client".into(),
        expires_in: Duration::from_secs(3_600),
    }
}

fn worst(findings: &[Finding]) -> Verdict {
    findings.iter().map(|finding| finding.verdict).max().unwrap()
}

fn judged(validated: Result<Identity, TwitchError>, times: &TokenTimes) -> Vec<Finding> {
    judge_token(&validated, "7", "client", times)
}

fn shard(id: u32, status: &str) -> Shard {
    Shard {
        id: id.to_string(),
        status: status.into(),
        method: "webhook".into(),
        callback: Some(CALLBACK.into()),
        session_id: None,
    }
}

#[test]
fn a_refused_application_is_told_what_to_copy() {
    let refused = TwitchError::Refused { status: 403, message: "invalid client secret".into(), id: None };
    let finding = grant_refused(&refused);
    assert_eq!(finding.verdict, Verdict::Bad);
    assert!(
        finding.said.contains("invalid client secret") && finding.remedy.unwrap().starts_with("copy both")
    );
    assert!(grant_refused(&TwitchError::Away("no route".into())).said.contains("can't be reached"));
}

#[test]
fn a_bot_that_is_signed_in_with_all_permissions_is_good() {
    let findings = judged(Ok(identity(BOT_SCOPES)), &FRESH);
    assert_eq!(worst(&findings), Verdict::Good);
    assert!(findings[0].said.contains("pulsebot") && findings[1].said.contains("12 minutes"));
}

#[test]
fn a_permission_to_read_is_needed_and_one_to_write_is_not() {
    let findings = judged(Ok(identity(&["user:bot", "user:write:chat"])), &FRESH);
    assert_eq!(worst(&findings), Verdict::Bad);
    assert!(findings[0].said.contains("user:read:chat"));
    assert_eq!(worst(&judged(Ok(identity(&["user:read:chat", "user:bot"])), &FRESH)), Verdict::Note);
}

#[test]
fn a_token_of_somebody_else_or_of_another_application_is_no_use() {
    for other in [
        Identity { user_id: "8".into(), ..identity(BOT_SCOPES) },
        Identity { client_id: "other".into(), ..identity(BOT_SCOPES) },
    ] {
        assert_eq!(worst(&judged(Ok(other), &FRESH)), Verdict::Bad);
    }
}

#[test]
fn a_token_that_only_expired_is_refreshed_by_an_instance() {
    let refused = || Err(TwitchError::Unauthorized("invalid access token".into()));
    assert_eq!(worst(&judged(refused(), &FRESH)), Verdict::Bad);
    let expired = TokenTimes { expires_in: Duration::ZERO, ..FRESH };
    assert_eq!(worst(&judged(refused(), &expired)), Verdict::Note);
}

#[test]
fn a_token_that_nobody_asked_about_for_long_is_noted() {
    let old = TokenTimes { validated_ago: Duration::from_secs(10 * 3_600), ..FRESH };
    let findings = judged(Ok(identity(BOT_SCOPES)), &old);
    assert_eq!(worst(&findings), Verdict::Note);
    assert!(findings[1].said.contains("10 hours"));
}

#[test]
fn an_account_is_known_by_its_id() {
    let user = User { id: "7".into(), login: "pulsebot".into(), display_name: String::new() };
    assert_eq!(judge_account("7", std::slice::from_ref(&user)).verdict, Verdict::Good);
    assert_eq!(judge_account("pulsebot", &[user]).verdict, Verdict::Bad);
}

#[test]
fn a_conduit_is_ours_by_its_id_alone() {
    let there: Vec<Conduit> =
        (0..5).map(|number| Conduit { id: format!("c{number}"), shard_count: 1 }).collect();
    assert_eq!(find_conduit(Some("c2"), &there).unwrap().id, "c2");
    let gone = find_conduit(Some("c9"), &there).unwrap_err();
    assert!(gone.said.contains("c9 is gone") && gone.remedy.unwrap().starts_with("delete"));
    assert!(find_conduit(None, &there[..1]).unwrap_err().said.contains("none yet"));
    assert_eq!(judge_size(&there[0], 1).verdict, Verdict::Good);
    assert_eq!(judge_size(&there[0], 2).verdict, Verdict::Note);
}

#[test]
fn shards_are_good_when_all_are_enabled_and_lead_here() {
    let shards = [shard(0, "enabled"), shard(1, "enabled")];
    assert_eq!(worst(&judge_shards(&shards, 2, Some(CALLBACK))), Verdict::Good);
    let missing = judge_shards(&shards, 3, Some(CALLBACK));
    assert!(missing.len() == 1 && missing[0].said.contains("shard 2 leads nowhere"), "{missing:?}");
}

#[test]
fn what_is_wrong_with_a_shard_is_told_with_what_to_do() {
    let trouble = |shard: &Shard, callback| shard_trouble(Some(shard), callback);
    let elsewhere = Shard { callback: Some("https://other.example".into()), ..shard(0, "enabled") };
    assert!(trouble(&elsewhere, Some(CALLBACK)).unwrap().0.contains("https://other.example"));
    assert!(trouble(&shard(0, "enabled"), None).unwrap().0.contains("not to a session"));
    let unproven = trouble(&shard(0, "webhook_callback_verification_failed"), Some(CALLBACK)).unwrap();
    assert!(unproven.1.contains("prove itself"));
    assert!(trouble(&shard(0, "something new"), Some(CALLBACK)).unwrap().0.contains("something new"));

    let socket = Shard { method: "websocket".into(), callback: None, ..shard(0, "enabled") };
    assert!(trouble(&socket, Some(CALLBACK)).unwrap().0.contains("a websocket"));
    assert!(trouble(&socket, None).unwrap().0.contains("no session"));
    let attached = Shard { session_id: Some("s".into()), ..socket };
    assert_eq!(trouble(&attached, None), None);
    let lost = Shard { status: "websocket_disconnected".into(), ..attached };
    assert!(trouble(&lost, None).unwrap().1.contains("twitch.eventsub_url"));
}

#[test]
fn of_many_shards_in_trouble_some_are_shown_and_the_rest_counted() {
    let findings = judge_shards(&[], 8, Some(CALLBACK));
    assert_eq!(findings.len(), SHOWN_MAX + 1);
    assert_eq!(findings[SHOWN_MAX].said, "3 more shards like these, of 8");
}
