//! How long it takes to find the user of a token: among ten users, and among a million.
//!
//! `cargo bench -p berry-core --bench users`. To be kept: the slowest hundredth at most 1 µs more. Every lookup is timed by itself,
//! in an order that no cache foresees, hashing of the token included.
#![expect(clippy::unwrap_used, reason = "a benchmark fails where it must")]
#![expect(clippy::print_stdout, reason = "the figures are what it is for")]
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Instant;

use berry_core::auth::key::TokenDigest;
use berry_core::config::{Config, ProcessEnvironment};

const LOOKUPS: u64 = 200_000;

fn main() {
    for users in [10, 1_000_000] {
        let mut text = String::new();
        for n in 0..users {
            write!(text, "[users.u{n}]\nname = \"User {n}\"\ntoken = \"{}\"\ntags = [\"team-{}\"]\n", token(n), n % 50)
                .unwrap();
        }
        let snapshot = Config::from_text("users.toml", &text, &ProcessEnvironment).unwrap().snapshot;
        let mut taken: Vec<u64> = (0..LOOKUPS)
            .map(|n| {
                let token = token(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % users);
                let began = Instant::now();
                black_box(snapshot.users.of_token(&TokenDigest::of(black_box(&token)))).unwrap();
                u64::try_from(began.elapsed().as_nanos()).unwrap()
            })
            .collect();
        taken.sort_unstable();
        let at = |share: f64| taken[(taken.len() as f64 * share) as usize];
        println!("{users:>9} users: p50 {} ns, p99 {} ns, p99.9 {} ns", at(0.5), at(0.99), at(0.999));
    }
}

fn token(n: u64) -> String {
    format!("sk-{:040x}", u128::from(n) * 0x0123_4567_89ab_cdef_0123_4567)
}
