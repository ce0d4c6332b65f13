//! Items of a response that share a write, and complete answers that wait for other requests.
//!
//! An item of an iterable is held back (`net::held`) for as long as the turn of its request lasts, at most for a
//! millisecond. Before the request waits, or its turn is cut off, everything that it has yielded is on its way.
//!
//! With the setting `hold_answers`, a complete answer of a connection that goes on may be held beyond its turn.

use std::cell::RefCell;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::StartResponse;
use super::sender::{COPIED_BYTES, Framed};
use crate::event_loop::{self, Wake, interrupts};
use crate::http::exchange::{Ending, Writing};
use crate::http::response::{CHUNK_END, ChunkHead, ResponseBody};
use crate::interp::{self, failure_error};
use crate::net::{Failure, Stream, held};

thread_local! {
    /// The response whose items are held back. No Python code runs while it is borrowed.
    static HOLDER: RefCell<Option<Py<StartResponse>>> = const { RefCell::new(None) };
}

impl StartResponse {
    /// Sends an item of an iterable as [`Self::send`] does, or holds it back. `known_length` is as there.
    ///
    /// # Errors
    /// As [`Self::send`], for this item or an earlier one.
    ///
    /// # Parks
    pub fn send_item(slf: &Bound<'_, Self>, data: &Bound<'_, PyBytes>, known_length: Option<u64>) -> PyResult<()> {
        let (this, bytes) = (slf.get(), data.as_bytes());
        this.raise_held_failure()?;
        if let Some(length) = known_length {
            return Self::send_sized(slf, data, length);
        }
        if bytes.is_empty() || bytes.len() > COPIED_BYTES || !event_loop::can_park() {
            return this.send(data, known_length);
        }
        this.check_time(data.py())?;
        let held = match this.hold_behind(bytes) {
            Some(count) => count,
            None => Self::hold_first(slf, data)?,
        };
        if held >= held::FULL { this.flush(data.py()) } else { Ok(()) }
    }

    /// Holds an item back, or sends it. Returns how many bytes are held.
    ///
    /// # Parks
    // Not part of its caller, which coroutines wait in.
    #[inline(never)]
    fn hold_first(slf: &Bound<'_, Self>, data: &Bound<'_, PyBytes>) -> PyResult<usize> {
        let (this, bytes) = (slf.get(), data.as_bytes());
        let framed = this.frame(bytes, None)?;
        let body = bytes.get(..framed.data).unwrap_or_default();
        let parts = [&framed.before, body, framed.after];
        let held = held::hold(&framed.stream, &parts);
        let sent = if held.is_some() { Ok(()) } else { this.put(data.py(), &framed.stream, &parts) };
        this.sent(framed, sent)?;
        if held.is_some() {
            Self::become_holder(slf);
        }
        Ok(held.unwrap_or(0))
    }

    /// Holds an item back as a chunk behind earlier ones. Returns how many bytes are held; `None` if this takes the long
    /// way, [`Self::hold_first`].
    fn hold_behind(&self, bytes: &[u8]) -> Option<usize> {
        let mut answer = self.answer();
        let is_ordinary = !answer.is_sending
            && answer.rare.is_none()
            && answer.exchange.framing() == Some(ResponseBody::Chunked)
            && answer.exchange.writing() == Writing::Body;
        let stream = answer.stream.as_ref().filter(|stream| is_ordinary && held::is_held(stream))?;
        let count = held::hold(stream, &[ChunkHead::new(bytes.len()).bytes(), bytes, CHUNK_END])?;
        // Legal while the body is on its way.
        let _ = answer.exchange.send_data(bytes.len());
        Some(count)
    }

    /// Has what is held back sent before the next wait.
    fn become_holder(slf: &Bound<'_, Self>) {
        let before = HOLDER.with_borrow_mut(|holder| match holder {
            Some(known) if known.is(slf) => None,
            _ => holder.replace(slf.clone().unbind()),
        });
        drop(before);
        event_loop::before_next_wait(flush_before_wait);
    }

    /// Holds the last bytes of a complete answer back, `parts`, if the turn may keep it. Returns false if the caller has
    /// to send them.
    pub(super) fn hold_answer(slf: &Bound<'_, Self>, stream: &Arc<Stream>, parts: &[&[u8]]) -> bool {
        let holds = slf.get().answer().may_be_held()
            && parts.iter().map(|part| part.len()).sum::<usize>() <= COPIED_BYTES
            && held::hold(stream, parts).is_some();
        if holds {
            Self::become_holder(slf);
        }
        holds
    }

    /// Decides about a complete answer that is held back. It is kept beyond the turn, or sent if that may not be;
    /// `is_last` says that its connection does not rest afterwards.
    ///
    /// # Parks
    #[inline]
    pub fn keep_or_send(&self, py: Python<'_>, is_last: bool) {
        if held::is_any_held() {
            self.keep_or_send_held(py, is_last);
        }
    }

    #[inline(never)]
    fn keep_or_send_held(&self, py: Python<'_>, is_last: bool) {
        let stream = {
            let answer = self.answer();
            let stream = answer.stream.as_ref().filter(|stream| held::is_held(stream)).map(Arc::clone);
            stream.filter(|_| answer.exchange.writing() == Writing::Done)
        };
        let Some(stream) = stream else { return };
        let rests = !is_last && matches!(self.answer().ending(Vec::new()), Ending::Reuse(_));
        if rests && held::keep(&stream) {
            drop(HOLDER.take());
            event_loop::before_next_wait(flush_before_wait);
        } else {
            self.flush_last(py);
        }
    }

    /// Sends what is held back.
    ///
    /// # Errors
    /// As [`Self::send`].
    ///
    /// # Parks
    pub fn flush(&self, py: Python<'_>) -> PyResult<()> {
        self.raise_held_failure()?;
        match self.flush_held(py) {
            Some((framed, sent)) => self.sent(framed, sent).map(drop),
            None => Ok(()),
        }
    }

    /// Sends what is held back, for a response that has failed. Errors do not matter any more.
    ///
    /// # Parks
    pub fn flush_last(&self, py: Python<'_>) {
        if let Some((framed, sent)) = self.flush_held(py) {
            let _ = self.sent(framed, sent);
        }
    }

    /// Takes the lock on sending, and sends what is held back.
    fn flush_held(&self, py: Python<'_>) -> Option<(Framed, Result<(), Failure>)> {
        let stream = {
            let mut answer = self.answer();
            let stream = answer.stream.as_ref().filter(|stream| held::is_held(stream)).map(Arc::clone)?;
            answer.occupy().ok()?;
            stream
        };
        let sent = self.put(py, &stream, &[]);
        Some((Framed { stream, before: Vec::new(), head: 0, data: 0, is_whole: false, after: b"" }, sent))
    }

    /// Sends what is held back and `parts`, whole.
    ///
    /// # Parks
    pub(super) fn put_behind_held(&self, py: Python<'_>, stream: &Stream, parts: &[&[u8]]) -> Result<(), Failure> {
        drop(HOLDER.take());
        let mut bytes = held::take(stream).unwrap_or_default();
        let count: usize = parts.iter().map(|part| part.len()).sum();
        let sent = if count <= COPIED_BYTES {
            for part in parts {
                bytes.extend_from_slice(part);
            }
            interp::park_or_detach(py, || stream.write_all(&[&bytes], self.pace()))
        } else {
            let all: Vec<&[u8]> = std::iter::once(bytes.as_slice()).chain(parts.iter().copied()).collect();
            interp::park_or_detach(py, || stream.write_all(&all, self.pace()))
        };
        held::give_back(bytes);
        sent
    }

    /// Sends what is held back before the request waits. A failure is raised by the next item, and an exception that
    /// was thrown into the request by its wait.
    ///
    /// # Parks
    fn flush_quietly(&self, py: Python<'_>) {
        let Some((framed, sent)) = self.flush_held(py) else { return };
        // Only gives the lock on sending back.
        let _ = self.sent(framed, Ok(()));
        let Err(failure) = sent else { return };
        match failure {
            Failure::Killed => interrupts::postpone(Wake::Killed),
            Failure::Interrupted => interrupts::postpone(Wake::Interrupted),
            Failure::Gone(_) | Failure::TimedOut => {}
        }
        self.note_failure(&failure);
        self.answer().rare().held_failure = Some(failure);
    }

    fn raise_held_failure(&self) -> PyResult<()> {
        let failure = self.answer().rare.as_mut().and_then(|rare| rare.held_failure.take());
        failure.map_or(Ok(()), |failure| Err(failure_error(failure)))
    }
}

/// The action before a wait of the loop's running unit.
fn flush_before_wait() {
    held::send_answers();
    if let Some(holder) = HOLDER.take() {
        Python::attach(|py| {
            holder.get().flush_quietly(py);
            drop(holder);
        });
    }
}
