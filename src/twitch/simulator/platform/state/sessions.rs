//! EventSub's WebSocket sessions, <https://dev.twitch.tv/docs/eventsub/handling-websocket-events/>.

use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::conduits::Transport;
use super::delivery::{ENABLED, Effect, Order};
use super::{State, timestamp};
use crate::twitch::simulator::platform::refusal::Fields;

/// A reconnect URL that leads nowhere.
const INVALID_RECONNECT: u16 = 4007;
const RECONNECT_LETTERS: usize = 40;

pub struct Session {
    /// Which connection speaks for it; another one after a reconnect.
    pub(super) connection: u64,
    pub(super) connected_at: String,
    /// Whether a shard was ever bound to it.
    pub(super) is_attached: bool,
    keepalive_seconds: u64,
    /// What the reconnect URL has to hold, while one is out.
    reconnect: Option<String>,
}

/// What a new connection needs to know.
#[derive(Clone, Debug)]
pub struct Opened {
    pub session_id: String,
    pub keepalive: Duration,
    pub welcome: String,
}

/// The status of a shard whose session ended with this close code.
fn status_of(code: u16) -> &'static str {
    match code {
        4000 => "websocket_internal_error",
        4001 => "websocket_received_inbound_traffic",
        4002 => "websocket_failed_ping_pong",
        4003 => "websocket_connection_unused",
        4004 | INVALID_RECONNECT => "websocket_failed_to_reconnect",
        4005 => "websocket_network_timeout",
        4006 => "websocket_network_error",
        _ => "websocket_disconnected",
    }
}

impl State {
    /// Takes a new connection: a new session, or one that follows its reconnect URL.
    ///
    /// # Errors
    /// The code to close with.
    pub fn open_session(
        &mut self,
        connection: u64,
        query: &Fields,
        now: OffsetDateTime,
    ) -> Result<Opened, u16> {
        let (session_id, session) = match query.get("reconnect") {
            Some(token) => self.reconnected(connection, token)?,
            None => {
                let session = Session {
                    connection,
                    connected_at: timestamp(now),
                    is_attached: false,
                    keepalive_seconds: self.keepalive_seconds(query),
                    reconnect: None,
                };
                (self.new_id(), session)
            }
        };
        let keepalive_seconds = session.keepalive_seconds;
        let connected_at = session.connected_at.clone();
        self.sessions.insert(session_id.clone(), session);
        let payload = json!({ "session": {
            "id": session_id, "status": "connected", "connected_at": connected_at,
            "keepalive_timeout_seconds": keepalive_seconds, "reconnect_url": null,
        }});
        let welcome = self.session_message("session_welcome", &payload, now);
        Ok(Opened { session_id, keepalive: Duration::from_secs(keepalive_seconds), welcome })
    }

    /// The session whose reconnect URL holds `token`, which from now on speaks by `connection`.
    fn reconnected(&mut self, connection: u64, token: &str) -> Result<(String, Session), u16> {
        let is_meant = |session: &Session| session.reconnect.as_deref() == Some(token);
        let found = self.sessions.iter().find(|(_, session)| is_meant(session)).map(|(id, _)| id.clone());
        let old_id = found.ok_or(INVALID_RECONNECT)?;
        let session = self.sessions.remove(&old_id).ok_or(INVALID_RECONNECT)?;
        let new_id = if self.rules.renames_on_reconnect { self.new_id() } else { old_id.clone() };
        for shard in self.conduits.values_mut().flat_map(|conduit| conduit.shards.values_mut()) {
            if let Transport::Socket { session_id, .. } = &mut shard.transport
                && *session_id == old_id
            {
                session_id.clone_from(&new_id);
            }
        }
        Ok((new_id, Session { connection, reconnect: None, ..session }))
    }

    /// An impossible number becomes the nearest possible one.
    fn keepalive_seconds(&self, query: &Fields) -> u64 {
        let possible = &self.rules.keepalive_seconds;
        let asked = query.get("keepalive_timeout_seconds").and_then(|seconds| seconds.parse::<i64>().ok());
        let Some(asked) = asked else { return self.rules.keepalive_seconds_default };
        u64::try_from(asked).unwrap_or(0).max(*possible.start()).min(*possible.end())
    }

    fn session_message(&mut self, message_type: &str, payload: &Value, now: OffsetDateTime) -> String {
        let metadata = json!({
            "message_id": self.new_id(), "message_type": message_type, "message_timestamp": timestamp(now),
        });
        json!({ "metadata": metadata, "payload": payload }).to_string()
    }

    /// What is sent when there was nothing to send.
    pub fn keepalive_message(&mut self, now: OffsetDateTime) -> String {
        self.session_message("session_keepalive", &json!({}), now)
    }

    /// Whether nobody ever bound a shard to the session for which this connection speaks.
    pub fn is_unused(&self, session_id: &str, connection: u64) -> bool {
        let session = self.sessions.get(session_id).filter(|session| session.connection == connection);
        session.is_some_and(|session| !session.is_attached)
    }

    /// A connection ended with this close code; its session too, unless another connection speaks for it.
    pub fn session_ended(&mut self, session_id: &str, connection: u64, code: u16, now: OffsetDateTime) {
        if self.sessions.get(session_id).is_none_or(|session| session.connection != connection) {
            return;
        }
        self.sessions.remove(session_id);
        let mut ended = Vec::new();
        for (conduit_id, conduit) in &mut self.conduits {
            for (number, shard) in &mut conduit.shards {
                if let Transport::Socket { session_id: bound, disconnected_at, .. } = &mut shard.transport
                    && bound == session_id
                    && shard.status == ENABLED
                {
                    *disconnected_at = Some(timestamp(now));
                    ended.push((conduit_id.clone(), *number));
                }
            }
        }
        for (conduit_id, number) in ended {
            // They are there: they were just looked at.
            let _ = self.disable_shard(&conduit_id, number, status_of(code), now);
        }
    }

    /// Tells every session to reconnect; answers how many there are. `url` is where connections are taken.
    pub fn reconnect_sessions(&mut self, url: &str, now: OffsetDateTime) -> usize {
        let sessions: Vec<String> = self.sessions.keys().cloned().collect();
        for session_id in &sessions {
            let token = self.new_token(RECONNECT_LETTERS);
            let Some(session) = self.sessions.get_mut(session_id) else { continue };
            let connection = session.connection;
            let payload = json!({ "session": {
                "id": session_id, "status": "reconnecting", "connected_at": session.connected_at,
                "keepalive_timeout_seconds": null, "reconnect_url": format!("{url}?reconnect={token}"),
            }});
            session.reconnect = Some(token);
            let text = self.session_message("session_reconnect", &payload, now);
            self.effects.push(Effect::Order { connection, order: Order::Reconnect(text) });
        }
        sessions.len()
    }

    /// Tells every session's connection the same; answers how many there are.
    pub fn order_sessions(&mut self, order: &Order) -> usize {
        let connections = self.sessions.values().map(|session| session.connection);
        let orders = connections.map(|connection| Effect::Order { connection, order: order.clone() });
        self.effects.extend(orders);
        self.sessions.len()
    }

    /// The ids of the open sessions.
    pub fn session_ids(&self) -> Vec<String> {
        self.sessions.keys().cloned().collect()
    }
}
