//! `environ["wsgi.websocket"]`: a WebSocket as the application sees it.

mod accept;
mod errors;

use std::sync::{Arc, Mutex, OnceLock};

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};

use super::session::WebSocketSession;
use super::settings::WebSocketSettings;
use super::taken_over;
use crate::crew::seat::{Direction, Seat};
use crate::interp::deadline_after;
use crate::sync::lock;
use crate::websocket::close_codes::{self, NORMAL};
use crate::websocket::closing::Close;
use crate::websocket::handshake::Handshake;
use crate::websocket::protocol::{CONTROL_BYTES, Message, MessageKind, REASON_BYTES};
use crate::wsgi::start_response::StartResponse;
use errors::closed_error;
pub use errors::{ConnectionClosed, WebSocketError};

/// The WebSocket of a request: `environ["wsgi.websocket"]` of every valid handshake (RFC 6455, version 13).
///
/// The first call of a method accepts it; until then the application may answer the request in the ordinary way. Any
/// number of coroutines and threads may send, and messages never mix; one receives. It is closed when the application
/// returns, and with 1011 if the application raises.
#[pyclass(frozen, module = "rmeinheld.websocket", weakref)]
pub struct WebSocket {
    handshake: Handshake,
    settings: Arc<WebSocketSettings>,
    /// Counts the WebSocket while it is open.
    seat: Arc<Seat>,
    response: Py<StartResponse>,
    session: OnceLock<Arc<WebSocketSession>>,
    early: Mutex<Vec<u8>>,
    environ: Mutex<Option<Py<PyDict>>>,
    subprotocol: OnceLock<String>,
    /// The path of the request, PATH_INFO.
    #[pyo3(get)]
    path: Option<Py<PyAny>>,
    /// The Origin that a browser sent, or None (RFC 6455 10.2).
    #[pyo3(get)]
    origin: Option<Py<PyAny>>,
}

#[pymethods]
impl WebSocket {
    /// Accept the connection. Any other use accepts it, too, without a subprotocol.
    ///
    /// `subprotocol` is one that the client offers; None (the default) chooses none. `headers` are more response
    /// headers, pairs of strings; None (the default) adds none.
    ///
    /// The other arguments are for this connection alone; None (the default) takes the server's setting.
    /// `max_message_size` is the longest message from the client in bytes, `ping_interval` the silence in seconds after
    /// which the client is pinged (0: never), `compression` a word of `websocket_compression` (off, on, takeover), or
    /// True for on, or False.
    ///
    /// Raises RuntimeError if the request was accepted or answered before, and TypeError for anything but pairs of
    /// strings. Raises ValueError for a subprotocol that the client does not offer, for headers of the handshake
    /// itself (RFC 6455 4.2.2), and for values out of range.
    #[pyo3(signature = (
        subprotocol = None, headers = None, *, max_message_size = None, ping_interval = None, compression = None
    ))]
    fn accept(
        &self,
        py: Python<'_>,
        subprotocol: Option<String>,
        headers: Option<&Bound<'_, PyAny>>,
        max_message_size: Option<i64>,
        ping_interval: Option<f64>,
        compression: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let options = self.options(max_message_size, ping_interval, compression)?;
        self.accept_now(py, subprotocol, headers, options).map(drop)
    }

    /// Send `message`, a str as text, or bytes or another buffer as binary. Parks while too much waits for a slow
    /// client.
    ///
    /// A client that then takes nothing for `send_timeout`, or less than `min_send_rate` in the long run, is
    /// disconnected (1006).
    ///
    /// Raises ConnectionClosed once the WebSocket is closed, and TypeError for other types.
    fn send(&self, message: &Bound<'_, PyAny>) -> PyResult<()> {
        if let Ok(text) = message.cast::<PyString>() { self.send_text(text) } else { self.send_binary(message) }
    }

    /// Send `message`, a str, as text; see `send`.
    fn send_text(&self, message: &Bound<'_, PyString>) -> PyResult<()> {
        let py = message.py();
        self.send_message(py, MessageKind::Text, message.to_str()?.as_bytes())
    }

    /// Send `message`, bytes or another buffer, as binary; see `send`.
    fn send_binary(&self, message: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = message.py();
        let data = bytes_of(message)?;
        self.send_message(py, MessageKind::Binary, data.as_bytes())
    }

    /// Return the next message, a str for text or bytes for binary, or None once the connection is closed.
    ///
    /// Parks until a message arrives. `timeout` is the longest wait in seconds; None (the default) waits for ever, 0
    /// only looks. When the server stops, messages that have arrived come first, and can be answered for
    /// `websocket_close_timeout`.
    ///
    /// Raises TimeoutError without a message in time, and ValueError for a negative timeout.
    #[pyo3(signature = (timeout = None))]
    fn receive<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let deadline = timeout.map(|seconds| deadline_after("timeout", seconds)).transpose()?;
        let Some(message) = self.session(py)?.receive(py, deadline)? else { return Ok(None) };
        self.seat.count_message(Direction::Received);
        Ok(Some(match message {
            Message::Text(text) => PyString::new(py, &text).into_any(),
            Message::Binary(data) => PyBytes::new(py, &data).into_any(),
        }))
    }

    /// The same as `receive()`, by Meinheld's name.
    fn wait<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.receive(py, None)
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.receive(py, None)
    }

    /// Send a ping with `payload`, at most 125 bytes; None (the default) sends none. The pong is not reported (RFC 6455
    /// 5.5.2).
    ///
    /// Raises ConnectionClosed once the WebSocket is closed, and ValueError for a longer payload.
    #[pyo3(signature = (payload = None))]
    fn ping(&self, py: Python<'_>, payload: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let data = payload.map(bytes_of).transpose()?;
        let data = data.as_ref().map_or(&b""[..], |data| data.as_bytes());
        if data.len() > CONTROL_BYTES {
            let message = format!("payload must be at most {CONTROL_BYTES} bytes, not {} (RFC 6455 5.5)", data.len());
            return Err(PyValueError::new_err(message));
        }
        self.session(py)?.ping(py, data)?.map_err(|close| closed_error(py, &close))
    }

    /// Close the connection, and wake the coroutine that receives. Does nothing once it is closed.
    ///
    /// `code` is a code of RFC 6455 7.4 (1000 by default), `reason` at most 123 bytes of UTF-8. `close` does not wait
    /// for the client's answer, for which the client has `websocket_close_timeout`.
    ///
    /// Raises ValueError for a code that may not be sent and for a longer reason.
    #[pyo3(signature = (code = i64::from(NORMAL), reason = ""), text_signature = "($self, code=1000, reason='')")]
    fn close(&self, py: Python<'_>, code: i64, reason: &str) -> PyResult<()> {
        let number = u16::try_from(code).ok().filter(|&code| close_codes::may_be_sent(code));
        let number = number.ok_or_else(|| {
            PyValueError::new_err(format!("code must be one that may be sent (RFC 6455 7.4), not {code}"))
        })?;
        if reason.len() > REASON_BYTES {
            let message = format!("reason must be at most {REASON_BYTES} bytes of UTF-8, not {}", reason.len());
            return Err(PyValueError::new_err(message));
        }
        self.session(py)?.close(py, number, reason)
    }

    /// Whether the connection is closed or closing, so that nothing can be sent.
    #[getter]
    fn closed(&self, py: Python<'_>) -> bool {
        self.close_of(py).is_some()
    }

    /// The same as `closed`, by Meinheld's name.
    #[getter]
    fn websocket_closed(&self, py: Python<'_>) -> bool {
        self.closed(py)
    }

    /// The code with which the connection was closed, by its client or by us, or None while it is open.
    ///
    /// 1005 means that the client gave no code, 1006 that the connection broke (RFC 6455 7.1.5).
    #[getter]
    fn close_code(&self, py: Python<'_>) -> Option<u16> {
        self.close_of(py).map(|close| close.code)
    }

    /// The reason given with the code, or a description of the failure; None while the connection is open.
    #[getter]
    fn close_reason(&self, py: Python<'_>) -> Option<String> {
        self.close_of(py).map(|close| close.reason)
    }

    /// Number of bytes that wait to be sent because the client is slow.
    ///
    /// From `websocket_max_queue_size` on, `send` waits, too. A sender to many clients looks here first.
    #[getter]
    fn buffered(&self, py: Python<'_>) -> usize {
        self.session.get().map_or(0, |session| session.buffered(py))
    }

    /// The accepted subprotocol, or None.
    #[getter]
    fn subprotocol(&self) -> Option<&str> {
        self.subprotocol.get().map(String::as_str)
    }

    /// The same as `subprotocol`, by Meinheld's name.
    #[getter]
    fn protocol(&self) -> Option<&str> {
        self.subprotocol()
    }

    /// The subprotocols that the client offers, in its order.
    #[getter]
    fn subprotocols<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.handshake.subprotocols)
    }

    /// The version of the protocol: 13.
    #[getter]
    fn version(&self) -> u16 {
        13
    }

    /// The environ of the request; None once the request has ended.
    #[getter]
    fn environ(&self, py: Python<'_>) -> Option<Py<PyDict>> {
        let environ = lock(&self.environ);
        environ.as_ref().map(|environ| environ.clone_ref(py))
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let state = match (self.session.get(), self.close_of(py)) {
            (_, Some(close)) => format!("closed with {}", close.code),
            (Some(_), None) => "open".to_owned(),
            (None, None) => "not accepted".to_owned(),
        };
        format!("<rmeinheld.websocket.WebSocket {state}>")
    }
}

impl WebSocket {
    /// The WebSocket of a request. `early` is what the client sent behind the head.
    ///
    /// # Errors
    /// MemoryError.
    pub fn new(
        handshake: Handshake,
        settings: Arc<WebSocketSettings>,
        seat: Arc<Seat>,
        environ: &Bound<'_, PyDict>,
        response: &Bound<'_, StartResponse>,
        early: Vec<u8>,
    ) -> PyResult<WebSocket> {
        let item = |key| Ok::<_, PyErr>(environ.get_item(key)?.map(Bound::unbind));
        Ok(WebSocket {
            handshake,
            settings,
            seat,
            response: response.clone().unbind(),
            session: OnceLock::new(),
            early: Mutex::new(early),
            subprotocol: OnceLock::new(),
            path: item("PATH_INFO")?,
            origin: item("HTTP_ORIGIN")?,
            environ: Mutex::new(Some(environ.clone().unbind())),
        })
    }

    /// Takes the bytes that came behind the head of the request, for the owner of the connection to parse.
    pub fn take_early(&self) -> Vec<u8> {
        std::mem::take(&mut *lock(&self.early))
    }

    /// Gives some of the early bytes back.
    pub fn put_early_back(&self, rest: &[u8]) {
        *lock(&self.early) = rest.to_vec();
    }

    /// Releases the environ at the end of the request. The environ refers to this object, and the garbage collector
    /// does not see this half of the circle, so both would stay for ever.
    pub fn forget_environ(&self) {
        let environ = lock(&self.environ).take();
        // Not under the lock: dropping the environ may run Python code.
        drop(environ);
    }

    /// Ends the request: closes with `code`, and waits for the end of the closing handshake. Returns the bytes sent.
    ///
    /// # Parks
    pub fn finish(&self, py: Python<'_>, code: u16) -> u64 {
        if let Some(session) = self.session.get() {
            session.finish(py, code);
            self.seat.count_websocket_over();
            return session.sent_bytes(py);
        }
        if let Some(stream) = self.response.get().stream() {
            taken_over::finish(&stream, self.response.get().pace());
        }
        0
    }

    /// # Parks
    fn send_message(&self, py: Python<'_>, kind: MessageKind, payload: &[u8]) -> PyResult<()> {
        self.session(py)?.send(py, kind, payload)?.map_err(|close| closed_error(py, &close))?;
        self.seat.count_message(Direction::Sent);
        Ok(())
    }

    fn close_of(&self, py: Python<'_>) -> Option<Close> {
        self.session.get().and_then(|session| session.close_of(py))
    }

    /// The session, if the WebSocket is accepted.
    pub(super) fn accepted_session(&self) -> Option<&Arc<WebSocketSession>> {
        self.session.get()
    }

    /// Counts messages that were sent.
    pub(super) fn count_sent(&self, messages: usize) {
        self.seat.count_messages(Direction::Sent, messages as u64);
    }
}

/// The bytes of `bytes` or another buffer.
///
/// # Errors
/// TypeError.
pub(super) fn bytes_of<'py>(data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
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
