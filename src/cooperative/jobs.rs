//! `Jobs`: the queue of jobs of a pool of OS threads.
//!
//! No Python code runs while the lock in here is held, and the garbage collector does not run either. Under a lock of
//! Python's, a destructor could wait for that lock and stop the loop.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use super::hand_over::HandOver;
use crate::interp::{self, Waiters};
use crate::sync::lock;

/// The jobs of a pool of OS threads: jobs that wait for a thread, and threads that wait for a job.
///
/// `limit` is the largest number of threads.
#[pyclass(frozen, module = "rmeinheld._rmeinheld")]
pub struct Jobs {
    pool: Mutex<ThreadPool>,
}

struct ThreadPool {
    limit: usize,
    threads: usize,
    waiting: VecDeque<Py<PyAny>>,
    /// The next job goes to the thread that has waited shortest, so that the others time out and end.
    idle: Waiters<HandOver>,
}

#[pymethods]
impl Jobs {
    #[new]
    fn new(limit: usize) -> Jobs {
        Jobs { pool: Mutex::new(ThreadPool { limit, threads: 0, waiting: VecDeque::new(), idle: Waiters::default() }) }
    }

    /// The largest number of threads.
    #[getter]
    fn limit(&self) -> usize {
        self.pool().limit
    }

    /// The number of threads.
    #[getter]
    fn threads(&self) -> usize {
        self.pool().threads
    }

    /// Hand `job` to an idle thread, or queue it. Returns whether the caller has to start a thread for it instead.
    ///
    /// The thread to start counts from now on.
    #[pyo3(signature = (job, /))]
    fn put(&self, job: Py<PyAny>) -> bool {
        let mut pool = self.pool();
        if let Some(place) = pool.idle.notify_last() {
            place.put(job);
            return false;
        }
        if pool.threads < pool.limit {
            pool.threads += 1;
            drop(pool);
            drop(job);
            return true;
        }
        pool.waiting.push_back(job);
        false
    }

    /// Return the next job for the calling thread, or None: then the thread is to end, and counts no longer.
    ///
    /// The thread waits for a job at most `seconds`.
    #[pyo3(signature = (seconds, /))]
    fn next(&self, py: Python<'_>, seconds: f64) -> PyResult<Option<Py<PyAny>>> {
        {
            let mut pool = self.pool();
            if let Some(job) = pool.waiting.pop_front() {
                return Ok(Some(job));
            }
            if pool.threads > pool.limit {
                pool.threads -= 1;
                return Ok(None);
            }
        }
        let place = HandOver::default();
        let deadline = Instant::now() + Duration::try_from_secs_f64(seconds).unwrap_or_default();
        let called = interp::wait(
            py,
            Some(deadline),
            |waiter| self.pool().idle.join(waiter, place.clone(), false),
            |waiter| self.pool().idle.leave(waiter),
        );
        if !matches!(called, Ok(true)) {
            self.pool().threads -= 1;
        }
        called?;
        Ok(place.take())
    }

    /// Note that a thread could not start.
    fn failed(&self) {
        self.pool().threads -= 1;
    }

    /// Set the largest number of threads. Returns the jobs for which the caller has to start threads.
    #[pyo3(signature = (limit, /))]
    fn set_limit(&self, limit: usize) -> Vec<Py<PyAny>> {
        let mut pool = self.pool();
        pool.limit = limit;
        let room = limit.saturating_sub(pool.threads).min(pool.waiting.len());
        pool.threads += room;
        pool.waiting.drain(..room).collect()
    }
}

impl Jobs {
    fn pool(&self) -> MutexGuard<'_, ThreadPool> {
        lock(&self.pool)
    }
}
