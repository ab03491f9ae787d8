//! Words: cutting text into tokens, and making some up.

/// Cuts a text into pieces of about the size that tokenizers of language models make: a short run of letters and digits with
/// the space before it, or one sign. Joined, the pieces are the text.
pub(crate) fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (token, tail) = rest.split_at(token_end(rest));
        rest = tail;
        (!token.is_empty()).then_some(token)
    })
}

/// How many tokens a text has.
pub(crate) fn count(text: &str) -> u64 {
    tokens(text).count() as u64
}

/// Letters of one token: eight of the Latin sort, two of others.
fn token_end(text: &str) -> usize {
    let mut weight = 0;
    for (at, c) in text.char_indices() {
        if c == ' ' && at == 0 {
            continue;
        }
        if !c.is_alphanumeric() {
            return if weight > 0 { at } else { at + c.len_utf8() };
        }
        weight += if c.is_ascii() { 1 } else { 4 };
        if weight >= 8 {
            return at + c.len_utf8();
        }
    }
    text.len()
}

/// The beginning of a text, cut between words where that is possible.
pub(crate) fn excerpt(text: &str, chars_max: usize) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let Some((cut, _)) = text.char_indices().nth(chars_max) else {
        return text;
    };
    let short = &text[..cut];
    let short = short.rsplit_once(' ').map_or(short, |(words, _)| words);
    format!("{short}…")
}

const OPENINGS: &[&str] = &[
    "Hello from Berry's demo upstream!",
    "Hi, this is Berry's demo upstream speaking.",
    "Good to hear from you; you have reached Berry's demo upstream.",
    "Berry's demo upstream is happy to answer.",
];
const HONEST: &[&str] = &[
    "No model was asked, so please take this as a friendly placeholder.",
    "There is no language model behind these words, only a small grammar and a seed.",
    "Everything here is made up on the spot, and costs nothing.",
    "These sentences come out of a tiny phrase book rather than a model.",
];
const WHO: &[&str] = &[
    "A patient gateway",
    "The shortest route",
    "A quiet connection",
    "Every careful operator",
    "A small server",
    "The next token",
];
const DOES: &[&str] = &["carries", "keeps", "counts", "remembers", "delivers", "looks after", "passes on"];
const WHAT: &[&str] = &[
    "each word without hurry",
    "more requests than one would think",
    "the answer in the order it was given",
    "its promises even on busy days",
    "a stream of tokens from one side to the other",
    "what matters and forgets the rest",
];
const HOW: &[&str] = &[
    "and nobody notices.",
    "while the kettle boils.",
    "as long as somebody listens.",
    "one piece at a time.",
    "with time to spare.",
];
const CLOSINGS: &[&str] = &[
    "Add a provider to the configuration to hear from a real model.",
    "Ask me again and you will get the same reply.",
    "That is all I have to say for now.",
    "Try a tool call or a JSON schema next.",
];

fn pick<'a>(rng: &mut fastrand::Rng, from: &[&'a str]) -> &'a str {
    from[rng.usize(..from.len())]
}

/// A sentence about nothing in particular.
pub(crate) fn sentence(rng: &mut fastrand::Rng) -> String {
    format!("{} {} {} {}", pick(rng, WHO), pick(rng, DOES), pick(rng, WHAT), pick(rng, HOW))
}

/// A reply to what a user said. Where a length is given, it has exactly so many tokens.
pub(crate) fn reply(rng: &mut fastrand::Rng, user: &str, length: Option<usize>) -> String {
    let mut text = format!("{} ", pick(rng, OPENINGS));
    let echo = excerpt(user, 60);
    if !echo.is_empty() {
        text.push_str(&format!("You wrote: \"{echo}\" "));
    }
    text.push_str(pick(rng, HONEST));
    let Some(length) = length else {
        for _ in 0..rng.usize(1..=3) {
            text.push(' ');
            text.push_str(&sentence(rng));
        }
        text.push(' ');
        text.push_str(pick(rng, CLOSINGS));
        return text;
    };
    // Counted as it grows: counting the whole again for each sentence would take the square of the time.
    let mut have = count(&text);
    while have < length as u64 {
        let more = format!(" {}", sentence(rng));
        have += count(&more);
        text.push_str(&more);
    }
    first_tokens(&text, length).to_owned()
}

/// The first tokens of a text.
pub(crate) fn first_tokens(text: &str, length: usize) -> &str {
    let bytes = tokens(text).take(length).map(str::len).sum();
    &text[..bytes]
}

/// A reply that mentions what tools gave back.
pub(crate) fn about_results<'a>(rng: &mut fastrand::Rng, results: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::from("Thanks, the tools have answered.");
    for (name, content) in results {
        text.push_str(&format!(" {name} says: {}.", excerpt(content, 120).trim_end_matches('.')));
    }
    text.push(' ');
    text.push_str(pick(rng, HONEST));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_join_to_the_text() {
        for text in
            ["", " ", "Hello, world!  Two spaces.", "überlange Donaudampfschifffahrt", "你好，世界 ok", "a\n\n b\t🦀🦀"]
        {
            assert_eq!(tokens(text).collect::<String>(), text);
        }
        assert_eq!(tokens("Hello, big world").collect::<Vec<_>>(), ["Hello", ",", " big", " world"]);
    }

    #[test]
    fn tokens_are_about_four_characters_of_english() {
        let text = sentence(&mut fastrand::Rng::with_seed(3)).repeat(20);
        let per_token = text.len() as f64 / count(&text) as f64;
        assert!((3.0..7.0).contains(&per_token), "{per_token}");
    }

    #[test]
    fn a_reply_has_the_length_that_was_asked_for() {
        for length in [1, 2, 57, 1000] {
            let text = reply(&mut fastrand::Rng::with_seed(5), "How are you?", Some(length));
            assert_eq!(count(&text), length as u64);
        }
    }

    #[test]
    fn a_reply_mentions_the_user_and_says_what_it_is() {
        let text = reply(&mut fastrand::Rng::with_seed(5), "How   are\nyou?", None);
        assert!(text.contains("How are you?") && text.contains("demo upstream"), "{text}");
    }

    #[test]
    fn an_excerpt_ends_between_words() {
        assert_eq!(excerpt("one two three", 9), "one two…");
        assert_eq!(excerpt("one two", 9), "one two");
    }
}
