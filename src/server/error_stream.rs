//! A text stream for the error log that never waits.

use std::os::fd::RawFd;

use pyo3::prelude::*;
use pyo3::types::PyString;

use super::given_descriptor::given_descriptor;
use crate::output::{LogFile, News};

/// A text stream on a duplicate of descriptor `fd` that never waits.
///
/// Lines that the reader of the descriptor does not take are kept while there is room. Further lines are lost; their
/// number is written later. Raises OSError for a bad descriptor.
#[pyclass(frozen, module = "rmeinheld")]
pub struct ErrorStream {
    file: LogFile,
}

#[pymethods]
impl ErrorStream {
    #[new]
    #[pyo3(signature = (fd, /))]
    fn new(fd: RawFd) -> PyResult<ErrorStream> {
        let descriptor = given_descriptor(fd, "the error log", |descriptor| descriptor.try_clone_to_owned())?;
        Ok(ErrorStream { file: LogFile::new(descriptor, false) })
    }

    /// Write whole lines. Returns the number of characters, as text streams do.
    fn write(&self, text: &Bound<'_, PyString>) -> PyResult<usize> {
        self.file.add(text.to_string_lossy().as_bytes());
        if let Some(News::GoesOn(lost @ 1..)) = self.file.flush() {
            self.file.add(format!("rmeinheld: {lost} lines of this log were lost\n").as_bytes());
            self.file.flush();
        }
        text.len()
    }

    /// Do nothing: the descriptor has all that it takes.
    fn flush(&self) {}

    /// Write the rest, for one second at most.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.file.finish());
    }
}
