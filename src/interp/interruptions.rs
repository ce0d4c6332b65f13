//! The exceptions that wait to be raised in a coroutine: those thrown into it, and those of its time limits.
//!
//! A coroutine is interrupted only where it waits ([`crate::event_loop::interrupts`]).

use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use pyo3::exceptions::PyBaseException;
use pyo3::prelude::*;

use super::time_limit::TimeLimit;
use crate::event_loop::{self, Runtime, WorkId, interrupts};
use crate::sync::lock;

/// The interruptions of one coroutine, shared by its Python object and its unit.
#[derive(Clone, Default)]
pub struct Interruptions {
    pending: Arc<Mutex<Pending>>,
}

/// The interruptions that a coroutine has not raised yet.
#[derive(Default)]
pub struct Pending {
    /// The loop and the piece of work of the coroutine, while it runs.
    place: Option<(Arc<Runtime>, WorkId)>,
    thrown: VecDeque<Py<PyBaseException>>,
    /// The time limits set in the coroutine, by the numbers of their alarms.
    limits: Vec<(u64, Arc<TimeLimit>)>,
}

impl Interruptions {
    /// Locks the interruptions. Hold the lock for moments only: no Python code may run, and no Python object may be
    /// dropped, under it.
    pub fn lock(&self) -> MutexGuard<'_, Pending> {
        lock(&self.pending)
    }
}

impl Pending {
    /// Notes that the coroutine runs in the current piece of work.
    pub fn begin(&mut self) {
        self.place = interrupts::current_runtime().zip(interrupts::current_work());
    }

    /// Notes that the coroutine runs in `work` on this thread's loop.
    pub fn begin_in(&mut self, work: WorkId) {
        self.place = interrupts::current_runtime().map(|runtime| (runtime, work));
    }

    /// The number of the piece of work that the coroutine runs in, while it runs.
    pub fn work(&self) -> Option<u64> {
        self.place.as_ref().map(|(_, work)| work.number)
    }

    /// Notes that the coroutine has ended. Returns the interruptions never raised; drop them after unlocking.
    pub fn end(&mut self) -> Pending {
        std::mem::take(self)
    }

    /// Has `error` raised at the coroutine's next wait. A coroutine that has not started never calls its function.
    pub fn throw(&mut self, error: Py<PyBaseException>) {
        self.thrown.push_back(error);
        if let Some((runtime, work)) = &self.place {
            interrupts::interrupt(runtime, *work);
        }
    }

    /// Takes the first exception that was thrown but has not been raised.
    pub fn take_thrown(&mut self) -> Option<Py<PyBaseException>> {
        self.thrown.pop_front()
    }

    /// Takes `error` back if it was thrown but has not been raised. Drop the returned reference after unlocking.
    pub fn take_back(&mut self, error: &Bound<'_, PyBaseException>) -> Option<Py<PyBaseException>> {
        let index = self.thrown.iter().position(|thrown| thrown.bind(error.py()).is(error))?;
        let taken = self.thrown.remove(index);
        self.forget_if_none_is_left();
        taken
    }

    /// Whether nothing that was thrown waits to be raised.
    pub fn is_empty(&self) -> bool {
        self.thrown.is_empty()
    }

    /// Notes a time limit, by the number of its alarm.
    pub fn add_limit(&mut self, number: u64, limit: Arc<TimeLimit>) {
        self.limits.push((number, limit));
    }

    /// Removes a time limit. Drop the returned reference after unlocking.
    pub fn remove_limit(&mut self, number: u64) -> Option<Arc<TimeLimit>> {
        let index = self.limits.iter().position(|(known, _)| *known == number)?;
        let (_, limit) = self.limits.remove(index);
        self.forget_if_none_is_left();
        Some(limit)
    }

    /// The time limit of an alarm.
    pub fn limit(&self, number: u64) -> Option<Arc<TimeLimit>> {
        self.limits.iter().find(|(known, _)| *known == number).map(|(_, limit)| Arc::clone(limit))
    }

    /// Lets the unit's next wait go on undisturbed if nothing is left to raise.
    fn forget_if_none_is_left(&self) {
        if self.thrown.is_empty() && !interrupts::has_alarm() {
            interrupts::forget();
        }
    }
}

/// The entry that a unit keeps for the coroutine whose work it runs. It is dropped when the work ends.
pub struct Current {
    /// The coroutine's interruptions.
    pub interruptions: Interruptions,
    /// The coroutine's object; its type belongs to [`super::spawned`].
    pub owner: Box<dyn Any>,
}

/// Runs `action` on the current unit's entry. `None` without one: a request's is made when first needed.
pub fn with_current<R>(action: impl FnOnce(&Current) -> R) -> Option<R> {
    event_loop::with_local(|local| local.as_ref().and_then(|local| local.downcast_ref::<Current>()).map(action))
        .flatten()
}
