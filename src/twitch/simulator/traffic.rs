//! Chat traffic: who writes what in which channel at a time, as signed notifications.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::chatter::{Piece, Vocabulary, pick};
use super::crowd::{self, Person};
use super::message::{self, Badge, ReplyTo, Told};
use super::mood::Mood;
use super::{Options, SimulatorError};
use crate::domain::sentiment::Side;
use crate::twitch::eventsub::CHANNEL_CHAT_MESSAGE;
use crate::twitch::signature::{self, Headers, Secrets};

const COLORS: [&str; 6] = ["#00FF7F", "#FF0000", "#1E90FF", "#9ACD32", "#DAA520", ""];
const MODERATOR: Badge = Badge { set_id: "moderator", id: "1", info: "" };
const SUBSCRIBER: Badge = Badge { set_id: "subscriber", id: "12", info: "16" };
const GIFTER: Badge = Badge { set_id: "sub-gifter", id: "1", info: "" };
const RARE_MESSAGE_TYPES: [&str; 5] = [
    "channel_points_highlighted",
    "channel_points_sub_only",
    "user_intro",
    "power_ups_message_effect",
    "power_ups_gigantified_emote",
];
const NOTIFICATION: &str = "notification";

/// A signed notification, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// The notification's id, a header.
    pub id: String,
    /// When it was signed: RFC 3339 with nanoseconds, a header.
    pub timestamp: String,
    /// The signature, a header.
    pub signature: String,
    pub body: Vec<u8>,
    /// The chat message's id, as in the body.
    pub message_id: String,
    /// The channel, as in the body.
    pub broadcaster_user_id: String,
    /// Which side it votes for, if it is a vote.
    pub vote: Option<Side>,
}

impl Notification {
    /// The headers that Twitch sends with it, beside the content type.
    pub fn headers(&self) -> [(&'static str, &str); 7] {
        [
            (signature::MESSAGE_ID, &self.id),
            (signature::MESSAGE_RETRY, "0"),
            (signature::MESSAGE_TYPE, NOTIFICATION),
            (signature::MESSAGE_SIGNATURE, &self.signature),
            (signature::MESSAGE_TIMESTAMP, &self.timestamp),
            (signature::SUBSCRIPTION_TYPE, CHANNEL_CHAT_MESSAGE),
            (signature::SUBSCRIPTION_VERSION, "1"),
        ]
    }

    /// The headers as verification takes them.
    pub fn signed_headers(&self) -> Headers<'_> {
        Headers {
            id: Some(self.id.as_bytes()),
            timestamp: Some(self.timestamp.as_bytes()),
            signature: Some(self.signature.as_bytes()),
            message_type: Some(NOTIFICATION.as_bytes()),
            subscription_type: Some(CHANNEL_CHAT_MESSAGE.as_bytes()),
        }
    }
}

/// Makes chat. What is written, by whom and when is the seed's; ids are the run's, so that a second
/// run is not taken for a repetition of the first.
pub struct Generator {
    options: Options,
    secrets: Secrets,
    vocabulary: Vocabulary,
    content: StdRng,
    ids: StdRng,
    /// The last message, which the next one in its channel may reply to.
    last: Option<(u64, ReplyTo)>,
}

impl Generator {
    /// A chat that begins at `start`, which makes this run's ids its own.
    ///
    /// # Errors
    /// [`SimulatorError`] when an option is out of its range or Twitch would not take the secret.
    pub fn new(options: &Options, start: OffsetDateTime) -> Result<Self, SimulatorError> {
        options.check()?;
        let run = start.unix_timestamp_nanos() as u64;
        Ok(Generator {
            secrets: Secrets::new([&options.secret])?,
            vocabulary: Vocabulary::new(&options.for_words, &options.against_words),
            content: StdRng::seed_from_u64(options.seed),
            ids: StdRng::seed_from_u64(options.seed ^ run),
            last: None,
            options: options.clone(),
        })
    }

    /// The next message, written `elapsed` after the start, signed at `at`.
    ///
    /// These are two clocks because a machine that slept must still sign with the right time.
    pub fn next(&mut self, elapsed: Duration, at: OffsetDateTime) -> Notification {
        let options = &self.options;
        let channels = options.channels.max(options.broadcaster_ids.len() as u64);
        let channel_number = crowd::zipf_rank(&mut self.content, channels);
        let viewer_number = crowd::zipf_rank(&mut self.content, options.viewers);
        let channel = crowd::channel(channel_number, &options.broadcaster_ids, options.first_channel_id);
        let chatter = crowd::viewer(channel_number, viewer_number, options.viewers);

        let vote = self.vote(channel_number, elapsed);
        let reply = if vote.is_none() { self.reply(channel_number) } else { None };
        let pieces = self.pieces(vote, channel_number, reply.as_ref());
        let text: String = pieces.iter().map(Piece::text).collect();
        let message_id = self.new_id();
        let body = self.body(&Written {
            channel: &channel,
            channel_number,
            chatter: &chatter,
            message_id: &message_id,
            text: &text,
            pieces: &pieces,
            reply: reply.as_ref(),
            is_vote: vote.is_some(),
        });
        self.last = Some((channel_number, ReplyTo { message_id: message_id.clone(), text, author: chatter }));
        self.signed(at, body, message_id, channel.id, vote)
    }

    fn vote(&mut self, channel: u64, elapsed: Duration) -> Option<Side> {
        let mood = Mood::of(self.options.seed, channel);
        let chance = mood.vote_chance(elapsed, self.options.vote_share);
        if self.content.random::<f64>() >= chance {
            return None;
        }
        let is_for = self.content.random::<f64>() < mood.for_chance(elapsed);
        Some(if is_for { Side::For } else { Side::Against })
    }

    fn reply(&mut self, channel: u64) -> Option<ReplyTo> {
        let wanted = self.content.random_bool(0.08);
        let (last_channel, last) = self.last.as_ref()?;
        (wanted && *last_channel == channel).then(|| last.clone())
    }

    /// Replies begin with a mention of whom they answer, as on Twitch.
    fn pieces(&mut self, vote: Option<Side>, channel: u64, reply: Option<&ReplyTo>) -> Vec<Piece> {
        if let Some(side) = vote {
            return self.vocabulary.vote(&mut self.content, side);
        }
        let viewers = self.options.viewers;
        let somebody = |mut rng: &mut dyn rand::Rng| {
            crowd::viewer(channel, crowd::zipf_rank(&mut rng, viewers), viewers)
        };
        let mut pieces = self.vocabulary.chat(&mut self.content, somebody);
        if let Some(parent) = reply {
            let addressed = [Piece::Mention(parent.author.clone()), Piece::Text(" ".into())];
            pieces.splice(0..0, addressed);
        }
        pieces
    }

    fn body(&mut self, written: &Written<'_>) -> Vec<u8> {
        let rng = &mut self.content;
        let rare_type = pick(rng, &RARE_MESSAGE_TYPES).copied().filter(|_| rng.random_bool(0.02));
        let badges = [MODERATOR, SUBSCRIBER, GIFTER];
        let badges = match rng.random_range(0..10) {
            0..5 => &badges[..0],
            5..8 => &badges[1..2],
            8 => &badges[1..],
            _ => &badges[..],
        };
        let color = pick(rng, &COLORS).copied().unwrap_or_default();
        let other_channel = crowd::channel(written.channel_number + 1, &[], 800_000_000);
        let is_shared = !written.is_vote && rng.random_bool(0.01);
        message::body(&Told {
            subscription_id: &subscription_id(written.channel_number),
            channel: written.channel,
            chatter: written.chatter,
            message_id: written.message_id,
            text: written.text,
            pieces: written.pieces,
            color,
            badges,
            message_type: rare_type.unwrap_or("text"),
            reply: written.reply,
            source: is_shared.then_some(&other_channel),
        })
    }

    fn signed(
        &mut self,
        at: OffsetDateTime,
        body: Vec<u8>,
        message_id: String,
        broadcaster_user_id: String,
        vote: Option<Side>,
    ) -> Notification {
        let id = self.new_id();
        // Only years beyond 9999 have no RFC 3339 form.
        let timestamp = at.format(&Rfc3339).unwrap_or_default();
        let signature = self.secrets.sign(&id, &timestamp, &body);
        Notification { id, timestamp, signature, body, message_id, broadcaster_user_id, vote }
    }

    fn new_id(&mut self) -> String {
        uuid::Builder::from_random_bytes(self.ids.random()).into_uuid().to_string()
    }
}

/// What [`Generator::body`] dresses up with badges and the like.
struct Written<'a> {
    channel: &'a Person,
    channel_number: u64,
    chatter: &'a Person,
    message_id: &'a str,
    text: &'a str,
    pieces: &'a [Piece],
    reply: Option<&'a ReplyTo>,
    is_vote: bool,
}

/// A channel keeps its subscription.
fn subscription_id(channel: u64) -> String {
    let first_half = 0x0b7f_3361_672b_4d39_u64;
    uuid::Builder::from_random_bytes((u128::from(first_half) << 64 | u128::from(channel)).to_be_bytes())
        .into_uuid()
        .to_string()
}
