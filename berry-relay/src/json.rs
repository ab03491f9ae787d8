//! A skipping JSON check: is it valid, and where do the wanted members of the top-level object stand?
//!
//! RFC 8259 syntax, checked byte by byte as chunks arrive, with no tree and no allocation: a prompt of any size is read once at
//! memory speed and stays where it is. Nesting is bounded by [`DEPTH_MAX`]. UTF-8 inside strings is not checked; it passes as it
//! came. Keys are compared after unescaping, so `"mod\u0065l"` is `model`.

use std::fmt;
use std::ops::Range;

use smallvec::SmallVec;

use crate::body::Chunks;

/// Deepest nesting that is accepted.
pub const DEPTH_MAX: usize = 128;
/// Longest key that can be a wanted one.
const KEY_BYTES_MAX: usize = 32;

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `{…}`
    Object,
    /// `[…]`
    Array,
    /// `"…"`
    String,
    /// A number.
    Number,
    /// `true` or `false`
    Bool,
    /// `null`
    Null,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Object => "an object",
            Self::Array => "an array",
            Self::String => "a string",
            Self::Number => "a number",
            Self::Bool => "a boolean",
            Self::Null => "null",
        })
    }
}

/// One wanted member of the top-level object. Offsets count from the start of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Which of the wanted names.
    pub name: &'static str,
    /// The key with its quotes.
    pub key: Range<usize>,
    /// The value.
    pub value: Range<usize>,
    /// What the value is.
    pub kind: Kind,
}

/// What was found in a valid body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    found: SmallVec<[Member; 6]>,
    /// Offset of the brace that closes the top-level object; `None` when the top level is something else.
    close: Option<usize>,
    empty: bool,
}

impl Members {
    /// The first member of that name.
    pub fn get(&self, name: &str) -> Option<&Member> {
        self.found.iter().find(|member| member.name == name)
    }

    /// Whether a member of that name stands there more than once.
    pub fn is_repeated(&self, name: &str) -> bool {
        self.found.iter().filter(|member| member.name == name).count() > 1
    }

    /// Offset of the closing brace of the top-level object; `None` when the top level is something else.
    pub fn close(&self) -> Option<usize> {
        self.close
    }

    /// Whether the top-level object has no member at all.
    pub fn is_empty(&self) -> bool {
        self.empty
    }
}

/// Why bytes are not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{expected} expected at byte {offset}")]
pub struct JsonError {
    /// Where, from the start of the body.
    pub offset: usize,
    /// What should have stood there.
    pub expected: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Value,
    FirstElement,
    FirstKey,
    Key,
    Colon,
    AfterValue,
    Text { key: bool },
    Escape { key: bool },
    Unicode { key: bool, left: u8, code: u16 },
    Number(Digits),
    Literal(&'static [u8]),
    End,
}

/// How far a number has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Digits {
    Minus,
    Zero,
    Whole,
    Point,
    Fraction,
    Exponent,
    Sign,
    Power,
}

impl Digits {
    /// The state after one more byte; `None` when the byte does not belong to the number.
    fn next(self, byte: u8) -> Option<Self> {
        use Digits::{Exponent, Fraction, Minus, Point, Power, Sign, Whole, Zero};
        Some(match (self, byte) {
            (Minus, b'0') => Zero,
            (Minus, b'1'..=b'9') | (Whole, b'0'..=b'9') => Whole,
            (Zero | Whole, b'.') => Point,
            (Point | Fraction, b'0'..=b'9') => Fraction,
            (Zero | Whole | Fraction, b'e' | b'E') => Exponent,
            (Exponent, b'+' | b'-') => Sign,
            (Exponent | Sign | Power, b'0'..=b'9') => Power,
            _ => return None,
        })
    }

    fn is_complete(self) -> bool {
        matches!(self, Self::Zero | Self::Whole | Self::Fraction | Self::Power)
    }
}

/// Checks a body that arrives in chunks.
#[derive(Debug)]
pub struct Scanner {
    wanted: &'static [&'static str],
    state: State,
    depth: usize,
    /// One bit a level: set for an object.
    objects: u128,
    /// Bytes of earlier chunks.
    base: usize,
    key: KeyText,
    key_start: usize,
    key_end: usize,
    /// The wanted member whose value is being read.
    current: Option<&'static str>,
    value_start: usize,
    value_kind: Kind,
    members: Members,
}

/// The beginning of a key, unescaped; enough to compare with the wanted names.
#[derive(Debug)]
struct KeyText {
    bytes: [u8; KEY_BYTES_MAX],
    len: usize,
}

impl KeyText {
    fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if let Some(place) = self.bytes.get_mut(self.len) {
                *place = *byte;
            }
            self.len += 1;
        }
    }

    fn push_char(&mut self, code: u16) {
        // Half of a surrogate pair is no name that anybody wants.
        let character = char::from_u32(u32::from(code)).unwrap_or(char::REPLACEMENT_CHARACTER);
        self.push(character.encode_utf8(&mut [0; 4]).as_bytes());
    }

    fn is(&self, name: &str) -> bool {
        self.bytes.get(..self.len) == Some(name.as_bytes())
    }
}

impl Scanner {
    /// A scanner that remembers where the wanted members of the top-level object stand.
    pub fn new(wanted: &'static [&'static str]) -> Self {
        Self {
            wanted,
            state: State::Value,
            depth: 0,
            objects: 0,
            base: 0,
            key: KeyText { bytes: [0; KEY_BYTES_MAX], len: 0 },
            key_start: 0,
            key_end: 0,
            current: None,
            value_start: 0,
            value_kind: Kind::Null,
            members: Members::default(),
        }
    }

    /// Whether a whole body is JSON.
    pub fn check(body: &Chunks) -> bool {
        let mut scanner = Self::new(&[]);
        body.iter().try_for_each(|chunk| scanner.push(chunk)).and_then(|()| scanner.finish()).is_ok()
    }

    /// Checks the next chunk.
    ///
    /// # Errors
    /// The first byte that cannot be; the scanner is of no more use then.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), JsonError> {
        let mut at = 0;
        while let Some(byte) = chunk.get(at) {
            at = match self.state {
                // What almost every token of compact JSON is, without the way through the general step.
                State::FirstKey | State::Key if *byte == b'"' => self.begin_key(chunk, at),
                State::Colon if *byte == b':' => {
                    self.state = State::Value;
                    at + 1
                }
                State::Value if *byte == b'"' => {
                    self.mark_value(self.base + at, Kind::String);
                    self.value_text(chunk, at + 1)?
                }
                State::Value if matches!(byte, b'n' | b't' | b'f') => match self.whole_literal(chunk, at) {
                    Some(after) => after,
                    None => self.step(chunk, at)?,
                },
                State::AfterValue if *byte == b',' && self.depth > 0 => {
                    self.state = if self.in_object() { State::Key } else { State::Value };
                    at + 1
                }
                State::Text { key } => self.text(chunk, at, key)?,
                State::Number(digits) => self.number(chunk, at, digits)?,
                _ => self.step(chunk, at)?,
            };
        }
        self.base += chunk.len();
        Ok(())
    }

    /// What was found.
    ///
    /// # Errors
    /// When the body ends too early.
    pub fn finish(mut self) -> Result<Members, JsonError> {
        if let State::Number(digits) = self.state
            && digits.is_complete()
            && self.depth == 0
        {
            self.state = State::End;
        }
        match self.state {
            State::End => Ok(self.members),
            _ => Err(JsonError { offset: self.base, expected: "the rest of the JSON value" }),
        }
    }

    /// One byte of structure.
    fn step(&mut self, chunk: &[u8], at: usize) -> Result<usize, JsonError> {
        let byte = chunk[at];
        let offset = self.base + at;
        let wrong = |expected| Err(JsonError { offset, expected });
        if matches!(byte, b' ' | b'\n' | b'\r' | b'\t') && !self.inside_token() {
            return Ok(at + 1);
        }
        match self.state {
            State::Value => self.begin_value(byte, offset)?,
            State::FirstElement if byte == b']' => self.close(offset),
            State::FirstElement => self.begin_value(byte, offset)?,
            State::FirstKey if byte == b'}' => {
                self.members.empty = self.members.empty || self.depth == 1;
                self.close(offset);
            }
            State::FirstKey => return wrong("a key or `}`"),
            State::Key => return wrong("a key"),
            State::Colon => return wrong("`:`"),
            State::AfterValue => self.after_value(byte, offset)?,
            State::Escape { key } => self.escape(byte, key, offset)?,
            State::Unicode { key, left, code } => self.unicode(byte, key, left, code, offset)?,
            State::Literal(rest) => match rest.split_first() {
                Some((expected, rest)) if *expected == byte => {
                    self.state = State::Literal(rest);
                    if rest.is_empty() {
                        self.end_value(offset + 1);
                    }
                }
                _ => return wrong("`true`, `false` or `null`"),
            },
            State::End => return wrong("the end of the body"),
            State::Text { .. } | State::Number(_) => {}
        }
        Ok(at + 1)
    }

    fn inside_token(&self) -> bool {
        matches!(self.state, State::Escape { .. } | State::Unicode { .. } | State::Literal(_))
    }

    fn begin_value(&mut self, byte: u8, offset: usize) -> Result<(), JsonError> {
        let (state, kind) = match byte {
            b'"' => (State::Text { key: false }, Kind::String),
            b'{' => (State::FirstKey, Kind::Object),
            b'[' => (State::FirstElement, Kind::Array),
            b't' => (State::Literal(b"rue"), Kind::Bool),
            b'f' => (State::Literal(b"alse"), Kind::Bool),
            b'n' => (State::Literal(b"ull"), Kind::Null),
            b'-' => (State::Number(Digits::Minus), Kind::Number),
            b'0' => (State::Number(Digits::Zero), Kind::Number),
            b'1'..=b'9' => (State::Number(Digits::Whole), Kind::Number),
            _ => {
                return Err(JsonError { offset, expected: "a value" });
            }
        };
        self.mark_value(offset, kind);
        if matches!(kind, Kind::Object | Kind::Array) {
            if self.depth == DEPTH_MAX {
                return Err(JsonError { offset, expected: "nesting of at most 128 levels" });
            }
            self.objects = (self.objects << 1) | u128::from(kind == Kind::Object);
            self.depth += 1;
        }
        self.state = state;
        Ok(())
    }

    fn in_object(&self) -> bool {
        self.objects & 1 == 1
    }

    fn after_value(&mut self, byte: u8, offset: usize) -> Result<(), JsonError> {
        match (byte, self.in_object()) {
            (b'}', true) | (b']', false) => {
                self.close(offset);
                Ok(())
            }
            (_, true) => Err(JsonError { offset, expected: "`,` or `}`" }),
            (_, false) => Err(JsonError { offset, expected: "`,` or `]`" }),
        }
    }

    /// A key, from its opening quote. One that stands whole and unescaped in the chunk is read where it is.
    fn begin_key(&mut self, chunk: &[u8], at: usize) -> usize {
        self.key_start = self.base + at;
        let start = at + 1;
        let end = start + plain_length(&chunk[start..]);
        if chunk.get(end) != Some(&b'"') {
            self.key.len = 0;
            self.state = State::Text { key: true };
            return start;
        }
        if self.depth == 1 {
            self.key_end = self.base + end + 1;
            self.current = self.wanted.iter().copied().find(|name| name.as_bytes() == &chunk[start..end]);
        }
        if chunk.get(end + 1) == Some(&b':') {
            self.state = State::Value;
            return end + 2;
        }
        self.state = State::Colon;
        end + 1
    }

    /// `true`, `false` or `null` that stands whole in the chunk; the offset behind it.
    fn whole_literal(&mut self, chunk: &[u8], at: usize) -> Option<usize> {
        let rest = &chunk[at..];
        let (length, kind) = match rest[0] {
            b'n' if rest.starts_with(b"null") => (4, Kind::Null),
            b't' if rest.starts_with(b"true") => (4, Kind::Bool),
            b'f' if rest.starts_with(b"false") => (5, Kind::Bool),
            _ => return None,
        };
        self.mark_value(self.base + at, kind);
        self.end_value(self.base + at + length);
        Some(at + length)
    }

    /// Remembers where the value of a wanted member begins.
    fn mark_value(&mut self, offset: usize, kind: Kind) {
        if self.depth == 1 && self.current.is_some() {
            self.value_start = offset;
            self.value_kind = kind;
        }
    }

    fn close(&mut self, offset: usize) {
        if self.depth == 1 && self.in_object() {
            self.members.close = Some(offset);
        }
        self.objects >>= 1;
        self.depth -= 1;
        self.end_value(offset + 1);
    }

    fn end_value(&mut self, end: usize) {
        if self.depth == 1
            && let Some(name) = self.current.take()
        {
            let member =
                Member { name, key: self.key_start..self.key_end, value: self.value_start..end, kind: self.value_kind };
            // Two of a name are enough to know that it is repeated.
            if !self.members.is_repeated(name) {
                self.members.found.push(member);
            }
        }
        self.state = if self.depth == 0 { State::End } else { State::AfterValue };
    }

    /// Inside a string: skips to the next byte that means something.
    fn text(&mut self, chunk: &[u8], at: usize, key: bool) -> Result<usize, JsonError> {
        if !key {
            return self.value_text(chunk, at);
        }
        let plain = plain_length(&chunk[at..]);
        let tracked = self.depth == 1;
        if tracked {
            self.key.push(&chunk[at..at + plain]);
        }
        let at = at + plain;
        match chunk.get(at) {
            None => return Ok(at),
            Some(b'"') => {
                self.state = State::Colon;
                if tracked {
                    self.key_end = self.base + at + 1;
                    self.current = self.wanted.iter().copied().find(|name| self.key.is(name));
                }
            }
            Some(b'\\') => self.state = State::Escape { key: true },
            Some(_) => return Err(self.control_character(at)),
        }
        Ok(at + 1)
    }

    /// Inside a string that is a value, where prompts are: simple escapes are passed without leaving the loop.
    fn value_text(&mut self, chunk: &[u8], mut at: usize) -> Result<usize, JsonError> {
        loop {
            at += plain_length(&chunk[at..]);
            match chunk.get(at) {
                None => {
                    self.state = State::Text { key: false };
                    return Ok(at);
                }
                Some(b'"') => {
                    self.end_value(self.base + at + 1);
                    return Ok(at + 1);
                }
                Some(b'\\') => match chunk.get(at + 1) {
                    Some(b'n' | b'"' | b'\\' | b'/' | b't' | b'r' | b'b' | b'f') => at += 2,
                    _ => {
                        self.state = State::Escape { key: false };
                        return Ok(at + 1);
                    }
                },
                Some(_) => return Err(self.control_character(at)),
            }
        }
    }

    fn control_character(&self, at: usize) -> JsonError {
        JsonError { offset: self.base + at, expected: "no control character inside a string" }
    }

    fn escape(&mut self, byte: u8, key: bool, offset: usize) -> Result<(), JsonError> {
        let plain = match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                self.state = State::Unicode { key, left: 4, code: 0 };
                return Ok(());
            }
            _ => {
                return Err(JsonError { offset, expected: "an escape that JSON knows" });
            }
        };
        if key && self.depth == 1 {
            self.key.push(&[plain]);
        }
        self.state = State::Text { key };
        Ok(())
    }

    fn unicode(&mut self, byte: u8, key: bool, left: u8, code: u16, offset: usize) -> Result<(), JsonError> {
        let Some(digit) = char::from(byte).to_digit(16) else {
            return Err(JsonError { offset, expected: "four hexadecimal digits" });
        };
        let code = (code << 4) | digit as u16;
        if left > 1 {
            self.state = State::Unicode { key, left: left - 1, code };
            return Ok(());
        }
        if key && self.depth == 1 {
            self.key.push_char(code);
        }
        self.state = State::Text { key };
        Ok(())
    }

    /// Inside a number. A byte that does not belong to it is left for the next state.
    fn number(&mut self, chunk: &[u8], mut at: usize, mut digits: Digits) -> Result<usize, JsonError> {
        while let Some(byte) = chunk.get(at) {
            match digits.next(*byte) {
                Some(next) => digits = next,
                None if digits.is_complete() => {
                    self.end_value(self.base + at);
                    return Ok(at);
                }
                None => {
                    return Err(JsonError { offset: self.base + at, expected: "a digit" });
                }
            }
            at += 1;
        }
        self.state = State::Number(digits);
        Ok(at)
    }
}

/// Number of bytes before the next quote, backslash or control character.
fn plain_length(text: &[u8]) -> usize {
    let mut at = 0;
    while let Some(block) = text[at..].first_chunk() {
        let stops = stops(block);
        if stops != 0 {
            return at + stops.trailing_zeros() as usize;
        }
        at += block.len();
    }
    let rest = text[at..].iter().position(|byte| is_stop(*byte));
    rest.map_or(text.len(), |more| at + more)
}

fn is_stop(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\' | 0..=0x1f)
}

/// One bit for each byte of a block that ends plain text, the first byte lowest.
#[cfg(target_arch = "x86_64")]
#[expect(
    unsafe_code,
    reason = "SSE2 is part of every x86-64, which the compiler wants to hear; a prompt is scanned three times as fast"
)]
fn stops(block: &[u8; 16]) -> u32 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8,
    };
    let half = |from: usize| i64::from_le_bytes(std::array::from_fn(|i| block[from + i]));
    // SAFETY: SSE2 is in the baseline of this architecture, and no pointer is involved.
    unsafe {
        let bytes = _mm_set_epi64x(half(8), half(0));
        let quote = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'"'.cast_signed()));
        let backslash = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'\\'.cast_signed()));
        let control = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
        _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quote, backslash), control)).cast_unsigned()
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn stops(block: &[u8; 16]) -> u32 {
    block.iter().rev().fold(0, |bits, byte| (bits << 1) | u32::from(is_stop(*byte)))
}

/// The text of a JSON string, given with its quotes.
///
/// # Errors
/// When it is no string, or holds half a surrogate pair or bytes that are not UTF-8.
pub fn unquote(raw: &[u8]) -> Result<String, serde_json::Error> {
    serde_json::from_slice(raw)
}

/// A JSON string for a text, with its quotes.
pub fn quote(text: &str) -> Vec<u8> {
    serde_json::to_vec(text).expect("a string can always be written as JSON")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scan(text: &[u8], cut: usize) -> Result<Members, JsonError> {
        let mut scanner = Scanner::new(&["model", "stream", "x"]);
        scanner.push(&text[..cut])?;
        scanner.push(&text[cut..])?;
        scanner.finish()
    }

    fn span<'a>(text: &'a str, members: &Members, name: &str) -> &'a str {
        &text[members.get(name).unwrap().value.clone()]
    }

    #[test]
    fn wanted_members_of_the_top_level_are_found_wherever_the_body_is_cut() {
        let text = r#" {"messages":[{"model":"inner"}], "model" : "gpt-4","str\u0065am":true , "x":{"model":[1,2]},"n":-0.5e+7} "#;
        for cut in 0..=text.len() {
            let members = scan(text.as_bytes(), cut).unwrap();
            assert_eq!(span(text, &members, "model"), "\"gpt-4\"");
            assert_eq!(span(text, &members, "stream"), "true");
            assert_eq!(span(text, &members, "x"), r#"{"model":[1,2]}"#);
            assert_eq!(&text[members.get("stream").unwrap().key.clone()], r#""str\u0065am""#);
            assert_eq!(members.close(), Some(text.len() - 2));
        }
    }

    #[test]
    fn repeated_members_are_told_even_when_one_is_escaped() {
        let members = scan(br#"{"model":1,"x":2,"mod\u0065l":3,"model":4}"#, 0).unwrap();
        assert!(members.is_repeated("model") && !members.is_repeated("x"));
        assert_eq!(members.get("model").unwrap().value, 9..10);
    }

    #[test]
    fn a_number_at_the_top_ends_with_the_body_and_a_lone_minus_does_not() {
        assert!(scan(b"-12.5e3", 3).is_ok());
        assert!(scan(b"12 ", 1).is_ok());
        for bad in ["-", "1.", "1e", "01", "1x", "+1", ".5"] {
            assert!(scan(bad.as_bytes(), 0).is_err(), "{bad}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
        assert!(scan(&nested(DEPTH_MAX), 0).is_ok());
        assert_eq!(scan(&nested(DEPTH_MAX + 1), 0).unwrap_err().offset, DEPTH_MAX);
        assert!(scan(&vec![b'['; 1_000_000], 0).is_err());
    }

    #[test]
    fn an_error_says_where_and_what_should_have_stood_there() {
        for (text, offset, expected) in [
            ("{\"a\" 1}", 5, "`:`"),
            ("{\"a\":1 \"b\"", 7, "`,` or `}`"),
            ("[1 2]", 3, "`,` or `]`"),
            ("{,}", 1, "a key or `}`"),
            ("{\"a\":1,}", 7, "a key"),
            ("[1,]", 3, "a value"),
            ("\"a\nb\"", 2, "no control character inside a string"),
            ("\"\\x\"", 2, "an escape that JSON knows"),
            ("\"\\u12g4\"", 5, "four hexadecimal digits"),
            ("nul", 3, "the rest of the JSON value"),
            ("nulL", 3, "`true`, `false` or `null`"),
            ("{} x", 3, "the end of the body"),
        ] {
            assert_eq!(scan(text.as_bytes(), 0), Err(JsonError { offset, expected }), "{text}");
        }
    }

    /// Any JSON value as text, with odd spellings: white space, exponents, escapes, repeated keys.
    fn json_text() -> impl Strategy<Value = String> {
        let space = "[ \n\t\r]{0,2}";
        let number = "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,2})?";
        let text = r#""([a-z é漢😀]|\\["\\/bfnrt]|\\u00[0-9a-f]{2}){0,6}""#;
        let leaf =
            prop_oneof![Just("true".to_owned()), Just("false".to_owned()), Just("null".to_owned()), number, text];
        leaf.prop_recursive(4, 32, 4, move |inner| {
            let padded = (space, inner, space).prop_map(|(before, value, after)| format!("{before}{value}{after}"));
            let member =
                (space, text, space, padded.clone()).prop_map(|(a, key, b, value)| format!("{a}{key}{b}:{value}"));
            prop_oneof![
                proptest::collection::vec(padded, 0..4).prop_map(|values| format!("[{}]", values.join(","))),
                proptest::collection::vec(member, 0..4).prop_map(|members| format!("{{{}}}", members.join(","))),
            ]
        })
    }

    fn serde_accepts(text: &[u8]) -> bool {
        serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok()
    }

    proptest! {
        #[test]
        fn what_is_json_is_accepted_whatever_its_spelling(text in json_text(), cut in any::<proptest::sample::Index>()) {
            prop_assert!(scan(text.as_bytes(), cut.index(text.len() + 1)).is_ok());
        }

        #[test]
        fn a_damaged_body_is_judged_as_serde_json_judges_it(
            text in json_text(),
            place in any::<proptest::sample::Index>(),
            byte in prop_oneof![Just(b'"'), Just(b'\\'), Just(b','), Just(b'}'), Just(b'['), Just(b'0'), Just(b'e'), 0_u8..0x7f],
            cut in any::<proptest::sample::Index>(),
        ) {
            let mut damaged = text.into_bytes();
            let place = place.index(damaged.len());
            damaged[place] = byte;
            // serde_json refuses what is not UTF-8; here that passes as it came.
            prop_assume!(std::str::from_utf8(&damaged).is_ok());
            prop_assert_eq!(scan(&damaged, cut.index(damaged.len() + 1)).is_ok(), serde_accepts(&damaged));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), cut in any::<proptest::sample::Index>()) {
            let _ = scan(&bytes, cut.index(bytes.len() + 1));
        }

        #[test]
        fn the_fast_skip_stops_where_a_slow_one_would(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let slow = bytes.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f)).unwrap_or(bytes.len());
            prop_assert_eq!(plain_length(&bytes), slow);
        }
    }
}
