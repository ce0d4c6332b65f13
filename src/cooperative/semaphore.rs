//! `Semaphore` and `BoundedSemaphore`: counting semaphores.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::permits::Permits;
use super::timeouts::{deadline_of, give_way};
use crate::event_loop::reasons::Reason;
use crate::interp::{self, WaitReason};

/// A counting semaphore for coroutines and OS threads, like `threading.Semaphore`. Waiters get their turn in order.
///
/// `value` is how many may hold it at once, 0 or more (1 by default). Raises ValueError for a negative value.
#[pyclass(frozen, subclass, module = "rmeinheld.coroutine", weakref)]
pub struct Semaphore {
    permits: Permits,
    bound: Option<u64>,
}

#[pymethods]
impl Semaphore {
    #[new]
    #[pyo3(signature = (value = 1))]
    fn new(value: i64) -> PyResult<Semaphore> {
        Semaphore::with_bound(value, false)
    }

    /// Take the semaphore once. Returns whether it was taken.
    ///
    /// With `blocking` false the call does not wait. `timeout` is the longest wait in seconds; None (the default) waits
    /// for ever.
    ///
    /// Raises ValueError for a timeout of a call that does not wait.
    #[pyo3(signature = (blocking = true, timeout = None))]
    fn acquire(slf: &Bound<'_, Self>, blocking: bool, timeout: Option<f64>) -> PyResult<bool> {
        let (this, py) = (slf.get(), slf.py());
        if !blocking && timeout.is_some() {
            return Err(PyValueError::new_err("can't specify timeout for non-blocking acquire"));
        }
        let deadline = deadline_of(timeout)?;
        give_way(py, blocking)?;
        if this.permits.try_take() {
            return Ok(true);
        }
        if !blocking {
            return Ok(false);
        }
        interp::take(py, WaitReason::object(Reason::Semaphore, slf), deadline, &this.permits)
    }

    /// Release the semaphore `n` times, 1 or more (1 by default).
    ///
    /// Raises ValueError for less than 1, and if a bounded semaphore would exceed its initial value.
    #[pyo3(signature = (n = 1))]
    fn release(&self, n: i64) -> PyResult<()> {
        let count = u64::try_from(n).ok().filter(|&count| count > 0);
        let Some(count) = count else { return Err(PyValueError::new_err("n must be one or more")) };
        if self.permits.give_back(count, self.bound) {
            Ok(())
        } else {
            Err(PyValueError::new_err("Semaphore released too many times"))
        }
    }

    fn __enter__(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Semaphore::acquire(slf, true, None)
    }

    fn __exit__(&self, _type: &Bound<'_, PyAny>, _value: &Bound<'_, PyAny>, _trace: &Bound<'_, PyAny>) -> PyResult<()> {
        self.release(1)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let name = slf.get_type().fully_qualified_name()?;
        let value = slf.get().permits.free();
        let bound = slf.get().bound.map_or_else(String::new, |bound| format!("/{bound}"));
        Ok(format!("<{name} at {:p}: value={value}{bound}>", slf.as_ptr()))
    }
}

impl Semaphore {
    fn with_bound(value: i64, bounded: bool) -> PyResult<Semaphore> {
        let value = u64::try_from(value).map_err(|_| PyValueError::new_err("semaphore initial value must be >= 0"))?;
        Ok(Semaphore { permits: Permits::new(value), bound: bounded.then_some(value) })
    }
}

/// A semaphore that raises ValueError when it is released more often than it was taken: `threading.BoundedSemaphore`.
///
/// `value` is how many may hold it at once, 0 or more (1 by default). Raises ValueError for a negative value.
#[pyclass(frozen, extends = Semaphore, subclass, module = "rmeinheld.coroutine")]
pub struct BoundedSemaphore;

#[pymethods]
impl BoundedSemaphore {
    #[new]
    #[pyo3(signature = (value = 1))]
    fn new(value: i64) -> PyResult<PyClassInitializer<BoundedSemaphore>> {
        Ok(PyClassInitializer::from(Semaphore::with_bound(value, true)?).add_subclass(BoundedSemaphore))
    }
}
