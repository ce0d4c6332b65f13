//! `start_response`, the `write` callable that it returns, and the bytes of a response (PEP 3333).
//!
//! Each request has one object. It checks status and fields, keeps the head until the first byte of the body, and sends
//! both as the exchange permits. Its state is never locked while it waits for the client.
//!
//! | module        | contents                                                        |
//! |---------------|-----------------------------------------------------------------|
//! | `answer`      | the response as it stands: status, fields, exchange             |
//! | `sender`      | framing, sending, and the lock on sending                       |
//! | `early_hints` | interim responses                                               |
//! | `ending`      | the end with the server or its client                           |
//! | `takeover`    | connections that speak another protocol from now on             |

mod answer;
mod early_hints;
mod ending;
mod sender;
mod takeover;

use std::sync::{Arc, Mutex, MutexGuard};

use pyo3::exceptions::{PyAssertionError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::stop_flag::StopFlag;
use super::text;
use crate::event_loop::streams;
use crate::http::exchange::Exchange;
use crate::http::response::ResponseBody;
use crate::interp;
use crate::net::{Pace, Stream};
use crate::sync::lock;

use answer::ResponseHead;
pub use answer::{Answer, Terms};
pub use early_hints::EarlyHints;

/// `start_response(status, response_headers, exc_info=None)` of one request (PEP 3333). It returns `write`.
///
/// Raises TypeError or ValueError naming the broken rule, AssertionError for a second call without `exc_info`, and the
/// exception of `exc_info` once the head has been sent.
#[pyclass(frozen, module = "rmeinheld")]
pub struct StartResponse {
    terms: Terms,
    pace: Pace,
    stop: StopFlag,
    answer: Mutex<Answer>,
}

impl StartResponse {
    /// The response to one request on `stream`. Once `stop` is set, it announces the end of the connection.
    pub fn new(terms: Terms, stream: Arc<Stream>, exchange: Exchange, stop: StopFlag) -> StartResponse {
        StartResponse {
            pace: Pace::new(terms.send_timeout, terms.min_send_rate),
            terms,
            stop,
            answer: Mutex::new(Answer::new(stream, exchange)),
        }
    }

    /// Locks the response as it stands. The lock must not be held across a park or a call of Python code.
    pub fn answer(&self) -> MutexGuard<'_, Answer> {
        lock(&self.answer)
    }

    /// Has the head gone out, so that only the connection's end can tell of an error?
    pub fn is_head_sent(&self) -> bool {
        self.answer().exchange.framing().is_some()
    }

    /// Ends the request: `write` raises from now on. Returns the response's record.
    pub fn end(&self) -> Answer {
        std::mem::take(&mut *self.answer())
    }

    /// Does the body go out in chunks, each with its size before it?
    pub fn is_chunked(&self) -> bool {
        self.answer().exchange.framing() == Some(ResponseBody::Chunked)
    }

    /// Is the rest of the body dropped? See [`Exchange::is_body_over`].
    pub fn is_over(&self) -> bool {
        self.answer().exchange.is_body_over()
    }

    /// The patience with the client that takes the response.
    pub fn pace(&self) -> &Pace {
        &self.pace
    }

    /// Notes that the client is gone.
    fn lose_client(&self) {
        // Illegal only after the request has ended, when nothing depends on its exchange any more.
        let _ = self.answer().exchange.lose_client();
    }
}

#[pymethods]
impl StartResponse {
    #[pyo3(signature = (status, response_headers, exc_info = None, /))]
    fn __call__<'py>(
        slf: &Bound<'py, Self>,
        status: &Bound<'py, PyAny>,
        response_headers: &Bound<'py, PyAny>,
        exc_info: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let this = slf.get();
        if this.check_call(status, exc_info)? {
            // Reading the arguments may run Python code that calls back, so the lock is free meanwhile.
            let head = ResponseHead::read(status, response_headers);
            let mut answer = this.answer();
            match head {
                Ok(_) if answer.exchange.framing().is_some() => {
                    return Err(PyAssertionError::new_err(
                        "the response was sent while start_response read its arguments",
                    ));
                }
                Ok(head) => answer.set_head(head),
                Err(error) => {
                    answer.head.status = 0;
                    return Err(error);
                }
            }
            drop(answer);
            this.end_own_stream(py)?;
        }
        slf.getattr(pyo3::intern!(py, "write"))
    }

    /// Send `data`, bytes, at once (PEP 3333, "The write() Callable"). Prefer returning an iterable.
    ///
    /// Raises TypeError for anything but bytes, and ConnectionError when the client has gone.
    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let data = data.cast::<PyBytes>().map_err(|_| text::wrong_type("write() takes bytes", data, "PEP 3333"))?;
        self.send(data, None)?;
        self.end_own_stream(data.py())?;
        interp::give_way(data.py())
    }

    /// Return whether the client has gone away, as far as the loop knows without sending.
    fn client_has_gone(&self) -> bool {
        let mut answer = self.answer();
        if answer.stream.as_ref().is_some_and(|stream| streams::is_peer_closed(stream.source())) {
            let _ = answer.exchange.lose_client();
        }
        answer.exchange.is_client_gone()
    }
}

impl StartResponse {
    /// May the application call `start_response` now? False after an upgrade, where the call is noted and has no
    /// effect.
    fn check_call(&self, status: &Bound<'_, PyAny>, exc_info: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let answer = self.answer();
        if answer.stream.is_none() {
            return Err(PyValueError::new_err("start_response was called after its request had ended"));
        }
        if answer.exchange.is_upgraded() {
            drop(answer);
            // Frameworks answer the result or exception of their handler; the client does not see it.
            let has_failed = status.to_string().starts_with('5');
            self.answer().has_failed |= has_failed;
            return Ok(false);
        }
        match exc_info {
            Some(exc_info) if answer.exchange.framing().is_some() => {
                drop(answer);
                Err(PyErr::from_value(exc_info.get_item(1)?))
            }
            None if answer.head.status != 0 => {
                Err(PyAssertionError::new_err("start_response was called a second time without exc_info (PEP 3333)"))
            }
            _ => Ok(true),
        }
    }
}
