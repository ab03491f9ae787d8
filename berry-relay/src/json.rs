//! A skipping JSON check: is it valid, and where do the wanted members of the top-level object stand?
//!
//! RFC 8259 syntax, checked byte by byte as chunks arrive, with no tree and no allocation: a prompt of any size is read once at
//! memory speed and stays where it is. Nesting is bounded by [`DEPTH_MAX`]. UTF-8 inside strings is not checked; it passes as it
//! came. Keys are compared after unescaping, so `"mod\u0065l"` is `model`.

use std::fmt;
use std::ops::Range;

use smallvec::SmallVec;

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
            key: KeyText {
                bytes: [0; KEY_BYTES_MAX],
                len: 0,
            },
            key_start: 0,
            key_end: 0,
            current: None,
            value_start: 0,
            value_kind: Kind::Null,
            members: Members::default(),
        }
    }

    /// Checks the next chunk.
    ///
    /// # Errors
    /// The first byte that cannot be; the scanner is of no more use then.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), JsonError> {
        let mut at = 0;
        while at < chunk.len() {
            at = match self.state {
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
            _ => Err(JsonError {
                offset: self.base,
                expected: "the rest of the JSON value",
            }),
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
            State::FirstKey | State::Key if byte == b'"' => {
                self.key.len = 0;
                self.key_start = offset;
                self.state = State::Text { key: true };
            }
            State::FirstKey => return wrong("a key or `}`"),
            State::Key => return wrong("a key"),
            State::Colon if byte == b':' => self.state = State::Value,
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
        matches!(
            self.state,
            State::Escape { .. } | State::Unicode { .. } | State::Literal(_)
        )
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
                return Err(JsonError {
                    offset,
                    expected: "a value",
                });
            }
        };
        if self.depth == 1 && self.current.is_some() {
            self.value_start = offset;
            self.value_kind = kind;
        }
        if matches!(kind, Kind::Object | Kind::Array) {
            if self.depth == DEPTH_MAX {
                return Err(JsonError {
                    offset,
                    expected: "nesting of at most 128 levels",
                });
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
        self.state = match (byte, self.in_object()) {
            (b',', true) => State::Key,
            (b',', false) => State::Value,
            (b'}', true) | (b']', false) => {
                self.close(offset);
                return Ok(());
            }
            (_, true) => {
                return Err(JsonError {
                    offset,
                    expected: "`,` or `}`",
                });
            }
            (_, false) => {
                return Err(JsonError {
                    offset,
                    expected: "`,` or `]`",
                });
            }
        };
        Ok(())
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
            let member = Member {
                name,
                key: self.key_start..self.key_end,
                value: self.value_start..end,
                kind: self.value_kind,
            };
            // Two of a name are enough to know that it is repeated.
            if !self.members.is_repeated(name) {
                self.members.found.push(member);
            }
        }
        self.state = if self.depth == 0 { State::End } else { State::AfterValue };
    }

    /// Inside a string: skips to the next byte that means something.
    fn text(&mut self, chunk: &[u8], at: usize, key: bool) -> Result<usize, JsonError> {
        let plain = plain_length(&chunk[at..]);
        let tracked = key && self.depth == 1;
        if tracked {
            self.key.push(&chunk[at..at + plain]);
        }
        let at = at + plain;
        let Some(byte) = chunk.get(at) else {
            return Ok(at);
        };
        match byte {
            b'"' if key => {
                self.state = State::Colon;
                if tracked {
                    self.key_end = self.base + at + 1;
                    self.current = self.wanted.iter().copied().find(|name| self.key.is(name));
                }
            }
            b'"' => self.end_value(self.base + at + 1),
            b'\\' => self.state = State::Escape { key },
            _ => {
                return Err(JsonError {
                    offset: self.base + at,
                    expected: "no control character inside a string",
                });
            }
        }
        Ok(at + 1)
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
                return Err(JsonError {
                    offset,
                    expected: "an escape that JSON knows",
                });
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
            return Err(JsonError {
                offset,
                expected: "four hexadecimal digits",
            });
        };
        let code = (code << 4) | digit as u16;
        if left > 1 {
            self.state = State::Unicode {
                key,
                left: left - 1,
                code,
            };
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
                    return Err(JsonError {
                        offset: self.base + at,
                        expected: "a digit",
                    });
                }
            }
            at += 1;
        }
        self.state = State::Number(digits);
        Ok(at)
    }
}

/// Number of bytes before the next quote, backslash or control character, eight at a time.
fn plain_length(text: &[u8]) -> usize {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let has_zero = |word: u64| word.wrapping_sub(LOW) & !word & HIGH;
    let mut length = 0;
    for eight in text.chunks_exact(8) {
        let word = u64::from_le_bytes(eight.try_into().expect("eight bytes"));
        let quote = has_zero(word ^ (LOW * u64::from(b'"')));
        let backslash = has_zero(word ^ (LOW * u64::from(b'\\')));
        // The lowest borrow is exact, and only the lowest set bit is used.
        let control = word.wrapping_sub(LOW * 0x20) & !word & HIGH;
        let stop = quote | backslash | control;
        if stop != 0 {
            return length + (stop.trailing_zeros() / 8) as usize;
        }
        length += 8;
    }
    let rest = text[length..]
        .iter()
        .position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f));
    rest.map_or(text.len(), |more| length + more)
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
