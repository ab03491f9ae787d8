//! The upstream of every measurement: one fixed chat completion, plain or streamed, as cheaply as hyper allows.
//!
//! The request says what it wants in fields that every gateway passes on untouched, so one process serves all
//! measurements: `"stream":true` asks for a stream, `max_tokens` is its number of content events and `seed` the
//! milliseconds between them (0 = as fast as the socket takes them; `--gap-ms` where the request has none, for dialects without
//! that field). Each content event carries the time at which it was
//! made, see [`berry_bench::STAMP`]. `include_usage` anywhere in the body adds the usage event. The fields are found by
//! searching for their text near the start of the body, not by parsing: enough for `bench-load`, wrong for anything else.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use clap::Parser;
use http::{Request, Response, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use memchr::memmem;
use tokio::net::TcpListener;
use tokio::time::Sleep;

/// The fields that steer the answer stand within this many bytes of the body's start.
const STEERING_BYTES: usize = 512;

/// The plain answer, about 600 bytes.
const COMPLETION: &str = r#"{"id":"chatcmpl-bench0000000000000000000001","object":"chat.completion","created":1700000000,"model":"upstream-model","choices":[{"index":0,"message":{"role":"assistant","content":"A reverse proxy sits in front of one or more servers and passes each request on to one of them. Clients see a single address; the servers behind it can be added, drained or replaced without anyone noticing.","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":96,"completion_tokens":42,"total_tokens":138},"service_tier":"default","system_fingerprint":"fp_bench"}"#;

/// The models list, for health probes.
const MODELS: &str =
    r#"{"object":"list","data":[{"id":"upstream-model","object":"model","created":1700000000,"owned_by":"bench"}]}"#;

const LAST_EVENT: &str = "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"upstream-model\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const USAGE_EVENT: &str = "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"upstream-model\",\"choices\":[],\"usage\":{\"prompt_tokens\":96,\"completion_tokens\":42,\"total_tokens\":138}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

#[derive(Parser)]
struct Args {
    /// Address to listen on.
    #[arg(long)]
    bind: SocketAddr,
    /// Milliseconds between two events of a stream whose request names no `seed`.
    #[arg(long, default_value_t = 0)]
    gap_ms: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let listener = TcpListener::bind(args.bind).await?;
    let service = service_fn(move |request| async move { Ok::<_, Infallible>(answer(request, args.gap_ms).await) });
    berry_bench::serve(listener, service).await;
    Ok(())
}

async fn answer(request: Request<Incoming>, gap_ms: u64) -> Response<Either<Full<Bytes>, EventStream>> {
    if request.uri().path().ends_with("/models") {
        return json(MODELS);
    }
    let Ok(body) = request.into_body().collect().await else {
        return json("{}");
    };
    let body = body.to_bytes();
    let steering = &body[..body.len().min(STEERING_BYTES)];
    if memmem::find(steering, b"\"stream\":true").is_none() {
        return json(COMPLETION);
    }
    let stream = EventStream {
        events_left: number_after(steering, b"\"max_tokens\":").unwrap_or(1),
        gap: Duration::from_millis(number_after(steering, b"\"seed\":").unwrap_or(gap_ms)),
        tail: tail(memmem::find(&body, b"include_usage").is_some()),
        timer: None,
    };
    let mut response = Response::new(Either::Right(stream));
    let content_type = header::HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

fn json(text: &'static str) -> Response<Either<Full<Bytes>, EventStream>> {
    let mut response = Response::new(Either::Left(Full::from(text)));
    let content_type = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// What follows the content events, in one frame.
fn tail(usage: bool) -> Option<Bytes> {
    let usage = if usage { USAGE_EVENT } else { "" };
    Some(Bytes::from([LAST_EVENT, usage, DONE].concat()))
}

fn number_after(text: &[u8], key: &[u8]) -> Option<u64> {
    let digits = &text[memmem::find(text, key)? + key.len()..];
    let end = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

/// `events_left` content events, `gap` apart, the first at once; then the tail.
struct EventStream {
    events_left: u64,
    gap: Duration,
    tail: Option<Bytes>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl EventStream {
    fn arm(&mut self) {
        if self.gap.is_zero() {
            return;
        }
        let next = tokio::time::Instant::now() + self.gap;
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(next),
            None => self.timer = Some(Box::pin(tokio::time::sleep_until(next))),
        }
    }
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(timer) = &mut self.timer {
            ready!(timer.as_mut().poll(context));
        }
        if self.events_left == 0 {
            return Poll::Ready(self.tail.take().map(|tail| Ok(Frame::data(tail))));
        }
        self.events_left -= 1;
        self.arm();
        Poll::Ready(Some(Ok(Frame::data(content_event()))))
    }
}

fn content_event() -> Bytes {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    Bytes::from(format!(
        "data: {{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\
         \"model\":\"upstream-model\",\"choices\":[{{\"index\":0,\"delta\":{{{stamp}{now}\"}},\"finish_reason\":null}}]}}\n\n",
        stamp = berry_bench::STAMP
    ))
}
