//! Members of the top-level object of a body.

use std::ops::Range;

use super::{Kind, lex, walk};

/// Names that are looked for in a body, with a table that finds out most others by their ends and length.
#[derive(Debug)]
pub struct Wanted {
    names: &'static [&'static str],
    /// By [`Self::place`], the first name of that place, counted from 1; 0 = none.
    first: [u8; Self::PLACES],
}

impl Wanted {
    const PLACES: usize = 64;

    /// The table of these names, to be made at compile time.
    pub const fn new(names: &'static [&'static str]) -> Self {
        let mut first = [0; Self::PLACES];
        let mut i = names.len();
        while i > 0 {
            first[Self::place(names[i - 1].as_bytes())] = i as u8;
            i -= 1;
        }
        Self { names, first }
    }

    /// Whether a name may be a wanted one; most others are told at once.
    #[inline]
    fn may_be(&self, name: &[u8]) -> bool {
        self.first[Self::place(name)] != 0
    }

    /// The wanted name that this is.
    pub(super) fn find(&self, name: &[u8]) -> Option<&'static str> {
        let first = usize::from(self.first[Self::place(name)]).checked_sub(1)?;
        self.names.get(first..)?.iter().copied().find(|wanted| wanted.as_bytes() == name)
    }

    /// What the names of requests and answers differ in most.
    #[inline]
    const fn place(name: &[u8]) -> usize {
        match name {
            [first, .., last] => (*first as usize + *last as usize + 7 * name.len()) % Self::PLACES,
            _ => 0,
        }
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
    /// What to cut out so that the member and exactly one comma go: the comma behind it, or before it when it is the last one.
    pub removal: Range<usize>,
}

/// What was found in a valid body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    pub(super) found: Vec<Member>,
    /// Offset of the brace that closes the top-level object; `None` when the top level is something else.
    pub(super) close: Option<usize>,
    pub(super) empty: bool,
}

impl Members {
    /// How many members room is made for: few bodies have more that are wanted.
    const ROOM: usize = 4;

    /// The wanted members of a text that is one object from its first byte to its last; `None` for anything else, and where a key
    /// is escaped. Three times as fast as going through the states of a [`super::Scanner`].
    pub(super) fn of_whole(text: &[u8], wanted: &Wanted) -> Option<Self> {
        let mut members = Self::default();
        let (open, byte) = lex::token(text, 0);
        (byte == b'{').then_some(())?;
        let (mut at, mut byte) = lex::token(text, open + 1);
        members.empty = byte == b'}';
        let mut comma = None;
        while !members.empty {
            (byte == b'"').then_some(())?;
            let key = at..lex::plain_text_end(text, at + 1)?;
            let (colon, behind_key) = lex::token(text, key.end);
            (behind_key == b':').then_some(())?;
            let (start, first) = lex::token(text, colon + 1);
            let value = start..walk::value_end(text, start, first, 1)?;
            let (end, behind) = lex::token(text, value.end);
            let next_comma = (behind == b',').then_some(end);
            if wanted.may_be(text.get(key.start + 1..key.end - 1)?) {
                members.note_if_wanted(text, wanted, [key, value], [comma, next_comma]);
            }
            if behind == b'}' {
                at = end;
                break;
            }
            comma = Some(next_comma?);
            (at, byte) = lex::token(text, end + 1);
        }
        members.close = Some(at);
        (lex::skip_space(text, at + 1) == text.len()).then_some(members)
    }

    /// Remembers a member if it is wanted; `commas` are those before and behind it.
    #[inline(never)]
    fn note_if_wanted(
        &mut self,
        text: &[u8],
        wanted: &Wanted,
        [key, value]: [Range<usize>; 2],
        commas: [Option<usize>; 2],
    ) {
        let Some(name) = wanted.find(&text[key.start + 1..key.end - 1]) else { return };
        let removal = match commas {
            [_, Some(behind)] => key.start..behind + 1,
            [before, None] => before.unwrap_or(key.start)..value.end,
        };
        self.note(Member { name, kind: Kind::of(text[value.start]), key, value, removal });
    }

    /// Remembers a member, and says whether it did. Two of a name are enough to know that it is repeated.
    pub(super) fn note(&mut self, member: Member) -> bool {
        // Equal names are one and the same wanted name.
        let same = self.found.iter().filter(|found| std::ptr::eq(found.name, member.name));
        let is_new = same.count() < 2;
        if is_new {
            if self.found.capacity() == 0 {
                self.found = Vec::with_capacity(Self::ROOM);
            }
            self.found.push(member);
        }
        is_new
    }

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
