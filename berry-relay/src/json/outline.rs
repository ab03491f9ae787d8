//! Where every value of a JSON text stands, found in one pass over it.

use std::ops::Range;

use super::{DEPTH_MAX, lex, unmarked};

/// Bytes of a text for which room for one value is made at first: most texts have fewer values.
const BYTES_PER_VALUE: usize = 16;
/// Most values for which room is made at first.
const ROOM_MAX: usize = 1024;

/// The values of a text and the names of members, in the order in which they are written, so that what is nested can be asked for
/// without reading the text again.
#[derive(Clone, Debug)]
pub struct Outline(Vec<Entry>);

/// A value, or the name before one.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Where it begins; a name behind its quote.
    start: u32,
    /// Where it ends; a name before its quote.
    end: u32,
    /// Of a value, the entry behind it and all that is in it; of a name, whether it has escapes.
    next: u32,
}

/// A value of an [`Outline`]: what it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u32);

impl Place {
    /// The value that the text is.
    pub const TOP: Self = Self(0);
}

/// A member of an object of an [`Outline`].
#[derive(Clone, Copy, Debug)]
pub struct Named {
    /// Where its name begins and ends, without its quotes.
    start: u32,
    end: u32,
    is_escaped: bool,
    value: Place,
}

impl Named {
    /// Bytes of its name, without its quotes.
    pub fn name(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// Whether its name is written with escapes.
    pub fn is_escaped(self) -> bool {
        self.is_escaped
    }

    /// Its value.
    pub fn value(self) -> Place {
        self.value
    }
}

impl Outline {
    /// Reads a text. `None` where it is not one JSON value, or longer than 4 GiB.
    pub fn read(text: &[u8]) -> Option<Self> {
        u32::try_from(text.len()).ok()?;
        let entries = Vec::with_capacity((text.len() / BYTES_PER_VALUE).min(ROOM_MAX) + 1);
        let at = text.len() - unmarked(text).len();
        let mut reader = Reader { text, at, entries };
        reader.value(0)?;
        reader.next().is_none().then_some(Self(reader.entries))
    }

    /// Bytes of a value.
    pub fn range(&self, place: Place) -> Range<usize> {
        let entry = &self.0[place.0 as usize];
        entry.start as usize..entry.end as usize
    }

    /// The members of an object. Of any other value it must not be asked.
    pub fn members(&self, place: Place) -> impl Iterator<Item = Named> {
        let (mut at, end) = self.inside(place);
        std::iter::from_fn(move || {
            let value = Place((at < end).then_some(at + 1)?);
            let Entry { start, end, next } = self.0[at as usize];
            at = self.0[value.0 as usize].next;
            Some(Named { start, end, is_escaped: next != 0, value })
        })
    }

    /// The elements of an array. Of any other value it must not be asked.
    pub fn elements(&self, place: Place) -> impl Iterator<Item = Place> {
        let (mut at, end) = self.inside(place);
        std::iter::from_fn(move || {
            let element = (at < end).then_some(at)?;
            at = self.0[element as usize].next;
            Some(Place(element))
        })
    }

    /// The first entry in a value, and the one behind all of them.
    fn inside(&self, place: Place) -> (u32, u32) {
        (place.0 + 1, self.0[place.0 as usize].next)
    }
}

/// What notes the values of a text, each behind the one before. Takes what a [`super::Cursor`] takes.
struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    entries: Vec<Entry>,
}

impl Reader<'_> {
    /// Skips white space and gives the byte behind it.
    #[inline]
    fn next(&mut self) -> Option<u8> {
        self.at = lex::skip_space(self.text, self.at);
        self.text.get(self.at).copied()
    }

    /// Reads past a byte that must come next.
    #[inline]
    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then(|| self.at += 1)
    }

    /// Goes on behind a member or an element: whether another one follows.
    #[inline]
    fn more(&mut self, close: u8) -> Option<bool> {
        let byte = self.next()?;
        self.at += 1;
        match byte {
            b',' => Some(true),
            _ => (byte == close).then_some(false),
        }
    }

    /// Notes the next value, which stands in `depth` others.
    fn value(&mut self, depth: usize) -> Option<()> {
        let first = self.next()?;
        if let b'{' | b'[' = first {
            return self.nested(first, depth + 1);
        }
        let start = self.at;
        self.at = match first {
            b'"' => lex::text_end(self.text, start + 1).ok()?,
            _ => lex::number_or_word_end(self.text, start, first)?,
        };
        let next = short(self.entries.len() + 1);
        self.entries.push(Entry { start: short(start), end: short(self.at), next });
        Some(())
    }

    /// Notes an object or an array and all that is in it.
    fn nested(&mut self, open: u8, depth: usize) -> Option<()> {
        let own = self.entries.len();
        self.entries.push(Entry { start: short(self.at), end: 0, next: 0 });
        self.at += 1;
        let is_object = open == b'{';
        let close = if is_object { b'}' } else { b']' };
        if depth > DEPTH_MAX {
            return None;
        }
        if self.next()? == close {
            self.at += 1;
        } else {
            loop {
                if is_object {
                    self.name()?;
                }
                self.value(depth)?;
                if !self.more(close)? {
                    break;
                }
            }
        }
        let next = short(self.entries.len());
        let entry = &mut self.entries[own];
        (entry.end, entry.next) = (short(self.at), next);
        Some(())
    }

    /// Notes the name of a member, and reads past the colon behind it.
    #[inline]
    fn name(&mut self) -> Option<()> {
        self.expect(b'"')?;
        let start = self.at;
        self.at = lex::text_end(self.text, start).ok()?;
        let end = self.at - 1;
        let next = u32::from(self.text[start..end].contains(&b'\\'));
        self.entries.push(Entry { start: short(start), end: short(end), next });
        self.expect(b':')
    }
}

/// A place in a text, whose length was asked, or in its outline, which has fewer entries than the text has bytes.
fn short(place: usize) -> u32 {
    u32::try_from(place).expect("the text is short enough")
}
