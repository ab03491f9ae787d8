//! The one thread that writes logs, and encodes the spans of traced requests.
//!
//! Everything that is logged becomes an [`Item`] in a bounded batch in memory; this thread takes the batch, formats what is
//! not text yet and writes it in one call for each sink. So lines never interleave, a slow disk or a blocked pipe never
//! slows a request, and a busy server pays one wake-up for some `GATHER` worth of lines instead of one each. What somebody
//! may be waiting for, warnings and errors, is written at once. While nothing is logged the thread sleeps.
//!
//! The batch holds at most [`ITEMS_MAX`] items. What comes on top is dropped and counted, and the count is logged when there
//! is room again.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, SystemTime};

use berry_core::config::snapshot::LogFormat;
use parking_lot::{Condvar, Mutex};
use tracing::Level;

use super::access::{Finished, Middle};
use super::alike::Alike;
use super::format::{Fields, Header, write_event};
use super::traces::Traces;

/// Items held at once.
pub const ITEMS_MAX: usize = 16 * 1024;

/// How long lines are gathered before they are written.
const GATHER: Duration = Duration::from_millis(100);

/// So many lines are not gathered any longer: they would outgrow the processor's caches before they are written.
const GATHERED_MAX: usize = 512;

/// Longest wait for the thread to write what it has, at the end of the process.
const FLUSH_WAIT: Duration = Duration::from_secs(2);

/// One thing to write.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the usual one; a box would cost every request an allocation"
)]
pub enum Item {
    /// An event with its fields rendered.
    Event {
        /// When, how important and from where.
        header: Header,
        /// What it says.
        message: String,
        /// Everything else about it.
        fields: Fields,
    },
    /// A finished request.
    Finished(Finished),
}

impl Item {
    /// Whether somebody may be waiting for it.
    fn is_urgent(&self) -> bool {
        matches!(self, Self::Event { header, .. } if header.level <= Level::WARN)
    }
}

/// Where lines go, and how they look there.
pub struct Sink {
    /// How a line is written.
    pub format: LogFormat,
    /// Where it goes.
    pub out: Box<dyn Write + Send>,
}

/// Hands items to the writer thread. Cheap to clone.
#[derive(Clone)]
pub struct LogWriter(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    written: Condvar,
    /// Where spans go.
    traces: OnceLock<Arc<Traces>>,
    /// Since the last line that said so.
    dropped: AtomicU64,
    dropped_ever: AtomicU64,
}

#[derive(Default)]
struct State {
    items: Vec<Item>,
    /// The thread knows that there is something, or is about to look.
    armed: bool,
    /// Do not gather: somebody waits.
    urgent: bool,
    /// Batches taken so far, and the last one that is on its sink.
    taken: u64,
    finished: u64,
}

impl std::fmt::Debug for LogWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogWriter")
    }
}

impl LogWriter {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(sinks: Vec<Sink>) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let writer = Self(Arc::clone(&shared));
        thread::Builder::new().name("berry-log".to_owned()).spawn(move || run(&shared, sinks))?;
        Ok(writer)
    }

    /// Tells where the spans of traced requests go; the first one stays.
    pub(super) fn export_to(&self, traces: &Arc<Traces>) {
        // What is told later is of another program in the same process, a test.
        let _ = self.0.traces.set(Arc::clone(traces));
    }

    /// Takes an item into the batch, or counts it as dropped when the batch is full. Never blocks on a sink.
    pub fn push(&self, item: Item) {
        let mut state = self.0.state.lock();
        if state.items.len() >= ITEMS_MAX {
            drop(state);
            self.drop_item(&item);
            return;
        }
        let is_urgent = item.is_urgent();
        state.items.push(item);
        let is_first = !std::mem::replace(&mut state.armed, true);
        let hurries = !state.urgent && (is_urgent || state.items.len() >= GATHERED_MAX);
        state.urgent |= hurries;
        drop(state);
        if is_first || hurries {
            self.0.wake.notify_one();
        }
    }

    fn drop_item(&self, item: &Item) {
        if let Item::Finished(finished) = item {
            if let Some(traces) = self.0.traces.get() {
                traces.lose(finished);
            }
            if !finished.is_shown {
                return;
            }
        }
        self.0.dropped.fetch_add(1, Ordering::Relaxed);
        self.0.dropped_ever.fetch_add(1, Ordering::Relaxed);
    }

    /// Items that did not fit, since the start.
    pub fn dropped(&self) -> u64 {
        self.0.dropped_ever.load(Ordering::Relaxed)
    }

    /// Waits until everything pushed so far is on its sinks or with the exporter of spans, for at most two seconds.
    pub fn flush(&self) {
        let mut state = self.0.state.lock();
        let batch = state.taken + u64::from(!state.items.is_empty());
        state.armed = true;
        state.urgent = true;
        self.0.wake.notify_one();
        self.0.written.wait_while_for(&mut state, |state| state.finished < batch, FLUSH_WAIT);
    }
}

/// A sink, and what is known of its lines.
struct Output {
    sink: Sink,
    alike: Alike<Middle>,
}

impl Output {
    /// Writes a batch, in one call. `text` is room for it.
    fn write(&mut self, batch: &[Item], text: &mut Vec<u8>) {
        let format = self.sink.format;
        text.clear();
        for item in batch {
            match item {
                Item::Finished(finished) if finished.is_shown => finished.write(format, &mut self.alike, text),
                Item::Finished(_) => {}
                Item::Event { header, message, fields } => write_event(format, header, message, fields, text),
            }
        }
        // A sink that fails (a full disk, a closed pipe) loses these lines; there is nowhere left to say so.
        let _ = self.sink.out.write_all(text).and_then(|()| self.sink.out.flush());
    }
}

/// The thread's life.
fn run(shared: &Shared, sinks: Vec<Sink>) {
    let mut outputs: Vec<Output> = sinks.into_iter().map(|sink| Output { sink, alike: Alike::default() }).collect();
    let mut batch = Vec::new();
    let mut text = Vec::with_capacity(64 * 1024);
    loop {
        take(shared, &mut batch);
        let dropped = shared.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            batch.push(dropped_notice(dropped));
        }
        if let Some(traces) = shared.traces.get() {
            for item in &batch {
                if let Item::Finished(finished) = item {
                    traces.take(finished);
                }
            }
        }
        for output in &mut outputs {
            output.write(&batch, &mut text);
        }
        batch.clear();
        let mut state = shared.state.lock();
        state.finished = state.taken;
        drop(state);
        shared.written.notify_all();
    }
}

/// Waits for items, gathers some more, and swaps the batch out.
fn take(shared: &Shared, batch: &mut Vec<Item>) {
    let mut state = shared.state.lock();
    shared.wake.wait_while(&mut state, |state| !state.armed);
    if !state.urgent {
        shared.wake.wait_while_for(&mut state, |state| !state.urgent, GATHER);
    }
    std::mem::swap(&mut state.items, batch);
    state.armed = false;
    state.urgent = false;
    state.taken += 1;
}

fn dropped_notice(dropped: u64) -> Item {
    let mut fields = Fields::default();
    fields.push_u64("dropped", dropped);
    Item::Event {
        header: Header { time: SystemTime::now(), level: Level::WARN, target: "berry_api::telemetry" },
        message: "log lines were dropped: the log could not be written as fast as it grew".to_owned(),
        fields,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(level: Level) -> Item {
        let header = Header { time: SystemTime::UNIX_EPOCH, level, target: "test" };
        Item::Event { header, message: String::new(), fields: Fields::default() }
    }

    /// Whether the thread would still gather after so many lines of a level. There is none.
    fn gathers(level: Level, lines: usize) -> bool {
        let writer = LogWriter(Arc::default());
        (0..lines).for_each(|_| writer.push(event(level)));
        let state = writer.0.state.lock();
        assert!(state.armed);
        !state.urgent
    }

    #[test]
    fn what_somebody_may_be_waiting_for_is_not_gathered() {
        assert!(gathers(Level::INFO, 1) && gathers(Level::TRACE, 1));
        assert!(!gathers(Level::WARN, 1) && !gathers(Level::ERROR, 1));
    }

    #[test]
    fn no_more_is_gathered_than_fits_the_caches() {
        assert!(gathers(Level::INFO, GATHERED_MAX - 1));
        assert!(!gathers(Level::INFO, GATHERED_MAX));
    }
}
