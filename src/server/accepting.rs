//! The policy between the listening sockets and the open connections: when connections are accepted, and how many.

use std::cell::Cell;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use super::connection::Connection;
use super::connections::Connections;
use super::episode::Episode;
use super::listening::{self, ACCEPT_TURN, Attempt, Listening};
use super::shared::Shared;
use super::spread::Spread;
use super::tls::Tls;
use crate::crew::moved_connection::MovedConnection;
use crate::crew::seat::MoveOutcome;
use crate::event_loop::{self, SourceId, streams, turn};
use crate::interp::{Level, log};
use crate::net::{Accepted, Listener, Peer, Stream};

/// How long accepting pauses after the process ran out of descriptors or memory.
const OUT_OF_RESOURCES_PAUSE: Duration = Duration::from_millis(200);

/// A cap that is reached again within this time is the same episode: the log has one line for it.
const CAPACITY_EPISODE: Duration = Duration::from_secs(10);

/// The most connections that are accepted when the server stops. The kernel holds no more for a process
/// (net.core.somaxconn is 4096), and a flood has an end.
const LAST_TURN: usize = 4096;

/// The listening sockets of a server, and the reasons not to accept from them. Lives on the loop thread.
pub struct Accepting {
    shared: Rc<Shared>,
    connections: Rc<Connections>,
    listening: Listening,
    spread: Spread,
    tls: Option<Tls>,
    /// As many connections are open as `max_connections` permits, and none was idle: nothing is accepted.
    is_full: Cell<bool>,
    fullness: Episode,
    lack_of_resources: Episode,
    refusals: Episode,
    /// When requests in progress were last fewer than the cap, after they had reached it.
    left_capacity_at: Cell<Option<Instant>>,
    capacity_said: Cell<bool>,
}

impl Accepting {
    /// A policy that accepts nothing until [`Self::begin`] is called.
    pub fn new(
        shared: Rc<Shared>,
        connections: Rc<Connections>,
        listeners: Vec<Listener>,
        tls: Option<Tls>,
    ) -> Accepting {
        Accepting {
            spread: Spread::new(Arc::clone(shared.seat())),
            shared,
            connections,
            listening: Listening::new(listeners),
            tls,
            is_full: Cell::new(false),
            fullness: Episode::default(),
            lack_of_resources: Episode::default(),
            refusals: Episode::default(),
            left_capacity_at: Cell::new(None),
            capacity_said: Cell::new(false),
        }
    }

    /// Are all listening sockets closed?
    pub fn is_over(&self) -> bool {
        self.listening.is_over()
    }

    /// Starts to accept connections.
    pub fn begin(&self) {
        if let Some(warning) = self.shared.connection_limit().warning() {
            say(Level::Warning, warning);
        }
        self.listen();
    }

    /// Accepts connections, unless there is a reason not to. Does not park.
    pub fn listen(&self) {
        if self.shared.is_stopping() {
            // Descriptors may be free now for the rest of the kernel's queue.
            return Python::attach(|py| self.accept_the_last(py));
        }
        if self.is_full.get() {
            return;
        }
        match self.listening.start() {
            Attempt::Listens => {}
            Attempt::ListensAgain => say(Level::Info, "Connections are accepted again.".to_owned()),
            Attempt::Failed(message) => {
                if let Some(message) = message {
                    say(Level::Error, message);
                }
                event_loop::resume_service_at(Instant::now() + listening::RETRY);
            }
            Attempt::GivenUp(message) => self.end_for_want_of_a_listener(message),
        }
    }

    fn end_for_want_of_a_listener(&self, why: String) {
        let shared = Rc::clone(&self.shared);
        // The line comes first: once `run()` returns, its caller may take the handlers away.
        event_loop::spawn(Box::new(move || {
            Python::attach(|py| log(py, Level::Error, &format!("The server ends: {why}."), None));
            shared.fail(why);
        }));
    }

    /// The server stops: accepts what the kernel has queued, then nothing more. The kernel would reset the connections
    /// in the queue of a socket that no process has open. Where processes share the socket, those that stay could serve
    /// the queue, but this process may be the last one. An empty queue ends the turn, so it takes no more than its
    /// share of the connections that still arrive.
    ///
    /// Without descriptors for the rest of the queue the socket stays open, and [`Self::listen`] tries again.
    ///
    /// # Parks
    /// Where the transport runs Python code that waits.
    pub fn accept_the_last(&self, py: Python<'_>) {
        self.listening.stop();
        for index in 0..self.listening.count() {
            if !self.accept(py, index, LAST_TURN).is_short_of_resources || !self.shared.keeps_connections() {
                self.listening.close(index);
            }
        }
    }

    /// A listener has something, or its pause is over.
    ///
    /// # Parks
    /// Where the transport runs Python code that waits.
    pub fn take_turn(&self, py: Python<'_>, source: SourceId, index: usize) {
        streams::about_to_read(source);
        if self.shared.is_one_of_many() || self.spread.has_siblings() {
            self.take_shared_turn(py, source, index);
        } else {
            self.accept(py, index, ACCEPT_TURN);
        }
        streams::rest(source);
    }

    /// A turn at a queue that other processes serve too.
    fn take_shared_turn(&self, py: Python<'_>, source: SourceId, index: usize) {
        let favours_a_sibling = self.spread.favours_a_sibling(self.connections.count());
        if favours_a_sibling && !self.listening.is_paused(index) && self.spread.leaves_one() {
            self.listening.pause(index, source);
            return;
        }
        // A pause that is over ends: whether a connection still waits, the poller says.
        let most =
            if favours_a_sibling && self.listening.is_paused(index) { 0 } else { self.listening.shared_turn(index) };
        if self.accept(py, index, most).count > 0 {
            self.listening.pause(index, source);
        } else if !self.listening.end_pause(index) {
            self.listen();
        }
    }

    /// Accepts at most `most` connections, as long as the turn lasts.
    fn accept(&self, py: Python<'_>, index: usize, most: usize) -> AcceptTurn {
        for count in 0..most {
            let taken = AcceptTurn { count, is_short_of_resources: false };
            if count > 0 && turn::is_spent() {
                return taken;
            }
            if !self.has_room() {
                return taken;
            }
            match self.listening.accept(index) {
                Some(Accepted::Connection(socket, peer)) => {
                    if self.hand_on(py, &socket, peer, index) {
                        continue;
                    }
                    let added = self.add(|key| self.connect(py, key, socket, peer, index));
                    self.note_added(py, added);
                }
                Some(Accepted::OutOfResources(error)) => {
                    if !self.connections.close_longest_idle() {
                        self.out_of_resources(py, &error);
                        return AcceptTurn { is_short_of_resources: true, ..taken };
                    }
                }
                Some(Accepted::Over(error)) => {
                    self.listener_is_over(index, &error);
                    return taken;
                }
                Some(Accepted::Nothing) | None => return taken,
            }
        }
        AcceptTurn { count: most, is_short_of_resources: false }
    }

    /// Hands an accepted connection on to the sibling that it belongs to. Returns false if it stays here.
    fn hand_on(&self, py: Python<'_>, socket: &OwnedFd, peer: Peer, listener: usize) -> bool {
        let Some(moving) = self.shared.moving() else { return false };
        let Some(slot) = moving.sticky().decide_at_accept(peer) else { return false };
        let listener = moving.key_of(listener);
        let moved = MovedConnection { is_new: true, served: 0, listener, peer, proxied: None, bytes: &[] };
        match moving.send(slot, socket.as_fd(), &moved) {
            Ok(()) => {
                self.shared.seat().count_hand_over(MoveOutcome::Sent);
                true
            }
            Err(why) => {
                self.shared.seat().count_hand_over(MoveOutcome::Failed);
                moving.complain(py, slot, &why);
                false
            }
        }
    }

    /// Takes a connection that a sibling has handed over, although this server stops.
    ///
    /// # Parks
    /// Where the transport runs Python code that waits.
    pub fn adopt(&self, py: Python<'_>, socket: OwnedFd, moved: &MovedConnection<'_>) {
        let listener = self.shared.moving().and_then(|moving| moving.listener_of(moved.listener));
        let Some(listener) = listener else {
            if self.refusals.is_new() {
                let message =
                    "A connection of a sibling was closed: it came by a listening socket that this worker has not";
                log(py, Level::Warning, message, None);
            }
            return;
        };
        let has_room = self.has_room();
        let added = self.add(|key| {
            let stream = self.stream(py, key, socket)?;
            if moved.is_new {
                streams::set_deadline(stream.source(), self.shared.first_deadline());
            }
            Ok(Box::new(Connection::adopt(py, &self.shared, stream, listener, moved, has_room)?))
        });
        self.note_added(py, added);
    }

    /// Adds a connection.
    ///
    /// # Parks
    /// Where `connect` does.
    fn add(&self, connect: impl FnOnce(usize) -> PyResult<Box<Connection>>) -> PyResult<()> {
        // The key is reserved before anything that may park, since another connection may be accepted meanwhile.
        let key = self.connections.reserve();
        match connect(key) {
            Ok(connection) => {
                let source = connection.stream.source();
                let (has_bytes, is_new) = (connection.has_bytes(), connection.is_new());
                self.connections.put_back(key, connection);
                if is_new {
                    streams::serve_new(source, key);
                } else if has_bytes {
                    streams::serve_soon(source, key);
                } else {
                    // Bytes that arrived meanwhile were not served.
                    streams::rest_or_queue(source, key);
                }
                Ok(())
            }
            Err(error) => {
                self.connections.remove(key);
                Err(error)
            }
        }
    }

    fn note_added(&self, py: Python<'_>, added: PyResult<()>) {
        if let Err(error) = added
            && self.refusals.is_new()
        {
            log(py, Level::Warning, &format!("A connection was not taken: {error}"), None);
        }
        if self.connections.count() > self.shared.connection_limit().connections {
            self.connections.close_longest_idle();
        }
    }

    fn stream(&self, py: Python<'_>, key: usize, socket: OwnedFd) -> PyResult<Stream> {
        let mut stream = Stream::new(socket, key)?;
        if let Some(tls) = &self.tls {
            stream.secure(tls.transport(py)?);
        }
        Ok(stream)
    }

    fn connect(
        &self,
        py: Python<'_>,
        key: usize,
        socket: OwnedFd,
        peer: Peer,
        listener: usize,
    ) -> PyResult<Box<Connection>> {
        let stream = self.stream(py, key, socket)?;
        streams::set_deadline(stream.source(), self.shared.first_deadline());
        let is_encrypted = stream.is_encrypted();
        let mut connection = Box::new(Connection::new(py, &self.shared, stream, listener, peer));
        if !is_encrypted {
            connection.expect_first_turn();
        }
        Ok(connection)
    }

    /// May a connection be accepted? There must be fewer than `max_connections`, or one must be idle. Accepting pauses
    /// otherwise, until a connection is closed or idle.
    fn has_room(&self) -> bool {
        let limit = self.shared.connection_limit();
        // A server that stops still accepts everything that the kernel has queued for it.
        if self.connections.count() < limit.connections || self.shared.is_stopping() {
            return true;
        }
        if self.connections.has_idle() {
            return true;
        }
        self.is_full.set(true);
        self.listening.stop();
        if self.fullness.is_new() {
            say(Level::Warning, limit.fullness());
        }
        false
    }

    /// Resumes accepting at the limit of connections: one was closed or is idle.
    pub fn note_room(&self) {
        if self.is_full.replace(false) {
            event_loop::resume_service();
        }
    }

    fn listener_is_over(&self, index: usize, error: &std::io::Error) {
        let Some(place) = self.listening.close(index) else { return };
        let why = format!("the listening socket of {place} was shut down by this or another process ({error})");
        if self.listening.is_over() {
            self.end_for_want_of_a_listener(why);
        } else {
            say(Level::Error, format!("Nothing is accepted there any more: {why}."));
        }
    }

    /// Warns that clients wait for requests in progress, once for each episode.
    fn warn_of_the_cap(&self) {
        let is_new = self.left_capacity_at.take().is_none_or(|left| left.elapsed() >= CAPACITY_EPISODE);
        if !event_loop::is_at_request_limit() || (self.capacity_said.get() && !is_new) {
            return;
        }
        self.capacity_said.set(true);
        let message = format!(
            "{} requests are in progress, as many as worker_connections allows: further clients wait until one has ended. \
             Raise worker_connections, or look for requests that do not end (WebSockets and streams count).",
            self.shared.request_limit()
        );
        say(Level::Warning, message);
    }

    /// Pauses accepting for a moment: the kernel would report the same connection again and again.
    fn out_of_resources(&self, py: Python<'_>, error: &std::io::Error) {
        self.listening.stop();
        event_loop::resume_service_at(Instant::now() + OUT_OF_RESOURCES_PAUSE);
        if self.lack_of_resources.is_new() {
            let open = self.connections.count();
            let message = format!(
                "Connections are not accepted for now: {error} ({open} are open, and none is idle). Raise the limit \
                 of open files (ulimit -n), or lower max_connections."
            );
            log(py, Level::Error, &message, None);
        }
    }

    /// Pauses accepting: as many requests are in progress as `worker_connections` permits.
    pub fn pause_at_capacity(&self) {
        self.listening.stop();
        self.warn_of_the_cap();
    }

    /// Resumes accepting: fewer requests are in progress than `worker_connections` permits.
    pub fn resume_below_capacity(&self) {
        self.left_capacity_at.set(Some(Instant::now()));
        self.listen();
    }

    /// Resumes accepting from sockets that were left to other processes: a connection was closed.
    pub fn end_pauses(&self) {
        if !self.listening.end_pauses() {
            self.listen();
        }
    }
}

/// The outcome of a turn of accepting.
struct AcceptTurn {
    /// How many connections were accepted.
    count: usize,
    /// No descriptor or memory was left for the next one.
    is_short_of_resources: bool,
}

/// Logs from a task: a handler of the log may park, and the leader must not.
fn say(level: Level, message: String) {
    event_loop::spawn(Box::new(move || Python::attach(|py| log(py, level, &message, None))));
}
