//! `multipart/form-data`, read only as far as the model's name; the rest streams through, watched.
//!
//! A file that comes after `model` is never held. What streams through is still looked at, because a second `model` field behind
//! a file could name a model that the user may not have. For the same reason nothing is read generously that another reader might
//! read otherwise: bare line feeds before a boundary, folded lines, two names, text behind the last boundary are refused.
//! Source: RFC 7578, RFC 2046 5.1.

use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use memchr::memmem;

use crate::body::{Chunks, Edit};
use crate::error::{BoxError, ForwardError};
use crate::upstream_body::{Arriving, Streaming, UpstreamBody};

/// Longest boundary (RFC 2046).
const BOUNDARY_BYTES_MAX: usize = 70;
/// Longest head of one part.
const PART_HEAD_BYTES_MAX: usize = 8 * 1024;
/// Longest value of a field that is looked at.
const FIELD_BYTES_MAX: usize = 1024;
/// Most parts.
const PARTS_MAX: usize = 1000;
/// How far a field that is no file may go on before what follows it is no longer waited for.
const HELD_FIELD_BYTES_MAX: usize = 64 * 1024;

/// Why a form cannot be served as it is. Each is the caller's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// The content type is no form, or its boundary is none.
    #[error("the content-type must be multipart/form-data with a boundary of 1 to {BOUNDARY_BYTES_MAX} characters")]
    Boundary,
    /// The bytes are not a form.
    #[error("the form is malformed: {0}")]
    Malformed(&'static str),
    /// A field that must be there at most once.
    #[error("the form field `{0}` stands in the form more than once; leave one")]
    Repeated(&'static str),
    /// A field whose value is too long or not text.
    #[error("the form field `{0}` must be text of at most {FIELD_BYTES_MAX} bytes")]
    BadField(&'static str),
    /// It ended without a model.
    #[error("the form names no model; add a `model` field, before the file where possible")]
    MissingModel,
    /// It is over the limit.
    #[error("the form is larger than {0} bytes (server.max_body_bytes)")]
    TooLarge(usize),
}

/// A field that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Field {
    value: String,
    /// Where the value stands.
    range: Range<usize>,
    /// What to cut out to remove the whole part.
    part: Range<usize>,
}

/// Reads a form piece by piece. Offsets count from the start of the form.
#[derive(Debug)]
pub struct FormScanner {
    /// Finds `LF--boundary`; a CR must stand before it.
    delimiter: memmem::Finder<'static>,
    state: State,
    /// Bytes that are not decided yet, behind `done` ones that are.
    buffer: Vec<u8>,
    done: usize,
    /// Offset of the buffer's first byte.
    base: usize,
    /// Offset of the delimiter before the part that is being read, and of the part's body.
    part_start: usize,
    body_start: usize,
    parts: usize,
    model: Option<Field>,
    backend: Option<Field>,
    /// Whether the beginning has been sent on, so that it is too late for a `backend`.
    sealed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the very start, where a delimiter needs no line end before it.
    Start,
    /// Behind a delimiter.
    Delimiter,
    /// In the head of a part.
    Head,
    /// In the body of a part; of a field that is looked at, the whole value stays in the buffer.
    Part { field: Option<&'static str>, file: bool },
    /// Behind the last delimiter.
    Over,
}

/// The boundary of a form's content type.
///
/// # Errors
/// [`FormError::Boundary`].
pub fn boundary(content_type: &str) -> Result<String, FormError> {
    let (kind, parameters) = content_type.split_once(';').ok_or(FormError::Boundary)?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return Err(FormError::Boundary);
    }
    let boundary = parameters_of(parameters).and_then(|all| single(all, "boundary")).ok_or(FormError::Boundary)?;
    let fits = (1..=BOUNDARY_BYTES_MAX).contains(&boundary.len())
        && boundary.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if fits { Ok(boundary) } else { Err(FormError::Boundary) }
}

/// `; name=value` parameters, quoted or not, names in lower case; `None` when they are malformed.
fn parameters_of(text: &str) -> Option<Vec<(String, String)>> {
    let mut parameters = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ';']);
        if rest.is_empty() {
            return Some(parameters);
        }
        let (name, after) = rest.split_once('=')?;
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted_value(quoted)?,
            None => {
                let end = after.find(';').unwrap_or(after.len());
                (after[..end].trim_end().to_owned(), &after[end..])
            }
        };
        rest = after.trim_start_matches([' ', '\t']);
        if !(rest.is_empty() || rest.starts_with(';')) {
            return None;
        }
        parameters.push((name.trim().to_ascii_lowercase(), value));
    }
}

/// The value of a parameter that stands there exactly once.
fn single(parameters: Vec<(String, String)>, wanted: &str) -> Option<String> {
    let mut values = parameters.into_iter().filter(|(name, _)| name == wanted).map(|(_, value)| value);
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

/// The text up to the closing quote, and what comes after it.
fn quoted_value(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

impl FormScanner {
    /// A scanner for forms with this boundary.
    pub fn new(boundary: &str) -> Self {
        Self {
            delimiter: memmem::Finder::new(format!("\n--{boundary}").as_bytes()).into_owned(),
            state: State::Start,
            buffer: Vec::new(),
            done: 0,
            base: 0,
            part_start: 0,
            body_start: 0,
            parts: 0,
            model: None,
            backend: None,
            sealed: false,
        }
    }

    /// The model's name, once it has been read.
    pub fn model(&self) -> Option<&str> {
        self.model.as_ref().map(|field| field.value.as_str())
    }

    /// Whether all that comes before a file has been read, and the model with it: the form can be sent on now.
    pub fn is_settled(&self) -> bool {
        let passing = match self.state {
            State::Part { field: None, file } => file || self.offset() - self.body_start > HELD_FIELD_BYTES_MAX,
            State::Over => true,
            _ => false,
        };
        passing && self.model.is_some()
    }

    /// The provider that the form forces, as far as it was read.
    pub fn backend(&self) -> Option<&str> {
        self.backend.as_ref().map(|field| field.value.as_str())
    }

    /// Reads the next piece.
    ///
    /// # Errors
    /// [`FormError`]; the scanner is of no more use then.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), FormError> {
        self.buffer.extend_from_slice(piece);
        while self.step()? {}
        self.buffer.drain(..self.done);
        self.base += self.done;
        self.done = 0;
        Ok(())
    }

    /// Checks that the form has come to its end.
    ///
    /// # Errors
    /// [`FormError::Malformed`] when it has not, [`FormError::MissingModel`] when no model was in it.
    pub fn finish(&self) -> Result<(), FormError> {
        match (self.state, &self.model) {
            (State::Over, Some(_)) => Ok(()),
            (State::Over, None) => Err(FormError::MissingModel),
            _ => Err(FormError::Malformed("it ends before its closing boundary")),
        }
    }

    /// Decides as much as the buffer allows; says whether there may be more to decide.
    fn step(&mut self) -> Result<bool, FormError> {
        match self.state {
            State::Start => self.start(),
            State::Delimiter => self.after_delimiter(),
            State::Head => self.head(),
            State::Part { field, .. } => self.part(field),
            State::Over => self.epilogue(),
        }
    }

    fn rest(&self) -> &[u8] {
        &self.buffer[self.done..]
    }

    /// Offset of what is not decided yet.
    fn offset(&self) -> usize {
        self.base + self.done
    }

    fn start(&mut self) -> Result<bool, FormError> {
        let first = &self.delimiter.needle()[1..];
        if self.rest().len() < first.len() {
            return Ok(false);
        }
        if self.rest().starts_with(first) {
            self.done += first.len();
            self.state = State::Delimiter;
        } else {
            // A preamble: it is skipped like the body of a part that nobody looks at.
            self.state = State::Part { field: None, file: false };
        }
        Ok(true)
    }

    fn after_delimiter(&mut self) -> Result<bool, FormError> {
        if self.rest().starts_with(b"--") {
            self.done += 2;
            self.state = State::Over;
            return Ok(true);
        }
        let Some(line) = memmem::find(self.rest(), b"\r\n") else {
            return self.wait_for_head("no line end after a boundary");
        };
        if !self.rest()[..line].iter().all(|byte| matches!(byte, b' ' | b'\t')) {
            return Err(FormError::Malformed("something stands behind a boundary"));
        }
        self.parts += 1;
        if self.parts > PARTS_MAX {
            return Err(FormError::Malformed("it has more than 1000 parts"));
        }
        self.done += line + 2;
        self.state = State::Head;
        Ok(true)
    }

    fn head(&mut self) -> Result<bool, FormError> {
        let Some(end) = memmem::find(self.rest(), b"\r\n\r\n") else {
            return self.wait_for_head("the head of a part is too long");
        };
        let head = part_head(&self.rest()[..end])?;
        let field = ["model", "backend"].into_iter().find(|wanted| *wanted == head.name);
        self.done += end + 4;
        self.body_start = self.offset();
        self.state = State::Part { field, file: head.file };
        Ok(true)
    }

    /// Waits for more, unless it has been too much already.
    fn wait_for_head(&self, why: &'static str) -> Result<bool, FormError> {
        if self.rest().len() < PART_HEAD_BYTES_MAX { Ok(false) } else { Err(FormError::Malformed(why)) }
    }

    fn part(&mut self, field: Option<&'static str>) -> Result<bool, FormError> {
        let length = self.delimiter.needle().len();
        let Some(place) = self.delimiter.find(self.rest()) else {
            match field {
                Some(field) if self.rest().len() > FIELD_BYTES_MAX + length + 1 => {
                    return Err(FormError::BadField(field));
                }
                Some(_) => {}
                // A delimiter may have begun in the last bytes, with a CR before it.
                None => self.done += self.rest().len().saturating_sub(length),
            }
            return Ok(false);
        };
        let Some(end) = place.checked_sub(1).filter(|end| self.rest()[*end] == b'\r') else {
            return Err(FormError::Malformed("a boundary stands behind a bare line feed"));
        };
        if let Some(name) = field {
            self.note(name, end)?;
        }
        self.part_start = self.offset() + end;
        self.done += place + length;
        self.state = State::Delimiter;
        Ok(true)
    }

    fn epilogue(&mut self) -> Result<bool, FormError> {
        if !self.rest().iter().all(u8::is_ascii_whitespace) {
            return Err(FormError::Malformed("something stands behind the closing boundary"));
        }
        self.done = self.buffer.len();
        Ok(false)
    }

    /// Records a field whose value is the first `length` bytes of the buffer.
    fn note(&mut self, name: &'static str, length: usize) -> Result<(), FormError> {
        if self.sealed && name == "backend" {
            return Err(FormError::Malformed("`backend` must stand before the file"));
        }
        let value = self.rest().get(..length).filter(|value| value.len() <= FIELD_BYTES_MAX);
        let value = value.and_then(|value| std::str::from_utf8(value).ok()).ok_or(FormError::BadField(name))?;
        let range = self.offset()..self.offset() + length;
        // The first part has no line end before its delimiter; then the one behind its value goes with it.
        let part = if self.part_start == 0 { 0..range.end + 2 } else { self.part_start..range.end };
        let field = Field { value: value.to_owned(), range, part };
        let place = if name == "model" { &mut self.model } else { &mut self.backend };
        if place.replace(field).is_some() {
            return Err(FormError::Repeated(name));
        }
        if name == "model" && length == 0 {
            return Err(FormError::MissingModel);
        }
        Ok(())
    }
}

/// What the head of a part says.
struct PartHead {
    name: String,
    file: bool,
}

fn part_head(head: &[u8]) -> Result<PartHead, FormError> {
    let wrong = |why| Err(FormError::Malformed(why));
    let head = String::from_utf8_lossy(head);
    let mut disposition = None;
    for line in head.split("\r\n") {
        if line.contains(['\r', '\n', '\0']) {
            return wrong("a control character stands in the head of a part");
        }
        if line.starts_with([' ', '\t']) {
            return wrong("a folded line stands in the head of a part");
        }
        if let Some((name, value)) = line.split_once(':')
            && name.trim().eq_ignore_ascii_case("content-disposition")
            && disposition.replace(value).is_some()
        {
            return wrong("a part has two content-dispositions");
        }
    }
    let Some(disposition) = disposition else {
        return wrong("a part has no content-disposition");
    };
    let parameters = disposition.split_once(';').and_then(|(_, parameters)| parameters_of(parameters));
    let Some(parameters) = parameters else {
        return wrong("a part has no name, or its content-disposition is malformed");
    };
    if parameters.iter().any(|(name, _)| name == "name*") {
        return wrong("the name of a part is encoded");
    }
    let file = parameters.iter().any(|(name, _)| name.starts_with("filename"));
    match single(parameters, "name") {
        Some(name) => Ok(PartHead { name, file }),
        None => wrong("a part has no name, or two"),
    }
}

/// A form whose beginning is held, ready to be sent.
pub struct Form {
    held: Chunks,
    /// What is still arriving.
    rest: Option<Arriving>,
    /// Whether the beginning is all, so that it can be sent again.
    is_whole: bool,
    /// Length of both together, where declared.
    length: Option<u64>,
    model: Field,
    backend: Option<Range<usize>>,
}

impl Form {
    /// A form of which `held` was read and given to `scanner`, which has found the model. `rest` is what still arrives: none
    /// when `held` is all. `length` is the declared length of everything, `limit` the most that is let through.
    ///
    /// # Errors
    /// [`FormError::MissingModel`] when the scanner has found none.
    pub fn new<B>(
        held: Chunks,
        rest: Option<B>,
        scanner: FormScanner,
        length: Option<u64>,
        limit: usize,
    ) -> Result<Self, FormError>
    where
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let model = scanner.model.clone().ok_or(FormError::MissingModel)?;
        let backend = scanner.backend.as_ref().map(|field| field.part.clone());
        let is_whole = rest.is_none();
        let scanner = FormScanner { sealed: true, ..scanner };
        let room = limit.saturating_sub(held.len());
        let rest = rest.map(|rest| Arriving::new(Watched { rest: Box::pin(rest), scanner, room, limit }));
        Ok(Self { held, rest, is_whole, length, model, backend })
    }

    /// The model's name as the client wrote it.
    pub(crate) fn model(&self) -> &str {
        &self.model.value
    }

    /// Whether all of it is at hand, so that it can be sent again.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// The body for an upstream that calls the model `model`.
    ///
    /// # Errors
    /// When the rest was sent before.
    pub(crate) fn take(&mut self, model: &str) -> Result<UpstreamBody, ForwardError> {
        let mut edits =
            vec![Edit { range: self.model.range.clone(), replacement: Bytes::copy_from_slice(model.as_bytes()) }];
        edits.extend(self.backend.clone().map(|range| Edit { range, replacement: Bytes::new() }));
        let held = self.held.splice(&mut edits);
        if self.is_whole {
            return Ok(UpstreamBody::from(held));
        }
        let rest = self.rest.take().ok_or_else(|| ForwardError::Internal("a form can be sent once".to_owned()))?;
        let length = self.length.map(|length| length + held.len() as u64 - self.held.len() as u64);
        Ok(UpstreamBody::Streaming(Box::new(Streaming { held, rest, length })))
    }
}

/// The rest of a form on its way: an error breaks the upstream request off.
struct Watched<B> {
    rest: Pin<Box<B>>,
    scanner: FormScanner,
    room: usize,
    limit: usize,
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>>> Body for Watched<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match std::task::ready!(self.rest.as_mut().poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            None => return Poll::Ready(self.scanner.finish().err().map(|error| Err(error.into()))),
        };
        if let Some(data) = frame.data_ref() {
            let checked = match self.room.checked_sub(data.len()) {
                Some(room) => {
                    self.room = room;
                    self.scanner.push(data)
                }
                None => Err(FormError::TooLarge(self.limit)),
            };
            if let Err(error) = checked {
                return Poll::Ready(Some(Err(error.into())));
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn size_hint(&self) -> SizeHint {
        self.rest.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full};
    use proptest::prelude::*;

    use super::*;

    const FORM: &str = "--XX\r\nContent-Disposition: form-data; name=\"backend\"\r\n\r\nopenai\r\n--XX\r\nContent-Disposition: \
                        form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--XX\r\nContent-Disposition: form-data; name=\"file\"; \
                        filename=\"name=model\"\r\nContent-Type: audio/wav\r\n\r\nRIFF\r\n--X not the end\r\n--XX--\r\n";

    fn scan(form: &str, cut: usize) -> Result<FormScanner, FormError> {
        let mut scanner = FormScanner::new("XX");
        scanner.push(&form.as_bytes()[..cut])?;
        scanner.push(&form.as_bytes()[cut..])?;
        scanner.finish()?;
        Ok(scanner)
    }

    #[test]
    fn fields_are_found_wherever_the_form_is_cut() {
        for cut in 0..FORM.len() {
            let scanner = scan(FORM, cut).unwrap();
            assert_eq!((scanner.model(), scanner.backend()), (Some("whisper-1"), Some("openai")), "cut at {cut}");
        }
    }

    #[test]
    fn a_model_before_the_file_is_known_before_the_file_has_come() {
        let mut scanner = FormScanner::new("XX");
        let file_at = FORM.find("RIFF").unwrap();
        scanner.push(&FORM.as_bytes()[..file_at]).unwrap();
        assert_eq!(scanner.model(), Some("whisper-1"));
    }

    #[tokio::test]
    async fn the_model_is_renamed_and_the_backend_part_stays_here() {
        let scanner = scan(FORM, 0).unwrap();
        let held = Chunks::from(Bytes::from_static(FORM.as_bytes()));
        let mut form = Form::new(held, None::<Full<Bytes>>, scanner, None, 10_000).unwrap();
        let sent = form.take("whisper-large").unwrap().collect().await.unwrap().to_bytes();
        let expected = FORM
            .replace("--XX\r\nContent-Disposition: form-data; name=\"backend\"\r\n\r\nopenai\r\n", "")
            .replace("whisper-1", "whisper-large");
        assert_eq!(sent, expected.as_bytes());
    }

    #[tokio::test]
    async fn a_second_model_behind_the_file_breaks_the_request_off() {
        let second = "--XX\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nforbidden\r\n--XX--\r\n";
        let form = FORM.replace("--XX--\r\n", second);
        let cut = form.find("RIFF").unwrap();
        let mut scanner = FormScanner::new("XX");
        scanner.push(&form.as_bytes()[..cut]).unwrap();
        let held = Chunks::from(Bytes::copy_from_slice(&form.as_bytes()[..cut]));
        let rest = Full::new(Bytes::copy_from_slice(&form.as_bytes()[cut..]));
        let mut form = Form::new(held, Some(rest), scanner, Some(form.len() as u64), 10_000).unwrap();
        let error = form.take("whisper-large").unwrap().collect().await.unwrap_err();
        assert_eq!(error.to_string(), FormError::Repeated("model").to_string());
    }

    #[test]
    fn what_is_no_form_is_refused_with_its_reason() {
        for (content_type, expected) in [
            ("application/json", None),
            ("multipart/form-data", None),
            ("multipart/form-data; boundary=", None),
            ("multipart/form-data; charset=utf-8; boundary=\"a b\"", Some("a b")),
            ("Multipart/Form-Data;boundary=xyz", Some("xyz")),
        ] {
            assert_eq!(boundary(content_type).ok().as_deref(), expected, "{content_type}");
        }
        for (form, expected) in [
            (format!("{}--XX--", part("name=\"a\"", "1")), FormError::MissingModel),
            (format!("{}{}--XX--", part("name=model", "a"), part("name=\"model\"", "b")), FormError::Repeated("model")),
            (format!("{}--XX--", part("name=model", &"x".repeat(2000))), FormError::BadField("model")),
            (part("name=model", "a"), FormError::Malformed("it ends before its closing boundary")),
            (format!("{}--XX--", part("filename=x", "a")), FormError::Malformed("a part has no name, or two")),
        ] {
            assert_eq!(scan(&form, 0).unwrap_err(), expected, "{form:.60}");
        }
    }

    fn part(disposition: &str, value: &str) -> String {
        format!("--XX\r\nContent-Disposition: form-data; {disposition}\r\n\r\n{value}\r\n")
    }

    #[test]
    fn a_form_is_settled_where_its_file_begins_and_not_before() {
        let fields = part("name=model", "m") + &part("name=prompt", "p") + &part("name=backend", "b");
        let form = fields.clone() + &part("name=file; filename=x", "RIFF") + "--XX--\r\n";
        let settled_at = |form: &str| {
            let mut scanner = FormScanner::new("XX");
            (0..form.len()).find(|at| {
                scanner.push(&form.as_bytes()[*at..=*at]).unwrap();
                scanner.is_settled()
            })
        };
        // The last byte of the file's head; before it the part could still have been another field.
        assert_eq!(settled_at(&form), Some(form.find("RIFF").unwrap() - 1));
        // A field that goes on and on is not waited for.
        let long = part("name=model", "m") + &part("name=prompt", &"p".repeat(2 * HELD_FIELD_BYTES_MAX));
        assert!(settled_at(&long).is_some_and(|at| at < long.len() - HELD_FIELD_BYTES_MAX / 2));
        assert_eq!(settled_at(&fields), None);
        assert_eq!(settled_at(&(part("name=file; filename=x", "RIFF") + "--XX--")), None);
    }

    #[tokio::test]
    async fn a_provider_named_behind_the_file_breaks_the_request_off() {
        let before = part("name=model", "m") + &part("name=file; filename=x", "RIFF");
        let after = part("name=backend", "b") + "--XX--";
        let mut scanner = FormScanner::new("XX");
        scanner.push(before.as_bytes()).unwrap();
        let held = Chunks::from(Bytes::from(before));
        let mut form = Form::new(held, Some(Full::new(Bytes::from(after))), scanner, None, 10_000).unwrap();
        let error = form.take("up").unwrap().collect().await.unwrap_err();
        assert_eq!(error.to_string(), "the form is malformed: `backend` must stand before the file");
    }

    #[test]
    fn what_another_reader_might_read_otherwise_is_refused() {
        let model = part("name=model", "m");
        for (form, why) in [
            (model.clone() + &part("name=a", "x\n--XX\r\ny") + "--XX--", "a boundary stands behind a bare line feed"),
            (model.clone() + "--XX--\r\n" + &model + "--XX--", "something stands behind the closing boundary"),
            (model.clone() + "--XX--x", "something stands behind the closing boundary"),
            (model.clone() + "--XXY\r\n", "something stands behind a boundary"),
            (model.clone() + &part("name=a; name=model", "x") + "--XX--", "a part has no name, or two"),
            (model.clone() + &part("name*=utf-8''model", "x") + "--XX--", "the name of a part is encoded"),
            (
                model.clone() + &part("name=\"a\"b", "x") + "--XX--",
                "a part has no name, or its content-disposition is malformed",
            ),
            (
                model.clone() + &part("name=a\r\n ; name=model", "x") + "--XX--",
                "a folded line stands in the head of a part",
            ),
            (
                model.clone() + &part("name=a\nContent-Disposition: form-data; name=model", "x") + "--XX--",
                "a control character stands in the head of a part",
            ),
            (
                model.clone() + &part("name=a\r\ncontent-disposition: form-data; name=model", "x") + "--XX--",
                "a part has two content-dispositions",
            ),
            (model.clone() + "--XX\r\n\r\nx\r\n\r\n--XX--", "a part has no content-disposition"),
            (model.clone() + &part("name=a", "").repeat(PARTS_MAX) + "--XX--", "it has more than 1000 parts"),
            (format!("--XX\r\nx: {}", "y".repeat(PART_HEAD_BYTES_MAX)), "the head of a part is too long"),
        ] {
            assert_eq!(scan(&form, 0).unwrap_err(), FormError::Malformed(why), "{form:.200}");
        }
        for content_type in [
            "multipart/form-data; boundary=a; boundary=b",
            "multipart/form-data; boundary=\"a\"b",
            "multipart/form-data; boundary=\"a",
        ] {
            assert_eq!(boundary(content_type), Err(FormError::Boundary), "{content_type}");
        }
        assert_eq!(boundary(&format!("multipart/form-data; boundary={}", "x".repeat(71))), Err(FormError::Boundary));
    }

    proptest! {
        #[test]
        fn the_cuts_do_not_matter(
            pieces in proptest::collection::vec(proptest::sample::select(vec![
                "--XX\r\n", "\r\n--XX\r\n", "\r\n--XX--", "--XX", "\r\n", "\n", "\r", "-", "x", "Content-Disposition: form-data; name=model",
                "Content-Disposition: form-data; name=backend", "Content-Disposition: form-data; name=f; filename=g", "\r\n\r\n",
            ]), 0..16),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
        ) {
            let form = pieces.concat();
            let read = |places: &[usize]| {
                let mut scanner = FormScanner::new("XX");
                for pair in places.windows(2) {
                    scanner.push(&form.as_bytes()[pair[0]..pair[1]])?;
                }
                scanner.finish()?;
                Ok::<_, FormError>((scanner.model, scanner.backend))
            };
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(form.len() + 1)).collect();
            places.extend([0, form.len()]);
            places.sort_unstable();
            prop_assert_eq!(read(&places), read(&[0, form.len()]));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), content_type in "\\PC{0,60}") {
            let _ = FormScanner::new("XX").push(&bytes);
            let _ = boundary(&content_type);
            let _ = boundary(&format!("multipart/form-data; {content_type}"));
        }
    }
}
