//! What each fault does to an answer: edits of data, so that no fault needs a connection to be tested.

use std::collections::VecDeque;
use std::io::Write as _;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, LOCATION};
use http::{HeaderValue, StatusCode};

use crate::answer::{Answer, Length, Mark, Step};
use crate::error::{ApiError, Vendor};
use crate::fault::{End, Fault, Place};

impl Fault {
    /// Spoils an answer of `vendor`'s.
    pub(crate) fn apply(&self, answer: &mut Answer, vendor: Vendor) {
        match self {
            // The figures are left out where the answer is made; see `Ask::usage`.
            Self::None | Self::NoUsage => {}
            Self::Status { code, retry_after } => *answer = status_answer(*code, *retry_after, vendor),
            Self::Quota => *answer = ApiError::quota().answer(vendor),
            Self::ContextLength => *answer = ApiError::context_length().answer(vendor),
            Self::ContentFilter => *answer = ApiError::content_filter().answer(vendor),
            Self::Redirect(to) => *answer = redirect(to),
            Self::Html(code) => *answer = html(*code),
            Self::Reset(place) => insert(answer, *place, Step::Kill(End::Reset)),
            Self::Close(place) => insert(answer, *place, Step::Kill(End::Close)),
            Self::HalfHead(end) => answer.before_head.push_back(Step::CutHead(*end)),
            Self::Stall(place) => insert(answer, *place, Step::Hang),
            Self::Gate(place) => insert(answer, *place, Step::Gate),
            Self::SlowFirstToken(ms) => slow_first_token(answer, Duration::from_millis(*ms)),
            Self::Comments(ms) => comments(answer, Duration::from_millis(*ms)),
            Self::MalformedChunk(n) => malformed_chunk(answer, *n),
            Self::ErrorEvent(n) => error_event(answer, *n, vendor),
            Self::TruncatedJson => truncated_json(answer),
            Self::Garbage => garbage(answer),
            Self::MissingTerminator => {
                keep(answer, |mark| matches!(mark, Mark::Whole | Mark::Opening | Mark::Content));
            }
            Self::MissingDone => keep(answer, |mark| !matches!(mark, Mark::Ending | Mark::Terminator)),
            Self::EmptyStream => keep(answer, |mark| mark == Mark::Terminator),
            Self::OversizedLine(bytes) => oversized_line(answer, *bytes),
            Self::OversizedBody(bytes) => oversized_body(answer, *bytes),
            Self::OneByte => one_byte(answer),
            Self::Crlf => answer.map_chunks(|bytes| vec![Step::Chunk(Mark::Content, crlf(&bytes))]),
            Self::Gzip => gzip(answer),
            Self::GzipBomb(bytes) => gzip_bomb(answer, *bytes),
        }
    }
}

/// Puts a step at its place.
fn insert(answer: &mut Answer, place: Place, step: Step) {
    match place {
        Place::BeforeHead => answer.before_head.push_back(step),
        Place::Head => {
            answer.body.push_front(step);
            answer.body.push_front(Step::Flush);
        }
        Place::Content(n) => {
            let at = content_index(answer, n);
            answer.body.insert(at, step);
            answer.body.insert(at, Step::Flush);
        }
    }
}

/// Index of the step after `n` content events (before the wait for the next one), or after the last where there are fewer.
/// A plain body is cut in two halves first.
fn content_index(answer: &mut Answer, n: u32) -> usize {
    if let [Step::Chunk(Mark::Whole, bytes)] = answer.body.make_contiguous() {
        let half = bytes.split_off(bytes.len() / 2);
        answer.body.push_back(Step::Chunk(Mark::Whole, half));
        return 1;
    }
    let mut index = 0;
    let mut seen = 0;
    for (i, step) in answer.body.iter().enumerate() {
        match step {
            Step::Chunk(Mark::Content, _) if seen == n => break,
            Step::Chunk(Mark::Content, _) => {
                seen += 1;
                index = i + 1;
            }
            Step::Chunk(Mark::Opening, _) if seen == 0 => index = i + 1,
            _ => {}
        }
    }
    index
}

fn status_answer(code: u16, retry_after: Option<u32>, vendor: Vendor) -> Answer {
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let answer = ApiError::of_status(status).answer(vendor);
    match retry_after {
        Some(seconds) => answer.with("retry-after", seconds.to_string()),
        None => answer,
    }
}

fn redirect(to: &str) -> Answer {
    let mut answer = Answer::plain(StatusCode::FOUND, "text/plain", "moved");
    if let Ok(to) = HeaderValue::from_str(to) {
        answer.headers.insert(LOCATION, to);
    }
    answer
}

fn html(code: u16) -> Answer {
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::OK);
    let page = format!(
        "<!DOCTYPE html>\n<html><head><title>{status}</title></head>\n<body><h1>{status}</h1><p>A proxy in front of the upstream wrote this page.</p></body></html>\n"
    );
    Answer::plain(status, "text/html; charset=utf-8", page)
}

fn slow_first_token(answer: &mut Answer, wait: Duration) {
    if answer.is_stream() {
        insert(answer, Place::Content(0), Step::Wait(wait));
    } else {
        answer.before_head.push_back(Step::Wait(wait));
    }
}

fn comments(answer: &mut Answer, every: Duration) {
    let at = if answer.is_stream() { content_index(answer, 0) } else { 0 };
    answer.body.truncate(at);
    answer.length = Length::Chunked;
    answer.body.push_back(Step::Beat(every, Bytes::from_static(b": still here\n\n")));
}

fn malformed_chunk(answer: &mut Answer, n: u32) {
    if answer.is_stream() {
        let at = content_index(answer, n);
        let line = Bytes::from_static(b"data: {\"id\":\"broken\",\"choices\":[{\"index\":0,\"del\n\n");
        answer.body.insert(at, Step::Chunk(Mark::Content, line));
    } else {
        truncated_json(answer);
    }
}

fn error_event(answer: &mut Answer, n: u32, vendor: Vendor) {
    let error = ApiError::of_status(StatusCode::INTERNAL_SERVER_ERROR);
    if !answer.is_stream() {
        let mut spoiled = error.answer(vendor);
        spoiled.status = StatusCode::OK;
        *answer = spoiled;
        return;
    }
    let at = if n == 0 { 0 } else { content_index(answer, n) };
    answer.body.truncate(at);
    answer.body.push_back(Step::Chunk(Mark::Finish, error.event(vendor)));
}

fn truncated_json(answer: &mut Answer) {
    let at = content_index(answer, 1);
    if answer.is_stream() {
        // The next event is cut in its middle, and that is the end of the body.
        let next = answer.body.iter().skip(at).find_map(|step| match step {
            Step::Chunk(_, bytes) => Some(bytes.slice(..bytes.len() / 2)),
            _ => None,
        });
        answer.body.truncate(at);
        answer.body.extend(next.map(|bytes| Step::Chunk(Mark::Content, bytes)));
    } else {
        answer.body.truncate(at);
    }
}

fn garbage(answer: &mut Answer) {
    let mut rng = fastrand::Rng::with_seed(0xbad);
    let bytes: Vec<u8> = (0..512).map(|_| rng.u8(..)).collect();
    answer.body = VecDeque::from([Step::Chunk(Mark::Whole, bytes.into())]);
}

/// Keeps the chunks of some marks. In a plain answer nothing is kept unless `Whole` is.
fn keep(answer: &mut Answer, wanted: impl Fn(Mark) -> bool) {
    answer.body.retain(|step| match step {
        Step::Chunk(mark, _) => wanted(*mark),
        _ => true,
    });
}

/// Size of the pieces that oversized bodies are sent in; they all share one allocation.
const PIECE_BYTES: usize = 64 * 1024;

/// `bytes` of filler as chunks.
fn filler(bytes: usize, piece: &Bytes) -> impl Iterator<Item = Step> {
    let whole = std::iter::repeat_n(piece.clone(), bytes / piece.len());
    let rest = piece.slice(..bytes % piece.len());
    whole.chain(Some(rest)).filter(|bytes| !bytes.is_empty()).map(|bytes| Step::Chunk(Mark::Opening, bytes))
}

fn letters() -> Bytes {
    Bytes::from(vec![b'x'; PIECE_BYTES])
}

fn around(
    answer: &mut Answer,
    at: usize,
    open: &'static [u8],
    filler: impl Iterator<Item = Step>,
    close: &'static [u8],
) {
    let rest = answer.body.split_off(at);
    answer.body.push_back(Step::Chunk(Mark::Opening, Bytes::from_static(open)));
    answer.body.extend(filler);
    answer.body.push_back(Step::Chunk(Mark::Opening, Bytes::from_static(close)));
    answer.body.extend(rest);
}

fn oversized_line(answer: &mut Answer, bytes: usize) {
    if answer.is_stream() {
        let at = content_index(answer, 0);
        around(answer, at, b"data: {\"padding\":\"", filler(bytes, &letters()), b"\"}\n\n");
    } else {
        oversized_body(answer, bytes);
    }
}

fn oversized_body(answer: &mut Answer, bytes: usize) {
    if answer.is_stream() {
        let comment: Bytes = b": padding that means nothing\n\n".repeat(PIECE_BYTES / 30).into();
        let at = content_index(answer, 0);
        let whole = bytes.div_ceil(comment.len()) * comment.len();
        around(answer, at, b"", filler(whole, &comment), b"");
    } else {
        answer.body.clear();
        around(answer, 0, b"{\"padding\":\"", filler(bytes, &letters()), b"\"}");
    }
}

fn one_byte(answer: &mut Answer) {
    answer.map_chunks(|bytes| {
        (0..bytes.len()).flat_map(|i| [Step::Chunk(Mark::Content, bytes.slice(i..=i)), Step::Flush]).collect()
    });
}

fn crlf(bytes: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(bytes.len() + 4);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(text) => {
                out.extend_from_slice(text);
                out.extend_from_slice(b"\r\n");
            }
            None => out.extend_from_slice(line),
        }
    }
    out.freeze()
}

/// Encodes chunk by chunk with a flush after each, so that a stream stays a stream.
fn gzip(answer: &mut Answer) {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    answer.map_chunks(|bytes| {
        encoder.write_all(&bytes).and_then(|()| encoder.flush()).expect("writing to memory does not fail");
        vec![Step::Chunk(Mark::Content, std::mem::take(encoder.get_mut()).into())]
    });
    let tail = encoder.finish().expect("writing to memory does not fail");
    answer.body.push_back(Step::Chunk(Mark::Terminator, tail.into()));
    answer.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
}

fn gzip_bomb(answer: &mut Answer, bytes: usize) {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let spaces = vec![b' '; PIECE_BYTES];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(spaces.len());
        encoder.write_all(&spaces[..now]).expect("writing to memory does not fail");
        left -= now;
    }
    let packed = encoder.finish().expect("writing to memory does not fail");
    answer.body = VecDeque::from([Step::Chunk(Mark::Whole, packed.into())]);
    answer.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
}
