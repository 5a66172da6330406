//! Sending chat messages by Helix, <https://dev.twitch.tv/docs/api/reference/#send-chat-message>.

use std::collections::{HashMap, VecDeque};

use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::chat::{Say, SentMessage, TEXT_CHARS_MAX};
use super::oauth::Caller;
use super::{State, timestamp};
use crate::twitch::simulator::platform::refusal::Refusal;

const WRITE_CHAT: &str = "user:write:chat";

/// Who sent what when.
#[derive(Default)]
pub struct Sends {
    /// Times of each sender, the oldest first.
    times: HashMap<String, VecDeque<OffsetDateTime>>,
    /// The last text of each sender in each channel.
    last: HashMap<(String, String), (String, OffsetDateTime)>,
    sent: VecDeque<SentMessage>,
}

/// The body of `POST /chat/messages`.
#[derive(Deserialize)]
pub struct SendAsked {
    #[serde(default)]
    broadcaster_id: String,
    #[serde(default)]
    sender_id: String,
    #[serde(default)]
    message: String,
    reply_parent_message_id: Option<String>,
    for_source_only: Option<bool>,
}

/// Why a message is taken but not shown.
struct Dropped {
    code: &'static str,
    message: &'static str,
}

impl State {
    /// `POST /chat/messages`. What is sent is chat like any other, and delivered as such.
    ///
    /// # Errors
    /// [`Refusal`] for fields that are missing or too long, who may not send there, and beyond the rate.
    pub fn send_chat(
        &mut self,
        asked: SendAsked,
        caller: &Caller,
        now: OffsetDateTime,
    ) -> Result<Value, Refusal> {
        self.check_send(&asked)?;
        self.check_sender(&asked, caller)?;
        self.count_send(&asked, now)?;
        let dropped = self.reason_to_drop(&asked, now);
        let message_id = if dropped.is_none() {
            let key = (asked.sender_id.clone(), asked.broadcaster_id.clone());
            self.chat.sends.last.insert(key, (asked.message.clone(), now));
            let say = Say {
                // A shared chat keeps what an application sent to its channel, unless told otherwise.
                source_only: asked.for_source_only.unwrap_or(caller.user_id.is_none()),
                reply_to: asked.reply_parent_message_id.clone(),
                ..Say::new(&asked.broadcaster_id, &asked.sender_id, &asked.message)
            };
            self.say(&say, now)?
        } else {
            String::new()
        };
        let answer = json!({ "data": [{
            "message_id": message_id,
            "is_sent": dropped.is_none(),
            "drop_reason": dropped.as_ref().map(|drop| json!({ "code": drop.code, "message": drop.message })),
        }]});
        let sent = SentMessage {
            message_id,
            broadcaster_id: asked.broadcaster_id,
            sender_id: asked.sender_id,
            text: asked.message,
            reply_to: asked.reply_parent_message_id,
            drop_code: dropped.map(|drop| drop.code),
            at: timestamp(now),
        };
        State::remember(&mut self.chat.sends.sent, sent, self.rules.remembered_max);
        Ok(answer)
    }

    fn check_send(&self, asked: &SendAsked) -> Result<(), Refusal> {
        let fields = [
            ("broadcaster_id", &asked.broadcaster_id),
            ("sender_id", &asked.sender_id),
            ("message", &asked.message),
        ];
        if let Some((missing, _)) = fields.into_iter().find(|(_, value)| value.trim().is_empty()) {
            return Err(Refusal::new(400, format!("Missing required parameter \"{missing}\"")));
        }
        if asked.message.chars().count() > TEXT_CHARS_MAX {
            return Err(Refusal::new(422, "The message is too large."));
        }
        let users = [&asked.broadcaster_id, &asked.sender_id];
        if users.into_iter().any(|user_id| !self.accounts.contains_key(user_id)) {
            return Err(Refusal::new(400, "The user in broadcaster_id or sender_id does not exist"));
        }
        Ok(())
    }

    /// A user's token must be the sender's and hold the scope. With the application's, sender and broadcaster
    /// must have allowed it, unless the sender is a moderator there.
    fn check_sender(&self, asked: &SendAsked, caller: &Caller) -> Result<(), Refusal> {
        let (broadcaster_id, sender_id) = (&asked.broadcaster_id, &asked.sender_id);
        let missing_scope = || Refusal::new(401, format!("Missing scope: {WRITE_CHAT}"));
        let not_permitted = || {
            Refusal::new(
                403,
                "The sender is not permitted to send chat messages to the broadcaster's chat room.",
            )
        };
        match &caller.user_id {
            Some(user_id) if user_id != sender_id => {
                let message = "The ID in sender_id must match the user ID in the request's access token.";
                return Err(Refusal::new(401, message));
            }
            Some(_) if !caller.scopes.iter().any(|scope| scope == WRITE_CHAT) => return Err(missing_scope()),
            Some(_) => {}
            None if !self.has_granted(sender_id, WRITE_CHAT) => return Err(missing_scope()),
            None if !self.is_welcome(broadcaster_id, sender_id) => return Err(not_permitted()),
            None => {}
        }
        if self.is_banned(broadcaster_id, sender_id) { Err(not_permitted()) } else { Ok(()) }
    }

    fn count_send(&mut self, asked: &SendAsked, now: OffsetDateTime) -> Result<(), Refusal> {
        let is_privileged = self.is_privileged(&asked.broadcaster_id, &asked.sender_id);
        let rules = &self.rules;
        let max = if is_privileged { rules.chat_sends_privileged_max } else { rules.chat_sends_max };
        let begin = now - rules.chat_window;
        let times = self.chat.sends.times.entry(asked.sender_id.clone()).or_default();
        while times.front().is_some_and(|sent| *sent <= begin) {
            times.pop_front();
        }
        if times.len() >= max {
            return Err(Refusal::new(429, "You are sending messages too quickly."));
        }
        times.push_back(now);
        Ok(())
    }

    fn reason_to_drop(&self, asked: &SendAsked, now: OffsetDateTime) -> Option<Dropped> {
        let text = asked.message.to_lowercase();
        if self.rules.rejected_words.iter().any(|word| text.contains(&word.to_lowercase())) {
            let message = "Your message is being checked by mods and has not been sent.";
            return Some(Dropped { code: "msg_rejected", message });
        }
        let key = (asked.sender_id.clone(), asked.broadcaster_id.clone());
        let (last, at) = self.chat.sends.last.get(&key)?;
        let is_repeated = *last == asked.message && now - *at < self.rules.chat_window;
        let message = "Your message was not sent because it is identical to the previous one you sent, less \
                       than 30 seconds ago.";
        let is_privileged = self.is_privileged(&asked.broadcaster_id, &asked.sender_id);
        (is_repeated && !is_privileged).then_some(Dropped { code: "msg_duplicate", message })
    }

    /// What was sent by Helix, the oldest first.
    pub fn sent(&self) -> Vec<SentMessage> {
        self.chat.sends.sent.iter().cloned().collect()
    }
}
