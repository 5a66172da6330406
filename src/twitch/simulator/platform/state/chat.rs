//! Chat: what is said, sent by Helix, deleted and cleared, and chats that several channels share.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::send::Sends;
use super::{State, naming};
use crate::twitch::eventsub::CHANNEL_CHAT_MESSAGE;
use crate::twitch::simulator::chatter::Piece;
use crate::twitch::simulator::message::{self, ReplyTo, Told};
use crate::twitch::simulator::platform::options::Account;
use crate::twitch::simulator::platform::refusal::Refusal;

/// Characters of a message.
pub(super) const TEXT_CHARS_MAX: usize = 500;
/// Channels of a shared chat.
const SHARED_MAX: usize = 6;
const COLOR: &str = "#00FF7F";

/// A chat message to be said. Words that are emotes become emote fragments, `@Name` of somebody with an
/// account a mention; spaces belong to the text between.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Say {
    /// In whose chat.
    pub broadcaster_id: String,
    /// By whom; need not have an account.
    pub user_id: String,
    pub text: String,
    /// By default a new one.
    pub message_id: Option<String>,
    /// Names and ids of emotes beside those that everybody can use.
    pub emotes: Vec<(String, String)>,
    /// Beside those that the broadcaster and moderators have.
    pub badges: Vec<Badge>,
    /// As if a shared chat had brought it from this channel.
    pub source_broadcaster_id: Option<String>,
    /// Whether a shared chat keeps it to this channel.
    pub source_only: bool,
    /// The message that it replies to.
    pub reply_to: Option<String>,
}

impl Say {
    /// Somebody says something in a chat.
    pub fn new(
        broadcaster_id: impl Into<String>,
        user_id: impl Into<String>,
        text: impl Into<String>,
    ) -> Say {
        let (broadcaster_id, user_id, text) = (broadcaster_id.into(), user_id.into(), text.into());
        Say { broadcaster_id, user_id, text, ..Say::default() }
    }
}

/// A chat badge, such as `moderator`, `1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Badge {
    pub set_id: String,
    pub id: String,
    #[serde(default)]
    pub info: String,
}

/// A message that was sent by Helix, or was to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SentMessage {
    /// Empty when it was dropped.
    pub message_id: String,
    pub broadcaster_id: String,
    pub sender_id: String,
    pub text: String,
    pub reply_to: Option<String>,
    /// Why it was dropped, if it was.
    pub drop_code: Option<&'static str>,
    /// RFC 3339.
    pub at: String,
}

#[derive(Default)]
pub struct Chat {
    /// Messages that can be replied to and deleted, the oldest first.
    recent: VecDeque<Said>,
    /// By session id.
    shared: BTreeMap<String, Shared>,
    pub(super) sends: Sends,
}

struct Said {
    message_id: String,
    broadcaster_id: String,
    user_id: String,
    text: String,
}

/// A chat that several channels share; the first hosts it.
#[derive(Clone)]
struct Shared {
    participants: Vec<Account>,
}

/// Where a shared chat brought a message from.
struct Source<'a> {
    channel: &'a Account,
    message_id: &'a str,
}

impl State {
    /// Says something in a chat, and in those that share it; answers the message's id.
    ///
    /// # Errors
    /// [`Refusal`] when there is no such channel, the user is banned there, or the text is too long.
    pub fn say(&mut self, say: &Say, now: OffsetDateTime) -> Result<String, Refusal> {
        let channel = self.account(&say.broadcaster_id)?.clone();
        if self.is_banned(&channel.id, &say.user_id) {
            return Err(Refusal::new(403, "the user is banned in this chat"));
        }
        if say.text.chars().count() > TEXT_CHARS_MAX {
            return Err(Refusal::new(400, format!("a message has at most {TEXT_CHARS_MAX} characters")));
        }
        let message_id = say.message_id.clone().unwrap_or_else(|| self.new_id());
        let from = say.source_broadcaster_id.as_ref().map(|id| self.account_or_viewer(id));
        let source_id = self.new_id();
        let source = from.as_ref().map(|channel| Source { channel, message_id: &source_id });
        self.show(&channel, say, &message_id, source.as_ref(), now);
        if from.is_none() && !say.source_only {
            for other in self.sharing_with(&channel.id) {
                let copy_id = self.new_id();
                let source = Source { channel: &channel, message_id: &message_id };
                self.show(&other, say, &copy_id, Some(&source), now);
            }
        }
        Ok(message_id)
    }

    fn show(
        &mut self,
        channel: &Account,
        say: &Say,
        message_id: &str,
        source: Option<&Source<'_>>,
        now: OffsetDateTime,
    ) {
        let event = self.chat_event(channel, say, message_id, source);
        let said = Said {
            message_id: message_id.into(),
            broadcaster_id: channel.id.clone(),
            user_id: say.user_id.clone(),
            text: say.text.clone(),
        };
        State::remember(&mut self.chat.recent, said, self.rules.remembered_max);
        self.deliver(CHANNEL_CHAT_MESSAGE, &channel.id, &event, now);
    }

    fn chat_event(
        &self,
        channel: &Account,
        say: &Say,
        message_id: &str,
        source: Option<&Source<'_>>,
    ) -> Value {
        let source_person = source.map(|source| source.channel.person());
        let body = message::body(&Told {
            subscription_id: "",
            channel: &channel.person(),
            chatter: &self.account_or_viewer(&say.user_id).person(),
            message_id,
            text: &say.text,
            pieces: &self.pieces(say),
            color: COLOR,
            badges: &[],
            message_type: "text",
            reply: self.reply(say).as_ref(),
            source: source_person.as_ref(),
        });
        let mut body: Value = serde_json::from_slice(&body).unwrap_or_default(); // It was just written.
        let mut event = body["event"].take();
        event["badges"] = json!(self.badges(&channel.id, say));
        if let Some(source) = source {
            event["source_message_id"] = json!(source.message_id);
            event["source_badges"] = json!(self.badges(&source.channel.id, say));
        }
        event
    }

    fn badges(&self, channel_id: &str, say: &Say) -> Vec<Badge> {
        let set_id = if channel_id == say.user_id { "broadcaster" } else { "moderator" };
        let own = Badge { set_id: set_id.into(), id: "1".into(), info: String::new() };
        let own = self.is_privileged(channel_id, &say.user_id).then_some(own);
        own.into_iter().chain(say.badges.iter().cloned()).collect()
    }

    fn pieces(&self, say: &Say) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut text = String::new();
        for word_and_space in say.text.split_inclusive(' ') {
            let word = word_and_space.trim_end_matches(' ');
            let Some(piece) = self.special(word, say) else {
                text.push_str(word_and_space);
                continue;
            };
            if !text.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut text)));
            }
            pieces.push(piece);
            text.push_str(&word_and_space[word.len()..]);
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        pieces
    }

    /// What a word is if it is more than text.
    fn special(&self, word: &str, say: &Say) -> Option<Piece> {
        if let Some(name) = word.strip_prefix('@') {
            let mentioned = self.accounts.values().find(|account| account.display_name == name)?;
            return Some(Piece::Mention(mentioned.person()));
        }
        let mut emotes = say.emotes.iter().chain(&self.rules.emotes);
        let (name, id) = emotes.find(|(name, _)| name == word)?;
        Some(Piece::Emote { name: name.clone(), id: id.clone() })
    }

    fn reply(&self, say: &Say) -> Option<ReplyTo> {
        let parent_id = say.reply_to.as_ref()?;
        let parent = self.chat.recent.iter().rev().find(|said| said.message_id == *parent_id)?;
        let author = self.account_or_viewer(&parent.user_id).person();
        Some(ReplyTo { message_id: parent.message_id.clone(), text: parent.text.clone(), author })
    }

    /// Deletes a message, as a moderator does.
    ///
    /// # Errors
    /// [`Refusal`] when it is not among those remembered.
    pub fn delete_message(&mut self, message_id: &str, now: OffsetDateTime) -> Result<(), Refusal> {
        let place = self.chat.recent.iter().position(|said| said.message_id == message_id);
        let said = place.and_then(|place| self.chat.recent.remove(place)).ok_or_else(Refusal::not_found)?;
        let event = self.moderation_event(&said.broadcaster_id, Some(&said.user_id), Some(message_id));
        self.deliver("channel.chat.message_delete", &said.broadcaster_id, &event, now);
        Ok(())
    }

    /// Clears a user's messages, as a timeout does.
    ///
    /// # Errors
    /// [`Refusal`] when there is no such channel.
    pub fn clear_user(
        &mut self,
        broadcaster_id: &str,
        user_id: &str,
        now: OffsetDateTime,
    ) -> Result<(), Refusal> {
        self.account(broadcaster_id)?;
        let is_cleared = |said: &Said| said.broadcaster_id == broadcaster_id && said.user_id == user_id;
        self.chat.recent.retain(|said| !is_cleared(said));
        let event = self.moderation_event(broadcaster_id, Some(user_id), None);
        self.deliver("channel.chat.clear_user_messages", broadcaster_id, &event, now);
        Ok(())
    }

    /// Clears a chat. Its messages are not deleted one by one.
    ///
    /// # Errors
    /// [`Refusal`] when there is no such channel.
    pub fn clear_chat(&mut self, broadcaster_id: &str, now: OffsetDateTime) -> Result<(), Refusal> {
        self.account(broadcaster_id)?;
        let event = self.moderation_event(broadcaster_id, None, None);
        self.deliver("channel.chat.clear", broadcaster_id, &event, now);
        Ok(())
    }

    fn moderation_event(
        &self,
        broadcaster_id: &str,
        user_id: Option<&str>,
        message_id: Option<&str>,
    ) -> Value {
        let channel = self.account_or_viewer(broadcaster_id);
        let mut event = naming(json!({}), "broadcaster_user", &channel);
        if let Some(user_id) = user_id {
            event = naming(event, "target_user", &self.account_or_viewer(user_id));
        }
        if let Some(message_id) = message_id {
            event["message_id"] = json!(message_id);
        }
        event
    }

    /// Begins a shared chat; the first of the channels hosts it. Answers its id.
    ///
    /// # Errors
    /// [`Refusal`] for fewer than two channels or too many, unknown ones, and one that shares already.
    pub fn begin_shared_chat(&mut self, channels: &[String], now: OffsetDateTime) -> Result<String, Refusal> {
        let participants: Result<Vec<Account>, Refusal> =
            channels.iter().map(|id| self.account(id).cloned()).collect();
        let participants = participants?;
        if !(2..=SHARED_MAX).contains(&participants.len()) {
            return Err(Refusal::new(400, format!("a chat is shared by 2 to {SHARED_MAX} channels")));
        }
        if participants.iter().any(|channel| self.shared_by(&channel.id).is_some()) {
            return Err(Refusal::new(409, "one of the channels shares its chat already"));
        }
        let id = self.new_id();
        let shared = Shared { participants };
        self.chat.shared.insert(id.clone(), shared.clone());
        self.announce_shared("channel.shared_chat.begin", &id, &shared, now);
        Ok(id)
    }

    /// Ends the shared chat that a channel takes part in.
    ///
    /// # Errors
    /// [`Refusal`] when there is none.
    pub fn end_shared_chat(&mut self, broadcaster_id: &str, now: OffsetDateTime) -> Result<(), Refusal> {
        let id = self.shared_by(broadcaster_id).ok_or_else(Refusal::not_found)?.0.clone();
        if let Some(shared) = self.chat.shared.remove(&id) {
            self.announce_shared("channel.shared_chat.end", &id, &shared, now);
        }
        Ok(())
    }

    fn announce_shared(&mut self, kind: &str, session_id: &str, shared: &Shared, now: OffsetDateTime) {
        let Some(host) = shared.participants.first() else { return };
        let names = |account: &Account| naming(json!({}), "broadcaster_user", account);
        let participants: Vec<Value> = shared.participants.iter().map(names).collect();
        for channel in &shared.participants {
            let event = naming(json!({ "session_id": session_id }), "broadcaster_user", channel);
            let mut event = naming(event, "host_broadcaster_user", host);
            if kind == "channel.shared_chat.begin" {
                event["participants"] = json!(participants);
            }
            self.deliver(kind, &channel.id, &event, now);
        }
    }

    fn shared_by(&self, channel_id: &str) -> Option<(&String, &Shared)> {
        let takes_part = |shared: &Shared| shared.participants.iter().any(|channel| channel.id == channel_id);
        self.chat.shared.iter().find(|(_, shared)| takes_part(shared))
    }

    fn sharing_with(&self, channel_id: &str) -> Vec<Account> {
        let all = self.shared_by(channel_id).map(|(_, shared)| shared.participants.clone());
        all.unwrap_or_default().into_iter().filter(|channel| channel.id != channel_id).collect()
    }
}
