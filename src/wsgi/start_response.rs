//! `start_response`, the `write` callable that it returns, and the bytes of a response (PEP 3333).
//!
//! One object per request. It checks what the application says, keeps the head until the first byte of the body, frames
//! the body, and counts it against the Content-Length. Its state is never locked while it waits for the client.

mod early_hints;
mod ending;
mod fields;
mod takeover;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyAssertionError, PyBaseException, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::input::Input;
use super::{clock, text};
use crate::event_loop::streams;
use crate::http::Version;
use crate::http::response::{
    CHUNK_END, LAST_CHUNK, MethodKind, ResponseBody, ResponsePlan, error_body, plan, reason, write_chunk_head,
    write_common, write_field, write_status_line,
};
use crate::interp::{self, failure_error};
use crate::net::{Failure, Pace, Stream};
use crate::sync::lock;

pub use early_hints::EarlyHints;

/// Bodies up to this many bytes are copied behind the head, so that one buffer goes out; larger ones are gathered.
const COPIED_BYTES: usize = 16 * 1024;

/// Room for the head of an ordinary response and what this server adds to it, so that its buffer need not grow.
const HEAD_BYTES: usize = 512;

/// What of the request and the settings decides how it is answered.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The request's version.
    pub version: Version,
    /// Its method, as far as that decides how the answer is framed.
    pub method: MethodKind,
    /// The client would use the connection again, and so would the server.
    pub keep_alive: bool,
    /// How long the client may take without taking anything.
    pub send_timeout: Option<Duration>,
    /// Bytes a second that it must take in the long run; 0 for no such rule.
    pub min_send_rate: u32,
}

/// `start_response(status, response_headers, exc_info=None)` of one request (PEP 3333). It returns `write`.
///
/// Raises TypeError or ValueError naming the broken rule, AssertionError for a second call without `exc_info`, and the
/// exception of `exc_info` once the head has been sent.
#[pyclass(frozen, module = "rmeinheld")]
pub struct StartResponse {
    terms: Terms,
    pace: Pace,
    body: Option<Py<Input>>,
    last_requests: Arc<AtomicBool>,
    answer: Mutex<Answer>,
}

/// The response as it stands.
#[derive(Default)]
pub struct Answer {
    stream: Option<Arc<Stream>>,
    /// `start_response` has been called.
    pub started: bool,
    /// The status code.
    pub status: u16,
    /// Status line and the application's fields, until and after they are sent.
    pub head: Vec<u8>,
    has_server: bool,
    has_date: bool,
    declared_length: Option<u64>,
    wants_close: bool,
    /// Set when the head goes out.
    pub plan: Option<ResponsePlan>,
    /// Bytes of the body sent, without their framing.
    pub sent: u64,
    /// The application gave more than its Content-Length.
    pub overrun: bool,
    /// Sending failed, or the framing cannot be completed: the connection must be closed.
    pub broken: bool,
    /// Sending failed because the client is gone.
    pub client_gone: bool,
    sending: bool,
    /// The connection speaks another protocol: nothing of HTTP is sent.
    pub is_upgraded: bool,
    /// The application has named a server error since, which nobody will see.
    pub has_failed: bool,
    /// It ends when the server stops: a stream of events, or its application has asked whether the server stops.
    ends_at_stop: bool,
    /// The application has been told that the server stops.
    knows_stop: bool,
    /// What was thrown into the request to end it.
    ending: Option<Py<PyBaseException>>,
    /// Since when the client was known to have ended its side, and nothing was sent.
    half_closed_since: Option<Instant>,
}

/// Bytes ready to be sent: what comes before the data (the first `head` bytes are the response's head), how much of the
/// data, what comes after.
struct Framed {
    stream: Arc<Stream>,
    before: Vec<u8>,
    head: usize,
    data: usize,
    after: &'static [u8],
}

impl StartResponse {
    /// For one request on `stream`, whose body, if it has one, is read through `body`. Once `last_requests` is set, the
    /// response announces the end of the connection.
    pub fn new(
        terms: Terms,
        stream: Arc<Stream>,
        body: Option<Py<Input>>,
        last_requests: Arc<AtomicBool>,
    ) -> StartResponse {
        StartResponse {
            pace: Pace::new(terms.send_timeout, terms.min_send_rate),
            terms,
            body,
            last_requests,
            answer: Mutex::new(Answer { stream: Some(stream), ..Answer::default() }),
        }
    }

    /// The response as it stands. Not to be held across anything that waits.
    pub fn answer(&self) -> MutexGuard<'_, Answer> {
        lock(&self.answer)
    }

    /// Whether the head has gone out, so that nothing but the connection's end can tell of an error.
    pub fn is_head_sent(&self) -> bool {
        self.answer().plan.is_some()
    }

    /// Ends the request: `write` raises from now on. Returns the response's record.
    pub fn end(&self) -> Answer {
        std::mem::take(&mut *self.answer())
    }

    /// Whether the body goes out in chunks, each with its size before it.
    pub fn is_chunked(&self) -> bool {
        self.answer().plan.is_some_and(|plan| plan.body == ResponseBody::Chunked)
    }

    /// Whether nothing of the body that is still to come will be sent: the answer to HEAD and the like, or a body that has
    /// exceeded its Content-Length.
    pub fn is_over(&self) -> bool {
        let answer = self.answer();
        answer.overrun || answer.plan.is_some_and(|plan| plan.body == ResponseBody::None)
    }

    /// The patience with the client that takes the response.
    pub fn pace(&self) -> &Pace {
        &self.pace
    }

    /// Sends an error page of the server's own, in place of whatever the application has said so far.
    ///
    /// # Errors
    /// As [`Self::send`].
    ///
    /// # Parks
    pub fn send_error(&self, py: Python<'_>, status: u16, close: bool) -> PyResult<()> {
        let page = error_body(status);
        {
            let mut answer = self.answer();
            let stream = answer.stream.take();
            *answer = Answer { stream, started: true, status, wants_close: close, ..Answer::default() };
            write_status_line(&mut answer.head, format!("{status} {}", reason(status)).as_bytes());
            write_field(&mut answer.head, b"Content-Type", b"text/html; charset=utf-8");
        }
        self.send(&PyBytes::new(py, &page), Some(page.len() as u64))?;
        self.finish(py)
    }

    /// Sends an item of the body. `known_length` is the whole body's, where the caller knows it. Empty items send nothing.
    ///
    /// # Errors
    /// PyErr where the application broke a rule or the client is gone (then `client_gone` is set).
    ///
    /// # Parks
    pub fn send(&self, data: &Bound<'_, PyBytes>, known_length: Option<u64>) -> PyResult<()> {
        let bytes = data.as_bytes();
        if bytes.is_empty() {
            return self.send_nothing();
        }
        let mut framed = self.frame(bytes, known_length)?;
        let body = bytes.get(..framed.data).unwrap_or_default();
        let sent = if framed.before.is_empty() {
            self.put(data.py(), &framed.stream, &[body])
        } else if framed.before.len() + body.len() <= COPIED_BYTES {
            framed.before.extend_from_slice(body);
            framed.before.extend_from_slice(framed.after);
            self.put(data.py(), &framed.stream, &[&framed.before])
        } else {
            self.put(data.py(), &framed.stream, &[&framed.before, body, framed.after])
        };
        self.sent(framed, sent).map(drop)
    }

    /// Sends the head alone, for a body of `known_length` that goes out by other means. Returns the stream and how many
    /// bytes of the body belong on the wire.
    ///
    /// # Errors
    /// As [`Self::send`].
    ///
    /// # Parks
    pub fn send_head(&self, py: Python<'_>, known_length: u64) -> PyResult<(Arc<Stream>, u64)> {
        // Of a longer file, such as one of which a range is sent, only what was announced goes out.
        let declared_length = self.answer().declared_length;
        let framed = self.frame(&[], Some(declared_length.map_or(known_length, |length| length.min(known_length))))?;
        let sent = self.put(py, &framed.stream, &[&framed.before]);
        let stream = self.sent(framed, sent)?;
        let answer = self.answer();
        let body = match answer.plan.map(|plan| plan.body) {
            Some(ResponseBody::Length(length)) => length.saturating_sub(answer.sent).min(known_length),
            Some(ResponseBody::UntilClose | ResponseBody::Tunnel) => known_length,
            Some(ResponseBody::None | ResponseBody::Chunked) | None => 0,
        };
        Ok((stream, body))
    }

    /// Notes what was sent by other means after [`Self::send_head`].
    ///
    /// # Errors
    /// The failure, as an exception.
    pub fn sent_file(&self, sent: Result<u64, Failure>) -> PyResult<()> {
        match sent {
            Ok(count) => {
                self.answer().sent += count;
                Ok(())
            }
            Err(failure) => self.failed(failure),
        }
    }

    /// Completes the response. Fewer bytes than announced break the connection.
    ///
    /// # Errors
    /// As [`Self::send`]; AssertionError if `start_response` was never called.
    ///
    /// # Parks
    pub fn finish(&self, py: Python<'_>) -> PyResult<()> {
        let (needs_head, last) = {
            let mut answer = self.answer();
            let last = answer.plan.is_some_and(|plan| plan.body == ResponseBody::Chunked);
            if let Some(ResponsePlan { body: ResponseBody::Length(length), .. }) = answer.plan {
                answer.broken |= answer.sent < length;
            }
            (answer.plan.is_none(), last)
        };
        if needs_head {
            let framed = self.frame(&[], Some(0))?;
            let sent = self.put(py, &framed.stream, &[&framed.before]);
            self.sent(framed, sent)?;
            // An application that announces a body and gives none, other than to HEAD and the like.
            let mut answer = self.answer();
            answer.broken |= matches!(answer.plan.map(|plan| plan.body), Some(ResponseBody::Length(1..)));
        } else if last {
            let stream = self.answer().begin_sending()?;
            let framed = Framed { stream, before: LAST_CHUNK.to_vec(), head: 0, data: 0, after: b"" };
            let sent = self.put(py, &framed.stream, &[&framed.before]);
            self.sent(framed, sent)?;
        }
        Ok(())
    }

    /// Puts the framing around `data`, and the head before it if that is still to be sent.
    fn frame(&self, data: &[u8], known_length: Option<u64>) -> PyResult<Framed> {
        let mut answer = self.answer();
        let stream = answer.begin_sending()?;
        answer.half_closed_since = None;
        let (plan, mut before) = match answer.plan {
            Some(plan) => (plan, Vec::new()),
            None => {
                answer.wants_close |= self.last_requests.load(Ordering::Relaxed);
                answer.wants_close |= self.body.as_ref().is_some_and(|body| body.get().begin_response());
                let plan = answer.complete_head(&self.terms, known_length);
                (plan, std::mem::take(&mut answer.head))
            }
        };
        let head = before.len();
        let count = match plan.body {
            ResponseBody::None => 0,
            ResponseBody::Length(length) => {
                let left = length.saturating_sub(answer.sent);
                let count = usize::try_from(left).map_or(data.len(), |left| left.min(data.len()));
                answer.overrun |= count < data.len();
                count
            }
            ResponseBody::Chunked | ResponseBody::UntilClose | ResponseBody::Tunnel => data.len(),
        };
        answer.sent += count as u64;
        let chunked = plan.body == ResponseBody::Chunked && count > 0;
        if chunked {
            write_chunk_head(&mut before, count);
        }
        Ok(Framed { stream, before, head, data: count, after: if chunked { CHUNK_END } else { b"" } })
    }

    /// # Parks
    fn put(&self, py: Python<'_>, stream: &Stream, parts: &[&[u8]]) -> Result<(), Failure> {
        interp::park_or_detach(py, || stream.write_all(parts, &self.pace))
    }

    /// Takes note of how sending ended, and the head's bytes back, for the access log.
    fn sent(&self, framed: Framed, sent: Result<(), Failure>) -> PyResult<Arc<Stream>> {
        let Framed { stream, mut before, head, .. } = framed;
        {
            let mut answer = self.answer();
            if head > 0 {
                before.truncate(head);
                answer.head = before;
            }
            answer.sending = false;
        }
        match sent {
            Ok(()) => Ok(stream),
            Err(failure) => self.failed(failure).map(|()| stream),
        }
    }

    fn failed(&self, failure: Failure) -> PyResult<()> {
        {
            let mut answer = self.answer();
            answer.sending = false;
            answer.broken = true;
            answer.client_gone = !matches!(failure, Failure::Killed | Failure::Interrupted);
        }
        // Outside of the lock: the exception of a `timeout()` may be written in Python.
        Err(failure_error(failure))
    }
}

impl Answer {
    fn begin_sending(&mut self) -> PyResult<Arc<Stream>> {
        let stream = self
            .stream
            .as_ref()
            .ok_or_else(|| PyValueError::new_err("write() was called after its request had ended"))?;
        if self.is_upgraded {
            return Err(PyRuntimeError::new_err("the connection speaks another protocol than HTTP now"));
        }
        if !self.started {
            return Err(PyAssertionError::new_err(
                "the application gave a body before it called start_response (PEP 3333)",
            ));
        }
        let stream = Arc::clone(stream);
        self.occupy().map(|()| stream)
    }

    /// Adds the server's own fields to the application's, and the end of the head.
    fn complete_head(&mut self, terms: &Terms, known_length: Option<u64>) -> ResponsePlan {
        let keep_alive = terms.keep_alive && !self.wants_close;
        let mut plan = plan(terms.version, terms.method, self.status, self.declared_length, known_length, keep_alive);
        let out = &mut self.head;
        if self.status == 101 {
            // RFC 9110 7.8: the connection speaks another protocol from here on; it is not used for HTTP again.
            plan.keep_alive = true;
            self.broken = true;
            write_field(out, b"Connection", b"upgrade");
        }
        let (date, server) = (clock::http_date(), super::SERVER_SOFTWARE.as_bytes());
        write_common(out, &plan, terms.version, self.has_server, self.has_date, &date, server);
        out.extend_from_slice(b"\r\n");
        self.plan = Some(plan);
        plan
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
        {
            let mut answer = this.answer();
            if answer.stream.is_none() {
                return Err(PyValueError::new_err("start_response was called after its request had ended"));
            }
            if answer.is_upgraded {
                drop(answer);
                // Frameworks answer whatever their handler returns or raises; nobody can see it.
                let has_failed = status.to_string().starts_with('5');
                this.answer().has_failed |= has_failed;
                return slf.getattr(pyo3::intern!(py, "write"));
            }
            match exc_info {
                Some(exc_info) if answer.plan.is_some() => {
                    drop(answer);
                    let error = exc_info.get_item(1)?;
                    return Err(PyErr::from_value(error));
                }
                None if answer.started => {
                    return Err(PyAssertionError::new_err(
                        "start_response was called a second time without exc_info (PEP 3333)",
                    ));
                }
                _ => {}
            }
            // Reading the arguments may run Python (a list subclass, a str subclass) that calls back: not under the lock.
            let mut next = std::mem::take(&mut *answer);
            drop(answer);
            let set = next.set(status, response_headers);
            if set.is_err() {
                next.started = false;
            }
            *this.answer() = next;
            set?;
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
            answer.broken = true;
            answer.client_gone = true;
        }
        answer.client_gone
    }
}
