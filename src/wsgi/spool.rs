//! Request bodies that are gathered before the application runs: in memory up to a size, in a temporary file beyond it.
//!
//! A slow client then costs no more than its coroutine while it sends. The application gets a seekable file, and a
//! chunked body gets a length.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use super::environ::Keys;
use super::input::Input;

/// Where bodies are gathered.
pub struct SpoolSettings {
    /// Bytes that stay in memory; a longer body goes to a file.
    pub memory_bytes: usize,
    /// The directory of the files; `None` for the default of Python's `tempfile`.
    pub directory: Option<String>,
}

/// A complete body.
pub struct Spooled {
    /// An `io.BytesIO` or a temporary file, at its beginning.
    file: Py<PyAny>,
    bytes: u64,
}

impl Spooled {
    /// The body of a request without one.
    ///
    /// # Errors
    /// MemoryError.
    pub fn empty(py: Python<'_>) -> PyResult<Spooled> {
        Ok(Spooled { file: py.import("io")?.call_method0("BytesIO")?.unbind(), bytes: 0 })
    }

    /// Makes the file the request's `wsgi.input`, and gives a chunked body its length.
    ///
    /// # Errors
    /// MemoryError.
    pub fn install(&self, environ: &Bound<'_, PyDict>, keys: &Keys) -> PyResult<()> {
        environ.set_item(&keys.input, &self.file)?;
        if environ.contains("HTTP_TRANSFER_ENCODING")? {
            environ.del_item("HTTP_TRANSFER_ENCODING")?;
            environ.set_item("CONTENT_LENGTH", self.bytes.to_string())?;
        }
        Ok(())
    }

    /// Closes the file, which removes a temporary one.
    ///
    /// # Errors
    /// The exception of the file's `close`.
    pub fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.file.bind(py).call_method0("close").map(drop)
    }
}

/// Reads the whole body.
///
/// # Errors
/// The exception of reading the input, or OSError where the file cannot be written.
///
/// # Parks
pub fn spool(input: &Bound<'_, Input>, settings: &SpoolSettings) -> PyResult<Spooled> {
    let py = input.py();
    let mut memory = Vec::new();
    while memory.len() <= settings.memory_bytes {
        if !input.get().read_into(py, &mut memory)? {
            let file = py.import("io")?.call_method1("BytesIO", (PyBytes::new(py, &memory),))?;
            return Ok(Spooled { file: file.unbind(), bytes: memory.len() as u64 });
        }
    }
    let options = PyDict::new(py);
    options.set_item("dir", settings.directory.as_deref())?;
    let file = py.import("tempfile")?.call_method("TemporaryFile", (), Some(&options))?;
    let mut bytes = 0;
    loop {
        file.call_method1("write", (PyBytes::new(py, &memory),))?;
        bytes += memory.len() as u64;
        memory.clear();
        if !input.get().read_into(py, &mut memory)? {
            break;
        }
    }
    file.call_method1("seek", (0,))?;
    Ok(Spooled { file: file.unbind(), bytes })
}
