//! The configuration: the file as written, checked and cross-referenced into an immutable [`snapshot`] that needs no further
//! checking. Every problem is reported at once, each with its place in the file.
//!
//! The way of a file: `load` leads it; `source` gets text and tree, or `sections` and `plain` one user after the other; `decode` fills the `raw` tables, with [`Environment`] for what strings refer
//! to; `compile` makes the [`Snapshot`]; a [`Report`] shows what was found on the way. `schema` keeps the words of every key,
//! from which [`reference()`] writes the documentation.

mod compile;
mod decode;
mod docs;
mod interpolate;
mod load;
mod locate;
mod mask;
mod outline;
mod path;
mod plain;
mod problem;
pub mod provider_data;
mod raw;
pub mod scenario;
mod schema;
mod sections;
pub mod snapshot;
mod source;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use docs::reference;
pub use interpolate::{Environment, MAX_SECRET_FILE_BYTES, ProcessEnvironment};
pub use locate::{Found, LocateError, SEARCH_ORDER, locate};
pub use outline::{CHANGES_MAX, Change, ChangeKind, Diff, OUTLINE_ENTRIES_MAX, Outline};
pub use problem::{Place, Problem, Report, Severity};
pub use schema::{KeyFacts, keys};
pub use source::MAX_CONFIG_BYTES;

use snapshot::Snapshot;

use crate::secret::Secret;

/// A complete configuration: every key with its default and a line of explanation. Runs as it is, on the demo provider.
pub const EXAMPLE: &str = include_str!("../../../config-example.toml");
/// A small configuration to start from. Runs as it is, on the demo provider.
pub const EXAMPLE_SIMPLE: &str = include_str!("../../../config_simple.toml");

/// Loads configurations.
#[derive(Clone, Copy, Debug)]
pub struct Config;

/// A configuration that can be used, and what there is to say about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the server runs on.
    pub snapshot: Arc<Snapshot>,
    /// Warnings and remarks; no errors.
    pub warnings: Report,
    /// How much of everything there is.
    pub summary: Summary,
    /// What was written, secrets hidden.
    pub outline: Outline,
    /// The file's text, where it is at most [`KEPT_TEXT_BYTES_MAX`] long: what a rollback compiles again.
    pub text: Option<Secret>,
}

/// Longest configuration text that is kept for a rollback.
pub const KEPT_TEXT_BYTES_MAX: usize = 1 << 20;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file could not be read.
    #[error("{}: cannot be read: {}", path.display(), reason(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file has errors; the report has its warnings too.
    #[error("{0}")]
    Invalid(Report),
}

impl LoadError {
    /// Everything as text; `colour` for a terminal.
    pub fn render(&self, colour: bool) -> String {
        match self {
            Self::Read { .. } => self.to_string(),
            Self::Invalid(report) => report.render(colour),
        }
    }

    /// The problems of the file, when it could be read.
    pub fn report(&self) -> Option<&Report> {
        match self {
            Self::Read { .. } => None,
            Self::Invalid(report) => Some(report),
        }
    }
}

/// The usual reasons in plain words.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

impl Config {
    /// Reads, checks and compiles a file.
    ///
    /// # Errors
    /// When it cannot be read or has errors, all of which are in the report then.
    pub fn load(path: &Path, env: &dyn Environment) -> Result<Loaded, LoadError> {
        let source = source::read(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
        load::load(&path.display().to_string(), &source.text, source.mode, env)
    }

    /// Checks and compiles a text; `name` stands for the file in messages.
    ///
    /// # Errors
    /// When it has errors, all of which are in the report then.
    pub fn from_text(name: &str, text: &str, env: &dyn Environment) -> Result<Loaded, LoadError> {
        load::load(name, text, None, env)
    }
}

/// How much of everything a configuration has, switched-off things included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Providers.
    pub providers: usize,
    /// Models.
    pub models: usize,
    /// Users.
    pub users: usize,
    /// Backends of all models.
    pub backends: usize,
}

impl Summary {
    fn of(snapshot: &Snapshot) -> Self {
        Self {
            providers: snapshot.providers.len(),
            models: snapshot.models.all.len(),
            users: snapshot.users.len(),
            backends: snapshot.models.all.iter().map(|model| model.backends.len()).sum(),
        }
    }
}

/// The lines that operators' scripts look for.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "✅ Configuration is valid")?;
        writeln!(f, "  - {} providers configured", self.providers)?;
        writeln!(f, "  - {} models configured", self.models)?;
        write!(f, "  - {} users configured", self.users)
    }
}
