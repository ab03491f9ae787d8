//! An answer as data: a head, and the steps that its body is played in.
//!
//! Dialects make answers, faults edit them, [`MockBody`](crate::body::MockBody) plays them. Nothing here knows a connection.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Serialize;

use crate::fault::End;

/// One thing the body does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// Sends bytes.
    Chunk(Mark, Bytes),
    /// Is silent.
    Wait(Duration),
    /// Lets everything before it go out on the wire.
    Flush,
    /// Waits until the gate is open.
    Gate,
    /// Is silent until the client leaves.
    Hang,
    /// Sends the bytes again and again, with this silence before each.
    Beat(Duration, Bytes),
    /// Cuts the connection.
    Kill(End),
    /// Cuts the connection inside the head that is about to go out.
    CutHead(End),
}

/// What a chunk is to the client, in any dialect; faults find their place by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// A body that is no stream.
    Whole,
    /// Before the first content: role, created, block start.
    Opening,
    /// Text, arguments of a call: what a user waits for.
    Content,
    /// Says why the answer ended, or closes a block.
    Finish,
    /// Figures after the finish.
    Usage,
    /// A last event that repeats the whole answer.
    Ending,
    /// A last word that says nothing.
    Terminator,
}

/// How the end of the body is told to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// By `content-length`: the sum of the chunks.
    Known,
    /// By framing.
    Chunked,
}

/// An answer before it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// Done before the head goes out: waits, gates, ends.
    pub(crate) before_head: VecDeque<Step>,
    pub(crate) body: VecDeque<Step>,
    pub(crate) length: Length,
}

impl Answer {
    /// An answer with these bytes as its whole body.
    pub(crate) fn plain(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        Self {
            status,
            headers,
            before_head: VecDeque::new(),
            body: VecDeque::from([Step::Chunk(Mark::Whole, body.into())]),
            length: Length::Known,
        }
    }

    /// A JSON answer.
    pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Self {
        let body = serde_json::to_vec(body).expect("answers hold no map with keys that are not strings");
        Self::plain(status, "application/json", body)
    }

    /// A stream of server-sent events.
    pub(crate) fn events(events: Events) -> Self {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
        headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        Self {
            status: StatusCode::OK,
            headers,
            before_head: VecDeque::new(),
            body: events.steps,
            length: Length::Chunked,
        }
    }

    /// The same answer with one more header.
    pub(crate) fn with(mut self, name: &'static str, value: impl AsRef<str>) -> Self {
        let value = HeaderValue::from_str(value.as_ref()).expect("headers of the script are printable");
        self.headers.insert(HeaderName::from_static(name), value);
        self
    }

    /// Whether the body is a stream of events.
    pub(crate) fn is_stream(&self) -> bool {
        self.headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
    }

    /// Replaces every chunk, keeping the waits between them.
    pub(crate) fn map_chunks(&mut self, mut change: impl FnMut(Bytes) -> Vec<Step>) {
        let steps = std::mem::take(&mut self.body);
        for step in steps {
            match step {
                Step::Chunk(_, bytes) => self.body.extend(change(bytes)),
                other => self.body.push_back(other),
            }
        }
    }
}

/// Builds the body of an event stream at the pace of the script.
#[derive(Debug)]
pub(crate) struct Events {
    steps: VecDeque<Step>,
    pace: Pace,
}

impl Events {
    pub(crate) fn new(pace: Pace) -> Self {
        Self { steps: VecDeque::new(), pace }
    }

    /// One `data:` event. Content waits for its token.
    pub(crate) fn data(&mut self, mark: Mark, value: &impl Serialize) {
        self.event(mark, None, value);
    }

    /// One event, with a name where the dialect has them.
    pub(crate) fn event(&mut self, mark: Mark, name: Option<&str>, value: &impl Serialize) {
        let mut out = BytesMut::with_capacity(256).writer();
        if let Some(name) = name {
            out.get_mut().put_slice(b"event: ");
            out.get_mut().put_slice(name.as_bytes());
            out.get_mut().put_u8(b'\n');
        }
        out.get_mut().put_slice(b"data: ");
        serde_json::to_writer(&mut out, value).expect("writing JSON to memory does not fail");
        out.get_mut().put_slice(b"\n\n");
        self.bytes(mark, out.into_inner().freeze());
    }

    /// Bytes as they are.
    pub(crate) fn bytes(&mut self, mark: Mark, bytes: impl Into<Bytes>) {
        if mark == Mark::Content {
            let wait = self.pace.next_token();
            if !wait.is_zero() {
                self.steps.push_back(Step::Wait(wait));
            }
        }
        self.steps.push_back(Step::Chunk(mark, bytes.into()));
    }
}

/// When the tokens of one answer come.
#[derive(Debug)]
pub(crate) struct Pace {
    first: Duration,
    each: Duration,
    jitter: f64,
    rng: fastrand::Rng,
    started: bool,
}

impl Pace {
    pub(crate) fn new(first: Duration, each: Duration, jitter: f64, rng: fastrand::Rng) -> Self {
        Self { first, each, jitter: jitter.clamp(0.0, 1.0), rng, started: false }
    }

    /// Silence before the next token.
    pub(crate) fn next_token(&mut self) -> Duration {
        let base = if std::mem::replace(&mut self.started, true) { self.each } else { self.first };
        self.stretch(base)
    }

    /// Silence before an answer of so many tokens that comes in one piece.
    pub(crate) fn whole(mut self, tokens: u64) -> Duration {
        let rest = self.each.saturating_mul(u32::try_from(tokens.saturating_sub(1)).unwrap_or(u32::MAX));
        let base = self.first + rest;
        self.stretch(base)
    }

    fn stretch(&mut self, base: Duration) -> Duration {
        if base.is_zero() || self.jitter == 0.0 {
            return base;
        }
        base.mul_f64(1.0 + self.jitter * (2.0 * self.rng.f64() - 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(jitter: f64) -> Pace {
        Pace::new(Duration::from_millis(100), Duration::from_millis(10), jitter, fastrand::Rng::with_seed(1))
    }

    #[test]
    fn the_first_token_waits_longer_than_the_rest() {
        let mut pace = pace(0.0);
        let waits: Vec<u128> = (0..3).map(|_| pace.next_token().as_millis()).collect();
        assert_eq!(waits, [100, 10, 10]);
    }

    #[test]
    fn a_plain_answer_waits_for_all_its_tokens() {
        assert_eq!(pace(0.0).whole(6), Duration::from_millis(150));
        assert_eq!(pace(0.0).whole(0), Duration::from_millis(100));
    }

    #[test]
    fn jitter_stays_within_its_share() {
        let mut pace = pace(0.3);
        pace.next_token();
        let waits: Vec<Duration> = (0..200).map(|_| pace.next_token()).collect();
        assert!(waits.iter().all(|wait| (7_000..=13_000).contains(&wait.as_micros())), "{waits:?}");
        assert!(
            waits.iter().any(|wait| wait.as_micros() < 9_000) && waits.iter().any(|wait| wait.as_micros() > 11_000)
        );
    }

    #[test]
    fn an_event_is_one_chunk_with_its_name_first() {
        let mut events = Events::new(pace(0.0));
        events.event(Mark::Opening, Some("ping"), &serde_json::json!({"a": 1}));
        let steps = Answer::events(events).body;
        assert_eq!(steps, [Step::Chunk(Mark::Opening, Bytes::from_static(b"event: ping\ndata: {\"a\":1}\n\n"))]);
    }
}
