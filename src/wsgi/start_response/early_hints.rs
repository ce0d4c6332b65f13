//! `environ["wsgi.early_hints"]` as in Gunicorn: interim responses of status 103 (RFC 8297).

use std::sync::Arc;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use super::super::text;
use super::StartResponse;
use super::answer::{Answer, illegal};
use super::sender::Framed;
use crate::http::Version;
use crate::http::exchange::ExchangeEvent;
use crate::http::response::{FieldKind, check_field, write_field, write_status_line};

const SOURCE: &str = "wsgi.early_hints";

/// `environ["wsgi.early_hints"]`: calling it sends a 103 (Early Hints, RFC 8297) ahead of the response.
///
/// Its argument is an iterable of pairs of name and value, each a str or bytes. It may be called again. It does nothing
/// under HTTP/1.0 and once the head of the response has been sent. Fields about the connection or a body are left out.
///
/// Raises TypeError and ValueError as `start_response` does, and ConnectionError when the client has gone.
#[pyclass(frozen, module = "rmeinheld")]
pub struct EarlyHints {
    response: Py<StartResponse>,
}

impl EarlyHints {
    /// The early hints of the request that `response` answers.
    pub fn new(response: &Bound<'_, StartResponse>) -> EarlyHints {
        EarlyHints { response: response.clone().unbind() }
    }
}

#[pymethods]
impl EarlyHints {
    /// # Parks
    #[pyo3(signature = (headers, /))]
    fn __call__(&self, py: Python<'_>, headers: &Bound<'_, PyAny>) -> PyResult<()> {
        let response = self.response.get();
        if !response.answer().takes_interim() {
            return Ok(());
        }
        let mut head = Vec::new();
        write_status_line(&mut head, b"103 Early Hints");
        for field in headers.try_iter()? {
            add_field(&mut head, &field?)?;
        }
        head.extend_from_slice(b"\r\n");
        response.send_interim(py, &head)
    }
}

impl StartResponse {
    /// Sends the whole head of an interim response, or nothing once the response has begun.
    ///
    /// # Parks
    fn send_interim(&self, py: Python<'_>, head: &[u8]) -> PyResult<()> {
        let framed = {
            let mut answer = self.answer();
            let Some(stream) = answer.stream.as_ref().filter(|_| answer.takes_interim()).map(Arc::clone) else {
                return Ok(());
            };
            answer.occupy()?;
            answer.exchange.apply(ExchangeEvent::InterimSent).map_err(illegal)?;
            Framed { stream, before: Vec::new(), head: 0, data: 0, is_whole: false, after: b"" }
        };
        let sent = self.put(py, &framed.stream, &[head]);
        self.sent(framed, sent).map(drop)
    }
}

impl Answer {
    /// Does the client still wait for the head of the response, and know interim ones?
    fn takes_interim(&self) -> bool {
        self.stream.is_some() && self.terms.version != Version::Http10 && self.exchange.takes_interim()
    }
}

fn add_field(head: &mut Vec<u8>, field: &Bound<'_, PyAny>) -> PyResult<()> {
    let pair: Vec<Bound<'_, PyAny>> = field.extract()?;
    let [name, value] = pair.as_slice() else {
        return Err(PyTypeError::new_err("each early hint must be a pair of name and value"));
    };
    let (name, value) = (bytes_of(name)?, bytes_of(value)?);
    let kind = check_field(name, value)
        .map_err(|error| PyValueError::new_err(format!("early hint {:?}: {error}", String::from_utf8_lossy(name))))?;
    if matches!(kind, FieldKind::Other | FieldKind::Date | FieldKind::Server) {
        write_field(head, name, value);
    }
    Ok(())
}

fn bytes_of<'a>(text: &'a Bound<'_, PyAny>) -> PyResult<&'a [u8]> {
    if let Ok(bytes) = text.cast::<PyBytes>() {
        return Ok(bytes.as_bytes());
    }
    let text = text
        .cast::<PyString>()
        .map_err(|_| text::wrong_type("names and values of early hints must be str or bytes", text, SOURCE))?;
    text::latin1_bytes(text, "an early hint")
}
