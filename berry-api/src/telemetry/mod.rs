//! Logs: what is said, how it looks and who writes it.
//!
//! Events go through `tracing`; [`EventLayer`] turns each into an item for the one writer thread, which also writes the
//! access line of [`access`]. There are no spans of `tracing`: a request's facts travel in one record, of which its line
//! and the spans of its trace are made.

pub mod access;
mod alike;
pub mod format;
#[cfg(feature = "observability")]
mod otlp;
#[cfg(feature = "observability")]
pub mod prometheus;
mod rotate;
#[cfg(not(feature = "observability"))]
mod unmeasured;
pub mod writer;

/// The figures that requests leave behind.
pub mod metrics {
    #[cfg(feature = "observability")]
    pub use super::prometheus::{MethodLabel, Metrics, Path};
    #[cfg(not(feature = "observability"))]
    pub use super::unmeasured::{MethodLabel, Metrics, Path};
}

/// Traces of requests, for a collector.
pub mod traces {
    #[cfg(feature = "observability")]
    pub use super::otlp::Traces;
    #[cfg(not(feature = "observability"))]
    pub use super::unmeasured::Traces;
}

use std::io;
use std::time::SystemTime;

use berry_core::config::snapshot::Telemetry;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use access::AccessLog;
use format::{Collector, Header};
use rotate::RotatingFile;
use writer::{Item, LogWriter, Sink};

/// What the rest of the program needs of the logs.
#[derive(Clone, Debug)]
pub struct Logs {
    /// For the flush at the end.
    pub writer: LogWriter,
    /// For finished requests.
    pub access: AccessLog,
}

/// Installs the process's subscriber with the filter of `RUST_LOG` (default `info`).
///
/// # Errors
/// When the log file cannot be opened, the thread cannot start, or a subscriber is installed already.
pub fn init(settings: &Telemetry, rust_log: Option<&str>) -> io::Result<Logs> {
    let mut sinks = vec![Sink { format: settings.log_format, out: Box::new(io::stdout()) }];
    if let Some(file) = &settings.log_file {
        sinks.push(Sink { format: file.format, out: Box::new(RotatingFile::open(file)?) });
    }
    let writer = LogWriter::start(sinks)?;
    let subscriber =
        tracing_subscriber::registry().with(filter(rust_log.unwrap_or("info"))).with(EventLayer(writer.clone()));
    tracing::subscriber::set_global_default(subscriber).map_err(io::Error::other)?;
    // The filter does not change while the process runs, so that a request need not ask it.
    let access = if tracing::enabled!(target: access::TARGET, Level::INFO) {
        AccessLog::new(writer.clone())
    } else {
        AccessLog::hidden(writer.clone())
    };
    Ok(Logs { writer, access })
}

/// `RUST_LOG`, in which `berry_api_api` stands for `berry_api`. A part that makes no sense is left out, the rest holds.
fn filter(directives: &str) -> EnvFilter {
    EnvFilter::builder()
        .with_default_directive(Level::INFO.into())
        .parse_lossy(directives.replace("berry_api_api", "berry_api"))
}

/// Parts of `RUST_LOG` that are meant as a level and are none: `inof` names a module, whose lines alone would be shown.
pub fn no_levels(directives: &str) -> impl Iterator<Item = &str> {
    let is_odd = |part: &&str| {
        let is_plain = part.bytes().all(|c| c.is_ascii_alphanumeric()) && !part.is_empty();
        is_plain && part.parse::<LevelFilter>().is_err()
    };
    directives.split(',').map(str::trim).filter(is_odd)
}

/// Turns events into items for the writer.
#[derive(Debug)]
pub struct EventLayer(LogWriter);

impl EventLayer {
    /// A layer that hands everything to `writer`.
    pub fn new(writer: LogWriter) -> Self {
        Self(writer)
    }
}

impl<S: Subscriber> Layer<S> for EventLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut collector = Collector::default();
        event.record(&mut collector);
        self.0.push(Item::Event {
            header: Header { time: SystemTime::now(), level: *metadata.level(), target: metadata.target() },
            message: collector.message,
            fields: collector.fields,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_alias_filters_this_crate() {
        assert_eq!(
            filter("berry_api_api=debug,berry_relay=trace").to_string(),
            filter("berry_api=debug,berry_relay=trace").to_string()
        );
    }

    #[test]
    fn a_word_that_is_no_level_and_no_path_of_ours_is_told() {
        let told = |directives| no_levels(directives).collect::<Vec<_>>();
        assert_eq!(told("inof, berry_api=debug,verbose"), ["inof", "verbose"]);
        assert!(told("INFO,warn,off,3,berry_relay,berry_api::access=debug,").is_empty());
    }

    #[test]
    fn a_filter_part_that_makes_no_sense_leaves_the_rest() {
        assert!(filter("berry_api=debug,=!=").to_string().contains("berry_api=debug"));
    }
}
