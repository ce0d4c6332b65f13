//! Stackful coroutines on one OS thread: the only user of `may`.
//!
//! Only spawn with a stack size, park, unpark and yield of `may` are used. The timed waits of `may` resume a
//! coroutine on a timer thread. Cancellation unwinds through all frames of the coroutine, Python's included. A test
//! forbids both.
//!
//! # Limits of the promises
//!
//! - [`Parker::park`] may return without a matching [`Parker::unpark`]: wait on a predicate of your own.
//! - [`spawn`] only queues. The coroutine starts when every earlier runnable coroutine has parked or ended.
//! - Only the thread that runs the coroutines may call [`Parker::unpark`]. Other threads use the event loop's inbox.

mod guard;
mod overflow;
mod parking;
mod room;

pub use overflow::{StackBounds, install as install_overflow_handler, remember_handlers, set_current_stack};
pub use parking::{Parking, measure_parking};

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The default size of a coroutine's stack, in bytes of virtual memory: the size that an OS thread gets on Linux. Pages
/// are committed when they are first touched.
pub const DEFAULT_STACK_BYTES: usize = 8 * 1024 * 1024;

/// The smallest stack that fits CPython's own call chains (an import, a `json.loads`, OpenSSL's start).
pub const MINIMUM_STACK_BYTES: usize = 256 * 1024;

/// Stacks that `may` keeps for reuse. The number is small, since a stack keeps its high-water mark. Higher layers pool
/// idle coroutines.
const POOLED_STACKS: usize = 8;

static STACK_BYTES: AtomicUsize = AtomicUsize::new(DEFAULT_STACK_BYTES);

/// Sets the stack size of coroutines spawned from now on, in bytes, rounded up to whole pages.
pub fn set_stack_bytes(bytes: usize) {
    let page = rustix::param::page_size();
    let rounded = bytes.max(MINIMUM_STACK_BYTES).div_ceil(page) * page;
    STACK_BYTES.store(rounded, Ordering::Relaxed);
}

/// The stack size of coroutines spawned from now on, in bytes.
pub fn stack_bytes() -> usize {
    STACK_BYTES.load(Ordering::Relaxed)
}

/// The place where one coroutine parks. It costs less than the place that each coroutine has of its own, which every
/// park has to look up.
///
/// Make it in a coroutine: that one, or another. One that is made elsewhere parks an OS thread.
pub struct Parker(may::sync::Blocker);

impl Default for Parker {
    fn default() -> Parker {
        // Cancellation, which is not used, is not looked for.
        Parker(may::sync::Blocker::new(true))
    }
}

impl Parker {
    /// Parks the coroutine until it is unparked; not at all if it was unparked before. May return early, so the caller
    /// checks a condition of its own.
    ///
    /// # Parks
    pub fn park(&self) {
        // It fails at a time limit alone.
        let _ = self.0.park(None);
    }

    /// Makes the coroutine runnable. It runs after the caller has parked, yielded or ended.
    pub fn unpark(&self) {
        self.0.unpark();
    }
}

/// Queues a new coroutine that runs `body` on a stack of [`stack_bytes`].
///
/// # Errors
/// OutOfMemory if there is no room for the stack (`vm.max_map_count`, `RLIMIT_AS`). The message names the remedy.
pub fn spawn(body: Box<dyn FnOnce() + Send>) -> io::Result<()> {
    static STARTED: AtomicBool = AtomicBool::new(false);
    configure_once();
    if STARTED.load(Ordering::Relaxed) {
        room::check(stack_bytes())?;
    } else {
        room::check_first(stack_bytes(), POOLED_STACKS)?;
        STARTED.store(true, Ordering::Relaxed);
    }
    let (living, bytes) = (room::Living::begin(), stack_bytes());
    let body = move || {
        let _living = living;
        guard::lighten(bytes);
        body();
    };
    // `may` counts stack sizes in words. An odd number of words makes `may` paint the whole stack, which commits it.
    // Whole pages are an even number of words.
    let words = stack_bytes() / size_of::<usize>();
    let started = catch_unwind(AssertUnwindSafe(|| {
        #[expect(unsafe_code, reason = "may marks spawn as unsafe")]
        // SAFETY: `may` has two conditions. Thread-local storage is safe, since one worker runs every coroutine and no
        // coroutine moves to another thread. A stack overflow ends on a guard page, in the handler of `overflow`.
        unsafe {
            may::coroutine::Builder::new().stack_size(words).spawn(body)
        }
    }));
    match started {
        Ok(spawned) => spawned.map(drop),
        // Another thread has used the room since the check.
        Err(_) => Err(io::Error::from(io::ErrorKind::OutOfMemory)),
    }
}

/// Lets every runnable coroutine run before the current coroutine continues.
///
/// # Parks
pub fn yield_now() {
    may::coroutine::yield_now();
}

fn configure_once() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let config = may::config();
        config.set_workers(1);
        config.set_pool_capacity(POOLED_STACKS);
        config.set_stack_size(stack_bytes() / size_of::<usize>());
        // By default `may` pins its first worker to the first core, the same for every process of a prefork server.
        config.set_worker_pin(false);
    });
}

#[cfg(test)]
pub(crate) mod tests;
