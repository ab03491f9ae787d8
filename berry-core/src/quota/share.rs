//! One instance's share of an amount that several instances draw on, and what it says to the store that they have in common.
//!
//! The store lends each instance a small amount ahead (a *lease*), and counts all that is lent as used. So an instance answers
//! from its lease without asking, all instances together never use more than the limit, and one that is cut off can exceed what
//! the others see by its lease at most.
//!
//! ```text
//!   used + held ──────▶ bound        what may be taken until `valid_until` without asking
//!   Ask {told, used, held, want} ──▶ store ──▶ Lent {lease, …}: bound = used at the asking + lease
//! ```
//!
//! What is used is told as a total since the start of the process, and a lease replaces the one before, so an exchange whose
//! answer was lost is told again and counted once. A lease is returned when nothing was taken from it for [`IDLE`].
//!
//! A state machine without a clock or a lock, like the other parts of this module.

use std::time::Duration;

use crate::time::Instant;

/// How long a lease holds. The store counts one that is not renewed as used from its end on.
pub const LEASE: Duration = Duration::from_secs(5);
/// How long what was used may wait to be told.
pub const TELL_AFTER: Duration = Duration::from_millis(250);
/// Without a request for so long, what is left of a lease goes back.
pub const IDLE: Duration = Duration::from_secs(1);
/// How long the word that nothing is left is believed: others may return what they do not use.
pub const REFUSAL: Duration = Duration::from_millis(250);
/// Until an exchange that failed is tried again.
const AGAIN: Duration = Duration::from_millis(100);

/// A limit as the store keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedWindow {
    /// Tells the windows of one amount apart.
    pub name: &'static str,
    /// Length of the sliding window; zero for what never leaves.
    pub span: Duration,
    /// The resolution of its counts.
    pub width: Duration,
    /// The most that may be used and lent.
    pub limit: u64,
}

/// What an instance tells the store and wants of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// What was used, as the store's last answer had taken it in.
    pub told: u64,
    /// What was used since the start.
    pub used: u64,
    /// What is taken and not settled; it stays lent whatever the limits say.
    pub held: u64,
    /// The lease that is wanted, `held` included.
    pub want: u64,
    /// The least lease that helps.
    pub need: u64,
    at: Instant,
}

/// From when on how much of all windows is free, if nobody uses more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Free {
    /// The place of the window that has least until then.
    pub window: usize,
    /// From the answer on.
    pub after: Duration,
    /// What may be lent then, in all.
    pub room: u64,
}

/// What the store answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lent {
    /// What may be used from the asking on; it takes the place of the lease before.
    pub lease: u64,
    /// The place of the window that has least left.
    pub window: usize,
    /// What that window has left beside all leases.
    pub left: u64,
    /// What was used in it by all instances.
    pub sum: u64,
    /// Where less than what is needed could be lent: when there will be more, the earliest first. Empty = not known.
    pub frees: Vec<Free>,
}

/// What a share says to one who wants to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// The lease has it.
    Yes,
    /// The store has just said that nothing is left.
    No {
        /// The place of the window that holds longest.
        window: usize,
        /// When as much is left again, if nobody uses it before.
        until: Instant,
    },
    /// The store has to be asked.
    Unknown,
}

/// The store's word that less is left than was needed.
#[derive(Clone, Debug)]
struct Refusal {
    window: usize,
    /// When it was said.
    at: Instant,
    /// What this instance had used as far as the store knew.
    used: u64,
    frees: Vec<Free>,
    believed_until: Instant,
}

impl Refusal {
    /// When this instance can have a lease of `needed`, and the window that holds until then. Where the store did not look so far
    /// ahead, as far as it did.
    fn until(&self, needed: u64) -> (usize, Instant) {
        match self.frees.iter().find(|free| free.room >= needed).or(self.frees.last()) {
            Some(free) => (free.window, self.at + free.after),
            None => (self.window, self.at + IDLE),
        }
    }
}

/// What this instance may use of a shared amount. See the [module](self).
#[derive(Clone, Debug, Default)]
pub struct Share {
    windows: Vec<SharedWindow>,
    used: u64,
    held: u64,
    told: u64,
    bound: u64,
    valid_until: Instant,
    /// What to have ready beyond what is held.
    target: u64,
    /// What requests that wait for an answer want.
    wanted: u64,
    left: Option<(usize, u64)>,
    refusal: Option<Refusal>,
    last_taken: Instant,
    /// Since the last exchange began.
    taken: bool,
    /// When the last exchange began that was answered or lost.
    last_ask: Instant,
    not_before: Instant,
    under_way: bool,
    listed: bool,
    /// The store has to be told, whatever it knew.
    to_tell: bool,
}

impl Share {
    /// The limits that hold. They go to the store with the next exchange.
    pub fn set_windows(&mut self, windows: impl Iterator<Item = SharedWindow> + Clone) {
        if !windows.clone().eq(self.windows.iter().copied()) {
            self.windows = windows.collect();
            self.refusal = None;
        }
    }

    /// The limits that hold.
    pub fn windows(&self) -> &[SharedWindow] {
        &self.windows
    }

    /// What may be taken without asking.
    pub fn available(&self, now: Instant) -> u64 {
        match self.valid_until > now {
            true => self.bound.saturating_sub(self.used.saturating_add(self.held)),
            false => 0,
        }
    }

    /// Whether `amount` may be taken.
    pub fn word(&self, amount: u64, now: Instant) -> Word {
        if self.available(now) >= amount {
            return Word::Yes;
        }
        match (&self.refusal, self.refused_until(amount, now)) {
            (Some(refusal), Some((window, until))) if refusal.believed_until > now => Word::No { window, until },
            _ => Word::Unknown,
        }
    }

    /// Until when `amount` may not be taken as far as the store's last word goes, and the place of the window that holds. Nobody
    /// knew of more then, though others may have given something back since.
    pub fn refused_until(&self, amount: u64, now: Instant) -> Option<(usize, Instant)> {
        let refusal = self.refusal.as_ref()?;
        let used_since = self.used.saturating_sub(refusal.used);
        let needed = used_since.saturating_add(self.held).saturating_add(amount);
        Some(refusal.until(needed)).filter(|(_, until)| *until > now)
    }

    /// Notes that a request waits for `amount`.
    pub fn want(&mut self, amount: u64) {
        self.wanted = self.wanted.saturating_add(amount);
    }

    /// Takes `amount` for good, whether it was lent or not.
    pub fn take(&mut self, amount: u64, now: Instant) {
        self.used = self.used.saturating_add(amount);
        self.last_taken = now;
        self.taken = true;
    }

    /// Takes `amount` until it is [released](Self::release).
    pub fn hold(&mut self, amount: u64, now: Instant) {
        self.held = self.held.saturating_add(amount);
        self.last_taken = now;
        self.taken = true;
    }

    /// Gives back what was [held](Self::hold), of which `used` was used for good; that may be more than was held.
    pub fn release(&mut self, amount: u64, used: u64) {
        self.held = self.held.saturating_sub(amount);
        self.used = self.used.saturating_add(used);
    }

    /// What is left for everybody in the window that has least, as far as is known: its place, and how much.
    pub fn left(&self, now: Instant) -> Option<(usize, u64)> {
        self.left.map(|(window, left)| (window, left.saturating_add(self.available(now))))
    }

    /// How much of `amount` would go beyond the last lease, whether or not that still holds.
    pub fn beyond(&self, amount: u64) -> u64 {
        self.used.saturating_add(self.held).saturating_add(amount).saturating_sub(self.bound)
    }

    /// What was left beside all leases when the store last answered; `None` before it did.
    pub fn unlent(&self) -> Option<u64> {
        self.left.map(|(_, left)| left)
    }

    /// Tells the store at the next occasion: it may have forgotten what it knew, or there is something that it never heard.
    pub fn tell(&mut self) {
        self.to_tell = true;
    }

    /// Puts the share on the list of those that have something to say; whether it was not there yet.
    pub fn list(&mut self) -> bool {
        !std::mem::replace(&mut self.listed, true)
    }

    /// Whether the next exchange should not wait for its turn.
    pub fn is_urgent(&self, now: Instant) -> bool {
        !self.under_way && self.next_ask().is_some_and(|at| at <= now)
    }

    /// When the next exchange is due; `None` where there is nothing to say.
    pub fn next_ask(&self) -> Option<Instant> {
        let due = [
            (self.wanted > 0 || self.to_tell).then_some(Instant::START),
            self.runs_low().then_some(Instant::START),
            (self.used > self.told).then(|| self.last_ask + TELL_AFTER),
            (self.lent() > self.held).then(|| self.last_taken + IDLE),
            (self.held > 0).then(|| self.last_ask + LEASE / 2),
        ];
        due.into_iter().flatten().min().map(|due| due.max(self.not_before))
    }

    /// What to tell the store, where it is time and no exchange is under way. Everything that is begun so has to end with
    /// `lent`'s answer, [`Self::answered`], or [`Self::lost`].
    pub fn ask(&mut self, now: Instant) -> Option<Ask> {
        if self.under_way || self.next_ask().is_none_or(|at| at > now) {
            return None;
        }
        let idle = self.wanted == 0 && self.last_taken + IDLE <= now;
        let spare = if idle { 0 } else { self.target.max(self.wanted).max(1) };
        let want = self.held.saturating_add(spare);
        let need = self.held.saturating_add(if idle { 0 } else { self.wanted.max(1) });
        self.target = self.target.max(spare);
        // What goes back must not be taken meanwhile, even when the answer is lost.
        self.bound = self.bound.min(self.used.saturating_add(want));
        self.wanted = 0;
        self.to_tell = false;
        self.under_way = true;
        self.taken = false;
        Some(Ask { told: self.told, used: self.used, held: self.held, want, need, at: now })
    }

    /// Takes the store's answer to `ask`. `most` bounds how much is asked for ahead from now on.
    pub fn answered(&mut self, ask: &Ask, lent: &Lent, most: u64, now: Instant) {
        self.end(ask);
        let spare_before = self.available(now);
        self.told = ask.used;
        self.bound = ask.used.saturating_add(lent.lease);
        self.valid_until = ask.at + LEASE;
        self.left = Some((lent.window, lent.left));
        let refused = lent.lease < ask.need;
        self.refusal = refused.then(|| {
            let first = lent.frees.first().map_or(IDLE, |free| free.after);
            let (frees, believed_until) = (lent.frees.clone(), now + first.min(REFUSAL));
            Refusal { window: lent.window, at: now, used: ask.used, frees, believed_until }
        });
        // Twice as much where the lease ran out before the next came, half where most of it was left.
        let grown = match spare_before {
            0 if self.last_taken + TELL_AFTER > ask.at => self.target.saturating_mul(2),
            spare if spare > self.target / 2 => self.target / 2,
            _ => self.target,
        };
        self.target = grown.clamp(1, most.max(1));
        self.not_before = self.refusal.as_ref().map_or(Instant::START, |refusal| refusal.believed_until);
    }

    /// The exchange came to nothing; whether the store has seen it is not known.
    pub fn lost(&mut self, ask: &Ask, now: Instant) {
        self.end(ask);
        self.not_before = now + AGAIN;
    }

    /// Takes the share off the list where there is nothing more to say; whether it is off.
    pub fn unlist(&mut self) -> bool {
        self.listed = self.under_way || self.next_ask().is_some();
        !self.listed
    }

    fn end(&mut self, ask: &Ask) {
        self.under_way = false;
        self.last_ask = ask.at;
    }

    /// What the store believes to be lent, at most.
    fn lent(&self) -> u64 {
        self.bound.saturating_sub(self.used)
    }

    /// Something was taken since the last exchange, and less than half of what should be ready is left.
    fn runs_low(&self) -> bool {
        let spare = self.bound.saturating_sub(self.used.saturating_add(self.held));
        self.taken && spare <= self.target / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn at(millis: u32) -> Instant {
        Instant::START + millis * MS
    }

    /// A share that was just lent `lease`.
    fn lent(lease: u64) -> Share {
        let mut share = Share::default();
        share.want(lease);
        let ask = share.ask(at(0)).unwrap();
        assert_eq!((ask.used, ask.held, ask.want), (0, 0, lease));
        share.answered(&ask, &Lent { lease, left: 100, ..Lent::default() }, 10, at(1));
        share
    }

    #[test]
    fn what_is_lent_may_be_taken_until_the_lease_ends_and_no_more() {
        let mut share = lent(2);
        assert_eq!(share.word(2, at(1)), Word::Yes);
        share.take(1, at(1));
        assert_eq!((share.word(1, at(2)), share.word(2, at(2))), (Word::Yes, Word::Unknown));
        assert_eq!(share.word(1, Instant::START + LEASE), Word::Unknown, "the lease counts from the asking");
        share.take(1, at(2));
        assert_eq!(share.word(1, at(3)), Word::Unknown);
    }

    #[test]
    fn a_refusal_is_believed_until_the_announced_instant_at_most() {
        let mut share = Share::default();
        for (free_after, believed) in [(40 * MS, 40 * MS), (5_000 * MS, REFUSAL)] {
            share.want(1);
            let ask = share.ask(at(0)).unwrap();
            let frees = vec![Free { window: 1, after: free_after, room: 1 }];
            let none = Lent { window: 0, frees, ..Lent::default() };
            share.answered(&ask, &none, 10, at(0));
            let no = Word::No { window: 1, until: at(0) + free_after };
            assert_eq!(share.word(1, at(0) + (believed - MS)), no);
            assert_eq!(share.word(1, at(0) + believed), Word::Unknown);
            let last = (believed < free_after).then_some((1, at(0) + free_after));
            assert_eq!(share.refused_until(1, at(0) + believed), last, "where nobody answers it still counts");
            share.want(1);
            assert!(share.ask(at(0) + (believed - MS)).is_none(), "nothing new is to be heard before");
            share = Share::default();
        }
    }

    #[test]
    fn each_request_is_told_the_moment_at_which_there_is_room_for_it_however_many_ask_at_once() {
        let mut share = Share::default();
        (0..9).for_each(|_| share.want(1));
        let ask = share.ask(at(0)).unwrap();
        let free = |window, after: u32, room| Free { window, after: after * MS, room };
        let frees = vec![free(0, 1_000, 3), free(1, 4_000, 4), free(0, 6_000, 9)];
        share.answered(&ask, &Lent { lease: 2, sum: 28, frees, ..Lent::default() }, 10, at(0));
        let no = |window, millis| Word::No { window, until: at(millis) };
        assert_eq!(
            [1, 2, 3, 4].map(|amount| share.word(amount, at(1))),
            [Word::Yes, Word::Yes, no(0, 1_000), no(1, 4_000)]
        );
        share.take(2, at(2));
        assert_eq!([1, 2, 3].map(|amount| share.word(amount, at(3))), [no(0, 1_000), no(1, 4_000), no(0, 6_000)]);
        assert_eq!(share.word(70, at(3)), no(0, 6_000), "as far as the store looked ahead");
        share.hold(1, at(4));
        assert_eq!(share.word(1, at(5)), no(1, 4_000), "what is held is not free");
    }

    #[test]
    fn an_exchange_that_was_lost_tells_the_same_again() {
        let mut share = lent(4);
        share.take(3, at(2));
        let ask = share.ask(at(1_000)).unwrap();
        assert_eq!((ask.told, ask.used), (0, 3));
        assert!(share.ask(at(1_001)).is_none(), "one exchange at a time");
        share.lost(&ask, at(1_001));
        share.take(1, at(1_050));
        let again = share.ask(at(2_000)).unwrap();
        assert_eq!((again.told, again.used), (0, 4));
    }

    #[test]
    fn an_exchange_that_was_lost_is_tried_again_after_a_pause_and_no_sooner() {
        let mut share = lent(4);
        share.want(1);
        let ask = share.ask(at(5)).unwrap();
        share.lost(&ask, at(6));
        share.want(1);
        let again = at(6) + AGAIN;
        assert_eq!((share.next_ask(), share.is_urgent(at(6))), (Some(again), false));
        assert!(share.is_urgent(again) && share.ask(again).is_some());
    }

    #[test]
    fn what_cannot_wait_is_urgent_until_it_is_on_its_way() {
        let mut share = Share::default();
        assert!(!share.is_urgent(at(0)), "nothing to say");
        share.want(1);
        assert!(share.is_urgent(at(0)));
        share.ask(at(0)).unwrap();
        share.want(1);
        assert!(!share.is_urgent(at(0)), "one exchange at a time");
    }

    #[test]
    fn a_share_is_put_on_the_list_once_and_stays_there_until_there_is_nothing_more_to_say() {
        let mut share = Share::default();
        share.want(1);
        assert!(share.list() && !share.list());
        assert!(!share.unlist() && !share.list(), "a request waits");
        let ask = share.ask(at(0)).unwrap();
        assert!(!share.unlist() && !share.list(), "an answer is to come");
        share.answered(&ask, &Lent::default(), 10, at(1));
        assert!(share.unlist() && share.list());
    }

    #[test]
    fn what_the_store_may_have_forgotten_is_told_once() {
        let mut share = Share::default();
        share.tell();
        let ask = share.ask(at(0)).unwrap();
        share.answered(&ask, &Lent::default(), 10, at(1));
        assert_eq!(share.next_ask(), None);
    }

    #[test]
    fn who_takes_or_holds_is_not_idle_and_is_lent_more_before_it_runs_out() {
        for take in [Share::take, Share::hold] {
            let mut share = lent(6);
            assert!(!share.is_urgent(at(2)), "nothing was taken");
            take(&mut share, 1, at(2));
            assert!(share.is_urgent(at(2)), "half of the ten that should be ready is left");
            let mut share = lent(7);
            take(&mut share, 1, at(2));
            assert!(!share.is_urgent(at(2)), "more than half is left");
            let late = at(0) + 3 * IDLE;
            take(&mut share, 1, late);
            let ask = share.ask(late).unwrap();
            assert_eq!(ask.want, ask.held + 10, "nothing goes back");
        }
    }

    #[test]
    fn a_refusal_goes_by_what_was_used_since_and_by_the_limits_of_then() {
        let window = |limit| SharedWindow { name: "n", span: MS, width: MS, limit };
        let mut share = lent(5);
        share.set_windows([window(9)].into_iter());
        share.take(5, at(2));
        share.want(1);
        let ask = share.ask(at(3)).unwrap();
        let frees = [(1_000, 1), (9_000, 20)].map(|(after, room)| Free { window: 0, after: after * MS, room });
        share.answered(&ask, &Lent { frees: frees.to_vec(), ..Lent::default() }, 10, at(3));
        let no = Word::No { window: 0, until: at(1_003) };
        assert_eq!(share.word(1, at(4)), no, "the five from before are in what the store said");
        share.set_windows([window(9)].into_iter());
        assert_eq!(share.word(1, at(4)), no);
        share.set_windows([window(10)].into_iter());
        assert_eq!(share.word(1, at(4)), Word::Unknown, "the store spoke of another limit");
    }

    #[test]
    fn what_is_used_while_an_exchange_is_under_way_comes_off_the_new_lease() {
        let mut share = lent(3);
        share.take(2, at(2));
        let ask = share.ask(at(300)).unwrap();
        share.take(1, at(301));
        share.answered(&ask, &Lent { lease: 5, left: 9, ..Lent::default() }, 10, at(302));
        assert_eq!(share.available(at(302)), 4);
    }

    #[test]
    fn what_nobody_takes_goes_back_and_is_not_taken_while_it_does() {
        let mut share = lent(3);
        share.take(1, at(2));
        let told = share.ask(at(400)).unwrap();
        share.answered(&told, &Lent { lease: 2, left: 9, ..Lent::default() }, 10, at(401));
        assert_eq!(share.available(at(402)), 2);
        let back = share.ask(at(2) + IDLE).unwrap();
        assert_eq!((back.used, back.want, back.need), (1, 0, 0));
        assert_eq!(share.available(at(2) + IDLE), 0, "even when the answer is lost");
        share.answered(&back, &Lent { lease: 0, left: 9, ..Lent::default() }, 10, at(1_100));
        assert_eq!(share.next_ask(), None);
        assert!(share.unlist());
    }

    #[test]
    fn a_lease_that_runs_out_grows_and_one_that_stays_shrinks() {
        let mut share = lent(1);
        let mut now = at(10);
        let mut wants = Vec::new();
        for _ in 0..5 {
            share.take(share.available(now), now);
            now = now + MS;
            let ask = share.ask(now).unwrap();
            wants.push(ask.want);
            share.answered(&ask, &Lent { lease: ask.want, left: 99, ..Lent::default() }, 10, now);
        }
        assert_eq!(wants, [2, 4, 8, 10, 10]);
        share.take(1, now);
        now = now + TELL_AFTER + MS;
        let ask = share.ask(now).unwrap();
        share.answered(&ask, &Lent { lease: 9, left: 99, ..Lent::default() }, 10, now);
        share.take(1, now + MS);
        assert_eq!(share.ask(now + TELL_AFTER + MS).unwrap().want, 5);
        for (lease, want) in [(6, 10), (7, 5)] {
            // All but one is left: of ten that should be ready, half or more.
            let mut share = lent(lease);
            share.take(1, at(2));
            let ask = share.ask(at(300)).unwrap();
            share.answered(&ask, &Lent { lease: 10, left: 99, ..Lent::default() }, 10, at(301));
            share.take(1, at(302));
            assert_eq!(share.ask(at(600)).unwrap().want, want);
        }
    }

    #[test]
    fn what_is_held_stays_lent_and_its_lease_is_renewed() {
        let mut share = lent(1);
        share.hold(1, at(1));
        assert_eq!(share.available(at(1)), 0);
        let mut now = at(1);
        for _ in 0..3 {
            now = now + LEASE / 2;
            let ask = share.ask(now).unwrap();
            assert_eq!((ask.held, ask.used), (1, 0));
            share.answered(&ask, &Lent { lease: ask.held, left: 0, ..Lent::default() }, 10, now);
            assert_eq!(share.next_ask(), Some(now + LEASE / 2), "before the lease ends, and not all the time");
        }
        share.release(1, 5);
        let ask = share.ask(now + TELL_AFTER).unwrap();
        assert_eq!((ask.held, ask.used, ask.want), (0, 5, 0));
    }
}
