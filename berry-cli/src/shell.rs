//! `completions` and `man`: what shells and readers of manuals want, made from the commands themselves.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use serde_json::json;

use crate::Cli;
use crate::output::{Failure, Output};

/// Arguments of `completions`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// For which shell.
    shell: Shell,
}

/// Prints the completions of a shell.
pub(crate) fn completions(arguments: &Arguments) -> Output {
    let mut out = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "berry-cli", &mut out);
    plain(&out)
}

/// Prints the manual: one page, with every command.
pub(crate) fn man() -> Result<Output, Failure> {
    let mut out = Vec::new();
    let failed = |error: std::io::Error| Failure::new(error.to_string(), "Try again.");
    let mut command = Cli::command();
    command.build();
    clap_mangen::Man::new(command.clone()).render(&mut out).map_err(failed)?;
    for each in command.get_subcommands().filter(|each| each.get_name() != "help") {
        let name = format!("berry-cli-{}", each.get_name());
        clap_mangen::Man::new(each.clone()).title(name).render(&mut out).map_err(failed)?;
    }
    Ok(plain(&out))
}

fn plain(out: &[u8]) -> Output {
    let text = String::from_utf8_lossy(out).into_owned();
    Output { json: json!({"ok": true, "text": text}), text, ok: true }
}
