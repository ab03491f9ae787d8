//! Recognises an event that differs from an earlier one only where the difference does not matter.
//!
//! The events of a stream are alike but for a few words, so most of them need not be read again. An event is remembered with the
//! places of its *free* values: strings of which only matters that they are not empty, and numbers that do not matter at all. An
//! event that is the same outside of these, and has a string that is not empty or a number in each of them, is valid as the first
//! one was and means the same. Nothing is guessed: what does not match is read in full.

use std::ops::Range;

use smallvec::SmallVec;

use crate::json::{Kind, Raw, scalar_length};

/// Longest event that is remembered.
const EVENT_BYTES_MAX: usize = 4096;
/// Most free values; those beyond are compared like the rest.
const FREE_MAX: usize = 8;

/// Length of a string with nothing in it.
const EMPTY_TEXT: usize = 2;

/// The free values that were met in an event, in their order.
#[derive(Debug, Default)]
pub(crate) struct Free<'a>(SmallVec<[Raw<'a>; FREE_MAX]>);

impl<'a> Free<'a> {
    /// Notes a value that may differ. Only strings with something in them and numbers can be free.
    #[inline]
    pub(crate) fn note(&mut self, value: Raw<'a>) {
        let can_be = match value.kind() {
            Kind::String => !value.is_nothing(),
            Kind::Number => true,
            _ => false,
        };
        if can_be && self.0.len() < FREE_MAX {
            self.0.push(value);
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// The event that others are compared with.
#[derive(Debug, Default)]
pub(crate) struct Template {
    event: Vec<u8>,
    free: SmallVec<[Range<usize>; FREE_MAX]>,
}

impl Template {
    /// Whether an event is short enough to be remembered.
    pub(crate) fn may_learn(event: &[u8]) -> bool {
        event.len() <= EVENT_BYTES_MAX
    }

    /// Takes an event for comparison. `free` are values inside `event`.
    pub(crate) fn learn(&mut self, event: &[u8], free: &Free<'_>) {
        self.event.clear();
        self.free.clear();
        if !Self::may_learn(event) {
            return;
        }
        self.event.extend_from_slice(event);
        self.free.extend(free.0.iter().map(|value| {
            let start = value.0.as_ptr().addr() - event.as_ptr().addr();
            start..start + value.0.len()
        }));
    }

    /// Whether an event means the same as the learnt one.
    pub(super) fn matches(&self, event: &[u8]) -> bool {
        self.compare(event, |_| {}).is_some()
    }

    /// The free values of an event that means the same as the learnt one; `None` where it means something else.
    pub(crate) fn values(&self, event: &[u8]) -> Option<Values> {
        let mut values = Values::default();
        self.compare(event, |value| values.0.push(value))?;
        Some(values)
    }

    /// Where a place of the learnt event, outside of its free values, is in the event of `values`.
    pub(crate) fn moved(&self, place: usize, values: &Values) -> usize {
        let before = self.free.iter().zip(&values.0).rev().find(|(free, _)| free.end <= place);
        before.map_or(place, |(free, value)| value.end + (place - free.end))
    }

    fn compare(&self, event: &[u8], mut found: impl FnMut(Range<usize>)) -> Option<()> {
        // Nothing learnt.
        if self.event.is_empty() {
            return None;
        }
        let (mut rest, mut at) = (event, 0);
        for free in &self.free {
            rest = rest.strip_prefix(&self.event[at..free.start])?;
            let length = scalar_length(rest)?;
            let is_text = rest[0] == b'"';
            if is_text != (self.event[free.start] == b'"') || is_text && length == EMPTY_TEXT {
                return None;
            }
            let start = event.len() - rest.len();
            found(start..start + length);
            rest = &rest[length..];
            at = free.end;
        }
        (rest == &self.event[at..]).then_some(())
    }
}

/// Where the free values of an event stand in it.
#[derive(Debug, Default)]
pub(crate) struct Values(SmallVec<[Range<usize>; FREE_MAX]>);

impl Values {
    /// The value at `place`, counted as [`Free`] does.
    pub(crate) fn get(&self, place: usize) -> Option<Range<usize>> {
        self.0.get(place).cloned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::json::Cursor;

    /// A template of an object whose members named `x` are free.
    fn learnt(event: &str) -> Template {
        let (mut template, mut free) = (Template::default(), Free::default());
        let members = Cursor::new(event.as_bytes()).members(|key, value| {
            let value = value.value()?;
            if key == b"x" {
                free.note(value);
            }
            Some(())
        });
        assert!(members.is_some());
        template.learn(event.as_bytes(), &free);
        template
    }

    #[test]
    fn only_free_values_may_differ_and_only_for_their_like() {
        let template = learnt(r#"{"a":1,"x":"one","b":"two","x":3}"#);
        for (event, same) in [
            (r#"{"a":1,"x":"one","b":"two","x":3}"#, true),
            (r#"{"a":1,"x":"another \" \u0041","b":"two","x":-45.6e7}"#, true),
            (r#"{"a":2,"x":"one","b":"two","x":3}"#, false),
            (r#"{"a":1,"x":"one","b":"twO","x":3}"#, false),
            (r#"{"a":1,"x":"","b":"two","x":3}"#, false),
            (r#"{"a":1,"x":null,"b":"two","x":3}"#, false),
            (r#"{"a":1,"x":"one","b":"two","x":"3"}"#, false),
            (r#"{"a":1,"x":7,"b":"two","x":3}"#, false),
            (r#"{"a":1,"x":"on\e","b":"two","x":3}"#, false),
            (r#"{"a":1,"x":"one","b":"two","x":3.}"#, false),
            (r#"{"a":1,"x":"one","b":"two","x":03}"#, false),
            (r#"{"a":1,"x":"one","b":"two","x":3} "#, false),
            (r#"{"a":1,"x":"one","b":"two","x":3"#, false),
            ("", false),
        ] {
            assert_eq!(template.matches(event.as_bytes()), same, "{event}");
        }
    }

    #[test]
    fn what_stands_between_free_values_is_found_where_they_moved_it() {
        let event = r#"{"a":1,"x":"one","b":"two","x":3,"c":4}"#;
        let other = r#"{"a":1,"x":"a longer one","b":"two","x":3456,"c":4}"#;
        let template = learnt(event);
        let values = template.values(other.as_bytes()).unwrap();
        assert_eq!(&other[values.get(0).unwrap()], r#""a longer one""#);
        assert_eq!(&other[values.get(1).unwrap()], "3456");
        for name in ["\"a\"", "\"b\"", "\"c\"", "}"] {
            let place = template.moved(event.find(name).unwrap(), &values);
            assert!(other[place..].starts_with(name), "{name}");
        }
        assert!(values.get(2).is_none());
    }

    #[test]
    fn nothing_matches_before_anything_was_learnt_or_after_a_long_event() {
        assert!(!Template::default().matches(b""));
        let long = format!(r#"{{"a":"{}"}}"#, "b".repeat(EVENT_BYTES_MAX));
        assert!(!learnt(&long).matches(long.as_bytes()));
    }

    proptest! {
        #[test]
        fn what_matches_is_json(text in "[a-z\"\\\\n\u{1}{}:,]{0,12}", number in "[0-9.eE+-]{0,5}") {
            let event = format!(r#"{{"x":"{text}","b":[1],"x":{number}}}"#);
            let template = learnt(r#"{"x":"a","b":[1],"x":1}"#);
            if template.matches(event.as_bytes()) {
                prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&event).is_ok());
            }
        }
    }
}
