//! Waiters: coroutines and OS threads that wait for a notification by another coroutine or OS thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rustix::thread::futex;

use super::application_waits::SIGNAL_CHECK;
use super::errors::wake_error;
use crate::event_loop::reasons::Reason;
use crate::event_loop::{self, Wake, Waker, interrupts, notes};
use crate::kernel::timespec;

const WAITING: u32 = 0;
const NOTIFIED: u32 = 1;
const GONE: u32 = 2;
/// The waiter's thread runs signal handlers, which may wait for the same thing.
const ASIDE: u32 = 3;
/// The waiter's turn came while it was aside, and went to the next in line.
const PASSED_OVER: u32 = 4;

/// The number of forks between the process that loaded the module and this one. Waiters from before the last fork do
/// not exist in the child, although locks and queues still name them.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// All coroutines that wait are those of a parent process.
static ARE_PARENTS: AtomicBool = AtomicBool::new(false);

/// How long code waits that runs on the loop thread where its coroutine may not park. The whole loop stands still
/// during that time, and would for ever if a coroutine has to end the wait.
const STANDSTILL: Duration = Duration::from_secs(2);

/// One wait. It ends once, by a notification or for another reason.
pub struct Waiter {
    state: AtomicU32,
    /// [`FORKS`] when the wait began.
    forks: u32,
    /// The coroutine that waits; None for an OS thread, which blocks on `state`.
    coroutine: Option<Waker>,
}

impl Waiter {
    fn new(coroutine: Option<Waker>) -> Arc<Waiter> {
        Arc::new(Waiter { state: AtomicU32::new(WAITING), forks: FORKS.load(Ordering::Relaxed), coroutine })
    }

    /// Ends the wait, from any thread. Returns whether it did, and otherwise leaves the notification to the next
    /// waiter.
    ///
    /// It ends no wait that has ended already or stands aside for a signal handler. Nor does it end a wait that is left
    /// behind by its loop, or left to the parent by a fork.
    pub fn notify(&self) -> bool {
        let is_lost = self.coroutine.as_ref().is_some_and(Waker::is_lost);
        if is_lost || self.forks != FORKS.load(Ordering::Relaxed) || !self.leave(NOTIFIED) {
            self.change(ASIDE, PASSED_OVER);
            return false;
        }
        match &self.coroutine {
            Some(waker) => {
                waker.wake(Wake::Ready);
            }
            None => {
                let _ = futex::wake(&self.state, futex::Flags::PRIVATE, 1);
            }
        }
        true
    }

    fn leave(&self, state: u32) -> bool {
        self.change(WAITING, state)
    }

    fn change(&self, from: u32, to: u32) -> bool {
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Whether the waiter still waits, or was notified just now.
    fn is_in_line(&self) -> bool {
        self.state.load(Ordering::Acquire) != PASSED_OVER
    }

    fn is_notified(&self) -> bool {
        self.state.load(Ordering::Acquire) == NOTIFIED
    }
}

/// Invalidates all waiters in the child of a fork: they are the parent's. `had_loop` says whether coroutines can be among
/// them.
pub fn forget_in_child(had_loop: bool) {
    FORKS.fetch_add(1, Ordering::Relaxed);
    ARE_PARENTS.store(had_loop, Ordering::Relaxed);
}

/// The reason for a wait, for the coroutine's record.
#[derive(Clone, Copy, Debug)]
pub struct WaitReason {
    reason: Reason,
    details: [u64; 2],
}

impl WaitReason {
    /// A wait for an object: a lock, a queue. The caller's method keeps the object alive. Its address is noted, and
    /// readers that are attached may use the object while the coroutine waits.
    pub fn object<T>(reason: Reason, object: &Bound<'_, T>) -> WaitReason {
        WaitReason { reason, details: [object.as_ptr().addr() as u64, 0] }
    }

    /// A wait with a number: the ident of a coroutine.
    pub fn number(reason: Reason, number: u64) -> WaitReason {
        WaitReason { reason, details: [number, 0] }
    }

    /// This reason with a second detail.
    #[must_use]
    pub fn with(self, detail: u64) -> WaitReason {
        WaitReason { details: [self.details[0], detail], ..self }
    }
}

fn because<R>(WaitReason { reason, details }: WaitReason, wait: impl FnOnce() -> R) -> R {
    notes::because(reason, details, wait)
}

/// A line of waiters for a thing that one waiter gets at a time: a lock, an item of a queue.
pub trait Line {
    /// Whether a notification hands the thing over. Otherwise the notified waiter tries to take it, and others may be
    /// faster.
    const HANDS_OVER: bool = true;

    /// Takes the thing if it is free. Returns whether it did.
    fn attempt(&self) -> bool;

    /// Adds a waiter to the line: at the end, or in its old place if it was in the line before (`again`).
    fn enqueue(&self, waiter: Arc<Waiter>, again: bool);

    /// Removes a waiter from the line.
    fn dequeue(&self, waiter: &Arc<Waiter>);

    /// How long a coroutine waits until it tries again without a notification. None waits for ever.
    fn patience(&self) -> Option<Duration> {
        None
    }
}

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WaitEnd {
    Notified,
    TimedOut,
    PassedOver,
}

/// The moment at which signal handlers run if their signals arrive while the main thread blocks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Handlers {
    /// When the wait is over.
    Later,
    /// At once.
    Now,
    /// At once, while the waiter stands aside: a handler that waits in the same line would otherwise wait for ever for
    /// a thing that its own thread was given.
    NowAside,
}

/// Waits until its waiter is notified, at most until `deadline`. Returns whether it was.
///
/// `enqueue` gets the waiter and puts it where the notifier finds it. If the wait ends otherwise, `dequeue` takes it
/// out. This is for events, which end the waits of all. [`take`] is for things that one waiter gets at a time.
///
/// # Errors
/// [`super::CoroutineExit`] when the server stops, an exception thrown into the coroutine, and in the main thread the
/// exception of a signal handler. After a notification the error is raised at the coroutine's next wait instead.
///
/// # Parks
pub fn wait(
    py: Python<'_>,
    reason: WaitReason,
    deadline: Option<Instant>,
    enqueue: impl FnOnce(Arc<Waiter>),
    dequeue: impl FnOnce(&Arc<Waiter>),
) -> PyResult<bool> {
    if !event_loop::can_park() {
        return block(py, deadline, Handlers::Now, enqueue, dequeue).map(|end| end == WaitEnd::Notified);
    }
    match park(reason, deadline, enqueue, dequeue) {
        None => Ok(true),
        Some(Wake::TimedOut) => Ok(false),
        Some(wake) => Err(wake_error(wake)),
    }
}

/// One wait for an event that ends often: a coroutine's needs no memory of its own.
pub enum EventWaiter {
    /// Of a coroutine.
    Coroutine(Waker),
    /// Of an OS thread.
    Thread(Arc<Waiter>),
}

impl EventWaiter {
    /// Ends the wait, as [`Waiter::notify`] does. Off the loop thread, true for a coroutine may be wrong.
    pub fn notify(&self) -> bool {
        match self {
            EventWaiter::Coroutine(waker) => {
                !waker.is_lost() && !ARE_PARENTS.load(Ordering::Relaxed) && waker.wake(Wake::Ready)
            }
            EventWaiter::Thread(waiter) => waiter.notify(),
        }
    }
}

/// Waits until its waiter is notified, at most until `deadline`, as [`wait`] does.
///
/// `enqueue` returns false, and drops the waiter, if there is nothing to wait for. If the wait ends otherwise than by a
/// notification, `dequeue` takes the waiter out for which its argument returns true.
///
/// # Errors
/// As [`wait`].
///
/// # Parks
pub fn wait_for_event(
    py: Python<'_>,
    reason: WaitReason,
    deadline: Option<Instant>,
    enqueue: impl FnOnce(EventWaiter) -> bool,
    dequeue: impl FnOnce(&dyn Fn(&EventWaiter) -> bool),
) -> PyResult<bool> {
    if !event_loop::can_park() {
        return block_for_event(py, deadline, enqueue, dequeue);
    }
    let mut entered = None;
    let wake = event_loop::wait_for_wake(reason.reason, reason.details, deadline, |waker| {
        entered = Some(waker.ticket());
        enqueue(EventWaiter::Coroutine(waker))
    });
    if wake == Wake::Ready {
        return Ok(true);
    }
    if let Some(ticket) = entered {
        dequeue(&|other| matches!(other, EventWaiter::Coroutine(waker) if waker.ticket() == ticket));
    }
    if wake == Wake::TimedOut { Ok(false) } else { Err(wake_error(wake)) }
}

#[inline(never)]
fn block_for_event(
    py: Python<'_>,
    deadline: Option<Instant>,
    enqueue: impl FnOnce(EventWaiter) -> bool,
    dequeue: impl FnOnce(&dyn Fn(&EventWaiter) -> bool),
) -> PyResult<bool> {
    let enqueue = |waiter: Arc<Waiter>| {
        if !enqueue(EventWaiter::Thread(Arc::clone(&waiter))) {
            waiter.notify();
        }
    };
    let dequeue = |waiter: &Arc<Waiter>| {
        dequeue(&|other| matches!(other, EventWaiter::Thread(other) if Arc::ptr_eq(other, waiter)));
    };
    block(py, deadline, Handlers::Now, enqueue, dequeue).map(|end| end == WaitEnd::Notified)
}

/// Waits in `line` until the caller has the line's thing, at most until `deadline`. Returns whether it has.
///
/// # Errors
/// The errors of [`wait`]; then nothing is taken.
///
/// # Parks
pub fn take<L: Line>(py: Python<'_>, reason: WaitReason, deadline: Option<Instant>, line: &L) -> PyResult<bool> {
    because(reason, || take_in_turn(py, reason, deadline, line))
}

fn take_in_turn<L: Line>(py: Python<'_>, reason: WaitReason, deadline: Option<Instant>, line: &L) -> PyResult<bool> {
    let mut again = false;
    loop {
        let (enqueue, dequeue) = (|waiter| line.enqueue(waiter, again), |waiter: &Arc<Waiter>| line.dequeue(waiter));
        let end = if event_loop::can_park() {
            let look = line.patience().map(|patience| Instant::now() + patience);
            match park(reason, deadline.into_iter().chain(look).min(), enqueue, dequeue) {
                None => WaitEnd::Notified,
                Some(Wake::TimedOut) => WaitEnd::TimedOut,
                Some(wake) => return Err(wake_error(wake)),
            }
        } else {
            block(py, deadline, Handlers::NowAside, enqueue, dequeue)?
        };
        if end == WaitEnd::Notified && L::HANDS_OVER {
            return Ok(true);
        }
        let is_late = end == WaitEnd::TimedOut && deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if (!is_late || !L::HANDS_OVER) && line.attempt() {
            return Ok(true);
        }
        if is_late {
            return Ok(false);
        }
        again = true;
    }
}

/// Takes the thing of `line`, and waits for it as [`take`] does. Interruptions are deferred: an exception thrown into
/// the coroutine is raised at its next wait, and a signal handler runs afterwards.
///
/// # Errors
/// RuntimeError on the loop thread where a coroutine may not park, so that there is no way to wait. Nothing is taken
/// then.
///
/// # Parks
pub fn insist<L: Line>(py: Python<'_>, reason: WaitReason, line: &L) -> PyResult<()> {
    because(reason, || insist_in_turn(py, reason, line))
}

fn insist_in_turn<L: Line>(py: Python<'_>, reason: WaitReason, line: &L) -> PyResult<()> {
    let mut late = None;
    let mut again = false;
    while !line.attempt() {
        let (enqueue, dequeue) = (|waiter| line.enqueue(waiter, again), |waiter: &Arc<Waiter>| line.dequeue(waiter));
        if event_loop::can_park() {
            match park(reason, line.patience().map(|patience| Instant::now() + patience), enqueue, dequeue) {
                None if L::HANDS_OVER => break,
                None | Some(Wake::TimedOut) => {}
                // The end of the server has priority over other interruptions.
                Some(wake @ (Wake::Killed | Wake::Interrupted)) => {
                    late = late.filter(|&late| late == Wake::Killed).or(Some(wake));
                }
                Some(wake) => return Err(wake_error(wake)),
            }
        } else if block(py, None, Handlers::Later, enqueue, dequeue)? == WaitEnd::Notified && L::HANDS_OVER {
            break;
        }
        again = true;
    }
    if let Some(wake) = late {
        interrupts::postpone(wake);
    }
    Ok(())
}

/// Parks the coroutine. Returns None after a notification, otherwise the reason why the wait ended.
fn park(
    WaitReason { reason, details }: WaitReason,
    deadline: Option<Instant>,
    enqueue: impl FnOnce(Arc<Waiter>),
    dequeue: impl FnOnce(&Arc<Waiter>),
) -> Option<Wake> {
    let mut entered = None;
    let wake = event_loop::wait_for_wake(reason, details, deadline, |waker| {
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
        // Notified in the same moment. The notifier relies on that, so the other reason is deferred.
        if matches!(wake, Wake::Killed | Wake::Interrupted) {
            interrupts::postpone(wake);
        }
        return None;
    }
    dequeue(&waiter);
    Some(wake)
}

/// Blocks the OS thread.
fn block(
    py: Python<'_>,
    deadline: Option<Instant>,
    handlers: Handlers,
    enqueue: impl FnOnce(Arc<Waiter>),
    dequeue: impl FnOnce(&Arc<Waiter>),
) -> PyResult<WaitEnd> {
    let waiter = Waiter::new(None);
    enqueue(Arc::clone(&waiter));
    let standstill = event_loop::is_loop_thread().then(|| Instant::now() + STANDSTILL);
    // A signal that arrives just before the system call does not interrupt it, and only the main thread has handlers.
    let slice = if is_main_thread() { SIGNAL_CHECK } else { Duration::from_secs(3600) };
    loop {
        let soonest = deadline.into_iter().chain(standstill).min();
        let left = soonest.map_or(slice, |soonest| soonest.saturating_duration_since(Instant::now()).min(slice));
        let timeout = timespec(left);
        py.detach(|| {
            let _ = futex::wait(&waiter.state, futex::Flags::PRIVATE, WAITING, Some(&timeout));
        });
        if waiter.is_notified() {
            return Ok(WaitEnd::Notified);
        }
        let signalled = run_handlers(py, &waiter, handlers);
        if !waiter.is_in_line() {
            return signalled.map_or(Ok(WaitEnd::PassedOver), Err);
        }
        let failure = signalled.or_else(|| {
            standstill.filter(|&standstill| Instant::now() >= standstill).map(|_| {
                PyRuntimeError::new_err(
                    "a lock is held by another coroutine or thread, and this code runs where it cannot wait for it",
                )
            })
        });
        let over = failure.is_some() || deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if over && waiter.leave(GONE) {
            dequeue(&waiter);
            return failure.map_or(Ok(WaitEnd::TimedOut), Err);
        }
        if over {
            // Notified in the same moment, and the notifier relies on that.
            if let Some(failure) = failure {
                failure.write_unraisable(py, None);
            }
            return Ok(WaitEnd::Notified);
        }
    }
}

/// Runs the handlers of signals that have arrived. Returns the exception that they raise.
fn run_handlers(py: Python<'_>, waiter: &Waiter, handlers: Handlers) -> Option<PyErr> {
    match handlers {
        Handlers::Later => None,
        Handlers::Now => py.check_signals().err(),
        // Only the main thread has handlers, so other threads need not stand aside.
        Handlers::NowAside if !is_main_thread() || !waiter.change(WAITING, ASIDE) => None,
        Handlers::NowAside => {
            let raised = py.check_signals().err();
            waiter.change(ASIDE, WAITING);
            raised
        }
    }
}

fn is_main_thread() -> bool {
    rustix::thread::gettid() == rustix::process::getpid()
}
