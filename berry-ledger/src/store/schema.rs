//! The tables, and how they came to be.

use super::{Cells, Sql, StoreError, Value};
use crate::first;

/// One row of `request`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    pub(crate) id: i64,
    /// The number of its user; 0 = none.
    pub(crate) user: i64,
    /// The number of its [`Shape`].
    pub(crate) shape: i64,
    /// See [`crate::record::Rest`].
    pub(crate) rest: &'a [u8],
}

/// What many rows have in common, with numbers for names; a row of `shape`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    pub(crate) process: i64,
    pub(crate) model: i64,
    pub(crate) provider: i64,
    pub(crate) upstream: i64,
    pub(crate) error: i64,
    pub(crate) status: i64,
    pub(crate) flags: i64,
}

impl Shape {
    /// Its number, which it gets when it has none.
    pub(crate) fn id(&self, sql: &mut dyn Sql) -> Result<i64, StoreError> {
        let Self { process, model, provider, upstream, error, status, flags } = *self;
        let values = [process, model, provider, upstream, error, status, flags].map(Value::Int);
        let ask = "SELECT id FROM shape WHERE process_id = ?1 AND model_id = ?2 AND provider_id = ?3 \
                   AND upstream_id = ?4 AND error_id = ?5 AND status = ?6 AND flags = ?7";
        if let Some(id) = sql.number(ask, &values)? {
            return Ok(id);
        }
        let make = "INSERT INTO shape (process_id, model_id, provider_id, upstream_id, error_id, status, flags) \
                    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING";
        sql.execute(make, &values)?;
        sql.number(ask, &values)?.ok_or_else(|| StoreError::Away("a shape was not taken".into()))
    }

    /// The one with this number.
    pub(crate) fn of(sql: &mut dyn Sql, id: i64) -> Result<Self, StoreError> {
        let mut found = Self::default();
        let text =
            "SELECT process_id, model_id, provider_id, upstream_id, error_id, status, flags FROM shape WHERE id = ?1";
        sql.query(text, &[id.into()], &mut |row| {
            found = Self::read(row, 0)?;
            Ok(false)
        })?;
        Ok(found)
    }

    /// The one whose columns begin at this one.
    pub(crate) fn read(row: &dyn Cells, first: usize) -> Result<Self, StoreError> {
        let number = |column| row.int(first + column).map(Option::unwrap_or_default);
        Ok(Self {
            process: number(0)?,
            model: number(1)?,
            provider: number(2)?,
            upstream: number(3)?,
            error: number(4)?,
            status: number(5)?,
            flags: number(6)?,
        })
    }
}

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

/// What each version changes. `{blob}` and `{clustered}` differ between the databases.
const MIGRATIONS: [&[&str]; 3] = [FIRST, SHAPES, &["DROP TABLE request_1"]];

/// The version in which rows move from the table of the first into that of today.
const MOVING: i64 = 2;

const FIRST: &[&str] = &[
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
];

/// A row costs by its columns, and few of them are asked for by the database itself.
const SHAPES: &[&str] = &[
    "ALTER TABLE request RENAME TO request_1",
    "CREATE TABLE shape (id INTEGER PRIMARY KEY, process_id BIGINT NOT NULL, model_id BIGINT NOT NULL, \
     provider_id BIGINT NOT NULL, upstream_id BIGINT NOT NULL, error_id BIGINT NOT NULL, status BIGINT NOT NULL, \
     flags BIGINT NOT NULL, UNIQUE (process_id, model_id, provider_id, upstream_id, error_id, status, flags))",
    "CREATE TABLE request (id BIGINT PRIMARY KEY, user_id BIGINT NOT NULL, shape_id BIGINT NOT NULL, rest {blob} NOT NULL)",
];

/// The version that this program writes.
pub(crate) const VERSION: i64 = MIGRATIONS.len() as i64;

/// Words that differ between the databases.
pub(crate) struct Dialect {
    pub(crate) blob: &'static str,
    pub(crate) clustered: &'static str,
    pub(crate) id: &'static str,
}

/// Brings a database to the version of this program, in transactions of its own.
pub(crate) fn upgrade(sql: &mut dyn Sql, dialect: &Dialect) -> Result<(), StoreError> {
    loop {
        sql.begin()?;
        let done = step(sql, dialect).and_then(|done| sql.commit().map(|()| done));
        match done {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => {
                sql.rollback();
                return Err(error);
            }
        }
    }
}

/// One transaction of an upgrade. Whether it was the last.
fn step(sql: &mut dyn Sql, dialect: &Dialect) -> Result<bool, StoreError> {
    let found = sql.lock_version()?;
    if found > VERSION {
        return Err(StoreError::TooNew { found, known: VERSION });
    }
    if found == MOVING && first::move_rows(sql)? {
        return Ok(false);
    }
    let wanted = if found < MOVING { MOVING } else { VERSION };
    let sums = SUMS.map(|sum| format!("{sum} BIGINT NOT NULL")).join(", ");
    let versions = usize::try_from(found).unwrap_or(0)..usize::try_from(wanted).unwrap_or(0);
    for statement in MIGRATIONS[versions].iter().flat_map(|version| version.iter()) {
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
    if found < wanted {
        sql.set_version(wanted)?;
    }
    Ok(wanted == VERSION)
}
