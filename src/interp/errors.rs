//! Conversion of failures of the layers below into Python exceptions.

use pyo3::exceptions::{PyOSError, PyTimeoutError};
use pyo3::prelude::*;
use rustix::io::Errno;

use super::exceptions::CoroutineExit;
use super::raising;
use crate::event_loop::Wake;
use crate::net::Failure;

/// The `OSError`, or its subclass, for an error number.
pub fn os_error(error: Errno) -> PyErr {
    let message = std::io::Error::from(error).to_string();
    let message = message.split(" (os error").next().unwrap_or_default().to_owned();
    PyOSError::new_err((error.raw_os_error(), message))
}

/// The Python exception for an error of the kernel, with its number.
pub fn io_error(error: std::io::Error) -> PyErr {
    Errno::from_io_error(&error).map_or_else(|| error.into(), os_error)
}

/// The Python exception for a wait that did not end as its caller hoped.
pub fn wake_error(wake: Wake) -> PyErr {
    match wake {
        Wake::TimedOut => PyTimeoutError::new_err("timed out"),
        Wake::Closed => os_error(Errno::BADF),
        Wake::Ready | Wake::Killed => CoroutineExit::new_err("the server stops"),
        Wake::Interrupted => Python::attach(raising::take),
    }
}

/// The Python exception for a failed connection of a client.
pub fn failure_error(failure: Failure) -> PyErr {
    match failure {
        Failure::Gone(error) => error.into(),
        Failure::TimedOut => PyTimeoutError::new_err("the client took too long"),
        Failure::Killed => wake_error(Wake::Killed),
        Failure::Interrupted => wake_error(Wake::Interrupted),
    }
}
