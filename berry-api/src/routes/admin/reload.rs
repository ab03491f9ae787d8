//! `POST /admin/reload-config`: the configuration file is read again and put in force, or nothing changes.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use berry_core::config::LoadError;
use http::StatusCode;
use serde_json::json;

use super::super::AppState;
use crate::reload::{self, ReloadError};

/// 200 with the counts; 400 with every problem and its place; 409 where the server runs without a file.
pub(crate) async fn reload_config(State(app): AppState) -> Response {
    let Some(path) = app.config_file.get().cloned() else {
        let body = json!({"reloaded": false, "error": "this server was started without a configuration file"});
        return (StatusCode::CONFLICT, Json(body)).into_response();
    };
    let config = path.display().to_string();
    // Reading and compiling a large file takes a while; requests go on meanwhile.
    let reloaded = tokio::task::spawn_blocking(move || reload::reload_and_tell(&app, &path)).await;
    match reloaded {
        Ok(Ok(summary)) => Json(json!({
            "reloaded": true,
            "config": config,
            "providers": summary.providers,
            "models": summary.models,
            "users": summary.users,
        }))
        .into_response(),
        Ok(Err(error)) => (StatusCode::BAD_REQUEST, Json(refusal(&config, &error))).into_response(),
        // A panic while loading has been logged; the old configuration is in force.
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn refusal(config: &str, error: &ReloadError) -> serde_json::Value {
    let problems: Vec<_> = match error {
        ReloadError::Load(LoadError::Invalid(report)) => {
            report.lines().map(|(severity, line)| json!({"severity": severity.as_str(), "message": line})).collect()
        }
        other => vec![json!({"severity": "error", "message": other.to_string()})],
    };
    json!({"reloaded": false, "config": config, "problems": problems})
}
