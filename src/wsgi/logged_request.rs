//! The request of a log record, as Python sees it.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::in_progress::describe;
use crate::interp::{in_fresh_context, is_followed, set_followed};

/// The request that a log record belongs to; see `rmeinheld.logging`.
#[pyclass(frozen, module = "rmeinheld", get_all)]
pub struct LoggedRequest {
    /// The request's id, or None without the option `request_id`.
    request_id: Option<Py<PyString>>,
    /// The id of its trace, or None.
    trace_id: Option<Py<PyString>>,
    /// The id of its span in the trace, or None.
    span_id: Option<Py<PyString>>,
    /// The method and the target, such as "GET /path?query".
    request_line: String,
}

impl LoggedRequest {
    fn of(environ: &Bound<'_, PyDict>) -> PyResult<LoggedRequest> {
        let py = environ.py();
        let item = |key| -> PyResult<Option<Py<PyString>>> {
            let value = environ.get_item(key)?;
            Ok(value.and_then(|value| value.cast_into::<PyString>().ok()).map(Bound::unbind))
        };
        Ok(LoggedRequest {
            request_id: item(intern!(py, "rmeinheld.request_id"))?,
            trace_id: item(intern!(py, "rmeinheld.trace_id"))?,
            span_id: item(intern!(py, "rmeinheld.span_id"))?,
            request_line: describe(environ),
        })
    }
}

/// Notes the request in the current context, if requests are followed.
///
/// # Errors
/// MemoryError.
#[inline]
pub fn follow_request(environ: &Bound<'_, PyDict>) -> PyResult<()> {
    if is_followed() { note_request(environ) } else { Ok(()) }
}

fn note_request(environ: &Bound<'_, PyDict>) -> PyResult<()> {
    let request = Bound::new(environ.py(), LoggedRequest::of(environ)?)?;
    set_followed(&request)
}

/// Runs `action`, which logs something about a request that has ended, in a context of the request.
///
/// # Errors
/// MemoryError; RuntimeError if `action` left another context entered.
///
/// # Parks
pub fn in_context_of<R>(environ: &Bound<'_, PyDict>, action: impl FnOnce() -> R) -> PyResult<R> {
    in_fresh_context(environ.py(), || follow_request(environ).map(|()| action())).and_then(|outcome| outcome)
}
