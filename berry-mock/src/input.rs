//! Reading requests: JSON bodies, parameter by parameter, with errors that name what is wrong.

use serde_json::Value;

use crate::error::ApiError;
use crate::route::Call;

/// A request body of JSON whose model is served.
pub(crate) struct Input {
    body: Value,
    pub(crate) model: String,
}

impl Input {
    /// Reads the body of a request. Where the path names the model, the body need not.
    pub(crate) fn new(call: &Call<'_>, from_path: Option<&str>) -> Result<Self, ApiError> {
        let body = match serde_json::from_slice(call.body) {
            Ok(body @ Value::Object(_)) => body,
            Ok(_) => return Err(ApiError::invalid("The body must be a JSON object.")),
            Err(error) => {
                return Err(ApiError::invalid(format!("We could not parse the JSON body of your request: {error}")));
            }
        };
        let model = match (body.get("model"), from_path) {
            // A deployment is what its path says, whatever the body calls it.
            (_, Some(model)) => model.to_owned(),
            (Some(Value::String(model)), None) if !model.is_empty() => model.clone(),
            (None | Some(Value::Null), None) => return Err(ApiError::missing("model")),
            _ => return Err(ApiError::wrong("model", "a string")),
        };
        if from_path.is_none() && !call.script.serves(&model) {
            return Err(ApiError::model_not_found(&model));
        }
        Ok(Self { body, model })
    }

    /// A request within a request.
    pub(crate) fn of(body: &Value, model: &str) -> Self {
        Self { body: body.clone(), model: model.to_owned() }
    }

    /// The whole body.
    pub(crate) fn whole(&self) -> &Value {
        &self.body
    }

    /// A parameter that is spelt in two ways.
    pub(crate) fn either(&self, one: &str, other: &str) -> Option<&Value> {
        self.get(one).or(self.get(other))
    }

    /// A parameter; null is the same as nothing.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.body.get(name).filter(|value| !value.is_null())
    }

    pub(crate) fn bool(&self, name: &'static str) -> Result<Option<bool>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| ApiError::wrong(name, "a boolean"))
    }

    pub(crate) fn number(&self, name: &'static str) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_u64().map(Some).ok_or_else(|| ApiError::wrong(name, "a number of zero or more"))
    }

    pub(crate) fn stream(&self) -> Result<bool, ApiError> {
        Ok(self.bool("stream")?.unwrap_or(false))
    }

    /// `n`, within its bounds.
    pub(crate) fn alternatives(&self) -> Result<u64, ApiError> {
        match self.number("n")? {
            None => Ok(1),
            Some(n @ 1..=128) => Ok(n),
            Some(_) => Err(ApiError::wrong("n", "a number from 1 to 128")),
        }
    }

    /// A list of strings; none when it is absent.
    pub(crate) fn strings(&self, name: &'static str) -> Result<Vec<String>, ApiError> {
        let wrong = || ApiError::wrong(name, "an array of strings");
        let Some(list) = self.get(name) else {
            return Ok(Vec::new());
        };
        let list = list.as_array().ok_or_else(wrong)?;
        list.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
    }

    /// `stop`: a string or up to four of them.
    pub(crate) fn stops(&self) -> Result<Vec<String>, ApiError> {
        if let Some(Value::String(stop)) = self.get("stop") {
            return Ok(vec![stop.clone()]);
        }
        let stops = self.strings("stop")?;
        if stops.len() <= 4 { Ok(stops) } else { Err(ApiError::wrong("stop", "a string or up to 4 of them")) }
    }

    /// Whether the stream ends with a chunk of usage.
    pub(crate) fn include_usage(&self) -> bool {
        self.get("stream_options").is_some_and(|options| options["include_usage"] == true)
    }
}

/// The text of a message's or an item's content: a string, or the text parts of a list.
pub(crate) fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts = parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str));
            texts.collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}
