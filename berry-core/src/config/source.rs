//! Gets the text of a configuration file and its tree.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use toml::Spanned;
use toml::de::DeTable;

use super::path::KeyPath;
use super::problem::{Problems, Span};

/// Largest configuration file, bytes. A million users fit.
pub const MAX_CONFIG_BYTES: u64 = 256 << 20;

/// A configuration file's text, and who may read it.
pub(crate) struct Source {
    pub(crate) text: String,
    /// The permission bits, where the platform has them.
    pub(crate) mode: Option<u32>,
}

/// Reads a file.
///
/// # Errors
/// When it cannot be read, is too large, or is not UTF-8.
pub(crate) fn read(path: &Path) -> io::Result<Source> {
    let file = File::open(path)?;
    let mode = mode(&file.metadata()?);
    let mut bytes = Vec::new();
    // A limit on reading and not on the announced length, which is 0 for a pipe.
    file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_CONFIG_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is larger than {MAX_CONFIG_BYTES} bytes")));
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) || bytes.contains(&0) {
        let why = "it is UTF-16 or no text at all; save it as UTF-8";
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|c| **c == b'\n').count() + 1;
        io::Error::new(io::ErrorKind::InvalidData, format!("it is not UTF-8 text (line {line})"))
    })?;
    Ok(Source { text, mode })
}

#[cfg(unix)]
fn mode(metadata: &std::fs::Metadata) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt as _;
    Some(metadata.permissions().mode() & 0o777)
}

#[cfg(not(unix))]
fn mode(_: &std::fs::Metadata) -> Option<u32> {
    None
}

/// The text without a byte order mark, which some editors put in front.
pub(crate) fn without_bom(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// Where a text that is parsed by itself stands in the file: for each of its parts where it begins, in the text and in the file.
#[derive(Debug)]
pub(crate) struct Origin(Vec<(usize, usize)>);

/// The file itself.
impl Default for Origin {
    fn default() -> Self {
        Self::at(0)
    }
}

impl Origin {
    /// A text of one part.
    pub(crate) fn at(start: usize) -> Self {
        Self(Vec::from([(0, start)]))
    }

    /// The parts of a file that are given, as one text, and where each of them is.
    pub(crate) fn join<'t>(text: &'t str, parts: &[Span]) -> (Cow<'t, str>, Self) {
        if let [part] = parts {
            return (Cow::Borrowed(&text[part.clone()]), Self::at(part.start));
        }
        let mut joined = String::with_capacity(parts.iter().map(Span::len).sum());
        let mut starts = Vec::from([(0, 0)]);
        for part in parts {
            starts.push((joined.len(), part.start));
            joined.push_str(&text[part.clone()]);
        }
        (Cow::Owned(joined), Self(starts))
    }

    /// The place in the file.
    pub(crate) fn span(&self, span: Span) -> Span {
        let part = self.0.partition_point(|(here, _)| *here <= span.start).saturating_sub(1);
        let (here, there) = self.0[part];
        span.start - here + there..span.end - here + there
    }
}

/// The tree of a text, and the lines that are not TOML, which have been reported. What could be understood is in the tree.
pub(crate) fn parse<'i>(text: &'i str, origin: &Origin, problems: &mut Problems) -> (Spanned<DeTable<'i>>, Vec<Span>) {
    let (tree, errors) = DeTable::parse_recoverable(text);
    let mut broken: Vec<Span> = Vec::new();
    let mut repeated_table: Option<Span> = None;
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let line = line_of(text, span.start);
        let duplicate = error.message().starts_with("duplicate key");
        // One mistake often upsets the parser several times; the first message on a line, or for a table, is the one that helps.
        let follows = duplicate && repeated_table.as_ref().is_some_and(|table| table.contains(&span.start));
        if broken.contains(&line) || follows {
            continue;
        }
        let problem = problems.error(&KeyPath::ROOT, origin.span(span), describe(error.message()));
        if duplicate {
            problem.related(first_use(text, &line).map(|first| origin.span(first)), "first used here");
            if text[line.clone()].trim_start().starts_with('[') {
                repeated_table = Some(line.start..next_header(text, line.end));
            }
        } else if let Some(hint) = slip(error.message(), &text[line.clone()]).or_else(|| other_format(text, &line)) {
            problem.hint(hint);
        }
        broken.push(line);
    }
    let broken = broken.into_iter().map(|line| origin.span(line)).collect();
    (tree, broken)
}

/// The parser's message, in the words of the other messages where it has terser ones.
fn describe(message: &str) -> String {
    let message = message.trim().replace('\n', "; ");
    let plain = match message.as_str() {
        "string values must be quoted, expected literal string" => {
            "expected a value: text in quotes, a number, true or false, a list or a table"
        }
        "unexpected key or value, expected newline, `#`" => "expected the end of the line, or a comment",
        "key with no value, expected `=`" => "expected `=` and a value after the key",
        "invalid key-value pair, expected key" => "expected a key",
        "duplicate key" => "this key is there twice",
        other => other,
    };
    format!("not valid TOML: {plain}")
}

/// What is often meant by a line that is not TOML.
fn slip(message: &str, line: &str) -> Option<&'static str> {
    let value = line.split_once('=').map_or("", |(_, value)| value.trim());
    if line.trim_start().starts_with("//") {
        Some("a comment begins with #")
    } else if value.starts_with(['“', '”', '‘', '’', '＂']) {
        Some("these are quotes of a word processor; TOML takes \" and '")
    } else if message.contains("invalid unquoted key") && !line.is_ascii() {
        Some("a name with other letters stands in quotes: [models.\"…\"]")
    } else if message.contains("escape") {
        Some("in \"…\" a backslash begins an escape: write it twice, or put the text in single quotes")
    } else if value.starts_with(|c: char| c.is_ascii_digit()) && value.contains(',') {
        Some("a fraction begins with a point: 0.5")
    } else if value.starts_with(|c: char| c.is_ascii_digit()) && value.ends_with(|c: char| c.is_ascii_alphabetic()) {
        Some("a number stands alone, without a unit; a text stands in quotes")
    } else {
        None
    }
}

/// A word to those who write another language.
fn other_format(text: &str, line: &Span) -> Option<&'static str> {
    if text.trim_start().starts_with('{') {
        return Some("this looks like JSON; the configuration is written in TOML");
    }
    let line = text[line.clone()].trim();
    (line.ends_with(':') || line.contains(": ") && !line.contains('='))
        .then_some("this looks like YAML; the configuration is written in TOML: key = value")
}

/// Where the key or header on this line was used before: the same header, or the same key since the last header.
fn first_use(text: &str, line: &Span) -> Option<Span> {
    let name = |line: &str| match line.trim() {
        header if header.starts_with('[') => header.split(']').next().unwrap_or_default().to_owned(),
        pair => pair.split('=').next().unwrap_or_default().trim().to_owned(),
    };
    let wanted = name(&text[line.clone()]);
    let is_header = wanted.starts_with('[');
    let from = if is_header { 0 } else { text[..line.start].rfind("\n[").map_or(0, |at| at + 1) };
    let mut start = from;
    for earlier in text[from..line.start].split_inclusive('\n') {
        if name(earlier) == wanted {
            let indent = earlier.len() - earlier.trim_start().len();
            let width = if is_header { wanted.len() + 1 } else { wanted.len() };
            return Some(start + indent..start + indent + width);
        }
        start += earlier.len();
    }
    None
}

fn next_header(text: &str, from: usize) -> usize {
    let mut at = from;
    for line in text[from..].split_inclusive('\n') {
        if line.trim_start().starts_with('[') {
            break;
        }
        at += line.len();
    }
    at
}

fn line_of(text: &str, at: usize) -> Span {
    let at = at.min(text.len());
    let start = text[..at].rfind('\n').map_or(0, |n| n + 1);
    let end = text[at..].find('\n').map_or(text.len(), |n| at + n + 1);
    start..end
}
