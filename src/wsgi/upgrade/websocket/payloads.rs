//! Bytes of the application's objects.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

/// The bytes of `bytes` or another buffer.
///
/// # Errors
/// TypeError.
pub fn bytes_of<'py>(data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    if let Ok(bytes) = data.cast::<PyBytes>() {
        return Ok(bytes.clone());
    }
    let py = data.py();
    let copied = py.get_type::<PyBytes>().call1((py
        .import("builtins")?
        .call_method1("memoryview", (data,))
        .map_err(|_| {
            let name = data.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string());
            PyTypeError::new_err(format!("a message must be a str or bytes, not {name}"))
        })?,))?;
    Ok(copied.cast_into::<PyBytes>()?)
}

/// The bytes of a str in UTF-8, or those of a buffer.
///
/// # Errors
/// TypeError, and UnicodeEncodeError.
pub fn utf8_or_bytes<'py>(data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    match data.cast::<PyString>() {
        Ok(text) => Ok(PyBytes::new(data.py(), text.to_str()?.as_bytes())),
        Err(_) => bytes_of(data),
    }
}
