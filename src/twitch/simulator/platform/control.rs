//! What people do on Twitch, faults, and what there is to see: as methods for tests and the demo, and as
//! commands for the control API.

use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::options::Account;
use super::refusal::{Fields, Refusal};
use super::state::{
    Caller, Counts, FAILURES_EXCEEDED, Fault, GrantedTokens, Order, Say, SeenRequest, SentMessage, ShardView,
    State, SubscriptionView,
};
use super::{Platform, Shared};

/// A command of the control API: `POST /control/{command}`, its fields in the body.
#[derive(Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub(super) enum Command {
    AddUser(Account),
    RemoveUser { user_id: String },
    Grant { user_id: String, scopes: Vec<String> },
    Revoke { user_id: String },
    ExpireAccess { user_id: Option<String> },
    ForgetRefresh { user_id: String },
    SetModerator { broadcaster_id: String, user_id: String, is_moderator: bool },
    Ban { broadcaster_id: String, user_id: String },
    Unban { broadcaster_id: String, user_id: String },
    GoLive { broadcaster_id: String },
    GoOffline { broadcaster_id: String },
    Say(Say),
    DeleteMessage { message_id: String },
    ClearUser { broadcaster_id: String, user_id: String },
    ClearChat { broadcaster_id: String },
    ShareChat { broadcaster_ids: Vec<String> },
    EndSharedChat { broadcaster_id: String },
    RevokeSubscription { subscription_id: String, reason: String },
    DropConduit { conduit_id: String },
    DisableShard { conduit_id: String, shard: u32 },
    ReconnectSockets,
    CloseSockets { code: u16 },
    CutSockets,
    MuteSockets { is_muted: bool },
    Fail(Fault),
    ClearFaults,
    Deliver { kind: String, target: String, event: Value },
}

impl Command {
    /// Does what is asked, and answers what came of it.
    ///
    /// # Errors
    /// [`Refusal`] when it can't be done.
    pub(super) fn run(
        self,
        state: &mut State,
        eventsub_url: &str,
        now: OffsetDateTime,
    ) -> Result<Value, Refusal> {
        match self {
            Command::AddUser(account) => state.add_account(account)?,
            Command::RemoveUser { user_id } => state.remove_account(&user_id, now)?,
            Command::Grant { user_id, scopes } => {
                return state.grant(&user_id, &scopes, now).map(|tokens| shown(&tokens));
            }
            Command::Revoke { user_id } => state.disconnect(&user_id, now),
            Command::ExpireAccess { user_id } => state.expire_access(user_id.as_deref()),
            Command::ForgetRefresh { user_id } => state.forget_refresh(&user_id),
            Command::SetModerator { broadcaster_id, user_id, is_moderator } => {
                state.set_moderator(&broadcaster_id, &user_id, is_moderator, now)?;
            }
            Command::Ban { broadcaster_id, user_id } => state.ban(&broadcaster_id, &user_id, now)?,
            Command::Unban { broadcaster_id, user_id } => state.unban(&broadcaster_id, &user_id),
            Command::GoLive { broadcaster_id } => {
                return state.go_live(&broadcaster_id, now).map(|id| json!({ "id": id }));
            }
            Command::GoOffline { broadcaster_id } => state.go_offline(&broadcaster_id, now)?,
            Command::Say(say) => return state.say(&say, now).map(|id| json!({ "message_id": id })),
            Command::DeleteMessage { message_id } => state.delete_message(&message_id, now)?,
            Command::ClearUser { broadcaster_id, user_id } => {
                state.clear_user(&broadcaster_id, &user_id, now)?;
            }
            Command::ClearChat { broadcaster_id } => state.clear_chat(&broadcaster_id, now)?,
            Command::ShareChat { broadcaster_ids } => {
                return state.begin_shared_chat(&broadcaster_ids, now).map(|id| json!({ "session_id": id }));
            }
            Command::EndSharedChat { broadcaster_id } => state.end_shared_chat(&broadcaster_id, now)?,
            Command::RevokeSubscription { subscription_id, reason } => {
                state.revoke_subscription(&subscription_id, &reason, now)?;
            }
            Command::DropConduit { conduit_id } => state.drop_conduit(&conduit_id)?,
            Command::DisableShard { conduit_id, shard } => {
                state.disable_shard(&conduit_id, shard, FAILURES_EXCEEDED, now)?;
            }
            Command::ReconnectSockets => return Ok(sessions(state.reconnect_sessions(eventsub_url, now))),
            Command::CloseSockets { code } => return Ok(sessions(state.order_sessions(&Order::Close(code)))),
            Command::CutSockets => return Ok(sessions(state.order_sessions(&Order::Cut))),
            Command::MuteSockets { is_muted } => {
                return Ok(sessions(state.order_sessions(&Order::Mute(is_muted))));
            }
            Command::Fail(fault) => state.add_fault(fault),
            Command::ClearFaults => state.clear_faults(),
            Command::Deliver { kind, target, event } => {
                return Ok(json!({ "subscriptions": state.deliver(&kind, &target, &event, now) }));
            }
        }
        Ok(json!({}))
    }
}

/// How many sessions were told something.
fn sessions(count: usize) -> Value {
    json!({ "sessions": count })
}

fn shown(tokens: &GrantedTokens) -> Value {
    json!({
        "access_token": tokens.access_token.expose(), "refresh_token": tokens.refresh_token.expose(),
        "expires_in": tokens.expires_in.as_secs(),
    })
}

/// The names of the lists.
pub(super) const LISTS: [&str; 9] =
    ["conduits", "counts", "requests", "sent", "sessions", "shards", "streams", "subscriptions", "users"];
/// A page of streams.
const STREAMS: &[u8] = b"first=100";

/// A list of the control API: `GET /control/{list}`.
pub(super) fn list(state: &State, name: &str) -> Option<Value> {
    // What Helix would answer the application itself, which is never refused.
    let data = |answer: Result<Value, Refusal>| answer.map(|mut answer| answer["data"].take()).ok();
    let application = Caller { user_id: None, scopes: Vec::new() };
    Some(match name {
        "conduits" => data(state.conduits(&application))?,
        "streams" => data(state.streams(&Fields::parse(STREAMS)))?,
        "users" => json!(state.accounts()),
        "subscriptions" => json!(state.subscription_views()),
        "shards" => json!(state.shard_views()),
        "sessions" => json!(state.session_ids()),
        "sent" => json!(state.sent()),
        "requests" => json!(state.requests()),
        "counts" => json!(state.counts()),
        _ => return None,
    })
}

/// Everything here takes effect at once; what follows from it is sent in the background.
impl Platform {
    fn act<R>(&self, decide: impl FnOnce(&mut State, OffsetDateTime) -> R) -> R {
        Shared::act(&self.shared, decide)
    }

    /// Everybody who has an account.
    pub fn users(&self) -> Vec<Account> {
        self.act(|state, _| state.accounts())
    }

    /// Adds an account, or changes the names of the one with its id.
    ///
    /// # Errors
    /// [`Refusal`] for an id or login that can't be, and a login that somebody else has.
    pub fn add_user(&self, account: Account) -> Result<(), Refusal> {
        self.act(|state, _| state.add_account(account))
    }

    /// Ends an account, and everything that rests on it.
    ///
    /// # Errors
    /// [`Refusal`] when there is none.
    pub fn remove_user(&self, user_id: &str) -> Result<(), Refusal> {
        self.act(|state, now| state.remove_account(user_id, now))
    }

    /// Has a user allow these scopes, as on the authorize page; answers a pair of tokens.
    ///
    /// # Errors
    /// [`Refusal`] when there is no such user or scope.
    pub fn grant(&self, user_id: &str, scopes: &[&str]) -> Result<GrantedTokens, Refusal> {
        let scopes: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        self.act(|state, now| state.grant(user_id, &scopes, now))
    }

    /// What a user's "Disconnect" does: all tokens end, and the subscriptions that rest on them.
    pub fn revoke(&self, user_id: &str) {
        self.act(|state, now| state.disconnect(user_id, now));
    }

    /// Ends a user's access tokens as if their time were over. `None`: the application's own.
    pub fn expire_access(&self, user_id: Option<&str>) {
        self.act(|state, _| state.expire_access(user_id));
    }

    /// Ends a user's refresh tokens.
    pub fn forget_refresh(&self, user_id: &str) {
        self.act(|state, _| state.forget_refresh(user_id));
    }

    /// Makes a user a moderator of a chat, or ends it.
    ///
    /// # Errors
    /// [`Refusal`] when there is no such channel.
    pub fn set_moderator(&self, broadcaster_id: &str, user_id: &str, is: bool) -> Result<(), Refusal> {
        self.act(|state, now| state.set_moderator(broadcaster_id, user_id, is, now))
    }

    /// Bans a user from a chat; what reads the chat as this user ends.
    ///
    /// # Errors
    /// [`Refusal`] when there is no such channel.
    pub fn ban(&self, broadcaster_id: &str, user_id: &str) -> Result<(), Refusal> {
        self.act(|state, now| state.ban(broadcaster_id, user_id, now))
    }

    /// Lets a user into a chat again. What had ended has to be subscribed to anew.
    pub fn unban(&self, broadcaster_id: &str, user_id: &str) {
        self.act(|state, _| state.unban(broadcaster_id, user_id));
    }

    /// Begins a stream; answers its id.
    ///
    /// # Errors
    /// [`Refusal`] when there is no such channel, or it is live already.
    pub fn go_live(&self, broadcaster_id: &str) -> Result<String, Refusal> {
        self.act(|state, now| state.go_live(broadcaster_id, now))
    }

    /// Ends a stream.
    ///
    /// # Errors
    /// [`Refusal`] when there is none.
    pub fn go_offline(&self, broadcaster_id: &str) -> Result<(), Refusal> {
        self.act(|state, now| state.go_offline(broadcaster_id, now))
    }

    /// Says something in a chat; answers the message's id.
    ///
    /// # Errors
    /// [`Refusal`] when there is no such channel, the user is banned there, or the text is too long.
    pub fn say(&self, say: &Say) -> Result<String, Refusal> {
        self.act(|state, now| state.say(say, now))
    }

    /// Deletes a chat message.
    ///
    /// # Errors
    /// [`Refusal`] when it is not among those remembered.
    pub fn delete_message(&self, message_id: &str) -> Result<(), Refusal> {
        self.act(|state, now| state.delete_message(message_id, now))
    }

    /// Clears a user's messages in a chat, as a timeout does.
    ///
    /// # Errors
    /// [`Refusal`] when there is no such channel.
    pub fn clear_user(&self, broadcaster_id: &str, user_id: &str) -> Result<(), Refusal> {
        self.act(|state, now| state.clear_user(broadcaster_id, user_id, now))
    }

    /// Clears a chat.
    ///
    /// # Errors
    /// [`Refusal`] when there is no such channel.
    pub fn clear_chat(&self, broadcaster_id: &str) -> Result<(), Refusal> {
        self.act(|state, now| state.clear_chat(broadcaster_id, now))
    }

    /// Begins a shared chat, hosted by the first of the channels; answers its id.
    ///
    /// # Errors
    /// [`Refusal`] when these channels can't share a chat.
    pub fn share_chat(&self, broadcaster_ids: &[&str]) -> Result<String, Refusal> {
        let ids: Vec<String> = broadcaster_ids.iter().map(|id| (*id).to_owned()).collect();
        self.act(|state, now| state.begin_shared_chat(&ids, now))
    }

    /// Ends the shared chat that a channel takes part in.
    ///
    /// # Errors
    /// [`Refusal`] when there is none.
    pub fn end_shared_chat(&self, broadcaster_id: &str) -> Result<(), Refusal> {
        self.act(|state, now| state.end_shared_chat(broadcaster_id, now))
    }

    /// Delivers an event as it is to the enabled subscriptions of this type that are about `broadcaster_id`
    /// (about the client id, for types without a broadcaster); answers how many there are.
    pub fn deliver(&self, kind: &str, event: &Value, broadcaster_id: &str) -> usize {
        self.act(|state, now| state.deliver(kind, broadcaster_id, event, now))
    }

    /// Ends a subscription for a reason such as `notification_failures_exceeded`, with a revocation.
    ///
    /// # Errors
    /// [`Refusal`] when it is not enabled, or Twitch knows no such reason.
    pub fn revoke_subscription(&self, id: &str, reason: &str) -> Result<(), Refusal> {
        self.act(|state, now| state.revoke_subscription(id, reason, now))
    }

    /// Ends a conduit and its subscriptions.
    ///
    /// # Errors
    /// [`Refusal`] when there is none.
    pub fn drop_conduit(&self, conduit_id: &str) -> Result<(), Refusal> {
        self.act(|state, _| state.drop_conduit(conduit_id))
    }

    /// Ends a shard as if its webhook had failed too often.
    ///
    /// # Errors
    /// [`Refusal`] when there is none.
    pub fn disable_shard(&self, conduit_id: &str, shard: u32) -> Result<(), Refusal> {
        self.act(|state, now| state.disable_shard(conduit_id, shard, FAILURES_EXCEEDED, now))
    }

    /// Tells all WebSocket sessions to reconnect; answers how many there are.
    pub fn reconnect_sockets(&self) -> usize {
        self.act(|state, now| state.reconnect_sessions(&self.shared.eventsub_url, now))
    }

    /// Closes all WebSocket sessions with this code, such as 4000; answers how many there were.
    pub fn close_sockets(&self, code: u16) -> usize {
        self.act(|state, _| state.order_sessions(&Order::Close(code)))
    }

    /// Drops all WebSocket sessions without a word; answers how many there were.
    pub fn cut_sockets(&self) -> usize {
        self.act(|state, _| state.order_sessions(&Order::Cut))
    }

    /// Has all WebSocket sessions that there are say nothing, not even keepalives; or speak again. What would
    /// have been said meanwhile is lost.
    pub fn mute_sockets(&self, is_muted: bool) -> usize {
        self.act(|state, _| state.order_sessions(&Order::Mute(is_muted)))
    }

    /// Has the next requests fail as told.
    pub fn fail_next(&self, fault: Fault) {
        self.act(|state, _| state.add_fault(fault));
    }

    /// Forgets the faults that have not come yet.
    pub fn clear_faults(&self) {
        self.act(|state, _| state.clear_faults());
    }

    /// All subscriptions, the oldest first, the dead ones too.
    pub fn subscriptions(&self) -> Vec<SubscriptionView> {
        self.act(|state, _| state.subscription_views())
    }

    /// All shards that were ever given a transport.
    pub fn shards(&self) -> Vec<ShardView> {
        self.act(|state, _| state.shard_views())
    }

    /// The ids of the open WebSocket sessions.
    pub fn sessions(&self) -> Vec<String> {
        self.act(|state, _| state.session_ids())
    }

    /// What was sent by Helix into chats, the oldest first.
    pub fn sent(&self) -> Vec<SentMessage> {
        self.act(|state, _| state.sent())
    }

    /// The requests to OAuth and Helix, the oldest first.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.act(|state, _| state.requests())
    }

    /// How many notifications went which way.
    pub fn counts(&self) -> Counts {
        self.act(|state, _| state.counts())
    }
}
