//! What viewers write: words, emotes, mentions, cheers, GIFs, and votes in all their spellings.

use rand::{Rng, RngExt};

use super::crowd::Person;
use crate::domain::sentiment::Side;

/// What some chat clients append so that Twitch takes the same message twice in a row.
const CLIENT_SUFFIX: &str = " \u{E0000}";
/// Emotes with their ids on Twitch.
const EMOTES: [(&str, &str); 8] = [
    ("Kappa", "25"),
    ("LUL", "425618"),
    ("PogChamp", "305954156"),
    ("BibleThump", "86"),
    ("HeyGuys", "30259"),
    ("NotLikeThis", "58765"),
    ("TombRaid", "864205"),
    ("Kreygasm", "41"),
];
/// Lines without votes: mostly short, as chat is.
const LINES: [&str; 30] = [
    "hello chat",
    "first time here",
    "what a play",
    "that was so close",
    "how did he miss that",
    "GG well played",
    "can we get some hype",
    "clip that please",
    "is this ranked?",
    "good morning everyone",
    "let's gooooo",
    "W streamer",
    "monkaS this is scary",
    "wait what just happened",
    "no way he does it again",
    "yes but why though",
    "he has no idea",
    "the music is great today",
    "anyone know this song?",
    "greetings from Köln",
    "привет всем в чате",
    "草 すごい",
    "vamos con todo 🔥🔥",
    "imagine losing to that",
    "bro is cooking",
    "chat is this real",
    "my dog just sneezed at the \"jump scare\"",
    "https://example.com/clip/1 look at this",
    "I have been watching since the very first stream and this is still the best run that anyone here \
     has ever seen, change my mind",
    "5 more minutes then I really have to sleep",
];
const GIF_CAPTION: &str = "[Yay GIF by Example]";
const GIF_ID: &str = "joSNxeswxuc74Juo8X";

/// A piece of a message, as Twitch cuts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    Emote { name: String, id: String },
    Mention(Person),
    Cheer { bits: u32 },
    Gif { caption: &'static str, id: &'static str },
}

impl Piece {
    /// The piece as text.
    pub fn text(&self) -> String {
        match self {
            Piece::Text(text) => text.clone(),
            Piece::Emote { name, .. } => name.clone(),
            Piece::Mention(person) => format!("@{}", person.name),
            Piece::Cheer { bits } => format!("Cheer{bits}"),
            Piece::Gif { caption, .. } => (*caption).into(),
        }
    }
}

/// The words of a simulation: what votes, and what may be said without voting.
#[derive(Clone)]
pub(super) struct Vocabulary {
    for_words: Vec<String>,
    against_words: Vec<String>,
    lines: Vec<&'static str>,
    emotes: Vec<(&'static str, &'static str)>,
}

impl Vocabulary {
    /// Takes the voting words; whatever else would be a vote by accident is never said.
    pub fn new(for_words: &[String], against_words: &[String]) -> Self {
        let is_vote = |text: &str| {
            for_words
                .iter()
                .chain(against_words)
                .any(|word| word.trim().to_lowercase() == text.to_lowercase())
        };
        Vocabulary {
            for_words: for_words.to_vec(),
            against_words: against_words.to_vec(),
            lines: LINES.into_iter().filter(|line| !is_vote(line)).collect(),
            emotes: EMOTES.into_iter().filter(|(name, _)| !is_vote(name)).collect(),
        }
    }

    /// A message that votes for `side`.
    pub fn vote(&self, rng: &mut impl Rng, side: Side) -> Vec<Piece> {
        let words = match side {
            Side::For => &self.for_words,
            Side::Against => &self.against_words,
        };
        let Some(word) = pick(rng, words) else { return Vec::new() };
        let word = word.trim();
        let mut pieces = match EMOTES.iter().find(|(name, _)| *name == word) {
            Some((name, id)) => emotes(name, id, rng.random_range(1..=3)),
            None => vec![Piece::Text(spelling(rng, word))],
        };
        if rng.random_bool(0.1) {
            append_text(&mut pieces, CLIENT_SUFFIX);
        }
        pieces
    }

    /// A message that is no vote.
    pub fn chat(&self, rng: &mut impl Rng, other: impl FnOnce(&mut dyn Rng) -> Person) -> Vec<Piece> {
        let line = pick(rng, &self.lines).copied().unwrap_or("so that is that");
        let emote = pick(rng, &self.emotes).copied();
        let mut pieces = match (rng.random_range(0..100), emote) {
            (0..25, Some((name, id))) => emotes(name, id, rng.random_range(1..=4)),
            (25..50, Some((name, id))) => {
                let mut pieces = vec![Piece::Text(format!("{line} "))];
                pieces.extend(emotes(name, id, 1));
                pieces
            }
            (50..58, _) => vec![Piece::Mention(other(rng)), Piece::Text(format!(" {line}"))],
            (58..60, _) => {
                let bits = *pick(rng, &[1, 100, 500]).unwrap_or(&100);
                vec![Piece::Cheer { bits }, Piece::Text(format!(" {line}"))]
            }
            (60, _) => return vec![Piece::Gif { caption: GIF_CAPTION, id: GIF_ID }],
            (61, _) => return vec![Piece::Gif { caption: "", id: GIF_ID }],
            _ => vec![Piece::Text(line.into())],
        };
        if rng.random_bool(0.05) {
            append_text(&mut pieces, CLIENT_SUFFIX);
        }
        pieces
    }
}

/// One of `items`; `None` when there are none.
pub(super) fn pick<'a, T>(rng: &mut impl Rng, items: &'a [T]) -> Option<&'a T> {
    if items.is_empty() { None } else { items.get(rng.random_range(0..items.len())) }
}

/// A word as people type it when they vote: loud, repeated, padded.
fn spelling(rng: &mut impl Rng, word: &str) -> String {
    let typed = if word.is_ascii() && rng.random_bool(0.3) { word.to_ascii_uppercase() } else { word.into() };
    match rng.random_range(0..100) {
        0..70 => typed,
        70..85 => [typed.as_str(); 3].join(" "),
        85..95 => [typed.as_str(); 2].join("  "),
        _ => format!(" {typed} "),
    }
}

/// An emote `count` times; the spaces between are text, as on Twitch.
fn emotes(name: &str, id: &str, count: usize) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(2 * count);
    for index in 0..count {
        if index > 0 {
            pieces.push(Piece::Text(" ".into()));
        }
        pieces.push(Piece::Emote { name: name.into(), id: id.into() });
    }
    pieces
}

fn append_text(pieces: &mut Vec<Piece>, suffix: &str) {
    match pieces.last_mut() {
        Some(Piece::Text(text)) => text.push_str(suffix),
        _ => pieces.push(Piece::Text(suffix.into())),
    }
}
