//! A log file that is put aside when it has grown: `berry-api.log`, then `berry-api.log.1` and so on, the oldest dropped.
//!
//! A file that somebody else moved away (logrotate) is noticed and opened anew within a batch, so both ways work.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use berry_core::config::snapshot::LogFile;

/// A file that rotates itself.
#[derive(Debug)]
pub(super) struct RotatingFile {
    path: PathBuf,
    file: File,
    written: u64,
    /// Size at which it is put aside.
    bytes_max: Option<u64>,
    /// How many that were put aside are kept.
    keep: u32,
}

impl RotatingFile {
    /// Opens for appending; missing directories are made.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn open(settings: &LogFile) -> io::Result<Self> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", settings.path.display()));
        let (file, written) = append(&settings.path).map_err(named)?;
        Ok(Self { path: settings.path.clone(), file, written, bytes_max: settings.max_bytes, keep: settings.keep })
    }

    fn aside(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }

    /// Whether so many bytes more would pass the limit. A file takes at least one batch, however large.
    fn is_full(&self, more: usize) -> bool {
        let after = self.written + more as u64;
        self.written > 0 && self.bytes_max.is_some_and(|limit| after > limit)
    }

    /// Shifts the kept files by one and starts a new one. What cannot be renamed stays where it is, and writing goes on.
    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.keep).rev() {
            let _ = fs::rename(self.aside(number), self.aside(number + 1));
        }
        let _ = match self.keep {
            0 => fs::remove_file(&self.path),
            _ => fs::rename(&self.path, self.aside(1)),
        };
        (self.file, self.written) = append(&self.path)?;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<(File, u64)> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent)?;
    }
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let written = file.metadata()?.len();
    Ok((file, written))
}

impl Write for RotatingFile {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        if !self.path.exists() {
            (self.file, self.written) = append(&self.path)?;
        } else if self.is_full(lines.len()) {
            self.rotate()?;
        }
        let written = self.file.write(lines)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berry_core::config::snapshot::LogFormat;

    fn open(path: &Path) -> RotatingFile {
        let settings = LogFile { path: path.to_owned(), format: LogFormat::Json, max_bytes: Some(10), keep: 5 };
        RotatingFile::open(&settings).unwrap()
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().join("berry-api.log");
        let settings = LogFile { path: path.clone(), format: LogFormat::Json, max_bytes: None, keep: 0 };
        let error = RotatingFile::open(&settings).err().unwrap().to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
    }

    #[test]
    fn a_grown_file_is_put_aside_and_the_oldest_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/berry-api.log");
        let mut file = open(&path);
        for line in 0..9 {
            file.write_all(format!("line {line}\n").as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "line 8\n");
        for number in 1..=5_u32 {
            let kept = fs::read_to_string(file.aside(number)).unwrap();
            assert_eq!(kept, format!("line {}\n", 8 - number));
        }
        assert!(!file.aside(6).exists());
    }

    #[test]
    fn a_file_that_was_moved_away_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("berry-api.log");
        let mut file = open(&path);
        file.write_all(b"one\n").unwrap();
        fs::rename(&path, dir.path().join("moved")).unwrap();
        file.write_all(b"two\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
    }
}
