//! Counting semaphores.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::{deadline_of, give_way, join_line};
use crate::interp::{self, Line, Waiter};

/// What `threading.Semaphore` is, for coroutines and OS threads; those who wait get their turn in order.
#[pyclass(frozen, subclass, module = "rmeinheld.coroutine", weakref)]
pub struct Semaphore {
    inner: Mutex<Inner>,
    bound: Option<u64>,
}

struct Inner {
    value: u64,
    waiters: VecDeque<Arc<Waiter>>,
}

#[pymethods]
impl Semaphore {
    /// `value`: how many may have it at once.
    #[new]
    #[pyo3(signature = (value = 1))]
    fn new(value: i64) -> PyResult<Semaphore> {
        Semaphore::with_bound(value, false)
    }

    /// Take one; returns whether that was possible within `timeout` seconds (None: wait for ever).
    ///
    /// Raises ValueError for a timeout of a call that does not block.
    #[pyo3(signature = (blocking = true, timeout = None))]
    fn acquire(&self, py: Python<'_>, blocking: bool, timeout: Option<f64>) -> PyResult<bool> {
        if !blocking && timeout.is_some() {
            return Err(PyValueError::new_err("can't specify timeout for non-blocking acquire"));
        }
        let deadline = deadline_of(timeout)?;
        give_way(py, blocking)?;
        if self.try_acquire() {
            return Ok(true);
        }
        if !blocking {
            return Ok(false);
        }
        interp::take(py, deadline, self)
    }

    /// Give back `n`. Raises ValueError for less than 1, and for more than were taken from a bounded semaphore.
    #[pyo3(signature = (n = 1))]
    fn release(&self, n: i64) -> PyResult<()> {
        let count = u64::try_from(n).ok().filter(|&count| count > 0);
        let Some(mut count) = count else { return Err(PyValueError::new_err("n must be one or more")) };
        let mut inner = self.inner();
        if self.bound.is_some_and(|bound| inner.value.saturating_add(count) > bound) {
            return Err(PyValueError::new_err("Semaphore released too many times"));
        }
        while count > 0
            && let Some(waiter) = inner.waiters.pop_front()
        {
            count -= u64::from(waiter.notify());
        }
        inner.value += count;
        Ok(())
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<bool> {
        self.acquire(py, true, None)
    }

    fn __exit__(&self, _type: &Bound<'_, PyAny>, _value: &Bound<'_, PyAny>, _trace: &Bound<'_, PyAny>) -> PyResult<()> {
        self.release(1)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let name = slf.get_type().fully_qualified_name()?;
        let value = slf.get().inner().value;
        let bound = slf.get().bound.map_or_else(String::new, |bound| format!("/{bound}"));
        Ok(format!("<{name} at {:p}: value={value}{bound}>", slf.as_ptr()))
    }
}

impl Line for Semaphore {
    fn attempt(&self) -> bool {
        self.try_acquire()
    }

    fn enqueue(&self, waiter: Arc<Waiter>, again: bool) {
        join_line(&mut self.inner().waiters, waiter, again);
    }

    fn dequeue(&self, waiter: &Arc<Waiter>) {
        self.inner().waiters.retain(|other| !Arc::ptr_eq(other, waiter));
    }
}

impl Semaphore {
    fn with_bound(value: i64, bounded: bool) -> PyResult<Semaphore> {
        let value = u64::try_from(value).map_err(|_| PyValueError::new_err("semaphore initial value must be >= 0"))?;
        let inner = Mutex::new(Inner { value, waiters: VecDeque::new() });
        Ok(Semaphore { inner, bound: bounded.then_some(value) })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_acquire(&self) -> bool {
        let mut inner = self.inner();
        let free = inner.value > 0;
        inner.value -= u64::from(free);
        free
    }
}

/// What `threading.BoundedSemaphore` is: giving back more than was taken is an error.
#[pyclass(frozen, extends = Semaphore, subclass, module = "rmeinheld.coroutine")]
pub struct BoundedSemaphore;

#[pymethods]
impl BoundedSemaphore {
    /// `value`: how many may have it at once.
    #[new]
    #[pyo3(signature = (value = 1))]
    fn new(value: i64) -> PyResult<PyClassInitializer<BoundedSemaphore>> {
        Ok(PyClassInitializer::from(Semaphore::with_bound(value, true)?).add_subclass(BoundedSemaphore))
    }
}
