//! Failed authentications for each client address, so that guessing is slow and does not fill the audit.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use berry_core::time::Instant;
use parking_lot::Mutex;

/// Over which failures are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// Addresses counted at once. Past it, new addresses share one count until the window of an old one is over.
const ADDRESSES_MAX: usize = 16 * 1024;

/// The address that stands for all that found no room.
const SHARED: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// What to do about a failed authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// 401, and an audit event.
    Audit,
    /// 429 and the one audit event that says that no more will follow from there.
    LimitReached,
    /// 429 without an event.
    Limited,
}

/// Counts failures. A valid token never comes here.
#[derive(Debug, Default)]
pub struct FailedAttempts(Mutex<HashMap<IpAddr, Window>>);

#[derive(Clone, Copy, Debug)]
struct Window {
    began: Instant,
    failures: u32,
}

impl FailedAttempts {
    /// Counts one failure from `address`. With the verdict comes the time until its window is over.
    pub fn count(&self, address: IpAddr, limit: u32, now: Instant) -> (Verdict, Duration) {
        let mut windows = self.0.lock();
        let key = place(&mut windows, group(address), now);
        let window = windows.entry(key).or_insert(Window { began: now, failures: 0 });
        if now.since(window.began) >= WINDOW {
            *window = Window { began: now, failures: 0 };
        }
        window.failures = window.failures.saturating_add(1);
        let verdict = match window.failures.checked_sub(limit) {
            None | Some(0) => Verdict::Audit,
            Some(1) => Verdict::LimitReached,
            Some(_) => Verdict::Limited,
        };
        (verdict, WINDOW.saturating_sub(now.since(window.began)))
    }
}

/// Under which key to count, making room where that is cheap.
fn place(windows: &mut HashMap<IpAddr, Window>, key: IpAddr, now: Instant) -> IpAddr {
    if windows.len() < ADDRESSES_MAX || windows.contains_key(&key) {
        return key;
    }
    // While the shared window is open, the last search for room is recent: another one would find little.
    if windows.get(&SHARED).is_none_or(|shared| now.since(shared.began) >= WINDOW) {
        windows.retain(|_, window| now.since(window.began) < WINDOW);
        if windows.len() < ADDRESSES_MAX {
            return key;
        }
    }
    SHARED
}

/// Version 6 clients own a /64, so it counts as one.
fn group(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => {
            let bits = v6.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::START + Duration::from_secs(seconds)
    }

    #[test]
    fn failures_beyond_the_limit_are_limited_until_the_window_is_over() {
        let failures = FailedAttempts::default();
        let client = "192.0.2.1".parse().unwrap();
        let verdicts: Vec<Verdict> = (0..5).map(|_| failures.count(client, 3, at(10)).0).collect();
        use Verdict::{Audit, LimitReached, Limited};
        assert_eq!(verdicts, [Audit, Audit, Audit, LimitReached, Limited]);
        assert_eq!(failures.count(client, 3, at(69)), (Limited, Duration::from_secs(1)));
        assert_eq!(failures.count(client, 3, at(70)).0, Audit);
    }

    #[test]
    fn addresses_are_counted_apart_but_one_v6_network_is_one_client() {
        let failures = FailedAttempts::default();
        let count = |address: &str| failures.count(address.parse().unwrap(), 1, at(0)).0;
        assert_eq!(count("192.0.2.1"), Verdict::Audit);
        assert_eq!(count("192.0.2.2"), Verdict::Audit);
        assert_eq!(count("2001:db8::1"), Verdict::Audit);
        assert_eq!(count("2001:db8::2"), Verdict::LimitReached);
        assert_eq!(count("2001:db8:0:1::1"), Verdict::Audit);
    }

    #[test]
    fn memory_is_bounded_and_room_is_made_when_windows_end() {
        let failures = FailedAttempts::default();
        let address = |n: u32| IpAddr::V4(n.into());
        let many = u32::try_from(ADDRESSES_MAX).unwrap();
        for n in 0..many + 100 {
            failures.count(address(n), 1, at(0));
        }
        assert!(failures.0.lock().len() <= ADDRESSES_MAX + 1);
        assert_eq!(failures.count(address(many + 200), 1, at(1)).0, Verdict::Limited, "shares a count");
        assert_eq!(failures.count(address(many + 200), 1, at(60)).0, Verdict::Audit, "has its own");
        assert!(failures.0.lock().len() <= 2);
    }
}
