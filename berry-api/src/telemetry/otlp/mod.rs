//! Traces for a collector: OpenTelemetry's protocol over HTTP, Protocol Buffers bodies.
//!
//! A request that is traced pays for three numbers and a header. Its spans are encoded once, by the log's thread from the record of
//! the access line ([`super::access`]); they wait as bytes in one bounded batch that an exporter task sends after a second. What does
//! not fit is counted and lost: a request never waits for a collector. Without `telemetry.otlp_endpoint` a request pays for one look
//! at an `Option`, and without spans the exporter sleeps.
//!
//! Whether a request is traced is the client's decision where its `traceparent` says so, else a throw of
//! `telemetry.trace_sample_ratio`.
//!
//! Source: OTLP specification 1.9 (opentelemetry.io), sections on OTLP/HTTP: path, media type, which statuses may be sent again.

mod span;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use berry_core::config::snapshot::Telemetry;
use berry_core::time::Epoch;
use berry_relay::client::{self, Outside};
use berry_relay::forward::Seeds;
use berry_relay::trace::{Parent, TRACESTATE, Trace};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, StatusCode, Uri};
use parking_lot::Mutex;
use rand::Rng as _;
use rand::RngExt as _;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::telemetry::access::Finished;
use span::Encoder;
use wire::{Message, Open};

/// How long spans are gathered before they are sent.
const PERIOD: Duration = Duration::from_secs(1);
/// So many bytes of spans are not gathered any longer; some three thousand spans.
const GATHERED_BYTES_MAX: usize = 1 << 20;
/// Most that waits for the exporter, bytes; some ten thousand spans.
const QUEUE_BYTES_MAX: usize = 8 << 20;
/// How long a collector may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a batch is sent that the collector says it may take later.
const SENDINGS_MAX: u32 = 5;
/// Where a collector takes traces, below its address.
const PATH: &str = "/v1/traces";

/// Traces of requests.
pub struct Traces(Option<Tracer>);

struct Tracer {
    endpoint: Uri,
    ratio: f64,
    seeds: Arc<Seeds>,
    queue: Mutex<Queue>,
    /// The queue has something to send.
    begun: Notify,
    /// It has enough to be sent now.
    full: Notify,
    dropped: AtomicU64,
}

impl std::fmt::Debug for Traces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Traces")
    }
}

/// What the exporter will take.
struct Queue {
    encoder: Encoder,
    batch: Batch,
}

/// An `ExportTraceServiceRequest` in the making: one `ResourceSpans` with one `ScopeSpans`, in which span after span is written.
struct Batch {
    message: Message,
    resource_spans: Open,
    scope_spans: Open,
    spans: u64,
}

impl Batch {
    /// One without spans, in the room of one that was sent.
    fn reusing(room: Vec<u8>) -> Self {
        let mut message = Message::reusing(room);
        let resource_spans = message.open(1);
        message.message(1, |resource| {
            span::resource_text(resource, "service.name", "berry-api");
            span::resource_text(resource, "service.version", env!("CARGO_PKG_VERSION"));
        });
        let scope_spans = message.open(2);
        message.message(1, |scope| {
            scope.text(1, "berry-api");
            scope.text(2, env!("CARGO_PKG_VERSION"));
        });
        Self { message, resource_spans, scope_spans, spans: 0 }
    }

    fn into_body(mut self) -> Bytes {
        self.message.close(self.scope_spans);
        self.message.close(self.resource_spans);
        Bytes::from(self.message.into_bytes())
    }
}

impl Traces {
    /// Traces as the configuration says; without a collector there are none.
    pub fn new(settings: &Telemetry, seeds: Arc<Seeds>, epoch: Epoch) -> Self {
        Self(settings.otlp_endpoint.as_ref().map(|endpoint| Tracer {
            endpoint: traces_address(endpoint),
            ratio: settings.trace_sample_ratio,
            seeds,
            queue: Mutex::new(Queue { encoder: Encoder::new(epoch), batch: Batch::reusing(Vec::new()) }),
            begun: Notify::new(),
            full: Notify::new(),
            dropped: AtomicU64::new(0),
        }))
    }

    /// Where a request stands in a trace; `None` when it is not traced. `headers` are its own, unless none of them speaks of traces.
    pub fn begin(&self, headers: Option<&http::HeaderMap>) -> Option<Trace> {
        let tracer = self.0.as_ref()?;
        let parent = headers.and_then(Parent::of);
        let mut rng = tracer.seeds.next_rng();
        let traced = match parent {
            Some(parent) => parent.sampled,
            None => rng.random_bool(tracer.ratio),
        };
        traced.then(|| Trace {
            trace_id: parent.map_or_else(|| rng.random::<u128>().max(1), |parent| parent.trace_id),
            parent: parent.map(|parent| parent.span_id),
            span_id: rng.next_u64().max(1),
            has_stray_state: parent.is_none() && headers.is_some_and(|headers| headers.contains_key(TRACESTATE)),
        })
    }

    /// Takes the spans of a request, if it is traced.
    pub fn take(&self, finished: &Finished) {
        if let (Some(tracer), Some(trace)) = (&self.0, &finished.trace) {
            tracer.add(|encoder, batch| encoder.write(finished, trace, batch));
        }
    }

    /// Counts the spans of a request as lost, if it is traced.
    pub fn lose(&self, finished: &Finished) {
        if let (Some(tracer), Some(_)) = (&self.0, &finished.trace) {
            tracer.dropped.fetch_add(span::count(finished), Ordering::Relaxed);
        }
    }

    /// Spans that were lost, since the start.
    pub fn dropped(&self) -> u64 {
        self.0.as_ref().map_or(0, |tracer| tracer.dropped.load(Ordering::Relaxed))
    }

    /// Sends what gathers until `last` is cancelled, then what is left.
    pub async fn export(self: Arc<Self>, last: CancellationToken) {
        let Some(tracer) = &self.0 else { return };
        let client = client::outside();
        let mut refused = false;
        let mut room = Vec::new();
        loop {
            tokio::select! {
                () = tracer.begun.notified() => {}
                () = last.cancelled() => {}
            }
            tokio::select! {
                () = tracer.full.notified() => {}
                () = last.cancelled() => {}
                () = tokio::time::sleep(PERIOD) => {}
            }
            let next = Batch::reusing(std::mem::take(&mut room));
            let batch = std::mem::replace(&mut tracer.queue.lock().batch, next);
            if batch.spans > 0 {
                let (spans, body) = (batch.spans, batch.into_body());
                tracer.send(&client, spans, &body, &last, &mut refused).await;
                room = room_of(body);
            } else if last.is_cancelled() {
                return;
            }
        }
    }
}

impl Tracer {
    /// Adds what `write` encodes, so many spans.
    fn add(&self, write: impl FnOnce(&mut Encoder, &mut Message) -> u64) {
        let mut queue = self.queue.lock();
        let Queue { encoder, batch } = &mut *queue;
        let before = batch.message.len();
        let spans = write(encoder, &mut batch.message);
        let after = batch.message.len();
        if after <= QUEUE_BYTES_MAX {
            let is_first = batch.spans == 0;
            batch.spans += spans;
            drop(queue);
            if is_first {
                self.begun.notify_one();
            }
            if before < GATHERED_BYTES_MAX && after >= GATHERED_BYTES_MAX {
                self.full.notify_one();
            }
            return;
        }
        batch.message.truncate(before);
        drop(queue);
        self.dropped.fetch_add(spans, Ordering::Relaxed);
    }

    /// Sends a batch, again where the collector asks for that. The log says when it begins to be lost, and when that is over.
    async fn send(&self, client: &Outside, spans: u64, body: &Bytes, last: &CancellationToken, refused: &mut bool) {
        let mut pause = PERIOD;
        for sending in 1..=SENDINGS_MAX {
            let error = match self.send_once(client, body.clone()).await {
                Ok(()) => {
                    if std::mem::take(refused) {
                        tracing::info!(endpoint = %self.endpoint, "the collector takes traces again");
                    }
                    return;
                }
                Err(error) => error,
            };
            if !error.passes || sending == SENDINGS_MAX || last.is_cancelled() {
                self.dropped.fetch_add(spans, Ordering::Relaxed);
                if !std::mem::replace(refused, true) {
                    let (endpoint, why) = (&self.endpoint, &error.why);
                    tracing::warn!(%endpoint, error = %why, spans, "the collector does not take traces");
                }
                return;
            }
            let _ = tokio::time::timeout(pause, last.cancelled()).await;
            pause *= 2;
        }
    }

    async fn send_once(&self, client: &Outside, body: Bytes) -> Result<(), Refused> {
        let request = Request::post(self.endpoint.clone())
            .header(CONTENT_TYPE, "application/x-protobuf")
            .body(body.into())
            .expect("address and header are valid");
        let answer = match tokio::time::timeout(PATIENCE, client.request(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(Refused { why: chain(&error), passes: true }),
            Err(_) => return Err(Refused { why: format!("no answer within {PATIENCE:?}"), passes: true }),
        };
        let status = answer.status();
        let later = [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::BAD_GATEWAY,
            StatusCode::SERVICE_UNAVAILABLE,
            StatusCode::GATEWAY_TIMEOUT,
        ];
        match status.is_success() {
            true => Ok(()),
            false => Err(Refused { why: format!("status {}", status.as_u16()), passes: later.contains(&status) }),
        }
    }
}

/// The memory of a body that was sent, for the next batch: asking the system for a mebibyte page by page costs more than filling it.
fn room_of(body: Bytes) -> Vec<u8> {
    match body.is_unique() && body.len() < 2 * GATHERED_BYTES_MAX {
        true => Vec::from(body),
        false => Vec::new(),
    }
}

/// Why a batch was not taken.
struct Refused {
    why: String,
    /// Whether it may be taken later.
    passes: bool,
}

/// An error with its causes: the outermost says little.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Where the collector at `endpoint` takes traces: its address may be given with the path or without.
fn traces_address(endpoint: &Uri) -> Uri {
    let path = endpoint.path().trim_end_matches('/');
    if path.ends_with(PATH) {
        return endpoint.clone();
    }
    let mut parts = endpoint.clone().into_parts();
    parts.path_and_query = format!("{path}{PATH}").try_into().ok();
    Uri::from_parts(parts).unwrap_or_else(|_| endpoint.clone())
}

#[cfg(test)]
mod tests {
    use std::io;

    use berry_core::config::snapshot::LogFormat;
    use berry_core::id::RequestId;
    use berry_core::operation::Operation;
    use berry_core::time::Instant;
    use berry_relay::clock::Clock;
    use berry_relay::exchange::{Exchange, ExchangeSink, Facts};

    use super::*;
    use crate::telemetry::access::AccessLog;
    use crate::telemetry::writer::{ITEMS_MAX, LogWriter, Sink};

    fn traces(ratio: f64) -> Traces {
        let settings = Telemetry {
            log_format: LogFormat::Text,
            log_file: None,
            otlp_endpoint: Some(Uri::from_static("http://127.0.0.1:4318")),
            trace_sample_ratio: ratio,
        };
        Traces::new(&settings, Arc::new(Seeds::new(1)), Epoch::new(std::time::UNIX_EPOCH))
    }

    fn headers(flags: &str) -> http::HeaderMap {
        let value = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
        [(berry_relay::trace::TRACEPARENT, value.try_into().unwrap())].into_iter().collect()
    }

    #[test]
    fn an_address_is_taken_with_its_path_or_without() {
        for (given, asked) in [
            ("http://c:4318", "http://c:4318/v1/traces"),
            ("http://c:4318/", "http://c:4318/v1/traces"),
            ("https://c/otlp", "https://c/otlp/v1/traces"),
            ("https://c/otlp/v1/traces", "https://c/otlp/v1/traces"),
        ] {
            assert_eq!(traces_address(&given.parse().unwrap()).to_string(), asked);
        }
    }

    #[test]
    fn the_lengths_around_spans_are_right_whatever_their_size() {
        for spans in [0, 1, 40, 90, 127, 128, 16_300, 16_384, 3_000_000] {
            let spans = vec![0; spans];
            let mut nested = Message::default();
            nested.message(1, |resource_spans| {
                resource_spans.message(1, |resource| {
                    span::resource_text(resource, "service.name", "berry-api");
                    span::resource_text(resource, "service.version", env!("CARGO_PKG_VERSION"));
                });
                resource_spans.message(2, |scope_spans| {
                    scope_spans.message(1, |scope| {
                        scope.text(1, "berry-api");
                        scope.text(2, env!("CARGO_PKG_VERSION"));
                    });
                    scope_spans.raw(&spans);
                });
            });
            let mut batch = Batch::reusing(Vec::new());
            batch.message.raw(&spans);
            assert_eq!(batch.into_body(), nested.into_bytes());
        }
    }

    #[test]
    fn the_client_decides_and_chance_only_where_it_does_not() {
        assert!(traces(0.0).begin(Some(&headers("01"))).is_some());
        assert!(traces(1.0).begin(Some(&headers("00"))).is_none());
        let tenth = traces(0.1);
        let traced = (0..10_000).filter(|_| tenth.begin(None).is_some()).count();
        assert!((900..1100).contains(&traced), "{traced}");
    }

    #[test]
    fn what_the_queue_has_no_room_for_is_counted() {
        let Traces(Some(tracer)) = traces(1.0) else { unreachable!("a collector is configured") };
        let add = |bytes: usize, spans: u64| {
            tracer.add(|_, queue| {
                queue.raw(&vec![0; bytes]);
                spans
            });
        };
        add(QUEUE_BYTES_MAX - Batch::reusing(Vec::new()).message.len() - 1, 7);
        add(2, 3);
        add(1, 1);
        assert_eq!((tracer.queue.lock().batch.spans, tracer.dropped.load(Ordering::Relaxed)), (8, 3));
    }

    #[tokio::test]
    async fn a_full_batch_is_sent_at_once() {
        let Traces(Some(tracer)) = traces(1.0) else { unreachable!("a collector is configured") };
        let is_full = |bytes: usize| {
            tracer.add(|_, queue| {
                queue.raw(&vec![0; bytes]);
                1
            });
            std::pin::pin!(tracer.full.notified()).enable()
        };
        assert!(!is_full(GATHERED_BYTES_MAX - Batch::reusing(Vec::new()).message.len() - 1));
        assert!(is_full(1));
        assert!(!is_full(1), "it is said once");
    }

    /// Hands what ends to the log and the traces.
    struct Settled(AccessLog, Arc<Traces>);

    impl ExchangeSink for Settled {
        fn settle(&self, facts: &mut Facts, _: Instant) {
            self.0.take(facts, Duration::from_millis(1), &self.1);
        }
    }

    /// Ends so many traced requests that made no attempt.
    fn end_requests(access: &AccessLog, traces: &Arc<Traces>, requests: usize) {
        access.export_to(traces);
        let sink: Arc<dyn ExchangeSink> = Arc::new(Settled(access.clone(), Arc::clone(traces)));
        for _ in 0..requests {
            let id = RequestId::new(0, 0);
            let clock = Clock::start();
            let mut exchange = Exchange::begin(id, Operation::ChatCompletions, clock.now(), clock, Arc::clone(&sink));
            exchange.trace = traces.begin(None);
        }
    }

    #[test]
    fn a_request_without_a_line_has_its_spans_all_the_same() {
        let traces = Arc::new(traces(1.0));
        let writer = LogWriter::start(Vec::new()).unwrap();
        for (access, after) in [(AccessLog::hidden(writer), 1), (AccessLog::default(), 2)] {
            end_requests(&access, &traces, 1);
            access.flush();
            assert_eq!(traces.0.as_ref().unwrap().queue.lock().batch.spans, after);
        }
    }

    /// Blocks its writer until the other end is dropped.
    struct Blocked(std::sync::mpsc::Receiver<()>);

    impl io::Write for Blocked {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn spans_for_which_a_blocked_log_has_no_room_are_counted() {
        let (open, blocked) = std::sync::mpsc::channel();
        let sinks = vec![Sink { format: LogFormat::Text, out: Box::new(Blocked(blocked)) }];
        let (access, traces) = (AccessLog::new(LogWriter::start(sinks).unwrap()), Arc::new(traces(1.0)));
        // Two batches may be in memory: the one being written and the one being gathered.
        end_requests(&access, &traces, 3 * ITEMS_MAX);
        drop(open);
        access.flush();
        let taken = traces.0.as_ref().unwrap().queue.lock().batch.spans;
        assert!(traces.dropped() >= ITEMS_MAX as u64);
        assert_eq!(taken + traces.dropped(), 3 * ITEMS_MAX as u64);
        assert_eq!(access.lines_dropped(), traces.dropped());
    }
}
