//! A held body: a list of chunks as they arrived, and the few edits that are made to it without copying.

use std::borrow::Cow;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

/// Bodies up to this size are sent as one piece; copying so little is cheaper than another write. Longer bodies are joined as far
/// when they arrive in crumbs.
const JOIN_BYTES_MAX: usize = 16 * 1024;
/// Chunks that are kept as they come, however small.
const CRUMBS_MAX: usize = 4;

/// A body as a list of chunks. Cloning it copies no bytes.
///
/// A chunk that comes by itself stays as it is. Where a client sends crumbs, they are joined, so that the list stays short: any
/// two neighbours behind the first few hold more than 16 KiB together, whatever the cuts.
#[derive(Clone, Debug, Default)]
pub struct Chunks {
    // Room for one: most bodies come in one piece, and a body moves from hand to hand.
    chunks: SmallVec<[Bytes; 1]>,
    /// Chunks at the front that were taken.
    taken: usize,
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
        if chunk.is_empty() {
            return;
        }
        self.len += chunk.len();
        let crowded = self.chunks.len() >= CRUMBS_MAX;
        match self.chunks.last_mut() {
            Some(last) if crowded && last.len() + chunk.len() <= JOIN_BYTES_MAX => {
                *last = join(std::mem::take(last), &chunk);
            }
            _ => self.chunks.push(chunk),
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
        let first = std::mem::take(self.chunks.get_mut(self.taken)?);
        self.taken += 1;
        self.len -= first.len();
        Some(first)
    }

    /// The chunks in order.
    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.chunks[self.taken..].iter()
    }

    /// The bytes of a range in the pieces in which they are held. What lies behind the end is left out.
    pub fn pieces(&self, range: Range<usize>) -> impl Iterator<Item = &[u8]> {
        self.parts(range).map(|(chunk, within)| &chunk[within])
    }

    /// The bytes of a range, copied only where the range crosses chunks. What lies behind the end is left out.
    pub fn slice(&self, range: Range<usize>) -> Cow<'_, [u8]> {
        // Most bodies are one chunk.
        if let Some(inside) = self.iter().next().and_then(|first| first.get(range.clone())) {
            return Cow::Borrowed(inside);
        }
        let mut pieces = self.pieces(range.clone());
        let first = pieces.next().unwrap_or_default();
        match pieces.next() {
            None => Cow::Borrowed(first),
            Some(second) => {
                // As long as it is to be: one that grows would be copied again and again.
                let mut joined = Vec::with_capacity(range.end.min(self.len) - range.start);
                [first, second].into_iter().chain(pieces).for_each(|piece| joined.extend_from_slice(piece));
                Cow::Owned(joined)
            }
        }
    }

    /// Each chunk that a range touches, with the range inside it.
    fn parts(&self, range: Range<usize>) -> impl Iterator<Item = (&Bytes, Range<usize>)> {
        let mut start = 0;
        self.iter().filter_map(move |chunk| {
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
        let gained: usize = edits.iter().map(|edit| edit.replacement.len()).sum();
        if self.len + gained <= JOIN_BYTES_MAX {
            return self.splice_small(edits, gained);
        }
        let mut spliced = Self::default();
        let mut at = 0;
        for edit in edits.iter() {
            spliced.append(self, at..edit.range.start);
            spliced.push(edit.replacement.clone());
            at = edit.range.end;
        }
        spliced.append(self, at..self.len);
        spliced
    }

    /// Copies a body with its sorted edits into one piece; `gained` are the bytes of the replacements.
    fn splice_small(&self, edits: &[Edit], gained: usize) -> Self {
        let mut joined = BytesMut::with_capacity(self.len + gained);
        let mut at = 0;
        for edit in edits {
            self.pieces(at..edit.range.start).for_each(|piece| joined.extend_from_slice(piece));
            joined.extend_from_slice(&edit.replacement);
            at = edit.range.end;
        }
        self.pieces(at..self.len).for_each(|piece| joined.extend_from_slice(piece));
        Self::from(joined.freeze())
    }

    fn append(&mut self, other: &Self, range: Range<usize>) {
        for (chunk, within) in other.parts(range) {
            self.push(chunk.slice(within));
        }
    }

    /// All bytes in one piece; copied where there is more than one chunk.
    pub fn into_bytes(mut self) -> Bytes {
        if self.chunks.len() == self.taken + 1 {
            return self.pop_front().expect("one is left");
        }
        let mut joined = BytesMut::with_capacity(self.len);
        self.iter().for_each(|chunk| joined.extend_from_slice(chunk));
        joined.freeze()
    }
}

/// Two chunks in one. The first one's own memory is used where nobody else holds it, so that crumb after crumb costs no more than
/// its bytes.
fn join(first: Bytes, second: &[u8]) -> Bytes {
    let mut joined = first.try_into_mut().unwrap_or_else(|first| {
        let mut joined = BytesMut::with_capacity(JOIN_BYTES_MAX);
        joined.extend_from_slice(&first);
        joined
    });
    joined.extend_from_slice(second);
    joined.freeze()
}

impl From<Bytes> for Chunks {
    fn from(bytes: Bytes) -> Self {
        let mut chunks = Self::default();
        chunks.push(bytes);
        chunks
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
    fn chunks_are_taken_in_order_and_the_rest_stays_readable() {
        let mut body = chunks(&["abc", "def", "ghi"]);
        assert_eq!(body.pop_front().as_deref(), Some(&b"abc"[..]));
        assert_eq!((body.len(), &*body.slice(0..4)), (6, &b"defg"[..]));
        assert_eq!(body.clone().into_bytes(), "defghi");
        assert_eq!(body.pop_front().as_deref(), Some(&b"def"[..]));
        assert_eq!(body.clone().into_bytes(), "ghi");
        assert_eq!(body.pop_front().as_deref(), Some(&b"ghi"[..]));
        assert_eq!((body.pop_front(), body.is_empty()), (None, true));
        assert_eq!(body.into_bytes(), "");
    }

    #[test]
    fn crumbs_are_joined_so_that_a_list_is_never_much_longer_than_its_bytes_need() {
        let mut body = Chunks::default();
        let text: Vec<u8> = (0..100_000_u32).map(|i| i as u8).collect();
        // Held by somebody else too, so that none can be extended where it lies.
        let shared = Bytes::from(text.clone());
        for start in 0..shared.len() {
            body.push(shared.slice(start..=start));
        }
        assert!(body.iter().count() <= 4 + 2 * text.len() / JOIN_BYTES_MAX);
        assert_eq!(body.into_bytes(), text);
    }

    #[test]
    fn large_chunks_are_kept_without_a_copy() {
        let chunk = Bytes::from(vec![b'x'; 64 * 1024]);
        let mut body = Chunks::default();
        (0..8).for_each(|_| body.push(chunk.clone()));
        assert!(body.iter().all(|held| held.as_ptr() == chunk.as_ptr()));
        let edit = Edit { range: 70_000..70_001, replacement: Bytes::from_static(b"y") };
        let spliced = body.splice(&mut [edit]);
        let in_place = spliced.iter().filter(|held| chunk.as_ptr_range().contains(&held.as_ptr()));
        assert_eq!((spliced.len(), in_place.count()), (body.len(), 9));
    }
}
