//! Reads the stream of an upstream, event by event.
//!
//! Most events bring a piece of text, some with figures beside it, and differ from the one before in nothing else, so that they need
//! not be read again: text and figures are found where they stood in that one.

use std::borrow::Cow;
use std::ops::Range;

use berry_core::usage::Usage;
use bytes::Bytes;

use super::ir::{Delta, Event};
use super::text::Text;
use super::{Codec, Malformed, StreamDecoder};
use crate::json::{Cursor, Kind, Raw};
use crate::meter::template::{Free, Template};
use crate::{meter, sse};

/// Members of events that no decoder reads, and that differ in all of them.
const IGNORED: [&[u8]; 3] = [b"created", b"obfuscation", b"sequence_number"];

/// Members of events that tell figures, by the names of all dialects that tell them with a text.
const FIGURES: [&[u8]; 2] = [b"usage", b"usageMetadata"];

/// A decoder, and what saves it work.
pub struct StreamReader {
    decoder: Box<dyn StreamDecoder>,
    usual: Option<Usual>,
    /// The event of `usual`; kept beside it for its memory.
    template: Template,
}

/// What the last event that was decoded meant, where that was a piece of text, figures at most beside it, and nothing else.
struct Usual {
    candidate: u32,
    block: u32,
    parts: Parts,
}

/// Where the parts of an event stand.
struct Parts {
    /// Which of the template's free values the text is.
    text: usize,
    /// The object of figures in the template's event, where they belong to what it means.
    figures: Option<Range<usize>>,
}

impl StreamReader {
    /// A reader of a stream in this format.
    pub fn new(codec: &dyn Codec) -> Self {
        Self { decoder: codec.stream_decoder(), usual: None, template: Template::default() }
    }

    /// Takes the next event, which lies in `bytes`, and adds what it means to `out`.
    ///
    /// # Errors
    /// [`Malformed`]: not what the dialect says.
    pub fn push(&mut self, event: &sse::Event<'_>, bytes: &Bytes, out: &mut Vec<Event>) -> Result<(), Malformed> {
        let Some(data) = event.data.as_deref().map(<[u8]>::trim_ascii).filter(|data| !data.is_empty()) else {
            return Ok(());
        };
        if let (Some(usual), Some((text, figures))) = (&self.usual, self.parts_of(event, bytes)) {
            out.push(Event::Delta { candidate: usual.candidate, index: usual.block, delta: Delta::Text(text) });
            out.extend(figures.map(Event::Usage));
            return Ok(());
        }
        self.usual = None;
        // In memory of its own: some of it may be kept for long.
        let data = Bytes::copy_from_slice(data);
        let before = out.len();
        self.decoder.push(event.name, &data, out)?;
        if let [Event::Delta { candidate, index, delta: Delta::Text(text) }, rest @ ..] = &out[before..]
            && matches!(rest, [] | [Event::Usage(_)])
        {
            let parts = self.learn(&data, text.raw(), !rest.is_empty());
            self.usual = parts.map(|parts| Usual { candidate: *candidate, block: *index, parts });
        }
        Ok(())
    }

    /// The stream is over: adds what was held back, as [`StreamDecoder::finish`] does.
    pub fn finish(&mut self, out: &mut Vec<Event>) {
        self.decoder.finish(out);
    }

    /// The text of an event that is like the usual one, and its figures.
    fn parts_of(&self, event: &sse::Event<'_>, bytes: &Bytes) -> Option<(Text, Option<Usage>)> {
        let Some(Cow::Borrowed(data)) = event.data else { return None };
        let parts = &self.usual.as_ref()?.parts;
        let values = self.template.values(data)?;
        let text = Raw(&data[values.get(parts.text)?]).text().filter(|text| std::str::from_utf8(text).is_ok())?;
        let figures = parts.figures.as_ref().map(|figures| {
            let moved = |place| self.template.moved(place, &values);
            meter::usage_of_object(&data[moved(figures.start)..moved(figures.end)])
        });
        (event.name != Some(b"error")).then(|| (Text::of_raw(bytes.slice_ref(text)), figures))
    }

    /// Remembers an event that brought `text`, a slice of it, and figures with `has_figures`; says where these stand.
    fn learn(&mut self, data: &Bytes, text: &[u8], has_figures: bool) -> Option<Parts> {
        if !Template::may_learn(data) {
            return None;
        }
        let start = text.as_ptr().addr().checked_sub(data.as_ptr().addr() + 1)?;
        let quoted = Raw(data.get(start..start + text.len() + 2)?);
        quoted.text()?;
        let (mut free, mut place, mut figures) = (Free::default(), None, None);
        Cursor::new(data).members(|key, cursor| {
            let value = cursor.value()?;
            if value.0.as_ptr_range().contains(&quoted.0.as_ptr()) {
                place = Some(free.len());
                free.note(quoted);
            } else if IGNORED.contains(&key) {
                free.note(value);
            } else if has_figures && FIGURES.contains(&key) && value.kind() == Kind::Object {
                let start = value.0.as_ptr().addr() - data.as_ptr().addr();
                // One that tells them twice is read in full.
                figures.replace(start..start + value.0.len()).is_none().then_some(())?;
                note_numbers(&mut Cursor::new(value.0), &mut free)?;
            }
            Some(())
        })?;
        self.template.learn(data, &free);
        (has_figures == figures.is_some()).then_some(Parts { text: place?, figures })
    }
}

/// Notes every number in the next value of a cursor.
fn note_numbers<'a>(cursor: &mut Cursor<'a>, free: &mut Free<'a>) -> Option<()> {
    let value = cursor.value()?;
    match value.kind() {
        Kind::Object => Cursor::new(value.0).members(|_, cursor| note_numbers(cursor, free)),
        Kind::Array => Cursor::new(value.0).elements(|cursor| note_numbers(cursor, free)),
        Kind::Number => {
            free.note(value);
            Some(())
        }
        _ => Some(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dialect::anthropic_messages::AnthropicMessages;
    use crate::dialect::gemini_generate::GeminiGenerate;
    use crate::dialect::openai_chat::OpenAiChat;
    use crate::dialect::openai_responses::OpenAiResponses;

    /// What a stream means, its events as `(name, data)`: how many of them were decoded, and what a decoder makes of all of them.
    fn read(codec: &dyn Codec, events: &[(&str, &str)]) -> (usize, String, String) {
        let (mut reader, mut decoder) = (StreamReader::new(codec), codec.stream_decoder());
        let (mut read, mut decoded, mut full) = (Vec::new(), Vec::new(), 0);
        for (name, data) in events {
            let bytes = Bytes::from(format!("event: {name}\ndata: {data}\n\n"));
            for event in sse::events(&bytes) {
                full += usize::from(reader.parts_of(&event, &bytes).is_none());
                let results = (
                    reader.push(&event, &bytes, &mut read),
                    decoder.push(event.name, &Bytes::copy_from_slice(data.as_bytes()), &mut decoded),
                );
                assert_eq!(results.0, results.1, "{data}");
            }
        }
        (full, format!("{read:?}"), format!("{decoded:?}"))
    }

    fn chunk(created: u32, delta: &str) -> String {
        format!(r#"{{"created":{created},"choices":[{{"index":0,"delta":{delta}}}],"obfuscation":"{created}"}}"#)
    }

    #[test]
    fn a_text_like_the_one_before_is_not_decoded_again() {
        let texts = ["one", "two", r"th\u0072ee", "four"].map(|text| format!(r#"{{"content":"{text}"}}"#));
        let chunks: Vec<String> = (0..).zip(&texts).map(|(at, delta)| chunk(at, delta)).collect();
        let events: Vec<(&str, &str)> = chunks.iter().map(|chunk| ("", &chunk[..])).collect();
        let (full, read, decoded) = read(&OpenAiChat, &events);
        assert_eq!((full, read), (2, decoded), "the first one opens the block, the second one is learnt");
    }

    #[test]
    fn every_other_event_is_decoded_and_what_was_learnt_before_it_is_forgotten() {
        let text = chunk(0, r#"{"content":"a"}"#);
        let (thought, empty) = (chunk(0, r#"{"reasoning":"b"}"#), chunk(0, r#"{"content":""}"#));
        let (call, end) = (
            chunk(0, r#"{"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":"{"}}]}"#),
            r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
        );
        for between in [&thought[..], &empty, &call, end, "[DONE]", r#"{"error":{"message":"no"}}"#, "nonsense"] {
            let events = [("", &text[..]), ("", &text), ("", &text), ("", between), ("", &text), ("", &text)];
            let (full, read, decoded) = read(&OpenAiChat, &events);
            assert_eq!(read, decoded, "{between}");
            assert!(full > 3, "{between}");
        }
        let (_, read, decoded) = read(&OpenAiChat, &[("", &text), ("", &text), ("error", &text), ("", &text)]);
        assert_eq!(read, decoded);
    }

    fn figured(text: &str, prompt: u32, total: u32) -> String {
        format!(
            r#"{{"candidates":[{{"content":{{"parts":[{{"text":"{text}"}}],"role":"model"}}}}],"usageMetadata":{{"promptTokenCount":{prompt},"totalTokenCount":{total},"promptTokensDetails":[{{"modality":"TEXT","tokenCount":{prompt}}}]}},"modelVersion":"g"}}"#
        )
    }

    #[test]
    fn figures_beside_a_text_are_read_without_the_rest_of_the_event() {
        let events = [("one", 1, 10), ("two", 12, 9), ("three", 1, 1234)].map(|(text, a, b)| figured(text, a, b));
        let events: Vec<(&str, &str)> = events.iter().map(|event| ("", &event[..])).collect();
        let (full, told, decoded) = read(&GeminiGenerate, &events);
        assert_eq!((full, &told), (2, &decoded), "the first one opens the block, the second one is learnt");
        assert!(told.contains("input_tokens: Some(12)"), "{told}");
        let usage = |tokens| {
            format!(
                r#"{{"choices":[{{"index":0,"delta":{{"content":"a"}}}}],"usage":{{"completion_tokens":{tokens}}}}}"#
            )
        };
        let twice = usage(1).replace("\"choices\"", "\"usage\":{},\"choices\"");
        for between in [&usage(7)[..], &twice, &chunk(0, r#"{"content":"b"}"#)] {
            let (a, b) = (usage(1), usage(20));
            let events = [&a[..], &a, &b, between, between, between, &b, &b].map(|event| ("", event));
            let (_, read, decoded) = read(&OpenAiChat, &events);
            assert_eq!(read, decoded, "{between}");
        }
    }

    #[test]
    fn a_closed_block_gets_no_more_text() {
        let start = r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#;
        let text = r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}"#;
        let stop = r#"{"type":"content_block_stop","index":0}"#;
        let (_, read, decoded) = read(&AnthropicMessages, &[start, text, text, stop, text].map(|data| ("", data)));
        assert_eq!(read, decoded);
        assert_eq!(read.matches("Delta {").count(), 2, "{read}");
    }

    proptest! {
        #[test]
        fn a_stream_means_what_its_decoder_says(
            pieces in proptest::collection::vec(("[a-c\"\\\\u0]{0,4}", 0_u8..3, 0_u8..2), 0..20),
        ) {
            let events: Vec<String> = (0..).zip(pieces).map(|(number, (text, kind, place))| match kind {
                0 => format!(r#"{{"type":"response.output_text.delta","output_index":{place},"delta":"{text}","sequence_number":{number}}}"#),
                1 => format!(r#"{{"type":"response.refusal.delta","output_index":{place},"delta":"{text}","sequence_number":{number}}}"#),
                _ => format!(r#"{{"type":"response.output_item.done","output_index":{place},"item":{{}}}}"#),
            }).collect();
            let events: Vec<(&str, &str)> = events.iter().map(|event| ("", &event[..])).collect();
            let (_, read, decoded) = read(&OpenAiResponses, &events);
            prop_assert_eq!(read, decoded);
        }
    }
}
