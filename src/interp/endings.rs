//! The work that is being ended by force, and the exceptions that are on their way to it.
//!
//! An exception reaches work where it waits (it is *thrown*) or while it computes (it is *asynchronous*). Both may be on
//! the way at once, because the work may begin or end a wait at any time. Whichever is raised first withdraws the other,
//! and the end of the work withdraws both. All functions but [`any`] need the interpreter, which therefore keeps an
//! exception from being set after the end of its work.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use pyo3::exceptions::PyBaseException;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::asynchronous;
use super::identity;
use super::interruptions::Interruptions;
use crate::event_loop::interrupts;
use crate::sync::lock;

/// How long work that has caught its exception may go on until CoroutineExit is raised in it.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// The work that is being ended. No Python code runs, and no Python object is dropped, under the lock.
static ENDINGS: Mutex<Vec<ForcedEnd>> = Mutex::new(Vec::new());

/// The number of entries of [`ENDINGS`].
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// The reason why work is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// Its deadline has passed.
    Deadline,
    /// An operator ends it.
    Asked,
    /// The client of the request is gone.
    Disconnected,
}

impl EndReason {
    /// The message of the exception.
    pub fn message(self) -> &'static str {
        match self {
            EndReason::Deadline => "the time of the request is up",
            EndReason::Asked => "an operator has ended the request",
            EndReason::Disconnected => "the client has gone away",
        }
    }
}

/// The exception that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The one of the reason.
    First,
    /// CoroutineExit.
    Exit,
}

struct ForcedEnd {
    work: u64,
    reason: EndReason,
    stage: Stage,
    since: Instant,
    /// The exception that waits to be raised at the next wait.
    thrown: Option<(Interruptions, Py<PyBaseException>)>,
    /// The thread state that has got an asynchronous exception; 0 for none.
    state: usize,
    /// The thread state has not raised the exception, as far as is known.
    is_asynchronous: bool,
}

/// Whether any work is being ended. From any thread, without the interpreter.
#[inline]
pub fn any() -> bool {
    COUNT.load(Ordering::Relaxed) > 0
}

/// The next step with work that is to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// The exception of this stage, for the first time.
    New(Stage),
    /// The first exception waits to be raised at the next wait of the work, which may compute now.
    Again,
    /// Nothing: the exception was raised, or is on its way.
    Nothing,
}

/// Notes that `work` is to be ended, beginning with the stage `first`. Returns what is due now. The second stage comes
/// after [`PATIENCE`] and is the last.
pub fn begin(_py: Python<'_>, work: u64, reason: EndReason, first: Stage) -> Due {
    let mut endings = lock(&ENDINGS);
    if let Some(known) = find(&mut endings, work) {
        if known.stage == Stage::Exit || known.reason == EndReason::Disconnected {
            return Due::Nothing;
        }
        if known.since.elapsed() < PATIENCE {
            return if known.thrown.is_some() && !known.is_asynchronous { Due::Again } else { Due::Nothing };
        }
        known.stage = Stage::Exit;
        return Due::New(Stage::Exit);
    }
    let ending =
        ForcedEnd { work, reason, stage: first, since: Instant::now(), thrown: None, state: 0, is_asynchronous: false };
    endings.push(ending);
    COUNT.store(endings.len(), Ordering::Relaxed);
    Due::New(first)
}

/// The reason why `work` is being ended; `None` if it is not.
pub fn reason_of(_py: Python<'_>, work: u64) -> Option<EndReason> {
    if !any() {
        return None;
    }
    find(&mut lock(&ENDINGS), work).map(|ending| ending.reason)
}

/// The work that has got its first exception alone, with the time until it gets the second one.
pub fn patience_left(_py: Python<'_>) -> Vec<(u64, EndReason, Duration)> {
    let endings = lock(&ENDINGS);
    let first =
        endings.iter().filter(|ending| ending.stage == Stage::First && ending.reason != EndReason::Disconnected);
    first.map(|ending| (ending.work, ending.reason, PATIENCE.saturating_sub(ending.since.elapsed()))).collect()
}

/// Notes an exception that was thrown into `work`.
pub fn note_thrown(_py: Python<'_>, work: u64, interruptions: Interruptions, error: Py<PyBaseException>) {
    let previous = find(&mut lock(&ENDINGS), work).and_then(|ending| ending.thrown.replace((interruptions, error)));
    drop(previous);
}

/// Has `work`, whose thread state is `state`, raise `class` while it computes. Returns false if the work is not being
/// ended, or the thread state is not found.
pub fn set_asynchronous(py: Python<'_>, work: u64, state: usize, class: &Bound<'_, PyType>) -> bool {
    let stage = {
        let mut endings = lock(&ENDINGS);
        let Some(ending) = find(&mut endings, work).filter(|_| state != 0) else { return false };
        (ending.state, ending.is_asynchronous) = (state, true);
        ending.stage
    };
    if stage == Stage::First {
        interrupts::set_pending(work);
    }
    asynchronous::set(py, state, Some(class))
}

/// Sets the exception `class` again, which the caller's work has raised where nothing can handle it (in `__del__`).
/// Leaves it where the work is not being ended.
pub fn set_again(py: Python<'_>, class: &Bound<'_, PyType>) {
    if let Some(work) = own_work()
        && reason_of(py, work).is_some_and(|reason| reason != EndReason::Disconnected)
    {
        set_asynchronous(py, work, identity::thread_state(py), class);
    }
}

/// Withdraws the asynchronous exception of the caller's work, which begins to wait. Returns why the work is ended;
/// `None` if it has no such exception.
pub fn take_pending(py: Python<'_>) -> Option<EndReason> {
    let work = own_work().filter(|&work| interrupts::is_pending(work))?;
    let (reason, state) = find(&mut lock(&ENDINGS), work).map(|ending| (ending.reason, ending.state))?;
    asynchronous::set(py, state, None);
    forget_both(work);
    Some(reason)
}

/// Notes that a RequestTimeout is made: if the caller's work has one to raise, it is raised now.
pub fn note_created(_py: Python<'_>) {
    if any()
        && let Some(work) = own_work().filter(|&work| interrupts::is_pending(work))
    {
        forget_both(work);
    }
}

/// Notes that `error` is raised at a wait of the caller's work.
pub fn note_raised(py: Python<'_>, error: &Bound<'_, PyBaseException>) {
    if !any() {
        return;
    }
    let Some(work) = own_work() else { return };
    let state = find(&mut lock(&ENDINGS), work)
        .filter(|ending| ending.thrown.as_ref().is_some_and(|(_, thrown)| thrown.as_ptr() == error.as_ptr()))
        .map(|ending| ending.state);
    if let Some(state) = state {
        if state != 0 {
            asynchronous::set(py, state, None);
        }
        forget_both(work);
    }
}

/// Ends the matter with the work, the caller's own: withdraws the exceptions that it has not raised. Returns why the
/// work was ended; `None` if it was not.
#[inline]
pub fn forget(py: Python<'_>, work: u64) -> Option<EndReason> {
    if any() { forget_ending(py, work) } else { None }
}

fn forget_ending(py: Python<'_>, work: u64) -> Option<EndReason> {
    let state = find(&mut lock(&ENDINGS), work).map(|ending| ending.state)?;
    if state != 0 {
        // Even if it seems to be raised: an application may have made an exception of that class itself.
        asynchronous::set(py, state, None);
    }
    forget_both(work);
    let mut endings = lock(&ENDINGS);
    let index = endings.iter().position(|ending| ending.work == work)?;
    let ending = endings.swap_remove(index);
    COUNT.store(endings.len(), Ordering::Relaxed);
    drop(endings);
    Some(ending.reason)
}

/// Notes that neither exception of the caller's work is on its way any more.
fn forget_both(work: u64) {
    let thrown = find(&mut lock(&ENDINGS), work).and_then(|ending| {
        ending.is_asynchronous = false;
        ending.thrown.take()
    });
    if interrupts::is_pending(work) {
        interrupts::set_pending(0);
    }
    if let Some((interruptions, error)) = thrown {
        let taken = Python::attach(|py| interruptions.lock().take_back(error.bind(py)));
        drop((taken, error));
    }
}

/// The work of the caller.
fn own_work() -> Option<u64> {
    interrupts::current_work().map(|work| work.number)
}

fn find<'a>(endings: &'a mut MutexGuard<'_, Vec<ForcedEnd>>, work: u64) -> Option<&'a mut ForcedEnd> {
    endings.iter_mut().find(|ending| ending.work == work)
}
