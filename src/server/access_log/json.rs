//! Lines that are objects of JSON, with the fields that the documentation lists (`docs/logging.md`).
//!
//! Every line is valid, whatever the client has sent: see [`push_string`].

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::values::{FinishedRequest, user, with_value};
use crate::output::json::{push_number, push_padded, push_string};

/// The line for `request`, without its end. `date` is the time in UTC up to the second.
///
/// # Errors
/// The exception of reading the environ.
pub fn line(date: &str, nanoseconds: u64, request: &FinishedRequest<'_, '_>) -> PyResult<Vec<u8>> {
    let FinishedRequest { environ, status, body_bytes, elapsed } = request;
    let py = environ.py();
    let mut json = Vec::with_capacity(512);
    json.extend_from_slice(b"{\"time\":\"");
    json.extend_from_slice(date.as_bytes());
    json.push(b'.');
    push_padded(&mut json, nanoseconds / 1000, 6);
    json.extend_from_slice(b"Z\",\"pid\":");
    push_number(&mut json, std::process::id().into());
    add(&mut json, b",\"client\":", environ, intern!(py, "REMOTE_ADDR"))?;
    json.extend_from_slice(b",\"user\":");
    match user(environ)? {
        Some(user) => push_string(&mut json, &user),
        None => json.extend_from_slice(b"null"),
    }
    add(&mut json, b",\"scheme\":", environ, intern!(py, "wsgi.url_scheme"))?;
    add(&mut json, b",\"host\":", environ, intern!(py, "HTTP_HOST"))?;
    add(&mut json, b",\"method\":", environ, intern!(py, "REQUEST_METHOD"))?;
    add(&mut json, b",\"target\":", environ, intern!(py, "RAW_URI"))?;
    add(&mut json, b",\"protocol\":", environ, intern!(py, "SERVER_PROTOCOL"))?;
    json.extend_from_slice(b",\"status\":");
    match *status {
        0 => json.extend_from_slice(b"null"),
        status => push_number(&mut json, status.into()),
    }
    json.extend_from_slice(b",\"bytes\":");
    push_number(&mut json, *body_bytes);
    json.extend_from_slice(b",\"duration\":");
    push_number(&mut json, elapsed.as_secs());
    json.push(b'.');
    push_padded(&mut json, elapsed.subsec_micros().into(), 6);
    add(&mut json, b",\"referer\":", environ, intern!(py, "HTTP_REFERER"))?;
    add(&mut json, b",\"user_agent\":", environ, intern!(py, "HTTP_USER_AGENT"))?;
    add(&mut json, b",\"request_id\":", environ, intern!(py, "rmeinheld.request_id"))?;
    add(&mut json, b",\"trace_id\":", environ, intern!(py, "rmeinheld.trace_id"))?;
    add(&mut json, b",\"span_id\":", environ, intern!(py, "rmeinheld.span_id"))?;
    json.push(b'}');
    Ok(json)
}

/// Adds a member whose value is in the environ; null if it is missing or empty.
fn add(json: &mut Vec<u8>, name: &[u8], environ: &Bound<'_, PyDict>, key: &Bound<'_, PyString>) -> PyResult<()> {
    json.extend_from_slice(name);
    let added = with_value(environ, key, |value| {
        if !value.is_empty() {
            push_string(json, value);
        }
        !value.is_empty()
    })?;
    if added != Some(true) {
        json.extend_from_slice(b"null");
    }
    Ok(())
}
