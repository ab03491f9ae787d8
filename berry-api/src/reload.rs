//! Reload: the configuration is read, checked and compiled, and then swapped in whole; or the old one stays, and the log says why.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use berry_core::config::{Config, LoadError, ProcessEnvironment, Severity, Summary};
use berry_relay::client::ClientError;

use crate::app::App;
use crate::demo;

/// Why the old configuration stays.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file has errors, or cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A provider cannot be reached as configured.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Puts the file's configuration in force.
///
/// # Errors
/// [`ReloadError`]; nothing has changed then.
pub fn reload(app: &App, path: &Path) -> Result<Summary, ReloadError> {
    let loaded = Config::load(path, &ProcessEnvironment)?;
    for (severity, line) in loaded.warnings.lines().filter(|(severity, _)| *severity == Severity::Warning) {
        tracing::warn!(severity = severity.as_str(), "{line}");
    }
    let dials = demo::dials(loaded.snapshot.providers.values());
    app.replace(loaded.snapshot, &dials)?;
    Ok(loaded.summary)
}

/// Reloads and tells the log how it went.
///
/// # Errors
/// [`ReloadError`]; nothing has changed then.
pub fn reload_and_tell(app: &App, path: &Path) -> Result<Summary, ReloadError> {
    let reloaded = reload(app, path);
    match &reloaded {
        Ok(Summary { providers, models, users, .. }) => {
            tracing::info!(config = %path.display(), providers, models, users, "configuration reloaded");
        }
        Err(error) => {
            tracing::error!(config = %path.display(), %error, "configuration not reloaded, the old one stays in force");
        }
    }
    reloaded
}

/// Reloads on each SIGHUP, until the process drains.
///
/// # Errors
/// When the signal cannot be listened to.
#[cfg(unix)]
pub fn on_hangup(app: Arc<App>, path: PathBuf) -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut hangups = signal(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                Some(()) = hangups.recv() => {}
                () = app.shutdown.drained() => return,
            }
            // Reading and compiling a large file takes a while; requests go on meanwhile.
            let (app, path) = (Arc::clone(&app), path.clone());
            let _ = tokio::task::spawn_blocking(move || reload_and_tell(&app, &path)).await;
        }
    })
}
