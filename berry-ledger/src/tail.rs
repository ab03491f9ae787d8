//! The end of the journal's last segment, in memory that is shared with the operating system.
//!
//! A file of its own, small and always the same, because the first touch of a page of a mapped file costs some microseconds: many
//! times what it costs to write the page with others in one `write`. It is full when its frames are in the segment's file as well;
//! then it begins anew. What a process left here that was killed is brought into the segment by the next one.
//!
//! ```text
//! "BERRYT1\n", number of the segment u64 LE, bytes from its beginning u64 LE, how many bytes follow that count u64 LE, frames
//! ```

use std::fs::OpenOptions;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use crate::map::Map;

const MAGIC: u64 = u64::from_le_bytes(*b"BERRYT1\n");
const SEGMENT: usize = 8;
const START: usize = 16;
const LENGTH: usize = 24;
const FRAMES: usize = 32;

/// Its file has so many bytes. One `write` of them holds up whoever appends for some ten microseconds.
const SIZE: usize = 64 << 10;

const NAME: &str = "tail";

/// The end of a segment.
pub(crate) struct Tail {
    map: Map,
    start: u64,
    length: usize,
}

impl Tail {
    /// Begins an empty one. `None` where there is no such memory.
    pub(crate) fn create(directory: &Path, segment: u64, start: u64) -> Option<Self> {
        let path = directory.join(NAME);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).ok()?;
        let Some(map) = Map::of(&file, SIZE) else {
            // What was allotted in vain is given back.
            let _ = std::fs::remove_file(path);
            return None;
        };
        let mut tail = Self { map, start, length: 0 };
        tail.begin(segment, start);
        tail.map.set(0, MAGIC);
        Some(tail)
    }

    /// Begins anew, at a place of a segment. What it had is gone from its file too: an erased name must be in none.
    pub(crate) fn begin(&mut self, segment: u64, start: u64) {
        // First, so that a kill in between leaves an empty one.
        self.map.set(LENGTH, 0);
        self.map.clear(FRAMES, self.length);
        self.map.set(SEGMENT, segment);
        self.map.set(START, start);
        (self.start, self.length) = (start, 0);
    }

    /// Whether there is room for so many bytes.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        bytes <= SIZE - FRAMES - self.length
    }

    /// Appends frames, for which there is room.
    pub(crate) fn put(&mut self, frames: &[u8]) {
        self.map.put(FRAMES + self.length, frames);
        self.length += frames.len();
        // Only now they count: whoever is killed before has appended nothing.
        self.map.set(LENGTH, self.length as u64);
    }

    /// What it has from a place of the segment on, which is not before its beginning.
    pub(crate) fn since(&self, offset: u64) -> &[u8] {
        let from = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        self.map.bytes().get(FRAMES + from..FRAMES + self.length).unwrap_or_default()
    }
}

/// Brings into its segment what a process left in a tail.
pub(crate) fn recover(directory: &Path, path: impl Fn(u64) -> std::path::PathBuf) -> io::Result<()> {
    let left = match std::fs::read(directory.join(NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        left => left?,
    };
    let number = |at: usize| left.get(at..)?.first_chunk().copied().map(u64::from_le_bytes);
    let (Some(MAGIC), Some(segment), Some(start), Some(length)) =
        (number(0), number(SEGMENT), number(START), number(LENGTH))
    else {
        return Ok(());
    };
    let frames = usize::try_from(length).ok().and_then(|length| left.get(FRAMES..)?.get(..length)).unwrap_or_default();
    let mut file = match OpenOptions::new().write(true).open(path(segment)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    // What the file has already stays as it is. It is shorter than the tail's beginning only after a power cut; then there is a gap.
    let missing = file.seek(SeekFrom::End(0))?.checked_sub(start).and_then(|known| usize::try_from(known).ok());
    missing.and_then(|known| frames.get(known..)).map_or(Ok(()), |missing| file.write_all(missing))
}

/// Forgets the tail of a folder; its frames are in the segment.
pub(crate) fn remove(directory: &Path) {
    // One that stays is found to be in the segment already.
    let _ = std::fs::remove_file(directory.join(NAME));
}
