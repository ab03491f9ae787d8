//! What the configuration is read with: the variables and files of this process, and what this build can do.

use std::io;
use std::path::Path;

use berry_core::config::{Environment, ProcessEnvironment};

/// Keys of what this build was made without.
const WITHOUT_EFFECT: &[(&str, &str)] = if cfg!(feature = "observability") {
    &[]
} else {
    &[
        (
            "telemetry.otlp_endpoint",
            "this server was built without the feature \"observability\", so it sends no traces",
        ),
        (
            "telemetry.trace_sample_ratio",
            "this server was built without the feature \"observability\", so it traces nothing",
        ),
    ]
};

/// This process, and this build of the server.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerEnvironment;

impl Environment for ServerEnvironment {
    fn var(&self, name: &str) -> Option<String> {
        ProcessEnvironment.var(name)
    }

    fn read_file(&self, path: &Path) -> io::Result<String> {
        ProcessEnvironment.read_file(path)
    }

    fn without_effect(&self) -> &[(&'static str, &'static str)] {
        WITHOUT_EFFECT
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berry_core::config::Config;

    #[test]
    fn a_key_of_what_was_left_out_of_the_build_is_a_warning() {
        let text = "[telemetry]\notlp_endpoint = \"http://collector:4318\"\ntrace_sample_ratio = 0.5\n";
        let loaded = Config::from_text("x.toml", text, &ServerEnvironment).unwrap();
        let told = loaded.warnings.lines().filter(|(_, line)| line.contains(": has no effect: ")).count();
        assert_eq!(told, if cfg!(feature = "observability") { 0 } else { 2 });
    }
}
