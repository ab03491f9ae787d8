//! The ledger of this server: one row for each API call of a user, told before the last bytes of its answer leave.
//!
//! Requests without a user (a wrong token) have no row: they are audited in the log, and nobody could fill a disk with them.
//! Where the ledger cannot be opened, or falls behind, the server serves on and says so in `/health`, the log and the metrics;
//! `on_failure = "closed"` refuses requests meanwhile.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use berry_core::config::snapshot::{self, LedgerFallback, LedgerStore};
use berry_core::end_user;
use berry_core::error::ErrorKind;
use berry_core::time::Epoch;
use berry_ledger::{Appended, Attempt, Condition, Ledger, OpenError, Options, QueryError, Record, Status, Store};
use berry_relay::exchange::{End, Facts};
use parking_lot::Mutex;
use serde::Serialize;
use smallvec::SmallVec;
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::app::App;
use crate::error::ApiError;

/// The database, where no path is configured.
const FILE: &str = "ledger.db";
/// The folder of what the database does not have yet.
const JOURNAL: &str = "journal";
/// The folder of backups.
const BACKUPS: &str = "backups";
/// Between two looks at how the ledger is, and two tries to open it.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long the end of the process waits for the database. What it does not take stays in the journal.
const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// Where the records of requests go. Empty until [`Recorder::open`], and for ever where there is no ledger.
#[derive(Default)]
pub struct Recorder {
    open: OnceLock<Opened>,
    /// What could not be opened yet.
    waiting: Mutex<Option<Waiting>>,
}

/// What is opened as soon as that is possible: when the process that has the journal ends, or the folder can be written.
struct Waiting {
    config: snapshot::Ledger,
    directory: PathBuf,
    process: u64,
    /// Why not yet.
    why: String,
}

struct Opened {
    ledger: Ledger,
    fsync: bool,
    /// Where the database is, if it is a file.
    folder: PathBuf,
    /// Where backups go.
    backups: PathBuf,
}

/// How the ledger is, as `/health` has it.
#[derive(Debug, Serialize)]
pub struct Report {
    status: &'static str,
    reason: Option<String>,
    /// Rows that the database does not have yet.
    lag_rows: u64,
    /// Rows that were lost since the start.
    dropped_rows: u64,
}

impl Recorder {
    /// Opens the ledger of the configuration, once. The database in its own thread, so nothing waits for it here.
    ///
    /// # Errors
    /// Why there is none yet. It is kept for `/health`, and [`watch`] tries again.
    pub fn open(&self, config: &snapshot::Ledger, directory: &Path, process: u64) -> Result<(), String> {
        self.try_open(config, directory, process).inspect_err(|why| {
            let (config, directory, why) = (config.clone(), directory.to_owned(), why.clone());
            *self.waiting.lock() = Some(Waiting { config, directory, process, why });
        })
    }

    /// Tries again what could not be opened; whether it is open now. `None` where nothing waits to be opened.
    fn retry(&self) -> Option<bool> {
        let mut waiting = self.waiting.lock();
        let Waiting { config, directory, process, why } = waiting.as_mut()?;
        match self.try_open(config, directory, *process) {
            Ok(()) => *waiting = None,
            Err(error) => *why = error,
        }
        Some(waiting.is_none())
    }

    fn try_open(&self, config: &snapshot::Ledger, directory: &Path, process: u64) -> Result<(), String> {
        let store = match &config.store {
            LedgerStore::Off => return Ok(()),
            LedgerStore::Sqlite(path) => Store::Sqlite(path.clone().unwrap_or_else(|| directory.join(FILE))),
            LedgerStore::Postgres(url) => Store::Postgres(url.clone()),
        };
        let folder = match &store {
            Store::Sqlite(path) => path.parent().unwrap_or(directory).to_owned(),
            Store::Postgres(_) => directory.to_owned(),
        };
        let mut options = Options::new(directory.join(JOURNAL), store, process, Arc::new(now_us));
        options.retention_days = config.retention_days;
        options.journal_max_bytes = config.journal_max_bytes;
        // Several files, so that there is room again as soon as the oldest of them is in the database.
        options.segment_bytes = options.segment_bytes.min(config.journal_max_bytes / 4);
        // Without the path, since `/health` is open to everybody.
        let ledger = Ledger::open(options).map_err(|error| match &error {
            OpenError::Journal { source, .. } => format!("journal: {source}"),
            OpenError::Thread(source) => format!("{error}: {source}"),
        })?;
        // A second opening has no effect: the journal is this process's own already.
        let _ = self.open.set(Opened { ledger, fsync: config.fsync, folder, backups: directory.join(BACKUPS) });
        Ok(())
    }

    fn opened(&self) -> Option<&Opened> {
        self.open.get()
    }

    /// The ledger, for questions.
    pub fn ledger(&self) -> Option<&Ledger> {
        self.opened().map(|opened| &opened.ledger)
    }

    /// Lets a request pass. Where nobody may be served unrecorded, that needs a ledger that takes rows.
    ///
    /// # Errors
    /// 503 while it does not.
    pub fn admit(&self, config: &snapshot::Ledger) -> Result<(), ApiError> {
        if config.on_failure == LedgerFallback::Open || !config.is_on() {
            return Ok(());
        }
        match self.status() {
            Some(Status { condition: Condition::Ok, .. }) => Ok(()),
            _ => Err(ApiError {
                retry_after: Some(LOOK_EVERY),
                ..ApiError::new(
                    ErrorKind::LedgerUnavailable,
                    "Requests cannot be recorded now, and this gateway serves none unrecorded. Try again later.",
                )
            }),
        }
    }

    /// Records a finished request that took so long.
    pub fn record(&self, facts: &Facts, latency: Duration, epoch: &Epoch) {
        let Some(opened) = self.opened() else { return };
        if facts.user.is_none() {
            return;
        }
        let appended = with_record(facts, latency, epoch, |record| opened.ledger.append(record));
        if opened.fsync && appended == Appended::Written {
            // A disk that fails is told by the status of the ledger; the answer is the client's all the same.
            let _ = unhurried(|| opened.ledger.sync());
        }
    }

    /// Its figures; `None` where there is none.
    pub fn status(&self) -> Option<Status> {
        self.ledger().map(Ledger::status)
    }

    /// How it is, for `/health`.
    pub fn report(&self) -> Report {
        let none = |status, reason| Report { status, reason, lag_rows: 0, dropped_rows: 0 };
        match (self.status(), &*self.waiting.lock()) {
            (Some(Status { condition, reason, lag_rows, dropped, .. }), _) => {
                let reason = reason.map(|reason| self.without_folder(&reason));
                Report { status: word(condition), reason, lag_rows, dropped_rows: dropped }
            }
            (None, Some(waiting)) => none("unavailable", Some(waiting.why.clone())),
            (None, None) => none("off", None),
        }
    }

    /// A reason for everybody, who are not to know where files lie.
    fn without_folder(&self, reason: &str) -> String {
        let folder = self.opened().map(|opened| format!("{}{}", opened.folder.display(), std::path::MAIN_SEPARATOR));
        folder.map_or_else(|| reason.to_owned(), |folder| reason.replace(&folder, ""))
    }

    /// Brings everything that was recorded into the database.
    pub fn flush(&self) {
        if let Some(ledger) = self.ledger() {
            // What went wrong is told by its status.
            let _ = ledger.flush();
        }
    }

    /// Copies everything into a new file, while requests go on. Where it is; empty where there is no ledger.
    ///
    /// # Errors
    /// When the database cannot be read, or the file cannot be written.
    pub fn backup(&self) -> Result<PathBuf, QueryError> {
        let Some(opened) = self.opened() else { return Ok(PathBuf::new()) };
        // What cannot be made is told by the copy.
        let _ = std::fs::create_dir_all(&opened.backups);
        let file = opened.backups.join(format!("ledger-{}.db", now_us()));
        opened.ledger.backup(&file).map(|()| file)
    }

    /// Forgets a user of a client, under the name and under its hash. In how many rows.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn erase(&self, end_user: &str) -> Result<u64, QueryError> {
        let Some(ledger) = self.ledger() else { return Ok(0) };
        Ok(ledger.erase_end_user(end_user)? + ledger.erase_end_user(&end_user::hashed(end_user))?)
    }

    fn close(&self) {
        if let Some(ledger) = self.ledger() {
            ledger.close();
        }
    }
}

const fn word(condition: Condition) -> &'static str {
    match condition {
        Condition::Ok => "ok",
        Condition::Behind => "behind",
        Condition::Losing => "losing",
    }
}

fn now_us() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}

/// Runs what may take some milliseconds without holding up what else this thread serves.
fn unhurried<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current() {
        Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// Says in the log when the ledger stops or begins to be well, and opens one that could not be opened at the start, until the drain.
pub async fn watch(app: Arc<App>) {
    tokio::select! {
        biased;
        () = app.shutdown.drained() => {}
        () = watch_for_ever(&app.ledger) => {}
    }
}

async fn watch_for_ever(recorder: &Recorder) {
    let (mut last, mut noted, mut lost) = (Condition::Ok, None, 0);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(Status { condition, reason, lag_rows, dropped, lost_bytes, .. }) = recorder.status() else {
            match unhurried(|| recorder.retry()) {
                Some(true) => tracing::info!("the ledger is open; requests are recorded from now on"),
                Some(false) => {}
                None => return,
            }
            continue;
        };
        if lost_bytes > lost {
            lost = lost_bytes;
            tracing::warn!(lost_bytes, "a part of the journal cannot be read; rows that were in it are lost");
        }
        // What an operator must know of it though it is well, such as that a damaged database was put aside.
        if condition == Condition::Ok && reason.is_some() && reason != noted {
            tracing::error!(reason, "the ledger goes on, but not with all that it had");
            noted.clone_from(&reason);
        }
        if condition == last {
            continue;
        }
        let reason = reason.unwrap_or_default();
        match condition {
            Condition::Ok => tracing::info!(lag_rows, dropped, "the ledger takes rows again"),
            Condition::Behind => tracing::warn!(reason, lag_rows, "the ledger falls behind; rows wait in the journal"),
            Condition::Losing => tracing::error!(reason, dropped, "the ledger is full; rows are being lost"),
        }
        last = condition;
    }
}

/// Brings the last rows into the database. What it does not take in time stays in the journal for the next start.
pub async fn close(app: Arc<App>) {
    // A connection to PostgreSQL must not be dropped where tasks run, and the process ends with it anyway.
    std::mem::forget(Arc::clone(&app.ledger));
    let closed = tokio::task::spawn_blocking(move || app.ledger.close());
    if tokio::time::timeout(CLOSE_WAIT, closed).await.is_err() {
        tracing::warn!("the database does not take the last rows; they wait in the journal for the next start");
    }
}

/// A duration as the ledger counts it.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// What is recorded as having gone wrong: the code of an error that the client got from us, `cancelled` when it left, and for an
/// error of the upstream that was passed on, how the last attempt ended.
fn error_class(facts: &Facts) -> Option<&'static str> {
    match facts.end {
        End::Failed(kind) => Some(kind.code()),
        End::Cancelled => Some("cancelled"),
        End::Complete if facts.status >= 400 => facts.tries.last().map(|last| last.outcome_name()),
        End::Complete => None,
    }
}

/// Calls `then` with the record of a finished request, which borrows what the facts have.
fn with_record<T>(facts: &Facts, latency: Duration, epoch: &Epoch, then: impl FnOnce(&Record<'_>) -> T) -> T {
    let attempts: SmallVec<[Attempt<'_>; 1]> = facts
        .tries
        .iter()
        .map(|one| Attempt {
            provider: one.backend.id.provider.as_str(),
            model: facts.upstream_model(&one.backend),
            reason: one.reason.as_str(),
            outcome: one.outcome_name(),
            status: one.status,
            started_us: micros(one.started.since(facts.started)),
            ttft_us: one.ttft.map(micros),
            duration_us: one.duration.map_or(0, micros),
        })
        .collect();
    let backend = facts.backend.as_deref();
    then(&Record {
        time_us: epoch.unix(facts.started) / 1000,
        request_id: facts.request_id,
        client_request_id: facts.client_request_id.as_deref(),
        user: facts.user.as_deref().map(|user| user.id.as_str()),
        end_user: facts.end_user.as_deref(),
        labels: facts.labels.as_deref(),
        model: facts.model.as_deref().map(|model| model.name.as_str()),
        provider: backend.map(|backend| backend.id.provider.as_str()),
        upstream_model: backend.map(|backend| facts.upstream_model(backend)),
        status: facts.status,
        stream: facts.stream,
        ttft_us: facts.ttft.map(micros),
        duration_us: micros(latency),
        usage: facts.usage,
        cost: facts.cost.map(|cost| cost.total),
        priced: facts.cost.is_none_or(|cost| cost.priced),
        error_class: error_class(facts),
        attempts: &attempts,
    })
}
