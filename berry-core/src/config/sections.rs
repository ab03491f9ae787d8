//! Finds the tables of users in a large file, so that each can be read and forgotten instead of all standing in one tree.
//!
//! A header `[users.NAME]` at the start of a line begins a user, who lasts to the next header of somebody or something else. Only
//! a text over many lines could hold such a line without its being a header, so those are looked for first.

use toml_parser::Source;
use toml_parser::lexer::TokenKind;

use super::problem::Span;

/// The parts of a file.
#[derive(Debug)]
pub(crate) struct Sections {
    /// One for each user: the table and the tables below it.
    pub(crate) users: Vec<Span>,
    /// Everything else.
    pub(crate) rest: Vec<Span>,
}

impl Sections {
    /// The parts of a file that has more than `few` users and writes them as tables; `None` for any other, which is read as a
    /// whole.
    pub(crate) fn of(text: &str, few: usize) -> Option<Self> {
        // A user takes a header at least.
        if text.len() <= few * "[users.x]\n".len() {
            return None;
        }
        let mut sections = Self { users: Vec::new(), rest: Vec::new() };
        let mut begun = (0, None);
        for at in headers(text) {
            let user = user(&text[at..])?;
            if user != begun.1 {
                sections.close(begun, at);
                begun = (at, user);
            }
        }
        sections.close(begun, text.len());
        (sections.users.len() > few).then_some(sections)
    }

    fn close(&mut self, (start, user): (usize, Option<&str>), end: usize) {
        let list = if user.is_some() { &mut self.users } else { &mut self.rest };
        list.push(start..end);
    }
}

/// Where lines begin whose first character is `[`, except in texts over many lines.
fn headers(text: &str) -> impl Iterator<Item = usize> {
    let mut long = long_texts(text).into_iter().peekable();
    let after_breaks = memchr::memchr_iter(b'\n', text.as_bytes()).map(|at| at + 1);
    std::iter::once(0).chain(after_breaks).filter(move |at| {
        while long.next_if(|long| long.end <= *at).is_some() {}
        let inside = long.peek().is_some_and(|long| long.start < *at);
        let first = text[*at..].bytes().find(|c| !matches!(c, b' ' | b'\t'));
        first == Some(b'[') && !inside
    })
}

/// The texts in three quotes.
fn long_texts(text: &str) -> Vec<Span> {
    let found = |quotes: &str| memchr::memmem::find(text.as_bytes(), quotes.as_bytes()).is_some();
    if !found("\"\"\"") && !found("'''") {
        return Vec::new();
    }
    let is_long = |kind: TokenKind| matches!(kind, TokenKind::MlBasicString | TokenKind::MlLiteralString);
    let tokens = Source::new(text).lex().filter(|token| is_long(token.kind()));
    tokens.map(|token| token.span().start()..token.span().end()).collect()
}

/// Whose header it is, as it is written; `None` for a header of something else. The outer `None` is for a name that is written in
/// a way that this reader does not take apart.
#[expect(clippy::option_option, reason = "one says that it is nobody's, the other that it cannot be told")]
fn user(header: &str) -> Option<Option<&str>> {
    let Some(rest) = header.strip_prefix("[users.") else { return Some(None) };
    let name = match rest.as_bytes().first()? {
        quote @ (b'"' | b'\'') => {
            let end = rest[1..].find(char::from(*quote))? + 2;
            &rest[..end]
        }
        _ => &rest[..rest.find(['.', ']', ' ', '\n'])?],
    };
    let ended = rest[name.len()..].starts_with(['.', ']']);
    (ended && !name.contains(['\\', '\n'])).then_some(Some(name))
}
