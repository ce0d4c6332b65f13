//! The connection by which a worker sends messages to one sibling.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::context::Context;
use super::message::{self, HEADER_BYTES, Sibling};
use super::outbox::Outbox;
use crate::event_loop::{SourceId, StreamWatcher, streams};
use crate::net::LocalSocket;
use crate::sync::lock;

/// The pause before the next attempt, if the kernel is out of memory or has too many descriptors under way.
const RETRY: Duration = Duration::from_millis(50);

/// How a letter was posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posted {
    /// The kernel has it, or it waits in the queue.
    Queued,
    /// The queue is full.
    Full {
        /// The number of letters in it.
        letters: usize,
    },
    /// The connection has ended, and with it what was queued. No sibling has this letter.
    Gone,
}

/// A connection to a sibling. It sends only.
pub struct Outgoing {
    /// The sibling.
    pub sibling: Sibling,
    context: Arc<Context>,
    live: Mutex<Option<Live>>,
}

/// The parts of a connection that has not ended.
struct Live {
    socket: LocalSocket,
    source: Option<SourceId>,
    outbox: Outbox<OwnedFd>,
    /// Events announce that the kernel takes more.
    awaits_output: bool,
}

/// The outcome of an attempt to send.
enum Flushed {
    /// Everything is sent, or an event announces that the kernel takes more.
    Waits,
    /// The kernel is out of something, and no event says when it has it again.
    Retry,
    /// The peer is gone.
    Gone,
}

impl Live {
    /// Sends as much of a letter as the kernel takes, while no other waits. Returns the number of bytes.
    fn send_at_once(&self, header: [u8; HEADER_BYTES], payload: &[u8], descriptors: &[BorrowedFd<'_>]) -> usize {
        let bytes = [IoSlice::new(&header), IoSlice::new(payload)];
        // With an error the letter is queued, and the error comes again.
        self.socket.send(&bytes, descriptors).ok().flatten().unwrap_or(0)
    }

    /// Has the loop's events follow the queue. On the loop thread.
    fn follow_queue(&mut self) {
        let awaits = !self.outbox.is_empty();
        if let Some(source) = self.source
            && awaits != self.awaits_output
        {
            self.awaits_output = awaits;
            streams::await_output(source, self.socket.as_fd(), awaits);
        }
    }

    fn flush(&mut self) -> Flushed {
        while !self.outbox.is_empty() {
            let (bytes, descriptors) = self.outbox.batch();
            let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
            match self.socket.send(&bytes, &descriptors) {
                Ok(Some(sent)) => self.outbox.advance(sent),
                Ok(None) => return Flushed::Waits,
                Err(error) => {
                    let is_shortage = [Errno::TOOMANYREFS, Errno::NOBUFS, Errno::NOMEM]
                        .iter()
                        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()));
                    return if is_shortage { Flushed::Retry } else { Flushed::Gone };
                }
            }
        }
        Flushed::Waits
    }
}

impl Outgoing {
    /// Takes a connected socket, and sends the first message.
    pub fn new(context: Arc<Context>, sibling: Sibling, socket: LocalSocket) -> Arc<Outgoing> {
        let (header, payload) = message::hello(context.own);
        let mut outbox = Outbox::default();
        outbox.push(header, payload.into(), Vec::new());
        let live = Live { socket, source: None, outbox, awaits_output: true };
        let outgoing = Arc::new(Outgoing { sibling, context, live: Mutex::new(Some(live)) });
        outgoing.flush(&mut lock(&outgoing.live));
        let registered = Arc::clone(&outgoing);
        outgoing.context.on_loop(move || registered.register());
        outgoing
    }

    /// Registers the socket with the loop. On the loop thread.
    fn register(self: &Arc<Self>) {
        let mut live = lock(&self.live);
        let Some(open) = live.as_mut() else { return };
        match streams::add_watched(open.socket.as_fd(), Arc::clone(self) as Arc<dyn StreamWatcher>) {
            Ok(source) => {
                open.source = Some(source);
                open.follow_queue();
            }
            // Without the loop, a queue that the kernel does not take at once would never leave.
            Err(_) => self.end(live.take()),
        }
    }

    /// Whether the connection has ended.
    pub fn has_ended(&self) -> bool {
        lock(&self.live).is_none()
    }

    /// The number of letters that the kernel has not taken.
    pub fn waiting(&self) -> usize {
        lock(&self.live).as_ref().map_or(0, |open| open.outbox.len())
    }

    /// Whether at least half of the queue is free.
    pub fn is_half_empty(&self) -> bool {
        lock(&self.live).as_ref().is_none_or(|open| open.outbox.is_half_empty())
    }

    /// Queues a letter, and sends as much of the queue as the kernel takes now. Never waits.
    ///
    /// # Errors
    /// Errors of fcntl(2): the letter has to wait, and there are no duplicates of its descriptors to be had.
    pub fn post(
        self: &Arc<Self>,
        header: [u8; HEADER_BYTES],
        payload: &Arc<[u8]>,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<Posted> {
        let mut live = lock(&self.live);
        let Some(open) = live.as_mut() else { return Ok(Posted::Gone) };
        if !open.outbox.has_room(payload.len(), descriptors.len()) {
            self.context.counts.refused.fetch_add(1, Ordering::Relaxed);
            return Ok(Posted::Full { letters: open.outbox.len() });
        }
        let was_empty = open.outbox.is_empty();
        let sent = if was_empty { open.send_at_once(header, payload, descriptors) } else { 0 };
        if sent < HEADER_BYTES + payload.len() {
            // The descriptors go with the first byte.
            let waiting = if sent == 0 { descriptors } else { &[] };
            let duplicates: io::Result<Vec<OwnedFd>> =
                waiting.iter().map(|descriptor| Ok(rustix::io::fcntl_dupfd_cloexec(descriptor, 0)?)).collect();
            open.outbox.push(header, Arc::clone(payload), duplicates?);
            open.outbox.advance(sent);
        }
        // Otherwise an event or the deadline comes first.
        if was_empty && !self.flush(&mut live) {
            // The sender of this letter knows; it may send it again.
            self.context.counts.lost.fetch_sub(1, Ordering::Relaxed);
            return Ok(Posted::Gone);
        }
        self.context.counts.sent.fetch_add(1, Ordering::Relaxed);
        let must_wait = live.as_ref().is_some_and(|open| !open.outbox.is_empty() && !open.awaits_output);
        drop(live);
        if must_wait {
            let waiting = Arc::clone(self);
            self.context.on_loop(move || {
                if let Some(open) = lock(&waiting.live).as_mut() {
                    open.follow_queue();
                }
            });
        }
        Ok(Posted::Queued)
    }

    /// Returns false if the peer is gone.
    fn flush(&self, live: &mut Option<Live>) -> bool {
        let Some(open) = live.as_mut() else { return false };
        match open.flush() {
            Flushed::Waits => true,
            Flushed::Retry => {
                // A socket that is not registered yet is flushed when it is.
                if let Some(source) = open.source {
                    let at = Instant::now() + RETRY;
                    self.context.on_loop(move || streams::set_deadline(source, Some(at)));
                }
                true
            }
            Flushed::Gone => {
                self.end(live.take());
                false
            }
        }
    }

    /// Ends the connection. Queued letters are lost.
    pub fn close(&self) {
        let live = lock(&self.live).take();
        self.end(live);
    }

    fn end(&self, live: Option<Live>) {
        let Some(live) = live else { return };
        live.socket.end();
        self.context.counts.lost.fetch_add(live.outbox.len() as u64, Ordering::Relaxed);
        self.context.unregister(live.source, live.socket);
    }
}

impl StreamWatcher for Outgoing {
    fn look(&self, _now: Instant) {
        let mut live = lock(&self.live);
        let has_peer_ended = live.as_ref().and_then(|open| open.source).is_some_and(streams::is_peer_closed);
        if has_peer_ended {
            self.end(live.take());
        } else if self.flush(&mut live)
            && let Some(open) = live.as_mut()
        {
            open.follow_queue();
        }
    }

    fn expired(&self) {
        self.flush(&mut lock(&self.live));
    }

    /// Messages go on while the server stops.
    fn stop(&self) {}
}
