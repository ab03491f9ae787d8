//! `${VARIABLE}`, `${VARIABLE:-default}` and `${file:/path}` inside strings of the configuration.
//!
//! `$${` stands for a literal `${`; any other `$` is itself. A default is used when the variable is unset or empty, as in a
//! shell, and runs to the next `}`. What is put in is not looked at again. A file loses one line break at its end, since
//! editors and `kubectl create secret` like to leave one there. Errors name the variable or the file and never a value.

use std::io;
use std::path::Path;

use super::source;

/// Largest file that `${file:…}` reads, bytes.
pub const MAX_SECRET_FILE_BYTES: usize = 64 * 1024;

/// Where variables and files come from; injected so that a test is not at the mercy of the process.
pub trait Environment {
    /// A variable's value; `None` when it is not set or not Unicode.
    fn var(&self, name: &str) -> Option<String>;

    /// A file's text.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read_file(&self, path: &Path) -> io::Result<String>;

    /// Keys that the program which reads the configuration cannot act on, each with the reason: whoever writes one is warned. A
    /// table stands for all keys below it.
    fn without_effect(&self) -> &[(&'static str, &'static str)] {
        &[]
    }
}

/// The variables of this process and the files that it can see.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn var(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn read_file(&self, path: &Path) -> io::Result<String> {
        // Opening a pipe waits for whoever writes to it, and each reload reads the file again.
        if std::fs::metadata(path)?.is_file() {
            return Ok(source::read(path)?.text);
        }
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
    }
}

/// Why a string could not be completed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the environment variable {0} is not set")]
    MissingVariable(String),
    #[error("the file {path} cannot be read: {reason}")]
    UnreadableFile { path: String, reason: String },
    #[error("the file {path} is larger than {MAX_SECRET_FILE_BYTES} bytes")]
    LargeFile { path: String },
    #[error("`${{` without a closing `}}`")]
    Unclosed,
    #[error("`${{…}}` does not hold the name of an environment variable")]
    BadName,
}

impl Failure {
    /// What the reader can do about it.
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::MissingVariable(name) => format!("set {name}, or give a default: ${{{name}:-…}}"),
            Self::UnreadableFile { .. } | Self::LargeFile { .. } => {
                "the path is the one seen by the server, and its user must be able to read it".to_owned()
            }
            Self::Unclosed => "write `$${` for a literal `${`".to_owned(),
            Self::BadName => "use ${NAME}, ${NAME:-default} or ${file:/path}".to_owned(),
        }
    }

    /// Whether only the surroundings lack something, so that a switched-off table may go without it.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::MissingVariable(_) | Self::UnreadableFile { .. })
    }
}

/// The completed string; `None` when there was nothing to complete.
pub(crate) fn interpolate(text: &str, env: &dyn Environment) -> Result<Option<String>, Failure> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            out.push_str(&rest[..at - 1]);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let (inside, after) = rest[at + 2..].split_once('}').ok_or(Failure::Unclosed)?;
        out.push_str(&reference(inside, env)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(Some(out))
}

/// What stands for the inside of one `${…}`.
fn reference(inside: &str, env: &dyn Environment) -> Result<String, Failure> {
    if let Some(path) = inside.strip_prefix("file:") {
        return file(path, env);
    }
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    if !is_name(name) {
        return Err(Failure::BadName);
    }
    match (env.var(name), default) {
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (Some(value), None) => Ok(value),
        (None, None) => Err(Failure::MissingVariable(name.to_owned())),
    }
}

fn file(path: &str, env: &dyn Environment) -> Result<String, Failure> {
    let mut text = env.read_file(Path::new(path)).map_err(|error| Failure::UnreadableFile {
        path: path.to_owned(),
        reason: match error.kind() {
            io::ErrorKind::NotFound => "it does not exist".to_owned(),
            io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
            _ => error.to_string(),
        },
    })?;
    if text.len() > MAX_SECRET_FILE_BYTES {
        return Err(Failure::LargeFile { path: path.to_owned() });
    }
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

/// Whether a string is one reference without a default, so that there is no secret in it.
pub(crate) fn is_one_reference(text: &str) -> bool {
    let inside = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    inside.is_some_and(|inside| is_name(inside) || inside.starts_with("file:") && !inside.contains(['$', '}']))
}

fn is_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Fixed;

    impl Environment for Fixed {
        fn var(&self, name: &str) -> Option<String> {
            match name {
                "KEY" => Some("sk-1".to_owned()),
                "EMPTY" => Some(String::new()),
                "TRICKY" => Some("${KEY}".to_owned()),
                _ => None,
            }
        }

        fn read_file(&self, path: &Path) -> io::Result<String> {
            match path.to_str() {
                Some("/run/key") => Ok("from-file\r\n".to_owned()),
                Some("/run/two") => Ok("a\n\n".to_owned()),
                Some("/run/large") => Ok("x".repeat(MAX_SECRET_FILE_BYTES + 1)),
                Some("/run/closed") => Err(io::ErrorKind::PermissionDenied.into()),
                _ => Err(io::ErrorKind::NotFound.into()),
            }
        }
    }

    #[test]
    fn references_are_replaced_wherever_they_stand() {
        for (text, expected) in [
            ("${KEY}", "sk-1"),
            ("Bearer ${KEY}!", "Bearer sk-1!"),
            ("${KEY}${KEY}", "sk-1sk-1"),
            ("${EMPTY}", ""),
            ("${EMPTY:-d}", "d"),
            ("${NONE:-}", ""),
            ("${NONE:-a:-b}", "a:-b"),
            ("${KEY:-d}", "sk-1"),
            ("${file:/run/key}", "from-file"),
            ("${file:/run/two}", "a\n"),
            ("${TRICKY}", "${KEY}"),
            ("$${KEY}", "${KEY}"),
            ("$$ ${KEY} $", "$$ sk-1 $"),
        ] {
            assert_eq!(interpolate(text, &Fixed), Ok(Some(expected.to_owned())), "{text}");
        }
        assert_eq!(interpolate("$name costs $5", &Fixed), Ok(None));
    }

    #[test]
    fn a_failure_names_the_variable_or_the_file() {
        for (text, expected) in [
            ("${NONE}", "the environment variable NONE is not set"),
            ("${file:/gone}", "the file /gone cannot be read: it does not exist"),
            ("${file:/run/closed}", "the file /run/closed cannot be read: permission denied"),
            ("${file:/run/large}", "the file /run/large is larger than 65536 bytes"),
            ("${KEY", "`${` without a closing `}`"),
            ("${MY-KEY}", "`${…}` does not hold the name of an environment variable"),
            ("${}", "`${…}` does not hold the name of an environment variable"),
            ("${1A}", "`${…}` does not hold the name of an environment variable"),
        ] {
            assert_eq!(interpolate(text, &Fixed).unwrap_err().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn only_a_string_that_is_one_reference_may_be_shown() {
        for (text, expected) in [
            ("${KEY}", true),
            ("${file:/run/key}", true),
            ("${KEY:-sk-default}", false),
            ("sk-${KEY}", false),
            ("${KEY}sk", false),
            ("${sk-canary}", false),
            ("sk", false),
        ] {
            assert_eq!(is_one_reference(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_without_a_reference_is_left_alone(text in "[^{}]{0,40}") {
            prop_assert_eq!(interpolate(&text, &Fixed), Ok(None));
        }

        #[test]
        fn a_reference_is_replaced_whatever_stands_around_it(before in "[^${}]{0,20}", after in "[^{}]{0,20}") {
            let text = format!("{before}${{KEY}}{after}");
            prop_assert_eq!(interpolate(&text, &Fixed), Ok(Some(format!("{before}sk-1{after}"))));
        }

        #[test]
        fn an_escaped_reference_keeps_its_text(name in "[A-Z_]{1,10}", around in "[^${}]{0,20}") {
            let text = format!("{around}$${{{name}}}{around}");
            prop_assert_eq!(interpolate(&text, &Fixed), Ok(Some(format!("{around}${{{name}}}{around}"))));
        }

        #[test]
        fn no_text_makes_it_fail_badly(text in "[${}:fileKEY/-]{0,30}") {
            let _ = interpolate(&text, &Fixed);
        }
    }
}
