//! PEP 3333's native strings: `str` objects that hold latin-1.

use std::borrow::Cow;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyString;

/// The `str` with these bytes as its code points.
#[expect(unsafe_code, reason = "pyo3 decodes only UTF-8, and this runs for every header of every request")]
pub fn latin1<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyString>> {
    let length = isize::try_from(bytes.len()).unwrap_or(isize::MAX);
    // SAFETY: pointer and length of a live slice; the errors argument may be null. A new reference or null comes back.
    unsafe {
        let text = pyo3::ffi::PyUnicode_DecodeLatin1(bytes.as_ptr().cast(), length, std::ptr::null());
        Ok(Bound::from_owned_ptr_or_err(py, text)?.cast_into_unchecked())
    }
}

/// The code points of a `str` as bytes.
///
/// # Errors
/// ValueError, naming `what`, if one is above U+00FF.
pub fn latin1_bytes<'a>(text: &'a Bound<'_, PyString>, what: &str) -> PyResult<Cow<'a, [u8]>> {
    if let Ok(utf8) = text.to_str() {
        if utf8.is_ascii() {
            return Ok(Cow::Borrowed(utf8.as_bytes()));
        }
        if let Some(bytes) = utf8.chars().map(|character| u8::try_from(u32::from(character)).ok()).collect() {
            return Ok(Cow::Owned(bytes));
        }
    }
    Err(PyValueError::new_err(format!("{what} has a character outside latin-1 (PEP 3333, \"Unicode Issues\")")))
}
