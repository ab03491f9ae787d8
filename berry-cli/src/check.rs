//! `validate-config`, and how every command finds its configuration.

use std::path::PathBuf;

use berry_core::config::{Config, LoadError, Loaded, Problem, ProcessEnvironment, Report, locate};
use serde_json::{Value, json};

use crate::ConfigFile;
use crate::output::{self, Failure, Output};

/// Says whether a configuration can be used, and everything that is wrong with it.
pub(crate) fn validate(file: &ConfigFile) -> Result<Output, Failure> {
    let path = find(file)?;
    let shown = path.display().to_string();
    match Config::load(&path, &ProcessEnvironment) {
        Ok(Loaded { warnings, summary, .. }) => {
            output::remark(&warnings.render(output::colour()));
            Ok(Output {
                text: summary.to_string(),
                json: json!({
                    "ok": true,
                    "path": shown,
                    "providers": summary.providers,
                    "models": summary.models,
                    "users": summary.users,
                    "backends": summary.backends,
                    "problems": problems(&warnings),
                }),
                ok: true,
            })
        }
        Err(LoadError::Invalid(report)) => Ok(Output {
            text: format!("{}\n\n❌ Configuration is not valid: {shown}", report.render(output::colour())),
            json: json!({"ok": false, "path": shown, "problems": problems(&report)}),
            ok: false,
        }),
        Err(error @ LoadError::Read { .. }) => Err(Failure::new(error.to_string(), "Name another file with -c.")),
    }
}

/// Loads the configuration for a command that needs a valid one.
pub(crate) fn load(file: &ConfigFile) -> Result<Loaded, Failure> {
    let path = find(file)?;
    Config::load(&path, &ProcessEnvironment).map_err(|error| {
        let next = format!("Mend it; berry-cli validate-config -c {} shows the details.", path.display());
        Failure::new(error.render(output::colour()), next)
    })
}

fn find(file: &ConfigFile) -> Result<PathBuf, Failure> {
    let found = locate(file.config.as_deref(), &ProcessEnvironment, std::path::Path::exists);
    found
        .map(|found| found.path)
        .map_err(|error| Failure::new(error.to_string(), "Write one with: berry-cli generate-config -o config.toml"))
}

fn problems(report: &Report) -> Vec<Value> {
    let one = |problem: &Problem| {
        let place = problem.place.as_ref();
        json!({
            "severity": problem.severity.as_str(),
            "key": problem.path,
            "message": problem.message,
            "hint": problem.hint,
            "line": place.map(|place| place.line),
            "column": place.map(|place| place.column),
        })
    };
    report.iter().map(one).collect()
}
