//! Every path that is not an API call to a backend, with who may use it.
//!
//! A route is closed unless it is listed as open: there is no way to add one without saying `Access`.

mod admin;
mod capabilities;
mod dashboard;
pub mod gemini;
mod health;
mod landing;
mod metrics;
mod models;
mod openapi;
#[cfg(feature = "observability")]
mod prometheus;
pub mod relay;
mod responses;
mod smart_ai;
mod unsupported;
mod usage;

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::middleware::{Next, from_fn, from_fn_with_state, map_response};
use axum::response::Response;
use axum::routing::{MethodRouter, any, delete, get, post};
use berry_core::config::snapshot::User;
use berry_core::error::ErrorKind;
use berry_core::id::RequestId;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http::request::Parts;

use crate::app::App;
use crate::error::ApiError;
use crate::gate;
use crate::server::connection::Connection;
use openapi::{Description, Listed};

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// Everybody.
    Open,
    /// Everybody, unless `protect_monitoring` asks for an admin.
    Monitoring,
    /// Every user with a token.
    User,
    /// Administrators.
    Admin,
}

/// Which request this is and where it came from; travels in the request's extensions.
#[derive(Clone)]
pub struct Caller {
    /// Our name for the request.
    pub id: RequestId,
    /// Its connection.
    pub connection: Arc<Connection>,
}

/// Shared by every handler.
type AppState = State<Arc<App>>;

/// The router of the table.
pub fn router(app: Arc<App>) -> Router {
    let description = Arc::<Description>::default();
    let table = table(app, &description);
    description.describe(&table.listed);
    table.finish()
}

/// The table.
fn table(app: Arc<App>, description: &Arc<Description>) -> Table {
    use Access::{Admin, Monitoring, Open, User};
    let mut table = Table { router: Router::new(), app, listed: Vec::new() };
    let description = Arc::clone(description);
    table.add(Open, "/openapi.json", get(move || async move { description.page() }));
    table.add(Open, "/", get(landing::page));
    table.add(Open, "/dashboard", get(dashboard::page));
    table.add(Open, "/status", get(dashboard::page));
    table.add(Open, "/dashboard/app.js", get(dashboard::script));
    table.add(Open, "/dashboard/app.css", get(dashboard::style));
    table.add(Open, "/health", get(health::full));
    table.add(Open, "/v1/health", get(health::brief));
    table.add(Open, "/livez", get(health::live));
    table.add(Open, "/readyz", get(health::ready));
    table.add(Monitoring, "/metrics", get(metrics::json));
    #[cfg(feature = "observability")]
    table.add(Monitoring, "/prometheus", get(prometheus::page));
    table.add(Monitoring, "/smart-ai/weights", get(smart_ai::all));
    table.add(Monitoring, "/smart-ai/models/{model}/weights", get(smart_ai::one));
    table.add(Admin, "/admin/model-weights", get(admin::model_weights));
    table.add(Admin, "/admin/backend-health", get(admin::backend_health));
    table.add(Admin, "/admin/rate-limit-usage", get(admin::rate_limit_usage));
    table.add(Admin, "/admin/budgets", get(admin::budgets));
    table.add(Admin, "/admin/system-stats", get(admin::system_stats));
    table.add(Admin, "/admin/usage", get(usage::all));
    table.add_post(Admin, "/admin/ledger/backup", post(admin::backup_ledger));
    table.add_post(Admin, "/admin/ledger/erase", post(admin::erase_end_user));
    table.add_post(Admin, "/admin/reload-config", post(admin::reload_config));
    table.add_methods(Admin, "/admin/changes", get(admin::changes).post(admin::make_change), "GET, HEAD, POST");
    table.add_methods(Admin, "/admin/changes/{id}", delete(admin::take_back_change), "DELETE");
    table.add_methods(Admin, "/admin/keys", get(admin::keys).post(admin::create_key), "GET, HEAD, POST");
    table.add_post(Admin, "/admin/keys/{id}/rotate", post(admin::rotate_key));
    table.add_methods(Admin, "/admin/keys/{id}", delete(admin::revoke_key), "DELETE");
    table.add(Admin, "/admin/audit", get(admin::audit));
    table.add(Admin, "/admin/config", get(admin::running));
    table.add(Admin, "/admin/config/history", get(admin::history));
    table.add_post(Admin, "/admin/config/validate", post(admin::validate));
    table.add_post(Admin, "/admin/config/rollback", post(admin::roll_back));
    table.add_post(Admin, "/admin/explain", post(admin::dry_run));
    table.add(Admin, "/admin/explain/{request_id}", get(admin::recorded));
    table.add(User, "/models", get(models::list));
    table.add(User, "/v1/models", get(models::list));
    table.add(User, "/v1/models/{*id}", get(models::one));
    table.add(User, "/v1/capabilities", get(capabilities::list));
    table.add(User, "/v1/usage", get(usage::own));
    table.add(User, "/v1beta/models", get(models::gemini_list));
    table.add(User, "/v1beta/models/{*id}", get(models::gemini_one));
    table.add_kept("/v1/responses/{id}", get(responses::whole).delete(responses::whole), "GET, DELETE");
    table.add_kept("/v1/responses/{id}/cancel", post(responses::cancel), "POST");
    table.add_kept("/v1/responses/{id}/input_items", get(responses::input_items), "GET");
    for path in unsupported::PATHS {
        table.add_any(User, path, unsupported::endpoint);
    }
    table
}

struct Table {
    router: Router<Arc<App>>,
    app: Arc<App>,
    /// What is described.
    listed: Vec<Listed>,
}

impl Table {
    /// A path that is read. Another method is answered 405 before anybody asks for a token.
    fn add(&mut self, access: Access, path: &'static str, methods: MethodRouter<Arc<App>>) {
        self.add_methods(access, path, methods, "GET, HEAD");
    }

    /// A path that something is posted to.
    fn add_post(&mut self, access: Access, path: &'static str, methods: MethodRouter<Arc<App>>) {
        self.add_methods(access, path, methods, "POST");
    }

    fn add_methods(
        &mut self,
        access: Access,
        path: &'static str,
        methods: MethodRouter<Arc<App>>,
        allow: &'static str,
    ) {
        self.listed.push(Listed { access, path, methods: allow });
        let gate = from_fn_with_state((Arc::clone(&self.app), access), check);
        let methods = methods.route_layer(gate).fallback(move |request| method_not_allowed(request, allow));
        let methods = methods.layer(from_fn(in_our_shape)).layer(map_response(move |response| named(response, path)));
        self.router = std::mem::take(&mut self.router).route(path, methods);
    }

    /// A path of something that an upstream keeps for a user.
    fn add_kept(&mut self, path: &'static str, methods: MethodRouter<Arc<App>>, allow: &'static str) {
        self.add_methods(Access::User, path, methods, allow);
    }

    /// A path with every method.
    fn add_any<H, T>(&mut self, access: Access, path: &'static str, handler: H)
    where
        H: Handler<T, Arc<App>>,
        T: 'static,
    {
        let gate = from_fn_with_state((Arc::clone(&self.app), access), check);
        self.router = std::mem::take(&mut self.router)
            .route(path, any(handler).layer(gate).layer(map_response(move |response| named(response, path))));
    }

    fn finish(self) -> Router {
        self.router.fallback(not_found).with_state(self.app)
    }
}

/// The template of the route that answered; travels in the response's extensions.
#[derive(Clone, Copy)]
pub struct Template(pub &'static str);

async fn named(mut response: Response, path: &'static str) -> Response {
    response.extensions_mut().insert(Template(path));
    response
}

/// Longest message of a handler's arguments.
const REJECTION_BYTES_MAX: usize = 16 * 1024;

/// What the arguments of a handler refuse (a query that cannot be read, a body that is no text or too long) comes as plain text;
/// it is told in our shape, as all other errors are.
async fn in_our_shape(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let (id, dialect) = (caller(&parts).id, gate::dialect_of(&parts));
    let response = next.run(Request::from_parts(parts, body)).await;
    let (status, kind) = (response.status(), response.headers().get(CONTENT_TYPE));
    if !status.is_client_error() || kind.is_none_or(|kind| !kind.as_bytes().starts_with(b"text/plain")) {
        return response;
    }
    let text = to_bytes(response.into_body(), REJECTION_BYTES_MAX).await.unwrap_or_default();
    let kind = match status {
        StatusCode::PAYLOAD_TOO_LARGE => ErrorKind::PayloadTooLarge,
        _ => ErrorKind::InvalidRequest,
    };
    let message = String::from_utf8_lossy(&text).into_owned();
    ApiError { status: Some(status), ..ApiError::new(kind, message) }.respond(dialect, &id).map(Body::from)
}

/// Lets a request through to its handler, with its user where one is needed.
async fn check(State((app, access)): State<(Arc<App>, Access)>, request: Request, next: Next) -> Response {
    let runtime = app.runtime();
    let needs_admin = match access {
        Access::Open => return next.run(request).await,
        Access::Monitoring if !runtime.snapshot.server.protect_monitoring => return next.run(request).await,
        Access::Monitoring | Access::Admin => true,
        Access::User => false,
    };
    let (mut parts, body) = request.into_parts();
    let caller = caller(&parts);
    match gate::authenticate(&app, &runtime.snapshot, &caller.connection, &caller.id, &parts) {
        Ok(user) if needs_admin && !user.admin => refusal(
            &parts,
            &ApiError::new(
                ErrorKind::NotAdmin,
                "This needs the token of an administrator: a user with the tag `admin`.",
            ),
        ),
        Ok(user) => {
            parts.extensions.insert(Principal(user));
            next.run(Request::from_parts(parts, body)).await
        }
        Err(error) => refusal(&parts, &error),
    }
}

/// The user of a request on a closed route; put there by [`check`].
#[derive(Clone)]
struct Principal(Arc<User>);

fn caller(parts: &Parts) -> Caller {
    let caller = parts.extensions.get::<Caller>();
    caller.cloned().expect("the gateway adds it to every request that it routes")
}

/// An error as a reply of the router.
fn refusal(parts: &Parts, error: &ApiError) -> Response {
    let caller = caller(parts);
    error.respond(gate::dialect_of(parts), &caller.id).map(Body::from)
}

async fn not_found(request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let error =
        ApiError::new(ErrorKind::NotFound, "There is nothing at this path. The API is below /v1; GET / tells more.");
    refusal(&parts, &error)
}

async fn method_not_allowed(request: Request, allow: &'static str) -> Response {
    let (parts, _) = request.into_parts();
    let error = ApiError {
        allow: Some(allow),
        ..ApiError::new(
            ErrorKind::MethodNotAllowed,
            format!(
                "This path does not know {}. Use {}.",
                parts.method,
                if allow == "GET, HEAD" { "GET" } else { allow }
            ),
        )
    };
    refusal(&parts, &error)
}

/// The table's routes, for tests of what is said about them.
#[cfg(test)]
fn listed_for_test() -> Vec<Listed> {
    use berry_core::config::{Config, ProcessEnvironment};

    let config = "[users.admin]\nname = \"Admin\"\ntoken = \"a-token-for-the-table\"\n";
    let loaded = Config::from_text("table.toml", config, &ProcessEnvironment).expect("a small configuration");
    let options = crate::app::AppOptions {
        access: Default::default(),
        seed: 1,
        dials: Default::default(),
        extensions: Default::default(),
    };
    let app = App::new(loaded.snapshot, options).expect("no upstream to be made");
    table(Arc::new(app), &Arc::default()).listed
}
