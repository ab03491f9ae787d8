//! `multipart/form-data`, read only as far as the model's name; the rest streams through, watched.
//!
//! A file that comes after `model` is never held. What streams through is still looked at, because a second `model` field behind
//! a file could name a model that the user may not have. Source: RFC 7578, RFC 2046 5.1.

use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use memchr::memmem;

use crate::body::{Chunks, Edit};
use crate::error::{BoxError, ForwardError};
use crate::upstream_body::{Arriving, UpstreamBody};

/// Longest boundary (RFC 2046).
const BOUNDARY_BYTES_MAX: usize = 70;
/// Longest head of one part.
const PART_HEAD_BYTES_MAX: usize = 8 * 1024;
/// Longest value of a field that is looked at.
const FIELD_BYTES_MAX: usize = 1024;

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
    /// `CRLF--boundary`.
    delimiter: Vec<u8>,
    state: State,
    /// Bytes that are not decided yet.
    buffer: Vec<u8>,
    /// Offset of the buffer's first byte.
    base: usize,
    /// Offset of the delimiter before the part that is being read.
    part_start: usize,
    model: Option<Field>,
    backend: Option<Field>,
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
    Part(Option<&'static str>),
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
    let boundary = parameter(parameters, "boundary").ok_or(FormError::Boundary)?;
    let fits = (1..=BOUNDARY_BYTES_MAX).contains(&boundary.len())
        && boundary.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if fits { Ok(boundary) } else { Err(FormError::Boundary) }
}

/// The value of a `; name=value` parameter, quoted or not.
fn parameter(parameters: &str, wanted: &str) -> Option<String> {
    let mut rest = parameters;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ';']);
        let (name, after) = rest.split_once('=')?;
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted_value(quoted)?,
            None => {
                let end = after.find(';').unwrap_or(after.len());
                (after[..end].trim_end().to_owned(), &after[end..])
            }
        };
        if name.trim().eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        rest = after;
    }
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
            delimiter: format!("\r\n--{boundary}").into_bytes(),
            state: State::Start,
            buffer: Vec::new(),
            base: 0,
            part_start: 0,
            model: None,
            backend: None,
        }
    }

    /// The model's name, once it has been read.
    pub fn model(&self) -> Option<&str> {
        self.model.as_ref().map(|field| field.value.as_str())
    }

    /// The provider that the form forces, if that was read before the model.
    pub fn backend(&self) -> Option<&str> {
        self.backend.as_ref().map(|field| field.value.as_str())
    }

    /// Reads the next piece.
    ///
    /// # Errors
    /// [`FormError`]; the scanner is of no more use then.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), FormError> {
        if self.state == State::Over {
            return Ok(());
        }
        self.buffer.extend_from_slice(piece);
        while self.step()? {}
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
            State::Part(field) => self.part(field),
            State::Over => Ok(false),
        }
    }

    fn start(&mut self) -> Result<bool, FormError> {
        let first = &self.delimiter[2..];
        if self.buffer.len() < first.len() {
            return Ok(false);
        }
        if self.buffer.starts_with(first) {
            self.skip(self.delimiter.len() - 2);
            self.state = State::Delimiter;
        } else {
            // A preamble: it is skipped like the body of a part that nobody looks at.
            self.state = State::Part(None);
        }
        Ok(true)
    }

    fn after_delimiter(&mut self) -> Result<bool, FormError> {
        if self.buffer.starts_with(b"--") {
            self.state = State::Over;
            self.buffer = Vec::new();
            return Ok(false);
        }
        let Some(line) = memmem::find(&self.buffer, b"\r\n") else {
            let few = self.buffer.len() < PART_HEAD_BYTES_MAX;
            return if few { Ok(false) } else { Err(FormError::Malformed("no line end after a boundary")) };
        };
        if !self.buffer[..line].iter().all(|byte| matches!(byte, b' ' | b'\t')) {
            return Err(FormError::Malformed("something stands behind a boundary"));
        }
        self.skip(line + 2);
        self.state = State::Head;
        Ok(true)
    }

    fn head(&mut self) -> Result<bool, FormError> {
        let Some(end) = memmem::find(&self.buffer, b"\r\n\r\n") else {
            let few = self.buffer.len() < PART_HEAD_BYTES_MAX;
            return if few { Ok(false) } else { Err(FormError::Malformed("the head of a part is too long")) };
        };
        let name = part_name(&self.buffer[..end])?;
        let field = ["model", "backend"].into_iter().find(|wanted| *wanted == name);
        self.skip(end + 4);
        self.state = State::Part(field);
        Ok(true)
    }

    fn part(&mut self, field: Option<&'static str>) -> Result<bool, FormError> {
        let Some(end) = memmem::find(&self.buffer, &self.delimiter) else {
            if let Some(field) = field
                && self.buffer.len() > FIELD_BYTES_MAX + self.delimiter.len()
            {
                return Err(FormError::BadField(field));
            }
            if field.is_none() {
                // A delimiter may have begun in the last bytes.
                self.skip(self.buffer.len().saturating_sub(self.delimiter.len() - 1));
            }
            return Ok(false);
        };
        let delimiter_at = self.base + end;
        if let Some(name) = field {
            self.note(name, end)?;
        }
        self.skip(end + self.delimiter.len());
        self.part_start = delimiter_at;
        self.state = State::Delimiter;
        Ok(true)
    }

    /// Records a field whose value is the first `length` bytes of the buffer.
    fn note(&mut self, name: &'static str, length: usize) -> Result<(), FormError> {
        let value = self.buffer.get(..length).filter(|value| value.len() <= FIELD_BYTES_MAX);
        let value = value.and_then(|value| std::str::from_utf8(value).ok()).ok_or(FormError::BadField(name))?;
        let range = self.base..self.base + length;
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

    fn skip(&mut self, bytes: usize) {
        self.buffer.drain(..bytes);
        self.base += bytes;
    }
}

/// The `name` of a part's content disposition.
fn part_name(head: &[u8]) -> Result<String, FormError> {
    let head = std::str::from_utf8(head).map_err(|_| FormError::Malformed("the head of a part is not text"))?;
    let mut dispositions = head.split("\r\n").filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("content-disposition").then_some(value)
    });
    let disposition = dispositions.next().ok_or(FormError::Malformed("a part has no content-disposition"))?;
    if dispositions.next().is_some() {
        return Err(FormError::Malformed("a part has two content-dispositions"));
    }
    let (_, parameters) = disposition.split_once(';').ok_or(FormError::Malformed("a part has no name"))?;
    parameter(parameters, "name").ok_or(FormError::Malformed("a part has no name"))
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
            return Ok(UpstreamBody::Held(held));
        }
        let rest = self.rest.take().ok_or_else(|| ForwardError::Internal("a form can be sent once".to_owned()))?;
        let length = self.length.map(|length| length + held.len() as u64 - self.held.len() as u64);
        Ok(UpstreamBody::Streaming { held, rest, length })
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
        let part =
            |name: &str, value: &str| format!("--XX\r\nContent-Disposition: form-data; {name}\r\n\r\n{value}\r\n");
        for (form, expected) in [
            (format!("{}--XX--", part("name=\"a\"", "1")), FormError::MissingModel),
            (format!("{}{}--XX--", part("name=model", "a"), part("name=\"model\"", "b")), FormError::Repeated("model")),
            (format!("{}--XX--", part("name=model", &"x".repeat(2000))), FormError::BadField("model")),
            (part("name=model", "a"), FormError::Malformed("it ends before its closing boundary")),
            (format!("{}--XX--", part("filename=x", "a")), FormError::Malformed("a part has no name")),
        ] {
            assert_eq!(scan(&form, 0).unwrap_err(), expected, "{form:.60}");
        }
    }
}
