//! `/openapi.json`: Berry's own endpoints, described from the table of routes.
//!
//! Path, methods and who may use a route are what the table says; [`ROUTES`] adds what it does and what it takes. The calls of the
//! vendors' APIs are described by the vendors and are not here. Bodies are described as far as clients need to write them.

use std::sync::OnceLock;

use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use serde_json::{Map, Value, json};

use super::Access;

/// A route, as the table has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listed {
    pub(super) access: Access,
    pub(super) path: &'static str,
    /// As `Allow` says it.
    pub(super) methods: &'static str,
}

/// What one method of a route does.
struct About {
    path: &'static str,
    method: &'static str,
    summary: &'static str,
    /// Name and JSON type of what stands in the query.
    query: &'static [(&'static str, &'static str)],
    takes: Takes,
    gives: &'static str,
}

/// What is posted.
enum Takes {
    Nothing,
    /// A JSON object with these members: name, JSON type, whether it must be there.
    Object(&'static [(&'static str, &'static str, bool)]),
    Toml,
}

const JSON: &str = "application/json";
const TEXT: &str = "text/plain";
const HTML: &str = "text/html";

const fn read(path: &'static str, summary: &'static str) -> About {
    About { path, method: "GET", summary, query: &[], takes: Takes::Nothing, gives: JSON }
}

const fn page(path: &'static str, summary: &'static str, gives: &'static str) -> About {
    About { gives, ..read(path, summary) }
}

const fn act(path: &'static str, method: &'static str, summary: &'static str, takes: Takes) -> About {
    About { path, method, summary, query: &[], takes, gives: JSON }
}

const fn filtered(path: &'static str, summary: &'static str, query: &'static [(&'static str, &'static str)]) -> About {
    About { query, ..read(path, summary) }
}

/// Anything but `true` and `1` is a no.
const WEIGHTS_QUERY: &[(&str, &str)] = &[("detailed", "string"), ("enabled_only", "string")];
const USAGE_QUERY: &[(&str, &str)] = &[
    ("from", "string"),
    ("to", "string"),
    ("user", "string"),
    ("model", "string"),
    ("provider", "string"),
    ("status", "integer"),
    ("error_class", "string"),
    ("end_user", "string"),
    ("label", "string"),
    ("group_by", "string"),
    ("limit", "integer"),
    ("cursor", "string"),
    ("format", "string"),
];
const CHANGE: &[(&str, &str, bool)] = &[
    ("action", "string", true),
    ("provider", "string", true),
    ("model", "string", false),
    ("upstream", "string", false),
    ("weight", "number", false),
    ("expires_in_seconds", "number", false),
    ("reason", "string", false),
];
const KEY: &[(&str, &str, bool)] = &[
    ("name", "string", true),
    ("allowed_models", "array", false),
    ("allowed_networks", "array", false),
    ("tags", "array", false),
    ("rate_limit", "object", false),
    ("model_rate_limits", "object", false),
    ("budget", "object", false),
    ("expires_in_seconds", "integer", false),
];
const ERASE: &[(&str, &str, bool)] = &[("end_user", "string", true)];
const QUESTION: &[(&str, &str, bool)] =
    &[("model", "string", true), ("user", "string", false), ("backend", "string", false), ("dialect", "string", false)];

/// Every method of every route.
const ROUTES: &[About] = &[
    page("/", "What this is: a page for browsers, a line of text otherwise", HTML),
    page("/dashboard", "The dashboard", HTML),
    page("/status", "The dashboard", HTML),
    page("/dashboard/app.js", "The dashboard's script", "text/javascript"),
    page("/dashboard/app.css", "The dashboard's style", "text/css"),
    read("/openapi.json", "This description"),
    filtered("/health", "State of everything; 200 while the gateway works", &[("strict", "string")]),
    filtered("/v1/health", "State in short", &[("strict", "string")]),
    page("/livez", "Whether the process lives", TEXT),
    page("/readyz", "Whether requests are taken; 503 while the process drains", TEXT),
    read("/metrics", "Figures as JSON"),
    page("/prometheus", "Figures for Prometheus", TEXT),
    filtered("/smart-ai/weights", "Weights and confidence in use", WEIGHTS_QUERY),
    filtered("/smart-ai/models/{model}/weights", "Weights and confidence of one model", WEIGHTS_QUERY),
    filtered("/admin/model-weights", "Weights that the strategies use now", &[("model", "string")]),
    read("/admin/backend-health", "State of each backend, with the reason"),
    read("/admin/system-stats", "State of the system in short"),
    filtered("/admin/rate-limit-usage", "Use of a user's limits", &[("user_id", "string")]),
    filtered(
        "/admin/budgets",
        "What budgets are used up",
        &[("user", "string"), ("tag", "string"), ("limit", "integer"), ("cursor", "string")],
    ),
    filtered("/admin/usage", "What requests used and cost: rows, or sums with group_by", USAGE_QUERY),
    filtered("/v1/usage", "The same of the user who asks, of the last month at most", USAGE_QUERY),
    act("/admin/ledger/backup", "POST", "Copies the ledger into a new file of the data directory", Takes::Nothing),
    act("/admin/ledger/erase", "POST", "Forgets a user of a client in the ledger", Takes::Object(ERASE)),
    act("/admin/reload-config", "POST", "Reads the configuration file again", Takes::Nothing),
    read("/admin/changes", "Changes made at run time"),
    act("/admin/changes", "POST", "Changes backends at run time", Takes::Object(CHANGE)),
    act("/admin/changes/{id}", "DELETE", "Takes a change back", Takes::Nothing),
    read("/admin/keys", "Keys issued at run time, without their tokens"),
    act("/admin/keys", "POST", "Issues a key; its token is told once", Takes::Object(KEY)),
    act("/admin/keys/{id}/rotate", "POST", "Gives a key another token", Takes::Nothing),
    act("/admin/keys/{id}", "DELETE", "Revokes a key", Takes::Nothing),
    filtered("/admin/audit", "What administrators changed, the newest first", &[("limit", "integer")]),
    read("/admin/config", "The configuration in force, secrets hidden"),
    read("/admin/config/history", "Configurations that were in force"),
    act("/admin/config/validate", "POST", "Checks a configuration and says what it would change", Takes::Toml),
    act(
        "/admin/config/rollback",
        "POST",
        "Puts an earlier configuration in force",
        Takes::Object(&[("generation", "integer", true)]),
    ),
    act("/admin/explain", "POST", "What would be chosen now, and why", Takes::Object(QUESTION)),
    read("/admin/explain/{request_id}", "How a request's backends were chosen, and what it cost"),
    read("/models", "Models that the user may use"),
    read("/v1/models", "Models that the user may use"),
    read("/v1/models/{id}", "One model"),
    filtered(
        "/v1/capabilities",
        "What each backend of a model takes of each dialect, and its limits",
        &[("model", "string")],
    ),
    read("/v1beta/models", "Models that the user may use, as Gemini lists them"),
    read("/v1beta/models/{id}", "One model, as Gemini describes it"),
    read("/v1/responses/{id}", "A response that an upstream keeps"),
    act("/v1/responses/{id}", "DELETE", "Deletes a response that an upstream keeps", Takes::Nothing),
    act("/v1/responses/{id}/cancel", "POST", "Cancels a response that runs in the background", Takes::Nothing),
    read("/v1/responses/{id}/input_items", "What a kept response was asked"),
];

/// The description, made once from the whole table.
#[derive(Default)]
pub(super) struct Description(OnceLock<Bytes>);

impl Description {
    /// Sets what is answered.
    pub(super) fn describe(&self, table: &[Listed]) {
        // The router is made once; a second description would be the same.
        let _ = self.0.set(Bytes::from(document(table).to_string()));
    }

    /// `GET /openapi.json`.
    pub(super) fn page(&self) -> Response {
        let body = self.0.get().cloned().unwrap_or_default();
        ([(CONTENT_TYPE, JSON)], body).into_response()
    }
}

fn document(table: &[Listed]) -> Value {
    let mut paths = Map::new();
    for route in table {
        let path = route.path.replace("{*", "{");
        let methods = route.methods.split(", ").filter(|method| *method != "HEAD");
        let operations = methods.map(|method| (method.to_lowercase(), operation(route, &path, method)));
        paths.insert(path.clone(), operations.collect::<Map<_, _>>().into());
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Berry API",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "GPL-3.0-only", "identifier": "GPL-3.0-only"},
            "description": "Berry's own endpoints. The vendors' APIs that it serves are described by the vendors."
        },
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": error_schema()},
        },
    })
}

fn error_schema() -> Value {
    let text = || json!({"type": ["string", "null"]});
    json!({
        "type": "object",
        "description": "What went wrong and what to do. On /v1beta the shape is Gemini's.",
        "properties": {"error": {
            "type": "object",
            "required": ["message"],
            "properties": {"message": {"type": "string"}, "type": text(), "param": text()},
        }},
    })
}

fn operation(route: &Listed, path: &str, method: &str) -> Value {
    let about = ROUTES.iter().find(|about| about.path == path && about.method == method);
    let about =
        about.unwrap_or(&About { path: "", method: "", summary: "", query: &[], takes: Takes::Nothing, gives: JSON });
    let mut operation = json!({
        "summary": about.summary,
        "parameters": parameters(path, about.query),
        "responses": responses(route.access, about.gives),
    });
    match route.access {
        Access::Open => {}
        // Closed only where `protect_monitoring` says so.
        Access::Monitoring => operation["security"] = json!([{}, {"token": []}]),
        Access::User | Access::Admin => operation["security"] = json!([{"token": []}]),
    }
    // An empty text is a configuration too, if not a valid one.
    let (required, body) = match about.takes {
        Takes::Nothing => return operation,
        Takes::Toml => (false, json!({"text/plain": {}})),
        Takes::Object(members) => (true, json!({JSON: {"schema": object(members)}})),
    };
    operation["requestBody"] = json!({"required": required, "content": body});
    operation
}

fn object(members: &[(&str, &str, bool)]) -> Value {
    let properties: Map<_, _> =
        members.iter().map(|(name, kind, _)| ((*name).to_owned(), json!({"type": kind}))).collect();
    let required: Vec<_> = members.iter().filter(|(_, _, required)| *required).map(|(name, ..)| *name).collect();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

fn parameters(path: &str, query: &[(&str, &str)]) -> Vec<Value> {
    let in_path = path.split('{').skip(1).filter_map(|rest| rest.split_once('}'));
    let in_path = in_path.map(
        |(name, _)| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "minLength": 1}}),
    );
    let in_query = query.iter().map(|(name, kind)| json!({"name": name, "in": "query", "schema": {"type": kind}}));
    in_path.chain(in_query).collect()
}

fn responses(access: Access, gives: &str) -> Value {
    let refused =
        |why: &str| json!({"description": why, "content": {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}});
    let schema = if gives == JSON { json!({"type": "object"}) } else { json!({"type": "string"}) };
    let mut good = Map::from_iter([(gives.to_owned(), json!({"schema": schema}))]);
    if gives == HTML {
        good.insert(TEXT.to_owned(), json!({"schema": {"type": "string"}}));
    }
    let any = json!({"description": "It cannot be done; the body says why", "content": {JSON: {}, TEXT: {}}});
    let mut responses = json!({"200": {"description": "It is done", "content": good}, "default": any});
    if access != Access::Open {
        responses["401"] = refused("No token, or not one of a user");
    }
    if matches!(access, Access::Monitoring | Access::Admin) {
        responses["403"] = refused("The user is no administrator");
    }
    responses
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_method_of_every_route_is_described_and_nothing_else_is() {
        let table = super::super::listed_for_test();
        let in_table: BTreeSet<(String, &str)> = table
            .iter()
            .flat_map(|route| route.methods.split(", ").map(|method| (route.path.replace("{*", "{"), method)))
            .filter(|(_, method)| *method != "HEAD")
            .collect();
        let described: BTreeSet<(String, &str)> =
            ROUTES.iter().map(|about| (about.path.to_owned(), about.method)).collect();
        assert!(in_table.len() > 30);
        let missing: Vec<_> = in_table.difference(&described).collect();
        assert!(missing.is_empty(), "add a row to ROUTES: {missing:?}");
        let gone: Vec<_> = described.difference(&in_table).filter(|(path, _)| path != "/prometheus").collect();
        assert!(gone.is_empty(), "no such route: {gone:?}");
    }

    #[test]
    fn closed_routes_ask_for_a_token_and_open_ones_do_not() {
        let document = document(&super::super::listed_for_test());
        let paths = &document["paths"];
        assert_eq!(paths["/admin/config"]["get"]["security"], json!([{"token": []}]));
        assert!(paths["/health"]["get"].get("security").is_none());
        assert_eq!(paths["/v1/models/{id}"]["get"]["parameters"][0]["name"], "id");
        assert_eq!(paths["/admin/changes"]["post"]["requestBody"]["required"], true);
    }
}
