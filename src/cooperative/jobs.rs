//! Jobs for a pool of OS threads.
//!
//! No Python code runs while the lock in here is held, and the collector has no occasion to. With a lock of Python's, a
//! destructor that waited there would have stopped the loop.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use crate::interp::{self, Waiter};

/// Jobs that wait for a thread, threads that wait for a job, and how many threads there are.
#[pyclass(frozen, module = "rmeinheld._rmeinheld")]
pub struct Jobs {
    inner: Mutex<Inner>,
}

struct Inner {
    limit: usize,
    threads: usize,
    waiting: VecDeque<Py<PyAny>>,
    /// The thread that has waited shortest is the last: the others may leave.
    idle: Vec<(Arc<Waiter>, Slot)>,
}

/// Where the job for an idle thread is put.
type Slot = Arc<Mutex<Option<Py<PyAny>>>>;

#[pymethods]
impl Jobs {
    /// `limit`: how many threads there may be.
    #[new]
    fn new(limit: usize) -> Jobs {
        Jobs { inner: Mutex::new(Inner { limit, threads: 0, waiting: VecDeque::new(), idle: Vec::new() }) }
    }

    /// How many threads there may be.
    #[getter]
    fn limit(&self) -> usize {
        self.inner().limit
    }

    /// How many threads there are.
    #[getter]
    fn threads(&self) -> usize {
        self.inner().threads
    }

    /// Give the job to a thread that has none, or let it wait. Returns whether the caller has to start a thread for it
    /// instead, which counts from now on.
    #[pyo3(signature = (job, /))]
    fn put(&self, job: Py<PyAny>) -> bool {
        let mut inner = self.inner();
        while let Some((waiter, slot)) = inner.idle.pop() {
            if waiter.notify() {
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(job);
                return false;
            }
        }
        if inner.threads < inner.limit {
            inner.threads += 1;
            drop(inner);
            drop(job);
            return true;
        }
        inner.waiting.push_back(job);
        false
    }

    /// The next job of the calling thread, which waits for one at most `seconds`. None: the thread is to end, and counts
    /// no longer.
    #[pyo3(signature = (seconds, /))]
    fn next(&self, py: Python<'_>, seconds: f64) -> PyResult<Option<Py<PyAny>>> {
        {
            let mut inner = self.inner();
            if let Some(job) = inner.waiting.pop_front() {
                return Ok(Some(job));
            }
            if inner.threads > inner.limit {
                inner.threads -= 1;
                return Ok(None);
            }
        }
        let given = Slot::default();
        let deadline = Instant::now() + Duration::try_from_secs_f64(seconds).unwrap_or_default();
        let called = interp::wait(
            py,
            Some(deadline),
            |waiter| self.inner().idle.push((waiter, Arc::clone(&given))),
            |waiter| self.inner().idle.retain(|(other, _)| !Arc::ptr_eq(other, waiter)),
        );
        if !matches!(called, Ok(true)) {
            self.inner().threads -= 1;
        }
        called?;
        Ok(given.lock().unwrap_or_else(PoisonError::into_inner).take())
    }

    /// Note that a thread could not be started.
    fn failed(&self) {
        self.inner().threads -= 1;
    }

    /// Set how many threads there may be. Returns the jobs for which the caller has to start threads.
    #[pyo3(signature = (limit, /))]
    fn set_limit(&self, limit: usize) -> Vec<Py<PyAny>> {
        let mut inner = self.inner();
        inner.limit = limit;
        let room = limit.saturating_sub(inner.threads).min(inner.waiting.len());
        inner.threads += room;
        inner.waiting.drain(..room).collect()
    }
}

impl Jobs {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
