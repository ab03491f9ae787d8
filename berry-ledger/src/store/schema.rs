//! The tables, and how they came to be.

use super::{Sql, StoreError, Value};

/// Columns of `request`.
pub(crate) const REQUEST_COLUMNS: [&str; 23] = [
    "id",
    "process_id",
    "counter",
    "client_request_id",
    "user_id",
    "end_user",
    "labels",
    "model_id",
    "provider_id",
    "upstream_id",
    "error_id",
    "status",
    "flags",
    "ttft_us",
    "duration_us",
    "input",
    "cached",
    "cache_write",
    "output",
    "reasoning",
    "cost",
    "more",
    "attempts",
];

/// One row of `request`, by its columns.
pub(crate) type Request<'a> = [Value<'a>; REQUEST_COLUMNS.len()];

/// A row's key is its time and this many bits more, so that rows lie in the order of time and a replayed row meets itself.
pub(crate) const TIE_BITS: u32 = 10;

/// What is summed up, wherever something is summed up.
pub(crate) const SUMS: [&str; 11] = [
    "requests",
    "errors",
    "input",
    "cached",
    "cache_write",
    "output",
    "reasoning",
    "cost",
    "ttft_n",
    "ttft_us",
    "duration_us",
];

/// Minutes are summed up for this long, seconds.
pub(crate) const MINUTES_KEPT_SECONDS: i64 = 2 * 86_400;

/// What each version adds. `{blob}` and `{clustered}` differ between the databases.
const MIGRATIONS: &[&[&str]] = &[&[
    "CREATE TABLE name (id INTEGER PRIMARY KEY, kind BIGINT NOT NULL, text TEXT NOT NULL, UNIQUE (kind, text))",
    "CREATE TABLE journal (id BIGINT PRIMARY KEY, segment BIGINT NOT NULL, place BIGINT NOT NULL, \
     rolled_segment BIGINT NOT NULL, rolled_place BIGINT NOT NULL)",
    "CREATE TABLE request (id BIGINT PRIMARY KEY, process_id BIGINT NOT NULL, counter BIGINT NOT NULL, \
     client_request_id TEXT, user_id BIGINT NOT NULL, end_user TEXT, labels TEXT, model_id BIGINT NOT NULL, \
     provider_id BIGINT NOT NULL, upstream_id BIGINT NOT NULL, error_id BIGINT NOT NULL, status BIGINT NOT NULL, \
     flags BIGINT NOT NULL, ttft_us BIGINT, duration_us BIGINT NOT NULL, input BIGINT, cached BIGINT, \
     cache_write BIGINT, output BIGINT, reasoning BIGINT, cost BIGINT, more {blob}, attempts {blob})",
    "CREATE TABLE span (process_id BIGINT NOT NULL, slot BIGINT NOT NULL, low BIGINT NOT NULL, high BIGINT NOT NULL, \
     PRIMARY KEY (process_id, slot)){clustered}",
    "CREATE TABLE spend_hour (slot BIGINT NOT NULL, user_id BIGINT NOT NULL, model_id BIGINT NOT NULL, {sums}, \
     PRIMARY KEY (slot, user_id, model_id)){clustered}",
    "CREATE TABLE spend_day (slot BIGINT NOT NULL, user_id BIGINT NOT NULL, model_id BIGINT NOT NULL, {sums}, \
     PRIMARY KEY (slot, user_id, model_id)){clustered}",
    "CREATE TABLE traffic_minute (slot BIGINT NOT NULL, model_id BIGINT NOT NULL, provider_id BIGINT NOT NULL, \
     upstream_id BIGINT NOT NULL, status BIGINT NOT NULL, error_id BIGINT NOT NULL, {sums}, \
     PRIMARY KEY (slot, model_id, provider_id, upstream_id, status, error_id)){clustered}",
    "CREATE TABLE traffic_hour (slot BIGINT NOT NULL, model_id BIGINT NOT NULL, provider_id BIGINT NOT NULL, \
     upstream_id BIGINT NOT NULL, status BIGINT NOT NULL, error_id BIGINT NOT NULL, {sums}, \
     PRIMARY KEY (slot, model_id, provider_id, upstream_id, status, error_id)){clustered}",
    "CREATE TABLE latency_minute (slot BIGINT NOT NULL, model_id BIGINT NOT NULL, provider_id BIGINT NOT NULL, \
     upstream_id BIGINT NOT NULL, ttft {blob} NOT NULL, duration {blob} NOT NULL, \
     PRIMARY KEY (slot, model_id, provider_id, upstream_id)){clustered}",
    "CREATE TABLE latency_hour (slot BIGINT NOT NULL, model_id BIGINT NOT NULL, provider_id BIGINT NOT NULL, \
     upstream_id BIGINT NOT NULL, ttft {blob} NOT NULL, duration {blob} NOT NULL, \
     PRIMARY KEY (slot, model_id, provider_id, upstream_id)){clustered}",
]];

/// The version that this program writes.
pub(crate) const VERSION: i64 = MIGRATIONS.len() as i64;

/// Words that differ between the databases.
pub(crate) struct Dialect {
    pub(crate) blob: &'static str,
    pub(crate) clustered: &'static str,
    pub(crate) id: &'static str,
}

/// Brings a database from `found` to the version of this program, inside the caller's transaction.
pub(crate) fn migrate(sql: &mut dyn Sql, found: i64, dialect: &Dialect) -> Result<(), StoreError> {
    if found > VERSION {
        return Err(StoreError::TooNew { found, known: VERSION });
    }
    let sums = SUMS.map(|sum| format!("{sum} BIGINT NOT NULL")).join(", ");
    for statement in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(0)).flat_map(|version| version.iter()) {
        let text = statement
            .replace("{blob}", dialect.blob)
            .replace("{clustered}", dialect.clustered)
            .replace("{sums}", &sums)
            .replace("id INTEGER PRIMARY KEY", dialect.id)
            // In SQLite only a column of exactly this type is the key of the table itself.
            .replace(
                "request (id BIGINT",
                if dialect.clustered.is_empty() { "request (id BIGINT" } else { "request (id INTEGER" },
            );
        sql.execute(&text, &[])?;
    }
    Ok(())
}
