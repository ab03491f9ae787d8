//! Writes the text format of Prometheus (0.0.4) and OpenMetrics 1.0. They differ in how a counter's family is named and in the
//! last line.

use std::fmt::{Display, Write as _};

use berry_loadbalance::figures::Distribution;

/// The two text formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `text/plain; version=0.0.4`.
    Text,
    /// `application/openmetrics-text; version=1.0.0`.
    OpenMetrics,
}

impl Format {
    /// What a scraper that sends this `Accept` gets: OpenMetrics only where it is named.
    pub fn of(accept: &str) -> Self {
        match accept.to_ascii_lowercase().contains("application/openmetrics-text") {
            true => Self::OpenMetrics,
            false => Self::Text,
        }
    }

    /// Its media type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What a family's values are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Names of labels with their values.
pub(super) type Labels<'a> = [(&'a str, &'a str)];

/// A page in the making: families one after the other, each followed by its samples.
pub(super) struct Page {
    out: String,
    format: Format,
    name: &'static str,
}

impl Page {
    pub(super) fn new(format: Format) -> Self {
        Self { out: String::with_capacity(16 * 1024), format, name: "" }
    }

    /// Starts a family. A counter's name ends in `_total`.
    pub(super) fn family(&mut self, kind: Kind, name: &'static str, help: &str) {
        let (word, family) = match kind {
            Kind::Counter if self.format == Format::OpenMetrics => ("counter", name.trim_end_matches("_total")),
            Kind::Counter => ("counter", name),
            Kind::Gauge => ("gauge", name),
            Kind::Histogram => ("histogram", name),
        };
        self.name = name;
        self.put(format_args!("# HELP {family} {help}\n# TYPE {family} {word}\n"));
    }

    /// A value of the family.
    pub(super) fn sample(&mut self, labels: &Labels<'_>, value: impl Display) {
        self.line("", labels, None, value);
    }

    /// The lines of a histogram of the family.
    pub(super) fn histogram(&mut self, labels: &Labels<'_>, distribution: &Distribution) {
        let mut below = 0;
        for (place, count) in distribution.buckets.iter().enumerate() {
            below += count;
            match distribution.bounds_ms.get(place) {
                // Thousandths print exactly in the shortest form of a float.
                Some(bound) => self.line("_bucket", labels, Some(&(*bound as f64 / 1e3).to_string()), below),
                None => self.line("_bucket", labels, Some("+Inf"), below),
            }
        }
        self.line("_sum", labels, None, distribution.sum.as_secs_f64());
        self.line("_count", labels, None, below);
    }

    pub(super) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }

    fn line(&mut self, suffix: &str, labels: &Labels<'_>, bound: Option<&str>, value: impl Display) {
        self.out.push_str(self.name);
        self.out.push_str(suffix);
        let all = labels.iter().copied().chain(bound.map(|bound| ("le", bound)));
        for (place, (label, text)) in all.enumerate() {
            self.put(format_args!("{}{label}=\"", if place == 0 { '{' } else { ',' }));
            self.escape(text);
            self.out.push('"');
        }
        if !labels.is_empty() || bound.is_some() {
            self.out.push('}');
        }
        self.put(format_args!(" {value}\n"));
    }

    fn escape(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                '\\' => self.out.push_str("\\\\"),
                '"' => self.out.push_str("\\\""),
                '\n' => self.out.push_str("\\n"),
                other => self.out.push(other),
            }
        }
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        self.out.write_fmt(text).expect("a string takes everything");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn buckets_are_cumulative_and_labels_are_escaped() {
        let mut page = Page::new(Format::Text);
        page.family(Kind::Histogram, "took_seconds", "How long.");
        let distribution =
            Distribution { bounds_ms: &[5, 1_000], buckets: vec![1, 2, 3], sum: Duration::from_millis(1_500) };
        page.histogram(&[("model", "a\"b\\c\nd")], &distribution);
        let labels = r#"model="a\"b\\c\nd""#;
        assert_eq!(
            page.finish(),
            format!(
                "# HELP took_seconds How long.\n# TYPE took_seconds histogram\n\
                 took_seconds_bucket{{{labels},le=\"0.005\"}} 1\ntook_seconds_bucket{{{labels},le=\"1\"}} 3\n\
                 took_seconds_bucket{{{labels},le=\"+Inf\"}} 6\ntook_seconds_sum{{{labels}}} 1.5\n\
                 took_seconds_count{{{labels}}} 6\n"
            )
        );
    }

    #[test]
    fn openmetrics_names_a_counter_without_its_suffix_and_says_where_it_ends() {
        let mut page = Page::new(Format::of("application/openmetrics-text;version=1.0.0,text/plain;q=0.5"));
        page.family(Kind::Counter, "seen_total", "Seen.");
        page.sample(&[], 3);
        assert_eq!(page.finish(), "# HELP seen Seen.\n# TYPE seen counter\nseen_total 3\n# EOF\n");
    }
}
