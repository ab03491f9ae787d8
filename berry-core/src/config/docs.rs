//! Writes docs/configuration.md from the declarations of the keys, so that the page cannot say anything else than the code.

use std::fmt::Write as _;

use super::Config;
use super::decode::Table as _;
use super::interpolate::ProcessEnvironment;
use super::locate::SEARCH_ORDER;
use super::raw::RawConfig;
use super::schema::{self, Bounds, KeySchema, Kind, TableSchema};
use super::snapshot::{Azure, AzureStyle, Provider, Upstream};

const HEAD: &str = "\
# Configuration

This page is generated from the code: `BERRY_UPDATE_DOCS=1 cargo test -p berry-core --test docs` writes it.

The configuration is one TOML file. `config-example.toml` shows every key and runs as it is. The file is checked as a whole when
the server starts: every problem is reported at once with its line, column and a suggestion, and nothing that is written is
ignored in silence. `berry-api --check-config` and `berry-cli validate-config -c FILE` do the same without starting anything.

- An unknown key is an error. So is a value of the wrong type or outside its range.
- A key that has no effect is a warning: one that belongs to another `backend_type` or store, one that nothing acts on yet
  ([roadmap.md](roadmap.md)), or one of a feature that the server was built without.
- Every table is optional; what the server then cannot do is a warning. A file without any key is refused: it was probably cut off
  while it was written.
- What is switched off with `enabled = false` takes no traffic and is never refused for a key or a variable that is missing.
- A short token, or one from an example, is a warning. Two users with the same token, or two models with the same name, are an
  error that names both places.
- Keys and tokens never appear in messages: the lines that are shown beside a message have them masked.
";

const STRINGS: &str = "\
## Strings

| Written | Becomes |
|---|---|
| `${NAME}` | the environment variable; an error when it is not set |
| `${NAME:-default}` | the same, or the default when it is not set or empty; the default ends at the next `}` |
| `${file:/path}` | the text of the file, without one line break at its end; a regular file of at most 64 KiB |
| `$${` | a literal `${` |

Any other `$` is itself. What is put in is not looked at again. Keys, numbers and booleans hold no references.
";

const ADMIN: &str = "\
## Administrators

An administrator is a user with the tag `admin`. Where no user has it, the enabled user whose table name is `admin` and whose
`allowed_models` is empty is taken for one, with a warning that shows the line to add. Where there is none, `/admin/*` and the data
of the dashboard are closed to everybody.
";

const TIMEOUTS: &str = "\
## Timeouts

For each kind of silence the first of these that is written holds:

1. the finer key of the provider;
2. `timeout_seconds` of the provider;
3. the finer key in `[settings]`;
4. `request_timeout_seconds` in `[settings]`;
5. the built-in time.

| Silence | Finer key | Built in |
|---|---|---|
| before the headers of a plain answer | `completion_timeout_seconds` | 600 |
| before the headers of a stream | | 30 |
| between two chunks of a stream | `stream_idle_timeout_seconds` | 120 |
| before the first content of a stream | `first_token_timeout_seconds`, and nothing else | no limit |
| while connecting | `connect_timeout_seconds`, and nothing else | 5 |

`total_timeout_seconds`, and a client's `x-request-timeout` header, which may only shorten it, bound all attempts together.
";

const ADDRESSES: &str = "\
## Addresses

One rule for `base_url`: a slash at the end is cut off. A full endpoint URL is taken at its word: what stands before the endpoint
is the base, and nothing is added. Otherwise a version is added where there is none: `/v1` for OpenAI-compatible upstreams, only
where the URL has no path at all; `/v1` for Claude and `/v1beta` for Gemini wherever the path does not end in a version.

Without `backend_type`, `api.anthropic.com` is recognised as Claude and `generativelanguage.googleapis.com` as Gemini. Azure is
recognised by its hosts (`*.openai.azure.com`, `*.services.ai.azure.com`, `*.cognitiveservices.azure.com`, also `.us` and `.cn`) or
by an `api-version` in the address or under `headers`, where it then moves to the query; its path decides the style. A line of the
log says what was recognised.

| Written | `backend_type` | Spoken | Calls go to |
|---|---|---|---|
";

/// Addresses as they are written, with a `backend_type` or none.
const EXAMPLES: &[(&str, &str)] = &[
    ("https://api.openai.com/v1", ""),
    ("https://api.openai.com", ""),
    ("https://api.openai.com/v1/", ""),
    ("https://api.openai.com/v1/chat/completions", ""),
    ("https://openrouter.ai/api/v1", ""),
    ("https://open.bigmodel.cn/api/paas/v4", ""),
    ("https://dashscope.aliyuncs.com/compatible-mode/v1", ""),
    ("https://api.deepseek.com/chat/completions", ""),
    ("http://localhost:11434", ""),
    ("https://api.anthropic.com", ""),
    ("https://api.anthropic.com/v1/messages", ""),
    ("https://api.deepseek.com/anthropic", "claude"),
    ("https://generativelanguage.googleapis.com", ""),
    ("https://generativelanguage.googleapis.com/v1beta/openai", ""),
    ("https://r.openai.azure.com", ""),
    ("https://r.openai.azure.com/openai/deployments/d/chat/completions?api-version=2024-06-01", ""),
    ("https://r.openai.azure.com/openai/v1", ""),
    ("https://r.services.ai.azure.com/models", ""),
    ("https://r.services.ai.azure.com/anthropic", ""),
    ("https://gateway.example.com/team", "azure"),
];

/// The reference of the whole format as Markdown: docs/configuration.md.
pub fn reference() -> String {
    let mut page = String::from(HEAD);
    let order: Vec<String> = SEARCH_ORDER.iter().map(|name| format!("`{name}`")).collect();
    let _ = write!(
        page,
        "\n## Which file\n\n`--config FILE`, else the variable `CONFIG_PATH`, else the first of {} in the working directory. A file\n\
         that was named and is missing is an error. The log says which file is used.\n\n",
        order.join(", ")
    );
    page.push_str(STRINGS);
    page.push('\n');
    page.push_str(ADMIN);
    page.push('\n');
    page.push_str(TIMEOUTS);
    page.push('\n');
    page.push_str(ADDRESSES);
    for (base_url, backend_type) in EXAMPLES {
        page.push_str(&address_row(base_url, backend_type));
    }
    page.push_str("\n## The file\n\n");
    table(&mut page, &RawConfig::SCHEMA);
    schema::walk(&mut |header, schema| section(&mut page, header, schema));
    page
}

/// A table of the format under its header.
pub(super) fn section(page: &mut String, header: &str, schema: &TableSchema) {
    let _ = write!(page, "\n### `{header}`\n\n{}\n\n", paragraph(schema.doc));
    table(page, schema);
}

fn paragraph(doc: &[&str]) -> String {
    doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

fn table(page: &mut String, schema: &TableSchema) {
    page.push_str("| Key | Value | Default | What it is |\n|---|---|---|---|\n");
    for key in schema.keys {
        let default = key.default.map(|text| format!("`{}`", text())).unwrap_or_default();
        let need = if key.required { " **Needed.**" } else { "" };
        let _ = writeln!(page, "| `{}` | {} | {default} | {}{need} |", key.name, value(key), paragraph(key.doc));
    }
}

/// What a key's value looks like, with its range.
fn value(key: &KeySchema) -> String {
    let kind = match (key.kind)() {
        Kind::Leaf(kind) => kind,
        Kind::Table(_) => "table".to_owned(),
        Kind::Map(_) => "tables by name".to_owned(),
        Kind::Tables(_) => "list of tables".to_owned(),
    };
    if key.bounds == Bounds::ANY { kind } else { format!("{kind}, {}", key.bounds) }
}

/// One row of the table of addresses, worked out by the code that the server runs.
fn address_row(base_url: &str, backend_type: &str) -> String {
    let kind = if backend_type.is_empty() { String::new() } else { format!("backend_type = {backend_type:?}\n") };
    let text = format!("[providers.p]\nbase_url = {base_url:?}\n{kind}");
    let loaded = Config::from_text("example", &text, &ProcessEnvironment).expect("the examples are right");
    let provider = loaded.snapshot.providers.values().next().expect("the text has one");
    let (spoken, target) = spoken(provider);
    let written = if backend_type.is_empty() { String::new() } else { format!("`{backend_type}`") };
    format!("| `{base_url}` | {written} | {spoken} | `{target}` |\n")
}

/// What a provider speaks and where a chat call goes.
fn spoken(provider: &Provider) -> (&'static str, String) {
    let trim = |base: &http::Uri| base.to_string().trim_end_matches('/').to_owned();
    match &provider.upstream {
        Upstream::OpenAi { base } => ("OpenAI", format!("{}/chat/completions", trim(base))),
        Upstream::Anthropic { base, .. } => ("Claude", format!("{}/messages", trim(base))),
        Upstream::Gemini { base } => ("Gemini", format!("{}/models/MODEL:generateContent", trim(base))),
        Upstream::Demo(_) => ("demo", "nowhere".to_owned()),
        Upstream::Azure(Azure { base, style, api_version, .. }) => {
            let query = api_version.as_ref().map(|version| format!("?api-version={version}")).unwrap_or_default();
            let path = match style {
                AzureStyle::Deployments => "/openai/deployments/MODEL/chat/completions",
                AzureStyle::V1 | AzureStyle::Inference => "/chat/completions",
            };
            ("Azure", format!("{}{path}{query}", trim(base)))
        }
    }
}
