//! Ways to spoil an answer: a closed list, written `name[:argument[:argument]]` in scripts and in the header `x-mock-fault`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

/// Every fault as it is written, with what it does. N counts content events, from 0.
pub const FAULTS: &[(&str, &str)] = &[
    ("none", "nothing"),
    ("status:CODE[:SECONDS]", "error of the vendor with this status, and retry-after"),
    ("quota", "429 insufficient_quota"),
    ("context-length", "400 of a prompt that is too long"),
    ("content-filter", "400 of a prompt that is not allowed"),
    ("redirect[:URL]", "302 to the address"),
    ("html[:CODE]", "a proxy's HTML page, 200 unless a status is given"),
    ("hang", "no answer until the client leaves; the same as stall:before-head"),
    ("reset:PLACE", "TCP reset; PLACE is before-head, head or N"),
    ("close:PLACE", "connection closed without an end of the body"),
    ("half-head:reset | half-head:close", "the connection ends inside the head"),
    ("stall:PLACE", "silence from there on"),
    ("gate:PLACE", "silence from there until the gate is opened"),
    ("slow-first-token:MILLISECONDS", "head and opening at once, then silence before the first content"),
    ("comments:MILLISECONDS", "instead of content, an SSE comment every so often, for ever"),
    ("malformed-chunk[:N]", "a data line that is no JSON after N content events"),
    ("error-event[:N]", "an error object after N content events (0: as the first event), then the end"),
    ("truncated-json", "JSON that stops in the middle, properly framed"),
    ("garbage", "bytes that are no JSON and no text"),
    ("missing-terminator", "a clean end after the content: no finish and no last word"),
    ("missing-done", "a clean end after the finish: only the last word is missing"),
    ("empty-stream", "the last word only; a plain answer has an empty body"),
    ("no-usage", "no token counts"),
    ("oversized-line:BYTES", "one line of this size before the content"),
    ("oversized-body:BYTES", "JSON (or comments of a stream) of at least this size"),
    ("one-byte", "every byte in a write of its own"),
    ("crlf", "lines end with CR LF"),
    ("gzip", "gzip, though nobody asked"),
    ("gzip-bomb:BYTES", "gzip that unpacks to this size"),
];

/// One way to spoil an answer. [`FAULTS`] explains each.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "FAULTS has the sentences; saying them twice would let them drift apart")]
pub enum Fault {
    None,
    Status { code: u16, retry_after: Option<u32> },
    Quota,
    ContextLength,
    ContentFilter,
    Redirect(String),
    Html(u16),
    Reset(Place),
    Close(Place),
    HalfHead(End),
    Stall(Place),
    Gate(Place),
    SlowFirstToken(u64),
    Comments(u64),
    MalformedChunk(u32),
    ErrorEvent(u32),
    TruncatedJson,
    Garbage,
    MissingTerminator,
    MissingDone,
    EmptyStream,
    NoUsage,
    OversizedLine(usize),
    OversizedBody(usize),
    OneByte,
    Crlf,
    Gzip,
    GzipBomb(usize),
}

/// Where in an answer something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Before the status line.
    BeforeHead,
    /// After the head, before the first byte of the body.
    Head,
    /// After so many content events; 0 is after the opening. In a plain answer: after half of the body.
    Content(u32),
}

/// How a connection ends before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// RST. An in-memory connection is closed instead.
    Reset,
    /// FIN.
    Close,
}

impl Fault {
    /// No byte of an answer until the client leaves.
    pub const HANG: Self = Self::Stall(Place::BeforeHead);
}

/// Why a text is not a fault.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is no fault: {why}")]
pub struct FaultParseError {
    text: String,
    why: &'static str,
}

impl FromStr for Fault {
    type Err = FaultParseError;

    fn from_str(text: &str) -> Result<Self, FaultParseError> {
        let text = text.trim();
        let (name, argument) = match text.split_once(':') {
            Some((name, argument)) => (name, Some(argument)),
            None => (text, None),
        };
        parse(name, argument).map_err(|why| FaultParseError { text: text.to_owned(), why })
    }
}

fn parse(name: &str, argument: Option<&str>) -> Result<Fault, &'static str> {
    let bare = |fault| {
        if argument.is_none() { Ok(fault) } else { Err("it takes no argument") }
    };
    Ok(match name {
        "none" => bare(Fault::None)?,
        "status" => parse_status(argument.ok_or("it needs a status, as in status:503")?)?,
        "quota" => bare(Fault::Quota)?,
        "context-length" => bare(Fault::ContextLength)?,
        "content-filter" => bare(Fault::ContentFilter)?,
        "redirect" => Fault::Redirect(argument.unwrap_or("http://127.0.0.1:9/elsewhere").to_owned()),
        "html" => Fault::Html(argument.map_or(Ok(200), code)?),
        "hang" => bare(Fault::HANG)?,
        "reset" => Fault::Reset(place(argument)?),
        "close" => Fault::Close(place(argument)?),
        "half-head" => Fault::HalfHead(end(argument)?),
        "stall" => Fault::Stall(place(argument)?),
        "gate" => Fault::Gate(place(argument)?),
        "slow-first-token" => Fault::SlowFirstToken(number(argument)?),
        "comments" => Fault::Comments(number(argument)?),
        "malformed-chunk" => Fault::MalformedChunk(argument.map_or(Ok(0), |n| number(Some(n)))?),
        "error-event" => Fault::ErrorEvent(argument.map_or(Ok(0), |n| number(Some(n)))?),
        "truncated-json" => bare(Fault::TruncatedJson)?,
        "garbage" => bare(Fault::Garbage)?,
        "missing-terminator" => bare(Fault::MissingTerminator)?,
        "missing-done" => bare(Fault::MissingDone)?,
        "empty-stream" => bare(Fault::EmptyStream)?,
        "no-usage" => bare(Fault::NoUsage)?,
        "oversized-line" => Fault::OversizedLine(number(argument)?),
        "oversized-body" => Fault::OversizedBody(number(argument)?),
        "one-byte" => bare(Fault::OneByte)?,
        "crlf" => bare(Fault::Crlf)?,
        "gzip" => bare(Fault::Gzip)?,
        "gzip-bomb" => Fault::GzipBomb(number(argument)?),
        _ => return Err("there is no such name"),
    })
}

fn number<N: FromStr>(text: Option<&str>) -> Result<N, &'static str> {
    text.and_then(|text| text.parse().ok()).ok_or("it needs a number after the colon")
}

fn code(text: &str) -> Result<u16, &'static str> {
    match text.parse() {
        Ok(code @ 200..=599) => Ok(code),
        _ => Err("a status is a number from 200 to 599"),
    }
}

fn parse_status(argument: &str) -> Result<Fault, &'static str> {
    let (status, seconds) = match argument.split_once(':') {
        Some((status, seconds)) => (status, Some(number(Some(seconds))?)),
        None => (argument, None),
    };
    Ok(Fault::Status { code: code(status)?, retry_after: seconds })
}

fn place(text: Option<&str>) -> Result<Place, &'static str> {
    match text {
        Some("before-head") => Ok(Place::BeforeHead),
        Some("head") => Ok(Place::Head),
        Some(n) => n.parse().map(Place::Content).map_err(|_| "the place is before-head, head or a number"),
        None => Err("it needs a place: before-head, head or a number"),
    }
}

fn end(text: Option<&str>) -> Result<End, &'static str> {
    match text {
        Some("reset") => Ok(End::Reset),
        Some("close") => Ok(End::Close),
        _ => Err("it needs reset or close after the colon"),
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Status { code, retry_after: None } => write!(f, "status:{code}"),
            Self::Status { code, retry_after: Some(seconds) } => write!(f, "status:{code}:{seconds}"),
            Self::Quota => f.write_str("quota"),
            Self::ContextLength => f.write_str("context-length"),
            Self::ContentFilter => f.write_str("content-filter"),
            Self::Redirect(to) => write!(f, "redirect:{to}"),
            Self::Html(code) => write!(f, "html:{code}"),
            Self::Reset(place) => write!(f, "reset:{place}"),
            Self::Close(place) => write!(f, "close:{place}"),
            Self::HalfHead(End::Reset) => f.write_str("half-head:reset"),
            Self::HalfHead(End::Close) => f.write_str("half-head:close"),
            Self::Stall(place) => write!(f, "stall:{place}"),
            Self::Gate(place) => write!(f, "gate:{place}"),
            Self::SlowFirstToken(ms) => write!(f, "slow-first-token:{ms}"),
            Self::Comments(ms) => write!(f, "comments:{ms}"),
            Self::MalformedChunk(n) => write!(f, "malformed-chunk:{n}"),
            Self::ErrorEvent(n) => write!(f, "error-event:{n}"),
            Self::TruncatedJson => f.write_str("truncated-json"),
            Self::Garbage => f.write_str("garbage"),
            Self::MissingTerminator => f.write_str("missing-terminator"),
            Self::MissingDone => f.write_str("missing-done"),
            Self::EmptyStream => f.write_str("empty-stream"),
            Self::NoUsage => f.write_str("no-usage"),
            Self::OversizedLine(bytes) => write!(f, "oversized-line:{bytes}"),
            Self::OversizedBody(bytes) => write!(f, "oversized-body:{bytes}"),
            Self::OneByte => f.write_str("one-byte"),
            Self::Crlf => f.write_str("crlf"),
            Self::Gzip => f.write_str("gzip"),
            Self::GzipBomb(bytes) => write!(f, "gzip-bomb:{bytes}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BeforeHead => f.write_str("before-head"),
            Self::Head => f.write_str("head"),
            Self::Content(n) => write!(f, "{n}"),
        }
    }
}

impl<'de> Deserialize<'de> for Fault {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
