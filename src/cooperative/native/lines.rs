//! The coroutines that wait for CPython's own locks and queues, by the addresses of these objects.
//!
//! A waiter keeps its object alive, so an address in here is never that of another object. The code in here runs only
//! while attached, so the mutex is always free when it is locked.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use crate::event_loop::reasons::Reason;
use crate::interp::{self, Line, WaitReason, Waiter};
use crate::sync::lock;

/// The first and the longest pause until a coroutine tries again without having been woken. C code can release a lock
/// without a call of its method, although no known code does so since CPython 3.13.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// The same pauses in CPython 3.12, where the lock that `Thread.join` waits for is released in this way.
const PAUSES_IN_312: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

static LINES: Mutex<BTreeMap<usize, VecDeque<Place>>> = Mutex::new(BTreeMap::new());
static WAITING: AtomicUsize = AtomicUsize::new(0);
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A place in a line.
struct Place {
    number: u64,
    waiter: Arc<Waiter>,
    awake: bool,
}

fn lines() -> MutexGuard<'static, BTreeMap<usize, VecDeque<Place>>> {
    lock(&LINES)
}

/// Whether any coroutine waits for any object.
pub fn is_anyone_waiting() -> bool {
    WAITING.load(Ordering::Relaxed) > 0
}

/// Whether a coroutine waits for the object at `address`, or has been woken but has not tried yet.
pub fn is_awaited(address: usize) -> bool {
    is_anyone_waiting() && lines().contains_key(&address)
}

/// Wakes the first waiter for the object at `address`. If it is awake already, the call wakes the next waiter (`next`)
/// or none.
pub fn wake(address: usize, next: bool) {
    if let Some(line) = lines().get_mut(&address) {
        for place in line {
            if place.awake {
                if next {
                    continue;
                }
                return;
            }
            place.awake = place.waiter.notify();
            if place.awake {
                return;
            }
        }
    }
}

/// Forgets all waiters in the child of a fork: they are the parent's.
pub fn forget_in_child() {
    if let Ok(mut lines) = LINES.try_lock() {
        std::mem::forget(std::mem::take(&mut *lines));
    }
    WAITING.store(0, Ordering::Relaxed);
}

/// A claim to an object. `attempt` tries to take it, and is given the number of claims ahead.
pub struct Claim<F> {
    address: usize,
    reason: WaitReason,
    number: u64,
    attempt: F,
    failure: RefCell<Option<PyErr>>,
    pause: Cell<Option<Duration>>,
    longest_pause: Duration,
}

impl<F: Fn(usize) -> PyResult<bool>> Claim<F> {
    /// Raises a claim, behind all others in line.
    pub fn new(object: &Bound<'_, PyAny>, reason: Reason, attempt: F) -> Claim<F> {
        let is_312 = object.py().version_info() < (3, 13);
        let (first, longest_pause) = if is_312 { PAUSES_IN_312 } else { PAUSES };
        Claim {
            address: object.as_ptr().addr(),
            reason: WaitReason::object(reason, object),
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            attempt,
            failure: RefCell::default(),
            pause: Cell::new(Some(first)),
            longest_pause,
        }
    }

    /// Waits until the attempt has succeeded, at most until `deadline`. Returns whether it has.
    ///
    /// # Errors
    /// The errors of [`interp::wait`] and of the attempt.
    ///
    /// # Parks
    pub fn wait(&self, py: Python<'_>, deadline: Option<Instant>) -> PyResult<bool> {
        let taken = interp::take(py, self.reason, deadline, self)?;
        self.failure.take().map_or(Ok(taken), Err)
    }

    /// Tries once, without waiting.
    ///
    /// # Errors
    /// The errors of the attempt.
    pub fn try_now(&self) -> PyResult<bool> {
        let taken = self.attempt();
        self.failure.take().map_or(Ok(taken), Err)
    }

    /// Waits until the attempt has succeeded; interruptions are deferred.
    ///
    /// # Errors
    /// The errors of [`interp::insist`] and of the attempt.
    ///
    /// # Parks
    pub fn insist(&self, py: Python<'_>) -> PyResult<()> {
        interp::insist(py, self.reason, self)?;
        self.failure.take().map_or(Ok(()), Err)
    }

    fn leave(&self) {
        let mut lines = lines();
        if let Some(line) = lines.get_mut(&self.address) {
            let before = line.len();
            line.retain(|place| place.number != self.number);
            WAITING.fetch_sub(before - line.len(), Ordering::Relaxed);
            if line.is_empty() {
                lines.remove(&self.address);
            }
        }
    }

    fn number_ahead(&self) -> usize {
        lines().get(&self.address).map_or(0, |line| line.partition_point(|place| place.number < self.number))
    }
}

impl<F: Fn(usize) -> PyResult<bool>> Line for Claim<F> {
    const HANDS_OVER: bool = false;

    fn attempt(&self) -> bool {
        self.leave();
        (self.attempt)(self.number_ahead()).unwrap_or_else(|error| {
            *self.failure.borrow_mut() = Some(error);
            true
        })
    }

    fn enqueue(&self, waiter: Arc<Waiter>, _again: bool) {
        let mut lines = lines();
        let line = lines.entry(self.address).or_default();
        let index = line.partition_point(|place| place.number < self.number);
        line.insert(index, Place { number: self.number, waiter, awake: false });
        WAITING.fetch_add(1, Ordering::Relaxed);
    }

    fn dequeue(&self, _waiter: &Arc<Waiter>) {
        self.leave();
    }

    fn patience(&self) -> Option<Duration> {
        let pause = self.pause.get()?;
        self.pause.set(Some((pause * 2).min(self.longest_pause)));
        Some(pause)
    }
}
