//! Framing of server-sent events, for a relay: where events end, and what they hold. Bytes are never rewritten.
//!
//! A line ends with LF, CRLF or CR; an empty line ends an event; a line that begins with a colon is a comment; the value of a
//! field may have one space before it. Source: WHATWG HTML, "Server-sent events", 2024.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use memchr::memchr2;

/// Cuts a stream after its last complete event.
///
/// All that goes in comes out, in order: what [`Splitter::push`] and at the end [`Splitter::finish`] return is the input.
#[derive(Debug)]
pub struct Splitter {
    /// An event that is not complete yet.
    tail: BytesMut,
    boundary: Boundary,
    /// Longest event that is kept together, bytes.
    limit: usize,
    /// Inside an event that was too long and passes in pieces.
    blind: bool,
}

/// What may leave now. `unseen` goes first.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Bytes of an event that is too long to be looked into.
    pub unseen: Bytes,
    /// Whole events.
    pub events: Bytes,
}

impl Splitter {
    /// A splitter that keeps events of up to `limit` bytes together.
    pub fn new(limit: usize) -> Self {
        Self { tail: BytesMut::new(), boundary: Boundary::default(), limit, blind: false }
    }

    /// Takes a chunk and gives what may leave. A chunk of whole events is given back without a copy.
    pub fn push(&mut self, mut chunk: Bytes) -> Cut {
        let mut unseen = Bytes::new();
        if self.blind {
            match self.boundary.next_end(&chunk) {
                Some(end) => {
                    unseen = chunk.split_to(end);
                    self.blind = false;
                }
                None => {
                    return Cut { unseen: chunk, events: Bytes::new() };
                }
            }
        }
        let events = match self.last_end(&chunk) {
            Some(end) => {
                let whole = chunk.split_to(end);
                let events = self.complete(whole);
                self.tail.extend_from_slice(&chunk);
                events
            }
            None => {
                self.tail.extend_from_slice(&chunk);
                Bytes::new()
            }
        };
        // Behind whole events the tail is no longer than its chunk; the next one decides.
        if self.tail.len() > self.limit && events.is_empty() {
            self.blind = true;
            unseen = join(unseen, self.tail.split().freeze());
        }
        Cut { unseen, events }
    }

    /// What is left when the stream has ended: a part of an event, or nothing.
    pub fn finish(&mut self) -> Bytes {
        self.tail.split().freeze()
    }

    /// Whether the last bytes were those of an event that is too long to be looked into, and is not over yet.
    pub fn inside_long_event(&self) -> bool {
        self.blind
    }

    /// Whether everything so far has left, up to the end of an event.
    pub fn between_events(&self) -> bool {
        self.tail.is_empty() && !self.blind
    }

    fn complete(&mut self, whole: Bytes) -> Bytes {
        if self.tail.is_empty() {
            return whole;
        }
        self.tail.extend_from_slice(&whole);
        self.tail.split().freeze()
    }

    fn last_end(&mut self, chunk: &[u8]) -> Option<usize> {
        // The usual chunk ends with the empty line of its last event, whatever stands before that.
        if chunk.ends_with(b"\n\n") || chunk.ends_with(b"\n\r\n") {
            self.boundary = Boundary::default();
            return Some(chunk.len());
        }
        let mut last = None;
        let mut from = 0;
        while let Some(end) = self.boundary.next_end(&chunk[from..]) {
            from += end;
            last = Some(from);
        }
        last
    }
}

fn join(first: Bytes, second: Bytes) -> Bytes {
    if first.is_empty() {
        return second;
    }
    Bytes::from([first, second].concat())
}

/// Finds empty lines, over any cut of the bytes.
#[derive(Debug)]
struct Boundary {
    /// Whether the current line has no byte yet.
    line_empty: bool,
    /// Whether the last byte was a CR, so that an LF belongs to the same line end.
    after_cr: bool,
}

impl Default for Boundary {
    fn default() -> Self {
        Self { line_empty: true, after_cr: false }
    }
}

impl Boundary {
    /// Offset behind the next line end of an empty line; `None` when the bytes end before one, with the state kept.
    fn next_end(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            if std::mem::take(&mut self.after_cr) && bytes[at] == b'\n' {
                at += 1;
                continue;
            }
            let Some(length) = memchr2(b'\n', b'\r', &bytes[at..]) else {
                self.line_empty = false;
                return None;
            };
            let empty = self.line_empty && length == 0;
            at += length;
            self.after_cr = bytes[at] == b'\r';
            self.line_empty = true;
            at += 1;
            if empty {
                // The LF of a CRLF belongs to the event that it ends.
                if self.after_cr && bytes.get(at) == Some(&b'\n') {
                    self.after_cr = false;
                    at += 1;
                }
                return Some(at);
            }
        }
        None
    }
}

/// One event inside the bytes that a splitter gave.
#[derive(Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// All of it, with its empty line.
    pub raw: &'a [u8],
    /// Value of the last `event` field.
    pub name: Option<&'a [u8]>,
    /// Values of the `data` fields, joined by LF; `None` for comments alone.
    pub data: Option<Cow<'a, [u8]>>,
}

/// The events of a run of whole events.
pub fn events(bytes: &[u8]) -> impl Iterator<Item = Event<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (event, after) = split_event(rest)?;
        rest = after;
        Some(event)
    })
}

/// The first event and what comes after it.
fn split_event(bytes: &[u8]) -> Option<(Event<'_>, &[u8])> {
    if bytes.is_empty() {
        return None;
    }
    let (mut name, mut data) = (None, None);
    let mut at = if bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    while at < bytes.len() {
        let rest = &bytes[at..];
        let length = match rest[0] {
            b'\n' | b'\r' => 0,
            _ => memchr2(b'\n', b'\r', rest).unwrap_or(rest.len()),
        };
        let line = &rest[..length];
        at += length + line_end(&rest[length..]);
        if line.is_empty() {
            break;
        }
        if let Some(value) = field(line, b"data") {
            data = Some(match data {
                None => Cow::Borrowed(value),
                Some(before) => append_line(before, value),
            });
        } else if let Some(value) = field(line, b"event") {
            name = Some(value);
        }
    }
    let (raw, after) = bytes.split_at(at);
    Some((Event { raw, name, data }, after))
}

/// Length of the line end that stands here: CRLF is one.
fn line_end(bytes: &[u8]) -> usize {
    match bytes {
        [b'\r', b'\n', ..] => 2,
        [] => 0,
        _ => 1,
    }
}

fn append_line<'a>(before: Cow<'a, [u8]>, line: &[u8]) -> Cow<'a, [u8]> {
    let mut joined = before.into_owned();
    joined.push(b'\n');
    joined.extend_from_slice(line);
    Cow::Owned(joined)
}

/// The value of a line of this field.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    match line.strip_prefix(name)? {
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        [] => Some(&[]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `stream` cut at the given places and gives what came out, and the data of all events.
    fn run(stream: &[u8], cuts: &[usize], limit: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
        let mut splitter = Splitter::new(limit);
        let (mut out, mut data) = (Vec::new(), Vec::new());
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
        places.extend([0, stream.len()]);
        places.sort_unstable();
        for pair in places.windows(2) {
            let cut = splitter.push(Bytes::copy_from_slice(&stream[pair[0]..pair[1]]));
            out.extend_from_slice(&cut.unseen);
            out.extend_from_slice(&cut.events);
            data.extend(events(&cut.events).filter_map(|event| event.data.map(Cow::into_owned)));
        }
        out.extend_from_slice(&splitter.finish());
        (out, data)
    }

    #[test]
    fn every_line_end_and_every_cut_gives_the_same_events() {
        let expected: Vec<Vec<u8>> = vec![b"one".to_vec(), b"two\nlines".to_vec(), b"".to_vec(), b"last".to_vec()];
        for end in ["\n", "\r\n", "\r"] {
            let stream = [
                "\u{feff}data: one",
                "",
                ": comment",
                "",
                "event: x",
                "data:two",
                "data: lines",
                "",
                "data",
                "",
                "data: last",
                "",
                "",
            ]
            .join(end);
            for cut in 0..stream.len() {
                let (out, data) = run(stream.as_bytes(), &[cut], 1000);
                assert_eq!(out, stream.as_bytes());
                assert_eq!(data, expected, "{end:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn a_whole_event_is_passed_on_without_a_copy_and_a_part_waits() {
        let mut splitter = Splitter::new(100);
        let chunk = Bytes::from_static(b"data: 1\n\ndata: 2");
        let cut = splitter.push(chunk.clone());
        assert_eq!(cut.events.as_ptr(), chunk.as_ptr());
        assert_eq!(cut.events, "data: 1\n\n");
        assert!(!splitter.between_events());
        assert_eq!(splitter.push(Bytes::from_static(b"\n\n")).events, "data: 2\n\n");
        assert!(splitter.between_events());
    }

    #[test]
    fn an_event_over_the_limit_passes_in_pieces_and_the_next_one_is_seen_again() {
        let mut splitter = Splitter::new(10);
        assert_eq!(splitter.push(Bytes::from_static(b"data: 0123456789")).unseen, "data: 0123456789");
        assert!(!splitter.between_events());
        assert!(splitter.inside_long_event());
        let cut = splitter.push(Bytes::from_static(b"abc\n\ndata: 1\n\n"));
        assert!(!splitter.inside_long_event());
        assert_eq!((&cut.unseen[..], &cut.events[..]), (&b"abc\n\n"[..], &b"data: 1\n\n"[..]));
    }

    #[test]
    fn a_run_of_whole_events_is_known_by_its_end_alone() {
        for (stream, whole) in [("data: 1\n\n", true), ("data: 1\r\n\r\n", true), ("\n\n", true), ("data: 1\n", false)]
        {
            let mut splitter = Splitter::new(100);
            splitter.push(Bytes::from_static(b"data: 0\r\n\r"));
            let cut = splitter.push(Bytes::copy_from_slice(stream.as_bytes()));
            assert_eq!(cut.events.ends_with(stream.as_bytes()), whole, "{stream:?}");
            assert_eq!(splitter.between_events(), whole);
        }
    }

    #[test]
    fn many_data_lines_are_joined_in_one_go() {
        let lines = "data: a\n".repeat(100_000);
        let data = events(lines.as_bytes()).next().unwrap().data.unwrap();
        assert_eq!(data.len(), 2 * 100_000 - 1);
    }

    proptest! {
        #[test]
        fn what_comes_out_is_what_went_in(
            stream in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b':'), Just(b'd'), any::<u8>()], 0..200),
            cuts in proptest::collection::vec(any::<usize>(), 0..8),
            limit in 1_usize..64,
        ) {
            prop_assert_eq!(run(&stream, &cuts, limit).0, stream);
        }

        #[test]
        fn events_do_not_depend_on_the_cuts(
            stream in "((data|event|id): ?[a-z]{0,5}(\n|\r\n|\r)){0,20}(\n|\r\n)(data: x\n\n)?",
            cuts in proptest::collection::vec(any::<usize>(), 0..8),
        ) {
            prop_assert_eq!(run(stream.as_bytes(), &cuts, 10_000).1, run(stream.as_bytes(), &[], 10_000).1);
        }
    }
}
