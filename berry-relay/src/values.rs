//! JSON values one after the other, where events were asked for: a line for each, as some servers stream chunks of chat completions
//! (`application/x-ndjson`: hackclub/ai#17, 2025), or the elements of an array, as Gemini streams where `alt=sse` got lost on the way
//! (ai.google.dev/api/generate-content, 2026).
//!
//! Told as events they are the stream that was asked for. A value alone is a document, and no stream, until a second one begins. What
//! stands between values is left out: line ends, commas, an end as of chat completions.

use bytes::{Buf as _, Bytes, BytesMut};

use crate::json::MARK;

/// What a whole body is.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// Several values, as events.
    Events(Bytes),
    /// One value.
    Document(Bytes),
}

/// The first byte of a body that means something; `None` where there is nothing but white space yet.
pub fn first(body: &[u8]) -> Option<u8> {
    body.iter().find(|byte| !byte.is_ascii_whitespace() && !MARK.contains(byte)).copied()
}

/// Reads values from bytes that are cut anywhere.
#[derive(Debug, Default)]
pub struct Values {
    /// What has come and has not left.
    held: BytesMut,
    /// How much of it has been looked at.
    seen: usize,
    /// Where the last value in it begins; where it ends, once it has.
    begin: usize,
    end: Option<usize>,
    /// Objects and arrays that are open in that value.
    depth: usize,
    in_string: bool,
    escaped: bool,
    follow: bool,
}

impl Values {
    /// Reads a whole body; `None` where it does not begin like JSON.
    pub fn of(body: &[u8]) -> Option<Read> {
        first(body).filter(|first| matches!(first, b'{' | b'['))?;
        let mut values = Self::default();
        let events = values.push(body);
        Some(if values.follow { Read::Events(events) } else { Read::Document(values.into_document()) })
    }

    /// Takes the next bytes; gives the values that are whole, each as an event.
    pub fn push(&mut self, bytes: &[u8]) -> Bytes {
        self.held.extend_from_slice(bytes);
        let mut events = BytesMut::new();
        while let Some(&byte) = self.held.get(self.seen) {
            match self.depth {
                0 => self.between(byte, &mut events),
                _ => self.within(byte),
            }
            self.seen += 1;
            if self.follow && self.end.is_some() {
                self.tell(&mut events);
            }
        }
        if self.follow && self.depth == 0 {
            self.forget(self.seen);
        }
        events.freeze()
    }

    /// Whether these are several values, and no document.
    pub fn follow(&self) -> bool {
        self.follow
    }

    /// Bytes that are held.
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// All that came, where that is no more than one value; without an end as of a stream behind it, which some relays write behind
    /// every answer (decolua/9router#3492, 2026).
    pub fn into_document(mut self) -> Bytes {
        if let Some(end) = self.end
            && matches!(self.held[end..].trim_ascii(), b"data: [DONE]" | b"data:[DONE]" | b"[DONE]")
        {
            self.held.truncate(end);
        }
        self.held.freeze()
    }

    fn between(&mut self, byte: u8, events: &mut BytesMut) {
        match byte {
            b'{' => {
                if self.end.is_some() {
                    self.follow = true;
                    self.tell(events);
                }
                (self.begin, self.depth) = (self.seen, 1);
            }
            // Before the first value: they are the elements of an array.
            b'[' if self.end.is_none() => self.follow = true,
            _ => {}
        }
    }

    fn within(&mut self, byte: u8) {
        match byte {
            _ if std::mem::take(&mut self.escaped) => {}
            b'\\' => self.escaped = self.in_string,
            b'"' => self.in_string = !self.in_string,
            _ if self.in_string => {}
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth -= 1;
                self.end = (self.depth == 0).then_some(self.seen + 1);
            }
            _ => {}
        }
    }

    /// Writes the value that has ended as an event; line ends in it would be lines of their own.
    fn tell(&mut self, events: &mut BytesMut) {
        let Some(end) = self.end.take() else { return };
        events.extend_from_slice(b"data: ");
        let start = events.len();
        events.extend_from_slice(&self.held[self.begin..end]);
        events[start..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
        events.extend_from_slice(b"\n\n");
        self.forget(end);
    }

    fn forget(&mut self, length: usize) {
        self.held.advance(length);
        self.seen -= length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of a body that comes in pieces of this size: the events, and what is a document.
    fn read(body: &str, size: usize) -> (String, Option<String>) {
        let mut values = Values::default();
        let events: Vec<Bytes> = body.as_bytes().chunks(size).map(|piece| values.push(piece)).collect();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let document = (!values.follow()).then(|| text(&values.into_document()));
        (text(&events.concat()), document)
    }

    #[test]
    fn lines_are_events_from_the_second_one_on_wherever_they_are_cut() {
        let lines = "\u{feff}{\"a\":\"}{\\\"\"}\n{\"b\":[1,{}]}\r\n\n{\n\"c\":2 }\n[DONE]\n";
        for size in 1..=lines.len() {
            let (events, document) = read(lines, size);
            assert_eq!(
                events, "data: {\"a\":\"}{\\\"\"}\n\ndata: {\"b\":[1,{}]}\n\ndata: { \"c\":2 }\n\n",
                "by {size}"
            );
            assert_eq!(document, None);
        }
        let mut values = Values::default();
        assert!(values.push(b"{\"a\":1}\n").is_empty(), "it may be a document");
        assert_eq!(values.push(b"{"), "data: {\"a\":1}\n\n");
        assert_eq!(values.push(b"\"b\":2}"), "data: {\"b\":2}\n\n", "at once");
        assert_eq!((values.held_bytes(), values.follow()), (0, true));
    }

    #[test]
    fn the_elements_of_an_array_are_events_at_once() {
        let mut values = Values::default();
        assert_eq!(values.push(b"[{\"a\":[]}"), "data: {\"a\":[]}\n\n");
        assert_eq!(values.push(b"\n,\r\n{\"b\":{}"), "");
        assert_eq!(values.push(b"}]\n"), "data: {\"b\":{}}\n\n");
        assert_eq!(read("[{}]", 1), ("data: {}\n\n".to_owned(), None));
    }

    #[test]
    fn a_value_alone_is_a_document() {
        for (body, document) in [
            ("{\"a\":1}", "{\"a\":1}"),
            (" {\n\"a\":1\n}\n", " {\n\"a\":1\n}\n"),
            ("{\"a\":1}\n\ndata: [DONE]\n\n", "{\"a\":1}"),
            ("{\"a\":1}[DONE]", "{\"a\":1}"),
            ("{\"a\":1} and more", "{\"a\":1} and more"),
            ("{\"a\":", "{\"a\":"),
            ("17", "17"),
            ("", ""),
        ] {
            for size in [1, 3, 64] {
                assert_eq!(read(body, size), (String::new(), Some(document.to_owned())), "{body} by {size}");
            }
        }
    }
}
