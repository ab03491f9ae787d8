//! The shipped scenarios, each with what it has to show, and the table of regrets in the documentation.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berry_core::config::scenario::Scenario;
use berry_core::config::snapshot::Strategy;
use berry_core::time::Instant;

use super::chart;
use super::engine::{Chooser, Log, run};
use super::figures::{Best, Figures};

/// The shipped scenarios in the order of the table, with the words of its heading.
const SCENARIOS: [(&str, &str); 8] = [
    ("steady", "steady"),
    ("slow_node", "slow node"),
    ("gray_failure", "gray failure"),
    ("outage", "outage and recovery"),
    ("rate_limit_storm", "429 storm"),
    ("flapping", "flapping"),
    ("cheap_and_flaky", "cheap and flaky beside dear"),
    ("cold_start", "cold start, 5 an hour"),
];
const BEGIN: &str = "<!-- The table is written by: BERRY_UPDATE_DOCS=1 cargo test -p berry-cli simulate -->\n";
const END: &str = "<!-- End of the table. -->\n";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(name: &str) -> String {
    std::fs::read_to_string(root().join(format!("config/scenarios/{name}.toml"))).unwrap()
}

fn parsed(text: &str, strategy: Strategy) -> Scenario {
    Scenario::from_text("test", text, Some(strategy)).unwrap_or_else(|error| panic!("{error}"))
}

fn scenario(name: &str, strategy: Strategy) -> Scenario {
    parsed(&text(name), strategy)
}

fn played(scenario: &Scenario) -> Log {
    run(scenario, Chooser::Strategy, scenario.seed)
}

fn all() -> impl Iterator<Item = (&'static str, Strategy)> {
    Strategy::ALL.iter().copied()
}

/// Attempts at a backend that began between two seconds.
fn attempts_at(log: &Log, position: usize, from: u64, to: u64) -> usize {
    let within = from * 1_000_000_000..to * 1_000_000_000;
    log.attempts.iter().filter(|a| a.position == position && within.contains(&a.started.as_nanos())).count()
}

#[test]
fn every_shipped_scenario_is_known_here() {
    let mut found: Vec<String> = std::fs::read_dir(root().join("config/scenarios"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    found.sort();
    let mut known = SCENARIOS.map(|(name, _)| name);
    known.sort_unstable();
    assert_eq!(found, known);
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_one_does_not() {
    let scenario = scenario("flapping", Strategy::SmartAi);
    let shown = |seed| {
        let figures = Figures::of(&scenario, &run(&scenario, Chooser::Strategy, seed));
        format!("{figures:?}")
    };
    assert_eq!(shown(1), shown(1));
    assert_ne!(shown(1), shown(2));
}

#[test]
fn when_all_are_well_every_request_takes_one_attempt_in_every_strategy() {
    for (name, strategy) in all() {
        let scenario = scenario("steady", strategy);
        let figures = Figures::of(&scenario, &played(&scenario));
        assert_eq!((figures.answered, figures.attempts), (figures.requests, figures.requests), "{name}");
    }
}

#[test]
fn an_outage_a_gray_failure_and_flapping_are_hidden_from_clients_in_every_strategy() {
    for case in ["outage", "gray_failure", "flapping", "cheap_and_flaky", "cold_start"] {
        for (name, strategy) in all() {
            let scenario = scenario(case, strategy);
            let figures = Figures::of(&scenario, &played(&scenario));
            assert!(figures.answered_percent() > 99.9, "{case}, {name}: {:.2} %", figures.answered_percent());
        }
    }
}

#[test]
fn a_dead_backend_is_found_out_within_few_attempts_and_its_traffic_comes_back() {
    for (name, strategy) in all() {
        let log = played(&scenario("outage", strategy));
        let during = attempts_at(&log, 0, 300, 600);
        assert!(during <= 20, "{name}: {during} of some 1,500 requests");
        // The fourth trial is due some 720 s after the start, since open times grow; then the stages of recovery.
        let (before, after) = (attempts_at(&log, 0, 0, 120), attempts_at(&log, 0, 780, 900));
        assert!(after * 4 >= before * 3, "{name}: {before} before, {after} after");
    }
}

#[test]
fn strategies_that_look_at_latency_leave_a_slow_backend() {
    // `least_busy` keeps a double weight a little longer.
    for (strategy, most) in [(Strategy::LeastLatency, 0.03), (Strategy::LeastBusy, 0.1)] {
        let log = played(&scenario("slow_node", strategy));
        let slow = attempts_at(&log, 0, 310, 600);
        let all: usize = (0..3).map(|position| attempts_at(&log, position, 310, 600)).sum();
        assert!(slow as f64 <= most * all as f64, "{strategy:?}: {slow} of {all}");
    }
}

#[test]
fn in_a_storm_of_rate_limits_nobody_is_hammered_and_what_there_is_room_for_is_answered() {
    for (name, strategy) in all() {
        let scenario = scenario("rate_limit_storm", strategy);
        let log = played(&scenario);
        let figures = Figures::of(&scenario, &log);
        // Five minutes with room for 240 of some 300 requests a minute.
        assert!(figures.answered_percent() > 88.0, "{name}: {:.2} %", figures.answered_percent());
        assert!(figures.attempts_per_request() < 1.1, "{name}: {:.3}", figures.attempts_per_request());
        let pauses = 300 / 20;
        let limited = log.attempts.iter().filter(|attempt| attempt.position < 2 && !attempt.good).count();
        // Beside one after each pause, those that were under way when the first 429 came.
        assert!(limited <= 2 * (pauses + 8), "{name}: {limited}");
    }
}

#[test]
fn smart_ai_sends_at_most_three_further_requests_of_a_low_traffic_hour_to_a_dead_backend() {
    let mut scenario = scenario("cold_start", Strategy::SmartAi);
    scenario.runs = 1;
    for seed in 0..50 {
        let log = run(&scenario, Chooser::Strategy, seed);
        let dead: Vec<Instant> = log.attempts.iter().filter(|a| a.position == 0).map(|a| a.started).collect();
        let first = dead[0];
        let hour = dead[1..].iter().filter(|at| at.since(first) < Duration::from_secs(3_600)).count();
        assert!(hour <= 3, "seed {seed}: {hour} further ones within an hour");
    }
}

#[test]
fn smart_ai_sends_four_fifths_to_the_cheap_ones_while_they_are_well() {
    let scenario = parsed(&text("cold_start").replace("failure_rate = 1.0", "failure_rate = 0.0"), Strategy::SmartAi);
    let figures = Figures::of(&scenario, &played(&scenario));
    let premium = figures.share_percent(&figures.shares[2]);
    assert!(premium <= 20.0, "{premium:.1} % went to the premium one");
}

#[test]
fn with_everything_failing_a_hundred_requests_a_second_make_at_most_a_fifth_more_attempts() {
    let failing = text("steady")
        .replace("seconds = 900\nrequests_per_second = 5", "seconds = 60\nrequests_per_second = 100")
        .replace("ttft_ms", "failure_rate = 1.0\nttft_ms");
    for (name, strategy) in all() {
        let scenario = parsed(&failing, strategy);
        let figures = Figures::of(&scenario, &played(&scenario));
        assert_eq!(figures.answered, 0);
        assert!(figures.attempts_per_request() <= 1.2, "{name}: {:.3}", figures.attempts_per_request());
    }
}

#[test]
fn a_fixed_choice_is_sent_once_and_never_retried() {
    let scenario = scenario("outage", Strategy::SmartAi);
    let log = run(&scenario, Chooser::Fixed(0), 1);
    let figures = Figures::of(&scenario, &log);
    assert_eq!((figures.attempts, figures.probes), (figures.requests, 0));
    let lost = figures.requests - figures.answered;
    assert_eq!(lost, attempts_at(&log, 0, 300, 600));
}

#[test]
fn the_chart_has_its_panels_in_light_and_dark_and_no_number_that_is_none() {
    for (name, _) in SCENARIOS {
        let scenario = scenario(name, Strategy::SmartAi);
        let svg = chart::svg(&scenario, "a < b & c", &played(&scenario));
        assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</svg>\n"), "{name}");
        for part in ["Share of attempts", "Time to first token", "Failed attempts", "prefers-color-scheme: dark"] {
            assert!(svg.contains(part), "{name}: {part}");
        }
        assert!(svg.contains("a &lt; b &amp; c") && !svg.contains("NaN") && !svg.contains("inf"), "{name}");
    }
}

/// Regrets of every strategy in every scenario.
fn table() -> String {
    let mut heading = String::from("| Strategy |");
    let mut best = String::from("| best fixed choice |");
    let mut rows: Vec<String> = all().map(|(name, _)| format!("| `{name}` |")).collect();
    for (name, words) in SCENARIOS {
        let _ = write!(heading, " {words} |");
        let first = scenario(name, Strategy::SmartAi);
        let fixed = Best::of(&first, first.seed);
        let _ = write!(best, " {} |", fixed.backend);
        for (row, (_, strategy)) in rows.iter_mut().zip(all()) {
            let scenario = scenario(name, strategy);
            let figures = Figures::of(&scenario, &played(&scenario));
            // Adding zero takes the sign from a zero that has one.
            let regret = (figures.regret(&scenario, &fixed) * 10.0).round() / 10.0 + 0.0;
            let _ = write!(row, " {regret:.1}");
            if figures.answered_percent() < 99.95 {
                let _ = write!(row, " ({:.1})", figures.answered_percent());
            }
            row.push_str(" |");
        }
    }
    let line = format!("|---|{}", "---|".repeat(SCENARIOS.len()));
    format!("{heading}\n{line}\n{best}\n{}\n", rows.join("\n"))
}

/// Puts `part` between the marks of a page, or says that it is stale.
fn keep(page: &str, begin: &str, end: &str, part: &str) {
    let path = root().join(page);
    let found = std::fs::read_to_string(&path).unwrap();
    let start = found.find(begin).expect("the page has the mark") + begin.len();
    let stop = start + found[start..].find(end).expect("the page has the mark");
    let expected = format!("{}\n{part}\n{}", &found[..start], &found[stop..]);
    if std::env::var_os("BERRY_UPDATE_DOCS").is_some() {
        std::fs::write(&path, &expected).unwrap();
        return;
    }
    assert!(
        found == expected,
        "{page} is stale; write it anew with: BERRY_UPDATE_DOCS=1 cargo test -p berry-cli simulate"
    );
}

#[test]
fn the_table_of_regrets_is_up_to_date() {
    keep("docs/load-balancing-strategies.md", BEGIN, END, &table());
}

#[test]
fn the_keys_of_scenarios_are_documented() {
    let begin = "<!-- The keys are written by: BERRY_UPDATE_DOCS=1 cargo test -p berry-cli simulate -->\n";
    let keys = berry_core::config::scenario::reference();
    keep("docs/cli-tool.md", begin, "<!-- End of the keys. -->\n", keys.trim());
}
