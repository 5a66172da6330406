//! What a vote is: a chat message that is a trigger, or one trigger repeated.
//!
//! Nearly no chat message is a vote, so [`Triggers::side_of`] compares the text's characters as it
//! normalises them: it allocates nothing and mostly stops at the first character.

use caseless::Caseless;

use super::config::Config;
use super::sentiment::Side;

/// A piece of a chat message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    pub kind: FragmentKind,
    pub text: &'a str,
}

/// What Twitch says a piece of a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FragmentKind {
    Text,
    Emote,
    /// A mention, a cheermote, a gif, or what Twitch thinks of next.
    Other,
}

/// A config's triggers, prepared for matching.
#[derive(Clone, Debug, Default)]
pub struct Triggers {
    /// Longest first, no two with the same text. Where several match, the longest wins: with "no"
    /// on one side and "no no" on the other, the message "no no" votes for the trigger it equals.
    words: Vec<Word>,
}

/// One trigger.
#[derive(Clone, Debug)]
struct Word {
    /// Normalised, never empty.
    text: Box<str>,
    /// No letter or digit is in it, as in emoji, which are written without white space between.
    is_symbol: bool,
    side: Side,
}

impl Triggers {
    /// The triggers of `config`.
    pub fn of(config: &Config) -> Triggers {
        let mut triggers = Triggers::default();
        config.for_triggers.iter().for_each(|word| triggers.add(word, Side::For));
        config.against_triggers.iter().for_each(|word| triggers.add(word, Side::Against));
        triggers.words.sort_by_key(|word| std::cmp::Reverse(word.text.len()));
        triggers
    }

    fn add(&mut self, word: &str, side: Side) {
        let text = normalise(word).into_boxed_str();
        if !text.is_empty() && self.words.iter().all(|word| word.text != text) {
            let is_symbol = !text.chars().any(char::is_alphanumeric);
            self.words.push(Word { text, is_symbol, side });
        }
    }

    /// The side that a message votes for; `None` for a message that is no vote.
    ///
    /// The whole text counts, and has to be one trigger, once or repeated with white space between;
    /// emoji may be repeated without.
    /// Failing that, a message of nothing but emotes counts when each of them is the same trigger:
    /// emotes may stand without white space between them, and the text may be missing.
    pub fn side_of(&self, text: &str, fragments: &[Fragment<'_>]) -> Option<Side> {
        self.word_repeated_in(text).or_else(|| self.word_of_emotes(fragments)).map(|word| word.side)
    }

    fn word_repeated_in(&self, text: &str) -> Option<&Word> {
        let first = normal_chars(text).next();
        self.words.iter().find(|word| word.text.chars().next() == first && word.is_repeated_in(text))
    }

    fn word_of_emotes(&self, fragments: &[Fragment<'_>]) -> Option<&Word> {
        let mut found: Option<&Word> = None;
        for fragment in fragments {
            match (fragment.kind, found) {
                (FragmentKind::Emote, None) => {
                    found = Some(self.words.iter().find(|word| word.equals(fragment.text))?);
                }
                (FragmentKind::Emote, Some(word)) if word.equals(fragment.text) => {}
                (FragmentKind::Text, _) if is_blank(fragment.text) => {}
                _ => return None,
            }
        }
        found
    }
}

impl Word {
    /// Whether the whole of `text`, normalised, is this word.
    fn equals(&self, text: &str) -> bool {
        normal_chars(text).eq(self.text.chars())
    }

    /// Whether the whole of `text`, normalised, is this word one or more times, a space between
    /// (symbols: or none).
    fn is_repeated_in(&self, text: &str) -> bool {
        let mut chars = normal_chars(text).peekable();
        loop {
            if !self.text.chars().all(|expected| chars.next() == Some(expected)) {
                return false;
            }
            let spaced = chars.next_if_eq(&' ').is_some();
            match chars.peek() {
                None => return true,
                Some(_) if spaced || self.is_symbol => {}
                Some(_) => return false,
            }
        }
    }
}

/// `text` as triggers are compared: case folded, invisible characters removed, trimmed, inner
/// white space collapsed. Normalising twice changes nothing more.
pub fn normalise(text: &str) -> String {
    normal_chars(text).collect()
}

/// The characters of [`normalise`]d `text`, made one by one.
///
/// Invisible characters go first, so that they neither divide a run of white space nor stand
/// before the end; full case folding (Unicode, `CaseFolding.txt`, status C and F) yields neither
/// invisible characters nor white space.
fn normal_chars(text: &str) -> impl Iterator<Item = char> {
    let mut chars = text.chars().filter(|c| !is_invisible(*c)).default_case_fold().peekable();
    while chars.next_if(|c| c.is_whitespace()).is_some() {}
    std::iter::from_fn(move || {
        let c = chars.next()?;
        if !c.is_whitespace() {
            return Some(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        // White space with nothing behind it is trimmed.
        chars.peek().map(|_| ' ')
    })
}

/// Whether nothing is left of `text` once it is normalised.
fn is_blank(text: &str) -> bool {
    text.chars().all(|c| c.is_whitespace() || is_invisible(c))
}

/// Whether `c` is a character that nobody sees: `Default_Ignorable_Code_Point` of Unicode's
/// `DerivedCoreProperties.txt`. Chat clients append some of them to get a message past Twitch's
/// duplicate check.
///
/// The tag characters U+E0020–E007F are kept, although they are ignorable too: they spell out
/// which flag an emoji is, and without them England, Scotland and Wales would be one trigger.
fn is_invisible(c: char) -> bool {
    // Nearly all chat is below the first of them.
    c >= '\u{AD}'
        && matches!(c,
            '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}'..='\u{1160}' | '\u{17B4}'..='\u{17B5}'
            | '\u{180B}'..='\u{180F}' | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}' | '\u{3164}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}'
            | '\u{FFA0}' | '\u{FFF0}'..='\u{FFF8}' | '\u{1BCA0}'..='\u{1BCA3}'
            | '\u{1D173}'..='\u{1D17A}' | '\u{E0000}'..='\u{E001F}' | '\u{E0080}'..='\u{E0FFF}')
}

#[cfg(test)]
mod tests;
