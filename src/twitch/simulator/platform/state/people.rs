//! Who there is, who may do what in whose chat, and who is live.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::oauth::Caller;
use super::{State, naming, subscriptions, timestamp};
use crate::twitch::simulator::platform::options::Account;
use crate::twitch::simulator::platform::refusal::{Fields, Refusal, page};

/// Accounts at most.
const ACCOUNTS_MAX: usize = 100_000;
/// Ids and logins in one request.
const ASKED_MAX: usize = 100;
/// Streams of one page, without a choice.
const STREAMS_DEFAULT: usize = 20;
const CREATED_AT: &str = "2016-12-14T20:32:28Z";

/// A stream that is on.
#[derive(Clone, Debug)]
pub struct Stream {
    serial: u64,
    id: String,
    started_at: String,
}

impl State {
    pub fn accounts(&self) -> Vec<Account> {
        self.accounts.values().cloned().collect()
    }

    /// Adds an account, or changes the names of the one with its id.
    ///
    /// # Errors
    /// [`Refusal`] for an id that is not of digits, a login that somebody else has, and too many accounts.
    pub fn add_account(&mut self, account: Account) -> Result<(), Refusal> {
        let is_id = !account.id.is_empty() && account.id.bytes().all(|digit| digit.is_ascii_digit());
        let is_good = |sign: u8| sign == b'_' || sign.is_ascii_lowercase() || sign.is_ascii_digit();
        let is_login = !account.login.is_empty() && account.login.bytes().all(is_good);
        if !is_id || !is_login {
            return Err(Refusal::new(400, "an id is of digits, a login of a–z, digits and underscores"));
        }
        if self.accounts.values().any(|known| known.login == account.login && known.id != account.id) {
            return Err(Refusal::new(409, "somebody else has this login"));
        }
        if self.accounts.len() >= ACCOUNTS_MAX && !self.accounts.contains_key(&account.id) {
            return Err(Refusal::new(429, "there are too many accounts"));
        }
        self.accounts.insert(account.id.clone(), account);
        Ok(())
    }

    /// Ends an account: its authorization and every subscription that is about it.
    ///
    /// # Errors
    /// [`Refusal`] when there is none with this id.
    pub fn remove_account(&mut self, user_id: &str, now: OffsetDateTime) -> Result<(), Refusal> {
        self.account(user_id)?;
        self.accounts.remove(user_id);
        self.streams.remove(user_id);
        self.end_subscriptions_about(user_id, subscriptions::USER_REMOVED, now);
        self.disconnect(user_id, now);
        Ok(())
    }

    pub(super) fn account(&self, user_id: &str) -> Result<&Account, Refusal> {
        self.accounts.get(user_id).ok_or_else(|| Refusal::new(404, format!("there is no user {user_id}")))
    }

    /// The account with this id, or one made up for a viewer whom nobody registered.
    pub(super) fn account_or_viewer(&self, user_id: &str) -> Account {
        let known = self.accounts.get(user_id).cloned();
        known.unwrap_or_else(|| Account::new(user_id, format!("viewer{user_id}")))
    }

    pub(super) fn is_privileged(&self, broadcaster_id: &str, user_id: &str) -> bool {
        broadcaster_id == user_id || self.moderators.contains(&(broadcaster_id.into(), user_id.into()))
    }

    pub(super) fn is_banned(&self, broadcaster_id: &str, user_id: &str) -> bool {
        self.banned.contains(&(broadcaster_id.into(), user_id.into()))
    }

    pub(super) fn has_granted(&self, user_id: &str, scope: &str) -> bool {
        self.grants.get(user_id).is_some_and(|scopes| scopes.contains(scope))
    }

    /// Whether the application may act as `user_id` in the broadcaster's chat with its own token: both have
    /// to have allowed it, unless the user is a moderator there.
    pub(super) fn is_welcome(&self, broadcaster_id: &str, user_id: &str) -> bool {
        let is_allowed = self.has_granted(broadcaster_id, "channel:bot");
        self.has_granted(user_id, "user:bot")
            && (is_allowed || self.is_privileged(broadcaster_id, user_id))
            && !self.is_banned(broadcaster_id, user_id)
    }

    /// Makes a user a moderator, or ends it.
    ///
    /// # Errors
    /// [`Refusal`] when there is no such broadcaster.
    pub fn set_moderator(
        &mut self,
        broadcaster_id: &str,
        user_id: &str,
        is_moderator: bool,
        now: OffsetDateTime,
    ) -> Result<(), Refusal> {
        self.account(broadcaster_id)?;
        let pair = (broadcaster_id.to_owned(), user_id.to_owned());
        if is_moderator {
            self.moderators.insert(pair);
        } else {
            self.moderators.remove(&pair);
            self.end_unauthorized(subscriptions::MODERATOR_REMOVED, now);
        }
        Ok(())
    }

    /// Bans a user from a chat, as a timeout does for a while: the messages go, and what reads the chat as
    /// this user ends.
    ///
    /// # Errors
    /// [`Refusal`] when there is no such broadcaster, or it is the user.
    pub fn ban(&mut self, broadcaster_id: &str, user_id: &str, now: OffsetDateTime) -> Result<(), Refusal> {
        if broadcaster_id == user_id {
            return Err(Refusal::new(400, "The user specified in the user_id field may not be banned"));
        }
        self.clear_user(broadcaster_id, user_id, now)?;
        self.banned.insert((broadcaster_id.into(), user_id.into()));
        self.end_unauthorized(subscriptions::CHAT_USER_BANNED, now);
        Ok(())
    }

    pub fn unban(&mut self, broadcaster_id: &str, user_id: &str) {
        self.banned.remove(&(broadcaster_id.into(), user_id.into()));
    }

    /// Begins a stream; answers its id.
    ///
    /// # Errors
    /// [`Refusal`] when there is no such user, or it is live already.
    pub fn go_live(&mut self, user_id: &str, now: OffsetDateTime) -> Result<String, Refusal> {
        let account = self.account(user_id)?.clone();
        if self.streams.contains_key(user_id) {
            return Err(Refusal::new(409, "the stream is on already"));
        }
        let serial = self.next_serial();
        // Unlike any of an earlier run.
        let id = (now.unix_timestamp().unsigned_abs() * 1_000 + serial).to_string();
        let stream = Stream { serial, id, started_at: timestamp(now) };
        let event = json!({ "id": stream.id, "type": "live", "started_at": stream.started_at });
        let id = stream.id.clone();
        self.streams.insert(user_id.into(), stream);
        self.deliver("stream.online", user_id, &naming(event, "broadcaster_user", &account), now);
        Ok(id)
    }

    /// Ends a stream.
    ///
    /// # Errors
    /// [`Refusal`] when there is none.
    pub fn go_offline(&mut self, user_id: &str, now: OffsetDateTime) -> Result<(), Refusal> {
        let account = self.account(user_id)?.clone();
        let stream = self.streams.remove(user_id).ok_or_else(|| Refusal::new(409, "the stream is not on"))?;
        let event = naming(json!({ "id": stream.id }), "broadcaster_user", &account);
        self.deliver("stream.offline", user_id, &event, now);
        Ok(())
    }

    /// `GET /users`: <https://dev.twitch.tv/docs/api/reference/#get-users>.
    ///
    /// # Errors
    /// [`Refusal`] when nobody is asked for, or too many are.
    pub fn users(&self, query: &Fields, caller: &Caller) -> Result<Value, Refusal> {
        let ids: Vec<&str> = query.all("id").collect();
        let logins: Vec<&str> = query.all("login").collect();
        let wanted: Vec<&Account> = match (&caller.user_id, ids.len() + logins.len()) {
            (Some(own), 0) => self.accounts.get(own).into_iter().collect(),
            (None, 0) => return Err(Refusal::new(400, "Must provide an ID, Login or OAuth Token.")),
            (_, 1..=ASKED_MAX) => {
                let is_wanted = |account: &&Account| {
                    ids.contains(&account.id.as_str()) || logins.contains(&account.login.as_str())
                };
                self.accounts.values().filter(is_wanted).collect()
            }
            _ => return Err(too_many("id and login")),
        };
        Ok(json!({ "data": wanted.into_iter().map(user).collect::<Vec<_>>() }))
    }

    /// `GET /streams`: <https://dev.twitch.tv/docs/api/reference/#get-streams>.
    ///
    /// # Errors
    /// [`Refusal`] for too many ids or logins, or a page that can't be.
    pub fn streams(&self, query: &Fields) -> Result<Value, Refusal> {
        let ids: BTreeSet<&str> = query.all("user_id").collect();
        let logins: BTreeSet<&str> = query.all("user_login").collect();
        if ids.len() > ASKED_MAX || logins.len() > ASKED_MAX {
            return Err(too_many("user_id and user_login"));
        }
        let size = match query.get("first").map(str::parse::<usize>) {
            None => STREAMS_DEFAULT,
            Some(Ok(size @ 1..=ASKED_MAX)) => size,
            Some(_) => return Err(Refusal::new(400, "The parameter \"first\" was malformed")),
        };
        let mut streams: Vec<(&Account, &Stream)> = self
            .streams
            .iter()
            .filter_map(|(user_id, stream)| Some((self.accounts.get(user_id)?, stream)))
            .filter(|(account, _)| {
                let everybody = ids.is_empty() && logins.is_empty();
                everybody || ids.contains(account.id.as_str()) || logins.contains(account.login.as_str())
            })
            .collect();
        streams.sort_by_key(|(_, stream)| stream.serial);
        let shown = streams.into_iter().map(|(account, stream)| (stream.serial, shown(account, stream)));
        let (data, pagination) = page(shown, query.get("after"), size)?;
        Ok(json!({ "data": data, "pagination": pagination }))
    }
}

fn too_many(fields: &str) -> Refusal {
    Refusal::new(400, format!("The request may specify at most {ASKED_MAX} of {fields}"))
}

fn user(account: &Account) -> Value {
    json!({
        "id": account.id, "login": account.login, "display_name": account.display_name,
        "type": "", "broadcaster_type": "", "description": "",
        "profile_image_url": "", "offline_image_url": "", "view_count": 0, "created_at": CREATED_AT,
    })
}

fn shown(account: &Account, stream: &Stream) -> Value {
    json!({
        "id": stream.id, "user_id": account.id, "user_login": account.login,
        "user_name": account.display_name, "game_id": "509658", "game_name": "Just Chatting",
        "type": "live", "title": "", "tags": [], "viewer_count": 1, "started_at": stream.started_at,
        "language": "en", "thumbnail_url": "", "tag_ids": [], "is_mature": false,
    })
}
