//! One WebSocket on its socket: what was received and not yet taken, what waits to be sent, and how it ends.
//!
//! Nothing here waits: system calls are tried, and those who wait for their outcome are notified.

mod reading;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::event_loop::streams;
use crate::interp::Waiter;
use crate::net::{Pace, Stream};
use crate::websocket::close_codes::{GOING_AWAY, NORMAL};
use crate::websocket::closing::{Close, Closing, ClosingAction, ClosingEvent};
use crate::websocket::protocol::{self, Message, Protocol};

/// Bytes of messages that may wait for the application; then the client has to wait. asyncio's `websockets` takes 16
/// messages, aiohttp 64 KiB.
const UNREAD_BYTES: usize = 64 * 1024;

/// What a message costs beside its bytes, so that empty ones count as well.
const MESSAGE_BYTES: usize = 64;

/// Bytes read at a time.
const READ_BYTES: usize = 16 * 1024;

/// An idle connection keeps no larger buffer than this.
const KEPT_BYTES: usize = 512;

/// The reason that goes with [`GOING_AWAY`].
const STOPS: &str = "the server stops";

/// What of the settings concerns WebSockets. No duration is no limit.
#[derive(Clone, Debug)]
pub struct WebSocketSettings {
    /// Bytes of the longest message that is received.
    pub message_bytes: usize,
    /// Bytes that may wait to be sent; then senders wait.
    pub queue_bytes: usize,
    /// How long nothing may come before the client is pinged.
    pub ping_interval: Option<Duration>,
    /// How long it may take to say something then, unless it is still taking what was sent before.
    pub ping_timeout: Option<Duration>,
    /// How long the closing handshake may take.
    pub close_timeout: Option<Duration>,
    /// How long the client may take without taking anything.
    pub send_timeout: Option<Duration>,
    /// Bytes a second that it must take in the long run while senders wait; 0 for no such rule.
    pub min_send_rate: u32,
    /// The origins that browsers may come from; none: all.
    pub origins: Option<Vec<String>>,
}

/// A ping that waits for its answer. Places are in all that is sent, in bytes from its beginning.
struct Ping {
    /// When it was sent, or when the client was last excused.
    at: Instant,
    /// Where it ends.
    end: i64,
    /// How much the client had taken then.
    taken: i64,
}

/// Reading after a stop of the server: the application still gets the messages that had arrived by then.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Drain {
    /// The server has not stopped.
    Not,
    /// Bytes that the kernel held at the stop and that are still to be read; enciphered ones under TLS.
    Left(u64),
    /// All of them have been read. Later messages are dropped.
    Done,
}

/// One connection and those who wait for it.
pub(super) struct Wire {
    stream: Arc<Stream>,
    settings: Arc<WebSocketSettings>,
    protocol: Protocol,
    /// Received and not yet looked at, from `looked_at` on: at first what came with the head of the request.
    received: Vec<u8>,
    looked_at: usize,
    incoming: VecDeque<Message>,
    incoming_bytes: usize,
    outgoing: Vec<u8>,
    /// So much of `outgoing` has been sent.
    sent: usize,
    /// In all.
    pub sent_bytes: u64,
    /// Not all that was given to the stream has left.
    is_flushing: bool,
    pub receivers: VecDeque<Arc<Waiter>>,
    pub senders: VecDeque<Arc<Waiter>>,
    pub enders: VecDeque<Arc<Waiter>>,
    /// The application leaves too much unread, or the client what it is sent.
    is_paused: bool,
    /// The loop has to look after the stream, beyond what the poller tells it.
    pub wants_attention: bool,
    /// The application has taken a message and not asked for the next one: it may be answering.
    is_answering: bool,
    stop: Drain,
    /// When the application must have answered, once the server stops.
    stop_deadline: Option<Instant>,
    /// The patience with a client that senders wait for, and since when, from what on, they do.
    pace: Pace,
    waited_for: Option<(Instant, i64)>,
    /// Bytes that have come since our close.
    crossing_bytes: usize,
    /// When the closing handshake must be over.
    close_deadline: Option<Instant>,
    last_heard: Option<Instant>,
    /// The last ping, if the client has not been heard since.
    pinged: Option<Ping>,
    /// For the log, which may wait: not under the lock.
    pub note: Option<String>,
}

impl Wire {
    /// A connection that has still to send `head`, and was sent `early` with the request.
    pub fn new(stream: Arc<Stream>, settings: Arc<WebSocketSettings>, head: Vec<u8>, early: Vec<u8>) -> Wire {
        Wire {
            protocol: Protocol::new(settings.message_bytes),
            last_heard: settings.ping_interval.map(|_| Instant::now()),
            pace: Pace::new(settings.send_timeout, settings.min_send_rate),
            stream,
            settings,
            received: early,
            looked_at: 0,
            incoming: VecDeque::new(),
            incoming_bytes: 0,
            outgoing: head,
            sent: 0,
            sent_bytes: 0,
            is_flushing: false,
            receivers: VecDeque::new(),
            senders: VecDeque::new(),
            enders: VecDeque::new(),
            is_paused: false,
            wants_attention: false,
            is_answering: false,
            stop: Drain::Not,
            stop_deadline: None,
            waited_for: None,
            crossing_bytes: 0,
            close_deadline: None,
            pinged: None,
            note: None,
        }
    }

    /// How far the connection has closed.
    pub fn closing(&self) -> &Closing {
        self.protocol.closing()
    }

    /// The next message that has arrived.
    pub fn pop(&mut self) -> Option<Message> {
        let message = self.incoming.pop_front();
        self.is_answering = message.is_some();
        let message = message?;
        self.incoming_bytes -= message.size() + MESSAGE_BYTES;
        Some(message)
    }

    /// Notes that reading goes on, if it had stopped and may, or if the stream has more by now. Whether it does: nothing
    /// else would say so to the loop.
    pub fn goes_on(&mut self) -> bool {
        let goes_on = self.closing().is_reading() && self.has_room() && (self.is_paused || self.stream.has_more());
        self.is_paused &= !goes_on;
        goes_on
    }

    /// Whether the client may send more. One that pings and does not read has to wait, too.
    fn has_room(&self) -> bool {
        let queue = self.settings.queue_bytes;
        let (unread, unsent) =
            if self.is_paused { (UNREAD_BYTES / 2, queue) } else { (UNREAD_BYTES, queue.saturating_add(READ_BYTES)) };
        self.incoming_bytes < unread && self.backlog() <= unsent
    }

    /// Whether nobody has to wait to receive: there is something, or nothing will come.
    pub fn is_receivable(&self) -> bool {
        !self.incoming.is_empty() || !self.closing().is_open() || self.stop == Drain::Done
    }

    /// Whether nobody has to wait to send: there is room, or nothing can be sent.
    pub fn is_sendable(&self) -> bool {
        self.closing().close().is_some() || self.backlog() < self.settings.queue_bytes
    }

    /// Queues what `write` writes, and sends what the client takes now.
    pub fn put(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.outgoing);
        self.flush();
    }

    /// How long a sender waits before it looks at what the client has taken; none: for ever.
    pub fn next_look(&mut self) -> Option<Duration> {
        if self.waited_for.is_none() {
            self.waited_for = Some((Instant::now(), self.taken()));
        }
        self.pace.next_look()
    }

    /// Looks at what the client has taken since the last look, and gives it up if that is too little.
    pub fn look(&mut self) {
        let Some((since, before)) = self.waited_for else { return };
        let (now, taken) = (Instant::now(), self.taken());
        self.pace.note(now - since, u64::try_from(taken - before).unwrap_or(0));
        self.waited_for = Some((now, taken.max(before)));
        if self.pace.is_over() {
            self.lose("it took nothing for send_timeout, or less than min_send_rate in the long run");
        }
    }

    /// The server stops: the application has the time of the closing handshake to take and answer what has arrived.
    pub fn begin_stop(&mut self) {
        if self.stop == Drain::Not {
            self.stop = Drain::Left(self.stream.unread_bytes());
            self.stop_deadline = self.settings.close_timeout.map(|timeout| Instant::now() + timeout);
            self.wants_attention = true;
        }
    }

    /// The code and reason to close with when the application is done with it.
    pub fn farewell(&self, code: u16) -> (u16, &'static str) {
        if self.stop == Drain::Not || code != NORMAL { (code, "") } else { (GOING_AWAY, STOPS) }
    }

    /// Closes if the server stops, and the application has taken and answered all that had arrived. Whether it did.
    pub fn end_stop(&mut self) -> bool {
        let is_done = self.stop == Drain::Done && self.incoming.is_empty() && !self.is_answering;
        is_done && self.begin_close(GOING_AWAY, STOPS)
    }

    /// Begins the closing handshake. Whether it had not begun.
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

    /// Gives the closing handshake its time, from now on.
    pub fn set_close_deadline(&mut self) {
        self.close_deadline = self.settings.close_timeout.map(|timeout| Instant::now() + timeout);
    }

    /// Something may have arrived, or may be sent. On the loop.
    pub fn attend(&mut self) {
        self.wants_attention |= self.catch_up();
        if !self.closing().is_open() || self.settings.ping_interval.is_some() || self.stop != Drain::Not {
            self.schedule();
        }
    }

    /// Whether there is more to do, after others.
    fn catch_up(&mut self) -> bool {
        self.flush();
        let has_more = self.read();
        self.flush();
        if !self.closing().is_open() && self.close_deadline.is_none() {
            self.set_close_deadline();
        }
        has_more
    }

    /// The stream's deadline has passed. On the loop.
    pub fn expire(&mut self) {
        let now = Instant::now();
        if self.closing().is_over() {
            return;
        }
        if !self.closing().is_open() {
            if self.fail_now() {
                self.set_close_deadline();
            } else if self.close_deadline.is_some_and(|deadline| deadline <= now) {
                self.lose("it did not end the closing handshake in time");
            }
        } else if self.stop_deadline.is_some_and(|deadline| deadline <= now) {
            self.begin_close(GOING_AWAY, STOPS);
        } else if self.next_ping().is_some_and(|at| at <= now) {
            if self.pinged.is_some() && self.settings.ping_timeout.is_some() {
                self.judge(now);
            } else {
                self.ping(now);
            }
        }
        self.schedule();
    }

    fn ping(&mut self, now: Instant) {
        let taken = self.taken();
        let waits = taken < self.end_of_all();
        self.put(|out| protocol::write_ping(out, b""));
        let end = self.end_of_all();
        // With nothing before it the client has it at once, and its kernel's word for that is no sign of life.
        self.pinged = Some(Ping { at: now, end, taken: if waits { taken } else { end } });
    }

    /// The client has not answered a ping in time. It is gone, unless the answer cannot have been seen yet.
    fn judge(&mut self, now: Instant) {
        // The answer may have come while something else kept the loop busy.
        let has_more = self.catch_up();
        self.wants_attention |= has_more;
        if !self.closing().is_open() {
            return;
        }
        let taken = self.taken();
        let is_unread = has_more || self.incoming_bytes >= UNREAD_BYTES / 2;
        let Some(ping) = &mut self.pinged else { return };
        // Behind what the application leaves unread, or asked for behind what a slow client is still taking.
        if is_unread || (ping.taken < ping.end && ping.taken < taken) {
            (ping.at, ping.taken) = (now, taken);
        } else {
            self.lose("it did not answer a ping in time");
        }
    }

    /// How much of all that was sent the client has taken. Less than that on a Unix socket, which counts its memory, and
    /// up to one piece more where TLS still holds it; only growing counts.
    fn taken(&self) -> i64 {
        self.sent_bytes.cast_signed() - i64::from(self.stream.untaken_bytes())
    }

    /// The place of what is sent next.
    fn end_of_all(&self) -> i64 {
        (self.sent_bytes + self.backlog() as u64).cast_signed()
    }

    /// Sends what can be sent, and says so to those who wait for it.
    pub fn flush(&mut self) {
        let has_nothing = self.backlog() == 0 && !self.is_flushing && !self.closing().is_flushing();
        if self.closing().is_over() || has_nothing {
            return;
        }
        if let Err(error) = self.try_to_flush() {
            return self.lose(&error.to_string());
        }
        if self.backlog() < self.settings.queue_bytes {
            self.look();
            self.waited_for = None;
            for sender in self.senders.drain(..) {
                sender.notify();
            }
        }
        if self.backlog() == 0 && !self.is_flushing {
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
            self.sent = 0;
            self.outgoing.clear();
            self.outgoing.shrink_to(KEPT_BYTES);
        } else if self.sent > READ_BYTES {
            self.outgoing.drain(..self.sent);
            self.sent = 0;
        }
        self.is_flushing = !self.stream.flush_now()?;
        Ok(())
    }

    /// Fails the connection for the rule that the client broke, if it broke one. Returns whether it did.
    pub fn fail_now(&mut self) -> bool {
        let Some(violation) = self.closing().violation() else { return false };
        self.note = Some(format!("A WebSocket is closed with {}: {}", violation.code, violation.rule));
        self.apply(ClosingEvent::ViolationDue);
        self.flush();
        true
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

    /// Wakes receivers and senders once the connection closes, and enders once it is over.
    fn notify_of_closing(&mut self) {
        let is_over = self.closing().is_over();
        let enders = if is_over { std::mem::take(&mut self.enders) } else { VecDeque::new() };
        if self.closing().close().is_some() {
            for waiter in self.receivers.drain(..).chain(self.senders.drain(..)).chain(enders) {
                waiter.notify();
            }
        }
    }

    /// Sets the stream's deadline. On the loop.
    pub fn schedule(&self) {
        let deadline = if self.closing().is_over() {
            None
        } else if !self.closing().is_open() {
            self.close_deadline
        } else {
            self.next_ping().into_iter().chain(self.stop_deadline).min()
        };
        streams::set_deadline(self.stream.source(), deadline);
    }

    /// When something has to be done about a silent client.
    fn next_ping(&self) -> Option<Instant> {
        let interval = self.settings.ping_interval?;
        match (&self.pinged, self.settings.ping_timeout) {
            (Some(ping), Some(timeout)) => Some(ping.at + timeout),
            (Some(ping), None) => Some(ping.at + interval),
            (None, _) => self.last_heard.map(|heard| heard + interval),
        }
    }

    /// Bytes that wait to be sent.
    pub fn backlog(&self) -> usize {
        self.outgoing.len() - self.sent
    }
}
