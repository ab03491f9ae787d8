//! Where a request stands in a distributed trace, as the W3C header `traceparent` says it.
//!
//! A request has a span of its own and one for each attempt. The span of an attempt is named from the request's, so that nothing
//! has to be kept for it. Only requests that are traced have a [`Trace`]; the header of all others passes as it came.
//!
//! Source: W3C Trace Context, level 1 (recommendation of 2021-11-23), sections 3.2 and 3.3.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The header.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What vendors add to it.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// Flag of a trace that is recorded.
const SAMPLED: u8 = 1;
/// `00-<32 digits>-<16 digits>-<2 digits>`.
const LENGTH: usize = 55;
/// An odd number scatters consecutive attempts over all names.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a client says of its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Name of the trace.
    pub trace_id: u128,
    /// Name of the client's span.
    pub span_id: u64,
    /// Whether the client records it.
    pub sampled: bool,
}

impl Parent {
    /// Of a request's headers. None when there is no such header, more than one, or one that is not well-formed: the trace then
    /// begins here.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let value = values.next()?.as_bytes();
        match values.next() {
            None => Self::parse(value),
            Some(_) => None,
        }
    }

    fn parse(value: &[u8]) -> Option<Self> {
        // A later version may have more after the flags, the first one nothing.
        let version = value.get(0..2)?;
        let follows = value.get(LENGTH);
        let form_holds = match version {
            b"ff" => false,
            b"00" => follows.is_none(),
            _ => follows.is_none_or(|&byte| byte == b'-'),
        };
        if !form_holds || [2, 35, 52].iter().any(|&at| value.get(at) != Some(&b'-')) {
            return None;
        }
        let number = |range: std::ops::Range<usize>| {
            let digits = value.get(range)?;
            let is_hex = digits.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            u128::from_str_radix(std::str::from_utf8(digits).ok().filter(|_| is_hex)?, 16).ok()
        };
        number(0..2)?;
        let (trace_id, span_id, flags) = (number(3..35)?, number(36..52)?, number(53..55)?);
        let span_id = u64::try_from(span_id).ok()?;
        (trace_id != 0 && span_id != 0).then_some(Self { trace_id, span_id, sampled: flags & u128::from(SAMPLED) != 0 })
    }
}

/// A request that is traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Name of the trace: the client's, or a new one.
    pub trace_id: u128,
    /// The client's span.
    pub parent: Option<u64>,
    /// The span of this request.
    pub span_id: u64,
    /// The client sent a state of vendors that belongs to no trace of its own.
    pub has_stray_state: bool,
}

impl Trace {
    /// The span of the attempt with this number, from 1.
    pub fn attempt(&self, number: u32) -> u64 {
        let span_id = self.span_id ^ u64::from(number).wrapping_mul(STEP);
        // Zero is no name; nobody else has the number of the request's own span turned round.
        if span_id == 0 { !self.span_id } else { span_id }
    }

    /// Tells the upstream of the attempt with this number. A state that belongs to no trace of the client's does not pass.
    pub(crate) fn continue_in(&self, headers: &mut HeaderMap, attempt: u32) {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        put_hex(&mut text[3..35], &self.trace_id.to_be_bytes());
        put_hex(&mut text[36..52], &self.attempt(attempt).to_be_bytes());
        put_hex(&mut text[53..], &[SAMPLED]);
        if let Ok(value) = HeaderValue::from_bytes(&text) {
            headers.insert(TRACEPARENT, value);
        }
        if self.has_stray_state {
            headers.remove(TRACESTATE);
        }
    }
}

/// The two digits of every byte.
const DIGITS: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    pairs
};

/// Writes each byte as two digits. `format!` would cost a traced request a hundred times as much.
fn put_hex(text: &mut [u8], bytes: &[u8]) {
    for (pair, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *pair = DIGITS[usize::from(*byte)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn of(values: &[&str]) -> Option<Parent> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TRACEPARENT, HeaderValue::from_str(value).unwrap());
        }
        Parent::of(&headers)
    }

    #[test]
    fn the_example_of_the_standard_is_read() {
        let parent = of(&[EXAMPLE]).unwrap();
        assert_eq!(parent.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(parent.span_id, 0x00f0_67aa_0ba9_02b7);
        assert!(parent.sampled);
        assert!(!of(&[&EXAMPLE.replace("-01", "-00")]).unwrap().sampled);
    }

    #[test]
    fn what_is_not_well_formed_is_no_parent() {
        for wrong in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(of(&[wrong]), None, "{wrong}");
        }
        assert_eq!(of(&[EXAMPLE, EXAMPLE]), None);
    }

    #[test]
    fn a_later_version_may_say_more() {
        assert!(of(&[&format!("cc{}-more", &EXAMPLE[2..])]).is_some());
        assert!(of(&[&format!("cc{}.more", &EXAMPLE[2..])]).is_none());
    }

    #[test]
    fn each_attempt_has_a_span_of_its_own_and_the_header_names_it() {
        let trace = Trace { trace_id: 7, parent: None, span_id: 9, has_stray_state: true };
        let spans: std::collections::BTreeSet<u64> = (1..=11).map(|number| trace.attempt(number)).collect();
        assert_eq!(spans.len(), 11);
        assert!(!spans.contains(&trace.span_id) && !spans.contains(&0));
        let mut headers = HeaderMap::new();
        headers.insert("tracestate", HeaderValue::from_static("of=nobody"));
        trace.continue_in(&mut headers, 2);
        let parent = Parent { trace_id: 7, span_id: trace.attempt(2), sampled: true };
        assert_eq!(Parent::of(&headers), Some(parent));
        assert!(!headers.contains_key("tracestate"));
    }
}
