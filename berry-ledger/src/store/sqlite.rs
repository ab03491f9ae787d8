//! Rows in one SQLite file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, Statement, ToSql};

use super::schema::{self, Dialect, Request};
use super::{Cells, Each, Sql, StoreError, Value};

/// How long a statement waits for another process that writes.
const BUSY: Duration = Duration::from_secs(2);

/// Pages of the log before SQLite moves them into the file: fewer, larger moves write pages that many rows share once.
const CHECKPOINT_PAGES: i64 = 4000;

/// Rows that go in with one statement, which costs less for each of them than statements of one row. With many more, its program
/// and values no longer fit into the first cache.
const ROWS_AT_ONCE: usize = 32;

/// Columns of a row.
const COLUMNS: usize = 4;

const DIALECT: Dialect = Dialect { blob: "BLOB", clustered: " WITHOUT ROWID", id: "id INTEGER PRIMARY KEY" };

pub(crate) struct Sqlite {
    connection: Connection,
    /// Inserts one row, or leaves what is there.
    insert: String,
    /// Inserts [`ROWS_AT_ONCE`] rows, up to one that is there. With `FAIL`, since to take back a part of a statement SQLite would
    /// copy each page before it changes.
    insert_many: String,
}

impl Sqlite {
    /// Opens the file, makes it when it is not there, and brings it to this version. Looks at its head, its schema and the newest
    /// rows, never at all rows.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open(path).map_err(convert)?;
        let mut store = Self::prepare(connection)?;
        store.connection.pragma_update(None, "journal_mode", "wal").map_err(convert)?;
        store.connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES).map_err(convert)?;
        // What is deleted is gone from the file too, not only from its index: erasure relies on it.
        store.connection.pragma_update(None, "secure_delete", "on").map_err(convert)?;
        store.quick_check(path)?;
        schema::upgrade(&mut store, &DIALECT)?;
        Ok(store)
    }

    /// Opens a file that is there, for reading.
    pub(crate) fn open_reader(path: &Path) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let store = Self::prepare(Connection::open_with_flags(path, flags).map_err(convert)?)?;
        store.connection.pragma_update(None, "query_only", true).map_err(convert)?;
        Ok(store)
    }

    fn prepare(connection: Connection) -> Result<Self, StoreError> {
        connection.busy_timeout(BUSY).map_err(convert)?;
        connection.set_prepared_statement_cache_capacity(64);
        connection.pragma_update(None, "synchronous", "normal").map_err(convert)?;
        let into = "INTO request (id, user_id, shape_id, rest) VALUES";
        let row = "(?, ?, ?, ?)";
        let insert = format!("INSERT OR IGNORE {into} {row}");
        let insert_many = format!("INSERT OR FAIL {into} {}", [row; ROWS_AT_ONCE].join(", "));
        Ok(Self { connection, insert, insert_many })
    }

    fn version(&self) -> Result<i64, StoreError> {
        self.connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(convert)
    }

    /// The file is as long as its head says, and the newest rows can be read.
    fn quick_check(&mut self, path: &Path) -> Result<(), StoreError> {
        let pragma = |name: &str| self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let (pages, size) = (pragma("page_count").map_err(convert)?, pragma("page_size").map_err(convert)?);
        let length = std::fs::metadata(path).map_err(|error| StoreError::Away(error.to_string()))?.len();
        let log = std::fs::metadata(beside(path, "-wal")).map_or(0, |log| log.len());
        if log == 0 && (pages * size).cast_unsigned() > length {
            return Err(StoreError::Damaged(format!("{length} bytes of {} are there", pages * size)));
        }
        if self.version()? > 0 {
            self.query("SELECT * FROM request ORDER BY id DESC LIMIT 100", &[], &mut |_| Ok(true))?;
        }
        Ok(())
    }

    /// Reads every page. Takes time in proportion to the file.
    pub(crate) fn full_check(&mut self) -> Result<(), StoreError> {
        let mut verdict = String::new();
        self.query("PRAGMA integrity_check(1)", &[], &mut |row| {
            row.text(0)?.unwrap_or_default().clone_into(&mut verdict);
            Ok(false)
        })?;
        if verdict == "ok" { Ok(()) } else { Err(StoreError::Damaged(verdict)) }
    }

    /// Copies the whole database, as it is at one moment, into a new file.
    pub(crate) fn backup(&mut self, to: &Path) -> Result<(), StoreError> {
        let mut copy = Connection::open(to).map_err(convert)?;
        {
            let backup = Backup::new(&self.connection, &mut copy).map_err(convert)?;
            // In one step: another writer would make it begin again.
            match backup.step(-1).map_err(convert)? {
                StepResult::Done => {}
                other => return Err(StoreError::Away(format!("the copy ended early: {other:?}"))),
            }
        }
        copy.pragma_update(None, "journal_mode", "delete").map_err(convert)
    }
}

/// The path with something added to its name.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Binds rows, except numbers that are `bound` from the last time: users and shapes are often the same from row to row.
fn bind(statement: &mut Statement<'_>, rows: &[Request<'_>], bound: &mut [[i64; 2]]) -> Result<(), StoreError> {
    for (first, (row, bound)) in (1..).step_by(COLUMNS).zip(rows.iter().zip(bound)) {
        statement.raw_bind_parameter(first, row.id).map_err(convert)?;
        for (place, (number, bound)) in (first + 1..).zip([row.user, row.shape].into_iter().zip(bound)) {
            if number != *bound {
                statement.raw_bind_parameter(place, number).map_err(convert)?;
                *bound = number;
            }
        }
        statement.raw_bind_parameter(first + 3, row.rest).map_err(convert)?;
    }
    Ok(())
}

fn convert(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Damaged(error.to_string()),
        _ => StoreError::Away(error.to_string()),
    }
}

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match *self {
            Self::Int(number) => ValueRef::Integer(number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

impl Cells for rusqlite::Row<'_> {
    fn int(&self, column: usize) -> Result<Option<i64>, StoreError> {
        self.get(column).map_err(convert)
    }

    fn text(&self, column: usize) -> Result<Option<&str>, StoreError> {
        let value = self.get_ref(column).map_err(convert)?;
        value.as_str_or_null().map_err(|error| StoreError::Damaged(error.to_string()))
    }

    fn blob(&self, column: usize) -> Result<Option<&[u8]>, StoreError> {
        let value = self.get_ref(column).map_err(convert)?;
        value.as_blob_or_null().map_err(|error| StoreError::Damaged(error.to_string()))
    }
}

impl Sql for Sqlite {
    fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64, StoreError> {
        let mut statement = self.connection.prepare_cached(sql).map_err(convert)?;
        statement.execute(rusqlite::params_from_iter(values)).map(|rows| rows as u64).map_err(convert)
    }

    fn query(&mut self, sql: &str, values: &[Value<'_>], each: Each<'_>) -> Result<(), StoreError> {
        let mut statement = self.connection.prepare_cached(sql).map_err(convert)?;
        let mut rows = statement.query(rusqlite::params_from_iter(values)).map_err(convert)?;
        while let Some(row) = rows.next().map_err(convert)? {
            if !each(row)? {
                break;
            }
        }
        Ok(())
    }

    fn insert_requests(&mut self, rows: &[Request<'_>], fresh: &mut Vec<bool>) -> Result<(), StoreError> {
        fresh.clear();
        let mut many = self.connection.prepare_cached(&self.insert_many).map_err(convert)?;
        let mut one = self.connection.prepare_cached(&self.insert).map_err(convert)?;
        // Nothing is bound in a statement that comes from the cache, and no number of a name or a shape is negative.
        let mut bound_many = [[-1; 2]; ROWS_AT_ONCE];
        let mut bound_one = [[-1; 2]];
        for rows in rows.chunks(ROWS_AT_ONCE) {
            let mut done = 0;
            if rows.len() == ROWS_AT_ONCE {
                bind(&mut many, rows, &mut bound_many)?;
                done = match many.raw_execute() {
                    Ok(inserted) => inserted,
                    Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                        usize::try_from(self.connection.changes()).unwrap_or(0)
                    }
                    Err(error) => return Err(convert(error)),
                };
                fresh.resize(fresh.len() + done, true);
            }
            for row in &rows[done..] {
                bind(&mut one, std::slice::from_ref(row), &mut bound_one)?;
                fresh.push(one.raw_execute().map_err(convert)? > 0);
            }
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        self.execute("BEGIN IMMEDIATE", &[]).map(|_| ())
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.execute("COMMIT", &[]).map(|_| ())
    }

    fn rollback(&mut self) {
        // Some errors have rolled back already; then there is nothing to give up.
        let _ = self.execute("ROLLBACK", &[]);
    }

    fn lock_version(&mut self) -> Result<i64, StoreError> {
        self.version()
    }

    fn set_version(&mut self, version: i64) -> Result<(), StoreError> {
        self.execute(&format!("PRAGMA user_version = {version}"), &[]).map(|_| ())
    }

    fn rest_holds(&self, parameter: usize) -> String {
        format!("instr(rest, ?{parameter}) > 0")
    }

    fn for_update(&self) -> &'static str {
        ""
    }

    fn empty_log(&mut self) -> Result<(), StoreError> {
        self.query("PRAGMA wal_checkpoint(TRUNCATE)", &[], &mut |_| Ok(true))
    }

    fn make_durable(&mut self) -> Result<(), StoreError> {
        self.query("PRAGMA wal_checkpoint(PASSIVE)", &[], &mut |_| Ok(true))
    }
}
