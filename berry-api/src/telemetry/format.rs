//! How a log line looks: `2026-01-31T12:00:00.123456Z  INFO berry_api: message name=value` for people, or one JSON object
//! `{timestamp, level, target, message, fields}`.

use std::cell::Cell;
use std::fmt::{Debug, Write as _};
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use berry_core::config::snapshot::LogFormat;
use tracing::Level;
use tracing::field::{Field, Visit};

use super::writer::Item;

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

/// Writes one line piece by piece, so that a finished request needs no intermediate list of fields.
pub(super) struct Line<'a> {
    out: &'a mut Vec<u8>,
    format: LogFormat,
    first: bool,
}

impl<'a> Line<'a> {
    pub(super) fn begin(format: LogFormat, header: &Header, message: &str, out: &'a mut Vec<u8>) -> Self {
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
        Self { out, format, first: true }
    }

    fn name(&mut self, name: &str) {
        match self.format {
            LogFormat::Text => {
                self.out.push(b' ');
                self.out.extend_from_slice(name.as_bytes());
                self.out.push(b'=');
            }
            LogFormat::Json => put_all(self.out, [if self.first { "\"" } else { ",\"" }, name, "\":"]),
        }
        self.first = false;
    }

    pub(super) fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        match self.format {
            LogFormat::Text if is_bare(value) => self.out.extend_from_slice(value.as_bytes()),
            LogFormat::Text => put(self.out, format_args!("{value:?}")),
            LogFormat::Json => put_json(self.out, value),
        }
    }

    pub(super) fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        put_number(self.out, value, 1);
    }

    /// A time in milliseconds, as a number with at most three decimals.
    pub(super) fn milliseconds(&mut self, name: &str, value: Duration) {
        self.name(name);
        let rounded = (value.as_nanos() + 500) / 1_000;
        let micros = u64::try_from(rounded).unwrap_or(u64::MAX);
        put_number(self.out, micros / 1_000, 1);
        if micros % 1_000 != 0 {
            self.out.push(b'.');
            put_number(self.out, micros % 1_000, 3);
            while self.out.last() == Some(&b'0') {
                self.out.pop();
            }
        }
    }

    fn float(&mut self, name: &str, value: f64) {
        self.name(name);
        // JSON has no word for infinities and NaN.
        if value.is_finite() || self.format == LogFormat::Text {
            put(self.out, format_args!("{value}"));
        } else {
            self.out.extend_from_slice(b"null");
        }
    }

    pub(super) fn boolean(&mut self, name: &str, value: bool) {
        self.name(name);
        put_all(self.out, [if value { "true" } else { "false" }]);
    }

    fn value(&mut self, name: &str, value: &Value) {
        match value {
            Value::Text(text) => self.text(name, text),
            Value::Unsigned(number) => self.number(name, *number),
            Value::Signed(number) => {
                self.name(name);
                put(self.out, format_args!("{number}"));
            }
            Value::Float(number) => self.float(name, *number),
            Value::Bool(value) => self.boolean(name, *value),
        }
    }

    pub(super) fn end(self) {
        self.out.extend_from_slice(match self.format {
            LogFormat::Text => b"\n",
            LogFormat::Json => b"}}\n",
        });
    }
}

/// Appends the line for `item`.
pub(super) fn write_line(format: LogFormat, item: &Item, out: &mut Vec<u8>) {
    match item {
        Item::Finished(finished) if finished.is_shown => finished.write(format, out),
        Item::Finished(_) => {}
        Item::Event { header, message, fields } => {
            let mut line = Line::begin(format, header, message, out);
            for (name, value) in &fields.0 {
                line.value(name, value);
            }
            line.end();
        }
    }
}

/// RFC 3339 with microseconds, in UTC.
pub fn rfc3339(time: SystemTime) -> String {
    let mut text = Vec::new();
    put_time(&mut text, time);
    String::from_utf8(text).expect("digits and signs are UTF-8")
}

/// Writes a moment. What stands before the point is the same for all lines of a second and is kept from one to the next.
fn put_time(out: &mut Vec<u8>, time: SystemTime) {
    thread_local!(static LAST: Cell<(i64, [u8; 20])> = const { Cell::new((i64::MIN, [0; 20])) });
    // Fails only for years that no clock shows.
    let at = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let (second, mut text) = LAST.get();
    if second != at.as_second() {
        text = to_the_second(at);
        LAST.set((at.as_second(), text));
    }
    out.extend_from_slice(&text);
    put_number(out, u64::from(at.subsec_nanosecond().unsigned_abs() / 1_000), 6);
    out.push(b'Z');
}

/// `2026-01-31T12:00:00.`
fn to_the_second(at: jiff::Timestamp) -> [u8; 20] {
    let at = jiff::tz::Offset::UTC.to_datetime(at);
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
    let mut start = digits.len();
    while value > 0 {
        start -= 1;
        digits[start] = b'0' + (value % 10) as u8;
        value /= 10;
    }
    out.extend_from_slice(&digits[start.min(digits.len() - digits_min)..]);
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
    serde_json::to_writer(out, text).expect("a vector takes every byte");
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

    fn event(message: &str) -> Item {
        let mut fields = Fields::default();
        fields.push_text("user_agent", "curl \"8\"\nx");
        fields.push_u64("latency_ms", 12);
        fields.0.push(("ratio", Value::Float(f64::NAN)));
        Item::Event {
            header: Header { time: SystemTime::UNIX_EPOCH, level: Level::WARN, target: "berry_api::auth" },
            message: message.to_owned(),
            fields,
        }
    }

    fn render(format: LogFormat, item: &Item) -> String {
        let mut out = Vec::new();
        write_line(format, item, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_json_line_has_the_promised_members_and_numbers_are_numbers() {
        let line = render(LogFormat::Json, &event("Authentication failed"));
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
            let header = Header { time: SystemTime::UNIX_EPOCH, level: Level::INFO, target: "t" };
            let mut line = Line::begin(LogFormat::Text, &header, "m", &mut out);
            line.milliseconds("ms", Duration::from_nanos(nanos));
            line.end();
            assert_eq!(
                String::from_utf8(out).unwrap(),
                format!("1970-01-01T00:00:00.000000Z  INFO t: m ms={expected}\n")
            );
        }
    }

    #[test]
    fn nothing_in_a_text_line_can_start_a_line_of_its_own() {
        let line = render(LogFormat::Text, &event("one\ntwo"));
        assert_eq!(
            line,
            "1970-01-01T00:00:00.000000Z  WARN berry_api::auth: one\\ntwo user_agent=\"curl \\\"8\\\"\\nx\" \
             latency_ms=12 ratio=NaN\n"
        );
    }
}
