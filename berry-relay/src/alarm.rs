//! A timer for deadlines that are set anew all the time and hardly ever pass.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// Waits for a deadline that may change from one look to the next.
///
/// A timer that is early is left alone until it fires and is set to the deadline then. So one whose deadline moves on with each
/// request costs no visit to the runtime's timers, and no look at the clock.
#[derive(Debug, Default)]
pub struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready once `deadline` has passed.
    pub fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let timer = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() == deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Waker;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_last_deadline_counts_whichever_way_it_moved() {
        for [first, last] in [[5, 9], [9, 5]] {
            let (start, mut alarm) = (Instant::now(), Alarm::default());
            let after = |seconds| start + Duration::from_secs(seconds);
            assert!(alarm.poll(&mut Context::from_waker(Waker::noop()), after(first)).is_pending());
            poll_fn(|cx| alarm.poll(cx, after(last))).await;
            assert_eq!(start.elapsed().as_secs(), last);
        }
    }
}
