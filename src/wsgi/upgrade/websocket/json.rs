//! JSON in text messages, by the `json` module of Python.

use pyo3::exceptions::{PyRecursionError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};

/// Characters of a message that an error shows.
const SHOWN: usize = 60;

/// The text of `value`.
///
/// # Errors
/// Those of `json.dumps`.
pub fn dumps<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyString>> {
    let py = value.py();
    let options = PyDict::new(py);
    options.set_item("ensure_ascii", false)?;
    options.set_item("allow_nan", false)?;
    options.set_item("separators", (",", ":"))?;
    let text = py.import("json")?.call_method("dumps", (value,), Some(&options))?;
    Ok(text.cast_into::<PyString>()?)
}

/// The value of a message: a str for text, bytes for binary.
///
/// # Errors
/// ValueError with the beginning of the message.
pub fn loads<'py>(message: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = message.py();
    let Ok(text) = message.cast::<PyString>() else {
        let data = message.cast::<PyBytes>()?.as_bytes();
        let start = data.get(..SHOWN).unwrap_or(data).escape_ascii();
        let message = format!("JSON comes in text, and this message of {} bytes is binary: b'{start}'", data.len());
        return Err(PyValueError::new_err(message));
    };
    py.import("json")?.call_method1("loads", (text,)).or_else(|error| {
        // A client can nest more deeply than Python recurses.
        if !error.is_instance_of::<PyValueError>(py) && !error.is_instance_of::<PyRecursionError>(py) {
            return Err(error);
        }
        let text = text.to_str()?;
        let start: String = text.chars().take(SHOWN).collect();
        let dots = if start.len() < text.len() { "..." } else { "" };
        let shown = PyString::new(py, &start).repr().map_or(start, |shown| shown.to_string());
        let wrong = PyValueError::new_err(format!("not JSON: {shown}{dots}: {}", error.value(py)));
        wrong.set_cause(py, Some(error));
        Err(wrong)
    })
}
