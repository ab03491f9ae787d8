//! Reads JSON that lies in one piece, value by value, and checks it on the way. Nothing is built and nothing is allocated.

use super::{DEPTH_MAX, Kind, lex, walk};

/// A place in a JSON text. Each call reads one value and ends behind it; `None` means that it is not JSON.
///
/// Keys and values come as they are written: strings with their quotes and escapes, so a key is only recognised in its plain
/// spelling. Good for what upstreams write; what clients write goes through [`super::Scanner`], which also says what is wrong.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
}

impl<'a> Cursor<'a> {
    /// Digits of a number that is read at once.
    const FEW_DIGITS: usize = 12;

    /// A cursor at the start of a text.
    pub fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0, depth: 0 }
    }

    /// Reads past the next value and gives it as it is written.
    #[inline]
    pub fn value(&mut self) -> Option<Raw<'a>> {
        let (start, first) = lex::token(self.text, self.at);
        self.at = walk::value_end(self.text, start, first, self.depth)?;
        self.text.get(start..self.at).map(Raw)
    }

    /// What the next value is, which stays to be read.
    pub fn kind(&mut self) -> Option<Kind> {
        self.peek().map(Kind::of)
    }

    /// The bytes behind this place.
    #[cfg(test)]
    pub(super) fn rest(&self) -> &'a [u8] {
        &self.text[self.at..]
    }

    /// Reads past the next value if it is a whole number of so few digits that it is small, and gives it. Stays where it is before
    /// anything else.
    #[inline]
    pub fn few_digits(&mut self) -> Option<u64> {
        let (start, first) = lex::token(self.text, self.at);
        let (mut at, mut number) = (start, 0);
        loop {
            match self.text.get(at)? {
                digit @ b'0'..=b'9' if at - start < Self::FEW_DIGITS => number = number * 10 + u64::from(digit - b'0'),
                b',' | b'}' | b']' | b' ' | b'\n' | b'\r' => break,
                _ => return None,
            }
            at += 1;
        }
        let digits = at - start;
        // No digit at all, or a zero before others, is no number.
        (digits == 1 || digits > 1 && first != b'0').then(|| {
            self.at = at;
            number
        })
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
            let start = self.at;
            self.at = lex::text_end(self.text, start).ok()?;
            let name = self.text.get(start..self.at - 1)?;
            self.expect(b':')?;
            member(name, self)?;
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
    pub fn end(self) -> Option<()> {
        (lex::skip_space(self.text, self.at) == self.text.len()).then_some(())
    }

    /// Skips white space and gives the byte behind it.
    #[inline]
    fn peek(&mut self) -> Option<u8> {
        let (at, byte) = lex::token(self.text, self.at);
        self.at = at;
        (byte != 0).then_some(byte)
    }

    #[inline]
    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// Goes on behind a member or element: whether another one follows.
    #[inline]
    fn more(&mut self, close: u8) -> Option<bool> {
        match self.peek()? {
            b',' => {
                self.at += 1;
                Some(true)
            }
            _ => self.leave_if(close)?.then_some(false),
        }
    }

    fn enter(&mut self) -> Option<()> {
        self.depth += 1;
        self.at += 1;
        (self.depth <= DEPTH_MAX).then_some(())
    }

    /// Takes the closing byte if it comes next.
    #[inline]
    fn leave_if(&mut self, close: u8) -> Option<bool> {
        let closes = self.peek()? == close;
        if closes {
            self.depth -= 1;
            self.at += 1;
        }
        Some(closes)
    }
}

/// A value as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw<'a>(pub &'a [u8]);

impl<'a> Raw<'a> {
    /// What it is.
    pub fn kind(self) -> Kind {
        self.0.first().map_or(Kind::Null, |first| Kind::of(*first))
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
