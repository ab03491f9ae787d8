//! The walk over an object or an array, token by token, and whatever is in it.
//!
//! It goes as far as whole tokens go. Where one is wrong or cut it says what was due there, so that a [`super::Scanner`] can go on by the
//! byte, wait for more bytes, or say what is wrong; nothing is read twice.

use super::{DEPTH_MAX, lex};

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// A value.
    Value,
    /// A value, or the end of the array.
    FirstElement,
    /// A key, or the end of the object.
    FirstKey,
    /// A key.
    Key,
    /// The colon behind a key.
    Colon,
    /// A comma, or the end of the object or array.
    AfterValue,
    /// More of a key.
    KeyText,
    /// More of a string that is a value.
    Text,
}

/// Where a walk cannot go on.
#[derive(Debug)]
pub(super) struct Stuck {
    /// The place.
    pub(super) at: usize,
    /// What is due there.
    pub(super) due: Due,
    /// How many objects and arrays are open that were not before the walk.
    pub(super) open: usize,
    /// One bit for each of them, the lowest for the innermost: set for an object.
    pub(super) objects: u128,
}

/// The end of the value that begins at `at` with the byte `first`, inside of `depth` others.
#[inline]
pub(super) fn value_end(text: &[u8], at: usize, first: u8, depth: usize) -> Option<usize> {
    match first {
        b'"' => lex::text_end(text, at + 1).ok(),
        b'{' | b'[' => nested_end(text, at, depth).ok(),
        _ => lex::number_or_word_end(text, at, first),
    }
}

/// The end of the object or array that begins at `at`, inside of `depth` others.
pub(super) fn nested_end(text: &[u8], at: usize, depth: usize) -> Result<usize, Stuck> {
    let mut walk = Walk { text, at, byte: text[at], open: 0, objects: 0 };
    match walk.run(DEPTH_MAX - depth) {
        Ok(()) => Ok(walk.at),
        Err(due) => Err(Stuck { at: walk.at, due, open: walk.open, objects: walk.objects }),
    }
}

struct Walk<'a> {
    text: &'a [u8],
    at: usize,
    /// The byte here, or 0 at the end.
    byte: u8,
    open: usize,
    objects: u128,
}

impl Walk<'_> {
    /// Goes to the end of the object or array that begins here, and opens at most `open_max` levels.
    #[inline(always)]
    fn run(&mut self, open_max: usize) -> Result<(), Due> {
        loop {
            // Here a value begins.
            let mut due = Due::FirstKey;
            let goes_inside = match self.byte {
                b'"' => self.text(Due::Text)?,
                b'{' | b'[' => self.enter(open_max)?,
                _ => self.number_or_word()?,
            };
            if !goes_inside {
                due = Due::Key;
                if self.is_last()? {
                    return Ok(());
                }
            }
            if self.in_object() {
                self.key(due)?;
            }
        }
    }

    #[inline(always)]
    fn in_object(&self) -> bool {
        self.objects & 1 == 1
    }

    /// Goes on to the token at a place or behind the white space there.
    #[inline(always)]
    fn token(&mut self, at: usize) {
        (self.at, self.byte) = lex::token(self.text, at);
    }

    /// Opens an object or array. Whether there is something in it.
    #[inline(always)]
    fn enter(&mut self, open_max: usize) -> Result<bool, Due> {
        if self.open == open_max {
            return Err(Due::Value);
        }
        let is_object = self.byte == b'{';
        self.open += 1;
        self.objects = self.objects << 1 | u128::from(is_object);
        self.token(self.at + 1);
        if self.at == self.text.len() {
            return Err(if is_object { Due::FirstKey } else { Due::FirstElement });
        }
        Ok(self.byte != if is_object { b'}' } else { b']' })
    }

    /// Behind a value, goes on to the next one. Whether there is none, because all that was opened is closed.
    #[inline(always)]
    fn is_last(&mut self) -> Result<bool, Due> {
        while self.byte != b',' {
            if self.byte != if self.in_object() { b'}' } else { b']' } {
                return Err(Due::AfterValue);
            }
            self.objects >>= 1;
            self.open -= 1;
            if self.open == 0 {
                self.at += 1;
                return Ok(true);
            }
            self.token(self.at + 1);
        }
        self.token(self.at + 1);
        Ok(false)
    }

    /// Goes over a key and its colon.
    #[inline(always)]
    fn key(&mut self, due: Due) -> Result<(), Due> {
        if self.byte != b'"' {
            return Err(due);
        }
        self.text(Due::KeyText)?;
        if self.byte != b':' {
            return Err(Due::Colon);
        }
        self.token(self.at + 1);
        Ok(())
    }

    /// Goes over a string, in which there is nothing to go into.
    #[inline(always)]
    fn text(&mut self, due: Due) -> Result<bool, Due> {
        match lex::text_end(self.text, self.at + 1) {
            Ok(end) => {
                self.token(end);
                Ok(false)
            }
            Err(at) => {
                self.at = at;
                Err(due)
            }
        }
    }

    #[inline(always)]
    fn number_or_word(&mut self) -> Result<bool, Due> {
        match lex::number_or_word_end(self.text, self.at, self.byte) {
            // At the end more of a number may come.
            Some(end) if end < self.text.len() => {
                self.token(end);
                Ok(false)
            }
            _ => Err(Due::Value),
        }
    }
}
