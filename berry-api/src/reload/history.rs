//! Which configurations were in force, since when, and what brought them.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use berry_core::config::{Diff, Loaded, Outline, Summary};
use berry_core::id::UserId;
use berry_core::secret::Secret;
use parking_lot::{Mutex, MutexGuard};

use super::ReloadError;

/// Generations that are kept, the one in force among them.
pub const GENERATIONS_KEPT: usize = 16;

/// What brought a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The start of the process.
    Start,
    /// SIGHUP.
    Signal,
    /// The file changed.
    File,
    /// An administrator asked for a reload.
    Admin(UserId),
    /// An administrator went back to an earlier generation.
    Rollback {
        /// Who.
        by: UserId,
        /// To which.
        generation: u64,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str("start"),
            Self::Signal => f.write_str("signal"),
            Self::File => f.write_str("file"),
            Self::Admin(by) => write!(f, "admin {by}"),
            Self::Rollback { by, generation } => write!(f, "rollback to {generation} by {by}"),
        }
    }
}

/// A configuration that was put in force.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Counted from 1 at the start.
    pub number: u64,
    /// Since when.
    pub at: SystemTime,
    /// What brought it.
    pub cause: Cause,
    /// Differs where the file does.
    pub hash: String,
    /// How much of everything it has.
    pub summary: Summary,
    /// What was different before.
    pub diff: Diff,
    text: Option<Secret>,
}

impl Generation {
    /// Whether a rollback to it is possible.
    pub fn is_kept(&self) -> bool {
        self.text.is_some()
    }
}

/// The last reload that changed nothing because something was wrong.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When.
    pub at: SystemTime,
    /// What had asked for it.
    pub cause: Cause,
    /// Every problem.
    pub error: String,
}

/// The generations of this process.
#[derive(Debug, Default)]
pub struct Generations {
    /// Held while one is being made.
    change: Mutex<()>,
    state: Mutex<State>,
    failures: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    number: u64,
    kept: VecDeque<Generation>,
    outline: Outline,
    failure: Option<Failure>,
}

impl Generations {
    /// Only one configuration is put in force at a time.
    pub(crate) fn begin_change(&self) -> MutexGuard<'_, ()> {
        self.change.lock()
    }

    /// The first one. There is nothing to compare it with.
    pub(super) fn begin(&self, loaded: Loaded) {
        let mut state = self.state.lock();
        state.push(loaded, Cause::Start, Diff::default());
    }

    /// Notes the one that is now in force: its number, and what is different.
    pub(super) fn succeeded(&self, loaded: Loaded, cause: Cause) -> (u64, Diff) {
        let mut state = self.state.lock();
        let diff = state.outline.diff(&loaded.outline);
        state.push(loaded, cause, diff.clone());
        state.failure = None;
        (state.number, diff)
    }

    pub(super) fn failed(&self, error: String, cause: Cause) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.state.lock().failure = Some(Failure { at: SystemTime::now(), cause, error });
    }

    pub(super) fn text_of(&self, number: u64) -> Result<Secret, ReloadError> {
        let state = self.state.lock();
        let generation = state.kept.iter().find(|generation| generation.number == number);
        let generation = generation.ok_or(ReloadError::UnknownGeneration(number))?;
        generation.text.clone().ok_or(ReloadError::NotKept(number))
    }

    pub(super) fn diff_to(&self, outline: &Outline) -> Diff {
        self.state.lock().outline.diff(outline)
    }

    /// The number of the one in force; 0 where none was noted.
    pub fn number(&self) -> u64 {
        self.state.lock().number
    }

    /// The hash of the one in force.
    pub fn hash(&self) -> String {
        self.state.lock().outline.hash().to_owned()
    }

    /// What is in force, as it is written, secrets hidden.
    pub fn outline(&self) -> Outline {
        self.state.lock().outline.clone()
    }

    /// Those that are kept, the newest first.
    pub fn list(&self) -> Vec<Generation> {
        self.state.lock().kept.iter().rev().cloned().collect()
    }

    /// The last failure, when it came after the last success.
    pub fn failure(&self) -> Option<Failure> {
        self.state.lock().failure.clone()
    }

    /// Reloads that changed nothing, since the start.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

impl State {
    fn push(&mut self, loaded: Loaded, cause: Cause, diff: Diff) {
        let Loaded { summary, outline, text, .. } = loaded;
        self.number += 1;
        let hash = outline.hash().to_owned();
        self.outline = outline;
        self.kept.push_back(Generation {
            number: self.number,
            at: SystemTime::now(),
            cause,
            hash,
            summary,
            diff,
            text,
        });
        if self.kept.len() > GENERATIONS_KEPT {
            self.kept.pop_front();
        }
    }
}
