//! Reads JSON that lies in one piece, value by value, and checks it on the way. Nothing is built and nothing is allocated.

use super::{DEPTH_MAX, Kind, lex};

/// A place in a JSON text. Each call reads one value and ends behind it; `None` means that it is not JSON.
///
/// Keys and values come as they are written: strings with their quotes and escapes, so a key is only recognised in its plain
/// spelling. Good for what upstreams write; what clients write goes through [`super::Scanner`], which also says what is wrong.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    rest: &'a [u8],
    depth: usize,
}

impl<'a> Cursor<'a> {
    /// A cursor at the start of a text.
    pub fn new(text: &'a [u8]) -> Self {
        Self { rest: text, depth: 0 }
    }

    /// Length of the value that a text begins with, `depth` levels below the top; `None` where it is wrong or cut.
    pub(super) fn length_of_value(text: &'a [u8], depth: usize) -> Option<usize> {
        let mut cursor = Self { rest: text, depth };
        cursor.skip()?;
        Some(text.len() - cursor.rest.len())
    }

    /// Whether the next value is an object.
    pub(super) fn is_at_object(&mut self) -> bool {
        self.peek() == Some(b'{')
    }

    /// Bytes behind this place.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    /// Reads past the next value and gives it as it is written.
    pub fn value(&mut self) -> Option<Raw<'a>> {
        let first = self.peek()?;
        let start = self.rest;
        let length = match first {
            b'"' => 1 + lex::text_length(&start[1..])?,
            b't' => word(start, b"true")?,
            b'f' => word(start, b"false")?,
            b'n' => word(start, b"null")?,
            b'-' | b'0'..=b'9' => lex::number_length(start)?,
            b'{' => {
                self.members(|_, cursor| cursor.skip())?;
                start.len() - self.rest.len()
            }
            b'[' => {
                self.elements(Self::skip)?;
                start.len() - self.rest.len()
            }
            _ => return None,
        };
        let (value, rest) = start.split_at(length);
        self.rest = rest;
        Some(Raw(value))
    }

    /// Reads past the next value.
    pub fn skip(&mut self) -> Option<()> {
        self.value().map(|_| ())
    }

    /// Gives each member of the next value, which must be read by `member`; a value that is no object has none.
    pub fn members<F>(&mut self, mut member: F) -> Option<()>
    where
        F: FnMut(&'a [u8], &mut Self) -> Option<()>,
    {
        if self.peek()? != b'{' {
            return self.skip();
        }
        self.enter()?;
        if self.leave_if(b'}')? {
            return Some(());
        }
        loop {
            self.expect(b'"')?;
            let (name, rest) = self.rest.split_at(lex::text_length(self.rest)?);
            self.rest = rest;
            self.expect(b':')?;
            member(&name[..name.len() - 1], self)?;
            if !self.more(b'}')? {
                return Some(());
            }
        }
    }

    /// Gives each element of the next value, which must be read by `element`; a value that is no array has none.
    pub fn elements<F>(&mut self, mut element: F) -> Option<()>
    where
        F: FnMut(&mut Self) -> Option<()>,
    {
        if self.peek()? != b'[' {
            return self.skip();
        }
        self.enter()?;
        if self.leave_if(b']')? {
            return Some(());
        }
        loop {
            element(self)?;
            if !self.more(b']')? {
                return Some(());
            }
        }
    }

    /// Checks that nothing but white space is left.
    pub fn end(mut self) -> Option<()> {
        self.peek().is_none().then_some(())
    }

    /// Skips white space and gives the byte behind it.
    #[inline]
    fn peek(&mut self) -> Option<u8> {
        match self.rest.first() {
            Some(byte) if *byte > b' ' => Some(*byte),
            _ => self.peek_behind_space(),
        }
    }

    #[cold]
    fn peek_behind_space(&mut self) -> Option<u8> {
        let space = self.rest.iter().take_while(|byte| lex::is_space(**byte)).count();
        self.rest = &self.rest[space..];
        self.rest.first().copied()
    }

    #[inline]
    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.rest = &self.rest[1..])
    }

    /// Goes on behind a member or element: whether another one follows.
    #[inline]
    fn more(&mut self, close: u8) -> Option<bool> {
        match self.peek()? {
            b',' => {
                self.rest = &self.rest[1..];
                Some(true)
            }
            _ => self.leave_if(close)?.then_some(false),
        }
    }

    fn enter(&mut self) -> Option<()> {
        self.depth += 1;
        self.rest = &self.rest[1..];
        (self.depth <= DEPTH_MAX).then_some(())
    }

    /// Takes the closing byte if it comes next.
    #[inline]
    fn leave_if(&mut self, close: u8) -> Option<bool> {
        let closes = self.peek()? == close;
        if closes {
            self.depth -= 1;
            self.rest = &self.rest[1..];
        }
        Some(closes)
    }
}

#[inline]
fn word(text: &[u8], word: &[u8]) -> Option<usize> {
    text.starts_with(word).then_some(word.len())
}

/// A value as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw<'a>(pub &'a [u8]);

impl<'a> Raw<'a> {
    /// What it is.
    pub fn kind(self) -> Kind {
        match self.0.first() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'"') => Kind::String,
            Some(b't' | b'f') => Kind::Bool,
            Some(b'n') | None => Kind::Null,
            Some(_) => Kind::Number,
        }
    }

    /// What stands between the quotes of a string, escapes and all; `None` for anything else.
    pub fn text(self) -> Option<&'a [u8]> {
        match self.0 {
            [b'"', text @ .., b'"'] => Some(text),
            _ => None,
        }
    }

    /// Whether there is nothing in it: null, and strings, arrays and objects that are empty.
    pub fn is_nothing(self) -> bool {
        match self.0 {
            [b'"', inside @ .., b'"'] => inside.is_empty(),
            [b'[' | b'{', inside @ .., _] => inside.iter().all(|byte| lex::is_space(*byte)),
            _ => self.kind() == Kind::Null,
        }
    }
}
