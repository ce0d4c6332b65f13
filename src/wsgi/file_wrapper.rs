//! `wsgi.file_wrapper` (PEP 3333, "Optional Platform-Specific File Handling").

use std::os::fd::RawFd;

use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use super::start_response::StartResponse;
use crate::event_loop;
use crate::kernel::LentDescriptor;
use crate::net::SentFile;

/// Bytes read at a time from objects that are no files, as in wsgiref.
const BLOCK_BYTES: usize = 8192;

/// An iterable over the blocks of a file-like object: `wsgi.file_wrapper` (PEP 3333).
///
/// `filelike` needs `read(size)`. `block_size` is in bytes, at least 1 (8192 by default). If an application returns the
/// object as its response, the server sends a regular file with sendfile(2), from the file's position to its end.
///
/// Raises ValueError for a smaller block size.
#[pyclass(frozen, module = "rmeinheld")]
pub struct FileWrapper {
    /// The object that is sent.
    #[pyo3(get)]
    filelike: Py<PyAny>,
    /// The number of bytes read at a time.
    #[pyo3(get)]
    block_size: usize,
}

#[pymethods]
impl FileWrapper {
    #[new]
    #[pyo3(signature = (filelike, block_size = BLOCK_BYTES, /), text_signature = "(filelike, block_size=8192, /)")]
    fn new(filelike: Py<PyAny>, block_size: usize) -> PyResult<FileWrapper> {
        if block_size == 0 {
            return Err(PyValueError::new_err("wsgi.file_wrapper: block_size must be at least 1, not 0"));
        }
        Ok(FileWrapper { filelike, block_size })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.filelike)
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let block = self.filelike.bind(py).call_method1(intern!(py, "read"), (self.block_size,))?;
        Ok((block.len()? > 0).then_some(block))
    }

    /// Close the file-like object, if it has a `close` method.
    pub fn close(&self, py: Python<'_>) -> PyResult<()> {
        if let Some(close) = self.filelike.bind(py).getattr_opt(intern!(py, "close"))? {
            close.call0()?;
        }
        Ok(())
    }
}

impl FileWrapper {
    /// A regular file, the position in it and the number of bytes from there to its end; `None` for other objects.
    /// `None` also where nothing is left by its size: files of /proc have content and a size of 0.
    fn regular_file(&self, py: Python<'_>) -> PyResult<Option<(SentFile, u64, u64)>> {
        let file = self.filelike.bind(py);
        let Some(raw) = raw_file(file)? else { return Ok(None) };
        let (Ok(number), Ok(position)) = (
            raw.call_method0(intern!(py, "fileno")).and_then(|number| number.extract::<RawFd>()),
            file.call_method0(intern!(py, "tell")).and_then(|position| position.extract::<u64>()),
        ) else {
            return Ok(None);
        };
        let Ok(descriptor) = LentDescriptor::new(number) else { return Ok(None) };
        let Ok(status) = rustix::fs::fstat(descriptor) else { return Ok(None) };
        if rustix::fs::FileType::from_raw_mode(status.st_mode) != rustix::fs::FileType::RegularFile {
            return Ok(None);
        }
        let size = u64::try_from(status.st_size).unwrap_or(0).saturating_sub(position);
        Ok((size > 0).then(|| (SentFile::new(descriptor, &status), position, size)))
    }

    /// Sends the file with sendfile(2). False if the object is no regular file, and nothing was sent.
    ///
    /// # Errors
    /// As [`StartResponse::send`].
    ///
    /// # Parks
    pub fn send(&self, py: Python<'_>, response: &StartResponse) -> PyResult<bool> {
        if response.is_chunked() {
            // write() was used before.
            return Ok(false);
        }
        let Some((mut file, position, size)) = self.regular_file(py)? else { return Ok(false) };
        let parks = event_loop::number_of_parks();
        let (stream, length) = response.send_head(py, size)?;
        if event_loop::number_of_parks() != parks {
            // The head parked, and the file may be closed by now.
            file.check()?;
        }
        if length > 0 {
            response.sent_file(stream.send_file(&mut file, position, length, response.pace()))?;
        }
        Ok(true)
    }
}

/// The `FileIO` whose descriptor has the bytes that reading `file` gives: that of an object of `open()` in binary mode. A
/// wrapper such as GzipFile has a descriptor, too, and gives `None`.
fn raw_file<'py>(file: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    static FILE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static READER: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static RANDOM: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let py = file.py();
    let is = |object: &Bound<'py, PyAny>, class: &PyOnceLock<Py<PyType>>, name: &str| {
        class.import(py, "io", name).map(|class| object.get_type().is(class))
    };
    if is(file, &FILE, "FileIO")? {
        return Ok(Some(file.clone()));
    }
    if is(file, &READER, "BufferedReader")? || is(file, &RANDOM, "BufferedRandom")? {
        let raw = file.getattr(intern!(py, "raw"))?;
        return Ok(is(&raw, &FILE, "FileIO")?.then_some(raw));
    }
    Ok(None)
}
