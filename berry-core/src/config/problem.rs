//! What is wrong with a configuration, or worth knowing about it, and how it is shown.
//!
//! Reading and compiling collect [`Problem`]s and go on; at the end a [`Report`] holds them in the order of the file together
//! with the lines that they point at. Values that may be secret are masked in those lines before anything is kept, see
//! [`super::mask`].

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::renderer::Renderer;
use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Snippet, normalize_untrusted_str};

use super::mask::Masked;
use super::path::KeyPath;

/// Bytes of the file, as the parser counts them.
pub(crate) type Span = Range<usize>;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can be used, but does something that is rarely meant.
    Warning,
    /// Something was worked out that the reader may want to know.
    Info,
}

impl Severity {
    /// The word in front of the message.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// One thing to tell about a configuration.
#[derive(Clone, Debug)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The key that it is about, as TOML would write it; empty for the file as a whole.
    pub path: String,
    /// What is wrong, without secrets.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Where it is; `None` when it concerns the whole file.
    pub place: Option<Place>,
    /// Other places that belong to it, each with a word on why.
    pub related: Vec<(Place, Cow<'static, str>)>,
}

/// A place in a file, with the line that is shown for it. Secrets in the line are masked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Line, counted from 1.
    pub line: usize,
    /// Column, counted from 1; a column is a character.
    pub column: usize,
    text: Box<str>,
    /// The part of the text that is meant.
    marked: Span,
}

impl Problem {
    fn title(&self) -> String {
        let message = &self.message;
        if self.path.is_empty() { message.clone() } else { format!("{}: {message}", self.path) }
    }
}

/// `path: message (hint)`, on one line.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title())?;
        match &self.hint {
            Some(hint) => write!(f, " ({})", hint.replace('\n', " ")),
            None => Ok(()),
        }
    }
}

/// A problem while the file is still being read: its places are bytes.
#[derive(Debug)]
pub(crate) struct Draft {
    severity: Severity,
    path: String,
    message: String,
    hint: Option<String>,
    span: Option<Span>,
    related: Vec<(Span, Cow<'static, str>)>,
}

impl Draft {
    fn new(severity: Severity, path: String, message: String, span: Option<Span>) -> Self {
        Self { severity, path, message, hint: None, span, related: Vec::new() }
    }

    /// Adds what to do about it.
    pub(crate) fn hint(&mut self, hint: impl Into<String>) -> &mut Self {
        self.hint = Some(hint.into());
        self
    }

    /// Points at another place, with a word on why; nothing for a place that is not in the file.
    pub(crate) fn related(&mut self, span: Option<Span>, label: impl Into<Cow<'static, str>>) -> &mut Self {
        self.related.extend(span.map(|span| (span, label.into())));
        self
    }

    fn finish(self, lines: &Lines<'_>) -> Problem {
        let Self { severity, path, message, hint, span, related } = self;
        let place = span.map(|span| lines.place(&span));
        let related = related.into_iter().map(|(span, label)| (lines.place(&span), label)).collect();
        Problem { severity, path, message, hint, place, related }
    }
}

/// Errors that are listed; and as many warnings.
const LISTED_MAX: usize = 1_000;

/// Collects problems while a file is read.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    list: Vec<Draft>,
    /// Errors, and warnings with remarks, beyond [`LISTED_MAX`]: a million users can have a million of them.
    left_out: (usize, usize),
    listed: (usize, usize),
    /// Takes the words of what is left out.
    spare: Option<Draft>,
    /// Paths that have an error, so that what follows from it is not reported as well.
    failed: BTreeSet<String>,
}

impl Problems {
    /// Something that makes the configuration unusable.
    pub(crate) fn error(
        &mut self,
        at: &KeyPath<'_>,
        span: impl Into<Option<Span>>,
        message: impl Into<String>,
    ) -> &mut Draft {
        self.push(Severity::Error, at, span.into(), message.into())
    }

    /// Something that is rarely meant.
    pub(crate) fn warning(
        &mut self,
        at: &KeyPath<'_>,
        span: impl Into<Option<Span>>,
        message: impl Into<String>,
    ) -> &mut Draft {
        self.push(Severity::Warning, at, span.into(), message.into())
    }

    /// Something worth knowing.
    pub(crate) fn info(
        &mut self,
        at: &KeyPath<'_>,
        span: impl Into<Option<Span>>,
        message: impl Into<String>,
    ) -> &mut Draft {
        self.push(Severity::Info, at, span.into(), message.into())
    }

    fn push(&mut self, severity: Severity, at: &KeyPath<'_>, span: Option<Span>, message: String) -> &mut Draft {
        let path = at.to_string();
        if severity == Severity::Error {
            self.failed.insert(path.clone());
        }
        self.add(Draft::new(severity, path, message, span))
    }

    fn add(&mut self, draft: Draft) -> &mut Draft {
        let is_error = draft.severity == Severity::Error;
        let listed = if is_error { &mut self.listed.0 } else { &mut self.listed.1 };
        if *listed == LISTED_MAX {
            *if is_error { &mut self.left_out.0 } else { &mut self.left_out.1 } += 1;
            return self.spare.insert(draft);
        }
        *listed += 1;
        self.list.push(draft);
        self.list.last_mut().expect("one was pushed just now")
    }

    /// Takes over what another collection has.
    pub(crate) fn append(&mut self, mut other: Self) {
        for draft in other.list {
            self.add(draft);
        }
        self.left_out.0 += other.left_out.0;
        self.left_out.1 += other.left_out.1;
        self.failed.append(&mut other.failed);
    }

    /// Counts a key as failed that was probably meant by another one.
    pub(crate) fn mark_failed(&mut self, at: &KeyPath<'_>) {
        self.failed.insert(at.to_string());
    }

    /// Whether there is an error at this key or below it, so that its absence needs no words of its own.
    pub(crate) fn failed_within(&self, at: &KeyPath<'_>) -> bool {
        let path = at.to_string();
        let below = |key: &String| key[path.len()..].is_empty() || key[path.len()..].starts_with(['.', '[']);
        self.failed.range(path.clone()..).take_while(|key| key.starts_with(&path)).any(below)
    }

    /// Whether there is any error.
    pub(crate) fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// Drops what starts inside one of `lines`; used where a syntax error already explains them.
    pub(crate) fn drop_within(&mut self, lines: &[Span]) {
        let inside = |at: usize| lines.iter().any(|line| line.contains(&at));
        self.list.retain(|problem| !problem.span.as_ref().is_some_and(|span| inside(span.start)));
    }

    /// Drops what is no error.
    pub(crate) fn keep_errors(&mut self) {
        self.list.retain(|problem| problem.severity == Severity::Error);
    }

    /// Puts everything into the order of the file, with the lines that it points at. What has no place comes first.
    pub(crate) fn finish(mut self, file: &str, masked: &Masked<'_>) -> Report {
        for (severity, left_out) in [(Severity::Error, self.left_out.0), (Severity::Warning, self.left_out.1)] {
            if left_out > 0 {
                let message = format!("there are {left_out} more of this kind, which are not listed");
                self.list.push(Draft::new(severity, String::new(), message, None));
            }
        }
        self.list.sort_by(|a, b| {
            let key = |draft: &Draft| (draft.span.as_ref().map(|span| span.start), draft.severity);
            key(a).cmp(&key(b)).then_with(|| a.message.cmp(&b.message))
        });
        let lines = Lines::new(masked);
        Report { file: file.into(), problems: self.list.into_iter().map(|draft| draft.finish(&lines)).collect() }
    }
}

/// All problems of one file, in the order of the file.
#[derive(Clone, Debug)]
pub struct Report {
    file: Arc<str>,
    problems: Vec<Problem>,
}

impl Report {
    /// The file's name as it was given.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// The problems, in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.problems.iter()
    }

    /// How many there are of this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.problems.iter().filter(|problem| problem.severity == severity).count()
    }

    /// Each problem on one line, for a log: `config.toml:12:5: users.a.token: …`.
    pub fn lines(&self) -> impl Iterator<Item = (Severity, String)> + '_ {
        self.problems.iter().map(|problem| {
            let line = match &problem.place {
                Some(Place { line, column, .. }) => format!("{}:{line}:{column}: {problem}", self.file),
                None => format!("{}: {problem}", self.file),
            };
            (problem.severity, line)
        })
    }

    /// Everything as text with source lines and carets; `colour` for a terminal.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let rendered: Vec<String> = self.problems.iter().map(|problem| self.render_one(&renderer, problem)).collect();
        rendered.join("\n\n")
    }

    fn render_one(&self, renderer: &Renderer, problem: &Problem) -> String {
        let level = match problem.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
            Severity::Info => Level::INFO,
        };
        let mut group = Group::with_title(level.primary_title(problem.title()));
        match &problem.place {
            Some(place) => group = group.element(self.snippet(place, AnnotationKind::Primary, None)),
            None => group = group.element(annotate_snippets::Origin::path(&*self.file)),
        }
        for (place, label) in &problem.related {
            group = group.element(self.snippet(place, AnnotationKind::Context, Some(label)));
        }
        if let Some(hint) = &problem.hint {
            group = group.element(Level::HELP.message(normalize_untrusted_str(hint)));
        }
        renderer.render(&[group])
    }

    fn snippet<'a>(
        &'a self,
        place: &'a Place,
        kind: AnnotationKind,
        label: Option<&'a str>,
    ) -> Snippet<'a, Annotation<'a>> {
        let mut annotation = kind.span(place.marked.clone());
        if let Some(label) = label {
            annotation = annotation.label(label);
        }
        Snippet::source(&*place.text).path(&*self.file).line_start(place.line).annotation(annotation)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

/// Text with an index of its lines, so that many positions in a large file stay cheap to find.
struct Lines<'t> {
    masked: &'t Masked<'t>,
    /// Where each [`LINES_STEP`]th line begins.
    starts: Vec<usize>,
}

/// Lines between two that are indexed.
const LINES_STEP: usize = 256;

impl<'t> Lines<'t> {
    fn new(masked: &'t Masked<'t>) -> Self {
        let breaks = memchr::memchr_iter(b'\n', masked.unmasked().as_bytes());
        let starts = std::iter::once(0).chain(breaks.map(|at| at + 1)).step_by(LINES_STEP).collect();
        Self { masked, starts }
    }

    /// The place of a span: the first line that it is on, whatever else it covers.
    fn place(&self, span: &Span) -> Place {
        let text = self.masked.unmasked();
        let step = self.starts.partition_point(|start| *start <= span.start) - 1;
        let before = &text.as_bytes()[self.starts[step]..span.start.min(text.len())];
        let line = step * LINES_STEP + memchr::memchr_iter(b'\n', before).count() + 1;
        let start = memchr::memrchr(b'\n', before).map_or(self.starts[step], |at| self.starts[step] + at + 1);
        let end = memchr::memchr(b'\n', &text.as_bytes()[start..]).map_or(text.len(), |at| start + at);
        let text = self.masked.line(start..end);
        let text = text.strip_suffix('\r').unwrap_or(&text);
        let within = |at: usize| at.saturating_sub(start).min(text.len());
        let marked = within(span.start)..within(span.end);
        let column = text[..marked.start].chars().count() + 1;
        Place { line, column, text: text.into(), marked }
    }
}

/// The candidate that `word` was most likely meant to be, if any is close: case, `-` and `_` do not count, and about one
/// letter in three may differ, or a long name may lack a part.
pub(crate) fn closest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let plain = |text: &str| text.to_lowercase().replace(['_', '-', ' ', '.'], "");
    let wanted = plain(word);
    let within = (wanted.chars().count() / 3).max(1);
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let known = plain(candidate);
        let distance = strsim::damerau_levenshtein(&wanted, &known);
        let close = distance <= within || strsim::sorensen_dice(&wanted, &known) > 0.75;
        if close && best.is_none_or(|(other, _)| distance < other) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_candidate_is_suggested_and_a_far_one_is_not() {
        let keys = ["weight", "priority", "api_key"];
        assert_eq!(closest("wieght", keys), Some("weight"));
        assert_eq!(closest("apikey", keys), Some("api_key"));
        assert_eq!(closest("APIKey", keys), Some("api_key"));
        assert_eq!(closest("colour", keys), None);
        let long = ["circuit_breaker_timeout_seconds", "circuit_breaker_failure_threshold"];
        assert_eq!(closest("circuit_breaker_treshold", long), Some("circuit_breaker_failure_threshold"));
    }

    #[test]
    fn columns_count_characters_and_lines_count_from_one() {
        let masked = Masked::new("a = 1\r\né = 2\n", Vec::new(), false);
        let lines = Lines::new(&masked);
        let place = |at: usize| lines.place(&(at..at + 1));
        assert_eq!((place(0).line, place(0).column), (1, 1));
        let second = place("a = 1\r\né ".len());
        assert_eq!((second.line, second.column, &*second.text), (2, 3, "é = 2"));
    }

    #[test]
    fn a_key_has_failed_when_it_or_something_below_it_has_an_error() {
        let mut problems = Problems::default();
        let (root, users) = (KeyPath::ROOT, KeyPath::ROOT.key("users"));
        problems.error(&users.key("ann").key("tags").index(1), None, "wrong");
        problems.warning(&users.key("bob"), None, "odd");
        let failed = |at: &KeyPath<'_>| problems.failed_within(at);
        assert!(failed(&users.key("ann")) && failed(&users.key("ann").key("tags")) && failed(&users));
        assert!(!failed(&users.key("an")) && !failed(&users.key("bob")) && !failed(&root.key("user")));
    }

    #[test]
    fn lines_far_into_a_file_are_found() {
        let text = "x = 1\n".repeat(3 * LINES_STEP);
        let masked = Masked::new(&text, Vec::new(), false);
        let lines = Lines::new(&masked);
        for line in [0, 1, LINES_STEP - 1, LINES_STEP, LINES_STEP + 1, 3 * LINES_STEP - 1] {
            let place = lines.place(&(line * 6 + 4..line * 6 + 5));
            assert_eq!((place.line, place.column, &*place.text), (line + 1, 5, "x = 1"));
        }
    }

    #[test]
    fn beyond_a_thousand_problems_are_counted_only() {
        let mut problems = Problems::default();
        for n in 0..LISTED_MAX + 5 {
            problems.error(&KeyPath::ROOT.key("a"), 0..1, format!("error {n}")).hint("mend it");
        }
        problems.warning(&KeyPath::ROOT, None, "a warning");
        let report = problems.finish("x.toml", &Masked::new("a = 1\n", Vec::new(), false));
        assert_eq!((report.count(Severity::Error), report.count(Severity::Warning)), (LISTED_MAX + 1, 1));
        assert!(report.to_string().contains("there are 5 more of this kind"));
    }

    #[test]
    fn problems_come_in_the_order_of_the_file() {
        let mut problems = Problems::default();
        problems.error(&KeyPath::ROOT.key("b"), 6..7, "second");
        problems.warning(&KeyPath::ROOT.key("a"), 0..1, "first");
        problems.warning(&KeyPath::ROOT, None, "of the file");
        let report = problems.finish("x.toml", &Masked::new("a = 1\nb = 2\n", Vec::new(), false));
        let lines: Vec<String> = report.lines().map(|(_, line)| line).collect();
        assert_eq!(lines, ["x.toml: of the file", "x.toml:1:1: a: first", "x.toml:2:1: b: second"]);
    }
}
