//! Tables as they are mostly written, read without a tree.
//!
//! A million users are a million small tables of simple lines: `key = "text"`, a number, `true`, a list of texts on one line.
//! Such a table is read here at a tenth of the cost of a parser that keeps everything. What is written in any other way, even if
//! only a comment is odd, is not understood here and goes to the parser, so this reader never has to say what is wrong.

use super::mask;
use super::problem::Span;

/// A key with its value, written plainly.
#[derive(Debug)]
pub(crate) struct Pair<'t> {
    pub(crate) key: &'t str,
    pub(crate) value: Plain<'t>,
    /// Where the value, or the header of the table, is in the file.
    pub(crate) span: Span,
}

/// A value that is written plainly.
#[derive(Debug)]
pub(crate) enum Plain<'t> {
    Text(&'t str),
    /// Digits, perhaps with a fraction.
    Number(&'t str),
    Flag(bool),
    /// Texts; the keys are empty.
    List(Vec<Pair<'t>>),
    Table(Vec<Pair<'t>>),
}

impl<'t> Pair<'t> {
    /// A text that means itself and hides nothing.
    pub(crate) fn text(&self) -> Option<&'t str> {
        match self.value {
            Plain::Text(text) => (!text.contains("${") && !mask::has_url_credentials(text)).then_some(text),
            _ => None,
        }
    }
}

/// One named table with its sub-tables.
#[derive(Debug)]
pub(crate) struct Named<'t> {
    pub(crate) name: &'t str,
    pub(crate) name_span: Span,
    /// Where the header is.
    pub(crate) span: Span,
    pub(crate) pairs: Vec<Pair<'t>>,
}

/// Reads a text that is one table `[users.NAME]`, `start` bytes into the file, and its sub-tables; `None` where it is not plain.
pub(crate) fn user(text: &str, start: usize) -> Option<Named<'_>> {
    let mut lines = Lines { text, at: 0 };
    let (at, line) = lines.next()?;
    let (header, span) = header(line)?;
    let name = header.strip_prefix("users.").filter(|name| is_bare(name))?;
    let name_at = start + at + "[users.".len();
    let mut named = Named {
        name,
        name_span: name_at..name_at + name.len(),
        span: start + at + span.start..start + at + span.end,
        pairs: Vec::with_capacity(8),
    };
    // Pairs belong to the last sub-table, once there is one.
    let mut in_sub = false;
    for (at, line) in lines {
        let at = start + at;
        if is_blank(line)? {
            continue;
        }
        if line.starts_with('[') {
            let (header, span) = self::header(line)?;
            let sub = header.strip_prefix("users.")?.strip_prefix(name)?.strip_prefix('.')?;
            let pair = Pair { key: sub, value: Plain::Table(Vec::new()), span: at + span.start..at + span.end };
            push(&mut named.pairs, pair).filter(|()| is_bare(sub))?;
            in_sub = true;
            continue;
        }
        let pair = pair(line, at)?;
        match named.pairs.last_mut().map(|last| &mut last.value) {
            Some(Plain::Table(pairs)) if in_sub => push(pairs, pair)?,
            _ => push(&mut named.pairs, pair)?,
        }
    }
    Some(named)
}

/// Adds a pair; `None` where the key is there already.
fn push<'t>(pairs: &mut Vec<Pair<'t>>, pair: Pair<'t>) -> Option<()> {
    if pairs.iter().any(|other| other.key == pair.key) {
        return None;
    }
    pairs.push(pair);
    Some(())
}

/// The lines of a text with their positions, without their ends.
struct Lines<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Iterator for Lines<'t> {
    type Item = (usize, &'t str);

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.at;
        let rest = &self.text.get(at..).filter(|rest| !rest.is_empty())?;
        let end = memchr::memchr(b'\n', rest.as_bytes());
        self.at = at + end.map_or(rest.len(), |end| end + 1);
        let line = &rest[..end.unwrap_or(rest.len())];
        // Without a line feed behind it a carriage return ends no line.
        Some((at, if end.is_some() { line.strip_suffix('\r').unwrap_or(line) } else { line }))
    }
}

/// Whether there is nothing on the rest of a line but white space and a comment; `None` where that is odd.
fn is_blank(rest: &str) -> Option<bool> {
    let rest = &rest[blanks(rest, 0)..];
    if rest.starts_with('#') {
        return is_printable(rest).then_some(true);
    }
    Some(rest.is_empty())
}

/// Where blanks end that begin at `from`.
fn blanks(text: &str, from: usize) -> usize {
    let is_blank = |c: &&u8| matches!(c, b' ' | b'\t');
    from + text.as_bytes()[from..].iter().take_while(is_blank).count()
}

/// Whether there is no control character; a tab is fine.
fn is_printable(text: &str) -> bool {
    // Every byte is looked at, which is faster than stopping early at what is hardly ever there.
    text.bytes().fold(true, |good, c| good & ((c >= b' ' && c != 0x7f) || c == b'\t'))
}

fn is_bare(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'-')
}

/// What stands between the brackets of a header line, and where the header is on it.
fn header(line: &str) -> Option<(&str, Span)> {
    let end = memchr::memchr(b']', line.as_bytes())?;
    let inside = line.get(1..end).filter(|_| line.starts_with('['))?;
    is_blank(&line[end + 1..])?.then_some((inside, 0..end + 1))
}

fn pair(line: &str, at: usize) -> Option<Pair<'_>> {
    let sign = memchr::memchr(b'=', line.as_bytes())?;
    let value_at = blanks(line, sign + 1);
    let key = line[blanks(line, 0).min(sign)..sign].trim_ascii_end();
    let (value, length) = value(&line[value_at..], at + value_at)?;
    (is_bare(key) && is_blank(&line[value_at + length..])?).then_some(Pair {
        key,
        value,
        span: at + value_at..at + value_at + length,
    })
}

/// The value at the start of a text that is `at` bytes into the file, and its length.
fn value(text: &str, at: usize) -> Option<(Plain<'_>, usize)> {
    match text.as_bytes().first()? {
        b'"' | b'\'' => quoted(text).map(|inside| (Plain::Text(inside), inside.len() + 2)),
        b'[' => list(text, at),
        b'0'..=b'9' => number(text).map(|number| (Plain::Number(number), number.len())),
        b't' if text.starts_with("true") => Some((Plain::Flag(true), 4)),
        b'f' if text.starts_with("false") => Some((Plain::Flag(false), 5)),
        _ => None,
    }
}

/// The inside of the text in quotes at the start. Two quotes at once may be the start of a text over many lines.
fn quoted(text: &str) -> Option<&str> {
    let quote = *text.as_bytes().first().filter(|quote| matches!(quote, b'"' | b'\''))?;
    let rest = &text[1..];
    let inside = &rest[..memchr::memchr(quote, rest.as_bytes())?];
    let escaped = quote == b'"' && memchr::memchr(b'\\', inside.as_bytes()).is_some();
    let doubled = inside.is_empty() && rest.as_bytes().get(1) == Some(&quote);
    (!escaped && !doubled && is_printable(inside)).then_some(inside)
}

/// A list of texts on one line.
fn list(text: &str, at: usize) -> Option<(Plain<'_>, usize)> {
    let mut items = Vec::new();
    let mut here = blanks(text, 1);
    while text.as_bytes().get(here) != Some(&b']') {
        let inside = quoted(&text[here..])?;
        let end = here + inside.len() + 2;
        items.push(Pair { key: "", value: Plain::Text(inside), span: at + here..at + end });
        here = blanks(text, end);
        match text.as_bytes().get(here)? {
            b',' => here = blanks(text, here + 1),
            b']' => {}
            _ => return None,
        }
    }
    Some((Plain::List(items), here + 1))
}

/// Digits without a sign, perhaps with a fraction, as JSON has them too.
fn number(text: &str) -> Option<&str> {
    let end = text.find(|c: char| !matches!(c, '0'..='9' | '.')).unwrap_or(text.len());
    let number = &text[..end];
    let (whole, fraction) = number.split_once('.').map_or((number, None), |(whole, rest)| (whole, Some(rest)));
    let is_fraction = |digits: &str| !digits.is_empty() && !digits.contains('.');
    let good = (whole.len() == 1 || !whole.starts_with('0')) && fraction.is_none_or(is_fraction);
    // A longer one may need more than the reader of plain numbers has.
    (good && end <= 15).then_some(number)
}
