//! What an operator does with a ledger as a whole: export, backup, restore, erasure of an end user.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use berry_core::money::NanoUsd;
use serde_json::{Value as Json, json};

use crate::query::{Filter, Questions, Row};
use crate::record::Rest;
use crate::store::sqlite::{Sqlite, beside};
use crate::store::{Sql, StoreError, Value};
use crate::{Ledger, QueryError, Store, writer};

/// Rows that erasure looks at or changes in one transaction.
const ERASE_STEP: usize = 1000;

/// How rows are exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// RFC 4180, with a line of names first and attempts as JSON.
    Csv,
    /// One JSON object a line.
    JsonLines,
}

/// Why a backup was not restored. The database is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It is not a sound ledger.
    #[error("{path} is not a sound ledger: {reason}")]
    Unsound {
        /// The backup.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A server uses the ledger.
    #[error("the ledger is in use: stop the server first")]
    InUse,
    /// A file could not be read or written.
    #[error("{path}: {reason}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
}

impl Ledger {
    /// Writes every row that matches, newest first. Nothing is held but a few thousand rows. How many there were.
    pub fn export(&self, filter: &Filter, format: Format, out: &mut dyn Write) -> Result<u64, QueryError> {
        self.flush()?;
        let mut sql = writer::open_reader(&self.options.store)?;
        let failed = |error: io::Error| StoreError::Away(format!("the export cannot be written: {error}"));
        if format == Format::Csv {
            writeln!(out, "{}", COLUMNS.join(",")).map_err(failed)?;
        }
        let mut count = 0;
        let mut questions = Questions { sql: &mut *sql, now_us: (self.options.now_us)() };
        questions.each_row(filter, None, None, &mut |row| {
            count += 1;
            match format {
                Format::Csv => write_csv(&row, out),
                Format::JsonLines => writeln!(out, "{}", row.to_json()),
            }
            .map_err(failed)?;
            Ok(true)
        })?;
        out.flush().map_err(failed)?;
        Ok(count)
    }

    /// Copies everything that was appended into one new SQLite file, while requests go on. Only of an SQLite ledger: PostgreSQL has
    /// tools of its own.
    pub fn backup(&self, to: &Path) -> Result<(), QueryError> {
        self.flush()?;
        let Some(path) = self.options.store.sqlite() else {
            return Err(QueryError("a PostgreSQL ledger is backed up with pg_dump".into()));
        };
        if to.exists() {
            return Err(QueryError(format!("{} is there already", to.display())));
        }
        let result = Sqlite::open_reader(path).and_then(|mut sql| sql.backup(to));
        if result.is_err() {
            // Half a backup must not be taken for one.
            let _ = std::fs::remove_file(to);
        }
        Ok(result?)
    }

    /// Forgets an end user: in every row, in the journal and in what the file still holds of them. Sums have no end users. How many
    /// rows it was.
    pub fn erase_end_user(&self, end_user: &str) -> Result<u64, QueryError> {
        self.flush()?;
        let mut sql = writer::open(&self.options.store)?;
        let erased = erase(&mut *sql, end_user)?;
        // Everything is in the database; the journal's old segments go.
        self.shared.journal.begin_segment().map_err(|error| QueryError(format!("journal: {error}")))?;
        self.flush()?;
        Ok(erased)
    }
}

fn erase(sql: &mut dyn Sql, end_user: &str) -> Result<u64, StoreError> {
    let (mut after, mut erased) = (i64::MIN, 0);
    let text =
        format!("SELECT id, rest FROM request WHERE id > ?1 AND {} ORDER BY id LIMIT {ERASE_STEP}", sql.rest_holds(2));
    loop {
        let mut held = Vec::new();
        sql.query(&text, &[Value::Int(after), Value::Blob(end_user.as_bytes())], &mut |row| {
            held.push((row.int(0)?.unwrap_or_default(), row.blob(1)?.unwrap_or_default().to_vec()));
            Ok(true)
        })?;
        let Some((last, _)) = held.last() else { break };
        after = *last;
        sql.begin()?;
        for (id, rest) in &held {
            // Its bytes may be those of something else.
            let Some(rest) = Rest::decode(rest).filter(|rest| rest.end_user == Some(end_user)) else { continue };
            let without = Rest { end_user: None, ..rest }.encode();
            erased +=
                sql.execute("UPDATE request SET rest = ?2 WHERE id = ?1", &[(*id).into(), Value::Blob(&without)])?;
        }
        sql.commit()?;
    }
    sql.empty_log()?;
    Ok(erased)
}

/// Puts a backup in the place of a ledger that no process uses. The backup is checked whole first; the database that was there is
/// kept beside it, and its new name is the answer. What the journal still holds is brought in by the next start.
pub fn restore(store: &Store, journal: &Path, backup: &Path, now_us: i64) -> Result<Option<PathBuf>, RestoreError> {
    let unsound = |reason: String| RestoreError::Unsound { path: backup.to_owned(), reason };
    let Some(path) = store.sqlite() else { return Err(unsound("a PostgreSQL ledger is restored with psql".into())) };
    let file = |path: &Path| {
        let path = path.to_owned();
        move |reason| RestoreError::File { path, reason }
    };
    let _lock = crate::journal::lock(journal).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => RestoreError::InUse,
        _ => file(journal)(error),
    })?;
    if !backup.is_file() {
        return Err(file(backup)(io::ErrorKind::NotFound.into()));
    }
    // Into a copy, so that neither the check nor a migration touches the backup, and the swap is one rename.
    let copy = beside(path, ".restoring");
    let prepared = std::fs::copy(backup, &copy).map_err(file(&copy)).and_then(|_| {
        let checked = Sqlite::open_reader(&copy).and_then(|mut sql| sql.full_check());
        checked.and_then(|()| Sqlite::open(&copy).map(drop)).map_err(|error| unsound(error.to_string()))
    });
    if let Err(error) = prepared {
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(beside(&copy, suffix));
        }
        return Err(error);
    }
    let kept = beside(path, &format!(".before-restore-{}", now_us / 1_000_000));
    let was_there = path.exists();
    for suffix in ["", "-wal", "-shm"] {
        let from = beside(path, suffix);
        if from.exists() {
            std::fs::rename(&from, beside(&kept, suffix)).map_err(file(&from))?;
        }
    }
    std::fs::rename(&copy, path).map_err(file(path))?;
    Ok(was_there.then_some(kept))
}

impl Row {
    /// The row as clients and exports get it: times in milliseconds, the cost as an exact number of dollars.
    pub fn to_json(&self) -> Json {
        let attempts: Vec<Json> = self
            .attempts
            .iter()
            .map(|attempt| {
                json!({
                    "provider": attempt.provider,
                    "model": attempt.model,
                    "reason": attempt.reason,
                    "outcome": attempt.outcome,
                    "status": attempt.status,
                    "started_ms": millis(attempt.started_us),
                    "ttft_ms": attempt.ttft_us.map(millis),
                    "duration_ms": millis(attempt.duration_us),
                })
            })
            .collect();
        json!({
            "time": time_text(self.time_us),
            "request_id": self.request_id.as_str(),
            "client_request_id": self.client_request_id,
            "user": self.user,
            "end_user": self.end_user,
            "labels": self.labels,
            "model": self.model,
            "provider": self.provider,
            "upstream_model": self.upstream_model,
            "status": self.status,
            "stream": self.stream,
            "attempts": attempts,
            "ttft_ms": self.ttft_us.map(millis),
            "duration_ms": millis(self.duration_us),
            "usage": {
                "input_tokens": self.usage.input_tokens,
                "cached_tokens": self.usage.cached_tokens,
                "cache_write_tokens": self.usage.cache_write_tokens,
                "output_tokens": self.usage.output_tokens,
                "reasoning_tokens": self.usage.reasoning_tokens,
                "estimated": self.usage.estimated,
                "cache_write_1h_tokens": self.usage.cache_write_1h_tokens,
                "audio_input_tokens": self.usage.audio_input_tokens,
                "image_input_tokens": self.usage.image_input_tokens,
                "audio_output_tokens": self.usage.audio_output_tokens,
                "image_output_tokens": self.usage.image_output_tokens,
                "server_tool_calls": self.usage.server_tool_calls,
                "tier": self.usage.tier,
            },
            "cost_usd": self.cost.map(usd_text),
            "priced": self.priced,
            "reported_cost_usd": self.usage.reported_cost.map(usd_text),
            "error_class": self.error_class,
        })
    }
}

/// The columns of CSV. Parts of usage stand on their own.
const COLUMNS: [&str; 22] = [
    "time",
    "request_id",
    "client_request_id",
    "user",
    "end_user",
    "labels",
    "model",
    "provider",
    "upstream_model",
    "status",
    "stream",
    "attempts",
    "ttft_ms",
    "duration_ms",
    "input_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "estimated",
    "cost_usd",
    "error_class",
];

fn write_csv(row: &Row, out: &mut dyn Write) -> io::Result<()> {
    let json = row.to_json();
    let fields = COLUMNS.map(|column| match json.get(column).or_else(|| json["usage"].get(column)) {
        None | Some(Json::Null) => String::new(),
        Some(Json::String(text)) => quoted(text),
        Some(other) => quoted(&other.to_string()),
    });
    writeln!(out, "{}", fields.join(","))
}

/// A field of CSV. What a spreadsheet would take for a formula gets an apostrophe before it: end users and labels are the
/// client's words.
fn quoted(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if formula { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

fn millis(micros: u64) -> Json {
    // Exact: at most three decimals, and whole numbers look like whole numbers.
    if micros.is_multiple_of(1000) { json!(micros / 1000) } else { json!(micros as f64 / 1000.0) }
}

/// An exact number of dollars, with at most nine decimals and no trailing zeros.
pub fn usd_text(cost: NanoUsd) -> String {
    let nanos = cost.as_nanos();
    let (sign, nanos) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    let text = format!("{sign}{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Microseconds since 1970 as RFC 3339 in UTC, with microseconds.
pub fn time_text(time_us: i64) -> String {
    let (days, rest) = (time_us.div_euclid(86_400_000_000), time_us.rem_euclid(86_400_000_000));
    // Days since 0000-03-01, in eras of 400 years: a year that begins in March has its odd day last.
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    let (seconds, micros) = (rest / 1_000_000, rest % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        for (time_us, expected) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400_000_001, "2000-02-29T00:00:00.000001Z"),
            (1_767_571_199_999_999, "2026-01-04T23:59:59.999999Z"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(time_text(time_us), expected);
        }
    }

    #[test]
    fn dollars_are_exact() {
        for (nanos, expected) in [(0, "0"), (1, "0.000000001"), (1_500_000_000, "1.5"), (20_000_000_000, "20")] {
            assert_eq!(usd_text(NanoUsd::from_nanos(nanos)), expected);
        }
    }

    #[test]
    fn fields_cannot_break_a_line_nor_become_a_formula() {
        assert_eq!(quoted("a,b"), "\"a,b\"");
        assert_eq!(quoted("say \"x\"\n"), "\"say \"\"x\"\"\n\"");
        assert_eq!(quoted("=1+1"), "'=1+1");
    }
}
