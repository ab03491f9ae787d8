//! The ledger: one row for each request, with its attempts, tokens and cost.
//!
//! [`Ledger::append`] writes a [`Record`] to a journal and returns at once; a thread fills the database from it. The journal is the
//! only queue: bounded by bytes, and what is in it survives the death of the process. When the database is away, rows wait there;
//! when the journal is full, rows are dropped and counted, and requests are served all the same.
//!
//! Questions, [`Ledger::flush`], [`Ledger::sync`] and everything an operator does block; an asynchronous program calls them where
//! blocking is allowed.
//!
//! Left out on purpose: knowledge of HTTP, of prices and of the configuration. Clocks come in as arguments.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use berry_core::id::RequestId;
use berry_core::money::NanoUsd;
use berry_core::secret::Secret;
use parking_lot::{Condvar, Mutex};

mod first;
mod histogram;
mod journal;
mod map;
mod ops;
mod query;
mod record;
mod rollup;
mod store;
mod tail;
mod writer;

pub use histogram::Histogram;
pub use journal::Appended;
pub use ops::{Format, RestoreError, restore, time_text, usd_text};
pub use query::{Figures, Filter, Group, Latencies, PAGE_MAX, Page, Row, Step, Total};
pub use record::{Attempt, AttemptRow, Record};

use journal::{Bounds, Journal};
use query::Questions;
use store::{Sql, StoreError};
use writer::{Shared, State, Writer};

/// Where rows live.
#[derive(Clone, Debug)]
pub enum Store {
    /// An SQLite file.
    Sqlite(PathBuf),
    /// A PostgreSQL database, by its address, which may hold a password.
    Postgres(Secret),
}

impl Store {
    fn sqlite(&self) -> Option<&std::path::Path> {
        match self {
            Self::Sqlite(path) => Some(path),
            Self::Postgres(_) => None,
        }
    }
}

/// How a ledger works.
#[derive(Clone)]
pub struct Options {
    /// Folder of the journal; made when it is not there. One process at a time.
    pub journal: PathBuf,
    /// Where rows live.
    pub store: Store,
    /// Days that rows are kept; `None` = for ever. What users spent each day is kept for ever.
    pub retention_days: Option<u32>,
    /// Largest size of the journal, bytes: how much may wait for the database.
    pub journal_max_bytes: u64,
    /// Size of one file of the journal, bytes.
    pub segment_bytes: u64,
    /// Most that waits in memory while the disk takes nothing, bytes.
    pub memory_max_bytes: usize,
    /// Now: microseconds since 1970 in UTC.
    pub now_us: Arc<dyn Fn() -> i64 + Send + Sync>,
    /// A number drawn once for each process; names a new journal.
    pub process: u64,
}

impl Options {
    /// Usual sizes: 256 MiB of journal in files of 8 MiB, 4 MiB of memory.
    pub fn new(journal: PathBuf, store: Store, process: u64, now_us: Arc<dyn Fn() -> i64 + Send + Sync>) -> Self {
        Self {
            journal,
            store,
            retention_days: None,
            journal_max_bytes: 256 << 20,
            segment_bytes: 8 << 20,
            memory_max_bytes: 4 << 20,
            now_us,
            process,
        }
    }
}

/// Why a ledger cannot be opened. A database that is away is no reason: rows wait in the journal.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder of the journal cannot be used.
    #[error("the journal in {path} cannot be opened")]
    Journal {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No thread could be started.
    #[error("the thread of the ledger cannot be started")]
    Thread(#[source] std::io::Error),
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct QueryError(String);

impl From<StoreError> for QueryError {
    fn from(error: StoreError) -> Self {
        Self(error.to_string())
    }
}

/// How a ledger is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Rows reach the database.
    Ok,
    /// Rows wait: the database or the disk takes none.
    Behind,
    /// Rows are being lost: the journal is full as well, and the last record was dropped.
    Losing,
}

/// How a ledger is, in figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// In one word.
    pub condition: Condition,
    /// Why it is not well, or what an operator should know.
    pub reason: Option<String>,
    /// Rows of this process that are not in the database yet.
    pub lag_rows: u64,
    /// Bytes of the journal on disk.
    pub journal_bytes: u64,
    /// Rows that were lost since the start because nothing took them.
    pub dropped: u64,
    /// Rows that the database took since the start, replayed ones included.
    pub stored: u64,
    /// Rows that were there already.
    pub duplicates: u64,
    /// Bytes of the journal that could not be read back: a torn end, or damage.
    pub lost_bytes: u64,
}

/// The ledger of one process.
pub struct Ledger {
    shared: Arc<Shared>,
    options: Options,
    /// With the number of the thread's connection that it was opened beside.
    reader: Mutex<Option<(u64, Box<dyn Sql>)>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Ledger {
    /// Opens the journal and starts the thread, which opens the database. What an earlier process left in the journal is brought in.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let bounds = Bounds {
            journal_max: options.journal_max_bytes,
            segment: options.segment_bytes,
            memory_max: options.memory_max_bytes,
        };
        let journal = Journal::open(&options.journal, bounds, options.process.cast_signed())
            .map_err(|source| OpenError::Journal { path: options.journal.clone(), source })?;
        let shared = Arc::new(Shared {
            journal,
            pending: AtomicBool::new(false),
            state: Mutex::new(State::default()),
            wake: Condvar::new(),
            done: Condvar::new(),
        });
        let writer = Writer::new(Arc::clone(&shared), options.clone());
        let thread =
            std::thread::Builder::new().name("ledger".into()).spawn(move || writer.run()).map_err(OpenError::Thread)?;
        Ok(Self { shared, options, reader: Mutex::new(None), thread: Mutex::new(Some(thread)) })
    }

    /// Records a request. Returns at once; what is [`Appended::Written`] survives the death of this process.
    pub fn append(&self, record: &Record<'_>) -> Appended {
        let appended = self.shared.journal.append(record);
        // It is set nearly always, and a look leaves it in the caches of all cores. Where the thread clears it behind our back, it reads
        // the journal after that, and then ours is in it.
        if !self.shared.pending.load(Ordering::Acquire) && !self.shared.pending.swap(true, Ordering::AcqRel) {
            // Under the lock, so that the thread is either waiting or has not looked yet.
            let _state = self.shared.state.lock();
            self.shared.wake.notify_one();
        }
        appended
    }

    /// Brings everything that was appended before to the disk, so that it survives a power cut. Blocks for as long as the disk takes;
    /// several that wait share one write.
    pub fn sync(&self) -> std::io::Result<()> {
        self.shared.journal.sync()
    }

    /// Waits until everything that was appended is in the database and in its sums. An error says why it is not.
    pub fn flush(&self) -> Result<(), QueryError> {
        let mut state = self.shared.state.lock();
        if !state.stopped {
            state.flush_asked += 1;
            let asked = state.flush_asked;
            self.shared.wake.notify_one();
            while state.flush_done < asked && !state.stopped {
                self.shared.done.wait(&mut state);
            }
        }
        state.trouble.clone().map_or(Ok(()), |trouble| Err(QueryError(trouble)))
    }

    /// Brings in what is waiting, if the database takes it, and ends the thread. What is appended later waits for the next process.
    pub fn close(&self) {
        self.shared.state.lock().stop = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.lock().take() {
            // A panic of the thread is told by the panic hook.
            let _ = thread.join();
            self.shared.journal.finish();
        }
        // Not here: this may be a thread of asynchronous tasks, where a connection to PostgreSQL must not end.
        if let Some(reader) = self.reader.lock().take().filter(|_| self.options.store.sqlite().is_none()) {
            let _ = std::thread::spawn(move || drop(reader));
        }
    }

    /// How it is.
    pub fn status(&self) -> Status {
        let level = self.shared.journal.level();
        let state = self.shared.state.lock();
        let condition = match (&state.trouble, &level.error) {
            _ if level.losing => Condition::Losing,
            (None, None) => Condition::Ok,
            _ => Condition::Behind,
        };
        let reason = level.error.map(|error| format!("journal: {error}"));
        Status {
            condition,
            reason: reason.or_else(|| state.trouble.clone()).or_else(|| state.notice.clone()),
            lag_rows: (level.written + level.held).saturating_sub(state.own),
            journal_bytes: level.bytes,
            dropped: level.dropped,
            stored: state.stored,
            duplicates: state.duplicates,
            lost_bytes: state.lost_bytes,
        }
    }

    /// Rows that match, newest first, at most [`PAGE_MAX`]; `before` is the [`Page::next`] of the page before.
    pub fn requests(&self, filter: &Filter, before: Option<i64>, limit: usize) -> Result<Page, QueryError> {
        self.ask(|questions| questions.page(filter, before, limit))
    }

    /// One request by our name for it.
    pub fn request(&self, id: RequestId) -> Result<Option<Row>, QueryError> {
        self.ask(|questions| questions.find(id))
    }

    /// Sums of what matches, by group and by step; in the order of time, then of cost, dearest first.
    pub fn totals(&self, filter: &Filter, group: Option<&Group>, step: Option<Step>) -> Result<Vec<Total>, QueryError> {
        self.ask(|questions| questions.totals(filter, group, step))
    }

    /// Latencies of what matches, by [`Group::Model`], [`Group::Provider`], [`Group::UpstreamModel`] or all together. The period
    /// is widened to whole minutes, beyond the last two days to whole hours.
    pub fn latencies(&self, filter: &Filter, group: Option<&Group>) -> Result<Vec<Latencies>, QueryError> {
        self.ask(|questions| questions.latencies(filter, group))
    }

    /// What each user spent from a moment on, exactly.
    pub fn spent_since(&self, from_us: i64) -> Result<Vec<(String, NanoUsd)>, QueryError> {
        let filter = Filter { from_us: Some(from_us), ..Filter::default() };
        let totals = self.totals(&filter, Some(&Group::User), None)?;
        let spent = |total: Total| total.key.map(|user| (user, NanoUsd::from_nanos(total.figures.cost_nanos)));
        Ok(totals.into_iter().filter_map(spent).collect())
    }

    /// Everything that was appended is in the answer, unless the database is away from the thread but not from here.
    fn ask<T>(&self, question: impl FnOnce(&mut Questions<'_>) -> Result<T, StoreError>) -> Result<T, QueryError> {
        self.flush()?;
        let connections = self.shared.state.lock().connections;
        let mut reader = self.reader.lock();
        let mut sql = match reader.take() {
            Some((beside, sql)) if beside == connections => sql,
            _ => writer::open_reader(&self.options.store)?,
        };
        let answer = question(&mut Questions { sql: &mut *sql, now_us: (self.options.now_us)() });
        // After an error the connection may be of no use any more.
        if answer.is_ok() {
            *reader = Some((connections, sql));
        }
        Ok(answer?)
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.close();
    }
}
