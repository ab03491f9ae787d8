//! The journal: where a record is safe from the death of the process, before the database has it.
//!
//! A folder of segments, each a file of frames that only grows. A record is copied into memory of this thread that is shared with
//! the operating system ([`Tail`]) and moved to the segment with others, or where there is none it is one `write`; so what was
//! appended is with the operating system when `append` returns and survives a `kill -9`. [`Journal::sync`] also brings it to the disk.
//!
//! ```text
//! segment = "BERRYJ1\n" frame*
//! frame   = length u32 LE, CRC-32 of length and payload u32 LE, payload
//! ```
//!
//! A process never appends to a segment of an earlier one, so a torn frame is always the last of its segment: it is counted and
//! left behind. A segment that is damaged elsewhere is put aside as `*.damaged` when its turn to be deleted comes. Earlier versions
//! left segments with zeros behind their frames; those are cut.
//!
//! Bounds: all segments together, and the memory that takes records while the disk takes none. Beyond both a record is dropped and
//! counted; the request that it belongs to is served.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use berry_core::lanes::Lanes;
use parking_lot::Mutex;

use crate::record::Record;
use crate::tail::{self, Tail};

const MAGIC: &[u8; 8] = b"BERRYJ1\n";
const FRAME_HEAD: usize = 8;

/// Largest frame that is written or believed, bytes.
const FRAME_MAX: usize = 4 << 20;

/// How much is read at once, bytes.
const READ_BYTES: usize = 256 << 10;

thread_local! {
    /// Where a frame is made: of each thread, so that nothing but a copy is done while others wait.
    static FRAME: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A place in the journal: everything before it is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    /// Number of the segment.
    pub(crate) segment: u64,
    /// Bytes from its beginning.
    pub(crate) offset: u64,
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is in the journal.
    Written,
    /// The disk takes nothing; it is in memory, and survives everything but the death of the process.
    Held,
    /// Journal or memory are full; it is lost, and counted.
    Dropped,
}

/// How large things may become.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// All segments, bytes. What tails have comes on top.
    pub(crate) journal_max: u64,
    /// One segment, bytes; what is written last may reach beyond it.
    pub(crate) segment: u64,
    /// Frames in memory while the disk takes none, bytes.
    pub(crate) memory_max: usize,
}

/// How full the journal is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Level {
    pub(crate) written: u64,
    pub(crate) dropped: u64,
    /// The last record was dropped, and there is still no room.
    pub(crate) losing: bool,
    pub(crate) held: u64,
    pub(crate) bytes: u64,
    pub(crate) error: Option<String>,
}

pub(crate) struct Journal {
    directory: PathBuf,
    bounds: Bounds,
    id: i64,
    first_segment: u64,
    /// Locked before `active`, where both are.
    lanes: Lanes<Mutex<Lane>>,
    /// The segments have reached their bound.
    full: AtomicBool,
    active: Mutex<Active>,
    /// How many times somebody began to sync, and which time was the last that ended well.
    syncs: AtomicU64,
    synced: Mutex<u64>,
    // Held open, so that no second process uses this journal.
    _lock: File,
}

/// What the records of one thread change.
struct Lane {
    /// Their last, where there is such a thing.
    tail: Option<Tail>,
    /// How many were appended.
    written: u64,
}

/// The segment that is written, and all that is seldom: on a line of memory apart from what every record looks at.
#[repr(align(128))]
struct Active {
    file: File,
    number: u64,
    /// Bytes of the segment.
    len: u64,
    /// The file may be longer, by a part of what could not be written.
    torn: bool,
    /// Earlier segments that are still there, oldest first, with their lengths.
    earlier: VecDeque<(u64, u64)>,
    /// Bytes of all of `earlier`.
    earlier_bytes: u64,
    /// The first segment that [`Journal::sync`] has not brought to the disk yet.
    unsynced: u64,
    held: Vec<u8>,
    held_rows: u64,
    /// Rows that were held and are written.
    released: u64,
    dropped: u64,
    losing: bool,
    error: Option<String>,
}

/// What was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Where the next chunk begins.
    pub(crate) next: Position,
    /// Bytes that are no frame and were passed over.
    pub(crate) lost: u64,
}

impl Journal {
    /// Opens the journal of a folder and begins a segment. `fresh_id` names the journal if it has no name yet.
    pub(crate) fn open(directory: &Path, bounds: Bounds, fresh_id: i64) -> io::Result<Self> {
        let mut lock = lock(directory)?;
        let id = name(&mut lock, fresh_id)?;
        let mut next = segments(directory)?.iter().map(|(number, _)| number + 1).max().unwrap_or(1);
        tail::recover(
            directory,
            |number| path(directory, number),
            |frames| {
                create(directory, next)?.write_all(frames)?;
                next += 1;
                Ok(())
            },
        )?;
        let mut earlier = segments(directory)?;
        earlier.make_contiguous().sort_unstable();
        let earlier_bytes = earlier.iter().map(|(_, len)| len).sum();
        let active = Active {
            file: create(directory, next)?,
            number: next,
            len: MAGIC.len() as u64,
            torn: false,
            earlier,
            earlier_bytes,
            unsynced: next,
            held: Vec::new(),
            held_rows: 0,
            released: 0,
            dropped: 0,
            losing: false,
            error: None,
        };
        let journal = Self {
            directory: directory.to_owned(),
            bounds,
            id,
            first_segment: next,
            lanes: Lanes::new(|number| Mutex::new(Lane { tail: Tail::create(directory, number), written: 0 })),
            full: AtomicBool::new(false),
            active: Mutex::new(active),
            syncs: AtomicU64::new(0),
            synced: Mutex::new(0),
            _lock: lock,
        };
        journal.note_room(&mut journal.active.lock());
        Ok(journal)
    }

    /// Names this journal among all that feed one database.
    pub(crate) fn id(&self) -> i64 {
        self.id
    }

    /// The first segment that this process writes.
    pub(crate) fn first_segment(&self) -> u64 {
        self.first_segment
    }

    /// Takes a record. Blocks for no longer than one `write` of some ten thousand bytes takes.
    pub(crate) fn append(&self, record: &Record<'_>) -> Appended {
        FRAME.with_borrow_mut(|frame| {
            let end = record.encode(frame, FRAME_HEAD);
            seal(&mut frame[..end]);
            self.append_frame(&frame[..end])
        })
    }

    #[inline]
    fn append_frame(&self, frame: &[u8]) -> Appended {
        let mut lane = self.lanes.own().lock();
        if !self.full.load(Ordering::Relaxed) && lane.tail.as_mut().is_some_and(|tail| tail.put(frame)) {
            lane.written += 1;
            return Appended::Written;
        }
        self.append_beyond(&mut lane, frame)
    }

    /// Takes a frame that the tail has no room for, or that nothing has room for.
    #[cold]
    fn append_beyond(&self, lane: &mut Lane, frame: &[u8]) -> Appended {
        let mut active = self.active.lock();
        let size = frame.len();
        let fits = active.bytes() + size as u64 <= self.bounds.journal_max && size <= FRAME_MAX;
        // Behind those that wait already, so that one failed write is not followed by one for each request.
        if fits && active.held.is_empty() && self.take(&mut active, lane, frame).is_ok() {
            self.note_room(&mut active);
            lane.written += 1;
            return Appended::Written;
        }
        if fits && active.held.len() + size <= self.bounds.memory_max {
            active.held.extend_from_slice(frame);
            active.held_rows += 1;
            return Appended::Held;
        }
        active.dropped += 1;
        active.losing = true;
        Appended::Dropped
    }

    /// Moves what the tail has to the segment, to which the frame goes too if a tail cannot hold it.
    fn take(&self, active: &mut Active, lane: &mut Lane, frame: &[u8]) -> io::Result<()> {
        self.empty(active, lane)?;
        if lane.tail.as_mut().is_some_and(|tail| tail.put(frame)) {
            return Ok(());
        }
        self.write(active, |active| active.write(frame))
    }

    /// Moves what the tail has to the segment.
    fn empty(&self, active: &mut Active, lane: &mut Lane) -> io::Result<()> {
        match &mut lane.tail {
            Some(tail) if tail.length() > 0 => {
                self.write(active, |active| tail.move_to(active.number, active.len, |frames| active.write(frames)))
            }
            _ => Ok(()),
        }
    }

    /// Writes whole frames to a segment that is not full, or nothing.
    fn write(&self, active: &mut Active, write: impl FnOnce(&mut Active) -> io::Result<()>) -> io::Result<()> {
        let due = active.len >= self.bounds.segment;
        let result = if due { self.rotate(active) } else { Ok(()) }.and_then(|()| write(active));
        active.error = result.as_ref().err().map(io::Error::to_string);
        result
    }

    /// Begins a segment.
    fn rotate(&self, active: &mut Active) -> io::Result<()> {
        active.file = create(&self.directory, active.number + 1)?;
        active.earlier.push_back((active.number, active.len));
        active.earlier_bytes += active.len;
        active.number += 1;
        active.len = MAGIC.len() as u64;
        active.torn = false;
        Ok(())
    }

    /// Notes whether there is room for more, once that has changed.
    fn note_room(&self, active: &mut Active) {
        let full = active.bytes() >= self.bounds.journal_max;
        self.full.store(full, Ordering::Relaxed);
        active.losing &= full || !active.held.is_empty();
    }

    /// Moves everything that was appended before, and what is held, to the segment.
    pub(crate) fn collect(&self) -> io::Result<()> {
        for lane in self.lanes.iter() {
            let mut lane = lane.lock();
            self.empty(&mut self.active.lock(), &mut lane)?;
        }
        let mut active = self.active.lock();
        if !active.held.is_empty() {
            let held = std::mem::take(&mut active.held);
            let result = self.write(&mut active, |active| active.write(&held));
            if result.is_err() {
                active.held = held;
            } else {
                active.released += std::mem::take(&mut active.held_rows);
            }
            result?;
        }
        self.note_room(&mut active);
        Ok(())
    }

    /// Moves everything to the segment. What is appended later is written there.
    pub(crate) fn finish(&self) {
        for lane in self.lanes.iter() {
            let mut lane = lane.lock();
            if self.empty(&mut self.active.lock(), &mut lane).is_err() {
                // The next process finds it where it is.
                return;
            }
            lane.tail = None;
        }
        tail::remove(&self.directory);
        // What the disk does not take either is lost, and the status has said so.
        let _ = self.collect();
    }

    /// Begins a new segment, so that everything that was appended so far can be deleted.
    pub(crate) fn begin_segment(&self) -> io::Result<()> {
        self.collect()?;
        let mut active = self.active.lock();
        if active.len > MAGIC.len() as u64 { self.rotate(&mut active) } else { Ok(()) }
    }

    /// Brings everything that was appended before to the disk. Whoever waits while another does that has it done by the next who
    /// begins.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let begun = self.syncs.load(Ordering::SeqCst);
        let mut synced = self.synced.lock();
        if *synced > begun {
            return Ok(());
        }
        let this = self.syncs.fetch_add(1, Ordering::SeqCst) + 1;
        self.collect()?;
        let (first, last) = {
            let active = self.active.lock();
            (active.unsynced, active.number)
        };
        for number in first..=last {
            match File::open(path(&self.directory, number)) {
                // It is in the database, which is on the disk.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                file => file?.sync_data()?,
            }
        }
        sync_directory(&self.directory)?;
        self.active.lock().unsynced = last;
        *synced = this;
        Ok(())
    }

    /// Where the segments end.
    pub(crate) fn end(&self) -> Position {
        let active = self.active.lock();
        Position { segment: active.number, offset: active.len }
    }

    /// How full it is.
    pub(crate) fn level(&self) -> Level {
        let lanes = self.lanes.iter().map(|lane| {
            let lane = lane.lock();
            (lane.written, lane.tail.as_ref().map_or(0, |tail| tail.length() as u64))
        });
        let (written, tails) = lanes.fold((0, 0), |sum, lane| (sum.0 + lane.0, sum.1 + lane.1));
        let active = self.active.lock();
        Level {
            written: written + active.released,
            dropped: active.dropped,
            losing: active.losing,
            held: active.held_rows,
            bytes: active.bytes() + tails,
            error: active.error.clone(),
        }
    }

    /// Fills `buffer` with whole, checked frames from `from` on, at least one if there is one. An empty buffer with a position
    /// that moved means: read on. One with a position that did not: everything was read. `until` is the end of a frame that is
    /// not read across.
    pub(crate) fn read(&self, from: Position, until: Option<Position>, buffer: &mut Vec<u8>) -> io::Result<Chunk> {
        buffer.clear();
        let (segment, end, next_segment) = {
            let active = self.active.lock();
            let mut later = active.earlier.iter().copied().chain([(active.number, active.len)]);
            let Some((segment, end)) = later.find(|(number, _)| *number >= from.segment) else {
                return Ok(Chunk { next: from, lost: 0 });
            };
            (segment, end, later.next().map(|(number, _)| number))
        };
        let end = match until {
            Some(until) if until.segment == segment => end.min(until.offset),
            _ => end,
        };
        // A position inside a segment that is gone means the beginning of the next.
        let offset = if segment == from.segment { from.offset.max(MAGIC.len() as u64) } else { MAGIC.len() as u64 };
        if offset < end {
            let mut file = File::open(path(&self.directory, segment))?;
            let mut wanted = READ_BYTES;
            loop {
                file.seek(SeekFrom::Start(offset))?;
                buffer.clear();
                (&mut file).take((end - offset).min(wanted as u64)).read_to_end(buffer)?;
                let whole = whole_frames(buffer);
                let more = (buffer.len() as u64) < end - offset;
                if whole.end > 0 {
                    buffer.truncate(whole.end);
                    return Ok(Chunk { next: Position { segment, offset: offset + whole.end as u64 }, lost: 0 });
                }
                if whole.damaged || !more || wanted > FRAME_MAX {
                    break;
                }
                wanted = FRAME_MAX + FRAME_HEAD + 1;
            }
            buffer.clear();
        }
        match next_segment {
            // What is left is no frame: the end of a segment that was cut off.
            Some(next) => {
                let lost = end.saturating_sub(offset);
                if lost > 0 {
                    self.keep_damaged(segment, lost);
                }
                Ok(Chunk { next: Position { segment: next, offset: MAGIC.len() as u64 }, lost })
            }
            None => Ok(Chunk { next: Position { segment, offset }, lost: 0 }),
        }
    }

    /// A torn tail is one frame that was being written; anything longer is kept for somebody to look at.
    fn keep_damaged(&self, segment: u64, lost: u64) {
        if lost > READ_BYTES as u64 {
            let from = path(&self.directory, segment);
            let kept = from.with_extension("damaged");
            // Best effort: the frames before the damage are in the database, and the loss is counted.
            let _ = std::fs::copy(from, kept);
        }
    }

    /// Deletes the segments before the one of `position`. What cannot be deleted is tried again the next time.
    pub(crate) fn delete_before(&self, position: Position) {
        loop {
            let oldest = {
                let active = self.active.lock();
                active.earlier.front().copied().filter(|(number, _)| *number < position.segment)
            };
            let Some((number, len)) = oldest else { return };
            match std::fs::remove_file(path(&self.directory, number)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(_) => return,
            }
            let mut active = self.active.lock();
            active.earlier.pop_front();
            active.earlier_bytes -= len;
            self.note_room(&mut active);
        }
    }

    /// Whether there are segments before the one of `position`.
    pub(crate) fn has_before(&self, position: Position) -> bool {
        self.active.lock().earlier.front().is_some_and(|(number, _)| *number < position.segment)
    }
}

impl Active {
    /// Of everything that counts against the bound of the segments.
    fn bytes(&self) -> u64 {
        self.earlier_bytes + self.len + self.held.len() as u64
    }

    /// Writes to the end of the file, all or nothing.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.torn {
            self.file.set_len(self.len)?;
            self.torn = false;
        }
        // The cursor is at the end always: the file is open for appending.
        let result = self.file.write_all(bytes);
        match result {
            Ok(()) => self.len += bytes.len() as u64,
            // Part of it may be in the file.
            Err(_) => self.torn = self.file.set_len(self.len).is_err(),
        }
        result
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.finish();
    }
}

/// A length as memory counts it.
fn capacity(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Takes a journal for this process: the lock lasts as long as the file is open. The folder is made when it is not there.
pub(crate) fn lock(directory: &Path) -> io::Result<File> {
    std::fs::create_dir_all(directory)?;
    let path = directory.join("lock");
    let lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    lock.try_lock().map_err(|error| match error {
        std::fs::TryLockError::WouldBlock => io::Error::new(io::ErrorKind::WouldBlock, "another process uses it"),
        std::fs::TryLockError::Error(error) => error,
    })?;
    Ok(lock)
}

/// Reads the journal's name, or gives it one.
fn name(lock: &mut File, fresh_id: i64) -> io::Result<i64> {
    let mut text = String::new();
    lock.read_to_string(&mut text)?;
    if let Ok(id) = i64::from_str_radix(text.trim(), 16) {
        return Ok(id);
    }
    let id = fresh_id & i64::MAX;
    lock.set_len(0)?;
    lock.seek(SeekFrom::Start(0))?;
    lock.write_all(format!("{id:016x}\n").as_bytes())?;
    lock.sync_all()?;
    Ok(id)
}

fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:016x}.journal"))
}

/// The segments of a folder with their lengths, in no order. Those that a process left longer than their frames are cut.
fn segments(directory: &Path) -> io::Result<VecDeque<(u64, u64)>> {
    let mut found = VecDeque::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".journal"));
        if let Some(number) = number.and_then(|number| u64::from_str_radix(number, 16).ok()) {
            found.push_back((number, cut(&entry.path())?));
        }
    }
    Ok(found)
}

/// Cuts what a segment has of zeros behind its last frame, whole or torn; how long it is then.
fn cut(path: &Path) -> io::Result<u64> {
    // More zeros than the end of most frames has; looking closer harms nothing.
    const ZEROS: usize = 8;
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    let mut end = [1; ZEROS];
    if length > (MAGIC.len() + ZEROS) as u64 {
        file.seek(SeekFrom::End(-(ZEROS as i64)))?;
        file.read_exact(&mut end)?;
    }
    if end != [0; ZEROS] {
        return Ok(length);
    }
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::with_capacity(capacity(length));
    file.read_to_end(&mut bytes)?;
    let frames = bytes.get(MAGIC.len()..).unwrap_or_default();
    let torn = frames.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let kept = (MAGIC.len() + whole_frames(frames).end.max(torn)) as u64;
    file.set_len(kept)?;
    Ok(kept)
}

/// Makes a segment.
fn create(directory: &Path, number: u64) -> io::Result<File> {
    let path = path(directory, number);
    let mut file = OpenOptions::new().read(true).append(true).create_new(true).open(&path)?;
    if let Err(error) = file.write_all(MAGIC) {
        // A segment without its magic is nothing; it must not be in the way of the next try.
        let _ = std::fs::remove_file(path);
        return Err(error);
    }
    Ok(file)
}

/// A new file is found after a power cut only when its folder is on the disk as well.
fn sync_directory(directory: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(directory)?.sync_all() } else { Ok(()) }
}

fn seal(frame: &mut [u8]) {
    let length = u32::try_from(frame.len() - FRAME_HEAD).unwrap_or(u32::MAX).to_le_bytes();
    let crc = checksum(length, &frame[FRAME_HEAD..]);
    frame[..4].copy_from_slice(&length);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// Over the length too, so that a run of zeros is no frame.
fn checksum(length: [u8; 4], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(payload);
    hasher.finalize()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Whole {
    /// Where the whole frames end.
    end: usize,
    /// Whether what follows cannot become a frame.
    damaged: bool,
}

fn whole_frames(bytes: &[u8]) -> Whole {
    let mut end = 0;
    loop {
        match frame_at(&bytes[end..]) {
            Ok(Some((length, payload))) if checksum(length, payload) == crc_at(&bytes[end..]) => {
                end += FRAME_HEAD + payload.len();
            }
            Ok(None) => return Whole { end, damaged: false },
            Ok(Some(_)) | Err(()) => return Whole { end, damaged: true },
        }
    }
}

/// The length of a frame, as it is written, and its payload.
type Frame<'a> = ([u8; 4], &'a [u8]);

/// The first frame, unchecked; `None` when it is not all there, an error when it is none.
fn frame_at(bytes: &[u8]) -> Result<Option<Frame<'_>>, ()> {
    let Some(length) = bytes.first_chunk::<4>() else { return Ok(None) };
    let size = u32::from_le_bytes(*length) as usize;
    if size == 0 || size > FRAME_MAX {
        return Err(());
    }
    Ok(bytes.get(FRAME_HEAD..FRAME_HEAD + size).map(|payload| (*length, payload)))
}

fn crc_at(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes[4..8].try_into().expect("four bytes"))
}

/// The payloads of whole frames.
pub(crate) fn payloads(mut frames: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (_, payload) = frame_at(frames).ok()??;
        frames = &frames[FRAME_HEAD + payload.len()..];
        Some(payload)
    })
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::Barrier;

    use super::*;

    /// A number that looks like chance, below `end`; the same for the same seed.
    fn draw(seed: &mut u64, end: u64) -> u64 {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 33) % end
    }

    fn frame(payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; FRAME_HEAD];
        frame.extend_from_slice(payload);
        seal(&mut frame);
        frame
    }

    /// A segment after a power cut: what was synced is there; of the rest, sectors may be zeros and the end may be missing.
    fn after_power_cut(written: &[u8], synced: usize, seed: &mut u64) -> Vec<u8> {
        const SECTOR: usize = 512;
        let mut file = written.to_vec();
        for at in (0..file.len()).step_by(SECTOR) {
            if draw(seed, 3) == 0 {
                let end = file.len().min(at + SECTOR);
                file[at.max(synced).min(end)..end].fill(0);
            }
        }
        let length = synced as u64 + draw(seed, (written.len() - synced) as u64 + 1);
        file.truncate(if draw(seed, 2) == 0 { length as usize } else { written.len() });
        file
    }

    /// Ten thousand runs of several lives. The database is a list of rows with the place it was read to; it takes what it takes
    /// in one step, and dies with the process in between.
    #[test]
    fn no_power_cut_invents_repeats_or_loses_what_was_synced() {
        for run in 0..10_000u64 {
            let mut seed = run;
            let (mut rows, mut synced_rows, mut next) = (Vec::new(), Vec::new(), 0u32);
            for _life in 0..3 {
                // A life writes a segment of its own, and reads it while it writes.
                let (mut file, mut synced, mut place) = (Vec::new(), 0, 0);
                let mut in_file = Vec::new();
                for _ in 0..draw(&mut seed, 12) {
                    let payload = [&next.to_le_bytes()[..], &vec![7; draw(&mut seed, 400) as usize]].concat();
                    file.extend_from_slice(&frame(&payload));
                    in_file.push(next);
                    next += 1;
                    match draw(&mut seed, 4) {
                        // The database asks for nothing that is not on its way to the disk: it is told only what was synced.
                        0 => synced = file.len(),
                        1 => {
                            synced = file.len();
                            rows.extend(numbers(&file[place..]));
                            place = file.len();
                        }
                        _ => {}
                    }
                    if synced == file.len() {
                        synced_rows.append(&mut in_file);
                    }
                }
                // The next life reads on from the place that the database has.
                rows.extend(numbers(&after_power_cut(&file, synced, &mut seed)[place..]));
            }
            assert!(rows.is_sorted_by(|one, next| one < next), "run {run}: {rows:?}");
            assert!(synced_rows.iter().all(|row| rows.contains(row)), "run {run}: {synced_rows:?} in {rows:?}");
            assert!(rows.iter().all(|row| *row < next), "run {run}: {rows:?}");
        }
    }

    /// What whole frames say, as the thread reads them.
    fn numbers(bytes: &[u8]) -> Vec<u32> {
        let whole = &bytes[..whole_frames(bytes).end];
        payloads(whole).map(|payload| u32::from_le_bytes(payload[..4].try_into().unwrap())).collect()
    }

    #[test]
    fn what_threads_append_while_the_journal_is_finished_is_in_its_segments() {
        const BOUNDS: Bounds = Bounds { journal_max: 1 << 30, segment: 2_000, memory_max: 0 };
        for _ in 0..100 {
            let folder = tempfile::tempdir().unwrap();
            let journal = Journal::open(folder.path(), BOUNDS, 1).unwrap();
            let (begun, finished) = (Barrier::new(4), Barrier::new(4));
            std::thread::scope(|scope| {
                for thread in 0..3 {
                    let (journal, begun, finished) = (&journal, &begun, &finished);
                    let append = move |numbers: Range<u32>| {
                        for number in numbers {
                            let frame = frame(&(thread * 1_000 + number).to_le_bytes());
                            assert_eq!(journal.append_frame(&frame), Appended::Written);
                        }
                    };
                    scope.spawn(move || {
                        append(0..10);
                        begun.wait();
                        append(10..200);
                        finished.wait();
                        append(200..210);
                    });
                }
                begun.wait();
                journal.finish();
                finished.wait();
            });
            // As the next process finds them if this one is killed now.
            let segments = segments(folder.path()).unwrap();
            let mut found: Vec<u32> = segments
                .iter()
                .flat_map(|(number, _)| numbers(&std::fs::read(path(folder.path(), *number)).unwrap()[MAGIC.len()..]))
                .collect();
            found.sort_unstable();
            let appended = (0..3).flat_map(|thread| thread * 1_000..thread * 1_000 + 210);
            assert_eq!(found, appended.collect::<Vec<u32>>());
        }
    }

    /// More than a tail holds, so that it goes to the segment at once.
    const BIG: usize = tail::SIZE;

    fn big(number: u32) -> Vec<u8> {
        let payload = [&number.to_le_bytes()[..], &[7; BIG]].concat();
        frame(&payload)
    }

    /// What can be read of a journal, by numbers, from its beginning.
    fn read_all(journal: &Journal) -> Vec<u32> {
        let (mut found, mut from, mut buffer) = (Vec::new(), Position::default(), Vec::new());
        loop {
            let chunk = journal.read(from, None, &mut buffer).unwrap();
            if chunk.next == from {
                return found;
            }
            found.extend(numbers(&buffer));
            from = chunk.next;
        }
    }

    /// Bytes of all segments of a folder.
    fn bytes_of_segments(directory: &Path) -> u64 {
        segments(directory).unwrap().iter().map(|(_, length)| length).sum()
    }

    #[test]
    fn while_the_disk_takes_nothing_rows_wait_in_memory_up_to_its_bound_and_are_written_in_order_when_it_does() {
        let folder = tempfile::tempdir().unwrap();
        // Each frame goes to a segment of its own, and the second cannot be made.
        let bounds = Bounds { journal_max: 1 << 20, segment: 100, memory_max: 2 * big(0).len() };
        let journal = Journal::open(folder.path(), bounds, 1).unwrap();
        let blocked = path(folder.path(), 2);
        std::fs::create_dir(&blocked).unwrap();
        let results: Vec<Appended> = (0..4).map(|number| journal.append_frame(&big(number))).collect();
        assert_eq!(results, [Appended::Written, Appended::Held, Appended::Held, Appended::Dropped]);
        let level = journal.level();
        assert_eq!((level.written, level.held, level.dropped, level.losing), (1, 2, 1, true));
        assert!(level.error.is_some());
        assert_eq!(level.bytes, MAGIC.len() as u64 + 3 * big(0).len() as u64, "what waits counts against the bound");
        assert!(journal.collect().is_err());
        assert_eq!((journal.level().held, read_all(&journal)), (2, vec![0]), "and it stays there");
        std::fs::remove_dir(&blocked).unwrap();
        assert_eq!(journal.append_frame(&big(4)), Appended::Dropped, "not before those that wait");
        journal.collect().unwrap();
        let level = journal.level();
        assert_eq!((level.written, level.held, level.dropped, level.losing), (3, 0, 2, false));
        assert_eq!(level.error, None);
        assert_eq!(journal.append_frame(&big(5)), Appended::Written);
        assert_eq!(read_all(&journal), [0, 1, 2, 5]);
        assert_eq!(journal.level().bytes, bytes_of_segments(folder.path()));
    }

    #[test]
    fn segments_take_rows_up_to_their_bound_exactly_and_again_when_some_are_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let size = big(0).len() as u64;
        let journal_max = 2 * MAGIC.len() as u64 + 2 * size;
        let bounds = Bounds { journal_max, segment: size, memory_max: 0 };
        let journal = Journal::open(folder.path(), bounds, 1).unwrap();
        let small = frame(&9u32.to_le_bytes());
        assert_eq!([0, 1].map(|number| journal.append_frame(&big(number))), [Appended::Written; 2]);
        assert_eq!((journal.level().bytes, bytes_of_segments(folder.path())), (journal_max, journal_max));
        assert!(!journal.level().losing);
        assert_eq!(journal.append_frame(&small), Appended::Dropped, "tails take none either");
        journal.collect().unwrap();
        assert!(journal.level().losing, "it is full still");
        journal.delete_before(Position { segment: 1, offset: 0 });
        assert!(journal.level().losing && !journal.has_before(Position { segment: 1, offset: 0 }));
        let second = Position { segment: 2, offset: 0 };
        assert!(journal.has_before(second));
        journal.delete_before(second);
        assert!(!journal.has_before(second) && !journal.level().losing);
        assert_eq!(journal.append_frame(&small), Appended::Written);
        journal.collect().unwrap();
        assert_eq!(read_all(&journal), [1, 9]);
        assert_eq!(journal.level().bytes, bytes_of_segments(folder.path()));
        drop(journal);
        let full = Bounds { journal_max: bytes_of_segments(folder.path()), ..bounds };
        let journal = Journal::open(folder.path(), full, 1).unwrap();
        assert_eq!(journal.append_frame(&small), Appended::Dropped, "one that is full when it is opened takes none");
    }

    #[cfg(unix)]
    #[test]
    fn a_sync_passes_over_what_is_deleted_and_fails_where_the_last_segment_is_not_to_be_had() {
        let folder = tempfile::tempdir().unwrap();
        let bounds = Bounds { journal_max: 1 << 20, segment: 100, memory_max: 0 };
        let journal = Journal::open(folder.path(), bounds, 1).unwrap();
        assert_eq!([0, 1].map(|number| journal.append_frame(&big(number))), [Appended::Written; 2]);
        journal.delete_before(Position { segment: 2, offset: 0 });
        journal.sync().unwrap();
        assert_eq!((journal.active.lock().unsynced, *journal.synced.lock()), (2, 1), "the next begins there");
        // A name that leads to itself opens for nobody.
        let last = path(folder.path(), 2);
        std::fs::remove_file(&last).unwrap();
        std::os::unix::fs::symlink(&last, &last).unwrap();
        assert!(journal.sync().is_err());
        assert_eq!(*journal.synced.lock(), 1, "whoever waits has to try it");
    }

    #[test]
    fn nothing_is_read_across_the_end_that_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let bounds = Bounds { journal_max: 1 << 20, segment: 1 << 20, memory_max: 0 };
        let journal = Journal::open(folder.path(), bounds, 1).unwrap();
        for number in 0..2 {
            assert_eq!(journal.append_frame(&big(number)), Appended::Written);
        }
        let after_first = Position { segment: 1, offset: (MAGIC.len() + big(0).len()) as u64 };
        let mut buffer = Vec::new();
        let read = |until, buffer: &mut Vec<u8>| {
            let chunk = journal.read(Position::default(), until, buffer).unwrap();
            (chunk.next, numbers(buffer))
        };
        assert_eq!(read(Some(after_first), &mut buffer), (after_first, vec![0]));
        let of_another_segment = Position { segment: 2, offset: 9 };
        assert_eq!(read(Some(of_another_segment), &mut buffer), (journal.end(), vec![0, 1]));
    }

    #[test]
    fn a_row_of_any_length_that_is_taken_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let bounds = Bounds { journal_max: 1 << 30, segment: 1 << 30, memory_max: 1 << 30 };
        let journal = Journal::open(folder.path(), bounds, 1).unwrap();
        let long = |number: u32, length: usize| {
            let payload = [&number.to_le_bytes()[..], &vec![7; length - 4 - FRAME_HEAD]].concat();
            frame(&payload)
        };
        let lengths = [100, READ_BYTES, READ_BYTES + 1, FRAME_MAX, 100];
        for (number, length) in (0u32..).zip(lengths) {
            assert_eq!(journal.append_frame(&long(number, length)), Appended::Written, "{length} bytes");
        }
        assert_eq!(journal.append_frame(&long(9, FRAME_MAX + 1)), Appended::Dropped, "more than is believed");
        journal.collect().unwrap();
        assert_eq!(read_all(&journal), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn damage_of_more_than_a_torn_row_is_put_aside_and_the_loss_is_told() {
        for (damaged, kept) in [(READ_BYTES, false), (READ_BYTES + 1, true)] {
            let folder = tempfile::tempdir().unwrap();
            let left = [&MAGIC[..], &frame(&5u32.to_le_bytes()), &vec![0xff; damaged]].concat();
            std::fs::write(path(folder.path(), 1), &left).unwrap();
            let bounds = Bounds { journal_max: 1 << 30, segment: 1 << 30, memory_max: 0 };
            let journal = Journal::open(folder.path(), bounds, 1).unwrap();
            assert_eq!(journal.level().bytes, bytes_of_segments(folder.path()));
            let mut buffer = Vec::new();
            let first = journal.read(Position::default(), None, &mut buffer).unwrap();
            assert_eq!((numbers(&buffer), first.lost), (vec![5], 0));
            let second = journal.read(first.next, None, &mut buffer).unwrap();
            assert_eq!((buffer.len(), second.lost), (0, damaged as u64));
            assert_eq!(second.next, Position { segment: 2, offset: MAGIC.len() as u64 });
            let aside = path(folder.path(), 1).with_extension("damaged");
            assert_eq!(std::fs::read(aside).ok(), kept.then_some(left), "{damaged} bytes");
        }
    }

    #[test]
    fn what_cannot_be_moved_when_the_journal_is_finished_is_found_by_the_next_process() {
        let (folder, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let bounds = Bounds { journal_max: 1 << 20, segment: 1, memory_max: 0 };
        let journal = Journal::open(folder.path(), bounds, 1).unwrap();
        assert_eq!(journal.append_frame(&frame(&3u32.to_le_bytes())), Appended::Written);
        if journal.end().segment > 1 {
            // Where there is no memory for tails, it is in a segment already.
            return;
        }
        let blocked = path(folder.path(), 2);
        std::fs::create_dir(&blocked).unwrap();
        journal.finish();
        for entry in std::fs::read_dir(folder.path()).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
            }
        }
        assert_eq!(read_all(&Journal::open(copy.path(), bounds, 1).unwrap()), [3]);
        std::fs::remove_dir(blocked).unwrap();
        drop(journal);
        assert_eq!(read_all(&Journal::open(folder.path(), bounds, 1).unwrap()), [3], "and the last chance is taken");
    }

    #[test]
    fn a_journal_keeps_its_name_and_a_new_segment_is_begun_only_where_the_last_has_rows() {
        let folder = tempfile::tempdir().unwrap();
        let bounds = Bounds { journal_max: 1 << 20, segment: 1 << 20, memory_max: 0 };
        let journal = Journal::open(folder.path(), bounds, -2).unwrap();
        assert_eq!((journal.id(), journal.first_segment()), (i64::MAX - 1, 1));
        journal.begin_segment().unwrap();
        assert_eq!(journal.end(), Position { segment: 1, offset: MAGIC.len() as u64 });
        let row = frame(&1u32.to_le_bytes());
        assert_eq!(journal.append_frame(&row), Appended::Written);
        journal.begin_segment().unwrap();
        assert_eq!(journal.end(), Position { segment: 2, offset: MAGIC.len() as u64 });
        assert_eq!(segments(folder.path()).unwrap().len(), 2);
        drop(journal);
        let journal = Journal::open(folder.path(), bounds, 7).unwrap();
        assert_eq!((journal.id(), journal.first_segment()), (i64::MAX - 1, 3));
    }

    #[test]
    fn zeros_and_nonsense_are_no_frames() {
        assert_eq!(whole_frames(&[0; 64]), Whole { end: 0, damaged: true });
        assert_eq!(whole_frames(&[0xff; 64]), Whole { end: 0, damaged: true });
        assert_eq!(whole_frames(&frame(b"x")[..8]), Whole { end: 0, damaged: false });
    }
}
