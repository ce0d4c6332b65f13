//! `Jobs`: the queue of jobs of a pool of OS threads.
//!
//! No Python code runs while the lock in here is held, and the garbage collector does not run either. Under a lock of
//! Python's, a destructor could wait for that lock and stop the loop.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use super::hand_over::HandOver;
use crate::event_loop::reasons::Reason;
use crate::interp::{self, WaitReason, Waiters};
use crate::sync::lock;

/// Numbers of the pool of `offload`, of which a process has one.
static CALLS: AtomicU64 = AtomicU64::new(0);
static QUEUED: AtomicU64 = AtomicU64::new(0);
static THREADS: AtomicU64 = AtomicU64::new(0);

/// The numbers of the pool of `offload` at one time.
#[derive(Clone, Copy, Debug)]
pub struct OffloadFigures {
    /// Jobs so far.
    pub calls: u64,
    /// Jobs that wait for a thread.
    pub queued: u64,
    /// OS threads.
    pub threads: u64,
}

impl OffloadFigures {
    /// The numbers now. From any thread.
    pub fn now() -> OffloadFigures {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        OffloadFigures { calls: load(&CALLS), queued: load(&QUEUED), threads: load(&THREADS) }
    }
}

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
        CALLS.fetch_add(1, Ordering::Relaxed);
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
            WaitReason::number(Reason::Other, 0),
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
    fn pool(&self) -> LockedPool<'_> {
        LockedPool(lock(&self.pool))
    }
}

/// A locked pool, whose numbers are published when it is unlocked.
struct LockedPool<'a>(MutexGuard<'a, ThreadPool>);

impl Deref for LockedPool<'_> {
    type Target = ThreadPool;

    fn deref(&self) -> &ThreadPool {
        &self.0
    }
}

impl DerefMut for LockedPool<'_> {
    fn deref_mut(&mut self) -> &mut ThreadPool {
        &mut self.0
    }
}

impl Drop for LockedPool<'_> {
    fn drop(&mut self) {
        QUEUED.store(self.0.waiting.len() as u64, Ordering::Relaxed);
        THREADS.store(self.0.threads as u64, Ordering::Relaxed);
    }
}
