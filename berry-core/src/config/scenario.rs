//! Scenarios of the simulator: a configuration of one model, how requests come, and how its upstreams behave.
//!
//! A scenario is read by the same declarations as a configuration, so a model of a real configuration can be copied into one,
//! and what is wrong with it is told in the same way: every problem at once, with its place.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::LoadError;
use super::compile;
use super::decode::{
    At, Choice, Decode, Decoder, Fields, Map, OneOf, Seconds, Table, Text, bare_name, read_table, table,
};
use super::interpolate::ProcessEnvironment;
use super::mask::Masked;
use super::path::KeyPath;
use super::problem::{Problems, Severity};
use super::raw::{RawConfig, RawModel, RawPrices, RawProvider, RawSettings};
use super::schema::{Bounds, KeySchema, TableSchema};
use super::snapshot::{Model, Snapshot, Strategy};
use super::source::{self, Origin};
use crate::id::ProviderId;

/// Requests of one run at most.
const REQUESTS_MAX: f64 = 5_000_000.0;

/// How an attempt fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// 500, at once.
    ServerError,
    /// 529, at once: too busy.
    Overloaded,
    /// No connection.
    Network,
    /// Silence.
    Timeout,
    /// 429.
    RateLimit,
    /// 429 that says that the account has no quota left.
    Quota,
    /// 401.
    Key,
    /// 404: the model is unknown there.
    Model,
    /// The first token comes, the end does not.
    Broken,
}

impl Choice for Failure {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("server_error", Self::ServerError),
        ("overloaded", Self::Overloaded),
        ("network", Self::Network),
        ("timeout", Self::Timeout),
        ("rate_limit", Self::RateLimit),
        ("quota", Self::Quota),
        ("key", Self::Key),
        ("model", Self::Model),
        ("broken", Self::Broken),
    ];
}

table! {
    /// A whole scenario.
    struct RawScenario {
        /// As in a configuration.
        settings: optional<RawSettings>;
        /// As in a configuration. `backend_type = "demo"` needs neither address nor key.
        providers: optional<Map<RawProvider>>;
        /// As in a configuration; exactly one.
        models: optional<Map<RawModel>>;
        /// As in a configuration.
        pricing: optional<Map<RawPrices>>;
        /// How requests come, and what an answer is worth.
        simulation: optional<RawSimulation>;
        /// How providers behave, by their table names. One that is not here answers like all defaults.
        upstreams: optional<Map<RawUpstream>>;
    }

    /// How requests come, and what an answer is worth.
    struct RawSimulation {
        /// What the scenario shows.
        description: optional<Text>;
        /// How long requests come.
        seconds: default<Seconds> = Seconds(600.0), Bounds::between(1.0, 31_536_000.0);
        /// How many come on average; the times between them are exponential. This or `requests_per_hour`.
        requests_per_second: optional<f64>, Bounds::above(0.0);
        /// The same for few requests.
        requests_per_hour: optional<f64>, Bounds::above(0.0);
        /// How often the whole is run, each time from a cold start with other chances; the figures are of all runs together.
        runs: default<u32> = 1, Bounds::between(1.0, 1_000.0);
        /// Makes runs repeatable; `--seed` comes before it.
        seed: default<u64> = 1;
        /// Input tokens of a request.
        input_tokens: default<u64> = 1_000;
        /// Output tokens of an answer: the median of a lognormal distribution.
        output_tokens: default<u64> = 250, Bounds::at_least(1.0);
        /// And its 99th percentile; four times the median without it.
        output_tokens_p99: optional<u64>, Bounds::at_least(1.0);
        /// Conversations that the requests belong to, for `sticky`.
        conversations: default<u64> = 100, Bounds::at_least(1.0);
        /// What an answer is worth, USD.
        answer_value_usd: default<f64> = 0.02, Bounds::above(0.0);
        /// What a second of waiting for the first token, or for an error, costs, USD.
        second_cost_usd: default<f64> = 0.002, Bounds::at_least(0.0);
    }

    /// How a provider behaves.
    struct RawUpstream {
        /// Time to the first token, milliseconds: the median of a lognormal distribution.
        ttft_ms: default<f64> = 500.0, Bounds::above(0.0);
        /// And its 99th percentile; three times the median without it.
        ttft_p99_ms: optional<f64>, Bounds::above(0.0);
        /// Speed of an answer after its first token.
        tokens_per_second: default<f64> = 80.0, Bounds::above(0.0);
        /// Requests under way beyond which the time to the first token grows in proportion.
        capacity: optional<u32>, Bounds::at_least(1.0);
        /// Share of requests that fail.
        failure_rate: default<f64> = 0.0, Bounds::SHARE;
        /// How they fail.
        failure: default<OneOf<Failure>> = OneOf(Failure::ServerError);
        /// Retry-After that failures carry.
        retry_after_seconds: optional<Seconds>, Bounds::at_least(0.0);
        /// Requests of a minute beyond which it answers 429, with the rest of the minute as Retry-After.
        requests_per_minute: optional<u64>, Bounds::at_least(1.0);
        /// Whether probes fail at the same rate; otherwise they all go well.
        probes_fail: default<bool> = true;
        /// Times in which it behaves otherwise; what a phase does not name stays. Of several at once the last one counts.
        phases: optional<Vec<At<RawPhase>>>;
    }

    /// A time in which a provider behaves otherwise.
    struct RawPhase {
        /// When it begins.
        from_seconds: default<Seconds> = Seconds(0.0), Bounds::at_least(0.0);
        /// When it ends.
        to_seconds: required<Seconds>, Bounds::above(0.0);
        /// It comes again every so often.
        repeat_seconds: optional<Seconds>, Bounds::above(0.0);
        /// How many times as long the first token takes.
        ttft_factor: default<f64> = 1.0, Bounds::above(0.0);
        /// As on the upstream.
        failure_rate: optional<f64>, Bounds::SHARE;
        /// As on the upstream.
        failure: optional<OneOf<Failure>>;
        /// As on the upstream.
        retry_after_seconds: optional<Seconds>, Bounds::at_least(0.0);
        /// As on the upstream.
        requests_per_minute: optional<u64>, Bounds::at_least(1.0);
        /// As on the upstream.
        probes_fail: optional<bool>;
    }
}

/// A median and a 99th percentile, of which the logarithm is normally distributed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lognormal {
    /// Half of all are below it.
    pub median: f64,
    /// One in a hundred is above it; not below the median.
    pub p99: f64,
}

/// How a provider behaves at one time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Behaviour {
    /// Time to the first token, seconds.
    pub ttft: Lognormal,
    /// Speed after it.
    pub tokens_per_second: f64,
    /// Requests under way that do not slow it down.
    pub capacity: Option<u32>,
    /// Share of requests that fail.
    pub failure_rate: f64,
    /// How.
    pub failure: Failure,
    /// What failures carry.
    pub retry_after: Option<Duration>,
    /// Limit of a minute.
    pub requests_per_minute: Option<u64>,
    /// Whether probes fail at the same rate.
    pub probes_fail: bool,
}

/// A time with a behaviour of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Phase {
    from: f64,
    to: f64,
    repeat: Option<f64>,
    behaviour: Behaviour,
}

/// How a provider behaves over time.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    usual: Behaviour,
    phases: Vec<Phase>,
}

impl Upstream {
    /// How it behaves `seconds` after the start.
    pub fn at(&self, seconds: f64) -> &Behaviour {
        let holds = |phase: &&Phase| {
            let since = seconds - phase.from;
            let within = phase.repeat.map_or(since, |repeat| since % repeat);
            since >= 0.0 && within < phase.to - phase.from
        };
        self.phases.iter().rev().find(holds).map_or(&self.usual, |phase| &phase.behaviour)
    }
}

/// A scenario that can be run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The configuration.
    pub snapshot: Arc<Snapshot>,
    /// Its model.
    pub model: Arc<Model>,
    /// What it shows; may be empty.
    pub description: String,
    /// How long requests come.
    pub duration: Duration,
    /// How many come on average.
    pub requests_per_second: f64,
    /// Runs from a cold start.
    pub runs: u32,
    /// Of all chances.
    pub seed: u64,
    /// Input tokens of a request.
    pub input_tokens: u64,
    /// Output tokens of an answer.
    pub output_tokens: Lognormal,
    /// How many conversations there are.
    pub conversations: u64,
    /// What an answer is worth, USD.
    pub answer_value_usd: f64,
    /// What a second of waiting costs, USD.
    pub second_cost_usd: f64,
    /// How the providers behave; every one is there.
    pub upstreams: HashMap<ProviderId, Upstream>,
}

impl Scenario {
    /// Reads and checks a file. `strategy` takes the place of the model's own.
    ///
    /// # Errors
    /// When it cannot be read or has errors, all of which are in the report then.
    pub fn load(path: &Path, strategy: Option<Strategy>) -> Result<Self, LoadError> {
        let source = source::read(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
        Self::from_text(&path.display().to_string(), &source.text, strategy)
    }

    /// Checks a text; `name` stands for the file in messages.
    ///
    /// # Errors
    /// When it has errors, all of which are in the report then.
    pub fn from_text(name: &str, text: &str, strategy: Option<Strategy>) -> Result<Self, LoadError> {
        let text = source::without_bom(text);
        let mut problems = Problems::default();
        let origin = Origin::default();
        let (tree, broken) = source::parse(text, &origin, &mut problems);
        let mut found = Problems::default();
        let mut cx = Decoder::new(&mut found, &ProcessEnvironment, &origin);
        let raw: RawScenario = read_table(tree.get_ref(), &KeyPath::ROOT, &mut cx);
        let masked = Masked::new(text, cx.secrets, !broken.is_empty());
        found.drop_within(&broken);
        problems.append(found);
        let scenario = if broken.is_empty() { compile(raw, strategy, &mut problems) } else { None };
        // Warnings are about a server that serves users; there is none here.
        problems.keep_errors();
        let report = problems.finish(name, &masked);
        match scenario {
            Some(scenario) if report.count(Severity::Error) == 0 => Ok(scenario),
            _ => Err(LoadError::Invalid(report)),
        }
    }
}

/// `None` only beside an error.
fn compile(raw: RawScenario, strategy: Option<Strategy>, problems: &mut Problems) -> Option<Scenario> {
    let RawScenario { settings, providers, mut models, pricing, simulation, upstreams } = raw;
    let root = KeyPath::ROOT;
    let written = models.as_mut().map_or(&mut [][..], |models| &mut models.value.0);
    if written.len() != 1 && !problems.failed_within(&root.key("models")) {
        let second = written.get(1).map(|entry| entry.key_span.clone());
        problems.error(&root.key("models"), second, "a scenario has exactly one model").hint("write one [models.NAME]");
    }
    if let Some(strategy) = strategy {
        written.iter_mut().for_each(|entry| entry.value.strategy.value = OneOf(strategy));
    }
    let config = RawConfig {
        settings,
        providers,
        models,
        pricing,
        users: None,
        server: None,
        ledger: None,
        cluster: None,
        budget_webhook: None,
        telemetry: None,
        cache: None,
        tags: None,
    };
    let snapshot = Arc::new(compile::compile(config, &ProcessEnvironment, &mut (), problems));
    let simulation = simulation.map_or_else(super::decode::defaults, |simulation| simulation.value);
    let upstreams = compile_upstreams(upstreams, &snapshot, problems);
    compile_simulation(simulation, snapshot, upstreams, problems)
}

fn compile_simulation(
    raw: RawSimulation,
    snapshot: Arc<Snapshot>,
    upstreams: HashMap<ProviderId, Upstream>,
    problems: &mut Problems,
) -> Option<Scenario> {
    let RawSimulation {
        description,
        seconds,
        requests_per_second,
        requests_per_hour,
        runs,
        seed,
        input_tokens,
        output_tokens,
        output_tokens_p99,
        conversations,
        answer_value_usd,
        second_cost_usd,
    } = raw;
    let at = KeyPath::ROOT.key("simulation");
    let duration = seconds.value.duration();
    let rate = match (&requests_per_second, &requests_per_hour) {
        (Some(rate), None) => rate.value,
        (None, Some(rate)) => rate.value / 3_600.0,
        (Some(_), Some(hour)) => {
            problems.error(&at.key("requests_per_hour"), hour.span.clone(), "is there beside `requests_per_second`");
            0.0
        }
        (None, None) => {
            if !problems.failed_within(&at) {
                problems.error(&at, None, "needs `requests_per_second` or `requests_per_hour`");
            }
            0.0
        }
    };
    if rate * duration.as_secs_f64() * f64::from(runs.value) > REQUESTS_MAX {
        problems.error(&at, seconds.span, format!("all runs together may have at most {REQUESTS_MAX} requests"));
    }
    let median = At { value: output_tokens.value as f64, span: output_tokens.span };
    let p99 = output_tokens_p99.map(|p99| At { value: p99.value as f64, span: p99.span });
    let output_tokens = lognormal(&median, p99, 4.0, &at.key("output_tokens_p99"), problems);
    Some(Scenario {
        model: Arc::clone(snapshot.models.all.first()?),
        snapshot,
        description: description.map_or_else(String::new, |text| text.value.value),
        duration,
        requests_per_second: rate,
        runs: runs.value,
        seed: seed.value,
        input_tokens: input_tokens.value,
        output_tokens,
        conversations: conversations.value,
        answer_value_usd: answer_value_usd.value,
        second_cost_usd: second_cost_usd.value,
        upstreams,
    })
}

/// A median, and a 99th percentile that is `factor` times as large where none is stated.
fn lognormal(
    median: &At<f64>,
    p99: Option<At<f64>>,
    factor: f64,
    at: &KeyPath<'_>,
    problems: &mut Problems,
) -> Lognormal {
    let p99 = match p99 {
        Some(p99) if p99.value < median.value => {
            problems.error(at, p99.span, "is below the median");
            median.value
        }
        Some(p99) => p99.value,
        None => median.value * factor,
    };
    Lognormal { median: median.value, p99 }
}

fn compile_upstreams(
    raw: Option<At<Map<RawUpstream>>>,
    snapshot: &Snapshot,
    problems: &mut Problems,
) -> HashMap<ProviderId, Upstream> {
    let at = KeyPath::ROOT.key("upstreams");
    let mut all = HashMap::new();
    for entry in raw.map_or_else(Vec::new, |raw| raw.value.0) {
        let id = ProviderId::from(entry.key.as_str());
        let at = at.key(&entry.key);
        if !snapshot.providers.contains_key(&id) && !problems.failed_within(&KeyPath::ROOT.key("providers")) {
            let message = "no provider is called so";
            problems.error(&at, entry.key_span.clone(), message).hint("write its [providers.NAME], or mend the name");
        }
        all.insert(id, compile_upstream(entry.value, &at, problems));
    }
    for id in snapshot.providers.keys() {
        all.entry(id.clone())
            .or_insert_with(|| compile_upstream(super::decode::defaults(), &at.key(id.as_str()), problems));
    }
    all
}

fn compile_upstream(raw: RawUpstream, at: &KeyPath<'_>, problems: &mut Problems) -> Upstream {
    let RawUpstream {
        ttft_ms,
        ttft_p99_ms,
        tokens_per_second,
        capacity,
        failure_rate,
        failure,
        retry_after_seconds,
        requests_per_minute,
        probes_fail,
        phases,
    } = raw;
    let millis = lognormal(&ttft_ms, ttft_p99_ms, 3.0, &at.key("ttft_p99_ms"), problems);
    let usual = Behaviour {
        ttft: Lognormal { median: millis.median / 1e3, p99: millis.p99 / 1e3 },
        tokens_per_second: tokens_per_second.value,
        capacity: capacity.map(|capacity| capacity.value),
        failure_rate: failure_rate.value,
        failure: failure.value.0,
        retry_after: retry_after_seconds.map(|time| time.value.duration()),
        requests_per_minute: requests_per_minute.map(|limit| limit.value),
        probes_fail: probes_fail.value,
    };
    let at = at.key("phases");
    let phases = phases.map_or_else(Vec::new, |phases| phases.value);
    let phase = |(index, phase): (usize, At<RawPhase>)| compile_phase(phase, usual, &at.index(index), problems);
    Upstream { usual, phases: phases.into_iter().enumerate().filter_map(phase).collect() }
}

/// `None` beside an error.
fn compile_phase(raw: At<RawPhase>, usual: Behaviour, at: &KeyPath<'_>, problems: &mut Problems) -> Option<Phase> {
    let RawPhase {
        from_seconds,
        to_seconds,
        repeat_seconds,
        ttft_factor,
        failure_rate,
        failure,
        retry_after_seconds,
        requests_per_minute,
        probes_fail,
    } = raw.value;
    let Some(to_seconds) = to_seconds else {
        if !problems.failed_within(&at.key("to_seconds")) {
            problems.error(&at.key("to_seconds"), raw.span, "is missing");
        }
        return None;
    };
    let (from, to) = (from_seconds.value.0, to_seconds.value.0);
    if to <= from {
        problems.error(&at.key("to_seconds"), to_seconds.span, "is not after `from_seconds`");
    }
    let repeat = repeat_seconds.as_ref().map(|repeat| repeat.value.0);
    if repeat.is_some_and(|repeat| repeat < to - from) {
        let span = repeat_seconds.and_then(|repeat| repeat.span);
        problems.error(&at.key("repeat_seconds"), span, "is shorter than the phase");
    }
    let ttft = Lognormal { median: usual.ttft.median * ttft_factor.value, p99: usual.ttft.p99 * ttft_factor.value };
    let behaviour = Behaviour {
        ttft,
        failure_rate: failure_rate.map_or(usual.failure_rate, |rate| rate.value),
        failure: failure.map_or(usual.failure, |failure| failure.value.0),
        retry_after: retry_after_seconds.map(|time| time.value.duration()).or(usual.retry_after),
        requests_per_minute: requests_per_minute.map(|limit| limit.value).or(usual.requests_per_minute),
        probes_fail: probes_fail.map_or(usual.probes_fail, |fail| fail.value),
        ..usual
    };
    Some(Phase { from, to, repeat, behaviour })
}

/// The keys of `[simulation]`, `[upstreams.NAME]` and its phases as Markdown tables.
pub fn reference() -> String {
    let mut page = String::new();
    let tables: [(&str, &TableSchema); 3] = [
        ("[simulation]", &RawSimulation::SCHEMA),
        ("[upstreams.NAME]", &RawUpstream::SCHEMA),
        ("[[upstreams.NAME.phases]]", &RawPhase::SCHEMA),
    ];
    for (header, schema) in tables {
        super::docs::section(&mut page, header, schema);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
[providers.a]
backend_type = \"demo\"
[models.m]
[[models.m.backends]]
provider = \"a\"
model = \"x\"
[simulation]
requests_per_hour = 7200
[upstreams.a]
ttft_ms = 200
failure = \"overloaded\"
[[upstreams.a.phases]]
from_seconds = 10
to_seconds = 20
repeat_seconds = 30
failure_rate = 1.0
ttft_factor = 2
";

    fn problems(text: &str) -> Vec<String> {
        match Scenario::from_text("s.toml", text, None) {
            Ok(_) => Vec::new(),
            Err(error) => error.report().unwrap().lines().map(|(_, line)| line).collect(),
        }
    }

    #[test]
    fn a_scenario_is_a_configuration_with_arrivals_and_behaviour() {
        let scenario = Scenario::from_text("s.toml", GOOD, Some(Strategy::Cheapest)).unwrap();
        assert_eq!((scenario.requests_per_second, scenario.model.strategy), (2.0, Strategy::Cheapest));
        let upstream = &scenario.upstreams[&ProviderId::from("a")];
        assert_eq!(upstream.at(0.0).ttft, Lognormal { median: 0.2, p99: 0.6 });
        for (second, failing) in [(9.9, false), (10.0, true), (19.9, true), (20.0, false), (40.0, true), (50.0, false)]
        {
            assert_eq!(upstream.at(second).failure_rate > 0.0, failing, "{second}");
        }
        assert_eq!((upstream.at(10.0).failure, upstream.at(10.0).ttft.median), (Failure::Overloaded, 0.4));
    }

    #[test]
    fn every_problem_is_told_with_its_place() {
        let text = GOOD
            .replace("requests_per_hour = 7200", "requests_per_hour = 7200\nrequests_per_second = 1\nsecnds = 3")
            .replace("ttft_ms = 200", "ttft_ms = 200\nttft_p99_ms = 100")
            .replace("failure = \"overloaded\"", "failure = \"overlaoded\"")
            .replace("to_seconds = 20", "to_seconds = 5")
            .replace("[upstreams.a]", "[upstreams.b]\n[upstreams.a]");
        let expected = [
            "s.toml:8:21: simulation.requests_per_hour: is there beside `requests_per_second`",
            "s.toml:10:1: simulation.secnds: unknown key (did you mean \"seconds\"?)",
            "s.toml:11:12: upstreams.b: no provider is called so (write its [providers.NAME], or mend the name)",
            "s.toml:14:15: upstreams.a.ttft_p99_ms: is below the median",
        ];
        let found = problems(&text);
        assert_eq!(found[..4], expected);
        assert!(found[4].starts_with("s.toml:15:11: upstreams.a.failure: \"overlaoded\" is not one of"), "{found:?}");
        assert!(found[4].ends_with("(did you mean \"overloaded\"?)"), "{found:?}");
        assert_eq!(found[5], "s.toml:18:14: upstreams.a.phases[0].to_seconds: is not after `from_seconds`");
    }

    #[test]
    fn what_a_configuration_may_not_say_a_scenario_may_not_either() {
        let found = problems(&GOOD.replace("provider = \"a\"", "provider = \"z\""));
        assert!(found.iter().any(|line| line.contains("models.m.backends[0].provider")), "{found:?}");
        assert_eq!(problems("[simulation]\n").len(), 2, "no model, no rate");
    }
}
