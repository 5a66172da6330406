//! Whose messages are votes: everybody's but those of bots and of whom the operator leaves out.

use std::collections::HashSet;

/// Logins of chat bots that many channels have.
const BOTS: [&str; 16] = [
    "blerp",
    "botrixoficial",
    "commanderroot",
    "fossabot",
    "kofistreambot",
    "moobot",
    "nightbot",
    "own3d",
    "pokemoncommunitygame",
    "sery_bot",
    "soundalerts",
    "streamelements",
    "streamlabs",
    "streamstickers",
    "tangiabot",
    "wizebot",
];

/// Who does not vote.
#[derive(Clone, Debug)]
pub struct Audience {
    /// In small letters.
    logins: HashSet<String>,
    ids: HashSet<String>,
}

impl Audience {
    /// Everybody but well-known bots, `ignored` (logins, also as `@Login`, or user ids) and our own bot.
    ///
    /// A login may consist of digits alone, so such an entry leaves out both the user with that id and the one with
    /// that login.
    pub fn new(ignored: &[String], bot_user_id: Option<&str>) -> Audience {
        let entries = ignored.iter().map(|entry| entry.trim().trim_start_matches('@').to_ascii_lowercase());
        let entries: Vec<String> = entries.filter(|entry| !entry.is_empty()).collect();
        let is_id = |entry: &&String| entry.bytes().all(|byte| byte.is_ascii_digit());
        let mut ids: HashSet<String> = entries.iter().filter(is_id).cloned().collect();
        ids.extend(bot_user_id.map(str::to_owned));
        let bots = BOTS.iter().map(|login| (*login).to_owned());
        Audience { logins: bots.chain(entries).collect(), ids }
    }

    /// Whether this user's messages are votes. Allocates nothing for a login in small letters, as Twitch sends them; an
    /// empty one is nobody's.
    pub fn votes(&self, user_id: &str, login: &str) -> bool {
        !self.ids.contains(user_id) && !self.leaves_out(login)
    }

    fn leaves_out(&self, login: &str) -> bool {
        if login.bytes().any(|byte| byte.is_ascii_uppercase()) {
            self.logins.contains(&login.to_ascii_lowercase())
        } else {
            self.logins.contains(login)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn audience(ignored: &[&str]) -> Audience {
        let ignored: Vec<String> = ignored.iter().map(|entry| (*entry).to_owned()).collect();
        Audience::new(&ignored, Some("4711"))
    }

    #[test]
    fn viewers_vote_and_well_known_bots_do_not() {
        let audience = Audience::new(&[], None);
        assert!(audience.votes("1", "viewer"));
        for login in BOTS {
            assert!(!audience.votes("1", login), "{login}");
        }
        assert!(!audience.votes("1", "NightBot"));
        assert!(audience.votes("1", "nightbot2"));
    }

    #[test]
    fn our_own_bot_does_not_vote_whatever_it_is_called() {
        let audience = audience(&[]);
        assert!(!audience.votes("4711", "viewer"));
        assert!(audience.votes("471", "viewer"));
        assert!(audience.votes("1", "4711"), "somebody else's login");
    }

    #[test]
    fn the_operator_leaves_users_out_by_login_or_id_however_it_is_written() {
        let audience = audience(&["My_Bot", " @Other ", "99", "", "  @ "]);
        for login in ["my_bot", "MY_BOT", "other"] {
            assert!(!audience.votes("1", login), "{login}");
        }
        assert!(!audience.votes("99", "viewer"));
        assert!(!audience.votes("1", "99"), "a login may be a number");
        assert!(audience.votes("1", "my_bot2"));
    }

    #[test]
    fn an_id_leaves_nobody_out_as_a_login_with_letters() {
        assert!(audience(&["bot99"]).votes("99", "viewer"));
    }

    #[test]
    fn a_login_that_is_not_told_leaves_nobody_out() {
        assert!(audience(&["", "@"]).votes("1", ""));
    }
}
