//! What a thread appended last, in memory that is shared with the operating system.
//!
//! Each thread has such a file of its own ([`Lanes`](berry_core::lanes::Lanes)), small and always the same, because the first touch
//! of a page of a mapped file costs some microseconds: many times what it costs to write the page with others in one `write`. When
//! it is full its frames are moved to the segment that is being written, and it begins anew. What a process left here that was
//! killed is brought into a segment by the next one.
//!
//! ```text
//! "BERRYT1\n", number of a segment u64 LE, bytes from its beginning u64 LE, length of the frames u64 LE, frames
//! ```
//!
//! Segment and bytes say where the frames are being moved to, whole or in part; while they are here alone, the bytes are 0.

use std::fs::OpenOptions;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use crate::map::Map;

const MAGIC: u64 = u64::from_le_bytes(*b"BERRYT1\n");
const SEGMENT: usize = 8;
const START: usize = 16;
const LENGTH: usize = 24;
const FRAMES: usize = 32;

/// Its file has so many bytes. One `write` of them holds up whoever appends for some five microseconds.
pub(crate) const SIZE: usize = 32 << 10;

/// What the names of tails begin with. An earlier version had one, of this very name.
const NAME: &str = "tail";

/// The last frames of a thread.
pub(crate) struct Tail {
    map: Map,
    length: usize,
}

impl Tail {
    /// Begins an empty one, of so many the one with this number. `None` where there is no such memory.
    pub(crate) fn create(directory: &Path, number: usize) -> Option<Self> {
        let path = directory.join(format!("{NAME}-{number}"));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).ok()?;
        let Some(mut map) = Map::of(&file, SIZE) else {
            // What was allotted in vain is given back.
            let _ = std::fs::remove_file(path);
            return None;
        };
        map.set(0, MAGIC);
        Some(Self { map, length: 0 })
    }

    /// Appends a frame, if there is room for it.
    #[inline]
    pub(crate) fn put(&mut self, frame: &[u8]) -> bool {
        if frame.len() > SIZE - FRAMES - self.length {
            return false;
        }
        self.map.put(FRAMES + self.length, frame);
        self.length += frame.len();
        // Only now it counts: whoever is killed before has appended nothing.
        self.map.set(LENGTH, self.length as u64);
        true
    }

    /// How many bytes of frames it has.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Moves its frames to a place of a segment, by `write`. Where that fails they stay. What was moved is gone from its own file: an
    /// erased name must be in none.
    pub(crate) fn move_to(
        &mut self,
        segment: u64,
        start: u64,
        write: impl FnOnce(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        self.map.set(SEGMENT, segment);
        self.map.set(START, start);
        let result = write(&self.map.bytes()[FRAMES..][..self.length]);
        if result.is_ok() {
            // First, so that a kill in between leaves an empty one.
            self.map.set(LENGTH, 0);
            self.map.clear(FRAMES, self.length);
            self.length = 0;
        }
        self.map.set(START, 0);
        result
    }
}

/// Brings what a process left in its tails into segments: where it began to, or else each tail into one of its own, which
/// `begin_segment` makes and writes.
pub(crate) fn recover(
    directory: &Path,
    segment: impl Fn(u64) -> PathBuf,
    mut begin_segment: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    for path in paths(directory)? {
        let left = std::fs::read(&path)?;
        let number = |at: usize| left.get(at..)?.first_chunk().copied().map(u64::from_le_bytes);
        if let (Some(MAGIC), Some(number), Some(start), Some(length)) =
            (number(0), number(SEGMENT), number(START), number(LENGTH))
        {
            let length = usize::try_from(length).ok();
            let frames = length.and_then(|length| left.get(FRAMES..)?.get(..length)).unwrap_or_default();
            match start {
                _ if frames.is_empty() => {}
                0 => begin_segment(frames)?,
                start => complete(&segment(number), start, frames)?,
            }
        }
        std::fs::remove_file(path)?;
    }
    Ok(())
}

/// Writes what a segment lacks of the frames that begin at `start`.
fn complete(segment: &Path, start: u64, frames: &[u8]) -> io::Result<()> {
    let mut file = match OpenOptions::new().write(true).open(segment) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    // What the file has already stays as it is. It is shorter than the beginning only after a power cut; then there is a gap.
    let known = file.seek(SeekFrom::End(0))?.checked_sub(start).and_then(|known| usize::try_from(known).ok());
    known.and_then(|known| frames.get(known..)).map_or(Ok(()), |missing| file.write_all(missing))
}

/// Forgets the tails of a folder; their frames are in segments.
pub(crate) fn remove(directory: &Path) {
    for path in paths(directory).into_iter().flatten() {
        // One that stays is found to be empty.
        let _ = std::fs::remove_file(path);
    }
}

fn paths(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(NAME)) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a next process would bring in if this one died now: segments that it makes, and segment 3 as it is then.
    fn recovered(directory: &Path, segment: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>) {
        let copy = tempfile::tempdir().unwrap();
        for path in paths(directory).unwrap() {
            std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
        let third = |number: u64| copy.path().join(number.to_string());
        std::fs::write(third(3), segment).unwrap();
        let mut made = Vec::new();
        recover(copy.path(), third, |frames| {
            made.push(frames.to_vec());
            Ok(())
        })
        .unwrap();
        assert_eq!(paths(copy.path()).unwrap(), Vec::<PathBuf>::new());
        (made, std::fs::read(third(3)).unwrap())
    }

    /// Everything works without tails, only slower: nothing else would notice that there are none.
    #[cfg(target_os = "linux")]
    #[test]
    fn in_a_file_system_in_memory_a_thread_has_a_tail() {
        let Ok(folder) = tempfile::tempdir_in("/dev/shm") else { return };
        assert!(Tail::create(folder.path(), 0).is_some());
    }

    #[test]
    fn at_every_moment_of_a_move_the_frames_are_brought_in_once() {
        let folder = tempfile::tempdir().unwrap();
        // Where there is no such memory, there is nothing to test.
        let Some(mut tail) = Tail::create(folder.path(), 0) else { return };
        assert!(tail.put(b"one") && tail.put(b"two"));
        assert_eq!(recovered(folder.path(), b"before"), (vec![b"onetwo".to_vec()], b"before".to_vec()));
        let moved = tail.move_to(3, 6, |frames| {
            assert_eq!(frames, b"onetwo");
            for written in ["before", "beforeonet", "beforeonetwo"] {
                assert_eq!(recovered(folder.path(), written.as_bytes()), (vec![], b"beforeonetwo".to_vec()));
            }
            Err(io::ErrorKind::StorageFull.into())
        });
        assert!(moved.is_err());
        assert_eq!(recovered(folder.path(), b"before"), (vec![b"onetwo".to_vec()], b"before".to_vec()));
        tail.move_to(3, 6, |_| Ok(())).unwrap();
        assert_eq!(recovered(folder.path(), b"beforeonetwo"), (vec![], b"beforeonetwo".to_vec()));
        let file = std::fs::read(&paths(folder.path()).unwrap()[0]).unwrap();
        assert!(file[FRAMES..].iter().all(|byte| *byte == 0), "what was moved is gone from here");
        assert!(tail.put(&[7; SIZE - FRAMES]) && !tail.put(b"x"));
    }
}
