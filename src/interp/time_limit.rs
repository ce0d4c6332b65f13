//! One time limit for a block of code, as `timeout()` sets it.

use std::sync::Mutex;

use pyo3::exceptions::PyBaseException;
use pyo3::prelude::*;
use pyo3::types::PyBool;

use super::exceptions::{Timeout, exception_of};
use crate::sync::lock;

/// A time limit, shared by its `timeout` object and the interruptions of its coroutine.
pub struct TimeLimit {
    /// The limit in seconds; None for no limit.
    pub seconds: Option<f64>,
    /// The `exception` argument: an instance or a class to raise, False to raise nothing, None for [`Timeout`].
    exception: Option<Py<PyAny>>,
    raised: Mutex<Option<Py<PyBaseException>>>,
}

impl TimeLimit {
    /// A limit that has not been reached.
    pub fn new(seconds: Option<f64>, exception: Option<Py<PyAny>>) -> TimeLimit {
        TimeLimit { seconds, exception, raised: Mutex::default() }
    }

    /// Whether the limit was reached and raised an exception.
    pub fn has_expired(&self) -> bool {
        lock(&self.raised).is_some()
    }

    /// Whether `value`, an exception that leaves the block, is this limit's and is to be swallowed.
    pub fn swallows(&self, value: &Bound<'_, PyAny>) -> bool {
        let raised = lock(&self.raised);
        raised.as_ref().is_some_and(|raised| raised.as_ptr() == value.as_ptr()) && self.is_silent(value.py())
    }

    /// Whether `exception=False` was given: the block just ends.
    fn is_silent(&self, py: Python<'_>) -> bool {
        self.exception.as_ref().is_some_and(|exception| exception.bind(py).is(PyBool::new(py, false)))
    }

    /// Makes the exception to raise when the time is up.
    pub fn expire(&self, py: Python<'_>) -> PyErr {
        let given = self.exception.as_ref().filter(|exception| !exception.is_none(py) && !self.is_silent(py));
        let made = match given {
            Some(exception) => exception_of(exception.bind(py)),
            None => {
                let message = format!("{} seconds", self.seconds.unwrap_or_default());
                Ok(Timeout::new_err(message).into_value(py))
            }
        };
        match made {
            Ok(error) => {
                *lock(&self.raised) = Some(error.clone_ref(py));
                PyErr::from_value(error.into_bound(py).into_any())
            }
            Err(error) => error,
        }
    }
}
