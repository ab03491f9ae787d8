//! OpenAI's chat completions.

mod request;
mod response;
mod stream;
#[cfg(test)]
mod tests;
mod wire;

use bytes::Bytes;

use super::ir::{Request, Response, UpstreamError};
use super::loss::Losses;
use super::{Codec, Malformed, Reply, StreamDecoder, StreamEncoder, Target, error};
use crate::body::Chunks;

/// The codec of this dialect.
#[derive(Clone, Copy, Debug)]
pub struct OpenAiChat;

impl Codec for OpenAiChat {
    fn decode_request(&self, body: &Bytes, losses: &mut Losses) -> Result<Request, Malformed> {
        request::decode(body, losses)
    }

    fn encode_request(&self, request: &Request, target: &Target<'_>, losses: &mut Losses) -> Result<Chunks, Malformed> {
        request::encode(request, target, losses)
    }

    fn decode_response(&self, body: &Bytes) -> Result<Response, Malformed> {
        response::decode(body)
    }

    fn encode_response(&self, response: &Response, reply: &Reply) -> Bytes {
        response::encode(response, reply)
    }

    fn stream_decoder(&self) -> Box<dyn StreamDecoder> {
        Box::<stream::Decoder>::default()
    }

    fn stream_encoder(&self, reply: &Reply) -> Box<dyn StreamEncoder> {
        Box::new(stream::Encoder::new(reply))
    }

    fn encode_error(&self, error: &UpstreamError, status: u16, _request_id: &str) -> (u16, Bytes) {
        (error::openai_status(error, status), error::openai_body(error))
    }
}
