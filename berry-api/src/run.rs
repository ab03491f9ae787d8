//! The life of the server process, from the open socket to the last line of the log.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use berry_core::auth::key::TokenDigest;
use berry_core::config;
use berry_core::config::snapshot::{Server, Snapshot};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::gateway::Gateway;
use crate::server::guarded_io::Deadlines;
use crate::server::{self, ServerOptions};
use crate::shutdown::{EndSignals, Shutdown};
use crate::{changes, cluster, discovery, ledger, prober, reload, spent, status, webhook};

/// After the grace period: time for the error events of streams that are cut.
const CUT_WAIT: Duration = Duration::from_secs(2);
/// Last of all: time for a collector to take the traces that are left.
const EXPORT_WAIT: Duration = Duration::from_secs(2);

/// How the process came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything that was begun was finished, or told that it is cut.
    Drained,
    /// A second signal came.
    AtOnce,
}

/// How connections are held, from the configuration.
pub fn server_options(server: &Server) -> ServerOptions {
    ServerOptions {
        max_connections: server.max_connections,
        deadlines: Deadlines {
            header: server.header_timeout,
            idle: server.idle_timeout,
            write_stall: server.write_stall,
        },
        proxy_protocol_from: match server.proxy_protocol {
            true => server.trusted_proxies.clone(),
            false => Vec::new(),
        },
    }
}

/// Serves until a signal comes, then drains; SIGHUP and a change of the file read `config` again. The drain: not ready, no new connections, no new requests, cut.
///
/// # Errors
/// When signals cannot be listened to.
pub async fn until_signal(
    listener: TcpListener,
    gateway: Gateway,
    options: ServerOptions,
    config: PathBuf,
    hangups: reload::Hangups,
) -> io::Result<Ended> {
    let mut signals = EndSignals::listen()?;
    let config = gateway.app().config_file.get_or_init(|| config).clone();
    let shutdown = gateway.app().shutdown.clone();
    let tasks = TaskTracker::new();
    // Ends after all others, so that what the last requests leave behind is sent.
    let (exporter, last) = (TaskTracker::new(), CancellationToken::new());
    exporter.spawn(Arc::clone(&gateway.app().traces).export(last.clone()));
    exporter.spawn(cluster::run(Arc::clone(gateway.app()), last.clone()));
    exporter.spawn(webhook::run(Arc::clone(gateway.app()), last.clone()));
    exporter.close();
    let start = spent::Start::now(gateway.app());
    spent::wait(tasks.spawn(spent::restore(Arc::clone(gateway.app()), start))).await;
    let server = Arc::new(server::Server::new(gateway.clone(), options));
    let accepting = tasks.spawn(server::accept_all(listener, server, tasks.clone()));
    tasks.spawn(prober::run(Arc::clone(gateway.app())));
    tasks.spawn(discovery::run(Arc::clone(gateway.app())));
    tasks.spawn(status::follow(Arc::clone(gateway.app())));
    tasks.spawn(changes::expire(Arc::clone(gateway.app())));
    tasks.spawn(ledger::watch(Arc::clone(gateway.app())));
    tasks.spawn(hangups.reload(Arc::clone(gateway.app()), config.clone()));
    tasks.spawn(reload::watch::on_change(Arc::clone(gateway.app()), config));
    let signal = signals.next().await;
    let runtime = gateway.app().runtime();
    let Server { drain_delay, shutdown_grace, .. } = runtime.snapshot.server;
    tracing::info!(signal, ?drain_delay, ?shutdown_grace, "shutting down");
    let drained = async {
        drain(&shutdown, &tasks, drain_delay, shutdown_grace).await;
        // The listener is gone by now; a panic in its task is of no more concern.
        let _ = accepting.await;
        ledger::close(Arc::clone(gateway.app())).await;
        // The log's thread has the spans of the last requests.
        let app = Arc::clone(gateway.app());
        let _ = tokio::task::spawn_blocking(move || app.flush_log()).await;
        last.cancel();
        let _ = tokio::time::timeout(EXPORT_WAIT, exporter.wait()).await;
    };
    tokio::select! {
        () = drained => Ok(Ended::Drained),
        second = signals.next() => {
            tracing::warn!(signal = second, "second signal: ending at once");
            Ok(Ended::AtOnce)
        }
    }
}

/// The stages, one after the other.
async fn drain(shutdown: &Shutdown, tasks: &TaskTracker, delay: Duration, grace: Duration) {
    shutdown.leave();
    tokio::time::sleep(delay).await;
    shutdown.drain();
    tasks.close();
    if tokio::time::timeout(grace, tasks.wait()).await.is_ok() {
        return;
    }
    tracing::warn!(connections = tasks.len(), "the grace period is over, cutting what still runs");
    shutdown.cut();
    // What does not end even now ends with the process.
    let _ = tokio::time::timeout(CUT_WAIT, tasks.wait()).await;
}

/// How many backends of a line are named before the rest is only counted.
const UNPRICED_NAMED: usize = 5;

/// The backends that are switched on though nobody states what they charge.
pub fn unpriced(snapshot: &Snapshot) -> Vec<String> {
    let backends = snapshot.models.all.iter().filter(|model| model.enabled).flat_map(|model| &model.backends);
    backends.filter(|backend| backend.is_unpriced()).map(|backend| backend.id.to_string()).collect()
}

/// What to say of them: their requests count as costing nothing, so budgets do not hold for them, or they are refused.
pub fn unpriced_line(snapshot: &Snapshot) -> Option<String> {
    let unpriced = unpriced(snapshot);
    let (first, rest) = unpriced.split_at(unpriced.len().min(UNPRICED_NAMED));
    if first.is_empty() {
        return None;
    }
    let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    let so = match snapshot.settings.refuse_unpriced {
        true => "requests for them are refused",
        false => "requests there count as costing nothing",
    };
    Some(format!(
        "no price is known for {}{more}: {so}. State input_price and output_price on \
         the backend or in [pricing] (0 for free); the built-in prices are those of {}",
        first.join(", "),
        snapshot.prices.book().date()
    ))
}

/// A request that a reader of the log can paste; none where no user could send it.
///
/// A token is shown only where it is public: one that stands in a shipped example. Any other is a secret, and the line names a
/// variable instead.
pub fn try_it_line(snapshot: &Snapshot, address: SocketAddr) -> Option<String> {
    let public = public_tokens().find_map(|token| {
        let user = snapshot.users.of_token(&TokenDigest::of(token))?;
        Some((token, user)).filter(|(_, user)| user.enabled)
    });
    let mut models = snapshot.models.all.iter().filter(|model| model.enabled && model.pattern.is_none());
    let (token, model) = match public {
        Some((token, user)) => {
            (token, models.find(|model| user.models.allows(&model.id, &model.name, &model.aliases))?)
        }
        None => ("$BERRY_TOKEN", models.next()?),
    };
    let scheme = if snapshot.server.tls.is_some() { "https" } else { "http" };
    Some(format!(
        "curl {scheme}://{address}/v1/chat/completions -H \"Authorization: Bearer {token}\" -H \"Content-Type: \
         application/json\" -d '{{\"model\": \"{}\", \"messages\": [{{\"role\": \"user\", \"content\": \"Hello\"}}]}}'",
        model.name
    ))
}

/// The literal tokens of the shipped examples, which everybody can read.
fn public_tokens() -> impl Iterator<Item = &'static str> {
    let lines = config::EXAMPLE.lines().chain(config::EXAMPLE_SIMPLE.lines());
    lines.filter_map(|line| {
        let value = line.strip_prefix("token = \"")?;
        value.split_once('"').map(|(token, _)| token)
    })
}
