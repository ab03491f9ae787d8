//! One configuration from its text to what the server runs on.
//!
//! A file with many users is read in parts ([`Sections`]): each user by itself, everything else as one tree. What is said about a
//! file is the same either way.

use std::slice;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::compile::{self, MoreUsers};
use super::decode::{self, Decode as _, Decoder, Entry, Map};
use super::interpolate::Environment;
use super::mask::Masked;
use super::outline::{OUTLINE_ENTRIES_MAX, Outline};
use super::path::KeyPath;
use super::plain;
use super::problem::{Problems, Severity, Span};
use super::raw::{RawConfig, RawUser};
use super::schema::Bounds;
use super::sections::Sections;
use super::source::{self, Origin};
use super::{KEPT_TEXT_BYTES_MAX, LoadError, Loaded, Summary};
use crate::secret::Secret;

/// Reads, checks and compiles a text. `mode` are the permission bits of its file.
pub(super) fn load(name: &str, text: &str, mode: Option<u32>, env: &dyn Environment) -> Result<Loaded, LoadError> {
    load_in_parts(name, text, mode, env, OUTLINE_ENTRIES_MAX)
}

fn load_in_parts(
    name: &str,
    text: &str,
    mode: Option<u32>,
    env: &dyn Environment,
    few: usize,
) -> Result<Loaded, LoadError> {
    let text = source::without_bom(text);
    let in_parts = Sections::of(text, few).and_then(|sections| read(name, text, &sections, mode, env).ok());
    in_parts.unwrap_or_else(|| {
        let whole = Sections { users: Vec::new(), rest: std::iter::once(0..text.len()).collect() };
        read(name, text, &whole, mode, env).expect("nothing is scattered over one part")
    })
}

/// Keys that are read and checked and that nothing acts on yet, with the reason.
const WITHOUT_EFFECT: &[(&str, &str)] = &[("cache", "answers are not kept yet; each request goes to a backend")];

/// Tables of one user stand in more than one part, so the file must be read as a whole.
#[derive(Debug)]
struct Scattered;

fn read(
    name: &str,
    text: &str,
    sections: &Sections,
    mode: Option<u32>,
    env: &dyn Environment,
) -> Result<Result<Loaded, LoadError>, Scattered> {
    let mut problems = Problems::default();
    let (joined, origin) = Origin::join(text, &sections.rest);
    let parsed = joined.as_ref();
    let (tree, broken) = source::parse(parsed, &origin, &mut problems);
    if !sections.users.is_empty() && tree.get_ref().contains_key("users") {
        return Err(Scattered);
    }
    if tree.get_ref().is_empty() && sections.users.is_empty() && broken.is_empty() {
        problems
            .error(&KeyPath::ROOT, None, "the file has no key at all: it was probably cut off while it was written")
            .hint("config-example.toml is a complete one to copy from");
        return Ok(Err(LoadError::Invalid(problems.finish(name, &Masked::new("", Vec::new(), false)))));
    }
    let mut found = Problems::default();
    let mut cx = Decoder::new(&mut found, env, &origin);
    let raw: RawConfig = decode::read_table(tree.get_ref(), &KeyPath::ROOT, &mut cx);
    for (key, why) in WITHOUT_EFFECT.iter().chain(env.without_effect()) {
        warn_without_effect(tree.get_ref(), &KeyPath::ROOT, (key, why), cx.origin, cx.problems);
    }
    let Decoder { secrets, inline_secret, .. } = cx;
    let outline = Outline::new(tree.get_ref(), (parsed, &origin), text, &secrets, &sections.users);
    drop(tree);
    // References into a tree with holes would only make noise; what the reader found elsewhere in the file is sure.
    found.drop_within(&broken);
    problems.append(found);
    let mut users = Users {
        text,
        parts: sections.users.iter(),
        env,
        secrets,
        inline_secret,
        broken,
        scattered: false,
        all_read: true,
    };
    let snapshot = if users.broken.is_empty() {
        Some(compile::compile(raw, env, &mut users, &mut problems))
    } else {
        while users.next(&mut problems).is_some() {}
        None
    };
    let Users { secrets, inline_secret, broken, scattered, .. } = users;
    if scattered {
        return Err(Scattered);
    }
    if let (Some(mode), Some(span), true) = (mode, inline_secret, broken.is_empty()) {
        check_mode(name, mode, span, &mut problems);
    }
    let report = problems.finish(name, &Masked::new(text, secrets, !broken.is_empty()));
    let Some(snapshot) = snapshot.filter(|_| report.count(Severity::Error) == 0) else {
        return Ok(Err(LoadError::Invalid(report)));
    };
    let summary = Summary::of(&snapshot);
    let text = (text.len() <= KEPT_TEXT_BYTES_MAX).then(|| Secret::from(text));
    Ok(Ok(Loaded { snapshot: Arc::new(snapshot), warnings: report, summary, outline, text }))
}

/// Warns of a key that nothing acts on, where it is written. A table that says `enabled = false` gets what it asks for.
fn warn_without_effect(
    table: &DeTable<'_>,
    at: &KeyPath<'_>,
    (key, why): (&str, &str),
    origin: &Origin,
    problems: &mut Problems,
) {
    let (name, below) = key.split_once('.').map_or((key, None), |(name, below)| (name, Some(below)));
    let Some(node) = table.get(name) else { return };
    let at = at.key(name);
    match (below, node.get_ref()) {
        (Some(below), DeValue::Table(table)) => warn_without_effect(table, &at, (below, why), origin, problems),
        (None, DeValue::Table(table)) if decode::is_switched_off(table) => {}
        _ => {
            problems.warning(&at, origin.span(node.span()), format!("has no effect: {why}"));
        }
    }
}

/// Warns where others can read the keys of the file, of which one is at `span`.
fn check_mode(name: &str, mode: u32, span: Span, problems: &mut Problems) {
    if mode & 0o044 != 0 {
        problems
            .warning(&KeyPath::ROOT, span, format!("the file holds keys and others can read it (mode {mode:o})"))
            .hint(format!("chmod 600 {name}, or keep keys outside: \"${{VARIABLE}}\", \"${{file:/path}}\""));
    }
}

/// The users of a file that is read in parts.
struct Users<'a> {
    text: &'a str,
    parts: slice::Iter<'a, Span>,
    env: &'a dyn Environment,
    secrets: Vec<Span>,
    inline_secret: Option<Span>,
    /// Lines that are not TOML.
    broken: Vec<Span>,
    /// Tables of one user stand in more than one part.
    scattered: bool,
    all_read: bool,
}

impl MoreUsers for Users<'_> {
    fn count(&self) -> usize {
        self.parts.len()
    }

    fn next(&mut self, problems: &mut Problems) -> Option<Entry<RawUser>> {
        loop {
            let part = self.parts.next()?.clone();
            if let Some(user) = self.read_plain(part.clone()).or_else(|| self.read_tree(part, problems)) {
                return Some(user);
            }
            if self.scattered {
                return None;
            }
        }
    }

    fn all_read(&self) -> bool {
        self.all_read
    }
}

impl Users<'_> {
    fn read_plain(&mut self, part: Span) -> Option<Entry<RawUser>> {
        let user = plain::user(&self.text[part.clone()], part.start)?;
        let (mut unused, origin) = (Problems::default(), Origin::at(part.start));
        let mut cx = self.decoder(&mut unused, &origin);
        let value = decode::read_plain_table(&user.pairs, &mut cx);
        (self.secrets, self.inline_secret) = (cx.secrets, cx.inline_secret);
        Some(Entry { key: user.name.to_owned(), key_span: user.name_span, value: value?, span: user.span })
    }

    fn read_tree(&mut self, part: Span, problems: &mut Problems) -> Option<Entry<RawUser>> {
        let origin = Origin::at(part.start);
        let (tree, broken) = source::parse(&self.text[part], &origin, problems);
        let mut found = Problems::default();
        let mut cx = self.decoder(&mut found, &origin);
        let users = tree.get_ref().get("users");
        let users = users.and_then(|users| Map::decode(users, &KeyPath::ROOT.key("users"), Bounds::ANY, &mut cx));
        (self.secrets, self.inline_secret) = (cx.secrets, cx.inline_secret);
        found.drop_within(&broken);
        self.all_read &= broken.is_empty() && !found.has_failed();
        self.broken.extend(broken);
        problems.append(found);
        let user = users.and_then(|users: Map<RawUser>| users.0.into_iter().next())?;
        // Without a header of its own it is made by the tables below it, and its own may stand elsewhere.
        self.scattered = !self.text[user.span.clone()].starts_with('[');
        (!self.scattered).then_some(user)
    }

    fn decoder<'b>(&'b mut self, problems: &'b mut Problems, origin: &'b Origin) -> Decoder<'b> {
        let mut cx = Decoder::new(problems, self.env, origin);
        cx.secrets = std::mem::take(&mut self.secrets);
        cx.inline_secret = self.inline_secret.take();
        cx
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ProcessEnvironment;

    const REST: &str = "[server]\nmax_connections = 9\n";
    const TAIL: &str = "[providers.demo]\nbackend_type = \"demo\"\n[models.m]\nname = \"m\"\n\
                        [[models.m.backends]]\nprovider = \"demo\"\nmodel = \"demo-chat\"\n";

    fn both(users: &str) -> [Result<Loaded, LoadError>; 2] {
        let text = [REST, users, TAIL].concat();
        let read = |few| load_in_parts("x.toml", &text, Some(0o644), &ProcessEnvironment, few);
        [read(usize::MAX >> 8), read(0)]
    }

    /// What a reading comes to: what is said, and each user.
    fn told(read: &Result<Loaded, LoadError>) -> String {
        match read {
            Ok(loaded) => {
                let users: Vec<_> = loaded.snapshot.users.iter().collect();
                format!("{}\n{users:#?}", loaded.warnings)
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn users_are_the_same_whether_they_are_read_in_parts_or_as_a_whole() {
        for users in [
            "[users.a]\ntoken = \"0123456789abcdef-a\"\n[users.b]\r\ntoken = '0123456789abcdef-b' # it's b\r\n",
            "[users.a]\nname = \"A\"\ntoken = \"0123456789abcdef-a\"\ntags = [ \"admin\", 'x', ]\n\
             [users.a.rate_limit]\nrequests_per_minute = 5\n[users.a.budget]\nusd_total = 1.5\n",
            "[users.admin]\ntoken = \"0123456789abcdef-a\"\n",
            "[users.\"a.b\"]\ntoken = \"t\\u0041ken-0123456789\"\nenabled = false\n",
            "[users.a]\ntoken = \"short\"\nallowed_models = [\"m\", \"n\"]\n[users.a.model_rate_limits.m]\ntokens_per_day = 3\n",
            "[users.a]\ntoken = \"\"\"\n[users.b]\n\"\"\"\n[users.c]\ntoken = \"your-token-here\"\n",
            "[users.a]\ntokn = \"0123456789abcdef-a\"\n",
            "[users.a]\ntoken = 7\n[users.b]\ntoken = \"0123456789abcdef-b\"\nenabled = \"no\"\n",
            "[users.a]\ntoken = \"0123456789abcdef-a\"\n[users.a.rate_limit]\nrequests_per_minute = 0\nrequests_per_day = -1\n",
            "[users.a]\ntoken = \"0123456789abcdef-a\"\n[users.b]\ntoken = \"0123456789abcdef-a\"\n",
            "[users.a]\ntoken = \"0123456789abcdef-a\"\ntoken = \"0123456789abcdef-b\"\n",
            "[users.a]\ntoken = \"0123456789abcdef-a\n[users.b]\ntoken = \"0123456789abcdef-b\"\n",
            "[users.a]\n[users.b]\ntoken = \"${NO_SUCH_VARIABLE_HERE}\"\n",
            "[users.a.budget]\nusd_total = 1\n[users.b]\ntoken = \"0123456789abcdef-b\"\n[users.a]\ntoken = \"0123456789abcdef-a\"\n",
            "[users]\na = { token = \"0123456789abcdef-a\" }\n[users.b]\ntoken = \"0123456789abcdef-b\"\n",
            " [users.a]\n token = \"0123456789abcdef-a\"\n[users.b]\ntoken = \"0123456789abcdef-b\"\n",
        ] {
            let [whole, in_parts] = both(users);
            assert_eq!(told(&in_parts), told(&whole), "{users}");
        }
    }

    #[test]
    fn a_user_who_is_there_twice_is_refused_with_both_places() {
        let user = |id: &str| format!("[users.{id}]\ntoken = \"0123456789abcdef-{id}\"\n");
        let [_, in_parts] = both(&[user("a"), user("b"), user("a")].concat());
        let told = told(&in_parts);
        assert!(told.contains("users.a: this table is there twice") && told.contains("first used here"), "{told}");
    }

    #[test]
    fn another_user_is_a_change_and_a_moved_file_is_none() {
        let outline = |users: &str| both(users)[1].as_ref().unwrap().outline.clone();
        let user = |id: &str| format!("[users.{id}]\ntoken = \"0123456789abcdef-{id}\"\n");
        let (one, two) = (outline(&user("a")), outline(&[user("a"), user("b")].concat()));
        assert_eq!(one.diff(&two).changes.len(), 1);
        assert_eq!(two.tree()["users"], "[2 entries]");
        assert!(one.diff(&one.clone()).changes.is_empty());
    }

    proptest::proptest! {
        #[test]
        fn what_is_read_plainly_is_what_the_parser_reads(
            lines in proptest::collection::vec("(name|tags|enabled|x) ?= ?([\"']?[a-z0-9.,#\\[\\]{}= \\\\\"']{0,8}[\"']?|true|\\[\"a\", ?'b'\\])( #[ -~]{0,5})?", 0..4),
        ) {
            let users = format!("[users.a]\ntoken = '0123456789abcdef-a'\n{}\n", lines.join("\n"));
            let [whole, in_parts] = both(&users);
            // A file that does not parse may be told apart at other places; it is refused either way.
            match (&whole, &in_parts) {
                (Err(_), Err(_)) => {}
                _ => proptest::prop_assert_eq!(told(&in_parts), told(&whole)),
            }
        }
    }
}
