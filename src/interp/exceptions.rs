//! The exceptions of `rmeinheld.coroutine`.

use pyo3::exceptions::{PyBaseException, PySystemExit, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyType;

pyo3::create_exception!(
    rmeinheld.coroutine,
    CoroutineExit,
    PySystemExit,
    "Raised in a coroutine that is killed, and once in each coroutine that still runs when its server stops.\n\n\
     Let it pass, and clean up in `finally`. It is a SystemExit, which libraries let pass as the end of a thread."
);

pyo3::create_exception!(
    rmeinheld.coroutine,
    Timeout,
    PyBaseException,
    "Raised by `timeout(seconds)` in its own block, where the coroutine waits.\n\n\
     It is no subclass of Exception, so code that retries after errors of its own does not swallow it."
);

/// The exception meant by the argument of `throw()` and `timeout()`: an instance, or a class to call without arguments.
///
/// # Errors
/// TypeError for anything else, and whatever the class raises.
pub fn exception_of(exception: &Bound<'_, PyAny>) -> PyResult<Py<PyBaseException>> {
    if let Ok(instance) = exception.cast::<PyBaseException>() {
        return Ok(instance.clone().unbind());
    }
    if let Ok(class) = exception.cast::<PyType>()
        && class.is_subclass_of::<PyBaseException>()?
    {
        return Ok(class.call0()?.cast_into::<PyBaseException>().map_err(PyErr::from)?.unbind());
    }
    let name = exception.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string());
    Err(PyTypeError::new_err(format!(
        "exceptions must be classes or instances deriving from BaseException, not {name}"
    )))
}
