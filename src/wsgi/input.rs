//! `wsgi.input`: a request's body with the methods of a binary file (PEP 3333, "Input and Error Streams").

use std::sync::{Arc, Mutex};

use pyo3::exceptions::{PyConnectionResetError, PyOSError, PyRuntimeError, PyTimeoutError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use super::body::{BodyFailure, READ_BYTES, RequestBody};
use super::start_response::StartResponse;
use crate::event_loop::{Wake, turn};
use crate::http::error::RequestError;
use crate::http::exchange::DRAIN_BYTES;
use crate::interp::{self, Lent, NewBytes, failure_error};
use crate::net::{Failure, Stream};
use crate::sync::lock;

/// The client's fault when its connection ends, in order or by a reset, within the body.
const CUT_OFF: RequestError = RequestError::BadRequest("the connection ended within the request body");

/// The most bytes that are allocated for one read because the client has announced them.
const ANNOUNCED_BYTES: usize = 1024 * 1024;

/// `environ["wsgi.input"]`: the request body, read from the client as the application asks for it (PEP 3333).
///
/// Reads as a file opened in binary mode does. The end of the body is the end of the file, so no Content-Length is
/// needed (`wsgi.input_terminated`). Reading parks the coroutine until the client has sent enough.
///
/// Raises ConnectionResetError when the client goes away, TimeoutError when it sends nothing for `client_body_timeout`,
/// OSError when it breaks HTTP or exceeds `limit_request_body`, and ValueError after the request has ended.
#[pyclass(frozen, module = "rmeinheld")]
pub struct Input {
    state: Mutex<InputState>,
}

enum InputState {
    Open(Box<Reader>),
    /// A method is at work, perhaps parked.
    InUse,
    Ended,
    /// The shared input of requests without a body.
    Empty,
}

/// The body, its connection, and the decoded bytes that are still to be handed out.
pub struct Reader {
    body: RequestBody,
    stream: Arc<Stream>,
    /// The request's response, whose exchange notes every read.
    response: Py<StartResponse>,
    ready: Vec<u8>,
    start: usize,
}

/// The unread rest of a body when its request has ended.
pub struct Rest {
    reader: Box<Reader>,
}

impl Rest {
    /// Reads and discards the rest of the body, up to [`DRAIN_BYTES`]. Returns the bytes behind the body, or `None` if
    /// they are out of reach.
    ///
    /// # Parks
    pub fn drain(self) -> Option<Vec<u8>> {
        let mut reader = self.reader;
        let mut drained = 0;
        while !reader.body.is_finished() {
            if turn::is_spent() && turn::give_way() != Wake::Ready {
                return None;
            }
            reader.ready.clear();
            drained += reader.fill().ok()? as u64;
            if drained > DRAIN_BYTES {
                return None;
            }
        }
        Some(reader.body.into_rest())
    }
}

impl Input {
    /// The input of a request with this body, which `response` answers.
    pub fn new(body: RequestBody, stream: Arc<Stream>, response: Py<StartResponse>) -> Input {
        let reader = Reader { body, stream, response, ready: Vec::new(), start: 0 };
        Input { state: Mutex::new(InputState::Open(Box::new(reader))) }
    }

    /// The input of requests without a body; one object serves them all.
    pub fn empty() -> Input {
        Input { state: Mutex::new(InputState::Empty) }
    }

    /// Ends the request: from now on reading raises ValueError. `None` where another coroutine or thread still reads.
    pub fn end(&self) -> Option<Rest> {
        match std::mem::replace(&mut *self.lock(), InputState::Ended) {
            InputState::Open(reader) => Some(Rest { reader }),
            InputState::InUse | InputState::Ended | InputState::Empty => None,
        }
    }

    /// Appends some of the body, as it arrives. False at its end.
    ///
    /// # Errors
    /// As for `read`.
    ///
    /// # Parks
    pub fn read_into(&self, py: Python<'_>, out: &mut Vec<u8>) -> PyResult<bool> {
        self.with_reader(|reader| {
            let is_more = reader.more(py)?;
            out.append(&mut reader.ready);
            Ok(is_more)
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, InputState> {
        lock(&self.state)
    }

    /// Runs `action` on the reader with no lock held, since it may park.
    fn with_reader<R>(&self, action: impl FnOnce(&mut Reader) -> PyResult<R>) -> PyResult<R> {
        let taken = {
            let mut state = self.lock();
            match &*state {
                InputState::Open(_) => std::mem::replace(&mut *state, InputState::InUse),
                InputState::InUse => {
                    return Err(PyRuntimeError::new_err("wsgi.input is being read by another coroutine or thread"));
                }
                InputState::Ended | InputState::Empty => {
                    return Err(PyValueError::new_err("wsgi.input was read after its request had ended"));
                }
            }
        };
        let InputState::Open(mut reader) = taken else {
            return Err(PyRuntimeError::new_err("wsgi.input changed hands"));
        };
        let result = action(&mut reader);
        let mut state = self.lock();
        if matches!(*state, InputState::InUse) {
            *state = InputState::Open(reader);
        }
        result
    }
}

impl Reader {
    /// Reads and decodes some of the body.
    ///
    /// # Parks
    fn fill(&mut self) -> Result<usize, BodyFailure> {
        let Reader { body, stream, response, ready, .. } = self;
        body.read_some(stream, response.get(), ready)
    }

    fn ready(&self) -> &[u8] {
        self.ready.get(self.start..).unwrap_or_default()
    }

    /// Gets more of the body. False at its end.
    fn more(&mut self, py: Python<'_>) -> PyResult<bool> {
        interp::give_way(py)?;
        self.ready.drain(..std::mem::take(&mut self.start));
        let read = interp::park_or_detach(py, || self.fill());
        read.map(|count| count > 0).map_err(|failure| self.error(failure))
    }

    fn error(&self, failure: BodyFailure) -> PyErr {
        let (fault, error) = match failure {
            BodyFailure::Request(RequestError::Timeout) => (
                Some(RequestError::Timeout),
                PyTimeoutError::new_err("the client sent no more of the request body in time"),
            ),
            BodyFailure::Request(error) => (Some(error), PyOSError::new_err(format!("request body: {error}"))),
            BodyFailure::Connection(failure) => {
                let fault = match failure {
                    Failure::Gone(_) => Some(CUT_OFF),
                    Failure::TimedOut => Some(RequestError::Timeout),
                    Failure::Killed | Failure::Interrupted => None,
                };
                (fault, failure_error(failure))
            }
            BodyFailure::Incomplete => {
                let message = "the client closed the connection within the request body";
                (Some(CUT_OFF), PyConnectionResetError::new_err(message))
            }
        };
        // Illegal only after the request has ended, when nothing depends on its exchange any more.
        let _ = self.response.get().answer().exchange.fail_body(fault);
        error
    }

    /// Hands out the first `count` ready bytes, or all if there are fewer.
    fn take<'py>(&mut self, py: Python<'py>, count: usize) -> Bound<'py, PyBytes> {
        let ready = self.ready();
        let count = count.min(ready.len());
        let bytes = PyBytes::new(py, ready.get(..count).unwrap_or_default());
        self.start += count;
        if self.start == self.ready.len() {
            self.ready = Vec::new();
            self.start = 0;
        }
        bytes
    }

    fn read<'py>(&mut self, py: Python<'py>, size: Option<usize>) -> PyResult<Bound<'py, PyBytes>> {
        let size = size.unwrap_or(usize::MAX);
        if self.ready.is_empty()
            && let Some(bytes) = self.body.take_received(self.response.get(), size)
        {
            return Ok(PyBytes::new(py, bytes));
        }
        if let Some(count) = self.announced(size) {
            return self.read_in_place(py, count);
        }
        while self.ready().len() < size && self.more(py)? {}
        Ok(self.take(py, size))
    }

    /// The number of bytes that a read of `size` bytes returns if the client sends what its head announces. `None` if the
    /// head announces no length, and for reads that are left to [`Self::more`]. Short ones read ahead there. For long ones,
    /// an announcement must not take memory.
    fn announced(&self, size: usize) -> Option<usize> {
        let ready = self.ready().len();
        let rest = usize::try_from(self.body.known_rest()?).unwrap_or(usize::MAX);
        let count = rest.saturating_add(ready).min(size);
        (count <= ANNOUNCED_BYTES && count.saturating_sub(ready) >= READ_BYTES).then_some(count)
    }

    /// Reads `count` bytes, which are [announced](Self::announced), into the object that is returned. Bytes that are still
    /// to arrive are not copied. After an error, the bytes that have arrived stay ready.
    fn read_in_place<'py>(&mut self, py: Python<'py>, count: usize) -> PyResult<Bound<'py, PyBytes>> {
        let mut bytes = NewBytes::new(py, count)?;
        let ready = std::mem::take(&mut self.ready);
        bytes.append(py, ready.get(std::mem::take(&mut self.start)..).unwrap_or_default());
        drop(ready);
        while !bytes.is_full() {
            if let Err(error) = self.more_in_place(py, &mut bytes) {
                self.ready = bytes.filled(py).to_vec();
                return Err(error);
            }
        }
        Ok(bytes.finish(py))
    }

    fn more_in_place(&mut self, py: Python<'_>, bytes: &mut NewBytes) -> PyResult<()> {
        interp::give_way(py)?;
        let Reader { body, stream, response, .. } = self;
        let read =
            bytes.fill(py, |memory| interp::park_or_detach(py, || body.read_into(stream, response.get(), memory)));
        read.map_err(|failure| self.error(failure))
    }

    fn read_line<'py>(&mut self, py: Python<'py>, size: Option<usize>) -> PyResult<Bound<'py, PyBytes>> {
        let size = size.unwrap_or(usize::MAX);
        let mut searched = 0;
        loop {
            let ready = self.ready();
            if let Some(at) = memchr::memchr(b'\n', ready.get(searched..).unwrap_or_default()) {
                return Ok(self.take(py, size.min(searched + at + 1)));
            }
            searched = ready.len();
            if searched >= size || !self.more(py)? {
                return Ok(self.take(py, size));
            }
        }
    }
}

/// The limit of a size argument: None and negative sizes mean "all", as for files.
fn limit(size: Option<isize>) -> Option<usize> {
    size.and_then(|size| usize::try_from(size).ok())
}

#[pymethods]
impl Input {
    /// Return at most `size` bytes, fewer only at the end; None (the default) or a negative size means the whole rest.
    #[pyo3(signature = (size = None, /))]
    fn read<'py>(&self, py: Python<'py>, size: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        self.unless_empty(py, |reader| reader.read(py, limit(size)))
    }

    /// Return the next line with its line end, or its first `size` bytes; None (the default) means the whole line.
    #[pyo3(signature = (size = None, /))]
    fn readline<'py>(&self, py: Python<'py>, size: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        self.unless_empty(py, |reader| reader.read_line(py, limit(size)))
    }

    /// Return a list of the remaining lines.
    ///
    /// With `hint` above 0 the list ends with the line that brings it to that number of bytes. None (the default) sets
    /// no limit.
    #[pyo3(signature = (hint = None, /))]
    fn readlines<'py>(&self, py: Python<'py>, hint: Option<isize>) -> PyResult<Bound<'py, PyList>> {
        let lines = PyList::empty(py);
        let enough = limit(hint).filter(|&hint| hint > 0).unwrap_or(usize::MAX);
        let mut total = 0;
        while total < enough {
            let line = self.readline(py, None)?;
            let length = line.as_bytes().len();
            if length == 0 {
                break;
            }
            total += length;
            lines.append(line)?;
        }
        Ok(lines)
    }

    /// Read into a writable buffer. Returns the number of bytes, 0 at the end.
    fn readinto(&self, buffer: &Bound<'_, PyAny>) -> PyResult<usize> {
        let py = buffer.py();
        let mut lent = Lent::writable(buffer)?;
        let data = self.read(py, Some(isize::try_from(lent.length()).unwrap_or(isize::MAX)))?;
        Ok(lent.fill(py, data.as_bytes()))
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let line = self.readline(py, None)?;
        Ok((!line.as_bytes().is_empty()).then_some(line))
    }

    /// Return True.
    fn readable(&self) -> bool {
        true
    }

    /// Return False.
    fn writable(&self) -> bool {
        false
    }

    /// Return False: a body is read once.
    fn seekable(&self) -> bool {
        false
    }

    /// Do nothing: the server owns the stream (PEP 3333).
    fn close(&self) {}

    /// Always False: the server owns the stream.
    #[getter]
    fn closed(&self) -> bool {
        false
    }
}

impl Input {
    /// Runs `action` on the reader. Returns `b""` for the shared input of requests without a body.
    fn unless_empty<'py>(
        &self,
        py: Python<'py>,
        action: impl FnOnce(&mut Reader) -> PyResult<Bound<'py, PyBytes>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        interp::give_way(py)?;
        if matches!(*self.lock(), InputState::Empty) { Ok(PyBytes::new(py, b"")) } else { self.with_reader(action) }
    }
}
