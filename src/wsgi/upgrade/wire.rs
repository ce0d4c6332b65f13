//! One WebSocket on its socket: what was received and not yet taken, what waits to be sent, and how it ends.
//!
//! Nothing here waits: system calls are tried, and those who wait for their outcome are notified.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::event_loop::streams;
use crate::interp::Waiter;
use crate::net::Stream;
use crate::websocket::protocol::{self, Close, Message, Protocol, Violation};

/// Bytes of messages that may wait for the application; then the client has to wait. asyncio's `websockets` takes 16
/// messages, aiohttp 64 KiB.
const UNREAD_BYTES: usize = 64 * 1024;

/// What a message costs beside its bytes, so that empty ones count as well.
const MESSAGE_BYTES: usize = 64;

/// Bytes read at a time.
const READ_BYTES: usize = 16 * 1024;

/// An idle connection keeps no larger buffer than this.
const KEPT_BYTES: usize = 512;

/// The connection broke (RFC 6455 7.1.5). Never sent.
const ABNORMAL: u16 = 1006;

/// What of the settings concerns WebSockets. No duration is no limit.
#[derive(Clone, Debug)]
pub struct SessionSettings {
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

/// One connection and those who wait for it.
pub(super) struct Wire {
    stream: Arc<Stream>,
    settings: Arc<SessionSettings>,
    protocol: Protocol,
    /// Received with the head of the request.
    early: Vec<u8>,
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
    /// How it ended, or is ending: nothing can be sent any more.
    pub close: Option<Close>,
    /// What the client did wrong after messages that the application has still to take: it may answer these first.
    failing: Option<Violation>,
    /// Nothing can be sent or received any more, or all that had to be is.
    pub is_over: bool,
    /// The application leaves too much unread.
    is_paused: bool,
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
    pub fn new(stream: Arc<Stream>, settings: Arc<SessionSettings>, head: Vec<u8>, early: Vec<u8>) -> Wire {
        Wire {
            protocol: Protocol::new(settings.message_bytes),
            last_heard: settings.ping_interval.map(|_| Instant::now()),
            stream,
            settings,
            early,
            incoming: VecDeque::new(),
            incoming_bytes: 0,
            outgoing: head,
            sent: 0,
            sent_bytes: 0,
            is_flushing: false,
            receivers: VecDeque::new(),
            senders: VecDeque::new(),
            enders: VecDeque::new(),
            close: None,
            failing: None,
            is_over: false,
            is_paused: false,
            close_deadline: None,
            pinged: None,
            note: None,
        }
    }

    /// The next message that has arrived.
    pub fn pop(&mut self) -> Option<Message> {
        let message = self.incoming.pop_front()?;
        self.incoming_bytes -= message.size() + MESSAGE_BYTES;
        Some(message)
    }

    /// Whether reading has stopped, and may go on.
    pub fn must_go_on(&self) -> bool {
        self.is_paused && self.incoming_bytes < UNREAD_BYTES / 2
    }

    /// Whether nobody has to wait to receive: there is something, or nothing will come.
    pub fn is_receivable(&self) -> bool {
        !self.incoming.is_empty() || self.is_ending()
    }

    /// Whether nobody has to wait to send: there is room, or nothing can be sent.
    pub fn is_sendable(&self) -> bool {
        self.close.is_some() || self.backlog() < self.settings.queue_bytes
    }

    /// Queues what `write` writes, and sends what the client takes now.
    pub fn put(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.outgoing);
        self.flush();
    }

    /// Begins the closing handshake. Whether it had not begun.
    pub fn begin_close(&mut self, code: u16, reason: &str) -> bool {
        if self.close.is_some() {
            return false;
        }
        self.set_close_deadline();
        if self.fail_now() {
            return true;
        }
        self.protocol.close(code, reason, &mut self.outgoing);
        self.end(Close { code, reason: reason.to_owned() });
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
        self.catch_up();
        if self.is_ending() || self.settings.ping_interval.is_some() {
            self.schedule();
        }
    }

    fn catch_up(&mut self) {
        self.flush();
        self.read();
        self.flush();
        if self.is_ending() && self.close_deadline.is_none() {
            self.set_close_deadline();
        }
    }

    /// The stream's deadline has passed. On the loop.
    pub fn expire(&mut self) {
        let now = Instant::now();
        if self.is_over {
            return;
        }
        if self.is_ending() {
            if self.fail_now() {
                self.set_close_deadline();
            } else if self.close_deadline.is_some_and(|deadline| deadline <= now) {
                self.lose("it did not end the closing handshake in time");
            }
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
        self.catch_up();
        if self.is_over || self.is_ending() {
            return;
        }
        let taken = self.taken();
        let is_unread = self.incoming_bytes >= UNREAD_BYTES;
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
        if self.is_over || (self.backlog() == 0 && !self.is_flushing && !self.protocol.is_over()) {
            return;
        }
        if let Err(error) = self.try_to_flush() {
            return self.lose(&error.to_string());
        }
        if self.backlog() < self.settings.queue_bytes {
            for sender in self.senders.drain(..) {
                sender.notify();
            }
        }
        if self.protocol.is_over() && self.backlog() == 0 && !self.is_flushing {
            // RFC 6455 7.1.1: the server is the first to close.
            self.stream.shutdown_write();
            self.is_over = true;
            self.wake_all();
        }
    }

    fn try_to_flush(&mut self) -> io::Result<()> {
        while self.backlog() > 0 {
            let sent = self.stream.write_now(self.outgoing.get(self.sent..).unwrap_or_default())?;
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

    /// Reads until there is nothing more for now, or too much is unread or unsent.
    fn read(&mut self) {
        let early = std::mem::take(&mut self.early);
        if !early.is_empty() {
            self.take(&early);
        }
        let mut buffer = BUFFER.take();
        buffer.clear();
        buffer.reserve(READ_BYTES);
        loop {
            // A client that pings and does not read has to wait, too.
            self.is_paused = self.incoming_bytes >= UNREAD_BYTES
                || self.backlog() > self.settings.queue_bytes.saturating_add(READ_BYTES);
            if self.is_over || self.protocol.is_over() || self.is_paused || self.failing.is_some() {
                break;
            }
            buffer.clear();
            match self.stream.read_now(&mut buffer) {
                Ok(Some(0)) => self.lose("it closed the connection without a closing handshake"),
                Ok(Some(_)) => self.take(&buffer),
                Ok(None) => break,
                Err(error) => self.lose(&error.to_string()),
            }
            if !streams::is_readable(self.stream.source()) {
                break;
            }
        }
        BUFFER.set(buffer);
    }

    fn take(&mut self, bytes: &[u8]) {
        if self.settings.ping_interval.is_some() {
            self.last_heard = Some(Instant::now());
            self.pinged = None;
        }
        let Wire { protocol, outgoing, incoming, incoming_bytes, receivers, .. } = self;
        let received = protocol.receive(bytes, outgoing, |message| {
            *incoming_bytes += message.size() + MESSAGE_BYTES;
            incoming.push_back(message);
            // One who has given up in this moment leaves it to the next.
            while let Some(receiver) = receivers.pop_front()
                && !receiver.notify()
            {}
        });
        match received {
            Ok(received) => {
                if let Some(close) = received.close {
                    self.end(close);
                }
            }
            Err(violation) => {
                self.failing = Some(violation);
                if self.incoming.is_empty() {
                    self.fail_now();
                }
            }
        }
    }

    /// Tells the client what it did wrong, if anything. Whether it did.
    pub fn fail_now(&mut self) -> bool {
        let Some(violation) = self.failing.take() else { return false };
        self.note = Some(format!("A WebSocket is closed with {}: {}", violation.code, violation.rule));
        let Wire { protocol, outgoing, .. } = self;
        protocol.fail(violation, outgoing);
        self.end(Close { code: violation.code, reason: violation.rule.to_owned() });
        self.flush();
        true
    }

    /// The connection is of no more use.
    pub fn lose(&mut self, cause: &str) {
        if self.is_over {
            return;
        }
        if self.close.is_none() {
            self.note = Some(format!("A WebSocket's client is gone: {cause}"));
        }
        self.is_over = true;
        self.outgoing = Vec::new();
        self.sent = 0;
        self.stream.shutdown_both();
        self.end(Close { code: ABNORMAL, reason: cause.to_owned() });
        self.wake_all();
    }

    /// Sets the stream's deadline. On the loop.
    pub fn schedule(&self) {
        let deadline = if self.is_over {
            None
        } else if self.is_ending() {
            self.close_deadline
        } else {
            self.next_ping()
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

    fn is_ending(&self) -> bool {
        self.close.is_some() || self.failing.is_some()
    }

    /// The connection is closing or closed. The first reason is the one that counts.
    fn end(&mut self, close: Close) {
        if self.close.is_none() {
            self.close = Some(close);
        }
        for waiter in self.receivers.drain(..).chain(self.senders.drain(..)) {
            waiter.notify();
        }
    }

    fn wake_all(&mut self) {
        for waiter in self.receivers.drain(..).chain(self.senders.drain(..)).chain(self.enders.drain(..)) {
            waiter.notify();
        }
    }
}

thread_local! {
    /// The loop's buffer: every session reads into it in turn.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}
