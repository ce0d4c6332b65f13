//! Sending a response: its framing, its bytes on the connection, and the lock that keeps senders apart.

use std::sync::Arc;

use pyo3::exceptions::{PyAssertionError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::StartResponse;
use super::answer::{Answer, illegal};
use crate::crew::seat::monotonic_nanoseconds;
use crate::http::exchange::{ExchangeEvent, Writing};
use crate::http::response::{CHUNK_END, ChunkHead, LAST_CHUNK, ResponseBody, error_body};
use crate::interp::{self, failure_error};
use crate::net::{Failure, Stream, held};

/// Bodies up to this many bytes are copied behind the head, so that one buffer goes out; larger ones are gathered.
pub(super) const COPIED_BYTES: usize = 16 * 1024;

/// Bytes ready to be sent.
pub(super) struct Framed {
    pub(super) stream: Arc<Stream>,
    /// The bytes before the data; the first `head` bytes are the response's head.
    pub(super) before: Vec<u8>,
    pub(super) head: usize,
    /// How many bytes of the data go out.
    pub(super) data: usize,
    /// They are the whole body.
    pub(super) is_whole: bool,
    /// The bytes behind the data.
    pub(super) after: &'static [u8],
}

impl StartResponse {
    /// Sends an error page of the server's own, in place of what the application has said so far.
    ///
    /// # Errors
    /// As [`Self::send`].
    ///
    /// # Parks
    pub fn send_error(&self, py: Python<'_>, status: u16, closes: bool) -> PyResult<()> {
        let page = error_body(status);
        self.answer().become_error(status, closes);
        self.send(&PyBytes::new(py, &page), Some(page.len() as u64))?;
        self.finish(py)
    }

    /// Sends an item of the body. `known_length` is the whole body's, where the caller knows it. Empty items send
    /// nothing.
    ///
    /// # Errors
    /// PyErr where the application broke a rule or the client is gone (then the exchange knows it).
    ///
    /// # Parks
    pub fn send(&self, data: &Bound<'_, PyBytes>, known_length: Option<u64>) -> PyResult<()> {
        self.send_or(data, known_length, |_, _| false)
    }

    /// Like [`Self::send`], for the body as a whole or a part of it, which may be held back as a complete answer.
    ///
    /// # Errors
    /// As [`Self::send`].
    ///
    /// # Parks
    #[inline]
    pub fn send_sized(slf: &Bound<'_, Self>, data: &Bound<'_, PyBytes>, length: u64) -> PyResult<()> {
        if held::may_keep() { Self::send_or_hold(slf, data, length) } else { slf.get().send(data, Some(length)) }
    }

    #[inline(never)]
    fn send_or_hold(slf: &Bound<'_, Self>, data: &Bound<'_, PyBytes>, length: u64) -> PyResult<()> {
        slf.get().send_or(data, Some(length), |framed, parts| {
            framed.is_whole && Self::hold_answer(slf, &framed.stream, parts)
        })
    }

    /// Sends an item of the body, unless `hold` takes its parts.
    fn send_or(
        &self,
        data: &Bound<'_, PyBytes>,
        known_length: Option<u64>,
        hold: impl FnOnce(&Framed, &[&[u8]]) -> bool,
    ) -> PyResult<()> {
        let bytes = data.as_bytes();
        if bytes.is_empty() {
            return self.send_nothing();
        }
        self.check_time(data.py())?;
        let mut framed = self.frame(bytes, known_length)?;
        let body = bytes.get(..framed.data).unwrap_or_default();
        let sent = if hold(&framed, &[&framed.before, body, framed.after]) {
            Ok(())
        } else if framed.before.is_empty() {
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
        self.check_time(py)?;
        // Of a longer file, such as one of which a range is sent, only what was announced goes out.
        let declared_length = self.answer().head.declared_length;
        let framed = self.frame(&[], Some(declared_length.map_or(known_length, |length| length.min(known_length))))?;
        let body = self.answer().file_bytes(known_length);
        let sent = if body == 0 || held::is_held(&framed.stream) {
            self.put(py, &framed.stream, &[&framed.before])
        } else {
            interp::park_or_detach(py, || framed.stream.write_before_file(&framed.before, &self.pace))
        };
        Ok((self.sent(framed, sent)?, body))
    }

    /// Notes what was sent by other means after [`Self::send_head`].
    ///
    /// # Errors
    /// The failure, as an exception.
    pub fn sent_file(&self, sent: Result<u64, Failure>) -> PyResult<()> {
        match sent {
            Ok(count) => {
                self.answer().exchange.note_sent(count);
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
        self.finish_or(py, |_, _| false)
    }

    /// Like [`Self::finish`]; the end may be held back as a part of a complete answer.
    ///
    /// # Errors
    /// As [`Self::finish`].
    ///
    /// # Parks
    #[inline]
    pub fn finish_whole(slf: &Bound<'_, Self>) -> PyResult<()> {
        if held::may_keep() { Self::finish_or_hold(slf) } else { slf.get().finish(slf.py()) }
    }

    #[inline(never)]
    fn finish_or_hold(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().finish_or(slf.py(), |stream, parts| Self::hold_answer(slf, stream, parts))
    }

    fn finish_or(&self, py: Python<'_>, hold: impl FnOnce(&Arc<Stream>, &[&[u8]]) -> bool) -> PyResult<()> {
        if interp::any_endings() && matches!(self.answer().exchange.framing(), None | Some(ResponseBody::Chunked)) {
            self.check_time(py)?;
        }
        let rest = {
            let mut answer = self.answer();
            match answer.exchange.framing() {
                None => None,
                Some(ResponseBody::Chunked) => {
                    let stream = answer.sendable_stream()?;
                    answer.is_sending = true;
                    Some(Framed { stream, before: LAST_CHUNK.to_vec(), head: 0, data: 0, is_whole: false, after: b"" })
                }
                Some(_) if !answer.holds() || answer.may_stay_held() => {
                    return answer.exchange.end_response().map_err(illegal);
                }
                Some(_) => {
                    drop(answer);
                    self.flush(py)?;
                    return self.answer().exchange.end_response().map_err(illegal);
                }
            }
        };
        let framed = rest.map_or_else(|| self.frame(&[], Some(0)), Ok)?;
        let is_held = hold(&framed.stream, &[&framed.before]);
        let sent = if is_held { Ok(()) } else { self.put(py, &framed.stream, &[&framed.before]) };
        self.sent(framed, sent)?;
        self.answer().exchange.end_response().map_err(illegal)
    }

    /// Puts the framing around `data`, and the head before it if that is still to be sent. Takes the lock on sending.
    pub(super) fn frame(&self, data: &[u8], known_length: Option<u64>) -> PyResult<Framed> {
        let mut answer = self.answer();
        let stream = answer.sendable_stream()?;
        if let Some(rare) = &mut answer.rare {
            rare.half_closed_since = None;
        }
        let mut before = match answer.exchange.framing() {
            Some(_) => Vec::new(),
            None => {
                let closes = self.is_last_of_connection(&answer);
                answer.complete_head(known_length, closes)?
            }
        };
        let head = before.len();
        let count = answer.exchange.send_data(data.len()).map_err(illegal)?;
        let is_chunk = answer.exchange.framing() == Some(ResponseBody::Chunked) && count > 0;
        if is_chunk {
            before.extend_from_slice(ChunkHead::new(count).bytes());
        }
        answer.is_sending = true;
        let is_whole = known_length == Some(data.len() as u64) && !data.is_empty();
        Ok(Framed { stream, before, head, data: count, is_whole, after: if is_chunk { CHUNK_END } else { b"" } })
    }

    /// Sends `parts`, whole, behind what is held back.
    ///
    /// # Parks
    pub(super) fn put(&self, py: Python<'_>, stream: &Stream, parts: &[&[u8]]) -> Result<(), Failure> {
        if held::is_held(stream) {
            return self.put_behind_held(py, stream, parts);
        }
        interp::park_or_detach(py, || stream.write_all(parts, &self.pace))
    }

    /// Notes how sending ended, and puts the head's bytes back for the access log. Gives the lock on sending back.
    pub(super) fn sent(&self, framed: Framed, sent: Result<(), Failure>) -> PyResult<Arc<Stream>> {
        let Framed { stream, mut before, head, is_whole, .. } = framed;
        {
            let mut answer = self.answer();
            if head > 0 {
                before.truncate(head);
                answer.head.bytes = before;
                if self.settings.notes_first_byte {
                    (answer.first_byte, answer.is_sent_at_once) = (monotonic_nanoseconds(), is_whole);
                }
            }
            answer.is_sending = false;
        }
        match sent {
            Ok(()) => Ok(stream),
            Err(failure) => self.failed(failure).map(|()| stream),
        }
    }

    fn failed(&self, failure: Failure) -> PyResult<()> {
        self.note_failure(&failure);
        // Outside of the lock: the exception of a `timeout()` may be written in Python.
        Err(failure_error(failure))
    }
}

impl StartResponse {
    /// Notes that sending has failed. Gives the lock on sending back.
    pub(super) fn note_failure(&self, failure: &Failure) {
        let mut answer = self.answer();
        answer.is_sending = false;
        let is_client_gone = !matches!(failure, Failure::Killed | Failure::Interrupted);
        let exchange = &mut answer.exchange;
        // Illegal after the request has ended, when nothing depends on its exchange any more.
        let _ = match exchange.writing() {
            // The answer was held back.
            Writing::Done if is_client_gone => exchange.lose_client(),
            Writing::Done => exchange.apply(ExchangeEvent::ResponseCut),
            _ => exchange.fail_sending(is_client_gone),
        };
    }
}

impl Answer {
    /// Has an item been held back, or failed to be sent since?
    pub(super) fn holds(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| held::is_held(stream)) || self.rare.is_some()
    }

    /// How many of the `known` bytes of a file belong on the wire, once the head is framed.
    fn file_bytes(&self, known: u64) -> u64 {
        match self.exchange.framing() {
            Some(ResponseBody::Length(length)) => length.saturating_sub(self.exchange.sent_bytes()).min(known),
            Some(ResponseBody::UntilClose | ResponseBody::Tunnel) => known,
            Some(ResponseBody::None | ResponseBody::Chunked) | None => 0,
        }
    }

    /// May the answer, once it is complete, be held back? Its connection goes on, and nothing has failed.
    pub(super) fn may_be_held(&self) -> bool {
        self.rare.is_none() && !self.exchange.announces_close()
    }

    /// May items that are held back stay so, now that the answer is complete?
    fn may_stay_held(&self) -> bool {
        held::may_keep() && self.may_be_held()
    }

    /// Takes the lock on sending: one sender at a time.
    pub(super) fn occupy(&mut self) -> PyResult<()> {
        self.check_unoccupied()?;
        self.is_sending = true;
        Ok(())
    }

    fn check_unoccupied(&self) -> PyResult<()> {
        if self.is_sending {
            return Err(PyRuntimeError::new_err("another coroutine or thread is sending this response"));
        }
        Ok(())
    }

    /// The stream, if some of the response may be sent on it now.
    fn sendable_stream(&self) -> PyResult<Arc<Stream>> {
        let stream = self
            .stream
            .as_ref()
            .ok_or_else(|| PyValueError::new_err("write() was called after its request had ended"))?;
        match self.exchange.writing() {
            Writing::Upgraded => {
                return Err(PyRuntimeError::new_err("the connection speaks another protocol than HTTP now"));
            }
            Writing::Done => {
                return Err(PyValueError::new_err("write() was called after the response was complete"));
            }
            _ if self.head.status == 0 => {
                return Err(PyAssertionError::new_err(
                    "the application gave a body before it called start_response (PEP 3333)",
                ));
            }
            _ => {}
        }
        self.check_unoccupied()?;
        Ok(Arc::clone(stream))
    }
}
