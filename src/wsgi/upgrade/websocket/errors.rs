//! The exceptions of a WebSocket.

use pyo3::exceptions::PyConnectionError;
use pyo3::prelude::*;

use crate::websocket::closing::Close;

pyo3::create_exception!(
    rmeinheld.websocket,
    WebSocketError,
    PyConnectionError,
    "The base class of errors of a WebSocket."
);
pyo3::create_exception!(
    rmeinheld.websocket,
    ConnectionClosed,
    WebSocketError,
    "The WebSocket is closed.\n\n`code` and `reason` say why, as `close_code` and `close_reason` of the WebSocket do."
);

/// The ConnectionClosed for this close.
pub fn closed_error(py: Python<'_>, close: &Close) -> PyErr {
    let reason = if close.reason.is_empty() { String::new() } else { format!(": {}", close.reason) };
    let error = ConnectionClosed::new_err(format!("the WebSocket is closed ({}{reason})", close.code));
    let value = error.value(py);
    let noted = value.setattr("code", close.code).and_then(|()| value.setattr("reason", &close.reason));
    noted.map_or_else(|failure| failure, |()| error)
}
