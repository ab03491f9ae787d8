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

/// The files that count, each with what it was like; `None` where it is not there.
type Look = Vec<(PathBuf, Option<Stamp>)>;

/// Reloads after each change of the file, until the process drains. While there is no file, nothing happens.
pub async fn on_change(app: Arc<App>, path: PathBuf) {
    let (mut loaded, mut seen) = (look(&app, &path).await, None);
    loop {
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = app.shutdown.drained() => return,
        }
        let Some(now) = look(&app, &path).await else {
            seen = None;
            continue;
        };
        if !loaded.as_ref().is_none_or(|loaded| has_changed(loaded, &now)) {
            (loaded, seen) = (Some(now), None);
        } else if seen.as_ref() == Some(&now) {
            loaded = Some(now);
            in_background(&app, &path, Cause::File).await;
        } else {
            seen = Some(now);
        }
    }
}

/// Whether a file is another one than before. One that counts only now does so by a reload, which has read it.
fn has_changed(before: &Look, now: &Look) -> bool {
    before.iter().any(|(path, was)| now.iter().any(|(known, is)| known == path && is != was))
}

/// The configuration and the files of TLS; none while the configuration is not there.
async fn look(app: &App, config: &Path) -> Option<Look> {
    let mut look = vec![(config.to_owned(), Some(stamp(config).await?))];
    if let Some(tls) = &app.runtime().snapshot.server.tls {
        for path in [Some(&tls.cert), Some(&tls.key), tls.client_ca.as_ref()].into_iter().flatten() {
            look.push((path.clone(), stamp(path).await));
        }
    }
    Some(look)
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
