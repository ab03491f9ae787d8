//! Reload: a configuration is read, checked and compiled, and then swapped in whole; or the old one stays, and the log, the reply
//! and the figures say why.
//!
//! It is asked for by a signal, by a changed file ([`watch`]) or by an administrator. One at a time: what is told as the
//! difference is the difference to what was in force before.

mod history;
pub mod watch;
pub mod yielding;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berry_core::config::{Change, Config, Diff, LoadError, Loaded, Report, Severity, Summary};
use serde_json::Value;

pub use history::{Cause, Failure, GENERATIONS_KEPT, Generation, Generations};

use crate::app::{App, SetUpError};
use crate::demo;
use crate::environment::ServerEnvironment;
use crate::run;

/// Changes that a line of the log names.
const CHANGES_LOGGED: usize = 20;
/// Characters of a changed value that a line of the log shows.
const VALUE_CHARS_LOGGED: usize = 200;
/// Keys that are read once, when the process starts: what is listened on and how, files that are open, links that stand.
const READ_AT_START: &[&str] = &[
    "server.bind_address",
    "server.max_connections",
    "server.proxy_protocol",
    "server.header_timeout_seconds",
    "server.idle_timeout_seconds",
    "server.write_stall_seconds",
    "server.data_dir",
    "ledger.backend",
    "ledger.url",
    "ledger.path",
    "ledger.retention_days",
    "ledger.fsync",
    "ledger.journal_max_bytes",
    "cluster",
    "telemetry",
];

/// Why the old configuration stays.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file has errors, or cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A file that it names, or a proxy, cannot be used.
    #[error(transparent)]
    SetUp(#[from] SetUpError),
    /// A rollback to what is not kept.
    #[error("generation {0} is not kept; GET /admin/config/history lists those that are")]
    UnknownGeneration(u64),
    /// A rollback to a file that was too large to keep.
    #[error("the file of generation {0} was too large to be kept; put it back in place and reload")]
    NotKept(u64),
}

/// A configuration that was put in force.
#[derive(Clone, Debug)]
pub struct Reloaded {
    /// Its number.
    pub generation: u64,
    /// How much of everything it has.
    pub summary: Summary,
    /// What is different.
    pub diff: Diff,
    /// Its warnings.
    pub warnings: Report,
}

impl Reloaded {
    /// The keys that differ and hold from the next start of the process only.
    pub fn waiting(&self) -> Vec<String> {
        let mut waiting = Vec::new();
        for Change { path, from, to, .. } in &self.diff.changes {
            let below = |key: &&&str| {
                let member = key.strip_prefix(path.as_str()).and_then(|rest| rest.strip_prefix('.'));
                member.is_some_and(|member| [from, to].into_iter().flatten().any(|value| value.get(member).is_some()))
            };
            let own = |key: &&str| path.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
            match READ_AT_START.iter().any(own) {
                true => waiting.push(path.clone()),
                false => waiting.extend(READ_AT_START.iter().filter(below).map(|key| (*key).to_owned())),
            }
        }
        waiting
    }
}

/// Notes the configuration that the process started with.
pub fn started_with(app: &App, loaded: Loaded) {
    app.generations.begin(loaded);
}

/// Puts the file's configuration in force.
///
/// # Errors
/// [`ReloadError`]; nothing has changed then.
pub fn reload(app: &App, path: &Path, cause: Cause) -> Result<Reloaded, ReloadError> {
    put_in_force(app, cause, || {
        only_a_file(path)?;
        Ok(Config::load(path, &ServerEnvironment)?)
    })
}

/// A pipe is good for the start. Opening it once more would wait for whoever writes to it, and hold up all reloads after this one.
fn only_a_file(path: &Path) -> Result<(), LoadError> {
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() && !metadata.is_dir() => {
            let source =
                io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file, so only a start can read it");
            Err(LoadError::Read { path: path.to_owned(), source })
        }
        // Whatever else is wrong with it is told when it is read.
        _ => Ok(()),
    }
}

/// Puts the configuration of an earlier generation in force again. The file stays as it is, so its next change, or a reload, ends
/// the rollback.
///
/// # Errors
/// [`ReloadError`]; nothing has changed then.
pub fn roll_back(app: &App, generation: u64, cause: Cause) -> Result<Reloaded, ReloadError> {
    put_in_force(app, cause, || {
        let text = app.generations.text_of(generation)?;
        Ok(Config::from_text(&format!("generation {generation}"), text.expose(), &ServerEnvironment)?)
    })
}

/// What a reload of this text would do; changes nothing.
///
/// # Errors
/// The text's problems.
pub fn validate(app: &App, text: &str) -> Result<Reloaded, LoadError> {
    let loaded = Config::from_text("the posted configuration", text, &ServerEnvironment)?;
    let diff = app.generations.diff_to(&loaded.outline);
    let generation = app.generations.number();
    Ok(Reloaded { generation, summary: loaded.summary, diff, warnings: loaded.warnings })
}

fn put_in_force(
    app: &App,
    cause: Cause,
    load: impl FnOnce() -> Result<Loaded, ReloadError>,
) -> Result<Reloaded, ReloadError> {
    let _one_at_a_time = app.generations.begin_change();
    let put = load().and_then(|loaded| {
        let dials = demo::dials(loaded.snapshot.providers.values());
        app.replace(Arc::clone(&loaded.snapshot), &dials)?;
        Ok(loaded)
    });
    let told = cause.to_string();
    match put {
        Ok(loaded) => {
            let (summary, warnings) = (loaded.summary, loaded.warnings.clone());
            if let Some(line) = run::unpriced_line(&loaded.snapshot) {
                tracing::warn!("{line}");
            }
            let (generation, diff) = app.generations.succeeded(loaded, cause);
            let reloaded = Reloaded { generation, summary, diff, warnings };
            tell(&reloaded, &told);
            Ok(reloaded)
        }
        Err(error) => {
            tracing::error!(cause = told, %error, "configuration not reloaded, the old one stays in force");
            app.generations.failed(error.to_string(), cause);
            Err(error)
        }
    }
}

fn tell(reloaded: &Reloaded, cause: &str) {
    for (_, line) in reloaded.warnings.lines().filter(|(severity, _)| *severity == Severity::Warning) {
        tracing::warn!("{line}");
    }
    let waiting = reloaded.waiting();
    if !waiting.is_empty() {
        tracing::warn!(keys = waiting.join(", "), "changes that hold from the next start only");
    }
    let Reloaded { generation, summary: Summary { providers, models, users, .. }, diff, .. } = reloaded;
    let named: Vec<String> = diff.changes.iter().take(CHANGES_LOGGED).map(words).collect();
    let more = diff.changes.len().saturating_sub(CHANGES_LOGGED) + diff.left_out;
    let changes = named.join("; ");
    tracing::info!(generation, cause, providers, models, users, changes, more, "configuration reloaded");
}

fn words(change: &Change) -> String {
    let Change { path, kind, from, to } = change;
    let kind = format!("{kind:?}").to_lowercase();
    match (from, to) {
        (Some(from), Some(to)) => format!("{kind} {path}: {} -> {}", shortened(from), shortened(to)),
        _ => format!("{kind} {path}"),
    }
}

/// A value as a line of the log has room for: a table of many users is compared as a whole.
fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(VALUE_CHARS_LOGGED) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// SIGHUP, which asks for a reload. From its making on, one ends the process no more, and one that comes before the server runs is
/// answered when it does. Elsewhere than on Unix there is none.
#[derive(Debug)]
pub struct Hangups {
    #[cfg(unix)]
    signal: tokio::signal::unix::Signal,
}

impl Hangups {
    /// Takes the signal over.
    ///
    /// # Errors
    /// When the system refuses the handler.
    pub fn listen() -> std::io::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self { signal: signal(SignalKind::hangup())? })
        }
        #[cfg(not(unix))]
        {
            Ok(Self {})
        }
    }

    /// Reloads on each, until the process drains.
    pub async fn reload(mut self, app: Arc<App>, path: PathBuf) {
        loop {
            tokio::select! {
                () = self.next() => {}
                () = app.shutdown.drained() => return,
            }
            in_background(&app, &path, Cause::Signal).await;
        }
    }

    async fn next(&mut self) {
        #[cfg(unix)]
        if self.signal.recv().await.is_some() {
            return;
        }
        std::future::pending().await
    }
}

/// Reloads on a thread of its own: reading and compiling a large file takes a while, and requests go on meanwhile. How it went
/// is in the log.
async fn in_background(app: &Arc<App>, path: &Path, cause: Cause) {
    let (app, path) = (Arc::clone(app), path.to_owned());
    yielding::run(move || reload(&app, &path, cause)).await;
}
