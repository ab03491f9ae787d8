//! `berry-api`: reads its arguments and its configuration, and runs the server.

mod allocator;

use std::io::{Read as _, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use berry_api::app::{self, App, AppOptions};
use berry_api::environment::ServerEnvironment;
use berry_api::extend::Extensions;
use berry_api::gateway::Gateway;
use berry_api::run::{self, Ended};
use berry_api::server::{bind, limits};
use berry_api::{data_dir, demo, reload, telemetry};
use berry_core::config::{Config, Found, Loaded, Severity, locate};
use clap::Parser;

/// How long `--health` waits for its answer.
const HEALTH_WAIT: Duration = Duration::from_secs(5);

/// One gateway to many LLM providers.
#[derive(Parser)]
#[command(name = "berry-api", version)]
struct Arguments {
    /// Configuration file; without it CONFIG_PATH, config.toml, config-example.toml, config/smart_ai_example.toml
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Check the configuration, print a summary, exit with 0 or 1
    #[arg(long)]
    check_config: bool,

    /// Listen here instead of at [server] bind_address
    #[arg(long, value_name = "HOST:PORT", env = "BIND_ADDRESS")]
    bind: Option<String>,

    /// Connections held at once, instead of [server] max_connections
    #[arg(long, value_name = "N", env = "MAX_CONNECTIONS", hide = true)]
    max_connections: Option<String>,

    /// Ask the server that runs here for its health, exit with 0 or 1
    #[arg(long)]
    health: bool,
}

fn main() -> ExitCode {
    allocator::settle();
    let arguments = Arguments::parse();
    let result = if arguments.check_config {
        check(&arguments)
    } else if arguments.health {
        health(&arguments)
    } else {
        serve(&arguments)
    };
    match result {
        Ok(code) => code,
        Err(message) => {
            say(std::io::stderr(), &message);
            ExitCode::FAILURE
        }
    }
}

/// Writes for a person. Where nobody reads any more, there is nobody to tell.
fn say(mut out: impl Write, text: &str) {
    let _ = writeln!(out, "{}", text.trim_end());
}

fn find(arguments: &Arguments) -> Result<Found, String> {
    locate(arguments.config.as_deref(), &ServerEnvironment, |path| path.exists()).map_err(|error| error.to_string())
}

fn load(found: &Found) -> Result<Loaded, String> {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr()) && !unwanted;
    Config::load(&found.path, &ServerEnvironment).map_err(|error| error.render(colour))
}

/// `--check-config`.
fn check(arguments: &Arguments) -> Result<ExitCode, String> {
    let found = find(arguments)?;
    let loaded = load(&found)?;
    if !loaded.warnings.is_empty() {
        say(std::io::stderr(), &loaded.warnings.render(false));
    }
    if let Some(line) = run::unpriced_line(&loaded.snapshot) {
        say(std::io::stderr(), &format!("\nwarning: {line}"));
    }
    app::try_out(&loaded.snapshot).map_err(|error| error.to_string())?;
    say(std::io::stdout(), &loaded.summary.to_string());
    Ok(ExitCode::SUCCESS)
}

/// What was said. Nothing was, where a variable is set but empty, as composed environments have it.
fn said(text: Option<&String>) -> Option<&String> {
    text.filter(|text| !text.is_empty())
}

/// How many connections may be held: `--max-connections`, else `MAX_CONNECTIONS`, else as configured.
fn max_connections(arguments: &Arguments) -> Result<Option<usize>, String> {
    let limit = said(arguments.max_connections.as_ref()).map(|text| match text.parse() {
        Ok(limit) if limit > 0 => Ok(limit),
        _ => Err(format!("MAX_CONNECTIONS is {text:?}; it must be a number above 0")),
    });
    limit.transpose()
}

/// Where to listen: `--bind`, `BIND_ADDRESS`, `[server]`, in this order.
fn address(arguments: &Arguments, configured: SocketAddr) -> Result<SocketAddr, String> {
    let Some(text) = said(arguments.bind.as_ref()) else {
        return Ok(configured);
    };
    let mut addresses = text.to_socket_addrs().map_err(|error| {
        format!("cannot listen at {text}: {error}; it must be an address with a port, such as 127.0.0.1:3000")
    })?;
    addresses.next().ok_or_else(|| format!("cannot listen at {text}: no such host"))
}

/// `--health`: for container health checks, where there may be no other client.
fn health(arguments: &Arguments) -> Result<ExitCode, String> {
    let loaded = find(arguments).and_then(|found| load(&found));
    let (configured, tls) = match &loaded {
        Ok(loaded) => (loaded.snapshot.server.bind_address, loaded.snapshot.server.tls.is_some()),
        Err(_) => (SocketAddr::from(([127, 0, 0, 1], 3000)), false),
    };
    let mut address = address(arguments, configured)?;
    if address.ip().is_unspecified() {
        let loopback = match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        };
        address.set_ip(loopback);
    }
    let answer = ask_health(address, tls).map_err(|error| format!("{address} does not answer: {error}"))?;
    say(std::io::stdout(), &answer);
    Ok(if answer.contains(" 200 ") || tls { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The status line of `/health`. Behind TLS only the connection is tried: the certificate's name is not known here.
fn ask_health(address: SocketAddr, tls: bool) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, HEALTH_WAIT)?;
    if tls {
        return Ok("the TLS port accepts connections".to_owned());
    }
    stream.set_read_timeout(Some(HEALTH_WAIT))?;
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.lines().next().unwrap_or("an empty answer").to_owned())
}

/// Runs the server to its end.
fn serve(arguments: &Arguments) -> Result<ExitCode, String> {
    let found = find(arguments)?;
    let loaded = load(&found)?;
    let rust_log = std::env::var("RUST_LOG").ok();
    for odd in telemetry::no_levels(rust_log.as_deref().unwrap_or_default()) {
        let levels = "error, warn, info, debug, trace, off";
        say(
            std::io::stderr(),
            &format!("RUST_LOG: {odd:?} is no level ({levels}); as a module it hides all other lines"),
        );
    }
    let logs = telemetry::init(&loaded.snapshot.telemetry, rust_log.as_deref())
        .map_err(|error| format!("cannot open the log: {error}"))?;
    // A panic ends one request and is our bug: it belongs in the log, not on a terminal that nobody sees. It is waited for, since a
    // panic outside of requests ends the process.
    let writer = logs.writer.clone();
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!("{panic}");
        writer.flush();
    }));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    let ended = runtime.block_on(listen_and_serve(arguments, &found, loaded, &logs));
    logs.writer.flush();
    // A thread that waits for a name server or a network file system would hold up the end.
    runtime.shutdown_background();
    match ended? {
        Ended::Drained => Ok(ExitCode::SUCCESS),
        Ended::AtOnce => Ok(ExitCode::FAILURE),
    }
}

/// Takes what the last run left behind. What cannot be used is told; the server starts all the same.
fn open_data_dir(app: &App, configured: Option<&Path>) {
    let directory = data_dir::resolve(configured, |name| std::env::var_os(name));
    let report = data_dir::inspect(&directory);
    if let Some(reason) = &report.reason {
        tracing::error!(directory = %directory.display(), reason, "the data directory cannot be written; what needs it is refused");
    }
    app.data_dir.get_or_init(|| report);
    match app.keys.open(&directory) {
        Ok(0) => {}
        Ok(keys) => tracing::info!(keys, "keys issued at run time are in force"),
        Err(error) => {
            tracing::error!(error, "keys issued at run time are not in force; mend or remove the file and start again");
        }
    }
    if let Err(error) = app.audit.open(&directory) {
        tracing::error!(%error, "the audit cannot be read; it is kept in memory and in this log only");
    }
    if let Err(error) = app.ledger.open(&app.runtime().snapshot.ledger, &directory, rand::random()) {
        tracing::error!(
            error,
            "requests are not recorded until the data directory can be written; no other process may use it"
        );
    }
}

async fn listen_and_serve(
    arguments: &Arguments,
    found: &Found,
    loaded: Loaded,
    logs: &telemetry::Logs,
) -> Result<Ended, String> {
    let server = loaded.snapshot.server.clone();
    let address = address(arguments, server.bind_address)?;
    let mut options = run::server_options(&server);
    if let Some(limit) = max_connections(arguments)? {
        options.max_connections = limit;
    }
    // Whoever sees the port open may ask for a reload.
    let no_signals = |error| format!("cannot listen to signals: {error}");
    let hangups = reload::Hangups::listen().map_err(no_signals)?;
    let listener = bind(address).map_err(|error| format!("cannot listen at {address}: {error}"))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let descriptors = limits::raise_descriptor_limit();

    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        %address,
        config = %found.path.display(),
        chosen_by = found.by,
        providers = loaded.summary.providers,
        models = loaded.summary.models,
        users = loaded.summary.users,
        descriptors,
        "Starting Berry API"
    );
    for (severity, line) in loaded.warnings.lines() {
        match severity {
            Severity::Error | Severity::Warning => tracing::warn!("{line}"),
            Severity::Info => tracing::info!("{line}"),
        }
    }
    if let Some(line) = run::unpriced_line(&loaded.snapshot) {
        tracing::warn!("{line}");
    }
    if let Some(line) = run::try_it_line(&loaded.snapshot, address) {
        tracing::info!("try it: {line}");
    }

    let app = App::new(
        Arc::clone(&loaded.snapshot),
        AppOptions {
            access: logs.access.clone(),
            seed: rand::random(),
            dials: demo::dials(loaded.snapshot.providers.values()),
            extensions: Extensions::default(),
        },
    )
    .map_err(|error| error.to_string())?;
    open_data_dir(&app, server.data_dir.as_deref());
    reload::started_with(&app, loaded);
    let gateway = Gateway::new(Arc::new(app));
    run::until_signal(listener, gateway, options, found.path.clone(), hangups).await.map_err(no_signals)
}
