//! Following what changes: the directory's feed, sums to compare it with, and notifications.

use tokio_postgres::AsyncMessage;
use uuid::Uuid;

use super::sessions::Entry;
use super::{Journal, JournalError, JournalOptions, rows};

/// The channel on which PostgreSQL tells that the directory changed.
const DIRECTORY_CHANNEL: &str = "chatpulse_directory";
/// The channel on which instances tell that heads have moved.
const HEADS_CHANNEL: &str = "chatpulse_heads";
/// Streamers named by one notification. PostgreSQL allows 8,000 bytes; an id and its comma take 37.
const HEADS_A_NOTIFICATION: usize = 200;

/// Sums over all live sessions. All the numbers but one only grow, so who has the same sums has the same
/// numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveDigest {
    pub sessions: i64,
    pub streamer_versions: i64,
    pub config_versions: i64,
    pub ordinals: i64,
    /// How many are paused.
    pub paused: i64,
}

/// The versions of what a directory knows of one live session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveVersions {
    pub streamer_id: Uuid,
    pub streamer_version: i64,
    pub config_version: i64,
    pub ordinal: i64,
    pub paused: bool,
    /// When the streamer's entry last changed.
    pub changed: DirectoryCursor,
}

/// A place in the history of the directory, to ask for what came after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct DirectoryCursor(pub(super) i64);

impl DirectoryCursor {
    /// The cursor of a place; which places there are, only the journal behind a cursor knows.
    pub fn at(place: i64) -> DirectoryCursor {
        DirectoryCursor(place)
    }

    /// The place.
    pub fn place(self) -> i64 {
        self.0
    }

    /// Whether who asked with this cursor has been told of a change made at `changed`.
    pub fn covers(self, changed: DirectoryCursor) -> bool {
        changed < self
    }
}

/// What PostgreSQL tells of its own accord.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Something in the directory changed.
    Directory,
    /// The heads of these streamers' sessions have moved.
    Heads(Vec<Uuid>),
}

/// Transactions still running now may commit later: the next question begins with them.
const HORIZON: &str = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS horizon";
/// Streamers that are read by one statement.
const DIRECTORY_PART: i64 = 2_000;

impl Journal {
    /// The streamers that changed since `cursor` (all that have a live session, for a new cursor),
    /// and the cursor to ask with next. A change may be answered twice, but never missed.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away or a row can't be read.
    pub async fn directory_since(
        &self,
        cursor: Option<DirectoryCursor>,
    ) -> Result<(Vec<Entry>, DirectoryCursor), JournalError> {
        let Some(cursor) = cursor else { return self.whole_directory().await };
        let client = self.client().await?;
        let sql = format!(
            "SELECT h.horizon, d.* FROM ({HORIZON}) h
             LEFT JOIN chatpulse.entries d ON d.changed >= $1::bigint::text::xid8"
        );
        let rows = client.query(&sql, &[&cursor.0]).await?;
        let mut entries = Vec::with_capacity(rows.len());
        let mut next = cursor;
        for row in &rows {
            next = DirectoryCursor(row.try_get("horizon")?);
            if row.try_get::<_, Option<Uuid>>("streamer_id")?.is_some() {
                entries.push(rows::entry(row)?);
            }
        }
        Ok((entries, next))
    }

    /// All streamers with a live session, some thousand at a time: a statement may not take long.
    async fn whole_directory(&self) -> Result<(Vec<Entry>, DirectoryCursor), JournalError> {
        // Read first: what changes while the parts are read is answered again by the next question.
        let next = DirectoryCursor(self.client().await?.query_one(HORIZON, &[]).await?.try_get("horizon")?);
        let sql = "SELECT streamer_id FROM chatpulse.live_sessions WHERE streamer_id > $1
                   ORDER BY streamer_id LIMIT $2";
        let (mut entries, mut after) = (Vec::new(), Uuid::nil());
        loop {
            let rows = self.client().await?.query(sql, &[&after, &DIRECTORY_PART]).await?;
            let part = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<Uuid>, _>>()?;
            let Some(last) = part.last() else { return Ok((entries, next)) };
            after = *last;
            entries.extend(self.entries(&part).await?);
        }
    }

    /// One number for each thing that a directory knows of all live sessions together.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away.
    pub async fn live_digest(&self) -> Result<LiveDigest, JournalError> {
        let client = self.client().await?;
        let row = client
            .query_one(
                "SELECT count(*), coalesce(sum(u.version), 0)::bigint, coalesce(sum(c.version), 0)::bigint,
                        coalesce(sum(l.ordinal), 0)::bigint, count(l.paused_at)
                 FROM chatpulse.live_sessions l
                 JOIN chatpulse.users u ON u.id = l.streamer_id
                 JOIN chatpulse.configs c ON c.streamer_id = l.streamer_id",
                &[],
            )
            .await?;
        Ok(LiveDigest {
            sessions: row.try_get(0)?,
            streamer_versions: row.try_get(1)?,
            config_versions: row.try_get(2)?,
            ordinals: row.try_get(3)?,
            paused: row.try_get(4)?,
        })
    }

    /// Which version of what each live session has.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away.
    pub async fn live_versions(&self) -> Result<Vec<LiveVersions>, JournalError> {
        let client = self.client().await?;
        let rows = client
            .query(
                "SELECT l.streamer_id, u.version AS streamer_version, c.version AS config_version, l.ordinal,
                        l.paused_at IS NOT NULL AS paused, u.changed::text::bigint AS changed
                 FROM chatpulse.live_sessions l
                 JOIN chatpulse.users u ON u.id = l.streamer_id
                 JOIN chatpulse.configs c ON c.streamer_id = l.streamer_id",
                &[],
            )
            .await?;
        rows.iter()
            .map(|row| {
                Ok(LiveVersions {
                    streamer_id: row.try_get("streamer_id")?,
                    streamer_version: row.try_get("streamer_version")?,
                    config_version: row.try_get("config_version")?,
                    ordinal: row.try_get("ordinal")?,
                    paused: row.try_get("paused")?,
                    changed: DirectoryCursor(row.try_get("changed")?),
                })
            })
            .collect()
    }

    /// Tells all instances, this one too, that the heads of these streamers' sessions have moved. For
    /// when Redis can't: a notification of PostgreSQL, which may be lost.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away.
    pub async fn announce(&self, streamer_ids: &[Uuid]) -> Result<(), JournalError> {
        if streamer_ids.is_empty() {
            return Ok(());
        }
        let join = |ids: &[Uuid]| ids.iter().map(Uuid::to_string).collect::<Vec<_>>().join(",");
        let payloads: Vec<String> = streamer_ids.chunks(HEADS_A_NOTIFICATION).map(join).collect();
        let client = self.client().await?;
        let sql = "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload";
        client.query(sql, &[&HEADS_CHANNEL, &payloads]).await?;
        Ok(())
    }
}

/// Calls `told` with all that PostgreSQL tells, until the connection ends. Notifications may be lost
/// with the connection: the caller asks again by itself now and then, and compares what it knows after a
/// new connection.
///
/// # Errors
/// [`JournalError`] that ended the connection.
pub async fn listen(
    url: &str,
    options: &JournalOptions,
    connected: impl FnOnce(),
    told: impl Fn(News),
) -> Result<(), JournalError> {
    let config = super::connection_config(url, options)?;
    let (client, mut connection) = config.connect(tokio_postgres::NoTls).await?;
    let (subscribed_tx, subscribed) = tokio::sync::oneshot::channel();
    let subscribe = async move {
        let answer =
            client.batch_execute(&format!("LISTEN {DIRECTORY_CHANNEL}; LISTEN {HEADS_CHANNEL}")).await;
        // The receiver lives as long as the loop below polls.
        let _ = subscribed_tx.send((client, answer));
    };
    let messages = futures_util::stream::poll_fn(move |context| connection.poll_message(context));
    tokio::pin!(messages, subscribe, subscribed);
    let mut keep_open = None;
    let mut connected = Some(connected);
    loop {
        tokio::select! {
            () = &mut subscribe, if keep_open.is_none() => {
                let Ok((client, answer)) = (&mut subscribed).await else { return Ok(()) };
                answer?;
                keep_open = Some(client);
                if let Some(connected) = connected.take() { connected() }
            }
            message = futures_util::StreamExt::next(&mut messages) => match message {
                Some(Ok(AsyncMessage::Notification(said))) => {
                    if let Some(news) = news(said.channel(), said.payload()) {
                        told(news);
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(()),
            },
        }
    }
}

/// What a notification says; `None` for what this release does not know.
fn news(channel: &str, payload: &str) -> Option<News> {
    match channel {
        DIRECTORY_CHANNEL => Some(News::Directory),
        HEADS_CHANNEL => {
            payload.split(',').map(Uuid::parse_str).collect::<Result<_, _>>().ok().map(News::Heads)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_is_no_news() {
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(news(DIRECTORY_CHANNEL, "whatever"), Some(News::Directory));
        assert_eq!(news(HEADS_CHANNEL, &one.to_string()), Some(News::Heads(vec![one])));
        assert_eq!(news(HEADS_CHANNEL, &format!("{one},{other}")), Some(News::Heads(vec![one, other])));
        for payload in ["", ",", "x", &format!("{one},x")] {
            assert_eq!(news(HEADS_CHANNEL, payload), None, "{payload}");
        }
        assert_eq!(news("other", &one.to_string()), None);
    }

    #[test]
    fn a_cursor_covers_what_was_changed_before_it() {
        assert!(DirectoryCursor(8).covers(DirectoryCursor(7)));
        assert!(!DirectoryCursor(7).covers(DirectoryCursor(7)));
    }
}
