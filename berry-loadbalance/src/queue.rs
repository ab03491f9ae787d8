//! Requests that wait for a place at a full pool, in line.
//!
//! Users take turns, and each user's requests keep their order: a request joins behind the others of its user, in the first round
//! in which its user has none. Whoever gives a place back *calls* the first in line that was not called yet; the called one looks
//! again, and when the place is none for it (other tags, another provider), it passes the call on to the next behind it. While a
//! call is out, nobody else may look, so that a newcomer does not take what somebody waited for.
//!
//! Nothing here waits or knows the time: a [`Turn`] is polled, and its holder sets the deadline.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::poll_fn;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::task::{Poll, Waker};
use std::time::Duration;

use berry_core::id::UserId;
use parking_lot::Mutex;

use crate::figures::{Distribution, Histogram, REQUEST_BOUNDS_MS};

/// How waiting came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With a place.
    Served,
    /// With another refusal than that of a full pool.
    Refused,
    /// By the request's deadline.
    TimedOut,
    /// The client left.
    Left,
    /// At once: too many waited.
    Full,
}

impl Ended {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Served, Self::Refused, Self::TimedOut, Self::Left, Self::Full];

    /// Its name in figures.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Left => "left",
            Self::Full => "full",
        }
    }
}

/// The line of one pool.
pub struct Queue {
    line: Mutex<Line>,
    /// How many are in line, so that whoever gives a place back looks at one word where nobody waits.
    waiting: AtomicUsize,
    /// How many of them are called.
    called: AtomicUsize,
    waits: Histogram,
    ends: [AtomicU64; Ended::ALL.len()],
}

/// Place in line: the round, then the order of arrival.
type Position = (u64, u64);

#[derive(Default)]
struct Line {
    waiters: BTreeMap<Position, Waiter>,
    /// Of each user in line, the last round, and how many wait.
    users: HashMap<UserId, (u64, usize)>,
    /// How many are called.
    called: usize,
    /// The round that is being served.
    round: u64,
    arrivals: u64,
}

struct Waiter {
    user: UserId,
    called: bool,
    waker: Option<Waker>,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            line: Mutex::default(),
            waiting: AtomicUsize::new(0),
            called: AtomicUsize::new(0),
            waits: Histogram::new(REQUEST_BOUNDS_MS),
            ends: Default::default(),
        }
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}

impl Queue {
    /// Joins the line; `None` where `max` are in it. Look once more before waiting, unless somebody [is called](Self::is_calling):
    /// a place may have come back just before.
    pub fn join(self: &Arc<Self>, user: &UserId, max: usize) -> Option<Turn> {
        let mut line = self.line.lock();
        if line.waiters.len() >= max {
            drop(line);
            self.count(Ended::Full);
            return None;
        }
        let position = line.add(user);
        self.note(&line);
        drop(line);
        // Pairs with the fence of `freed`: either that one sees this request, or this request sees the place.
        fence(Ordering::SeqCst);
        Some(Turn { queue: Arc::clone(self), position, ended: false })
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether somebody in line is called: then a place is theirs, and newcomers join the line without looking.
    pub fn is_calling(&self) -> bool {
        self.called.load(Ordering::Relaxed) > 0
    }

    /// A place came back.
    pub fn freed(&self) {
        fence(Ordering::SeqCst);
        if self.waiting() > 0 {
            self.call();
        }
    }

    /// Calls the first in line that is not called yet: there may be a place for it.
    pub fn call(&self) {
        self.call_behind(Bound::Unbounded);
    }

    /// How long those waited whose waiting is over.
    pub fn waits(&self) -> Distribution {
        self.waits.read()
    }

    /// How waiting ended so far, in the order of [`Ended::ALL`].
    pub fn ends(&self) -> impl Iterator<Item = (Ended, u64)> {
        Ended::ALL.into_iter().zip(self.ends.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    fn call_behind(&self, behind: Bound<Position>) {
        let mut line = self.line.lock();
        let waker = line.call(behind);
        self.note(&line);
        drop(line);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn note(&self, line: &Line) {
        self.waiting.store(line.waiters.len(), Ordering::Relaxed);
        self.called.store(line.called, Ordering::Relaxed);
    }

    fn count(&self, ended: Ended) {
        self.ends[ended as usize].fetch_add(1, Ordering::Relaxed);
    }
}

impl Line {
    fn add(&mut self, user: &UserId) -> Position {
        let (last, count) = self.users.entry(user.clone()).or_insert((self.round, 0));
        let round = if *count == 0 { self.round } else { self.round.max(*last + 1) };
        (*last, *count) = (round, *count + 1);
        let position = (round, self.arrivals);
        self.arrivals += 1;
        self.waiters.insert(position, Waiter { user: user.clone(), called: false, waker: None });
        position
    }

    /// Calls the next that is not called; whom to wake.
    fn call(&mut self, behind: Bound<Position>) -> Option<Waker> {
        let (_, next) = self.waiters.range_mut((behind, Bound::Unbounded)).find(|(_, waiter)| !waiter.called)?;
        next.called = true;
        self.called += 1;
        next.waker.take()
    }

    /// Takes a call back; whether there was one.
    fn uncall(&mut self, position: Position) -> bool {
        let waiter = self.waiters.get_mut(&position);
        let was_called = waiter.is_some_and(|waiter| std::mem::replace(&mut waiter.called, false));
        self.called -= usize::from(was_called);
        was_called
    }

    /// Whether it was called.
    fn remove(&mut self, position: Position) -> bool {
        let was_called = self.uncall(position);
        let Some(waiter) = self.waiters.remove(&position) else { return false };
        if let Some((_, count)) = self.users.get_mut(&waiter.user) {
            *count -= 1;
            if *count == 0 {
                self.users.remove(&waiter.user);
            }
        }
        was_called
    }
}

/// A place in line. Dropped, it is left at once, and a call that was out for it goes on to the next.
#[derive(Debug)]
pub struct Turn {
    queue: Arc<Queue>,
    position: Position,
    ended: bool,
}

impl Turn {
    /// Completes when it is called; at once while it is.
    pub async fn called(&mut self) {
        poll_fn(|context| {
            let mut line = self.queue.line.lock();
            match line.waiters.get_mut(&self.position) {
                Some(waiter) if !waiter.called => {
                    waiter.waker = Some(context.waker().clone());
                    Poll::Pending
                }
                _ => Poll::Ready(()),
            }
        })
        .await;
    }

    /// It was called and found no place: the next behind it is called, and it waits on where it is.
    pub fn pass_on(&mut self) {
        let mut line = self.queue.line.lock();
        let was_called = line.uncall(self.position);
        self.queue.note(&line);
        drop(line);
        if was_called {
            self.queue.call_behind(Bound::Excluded(self.position));
        }
    }

    /// Leaves the line after `waited`.
    pub fn end(mut self, ended: Ended, waited: Duration) {
        self.queue.waits.record(waited);
        self.leave(ended);
    }

    fn leave(&mut self, ended: Ended) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.queue.count(ended);
        let mut line = self.queue.line.lock();
        let was_called = line.remove(self.position);
        if ended == Ended::Served {
            line.round = line.round.max(self.position.0);
        }
        self.queue.note(&line);
        drop(line);
        if was_called && ended != Ended::Served {
            self.queue.call();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.leave(Ended::Left);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Context;

    use super::*;

    fn join(queue: &Arc<Queue>, user: &str) -> Turn {
        queue.join(&UserId::from(user), 100).expect("there is room")
    }

    fn is_called(turn: &mut Turn) -> bool {
        let mut called = std::pin::pin!(turn.called());
        called.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// The one turn that is called.
    fn called(turns: &mut [Turn]) -> Option<usize> {
        let called: Vec<usize> = (0..turns.len()).filter(|at| is_called(&mut turns[*at])).collect();
        assert!(called.len() <= 1, "{called:?}");
        called.first().copied()
    }

    #[test]
    fn users_take_turns_and_each_users_requests_keep_their_order() {
        let queue = Arc::new(Queue::default());
        let mut names = vec!["a1", "a2", "a3", "a4", "b1", "c1", "b2"];
        let mut turns: Vec<Turn> = names.iter().map(|name| join(&queue, &name[..1])).collect();
        let mut order = Vec::new();
        while !turns.is_empty() {
            queue.freed();
            let at = called(&mut turns).expect("somebody is called");
            order.push(names.remove(at));
            turns.remove(at).end(Ended::Served, Duration::ZERO);
            if order.len() == 3 {
                names.push("d1");
                turns.push(join(&queue, "d"));
            }
        }
        assert_eq!(order, ["a1", "b1", "c1", "d1", "a2", "b2", "a3", "a4"]);
        assert_eq!((queue.waiting(), queue.is_calling()), (0, false));
        assert!(queue.line.lock().users.is_empty());
    }

    #[test]
    fn a_call_that_helps_nobody_goes_once_through_the_line_and_ends() {
        let queue = Arc::new(Queue::default());
        let mut turns = [join(&queue, "a"), join(&queue, "a"), join(&queue, "b")];
        queue.freed();
        let mut seen = Vec::new();
        while let Some(at) = called(&mut turns) {
            assert!(queue.is_calling(), "newcomers have to wait");
            seen.push(at);
            turns[at].pass_on();
        }
        assert_eq!(seen, [0, 2, 1]);
        assert!(!queue.is_calling());
        queue.freed();
        assert_eq!(called(&mut turns), Some(0), "everybody waits on where they were");
    }

    #[test]
    fn who_leaves_while_called_leaves_the_place_to_the_next() {
        let queue = Arc::new(Queue::default());
        let (first, mut second) = (join(&queue, "a"), join(&queue, "b"));
        queue.freed();
        assert!(!is_called(&mut second));
        drop(first);
        assert!(is_called(&mut second));
        second.end(Ended::Served, Duration::ZERO);
        let ends: Vec<u64> = queue.ends().map(|(_, count)| count).collect();
        assert_eq!(ends, [1, 0, 0, 1, 0]);
    }

    #[test]
    fn every_place_that_comes_back_calls_one() {
        let queue = Arc::new(Queue::default());
        let mut turns: Vec<Turn> = (0..3).map(|_| join(&queue, "a")).collect();
        queue.freed();
        queue.freed();
        let called: Vec<bool> = turns.iter_mut().map(is_called).collect();
        assert_eq!(called, [true, true, false]);
    }

    #[test]
    fn the_line_has_an_end() {
        let queue = Arc::new(Queue::default());
        let turns: Vec<Turn> = (0..2).filter_map(|_| queue.join(&"a".into(), 2)).collect();
        assert_eq!(turns.len(), 2);
        assert!(queue.join(&"b".into(), 2).is_none());
        drop(turns);
        assert!(queue.join(&"b".into(), 2).is_some());
        assert_eq!(queue.ends().last(), Some((Ended::Full, 1)));
    }
}
