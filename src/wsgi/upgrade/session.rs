//! Those who wait for a WebSocket: coroutines and OS threads that receive and send, and the request that ends.
//!
//! The loop reads, whenever something arrives and whoever runs: so pings are answered and a close is seen while the
//! application does other things. It stops while the application leaves too much unread. Senders write at once, from any
//! thread; what the client does not take waits, whole messages one after the other, and the loop sends it on. The lock is
//! held over system calls that do not wait, never over a park.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use pyo3::exceptions::PyTimeoutError;
use pyo3::prelude::*;
use pyo3::sync::MutexExt;

use super::wire::{SessionSettings, Wire};
use crate::event_loop::{self, Attendant, Message as LoopMessage, SourceId, streams};
use crate::interp::{self, Level, Waiter, log};
use crate::net::Stream;
use crate::websocket::protocol::{self, Close, Kind, Message};

/// The server stops (RFC 6455 7.4.1).
const GOING_AWAY: u16 = 1001;

/// One connection.
pub struct Session {
    source: SourceId,
    settings: Arc<SessionSettings>,
    wire: Mutex<Wire>,
}

impl Session {
    /// A session that has still to send `head`, and was sent `early` with the request.
    pub fn new(stream: Arc<Stream>, settings: Arc<SessionSettings>, head: Vec<u8>, early: Vec<u8>) -> Session {
        let source = stream.source();
        Session { source, wire: Mutex::new(Wire::new(stream, Arc::clone(&settings), head, early)), settings }
    }

    /// Sends the head and begins to receive. From any thread.
    ///
    /// # Errors
    /// When the loop has ended.
    pub fn start(self: &Arc<Self>, py: Python<'_>) -> PyResult<()> {
        self.lock(py).flush();
        let attendant = Arc::clone(self) as Arc<dyn Attendant>;
        let source = self.source;
        on_the_loop(py, move || streams::set_attendant(source, Some(attendant)))
    }

    /// How it ended, or is ending.
    pub fn close_of(&self, py: Python<'_>) -> Option<Close> {
        self.lock(py).close.clone()
    }

    /// Bytes sent so far.
    pub fn sent_bytes(&self, py: Python<'_>) -> u64 {
        self.lock(py).sent_bytes
    }

    /// Bytes that wait for a slow client.
    pub fn buffered(&self, py: Python<'_>) -> usize {
        self.lock(py).backlog()
    }

    /// The next message; none when the connection is closed.
    ///
    /// # Errors
    /// TimeoutError at `deadline`; see [`interp::wait`].
    ///
    /// # Parks
    pub fn receive(self: &Arc<Self>, py: Python<'_>, deadline: Option<Instant>) -> PyResult<Option<Message>> {
        loop {
            let mut wire = self.lock(py);
            if let Some(message) = wire.pop() {
                let must_go_on = wire.must_go_on();
                drop(wire);
                if must_go_on {
                    self.attend_soon(py)?;
                }
                return Ok(Some(message));
            }
            if wire.close.is_some() || wire.fail_now() {
                unlock(py, wire);
                return Ok(None);
            }
            drop(wire);
            if !self.wait(py, deadline, Wire::is_receivable, |wire| &mut wire.receivers)? {
                return Err(PyTimeoutError::new_err("no message arrived in time"));
            }
        }
    }

    /// Sends a message, once there is room for it.
    ///
    /// # Errors
    /// In the inner result, how the connection ended; see [`interp::wait`].
    ///
    /// # Parks
    pub fn send(self: &Arc<Self>, py: Python<'_>, kind: Kind, payload: &[u8]) -> PyResult<Result<(), Close>> {
        self.put(py, |out| protocol::write_message(out, kind, payload))
    }

    /// Sends a ping.
    ///
    /// # Errors
    /// As [`Self::send`].
    ///
    /// # Parks
    pub fn ping(self: &Arc<Self>, py: Python<'_>, payload: &[u8]) -> PyResult<Result<(), Close>> {
        self.put(py, |out| protocol::write_ping(out, payload))
    }

    fn put(self: &Arc<Self>, py: Python<'_>, write: impl FnOnce(&mut Vec<u8>)) -> PyResult<Result<(), Close>> {
        loop {
            let mut wire = self.lock(py);
            if let Some(close) = &wire.close {
                return Ok(Err(close.clone()));
            }
            if wire.is_sendable() {
                wire.put(write);
                unlock(py, wire);
                return Ok(Ok(()));
            }
            let before = wire.sent_bytes;
            drop(wire);
            let deadline = self.settings.send_timeout.map(|timeout| Instant::now() + timeout);
            let has_room = self.wait(py, deadline, Wire::is_sendable, |wire| &mut wire.senders)?;
            let mut wire = self.lock(py);
            if !has_room && wire.sent_bytes == before {
                wire.lose("it took nothing in time");
                unlock(py, wire);
            }
        }
    }

    /// Begins the closing handshake, unless the connection is closed already. Does not wait for its end.
    ///
    /// # Errors
    /// When the loop has ended.
    pub fn close(self: &Arc<Self>, py: Python<'_>, code: u16, reason: &str) -> PyResult<()> {
        if self.begin_close(py, code, reason) { self.attend_soon(py) } else { Ok(()) }
    }

    fn begin_close(&self, py: Python<'_>, code: u16, reason: &str) -> bool {
        let mut wire = self.lock(py);
        let begun = wire.begin_close(code, reason);
        unlock(py, wire);
        begun
    }

    /// The request is over: closes, waits for the end of the closing handshake, and lets go of the stream. On the loop.
    ///
    /// # Parks
    pub fn finish(self: &Arc<Self>, py: Python<'_>, code: u16, reason: &str) {
        if !self.begin_close(py, code, reason) {
            // The client has closed, and may not have taken everything yet.
            self.lock(py).set_close_deadline();
        }
        // Reading may have stopped at what the application has left unread, and the client's close is behind it.
        self.attend();
        let ended = self.wait(py, None, |wire| wire.is_over, |wire| &mut wire.enders);
        if ended.is_err() {
            let mut wire = self.lock(py);
            wire.lose("the server stops");
            unlock(py, wire);
        }
        streams::set_attendant(self.source, None);
        streams::set_deadline(self.source, None);
    }

    /// Waits in `queue` until notified, or not at all if `is_met`. Whether it was in time.
    ///
    /// # Parks
    fn wait(
        &self,
        py: Python<'_>,
        deadline: Option<Instant>,
        is_met: impl FnOnce(&Wire) -> bool,
        queue: impl Fn(&mut Wire) -> &mut VecDeque<Arc<Waiter>>,
    ) -> PyResult<bool> {
        interp::wait(
            py,
            deadline,
            |waiter| {
                let mut wire = self.lock(py);
                if is_met(&wire) {
                    waiter.notify();
                } else {
                    queue(&mut wire).push_back(waiter);
                }
            },
            |waiter| queue(&mut self.lock(py)).retain(|other| !Arc::ptr_eq(other, waiter)),
        )
    }

    fn lock<'a>(&'a self, py: Python<'_>) -> MutexGuard<'a, Wire> {
        // Detached while it waits: whoever holds the lock may need the interpreter, for TLS.
        self.wire.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner)
    }

    fn attend_soon(self: &Arc<Self>, py: Python<'_>) -> PyResult<()> {
        let session = Arc::clone(self);
        on_the_loop(py, move || session.attend())
    }
}

impl Attendant for Session {
    fn attend(&self) {
        Python::attach(|py| {
            let mut wire = self.lock(py);
            wire.attend();
            unlock(py, wire);
        });
    }

    fn expired(&self) {
        Python::attach(|py| {
            let mut wire = self.lock(py);
            wire.expire();
            unlock(py, wire);
        });
    }

    fn stop(&self) {
        Python::attach(|py| {
            self.begin_close(py, GOING_AWAY, "the server stops");
        });
        // As in `finish`.
        self.attend();
    }
}

/// Gives the lock back, then logs what there is to be said: logging may wait.
fn unlock(py: Python<'_>, mut wire: MutexGuard<'_, Wire>) {
    let note = wire.note.take();
    drop(wire);
    if let Some(note) = note {
        log(py, Level::Debug, &note, None);
    }
}

/// Runs `action` on the loop thread, now if that is where the caller is.
fn on_the_loop(py: Python<'_>, action: impl FnOnce() + Send + 'static) -> PyResult<()> {
    if event_loop::is_loop_thread() {
        action();
    } else {
        interp::ensure_started(py)?.send(LoopMessage::Control(Box::new(action)));
    }
    Ok(())
}
