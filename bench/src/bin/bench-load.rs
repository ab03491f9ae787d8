//! The load generator as a command: prints one line of JSON, see [`berry_bench::load`].

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use berry_bench::load::{Args, Failure, hold, run};
use clap::Parser;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Failure> {
    let args = Args::parse();
    let report = match args.hold_seconds {
        Some(seconds) => hold(&args, Duration::from_secs(seconds)).await?,
        None => run(&args).await?,
    };
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&report)?)?;
    Ok(if report.errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
