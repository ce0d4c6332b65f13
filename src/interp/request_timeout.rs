//! The exceptions that end one request.

use pyo3::exceptions::PyBaseException;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::endings;

/// Raised in a request whose time is up, where it waits or while it computes.
///
/// The client gets 504 if nothing was sent, and a reset of its connection otherwise. It is no subclass of Exception, so
/// code that answers or retries after errors of its own does not swallow it. Let it pass, and clean up in `finally`. A
/// request that goes on gets CoroutineExit two seconds later.
#[pyclass(extends = PyBaseException, frozen, subclass, module = "rmeinheld")]
pub struct RequestTimeout;

#[pymethods]
impl RequestTimeout {
    #[new]
    #[pyo3(signature = (*_args))]
    fn new(_args: &Bound<'_, PyTuple>) -> RequestTimeout {
        // CPython makes the instance in the moment in which it raises an asynchronous exception.
        endings::note_created(_args.py());
        RequestTimeout
    }
}

impl RequestTimeout {
    /// The exception with a message, or the one that its making raises.
    pub fn error(py: Python<'_>, message: &str) -> PyErr {
        match py.get_type::<RequestTimeout>().call1((message,)) {
            Ok(made) => PyErr::from_value(made),
            Err(error) => error,
        }
    }
}

pyo3::create_exception!(
    rmeinheld,
    ClientDisconnected,
    PyBaseException,
    "Raised where a request waits whose client has gone away, if `cancel_on_disconnect` is on.\n\n\
     It is no subclass of Exception, so code that retries after errors of its own does not swallow it. Let it pass, and \
     clean up in `finally`."
);
