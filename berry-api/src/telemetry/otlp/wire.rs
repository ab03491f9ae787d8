//! As much of Protocol Buffers as spans need: three wire types and nested messages.
//!
//! Written out rather than generated, since it is a page of code against two crates and a build step. Source: the encoding page of
//! protobuf.dev; field numbers from opentelemetry-proto 1.9, `trace/v1/trace.proto` and `common/v1/common.proto`.

use std::hash::Hash;
use std::sync::Arc;

use berry_core::config::snapshot::{Backend, Model};

use crate::telemetry::alike::Alike;

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH: u64 = 2;

/// A message in the making. Fields come out in the order in which they are written.
#[derive(Default)]
pub(super) struct Message(Vec<u8>);

/// Where a message begins that has not ended.
pub(super) struct Open(usize);

impl Message {
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Fields that are encoded already.
    pub(super) fn raw(&mut self, fields: &[u8]) {
        self.0.extend_from_slice(fields);
    }

    /// Fields that are the same in all messages with this key.
    pub(super) fn alike<W: Copy + Eq + Hash>(
        &mut self,
        alike: &mut Alike<W>,
        key: (W, &Arc<Model>, &Arc<Backend>),
        make: impl FnOnce(&mut Self),
    ) {
        alike.write(key, &mut self.0, |out| {
            let mut message = Self(std::mem::take(out));
            make(&mut message);
            *out = message.0;
        });
    }

    fn key(&mut self, field: u64, wire: u64) {
        self.raw_varint(field << 3 | wire);
    }

    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// `KeyValue` of `common.proto` with a text.
    #[inline]
    pub(super) fn text_pair(&mut self, field: u64, name: &str, value: &str) {
        self.pair_head(field, name, bytes_of_text(value));
        self.text(1, value);
    }

    /// The same with a number; `kind` is the field of `AnyValue`: 2 a truth value, 3 a whole number.
    pub(super) fn number_pair(&mut self, field: u64, name: &str, kind: u64, value: u64) {
        self.pair_head(field, name, 1 + varint_bytes(value));
        self.number(kind, value);
    }

    /// The same with a floating-point number.
    pub(super) fn float_pair(&mut self, field: u64, name: &str, value: f64) {
        self.pair_head(field, name, 1 + 8);
        self.fixed64(4, value.to_bits());
    }

    /// Everything of a pair but its value, whose length has to be known: spans are made of pairs, so nothing is moved for one.
    #[inline]
    fn pair_head(&mut self, field: u64, name: &str, value_bytes: usize) {
        let rest = bytes_of_text(name) + 1 + varint_bytes(value_bytes as u64) + value_bytes;
        // Key and length of the pair itself come on top.
        self.0.reserve(rest + 12);
        if rest < 0x80 && field < 0x10 {
            // So every length in it takes one byte, which is the usual case.
            self.raw(&[(field << 3 | LENGTH) as u8, rest as u8, 1 << 3 | LENGTH as u8, name.len() as u8]);
            self.raw(name.as_bytes());
            self.raw(&[2 << 3 | LENGTH as u8, value_bytes as u8]);
            return;
        }
        self.head(field, rest);
        self.text(1, name);
        self.head(2, value_bytes);
    }

    /// Key and length of a message that follows.
    fn head(&mut self, field: u64, bytes: usize) {
        self.key(field, LENGTH);
        self.raw_varint(bytes as u64);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn truncate(&mut self, bytes: usize) {
        self.0.truncate(bytes);
    }

    pub(super) fn number(&mut self, field: u64, value: u64) {
        self.key(field, VARINT);
        self.raw_varint(value);
    }

    pub(super) fn fixed64(&mut self, field: u64, value: u64) {
        self.key(field, FIXED64);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn bytes(&mut self, field: u64, value: &[u8]) {
        self.key(field, LENGTH);
        self.raw_varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    pub(super) fn text(&mut self, field: u64, value: &str) {
        self.bytes(field, value.as_bytes());
    }

    /// A text in two parts, with a space between.
    pub(super) fn two_words(&mut self, field: u64, [first, second]: [&str; 2]) {
        self.key(field, LENGTH);
        self.raw_varint((first.len() + 1 + second.len()) as u64);
        for part in [first, " ", second] {
            self.raw(part.as_bytes());
        }
    }

    /// An empty one in the room of bytes that are no longer needed.
    pub(super) fn reusing(mut room: Vec<u8>) -> Self {
        room.clear();
        Self(room)
    }

    /// A message inside.
    pub(super) fn message(&mut self, field: u64, fill: impl FnOnce(&mut Self)) {
        let open = self.open(field);
        fill(self);
        self.close(open);
    }

    /// Begins a message inside, of less than 256 MiB. Its length stands before it and is known after it: it takes four bytes, whatever
    /// it is, so that nothing has to move. Readers of a number pass over digits that add nothing.
    pub(super) fn open(&mut self, field: u64) -> Open {
        self.key(field, LENGTH);
        self.raw(&[0; 4]);
        Open(self.0.len())
    }

    /// Ends what [`Message::open`] began.
    pub(super) fn close(&mut self, Open(start): Open) {
        let length = self.0.len() - start;
        for (place, digit) in self.0[start - 4..start].iter_mut().enumerate() {
            let more = if place < 3 { 0x80 } else { 0 };
            *digit = (length >> (7 * place)) as u8 & 0x7f | more;
        }
    }
}

/// How many bytes a text of a field below 16 takes, with its key and length.
fn bytes_of_text(text: &str) -> usize {
    1 + varint_bytes(text.len() as u64) + text.len()
}

/// How many bytes a number takes.
fn varint_bytes(value: u64) -> usize {
    ((value | 1).ilog2() as usize) / 7 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_encoding_page_come_out() {
        let mut message = Message::default();
        message.number(1, 150);
        message.text(2, "testing");
        message.message(3, |inner| inner.number(1, 150));
        message.two_words(2, ["a", "b"]);
        assert_eq!(message.into_bytes(), b"\x08\x96\x01\x12\x07testing\x1a\x83\x80\x80\x00\x08\x96\x01\x12\x03a b");
    }

    #[test]
    fn a_pair_is_what_nested_messages_would_be() {
        /// A message inside with the shortest length.
        fn nest(outer: &mut Message, field: u64, fill: impl FnOnce(&mut Message)) {
            let mut inner = Message::default();
            fill(&mut inner);
            outer.bytes(field, &inner.into_bytes());
        }
        let long = "x".repeat(300);
        for (name, value) in [("a", ""), ("name", "value"), ("name", &long), (&long, "value")] {
            let (mut pair, mut nested) = (Message::default(), Message::default());
            pair.text_pair(9, name, value);
            nest(&mut nested, 9, |inner| {
                inner.text(1, name);
                nest(inner, 2, |any| any.text(1, value));
            });
            assert_eq!(pair.into_bytes(), nested.into_bytes());
        }
        for value in [0, 1, 127, 128, 200, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let (mut pair, mut nested) = (Message::default(), Message::default());
            pair.number_pair(9, "n", 3, value);
            nest(&mut nested, 9, |inner| {
                inner.text(1, "n");
                nest(inner, 2, |any| any.number(3, value));
            });
            assert_eq!(pair.into_bytes(), nested.into_bytes(), "{value}");
        }
        let mut pair = Message::default();
        pair.float_pair(9, "f", 1.0);
        assert_eq!(pair.into_bytes(), b"\x4a\x0e\x0a\x01f\x12\x09\x21\0\0\0\0\0\0\xf0\x3f");
    }

    #[test]
    fn a_long_message_has_a_long_length() {
        let mut message = Message::default();
        message.message(1, |inner| inner.bytes(1, &[7; 300]));
        let bytes = message.into_bytes();
        assert_eq!(bytes[..8], [0x0a, 0xaf, 0x82, 0x80, 0x00, 0x0a, 0xac, 0x02]);
        assert_eq!(bytes.len(), 5 + 3 + 300);
    }
}
