//! A held body: a list of chunks as they arrived, and the few edits that are made to it without copying.

use std::borrow::Cow;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

/// Bodies up to this size are sent as one piece; copying so little is cheaper than another write.
const JOIN_BYTES_MAX: usize = 16 * 1024;

/// A body as a list of chunks. Cloning it copies no bytes.
#[derive(Clone, Debug, Default)]
pub struct Chunks {
    chunks: SmallVec<[Bytes; 4]>,
    len: usize,
}

/// A range of a body and what takes its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// What goes; empty to insert.
    pub range: Range<usize>,
    /// What comes.
    pub replacement: Bytes,
}

impl Chunks {
    /// Adds a chunk at the end.
    pub fn push(&mut self, chunk: Bytes) {
        self.len += chunk.len();
        if !chunk.is_empty() {
            self.chunks.push(chunk);
        }
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes the first chunk.
    pub fn pop_front(&mut self) -> Option<Bytes> {
        if self.chunks.is_empty() {
            return None;
        }
        let first = self.chunks.remove(0);
        self.len -= first.len();
        Some(first)
    }

    /// The chunks in order.
    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.chunks.iter()
    }

    /// The byte at an offset.
    pub fn get(&self, offset: usize) -> Option<u8> {
        let mut start = 0;
        for chunk in &self.chunks {
            if let Some(byte) = chunk.get(offset - start) {
                return Some(*byte);
            }
            start += chunk.len();
        }
        None
    }

    /// The bytes of a range, copied only where the range crosses chunks. What lies behind the end is left out.
    pub fn slice(&self, range: Range<usize>) -> Cow<'_, [u8]> {
        let mut parts = self.parts(range);
        let first = parts.next().map_or(&[][..], |(chunk, within)| &chunk[within]);
        match parts.next() {
            None => Cow::Borrowed(first),
            Some((chunk, within)) => {
                let mut joined = [first, &chunk[within]].concat();
                for (chunk, within) in parts {
                    joined.extend_from_slice(&chunk[within]);
                }
                Cow::Owned(joined)
            }
        }
    }

    /// Each chunk that a range touches, with the range inside it.
    fn parts(&self, range: Range<usize>) -> impl Iterator<Item = (&Bytes, Range<usize>)> {
        let mut start = 0;
        self.chunks.iter().filter_map(move |chunk| {
            let own = start..start + chunk.len();
            start = own.end;
            let from = range.start.max(own.start);
            let to = range.end.min(own.end);
            (from < to).then(|| (chunk, from - own.start..to - own.start))
        })
    }

    /// The body with some ranges replaced. Edits must not overlap; their order does not matter. Small bodies come out in one
    /// piece; of large ones nothing is copied.
    pub fn splice(&self, edits: &mut [Edit]) -> Self {
        edits.sort_by_key(|edit| (edit.range.start, edit.range.end));
        let mut spliced = Self::default();
        let mut at = 0;
        for edit in edits.iter() {
            spliced.append(self, at..edit.range.start);
            spliced.push(edit.replacement.clone());
            at = edit.range.end;
        }
        spliced.append(self, at..self.len);
        if spliced.len <= JOIN_BYTES_MAX && spliced.chunks.len() > 1 {
            return Self::from(spliced.into_bytes());
        }
        spliced
    }

    fn append(&mut self, other: &Self, range: Range<usize>) {
        for (chunk, within) in other.parts(range) {
            self.push(chunk.slice(within));
        }
    }

    /// All bytes in one piece; copied where there is more than one chunk.
    pub fn into_bytes(mut self) -> Bytes {
        if self.chunks.len() == 1 {
            return self.chunks.remove(0);
        }
        let mut joined = BytesMut::with_capacity(self.len);
        for chunk in &self.chunks {
            joined.extend_from_slice(chunk);
        }
        joined.freeze()
    }
}

impl From<Bytes> for Chunks {
    fn from(bytes: Bytes) -> Self {
        let mut chunks = Self::default();
        chunks.push(bytes);
        chunks
    }
}

/// The range that removes a member from an object: the member and exactly one comma, so that what is left is valid and
/// otherwise the same. `member` runs from the key's quote to the end of the value.
pub fn removal(body: &Chunks, member: Range<usize>) -> Range<usize> {
    let is_space = |offset: usize| body.get(offset).is_some_and(|byte| byte.is_ascii_whitespace());
    let mut end = member.end;
    while is_space(end) {
        end += 1;
    }
    if body.get(end) == Some(b',') {
        return member.start..end + 1;
    }
    // The last member: the comma before it goes instead.
    let mut start = member.start;
    while start > 0 && is_space(start - 1) {
        start -= 1;
    }
    match start.checked_sub(1) {
        Some(before) if body.get(before) == Some(b',') => before..member.end,
        _ => member,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(parts: &[&'static str]) -> Chunks {
        let mut chunks = Chunks::default();
        parts.iter().for_each(|part| chunks.push(Bytes::from_static(part.as_bytes())));
        chunks
    }

    #[test]
    fn a_slice_is_borrowed_inside_a_chunk_and_joined_across_chunks() {
        let body = chunks(&["abc", "def", "ghi"]);
        assert!(matches!(body.slice(3..6), Cow::Borrowed(b"def")));
        assert_eq!(&*body.slice(1..8), b"bcdefgh");
        assert_eq!(&*body.slice(8..20), b"i");
        assert_eq!((body.get(0), body.get(5), body.get(9)), (Some(b'a'), Some(b'f'), None));
    }

    #[test]
    fn edits_are_made_in_place_whatever_their_order_and_wherever_chunks_end() {
        let edit = |range, text: &'static str| Edit { range, replacement: Bytes::from_static(text.as_bytes()) };
        for parts in [&["0123456789"][..], &["012", "3456", "789"], &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]]
        {
            let spliced = chunks(parts).splice(&mut [edit(8..8, "+"), edit(2..5, "ab"), edit(0..1, "")]);
            assert_eq!(&spliced.into_bytes()[..], b"1ab567+89");
        }
    }

    #[test]
    fn removing_a_member_takes_exactly_one_comma() {
        for (body, expected) in [
            (r#"{"x":1}"#, "{}"),
            (r#"{ "x" : 1 }"#, "{  }"),
            (r#"{"x":1,"b":2}"#, r#"{"b":2}"#),
            (r#"{"a":0 , "x":1 , "b":2}"#, r#"{"a":0 ,  "b":2}"#),
            (r#"{"a":0 , "x":1 }"#, r#"{"a":0  }"#),
        ] {
            let body = chunks(&[body]);
            let text = String::from_utf8(body.clone().into_bytes().to_vec()).unwrap();
            let start = text.find(r#""x""#).unwrap();
            let end = start + text[start..].find('1').unwrap() + 1;
            let range = removal(&body, start..end);
            let spliced = body.splice(&mut [Edit { range, replacement: Bytes::new() }]);
            assert_eq!(spliced.into_bytes(), expected.as_bytes());
        }
    }
}
