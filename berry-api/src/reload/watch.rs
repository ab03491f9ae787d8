//! Reloads when the file changes, or one of those that clients' TLS is made of: a renewed certificate needs no word from whoever
//! renewed it.
//!
//! The files are looked at four times a second, by their paths, so that whatever an editor or an orchestrator does to bring a new one
//! is seen: a write in place, a rename over it, a swap of the symbolic link above it (Kubernetes), on any file system. Notices
//! of the system see only some of these and none on network file systems. A change counts when two looks in a row agree, so
//! that a file is not read while it is being written.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Cause, in_background};
use crate::app::App;

/// Between two looks.
pub const PERIOD: Duration = Duration::from_millis(250);

/// What tells one file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

/// Reloads after each change of the file, until the process drains. While there is no file, nothing happens.
pub async fn on_change(app: Arc<App>, path: PathBuf) {
    let (mut loaded, mut seen) = (stamps(&app, &path).await, None);
    loop {
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = app.shutdown.drained() => return,
        }
        let now = stamps(&app, &path).await;
        if now == loaded || now.is_none() {
            seen = None;
        } else if now == seen {
            loaded = now;
            in_background(&app, &path, Cause::File).await;
        } else {
            seen = now;
        }
    }
}

/// Those of the configuration and of the files of TLS; none while the configuration is not there.
async fn stamps(app: &App, config: &Path) -> Option<Vec<Option<Stamp>>> {
    let mut stamps = vec![Some(stamp(config).await?)];
    if let Some(tls) = &app.runtime().snapshot.server.tls {
        for path in [Some(&tls.cert), Some(&tls.key), tls.client_ca.as_ref()].into_iter().flatten() {
            stamps.push(stamp(path).await);
        }
    }
    Some(stamps)
}

async fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = tokio::fs::metadata(path).await.ok()?;
    Some(Stamp { modified: metadata.modified().ok(), length: metadata.len(), inode: inode(&metadata) })
}

#[cfg(unix)]
fn inode(metadata: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
fn inode(_: &std::fs::Metadata) -> u64 {
    0
}
