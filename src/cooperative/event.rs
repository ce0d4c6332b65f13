//! A flag that can be waited for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;

use super::deadline_of;
use crate::interp::{self, Waiter};

/// What `threading.Event` is, for coroutines and OS threads.
#[pyclass(frozen, module = "rmeinheld.coroutine", weakref)]
#[derive(Default)]
pub struct Event {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    set: bool,
    waiters: Vec<Arc<Waiter>>,
}

#[pymethods]
impl Event {
    #[new]
    fn new() -> Event {
        Event::default()
    }

    /// Whether the flag is set.
    fn is_set(&self, py: Python<'_>) -> bool {
        interp::give_way_quietly(py);
        self.inner().set
    }

    /// Set the flag, and wake all who wait for it.
    fn set(&self) {
        let mut inner = self.inner();
        inner.set = true;
        for waiter in inner.waiters.drain(..) {
            waiter.notify();
        }
    }

    /// Take the flag back.
    fn clear(&self) {
        self.inner().set = false;
    }

    /// Wait until the flag is set, at most `timeout` seconds (None: for ever). Returns whether it was.
    #[pyo3(signature = (timeout = None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let deadline = deadline_of(timeout)?;
        interp::give_way(py)?;
        if self.inner().set {
            return Ok(true);
        }
        interp::wait(
            py,
            deadline,
            |waiter| self.inner().waiters.push(waiter),
            |waiter| self.inner().waiters.retain(|other| !Arc::ptr_eq(other, waiter)),
        )
    }

    fn _at_fork_reinit(&self) {
        self.inner().waiters.clear();
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        let state = if slf.get().inner().set { "set" } else { "unset" };
        format!("<rmeinheld.coroutine.Event at {:p}: {state}>", slf.as_ptr())
    }
}

impl Event {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
