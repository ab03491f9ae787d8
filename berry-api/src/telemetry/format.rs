//! How a log line looks: `2026-01-31T12:00:00.123456Z  INFO berry_api: message name=value` for people, or one JSON object
//! `{timestamp, level, target, message, fields}`.

use std::cell::Cell;
use std::fmt::{Debug, Write as _};
use std::hash::Hash;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use berry_core::config::snapshot::{Backend, LogFormat, Model};
use tracing::Level;
use tracing::field::{Field, Visit};

use super::alike::Alike;

/// When, how important and from where.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// Wall-clock time.
    pub time: SystemTime,
    /// How important.
    pub level: Level,
    /// Which part of the program says it.
    pub target: &'static str,
}

/// A field's value; numbers stay numbers.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Text(String),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
}

/// The fields of an event, in the order they were given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    /// Adds a number.
    pub fn push_u64(&mut self, name: &'static str, value: u64) {
        self.0.push((name, Value::Unsigned(value)));
    }

    /// Adds a text.
    pub fn push_text(&mut self, name: &'static str, value: impl Into<String>) {
        self.0.push((name, Value::Text(value.into())));
    }
}

/// Collects an event's message and fields.
#[derive(Debug, Default)]
pub(super) struct Collector {
    pub(super) message: String,
    pub(super) fields: Fields,
}

impl Visit for Collector {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.fields.0.push((field.name(), Value::Float(value)));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.fields.0.push((field.name(), Value::Signed(value)));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.fields.push_u64(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.fields.0.push((field.name(), Value::Bool(value)));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            name => self.fields.push_text(name, value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            // A message is always `format_args!`, whose `Debug` is its text. Writing to a string cannot fail.
            "message" => {
                let _ = write!(self.message, "{value:?}");
            }
            name => self.fields.push_text(name, format!("{value:?}")),
        }
    }
}

/// What a field of every finished request is introduced with, as each format has it.
#[derive(Clone, Copy)]
pub(super) struct Name {
    pub(super) text: &'static str,
    pub(super) json: &'static str,
}

/// A [`Name`], of a field that is not the first of its line.
macro_rules! name {
    ($name:literal) => {
        $crate::telemetry::format::Name { text: concat!(" ", $name, "="), json: concat!(",\"", $name, "\":") }
    };
}
pub(super) use name;

/// Writes one line piece by piece, so that a finished request needs no intermediate list of fields.
pub(super) struct Line<'a> {
    out: &'a mut Vec<u8>,
    format: LogFormat,
}

impl<'a> Line<'a> {
    /// Begins a line: `head` is all between its time and the value of its first field.
    pub(super) fn begin(format: LogFormat, time: SystemTime, head: Name, out: &'a mut Vec<u8>) -> Self {
        if format == LogFormat::Json {
            out.extend_from_slice(b"{\"timestamp\":\"");
        }
        put_time(out, time);
        let mut line = Self { out, format };
        line.name(head);
        line
    }

    fn name(&mut self, name: Name) {
        self.out.extend_from_slice(match self.format {
            LogFormat::Text => name.text.as_bytes(),
            LogFormat::Json => name.json.as_bytes(),
        });
    }

    pub(super) fn text(&mut self, name: Name, value: &str) {
        self.name(name);
        put_text(self.format, value, self.out);
    }

    /// A text of our own making, in which nothing can ask for quotes or an escape.
    pub(super) fn word(&mut self, name: Name, value: &str) {
        self.name(name);
        self.end_head(value);
    }

    /// The value of the first field, which is such a word as well.
    pub(super) fn end_head(&mut self, value: &str) {
        match self.format {
            LogFormat::Text => self.out.extend_from_slice(value.as_bytes()),
            LogFormat::Json => put_quoted(self.out, value),
        }
    }

    pub(super) fn number(&mut self, name: Name, value: u64) {
        self.name(name);
        put_number(self.out, value, 1);
    }

    /// A time in milliseconds, as a number with at most three decimals.
    pub(super) fn milliseconds(&mut self, name: Name, value: Duration) {
        self.name(name);
        put_milliseconds(self.out, value);
    }

    pub(super) fn boolean(&mut self, name: Name, value: bool) {
        self.name(name);
        put_bool(self.out, value);
    }

    /// Fields that are the same for all lines with this key in this format.
    pub(super) fn alike<W: Copy + Eq + Hash>(
        &mut self,
        alike: &mut Alike<W>,
        key: (W, &Arc<Model>, &Arc<Backend>),
        make: impl FnOnce(&mut Line<'_>),
    ) {
        let format = self.format;
        alike.write(key, self.out, |out| make(&mut Line { out, format }));
    }

    pub(super) fn end(self) {
        put_end(self.format, self.out);
    }
}

/// Appends the line of an event.
pub(super) fn write_event(format: LogFormat, header: &Header, message: &str, fields: &Fields, out: &mut Vec<u8>) {
    // Piece by piece: the machinery of `format_args!` would cost more than everything else about a line.
    let level = header.level.as_str();
    match format {
        LogFormat::Text => {
            put_time(out, header.time);
            put_all(out, [&"      "[level.len().min(5)..], level, " ", header.target, ": "]);
            put_plain(out, message);
        }
        LogFormat::Json => {
            put_all(out, ["{\"timestamp\":\""]);
            put_time(out, header.time);
            put_all(out, ["\",\"level\":\"", level, "\",\"target\":\"", header.target, "\",\"message\":"]);
            put_json(out, message);
            put_all(out, [",\"fields\":{"]);
        }
    }
    for (place, (name, value)) in fields.0.iter().enumerate() {
        match format {
            LogFormat::Text => put_all(out, [" ", name, "="]),
            LogFormat::Json => put_all(out, [if place == 0 { "\"" } else { ",\"" }, name, "\":"]),
        }
        put_value(format, value, out);
    }
    put_end(format, out);
}

fn put_value(format: LogFormat, value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Text(text) => put_text(format, text, out),
        Value::Unsigned(number) => put_number(out, *number, 1),
        Value::Signed(number) => put(out, format_args!("{number}")),
        // JSON has no word for infinities and NaN.
        Value::Float(number) if !number.is_finite() && format == LogFormat::Json => out.extend_from_slice(b"null"),
        Value::Float(number) => put(out, format_args!("{number}")),
        Value::Bool(value) => put_bool(out, *value),
    }
}

fn put_text(format: LogFormat, text: &str, out: &mut Vec<u8>) {
    match format {
        LogFormat::Text if is_bare(text) => out.extend_from_slice(text.as_bytes()),
        LogFormat::Text => put(out, format_args!("{text:?}")),
        LogFormat::Json => put_json(out, text),
    }
}

fn put_bool(out: &mut Vec<u8>, value: bool) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

fn put_end(format: LogFormat, out: &mut Vec<u8>) {
    out.extend_from_slice(match format {
        LogFormat::Text => b"\n",
        LogFormat::Json => b"}}\n",
    });
}

/// RFC 3339 with microseconds, in UTC.
pub fn rfc3339(time: SystemTime) -> String {
    let mut text = Vec::new();
    put_time(&mut text, time);
    String::from_utf8(text).expect("digits and signs are UTF-8")
}

/// Writes a moment. What stands before the point is the same for all lines of a second and is kept from one to the next.
fn put_time(out: &mut Vec<u8>, time: SystemTime) {
    thread_local!(static LAST: Cell<(u64, [u8; 20])> = const { Cell::new((u64::MAX, [0; 20])) });
    // No clock of a server shows what was before 1970.
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (mut second, mut text) = LAST.get();
    if second != since.as_secs() {
        second = since.as_secs();
        text = to_the_second(second);
        LAST.set((second, text));
    }
    out.extend_from_slice(&text);
    put_number(out, u64::from(since.subsec_micros()), 6);
    out.push(b'Z');
}

/// `2026-01-31T12:00:00.`
fn to_the_second(since_epoch: u64) -> [u8; 20] {
    // Fails only for years that no clock shows.
    let at = i64::try_from(since_epoch).ok().and_then(|second| jiff::Timestamp::from_second(second).ok());
    let at = jiff::tz::Offset::UTC.to_datetime(at.unwrap_or(jiff::Timestamp::UNIX_EPOCH));
    let mut text = Vec::with_capacity(20);
    put_number(&mut text, u64::from(at.year().unsigned_abs()), 4);
    let parts = [(b'-', at.month()), (b'-', at.day()), (b'T', at.hour()), (b':', at.minute()), (b':', at.second())];
    for (sign, part) in parts {
        text.push(sign);
        put_number(&mut text, u64::from(part.unsigned_abs()), 2);
    }
    text.push(b'.');
    text.try_into().expect("four digits, and five times a sign and two digits, and a point")
}

/// A number with at least so many digits.
fn put_number(out: &mut Vec<u8>, mut value: u64, digits_min: usize) {
    let mut digits = [b'0'; 20];
    let mut count = 0;
    for digit in digits.iter_mut().rev() {
        if value == 0 {
            break;
        }
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
        count += 1;
    }
    out.extend_from_slice(&digits[digits.len() - digits_min.max(count)..]);
}

/// Milliseconds with at most three decimals.
fn put_milliseconds(out: &mut Vec<u8>, value: Duration) {
    let micros = value.as_secs().saturating_mul(1_000_000) + u64::from((value.subsec_nanos() + 500) / 1_000);
    put_number(out, micros / 1_000, 1);
    if !micros.is_multiple_of(1_000) {
        out.push(b'.');
        put_number(out, micros % 1_000, 3);
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
}

fn put_all<const N: usize>(out: &mut Vec<u8>, parts: [&str; N]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

fn put(out: &mut Vec<u8>, args: std::fmt::Arguments<'_>) {
    out.write_fmt(args).expect("a vector takes every byte");
}

fn put_json(out: &mut Vec<u8>, text: &str) {
    // Without an early end, so that the compiler looks at many bytes at once.
    let is_plain = |byte| (byte >= b' ') & (byte != b'"') & (byte != b'\\');
    if text.bytes().fold(true, |all, byte| all & is_plain(byte)) {
        return put_quoted(out, text);
    }
    serde_json::to_writer(out, text).expect("a vector takes every byte");
}

fn put_quoted(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

/// A message in a text line: control characters are escaped, so that nothing a client sends can start a line of its own.
fn put_plain(out: &mut Vec<u8>, text: &str) {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    for c in text.chars() {
        if c.is_control() {
            put(out, format_args!("{}", c.escape_default()));
        } else {
            put(out, format_args!("{c}"));
        }
    }
}

/// Whether a value can stand in a text line without quotes.
fn is_bare(value: &str) -> bool {
    // Without an early end, so that the compiler looks at many bytes at once.
    let is_plain = |byte| matches!(byte, b'!'..=b'~') & (byte != b'"') & (byte != b'=');
    if value.bytes().fold(true, |all, byte| all & is_plain(byte)) {
        return !value.is_empty();
    }
    value.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != '"' && c != '=')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(format: LogFormat, message: &str) -> String {
        let mut fields = Fields::default();
        fields.push_text("user_agent", "curl \"8\"\nx");
        fields.push_u64("latency_ms", 12);
        fields.0.push(("ratio", Value::Float(f64::NAN)));
        let header = Header { time: SystemTime::UNIX_EPOCH, level: Level::WARN, target: "berry_api::auth" };
        let mut out = Vec::new();
        write_event(format, &header, message, &fields, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_json_line_has_the_promised_members_and_numbers_are_numbers() {
        let line = event(LogFormat::Json, "Authentication failed");
        assert_eq!(
            line,
            "{\"timestamp\":\"1970-01-01T00:00:00.000000Z\",\"level\":\"WARN\",\"target\":\"berry_api::auth\",\
             \"message\":\"Authentication failed\",\"fields\":{\"user_agent\":\"curl \\\"8\\\"\\nx\",\"latency_ms\":12,\
             \"ratio\":null}}\n"
        );
    }

    #[test]
    fn times_have_six_decimals_and_milliseconds_at_most_three() {
        let at = |nanos: u64| rfc3339(SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos));
        assert_eq!(at(1_709_210_096_000_007_999), "2024-02-29T12:34:56.000007Z");
        assert_eq!(at(4_102_444_799_999_999_999), "2099-12-31T23:59:59.999999Z");
        for (nanos, expected) in
            [(0, "0"), (499, "0"), (500, "0.001"), (12_340_000, "12.34"), (7_000_000, "7"), (1_999_999_999, "2000")]
        {
            let mut out = Vec::new();
            put_milliseconds(&mut out, Duration::from_nanos(nanos));
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn nothing_in_a_text_line_can_start_a_line_of_its_own() {
        let line = event(LogFormat::Text, "one\ntwo");
        assert_eq!(
            line,
            "1970-01-01T00:00:00.000000Z  WARN berry_api::auth: one\\ntwo user_agent=\"curl \\\"8\\\"\\nx\" \
             latency_ms=12 ratio=NaN\n"
        );
    }
}
