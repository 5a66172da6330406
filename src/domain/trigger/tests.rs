use proptest::prelude::*;

use super::*;

fn triggers(for_triggers: &[&str], against_triggers: &[&str]) -> Triggers {
    let owned = |words: &[&str]| words.iter().map(|word| word.to_string()).collect();
    Triggers::of(&Config {
        for_triggers: owned(for_triggers),
        against_triggers: owned(against_triggers),
        ..Config::default()
    })
}

/// The side that `text` votes for when `word` votes for and "other" against.
fn side(word: &str, text: &str) -> Option<Side> {
    triggers(&[word], &["other"]).side_of(text, &[])
}

fn piece(kind: FragmentKind, text: &str) -> Fragment<'_> {
    Fragment { kind, text }
}

fn emote(text: &str) -> Fragment<'_> {
    piece(FragmentKind::Emote, text)
}

fn blank(text: &str) -> Fragment<'_> {
    piece(FragmentKind::Text, text)
}

#[test]
fn a_message_that_is_a_trigger_votes_for_its_side() {
    let triggers = triggers(&["yes", "Pog"], &["no"]);
    assert_eq!(triggers.side_of("yes", &[]), Some(Side::For));
    assert_eq!(triggers.side_of("pOG", &[]), Some(Side::For));
    assert_eq!(triggers.side_of("NO", &[]), Some(Side::Against));
}

#[test]
fn a_message_that_only_contains_a_trigger_is_no_vote() {
    for text in
        ["yes!", "yes please", "oh yes", "ye", "y", "yess", "yesyes", "yes yes no", "yes, yes", "ye s"]
    {
        assert_eq!(side("yes", text), None, "{text:?}");
    }
}

#[test]
fn a_trigger_repeated_votes_once_for_its_side() {
    assert_eq!(side("yes", "yes YES  Yes"), Some(Side::For));
    assert_eq!(side("yes", &"yes ".repeat(200)), Some(Side::For));
    assert_eq!(side("go left", "go left GO\u{3000}LEFT"), Some(Side::For));
    assert_eq!(side("go left", "go left go"), None);
    assert_eq!(side("go left", "go go left left"), None);
}

#[test]
fn triggers_of_both_sides_in_one_message_are_no_vote() {
    assert_eq!(triggers(&["yes"], &["no"]).side_of("yes no", &[]), None);
    assert_eq!(triggers(&["yes", "aye"], &[]).side_of("yes aye", &[]), None);
}

#[test]
fn the_longest_trigger_wins_where_two_match() {
    let [once, twice] = [["no"], ["no no"]];
    for (triggers, once, twice) in [
        (triggers(&once, &twice), Side::For, Side::Against),
        (triggers(&twice, &once), Side::Against, Side::For),
    ] {
        assert_eq!(triggers.side_of("no", &[]), Some(once));
        assert_eq!(triggers.side_of("no no", &[]), Some(twice));
        assert_eq!(triggers.side_of("no no no", &[]), Some(once));
        assert_eq!(triggers.side_of("no no no no", &[]), Some(twice));
    }
}

#[test]
fn nothing_visible_is_no_vote() {
    let triggers = triggers(&["", " ", "\u{200B}", "yes"], &["\u{E0000}"]);
    for text in ["", " ", "\u{200B}", " \u{E0000}", "\t\u{34F}\n"] {
        assert_eq!(triggers.side_of(text, &[]), None, "{text:?}");
    }
    assert_eq!(Triggers::default().side_of("yes", &[emote("yes")]), None);
}

#[test]
fn equal_triggers_are_kept_once() {
    assert_eq!(triggers(&["yes", "YES ", "\u{200B}yes"], &["no", "No"]).words.len(), 2);
}

#[test]
fn what_chat_clients_append_breaks_no_match() {
    for suffix in
        [" \u{E0000}", "\u{E0000}", " \u{34F}", "\u{34F}", "\u{FE0F}", "\u{200B}", " \u{2063} ", "\u{FEFF}"]
    {
        assert_eq!(side("yes", &format!("yes{suffix}")), Some(Side::For), "{suffix:?}");
        assert_eq!(side(&format!("yes{suffix}"), "yes"), Some(Side::For), "{suffix:?}");
        assert_eq!(side("yes", &format!("yes{suffix} yes{suffix}")), Some(Side::For), "{suffix:?}");
    }
}

#[test]
fn letters_fold_as_unicode_says() {
    for (word, text) in [
        ("straße", "STRASSE"),
        ("STRASSE", "Straße"),
        ("straße", "STRAẞE"),
        ("oﬃce", "OFFICE"),
        ("office", "oﬃce"),
        ("ΝΑΙΣ", "ναις"),
        ("ναισ", "ναις"),
        ("İ", "i\u{307}"),
        ("да", "ДА"),
        ("kelvin", "\u{212A}elvin"),
        ("yes", "ye\u{17F}"),
        ("ŉ", "\u{2BC}N"),
    ] {
        assert_eq!(side(word, text), Some(Side::For), "{word} {text}");
    }
    // Folding knows no language: a Turkish dotless ı stays apart from i, and İ is not plain i.
    assert_eq!(side("i", "ı"), None);
    assert_eq!(side("i", "İ"), None);
    assert_eq!(side("yes", "yés"), None);
}

#[test]
fn emoji_match_with_and_without_variation_selectors() {
    assert_eq!(side("❤", "❤\u{FE0F}"), Some(Side::For));
    assert_eq!(side("❤\u{FE0F}", "❤ ❤\u{FE0F} ❤\u{FE0E}"), Some(Side::For));
    assert_eq!(side("👍", "👍 👍"), Some(Side::For));
    // Nobody types a space between emoji.
    assert_eq!(side("👍", "👍👍👍"), Some(Side::For));
    assert_eq!(side("👍", "👍👍 👍🏽"), None);
    assert_eq!(side("👍", "👍👎"), None);
    assert_eq!(side("👍", "👍🏽"), None);
}

#[test]
fn flags_that_tag_characters_spell_stay_apart() {
    let england = "🏴\u{E0067}\u{E0062}\u{E0065}\u{E006E}\u{E0067}\u{E007F}";
    let scotland = "🏴\u{E0067}\u{E0062}\u{E0073}\u{E0063}\u{E0074}\u{E007F}";
    let triggers = triggers(&[england], &[scotland]);
    assert_eq!(triggers.side_of(england, &[]), Some(Side::For));
    assert_eq!(triggers.side_of(scotland, &[]), Some(Side::Against));
    assert_eq!(triggers.side_of("🏴", &[]), None);
}

#[test]
fn emotes_vote_by_fragment_without_text_or_spaces() {
    let triggers = triggers(&["Kappa"], &["BibleThump"]);
    assert_eq!(triggers.side_of("", &[emote("Kappa")]), Some(Side::For));
    assert_eq!(triggers.side_of("KappaKappa", &[emote("Kappa"), emote("Kappa")]), Some(Side::For));
    let spaced = [blank(" "), emote("BibleThump"), blank(" \u{E0000}"), emote("BibleThump"), blank("")];
    assert_eq!(triggers.side_of("", &spaced), Some(Side::Against));
}

#[test]
fn emotes_of_different_triggers_or_with_words_are_no_vote() {
    let triggers = triggers(&["Kappa", "PogChamp"], &["BibleThump"]);
    for fragments in [
        vec![emote("Kappa"), emote("BibleThump")],
        vec![emote("Kappa"), emote("PogChamp")],
        vec![emote("Kappa"), emote("LUL")],
        vec![emote("LUL"), emote("Kappa")],
        vec![emote("Kappa"), blank("!")],
        vec![blank("so "), emote("Kappa")],
        vec![emote("Kappa Kappa")],
        vec![blank("Kappa")],
        vec![blank(" ")],
        vec![],
    ] {
        assert_eq!(triggers.side_of("", &fragments), None, "{fragments:?}");
    }
}

#[test]
fn mentions_cheermotes_and_gifs_are_no_vote() {
    let other = |text| piece(FragmentKind::Other, text);
    let triggers = triggers(&["Kappa", "Cheer100"], &[]);
    assert_eq!(triggers.side_of("", &[other("Cheer100")]), None);
    assert_eq!(triggers.side_of("Kappa @bob", &[emote("Kappa"), blank(" "), other("@bob")]), None);
    assert_eq!(triggers.side_of("", &[other(""), emote("Kappa")]), None);
}

#[test]
fn folding_any_character_once_is_enough_and_yields_nothing_to_remove() {
    for c in '\0'..=char::MAX {
        let folded: Vec<char> = std::iter::once(c).default_case_fold().collect();
        assert!(folded.iter().copied().default_case_fold().eq(folded.iter().copied()), "{c:?} folds further");
        if !c.is_whitespace() && !is_invisible(c) {
            assert!(folded.iter().all(|f| !f.is_whitespace() && !is_invisible(*f)), "{c:?}");
        }
    }
}

/// The rule put plainly, on whole strings: a message's tokens are those of a trigger, repeated.
fn naive_side(for_triggers: &[String], against_triggers: &[String], text: &str) -> Option<Side> {
    let tokens = |text: &str| -> Vec<String> {
        let visible: String = text.chars().filter(|c| !is_invisible(*c)).collect();
        caseless::default_case_fold_str(&visible).split_whitespace().map(String::from).collect()
    };
    let message = tokens(text);
    let all = for_triggers.iter().map(|word| (word, Side::For));
    all.chain(against_triggers.iter().map(|word| (word, Side::Against)))
        .map(|(word, side)| (tokens(word), side))
        .filter(|(word, _)| !word.is_empty() && !message.is_empty())
        .filter(|(word, _)| message.chunks(word.len()).all(|chunk| chunk == word.as_slice()))
        // The first of the longest, `max_by_key` would take the last.
        .reduce(|best, next| if next.0.len() > best.0.len() { next } else { best })
        .map(|(_, side)| side)
}

/// Few pieces, so that generated triggers and messages meet often.
fn some_text(pieces_max: usize) -> impl Strategy<Value = String> {
    const PIECES: [&str; 27] = [
        "y",
        "Y",
        "no",
        "NO",
        "s",
        "ß",
        "ſ",
        "ﬃ",
        "f",
        "FI",
        "İ",
        "i",
        "\u{307}",
        "Σ",
        "ς",
        "❤",
        " ",
        " ",
        " ",
        "\u{A0}",
        "\u{3000}",
        "\t",
        "\u{200B}",
        "\u{FE0F}",
        "\u{E0000}",
        "\u{34F}",
        "\u{E0067}",
    ];
    prop::collection::vec(prop::sample::select(&PIECES[..]), 0..=pieces_max)
        .prop_map(|pieces| pieces.concat())
}

/// `word` as viewers may write it: other case, other white space, invisible characters inside.
fn disguised(word: &'static str) -> impl Strategy<Value = String> {
    let invisible =
        prop::sample::select(&["", "", "", "\u{200B}", "\u{34F}", "\u{E0000}", "\u{FE0F}", "\u{AD}"][..]);
    let space = prop::sample::select(&[" ", "  ", "\t", " \u{200B} ", "\u{2003}", "\u{200B}\n"][..]);
    let chars: Vec<char> = word.chars().collect();
    let one = (any::<bool>(), invisible, space);
    prop::collection::vec(one, chars.len()).prop_map(move |disguises| {
        let mut text = String::new();
        for (c, (upper, invisible, space)) in chars.iter().zip(disguises) {
            match (c.is_whitespace(), upper) {
                (true, _) => text.push_str(space),
                (false, true) => text.extend(c.to_uppercase()),
                (false, false) => text.push(*c),
            }
            text.push_str(invisible);
        }
        text
    })
}

const WORDS: [&str; 8] = ["yes", "so much win", "straße", "да", "ναις", "❤", "oﬃce", "kappa123"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn normalising_twice_changes_nothing_more(text in prop_oneof![any::<String>(), some_text(20)]) {
        let once = normalise(&text);
        prop_assert_eq!(is_blank(&text), once.is_empty());
        prop_assert_eq!(normalise(&once), once);
    }

    #[test]
    fn normal_text_has_only_single_inner_spaces(text in prop_oneof![any::<String>(), some_text(20)]) {
        let normal = normalise(&text);
        let joined = normal.split_whitespace().collect::<Vec<_>>().join(" ");
        prop_assert_eq!(normal, joined);
    }

    #[test]
    fn a_disguised_trigger_votes_for_its_side(
        (place, texts) in (0..WORDS.len()).prop_flat_map(|place| {
            (Just(place), prop::collection::vec(disguised(WORDS[place]), 1..6))
        }),
        space in prop::sample::select(&[" ", "   ", "\u{200B} \u{200B}", "\u{3000}"][..]),
        (before, after) in (some_space(), some_space()),
    ) {
        let triggers = triggers(&WORDS[..4], &WORDS[4..]);
        let expected = if place < 4 { Side::For } else { Side::Against };
        let text = format!("{before}{}{after}", texts.join(space));
        prop_assert_eq!(triggers.side_of(&text, &[]), Some(expected), "{:?}", text);
    }

    #[test]
    fn arbitrary_text_votes_as_the_naive_rule_says(
        for_triggers in prop::collection::vec(some_text(3), 0..4),
        against_triggers in prop::collection::vec(some_text(3), 0..4),
        text in prop_oneof![4 => some_text(6), 1 => any::<String>()],
        times in 1usize..4,
    ) {
        let text = vec![text; times].join(" ");
        let expected = naive_side(&for_triggers, &against_triggers, &text);
        let triggers = Triggers::of(&Config { for_triggers, against_triggers, ..Config::default() });
        prop_assert_eq!(triggers.side_of(&text, &[]), expected);
    }
}

fn some_space() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&["", " ", "\u{E0000}", " \u{E0000}", "\n\u{34F}\t"][..])
}
