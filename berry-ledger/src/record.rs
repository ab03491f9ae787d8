//! What is recorded of one request, and its form in the journal.
//!
//! A record borrows everything, so that writing one allocates nothing. Its encoded form is that of the journal.
//! What many records have in common ([`Shape`]) lies in one piece, so that it is looked up as one; so does what each has of its own
//! ([`Rest`]), which goes into the database as it is.
//!
//! ```text
//! record = version u8, length of shape u16 LE, time i64 LE, shape, user text, rest
//! shape  = flags u8, process u64 LE, status u16 LE, texts: model, provider, upstream model, class of error
//! rest   = counter varint, duration varint, ttft option, cost option, five options of usage,
//!          texts: the client's request id, end user, labels; more bytes, attempts up to the end
//! option = varint of value + 1, 0 for none; text and bytes = varint of length + 1, 0 for none, then the bytes
//! ```

use berry_core::id::RequestId;
use berry_core::money::NanoUsd;
use berry_core::usage::{ServiceTier, Usage};

/// The form that is written. What was written in the first is brought into this one ([`crate::first`]); others are not read.
const VERSION: u8 = 2;

/// Where the time of a record begins, and its shape.
const TIME: usize = 3;
const HEAD: usize = TIME + 8;

/// Longest text that is kept of anything, bytes. Everything that comes from a client is bounded before it gets here; this is what
/// makes the size of a record bounded whatever happens.
const TEXT_MAX: usize = 4096;

/// Most attempts that are kept of a request.
const ATTEMPTS_MAX: usize = 64;

/// Bytes of the longest number, and of the longest length of a text.
const NUMBER_MAX: usize = 10;
const TEXT_HEAD: usize = 3;

/// Most bytes of a shape, of the rest of a record with its user, and of an attempt, without those of their texts.
const SHAPE_MAX: usize = 11 + 4 * TEXT_HEAD;
const REST_MAX: usize = 9 * NUMBER_MAX + 4 * TEXT_HEAD + 1 + 9 * (1 + NUMBER_MAX);
const ATTEMPT_MAX: usize = 1 + 4 * NUMBER_MAX + 4 * TEXT_HEAD;

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// When its head had arrived: microseconds since 1970 in UTC.
    pub time_us: i64,
    /// Our name for it.
    pub request_id: RequestId,
    /// The client's own name for it.
    pub client_request_id: Option<&'a str>,
    /// Who asked.
    pub user: Option<&'a str>,
    /// On whose behalf, by the client's word.
    pub end_user: Option<&'a str>,
    /// `key=value` with commas between.
    pub labels: Option<&'a str>,
    /// The public model.
    pub model: Option<&'a str>,
    /// The provider of the last attempt.
    pub provider: Option<&'a str>,
    /// What the model is called there.
    pub upstream_model: Option<&'a str>,
    /// What the client got; 0 when it left before.
    pub status: u16,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// From the request to the first content, microseconds.
    pub ttft_us: Option<u64>,
    /// From the request to its end, microseconds.
    pub duration_us: u64,
    /// What was used.
    pub usage: Usage,
    /// What it cost; `None` when no upstream accepted it.
    pub cost: Option<NanoUsd>,
    /// Whether everything that was used has a price; otherwise the cost is too small.
    pub priced: bool,
    /// What went wrong, from a closed list; `None` when nothing did.
    pub error_class: Option<&'a str>,
    /// Each attempt, in order; the first 64 are kept.
    pub attempts: &'a [Attempt<'a>],
}

/// One attempt at one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt<'a> {
    /// Where.
    pub provider: &'a str,
    /// What the model is called there.
    pub model: &'a str,
    /// Why there.
    pub reason: &'a str,
    /// How it ended.
    pub outcome: &'a str,
    /// What the upstream answered; 0 = nothing.
    pub status: u16,
    /// From the request to its beginning, microseconds.
    pub started_us: u64,
    /// From its beginning to the first content, microseconds.
    pub ttft_us: Option<u64>,
    /// From its beginning to its end, microseconds.
    pub duration_us: u64,
}

const STREAM: u8 = 1;
const ESTIMATED: u8 = 2;
const PRICED: u8 = 4;

/// The reason and the outcome that nearly every attempt has; they cost no bytes.
const USUAL_REASON: &str = "strategy";
const USUAL_OUTCOME: &str = "success";

const SAME_PROVIDER: u8 = 1;
const SAME_MODEL: u8 = 2;
const SAME_REASON: u8 = 4;
const SAME_OUTCOME: u8 = 8;
const SAME_STATUS: u8 = 16;

impl Record<'_> {
    /// Writes the record into `buffer`, which grows when it is too short, from `start` on. Where it ends; what lies behind is nothing.
    pub(crate) fn encode(&self, buffer: &mut Vec<u8>, start: usize) -> usize {
        let size = start + self.size_max();
        if buffer.len() < size {
            buffer.resize(size, 0);
        }
        let mut out = Output { bytes: &mut buffer[start..], at: 0 };
        self.write(&mut out);
        start + out.at
    }

    /// How long it is at most.
    fn size_max(&self) -> usize {
        let of = |text: Option<&str>| text.map_or(0, str::len);
        let texts = of(self.client_request_id)
            + of(self.user)
            + of(self.end_user)
            + of(self.labels)
            + of(self.model)
            + of(self.provider)
            + of(self.upstream_model)
            + of(self.error_class);
        let attempts = self.attempts.iter().take(ATTEMPTS_MAX).map(|attempt| {
            ATTEMPT_MAX + attempt.provider.len() + attempt.model.len() + attempt.reason.len() + attempt.outcome.len()
        });
        HEAD + SHAPE_MAX + REST_MAX + texts + attempts.sum::<usize>()
    }

    #[inline]
    fn write(&self, out: &mut Output<'_>) {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let (process, counter) = self.request_id.parts();
        let usage = &self.usage;
        let shape = Shape {
            flags: flag(self.stream, STREAM) | flag(usage.estimated, ESTIMATED) | flag(self.priced, PRICED),
            process,
            status: self.status,
            model: self.model,
            provider: self.provider,
            upstream_model: self.upstream_model,
            error_class: self.error_class,
        };
        write_head(out, self.time_us, &shape, self.user);
        let numbers = Numbers {
            counter,
            duration_us: self.duration_us,
            ttft_us: self.ttft_us,
            cost: self.cost.map(|cost| u64::try_from(cost.as_nanos()).unwrap_or(0)),
            tokens: [
                usage.input_tokens,
                usage.cached_tokens,
                usage.cache_write_tokens,
                usage.output_tokens,
                usage.reasoning_tokens,
            ],
        };
        numbers.write(out);
        out.text(self.client_request_id);
        out.text(self.end_user);
        out.text(self.labels);
        write_more(usage, out);
        self.write_attempts(out);
    }

    #[inline]
    fn write_attempts(&self, out: &mut Output<'_>) {
        for attempt in self.attempts.iter().take(ATTEMPTS_MAX) {
            let same = [
                (Some(attempt.provider) == self.provider, SAME_PROVIDER),
                (Some(attempt.model) == self.upstream_model, SAME_MODEL),
                (attempt.reason == USUAL_REASON, SAME_REASON),
                (attempt.outcome == USUAL_OUTCOME, SAME_OUTCOME),
                (attempt.status == self.status, SAME_STATUS),
            ];
            let flags = same.iter().filter(|(same, _)| *same).fold(0, |flags, (_, bit)| flags | bit);
            out.byte(flags);
            out.number(attempt.started_us);
            out.option(attempt.ttft_us);
            out.number(attempt.duration_us);
            for (bit, text) in [
                (SAME_PROVIDER, attempt.provider),
                (SAME_MODEL, attempt.model),
                (SAME_REASON, attempt.reason),
                (SAME_OUTCOME, attempt.outcome),
            ] {
                if flags & bit == 0 {
                    out.text(Some(text));
                }
            }
            if flags & SAME_STATUS == 0 {
                out.number(attempt.status.into());
            }
        }
    }
}

/// Writes everything that lies before the rest of a record.
#[inline]
fn write_head(out: &mut Output<'_>, time_us: i64, shape: &Shape<'_>, user: Option<&str>) {
    let start = out.at;
    out.bytes(&[VERSION, 0, 0]);
    out.bytes(&time_us.to_le_bytes());
    shape.write(out);
    // Four texts, each no longer than [`TEXT_MAX`].
    let length = (out.at - start - HEAD) as u16;
    out.bytes[start + 1..start + TIME].copy_from_slice(&length.to_le_bytes());
    out.text(user);
}

/// A record of these parts, as [`Record::encode`] would write it.
pub(crate) fn joined(time_us: i64, shape: &Shape<'_>, user: Option<&str>, rest: &Rest<'_>) -> Vec<u8> {
    written(HEAD + shape.size_max() + TEXT_HEAD + user.map_or(0, str::len) + rest.size_max(), |out| {
        write_head(out, time_us, shape, user);
        rest.write(out);
    })
}

fn written(size_max: usize, write: impl FnOnce(&mut Output<'_>)) -> Vec<u8> {
    let mut bytes = vec![0; size_max];
    let mut out = Output { bytes: &mut bytes, at: 0 };
    write(&mut out);
    let end = out.at;
    bytes.truncate(end);
    bytes
}

/// A record as it is read from the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Encoded<'a> {
    pub(crate) time_us: i64,
    /// See [`Shape`].
    pub(crate) shape: &'a [u8],
    pub(crate) user: Option<&'a str>,
    /// See [`Rest`].
    pub(crate) rest: &'a [u8],
    /// What `rest` begins with.
    pub(crate) numbers: Numbers,
}

impl<'a> Encoded<'a> {
    /// The time of a record that is not decoded. `None` when it is none.
    pub(crate) fn time_us(bytes: &[u8]) -> Option<i64> {
        bytes.get(TIME..)?.first_chunk().copied().map(i64::from_le_bytes)
    }

    /// Reads what [`Record::encode`] wrote, as far as all rows need it. `None` when it is something else.
    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut input = Input(bytes);
        if input.byte()? != VERSION {
            return None;
        }
        let length = u16::from_le_bytes(input.array()?);
        let time_us = i64::from_le_bytes(input.array()?);
        let shape = input.take(length.into())?;
        let user = input.text()?;
        let rest = input.0;
        Some(Self { time_us, shape, user, rest, numbers: Numbers::decode(&mut input)? })
    }
}

/// What many records have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape<'a> {
    pub(crate) flags: u8,
    pub(crate) process: u64,
    pub(crate) status: u16,
    pub(crate) model: Option<&'a str>,
    pub(crate) provider: Option<&'a str>,
    pub(crate) upstream_model: Option<&'a str>,
    pub(crate) error_class: Option<&'a str>,
}

impl<'a> Shape<'a> {
    #[inline]
    fn write(&self, out: &mut Output<'_>) {
        out.byte(self.flags);
        out.bytes(&self.process.to_le_bytes());
        out.bytes(&self.status.to_le_bytes());
        for text in [self.model, self.provider, self.upstream_model, self.error_class] {
            out.text(text);
        }
    }

    fn size_max(&self) -> usize {
        let texts = [self.model, self.provider, self.upstream_model, self.error_class];
        SHAPE_MAX + texts.iter().map(|text| text.map_or(0, str::len)).sum::<usize>()
    }

    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut input = Input(bytes);
        Some(Self {
            flags: input.byte()?,
            process: u64::from_le_bytes(input.array()?),
            status: u16::from_le_bytes(input.array()?),
            model: input.text()?,
            provider: input.text()?,
            upstream_model: input.text()?,
            error_class: input.text()?,
        })
    }
}

/// The numbers that a request has of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Numbers {
    pub(crate) counter: u64,
    pub(crate) duration_us: u64,
    pub(crate) ttft_us: Option<u64>,
    pub(crate) cost: Option<u64>,
    /// Input, cached, written to the cache, output, reasoning.
    pub(crate) tokens: [Option<u64>; 5],
}

impl Numbers {
    #[inline]
    fn write(&self, out: &mut Output<'_>) {
        out.number(self.counter);
        out.number(self.duration_us);
        out.option(self.ttft_us);
        out.option(self.cost);
        for count in self.tokens {
            out.option(count);
        }
    }

    fn decode(input: &mut Input<'_>) -> Option<Self> {
        Some(Self {
            counter: input.number()?,
            duration_us: input.number()?,
            ttft_us: input.option()?,
            cost: input.option()?,
            tokens: [input.option()?, input.option()?, input.option()?, input.option()?, input.option()?],
        })
    }
}

/// What a request has of its own, its time and its user excepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rest<'a> {
    pub(crate) numbers: Numbers,
    pub(crate) client_request_id: Option<&'a str>,
    pub(crate) end_user: Option<&'a str>,
    pub(crate) labels: Option<&'a str>,
    /// See [`decode_more`].
    pub(crate) more: &'a [u8],
    /// See [`decode_attempts`].
    pub(crate) attempts: &'a [u8],
}

impl<'a> Rest<'a> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        written(self.size_max(), |out| self.write(out))
    }

    fn write(&self, out: &mut Output<'_>) {
        self.numbers.write(out);
        out.text(self.client_request_id);
        out.text(self.end_user);
        out.text(self.labels);
        out.option(Some(self.more.len() as u64).filter(|length| *length > 0));
        out.bytes(self.more);
        out.bytes(self.attempts);
    }

    fn size_max(&self) -> usize {
        let texts = [self.client_request_id, self.end_user, self.labels];
        let texts = texts.iter().map(|text| text.map_or(0, str::len)).sum::<usize>();
        REST_MAX + texts + self.more.len() + self.attempts.len()
    }

    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut input = Input(bytes);
        Some(Self {
            numbers: Numbers::decode(&mut input)?,
            client_request_id: input.text()?,
            end_user: input.text()?,
            labels: input.text()?,
            more: input.bytes()?.unwrap_or_default(),
            attempts: input.0,
        })
    }

    /// How the rest of a request with this counter begins, and no other's.
    pub(crate) fn beginning(counter: u64) -> Vec<u8> {
        written(NUMBER_MAX, |out| out.number(counter))
    }
}

/// An attempt, in a row that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptRow {
    /// Where.
    pub provider: String,
    /// What the model is called there.
    pub model: String,
    /// Why there.
    pub reason: String,
    /// How it ended.
    pub outcome: String,
    /// What the upstream answered; 0 = nothing.
    pub status: u16,
    /// From the request to its beginning, microseconds.
    pub started_us: u64,
    /// From its beginning to the first content, microseconds.
    pub ttft_us: Option<u64>,
    /// From its beginning to its end, microseconds.
    pub duration_us: u64,
}

/// The attempts of a row; what cannot be read ends the list.
pub(crate) fn decode_attempts(bytes: &[u8], provider: &str, model: &str, status: u16) -> Vec<AttemptRow> {
    let mut input = Input(bytes);
    let mut attempts = Vec::new();
    while !input.0.is_empty() {
        let Some(attempt) = decode_attempt(&mut input, provider, model, status) else { break };
        attempts.push(attempt);
    }
    attempts
}

fn decode_attempt(input: &mut Input<'_>, provider: &str, model: &str, status: u16) -> Option<AttemptRow> {
    let flags = input.byte()?;
    let (started_us, ttft_us, duration_us) = (input.number()?, input.option()?, input.number()?);
    let mut text = |bit: u8, same: &str| {
        if flags & bit != 0 { Some(same.to_owned()) } else { input.text()?.map(str::to_owned) }
    };
    let provider = text(SAME_PROVIDER, provider)?;
    let model = text(SAME_MODEL, model)?;
    let reason = text(SAME_REASON, USUAL_REASON)?;
    let outcome = text(SAME_OUTCOME, USUAL_OUTCOME)?;
    let status = if flags & SAME_STATUS != 0 { status } else { u16::try_from(input.number()?).ok()? };
    Some(AttemptRow { provider, model, reason, outcome, status, started_us, ttft_us, duration_us })
}

/// Whether a stream was asked for, whether usage was estimated, whether everything had a price.
pub(crate) fn read_flags(flags: u8) -> (bool, bool, bool) {
    (flags & STREAM != 0, flags & ESTIMATED != 0, flags & PRICED != 0)
}

/// The parts of usage that few answers have, as bytes: each as its number, then its value.
#[inline]
fn write_more(usage: &Usage, out: &mut Output<'_>) {
    // Taken apart in full, so that a new count cannot be forgotten.
    let Usage {
        input_tokens: _,
        cached_tokens: _,
        cache_write_tokens: _,
        output_tokens: _,
        reasoning_tokens: _,
        estimated: _,
        cache_write_1h_tokens,
        audio_input_tokens,
        image_input_tokens,
        tool_prompt_tokens,
        audio_output_tokens,
        image_output_tokens,
        server_tool_calls,
        tier,
        reported_cost,
    } = *usage;
    let tier = tier.map(|tier| match tier {
        ServiceTier::Standard => 0,
        ServiceTier::Flex => 1,
        ServiceTier::Priority => 2,
        ServiceTier::Batch => 3,
    });
    let reported_cost = reported_cost.and_then(|cost| u64::try_from(cost.as_nanos()).ok());
    let parts = [
        cache_write_1h_tokens,
        audio_input_tokens,
        image_input_tokens,
        tool_prompt_tokens,
        audio_output_tokens,
        image_output_tokens,
        server_tool_calls,
        tier,
        reported_cost,
    ];
    // Their length is one byte: nine parts are less than a hundred.
    let start = out.at;
    out.byte(0);
    for (number, part) in (0u8..).zip(parts) {
        if let Some(value) = part {
            out.byte(number);
            out.number(value);
        }
    }
    let length = out.at - start - 1;
    if length > 0 {
        out.bytes[start] = length as u8 + 1;
    }
}

/// Fills `usage` with what [`write_more`] wrote; what cannot be read ends it.
pub(crate) fn decode_more(bytes: &[u8], usage: &mut Usage) {
    let mut input = Input(bytes);
    while let (Some(number), Some(value)) = (input.byte(), input.number()) {
        match number {
            0 => usage.cache_write_1h_tokens = Some(value),
            1 => usage.audio_input_tokens = Some(value),
            2 => usage.image_input_tokens = Some(value),
            3 => usage.tool_prompt_tokens = Some(value),
            4 => usage.audio_output_tokens = Some(value),
            5 => usage.image_output_tokens = Some(value),
            6 => usage.server_tool_calls = Some(value),
            7 => {
                usage.tier = Some(match value {
                    1 => ServiceTier::Flex,
                    2 => ServiceTier::Priority,
                    3 => ServiceTier::Batch,
                    _ => ServiceTier::Standard,
                });
            }
            8 => usage.reported_cost = i64::try_from(value).ok().map(NanoUsd::from_nanos),
            _ => return,
        }
    }
}

/// A buffer that is long enough, and how much of it is written.
struct Output<'o> {
    bytes: &'o mut [u8],
    at: usize,
}

impl Output<'_> {
    #[inline]
    fn byte(&mut self, byte: u8) {
        self.bytes[self.at] = byte;
        self.at += 1;
    }

    #[inline]
    fn bytes(&mut self, bytes: &[u8]) {
        self.bytes[self.at..][..bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    #[inline]
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.byte(number as u8 | 0x80);
            number >>= 7;
        }
        self.byte(number as u8);
    }

    /// The largest number cannot be told from the one below it; no count, amount or time comes near.
    #[inline]
    fn option(&mut self, number: Option<u64>) {
        self.number(number.map_or(0, |number| number.saturating_add(1)));
    }

    #[inline]
    fn text(&mut self, text: Option<&str>) {
        let bytes = text.map(|text| if text.len() <= TEXT_MAX { text } else { cut(text) }.as_bytes());
        self.option(bytes.map(|bytes| bytes.len() as u64));
        self.bytes(bytes.unwrap_or_default());
    }
}

/// The beginning of a text that is too long.
#[cold]
fn cut(text: &str) -> &str {
    let mut end = TEXT_MAX;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    #[inline]
    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    #[inline]
    pub(crate) fn number(&mut self) -> Option<u64> {
        let (first, rest) = self.0.split_first()?;
        if *first < 0x80 {
            self.0 = rest;
            return Some((*first).into());
        }
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    #[inline]
    pub(crate) fn option(&mut self) -> Option<Option<u64>> {
        self.number().map(|number| number.checked_sub(1))
    }

    pub(crate) fn bytes(&mut self) -> Option<Option<&'a [u8]>> {
        match self.option()? {
            None => Some(None),
            Some(length) => self.take(usize::try_from(length).ok()?).map(Some),
        }
    }

    pub(crate) fn text(&mut self) -> Option<Option<&'a str>> {
        match self.bytes()? {
            None => Some(None),
            Some(bytes) => std::str::from_utf8(bytes).ok().map(Some),
        }
    }
}
