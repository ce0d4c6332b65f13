//! How a WebSocket is accepted: options, response headers, and the session that begins.

use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::WebSocket;
use crate::http::response::{FieldKind, check_field, write_field};
use crate::websocket::extension::Compression;
use crate::wsgi::upgrade::session::WebSocketSession;
use crate::wsgi::upgrade::settings::AcceptOptions;
use crate::wsgi::{SERVER_SOFTWARE, clock, text};

/// The largest limit on messages in bytes, as for `websocket_max_message_size`.
const LARGEST_LIMIT: i64 = (1 << 31) - 1;

/// The longest interval between pings: a year, as for `websocket_ping_interval`.
const LONGEST_INTERVAL: Duration = Duration::from_secs(365 * 86_400);

impl WebSocket {
    /// The session, which begins now if the WebSocket was not accepted before.
    ///
    /// # Errors
    /// RuntimeError if the request was answered before.
    #[inline]
    pub(in crate::wsgi::upgrade) fn session(&self, py: Python<'_>) -> PyResult<&Arc<WebSocketSession>> {
        match self.session.get() {
            Some(session) => Ok(session),
            None => self.accept_as_ever(py),
        }
    }

    #[cold]
    fn accept_as_ever(&self, py: Python<'_>) -> PyResult<&Arc<WebSocketSession>> {
        self.accept_now(py, None, None, AcceptOptions::of(&self.settings))
    }

    /// The options of this connection; `None` is what the server's settings say.
    ///
    /// # Errors
    /// ValueError naming the argument, the value and the limit.
    pub(super) fn options(
        &self,
        max_message_size: Option<i64>,
        ping_interval: Option<f64>,
        compression: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<AcceptOptions> {
        let mut options = AcceptOptions::of(&self.settings);
        if let Some(compression) = compression {
            options.compression = compression_of(compression)?;
        }
        if let Some(bytes) = max_message_size {
            let fitting = usize::try_from(bytes).ok().filter(|_| (1..=LARGEST_LIMIT).contains(&bytes));
            options.message_bytes = fitting.ok_or_else(|| {
                PyValueError::new_err(format!("max_message_size must be from 1 to {LARGEST_LIMIT} bytes, not {bytes}"))
            })?;
        }
        if let Some(seconds) = ping_interval {
            let interval = Duration::try_from_secs_f64(seconds).ok().filter(|interval| *interval <= LONGEST_INTERVAL);
            let interval = interval.ok_or_else(|| {
                let most = LONGEST_INTERVAL.as_secs();
                PyValueError::new_err(format!("ping_interval must be from 0 to {most} seconds, not {seconds}"))
            })?;
            options.ping_interval = Some(interval).filter(|interval| !interval.is_zero());
        }
        Ok(options)
    }

    /// Accepts the request.
    ///
    /// # Errors
    /// RuntimeError if the request was accepted or answered before; TypeError and ValueError for wrong arguments.
    pub(super) fn accept_now(
        &self,
        py: Python<'_>,
        subprotocol: Option<String>,
        headers: Option<&Bound<'_, PyAny>>,
        options: AcceptOptions,
    ) -> PyResult<&Arc<WebSocketSession>> {
        if let Some(chosen) = subprotocol.as_ref().filter(|chosen| !self.handshake.subprotocols.contains(chosen)) {
            let offered = self.handshake.subprotocols.join(", ");
            let message = format!("subprotocol must be one that the client offers ({offered}), not {chosen:?}");
            return Err(PyValueError::new_err(message));
        }
        let mut head = Vec::with_capacity(256);
        let agreement = self.handshake.deflate.and_then(|offer| offer.agree(options.compression));
        self.handshake.write_answer(subprotocol.as_deref(), agreement.as_ref(), &mut head);
        write_field(&mut head, b"Server", SERVER_SOFTWARE.as_bytes());
        write_field(&mut head, b"Date", &clock::http_date());
        if let Some(headers) = headers {
            add_headers(headers, &mut head)?;
        }
        head.extend_from_slice(b"\r\n");
        let stream = self.response.get().upgrade(head.clone())?;
        let (settings, stop) = (Arc::clone(&self.settings), self.response.get().stop().clone());
        let session =
            Arc::new(WebSocketSession::new(stream, settings, options, agreement, stop, head, self.take_early()));
        if let Some(subprotocol) = subprotocol {
            let _ = self.subprotocol.set(subprotocol);
        }
        let session = self.session.get_or_init(|| session);
        self.seat.count_websocket();
        session.start(py)?;
        if self.response.get().is_last() {
            // A stop notifies the sessions that exist at that time; this one came later.
            session.begin_stop(py)?;
        }
        Ok(session)
    }
}

/// The compression of an argument: True, False or a word of `websocket_compression`.
///
/// # Errors
/// TypeError for other types, ValueError for other words.
fn compression_of(value: &Bound<'_, PyAny>) -> PyResult<Compression> {
    let expected = "compression must be True, False or one of off, on, takeover, not";
    if let Ok(is_on) = value.extract::<bool>() {
        return Ok(if is_on { Compression::On } else { Compression::Off });
    }
    match value.cast::<PyString>() {
        Ok(word) => {
            let word = word.to_str()?;
            Compression::of(word).ok_or_else(|| PyValueError::new_err(format!("{expected} {word:?}")))
        }
        Err(_) => Err(PyTypeError::new_err(format!("{expected} {}", value.repr()?))),
    }
}

fn add_headers(headers: &Bound<'_, PyAny>, head: &mut Vec<u8>) -> PyResult<()> {
    let wrong = |what: &str| PyTypeError::new_err(format!("headers must be pairs of strings, not {what}"));
    for pair in headers.try_iter()? {
        let pair = pair?;
        let (name, value) = pair
            .extract::<(Bound<'_, PyString>, Bound<'_, PyString>)>()
            .map_err(|_| wrong(&pair.get_type().to_string()))?;
        let name = text::latin1_bytes(&name, "a header's name")?;
        let value = text::latin1_bytes(&value, "a header's value")?;
        let readable = String::from_utf8_lossy(name);
        let kind =
            check_field(name, value).map_err(|error| PyValueError::new_err(format!("header {readable:?}: {error}")))?;
        let is_handshakes = name.get(..14).is_some_and(|start| start.eq_ignore_ascii_case(b"sec-websocket-"));
        if is_handshakes || !matches!(kind, FieldKind::Other) {
            let message = format!("header {readable:?} belongs to the handshake (RFC 6455 4.2.2); see `subprotocol`");
            return Err(PyValueError::new_err(message));
        }
        write_field(head, name, value);
    }
    Ok(())
}
