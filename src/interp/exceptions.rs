//! The exceptions of `rmeinheld.coroutine`.

use pyo3::exceptions::{PyBaseException, PySystemExit, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

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

/// Raised in a request whose time is up: where it waits, or while it computes.
///
/// The client gets 504 if nothing was sent, and the end of its connection otherwise. It is no subclass of Exception, so
/// code that answers or retries after errors of its own does not swallow it. Let it pass, and clean up in `finally`.
#[pyclass(extends = PyBaseException, frozen, subclass, module = "rmeinheld")]
pub struct RequestTimeout;

#[pymethods]
impl RequestTimeout {
    #[new]
    #[pyo3(signature = (*_args))]
    fn new(_args: &Bound<'_, PyTuple>) -> RequestTimeout {
        RequestTimeout
    }
}

impl RequestTimeout {
    /// The exception with a message.
    ///
    /// # Errors
    /// MemoryError.
    pub fn with_message(py: Python<'_>, message: &str) -> PyResult<Py<PyBaseException>> {
        let made = py.get_type::<RequestTimeout>().call1((message,))?;
        Ok(made.cast_into::<PyBaseException>().map_err(PyErr::from)?.unbind())
    }
}

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
