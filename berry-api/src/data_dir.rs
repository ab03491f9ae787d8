//! Where state is kept, and how a file of it is replaced.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// The data directory: `[server] data_dir`, else `BERRY_DATA_DIR`, else `STATE_DIRECTORY` (systemd's; the first where it names
/// several), else `./data`. Whether it exists is not looked at.
pub fn resolve(configured: Option<&Path>, var: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    if let Some(path) = configured {
        return path.to_owned();
    }
    let named = |name| var(name).filter(|value| !value.is_empty());
    if let Some(path) = named("BERRY_DATA_DIR") {
        return path.into();
    }
    let of_systemd = named("STATE_DIRECTORY").and_then(|list| std::env::split_paths(&list).next());
    of_systemd.unwrap_or_else(|| PathBuf::from("./data"))
}

/// How the data directory is, for `/health`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// `writable`, or `unavailable`; `unused` where none was opened.
    pub status: &'static str,
    /// Why it is unavailable.
    pub reason: Option<String>,
}

impl Report {
    /// Nobody asked for a directory.
    pub const UNUSED: Self = Self { status: "unused", reason: None };
}

/// Whether files can be made in the directory; makes it where it is missing. The reason does not name the path, since `/health` is
/// open.
pub fn inspect(directory: &Path) -> Report {
    let probe = directory.join(".writable");
    let tried =
        fs::create_dir_all(directory).and_then(|()| replace(&probe, b"")).and_then(|()| fs::remove_file(&probe));
    match tried {
        Ok(()) => Report { status: "writable", reason: None },
        Err(error) => Report { status: "unavailable", reason: Some(error.to_string()) },
    }
}

/// Replaces a file whole, or leaves it as it is: readers and a crash find the old text or the new one. Only the owner may read it.
/// Makes the directory where it is missing.
///
/// # Errors
/// When the directory or the file cannot be written.
pub fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let new = path.with_extension("new");
    // One that a crash left behind may have another mode.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = private().write(true).create_new(true).open(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    // The name is safe only when its directory is.
    File::open(directory)?.sync_all()
}

/// Options that make files which only their owner may read.
pub fn private() -> OpenOptions {
    #[cfg_attr(not(unix), expect(unused_mut, reason = "elsewhere a file has the access rights of its directory"))]
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(configured: Option<&str>, vars: &[(&str, &str)], expect: &str) {
        let var = |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
        assert_eq!(resolve(configured.map(Path::new), var), PathBuf::from(expect), "{configured:?} {vars:?}");
    }

    #[test]
    fn the_first_place_that_is_named_is_the_data_directory() {
        let both = &[("BERRY_DATA_DIR", "/berry"), ("STATE_DIRECTORY", "/state:/other")];
        check(Some("/file"), both, "/file");
        check(None, both, "/berry");
        check(None, &both[1..], "/state");
        check(None, &[("BERRY_DATA_DIR", "")], "./data");
    }

    #[test]
    fn a_directory_is_made_where_it_can_be_and_else_there_is_a_reason() {
        let place = tempfile::tempdir().unwrap();
        let missing = place.path().join("a/b");
        assert_eq!(inspect(&missing), Report { status: "writable", reason: None });
        assert_eq!(fs::read_dir(&missing).unwrap().count(), 0, "nothing is left there");
        fs::write(place.path().join("file"), "").unwrap();
        // Not by permissions, which do not hold for root.
        let report = inspect(&place.path().join("file/below"));
        assert_eq!(report.status, "unavailable");
        assert!(report.reason.is_some_and(|reason| !reason.contains("below")));
    }

    #[test]
    fn a_file_is_replaced_whole_and_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("below/state.json");
        for text in ["a longer first text", "second"] {
            replace(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left");
        #[cfg(unix)]
        {
            let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
            assert_eq!(mode & 0o777, 0o600);
        }
    }
}
