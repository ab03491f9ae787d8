//! `/dashboard`: the web page over the admin API, built into the binary.
//!
//! The page is open, what it shows is not: it asks the admin API with the token that the operator types. It brings its own
//! script and style, loads nothing from elsewhere, and may not be framed.

use axum::body::Body;
use axum::response::Response;
use http::HeaderValue;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};

const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'",
);

/// A part of the page.
struct File {
    content_type: HeaderValue,
    bytes: &'static str,
}

/// Built from `dashboard/` with `npm run build`; `scripts/check.sh dashboard` sees that they are what the sources give.
const PAGE: File = File {
    content_type: HeaderValue::from_static("text/html; charset=utf-8"),
    bytes: include_str!("../../../dashboard/dist/index.html"),
};
const SCRIPT: File = File {
    content_type: HeaderValue::from_static("text/javascript; charset=utf-8"),
    bytes: include_str!("../../../dashboard/dist/app.js"),
};
const STYLE: File = File {
    content_type: HeaderValue::from_static("text/css; charset=utf-8"),
    bytes: include_str!("../../../dashboard/dist/app.css"),
};

/// `GET /dashboard` and `GET /status`.
pub(super) async fn page() -> Response {
    serve(&PAGE)
}

/// `GET /dashboard/app.js`.
pub(super) async fn script() -> Response {
    serve(&SCRIPT)
}

/// `GET /dashboard/app.css`.
pub(super) async fn style() -> Response {
    serve(&STYLE)
}

/// The file. It is small, so it is sent anew each time instead of being remembered by a browser over an upgrade.
fn serve(file: &File) -> Response {
    let mut response = Response::new(Body::from(file.bytes));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, file.content_type.clone());
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
