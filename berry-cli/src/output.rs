//! What a command has to say, for people or for machines.

use std::io::{self, IsTerminal as _, Write};
use std::process::ExitCode;

use serde_json::{Value, json};

/// Whether standard error is a terminal that shows colours.
pub(crate) fn colour() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Something beside the result: to standard error, so that the result can be piped.
pub(crate) fn remark(text: &str) {
    if !text.is_empty() {
        tell(&format!("{text}\n"));
    }
}

/// Writes to standard error. Where that cannot be written to, there is nobody to tell.
fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Writes the result; `code` is what the process then ends with. A reader who has closed the pipe has read enough.
fn hand_over(text: &str, code: u8) -> ExitCode {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            tell(&format!("❌ the result cannot be written: {error}"));
            ExitCode::from(2)
        }
        _ => ExitCode::from(code),
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
        let code = u8::from(!self.ok);
        match (json, self.ok) {
            (true, _) => hand_over(&format!("{:#}", self.json), code),
            (false, true) => hand_over(self.text.trim_end(), code),
            (false, false) => {
                tell(self.text.trim_end());
                ExitCode::from(code)
            }
        }
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
            return hand_over(&format!("{:#}", json!({"ok": false, "error": self.what, "next": self.next})), 2);
        }
        tell(&format!("❌ {}\n   {}", self.what, self.next));
        ExitCode::from(2)
    }
}
