//! One WebSocket on its socket: messages that have arrived, bytes to be sent, and the end of the connection.
//!
//! Nothing here waits. System calls are tried, and the waiters whom the outcome concerns are notified.

mod deadlines;
mod pinging;
mod reading;
mod sharing;
mod waiting_message;

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use pyo3::Python;

use super::settings::{AcceptOptions, WebSocketSettings};
use crate::interp::{EventWaiter, Waiter};
use crate::net::{Pace, Stream};
use crate::websocket::close_codes::{GOING_AWAY, NORMAL, SERVICE_RESTART};
use crate::websocket::closing::{Close, Closing, ClosingAction, ClosingEvent, Violation};
use crate::websocket::extension::Agreement;
use crate::websocket::protocol::{MessageKind, Protocol};
use crate::wsgi::StopFlag;

pub use sharing::{Membership, Offered};
pub use waiting_message::WaitingMessage;

/// Bytes of messages that may wait for the application. Then reading pauses, and TCP holds up the client. asyncio's
/// `websockets` takes 16 messages, aiohttp 64 KiB.
const UNREAD_BYTES: usize = 64 * 1024;

/// Bytes read at a time.
const READ_BYTES: usize = 16 * 1024;

/// The code and reason of a close by a server that stops.
const STOPS: (u16, &str) = (GOING_AWAY, "the server stops");

/// The code and reason of a close by a server that another process replaces.
const RESTARTS: (u16, &str) = (SERVICE_RESTART, "the server restarts");

thread_local! {
    /// The thread's buffer: every connection reads into it, and writes its frames there, in turn.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A moment on the loop, where messages arrive.
#[derive(Clone, Copy)]
pub(super) struct WireTime<'py> {
    pub py: Python<'py>,
    pub now: Instant,
}

/// A keep-alive ping that waits for its answer. Positions count all bytes that are sent on the connection.
struct Ping {
    /// When it was sent, or when the client was last given more time.
    at: Instant,
    /// Where it ends.
    end: i64,
    /// The position up to which the client had acknowledged then.
    acknowledged: i64,
}

/// Reading after a stop of the server: the application still gets the messages that had arrived by then.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Drain {
    /// The server has not stopped.
    Not,
    /// Bytes that the kernel held at the stop and that are still to be read; enciphered ones under TLS.
    Left(u64),
    /// Those bytes have been read. Later messages are dropped.
    Done,
}

/// One connection and its waiters.
pub(super) struct Wire {
    stream: Arc<Stream>,
    settings: Arc<WebSocketSettings>,
    options: AcceptOptions,
    stop: StopFlag,
    protocol: Protocol,
    /// Bytes received, at first those that came with the head of the request. Those from `parsed` on are not parsed
    /// yet.
    received: Vec<u8>,
    parsed: usize,
    incoming: VecDeque<WaitingMessage>,
    incoming_bytes: usize,
    /// Frames to be sent, of which the first `sent` bytes have been.
    outgoing: Vec<u8>,
    sent: usize,
    /// Bytes sent since the beginning.
    pub sent_bytes: u64,
    /// The stream still holds bytes that it was given (TLS).
    stream_holds_bytes: bool,
    /// Waiters for a message. Messages arrive on the loop thread alone.
    pub receivers: VecDeque<EventWaiter>,
    pub senders: VecDeque<Arc<Waiter>>,
    /// Waiters for answers to pings.
    pub pingers: VecDeque<Arc<Waiter>>,
    pub enders: VecDeque<Arc<Waiter>>,
    /// The collections that the connection leaves when it closes.
    memberships: Vec<Weak<dyn Membership>>,
    /// Reading pauses: the application leaves too much unread, or the client too much of what it is sent.
    is_paused: bool,
    /// The loop has to look after the stream, though the poller reports nothing.
    pub wants_attention: bool,
    /// The application has taken a message without asking for the next one, so it may be answering.
    is_answering: bool,
    drain: Drain,
    /// The time until which the application may answer after a stop of the server.
    stop_deadline: Option<Instant>,
    /// The patience with a client for whom senders wait.
    pace: Pace,
    /// When senders were last seen waiting, and how many bytes the client had acknowledged then.
    waited_for: Option<(Instant, i64)>,
    /// Bytes received since our close.
    crossing_bytes: usize,
    /// When the closing handshake must be over.
    close_deadline: Option<Instant>,
    /// The stream has the deadline of the next ping, or one before it.
    awaits_deadline: bool,
    /// When bytes of the client last came.
    last_heard: Instant,
    /// The last keep-alive ping, until the client is heard.
    pinged: Option<Ping>,
    /// The time that the last answered ping took.
    latency: Option<Duration>,
    /// A line for the log. Logging may wait, so it comes after the lock is released.
    pub note: Option<String>,
}

impl Wire {
    /// A connection on which `head` is still to be sent, and of which `early` came with the request.
    pub fn new(
        stream: Arc<Stream>,
        settings: Arc<WebSocketSettings>,
        options: AcceptOptions,
        agreement: Option<Agreement>,
        stop: StopFlag,
        head: Vec<u8>,
        early: Vec<u8>,
    ) -> Wire {
        Wire {
            protocol: Protocol::new(options.message_bytes, agreement),
            last_heard: Instant::now(),
            pace: Pace::new(settings.send_timeout, settings.min_send_rate),
            stream,
            settings,
            options: options.with_own_interval(),
            stop,
            received: early,
            parsed: 0,
            incoming: VecDeque::new(),
            incoming_bytes: 0,
            outgoing: head,
            sent: 0,
            sent_bytes: 0,
            stream_holds_bytes: false,
            receivers: VecDeque::new(),
            senders: VecDeque::new(),
            pingers: VecDeque::new(),
            enders: VecDeque::new(),
            memberships: Vec::new(),
            is_paused: false,
            wants_attention: false,
            is_answering: false,
            drain: Drain::Not,
            stop_deadline: None,
            waited_for: None,
            crossing_bytes: 0,
            close_deadline: None,
            awaits_deadline: false,
            pinged: None,
            latency: None,
            note: None,
        }
    }

    /// How far the connection has closed.
    pub fn closing(&self) -> &Closing {
        self.protocol.closing()
    }

    /// Takes the next message that has arrived.
    pub fn pop(&mut self) -> Option<WaitingMessage> {
        let message = self.incoming.pop_front();
        self.is_answering = message.is_some();
        let message = message?;
        self.incoming_bytes -= message.cost();
        Some(message)
    }

    /// Whether a receiver need not wait: a message is there, or none will come.
    pub fn is_receivable(&self) -> bool {
        !self.incoming.is_empty() || !self.closing().is_open() || self.drain == Drain::Done
    }

    /// Whether a sender need not wait: there is room, or nothing can be sent.
    pub fn is_sendable(&self) -> bool {
        self.closing().close().is_some() || self.backlog() < self.settings.queue_bytes
    }

    /// Bytes that wait to be sent.
    pub fn backlog(&self) -> usize {
        self.outgoing.len() - self.sent
    }

    /// Queues the frame that `write` writes, and sends what the kernel takes now.
    pub fn put(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.outgoing);
        self.flush();
    }

    /// Queues a message, and sends what the kernel takes now. For `alone` see [`Protocol::write_message`].
    // Not part of its caller, which may wait for room: the frame would add to that of a coroutine that waits.
    #[inline(never)]
    pub fn put_message(&mut self, kind: MessageKind, payload: &[u8], alone: Option<&[u8]>) {
        if !self.sends_directly() || payload.len() > READ_BYTES {
            self.protocol.write_message(&mut self.outgoing, kind, payload, alone);
            return self.flush();
        }
        // The usual case: the kernel takes the frame. Only what it leaves needs memory of this connection.
        if let Some(frame) = self.protocol.short_frame(kind, payload) {
            return self.send_directly(frame.as_bytes());
        }
        BUFFER.with(|kept| {
            let mut frame = kept.take();
            frame.clear();
            self.protocol.write_message(&mut frame, kind, payload, alone);
            self.send_directly(&frame);
            kept.set(frame);
        });
    }

    /// Whether a frame may go to the kernel without the queue.
    fn sends_directly(&self) -> bool {
        self.backlog() == 0 && !self.stream.is_encrypted()
    }

    /// Sends a frame, and queues what the kernel leaves of it. For a connection that [`Self::sends_directly`].
    fn send_directly(&mut self, frame: &[u8]) {
        match self.stream.give_now(frame) {
            Ok(sent) => {
                self.sent_bytes += sent as u64;
                if let Some(rest) = frame.get(sent..).filter(|rest| !rest.is_empty()) {
                    self.outgoing.extend_from_slice(rest);
                    self.flush();
                }
            }
            Err(error) => self.lose(&error.to_string()),
        }
    }

    /// Sends what the kernel takes now, and notifies the waiters whom it concerns.
    #[inline]
    pub fn flush(&mut self) {
        let has_nothing = self.backlog() == 0 && !self.stream_holds_bytes && !self.closing().is_flushing();
        if !self.closing().is_over() && !has_nothing {
            self.flush_now();
        }
    }

    #[inline(never)]
    fn flush_now(&mut self) {
        if let Err(error) = self.try_to_flush() {
            return self.lose(&error.to_string());
        }
        if self.backlog() < self.settings.queue_bytes {
            self.check_pace();
            self.waited_for = None;
            for sender in self.senders.drain(..) {
                sender.notify();
            }
        }
        if self.closing().is_flushing() && self.backlog() == 0 && !self.stream_holds_bytes {
            self.apply(ClosingEvent::Flushed);
        }
    }

    fn try_to_flush(&mut self) -> io::Result<()> {
        while self.backlog() > 0 {
            let sent = self.stream.give_now(self.outgoing.get(self.sent..).unwrap_or_default())?;
            if sent == 0 {
                break;
            }
            self.sent += sent;
            self.sent_bytes += sent as u64;
        }
        if self.backlog() == 0 {
            // Most connections are idle most of the time.
            (self.outgoing, self.sent) = (Vec::new(), 0);
        } else if self.sent > READ_BYTES {
            self.outgoing.drain(..self.sent);
            self.sent = 0;
        }
        self.stream_holds_bytes = !self.stream.flush_now()?;
        Ok(())
    }

    /// Begins the closing handshake. Returns false if the connection is closing already.
    pub fn begin_close(&mut self, code: u16, reason: &str) -> bool {
        if self.closing().close().is_some() {
            return false;
        }
        self.set_close_deadline();
        self.wants_attention = true;
        if self.fail_now() {
            return true;
        }
        self.apply(ClosingEvent::OwnClose(Close { code, reason: reason.to_owned() }));
        self.incoming.clear();
        self.incoming_bytes = 0;
        self.flush();
        true
    }

    /// Begins to drain the connection: the server stops. Until the time for a closing handshake has passed, the
    /// application may take and answer the messages that have arrived.
    pub fn begin_stop(&mut self) {
        if self.drain == Drain::Not {
            self.drain = Drain::Left(self.stream.unread_bytes());
            self.stop_deadline = self.settings.close_timeout.map(|timeout| Instant::now() + timeout);
            self.wants_attention = true;
        }
    }

    /// Closes the connection of a stopping server once the application has taken and answered what had arrived. Returns
    /// whether it did.
    pub fn end_stop(&mut self) -> bool {
        let is_done = self.drain == Drain::Done && self.incoming.is_empty() && !self.is_answering;
        is_done && self.close_for_stop()
    }

    /// Begins the closing handshake of a server that stops. Returns false if the connection is closing already.
    fn close_for_stop(&mut self) -> bool {
        let (code, reason) = self.close_of_stop();
        self.begin_close(code, reason)
    }

    /// The code and reason of a close by the server that stops.
    fn close_of_stop(&self) -> (u16, &'static str) {
        if self.stop.restarts() { RESTARTS } else { STOPS }
    }

    /// The code and reason of the close when the application is done with the connection.
    pub fn last_close(&self, code: u16) -> (u16, &'static str) {
        if self.drain == Drain::Not || code != NORMAL { (code, "") } else { self.close_of_stop() }
    }

    /// Fails the connection for the rule that the client broke, if it broke one. Returns whether it did.
    #[inline]
    pub fn fail_now(&mut self) -> bool {
        self.closing().violation().is_some_and(|violation| {
            self.fail_for(violation);
            true
        })
    }

    #[cold]
    fn fail_for(&mut self, violation: Violation) {
        self.note = Some(format!("A WebSocket is closed with {}: {}", violation.code, violation.rule));
        self.apply(ClosingEvent::ViolationDue);
        self.flush();
    }

    /// Gives the connection up.
    pub fn lose(&mut self, cause: &str) {
        if self.closing().close().is_none() {
            self.note = Some(format!("A WebSocket's client is gone: {cause}"));
        }
        self.apply(ClosingEvent::Lost(cause.to_owned()));
    }

    /// Applies an event of the closing, and notifies the waiters whom it concerns.
    fn apply(&mut self, event: ClosingEvent) {
        match self.protocol.apply(event, &mut self.outgoing) {
            ClosingAction::Nothing => return,
            ClosingAction::SendClose(..) => {}
            ClosingAction::EndStream => self.stream.end_writing(),
            ClosingAction::Abort => {
                self.outgoing = Vec::new();
                self.sent = 0;
                self.stream.shutdown_both();
            }
        }
        self.notify_of_closing();
    }

    /// Wakes receivers, senders and pingers once the connection closes, and enders once it is over.
    #[inline]
    fn notify_of_closing(&mut self) {
        if self.closing().close().is_some() {
            self.notify_all();
        }
    }

    #[cold]
    fn notify_all(&mut self) {
        let enders = if self.closing().is_over() { std::mem::take(&mut self.enders) } else { VecDeque::new() };
        for receiver in self.receivers.drain(..) {
            receiver.notify();
        }
        for waiter in self.senders.drain(..).chain(self.pingers.drain(..)).chain(enders) {
            waiter.notify();
        }
    }
}
