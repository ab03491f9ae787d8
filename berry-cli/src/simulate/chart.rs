//! Draws a run as an SVG of three panels over time: shares of the backends, time to first token, failures.
//!
//! Plain SVG without scripts or fonts of its own. Colours follow the reader's light or dark preference; they are told apart by
//! people who confuse red and green (Okabe and Ito's palette).

use std::fmt::Write as _;
use std::time::Duration;

use berry_core::config::scenario::Scenario;

use super::engine::Log;
use super::figures::{names, percentile};

const WIDTH: f64 = 860.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 20.0;
const PANEL: f64 = 130.0;
const GAP: f64 = 56.0;
const TOP: f64 = 84.0;
/// Columns of time.
const COLUMNS: usize = 60;
const COLOURS: [&str; 7] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999"];

/// What happened in one column.
#[derive(Clone, Debug, Default)]
struct Column {
    attempts: Vec<usize>,
    failed_attempts: usize,
    failed_requests: usize,
    waits: Vec<Duration>,
}

fn columns(scenario: &Scenario, log: &Log) -> Vec<Column> {
    let backends = scenario.model.backends.len();
    let mut columns = vec![Column { attempts: vec![0; backends], ..Column::default() }; COLUMNS];
    let width = scenario.duration.as_secs_f64() / COLUMNS as f64;
    let column = |at: berry_core::time::Instant| {
        let seconds = at.since(berry_core::time::Instant::START).as_secs_f64();
        ((seconds / width) as usize).min(COLUMNS - 1)
    };
    for attempt in &log.attempts {
        let column = &mut columns[column(attempt.started)];
        column.attempts[attempt.position] += 1;
        column.failed_attempts += usize::from(!attempt.good);
    }
    for request in &log.requests {
        let column = &mut columns[column(request.started)];
        match request.answered {
            true => column.waits.push(request.wait),
            false => column.failed_requests += 1,
        }
    }
    columns.iter_mut().for_each(|column| column.waits.sort_unstable());
    columns
}

/// The whole document.
pub(super) fn svg(scenario: &Scenario, title: &str, log: &Log) -> String {
    let columns = columns(scenario, log);
    let names = names(scenario);
    let height = TOP + 3.0 * PANEL + 3.0 * GAP;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\">\n<title>{}</title>\n{STYLE}",
        escaped(title)
    );
    let _ = writeln!(out, "<rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\"/>");
    let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"26\" font-size=\"16\">{}</text>", escaped(title));
    legend(&mut out, &names);
    shares(&mut out, TOP, &columns, names.len());
    latency(&mut out, TOP + PANEL + GAP, &columns);
    failures(&mut out, TOP + 2.0 * (PANEL + GAP), &columns);
    for panel in 0..3 {
        time_axis(&mut out, TOP + f64::from(panel) * (PANEL + GAP) + PANEL, scenario.duration);
    }
    out.push_str("</svg>\n");
    out
}

const STYLE: &str = "<style>
.page { fill: #ffffff } text { fill: #222222 } .grid { stroke: #dddddd } .p99 { stroke: #222222 }
@media (prefers-color-scheme: dark) {
.page { fill: #16181d } text { fill: #e6e6e6 } .grid { stroke: #3a3f4a } .p99 { stroke: #e6e6e6 }
}
</style>
";

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn colour(position: usize) -> &'static str {
    COLOURS[position % COLOURS.len()]
}

fn x(column: usize) -> f64 {
    LEFT + (WIDTH - LEFT - RIGHT) * column as f64 / COLUMNS as f64
}

fn legend(out: &mut String, names: &[String]) {
    let mut at = LEFT;
    for (position, name) in names.iter().enumerate() {
        let name = escaped(name);
        let _ =
            writeln!(out, "<rect x=\"{at:.1}\" y=\"40\" width=\"12\" height=\"12\" fill=\"{}\"/>", colour(position));
        let _ = writeln!(out, "<text x=\"{:.1}\" y=\"51\">{name}</text>", at + 17.0);
        at += 34.0 + 7.5 * name.chars().count() as f64;
    }
}

/// Heading, frame and the scale of a panel, from 0 to `max`.
fn frame(out: &mut String, top: f64, heading: &str, max: f64, unit: &str) {
    let (right, digits) = (WIDTH - RIGHT, if max < 10.0 { 1 } else { 0 });
    let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"{:.1}\" font-weight=\"600\">{heading}</text>", top - 8.0);
    for share in [0.0, 0.5, 1.0] {
        let y = top + PANEL * (1.0 - share);
        let _ = writeln!(out, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
        let label = format!("{:.digits$}{unit}", max * share);
        let _ = writeln!(out, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>", LEFT - 6.0, y + 4.0);
    }
}

fn time_axis(out: &mut String, bottom: f64, duration: Duration) {
    let seconds = duration.as_secs_f64();
    let (size, unit) = match seconds {
        s if s >= 14_400.0 => (3_600.0, "h"),
        s if s >= 600.0 => (60.0, "min"),
        _ => (1.0, "s"),
    };
    for part in 0..=4 {
        let column = part * COLUMNS / 4;
        let value = seconds / size * f64::from(part as u32) / 4.0;
        let digits = usize::from(value.fract() > 0.05);
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value:.digits$} {unit}</text>",
            x(column),
            bottom + 16.0
        );
    }
}

/// Stacked columns, each as high as 100 %.
fn shares(out: &mut String, top: f64, columns: &[Column], backends: usize) {
    frame(out, top, "Share of attempts", 100.0, " %");
    for (index, column) in columns.iter().enumerate() {
        let total: usize = column.attempts.iter().sum();
        let mut below = 0.0;
        for position in 0..backends {
            let part = PANEL * column.attempts[position] as f64 / total.max(1) as f64;
            if part > 0.0 {
                bar(out, top, index, below, part, colour(position));
            }
            below += part;
        }
    }
}

fn bar(out: &mut String, top: f64, column: usize, below: f64, height: f64, colour: &str) {
    let (left, right) = (x(column), x(column + 1));
    let y = top + PANEL - below - height;
    let width = right - left - 1.0;
    let _ = writeln!(
        out,
        "<rect x=\"{left:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"
    );
}

fn latency(out: &mut String, top: f64, columns: &[Column]) {
    let line =
        |share| columns.iter().map(move |column| percentile(&column.waits, share)).map(|p| p.map(|p| p.as_secs_f64()));
    let max = line(0.99).flatten().fold(0.1_f64, f64::max) * 1.05;
    frame(out, top, "Time to first token: half (blue), 99 of 100 (line)", max, " s");
    for (share, style) in [(0.5, "stroke=\"#0072b2\""), (0.99, "class=\"p99\"")] {
        let mut path = String::new();
        let mut open = false;
        for (index, value) in line(share).enumerate() {
            let Some(value) = value else {
                open = false;
                continue;
            };
            let y = top + PANEL * (1.0 - value / max);
            let _ = write!(path, "{}{:.1} {y:.1} ", if open { "L" } else { "M" }, (x(index) + x(index + 1)) / 2.0);
            open = true;
        }
        let _ = writeln!(out, "<path d=\"{}\" fill=\"none\" stroke-width=\"1.8\" {style}/>", path.trim_end());
    }
}

fn failures(out: &mut String, top: f64, columns: &[Column]) {
    let highest = columns.iter().map(|column| column.failed_attempts.max(column.failed_requests)).max();
    let max = highest.unwrap_or(0).max(1) as f64;
    frame(out, top, "Failed attempts (orange), and requests that got no answer (red)", max, "");
    for (index, column) in columns.iter().enumerate() {
        for (count, colour) in [(column.failed_attempts, "#e69f00"), (column.failed_requests, "#d55e00")] {
            if count > 0 {
                bar(out, top, index, 0.0, PANEL * count as f64 / max, colour);
            }
        }
    }
}
