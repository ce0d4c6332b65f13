//! Status and fields as the application gives them: checked, and put into the head.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyIterator, PyList, PyString, PyTuple};

use super::super::text;
use super::{Answer, HEAD_BYTES};
use crate::http::response::{FieldKind, check_field, parse_status, write_field, write_status_line};

impl Answer {
    /// Takes over status and fields, or says which rule they break.
    pub(super) fn set(&mut self, status: &Bound<'_, PyAny>, fields: &Bound<'_, PyAny>) -> PyResult<()> {
        let status =
            status.cast::<PyString>().map_err(|_| text::wrong_type("the status must be a str", status, "PEP 3333"))?;
        let status = text::latin1_bytes(status, "the status")?;
        let code = parse_status(&status).map_err(|error| PyValueError::new_err(error.to_string()))?;
        // A client waits for the final response behind such a one, and would take that of its next request for it.
        if matches!(code, 100 | 102..=199) {
            return Err(PyValueError::new_err("the status is that of an interim response (PEP 3333, RFC 9110 15.2)"));
        }
        self.status = code;
        self.head.clear();
        self.head.reserve(HEAD_BYTES);
        (self.has_server, self.has_date, self.declared_length) = (false, false, None);
        write_status_line(&mut self.head, &status);
        if let Ok(list) = fields.cast::<PyList>() {
            for field in list {
                self.add_pair(&field)?;
            }
        } else {
            // PEP 3333 asks for a list; Gunicorn takes whatever can be iterated, and applications count on that.
            for field in iterate(fields, "the response headers must be a list of pairs")? {
                self.add_pair(&field?)?;
            }
        }
        self.started = true;
        Ok(())
    }

    fn add_pair(&mut self, field: &Bound<'_, PyAny>) -> PyResult<()> {
        const RULE: &str = "each response header must be a pair (name, value)";
        if let Ok(pair) = field.cast::<PyTuple>()
            && pair.len() == 2
        {
            return self.add_field(&pair.get_item(0)?, &pair.get_item(1)?);
        }
        let mut items = iterate(field, RULE)?;
        match (items.next().transpose()?, items.next().transpose()?, items.next().transpose()?) {
            (Some(name), Some(value), None) => self.add_field(&name, &value),
            _ => Err(text::wrong_type(RULE, field, "PEP 3333")),
        }
    }

    fn add_field(&mut self, name: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let name = name
            .cast::<PyString>()
            .map_err(|_| text::wrong_type("a response header's name must be a str", name, "PEP 3333"))?;
        let name = text::latin1_bytes(name, "a response header's name")?;
        let value = value.cast::<PyString>().map_err(|_| {
            let what = format!("the value of response header {:?} must be a str", String::from_utf8_lossy(&name));
            text::wrong_type(&what, value, "PEP 3333")
        })?;
        let value = text::latin1_bytes(value, "a response header's value")?;
        let kind = check_field(&name, &value).map_err(|error| {
            PyValueError::new_err(format!("response header {:?}: {error}", String::from_utf8_lossy(&name)))
        })?;
        match kind {
            FieldKind::ContentLength(length) => {
                if self.declared_length.is_some_and(|other| other != length) {
                    return Err(PyValueError::new_err(
                        "two different Content-Length response headers (PEP 3333, RFC 9110 8.6)",
                    ));
                }
                self.declared_length = Some(length);
                return Ok(());
            }
            // PEP 3333, "Other HTTP Features": hop-by-hop fields are the server's. The wish to close is honoured.
            FieldKind::Connection => {
                self.wants_close |=
                    value.split(|&byte| byte == b',').any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"));
                return Ok(());
            }
            FieldKind::Upgrade if self.status == 101 => {}
            // RFC 9110 15.5.22: a 426 names what the client should ask for.
            FieldKind::Upgrade if self.status == 426 => write_field(&mut self.head, b"Connection", b"upgrade"),
            FieldKind::TransferEncoding | FieldKind::HopByHop | FieldKind::Upgrade => return Ok(()),
            FieldKind::Date => self.has_date = true,
            FieldKind::Server => self.has_server = true,
            FieldKind::Other => self.ends_at_stop |= is_event_stream(&name, &value),
        }
        write_field(&mut self.head, &name, &value);
        Ok(())
    }
}

/// Whether a field says that the body is a stream of server-sent events (HTML, "Server-sent events"): it goes on until the
/// server ends it, and its client comes back by itself.
fn is_event_stream(name: &[u8], value: &[u8]) -> bool {
    const TYPE: &[u8] = b"text/event-stream";
    value.get(..TYPE.len()).is_some_and(|start| start.eq_ignore_ascii_case(TYPE))
        && name.eq_ignore_ascii_case(b"content-type")
}

/// The items of an iterable other than a string: of a string, each character would be taken for an item.
fn iterate<'py>(value: &Bound<'py, PyAny>, rule: &str) -> PyResult<Bound<'py, PyIterator>> {
    if value.is_instance_of::<PyString>() || value.is_instance_of::<PyBytes>() || !value.hasattr("__iter__")? {
        return Err(text::wrong_type(rule, value, "PEP 3333"));
    }
    value.try_iter()
}
