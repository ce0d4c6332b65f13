//! Descriptors that the caller of the engine gives by their number.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

use crate::kernel::LentDescriptor;

/// Passes the descriptor `number` to `take`, which keeps a duplicate of it for `purpose`.
///
/// # Errors
/// OSError that names the descriptor and the purpose.
pub fn given_descriptor<T>(
    number: RawFd,
    purpose: &str,
    take: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
) -> PyResult<T> {
    let taken = LentDescriptor::new(number).map_err(Into::into).and_then(|descriptor| take(descriptor.as_fd()));
    taken.map_err(|error| {
        PyOSError::new_err((
            error.raw_os_error(),
            format!("descriptor {number}, for {purpose}, cannot be used: {error}"),
        ))
    })
}
