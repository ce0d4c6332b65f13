//! What is to be raised in a coroutine, where it waits.

use std::collections::VecDeque;
use std::sync::Arc;

use pyo3::exceptions::{PyBaseException, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::event_loop::{Runtime, WorkId, interrupts};

/// What a coroutine keeps of interruptions to come.
#[derive(Default)]
pub struct Pending {
    /// Where it runs, while it does.
    place: Option<(Arc<Runtime>, WorkId)>,
    thrown: VecDeque<Py<PyBaseException>>,
    /// The time limits that are set in it, by the numbers of their alarms.
    timeouts: Vec<(u64, Py<PyAny>)>,
}

impl Pending {
    /// The coroutine of the caller runs in the current piece of work.
    pub fn begin(&mut self) {
        self.place = interrupts::current_runtime().zip(interrupts::current_work());
    }

    /// The coroutine runs in `work`, on the current thread's loop.
    pub fn begin_in(&mut self, work: WorkId) {
        self.place = interrupts::current_runtime().map(|runtime| (runtime, work));
    }

    /// Takes back an exception that was thrown and not raised. Whether it was there.
    pub fn take_back(&mut self, error: &Bound<'_, PyBaseException>) -> Option<Py<PyBaseException>> {
        let own = self.thrown.iter().position(|thrown| thrown.bind(error.py()).is(error))?;
        self.thrown.remove(own)
    }

    /// It has ended; gives back what was never raised, to be dropped outside of any lock.
    pub fn end(&mut self) -> Pending {
        std::mem::take(self)
    }

    /// Has `error` raised at the coroutine's next wait. One that has not started yet does not start.
    pub fn throw(&mut self, error: Py<PyBaseException>) {
        self.thrown.push_back(error);
        if let Some((runtime, work)) = &self.place {
            interrupts::interrupt(runtime, *work);
        }
    }

    /// The first exception that was thrown and not raised.
    pub fn take_thrown(&mut self) -> Option<Py<PyBaseException>> {
        self.thrown.pop_front()
    }

    /// Whether an exception was thrown and not raised.
    pub fn has_thrown(&self) -> bool {
        !self.thrown.is_empty()
    }

    /// A time limit has been set.
    pub fn add_timeout(&mut self, number: u64, context: Py<PyAny>) {
        self.timeouts.push((number, context));
    }

    /// The time limit of an alarm.
    pub fn timeout(&self, py: Python<'_>, number: u64) -> Option<Py<PyAny>> {
        self.timeouts.iter().find(|(own, _)| *own == number).map(|(_, context)| context.clone_ref(py))
    }

    /// The time limit is over; given back to be dropped outside of any lock.
    pub fn remove_timeout(&mut self, number: u64) -> Option<Py<PyAny>> {
        let own = self.timeouts.iter().position(|(own, _)| *own == number)?;
        Some(self.timeouts.remove(own).1)
    }
}

/// The exception that `throw(exception)` means: an instance, or a class to be called without arguments.
///
/// # Errors
/// TypeError for anything else; what the class raises.
pub fn exception_of(exception: &Bound<'_, PyAny>) -> PyResult<Py<PyBaseException>> {
    if let Ok(instance) = exception.cast::<PyBaseException>() {
        return Ok(instance.clone().unbind());
    }
    if let Ok(class) = exception.cast::<PyType>()
        && class.is_subclass_of::<PyBaseException>()?
    {
        return Ok(class.call0()?.cast_into::<PyBaseException>().map_err(PyErr::from)?.unbind());
    }
    let name = exception.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string());
    Err(PyTypeError::new_err(format!(
        "exceptions must be classes or instances deriving from BaseException, not {name}"
    )))
}
