//! What stands at `/`: a page for people, a line for programs.

use axum::response::{Html, IntoResponse as _, Response};
use http::HeaderMap;
use http::header::ACCEPT;

const LINE: &str = concat!(
    "Berry API ",
    env!("CARGO_PKG_VERSION"),
    ": one gateway to many LLM providers. API at /v1, health at /health, figures at /metrics.\n"
);

const PAGE: &str = concat!(
    r##"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Berry API</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.6 system-ui, sans-serif; max-width: 40rem; margin: 4rem auto; padding: 0 1rem; }
code, pre { font: 14px/1.5 ui-monospace, monospace; }
pre { padding: 1rem; overflow-x: auto; border: 1px solid #8886; border-radius: 6px; }
small { opacity: .7; }
</style>
</head>
<body>
<h1>Berry API <small>"##,
    env!("CARGO_PKG_VERSION"),
    r##"</small></h1>
<p>One address and one token for many LLM providers. Point an OpenAI client at <code>/v1</code>, or an Anthropic client at
this address, and use the token that the operator gave you.</p>
<pre>curl "$BERRY_URL/v1/chat/completions" \
  -H "Authorization: Bearer $BERRY_TOKEN" \
  -H "Content-Type: application/json" \
  -d '{"model": "MODEL", "messages": [{"role": "user", "content": "Hello"}]}'</pre>
<ul>
<li><a href="/dashboard">/dashboard</a>: everything at a glance, for administrators</li>
<li><a href="/health">/health</a>: what works now</li>
<li><a href="/metrics">/metrics</a>: requests and latencies</li>
<li><code>/v1/models</code>: the models that your token may use</li>
</ul>
</body>
</html>
"##
);

/// The page for browsers, the line for everything else.
pub(super) async fn page(headers: HeaderMap) -> Response {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    if accept.contains("text/html") { Html(PAGE).into_response() } else { LINE.into_response() }
}
