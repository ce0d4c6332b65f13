//! A WebSocket with its waiters: coroutines and OS threads that receive and send, and the request that ends.
//!
//! The loop reads whenever bytes arrive, so pings are answered and a close is seen while the application does other
//! things. Reading pauses while the application leaves too much unread. Senders write at once, from any thread; the
//! loop sends what the kernel did not take, whole messages one after the other. The lock is held over system calls that
//! do not wait, never over a park.

mod sharing;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use pyo3::exceptions::PyTimeoutError;
use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use pyo3::types::PyBytes;

use super::compressing::compress_alone;
use super::on_the_loop;
use super::settings::{AcceptOptions, WebSocketSettings};
use super::wire::{WaitingMessage, Wire, WireTime};
use crate::event_loop::reasons::{self, Reason};
use crate::event_loop::{self, SourceId, StreamWatcher, streams, turn};
use crate::interp::{self, Level, WaitReason, Waiter, log};
use crate::net::Stream;
use crate::sync::recover;
use crate::websocket::closing::Close;
use crate::websocket::extension::Agreement;
use crate::websocket::pings::Latency;
use crate::websocket::protocol::{Message, MessageKind};
use crate::wsgi::StopFlag;
use crate::wsgi::text::string;

/// One connection.
pub struct WebSocketSession {
    source: SourceId,
    stream: Arc<Stream>,
    /// The compression that the handshake has agreed on.
    agreement: Option<Agreement>,
    wire: Mutex<Wire>,
}

impl WebSocketSession {
    /// A session that still has to send `head`. The client sent `early` behind its request.
    pub fn new(
        stream: Arc<Stream>,
        settings: Arc<WebSocketSettings>,
        options: AcceptOptions,
        agreement: Option<Agreement>,
        stop: StopFlag,
        head: Vec<u8>,
        early: Vec<u8>,
    ) -> WebSocketSession {
        let source = stream.source();
        let wire = Mutex::new(Wire::new(Arc::clone(&stream), settings, options, agreement, stop, head, early));
        WebSocketSession { source, stream, agreement, wire }
    }

    /// Sends the head and begins to receive. From any thread.
    ///
    /// # Errors
    /// When the loop has ended.
    pub fn start(self: &Arc<Self>, py: Python<'_>) -> PyResult<()> {
        let mut wire = self.lock(py);
        wire.flush();
        self.settle(py, wire)?;
        let watcher = Arc::clone(self) as Arc<dyn StreamWatcher>;
        let source = self.source;
        on_the_loop(py, move || streams::set_stream_watcher(source, Some(watcher)))
    }

    /// Why the connection is closed or closing; none while messages may be sent.
    pub fn close_of(&self, py: Python<'_>) -> Option<Close> {
        self.lock(py).closing().close().cloned()
    }

    /// Bytes sent so far.
    pub fn sent_bytes(&self, py: Python<'_>) -> u64 {
        self.lock(py).sent_bytes
    }

    /// Bytes that wait for a slow client.
    pub fn buffered(&self, py: Python<'_>) -> usize {
        self.lock(py).backlog()
    }

    /// Waits for the next message, a str for text or bytes for binary; none when the connection is closed.
    ///
    /// # Errors
    /// TimeoutError at `deadline`; see [`interp::wait`].
    ///
    /// # Parks
    pub fn receive<'py>(
        self: &Arc<Self>,
        py: Python<'py>,
        deadline: Option<Instant>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let mut wire = match self.take_message(py, true) {
            TakenMessage::Outcome(outcome) => return outcome.map_err(|error| *error),
            TakenMessage::Nothing(wire) => wire,
        };
        loop {
            let is_late = !self.wait_for_message(py, deadline, wire)?;
            // A message that comes together with the deadline is taken.
            wire = match self.take_message(py, false) {
                TakenMessage::Outcome(outcome) => return outcome.map_err(|error| *error),
                TakenMessage::Nothing(_) if is_late => return Err(no_message()),
                TakenMessage::Nothing(wire) => wire,
            };
        }
    }

    /// Takes a message that is there. A call that does not wait gives way first if `gives_way` is set.
    ///
    /// # Parks
    // Not part of its caller: frames that coroutines wait in should be small.
    #[inline(never)]
    fn take_message<'py>(&self, py: Python<'py>, gives_way: bool) -> TakenMessage<'_, 'py> {
        let mut wire = self.lock(py);
        if gives_way && wire.is_receivable() && turn::is_spent() {
            drop(wire);
            if let Err(error) = interp::give_way(py) {
                return TakenMessage::Outcome(Err(Box::new(error)));
            }
            wire = self.lock(py);
        }
        let message = wire.pop();
        if message.is_none() && wire.closing().close().is_none() && !wire.fail_now() && !wire.end_stop() {
            return TakenMessage::Nothing(wire);
        }
        if let Err(error) = self.settle(py, wire) {
            return TakenMessage::Outcome(Err(Box::new(error)));
        }
        TakenMessage::Outcome(match message {
            Some(WaitingMessage::Object(object, _)) => Ok(Some(object.into_bound(py))),
            Some(WaitingMessage::Message(message)) => object_of(py, message).map(Some).map_err(Box::new),
            None => Ok(None),
        })
    }

    /// Sends a message as soon as there is room for it.
    ///
    /// # Errors
    /// The inner result says why the connection is closed. The outer one is TimeoutError if there is no room at
    /// `deadline`; nothing of the message is sent then. See also [`interp::wait`].
    ///
    /// # Parks
    pub fn send(
        self: &Arc<Self>,
        py: Python<'_>,
        kind: MessageKind,
        payload: &[u8],
        deadline: Option<Instant>,
    ) -> PyResult<Result<(), Close>> {
        let alone = match self.agreement {
            Some(agreement) => compress_alone(py, agreement, payload)?,
            None => None,
        };
        self.put(py, deadline, |wire| wire.put_message(kind, payload, alone.as_deref()))
    }

    /// Sends a ping as soon as there is room for it; see [`Wire::send_ping`].
    ///
    /// # Errors
    /// As [`Self::send`].
    ///
    /// # Parks
    pub fn ping(
        self: &Arc<Self>,
        py: Python<'_>,
        payload: Option<&[u8]>,
        latency: &Latency,
        deadline: Option<Instant>,
    ) -> PyResult<Result<bool, Close>> {
        self.put(py, deadline, |wire| wire.send_ping(payload, latency))
    }

    /// Waits for the answer to a ping.
    ///
    /// # Errors
    /// The inner result says why the connection is closed. The outer one is TimeoutError at `deadline`; see also
    /// [`interp::wait`].
    ///
    /// # Parks
    pub fn wait_for_pong(
        self: &Arc<Self>,
        py: Python<'_>,
        latency: &Latency,
        deadline: Option<Instant>,
    ) -> PyResult<Result<Duration, Close>> {
        let reason = self.reason(Reason::WebSocket).with(reasons::PONG);
        loop {
            if let Some(&latency) = latency.get() {
                return Ok(Ok(latency));
            }
            if let Some(close) = self.close_of(py) {
                return Ok(Err(close));
            }
            let is_answered = |wire: &Wire| latency.get().is_some() || wire.closing().close().is_some();
            if !self.wait(py, reason, deadline, is_answered, |wire| &mut wire.pingers)? {
                return Err(PyTimeoutError::new_err("the client did not answer the ping in time"));
            }
        }
    }

    fn put<T>(
        self: &Arc<Self>,
        py: Python<'_>,
        deadline: Option<Instant>,
        put: impl FnOnce(&mut Wire) -> T,
    ) -> PyResult<Result<T, Close>> {
        interp::give_way(py)?;
        loop {
            let mut wire = self.lock(py);
            if let Some(close) = wire.closing().close() {
                return Ok(Err(close.clone()));
            }
            if wire.is_sendable() {
                let outcome = put(&mut wire);
                self.settle(py, wire)?;
                return Ok(Ok(outcome));
            }
            self.wait_for_room(py, deadline, wire)?;
        }
    }

    /// Waits until there may be room for a message. The client's pace is checked at times.
    ///
    /// # Errors
    /// TimeoutError if `deadline` has passed.
    ///
    /// # Parks
    // Not part of its caller, which rarely has to wait: what this function keeps at hand would cost every message.
    #[inline(never)]
    fn wait_for_room(&self, py: Python<'_>, deadline: Option<Instant>, mut wire: MutexGuard<'_, Wire>) -> PyResult<()> {
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            let message = format!("no room for the message in time: {} bytes wait for the client", wire.backlog());
            drop(wire);
            return Err(PyTimeoutError::new_err(message));
        }
        let check = wire.next_pace_check().map(|patience| Instant::now() + patience);
        drop(wire);
        let wake = check.into_iter().chain(deadline).min();
        let is_notified =
            self.wait(py, self.reason(Reason::Client), wake, Wire::is_sendable, |wire| &mut wire.senders)?;
        if !is_notified && check.is_some_and(|check| check <= Instant::now()) {
            let mut wire = self.lock(py);
            wire.check_pace();
            self.settle(py, wire)?;
        }
        Ok(())
    }

    /// When bytes of the client last came; at first, when the connection was accepted.
    pub fn last_heard(&self, py: Python<'_>) -> Instant {
        self.lock(py).last_heard()
    }

    /// The time that the last answered ping took.
    pub fn latency(&self, py: Python<'_>) -> Option<Duration> {
        self.lock(py).latency()
    }

    /// Begins the closing handshake, unless the connection is closing already. Does not wait for its end.
    ///
    /// # Errors
    /// When the loop has ended.
    pub fn close(self: &Arc<Self>, py: Python<'_>, code: u16, reason: &str) -> PyResult<()> {
        let mut wire = self.lock(py);
        wire.begin_close(code, reason);
        self.settle(py, wire)
    }

    /// As [`Self::close`], when the application is done with the connection. A server that stops has a code of its own.
    ///
    /// # Errors
    /// When the loop has ended.
    pub fn close_at_the_end(self: &Arc<Self>, py: Python<'_>, code: u16) -> PyResult<()> {
        let mut wire = self.lock(py);
        let (code, reason) = wire.last_close(code);
        wire.begin_close(code, reason);
        self.settle(py, wire)
    }

    /// Begins to drain the connection of a stopping server: messages that have arrived are handed out, then it is
    /// closed. From any thread.
    ///
    /// # Errors
    /// When the loop has ended.
    pub fn begin_stop(self: &Arc<Self>, py: Python<'_>) -> PyResult<()> {
        let mut wire = self.lock(py);
        wire.begin_stop();
        self.settle(py, wire)
    }

    /// Ends the request: closes, waits for the end of the closing handshake, and releases the stream. On the loop.
    ///
    /// # Parks
    pub fn finish(self: &Arc<Self>, py: Python<'_>, code: u16) {
        let mut wire = self.lock(py);
        let (code, reason) = wire.last_close(code);
        if !wire.begin_close(code, reason) {
            // The client has closed. It gets the time of a closing handshake to take what is queued.
            wire.set_close_deadline();
        }
        // Settling does not fail on the loop.
        let _ = self.settle(py, wire);
        // Reading may have paused, with the client's close behind messages that the application has left unread.
        self.look(Instant::now());
        let ended =
            self.wait(py, self.reason(Reason::Client), None, |wire| wire.closing().is_over(), |wire| &mut wire.enders);
        if ended.is_err() {
            let mut wire = self.lock(py);
            wire.lose("the server stops");
            let _ = self.settle(py, wire);
        }
        streams::set_stream_watcher(self.source, None);
        streams::set_deadline(self.source, None);
    }

    /// Waits in `queue` until notified; does not wait if `is_met`. Returns false at the deadline.
    ///
    /// # Parks
    fn wait(
        &self,
        py: Python<'_>,
        reason: WaitReason,
        deadline: Option<Instant>,
        is_met: impl FnOnce(&Wire) -> bool,
        queue: impl Fn(&mut Wire) -> &mut VecDeque<Arc<Waiter>>,
    ) -> PyResult<bool> {
        interp::wait(
            py,
            reason,
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

    /// Waits until a message may be there, or none will come. At present neither is the case. Returns false at the
    /// deadline.
    ///
    /// # Parks
    #[inline]
    fn wait_for_message<'a>(
        &'a self,
        py: Python<'_>,
        deadline: Option<Instant>,
        mut wire: MutexGuard<'a, Wire>,
    ) -> PyResult<bool> {
        // The action may itself wait, so it comes without the lock.
        if event_loop::acts_before_wait() && event_loop::can_park() {
            drop(wire);
            event_loop::act_before_wait();
            wire = self.lock(py);
            if wire.is_receivable() {
                return Ok(true);
            }
        }
        let enqueue = move |waiter| {
            wire.receivers.push_back(waiter);
            true
        };
        interp::wait_for_event(py, self.reason(Reason::WebSocket), deadline, enqueue, |is_own| {
            self.lock(py).receivers.retain(|other| !is_own(other));
        })
    }

    fn reason(&self, reason: Reason) -> WaitReason {
        WaitReason::number(reason, u64::from(self.stream.descriptor().unsigned_abs()))
    }

    #[inline]
    fn lock<'a>(&'a self, py: Python<'_>) -> MutexGuard<'a, Wire> {
        match self.wire.try_lock() {
            Ok(wire) => wire,
            Err(_) => self.wait_for_lock(py),
        }
    }

    #[cold]
    fn wait_for_lock<'a>(&'a self, py: Python<'_>) -> MutexGuard<'a, Wire> {
        // Another thread may hold the lock over a system call: meanwhile this one is detached.
        recover(self.wire.lock_py_attached(py))
    }

    /// Releases the lock, then does the work that is forbidden under it. Logging and TLS run Python code, which may
    /// wait.
    #[inline(always)]
    fn settle<'a>(&'a self, py: Python<'_>, wire: MutexGuard<'a, Wire>) -> PyResult<()> {
        if wire.is_unsettled() { self.settle_now(py, wire) } else { Ok(()) }
    }

    #[cold]
    fn settle_now<'a>(&'a self, py: Python<'_>, mut wire: MutexGuard<'a, Wire>) -> PyResult<()> {
        loop {
            let note = wire.note.take();
            let gatherings = wire.take_gatherings();
            let wants_attention = wire.resume() || std::mem::take(&mut wire.wants_attention);
            drop(wire);
            if wants_attention {
                let source = self.source;
                on_the_loop(py, move || streams::watch_later(source))?;
            }
            for gathering in gatherings.iter().filter_map(Weak::upgrade) {
                gathering.forget(self.key());
            }
            if let Some(note) = note {
                log(py, Level::Debug, &note, None);
            }
            if !self.stream.has_work() || !self.stream.work(false) {
                return Ok(());
            }
            wire = self.lock(py);
            wire.flush();
        }
    }

    /// Moves enciphered bytes, then calls `look` under the lock. On the loop, where settling does not fail.
    fn look_after(&self, now: Instant, look: impl FnOnce(&mut Wire, WireTime<'_>)) {
        Python::attach(|py| {
            self.stream.work(true);
            // The work on an encrypted stream may have waited.
            let now = if self.stream.is_encrypted() { Instant::now() } else { now };
            let mut wire = self.lock(py);
            look(&mut wire, WireTime { py, now });
            let _ = self.settle(py, wire);
        });
    }
}

/// The outcome of a look for a message.
enum TakenMessage<'a, 'py> {
    /// The outcome of the call: a message, or none where none will come. The error is boxed, since it is large and rare.
    Outcome(Result<Option<Bound<'py, PyAny>>, Box<PyErr>>),
    /// No message is there, and one may come.
    Nothing(MutexGuard<'a, Wire>),
}

/// A message as the application gets it.
#[inline(never)]
fn object_of(py: Python<'_>, message: Message) -> PyResult<Bound<'_, PyAny>> {
    Ok(match message {
        Message::Text(text) => string(py, &text)?.into_any(),
        Message::Binary(data) => PyBytes::new(py, &data).into_any(),
    })
}

#[cold]
fn no_message() -> PyErr {
    PyTimeoutError::new_err("no message arrived in time")
}

impl StreamWatcher for WebSocketSession {
    fn look(&self, now: Instant) {
        self.look_after(now, Wire::look);
    }

    fn expired(&self) {
        self.look_after(Instant::now(), Wire::expire);
    }

    fn stop(&self) {
        self.look_after(Instant::now(), |wire, moment| {
            wire.begin_stop();
            wire.look(moment);
        });
    }
}
