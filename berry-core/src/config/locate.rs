//! Which file is the configuration.

use std::path::{Path, PathBuf};

use super::interpolate::Environment;

/// Where a configuration is looked for, in this order, when none is named.
pub const SEARCH_ORDER: &[&str] = &["config.toml", "config-example.toml", "config/smart_ai_example.toml"];

/// The file to use, and why that one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The file.
    pub path: PathBuf,
    /// Who named it: `--config`, `CONFIG_PATH`, or `default search order`.
    pub by: &'static str,
}

/// Why there is no file to use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocateError {
    /// A file was named and is not there.
    #[error("{}: there is no such file ({by} names it)", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// Who named it.
        by: &'static str,
    },
    /// Nothing was named and none of the usual files is there.
    #[error("no configuration: looked for {} in the working directory; name one with --config or CONFIG_PATH", SEARCH_ORDER.join(", "))]
    Nothing,
}

/// Finds the configuration: `named` (from `--config`), else `CONFIG_PATH`, else the first of [`SEARCH_ORDER`] that `exists`.
///
/// # Errors
/// When a file that was named is missing (the search does not go on then), or when nothing is found.
pub fn locate(
    named: Option<&Path>,
    env: &dyn Environment,
    exists: impl Fn(&Path) -> bool,
) -> Result<Found, LocateError> {
    let variable = || env.var("CONFIG_PATH").filter(|path| !path.is_empty()).map(PathBuf::from);
    let chosen = match named {
        Some(path) => Some((path.to_owned(), "--config")),
        None => variable().map(|path| (path, "CONFIG_PATH")),
    };
    if let Some((path, by)) = chosen {
        return if exists(&path) { Ok(Found { path, by }) } else { Err(LocateError::Missing { path, by }) };
    }
    let found = SEARCH_ORDER.iter().map(Path::new).find(|path| exists(path));
    found.map(|path| Found { path: path.to_owned(), by: "default search order" }).ok_or(LocateError::Nothing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    struct Variable(Option<&'static str>);

    impl Environment for Variable {
        fn var(&self, name: &str) -> Option<String> {
            (name == "CONFIG_PATH").then_some(self.0?.to_owned())
        }

        fn read_file(&self, _: &Path) -> io::Result<String> {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    fn find(named: Option<&str>, variable: Option<&'static str>, there: &[&str]) -> Result<String, LocateError> {
        let exists = |path: &Path| there.iter().any(|name| path == Path::new(name));
        let found = locate(named.map(Path::new), &Variable(variable), exists)?;
        Ok(found.path.display().to_string())
    }

    #[test]
    fn the_flag_comes_before_the_variable_and_that_before_the_usual_names() {
        let all = ["a.toml", "b.toml", "config.toml", "config-example.toml", "config/smart_ai_example.toml"];
        assert_eq!(find(Some("a.toml"), Some("b.toml"), &all).unwrap(), "a.toml");
        assert_eq!(find(None, Some("b.toml"), &all).unwrap(), "b.toml");
        assert_eq!(find(None, Some(""), &all).unwrap(), "config.toml");
        assert_eq!(find(None, None, &all).unwrap(), "config.toml");
        assert_eq!(find(None, None, &all[3..]).unwrap(), "config-example.toml");
        assert_eq!(find(None, None, &all[4..]).unwrap(), "config/smart_ai_example.toml");
    }

    #[test]
    fn a_named_file_that_is_missing_is_an_error_and_no_fall_through() {
        let missing = find(Some("a.toml"), None, &["config.toml"]).unwrap_err();
        assert_eq!(missing.to_string(), "a.toml: there is no such file (--config names it)");
        let missing = find(None, Some("b.toml"), &["config.toml"]).unwrap_err();
        assert_eq!(missing.to_string(), "b.toml: there is no such file (CONFIG_PATH names it)");
    }

    #[test]
    fn nothing_at_all_says_where_it_looked() {
        let nothing = find(None, None, &[]).unwrap_err().to_string();
        assert!(SEARCH_ORDER.iter().all(|name| nothing.contains(name)), "{nothing}");
    }
}
