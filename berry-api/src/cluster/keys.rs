//! Keys issued at run time, known to all instances.
//!
//! Each instance keeps them all, in memory and on its own disk, so that none needs the store to let a request in. What changes
//! is told at once; who missed the news hears of it with the next beat, since the version has moved on. A store that lost its
//! data gets it back from the instances, what was taken back included.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use redis::Script;

use super::link::{Failed, Link};
use crate::app::App;
use crate::keys::{Entry, Keys};

/// Which state of the collection an instance knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) epoch: String,
    pub(super) number: u64,
}

/// What the script answers: epoch, version, whether everything follows, and id, generation and text of each key.
type Answer = (String, u64, bool, Vec<(String, u64, String)>);

/// Keeps this instance's keys and the store's the same.
pub(super) struct SharedKeys {
    link: Arc<Link>,
    script: Script,
    /// `None` before the first exchange.
    known: Mutex<Option<Version>>,
}

impl SharedKeys {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self { link, script: Script::new(include_str!("keys.lua")), known: Mutex::default() }
    }

    /// Tells what changed here and hears what changed elsewhere, whenever there is something, for ever.
    pub(super) async fn run(&self, app: &Arc<App>) {
        app.keys.share();
        loop {
            tokio::select! {
                () = app.keys.news.notified() => {}
                () = self.link.news.notified() => {}
            }
            if self.is_behind() || app.keys.has_untold() {
                // What failed is tried again with the next beat.
                let _ = self.exchange(app).await;
            }
        }
    }

    fn is_behind(&self) -> bool {
        *self.known.lock() != Some(self.link.keys_version())
    }

    async fn exchange(&self, app: &Arc<App>) -> Result<(), Failed> {
        let mut told = app.keys.take_untold();
        loop {
            let (epoch, version, whole, entries) = match self.call(&told).await {
                Ok(answer) => answer,
                Err(failed) => {
                    app.keys.put_back(&told);
                    return Err(failed);
                }
            };
            let entries: Vec<Entry> =
                entries.into_iter().map(|(id, generation, text)| Entry { id, generation, text }).collect();
            told = if whole { missing(&app.keys, &entries) } else { Vec::new() };
            self.take_in(app, entries).await;
            let version = Version { epoch, number: version };
            self.link.set_keys_version(version.clone());
            *self.known.lock() = Some(version);
            if told.is_empty() {
                return Ok(());
            }
        }
    }

    async fn call(&self, told: &[Entry]) -> Result<Answer, Failed> {
        let Version { epoch, number } = self.known.lock().clone().unwrap_or_default();
        let mut call = self.script.prepare_invoke();
        for name in ["keys", "keys:changed", "keys:version"] {
            call.key(self.link.key(name));
        }
        let new_epoch = format!("{:016x}", rand::random::<u64>());
        call.arg(epoch).arg(number).arg(new_epoch).arg(self.link.key("news"));
        for Entry { id, generation, text } in told {
            call.arg(id).arg(generation).arg(text);
        }
        self.link.call(&call).await
    }

    /// On a thread of its own, since it waits for the disk.
    async fn take_in(&self, app: &Arc<App>, entries: Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        let app = Arc::clone(app);
        let merged = tokio::task::spawn_blocking(move || app.keys.merge(&entries)).await;
        if let Ok(Err(error)) = merged {
            tracing::warn!(error, "keys of other instances hold but are not on disk");
        }
    }
}

/// What is known here and not, or not as late, in a whole collection.
fn missing(keys: &Keys, all: &[Entry]) -> Vec<Entry> {
    let there: HashMap<&str, u64> = all.iter().map(|entry| (entry.id.as_str(), entry.generation)).collect();
    let mut entries = keys.entries();
    entries.retain(|entry| there.get(entry.id.as_str()).is_none_or(|generation| *generation < entry.generation));
    entries
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use berry_core::id::UserId;

    use super::*;
    use crate::keys::Grant;

    #[test]
    fn a_store_is_told_what_it_lacks_and_what_is_later_here_and_nothing_else() {
        let (directory, keys) = (tempfile::tempdir().unwrap(), Keys::default());
        keys.open(directory.path()).unwrap();
        let grant = Grant { name: "a team".to_owned(), ..Grant::default() };
        let [same, later, earlier, lacking] = std::array::from_fn(|_| {
            let (key, _) = keys.create(grant.clone(), &UserId::new("ada"), None, UNIX_EPOCH).unwrap();
            key.id().to_owned()
        });
        for id in [&same, &later, &earlier] {
            keys.rotate(id, UNIX_EPOCH).unwrap();
        }
        let here = |id: &String| keys.entries().into_iter().find(|entry| entry.id == *id).unwrap().generation;
        let entry = |id: &String, generation| Entry { id: id.clone(), generation, text: String::new() };
        let all = [entry(&same, here(&same)), entry(&later, here(&later) - 1), entry(&earlier, here(&earlier) + 1)];
        let told = missing(&keys, &all).into_iter().map(|entry| entry.id);
        assert_eq!(told.collect::<Vec<_>>(), [later, lacking]);
    }
}
