//! Chat messages as Twitch delivers them, signed beforehand: the simulator's chat, with its ids exchanged so
//! that channels are evenly busy and no two messages are of one viewer.

use anyhow::{Context, Result};
use chatpulse::twitch::signature::{self, Secrets};
use chatpulse::twitch::simulator::{Generator, Options};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

/// Messages of each kind that are varied.
const TEMPLATES: usize = 400;

/// Makes requests.
pub struct Chat {
    host: String,
    secrets: Secrets,
    votes: Vec<Value>,
    talk: Vec<Value>,
    random: StdRng,
    next_viewer: u64,
}

impl Chat {
    pub fn new(host: impl ToString, secret: &str) -> Result<Chat> {
        let templates = |vote_share: f64| -> Result<Vec<Value>> {
            let options = Options { vote_share, quiet: true, ..Options::new("http://localhost/", secret) };
            let now = OffsetDateTime::now_utc();
            let mut generator = Generator::new(&options, now)?;
            let mut found = Vec::with_capacity(TEMPLATES);
            while found.len() < TEMPLATES {
                let made = generator.next(Duration::ZERO, now);
                if made.vote.is_some() == (vote_share > 0.0) {
                    found.push(serde_json::from_slice(&made.body)?);
                }
            }
            Ok(found)
        };
        Ok(Chat {
            host: host.to_string(),
            secrets: Secrets::new([secret])?,
            votes: templates(1.0)?,
            talk: templates(0.0)?,
            random: StdRng::seed_from_u64(1),
            // Elsewhere each time: nobody votes again.
            next_viewer: rand::rng().random_range(10_000_000..1_000_000_000_000),
        })
    }

    /// A whole request: a new message of a new viewer in a channel, a vote or not.
    pub fn request(&mut self, channel: u64, is_vote: bool) -> Result<Vec<u8>> {
        self.next_viewer += 1;
        let viewer = self.next_viewer;
        self.request_of(channel, viewer, is_vote)
    }

    /// As [`Chat::request`], of a given viewer.
    pub fn request_of(&mut self, channel: u64, viewer: u64, is_vote: bool) -> Result<Vec<u8>> {
        let templates = if is_vote { &self.votes } else { &self.talk };
        let mut body = templates[self.random.random_range(0..templates.len())].clone();
        let channel = channel.to_string();
        body["subscription"]["condition"]["broadcaster_user_id"] = channel.clone().into();
        let event = &mut body["event"];
        event["broadcaster_user_id"] = channel.into();
        event["chatter_user_id"] = viewer.to_string().into();
        event["message_id"] = Uuid::new_v4().to_string().into();
        let body = serde_json::to_vec(&body)?;

        let id = Uuid::new_v4().to_string();
        let timestamp = OffsetDateTime::now_utc().format(&Rfc3339).context("a time of today")?;
        let signature = self.secrets.sign(&id, &timestamp, &body);
        let head = format!(
            "POST /webhooks/eventsub HTTP/1.1\r\nhost: {}\r\nuser-agent: Go-http-client/1.1\r\n\
             content-type: application/json\r\ncontent-length: {}\r\naccept-encoding: gzip\r\n\
             {}: {id}\r\n{}: 0\r\n{}: notification\r\n{}: {signature}\r\n{}: {timestamp}\r\n\
             {}: channel.chat.message\r\n{}: 1\r\n\r\n",
            self.host,
            body.len(),
            signature::MESSAGE_ID,
            signature::MESSAGE_RETRY,
            signature::MESSAGE_TYPE,
            signature::MESSAGE_SIGNATURE,
            signature::MESSAGE_TIMESTAMP,
            signature::SUBSCRIPTION_TYPE,
            signature::SUBSCRIPTION_VERSION,
        );
        Ok([head.as_bytes(), &body].concat())
    }
}
