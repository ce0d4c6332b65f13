//! Messages and pings of the application, from its objects to the session.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::WebSocket;
use super::errors::{WebSocketError, closed_error};
use crate::crew::seat::Direction;
use crate::interp::{CoroutineExit, RequestTimeout, deadline_after};
use crate::websocket::close_codes::{INTERNAL_ERROR, NORMAL};
use crate::websocket::closing::Close;
use crate::websocket::pings::Latency;
use crate::websocket::protocol::{CONTROL_BYTES, MessageKind};

impl WebSocket {
    /// # Parks
    pub(super) fn send_message(
        &self,
        py: Python<'_>,
        kind: MessageKind,
        payload: &[u8],
        timeout: Option<f64>,
    ) -> PyResult<()> {
        let deadline = timeout.map(|seconds| deadline_after("timeout", seconds)).transpose()?;
        self.session(py)?.send(py, kind, payload, deadline)?.map_err(|close| closed_error(py, &close))?;
        self.seat.count_message(Direction::Sent);
        Ok(())
    }

    /// # Parks
    pub(super) fn receive_message<'py>(
        &self,
        py: Python<'py>,
        timeout: Option<f64>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let deadline = timeout.map(|seconds| deadline_after("timeout", seconds)).transpose()?;
        let message = self.session(py)?.receive(py, deadline)?;
        if message.is_some() {
            self.seat.count_message(Direction::Received);
        }
        Ok(message)
    }

    /// Sends a ping. With `waits`, returns the seconds until its answer.
    ///
    /// # Parks
    pub(super) fn ping_now(
        &self,
        py: Python<'_>,
        payload: Option<&[u8]>,
        waits: bool,
        timeout: Option<f64>,
    ) -> PyResult<Option<f64>> {
        if let Some(length) = payload.map(<[u8]>::len).filter(|&length| length > CONTROL_BYTES) {
            let message = format!("payload must be at most {CONTROL_BYTES} bytes, not {length} (RFC 6455 5.5)");
            return Err(PyValueError::new_err(message));
        }
        let timeout = timeout.or_else(|| self.settings.ping_timeout.map(|timeout| timeout.as_secs_f64()));
        let deadline = timeout.map(|seconds| deadline_after("timeout", seconds)).transpose()?;
        let closed = |close: Close| closed_error(py, &close);
        let (session, latency) = (self.session(py)?, Latency::default());
        if !session.ping(py, payload, &latency, deadline)?.map_err(closed)? {
            let payload = payload.unwrap_or_default().escape_ascii();
            return Err(PyValueError::new_err(format!(
                "the answer to a ping with the payload b'{payload}' is waited for"
            )));
        }
        if !waits {
            return Ok(None);
        }
        let latency = session.wait_for_pong(py, &latency, deadline)?.map_err(closed)?;
        Ok(Some(latency.as_secs_f64()))
    }

    /// Ends a `with` block. An end by the server, of which the exception is the sign, keeps the server's own code.
    ///
    /// # Parks
    pub(super) fn leave(&self, py: Python<'_>, error: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let code = match error {
            None => NORMAL,
            Some(error) if error.is_instance_of::<CoroutineExit>() || error.is_instance_of::<RequestTimeout>() => {
                return Ok(());
            }
            // The client is gone, or has closed.
            Some(error) if error.is_instance_of::<WebSocketError>() => NORMAL,
            Some(_) => INTERNAL_ERROR,
        };
        self.session(py)?.close_at_the_end(py, code)
    }

    /// The ConnectionClosed of a connection that is closed.
    pub(super) fn closed_error(&self, py: Python<'_>) -> PyErr {
        let close = self.close_of(py).unwrap_or_else(|| Close { code: NORMAL, reason: String::new() });
        closed_error(py, &close)
    }
}
