//! A text stream for the error log that never waits.

use std::os::fd::RawFd;

use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::event_loop::borrow_descriptor;
use crate::output::{LogFile, News};

/// A text stream on a duplicate of descriptor `fd` that never waits: what nobody reads is kept as far as there is room, and
/// then lost and counted.
#[pyclass(frozen, module = "rmeinheld")]
pub struct ErrorStream {
    file: LogFile,
}

#[pymethods]
impl ErrorStream {
    /// # Errors
    /// OSError for a bad descriptor.
    #[new]
    #[pyo3(signature = (fd, /))]
    fn new(fd: RawFd) -> PyResult<ErrorStream> {
        Ok(ErrorStream { file: LogFile::new(borrow_descriptor(fd).try_clone_to_owned()?, false) })
    }

    /// Writes whole lines. Returns the number of characters, as text streams do.
    fn write(&self, text: &Bound<'_, PyString>) -> PyResult<usize> {
        self.file.add(text.to_string_lossy().as_bytes());
        if let Some(News::GoesOn(lost @ 1..)) = self.file.flush() {
            self.file.add(format!("rmeinheld: {lost} lines of this log were lost\n").as_bytes());
            self.file.flush();
        }
        text.len()
    }

    /// Does nothing: what can be written has been.
    fn flush(&self) {}

    /// Writes what is left, within a second.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.file.finish());
    }
}
