//! When an upstream wants to be asked again, in all its spellings.
//!
//! `retry-after-ms` and `x-ms-retry-after-ms` (OpenAI, Azure), `retry-after` in seconds or as a date (RFC 9110 10.2.3, a date
//! counted from the answer's own `date`), `x-ratelimit-reset-*` ("1m12s", "36ms"; OpenAI), Gemini's `retryDelay` in the body and
//! Azure's "retry after N seconds" in the text. What cannot be understood, or is longer than a day, is ignored.

use std::time::{Duration, SystemTime};

use berry_loadbalance::lease::Remaining;
use http::HeaderMap;
use http::header::{DATE, RETRY_AFTER};

const REMAINING: &str = "x-ratelimit-remaining-";
const REMAINING_REQUESTS: &str = "x-ratelimit-remaining-requests";
const REMAINING_TOKENS: &str = "x-ratelimit-remaining-tokens";
/// The longest wait that is believed.
const BELIEVABLE: Duration = Duration::from_secs(24 * 3600);

/// What an error answer says.
pub(crate) fn of(headers: &HeaderMap, body: &[u8]) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok();
    let milliseconds = || number("retry-after-ms").or_else(|| number("x-ms-retry-after-ms")).map(|ms| ms / 1000.0);
    let seconds = milliseconds().or_else(|| number(RETRY_AFTER.as_str()));
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .or_else(|| until_date(headers))
        .or_else(|| reset(headers))
        .or_else(|| in_body(body))
        .filter(|wait| *wait <= BELIEVABLE)
}

/// What is left of the limits that an answer tells of.
pub(crate) fn remaining(headers: &HeaderMap) -> Remaining {
    let (mut requests, mut tokens) = (None, None);
    // In one look at them, since most answers have few headers and none of these.
    for (name, value) in headers.iter().filter(|(name, _)| name.as_str().starts_with(REMAINING)) {
        let count = || value.to_str().ok()?.parse().ok();
        match name.as_str() {
            REMAINING_REQUESTS => requests = requests.or_else(count),
            REMAINING_TOKENS => tokens = tokens.or_else(count),
            _ => {}
        }
    }
    // The reset is only looked for where something has run out.
    let reset = if requests == Some(0) || tokens == Some(0) { reset(headers) } else { None };
    Remaining { requests, tokens, reset }
}

fn until_date(headers: &HeaderMap) -> Option<Duration> {
    let date = |name| httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok();
    let now = date(DATE).unwrap_or_else(SystemTime::now);
    date(RETRY_AFTER)?.duration_since(now).ok()
}

/// The longer one of the resets of what has run out.
fn reset(headers: &HeaderMap) -> Option<Duration> {
    let of = |remaining: &str, reset: &str| {
        let ran_out = headers.get(remaining)? == "0";
        duration(headers.get(reset).filter(|_| ran_out)?.to_str().ok()?)
    };
    of(REMAINING_REQUESTS, "x-ratelimit-reset-requests").max(of(REMAINING_TOKENS, "x-ratelimit-reset-tokens"))
}

fn in_body(body: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(body.get(..body.len().min(16 * 1024))?).ok()?;
    if let Some((_, rest)) = text.split_once("\"retryDelay\"") {
        return duration(rest.split('"').nth(1)?);
    }
    let lower = text.to_lowercase();
    let (_, rest) = lower.split_once("retry after ")?;
    let (number, unit) = rest.split_once(' ')?;
    let seconds = number.parse().ok()?;
    unit.starts_with("second").then_some(Duration::from_secs(seconds))
}

/// `1h2m3.5s`, `36ms`, `20s`.
fn duration(text: &str) -> Option<Duration> {
    let mut total = 0.0;
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..end].parse().ok()?;
        let unit_end = rest[end..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |more| end + more);
        total += value
            * match &rest[end..unit_end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 0.001,
                _ => return None,
            };
        rest = &rest[unit_end..];
    }
    Duration::try_from_secs_f64(total).ok()
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn wait(headers: &[(&'static str, &'static str)], body: &str) -> Option<u128> {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        of(&headers, body.as_bytes()).map(|wait| wait.as_millis())
    }

    #[test]
    fn every_spelling_is_understood_and_nonsense_is_ignored() {
        assert_eq!(wait(&[("retry-after", "3")], ""), Some(3_000));
        assert_eq!(wait(&[("retry-after", "3"), ("retry-after-ms", "250")], ""), Some(250));
        assert_eq!(wait(&[("x-ms-retry-after-ms", "1500")], ""), Some(1_500));
        let dates = [("date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("retry-after", "Sun, 06 Nov 1994 08:50:07 GMT")];
        assert_eq!(wait(&dates, ""), Some(30_000));
        let resets = [
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-reset-requests", "1m12s"),
            ("x-ratelimit-remaining-tokens", "500"),
            ("x-ratelimit-reset-tokens", "6h0m0s"),
        ];
        assert_eq!(wait(&resets, ""), Some(72_000));
        assert_eq!(wait(&[], r#"{"error":{"details":[{"retryDelay":"34.5s"}]}}"#), Some(34_500));
        assert_eq!(wait(&[], "Please retry after 7 seconds."), Some(7_000));
        for nonsense in ["-1", "soon", "1e99", "900000"] {
            assert_eq!(wait(&[("retry-after", nonsense)], ""), None, "{nonsense}");
        }
    }

    #[test]
    fn durations_of_one_or_several_units_are_read() {
        for (text, milliseconds) in [("36ms", 36), ("20s", 20_000), ("1h2m3.5s", 3_723_500), ("6m0s", 360_000)] {
            assert_eq!(duration(text).unwrap().as_millis(), milliseconds, "{text}");
        }
        assert!(duration("5 parsecs").is_none() && duration("s").is_none());
    }
}
