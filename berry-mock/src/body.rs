//! Plays the steps of an answer as an HTTP body.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::answer::{Length, Mark, Step};
use crate::mock::Gate;
use crate::observe::{InFlight, Phase};
use crate::wire::Cutter;

/// A body made of steps. It never fails: where the script wants an end before its time, the connection is cut.
pub(crate) struct MockBody {
    steps: VecDeque<Step>,
    /// What is left to send, where the client was told.
    left: Option<u64>,
    in_flight: InFlight,
    cutter: Arc<Cutter>,
    gate: Gate,
    state: State,
    /// Kept from wait to wait; a stream has hundreds.
    sleep: Option<Pin<Box<Sleep>>>,
}

/// What the body is doing between two polls.
enum State {
    Playing,
    Sleeping,
    AtGate(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// Nothing will happen any more.
    Silent,
}

impl MockBody {
    pub(crate) fn new(
        steps: VecDeque<Step>,
        length: Length,
        mut in_flight: InFlight,
        cutter: Arc<Cutter>,
        gate: Gate,
    ) -> Self {
        let left = match length {
            Length::Known => Some(steps.iter().map(chunk_bytes).sum()),
            Length::Chunked => None,
        };
        if steps.is_empty() {
            in_flight.complete();
        }
        in_flight.reached(Phase::BeforeContent);
        Self { steps, left, in_flight, cutter, gate, state: State::Playing, sleep: None }
    }

    /// Waits out what the last step began.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.state {
            State::Playing => return Poll::Ready(()),
            State::Sleeping => ready!(self.sleep.as_mut().expect("set before sleeping").as_mut().poll(cx)),
            State::AtGate(open) => ready!(open.as_mut().poll(cx)),
            State::Silent => return Poll::Pending,
        }
        self.state = State::Playing;
        Poll::Ready(())
    }

    fn start_sleep(&mut self, wait: Duration) {
        let until = Instant::now() + wait;
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(until),
            none => *none = Some(Box::pin(tokio::time::sleep_until(until))),
        }
        self.state = State::Sleeping;
    }

    fn send(&mut self, mark: Mark, bytes: Bytes) -> Frame<Bytes> {
        if matches!(mark, Mark::Content | Mark::Whole) {
            self.in_flight.reached(Phase::Content);
        }
        if let Some(left) = &mut self.left {
            *left -= bytes.len() as u64;
        }
        if self.steps.is_empty() {
            // hyper does not ask again after the last frame.
            self.in_flight.complete();
        }
        Frame::data(bytes)
    }
}

fn chunk_bytes(step: &Step) -> u64 {
    match step {
        Step::Chunk(_, bytes) => bytes.len() as u64,
        _ => 0,
    }
}

impl Body for MockBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        loop {
            ready!(this.poll_waiting(cx));
            match this.steps.pop_front() {
                None => {
                    this.in_flight.complete();
                    return Poll::Ready(None);
                }
                Some(Step::Chunk(_, bytes)) if bytes.is_empty() => {}
                Some(Step::Chunk(mark, bytes)) => return Poll::Ready(Some(Ok(this.send(mark, bytes)))),
                Some(Step::Wait(wait)) => this.start_sleep(wait),
                Some(Step::Beat(every, bytes)) => {
                    this.start_sleep(every);
                    this.steps.push_front(Step::Beat(every, bytes.clone()));
                    this.steps.push_front(Step::Chunk(Mark::Opening, bytes));
                }
                Some(Step::Flush) => {
                    // hyper writes out what it holds whenever the body has nothing ready.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Some(Step::Gate) => this.state = State::AtGate(this.gate.opened()),
                Some(Step::Hang) => this.state = State::Silent,
                Some(Step::Kill(end) | Step::CutHead(end)) => {
                    this.in_flight.cut();
                    this.cutter.kill(end);
                    this.state = State::Silent;
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.steps.is_empty() && matches!(self.state, State::Playing)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
