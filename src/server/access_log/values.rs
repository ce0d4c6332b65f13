//! Values of an environ as the bytes of the request.

use std::borrow::Cow;
use std::time::Duration;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::wsgi::Finished;

/// The facts about a request that every form of a line shows.
pub struct FinishedRequest<'a, 'py> {
    /// The environ.
    pub environ: &'a Bound<'py, PyDict>,
    /// The status code; 0 if nothing was sent.
    pub status: u16,
    /// Bytes of the body sent.
    pub body_bytes: u64,
    /// The time that the request took.
    pub elapsed: Duration,
}

impl<'a, 'py> FinishedRequest<'a, 'py> {
    /// A request that took `elapsed`.
    pub fn of(finished: &'a Finished<'py>, elapsed: Duration) -> FinishedRequest<'a, 'py> {
        FinishedRequest {
            environ: &finished.environ,
            status: finished.status,
            body_bytes: finished.body_bytes,
            elapsed,
        }
    }

    /// The request of an environ that an access logger gets, with the keys that [`super::logger`] adds.
    ///
    /// # Errors
    /// KeyError if an item is missing.
    pub fn of_environ(environ: &'a Bound<'py, PyDict>) -> PyResult<FinishedRequest<'a, 'py>> {
        let py = environ.py();
        let item = |key| environ.as_any().get_item(key);
        let seconds: f64 = item(intern!(py, "rmeinheld.request_time"))?.extract()?;
        Ok(FinishedRequest {
            environ,
            status: item(intern!(py, "STATUS_CODE"))?.extract()?,
            body_bytes: item(intern!(py, "SEND_BYTES"))?.extract()?,
            elapsed: Duration::try_from_secs_f64(seconds).unwrap_or_default(),
        })
    }
}

/// Calls `action` with the bytes of a value; see [`bytes_of`]. `None` if it is missing.
///
/// # Errors
/// The exception of the value's `__str__`.
pub fn with_value<R>(
    environ: &Bound<'_, PyDict>,
    key: &Bound<'_, PyString>,
    action: impl FnOnce(&[u8]) -> R,
) -> PyResult<Option<R>> {
    let Some(value) = environ.get_item(key)? else { return Ok(None) };
    if value.is_none() {
        return Ok(None);
    }
    let text = value.str()?;
    Ok(Some(action(&bytes_of(&text.to_string_lossy()))))
}

/// The bytes of a native string, which has one character of latin-1 for each (PEP 3333, "Unicode Issues"). Text of the
/// application's with other characters becomes UTF-8.
pub fn bytes_of(text: &str) -> Cow<'_, [u8]> {
    if text.is_ascii() {
        return Cow::Borrowed(text.as_bytes());
    }
    let bytes: Result<Vec<u8>, _> = text.chars().map(|character| u8::try_from(u32::from(character))).collect();
    bytes.map_or_else(|_| Cow::Borrowed(text.as_bytes()), Cow::Owned)
}

/// The user of a Basic Authorization field (RFC 7617).
///
/// # Errors
/// The exception of reading the environ.
pub fn user(environ: &Bound<'_, PyDict>) -> PyResult<Option<Vec<u8>>> {
    let Some(authorization) = environ.get_item("HTTP_AUTHORIZATION")? else { return Ok(None) };
    let authorization = authorization.str()?.to_string_lossy().into_owned();
    let Some((scheme, token)) = authorization.split_once(' ') else { return Ok(None) };
    if !scheme.eq_ignore_ascii_case("basic") {
        return Ok(None);
    }
    let decoded = environ.py().import("binascii")?.call_method1("a2b_base64", (token.trim(),));
    let Some(decoded) = decoded.and_then(|decoded| decoded.extract::<Vec<u8>>()).ok() else { return Ok(None) };
    Ok(decoded.split(|&byte| byte == b':').next().filter(|user| !user.is_empty()).map(<[u8]>::to_vec))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn native_strings_are_bytes_and_other_text_is_utf_8() {
        assert_eq!(*bytes_of("a/b"), *b"a/b");
        assert_eq!(*bytes_of("caf\u{e9}"), *b"caf\xe9");
        assert_eq!(*bytes_of("\u{e9}\u{20ac}"), *"\u{e9}\u{20ac}".as_bytes());
    }
}
