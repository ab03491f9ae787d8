//! Reads the tree of a parsed file into the raw tables, and reports everything that does not fit on the way.
//!
//! A table is declared once, with [`table!`]: every key has its words, type, default and bounds there. The declaration makes
//! the struct, the reader that fills it, and the schema from which the documentation is written. Nothing stops at the first
//! problem: a value that cannot be used counts as absent and reading goes on.

use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::compile::is_example_secret;
use super::interpolate::{Environment, ProcessEnvironment, interpolate, is_one_reference};
use super::mask;
use super::path::KeyPath;
use super::plain::{Pair, Plain};
use super::problem::{Draft, Problems, Span, closest};
use super::schema::{Bounds, Kind, TableSchema};
use super::source::Origin;
use crate::secret::Secret;

/// A value of the tree with its place in the file.
pub(crate) type Node<'i> = Spanned<DeValue<'i>>;

/// A value that was read, and where; `span` is `None` for a default.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Option<Span>,
}

/// What is carried through the reading of one file.
pub(crate) struct Decoder<'a> {
    pub(crate) problems: &'a mut Problems,
    pub(crate) env: &'a dyn Environment,
    /// Where what is read stands in the file.
    pub(crate) origin: &'a Origin,
    /// Inside a table with `enabled = false`, where a missing variable is nobody's problem.
    pub(crate) dormant: bool,
    /// Places that must not be shown.
    pub(crate) secrets: Vec<Span>,
    /// A key or token that the file itself holds, and that is more than an example.
    pub(crate) inline_secret: Option<Span>,
}

/// What a key's value can be read as.
pub(crate) trait Decode: Sized {
    /// Its shape, for the documentation.
    fn kind() -> Kind;

    /// Reads it. `None` when it does not fit, which has been reported then.
    fn decode(node: &Node<'_>, at: &KeyPath<'_>, bounds: Bounds, cx: &mut Decoder<'_>) -> Option<Self>;

    /// Reads it where it is written plainly, as in tables of which there are very many. `None` for everything that is not of
    /// the expected form or within bounds, has references, or must be hidden: that is read again with
    /// [`decode`](Self::decode), which has the words for it.
    fn plain(_: &Pair<'_>, _: Bounds, _: &mut Decoder<'_>) -> Option<Self> {
        None
    }

    /// As TOML writes it, for types that have defaults.
    fn to_toml(&self) -> String {
        String::new()
    }
}

/// A table that [`table!`] has declared.
pub(crate) trait Table: Sized {
    const SCHEMA: TableSchema;

    fn read(fields: &mut Fields<'_, '_, '_>) -> Self;
}

/// Declares raw tables: for each key its words, whether it is `optional`, `required` or has a `default`, its type, and bounds.
///
/// `required` is for the documentation: whether a missing key is an error depends on what is switched on, so compiling decides.
macro_rules! table {
    ($(
        $(#[doc = $doc:literal])*
        struct $name:ident {
            $(
                $(#[doc = $key_doc:literal])*
                $key:ident: $presence:ident<$ty:ty> $(= $default:expr)? $(, $bounds:expr)?;
            )*
        }
    )*) => {$(
        $(#[doc = $doc])*
        #[derive(Debug)]
        pub(crate) struct $name {
            $($(#[doc = $key_doc])* pub(crate) $key: table!(@type $presence $ty),)*
        }

        impl Table for $name {
            const SCHEMA: TableSchema = TableSchema {
                doc: &[$($doc),*],
                keys: &[$(KeySchema {
                    name: bare_name(stringify!($key)),
                    doc: &[$($key_doc),*],
                    kind: <$ty as Decode>::kind,
                    required: table!(@required $presence),
                    default: table!(@default $ty $(, $default)?),
                    bounds: table!(@bounds $($bounds)?),
                }),*],
            };

            fn read(fields: &mut Fields<'_, '_, '_>) -> Self {
                Self {
                    $($key: table!(
                        @read fields, bare_name(stringify!($key)), table!(@bounds $($bounds)?), $presence $(, $default)?
                    ),)*
                }
            }
        }
    )*};
    (@type default $ty:ty) => { At<$ty> };
    (@type $presence:ident $ty:ty) => { Option<At<$ty>> };
    (@required required) => { true };
    (@required $presence:ident) => { false };
    (@default $ty:ty) => { None };
    (@default $ty:ty, $default:expr) => { Some(|| <$ty as Decode>::to_toml(&$default)) };
    (@bounds) => { Bounds::ANY };
    (@bounds $bounds:expr) => { $bounds };
    (@read $fields:ident, $name:expr, $bounds:expr, default, $default:expr) => {
        $fields.optional($name, $bounds).unwrap_or(At { value: $default, span: None })
    };
    (@read $fields:ident, $name:expr, $bounds:expr, $presence:ident) => { $fields.optional($name, $bounds) };
}
pub(crate) use table;

/// The name of a key whose field had to be written as a raw identifier.
pub(crate) const fn bare_name(name: &'static str) -> &'static str {
    match name.as_bytes() {
        [b'r', b'#', ..] => name.split_at(2).1,
        _ => name,
    }
}

/// The fields of one table while it is read.
pub(crate) struct Fields<'t, 'i, 'd> {
    source: Source<'t, 'i>,
    at: &'t KeyPath<'t>,
    /// A plain value did not fit; the tree will tell why.
    odd: bool,
    cx: &'t mut Decoder<'d>,
}

/// What the fields are read from.
enum Source<'t, 'i> {
    Tree(&'t DeTable<'i>),
    Plain(&'t [Pair<'i>]),
}

impl Fields<'_, '_, '_> {
    /// The value of a key, if it is there and fits.
    pub(crate) fn optional<T: Decode>(&mut self, name: &'static str, bounds: Bounds) -> Option<At<T>> {
        match self.source {
            Source::Tree(table) => {
                let node = table.get(name)?;
                let value = T::decode(node, &self.at.key(name), bounds, self.cx)?;
                Some(At { value, span: Some(self.cx.span(node)) })
            }
            Source::Plain(pairs) => {
                let pair = pairs.iter().find(|pair| pair.key == name)?;
                let value = T::plain(pair, bounds, self.cx);
                self.odd |= value.is_none();
                Some(At { value: value?, span: Some(pair.span.clone()) })
            }
        }
    }
}

impl<T: Table> Decode for T {
    fn kind() -> Kind {
        Kind::Table(&T::SCHEMA)
    }

    fn decode(node: &Node<'_>, at: &KeyPath<'_>, _: Bounds, cx: &mut Decoder<'_>) -> Option<Self> {
        let DeValue::Table(table) = node.get_ref() else {
            // A token may stand where its table was meant.
            cx.hide(node);
            cx.expected("a table", node, at);
            return None;
        };
        Some(read_table(table, at, cx))
    }

    fn plain(pair: &Pair<'_>, _: Bounds, cx: &mut Decoder<'_>) -> Option<Self> {
        let Plain::Table(pairs) = &pair.value else { return None };
        read_plain_table(pairs, cx)
    }
}

/// A table as if the file had it without any key.
pub(crate) fn defaults<T: Table>() -> T {
    let (mut problems, origin) = (Problems::default(), Origin::default());
    let mut cx = Decoder::new(&mut problems, &ProcessEnvironment, &origin);
    T::read(&mut Fields { source: Source::Tree(&DeTable::new()), at: &KeyPath::ROOT, odd: false, cx: &mut cx })
}

/// Reads a table: its keys, then what it has beside them.
pub(crate) fn read_table<T: Table>(table: &DeTable<'_>, at: &KeyPath<'_>, cx: &mut Decoder<'_>) -> T {
    let dormant = cx.dormant;
    cx.dormant |= is_switched_off(table);
    let value = T::read(&mut Fields { source: Source::Tree(table), at, odd: false, cx });
    cx.dormant = dormant;
    for (key, node) in table {
        if !T::SCHEMA.keys.iter().any(|known| known.name == key.get_ref().as_ref()) {
            cx.unknown_key(key, node, at, &T::SCHEMA);
        }
    }
    value
}

/// Whether a table says `enabled = false`.
pub(crate) fn is_switched_off(table: &DeTable<'_>) -> bool {
    table.get("enabled").is_some_and(|node| matches!(node.get_ref(), DeValue::Boolean(false)))
}

/// Reads a table that is written plainly; `None` where the tree is needed, see [`Decode::plain`].
pub(crate) fn read_plain_table<T: Table>(pairs: &[Pair<'_>], cx: &mut Decoder<'_>) -> Option<T> {
    let known = |pair: &Pair<'_>| T::SCHEMA.keys.iter().any(|known| known.name == pair.key);
    let mut fields = Fields { source: Source::Plain(pairs), at: &KeyPath::ROOT, odd: false, cx };
    let value = T::read(&mut fields);
    (!fields.odd && pairs.iter().all(known)).then_some(value)
}

impl<'a> Decoder<'a> {
    /// For one reading.
    pub(crate) fn new(problems: &'a mut Problems, env: &'a dyn Environment, origin: &'a Origin) -> Self {
        Self { problems, env, origin, dormant: false, secrets: Vec::new(), inline_secret: None }
    }

    /// Where a node is in the file.
    pub(crate) fn span<T>(&self, node: &Spanned<T>) -> Span {
        self.origin.span(node.span())
    }

    /// Reports a value of the wrong type.
    pub(crate) fn expected(&mut self, what: &str, node: &Node<'_>, at: &KeyPath<'_>) -> &mut Draft {
        let found = match node.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        let problem = self.problems.error(at, self.span(node), format!("expected {what}, found {found}"));
        match (what, node.get_ref()) {
            ("a string", DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_)) => {
                problem.hint("put it in quotes")
            }
            ("a number" | "a whole number", DeValue::String(_)) => {
                problem.hint("write the number alone: no quotes and no unit")
            }
            ("true or false", DeValue::String(_)) => problem.hint("write it without quotes"),
            ("a list", DeValue::String(_)) => problem.hint("put it in brackets: [\"…\"]"),
            _ => problem,
        }
    }

    fn unknown_key(
        &mut self,
        key: &Spanned<toml::de::DeString<'_>>,
        node: &Node<'_>,
        at: &KeyPath<'_>,
        schema: &TableSchema,
    ) {
        // Whatever it is, it may have been meant as a key or token.
        self.hide_strings(node);
        let name = key.get_ref().as_ref();
        let known = schema.keys.iter().map(|known| known.name);
        let hint = match closest(name, known.clone()) {
            Some(close) => {
                self.problems.mark_failed(&at.key(close));
                format!("did you mean {close:?}?")
            }
            None => match super::schema::tables_with(name) {
                Some(tables) => format!("{name:?} is a key of {tables}"),
                None => format!("keys here: {}", known.collect::<Vec<_>>().join(", ")),
            },
        };
        self.problems.error(&at.key(name), self.span(key), "unknown key").hint(hint);
    }

    /// Makes sure that a value is never shown: it, or every string below it.
    pub(crate) fn hide(&mut self, node: &Node<'_>) {
        match node.get_ref() {
            DeValue::Table(_) | DeValue::Array(_) => self.hide_strings(node),
            _ => self.secrets.push(self.span(node)),
        }
    }

    /// Makes sure that a secret is never shown; one reference and nothing else is none.
    fn hide_secret(&mut self, node: &Node<'_>) {
        if !matches!(node.get_ref(), DeValue::String(text) if is_one_reference(text)) {
            self.hide(node);
        }
    }

    /// Remembers the first key or token that the file itself holds.
    fn note_inline(&mut self, text: &str, span: Span) {
        if self.inline_secret.is_none() && !text.is_empty() && !is_example_secret(text) {
            self.inline_secret = Some(span);
        }
    }

    fn hide_strings(&mut self, node: &Node<'_>) {
        match node.get_ref() {
            DeValue::Table(table) => table.iter().for_each(|(_, value)| self.hide_strings(value)),
            DeValue::Array(items) => items.iter().for_each(|item| self.hide_strings(item)),
            DeValue::String(_) => self.secrets.push(self.span(node)),
            _ => {}
        }
    }

    /// A string with its references filled in.
    fn text(&mut self, node: &Node<'_>, at: &KeyPath<'_>) -> Option<Text> {
        let DeValue::String(text) = node.get_ref() else {
            self.expected("a string", node, at);
            return None;
        };
        if mask::has_url_credentials(text) {
            self.hide(node);
        }
        match interpolate(text, self.env) {
            Ok(None) => Some(Text::literal(text)),
            Ok(Some(value)) => Some(Text { value, template: Some(text.as_ref().into()) }),
            Err(failure) if failure.is_missing() && self.dormant => None,
            Err(failure) => {
                self.problems.error(at, self.span(node), failure.to_string()).hint(failure.hint());
                None
            }
        }
    }

    fn check_bounds(&mut self, value: f64, node: &Node<'_>, at: &KeyPath<'_>, bounds: Bounds) -> Option<()> {
        if bounds.contains(value) {
            return Some(());
        }
        self.problems.error(at, self.span(node), format!("must be {bounds}"));
        None
    }
}

/// A table that most of its kind do not have; kept behind a pointer, since there may be a million of them.
#[derive(Debug)]
pub(crate) struct Rare<T>(pub(crate) Box<T>);

impl<T: Decode> Decode for Rare<T> {
    fn kind() -> Kind {
        T::kind()
    }

    fn decode(node: &Node<'_>, at: &KeyPath<'_>, bounds: Bounds, cx: &mut Decoder<'_>) -> Option<Self> {
        T::decode(node, at, bounds, cx).map(|table| Self(Box::new(table)))
    }

    fn plain(pair: &Pair<'_>, bounds: Bounds, cx: &mut Decoder<'_>) -> Option<Self> {
        T::plain(pair, bounds, cx).map(|table| Self(Box::new(table)))
    }
}

/// A string of the file, completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Text {
    pub(crate) value: String,
    /// As it was written, when something was put in: that may be shown, the value may not.
    template: Option<Box<str>>,
}

impl Text {
    /// A string that was written in full.
    pub(crate) fn literal(text: &str) -> Self {
        Self { value: text.to_owned(), template: None }
    }

    /// As it may be shown: what came from a variable or a file may be secret.
    pub(crate) fn shown(&self) -> String {
        match &self.template {
            None => format!("{:?}", self.value),
            Some(template) => format!("the value of {template:?}"),
        }
    }
}

impl Decode for Text {
    fn kind() -> Kind {
        Kind::Leaf("text".to_owned())
    }

    fn decode(node: &Node<'_>, at: &KeyPath<'_>, _: Bounds, cx: &mut Decoder<'_>) -> Option<Self> {
        cx.text(node, at)
    }

    fn plain(pair: &Pair<'_>, _: Bounds, _: &mut Decoder<'_>) -> Option<Self> {
        pair.text().map(Self::literal)
    }

    fn to_toml(&self) -> String {
        format!("{:?}", self.value)
    }
}

/// A string that must never be shown.
#[derive(Clone, Debug)]
pub(crate) struct SecretText(pub(crate) Secret);

impl Decode for SecretText {
    fn kind() -> Kind {
        Kind::Leaf("text, secret".to_owned())
    }

    fn decode(node: &Node<'_>, at: &KeyPath<'_>, _: Bounds, cx: &mut Decoder<'_>) -> Option<Self> {
        cx.hide_secret(node);
        let text = cx.text(node, at)?;
        match &text.template {
            None => cx.note_inline(&text.value, cx.span(node)),
            // An empty default was asked for.
            Some(template) if text.value.is_empty() && !template.contains(":-") && !cx.dormant => {
                cx.problems
                    .warning(at, cx.span(node), "is empty: the variable or file is there and holds nothing")
                    .hint("give it a value, or say with ${NAME:-} that it may be empty");
            }
            Some(_) => {}
        }
        Some(Self(Secret::new(text.value)))
    }

    fn plain(pair: &Pair<'_>, _: Bounds, cx: &mut Decoder<'_>) -> Option<Self> {
        let text = pair.text()?;
        cx.secrets.push(pair.span.clone());
        cx.note_inline(text, pair.span.clone());
        Some(Self(Secret::from(text)))
    }
}

/// A string that is not shown but is rarely a key: the value of a header.
#[derive(Clone, Debug)]
pub(crate) struct HiddenText(pub(crate) Secret);

impl Decode for HiddenText {
    fn kind() -> Kind {
        SecretText::kind()
    }

    fn decode(node: &Node<'_>, at: &KeyPath<'_>, _: Bounds, cx: &mut Decoder<'_>) -> Option<Self> {
        cx.hide_secret(node);
        let text = cx.text(node, at)?;
        Some(Self(Secret::new(text.value)))
    }
}

impl Decode for PathBuf {
    fn kind() -> Kind {
        Kind::Leaf("path".to_owned())
    }

    fn decode(node: &Node<'_>, at: &KeyPath<'_>, _: Bounds, cx: &mut Decoder<'_>) -> Option<Self> {
        let text = cx.text(node, at)?;
        if text.value.is_empty() {
            cx.problems.error(at, cx.span(node), "must not be empty").hint("leave the key out");
            return None;
        }
        Some(text.value.into())
    }
}

impl Decode for bool {
    fn kind() -> Kind {
        Kind::Leaf("true or false".to_owned())
    }

    fn decode(node: &Node<'_>, at: &KeyPath<'_>, _: Bounds, cx: &mut Decoder<'_>) -> Option<Self> {
        if let DeValue::Boolean(value) = node.get_ref() {
            return Some(*value);
        }
        cx.expected("true or false", node, at);
        None
    }

    fn plain(pair: &Pair<'_>, _: Bounds, _: &mut Decoder<'_>) -> Option<Self> {
        match pair.value {
            Plain::Flag(value) => Some(value),
            _ => None,
        }
    }

    fn to_toml(&self) -> String {
        self.to_string()
    }
}

/// A number of the file, whole or not.
fn number(node: &Node<'_>) -> Option<f64> {
    match node.get_ref() {
        DeValue::Integer(n) => i128::from_str_radix(n.as_str(), n.radix()).ok().map(|n| n as f64),
        DeValue::Float(n) => n.as_str().parse().ok(),
        _ => None,
    }
}

impl Decode for f64 {
    fn kind() -> Kind {
        Kind::Leaf("number".to_owned())
    }

    fn decode(node: &Node<'_>, at: &KeyPath<'_>, bounds: Bounds, cx: &mut Decoder<'_>) -> Option<Self> {
        let Some(value) = number(node) else {
            cx.expected("a number", node, at);
            return None;
        };
        if !value.is_finite() {
            cx.problems.error(at, cx.span(node), "must be a finite number");
            return None;
        }
        cx.check_bounds(value, node, at, bounds)?;
        Some(value)
    }

    fn plain(pair: &Pair<'_>, bounds: Bounds, _: &mut Decoder<'_>) -> Option<Self> {
        let Plain::Number(text) = pair.value else { return None };
        text.parse().ok().filter(|value| bounds.contains(*value))
    }

    fn to_toml(&self) -> String {
        format!("{self:?}")
    }
}

macro_rules! whole_numbers {
    ($($ty:ty),*) => {$(
        impl Decode for $ty {
            fn kind() -> Kind {
                Kind::Leaf("whole number".to_owned())
            }

            fn decode(node: &Node<'_>, at: &KeyPath<'_>, bounds: Bounds, cx: &mut Decoder<'_>) -> Option<Self> {
                let DeValue::Integer(n) = node.get_ref() else {
                    cx.expected("a whole number", node, at);
                    return None;
                };
                let value = i128::from_str_radix(n.as_str(), n.radix()).ok();
                // Beyond i128 it is also beyond every bound.
                cx.check_bounds(value.map_or(f64::INFINITY, |n| n as f64), node, at, bounds)?;
                let fits = value.and_then(|n| Self::try_from(n).ok());
                if fits.is_none() {
                    cx.problems.error(at, cx.span(node), format!("must be 0 to {}", Self::MAX));
                }
                fits
            }

            fn plain(pair: &Pair<'_>, bounds: Bounds, _: &mut Decoder<'_>) -> Option<Self> {
                let Plain::Number(text) = pair.value else { return None };
                text.parse().ok().filter(|value| bounds.contains(*value as f64))
            }

            fn to_toml(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

whole_numbers!(u32, u64, usize);

/// Longest time that a key may say: a year, so that sums of times cannot overflow.
const LONGEST: f64 = 366.0 * 86_400.0;

/// A time in seconds; fractions are allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Seconds(pub(crate) f64);

impl Seconds {
    pub(crate) fn duration(self) -> Duration {
        Duration::from_secs_f64(self.0)
    }
}

impl Decode for Seconds {
    fn kind() -> Kind {
        Kind::Leaf("seconds".to_owned())
    }

    fn decode(node: &Node<'_>, at: &KeyPath<'_>, bounds: Bounds, cx: &mut Decoder<'_>) -> Option<Self> {
        let value = f64::decode(node, at, bounds, cx)?;
        cx.check_bounds(value, node, at, Bounds::between(0.0, LONGEST))?;
        Some(Self(value))
    }

    fn to_toml(&self) -> String {
        self.0.to_string()
    }
}

/// A time in whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Millis(pub(crate) u64);

impl Millis {
    pub(crate) fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl Decode for Millis {
    fn kind() -> Kind {
        Kind::Leaf("milliseconds".to_owned())
    }

    fn decode(node: &Node<'_>, at: &KeyPath<'_>, bounds: Bounds, cx: &mut Decoder<'_>) -> Option<Self> {
        let value = u64::decode(node, at, bounds, cx)?;
        cx.check_bounds(value as f64, node, at, Bounds::between(0.0, LONGEST * 1000.0))?;
        Some(Self(value))
    }

    fn to_toml(&self) -> String {
        self.0.to_string()
    }
}

/// A list, each element with its place.
impl<T: Decode> Decode for Vec<At<T>> {
    fn kind() -> Kind {
        match T::kind() {
            Kind::Table(schema) => Kind::Tables(schema),
            Kind::Leaf(name) => Kind::Leaf(format!("list of {name}")),
            other => other,
        }
    }

    fn decode(node: &Node<'_>, at: &KeyPath<'_>, bounds: Bounds, cx: &mut Decoder<'_>) -> Option<Self> {
        let DeValue::Array(items) = node.get_ref() else {
            match (T::kind(), node.get_ref()) {
                (Kind::Table(_), DeValue::Table(_)) => {
                    cx.hide(node);
                    cx.problems
                        .error(at, cx.span(node), "expected a list of tables, found one table")
                        .hint(format!("write [[{at}]] with two brackets, once for each"));
                }
                (Kind::Table(_), _) => {
                    cx.expected("a list of tables", node, at).hint(format!("write [[{at}]], once for each"));
                }
                _ => {
                    cx.expected("a list", node, at);
                }
            }
            return None;
        };
        let mut list = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let value = T::decode(item, &at.index(index), bounds, cx);
            list.extend(value.map(|value| At { value, span: Some(cx.span(item)) }));
        }
        Some(list)
    }

    fn plain(pair: &Pair<'_>, bounds: Bounds, cx: &mut Decoder<'_>) -> Option<Self> {
        let Plain::List(items) = &pair.value else { return None };
        let item = |item: &Pair<'_>| Some(At { value: T::plain(item, bounds, cx)?, span: Some(item.span.clone()) });
        items.iter().map(item).collect()
    }

    fn to_toml(&self) -> String {
        let items: Vec<String> = self.iter().map(|item| item.value.to_toml()).collect();
        format!("[{}]", items.join(", "))
    }
}

/// Named things, in the order of the file: `[users.NAME]`.
#[derive(Clone, Debug)]
pub(crate) struct Map<T>(pub(crate) Vec<Entry<T>>);

/// One of a [`Map`].
#[derive(Clone, Debug)]
pub(crate) struct Entry<T> {
    pub(crate) key: String,
    /// Where the key is.
    pub(crate) key_span: Span,
    pub(crate) value: T,
    /// Where the value, or the header of the table, is.
    pub(crate) span: Span,
}

impl<T: Decode> Decode for Map<T> {
    fn kind() -> Kind {
        match T::kind() {
            Kind::Table(schema) => Kind::Map(schema),
            Kind::Leaf(name) => Kind::Leaf(format!("table of {name}")),
            other => other,
        }
    }

    fn decode(node: &Node<'_>, at: &KeyPath<'_>, bounds: Bounds, cx: &mut Decoder<'_>) -> Option<Self> {
        let DeValue::Table(table) = node.get_ref() else {
            cx.hide(node);
            cx.expected("a table", node, at).hint(format!("write [{at}.NAME], with a name of your choice"));
            return None;
        };
        let mut entries = Vec::with_capacity(table.len());
        for (key, node) in table {
            let name = key.get_ref().as_ref();
            if let Some(value) = T::decode(node, &at.key(name), bounds, cx) {
                entries.push(Entry { key: name.to_owned(), key_span: cx.span(key), value, span: cx.span(node) });
            }
        }
        Some(Self(entries))
    }

    fn to_toml(&self) -> String {
        "{}".to_owned()
    }
}

/// One of a closed set of names.
pub(crate) trait Choice: Copy + PartialEq + 'static {
    /// Every name, the preferred one of each value first.
    const NAMES: &'static [(&'static str, Self)];
}

/// A [`Choice`] as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OneOf<T>(pub(crate) T);

impl<T: Choice> Decode for OneOf<T> {
    fn kind() -> Kind {
        Kind::Leaf(names(T::NAMES))
    }

    fn decode(node: &Node<'_>, at: &KeyPath<'_>, _: Bounds, cx: &mut Decoder<'_>) -> Option<Self> {
        let text = cx.text(node, at)?;
        if let Some((_, value)) = T::NAMES.iter().find(|(name, _)| *name == text.value) {
            return Some(Self(*value));
        }
        let message = format!("{} is not one of {}", text.shown(), names(T::NAMES));
        let problem = cx.problems.error(at, cx.span(node), message);
        if let Some(close) = closest(&text.value, T::NAMES.iter().map(|(name, _)| *name)) {
            problem.hint(format!("did you mean {close:?}?"));
        }
        None
    }

    fn to_toml(&self) -> String {
        let name = T::NAMES.iter().find(|(_, value)| *value == self.0).map_or("", |(name, _)| name);
        format!("{name:?}")
    }
}

fn names<T>(choices: &[(&'static str, T)]) -> String {
    let quoted: Vec<String> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
    quoted.join(", ")
}
