//! `mock`: the scripted upstream of the tests on a real socket, for trying out what clients and gateways do when vendors fail.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use berry_mock::{Fault, Mock, Script};
use clap::Args;
use serde_json::json;
use tokio::net::TcpListener;

use crate::output::{Failure, Output, remark};

/// What to serve, and where.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4010")]
    listen: SocketAddr,
    /// A file with the script: pace, faults, exact replies. Its keys are those of `berry_mock::Script`.
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// Spoil answers: one fault for each request in turn, in place of the script's.
    #[arg(long, value_name = "FAULT", value_delimiter = ',')]
    fault: Vec<Fault>,
}

/// Serves until the process is interrupted.
pub(crate) fn run(arguments: &Arguments) -> Result<Output, Failure> {
    let mut script = arguments.script.as_deref().map_or_else(|| Ok(Script::default()), read)?;
    if !arguments.fault.is_empty() {
        script.faults.clone_from(&arguments.fault);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Failure::new(format!("no runtime: {error}"), "check the limits of the process"))?;
    runtime.block_on(async {
        let next = "choose another address with --listen";
        let taken = |error| Failure::new(format!("cannot listen at {}: {error}", arguments.listen), next);
        let listener = TcpListener::bind(arguments.listen).await.map_err(taken)?;
        let address = listener.local_addr().map_err(taken)?;
        remark(&format!("the mock listens at http://{address}"));
        let mock = Mock::new(script);
        tokio::select! {
            () = mock.serve(listener) => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        let requests = mock.stats().requests;
        Ok(Output { text: format!("{requests} requests"), json: json!({"ok": true, "requests": requests}), ok: true })
    })
}

fn read(path: &Path) -> Result<Script, Failure> {
    let next = "the keys are those of berry_mock::Script; faults are written as in docs/cli-tool.md";
    let wrong = |error: &dyn std::fmt::Display| Failure::new(format!("{}: {error}", path.display()), next);
    let text = fs::read_to_string(path).map_err(|error| wrong(&error))?;
    let script: Script = toml::from_str(&text).map_err(|error| wrong(&error))?;
    script.validate().map_err(|error| wrong(&error))?;
    Ok(script)
}
