//! Operators: who runs ChatPulse, what each role may do, and which e-mail addresses and passwords are accepted.

use uuid::Uuid;

/// Characters of a password at least.
pub const PASSWORD_CHARS_MIN: usize = 12;
/// Characters of a password at most.
pub const PASSWORD_CHARS_MAX: usize = 128;
/// Bytes of an e-mail address at most (RFC 5321, section 4.5.3.1, less the angle brackets of its path).
const EMAIL_BYTES_MAX: usize = 254;
/// Bytes of what stands before the `@` at most (RFC 5321, section 4.5.3.1.1).
const LOCAL_PART_BYTES_MAX: usize = 64;
/// Bytes of what stands between two dots of a host's name at most (RFC 1035, section 2.3.4).
const LABEL_BYTES_MAX: usize = 63;
/// A password counts as common when it comes apart into fewer things to guess than this.
const GUESSES_MIN: usize = 7;
/// Characters that a part of an e-mail address needs to be something of which a password is made.
const WORD_CHARS_MIN: usize = 3;

/// What an operator is allowed; each role may do what the ones before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Looks on.
    Viewer,
    /// Runs it from day to day.
    Admin,
    /// Decides who the operators are.
    Owner,
}

/// What operators do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// See streamers, sessions, instances, and how all is doing.
    Look,
    /// Change configs, reset sessions, rotate URLs, disable streamers, retry dead letters.
    Steer,
    ReadSecurityLog,
    /// Make, change and disable operators.
    ManageOperators,
    /// Stop and start the service for all: maintenance mode, rebuilding projections.
    Maintain,
}

/// An operator's account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    pub id: Uuid,
    /// In lower case: [`canonical_email`].
    pub email: String,
    pub role: Role,
    pub disabled: bool,
    /// Whether the password was given by somebody else, for one use.
    pub must_change_password: bool,
    /// Whether there is a second factor that the operator has shown.
    pub mfa_enrolled: bool,
    /// Grows with each change of the above, of the password and of the second factor.
    pub version: i64,
}

impl Role {
    pub const ALL: [Role; 3] = [Role::Viewer, Role::Admin, Role::Owner];

    /// The name in rows, tokens and the API.
    pub fn name(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Admin => "admin",
            Role::Owner => "owner",
        }
    }

    /// What has this name.
    pub fn named(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }

    /// Whether nothing may be done without a second factor, except enrolling one.
    pub fn needs_second_factor(self) -> bool {
        self >= Role::Admin
    }
}

/// Whether who has this role may do this.
pub fn may(role: Role, action: Action) -> bool {
    match action {
        Action::Look => true,
        Action::Steer | Action::ReadSecurityLog => role >= Role::Admin,
        Action::ManageOperators | Action::Maintain => role >= Role::Owner,
    }
}

/// The e-mail address as accounts are found by it: without white space around it, in lower case.
pub fn canonical_email(email: &str) -> String {
    email.trim().to_ascii_lowercase()
}

/// What is wrong with an e-mail address in its canonical form; `None` when it is accepted. Taken are those of ASCII that
/// need no quotes (RFC 5321, section 4.1.2: a dot-string, and a domain or the name of a host).
pub fn email_problem(email: &str) -> Option<String> {
    let Some((local, host)) = email.rsplit_once('@') else {
        return Some("is no e-mail address; it has to look like name@example.org".into());
    };
    if email.len() > EMAIL_BYTES_MAX || local.len() > LOCAL_PART_BYTES_MAX {
        return Some(format!(
            "is too long; it may have {EMAIL_BYTES_MAX} characters, {LOCAL_PART_BYTES_MAX} of them before the @"
        ));
    }
    let of_text = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+/=?^_`{|}~-".contains(&byte);
    let of_label = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let is_local = local.split('.').all(|part| !part.is_empty() && part.bytes().all(of_text));
    let is_host = host.split('.').all(|label| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && label.bytes().all(of_label)
            && !label.starts_with('-')
            && !label.ends_with('-')
    });
    (!is_local || !is_host)
        .then(|| "is no e-mail address that can be used; it has to look like name@example.org".into())
}

/// What is wrong with a password for the account of this e-mail address; `None` when it is accepted. It is judged by its
/// length and by whether it would be among the first to be tried, never by the kinds of its characters (NIST SP 800-63B,
/// section 5.1.1.2).
pub fn password_problem(password: &str, email: &str) -> Option<String> {
    let chars = password.chars().count();
    if chars < PASSWORD_CHARS_MIN {
        return Some(format!("is too short; it has to have {PASSWORD_CHARS_MIN} characters or more"));
    }
    if chars > PASSWORD_CHARS_MAX {
        return Some(format!("is too long; it may have {PASSWORD_CHARS_MAX} characters"));
    }
    let folded = password.to_lowercase();
    let email = canonical_email(email);
    if !email.is_empty() && folded.contains(&email) {
        return Some("contains the e-mail address; take something that nobody else knows".into());
    }
    let text: Vec<char> = folded.chars().collect();
    (COMMON.contains(&folded.as_str()) || guesses(&text, &words_of(&email)) < GUESSES_MIN)
        .then(|| "is too easy to guess; take some words that have nothing to do with each other".into())
}

/// The parts of an e-mail address.
fn words_of(email: &str) -> Vec<&str> {
    email.split(['@', '.', '+', '-', '_']).filter(|word| word.chars().count() >= WORD_CHARS_MIN).collect()
}

/// How many things have to be guessed for this text in lower case: a known word is one, a character that follows from
/// the one before it is none, and what is repeated counts once.
fn guesses(text: &[char], own_words: &[&str]) -> usize {
    let mut rest = unit(text);
    let mut before: Option<char> = None;
    let mut count = 0;
    while let [first, after @ ..] = rest {
        let words = WORDS.iter().chain(own_words).filter(|word| begins_like(rest, word));
        if let Some(length) = words.map(|word| word.chars().count()).max() {
            count += 1;
            before = None;
            rest = &rest[length..];
            continue;
        }
        if !before.is_some_and(|before| are_neighbours(before, *first)) {
            count += 1;
        }
        before = Some(*first);
        rest = after;
    }
    count
}

/// The shortest text of which `text` is a repetition.
fn unit(text: &[char]) -> &[char] {
    let repeats = |length: &usize| text.chunks(*length).all(|chunk| text.starts_with(chunk));
    (1..text.len()).find(repeats).map_or(text, |length| &text[..length])
}

/// Whether `text` begins with `word`, or with what is often written for it.
fn begins_like(text: &[char], word: &str) -> bool {
    let mut text = text.iter();
    word.chars().all(|letter| text.next().is_some_and(|written| stands_for(*written, letter)))
}

fn stands_for(written: char, letter: char) -> bool {
    written == letter
        || matches!(
            (written, letter),
            ('4' | '@', 'a')
                | ('3', 'e')
                | ('1' | '!', 'i')
                | ('1', 'l')
                | ('0', 'o')
                | ('5' | '$', 's')
                | ('7' | '+', 't')
        )
}

/// Whether one follows from the other: the same, next to it in the alphabet, or on a keyboard.
fn are_neighbours(one: char, other: char) -> bool {
    let in_alphabet = one.is_alphanumeric() && other.is_alphanumeric();
    let adjoin = |row: &&str| {
        let mut pairs = row.chars().zip(row.chars().skip(1));
        pairs.any(|pair| pair == (one, other) || pair == (other, one))
    };
    one == other || (in_alphabet && u32::from(one).abs_diff(u32::from(other)) == 1) || ROWS.iter().any(adjoin)
}

/// Rows and columns of keyboards.
const ROWS: [&str; 17] = [
    "1234567890-=",
    "!@#$%^&*()_+",
    "!\"§$%&/()=",
    "qwertyuiop[]",
    "asdfghjkl;'",
    "zxcvbnm,./",
    "qwertzuiop",
    "yxcvbnm",
    "azertyuiop",
    "1qaz",
    "2wsx",
    "3edc",
    "4rfv",
    "5tgb",
    "6yhn",
    "7ujm",
    "8ik,",
];

/// Words of which common passwords are made.
const WORDS: [&str; 70] = [
    "abc",
    "access",
    "admin",
    "administrator",
    "angel",
    "asdf",
    "ashley",
    "bailey",
    "baseball",
    "batman",
    "changeme",
    "charlie",
    "chat",
    "chatpulse",
    "chocolate",
    "computer",
    "daniel",
    "default",
    "donald",
    "dragon",
    "flower",
    "football",
    "freedom",
    "google",
    "hello",
    "hunter",
    "iloveyou",
    "internet",
    "jessica",
    "jordan",
    "killer",
    "letmein",
    "liverpool",
    "login",
    "lovely",
    "manager",
    "master",
    "michael",
    "monkey",
    "mustang",
    "mypass",
    "ninja",
    "operator",
    "owner",
    "pass",
    "password",
    "passwort",
    "pokemon",
    "princess",
    "pulse",
    "qazwsx",
    "qwer",
    "root",
    "samsung",
    "secret",
    "secure",
    "security",
    "server",
    "shadow",
    "soccer",
    "starwars",
    "sunshine",
    "superman",
    "temp",
    "test",
    "trustno1",
    "twitch",
    "user",
    "welcome",
    "whatever",
];

/// Common passwords of twelve characters and more, in lower case, that do not come apart into few words and rows.
const COMMON: [&str; 25] = [
    "1q2w3e4r5t6y",
    "1q2w3e4r5t6y7u",
    "1q2w3e4r5t6y7u8i",
    "1q2w3e4r5t6y7u8i9o0p",
    "a1b2c3d4e5f6",
    "a1b2c3d4e5f6g7",
    "allyourbasearebelongtous",
    "battery horse staple correct",
    "correct horse battery staple",
    "correct-horse-battery-staple",
    "correcthorsebatterystaple",
    "iamthebestever",
    "ihavenopassword",
    "ilovemyfamily",
    "manchesterunited",
    "maythe4thbewithyou",
    "maytheforcebewithyou",
    "nevergonnagiveyouup",
    "opensesame123",
    "q1w2e3r4t5y6",
    "q1w2e3r4t5y6u7",
    "thequickbrownfox",
    "thisismypassword",
    "tobeornottobe",
    "unbelievable",
];

#[cfg(test)]
mod tests {
    use super::*;

    const EMAIL: &str = "ann.miller@example.org";

    #[test]
    fn roles_are_found_by_their_names_and_stand_above_each_other() {
        for role in Role::ALL {
            assert_eq!(Role::named(role.name()), Some(role));
        }
        assert_eq!([Role::named("Owner"), Role::named("root"), Role::named("")], [None; 3]);
        assert!(Role::Owner > Role::Admin && Role::Admin > Role::Viewer);
        assert_eq!(Role::ALL.map(Role::needs_second_factor), [false, true, true]);
    }

    #[test]
    fn each_role_may_do_its_own_and_no_more() {
        for (action, viewer, admin, owner) in [
            (Action::Look, true, true, true),
            (Action::Steer, false, true, true),
            (Action::ReadSecurityLog, false, true, true),
            (Action::ManageOperators, false, false, true),
            (Action::Maintain, false, false, true),
        ] {
            assert_eq!(Role::ALL.map(|role| may(role, action)), [viewer, admin, owner], "{action:?}");
        }
    }

    #[test]
    fn an_address_is_one_account_however_it_is_written() {
        assert_eq!(canonical_email(" Ann.Miller@Example.ORG\n"), EMAIL);
    }

    #[test]
    fn addresses_are_accepted_that_need_no_quotes() {
        for email in
            [EMAIL, "a@b", "root@localhost", "x+tag@sub.example.co", "o'neil_1@xn--bcher-kva.example"]
        {
            assert_eq!(email_problem(email), None, "{email}");
        }
        let long = format!("{}@example.org", "a".repeat(65));
        let longer = format!("a@{}org", "abcdefghi.".repeat(26));
        for email in [
            "",
            "ann",
            "@example.org",
            "ann@",
            "ann@@example.org",
            "ann miller@example.org",
            ".ann@example.org",
            "ann..miller@example.org",
            "ann@example..org",
            "ann@-example.org",
            "ann@example.org.",
            "\"ann\"@example.org",
            "ann@[127.0.0.1]",
            "änn@example.org",
            "ann@exämple.org",
            "ann\n@example.org",
            "ann\0@example.org",
            "<ann@example.org>",
            "=cmd|'/c calc'!a1,x@example.org",
            &long,
            &longer,
        ] {
            assert!(email_problem(email).is_some(), "{email:?}");
        }
    }

    #[test]
    fn a_password_has_twelve_to_128_characters_of_any_kind() {
        let long: String = "vexhumdopliq".chars().cycle().take(127).chain(['Ω']).collect();
        assert_eq!(password_problem(&long, EMAIL), None);
        assert_eq!(password_problem("wünschelruteß", EMAIL), None);
        assert!(password_problem(&format!("{long}x"), EMAIL).is_some());
        assert!(password_problem("vexhumdopli", EMAIL).is_some());
        assert!(password_problem("äöüßäöüßxqj", EMAIL).is_some(), "bytes are no characters");
        assert!(password_problem("", EMAIL).is_some());
    }

    #[test]
    fn what_is_tried_first_is_refused() {
        for password in [
            "aaaaaaaaaaaa",
            "123456789012",
            "987654321098",
            "121212121212",
            "abcdefghijkl",
            "abcabcabcabc",
            "abc123abc123",
            "qwertyuiop123",
            "QWERTYUIOP[]",
            "qwertzuiop12",
            "azertyuiop12",
            "1qaz2wsx3edc",
            "1Q2W3E4R5T6Y",
            "password1234",
            "Password2024!!",
            "P@ssw0rd1234",
            "passwordpassword",
            "adminadminadmin",
            "Administrator1",
            "Welcome12345",
            "letmeinletmein1",
            "monkey123456",
            "iloveyou1234",
            "Chatpulse2025!",
            "twitchtwitch12",
            "correct horse battery staple",
            "xK9#xK9#xK9#",
            "            ",
        ] {
            assert!(password_problem(password, EMAIL).is_some(), "{password}");
        }
    }

    #[test]
    fn what_anybody_can_read_off_the_account_is_refused() {
        for password in
            [EMAIL, "ANN.MILLER@example.org", "my ann.miller@example.org", "Miller123456", "annmiller2024"]
        {
            assert!(password_problem(password, EMAIL).is_some(), "{password}");
        }
        assert_eq!(password_problem("tundra vessel 9", EMAIL), None);
        assert_eq!(password_problem("tundra vessel 9", ""), None);
    }

    #[test]
    fn what_is_hard_to_guess_is_accepted() {
        for password in [
            "tundra kettle vex",
            "mauve-otter-plinth",
            "Gv7!kd02Lqpz",
            "8841 0927 3365",
            "f3b1c89ad24e",
            "password-for-the-attic-window",
            "zwölf boxkämpfer",
        ] {
            assert_eq!(password_problem(password, EMAIL), None, "{password}");
        }
    }

    #[test]
    fn the_lists_are_as_they_are_looked_up() {
        for common in COMMON {
            assert_eq!(common, common.to_lowercase());
            assert!(common.chars().count() >= PASSWORD_CHARS_MIN, "{common} is too short anyway");
        }
        assert!(WORDS.iter().all(|word| *word == word.to_lowercase() && word.len() >= WORD_CHARS_MIN));
    }
}
