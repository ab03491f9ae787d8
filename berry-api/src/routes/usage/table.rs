//! Sums as comma-separated values (RFC 4180) or as lines of JSON. Rows are written by the ledger.

use std::io::Write as _;

use berry_core::money::NanoUsd;
use berry_ledger::Figures;

/// Columns of what is summed up.
pub(super) const FIGURES: [&str; 8] = [
    "requests",
    "errors",
    "input_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost_usd",
];

/// What was summed up, in the order of [`FIGURES`].
pub(super) fn figures(figures: &Figures) -> [String; FIGURES.len()] {
    [
        figures.requests.to_string(),
        figures.errors.to_string(),
        figures.input_tokens.to_string(),
        figures.cached_tokens.to_string(),
        figures.cache_write_tokens.to_string(),
        figures.output_tokens.to_string(),
        figures.reasoning_tokens.to_string(),
        NanoUsd::from_nanos(figures.cost_nanos).to_string(),
    ]
}

/// Writes lines of values.
pub(super) struct Csv<'o>(pub(super) &'o mut Vec<u8>);

impl Csv<'_> {
    /// One line. A value that a spreadsheet would take for a formula gets an apostrophe before it: many of them are texts of
    /// clients.
    pub(super) fn line(&mut self, values: impl IntoIterator<Item = String>) {
        for (place, value) in values.into_iter().enumerate() {
            if place > 0 {
                self.0.push(b',');
            }
            let guard = if value.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
            if value.contains([',', '"', '\n', '\r']) {
                // Writing to a vector cannot fail.
                let _ = write!(self.0, "\"{guard}{}\"", value.replace('"', "\"\""));
            } else {
                let _ = write!(self.0, "{guard}{value}");
            }
        }
        self.0.extend_from_slice(b"\r\n");
    }
}

/// One line of JSON.
pub(super) fn json_line(value: &impl serde::Serialize, out: &mut Vec<u8>) {
    serde_json::to_writer(&mut *out, value).expect("a vector takes every byte, and keys are texts");
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_where_they_must_and_are_never_formulas() {
        let mut out = Vec::new();
        Csv(&mut out).line(["plain", "a,b", "say \"x\"", "", "=cmd()", "-1", "two\nlines"].map(str::to_owned));
        assert_eq!(out, b"plain,\"a,b\",\"say \"\"x\"\"\",,'=cmd(),'-1,\"two\nlines\"\r\n");
    }
}
