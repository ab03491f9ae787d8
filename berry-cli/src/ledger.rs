//! `backup`, `erase` and `restore`: the ledger as a whole. The first two ask a running server; `restore` needs it stopped.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use berry_core::config::snapshot::LedgerStore;
use berry_ledger::Store;
use clap::Args;
use serde_json::json;

use crate::output::{Failure, Output};
use crate::server::Server;
use crate::{ConfigFile, check};

/// Arguments of `backup`.
#[derive(Args)]
pub(crate) struct Backup {
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    server: Server,
}

/// Arguments of `erase`.
#[derive(Args)]
pub(crate) struct Erase {
    /// The user of a client, by the name that requests have, or by its hash.
    #[arg(long)]
    end_user: String,
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    server: Server,
}

/// Arguments of `restore`.
#[derive(Args)]
pub(crate) struct Restore {
    /// The backup.
    file: PathBuf,
    /// The data directory; without it the one that the server would use.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigFile,
}

/// Copies the ledger of a running server into a file beside it.
pub(crate) fn backup(arguments: &Backup) -> Result<Output, Failure> {
    let json = arguments.server.post(&arguments.config, "/admin/ledger/backup", "")?;
    let text = format!("✅ The ledger is copied to {} on the server", json["file"].as_str().unwrap_or_default());
    Ok(Output { text, json, ok: true })
}

/// Makes a running server forget a user of a client.
pub(crate) fn erase(arguments: &Erase) -> Result<Output, Failure> {
    let wanted = json!({"end_user": arguments.end_user});
    let json = arguments.server.post(&arguments.config, "/admin/ledger/erase", &wanted.to_string())?;
    let text = format!("✅ Forgotten in {} rows", json["erased_rows"]);
    Ok(Output { text, json, ok: true })
}

/// Puts a backup in the place of the ledger.
pub(crate) fn restore(arguments: &Restore) -> Result<Output, Failure> {
    let snapshot = check::load(&arguments.config)?.snapshot;
    let directory = arguments.data_dir.clone().or_else(|| snapshot.server.data_dir.clone()).unwrap_or_else(named);
    let store = match &snapshot.ledger.store {
        LedgerStore::Sqlite(path) => Store::Sqlite(path.clone().unwrap_or_else(|| directory.join("ledger.db"))),
        LedgerStore::Postgres(url) => Store::Postgres(url.clone()),
        LedgerStore::Off => return Err(Failure::new("the configuration has no ledger", "Set ledger.backend.")),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_us = i64::try_from(now.as_micros()).unwrap_or(i64::MAX);
    if !arguments.file.is_file() {
        let what = format!("{}: there is no such file", arguments.file.display());
        return Err(Failure::new(what, "Backups are in backups/ of the data directory. The ledger is as it was."));
    }
    let kept = berry_ledger::restore(&store, &directory.join("journal"), &arguments.file, now_us);
    let kept = kept.map_err(|error| Failure::new(error.to_string(), "The ledger is as it was."))?;
    let kept = kept.map(|path| path.display().to_string());
    let text = match &kept {
        Some(path) => format!("✅ Restored; what was there is kept as {path}"),
        None => "✅ Restored".to_owned(),
    };
    Ok(Output { text, json: json!({"restored": true, "kept": kept}), ok: true })
}

/// The data directory where the configuration names none, by the server's rule.
fn named() -> PathBuf {
    let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let of_systemd = || std::env::split_paths(&var("STATE_DIRECTORY")?).next();
    var("BERRY_DATA_DIR").map(PathBuf::from).or_else(of_systemd).unwrap_or_else(|| PathBuf::from("./data"))
}
