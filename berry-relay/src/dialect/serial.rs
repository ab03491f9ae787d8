//! One open block at a time, for dialects that allow no more.
//!
//! Of several open blocks of a candidate the first one passes at once; what comes for the others waits until it is closed. What
//! waits was read from one answer and is bounded: beyond [`HELD_BYTES_MAX`] the rest of it is left out and the answer ends as cut.

use std::collections::VecDeque;

use super::ir::{Delta, Event, Stop};

/// Most bytes that wait for an earlier block to end.
pub const HELD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Brings the blocks of one candidate into a row. Events of others are left out: the dialects that need this know one.
#[derive(Debug, Default)]
pub struct Serial {
    open: Option<u32>,
    waiting: VecDeque<(u32, Vec<Event>)>,
    held: usize,
    overflown: bool,
}

impl Serial {
    /// Takes the next event and adds what may be written now, in order.
    pub fn push(&mut self, event: Event, out: &mut Vec<Event>) {
        let (candidate, index) = match &event {
            Event::Open { candidate, index, .. }
            | Event::Delta { candidate, index, .. }
            | Event::Close { candidate, index } => (*candidate, *index),
            Event::Stop { candidate: 0, .. } => {
                self.flush(out);
                out.push(match self.overflown {
                    true => Event::Stop { candidate: 0, stop: Stop::Length },
                    false => event,
                });
                return;
            }
            Event::Stop { .. } => return,
            Event::Start { .. } | Event::Usage(_) | Event::Error(_) | Event::Ping => return out.push(event),
        };
        if candidate != 0 {
            return;
        }
        match self.open {
            None if matches!(event, Event::Open { .. }) => {
                self.open = Some(index);
                out.push(event);
            }
            Some(open) if open == index => {
                let closes = matches!(event, Event::Close { .. });
                out.push(event);
                if closes {
                    self.next(out);
                }
            }
            _ => self.hold(index, event),
        }
    }

    fn hold(&mut self, index: u32, mut event: Event) {
        self.held += match &mut event {
            Event::Delta { delta: Delta::Text(text) | Delta::Arguments(text) | Delta::Signature(text), .. } => {
                // What it was read from may be much longer.
                *text = text.detached();
                text.raw().len()
            }
            _ => 64,
        };
        if self.held > HELD_BYTES_MAX {
            self.overflown = true;
            return;
        }
        match self.waiting.iter_mut().find(|(own, _)| *own == index) {
            Some((_, events)) => events.push(event),
            None if matches!(event, Event::Open { .. }) => self.waiting.push_back((index, vec![event])),
            None => {}
        }
    }

    /// Goes on with the block that has waited longest.
    fn next(&mut self, out: &mut Vec<Event>) {
        self.open = None;
        while let Some((index, events)) = self.waiting.pop_front() {
            let closed = matches!(events.last(), Some(Event::Close { .. }));
            out.extend(events);
            if !closed {
                self.open = Some(index);
                return;
            }
        }
        self.held = 0;
    }

    /// Closes whatever is open.
    fn flush(&mut self, out: &mut Vec<Event>) {
        while let Some(index) = self.open {
            out.push(Event::Close { candidate: 0, index });
            self.next(out);
        }
    }
}
