//! Where rows live: one schema and one set of statements over SQLite and PostgreSQL.
//!
//! Statements are written with `?1`, `?2` for parameters and use only what both databases understand. All numbers are 64 bits.

pub(crate) mod postgres;
pub(crate) mod schema;
pub(crate) mod sqlite;

/// Why the database did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoreError {
    /// Its file is not, or no longer, a sound database.
    #[error("the database is damaged: {0}")]
    Damaged(String),
    /// It is of a later version of this program.
    #[error("the database has version {found}, this program knows up to {known}")]
    TooNew { found: i64, known: i64 },
    /// It cannot be reached, is full, is locked: worth another try.
    #[error("{0}")]
    Away(String),
}

/// A parameter of a statement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Int(i64),
    Text(&'a str),
    Blob(&'a [u8]),
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

/// A row of an answer.
pub(crate) trait Cells {
    /// A number; `None` for NULL.
    fn int(&self, column: usize) -> Result<Option<i64>, StoreError>;
    /// A text; `None` for NULL.
    fn text(&self, column: usize) -> Result<Option<&str>, StoreError>;
    /// Bytes; `None` for NULL.
    fn blob(&self, column: usize) -> Result<Option<&[u8]>, StoreError>;
}

/// Takes the rows of an answer one by one; `false` ends it.
pub(crate) type Each<'e> = &'e mut dyn FnMut(&dyn Cells) -> Result<bool, StoreError>;

/// One connection.
pub(crate) trait Sql: Send {
    /// Runs a statement; how many rows it changed.
    fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64, StoreError>;
    /// Asks.
    fn query(&mut self, sql: &str, values: &[Value<'_>], each: Each<'_>) -> Result<(), StoreError>;
    /// Inserts rows of `request`, and tells for each whether it was new.
    fn insert_requests(&mut self, rows: &[schema::Request<'_>], fresh: &mut Vec<bool>) -> Result<(), StoreError>;
    /// Begins a transaction that writes.
    fn begin(&mut self) -> Result<(), StoreError>;
    /// Ends it.
    fn commit(&mut self) -> Result<(), StoreError>;
    /// Gives it up. A failure means that there is none.
    fn rollback(&mut self);
    /// The version of its tables, 0 when there are none; nobody else changes it before the transaction ends.
    fn lock_version(&mut self) -> Result<i64, StoreError>;
    /// Notes the version of its tables.
    fn set_version(&mut self, version: i64) -> Result<(), StoreError>;
    /// The condition that the rest of a row holds the bytes of a parameter.
    fn rest_holds(&self, parameter: usize) -> String;
    /// What a SELECT ends with that locks what it reads.
    fn for_update(&self) -> &'static str;
    /// Brings the database's own log into its file, so that nothing older than the last change is left of it.
    fn empty_log(&mut self) -> Result<(), StoreError>;
    /// Makes what was committed survive a power cut.
    fn make_durable(&mut self) -> Result<(), StoreError>;

    /// Asks for one number.
    fn number(&mut self, sql: &str, values: &[Value<'_>]) -> Result<Option<i64>, StoreError> {
        let mut found = None;
        self.query(sql, values, &mut |row| {
            found = row.int(0)?;
            Ok(false)
        })?;
        Ok(found)
    }
}
