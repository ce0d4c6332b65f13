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
//! | `holding`     | items that share a write                                        |
//! | `known_fields`| headers that applications pass again and again                  |
//! | `reuse`       | objects that serve one request after the other                  |
//! | `takeover`    | connections that speak another protocol from now on             |

mod answer;
mod early_hints;
mod ending;
mod holding;
mod known_fields;
mod reuse;
mod sender;
mod takeover;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use pyo3::exceptions::{PyAssertionError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::stop_flag::StopFlag;
use super::text;
use crate::event_loop::streams;
use crate::http::exchange::Exchange;
use crate::http::response::ResponseBody;
use crate::interp;
use crate::net::{Pace, Stream, held};
use crate::sync::lock;

use answer::ResponseHead;
pub use answer::{Answer, Terms};
pub use early_hints::EarlyHints;
use known_fields::KnownFields;
pub use reuse::{ResponseObjects, ResponsePool};

/// The settings of all responses of a server.
pub struct ResponseSettings {
    /// How long a client may take without taking anything.
    pub send_timeout: Option<Duration>,
    /// Bytes a second that a client must take in the long run; 0 for no such rule.
    pub min_send_rate: u32,
    /// Once it is set, responses announce the end of their connections.
    pub stop: StopFlag,
    /// The time of the first byte of each response is noted.
    pub notes_first_byte: bool,
    known_fields: Mutex<KnownFields>,
}

impl ResponseSettings {
    /// Settings with these values.
    pub fn new(
        send_timeout: Option<Duration>,
        min_send_rate: u32,
        stop: StopFlag,
        notes_first_byte: bool,
    ) -> ResponseSettings {
        ResponseSettings { send_timeout, min_send_rate, stop, notes_first_byte, known_fields: Mutex::default() }
    }
}

/// `start_response(status, response_headers, exc_info=None)` of one request (PEP 3333). It returns `write`.
///
/// Raises TypeError or ValueError naming the broken rule, AssertionError for a second call without `exc_info`, and the
/// exception of `exc_info` once the head has been sent.
#[pyclass(frozen, module = "rmeinheld")]
pub struct StartResponse {
    settings: Arc<ResponseSettings>,
    pace: Pace,
    answer: Mutex<Answer>,
    /// The callable that `start_response` returns.
    write: Mutex<Option<Py<Write>>>,
}

/// The callable that `start_response` returns: `write(data)` sends bytes at once (PEP 3333, "The write() Callable").
/// Prefer returning an iterable.
///
/// Raises TypeError for anything but bytes, and ConnectionError when the client has gone.
#[pyclass(frozen, module = "rmeinheld")]
pub struct Write {
    response: Py<StartResponse>,
}

impl StartResponse {
    /// A response that belongs to no request yet.
    fn new(settings: Arc<ResponseSettings>) -> StartResponse {
        StartResponse {
            pace: Pace::new(settings.send_timeout, settings.min_send_rate),
            settings,
            answer: Mutex::default(),
            write: Mutex::default(),
        }
    }

    /// Begins the response to one request on `stream`.
    fn begin(&self, terms: Terms, stream: Arc<Stream>, exchange: Exchange, buffer: Vec<u8>) {
        self.pace.refresh();
        self.answer().begin(terms, stream, exchange, buffer);
    }

    fn set_write(&self, write: Option<Py<Write>>) {
        let previous = std::mem::replace(&mut *lock(&self.write), write);
        drop(previous);
    }

    /// Does nothing but this response refer to its `write`?
    fn is_write_free(&self, py: Python<'_>) -> bool {
        lock(&self.write).as_ref().is_some_and(|write| interp::reference_count(write.bind(py)) == 1)
    }

    /// Locks the response as it stands. The lock must not be held across a park or a call of Python code.
    pub fn answer(&self) -> MutexGuard<'_, Answer> {
        lock(&self.answer)
    }

    /// Has the head gone out, so that only the connection's end can tell of an error?
    pub fn is_head_sent(&self) -> bool {
        self.answer().exchange.framing().is_some()
    }

    /// Ends the request: `write` raises from now on. Returns what `look` finds in the response.
    pub fn end<R>(&self, look: impl FnOnce(&mut Answer) -> R) -> R {
        let mut answer = self.answer();
        if let Some(stream) = answer.stream.as_ref().filter(|stream| held::is_held(stream)) {
            // For a client that is gone.
            held::take(stream).into_iter().for_each(held::give_back);
        }
        let found = look(&mut answer);
        let remains = answer.end();
        drop(answer);
        // Outside of the lock, since this may run Python code.
        drop(remains);
        found
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
    ) -> PyResult<Py<Write>> {
        let py = slf.py();
        let this = slf.get();
        if let Some(buffer) = this.check_call(status, exc_info)? {
            // Reading the arguments may run Python code that calls back, so the lock is free meanwhile.
            let head = ResponseHead::read(status, response_headers, buffer, &this.settings.known_fields);
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
        this.write(py)
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

#[pymethods]
impl Write {
    /// # Parks
    #[pyo3(signature = (data, /))]
    fn __call__(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let data = data.cast::<PyBytes>().map_err(|_| text::wrong_type("write() takes bytes", data, "PEP 3333"))?;
        let response = self.response.get();
        response.send(data, None)?;
        response.end_own_stream(data.py())?;
        interp::give_way(data.py())
    }
}

impl Write {
    fn new(response: &Bound<'_, StartResponse>) -> Write {
        Write { response: response.clone().unbind() }
    }
}

impl StartResponse {
    /// The callable that `start_response` returns.
    ///
    /// # Errors
    /// ValueError after the request has ended.
    fn write(&self, py: Python<'_>) -> PyResult<Py<Write>> {
        let write = lock(&self.write).as_ref().map(|write| write.clone_ref(py));
        write.ok_or_else(|| PyValueError::new_err("start_response was called after its request had ended"))
    }

    /// Checks that the application may call `start_response` now. Returns an empty buffer for the head; `None` after an
    /// upgrade, where the call is noted and has no effect.
    fn check_call(&self, status: &Bound<'_, PyAny>, exc_info: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Vec<u8>>> {
        let mut answer = self.answer();
        if answer.stream.is_none() {
            return Err(PyValueError::new_err("start_response was called after its request had ended"));
        }
        if answer.exchange.is_upgraded() {
            drop(answer);
            // Frameworks answer the result or exception of their handler; the client does not see it.
            let has_failed = status.to_string().starts_with('5');
            self.answer().has_failed |= has_failed;
            return Ok(None);
        }
        match exc_info {
            Some(exc_info) if answer.exchange.framing().is_some() => {
                drop(answer);
                Err(PyErr::from_value(exc_info.get_item(1)?))
            }
            None if answer.head.status != 0 => {
                Err(PyAssertionError::new_err("start_response was called a second time without exc_info (PEP 3333)"))
            }
            None => Ok(Some(std::mem::take(&mut answer.head.bytes))),
            Some(_) => Ok(Some(Vec::new())),
        }
    }
}
