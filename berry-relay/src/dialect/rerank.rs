//! Reranking: one request of Cohere's, Jina's or Voyage's form, for a vendor of another form, and the answer in the client's.
//!
//! Facts: docs.cohere.com/reference/rerank (second version), api.jina.ai, docs.voyageai.com/reference/reranker-api, read in 2026. Cohere
//! and Jina name their results alike, so a client of either understands the same answer; Voyage's clients are known by `top_k` or
//! `truncation` in their requests.

use berry_core::config::provider_data::RerankForm;
use bytes::Bytes;

use super::Malformed;
use super::loss::{Losses, Reason};
use super::text::{Fields, Json, Text, Writer};
use crate::body::Chunks;

/// A request for a ranking, read once.
#[derive(Clone, Debug)]
pub struct Request {
    query: Text,
    documents: Vec<Text>,
    /// How many results are wanted.
    top: Option<u64>,
    /// Whether results are to repeat their documents.
    return_documents: bool,
    /// Whether the client reads Voyage's form of an answer.
    for_voyage: bool,
    /// Members that some vendor knows.
    others: Vec<(String, Json)>,
}

impl Request {
    /// Reads a request of any of the forms.
    ///
    /// # Errors
    /// [`Malformed`]: not one, or one whose documents are no texts.
    pub fn read(body: &Bytes) -> Result<Self, Malformed> {
        let mut fields = Fields::read(body)?;
        fields.take("model");
        let query = fields.text("query").ok_or_else(|| Malformed::new("query", "is needed, as a text"))?;
        let documents = fields.take("documents").ok_or_else(|| Malformed::new("documents", "is needed"))?;
        let text = |document: &Json| document.text().or_else(|| document.fields().text("text"));
        let documents = documents.elements().iter().map(text).collect::<Option<Vec<_>>>().ok_or_else(|| {
            Malformed::new("documents", "are texts, or objects with a `text`, for a backend of another vendor")
        })?;
        let top_k = fields.take("top_k");
        let truncation = fields.take("truncation");
        let for_voyage = top_k.is_some() || truncation.is_some();
        let top = fields.take("top_n").or(top_k).and_then(|top| top.integer());
        let return_documents = fields.take("return_documents").and_then(|asked| asked.boolean()).unwrap_or(false);
        let truncation = truncation.map(|truncation| ("truncation".to_owned(), truncation));
        let others = fields.rest().filter(|(_, value)| !value.is_nothing()).chain(truncation).collect();
        Ok(Self { query, documents, top, return_documents, for_voyage, others })
    }

    /// Writes it in a vendor's form.
    pub fn write(&self, form: RerankForm, model: &str, losses: &mut Losses) -> Chunks {
        let (top, known): (_, &[&str]) = match form {
            RerankForm::Cohere => ("top_n", &["max_tokens_per_doc", "priority"]),
            RerankForm::Jina => ("top_n", &[]),
            RerankForm::Voyage => ("top_k", &["truncation"]),
        };
        let mut writer = Writer::new();
        writer.object(|w| {
            w.key("model").string(model);
            w.key("query").text(&self.query);
            w.key("documents").list(|w| self.documents.iter().for_each(|document| w.text(document)));
            if let Some(number) = self.top {
                w.key(top).integer(number);
            }
            for (name, value) in &self.others {
                match known.contains(&name.as_str()) {
                    true => w.quoted_key(name).json(value),
                    false => losses.add(name.clone(), Reason::Unsupported),
                }
            }
        });
        writer.finish()
    }

    /// Input tokens by a rule of thumb, for vendors that count searches.
    pub fn estimate(&self) -> u64 {
        let bytes: usize = self.documents.iter().chain([&self.query]).map(|text| text.raw().len()).sum();
        bytes.div_ceil(4) as u64
    }

    /// The client's form of a vendor's answer.
    ///
    /// # Errors
    /// [`Malformed`]: it is none.
    pub fn answer(&self, body: &Bytes, model: &str) -> Result<Bytes, Malformed> {
        let mut fields = Fields::read(body)?;
        let results = fields.take_any("results").or_else(|| fields.take_any("data"));
        let results = results.ok_or_else(|| Malformed::new("results", "are not there"))?.elements();
        let mut bad = None;
        let mut writer = Writer::new();
        writer.object(|w| {
            if self.for_voyage {
                w.key("object").word("list");
            }
            if let Some(id) = fields.take("id") {
                w.key("id").json(&id);
            }
            w.key("model").string(model);
            w.key(if self.for_voyage { "data" } else { "results" }).list(|w| {
                for result in &results {
                    bad = self.result(result.fields(), w).err().or(bad.take());
                }
            });
            for name in ["usage", "meta"] {
                if let Some(value) = fields.take(name) {
                    w.key(name).json(&value);
                }
            }
        });
        bad.map_or_else(|| Ok(writer.finish().into_bytes()), Err)
    }

    fn result(&self, mut result: Fields, w: &mut Writer) -> Result<(), Malformed> {
        let bad = |field| Malformed::new(field, "is not there, or is none");
        let index = result.take("index").and_then(|index| index.integer()).ok_or_else(|| bad("results.index"))?;
        let document = usize::try_from(index).ok().and_then(|index| self.documents.get(index));
        let document = document.ok_or_else(|| bad("results.index"))?;
        let score = result.take("relevance_score").ok_or_else(|| bad("results.relevance_score"))?;
        w.object(|w| {
            w.key("index").integer(index);
            w.key("relevance_score").json(&score);
            match (self.return_documents, self.for_voyage) {
                (false, _) => {}
                (true, true) => w.key("document").text(document),
                (true, false) => w.key("document").object(|w| w.key("text").text(document)),
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &'static str) -> Request {
        Request::read(&Bytes::from_static(body.as_bytes())).unwrap()
    }

    fn written(request: &Request, form: RerankForm) -> (String, String) {
        let mut losses = Losses::default();
        let body = request.write(form, "up", &mut losses).into_bytes();
        (String::from_utf8(body.to_vec()).unwrap(), losses.header())
    }

    const JINA: &str = r#"{"model":"m","query":"q","documents":["a",{"text":"b\u00e9"}],"top_n":1,"return_documents":true,"max_tokens_per_doc":9}"#;

    #[test]
    fn each_vendor_is_asked_in_its_own_words_and_what_it_does_not_know_is_declared() {
        let request = read(JINA);
        assert_eq!(
            written(&request, RerankForm::Cohere),
            (
                r#"{"model":"up","query":"q","documents":["a","b\u00e9"],"top_n":1,"max_tokens_per_doc":9}"#.to_owned(),
                String::new()
            )
        );
        assert_eq!(
            written(&request, RerankForm::Voyage),
            (
                r#"{"model":"up","query":"q","documents":["a","b\u00e9"],"top_k":1}"#.to_owned(),
                "max_tokens_per_doc;unsupported".to_owned()
            )
        );
    }

    #[test]
    fn an_answer_has_the_clients_names_and_the_documents_where_they_were_asked_for() {
        let voyage = Bytes::from_static(
            br#"{"object":"list","data":[{"relevance_score":0.50,"index":1}],"model":"up","usage":{"total_tokens":7}}"#,
        );
        assert_eq!(
            read(JINA).answer(&voyage, "m").unwrap(),
            r#"{"model":"m","results":[{"index":1,"relevance_score":0.50,"document":{"text":"b\u00e9"}}],"usage":{"total_tokens":7}}"#
        );
        let cohere = Bytes::from_static(
            br#"{"id":"i","results":[{"index":0,"relevance_score":1e-3}],"meta":{"billed_units":{"search_units":1}}}"#,
        );
        let client = read(r#"{"query":"q","documents":["a"],"top_k":3}"#);
        assert_eq!(
            client.answer(&cohere, "m").unwrap(),
            r#"{"object":"list","id":"i","model":"m","data":[{"index":0,"relevance_score":1e-3}],"meta":{"billed_units":{"search_units":1}}}"#
        );
    }

    #[test]
    fn what_is_no_ranking_is_refused() {
        for body in [r#"{"query":"q"}"#, r#"{"documents":["a"]}"#, r#"{"query":"q","documents":[{"image":"x"}]}"#] {
            assert!(Request::read(&Bytes::from_static(body.as_bytes())).is_err(), "{body}");
        }
        for answer in [r#"{}"#, r#"{"results":[{"index":9,"relevance_score":1}]}"#, r#"{"results":[{"index":0}]}"#] {
            assert!(read(JINA).answer(&Bytes::from_static(answer.as_bytes()), "m").is_err(), "{answer}");
        }
    }
}
