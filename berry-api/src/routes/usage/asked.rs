//! What a question for usage asks: period, filters, groups, page and form, as they stand in the query of its URL.

use std::time::SystemTime;

use berry_core::error::ErrorKind;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use percent_encoding::percent_decode_str;

use crate::error::ApiError;

/// Most rows of a page, and how many it has where nothing else is asked for.
const PAGE_MAX: usize = 1000;
/// Most columns that sums are made by.
const GROUPS_MAX: usize = 4;

/// In which form an answer is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Format {
    #[default]
    Json,
    /// Everything, as comma-separated values.
    Csv,
    /// Everything, a line of JSON for each.
    Jsonl,
}

/// A question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// Microseconds since 1970.
    pub(super) from_us: Option<i64>,
    pub(super) to_us: Option<i64>,
    pub(super) user: Option<String>,
    pub(super) model: Option<String>,
    pub(super) provider: Option<String>,
    pub(super) status: Option<u16>,
    pub(super) error_class: Option<String>,
    pub(super) end_user: Option<String>,
    pub(super) label: Option<(String, String)>,
    pub(super) group_by: Vec<String>,
    pub(super) limit: Option<usize>,
    pub(super) cursor: Option<String>,
    pub(super) format: Format,
}

impl Asked {
    /// Reads a query.
    ///
    /// # Errors
    /// A name that is not known, or a value that cannot be read.
    pub(super) fn read(query: Option<&str>, now: SystemTime) -> Result<Self, ApiError> {
        let mut asked = Self::default();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let plain = value.replace('+', " ");
            let value = percent_decode_str(&plain).decode_utf8_lossy().into_owned();
            if !value.is_empty() {
                asked.set(name, value, now)?;
            }
        }
        Ok(asked)
    }

    fn set(&mut self, name: &str, value: String, now: SystemTime) -> Result<(), ApiError> {
        match name {
            "from" => self.from_us = Some(time("from", &value, now)?),
            "to" => self.to_us = Some(time("to", &value, now)?),
            "user" => self.user = Some(value),
            "model" => self.model = Some(value),
            "provider" => self.provider = Some(value),
            "status" => {
                let status =
                    value.parse().map_err(|_| wrong("status", "a number, such as 200; 0 when the client left"))?;
                self.status = Some(status);
            }
            "error_class" => self.error_class = Some(value),
            "end_user" => self.end_user = Some(value),
            "label" => {
                let label = value.split_once('=').ok_or_else(|| wrong("label", "`key=value`"))?;
                self.label = Some((label.0.to_owned(), label.1.to_owned()));
            }
            "group_by" => {
                self.group_by = value.split(',').map(|key| key.trim().to_owned()).collect();
                if self.group_by.len() > GROUPS_MAX {
                    return Err(wrong("group_by", "at most four names with commas between"));
                }
            }
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=PAGE_MAX).contains(limit));
                self.limit = Some(limit.ok_or_else(|| wrong("limit", "a number from 1 to 1000"))?);
            }
            "cursor" => self.cursor = Some(value),
            "format" => {
                self.format = match value.as_str() {
                    "json" => Format::Json,
                    "csv" => Format::Csv,
                    "jsonl" => Format::Jsonl,
                    _ => return Err(wrong("format", "`json`, `csv` or `jsonl`")),
                }
            }
            _ => {
                let known = "from, to, user, model, provider, status, error_class, end_user, label, group_by, limit, \
                             cursor, format";
                let error = format!("`{}` is not known here. What can be asked for: {known}.", name.escape_debug());
                return Err(ApiError::new(ErrorKind::InvalidRequest, error));
            }
        }
        Ok(())
    }

    /// Rows of a page.
    pub(super) fn page(&self) -> usize {
        self.limit.unwrap_or(PAGE_MAX)
    }
}

/// A value that is not what it must be.
pub(super) fn wrong(name: &'static str, must_be: &str) -> ApiError {
    ApiError::new(ErrorKind::InvalidRequest, format!("`{name}` must be {must_be}.")).on(name)
}

/// A moment, in microseconds since 1970: a date (its beginning in UTC), a time of RFC 3339, or how long ago (`90m`, `24h`, `7d`).
fn time(name: &'static str, text: &str, now: SystemTime) -> Result<i64, ApiError> {
    let now = Timestamp::try_from(now).unwrap_or(Timestamp::UNIX_EPOCH);
    let moment = ago(text).and_then(|ago| now.checked_sub(ago).ok()).or_else(|| text.parse().ok());
    let date = || Some(text.parse::<Date>().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp());
    let moment = moment.or_else(date).map(Timestamp::as_microsecond);
    moment.ok_or_else(|| wrong(name, "a date (2026-01-31), a time of RFC 3339, or how long ago (90m, 24h, 7d)"))
}

fn ago(text: &str) -> Option<SignedDuration> {
    let (number, hours) = match text.split_at_checked(text.len().checked_sub(1)?)? {
        (number, "d") => (number, 24),
        (number, "h") => (number, 1),
        (number, "m") => return Some(SignedDuration::from_mins(i64::from(number.parse::<u32>().ok()?))),
        _ => return None,
    };
    Some(SignedDuration::from_hours(hours * i64::from(number.parse::<u32>().ok()?)))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    /// 2026-01-02T03:04:05Z
    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_767_323_045)
    }

    #[test]
    fn a_moment_is_a_date_a_time_or_an_age() {
        let check = |text: &str, seconds: Option<i64>| {
            let read = time("from", text, now()).ok();
            assert_eq!(read, seconds.map(|seconds| seconds * 1_000_000), "{text}");
        };
        check("2026-01-02", Some(1_767_312_000));
        check("2026-01-02T03:04:05Z", Some(1_767_323_045));
        check("2026-01-02T04:04:05+01:00", Some(1_767_323_045));
        check("24h", Some(1_767_323_045 - 86_400));
        check("7d", Some(1_767_323_045 - 7 * 86_400));
        check("90m", Some(1_767_323_045 - 5_400));
        for wrong in ["yesterday", "d", "-1d", "2026-13-01", "4294967296h", "99999999d"] {
            check(wrong, None);
        }
    }

    #[test]
    fn what_is_not_known_or_cannot_be_read_is_refused_by_name() {
        let read = |query: &str| Asked::read(Some(query), now());
        let asked = read("user=a%20b&label=team=x+y&group_by=user,%20label:team&limit=5&format=csv&model=").unwrap();
        let expected = Asked {
            user: Some("a b".into()),
            label: Some(("team".into(), "x y".into())),
            group_by: vec!["user".into(), "label:team".into()],
            limit: Some(5),
            format: Format::Csv,
            ..Asked::default()
        };
        assert_eq!(asked, expected);
        for wrong in ["users=a", "limit=0", "limit=1001", "status=ok", "label=team", "format=xml", "group_by=a,b,c,d,e"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
