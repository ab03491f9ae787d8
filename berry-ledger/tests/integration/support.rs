//! A ledger in a folder of its own, and records to put into it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use berry_core::id::RequestId;
use berry_core::money::NanoUsd;
use berry_core::secret::Secret;
use berry_core::usage::{ServiceTier, Usage};
use berry_ledger::{Appended, Attempt, Ledger, Options, Record, Store};

/// 2026-01-05 00:00:00 UTC, a Monday.
pub(crate) const START_US: i64 = 1_767_571_200_000_000;
pub(crate) const MINUTE_US: i64 = 60_000_000;
pub(crate) const HOUR_US: i64 = 60 * MINUTE_US;
pub(crate) const DAY_US: i64 = 24 * HOUR_US;

/// Where a ledger lives over several lives, and its clock.
pub(crate) struct Place {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) now_us: Arc<AtomicI64>,
    /// The address of a PostgreSQL database of its own; SQLite without it.
    postgres: Option<String>,
}

/// Names a PostgreSQL server, as `host=... user=...` without a database, for the tests that every store must pass.
const SERVER: &str = "BERRY_TEST_POSTGRES";

impl Place {
    pub(crate) fn new() -> Self {
        let now_us = Arc::new(AtomicI64::new(START_US + DAY_US));
        Self { folder: tempfile::tempdir().unwrap(), now_us, postgres: None }
    }

    /// On the PostgreSQL server that the environment names, in a new database; on SQLite without one.
    pub(crate) fn of_environment() -> Self {
        static NEXT: AtomicI64 = AtomicI64::new(0);
        let postgres = std::env::var(SERVER).ok().map(|server| {
            let name = format!("test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let mut client = postgres::Client::connect(&format!("{server} dbname=postgres"), postgres::NoTls).unwrap();
            client.batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
            format!("{server} dbname={name}")
        });
        Self { postgres, ..Self::new() }
    }

    /// Makes a database of the first version, with the rows of [`first_rows`], and whatever else a statement adds.
    pub(crate) fn make_first(&self, more: &str) {
        let sums = "requests errors input cached cache_write output reasoning cost ttft_n ttft_us duration_us";
        let sums: Vec<String> = sums.split(' ').map(|sum| format!("{sum} BIGINT NOT NULL")).collect();
        let text = include_str!("first.sql").replace("{sums}", &sums.join(", ")) + more;
        let replaced =
            |words: [(&str, &str); 4]| words.iter().fold(text.clone(), |text, (from, to)| text.replace(from, to));
        match &self.postgres {
            None => {
                let words = [
                    ("{identity}", "INTEGER"),
                    ("{key}", "INTEGER"),
                    ("{blob}", "BLOB"),
                    ("{clustered}", " WITHOUT ROWID"),
                ];
                let database = rusqlite::Connection::open(self.database()).unwrap();
                database.execute_batch(&(replaced(words) + "PRAGMA user_version = 1")).unwrap();
            }
            Some(address) => {
                let identity = "BIGINT GENERATED ALWAYS AS IDENTITY";
                let words = [("{identity}", identity), ("{key}", "BIGINT"), ("{blob}", "BYTEA"), ("{clustered}", "")];
                let version =
                    "CREATE TABLE ledger_version (version BIGINT NOT NULL); INSERT INTO ledger_version VALUES (1)";
                let mut client = postgres::Client::connect(address, postgres::NoTls).unwrap();
                client.batch_execute(&(replaced(words).replace("X'", "'\\x") + version)).unwrap();
            }
        }
    }

    /// Has the database do something behind the ledger's back; what it says against it.
    pub(crate) fn execute(&self, statement: &str) -> Result<(), String> {
        match &self.postgres {
            None => {
                let database = rusqlite::Connection::open(self.database()).unwrap();
                database.execute_batch(statement).map_err(|error| error.to_string())
            }
            Some(address) => {
                let mut client = postgres::Client::connect(address, postgres::NoTls).unwrap();
                client
                    .batch_execute(statement)
                    .map_err(|error| error.as_db_error().map_or_else(String::new, |said| said.message().to_owned()))
            }
        }
    }

    /// The same in a transaction, which the returned closure commits.
    pub(crate) fn begin(&self, statement: &str) -> Box<dyn FnOnce()> {
        let begun = format!("BEGIN; {statement}");
        match &self.postgres {
            None => {
                let database = rusqlite::Connection::open(self.database()).unwrap();
                database.execute_batch(&begun).unwrap();
                Box::new(move || database.execute_batch("COMMIT").unwrap())
            }
            Some(address) => {
                let mut client = postgres::Client::connect(address, postgres::NoTls).unwrap();
                client.batch_execute(&begun).unwrap();
                Box::new(move || client.batch_execute("COMMIT").unwrap())
            }
        }
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.folder.path().join("ledger.db")
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.folder.path().join("journal")
    }

    pub(crate) fn options(&self) -> Options {
        let now_us = Arc::clone(&self.now_us);
        let now = Arc::new(move || now_us.load(Ordering::Relaxed));
        let store = match &self.postgres {
            Some(address) => Store::Postgres(Secret::new(address.clone())),
            None => Store::Sqlite(self.database()),
        };
        Options::new(self.journal(), store, 7, now)
    }

    pub(crate) fn open(&self) -> Ledger {
        Ledger::open(self.options()).unwrap()
    }

    /// With a database that can never be opened, so that nothing leaves the journal.
    pub(crate) fn options_without_database(&self) -> Options {
        Options { store: Store::Sqlite(self.folder.path().join("missing").join("ledger.db")), ..self.options() }
    }

    /// Leaves so many records of one length in the journal: where each ends, and the one segment.
    pub(crate) fn leave(&self, records: u64) -> (Vec<usize>, PathBuf) {
        const HEAD: usize = 8;
        let ledger = Ledger::open(self.options_without_database()).unwrap();
        append(&ledger, 0..records);
        drop(ledger);
        let [segment] = &segments(&self.journal())[..] else { panic!("one segment") };
        let length = segment.metadata().unwrap().len() as usize - HEAD;
        let ends = (1..=records as usize).map(|record| HEAD + length / records as usize * record).collect();
        (ends, segment.clone())
    }
}

/// The segments of a journal, oldest first.
pub(crate) fn segments(journal: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(journal).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|end| end == "journal")).collect();
    found.sort();
    found
}

pub(crate) const ATTEMPT: Attempt<'static> = Attempt {
    provider: "openai",
    model: "gpt-4o",
    reason: "strategy",
    outcome: "success",
    status: 200,
    started_us: 150,
    ttft_us: Some(9_000),
    duration_us: 19_000,
};

/// An ordinary request, `counter` milliseconds after the start.
pub(crate) fn record(counter: u64) -> Record<'static> {
    Record {
        time_us: START_US + counter as i64 * 1000,
        request_id: RequestId::new(42, counter),
        client_request_id: None,
        user: Some("team_a"),
        end_user: None,
        labels: None,
        model: Some("fast"),
        provider: Some("openai"),
        upstream_model: Some("gpt-4o"),
        status: 200,
        stream: false,
        ttft_us: Some(9_200),
        duration_us: 20_000,
        usage: Usage { input_tokens: Some(100), output_tokens: Some(20), ..Usage::default() },
        cost: Some(NanoUsd::from_nanos(1_000)),
        priced: true,
        error_class: None,
        attempts: &[ATTEMPT],
    }
}

/// A request with everything that can be recorded of one.
pub(crate) fn full_record(counter: u64) -> Record<'static> {
    const ATTEMPTS: &[Attempt<'static>] = &[
        Attempt { provider: "azure", outcome: "rate_limited", status: 429, ttft_us: None, ..ATTEMPT },
        Attempt { reason: "retry", started_us: 30_000, ..ATTEMPT },
    ];
    let usage = Usage {
        input_tokens: Some(100),
        cached_tokens: Some(60),
        cache_write_tokens: Some(0),
        cache_write_1h_tokens: Some(3),
        output_tokens: Some(50),
        reasoning_tokens: Some(20),
        tier: Some(ServiceTier::Flex),
        reported_cost: Some(NanoUsd::from_nanos(77)),
        estimated: true,
        ..Usage::default()
    };
    Record {
        client_request_id: Some("job-7"),
        end_user: Some("é-user"),
        labels: Some("team=a,job=7"),
        stream: true,
        error_class: Some("stream_incomplete"),
        usage,
        attempts: ATTEMPTS,
        ..record(counter)
    }
}

/// What [`Place::make_first`] has: ordinary, full, and without all that may be missing.
pub(crate) fn first_rows() -> [Record<'static>; 3] {
    let bare = Record { error_class: Some("cancelled"), ..bare_record(3_000_000) };
    [record(1), full_record(5), bare]
}

/// One without all that may be missing.
pub(crate) fn bare_record(counter: u64) -> Record<'static> {
    Record {
        user: None,
        model: None,
        provider: None,
        upstream_model: None,
        status: 0,
        ttft_us: None,
        usage: Usage::default(),
        cost: None,
        attempts: &[],
        ..record(counter)
    }
}

/// Appends ordinary requests.
pub(crate) fn append(ledger: &Ledger, counters: std::ops::Range<u64>) {
    for counter in counters {
        assert_eq!(ledger.append(&record(counter)), Appended::Written);
    }
}
