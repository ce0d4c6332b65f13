//! `environ["wsgi.websocket"]`: a WebSocket as the application sees it.

mod accept;
mod errors;
mod json;
mod payloads;
mod talking;

use std::sync::{Arc, Mutex, OnceLock};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use super::session::WebSocketSession;
use super::settings::WebSocketSettings;
use super::taken_over;
use crate::crew::seat::{Direction, Seat};
use crate::interp::monotonic;
use crate::sync::lock;
use crate::websocket::close_codes::{self, NORMAL};
use crate::websocket::closing::Close;
use crate::websocket::handshake::Handshake;
use crate::websocket::protocol::{MessageKind, REASON_BYTES};
use crate::wsgi::start_response::StartResponse;
pub use errors::{ConnectionClosed, WebSocketError};
pub use payloads::bytes_of;
use payloads::utf8_or_bytes;

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
    /// `max_message_size` is the longest message from the client in bytes. `ping_interval` is the longest silence in
    /// seconds before the client is pinged (0: never). `compression` is a word of `websocket_compression` (off, on,
    /// takeover), or True for on, or False.
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

    /// Accept the connection, unless it was accepted before. `with environ["wsgi.websocket"] as websocket:` also closes
    /// it at the end of the block: with 1000, or with 1011 after an exception, which goes on.
    ///
    /// Raises RuntimeError if the request was answered before.
    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        slf.get().session(slf.py())?;
        Ok(slf)
    }

    #[pyo3(signature = (exc_type, exc_value, traceback, /))]
    fn __exit__(
        &self,
        py: Python<'_>,
        exc_type: &Bound<'_, PyAny>,
        exc_value: Option<&Bound<'_, PyAny>>,
        traceback: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let (_, _) = (exc_type, traceback);
        self.leave(py, exc_value)?;
        Ok(false)
    }

    /// Send `message`, a str as text, or bytes or another buffer as binary. Parks while too much waits for a slow
    /// client.
    ///
    /// `binary` decides otherwise: True sends a str as binary, in UTF-8, and False sends bytes as text. `timeout` is the
    /// longest wait for room in seconds; None (the default) waits for ever, 0 does not wait. Once there is room, the
    /// whole message is queued, and `send` returns without a further wait.
    ///
    /// A client that takes nothing for `send_timeout`, or less than `min_send_rate` in the long run, is disconnected
    /// (1006), whatever the timeout.
    ///
    /// Raises TimeoutError without room in time: then nothing of the message was or will be sent, and the connection
    /// is as it was. Raises ConnectionClosed once the WebSocket is closed, TypeError for other types, and ValueError for
    /// text that is not UTF-8 and for a negative timeout.
    #[pyo3(signature = (message, binary = None, *, timeout = None))]
    fn send(&self, message: &Bound<'_, PyAny>, binary: Option<bool>, timeout: Option<f64>) -> PyResult<()> {
        let py = message.py();
        if let Ok(text) = message.cast::<PyString>() {
            let kind = if binary == Some(true) { MessageKind::Binary } else { MessageKind::Text };
            return self.send_message(py, kind, text.to_str()?.as_bytes(), timeout);
        }
        let data = bytes_of(message)?;
        if binary != Some(false) {
            return self.send_message(py, MessageKind::Binary, data.as_bytes(), timeout);
        }
        let text = str::from_utf8(data.as_bytes())
            .map_err(|error| PyValueError::new_err(format!("a text message must be UTF-8 (RFC 6455 8.1): {error}")))?;
        self.send_message(py, MessageKind::Text, text.as_bytes(), timeout)
    }

    /// Send `message`, a str, as text; see `send`.
    #[pyo3(signature = (message, *, timeout = None))]
    fn send_text(&self, message: &Bound<'_, PyString>, timeout: Option<f64>) -> PyResult<()> {
        let py = message.py();
        self.send_message(py, MessageKind::Text, message.to_str()?.as_bytes(), timeout)
    }

    /// Send `message`, bytes or another buffer, as binary; see `send`.
    #[pyo3(signature = (message, *, timeout = None))]
    fn send_binary(&self, message: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<()> {
        let py = message.py();
        let data = bytes_of(message)?;
        self.send_message(py, MessageKind::Binary, data.as_bytes(), timeout)
    }

    /// Send `value` as JSON in a text message (RFC 8259); see `send`.
    ///
    /// Raises what `json.dumps` raises: TypeError for a value that is not JSON, and ValueError for NaN and infinity,
    /// which browsers do not read. Nothing is sent then.
    #[pyo3(signature = (value, *, timeout = None))]
    fn send_json(&self, value: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<()> {
        let text = json::dumps(value)?;
        self.send_message(value.py(), MessageKind::Text, text.to_str()?.as_bytes(), timeout)
    }

    /// Return the value of the next message, which is JSON in text. Parks as `receive` does, which has `timeout`.
    ///
    /// Raises ValueError, with the beginning of the message, if it is not JSON or binary; the connection stays open, and
    /// the next call takes the next message. Raises ConnectionClosed once the connection is closed, since None is a
    /// value of JSON, and TimeoutError without a message in time.
    #[pyo3(signature = (timeout = None))]
    fn receive_json<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        match self.receive_message(py, timeout)? {
            Some(message) => json::loads(&message),
            None => Err(self.closed_error(py)),
        }
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
        self.receive_message(py, timeout)
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

    /// Send a ping, wait for the client's answer, and return the time between them in seconds (RFC 6455 5.5.2).
    ///
    /// `payload` is a str or at most 125 bytes, by which the answer is recognised; None (the default) takes one that no
    /// other ping has. `timeout` is the longest wait in seconds; None (the default) is `websocket_ping_timeout`, and 0
    /// does not wait. With `wait=False` the ping is sent without a wait for the answer, and None is returned; `latency`
    /// still notes it.
    ///
    /// The answer comes behind what the client has sent before. Where the application leaves over 64 KiB unread, the
    /// server does not read the answer. Browsers answer pings by themselves.
    ///
    /// Raises TimeoutError without an answer in time; the connection stays open. Raises ConnectionClosed once the
    /// WebSocket is closed, also during the wait. Raises ValueError for a longer payload, and for one whose answer is
    /// waited for already.
    #[pyo3(signature = (payload = None, *, wait = true, timeout = None))]
    fn ping(
        &self,
        py: Python<'_>,
        payload: Option<&Bound<'_, PyAny>>,
        wait: bool,
        timeout: Option<f64>,
    ) -> PyResult<Option<f64>> {
        let data = payload.map(utf8_or_bytes).transpose()?;
        self.ping_now(py, data.as_ref().map(|data| data.as_bytes()), wait, timeout)
    }

    /// The time in seconds that the last answered ping took, or None before the first. Keep-alive pings count.
    #[getter]
    fn latency(&self, py: Python<'_>) -> Option<f64> {
        self.session.get().and_then(|session| session.latency(py)).map(|latency| latency.as_secs_f64())
    }

    /// When the client's last frame, or part of one, arrived, on the clock of `time.monotonic()`.
    ///
    /// Pongs count. At first it is the time of the accept; before that it is None. `time.monotonic() -
    /// websocket.last_received` is the client's silence in seconds.
    #[getter]
    fn last_received(&self, py: Python<'_>) -> Option<f64> {
        self.session.get().map(|session| monotonic(session.last_heard(py)))
    }

    /// Close the connection, and wake the coroutine that receives. Does nothing once it is closed.
    ///
    /// `code` is a code of RFC 6455 7.4 (1000 by default). `reason` is a str or bytes, at most 123 bytes of UTF-8; None
    /// is an empty one. `close` does not wait for the client's answer, for which the client has
    /// `websocket_close_timeout`.
    ///
    /// Raises ValueError for a code that may not be sent, and for a reason that is longer or not UTF-8.
    #[pyo3(signature = (code = i64::from(NORMAL), reason = None), text_signature = "($self, code=1000, reason='')")]
    fn close(&self, py: Python<'_>, code: i64, reason: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let number = u16::try_from(code).ok().filter(|&code| close_codes::may_be_sent(code));
        let number = number.ok_or_else(|| {
            PyValueError::new_err(format!("code must be one that may be sent (RFC 6455 7.4), not {code}"))
        })?;
        let reason = reason.map(utf8_or_bytes).transpose()?;
        let reason = reason.as_ref().map_or(&b""[..], |reason| reason.as_bytes());
        if reason.len() > REASON_BYTES {
            let message = format!("reason must be at most {REASON_BYTES} bytes of UTF-8, not {}", reason.len());
            return Err(PyValueError::new_err(message));
        }
        let reason = str::from_utf8(reason)
            .map_err(|error| PyValueError::new_err(format!("reason must be UTF-8 (RFC 6455 5.5.1): {error}")))?;
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
    // Not part of its caller: frames that coroutines wait in should be small.
    #[inline(never)]
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
