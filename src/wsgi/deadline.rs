//! `environ["rmeinheld.deadline"]`: the application reads and moves the deadline of its request.

use std::time::Duration;

use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::event_loop::records::{self, Record, WorkKind};
use crate::event_loop::{deadlines, interrupts};
use crate::interp::{self, EndReason, RequestTimeout};

/// `environ["rmeinheld.deadline"]`: the deadline of the request, or of the coroutine, that uses it.
///
/// Calling it returns the seconds that are left, below 0 once the time is up; None without a deadline. One object serves
/// all requests. Raises RuntimeError outside a coroutine.
#[pyclass(frozen, module = "rmeinheld")]
pub struct Deadline;

#[pymethods]
impl Deadline {
    #[pyo3(signature = ())]
    fn __call__(&self) -> PyResult<Option<f64>> {
        Ok(self.at()?.map(|at| at - seconds(records::now())))
    }

    /// The deadline on the clock of `time.monotonic()`; None for no deadline. Assign to it to move the deadline.
    ///
    /// With a time that has passed, RequestTimeout is raised at once. Raises ValueError for NaN, infinity and times
    /// before the clock began.
    #[getter]
    fn at(&self) -> PyResult<Option<f64>> {
        let own = own_record()?;
        Ok(deadlines::of(&own).map(seconds))
    }

    #[setter]
    fn set_at(&self, py: Python<'_>, at: Option<f64>) -> PyResult<()> {
        let at = at.map(|at| checked("at", at)).transpose()?;
        move_own(py, at)
    }

    /// Move the deadline to `seconds` from now; None removes it.
    ///
    /// With 0, RequestTimeout is raised at once. Raises ValueError for a negative number, NaN and infinity.
    #[pyo3(signature = (seconds, /))]
    fn set(&self, py: Python<'_>, seconds: Option<f64>) -> PyResult<()> {
        let left = seconds.map(|seconds| checked("seconds", seconds)).transpose()?;
        move_own(py, left.map(|left| records::now().saturating_add(left)))
    }

    /// Have `coroutine` end at the present deadline of the request, too: RequestTimeout is raised in it.
    ///
    /// `coroutine` is a `Coroutine`, or a thread that is one. Later moves of the request's deadline do not move that of
    /// the coroutine. Without a deadline, or after the end of the coroutine, it does nothing. Raises TypeError for
    /// anything else, an OS thread included, because nothing can interrupt it.
    #[pyo3(signature = (coroutine, /))]
    fn extend_to(&self, coroutine: &Bound<'_, PyAny>) -> PyResult<()> {
        let Some(at) = deadlines::of(own_record()?.as_ref()) else { return Ok(()) };
        if let Ok(coroutine) = coroutine.cast::<interp::Coroutine>() {
            coroutine.get().set_deadline(at);
            return Ok(());
        }
        let ident = coroutine.getattr("ident").and_then(|ident| ident.extract::<u64>());
        let spawned = ident.ok().and_then(|ident| records::all().into_iter().find(|record| record.ident() == ident));
        match spawned.filter(|record| record.kind() == WorkKind::Spawned) {
            Some(record) => {
                deadlines::move_to(record.work(), Some(at));
                Ok(())
            }
            None => Err(PyTypeError::new_err(format!(
                "extend_to() needs a coroutine, or a thread that runs as one, not {}: nothing can interrupt it",
                coroutine.repr()?
            ))),
        }
    }
}

/// The record of the caller's work.
fn own_record() -> PyResult<std::sync::Arc<Record>> {
    let own = interrupts::current_work().and_then(|work| deadlines::record_of(work.number));
    own.ok_or_else(|| PyRuntimeError::new_err("rmeinheld.deadline works in requests and coroutines only"))
}

/// Moves the deadline of the caller's work.
fn move_own(py: Python<'_>, at: Option<u64>) -> PyResult<()> {
    let work = own_record()?.work();
    deadlines::move_to(work, at);
    if at.is_some_and(|at| at <= records::now()) {
        interp::end_work(py, work, EndReason::Deadline);
        return Err(RequestTimeout::error(py, EndReason::Deadline.message()));
    }
    Ok(())
}

/// Nanoseconds of a number of seconds.
fn checked(name: &str, value: f64) -> PyResult<u64> {
    if !(0.0..f64::INFINITY).contains(&value) {
        let value = value.to_string().to_lowercase();
        return Err(PyValueError::new_err(format!("{name} must be a number of seconds >= 0, not {value}")));
    }
    Ok(Duration::try_from_secs_f64(value).map_or(u64::MAX - 1, deadlines::nanoseconds))
}

fn seconds(nanoseconds: u64) -> f64 {
    Duration::from_nanos(nanoseconds).as_secs_f64()
}
