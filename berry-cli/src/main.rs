//! `berry-cli`: operations from the command line, over the same code that the server runs.
//!
//! Exit codes: 0 = yes, 1 = no (an invalid configuration, an unhealthy backend), 2 = the question could not be asked (wrong
//! arguments, no such file, no server).

mod bench;
mod check;
mod cost;
mod explain;
mod generate;
mod key;
mod ledger;
mod metrics;
mod mock;
mod output;
mod reload;
mod server;
mod shell;
mod simulate;
mod upstream;
mod usage;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::output::{Failure, Output};

/// Operations for Berry API: configurations, backends, figures.
#[derive(Parser)]
#[command(name = "berry-cli", version, about, arg_required_else_help = true)]
struct Cli {
    /// Print one JSON document instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check a configuration and show every problem with its place.
    ValidateConfig(ConfigFile),
    /// Write a configuration to start from.
    GenerateConfig(generate::Arguments),
    /// Ask providers directly whether they are there.
    HealthCheck {
        #[command(flatten)]
        config: ConfigFile,
        /// Only this provider.
        #[arg(short, long)]
        provider: Option<String>,
    },
    /// Send a one-token request to one backend.
    TestBackend {
        #[command(flatten)]
        config: ConfigFile,
        /// Table key of the provider.
        #[arg(short, long)]
        provider: String,
        /// The model's name at the provider.
        #[arg(short, long)]
        model: String,
    },
    /// Show the figures of a running server.
    Metrics(metrics::Arguments),
    /// Say which backend a server would choose for a model, or why it chose one.
    Explain(explain::Arguments),
    /// Let a server read its configuration file again.
    Reload(reload::Arguments),
    /// Say what a configuration file would change at a server.
    Diff(reload::DiffArguments),
    /// Issue, list, rotate and revoke keys of a running server.
    Key(Box<key::Arguments>),
    /// Show what requests used and cost.
    Usage(Box<usage::Arguments>),
    /// Compare what requests cost with what prices give.
    Cost(cost::Arguments),
    /// Copy the ledger of a running server into a file beside it.
    Backup(ledger::Backup),
    /// Put a backup in the place of the ledger of a server that is stopped.
    Restore(ledger::Restore),
    /// Make the ledger of a running server forget a user of a client.
    Erase(ledger::Erase),
    /// Serve a scripted upstream that answers like a vendor and fails on request.
    Mock(mock::Arguments),
    /// Run a strategy against scripted upstreams under a virtual clock.
    Simulate(simulate::Arguments),
    /// Measure what a gateway adds to the time of a request.
    Bench(bench::Arguments),
    /// Print completions for a shell.
    Completions(shell::Arguments),
    /// Print the manual page.
    Man,
}

/// Which configuration is meant.
#[derive(Args, Clone)]
struct ConfigFile {
    /// The file; without it CONFIG_PATH, then the server's own search order.
    #[arg(short, long)]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::ValidateConfig(file) => check::validate(&file),
        Command::GenerateConfig(arguments) => generate::run(&arguments),
        Command::HealthCheck { config, provider } => upstream::health_check(&config, provider.as_deref()),
        Command::TestBackend { config, provider, model } => upstream::test_backend(&config, &provider, &model),
        Command::Metrics(arguments) => metrics::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Reload(arguments) => reload::run(&arguments),
        Command::Diff(arguments) => reload::diff(&arguments),
        Command::Key(arguments) => key::run(&arguments),
        Command::Usage(arguments) => usage::run(&arguments),
        Command::Cost(arguments) => cost::run(&arguments),
        Command::Backup(arguments) => ledger::backup(&arguments),
        Command::Restore(arguments) => ledger::restore(&arguments),
        Command::Erase(arguments) => ledger::erase(&arguments),
        Command::Mock(arguments) => mock::run(&arguments),
        Command::Simulate(arguments) => simulate::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Completions(arguments) => Ok(shell::completions(&arguments)),
        Command::Man => shell::man(),
    };
    finish(cli.json, result)
}

fn finish(json: bool, result: Result<Output, Failure>) -> ExitCode {
    match result {
        Ok(output) => output.print(json),
        Err(failure) => failure.print(json),
    }
}
