//! Where Gemini's calls are: the model and what it shall do stand in the path.

use std::borrow::Cow;

use berry_core::operation::Operation;
use http::Uri;
use percent_encoding::percent_decode_str;

/// Where models stand. Google's SDK for Node asks below `/v1` since its version 3, where OpenAI's models are read, so that only a
/// call is one of Gemini there.
const MODELS: [&str; 2] = ["/v1beta/models/", "/v1/models/"];

/// The call at an address and the model that it names, as the client means it: percent-encoding is taken off, and the last colon
/// stands before the action, so that a name may have colons, slashes and `@`.
pub fn call(uri: &Uri) -> Option<(Operation, String)> {
    let path: Cow<'_, str> =
        percent_decode_str(MODELS.iter().find_map(|models| uri.path().strip_prefix(models))?).decode_utf8().ok()?;
    let (model, action) = path.rsplit_once(':')?;
    let operation = Operation::of_gemini_action(action, uri.query())?;
    (!model.is_empty()).then(|| (operation, model.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(uri: &'static str) -> Option<(Operation, String)> {
        call(&Uri::from_static(uri))
    }

    #[test]
    fn a_name_may_have_colons_slashes_and_at_signs_in_any_spelling() {
        for (path, model) in [
            ("/v1beta/models/gemini-2.5-flash:generateContent", "gemini-2.5-flash"),
            ("/v1beta/models/openai/gpt-4o:generateContent", "openai/gpt-4o"),
            ("/v1beta/models/openai%2Fgpt-4o:generateContent", "openai/gpt-4o"),
            ("/v1beta/models/qwen3:8b:generateContent", "qwen3:8b"),
            ("/v1beta/models/claude@2025%3AgenerateContent", "claude@2025"),
            ("/v1beta/models/a%20b%E6%BC%A2:generateContent?key=x", "a b漢"),
            ("/v1/models/qwen3:8b:generateContent", "qwen3:8b"),
        ] {
            assert_eq!(of(path), Some((Operation::GenerateContent, model.to_owned())), "{path}");
        }
    }

    #[test]
    fn the_query_decides_how_a_stream_is_framed() {
        let stream = |query| of(query).map(|(operation, _)| operation);
        assert_eq!(
            stream("/v1beta/models/m:streamGenerateContent?key=k&alt=sse"),
            Some(Operation::StreamGenerateContent)
        );
        assert_eq!(
            stream("/v1beta/models/m:streamGenerateContent?alt=json"),
            Some(Operation::StreamGenerateContentArray)
        );
    }

    #[test]
    fn what_is_no_call_is_left_to_the_router() {
        for path in [
            "/v1beta/models",
            "/v1beta/models/m",
            "/v1beta/models/m:tune",
            "/v1beta/models/:generateContent",
            "/v1/models/qwen3:8b",
            "/v2/models/m:generateContent",
        ] {
            assert_eq!(of(path), None, "{path}");
        }
    }
}
