//! Someone who waits to be notified by another coroutine or OS thread, itself either.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rustix::thread::futex;
use rustix::time::Timespec;

use super::waits::SIGNAL_CHECK;
use super::wake_error;
use crate::event_loop::{self, Wake, Waker, interrupts};

const WAITING: u32 = 0;
const NOTIFIED: u32 = 1;
const GONE: u32 = 2;

/// How many forks lie between the process and the one that loaded the module. Who waited before the last one does not
/// exist in the child, although what they waited for still names them.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// How long code that runs on the loop thread, but where its coroutine may not park, waits for another: everything stands
/// still meanwhile, and if a coroutine is what it waits for, for ever.
const STANDSTILL: Duration = Duration::from_secs(2);

/// One wait. It ends once: notified, or gone for another reason.
pub struct Waiter {
    state: AtomicU32,
    /// [`FORKS`] when it began.
    forks: u32,
    /// None for an OS thread, which blocks on `state`.
    coroutine: Option<Waker>,
}

impl Waiter {
    fn new(coroutine: Option<Waker>) -> Arc<Waiter> {
        Arc::new(Waiter { state: AtomicU32::new(WAITING), forks: FORKS.load(Ordering::Relaxed), coroutine })
    }

    /// Ends the wait, from any thread. Returns whether it did: a wait that has ended already, or was the parent's before a
    /// fork, leaves the notification to somebody else.
    pub fn notify(&self) -> bool {
        if self.forks != FORKS.load(Ordering::Relaxed) || !self.leave(NOTIFIED) {
            return false;
        }
        match &self.coroutine {
            Some(waker) => waker.wake(Wake::Ready),
            None => {
                let _ = futex::wake(&self.state, futex::Flags::PRIVATE, 1);
            }
        }
        true
    }

    fn leave(&self, state: u32) -> bool {
        self.state.compare_exchange(WAITING, state, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn is_notified(&self) -> bool {
        self.state.load(Ordering::Acquire) == NOTIFIED
    }
}

/// Called in the child after a fork: those who waited are the parent's.
pub fn forget_in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// Waits until the waiter that `enqueue` is given has been notified, at most until `deadline`. Returns whether it has.
/// `enqueue` puts it where the notifier finds it; when the wait ends otherwise, `dequeue` takes it out.
///
/// # Errors
/// [`super::CoroutineExit`] when the server stops, what is thrown into the coroutine; in the main thread, what a signal
/// handler raises. Never after a notification: then the error is raised at the coroutine's next wait.
///
/// # Parks
pub fn wait(
    py: Python<'_>,
    deadline: Option<Instant>,
    enqueue: impl FnOnce(Arc<Waiter>),
    dequeue: impl FnOnce(&Arc<Waiter>),
) -> PyResult<bool> {
    if !event_loop::can_park() {
        return block(py, deadline, true, enqueue, dequeue);
    }
    match park(deadline, enqueue, dequeue) {
        None => Ok(true),
        Some(Wake::TimedOut) => Ok(false),
        Some(wake) => Err(wake_error(wake)),
    }
}

/// Takes what `attempt` takes, and waits for it as [`wait`] does; but whoever is interrupted meanwhile goes on waiting.
/// What is thrown into the coroutine is raised at its next wait, a signal handler runs afterwards.
///
/// # Errors
/// Only where there is no way to wait any more: [`super::CoroutineExit`] when the server has stopped for good, RuntimeError
/// on the loop thread where a coroutine may not park. Then nothing has been taken.
///
/// # Parks
pub fn insist(
    py: Python<'_>,
    attempt: impl Fn() -> bool,
    enqueue: impl Fn(Arc<Waiter>),
    dequeue: impl Fn(&Arc<Waiter>),
) -> PyResult<()> {
    let mut late = None;
    while !attempt() {
        if !event_loop::can_park() {
            block(py, None, false, &enqueue, &dequeue)?;
            break;
        }
        match park(None, &enqueue, &dequeue) {
            None => break,
            // The end of the server goes before what else there is.
            Some(wake @ (Wake::Killed | Wake::Interrupted)) if !event_loop::is_doomed() => {
                late = late.filter(|&late| late == Wake::Killed).or(Some(wake));
            }
            Some(wake) => return Err(wake_error(wake)),
        }
    }
    if let Some(wake) = late {
        interrupts::postpone(wake);
    }
    Ok(())
}

/// None when notified, otherwise what has ended the wait.
fn park(
    deadline: Option<Instant>,
    enqueue: impl FnOnce(Arc<Waiter>),
    dequeue: impl FnOnce(&Arc<Waiter>),
) -> Option<Wake> {
    let mut entered = None;
    let wake = event_loop::wait_for_wake(deadline, |waker| {
        let waiter = Waiter::new(Some(waker));
        entered = Some(Arc::clone(&waiter));
        enqueue(waiter);
        true
    });
    let Some(waiter) = entered else { return Some(wake) };
    if wake == Wake::Ready && waiter.is_notified() {
        return None;
    }
    if !waiter.leave(GONE) {
        // Notified in the same moment. The notifier counts on that, so the other reason has to wait.
        if matches!(wake, Wake::Killed | Wake::Interrupted) {
            interrupts::postpone(wake);
        }
        return None;
    }
    dequeue(&waiter);
    Some(wake)
}

/// Without `interruptible`, handlers of signals run only afterwards.
fn block(
    py: Python<'_>,
    deadline: Option<Instant>,
    interruptible: bool,
    enqueue: impl FnOnce(Arc<Waiter>),
    dequeue: impl FnOnce(&Arc<Waiter>),
) -> PyResult<bool> {
    let waiter = Waiter::new(None);
    enqueue(Arc::clone(&waiter));
    let standstill = event_loop::is_loop_thread().then(|| Instant::now() + STANDSTILL);
    // A signal that arrives just before the system call does not interrupt it, and only the main thread has handlers.
    let slice = if is_main_thread() { SIGNAL_CHECK } else { Duration::from_secs(3600) };
    loop {
        let soonest = deadline.into_iter().chain(standstill).min();
        let left = soonest.map_or(slice, |soonest| soonest.saturating_duration_since(Instant::now()).min(slice));
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        py.detach(|| {
            let _ = futex::wait(&waiter.state, futex::Flags::PRIVATE, WAITING, Some(&timeout));
        });
        if waiter.is_notified() {
            return Ok(true);
        }
        let signalled = if interruptible { py.check_signals().err() } else { None };
        let failure = signalled.or_else(|| {
            standstill.filter(|&standstill| Instant::now() >= standstill).map(|_| {
                PyRuntimeError::new_err(
                    "a lock is held by somebody else, and this code runs where it cannot wait for it",
                )
            })
        });
        let over = failure.is_some() || deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if over && waiter.leave(GONE) {
            dequeue(&waiter);
            return failure.map_or(Ok(false), Err);
        }
        if over {
            // Notified in the same moment, and the notifier counts on that.
            if let Some(failure) = failure {
                failure.write_unraisable(py, None);
            }
            return Ok(true);
        }
    }
}

fn is_main_thread() -> bool {
    rustix::thread::gettid() == rustix::process::getpid()
}
