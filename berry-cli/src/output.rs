//! What a command has to say, for people or for machines.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "printing is what this module is for")]

use std::io::IsTerminal as _;
use std::process::ExitCode;

use serde_json::{Value, json};

/// Whether standard error is a terminal that shows colours.
pub(crate) fn colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Something beside the result: to standard error, so that the result can be piped.
pub(crate) fn remark(text: &str) {
    if !text.is_empty() {
        eprintln!("{text}\n");
    }
}

/// The result of a command that could do what it was asked to.
pub(crate) struct Output {
    /// Lines for people.
    pub(crate) text: String,
    /// The same for machines.
    pub(crate) json: Value,
    /// Whether the answer is yes.
    pub(crate) ok: bool,
}

impl Output {
    /// Prints it; an answer of no goes to standard error.
    pub(crate) fn print(self, json: bool) -> ExitCode {
        match (json, self.ok) {
            (true, _) => println!("{:#}", self.json),
            (false, true) => println!("{}", self.text.trim_end()),
            (false, false) => eprintln!("{}", self.text.trim_end()),
        }
        if self.ok { ExitCode::SUCCESS } else { ExitCode::from(1) }
    }
}

/// Why a command could not do what it was asked to, and what to do about it.
pub(crate) struct Failure {
    /// What failed.
    pub(crate) what: String,
    /// What to try next.
    pub(crate) next: String,
}

impl Failure {
    /// A failure with the next step.
    pub(crate) fn new(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { what: what.into(), next: next.into() }
    }

    /// Prints it to standard error, or as JSON to standard output.
    pub(crate) fn print(self, json: bool) -> ExitCode {
        if json {
            println!("{:#}", json!({"ok": false, "error": self.what, "next": self.next}));
        } else {
            eprintln!("❌ {}\n   {}", self.what, self.next);
        }
        ExitCode::from(2)
    }
}
