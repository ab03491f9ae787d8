//! Runs a scenario: an event queue under a virtual clock around the selector that the server uses.
//!
//! Choices, circuits, pauses, ejections, confidence, probes and the retry budget are those of `berry-loadbalance`, what an error
//! means is the relay's disposition table, and how attempts follow each other is [`Course`], which the relay follows too. Only
//! the upstreams, the arrivals and the clock are made up.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use berry_core::config::provider_data::ErrorTable;
use berry_core::config::scenario::Scenario;
use berry_core::config::snapshot::Backend;
use berry_core::money::NanoUsd;
use berry_core::time::Instant;
use berry_core::usage::Usage;
use berry_loadbalance::course::{Allowance, Course, Retry, Setback};
use berry_loadbalance::eligibility::{Demand, Hints};
use berry_loadbalance::lease::Lease;
use berry_loadbalance::outcome::{FailureClass, Outcome};
use berry_loadbalance::pool::Pool;
use berry_loadbalance::probe::{Answer, Probe};
use berry_loadbalance::selector::{PoolSelector, RouteSelector as _};
use berry_relay::disposition;
use rand::RngExt as _;
use rand::rngs::SmallRng;

use super::upstream::{Ask, Fate, Upstreams, chances, lognormal};

/// Shortest time between two looks for due probes, as in the server.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_millis(10);

/// Who chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chooser {
    /// The model's strategy, with failover, circuits and all.
    Strategy,
    /// Nobody: every request is sent once to the backend at this position, whatever happens.
    Fixed(usize),
}

/// A request that is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) started: Instant,
    /// To its first token, or to the error.
    pub(super) wait: Duration,
    pub(super) answered: bool,
    pub(super) cost: NanoUsd,
}

/// An attempt that is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    pub(super) started: Instant,
    pub(super) position: usize,
    pub(super) good: bool,
}

/// What happened.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    pub(super) requests: Vec<Request>,
    pub(super) attempts: Vec<Attempt>,
    pub(super) probes: u64,
}

/// Runs a scenario as often as it says.
pub(super) fn run(scenario: &Scenario, chooser: Chooser, seed: u64) -> Log {
    let mut log = Log::default();
    for round in 0..scenario.runs {
        let mut engine = Engine::new(scenario, chooser, seed.wrapping_add(u64::from(round)), log);
        engine.run();
        log = engine.log;
    }
    log
}

enum Event {
    Arrival,
    /// The first news of an attempt.
    News(usize),
    /// The end of an attempt that had a first token.
    End(usize),
    /// The pause before a repeat is over.
    Again(usize),
    /// Probes may be due.
    Look,
    Probed(Probe, Answer),
}

/// Ordered by time, then by age, so that a run is the same every time.
struct Entry {
    at: Instant,
    age: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.age) == (other.at, other.age)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.age).cmp(&(other.at, other.age))
    }
}

/// A request under way.
struct Live {
    started: Instant,
    rng: SmallRng,
    course: Course,
    attempts: u64,
    conversation: u64,
    output_tokens: u64,
    running: Option<Running>,
}

/// Its attempt.
struct Running {
    /// `None` where nobody chose.
    lease: Option<Lease>,
    position: usize,
    sent: Instant,
    fate: Fate,
}

struct Engine<'s> {
    scenario: &'s Scenario,
    selector: PoolSelector,
    pool: std::sync::Arc<Pool>,
    chooser: Chooser,
    seed: u64,
    now: Instant,
    queue: BinaryHeap<Reverse<Entry>>,
    age: u64,
    live: HashMap<usize, Live>,
    upstreams: Upstreams<'s>,
    arrivals: SmallRng,
    probing: SmallRng,
    next_look: Instant,
    log: Log,
}

impl<'s> Engine<'s> {
    fn new(scenario: &'s Scenario, chooser: Chooser, seed: u64, log: Log) -> Self {
        let selector = PoolSelector::new(&scenario.snapshot, None);
        let pool = std::sync::Arc::clone(selector.pool(&scenario.model.id).expect("made for every model"));
        Self {
            scenario,
            selector,
            pool,
            chooser,
            seed,
            now: Instant::START,
            queue: BinaryHeap::new(),
            age: 0,
            live: HashMap::new(),
            upstreams: Upstreams::new(scenario),
            arrivals: chances(seed, &[1]),
            probing: chances(seed, &[2]),
            next_look: Instant::START,
            log,
        }
    }

    fn run(&mut self) {
        let mut arriving = true;
        self.push(Duration::ZERO, Event::Look);
        self.push_arrival();
        while let Some(Reverse(entry)) = self.queue.pop() {
            self.now = entry.at;
            match entry.event {
                Event::Arrival if self.now.since(Instant::START) >= self.scenario.duration => arriving = false,
                Event::Arrival => {
                    self.arrive();
                    self.push_arrival();
                }
                Event::News(id) => self.news(id),
                Event::End(id) => self.end(id),
                Event::Again(id) => {
                    if let Some(live) = self.live.get_mut(&id) {
                        live.course.allow_repeats(self.now);
                    }
                    self.attempt(id);
                }
                Event::Look => self.look(),
                Event::Probed(probe, answer) => {
                    self.log.probes += 1;
                    probe.report(answer, self.now, &mut self.probing);
                    self.plan_look();
                }
            }
            if !arriving && self.live.is_empty() {
                return;
            }
        }
    }

    fn push(&mut self, after: Duration, event: Event) {
        self.age += 1;
        self.queue.push(Reverse(Entry { at: self.now + after, age: self.age, event }));
    }

    fn push_arrival(&mut self) {
        let u: f64 = self.arrivals.random();
        let after = -(1.0 - u).ln() / self.scenario.requests_per_second;
        self.push(Duration::from_secs_f64(after), Event::Arrival);
    }

    fn look(&mut self) {
        if self.chooser != Chooser::Strategy || self.now < self.next_look {
            return;
        }
        for probe in self.selector.due_probes(self.now) {
            let (answer, after) = self.upstreams.probe(&probe, self.now, &mut self.probing);
            self.push(after, Event::Probed(probe, answer));
        }
        self.next_look = Instant::from_nanos(u64::MAX);
        self.plan_look();
    }

    /// Looks again when the next probe is due, which what was just learnt may have brought nearer.
    fn plan_look(&mut self) {
        let Some(due) = self.selector.next_probe(self.now) else { return };
        let due = due.max(self.now + LOOK_AT_MOST_EVERY);
        if due < self.next_look {
            self.next_look = due;
            self.push(due.since(self.now), Event::Look);
        }
    }

    fn arrive(&mut self) {
        let id = self.log.requests.len() + self.live.len();
        let mut rng = chances(self.seed, &[3, id as u64]);
        let settings = &self.scenario.snapshot.settings;
        let (max_retries, max_internal_retries) = (settings.max_retries, settings.max_internal_retries);
        let live = Live {
            started: self.now,
            course: Course::new(Allowance { max_retries, max_internal_retries }),
            attempts: 0,
            conversation: rng.random_range(0..self.scenario.conversations),
            output_tokens: lognormal(self.scenario.output_tokens, &mut rng).round().max(1.0) as u64,
            running: None,
            rng,
        };
        self.live.insert(id, live);
        self.attempt(id);
    }

    fn left(&self, started: Instant) -> Duration {
        self.scenario.snapshot.settings.total_timeout.saturating_sub(self.now.since(started))
    }

    /// Chooses and sends.
    fn attempt(&mut self, id: usize) {
        let Some(live) = self.live.get_mut(&id) else { return };
        if let Chooser::Fixed(position) = self.chooser {
            return self.send(id, position, None);
        }
        let demand = Demand {
            now: self.now,
            tags: &[],
            dialect: self.pool.endpoints()[0].backend().provider.upstream.dialect(),
            translatable: &[],
            provider: None,
            requested: "",
            tried: live.course.barred(),
            hints: Hints {
                conversation: Some(chances(0, &[live.conversation]).random()),
                retried: live.attempts > 0,
                window_above: live.course.window_above(),
                ..Hints::default()
            },
        };
        match self.selector.select_route(&self.scenario.model.id, &demand, &mut live.rng) {
            Ok(lease) => self.send(id, lease.position(), Some(lease)),
            Err(_) => {
                let (now, started) = (self.now, live.started);
                let left = self.scenario.snapshot.settings.total_timeout.saturating_sub(now.since(started));
                match live.course.pause_before_repeat(now, left, &mut live.rng) {
                    Some(pause) => self.push(pause, Event::Again(id)),
                    None => {
                        if live.attempts > 0 {
                            self.selector.retry_not_made(&self.scenario.model.id, now);
                        }
                        self.finish(id, None, false);
                    }
                }
            }
        }
    }

    fn backend(&self, position: usize) -> std::sync::Arc<Backend> {
        std::sync::Arc::clone(self.pool.endpoints()[position].backend())
    }

    fn send(&mut self, id: usize, position: usize, lease: Option<Lease>) {
        let backend = self.backend(position);
        let Some(live) = self.live.get(&id) else { return };
        let tries = live.attempts;
        let ask = Ask {
            now: self.now,
            chances: chances(self.seed, &[4, id as u64, position as u64, tries]).random(),
            output_tokens: live.output_tokens,
            left: self.left(live.started),
        };
        let fate = self.upstreams.ask(&backend, ask);
        let running = Running { lease, position, sent: self.now, fate };
        if let Some(live) = self.live.get_mut(&id) {
            live.attempts += 1;
            live.running = Some(running);
        }
        self.push(fate.news_after(), Event::News(id));
    }

    fn news(&mut self, id: usize) {
        let now = self.now;
        let Some(running) = self.live.get_mut(&id).and_then(|live| live.running.as_mut()) else { return };
        match running.fate {
            Fate::Answer { ttft, rest } | Fate::Broken { ttft, rest } => {
                if let Some(lease) = &mut running.lease {
                    lease.first_token(ttft, now);
                }
                self.push(rest, Event::End(id));
            }
            Fate::Refused { .. } | Fate::Lost { .. } => self.fail(id),
        }
    }

    /// The end of an answer that had begun, which nothing is tried after.
    fn end(&mut self, id: usize) {
        let now = self.now;
        let Some(live) = self.live.get_mut(&id) else { return };
        let Some(Running { lease, position, sent, fate }) = live.running.take() else { return };
        let tokens = live.output_tokens;
        let (good, ttft) = match fate {
            Fate::Answer { ttft, .. } => (true, ttft),
            fate => (false, fate.news_after()),
        };
        if let Some(lease) = lease {
            lease.used_tokens(self.scenario.input_tokens + tokens, now);
            let outcome = match good {
                true => Outcome::Success { ttft: Some(ttft), latency: now.since(sent) },
                false => Outcome::Failure { class: FailureClass::StreamIncomplete, retry_after: None },
            };
            lease.report(outcome, now);
        }
        self.settle(position, sent, good);
        let (output_tokens, first_token) = if good { (tokens, sent + ttft) } else { (tokens / 2, now) };
        self.finish(id, Some((position, output_tokens, first_token)), good);
    }

    /// An attempt that brought nothing.
    fn fail(&mut self, id: usize) {
        let now = self.now;
        let Some(live) = self.live.get_mut(&id) else { return };
        let Some(Running { lease, position, sent, fate }) = live.running.take() else { return };
        let started = live.started;
        let last_chance = lease.as_ref().is_none_or(Lease::is_last_chance);
        let setback = told(lease, position, fate, now);
        self.settle(position, sent, false);
        let left = self.left(started);
        let Some(live) = self.live.get_mut(&id) else { return };
        let may_go_on = !last_chance
            && live.course.may_go_on(&setback, left)
            && self.selector.may_retry(&self.scenario.model.id, now);
        live.course.note(&setback, &self.scenario.model, now);
        if may_go_on {
            self.attempt(id);
        } else {
            self.finish(id, None, false);
        }
    }

    fn settle(&mut self, position: usize, sent: Instant, good: bool) {
        let backend = self.backend(position);
        self.upstreams.leave(&backend);
        self.log.attempts.push(Attempt { started: sent, position, good });
        if self.chooser == Chooser::Strategy {
            self.plan_look();
        }
    }

    /// `answer`: who gave it, its tokens, and when it began.
    fn finish(&mut self, id: usize, answer: Option<(usize, u64, Instant)>, answered: bool) {
        let Some(live) = self.live.remove(&id) else { return };
        let until = answer.map_or(self.now, |(_, _, first_token)| first_token);
        let cost = answer.map_or(NanoUsd::ZERO, |(position, tokens, _)| self.cost(position, tokens));
        self.log.requests.push(Request { started: live.started, wait: until.since(live.started), answered, cost });
    }

    fn cost(&self, position: usize, output_tokens: u64) -> NanoUsd {
        let (input, output) = (Some(self.scenario.input_tokens), Some(output_tokens));
        let usage = Usage { input_tokens: input, output_tokens: output, ..Usage::default() };
        self.backend(position).tariff.cost(&usage).total
    }
}

/// Tells the lease, as the relay does, and says what the course has to know.
fn told(lease: Option<Lease>, position: usize, fate: Fate, now: Instant) -> Setback {
    let nothing = Setback { position, retry: Retry::No, class: None, retry_after: None };
    match fate {
        Fate::Refused { status, body, retry_after } => {
            let judged = disposition::of(status, body.as_bytes(), retry_after, &ErrorTable::default());
            if let (Some(lease), Some(class)) = (lease, judged.class) {
                let consequence = judged.consequence_of(class, retry_after);
                lease.report_with(Outcome::Failure { class, retry_after }, consequence, now);
            }
            Setback { retry: judged.retry, class: judged.class, retry_after, ..nothing }
        }
        Fate::Lost { class: Some(class), .. } => {
            if let Some(lease) = lease {
                lease.report(Outcome::Failure { class, retry_after: None }, now);
            }
            Setback { retry: Retry::Anywhere, class: Some(class), ..nothing }
        }
        // The lease is dropped: nobody's fault.
        Fate::Lost { class: None, .. } | Fate::Answer { .. } | Fate::Broken { .. } => nothing,
    }
}
