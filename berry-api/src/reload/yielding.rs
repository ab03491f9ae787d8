//! A thread that works only where nobody else wants to.
//!
//! A large configuration takes seconds of work. On a thread like any other that work would take turns with requests, and a request
//! that comes in the middle of a turn waits for milliseconds. At a low priority it gives way at once.

use std::thread;

use tokio::runtime::Handle;

/// Does the work on a thread of its own that gives way to the others, and waits for the result; `None` when the work panicked or
/// there can be no thread.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let runtime = Handle::current();
    let work = move || {
        let _entered = runtime.enter();
        yield_to_others();
        work()
    };
    // A thread may not raise its priority again, so it is not one of the runtime's, which go on to other work. One of those waits
    // for it, so that the runtime knows that something is under way.
    let wait = move || thread::Builder::new().name("reload".to_owned()).spawn(work).ok()?.join().ok();
    tokio::task::spawn_blocking(wait).await.ok().flatten()
}

/// Gives this thread a low priority, a tenth of the usual share of a busy processor. On Linux a thread has one of its own; elsewhere it would be the process's.
fn yield_to_others() {
    #[cfg(target_os = "linux")]
    {
        const LOW: libc::c_int = 10;
        #[expect(unsafe_code, reason = "setpriority takes numbers only; 0 is the calling thread")]
        // Lowering is always allowed, and where it fails all the same the work is done as before.
        let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, LOW) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_result_comes_back_and_a_panic_is_nobody() {
        assert_eq!(run(|| 7).await, Some(7));
        assert_eq!(run(|| panic!("on purpose")).await.map(|(): ()| 7), None);
    }
}
