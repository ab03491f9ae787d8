//! Where every value of a JSON text stands, found in one pass over it.

use std::ops::Range;

use super::Cursor;

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
    name: u32,
}

impl Named {
    /// Its value.
    pub fn value(self) -> Place {
        Place(self.name + 1)
    }
}

impl Outline {
    /// Reads a text from its beginning. `None` where it is not one JSON value, or longer than 4 GiB.
    pub fn read(text: &[u8]) -> Option<Self> {
        u32::try_from(text.len()).ok()?;
        let mut outline = Self(Vec::with_capacity((text.len() / BYTES_PER_VALUE).min(ROOM_MAX) + 1));
        let mut cursor = Cursor::new(text);
        outline.value(text, &mut cursor)?;
        cursor.end()?;
        Some(outline)
    }

    /// Bytes of a value.
    pub fn range(&self, place: Place) -> Range<usize> {
        let entry = &self.0[place.0 as usize];
        entry.start as usize..entry.end as usize
    }

    /// Bytes of a member's name, without its quotes.
    pub fn name(&self, member: Named) -> Range<usize> {
        self.range(Place(member.name))
    }

    /// Whether a member's name is written with escapes.
    pub fn is_escaped(&self, member: Named) -> bool {
        self.0[member.name as usize].next != 0
    }

    /// The members of an object. Of any other value it must not be asked.
    pub fn members(&self, place: Place) -> impl Iterator<Item = Named> {
        let (mut at, end) = self.inside(place);
        std::iter::from_fn(move || {
            let name = (at < end).then_some(at)?;
            at = self.0[name as usize + 1].next;
            Some(Named { name })
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

    /// Notes the next value of a cursor in `text`.
    fn value(&mut self, text: &[u8], cursor: &mut Cursor<'_>) -> Option<()> {
        let first = cursor.peek()?;
        let at = self.0.len();
        let start = text.len() - cursor.left();
        self.0.push(Entry { start: short(start), end: 0, next: 0 });
        match first {
            b'{' => cursor.members(|name, cursor| {
                let start = name.as_ptr().addr() - text.as_ptr().addr();
                let next = u32::from(name.contains(&b'\\'));
                self.0.push(Entry { start: short(start), end: short(start + name.len()), next });
                self.value(text, cursor)
            })?,
            b'[' => cursor.elements(|cursor| self.value(text, cursor))?,
            _ => cursor.skip()?,
        }
        let next = short(self.0.len());
        let entry = &mut self.0[at];
        (entry.end, entry.next) = (short(text.len() - cursor.left()), next);
        Some(())
    }
}

/// A place in a text, whose length was asked, or in its outline, which has fewer entries than the text has bytes.
fn short(place: usize) -> u32 {
    u32::try_from(place).expect("the text is short enough")
}
