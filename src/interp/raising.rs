//! The exception that an interrupted wait raises.

use pyo3::prelude::*;

use super::endings;
use super::exceptions::CoroutineExit;
use super::interruptions;
use super::request_timeout::RequestTimeout;
use crate::event_loop::{Wake, interrupts};

/// Takes the exception that an interrupted wait raises.
pub fn take(py: Python<'_>) -> PyErr {
    let nothing = || CoroutineExit::new_err("interrupted");
    if let Some(reason) = endings::take_pending(py) {
        // The exception was to be raised while the work computes, but the work waits first.
        return RequestTimeout::error(py, reason.message());
    }
    let Some(interruptions) = interruptions::with_current(|current| current.interruptions.clone()) else {
        return nothing();
    };
    let thrown = interruptions.lock().take_thrown();
    if let Some(thrown) = &thrown {
        endings::note_raised(py, thrown.bind(py));
    }
    let error = thrown.map(|error| PyErr::from_value(error.into_bound(py).into_any())).or_else(|| {
        let number = interrupts::take_alarm()?;
        let limit = interruptions.lock().limit(number)?;
        Some(limit.expire(py))
    });
    if !interruptions.lock().is_empty() || interrupts::has_alarm() {
        interrupts::postpone(Wake::Interrupted);
    }
    error.unwrap_or_else(nothing)
}
