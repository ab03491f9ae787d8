//! The check of a body that arrives in chunks.

use super::members::Wanted;
use super::walk::{self, Due};
use super::{DEPTH_MAX, JsonError, Kind, MARK, Member, Members, lex};
use crate::body::Chunks;

/// What is expected where the bytes end inside a value.
const MORE: &str = "the rest of the JSON value";
/// Longest key that can be a wanted one.
const KEY_BYTES_MAX: usize = 32;
/// A first chunk of up to so many bytes is first tried as a whole body.
const WHOLE_BYTES_MAX: usize = 4096;

/// Checks a body that arrives in chunks, and remembers where the wanted members of the top-level object stand.
///
/// Keys are compared after unescaping, so `"mod\u0065l"` is `model`. What lies inside one chunk is read by the token, the way
/// [`super::Cursor`] does; only what a chunk cuts through is read by the byte.
#[derive(Debug)]
pub struct Scanner {
    wanted: &'static Wanted,
    state: State,
    depth: usize,
    /// One bit a level, the lowest for the innermost: set for an object.
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
    /// Offset of the last comma between members of the top level.
    comma: Option<usize>,
    /// Whether the last of `members` ends where we are, so that a comma now is the one behind it.
    fresh: bool,
    members: Members,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Value,
    FirstElement,
    FirstKey,
    Key,
    Colon,
    AfterValue,
    /// More of a string.
    Text {
        key: bool,
    },
    /// What stands behind a backslash.
    Escape {
        key: bool,
    },
    Unicode {
        key: bool,
        left: u8,
        code: u16,
    },
    /// More of a number.
    Number(Digits),
    /// The rest of a word.
    Literal(&'static [u8]),
    /// The rest of a byte order mark.
    Mark(&'static [u8]),
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
    fn first(byte: u8) -> Self {
        match byte {
            b'-' => Self::Minus,
            b'0' => Self::Zero,
            _ => Self::Whole,
        }
    }

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

    /// The key, unless it was too long to be kept.
    fn text(&self) -> Option<&[u8]> {
        self.bytes.get(..self.len)
    }
}

impl Scanner {
    /// A scanner that remembers where the wanted members of the top-level object stand.
    pub fn new(wanted: &'static Wanted) -> Self {
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
            comma: None,
            fresh: false,
            members: Members::default(),
        }
    }

    /// Whether a whole body is JSON.
    pub fn check(body: &Chunks) -> bool {
        let mut scanner = Self::new(const { &Wanted::new(&[]) });
        body.iter().try_for_each(|chunk| scanner.push(chunk)).and_then(|()| scanner.finish()).is_ok()
    }

    /// Checks the next chunk.
    ///
    /// # Errors
    /// The first byte that cannot be; the scanner is of no more use then.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), JsonError> {
        if self.base == 0
            && self.state == State::Value
            && chunk.len() <= WHOLE_BYTES_MAX
            && let Some(members) = Members::of_whole(chunk, self.wanted)
        {
            self.members = members;
            self.state = State::End;
            self.base = chunk.len();
            return Ok(());
        }
        let mut at = 0;
        // Every step takes a byte or changes the state, and says where to go on.
        while let Some(&byte) = chunk.get(at) {
            at = match self.state {
                State::Value | State::FirstElement => self.value(chunk, at, byte)?,
                State::FirstKey | State::Key => self.key(chunk, at, byte)?,
                State::Colon => self.colon(at, byte)?,
                State::AfterValue => self.after_value(chunk, at, byte)?,
                State::Text { key } => self.text(chunk, at, key)?,
                State::Escape { key } => self.escape(at, byte, key)?,
                State::Unicode { key, left, code } => self.unicode(at, byte, key, left, code)?,
                State::Number(digits) => self.number(chunk, at, digits)?,
                State::Literal(rest) => self.literal(chunk, at, byte, rest)?,
                State::Mark(rest) => self.mark(at, byte, rest)?,
                State::End if lex::is_space(byte) => at + 1,
                State::End => return Err(self.wrong(at, "the end of the body")),
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
            _ => Err(self.wrong(0, MORE)),
        }
    }

    fn wrong(&self, at: usize, expected: &'static str) -> JsonError {
        JsonError { offset: self.base + at, expected }
    }

    #[inline]
    fn value(&mut self, chunk: &[u8], at: usize, byte: u8) -> Result<usize, JsonError> {
        let kind = match byte {
            b'"' => Kind::String,
            b'{' => Kind::Object,
            b'[' => Kind::Array,
            b't' | b'f' => Kind::Bool,
            b'n' => Kind::Null,
            b'-' | b'0'..=b'9' => Kind::Number,
            b']' if self.state == State::FirstElement => return Ok(self.close(chunk, at)),
            _ if lex::is_space(byte) => return Ok(at + 1),
            _ if self.base + at == 0 => return self.mark(at, byte, MARK),
            _ => return Err(self.wrong(at, "a value")),
        };
        if self.depth == 1 {
            self.value_start = self.base + at;
            self.value_kind = kind;
        }
        match kind {
            Kind::String => self.text(chunk, at + 1, false),
            Kind::Object | Kind::Array if self.depth == 0 || self.depth == DEPTH_MAX => {
                self.open(at, kind == Kind::Object)
            }
            Kind::Object | Kind::Array => Ok(self.nested(chunk, at)),
            Kind::Number => Ok(self.whole_number(chunk, at, byte)),
            Kind::Bool | Kind::Null => {
                let word: &'static [u8] = match byte {
                    b't' => b"true",
                    b'f' => b"false",
                    _ => b"null",
                };
                if chunk[at..].starts_with(word) {
                    return Ok(self.end_value(chunk, at + word.len()));
                }
                self.state = State::Literal(&word[1..]);
                Ok(at + 1)
            }
        }
    }

    /// Goes as far into an object or array as whole tokens go, and to its end where it lies in this chunk.
    fn nested(&mut self, chunk: &[u8], at: usize) -> usize {
        let stuck = match walk::nested_end(chunk, at, self.depth) {
            Ok(end) => return self.end_value(chunk, end),
            Err(stuck) => stuck,
        };
        self.depth += stuck.open;
        self.objects = self.objects << stuck.open | stuck.objects;
        self.state = match stuck.due {
            Due::Value => State::Value,
            Due::FirstElement => State::FirstElement,
            Due::FirstKey => State::FirstKey,
            Due::Key => State::Key,
            Due::Colon => State::Colon,
            Due::AfterValue => State::AfterValue,
            Due::KeyText => State::Text { key: true },
            Due::Text => State::Text { key: false },
        };
        stuck.at
    }

    fn open(&mut self, at: usize, object: bool) -> Result<usize, JsonError> {
        if self.depth == DEPTH_MAX {
            return Err(self.wrong(at, "nesting of at most 128 levels"));
        }
        self.objects = (self.objects << 1) | u128::from(object);
        self.depth += 1;
        self.state = if object { State::FirstKey } else { State::FirstElement };
        Ok(at + 1)
    }

    fn close(&mut self, chunk: &[u8], at: usize) -> usize {
        if self.depth == 1 && self.in_object() {
            self.members.close = Some(self.base + at);
        }
        self.objects >>= 1;
        self.depth -= 1;
        self.end_value(chunk, at + 1)
    }

    fn in_object(&self) -> bool {
        self.objects & 1 == 1
    }

    #[inline]
    fn key(&mut self, chunk: &[u8], at: usize, byte: u8) -> Result<usize, JsonError> {
        match byte {
            b'"' => {}
            b'}' if self.state == State::FirstKey => {
                self.members.empty |= self.depth == 1;
                return Ok(self.close(chunk, at));
            }
            _ if lex::is_space(byte) => return Ok(at + 1),
            _ if self.state == State::FirstKey => return Err(self.wrong(at, "a key or `}`")),
            _ => return Err(self.wrong(at, "a key")),
        }
        if self.depth == 1 {
            self.key_start = self.base + at;
        }
        self.key.len = 0;
        // A key that lies here as it is needs no copy.
        let start = at + 1;
        let end = lex::plain_end::<false>(chunk, start);
        if chunk.get(end) == Some(&b'"') {
            return Ok(self.end_key(chunk, end, Some(&chunk[start..end])));
        }
        self.text(chunk, start, true)
    }

    /// Ends a key whose closing quote stands at `quote`; `name` is its text where it is known already.
    #[inline]
    fn end_key(&mut self, chunk: &[u8], quote: usize, name: Option<&[u8]>) -> usize {
        if self.depth == 1 {
            self.key_end = self.base + quote + 1;
            let name = name.or(self.key.text());
            self.current = name.and_then(|name| self.wanted.find(name));
        }
        // The colon nearly always follows at once.
        if chunk.get(quote + 1) == Some(&b':') {
            self.state = State::Value;
            return quote + 2;
        }
        self.state = State::Colon;
        quote + 1
    }

    fn colon(&mut self, at: usize, byte: u8) -> Result<usize, JsonError> {
        match byte {
            b':' => self.state = State::Value,
            _ if lex::is_space(byte) => {}
            _ => return Err(self.wrong(at, "`:`")),
        }
        Ok(at + 1)
    }

    /// Ends a value whose last byte stands before `end`.
    #[inline]
    fn end_value(&mut self, chunk: &[u8], end: usize) -> usize {
        if self.depth == 1 {
            self.note_member(self.base + end);
        } else if self.depth == 0 {
            self.state = State::End;
            return end;
        }
        // The comma nearly always follows at once.
        if chunk.get(end) == Some(&b',') {
            return self.comma(end);
        }
        self.state = State::AfterValue;
        end
    }

    fn note_member(&mut self, end: usize) {
        let Some(name) = self.current.take() else {
            self.fresh = false;
            return;
        };
        self.fresh = self.members.note(Member {
            name,
            key: self.key_start..self.key_end,
            value: self.value_start..end,
            kind: self.value_kind,
            removal: self.comma.unwrap_or(self.key_start)..end,
        });
    }

    #[inline]
    fn comma(&mut self, at: usize) -> usize {
        if self.depth == 1 {
            let offset = self.base + at;
            self.comma = Some(offset);
            if self.fresh
                && let Some(last) = self.members.found.last_mut()
            {
                last.removal = last.key.start..offset + 1;
            }
        }
        self.state = if self.in_object() { State::Key } else { State::Value };
        at + 1
    }

    fn after_value(&mut self, chunk: &[u8], at: usize, byte: u8) -> Result<usize, JsonError> {
        match (byte, self.in_object()) {
            (b',', _) => Ok(self.comma(at)),
            (b'}', true) | (b']', false) => Ok(self.close(chunk, at)),
            _ if lex::is_space(byte) => Ok(at + 1),
            (_, true) => Err(self.wrong(at, "`,` or `}`")),
            (_, false) => Err(self.wrong(at, "`,` or `]`")),
        }
    }

    /// Inside a string: goes on to its end, to the end of the chunk, or to an escape that must be read by the byte: one that the chunk
    /// cuts, one that is wrong, or any in a key that may be a wanted one.
    #[inline]
    fn text(&mut self, chunk: &[u8], start: usize, key: bool) -> Result<usize, JsonError> {
        let at = if key && self.depth == 1 {
            let end = lex::plain_end::<false>(chunk, start);
            self.key.push(&chunk[start..end]);
            end
        } else {
            lex::text_end(chunk, start).map_or_else(|stuck| stuck, |end| end - 1)
        };
        match chunk.get(at) {
            Some(b'"') if key => Ok(self.end_key(chunk, at, None)),
            Some(b'"') => Ok(self.end_value(chunk, at + 1)),
            Some(b'\\') => {
                self.state = State::Escape { key };
                Ok(at + 1)
            }
            Some(_) => Err(self.wrong(at, "no control character inside a string")),
            None => {
                self.state = State::Text { key };
                Ok(at)
            }
        }
    }

    fn escape(&mut self, at: usize, byte: u8, key: bool) -> Result<usize, JsonError> {
        let meant = match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                self.state = State::Unicode { key, left: 4, code: 0 };
                return Ok(at + 1);
            }
            _ => return Err(self.wrong(at, "an escape that JSON knows")),
        };
        if key && self.depth == 1 {
            self.key.push(&[meant]);
        }
        self.state = State::Text { key };
        Ok(at + 1)
    }

    fn unicode(&mut self, at: usize, byte: u8, key: bool, left: u8, code: u16) -> Result<usize, JsonError> {
        let Some(digit) = char::from(byte).to_digit(16) else {
            return Err(self.wrong(at, "four hexadecimal digits"));
        };
        let code = (code << 4) | digit as u16;
        if left > 1 {
            let left = left - 1;
            self.state = State::Unicode { key, left, code };
            return Ok(at + 1);
        }
        if key && self.depth == 1 {
            self.key.push_char(code);
        }
        self.state = State::Text { key };
        Ok(at + 1)
    }

    /// A number that ends inside the chunk, in one go; any other by the byte.
    #[inline]
    fn whole_number(&mut self, chunk: &[u8], at: usize, byte: u8) -> usize {
        match lex::number_end(chunk, at) {
            Some(end) if end < chunk.len() => self.end_value(chunk, end),
            _ => {
                self.state = State::Number(Digits::first(byte));
                at + 1
            }
        }
    }

    /// Inside a number. A byte that does not belong to it is left for the next state.
    fn number(&mut self, chunk: &[u8], mut at: usize, mut digits: Digits) -> Result<usize, JsonError> {
        while let Some(byte) = chunk.get(at) {
            match digits.next(*byte) {
                Some(next) => digits = next,
                None if digits.is_complete() => return Ok(self.end_value(chunk, at)),
                None => return Err(self.wrong(at, "a digit")),
            }
            at += 1;
        }
        self.state = State::Number(digits);
        Ok(at)
    }

    /// A byte order mark, which may stand before everything else.
    fn mark(&mut self, at: usize, byte: u8, rest: &'static [u8]) -> Result<usize, JsonError> {
        match rest.split_first() {
            Some((expected, rest)) if *expected == byte => {
                self.state = if rest.is_empty() { State::Value } else { State::Mark(rest) };
                Ok(at + 1)
            }
            _ => Err(self.wrong(at, "a value")),
        }
    }

    fn literal(&mut self, chunk: &[u8], at: usize, byte: u8, rest: &'static [u8]) -> Result<usize, JsonError> {
        match rest.split_first() {
            Some((expected, [])) if *expected == byte => Ok(self.end_value(chunk, at + 1)),
            Some((expected, rest)) if *expected == byte => {
                self.state = State::Literal(rest);
                Ok(at + 1)
            }
            _ => Err(self.wrong(at, "`true`, `false` or `null`")),
        }
    }
}
