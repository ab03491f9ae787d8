//! A whole answer as the steps of a stream, and the steps of a stream as a whole answer: for upstreams that give the one where the
//! other was asked for.

use berry_core::usage::Usage;
use bytes::BytesMut;

use super::Malformed;
use super::ir::{
    Arguments, Block, Candidate, Citation, Delta, Event, Part, Response, Stop, TextPart, Thinking, ToolCall,
};
use super::text::Text;

impl Response {
    /// The steps of a stream that gives this answer, each part in one piece. What has no place in a stream is left out.
    pub fn into_events(self) -> Vec<Event> {
        let mut events = vec![Event::Start { id: self.id, model: self.model }, Event::Usage(self.usage)];
        for (candidate, own) in (0..).zip(self.candidates) {
            let has_call = own.parts.iter().any(|part| matches!(part, Part::ToolCall(_)));
            let mut logprobs = own.logprobs.filter(|logprobs| !logprobs.is_nothing()).map(Delta::Logprobs);
            for (index, (block, mut deltas)) in (0..).zip(own.parts.into_iter().filter_map(Part::into_block)) {
                if matches!(block, Block::Text) {
                    deltas.extend(logprobs.take());
                }
                events.push(Event::Open { candidate, index, block });
                events.extend(deltas.into_iter().map(|delta| Event::Delta { candidate, index, delta }));
                events.push(Event::Close { candidate, index });
            }
            events.push(Event::Stop { candidate, stop: Stop::settled(own.stop, has_call) });
        }
        events
    }
}

impl Part {
    /// The block that this is in a stream, and all that comes in it.
    fn into_block(self) -> Option<(Block, Vec<Delta>)> {
        let text = |text: Text| (!text.is_empty()).then_some(Delta::Text(text));
        Some(match self {
            Self::Text(part) => {
                let citations = part.citations.into_iter().map(Delta::Citation);
                let signature = part.signature.map(Delta::Signature);
                (Block::Text, text(part.text).into_iter().chain(citations).chain(signature).collect())
            }
            Self::Thinking(part) => {
                (Block::Thinking, text(part.text).into_iter().chain(part.signature.map(Delta::Signature)).collect())
            }
            Self::RedactedThinking(data) => (Block::RedactedThinking(data), Vec::new()),
            Self::ToolCall(ToolCall { id, name, arguments, signature, .. }) => {
                let arguments = Delta::Arguments(arguments.as_text());
                (Block::ToolCall { id, name, signature }, vec![arguments])
            }
            Self::Refusal(words) => (Block::Refusal, text(words).into_iter().collect()),
            Self::Image(_) | Self::Document(_) | Self::Audio(_) | Self::ToolResult(_) | Self::Unknown(_) => {
                return None;
            }
        })
    }
}

/// A block that is being put together.
struct Open {
    candidate: u32,
    index: u32,
    block: Block,
    /// Its text, or the arguments of a call, as written between quotes.
    written: BytesMut,
    signature: Option<Text>,
    citations: Vec<Citation>,
}

impl Open {
    fn add(&mut self, delta: Delta) {
        match delta {
            Delta::Text(text) | Delta::Arguments(text) => self.written.extend_from_slice(text.raw()),
            Delta::Signature(signature) => self.signature = Some(signature),
            Delta::Citation(citation) => self.citations.push(citation),
            // Lists that would have to be joined, for a case as rare as this.
            Delta::Logprobs(_) => {}
        }
    }

    fn into_part(self) -> Part {
        let text = Text::of_raw(self.written.freeze());
        match self.block {
            Block::Text => {
                let (citations, signature) = (self.citations, self.signature);
                Part::Text(TextPart { text, citations, signature, ..TextPart::default() })
            }
            Block::Thinking => Part::Thinking(Thinking { text, signature: self.signature }),
            Block::RedactedThinking(data) => Part::RedactedThinking(data),
            Block::ToolCall { id, name, signature } => {
                Part::ToolCall(ToolCall { id, name, arguments: Arguments::Text(text), signature, cache: None })
            }
            Block::Refusal => Part::Refusal(text),
        }
    }
}

/// The answer that the steps of a stream give.
///
/// # Errors
/// [`Malformed`]: the upstream failed inside it, or it has no end.
pub fn answer_of(events: Vec<Event>) -> Result<Response, Malformed> {
    let (mut response, mut usage, mut blocks, mut stops) =
        (Response::default(), Usage::default(), Vec::new(), Vec::new());
    for event in events {
        match event {
            Event::Start { id, model } => (response.id, response.model) = (id, model),
            Event::Open { candidate, index, block } => {
                let (written, signature, citations) = (BytesMut::new(), None, Vec::new());
                blocks.push(Open { candidate, index, block, written, signature, citations });
            }
            Event::Delta { candidate, index, delta } => {
                let own = blocks.iter_mut().rfind(|own: &&mut Open| (own.candidate, own.index) == (candidate, index));
                if let Some(own) = own {
                    own.add(delta);
                }
            }
            Event::Stop { candidate, stop } => stops.push((candidate, stop)),
            Event::Usage(told) => usage.merge_max(&told),
            Event::Error(error) => return Err(Malformed::new("", error.message)),
            Event::Close { .. } | Event::Ping => {}
        }
    }
    if stops.is_empty() {
        return Err(Malformed::new("", "the stream has no end"));
    }
    stops.sort_by_key(|(candidate, _)| *candidate);
    for (candidate, stop) in stops {
        let (own, others) = blocks.into_iter().partition(|own: &Open| own.candidate == candidate);
        blocks = others;
        let own: Vec<Open> = own;
        let parts = own.into_iter().map(Open::into_part).collect();
        response.candidates.push(Candidate { parts, stop: Some(stop), logprobs: None });
    }
    response.usage = usage;
    Ok(response)
}
