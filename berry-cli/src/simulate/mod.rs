//! `simulate`: what a strategy would do with scripted upstreams, without any network and in no time.

mod chart;
mod engine;
mod figures;
#[cfg(test)]
mod tests;
mod upstream;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berry_core::config::LoadError;
use berry_core::config::scenario::Scenario;
use berry_core::config::snapshot::Strategy;
use clap::Args;
use serde_json::json;

use crate::output::{self, Failure, Output};
use engine::{Chooser, run as play};
use figures::{Best, Figures};

/// What to simulate.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The scenario; config/scenarios/ has some.
    scenario: PathBuf,
    /// Use this strategy instead of the one that the scenario names.
    #[arg(long, value_parser = strategy, conflicts_with = "strategies")]
    strategy: Option<Strategy>,
    /// Compare strategies: names with commas between them, or `all`.
    #[arg(long, value_parser = strategies, conflicts_with = "svg")]
    strategies: Option<Strategies>,
    /// Where chance begins; the same seed gives the same run.
    #[arg(long)]
    seed: Option<u64>,
    /// Write a chart of the run to this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// Several of them.
#[derive(Clone, Debug)]
struct Strategies(Vec<Strategy>);

fn strategy(name: &str) -> Result<Strategy, String> {
    let known = || Strategy::ALL.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let found = Strategy::ALL.iter().find(|(known, _)| *known == name);
    found.map(|(_, strategy)| *strategy).ok_or_else(|| format!("the strategies are: {}", known()))
}

fn strategies(names: &str) -> Result<Strategies, String> {
    if names == "all" {
        return Ok(Strategies(Strategy::ALL.iter().map(|(_, strategy)| *strategy).collect()));
    }
    names.split(',').map(|name| strategy(name.trim())).collect::<Result<_, _>>().map(Strategies)
}

/// Runs a scenario.
pub(crate) fn run(arguments: &Arguments) -> Result<Output, Failure> {
    match &arguments.strategies {
        Some(Strategies(strategies)) => compare(arguments, strategies),
        None => one(arguments),
    }
}

fn load(path: &Path, strategy: Option<Strategy>) -> Result<Scenario, Failure> {
    Scenario::load(path, strategy).map_err(|error| {
        let next = match &error {
            LoadError::Read { .. } => "Name a scenario; config/scenarios/ has some.",
            LoadError::Invalid(_) => "docs/cli-tool.md has every key.",
        };
        Failure::new(error.render(output::colour()), next)
    })
}

fn seconds(time: Option<Duration>) -> String {
    time.map_or_else(|| "none".to_owned(), |time| format!("{:.2} s", time.as_secs_f64()))
}

fn stem(path: &Path) -> String {
    path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
}

fn one(arguments: &Arguments) -> Result<Output, Failure> {
    let scenario = load(&arguments.scenario, arguments.strategy)?;
    let seed = arguments.seed.unwrap_or(scenario.seed);
    let log = play(&scenario, Chooser::Strategy, seed);
    let (figures, best) = (Figures::of(&scenario, &log), Best::of(&scenario, seed));
    let (name, strategy) = (stem(&arguments.scenario), scenario.model.strategy.as_str());
    let title = format!("{name}: {strategy}, {} requests, seed {seed}", figures.requests);
    if let Some(path) = &arguments.svg {
        std::fs::write(path, chart::svg(&scenario, &title, &log))
            .map_err(|error| Failure::new(format!("{}: {error}", path.display()), "Name another file with --svg."))?;
    }
    let json = json!({
        "ok": true,
        "scenario": name,
        "seed": seed,
        "best_fixed": {"backend": best.backend, "utility_usd": best.utility_usd},
        "result": figures.json(&scenario, strategy, &best),
    });
    Ok(Output { text: text(&scenario, &title, &figures, &best), json, ok: true })
}

fn text(scenario: &Scenario, title: &str, figures: &Figures, best: &Best) -> String {
    let cost = figures.cost.as_nanos() as f64 / 1e9;
    let mut text = format!("{title}\n");
    if !scenario.description.is_empty() {
        let _ = writeln!(text, "{}", scenario.description);
    }
    let _ = writeln!(
        text,
        "\n  answered      {} ({:.2} %), {:.3} a second\n  first token   p50 {}, p99 {}\n  \
         cost          {cost:.4} USD, {:.4} USD for 1,000 answers\n  attempts      {:.3} for a request\n  \
         regret        {:.1} % against the best fixed choice, {}\n",
        figures.answered,
        figures.answered_percent(),
        figures.goodput_per_second,
        seconds(figures.ttft_p50),
        seconds(figures.ttft_p99),
        cost * 1_000.0 / figures.answered.max(1) as f64,
        figures.attempts_per_request(),
        figures.regret(scenario, best),
        best.backend,
    );
    let _ = writeln!(text, "  {:<20} {:>9} {:>8} {:>8}", "backend", "attempts", "share", "failed");
    for share in &figures.shares {
        let percent = format!("{:.1} %", figures.share_percent(share));
        let _ = writeln!(text, "  {:<20} {:>9} {percent:>8} {:>8}", share.backend, share.attempts, share.failed);
    }
    text
}

fn compare(arguments: &Arguments, strategies: &[Strategy]) -> Result<Output, Failure> {
    let first = load(&arguments.scenario, None)?;
    let seed = arguments.seed.unwrap_or(first.seed);
    let best = Best::of(&first, seed);
    let mut rows = Vec::new();
    for strategy in strategies {
        let scenario = load(&arguments.scenario, Some(*strategy))?;
        rows.push((strategy.as_str(), Figures::of(&scenario, &play(&scenario, Chooser::Strategy, seed))));
    }
    let regret = |figures: &Figures| figures.regret(&first, &best);
    rows.sort_by(|(_, a), (_, b)| regret(a).total_cmp(&regret(b)));
    let name = stem(&arguments.scenario);
    let mut text = format!(
        "{name}: seed {seed}, best fixed choice {}\n\n{:<24} {:>8} {:>10} {:>9} {:>9} {:>12} {:>9}\n",
        best.backend, "strategy", "regret", "answered", "p50", "p99", "USD/1000", "attempts"
    );
    for (strategy, figures) in &rows {
        let _ = writeln!(
            text,
            "{strategy:<24} {:>6.1} % {:>8.2} % {:>9} {:>9} {:>12.4} {:>9.3}",
            regret(figures),
            figures.answered_percent(),
            seconds(figures.ttft_p50),
            seconds(figures.ttft_p99),
            figures.cost.as_nanos() as f64 / 1e6 / figures.answered.max(1) as f64,
            figures.attempts_per_request(),
        );
    }
    let json = json!({
        "ok": true,
        "scenario": name,
        "seed": seed,
        "best_fixed": {"backend": best.backend, "utility_usd": best.utility_usd},
        "results": rows.iter().map(|(strategy, figures)| figures.json(&first, strategy, &best)).collect::<Vec<_>>(),
    });
    Ok(Output { text, json, ok: true })
}
