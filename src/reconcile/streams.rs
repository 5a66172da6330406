//! Whether streams are live. Twitch tells when they begin and end; since what it tells may be lost, it is also asked
//! about all followed streamers now and then. What is known is remembered in Redis for 300 s, so that nobody asks again
//! meanwhile, and noted in the journal, where recordings begin and end by it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use uuid::Uuid;

use super::{ReconcileError, Twitch};
use crate::domain::stream::{Stream, StreamSeen};
use crate::domain::time::Millis;
use crate::journal::recordings::Followed;
use crate::journal::sessions::Entry;
use crate::twitch::client::TwitchError;
use crate::twitch::helix::LiveStream;

/// A little longer than a status is remembered: else every other look would find only what the last one has remembered.
const SWEEP_EVERY: Duration = Duration::from_secs(305);
/// As many as Twitch tells of in one answer.
const STREAMERS_A_PAGE: i64 = 100;
/// Subscriptions come between two looks.
const PAGES_A_LOOK: usize = 5;
/// After Twitch could not be asked.
const PAUSE: Duration = Duration::from_secs(30);
/// The correlation id of what is noted of streams.
const STREAM_STATUS: &str = "stream status";

/// How far the look at all followed streamers has come.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// When it was begun last.
    began_at: Option<Instant>,
    is_under_way: bool,
    /// The last streamer that was looked at.
    after: Option<Uuid>,
    /// Nothing is asked before.
    put_off_until: Option<Instant>,
    is_failing: bool,
}

/// How far a part of the look came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Looked {
    /// There is nothing more to look at for now.
    Done,
    /// There may be more.
    More,
    /// Twitch lets us ask no more for so long.
    Limited(Duration),
}

impl Sweep {
    /// Whether there is something to look at; begins anew when it is time.
    fn is_due(&mut self, now: Instant) -> bool {
        if self.put_off_until.is_some_and(|until| now < until) {
            return false;
        }
        let is_over = |began: Instant| now.duration_since(began) >= SWEEP_EVERY;
        if !self.is_under_way && self.began_at.is_none_or(is_over) {
            self.began_at = Some(now);
            self.is_under_way = true;
            self.after = None;
        }
        self.is_under_way
    }

    fn note_success(&mut self) {
        if std::mem::take(&mut self.is_failing) {
            tracing::info!("Twitch tells again which streams are live");
        }
    }

    fn note_failure(&mut self, error: &TwitchError) {
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!(%error, "Twitch does not tell which streams are live");
        }
    }
}

impl Twitch {
    /// What Twitch told of a stream: remembered for 300 s, noted in the journal. Answers the entry that changed.
    ///
    /// # Errors
    /// [`ReconcileError`] when PostgreSQL is away; it may be told again.
    pub async fn stream_told(
        &self,
        twitch_user_id: &str,
        seen: StreamSeen,
    ) -> Result<Option<Entry>, ReconcileError> {
        // Told late, or again: what has ended since is no news.
        if let StreamSeen::Live(stream) = &seen
            && let [Some(StreamSeen::Offline { stream_id: Some(ended) })] =
                &self.remembered_streams(&[twitch_user_id.to_owned()]).await[..]
            && *ended == stream.id
        {
            return Ok(None);
        }
        if let Err(error) = self.statuses.put(twitch_user_id, &seen).await {
            tracing::debug!(%error, "what Twitch told of a stream is not remembered");
        }
        self.note_stream_seen(twitch_user_id, &seen).await
    }

    /// Looks whether a streamer is live now, unless that is known from the last 300 s; notes it. Answers the entry that
    /// changed.
    ///
    /// # Errors
    /// [`ReconcileError`] when Twitch or PostgreSQL is away, or Twitch refuses.
    pub async fn look_at_stream(&self, twitch_user_id: &str) -> Result<Option<Entry>, ReconcileError> {
        let ids = [twitch_user_id.to_owned()];
        // Before Twitch is asked: only the stream that was known then can have ended by its answer.
        let known = self.journal.known_stream(twitch_user_id).await?;
        let mut seen = self.remembered_streams(&ids).await.pop().flatten();
        if seen.is_none() {
            seen = self.ask_for_streams(&ids).await?.pop().map(|(_, seen)| seen);
        }
        let news = match (seen, known) {
            (Some(StreamSeen::Offline { .. }), Some(known)) => {
                StreamSeen::Offline { stream_id: Some(known.id) }
            }
            (Some(live @ StreamSeen::Live(_)), _) => live,
            (Some(StreamSeen::Offline { .. }), None) | (None, _) => return Ok(None),
        };
        self.note_stream_seen(twitch_user_id, &news).await
    }

    /// A part of the look at all followed streamers. While Twitch can't be asked it is put off; who is refused is left
    /// out.
    ///
    /// # Errors
    /// [`ReconcileError`] when PostgreSQL is away: it goes on from where it was.
    pub(super) async fn look_at_streams(&self, sweep: &mut Sweep) -> Result<Looked, ReconcileError> {
        if !sweep.is_due(Instant::now()) {
            return Ok(Looked::Done);
        }
        for _ in 0..PAGES_A_LOOK {
            if !self.keeps_duty().await? {
                return Ok(Looked::Done);
            }
            let page = self.journal.followed(sweep.after, STREAMERS_A_PAGE).await?;
            match self.look_at_page(&page).await {
                Ok(()) => sweep.note_success(),
                Err(ReconcileError::Twitch(TwitchError::Limited { wait })) => {
                    return Ok(Looked::Limited(wait));
                }
                Err(ReconcileError::Twitch(error)) => {
                    sweep.note_failure(&error);
                    // The same would be refused again.
                    if !matches!(error, TwitchError::Refused { .. }) {
                        sweep.put_off_until = Some(Instant::now() + PAUSE);
                        return Ok(Looked::Done);
                    }
                }
                Err(error) => return Err(error),
            }
            sweep.after = page.last().map(|last| last.streamer_id);
            if page.len() < STREAMERS_A_PAGE as usize {
                sweep.is_under_way = false;
                return Ok(Looked::Done);
            }
        }
        Ok(Looked::More)
    }

    async fn look_at_page(&self, page: &[Followed]) -> Result<(), ReconcileError> {
        let ids: Vec<String> = page.iter().map(|one| one.twitch_user_id.clone()).collect();
        let remembered = self.remembered_streams(&ids).await;
        // What contradicts the journal may be older than what the journal knows: Twitch is asked.
        let trusted = page.iter().zip(remembered).filter_map(|(one, seen)| {
            let seen = seen.filter(|seen| is_known(one, seen))?;
            Some((one.twitch_user_id.clone(), seen))
        });
        let mut seen: HashMap<String, StreamSeen> = trusted.collect();
        let unknown: Vec<String> = ids.into_iter().filter(|id| !seen.contains_key(id)).collect();
        seen.extend(self.ask_for_streams(&unknown).await?);
        let mut live = Vec::new();
        for one in page {
            let Some(seen) = seen.remove(&one.twitch_user_id) else { continue };
            if matches!(seen, StreamSeen::Live(_)) {
                live.push(one.streamer_id);
            }
            if let Some(news) = news(one, seen) {
                self.note_stream_seen(&one.twitch_user_id, &news).await?;
            }
        }
        // Redis may have forgotten them.
        self.watch_chats(&live, self.clock.now()).await;
        Ok(())
    }

    /// Asks Twitch about streams, and remembers what it says.
    async fn ask_for_streams(
        &self,
        twitch_user_ids: &[String],
    ) -> Result<Vec<(String, StreamSeen)>, ReconcileError> {
        if twitch_user_ids.is_empty() {
            return Ok(Vec::new());
        }
        let ask = async |token: &_| self.client.streams(token, twitch_user_ids).await;
        let seen = seen_by(twitch_user_ids, self.app.call(ask).await?);
        self.remember_streams(&seen).await;
        Ok(seen)
    }

    async fn note_stream_seen(
        &self,
        twitch_user_id: &str,
        seen: &StreamSeen,
    ) -> Result<Option<Entry>, ReconcileError> {
        let changed = self.journal.note_stream(twitch_user_id, seen, STREAM_STATUS).await?;
        if let Some(entry) = &changed {
            (self.changed)(entry);
            if matches!(seen, StreamSeen::Live(_)) {
                self.watch_chats(&[entry.streamer.id], self.clock.now()).await;
            }
        }
        Ok(changed)
    }

    async fn remembered_streams(&self, twitch_user_ids: &[String]) -> Vec<Option<StreamSeen>> {
        self.statuses.get(twitch_user_ids).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "what was seen of streams is not known");
            vec![None; twitch_user_ids.len()]
        })
    }

    async fn remember_streams(&self, seen: &[(String, StreamSeen)]) {
        if let Err(error) = self.statuses.put_unknown(seen).await {
            tracing::debug!(%error, "what was seen of streams is not remembered");
        }
    }
}

/// Whether the journal knows what was seen.
fn is_known(one: &Followed, seen: &StreamSeen) -> bool {
    let there = match seen {
        StreamSeen::Live(stream) => Some(&stream.id),
        StreamSeen::Offline { .. } => None,
    };
    one.stream.as_ref().map(|stream| &stream.id) == there
}

/// What there is to note of a streamer; `None` when the journal knows it, and the recording holds what it should.
fn news(one: &Followed, seen: StreamSeen) -> Option<StreamSeen> {
    let is_known = is_known(one, &seen);
    match seen {
        StreamSeen::Live(_) => (!is_known || one.recorded && !one.held).then_some(seen),
        // That one and no other: the next one may have begun meanwhile.
        StreamSeen::Offline { .. } => {
            let ended = one.stream.as_ref()?;
            Some(StreamSeen::Offline { stream_id: Some(ended.id.clone()) })
        }
    }
}

/// What is seen of the streams of all who were asked about: Twitch lists only those that are live.
fn seen_by(twitch_user_ids: &[String], live: Vec<LiveStream>) -> Vec<(String, StreamSeen)> {
    let mut live: HashMap<String, Stream> = live
        .into_iter()
        .map(|LiveStream { id, user_id, started_at }| {
            (user_id, Stream { id, started_at: millis(started_at) })
        })
        .collect();
    let seen = |id: &String| {
        let stream = live.remove(id);
        (id.clone(), stream.map_or(StreamSeen::Offline { stream_id: None }, StreamSeen::Live))
    };
    twitch_user_ids.iter().map(seen).collect()
}

fn millis(at: OffsetDateTime) -> Millis {
    Millis(at.unix_timestamp() * 1_000 + i64::from(at.millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(id: &str) -> Stream {
        Stream { id: id.into(), started_at: Millis(1_000) }
    }

    fn live(id: &str) -> StreamSeen {
        StreamSeen::Live(stream(id))
    }

    fn ended(id: Option<&str>) -> StreamSeen {
        StreamSeen::Offline { stream_id: id.map(str::to_owned) }
    }

    fn followed(known: Option<&str>, held: bool) -> Followed {
        Followed {
            streamer_id: Uuid::from_u128(1),
            twitch_user_id: "123".into(),
            stream: known.map(stream),
            recorded: true,
            held,
        }
    }

    #[test]
    fn a_stream_is_noted_that_the_journal_does_not_know_or_no_recording_holds() {
        assert_eq!(news(&followed(None, false), live("a")), Some(live("a")));
        assert_eq!(news(&followed(Some("a"), true), live("b")), Some(live("b")));
        assert_eq!(news(&followed(Some("a"), false), live("a")), Some(live("a")));
        assert_eq!(news(&followed(Some("a"), true), live("a")), None);
    }

    #[test]
    fn the_end_that_is_noted_is_that_of_the_stream_that_was_known() {
        assert_eq!(news(&followed(Some("a"), true), ended(None)), Some(ended(Some("a"))));
        assert_eq!(news(&followed(Some("a"), true), ended(Some("b"))), Some(ended(Some("a"))));
        assert_eq!(news(&followed(None, false), ended(None)), None);
    }

    #[test]
    fn what_is_remembered_is_trusted_where_the_journal_says_the_same() {
        assert!(is_known(&followed(Some("a"), false), &live("a")));
        assert!(is_known(&followed(None, false), &ended(Some("a"))));
        assert!(!is_known(&followed(Some("a"), true), &live("b")));
        assert!(!is_known(&followed(Some("a"), true), &ended(None)));
        assert!(!is_known(&followed(None, false), &live("a")));
    }

    #[test]
    fn who_is_not_listed_is_offline() {
        let listed = LiveStream {
            id: "a".into(),
            user_id: "2".into(),
            started_at: OffsetDateTime::from_unix_timestamp_nanos(1_763_700_000_123_999_999).unwrap(),
        };
        let ids = ["1", "2"].map(String::from);
        let a = Stream { id: "a".into(), started_at: Millis(1_763_700_000_123) };
        let expected = vec![("1".to_owned(), ended(None)), ("2".to_owned(), StreamSeen::Live(a))];
        assert_eq!(seen_by(&ids, vec![listed]), expected);
    }

    #[test]
    fn a_sweep_begins_anew_once_it_is_over_and_some_time_has_passed() {
        let (mut sweep, start) = (Sweep::default(), Instant::now());
        assert!(sweep.is_due(start));
        sweep.after = Some(Uuid::from_u128(1));
        assert!(sweep.is_due(start + SWEEP_EVERY), "it is still under way");
        assert!(sweep.after.is_some());
        sweep.is_under_way = false;
        assert!(!sweep.is_due(start + SWEEP_EVERY / 2));
        assert!(sweep.is_due(start + SWEEP_EVERY));
        assert_eq!(sweep.after, None);
    }

    #[test]
    fn a_sweep_that_is_put_off_goes_on_from_where_it_was() {
        let (mut sweep, start) = (Sweep::default(), Instant::now());
        assert!(sweep.is_due(start));
        sweep.after = Some(Uuid::from_u128(1));
        sweep.put_off_until = Some(start + PAUSE);
        assert!(!sweep.is_due(start + PAUSE / 2));
        assert!(sweep.is_due(start + PAUSE));
        assert!(sweep.after.is_some());
    }
}
