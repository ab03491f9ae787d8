//! The load generator: sends chat requests over keep-alive HTTP/1.1 connections and tells how that went.
//!
//! Two modes. Closed loop (the default): every connection sends its next request when the last answer is complete.
//! Open loop (`--rate`): requests are due at fixed times and latency counts from the due time, so a stalled target cannot
//! hide its stall by slowing the load down. With `--hold-seconds` every connection opens one stream and keeps it open,
//! which is how memory per open stream is measured.
//!
//! With `--pid` it also reports what those processes used between the end of the warm-up and the last answer: CPU from
//! the scheduler's own count per thread (nanoseconds; the clock ticks of `/proc/PID/stat` are 10 ms and too coarse) and
//! resident memory. A thread that ends during the run takes its CPU time with it, which no target here does.
//!
//! Any answer that is not a complete 200 is an error, and errors make the exit code 1: a fast failure is not a result.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use clap::Parser;
use hdrhistogram::Histogram;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use memchr::memmem;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Why a measurement could not be made.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Longest latency that is told apart; longer ones count as this.
const LATENCY_MAX: Duration = Duration::from_secs(60);

/// What to send where.
#[derive(Parser, Clone)]
pub struct Args {
    /// Address of the target.
    #[arg(long)]
    pub target: SocketAddr,
    /// Keep-alive connections, each with one request at a time.
    #[arg(long, default_value_t = 1)]
    pub connections: u64,
    /// Requests over all connections, after the warm-up.
    #[arg(long, default_value_t = 1000)]
    pub requests: u64,
    /// Requests over all connections before anything is recorded.
    #[arg(long, default_value_t = 0)]
    pub warmup: u64,
    /// Open loop: requests per second, due at fixed intervals.
    #[arg(long)]
    pub rate: Option<f64>,
    /// Bytes of prompt text in each request.
    #[arg(long, default_value_t = 400)]
    pub prompt_bytes: usize,
    /// Ask for a stream of this many content events; 0 asks for a plain answer.
    #[arg(long, default_value_t = 0)]
    pub chunks: u64,
    /// Milliseconds between the events of a stream.
    #[arg(long, default_value_t = 0)]
    pub gap_ms: u64,
    /// Hold one stream open per connection for this long instead of sending requests.
    #[arg(long)]
    pub hold_seconds: Option<u64>,
    /// Bearer token.
    #[arg(long, default_value = "bench-token")]
    pub token: String,
    /// Processes whose CPU and memory are reported.
    #[arg(long)]
    pub pid: Vec<u32>,
    /// The model that is asked for.
    #[arg(long, default_value = "bench-model")]
    pub model: String,
}

/// One line of JSON; times in microseconds, memory in KiB.
#[derive(Serialize)]
pub struct Report {
    /// Whole answers.
    pub requests: u64,
    /// Everything else.
    pub errors: u64,
    /// The first of them.
    pub first_error: Option<String>,
    /// Stamped events of streams.
    pub chunks: u64,
    /// How long it took.
    pub seconds: f64,
    /// Whole answers in a second.
    pub requests_per_second: f64,
    /// From the due time to the end of the answer.
    pub latency_us: Percentiles,
    /// From the making of an event in the upstream to its arrival here.
    pub chunk_delay_us: Percentiles,
    /// CPU time of the processes.
    pub cpu_us: f64,
    /// The same by name of thread.
    pub cpu_us_by_thread: BTreeMap<String, f64>,
    /// Resident memory before the load.
    pub rss_kib_before: u64,
    /// While streams are held open, else at the last answer.
    pub rss_kib_during: u64,
    /// After the connections were closed.
    pub rss_kib_after: u64,
}

/// Of a distribution.
#[derive(Serialize)]
pub struct Percentiles {
    /// Median.
    pub p50: f64,
    /// One of a hundred is above.
    pub p99: f64,
    /// One of a thousand is above.
    pub p999: f64,
}

/// Sends the requests.
///
/// # Errors
/// When the target cannot be reached.
pub async fn run(args: &Args) -> Result<Report, Failure> {
    let connections = connect(args).await?;
    let (connections, _) = send_all(args, connections, closed_loop(args.warmup)).await;
    let rss_before = rss_kib(&args.pid);
    let cpu_before = cpu_ns(&args.pid);
    let started = Instant::now();
    let schedule = args.rate.map_or_else(|| closed_loop(args.requests), |rate| open_loop(args.requests, rate));
    let (connections, tally) = send_all(args, connections, schedule).await;
    let elapsed = started.elapsed();
    let cpu = difference(&cpu_before, &cpu_ns(&args.pid));
    let rss_during = rss_kib(&args.pid);
    drop(connections);
    tokio::time::sleep(Duration::from_millis(200)).await;
    Ok(report(&tally, elapsed, cpu, [rss_before, rss_during, rss_kib(&args.pid)]))
}

/// Holds streams open.
///
/// # Errors
/// When a stream does not begin.
pub async fn hold(args: &Args, time: Duration) -> Result<Report, Failure> {
    let mut tally = Tally::new();
    // One full request first, so that lazily made state is not charged to the streams.
    let mut warm = connect(&Args { connections: 1, ..args.clone() }).await?;
    let plain = Args { chunks: 0, ..args.clone() };
    warm[0].exchange(&body(&plain), Instant::now(), &mut tally).await?;
    drop(warm);
    let (rss_before, cpu_before) = (rss_kib(&args.pid), cpu_ns(&args.pid));
    let started = Instant::now();
    let body = body(args);
    let mut open = Vec::new();
    for mut connection in connect(args).await? {
        let response = connection.sender.send_request(connection.request(&body)).await?;
        let mut stream = response.into_body();
        stream.frame().await.ok_or("the stream ended before its first event")??;
        open.push((connection, stream));
    }
    tokio::time::sleep(time).await;
    let cpu = difference(&cpu_before, &cpu_ns(&args.pid));
    let rss_during = rss_kib(&args.pid);
    drop(open);
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(report(&tally, started.elapsed(), cpu, [rss_before, rss_during, rss_kib(&args.pid)]))
}

fn report(tally: &Tally, elapsed: Duration, cpu: BTreeMap<String, u64>, [before, during, after]: [u64; 3]) -> Report {
    let requests = tally.latency.len();
    Report {
        requests,
        errors: tally.errors,
        first_error: tally.first_error.clone(),
        chunks: tally.chunk_delay.len(),
        seconds: elapsed.as_secs_f64(),
        requests_per_second: requests as f64 / elapsed.as_secs_f64(),
        latency_us: Percentiles::of(&tally.latency),
        chunk_delay_us: Percentiles::of(&tally.chunk_delay),
        cpu_us: cpu.values().sum::<u64>() as f64 / 1e3,
        cpu_us_by_thread: cpu.into_iter().map(|(name, ns)| (name, ns as f64 / 1e3)).collect(),
        rss_kib_before: before,
        rss_kib_during: during,
        rss_kib_after: after,
    }
}

impl Percentiles {
    fn of(samples: &Histogram<u64>) -> Self {
        let at = |quantile| samples.value_at_quantile(quantile) as f64 / 1e3;
        Self { p50: at(0.5), p99: at(0.99), p999: at(0.999) }
    }
}

/// The due times of the requests, shared by all connections. Whoever is free takes the next one.
type Schedule = Arc<Mutex<mpsc::UnboundedReceiver<Due>>>;

/// When a request should go out; `None` means as soon as a connection is free.
type Due = Option<Instant>;

fn closed_loop(requests: u64) -> Schedule {
    let (sender, receiver) = mpsc::unbounded_channel();
    for _ in 0..requests {
        // The receiver is held until the end of this function, so the send cannot fail.
        _ = sender.send(None);
    }
    Arc::new(Mutex::new(receiver))
}

/// Paces from a thread of its own: the runtime's timer rounds to whole milliseconds, the kernel's sleep does not.
fn open_loop(requests: u64, rate: f64) -> Schedule {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let start = Instant::now();
        for number in 0..requests {
            let due = start + Duration::from_secs_f64(number as f64 / rate);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if sender.send(Some(due)).is_err() {
                return;
            }
        }
    });
    Arc::new(Mutex::new(receiver))
}

async fn send_all(args: &Args, connections: Vec<Connection>, schedule: Schedule) -> (Vec<Connection>, Tally) {
    let body = body(args);
    let mut tasks = JoinSet::new();
    for mut connection in connections {
        let (schedule, body) = (schedule.clone(), body.clone());
        tasks.spawn(async move {
            let mut tally = Tally::new();
            loop {
                let Some(due) = schedule.lock().await.recv().await else {
                    break;
                };
                let due = due.unwrap_or_else(Instant::now);
                if let Err(error) = connection.exchange(&body, due, &mut tally).await {
                    tally.fail(error);
                    break;
                }
            }
            (connection, tally)
        });
    }
    let (mut connections, mut total) = (Vec::new(), Tally::new());
    for (connection, tally) in tasks.join_all().await {
        connections.push(connection);
        total.merge(&tally);
    }
    (connections, total)
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    authorization: String,
}

#[expect(clippy::disallowed_methods, reason = "the process ends with the measurement, there is nothing to drain")]
async fn connect(args: &Args) -> Result<Vec<Connection>, Failure> {
    let mut connections = Vec::new();
    for _ in 0..args.connections {
        let stream = TcpStream::connect(args.target).await?;
        stream.set_nodelay(true)?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(driver);
        let (host, authorization) = (args.target.to_string(), format!("Bearer {}", args.token));
        connections.push(Connection { sender, host, authorization });
    }
    Ok(connections)
}

impl Connection {
    fn request(&self, body: &Bytes) -> Request<Full<Bytes>> {
        Request::post("/v1/chat/completions")
            .header(header::HOST, &self.host)
            .header(header::AUTHORIZATION, &self.authorization)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, "bench-load")
            .header(header::ACCEPT, "*/*")
            .body(Full::new(body.clone()))
            .expect("every part is valid")
    }

    async fn exchange(&mut self, body: &Bytes, due: Instant, tally: &mut Tally) -> Result<(), Failure> {
        self.sender.ready().await?;
        let response = self.sender.send_request(self.request(body)).await?;
        if response.status() != StatusCode::OK {
            let status = response.status();
            let text = response.into_body().collect().await?.to_bytes();
            return Err(format!("{status}: {}", String::from_utf8_lossy(&text)).into());
        }
        let mut stream = response.into_body();
        while let Some(frame) = stream.frame().await {
            if let Some(data) = frame?.data_ref() {
                tally.note_events(data);
            }
        }
        tally.latency.saturating_record(nanoseconds(due.elapsed()));
        Ok(())
    }
}

/// The request body. The fields that steer `bench-upstream` come first; the prompt is a conversation of turns of at most
/// 2,000 bytes, with the escapes that real text has.
fn body(args: &Args) -> Bytes {
    const LINE: &str = r#"He said \"pass it on\" and the proxy did, byte for byte, as it had been told to.\n"#;
    const TURN_BYTES: usize = 2000;
    let mut text = format!(r#"{{"model":{},"#, serde_json::Value::from(&*args.model));
    if args.chunks > 0 {
        text += &format!(r#""stream":true,"max_tokens":{},"seed":{},"#, args.chunks, args.gap_ms);
    }
    text += r#""temperature":0.7,"messages":[{"role":"system","content":"Be brief."}"#;
    let mut left = args.prompt_bytes;
    while left > 0 {
        let turn = left.min(TURN_BYTES);
        text += r#",{"role":"user","content":""#;
        text += &LINE.repeat(turn / LINE.len());
        text += &"x".repeat(turn % LINE.len());
        text += "\"}";
        left -= turn;
    }
    text += "]}";
    Bytes::from(text)
}

/// What the answers were like.
struct Tally {
    latency: Histogram<u64>,
    chunk_delay: Histogram<u64>,
    errors: u64,
    first_error: Option<String>,
}

impl Tally {
    fn new() -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1, nanoseconds(LATENCY_MAX), 3).expect("1 ns to one minute at 3 digits is valid")
        };
        Self { latency: histogram(), chunk_delay: histogram(), errors: 0, first_error: None }
    }

    fn merge(&mut self, other: &Self) {
        self.latency.add(&other.latency).expect("same bounds");
        self.chunk_delay.add(&other.chunk_delay).expect("same bounds");
        self.errors += other.errors;
        if self.first_error.is_none() {
            self.first_error.clone_from(&other.first_error);
        }
    }

    fn fail(&mut self, error: Failure) {
        self.errors += 1;
        self.first_error.get_or_insert(error.to_string());
    }

    /// Records the age of every stamped event in `data`. An event cut in two by the transport is missed; the upstream
    /// writes each event at once, so that is rare, and `chunks` in the report shows it.
    fn note_events(&mut self, data: &[u8]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        for at in memmem::find_iter(data, crate::STAMP) {
            let digits = &data[at + crate::STAMP.len()..];
            let end = memchr::memchr(b'"', digits).unwrap_or(digits.len());
            let made = std::str::from_utf8(&digits[..end]).ok().and_then(|text| text.parse().ok());
            if let Some(made) = made {
                self.chunk_delay.saturating_record(nanoseconds(now).saturating_sub(made));
            }
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds on a CPU (user and system) so far, by thread name, from `/proc/PID/task/*/schedstat`.
fn cpu_ns(pids: &[u32]) -> BTreeMap<String, u64> {
    let mut by_thread = BTreeMap::new();
    for pid in pids {
        for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let read = |file| fs::read_to_string(thread.path().join(file)).unwrap_or_default();
            let ns = read("schedstat").split_whitespace().next().and_then(|field| field.parse::<u64>().ok());
            *by_thread.entry(read("comm").trim().to_owned()).or_default() += ns.unwrap_or(0);
        }
    }
    by_thread
}

fn difference(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let since = |name: &String, ns: &u64| ns.saturating_sub(before.get(name).copied().unwrap_or(0));
    after.iter().map(|(name, ns)| (name.clone(), since(name, ns))).collect()
}

/// Resident memory from `/proc/PID/status`.
fn rss_kib(pids: &[u32]) -> u64 {
    let of = |pid: &u32| -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse().ok()
    };
    pids.iter().filter_map(of).sum()
}
