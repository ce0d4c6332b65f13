//! The connection by which a sibling's messages arrive.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::context::Context;
use super::message::{Arrival, Decoder, Fault, Letter, Sibling};
use crate::event_loop::{SourceId, StreamWatcher, streams, turn};
use crate::net::{LocalSocket, PeerCredentials};
use crate::sync::lock;

/// How long a connection may take to name its sender.
const HELLO_PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of one read.
const READ_BYTES: usize = 64 * 1024;

thread_local! {
    /// The buffer of all reads, since an idle connection should have none.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A connection of a sibling. It receives only.
pub struct Incoming {
    context: Arc<Context>,
    peer: PeerCredentials,
    reading: Mutex<OpenIncoming>,
    /// A call handles messages.
    is_busy: AtomicBool,
    /// An event came meanwhile.
    is_due: AtomicBool,
}

struct OpenIncoming {
    /// `None` once the connection has ended.
    socket: Option<LocalSocket>,
    source: Option<SourceId>,
    decoder: Decoder<OwnedFd>,
    sender: Option<Sibling>,
    /// This worker has had the sender stop, so the end says nothing of the sender.
    is_ending: bool,
}

/// The next thing to do with a connection.
enum IncomingStep {
    Deliver(Sibling, Letter<OwnedFd>),
    GoOn,
    /// Everything that has arrived is handled.
    Wait,
    End(End),
}

/// Why a connection ends.
enum End {
    /// The sender has closed it, or died.
    Left,
    Faulty(String),
}

impl Incoming {
    /// Takes an accepted connection of a trusted peer. On the loop thread.
    ///
    /// # Errors
    /// Errors of epoll_ctl(2).
    pub fn accept(context: Arc<Context>, socket: LocalSocket, peer: PeerCredentials) -> io::Result<Arc<Incoming>> {
        context.counts.incoming.fetch_add(1, Ordering::Relaxed);
        let decoder = Decoder::default();
        let reading = OpenIncoming { socket: Some(socket), source: None, decoder, sender: None, is_ending: false };
        let incoming = Arc::new(Incoming {
            context,
            peer,
            reading: Mutex::new(reading),
            is_busy: AtomicBool::new(false),
            is_due: AtomicBool::new(false),
        });
        let mut reading = lock(&incoming.reading);
        if let Some(socket) = &reading.socket {
            let source = streams::add_watched(socket.as_fd(), Arc::clone(&incoming) as Arc<dyn StreamWatcher>)?;
            streams::set_deadline(source, Some(Instant::now() + HELLO_PATIENCE));
            reading.source = Some(source);
        }
        drop(reading);
        Ok(incoming)
    }

    /// Ends the connection, from any thread. Returns its sender, if it was open and has named one.
    pub fn close(&self) -> Option<Sibling> {
        let (socket, source, sender) = {
            let mut reading = lock(&self.reading);
            (reading.socket.take(), reading.source.take(), reading.sender)
        };
        let socket = socket?;
        socket.end();
        self.context.unregister(source, socket);
        sender
    }

    /// Has the sender send nothing more. Messages that the kernel has taken are still read, and the connection ends.
    pub fn end_reading(&self) {
        let mut reading = lock(&self.reading);
        if let Some(socket) = &reading.socket {
            socket.end_reading();
            reading.is_ending = true;
        }
    }

    /// Ends a connection that has not named its sender, for another one. Returns false if it has named the sender.
    ///
    /// # Parks
    pub fn give_up(&self) -> bool {
        let is_waiting = {
            let reading = lock(&self.reading);
            reading.socket.is_some() && reading.sender.is_none()
        };
        if is_waiting {
            self.end(End::Faulty("it has not named its sender, and there are too many connections".to_owned()));
        }
        is_waiting
    }

    fn step(&self) -> IncomingStep {
        let mut reading = lock(&self.reading);
        let OpenIncoming { socket: Some(socket), decoder, sender, source, .. } = &mut *reading else {
            return IncomingStep::Wait;
        };
        match (decoder.next_arrival(), *sender) {
            (Ok(Some(Arrival::Letter(letter))), Some(sender)) => IncomingStep::Deliver(sender, letter),
            (Ok(Some(Arrival::Letter(_))), None) => IncomingStep::End(End::Faulty(Fault::NoHello.to_string())),
            (Ok(Some(Arrival::Hello(named))), _) => match self.check(named) {
                Ok(()) => {
                    *sender = Some(named);
                    if let Some(source) = *source {
                        streams::set_deadline(source, None);
                    }
                    IncomingStep::GoOn
                }
                Err(fault) => IncomingStep::End(End::Faulty(fault)),
            },
            (Ok(None), _) => match read(socket, decoder) {
                Ok(Some(0)) => IncomingStep::End(End::Left),
                Ok(Some(_)) => IncomingStep::GoOn,
                Ok(None) => IncomingStep::Wait,
                Err(end) => IncomingStep::End(end),
            },
            (Err(fault), _) => IncomingStep::End(End::Faulty(fault.to_string())),
        }
    }

    /// Checks whether the peer may be the worker that it claims to be. Messages of a worker that has died since, and
    /// whose slot has another owner, are still welcome.
    fn check(&self, named: Sibling) -> Result<(), String> {
        let owner = self.context.roster.owner(named.slot);
        let is_current = owner.is_some_and(|owner| owner.worker.generation == named.generation);
        let is_other = owner.is_some_and(|owner| owner.process != self.peer.process) && self.peer.process != 0;
        let is_future = owner.is_some_and(|owner| owner.worker.generation < named.generation);
        if named.slot == self.context.own.slot || is_future || (is_current && is_other) {
            return Err(format!("it claims to be the worker of slot {}, which it is not", named.slot));
        }
        Ok(())
    }

    /// # Parks
    fn end(&self, end: End) {
        let sender = self.close();
        if let End::Faulty(fault) = end {
            let PeerCredentials { process, user } = self.peer;
            let name = sender.map_or(String::new(), |sender| format!(" of slot {}", sender.slot));
            let text =
                format!("closed a connection{name} to the crew's socket (process {process}, user {user}): {fault}");
            self.context.complain(&text);
        }
        if let Some(sender) = sender.filter(|_| !lock(&self.reading).is_ending) {
            self.context.host.gone(sender);
        }
    }

    /// Handles what has arrived, for one turn. Returns whether there may be more.
    ///
    /// # Parks
    fn handle(&self) -> bool {
        loop {
            match self.step() {
                IncomingStep::Deliver(sender, letter) => {
                    self.context.counts.received.fetch_add(1, Ordering::Relaxed);
                    self.context.host.receive(sender, letter);
                }
                IncomingStep::GoOn => {}
                IncomingStep::Wait => return false,
                IncomingStep::End(end) => {
                    self.end(end);
                    return false;
                }
            }
            if turn::is_spent() {
                return true;
            }
        }
    }
}

/// Reads once. `Ok(None)`: nothing now.
fn read(socket: &LocalSocket, decoder: &mut Decoder<OwnedFd>) -> Result<Option<usize>, End> {
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(READ_BYTES, 0);
        let mut descriptors = Vec::new();
        match socket.receive(buffer, &mut descriptors) {
            Ok(Some(count)) => {
                decoder.push(buffer.get(..count).unwrap_or_default(), descriptors);
                Ok(Some(count))
            }
            Ok(None) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Err(End::Left),
            Err(error) => Err(End::Faulty(format!(
                "{error}. If descriptors of a message were lost: raise the limit of open files (ulimit -n)"
            ))),
        }
    })
}

impl StreamWatcher for Incoming {
    fn look(&self, _now: Instant) {
        if self.is_busy.swap(true, Ordering::Relaxed) {
            // A handler waits. The call that waits for it goes on with the messages.
            self.is_due.store(true, Ordering::Relaxed);
            return;
        }
        loop {
            let has_more = self.handle();
            if has_more {
                self.is_busy.store(false, Ordering::Relaxed);
                let source = lock(&self.reading).source;
                if let Some(source) = source {
                    streams::watch_later(source);
                }
                return;
            }
            if !self.is_due.swap(false, Ordering::Relaxed) {
                self.is_busy.store(false, Ordering::Relaxed);
                return;
            }
        }
    }

    fn expired(&self) {
        let has_named_sender = lock(&self.reading).sender.is_some();
        if !has_named_sender {
            let seconds = HELLO_PATIENCE.as_secs();
            self.end(End::Faulty(format!("it did not name its sender within {seconds} seconds")));
        }
    }

    /// Messages go on while the server stops.
    fn stop(&self) {}
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.context.counts.incoming.fetch_sub(1, Ordering::Relaxed);
    }
}
