//! The names of all keys in Redis, and nowhere else.
//!
//! All keys of a session carry its streamer's bucket as a hash tag, so that one function may touch
//! a session and its bucket's change log, on one server and on a cluster.

use std::fmt;

use uuid::Uuid;

/// How many buckets there are.
pub const BUCKETS: u8 = 64;

/// One of the [`BUCKETS`] parts that the streamers are spread over; shown as two hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket(u8);

impl Bucket {
    /// The bucket of a streamer: the id's last byte modulo [`BUCKETS`] (the first bytes of a
    /// UUIDv7 are time, the last are random).
    pub fn of(streamer_id: Uuid) -> Bucket {
        Bucket(streamer_id.as_bytes()[15] % BUCKETS)
    }

    /// All buckets.
    pub fn all() -> impl Iterator<Item = Bucket> {
        (0..BUCKETS).map(Bucket)
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}", self.0)
    }
}

/// Hash: a session's state.
pub fn session(streamer_id: Uuid) -> String {
    of_streamer("session", streamer_id)
}

/// Set: ids of the instances that hold a streamer's session.
pub fn refs(streamer_id: Uuid) -> String {
    of_streamer("refs", streamer_id)
}

/// String: the ordinal of a streamer's session that ended last; lives for minutes.
pub fn ended(streamer_id: Uuid) -> String {
    of_streamer("ended", streamer_id)
}

/// String: the id of a viewer's last counted message; lives as long as the debounce.
pub fn debounce(streamer_id: Uuid, viewer: &str) -> String {
    format!("chatpulse:debounce:{{{}}}:{streamer_id}:{viewer}", Bucket::of(streamer_id))
}

/// Sorted set: streamer id → change number.
pub fn changes(bucket: Bucket) -> String {
    format!("chatpulse:changes:{{{bucket}}}")
}

/// Hash: the change log's identity, bounds, and the version of each streamer in it.
pub fn changes_epoch(bucket: Bucket) -> String {
    format!("chatpulse:changes:{{{bucket}}}:epoch")
}

/// String: changes with each change that is noted in any change log; in a slot of its own.
pub fn pulse() -> String {
    "chatpulse:changes:pulse".into()
}

/// Sorted set: streamer id → when the last holder left, in milliseconds.
pub fn orphans(bucket: Bucket) -> String {
    format!("chatpulse:orphans:{{{bucket}}}")
}

/// String: the streamer id of a live broadcaster; in a slot of its own.
pub fn broadcaster(twitch_user_id: &str) -> String {
    format!("chatpulse:broadcaster:{twitch_user_id}")
}

/// List: the last lines of a streamer's chat, oldest first.
pub fn chat(streamer_id: Uuid) -> String {
    of_streamer("chat", streamer_id)
}

/// Sorted set: streamer id → when the chat was last heard, in milliseconds.
pub fn heard(bucket: Bucket) -> String {
    format!("chatpulse:heard:{{{bucket}}}")
}

/// String: something that may be forgotten, of a module such as `session`.
pub fn cache(module: &str, id: &str) -> String {
    format!("chatpulse:cache:{module}:{id}")
}

/// String: the token that the forms of a browser's session carry.
pub fn csrf(session: &str) -> String {
    format!("chatpulse:csrf:{session}")
}

/// String: there while an access token is denied.
pub fn denied(jti: Uuid) -> String {
    format!("chatpulse:deny:{jti}")
}

/// String: there while all denied access tokens are; another one after each loss.
pub fn deny_list_loaded() -> String {
    "chatpulse:deny:loaded".into()
}

/// Stream: a queue's entries. A name holds a hash tag, so that the queue and its dead letters share a
/// slot.
pub fn stream(queue: &str) -> String {
    format!("chatpulse:stream:{queue}")
}

/// Stream: a queue's dead letters.
pub fn dead_letters(queue: &str) -> String {
    format!("chatpulse:dlq:{queue}")
}

/// Sorted set: what a subject did within a limit's window.
pub fn rate_limit(module: &str, subject: &str) -> String {
    format!("chatpulse:rate_limit:{module}:{subject}")
}

fn of_streamer(kind: &str, streamer_id: Uuid) -> String {
    format!("chatpulse:{kind}:{{{}}}:{streamer_id}", Bucket::of(streamer_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAMER: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_00ff);

    #[test]
    fn a_streamers_keys_carry_the_last_byte_modulo_64_as_hash_tag() {
        let id = "01900000-0000-7000-8000-0000000000ff";
        assert_eq!(session(STREAMER), format!("chatpulse:session:{{3f}}:{id}"));
        assert_eq!(refs(STREAMER), format!("chatpulse:refs:{{3f}}:{id}"));
        assert_eq!(debounce(STREAMER, "ab12"), format!("chatpulse:debounce:{{3f}}:{id}:ab12"));
        let bucket = Bucket::of(STREAMER);
        assert_eq!(changes(bucket), "chatpulse:changes:{3f}");
        assert_eq!(changes_epoch(bucket), "chatpulse:changes:{3f}:epoch");
        assert_eq!(orphans(bucket), "chatpulse:orphans:{3f}");
        assert_eq!(chat(STREAMER), format!("chatpulse:chat:{{3f}}:{id}"));
        assert_eq!(heard(bucket), "chatpulse:heard:{3f}");
        assert_eq!(broadcaster("123"), "chatpulse:broadcaster:123");
    }

    #[test]
    fn queues_and_limits_have_the_names_of_their_roles() {
        assert_eq!(stream("{votes}"), "chatpulse:stream:{votes}");
        assert_eq!(dead_letters("{votes}"), "chatpulse:dlq:{votes}");
        assert_eq!(rate_limit("login", "198.51.100.7"), "chatpulse:rate_limit:login:198.51.100.7");
    }

    #[test]
    fn what_belongs_to_browsers_has_namespaces_of_its_own() {
        assert_eq!(cache("session", "ab12"), "chatpulse:cache:session:ab12");
        assert_eq!(csrf("ab12"), "chatpulse:csrf:ab12");
    }

    #[test]
    fn what_belongs_to_operators_has_a_namespace_of_its_own() {
        assert_eq!(denied(STREAMER), "chatpulse:deny:01900000-0000-7000-8000-0000000000ff");
        assert_eq!(deny_list_loaded(), "chatpulse:deny:loaded");
    }

    #[test]
    fn buckets_are_two_hex_digits_from_00_to_3f() {
        let names: Vec<String> = Bucket::all().map(|bucket| bucket.to_string()).collect();
        assert_eq!((names.len(), names[0].as_str(), names[63].as_str()), (64, "00", "3f"));
    }
}
