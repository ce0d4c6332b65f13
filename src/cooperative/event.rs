//! `Event`: a flag to wait for.

use std::sync::{Mutex, MutexGuard};

use pyo3::prelude::*;

use super::timeouts::deadline_of;
use crate::event_loop::reasons::Reason;
use crate::interp::{self, WaitReason, Waiters};
use crate::sync::lock;

/// A flag to wait for, for coroutines and OS threads, like `threading.Event`.
#[pyclass(frozen, module = "rmeinheld.coroutine", weakref)]
#[derive(Default)]
pub struct Event {
    flag: Mutex<Flag>,
}

#[derive(Default)]
struct Flag {
    is_set: bool,
    waiters: Waiters,
}

#[pymethods]
impl Event {
    #[new]
    fn new() -> Event {
        Event::default()
    }

    /// Return whether the flag is set.
    fn is_set(&self, py: Python<'_>) -> bool {
        interp::give_way_quietly(py);
        self.flag().is_set
    }

    /// Set the flag and wake all waiters.
    fn set(&self) {
        let mut flag = self.flag();
        flag.is_set = true;
        flag.waiters.notify_all();
    }

    /// Clear the flag.
    fn clear(&self) {
        self.flag().is_set = false;
    }

    /// Wait until the flag is set. Returns whether it is.
    ///
    /// `timeout` is the longest wait in seconds; None (the default) waits for ever.
    #[pyo3(signature = (timeout = None))]
    fn wait(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<bool> {
        let (this, py) = (slf.get(), slf.py());
        let deadline = deadline_of(timeout)?;
        interp::give_way(py)?;
        if this.flag().is_set {
            return Ok(true);
        }
        interp::wait(
            py,
            WaitReason::object(Reason::Event, slf),
            deadline,
            |waiter| this.flag().waiters.join(waiter, (), false),
            |waiter| this.flag().waiters.leave(waiter),
        )
    }

    /// Forget the waiters in a forked child, where they do not exist.
    fn _at_fork_reinit(&self) {
        self.flag().waiters = Waiters::default();
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        let state = if slf.get().flag().is_set { "set" } else { "unset" };
        format!("<rmeinheld.coroutine.Event at {:p}: {state}>", slf.as_ptr())
    }
}

impl Event {
    fn flag(&self) -> MutexGuard<'_, Flag> {
        lock(&self.flag)
    }
}
