//! What administrators changed: who, when, what, from where. No secret is in it.
//!
//! The newest entries are in memory. With a data directory they are also in `audit.jsonl` there, one JSON object a line, so that a
//! restart does not forget them; a full file makes way for a new one and is kept once.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use berry_core::id::UserId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::app::App;
use crate::data_dir;
use crate::telemetry::format::rfc3339;

/// Entries that are listed.
pub const ENTRIES_MAX: usize = 1_000;
/// The file below the data directory.
pub const FILE: &str = "audit.jsonl";
/// The full file before it.
pub const OLD_FILE: &str = "audit.1.jsonl";
/// Size at which the file is full, bytes.
pub const FILE_BYTES_MAX: u64 = 8 << 20;

/// One thing that an administrator did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When, RFC 3339.
    pub at: String,
    /// Which user.
    pub by: String,
    /// From which address, behind trusted proxies the client's.
    pub from: String,
    /// What: `key.create`, `key.rotate`, `key.revoke`, `change.make`, `change.take_back`, `config.reload`, `config.rollback`.
    pub action: String,
    /// To what; empty where there is only one.
    pub target: String,
    /// Whether it was done.
    pub done: bool,
    /// What else there is to know.
    pub detail: Value,
}

/// Who asks for a change, and from where.
#[derive(Clone, Debug)]
pub struct Actor {
    /// The user.
    pub user: UserId,
    /// The client's address.
    pub address: IpAddr,
}

/// The entries.
#[derive(Debug, Default)]
pub struct Audit(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    entries: VecDeque<Entry>,
    file: Option<PathBuf>,
}

impl Audit {
    /// Takes the newest entries of the data directory and keeps later ones there. A line that cannot be read, such as one that a
    /// crash cut, is left out.
    ///
    /// # Errors
    /// When there is a file that cannot be read.
    pub fn open(&self, data_dir: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        for name in [OLD_FILE, FILE] {
            let text = match std::fs::read(data_dir.join(name)) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let lines = text.split(|byte| *byte == b'\n');
            if name == FILE && text.last().is_some_and(|byte| *byte != b'\n') {
                // Otherwise the next entry would be lost with the one that was cut.
                append(&data_dir.join(FILE), b"\n")?;
            }
            for entry in lines.filter_map(|line| serde_json::from_slice(line).ok()) {
                state.push(entry);
            }
        }
        state.file = Some(data_dir.join(FILE));
        Ok(())
    }

    /// The newest entries, the newest first.
    pub fn list(&self, limit: usize) -> Vec<Entry> {
        self.0.lock().entries.iter().rev().take(limit).cloned().collect()
    }

    /// Adds an entry; in memory in any case. Writes to disk.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add(&self, entry: Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(&entry).expect("an entry is made of texts");
        line.push(b'\n');
        let mut state = self.0.lock();
        state.push(entry);
        state.file.as_deref().map_or(Ok(()), |path| append(path, &line))
    }
}

impl State {
    fn push(&mut self, entry: Entry) {
        if self.entries.len() >= ENTRIES_MAX {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }
}

fn append(path: &Path, line: &[u8]) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let mut file = data_dir::private().append(true).create(true).open(path)?;
    if file.metadata()?.len() + line.len() as u64 > FILE_BYTES_MAX {
        std::fs::rename(path, path.with_file_name(OLD_FILE))?;
        file = data_dir::private().append(true).create(true).open(path)?;
    }
    file.write_all(line)
}

/// Notes what was done, in the log and in the audit. A file that cannot be written is told in the log and stops nothing.
pub async fn note(app: &Arc<App>, actor: Actor, action: &'static str, target: String, done: bool, detail: Value) {
    let by = actor.user.as_str();
    tracing::info!(admin = by, from = %actor.address, action, target, done, detail = %detail, "admin change");
    let entry = Entry {
        at: rfc3339(SystemTime::now()),
        by: by.to_owned(),
        from: actor.address.to_string(),
        action: action.to_owned(),
        target,
        done,
        detail,
    };
    let app = Arc::clone(app);
    let written = tokio::task::spawn_blocking(move || app.audit.add(entry)).await;
    if let Ok(Err(error)) = written {
        tracing::warn!(%error, "the audit cannot be written; it is in memory and in this log only");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: usize, detail: &str) -> Entry {
        Entry {
            at: "2026-01-01T00:00:00.000000Z".to_owned(),
            by: "ada".to_owned(),
            from: "192.0.2.1".to_owned(),
            action: "key.create".to_owned(),
            target: n.to_string(),
            done: true,
            detail: detail.into(),
        }
    }

    #[test]
    fn entries_survive_a_restart_and_a_cut_line() {
        let directory = tempfile::tempdir().unwrap();
        let audit = Audit::default();
        audit.open(&directory.path().join("below")).unwrap();
        audit.add(entry(1, "")).unwrap();
        audit.add(entry(2, "")).unwrap();
        let path = directory.path().join("below").join(FILE);
        let mut text = std::fs::read(&path).unwrap();
        text.extend_from_slice(b"{\"at\":\"2026");
        std::fs::write(&path, text).unwrap();
        let again = Audit::default();
        again.open(path.parent().unwrap()).unwrap();
        again.add(entry(3, "")).unwrap();
        let last = Audit::default();
        last.open(path.parent().unwrap()).unwrap();
        assert_eq!(last.list(10), [entry(3, ""), entry(2, ""), entry(1, "")]);
    }

    #[test]
    fn memory_and_files_are_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let audit = Audit::default();
        audit.open(directory.path()).unwrap();
        let long = "x".repeat(1 << 20);
        for n in 0..20 {
            audit.add(entry(n, &long)).unwrap();
        }
        for name in [FILE, OLD_FILE] {
            assert!(std::fs::metadata(directory.path().join(name)).unwrap().len() <= FILE_BYTES_MAX);
        }
        let audit = Audit::default();
        for n in 0..ENTRIES_MAX + 5 {
            audit.add(entry(n, "")).unwrap();
        }
        let listed = audit.list(usize::MAX);
        assert_eq!(listed.len(), ENTRIES_MAX);
        assert_eq!(listed[0].target, (ENTRIES_MAX + 4).to_string());
    }
}
