//! JSON as it is written: pieces that pass from one dialect to another without being read.
//!
//! Every dialect is JSON, so a text that is a string in one is a string in the next: it is carried with its escapes, as a slice of
//! the body that it came in. The same holds for schemas, arguments and base64. Nothing is printed anew, so numbers keep their
//! spelling, and what was equal stays equal.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use super::Malformed;
use crate::body::Chunks;
use crate::json::{self, Kind, Named, Outline, Place, Raw};

/// Pieces from this size on are passed on as they lie; shorter ones are copied.
const PIECE_BYTES_MIN: usize = 16 * 1024;
/// Room that a writer begins with, bytes: enough for a short answer, and for what stands around a long prompt.
const ROOM_BYTES: usize = 2 * 1024;

/// Digits of the longest number that is written.
const DIGITS_MAX: usize = 20;

/// The elements of a list; most have few.
pub type Elements = SmallVec<[Json; 2]>;

/// A JSON value as it is written. Always one whole, valid value.
#[derive(Clone)]
pub struct Json {
    text: Bytes,
    /// Where it stands in what it was read with, so that it need not be read again; nothing for what was written here.
    place: Option<(Arc<Outline>, Place)>,
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Json {}

impl Json {
    /// Checks a body.
    ///
    /// # Errors
    /// [`Malformed`] when it is not one JSON value in UTF-8.
    pub fn read(body: &Bytes) -> Result<Self, Malformed> {
        std::str::from_utf8(body).map_err(|_| Malformed::new("", "the body is not UTF-8"))?;
        let outline = Outline::read(body).ok_or_else(|| Malformed::new("", "the body is not valid JSON"))?;
        Ok(Object { start: 0, text: body.clone(), outline: Arc::new(outline) }.value(Place::TOP))
    }

    /// A value that is written here.
    pub fn fixed(text: &'static str) -> Self {
        Self::of_text(Bytes::from_static(text.as_bytes()))
    }

    /// What a writer of ours has written.
    pub fn written(writer: Writer) -> Self {
        Self::of_text(writer.finish().into_bytes())
    }

    fn of_text(text: Bytes) -> Self {
        Self { text, place: None }
    }

    /// The bytes.
    pub fn raw(&self) -> &Bytes {
        &self.text
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        Raw(&self.text).kind()
    }

    /// Whether it is `null`, or a string, list or object with nothing in it.
    pub fn is_nothing(&self) -> bool {
        Raw(&self.text).is_nothing()
    }

    /// The text, when it is a string.
    pub fn text(&self) -> Option<Text> {
        Raw(&self.text).text().map(|text| Text(self.text.slice_ref(text)))
    }

    /// The text read, when it is a string.
    pub fn string(&self) -> Option<String> {
        Raw(&self.text).text().map(|text| read_text(text).into_owned())
    }

    /// The number, when it is one without sign and fraction. `3.0` counts as 3.
    pub fn integer(&self) -> Option<u64> {
        let text = std::str::from_utf8(&self.text).ok()?;
        text.parse().ok().or_else(|| {
            let number = self.number()?;
            (number >= 0.0 && number.fract() == 0.0 && number < 9e15).then_some(number as u64)
        })
    }

    /// The number, when it is one.
    pub fn number(&self) -> Option<f64> {
        if self.kind() != Kind::Number {
            return None;
        }
        std::str::from_utf8(&self.text).ok()?.parse().ok()
    }

    /// The truth value, when it is one.
    pub fn boolean(&self) -> Option<bool> {
        match &self.text[..] {
            b"true" => Some(true),
            b"false" => Some(false),
            _ => None,
        }
    }

    /// The elements of a list; none of anything else.
    pub fn elements(&self) -> Elements {
        match self.opened(Kind::Array) {
            Some((list, place)) => list.outline.elements(place).map(|element| list.value(element)).collect(),
            None => Elements::new(),
        }
    }

    /// The members of an object, or nothing of anything else.
    pub fn fields(&self) -> Fields {
        let Some((object, place)) = self.opened(Kind::Object) else { return Fields::default() };
        let mut members = SmallVec::new();
        for named in object.outline.members(place) {
            members.push(Member { named, taken: false });
        }
        Fields { left: members.len(), members, object: Some(object) }
    }

    /// Itself as a place where others stand in, where it is of this kind.
    fn opened(&self, kind: Kind) -> Option<(Object, Place)> {
        if self.kind() != kind {
            return None;
        }
        let (outline, place) = match &self.place {
            Some((outline, place)) => (outline.clone(), *place),
            None => (Arc::new(Outline::read(&self.text)?), Place::TOP),
        };
        let start = outline.range(place).start;
        Some((Object { text: self.text.clone(), start, outline }, place))
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.text))
    }
}

/// What stands between the quotes of a JSON string, escapes and all. Joining two of them joins their texts.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Text(Bytes);

impl Text {
    /// Writes a text with the escapes it needs.
    pub fn write(text: &str) -> Self {
        let quoted = Bytes::from(json::quote(text));
        Self(quoted.slice(1..quoted.len() - 1))
    }

    /// What is written as it must be inside quotes already.
    pub(crate) fn of_raw(raw: Bytes) -> Self {
        Self(raw)
    }

    /// A text that needs no escapes.
    pub fn plain(text: &'static str) -> Self {
        debug_assert!(text.bytes().all(|byte| byte >= b' ' && !matches!(byte, b'"' | b'\\')));
        Self(Bytes::from_static(text.as_bytes()))
    }

    /// As it is written, without quotes.
    pub fn raw(&self) -> &Bytes {
        &self.0
    }

    /// The text with its escapes resolved. Half a surrogate pair becomes the replacement character.
    pub fn read(&self) -> Cow<'_, str> {
        read_text(&self.0)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there is nothing but white space in it.
    pub fn is_blank(&self) -> bool {
        match self.0.first() {
            None => true,
            Some(first) if !matches!(first, b' ' | b'\\') && *first < 0x80 => false,
            Some(_) => self.read().trim().is_empty(),
        }
    }

    /// This and then `other`.
    #[must_use]
    pub fn join(&self, other: &Self) -> Self {
        if other.is_empty() {
            return self.clone();
        }
        let mut joined = BytesMut::with_capacity(self.0.len() + other.0.len());
        joined.extend_from_slice(&self.0);
        joined.extend_from_slice(&other.0);
        Self(joined.freeze())
    }

    /// A part of it as it is written. The caller must not cut an escape.
    pub fn part(&self, range: std::ops::Range<usize>) -> Self {
        Self(self.0.slice(range))
    }

    /// The same bytes in memory of their own, so that what they were cut from is not kept alive.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }
}

/// What stands between quotes, its escapes resolved.
fn read_text(written: &[u8]) -> Cow<'_, str> {
    if !written.contains(&b'\\') {
        // Nearly always it is UTF-8, and this is told sooner than what is wrong.
        return std::str::from_utf8(written).map_or_else(|_| String::from_utf8_lossy(written), Cow::Borrowed);
    }
    let quoted = [b"\"", written, b"\""].concat();
    match json::unquote(&quoted) {
        Ok(text) => Cow::Owned(text),
        Err(_) => Cow::Owned(lossy(&quoted)),
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.read())
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::write(text)
    }
}

/// Resolves the escapes of a string that holds half a surrogate pair.
fn lossy(quoted: &[u8]) -> String {
    let mut mended = String::new();
    let inside = String::from_utf8_lossy(&quoted[1..quoted.len() - 1]);
    let mut rest = &inside[..];
    while let Some(at) = rest.find('\\') {
        mended.push_str(&rest[..at]);
        let escape =
            rest[at..].chars().nth(1).map_or(1, |letter| if letter == 'u' { 6 } else { 1 + letter.len_utf8() });
        let mut end = (at + escape).min(rest.len());
        let whole = |end: usize| json::unquote(format!("\"{}\"", &rest[at..end]).as_bytes());
        let read = whole(end).or_else(|error| match rest.get(end..end + 6) {
            Some(next) if next.starts_with("\\u") => whole(end + 6).inspect(|_| end += 6),
            _ => Err(error),
        });
        mended.push_str(read.as_deref().unwrap_or("\u{fffd}"));
        rest = &rest[end..];
    }
    mended.push_str(rest);
    mended
}

/// An object or a list whose insides are asked for.
#[derive(Clone, Debug)]
struct Object {
    text: Bytes,
    /// Where it begins in the text that was outlined.
    start: usize,
    outline: Arc<Outline>,
}

impl Object {
    /// A value that stands in it.
    fn value(&self, place: Place) -> Json {
        let text = self.text.slice(self.own(self.outline.range(place)));
        Json { text, place: Some((self.outline.clone(), place)) }
    }

    /// A value that stands in it, as it is written.
    fn written(&self, place: Place) -> &[u8] {
        &self.text[self.own(self.outline.range(place))]
    }

    /// The name of a member, without quotes.
    fn name(&self, member: Named) -> &[u8] {
        &self.text[self.own(member.name())]
    }

    fn own(&self, range: Range<usize>) -> Range<usize> {
        range.start - self.start..range.end - self.start
    }
}

/// Members of an object that are taken out one by one, so that what is left is what nobody knew. A repeated member counts as it
/// stands last.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    /// The object that they stand in: they are cut out of it when they are taken, and most never are.
    object: Option<Object>,
    members: SmallVec<[Member; 8]>,
    /// Members that were not taken.
    left: usize,
}

/// A member of an object.
#[derive(Clone, Debug)]
struct Member {
    named: Named,
    taken: bool,
}

impl Fields {
    /// Checks a body and gives its members, or nothing where it is no object.
    ///
    /// # Errors
    /// [`Malformed`] when it is not one JSON value in UTF-8.
    pub fn read(body: &Bytes) -> Result<Self, Malformed> {
        Json::read(body).map(|body| body.fields())
    }

    /// Takes a member; `null` is as good as absent.
    pub fn take(&mut self, name: &str) -> Option<Json> {
        self.take_any(name).filter(|value| value.kind() != Kind::Null)
    }

    /// Takes a member, `null` too.
    pub fn take_any(&mut self, name: &str) -> Option<Json> {
        let (object, place) = self.found(name)?;
        Some(object.value(place))
    }

    /// Takes a member that is a string.
    pub fn text(&mut self, name: &str) -> Option<Text> {
        let (object, place) = self.found(name)?;
        Raw(object.written(place)).text().map(|text| Text(object.text.slice_ref(text)))
    }

    /// Takes a member that is a string, and reads it.
    pub fn string(&mut self, name: &str) -> Option<String> {
        let (object, place) = self.found(name)?;
        Raw(object.written(place)).text().map(|text| read_text(text).into_owned())
    }

    /// Takes a member: where its value stands, in which object.
    fn found(&mut self, name: &str) -> Option<(&Object, Place)> {
        let object = self.object.as_ref().filter(|_| self.left > 0)?;
        let mut found = None;
        for member in &mut self.members {
            // Most names are told apart by their length; one with escapes is longer than what it says.
            if member.named.name().len() != name.len() && !member.named.is_escaped() {
                continue;
            }
            let written = object.name(member.named);
            if !member.taken && (written == name.as_bytes() || member.named.is_escaped() && read_text(written) == name)
            {
                member.taken = true;
                self.left -= 1;
                found = Some(member.named.value());
            }
        }
        Some((object, found?))
    }

    /// Takes a member that is an object, and gives its members; none where it is not there.
    pub fn object(&mut self, name: &str) -> Self {
        self.take(name).map(|value| value.fields()).unwrap_or_default()
    }

    /// Takes a member that is a list, and gives its elements.
    pub fn list(&mut self, name: &str) -> Elements {
        self.take(name).map(|value| value.elements()).unwrap_or_default()
    }

    /// What was not taken, in order; `null` left out.
    pub fn rest(self) -> impl Iterator<Item = (String, Json)> {
        let object = self.object;
        self.members.into_iter().filter(|member| !member.taken).filter_map(move |member| {
            let object = object.as_ref()?;
            let value = object.value(member.named.value());
            (value.kind() != Kind::Null).then(|| (read_text(object.name(member.named)).into_owned(), value))
        })
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }
}

/// Writes JSON, compact and in the order of the calls, so that the same calls give the same bytes. Long pieces are not copied, but
/// for [`Writer::append`].
#[derive(Debug, Default)]
pub struct Writer {
    done: Chunks,
    open: BytesMut,
    /// Whether a value stands before, so that a comma comes first.
    comma: bool,
    /// Whether long pieces are copied too.
    copies: bool,
}

impl Writer {
    /// An empty one.
    pub fn new() -> Self {
        Self { open: BytesMut::with_capacity(ROOM_BYTES), ..Self::default() }
    }

    /// Writes a value behind what is in `out`, all in one piece.
    pub fn append(out: &mut BytesMut, value: impl FnOnce(&mut Self)) {
        let mut writer = Self { open: std::mem::take(out), copies: true, ..Self::default() };
        value(&mut writer);
        *out = writer.open;
    }

    /// Writes an object; `members` writes what is in it.
    pub fn object(&mut self, members: impl FnOnce(&mut Self)) {
        self.wrapped(b'{', b'}', members);
    }

    /// Writes a list; `elements` writes what is in it.
    pub fn list(&mut self, elements: impl FnOnce(&mut Self)) {
        self.wrapped(b'[', b']', elements);
    }

    /// Writes an object that begins with the members of another one, given without its last brace.
    pub fn object_from(&mut self, begun: &[u8], members: impl FnOnce(&mut Self)) {
        self.separate();
        self.open.extend_from_slice(begun);
        self.comma = true;
        members(self);
        self.open.extend_from_slice(b"}");
    }

    fn wrapped(&mut self, open: u8, close: u8, inside: impl FnOnce(&mut Self)) {
        self.separate();
        self.open.extend_from_slice(&[open]);
        self.comma = false;
        inside(self);
        self.open.extend_from_slice(&[close]);
        self.comma = true;
    }

    /// Writes a key that needs no escapes; its value comes next.
    pub fn key(&mut self, key: &str) -> &mut Self {
        self.quoted(key, true);
        self.comma = false;
        self
    }

    /// Writes a key with the escapes it needs; its value comes next.
    pub fn quoted_key(&mut self, key: &str) -> &mut Self {
        self.string(key);
        self.open.extend_from_slice(b":");
        self.comma = false;
        self
    }

    /// Writes a string.
    pub fn text(&mut self, text: &Text) {
        self.texts(&[text]);
    }

    /// Writes several texts as one string.
    pub fn texts(&mut self, texts: &[&Text]) {
        self.separate();
        self.open.extend_from_slice(b"\"");
        for text in texts {
            self.bytes(&text.0);
        }
        self.open.extend_from_slice(b"\"");
        self.comma = true;
    }

    /// Writes a string with the escapes it needs.
    pub fn string(&mut self, text: &str) {
        if json::is_plain(text) {
            return self.quoted(text, false);
        }
        self.separate();
        self.open.extend_from_slice(&json::quote(text));
        self.comma = true;
    }

    /// Writes a string of ours that needs no escapes.
    pub fn word(&mut self, text: &'static str) {
        debug_assert!(json::is_plain(text));
        self.quoted(text, false);
    }

    /// Writes a text that needs no escapes, with a colon behind it where it is a key.
    fn quoted(&mut self, text: &str, is_key: bool) {
        let (start, comma) = (self.open.len(), usize::from(self.comma));
        // Quotes all over, and the rest in their midst: the buffer grows once.
        self.open.resize(start + comma + text.len() + 2 + usize::from(is_key), b'"');
        let room = &mut self.open[start..];
        if self.comma {
            room[0] = b',';
        }
        room[comma + 1..][..text.len()].copy_from_slice(text.as_bytes());
        if is_key {
            room[comma + 1 + text.len() + 1] = b':';
        }
        self.comma = true;
    }

    /// Writes a value as it is.
    pub fn json(&mut self, value: &Json) {
        self.separate();
        self.bytes(&value.text);
        self.comma = true;
    }

    /// Writes a value that another writer has written.
    pub fn chunks(&mut self, value: Chunks) {
        self.separate();
        value.iter().for_each(|piece| self.bytes(piece));
        self.comma = true;
    }

    /// Writes a number.
    pub fn integer(&mut self, number: u64) {
        let (mut digits, mut left, mut at) = ([0; DIGITS_MAX], number, DIGITS_MAX);
        while at == DIGITS_MAX || left > 0 {
            at -= 1;
            digits[at] = b'0' + (left % 10) as u8;
            left /= 10;
        }
        self.separate();
        self.open.extend_from_slice(&digits[at..]);
        self.comma = true;
    }

    /// Writes `true` or `false`.
    pub fn boolean(&mut self, value: bool) {
        self.literal(if value { "true" } else { "false" });
    }

    /// Writes a value that is JSON as it stands.
    pub fn literal(&mut self, text: &str) {
        self.separate();
        self.open.extend_from_slice(text.as_bytes());
        self.comma = true;
    }

    /// What was written.
    pub fn finish(mut self) -> Chunks {
        self.done.push(self.open.freeze());
        self.done
    }

    fn separate(&mut self) {
        if self.comma {
            self.open.extend_from_slice(b",");
        }
    }

    fn bytes(&mut self, bytes: &Bytes) {
        if self.copies || bytes.len() < PIECE_BYTES_MIN {
            self.open.extend_from_slice(bytes);
            return;
        }
        self.done.push(self.open.split().freeze());
        self.done.push(bytes.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Json {
        Json::read(&Bytes::copy_from_slice(text.as_bytes())).unwrap()
    }

    #[test]
    fn texts_pass_with_their_escapes_and_are_read_only_when_asked() {
        let text = json(r#""a\u00e9\"\ud83d\ude00""#).text().unwrap();
        assert_eq!(&text.raw()[..], br#"a\u00e9\"\ud83d\ude00"#);
        assert_eq!(text.read(), "aé\"😀");
        assert_eq!(Text::write("a\"\n").raw(), &r#"a\"\n"#);
        assert_eq!(text.join(&Text::plain("!")).read(), "aé\"😀!");
    }

    #[test]
    fn half_a_surrogate_pair_is_read_as_the_replacement_character() {
        for (written, read) in [
            (r#""\ud83d""#, "\u{fffd}"),
            (r#""x\ud83d y\n\ud83d\ude00\udc00""#, "x\u{fffd} y\n😀\u{fffd}"),
            (r#""\ud83d\u0041\\""#, "\u{fffd}A\\"),
        ] {
            assert_eq!(json(written).text().unwrap().read(), read, "{written}");
        }
    }

    #[test]
    fn what_is_not_taken_is_left_and_null_is_absent() {
        let mut fields = json(r#"{"a":1,"b":null,"\u0063":"x","d":[1,2],"a":2}"#).fields();
        assert_eq!(fields.take("a").unwrap().integer(), Some(2));
        assert_eq!(fields.take("b"), None);
        assert_eq!(fields.string("c").as_deref(), Some("x"));
        assert_eq!(fields.rest().map(|(name, _)| name).collect::<Vec<_>>(), ["d"]);
    }

    #[test]
    fn the_writer_puts_commas_where_they_belong_and_does_not_copy_long_pieces() {
        let long = json(&format!("\"{}\"", "x".repeat(PIECE_BYTES_MIN)));
        let mut writer = Writer::new();
        writer.object(|w| {
            w.key("a").integer(1);
            w.key("b").list(|w| {
                w.boolean(true);
                w.text(&Text::plain("t"));
                w.object(|_| {});
            });
            w.key("c").json(&long);
            w.key("d").string("\n");
        });
        let written = writer.finish();
        assert!(written.iter().any(|chunk| chunk.as_ptr() == long.raw().as_ptr()));
        let expected = format!(r#"{{"a":1,"b":[true,"t",{{}}],"c":{},"d":"\n"}}"#, String::from_utf8_lossy(long.raw()));
        assert_eq!(written.into_bytes(), expected);
    }

    #[test]
    fn numbers_are_read_in_any_spelling() {
        assert_eq!(json("3.0").integer(), Some(3));
        assert_eq!(json("-3").integer(), None);
        assert_eq!(json("1e3").integer(), Some(1000));
        assert_eq!(json("\"3\"").number(), None);
    }
}
