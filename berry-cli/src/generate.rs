//! `generate-config`: a configuration to start from.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

use berry_core::config;
use clap::Args;
use serde_json::json;

use crate::output::{Failure, Output};

/// Arguments of `generate-config`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Where to write it; standard output without it.
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// With every key, its default and what it does.
    #[arg(long)]
    advanced: bool,
    /// Replace a file that is already there.
    #[arg(long)]
    force: bool,
}

/// Writes the configuration.
pub(crate) fn run(arguments: &Arguments) -> Result<Output, Failure> {
    let text = if arguments.advanced { config::EXAMPLE } else { config::EXAMPLE_SIMPLE };
    let Some(path) = &arguments.output else {
        return Ok(Output { text: text.to_owned(), json: json!({"ok": true, "config": text}), ok: true });
    };
    write_private(path, text, arguments.force)?;
    let shown = path.display().to_string();
    Ok(Output {
        text: format!("✅ Configuration written to {shown}\n  Next: berry-cli validate-config -c {shown}"),
        json: json!({"ok": true, "path": shown}),
        ok: true,
    })
}

/// Keys will stand in it, so only its owner may read it.
fn write_private(path: &PathBuf, text: &str, force: bool) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(force).create_new(!force);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    let written = options.open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Failure::new(
            format!("{} is already there", path.display()),
            "Choose another name, or add --force to replace it.",
        ),
        _ => Failure::new(
            format!("{} cannot be written: {error}", path.display()),
            "Choose a place that can be written to.",
        ),
    })
}
