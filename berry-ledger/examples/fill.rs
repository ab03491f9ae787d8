//! Fills a ledger with made-up requests and measures it.
//!
//! `cargo run --release -p berry-ledger --example fill -- 10000000 [folder [seconds]]`: rows over thirty days, or over so many
//! seconds, of a thousand users, three models and four backends. Says what appending and the database thread cost for each row, how
//! long a start takes, and how long each kind of question takes.
#![expect(clippy::print_stdout, reason = "a program that is run for what it prints")]
#![expect(clippy::disallowed_methods, reason = "a program that measures time")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use berry_core::id::RequestId;
use berry_core::money::NanoUsd;
use berry_core::usage::Usage;
use berry_ledger::{Appended, Attempt, Filter, Group, Ledger, Options, Record, Step, Store};

const NOW_US: i64 = 1_767_571_200_000_000;
const PERIOD_US: i64 = 30 * 86_400_000_000;

fn open(folder: &Path) -> Ledger {
    let store = Store::Sqlite(folder.join("ledger.db"));
    let mut options = Options::new(folder.join("journal"), store, 7, Arc::new(|| NOW_US));
    options.journal_max_bytes = 8 << 30;
    Ledger::open(options).expect("the folder can be written")
}

/// A number that looks like chance and is the same each time.
fn mix(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 16
}

fn fill(ledger: &Ledger, rows: u64, period_us: i64, users: &[String]) -> Duration {
    let mut busy = Duration::ZERO;
    let mut dropped = 0;
    for counter in 0..rows {
        let chance = mix(counter);
        let backend = ["openai", "azure", "anthropic", "google"][(chance % 4) as usize];
        let failed = chance.is_multiple_of(97);
        let duration_us = 20_000 + chance % 4_000_000;
        let attempt = Attempt {
            provider: backend,
            model: "large",
            reason: "strategy",
            outcome: if failed { "server_error" } else { "success" },
            status: if failed { 502 } else { 200 },
            started_us: 200,
            ttft_us: Some(duration_us / 3),
            duration_us,
        };
        let record = Record {
            time_us: NOW_US - period_us + (i128::from(period_us) * i128::from(counter) / i128::from(rows)) as i64,
            request_id: RequestId::new(99, counter),
            client_request_id: None,
            // A few users send most.
            user: Some(&users[((chance >> 20) % 1000 * ((chance >> 32) % 1000) / 1000) as usize]),
            end_user: None,
            labels: None,
            model: Some(["fast", "good", "cheap"][(chance >> 8) as usize % 3]),
            provider: Some(backend),
            upstream_model: Some("large"),
            status: attempt.status,
            stream: chance.is_multiple_of(2),
            ttft_us: Some(duration_us / 3 + 200),
            duration_us: duration_us + 300,
            usage: Usage {
                input_tokens: Some(chance % 5000),
                cached_tokens: Some(chance % 1000),
                output_tokens: Some(chance % 700),
                ..Usage::default()
            },
            cost: Some(NanoUsd::from_nanos((chance % 10_000_000) as i64)),
            priced: true,
            error_class: failed.then_some("upstream_error"),
            attempts: &[attempt],
        };
        let start = Instant::now();
        if ledger.append(&record) == Appended::Dropped {
            dropped += 1;
        }
        busy += start.elapsed();
    }
    assert_eq!(dropped, 0, "the journal is large enough");
    busy
}

/// The time that the threads with this name have used: clock ticks of a hundredth of a second.
fn cpu(name: &str) -> Option<Duration> {
    let mut all = 0;
    for thread in std::fs::read_dir("/proc/self/task").ok()? {
        let stat = std::fs::read_to_string(thread.ok()?.path().join("stat")).ok()?;
        let (before, after) = stat.rsplit_once(") ")?;
        if before.ends_with(&format!("({name}")) {
            let mut fields = after.split(' ').skip(11);
            all += fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
        }
    }
    Some(Duration::from_millis(all * 10))
}

fn timed<T>(name: &str, mut question: impl FnMut() -> T) {
    // The second time counts: a dashboard asks again and again.
    let mut took = Duration::ZERO;
    for _ in 0..2 {
        let start = Instant::now();
        question();
        took = start.elapsed();
    }
    println!("{name:<44} {:>8.1} ms", took.as_secs_f64() * 1000.0);
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let rows: u64 = arguments.next().map_or(1_000_000, |text| text.parse().expect("a number of rows"));
    let folder = arguments.next().map_or_else(|| std::env::temp_dir().join("berry-ledger-fill"), PathBuf::from);
    let period_us = arguments.next().map_or(PERIOD_US, |text| text.parse::<i64>().expect("seconds") * 1_000_000);
    let users: Vec<String> = (0..1000).map(|user| format!("user_{user}")).collect();
    if !folder.exists() {
        std::fs::create_dir_all(&folder).expect("the folder can be made");
        let ledger = open(&folder);
        let before = cpu("fill").unwrap_or_default();
        let start = Instant::now();
        let busy = fill(&ledger, rows, period_us, &users);
        let appending = cpu("fill").unwrap_or_default().saturating_sub(before);
        ledger.flush().expect("the database takes rows");
        let storing = cpu("ledger").unwrap_or_default();
        let each = |time: Duration| time.as_secs_f64() * 1e6 / rows as f64;
        println!("{rows} rows in {:.1} s", start.elapsed().as_secs_f64());
        println!("append, wall time for each row               {:>8.2} us", each(busy));
        println!("append, CPU for each row, with making it     {:>8.2} us", each(appending));
        println!("database thread, CPU for each row            {:>8.2} us", each(storing));
    }
    let start = Instant::now();
    let ledger = open(&folder);
    ledger.flush().expect("the database is sound");
    println!("{:<44} {:>8.1} ms", "start, until the first row could be stored", start.elapsed().as_secs_f64() * 1000.0);
    questions(&ledger, rows);
}

fn questions(ledger: &Ledger, rows: u64) {
    let all = Filter::default();
    let of_user = Filter { user: Some("user_7".into()), ..Filter::default() };
    let of_provider = Filter { provider: Some("azure".into()), ..Filter::default() };
    let errors = Filter { errors_only: true, ..Filter::default() };
    let day = Filter { from_us: Some(NOW_US - 86_400_000_000), ..Filter::default() };
    timed("requests and cost by hour, 30 days", || ledger.totals(&all, None, Some(Step::Hour)).expect("sound"));
    timed("by minute, last day", || ledger.totals(&day, None, Some(Step::Minute)).expect("sound"));
    timed("by hour and model, 30 days", || ledger.totals(&all, Some(&Group::Model), Some(Step::Hour)).expect("sound"));
    timed("by hour and provider, 30 days", || {
        ledger.totals(&all, Some(&Group::Provider), Some(Step::Hour)).expect("sound")
    });
    timed("by hour, one user, 30 days", || ledger.totals(&of_user, None, Some(Step::Hour)).expect("sound"));
    timed("by hour, one provider, 30 days", || ledger.totals(&of_provider, None, Some(Step::Hour)).expect("sound"));
    timed("top users, 30 days", || ledger.totals(&all, Some(&Group::User), None).expect("sound"));
    timed("top users, last day", || ledger.totals(&day, Some(&Group::User), None).expect("sound"));
    timed("errors by class and day, 30 days", || {
        ledger.totals(&errors, Some(&Group::ErrorClass), Some(Step::Day)).expect("sound")
    });
    timed("latencies by provider, 30 days", || ledger.latencies(&all, Some(&Group::Provider)).expect("sound"));
    timed("what users spent since a month ago", || ledger.spent_since(NOW_US - PERIOD_US).expect("sound"));
    timed("what users spent since an odd moment", || {
        ledger.spent_since(NOW_US - PERIOD_US / 2 + 12_345_678).expect("sound")
    });
    timed("newest 100 requests", || ledger.requests(&all, None, 100).expect("sound"));
    timed("newest 100 of one user", || ledger.requests(&of_user, None, 100).expect("sound"));
    timed("newest 100 that failed", || ledger.requests(&errors, None, 100).expect("sound"));
    timed("one request by its name", || {
        ledger.request(RequestId::new(99, rows / 3)).expect("sound").expect("it is there")
    });
    timed("by end user, last hour", || {
        let hour = Filter { from_us: Some(NOW_US - 3_600_000_000), ..Filter::default() };
        ledger.totals(&hour, Some(&Group::EndUser), None).expect("sound")
    });
}
