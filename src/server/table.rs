//! Listeners and the table of connections: what the loop calls when something happens.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use slab::Slab;

use super::connection::{Connection, Next};
use super::episode::Episode;
use super::idle::{Candidate, Idle};
use super::listening::{self, ACCEPT_TURN, Attempt, FIRST_LISTENER, Listening};
use super::shared::Shared;
use super::tls::Tls;
use crate::event_loop::{self, Service, SourceId, streams, turn};
use crate::interp::{Level, log};
use crate::net::{Accepted, Listener, Peer, Stream};
use crate::wsgi::{self, Waited};

/// How long no connection is accepted after the process ran out of descriptors or memory.
const OUT_OF_RESOURCES_PAUSE: Duration = Duration::from_millis(200);

/// A cap that is reached again within this time is the same episode: the log has one line for it.
const CAPACITY_EPISODE: Duration = Duration::from_secs(10);

/// Connections accepted when the server stops: more than the kernel holds for a process (net.core.somaxconn is 4096), so
/// that a flood of them has an end.
const LAST_TURN: usize = 4096;

/// The server as the loop sees it. Lives on the loop thread.
pub struct Table {
    shared: Shared,
    tls: Option<Tls>,
    listening: Listening,
    connections: RefCell<Slab<ConnectionSlot>>,
    idle: Idle,
    /// As many connections are open as may be, and none was idle: nothing is accepted.
    is_full: Cell<bool>,
    fullness: Episode,
    lack_of_resources: Episode,
    refusals: Episode,
    /// When requests in progress were last fewer than the cap, after they had reached it.
    left_capacity_at: Cell<Option<Instant>>,
    capacity_said: Cell<bool>,
}

enum ConnectionSlot {
    Resting(Box<Connection>),
    /// A coroutine has it.
    Busy,
}

impl Table {
    /// A table on whose listeners nothing is accepted yet.
    pub fn new(shared: Shared, listeners: Vec<Listener>, tls: Option<Tls>) -> Table {
        Table {
            shared,
            tls,
            listening: Listening::new(listeners),
            connections: RefCell::default(),
            idle: Idle::default(),
            is_full: Cell::new(false),
            fullness: Episode::default(),
            lack_of_resources: Episode::default(),
            refusals: Episode::default(),
            left_capacity_at: Cell::new(None),
            capacity_said: Cell::new(false),
        }
    }

    /// What the connections share.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Starts to accept connections.
    pub fn begin(&self) {
        if let Some(warning) = self.shared.connection_limit().warning() {
            self.say(Level::Warning, warning);
        }
        self.listen();
    }

    /// Accepts connections, unless there is a reason not to. Does not park.
    fn listen(&self) {
        if self.shared.is_stopping() || self.is_full.get() {
            return;
        }
        match self.listening.start() {
            Attempt::Listens => {}
            Attempt::ListensAgain => self.say(Level::Info, "Connections are accepted again.".to_owned()),
            Attempt::Failed(message) => {
                if let Some(message) = message {
                    self.say(Level::Error, message);
                }
                event_loop::resume_service_at(Instant::now() + listening::RETRY);
            }
            Attempt::GivenUp(message) => self.end_for_want_of_a_listener(message),
        }
    }

    fn end_for_want_of_a_listener(&self, why: String) {
        self.say(Level::Error, format!("The server ends: {why}."));
        self.shared.fail(why);
    }

    /// Logs from a task: a handler of the log may wait, and the leader must not.
    fn say(&self, level: Level, message: String) {
        event_loop::spawn(Box::new(move || Python::attach(|py| log(py, level, &message, None))));
    }

    /// Accepts what the kernel has queued, then nothing more; closes idle connections; requests in progress go on.
    pub fn begin_stop(&self, py: Python<'_>) {
        self.listening.stop();
        for index in 0..self.listening.count() {
            self.accept(py, index, LAST_TURN);
            self.listening.close(index);
        }
        streams::stop_stream_watchers();
        let mut idle = Vec::new();
        for (key, slot) in &mut *self.connections.borrow_mut() {
            if let ConnectionSlot::Resting(connection) = slot
                && !connection.begin_stop(&self.shared)
            {
                idle.push(key);
            }
        }
        for key in idle {
            let closed = self.connections.borrow_mut().try_remove(key);
            drop(closed);
        }
        if let Err(error) = wsgi::end_streams(py) {
            error.write_unraisable(py, None);
        }
        self.note_if_drained();
    }

    /// Says whom the stop waits for, until `deadline`.
    pub fn say_what_is_waited_for(&self, py: Python<'_>, deadline: Instant, graceful_timeout: Duration) {
        let Some(Waited { count, oldest, oldest_seconds }) = wsgi::waited_for(py) else { return };
        let left = deadline.saturating_duration_since(Instant::now()).as_secs_f64().ceil();
        let message = format!(
            "The server stops and waits for {count} request{}, the oldest for {oldest_seconds} s: {oldest}. In {left} s \
             (graceful_timeout is {} s) what is left is ended; Ctrl-C (again) or SIGQUIT ends it now",
            if count == 1 { "" } else { "s" },
            graceful_timeout.as_secs_f64(),
        );
        log(py, Level::Warning, &message, None);
    }

    /// A listener has something, or its pause is over.
    fn take_turn(&self, py: Python<'_>, source: SourceId, index: usize) {
        streams::about_to_read(source);
        if self.shared.is_one_of_many() {
            let taken = self.accept(py, index, self.listening.shared_turn(index));
            if taken > 0 {
                self.listening.pause(index, source);
            } else if !self.listening.end_pause(index) {
                self.listen();
            }
        } else {
            self.accept(py, index, ACCEPT_TURN);
        }
        streams::rest(source);
    }

    /// Accepts at most so many connections, and as many as the turn has time for. Returns how many there were.
    fn accept(&self, py: Python<'_>, index: usize, most: usize) -> usize {
        for taken in 0..most {
            if taken > 0 && turn::is_spent() {
                return taken;
            }
            if !self.has_room() {
                return taken;
            }
            match self.listening.accept(index) {
                Some(Accepted::Connection(socket, peer)) => {
                    if let Err(error) = self.add(py, socket, peer, index)
                        && self.refusals.is_new()
                    {
                        log(py, Level::Warning, &format!("A connection was not taken: {error}"), None);
                    }
                    if self.connections.borrow().len() > self.shared.connection_limit().connections {
                        self.close_longest_idle();
                    }
                }
                Some(Accepted::OutOfResources(error)) => {
                    if !self.close_longest_idle() {
                        self.out_of_resources(py, &error);
                        return taken;
                    }
                }
                Some(Accepted::Over(error)) => {
                    self.listener_is_over(index, &error);
                    return taken;
                }
                Some(Accepted::Nothing) | None => return taken,
            }
        }
        most
    }

    /// # Parks
    /// Where the transport runs Python code that waits.
    fn add(&self, py: Python<'_>, socket: std::os::fd::OwnedFd, peer: Peer, listener: usize) -> PyResult<()> {
        // Taken before anything that may wait, in which another connection may be accepted.
        let key = self.connections.borrow_mut().insert(ConnectionSlot::Busy);
        match self.connect(py, key, socket, peer, listener) {
            Ok(connection) => {
                let source = connection.stream.source();
                self.put_back(key, connection);
                // What came meanwhile was not served.
                streams::rest_or_queue(source, key);
                Ok(())
            }
            Err(error) => {
                self.connections.borrow_mut().try_remove(key);
                self.note_if_drained();
                Err(error)
            }
        }
    }

    fn connect(
        &self,
        py: Python<'_>,
        key: usize,
        socket: std::os::fd::OwnedFd,
        peer: Peer,
        listener: usize,
    ) -> PyResult<Box<Connection>> {
        let mut stream = Stream::new(socket, key)?;
        if let Some(tls) = &self.tls {
            stream.secure(tls.transport(py)?);
        }
        streams::set_deadline(stream.source(), self.shared.head_deadline());
        Ok(Box::new(Connection::new(py, &self.shared, stream, listener, peer)?))
    }

    /// Whether a connection may be accepted: there are fewer than `max_connections`, or one of them is idle. If not,
    /// nothing is accepted until one is closed or idle.
    fn has_room(&self) -> bool {
        let limit = self.shared.connection_limit();
        // Once the server stops, it takes what the kernel has for it, and nothing after that.
        if self.connections.borrow().len() < limit.connections || self.shared.is_stopping() {
            return true;
        }
        if let Some(candidate) = self.longest_idle() {
            // It is closed when there is somebody to take its place.
            self.idle.put_back(candidate);
            return true;
        }
        self.is_full.set(true);
        self.listening.stop();
        if self.fullness.is_new() {
            self.say(Level::Warning, limit.fullness());
        }
        false
    }

    /// A connection was closed or is idle.
    fn note_room(&self) {
        if self.is_full.replace(false) {
            event_loop::resume_service();
        }
    }

    fn longest_idle(&self) -> Option<Candidate> {
        let look = || {
            let connections = self.connections.borrow();
            let found = connections.iter().filter_map(|(key, slot)| match slot {
                ConnectionSlot::Resting(connection) if connection.is_kept() => {
                    Candidate::new(key, connection.stream.source())
                }
                _ => None,
            });
            found.collect()
        };
        let is_idle = |candidate: &Candidate| match self.connections.borrow().get(candidate.key) {
            Some(ConnectionSlot::Resting(connection)) => {
                connection.is_kept() && candidate.is_of(connection.stream.source())
            }
            _ => false,
        };
        self.idle.longest(look, is_idle)
    }

    fn close_longest_idle(&self) -> bool {
        let Some(candidate) = self.longest_idle() else { return false };
        let closed = self.connections.borrow_mut().try_remove(candidate.key);
        drop(closed);
        true
    }

    fn listener_is_over(&self, index: usize, error: &std::io::Error) {
        let Some(place) = self.listening.close(index) else { return };
        let why = format!("the listening socket of {place} was shut down by this or another process ({error})");
        if self.listening.is_over() {
            self.end_for_want_of_a_listener(why);
        } else {
            self.say(Level::Error, format!("Nothing is accepted there any more: {why}."));
        }
    }

    /// Says why clients wait, once for each episode.
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
        self.say(Level::Warning, message);
    }

    /// Leaves the kernel's queue alone for a moment: it would report the same connection again and again.
    fn out_of_resources(&self, py: Python<'_>, error: &std::io::Error) {
        self.listening.stop();
        event_loop::resume_service_at(Instant::now() + OUT_OF_RESOURCES_PAUSE);
        if self.lack_of_resources.is_new() {
            let open = self.connections.borrow().len();
            let message = format!(
                "Connections are not accepted for now: {error} ({open} are open, and none of them is idle). Raise the limit \
                 of open files (ulimit -n), or lower max_connections."
            );
            log(py, Level::Error, &message, None);
        }
    }

    fn take(&self, source: SourceId, key: usize) -> Option<Box<Connection>> {
        let mut connections = self.connections.borrow_mut();
        match connections.get_mut(key) {
            Some(slot @ ConnectionSlot::Resting(_)) => match std::mem::replace(slot, ConnectionSlot::Busy) {
                ConnectionSlot::Resting(connection) if connection.stream.source() == source => Some(connection),
                other => {
                    *slot = other;
                    None
                }
            },
            _ => None,
        }
    }

    fn settle(&self, key: usize, next: Next) {
        match next {
            Next::Rest(connection) if !self.shared.is_stopping() || !connection.is_idle() || connection.is_new() => {
                let source = connection.stream.source();
                let is_kept = connection.is_kept();
                self.put_back(key, connection);
                streams::rest_or_queue(source, key);
                if is_kept {
                    self.note_room();
                }
            }
            Next::Queue(connection) => {
                let source = connection.stream.source();
                self.put_back(key, connection);
                streams::serve_later(source, key);
            }
            closed @ (Next::Close | Next::Rest(_)) => {
                self.connections.borrow_mut().try_remove(key);
                drop(closed);
                self.note_room();
                if !self.listening.end_pauses() {
                    self.listen();
                }
                self.note_if_drained();
            }
        }
    }

    fn put_back(&self, key: usize, connection: Box<Connection>) {
        if let Some(slot) = self.connections.borrow_mut().get_mut(key) {
            *slot = ConnectionSlot::Resting(connection);
        }
    }

    fn note_if_drained(&self) {
        // Until the stop has begun here, the kernel may have connections that are still to be accepted.
        if self.shared.is_stopping() && self.listening.is_over() && self.connections.borrow().is_empty() {
            self.shared.drained();
        }
    }
}

impl Service for Table {
    fn serve(&self, source: SourceId, owner: usize) {
        Python::attach(|py| {
            if let Some(index) = owner.checked_sub(FIRST_LISTENER) {
                self.take_turn(py, source, index);
            } else if let Some(connection) = self.take(source, owner) {
                let next = connection.serve(py, &self.shared);
                self.settle(owner, next);
            }
        });
    }

    fn expired(&self, source: SourceId, owner: usize) {
        Python::attach(|py| {
            if let Some(index) = owner.checked_sub(FIRST_LISTENER) {
                self.take_turn(py, source, index);
            } else if let Some(connection) = self.take(source, owner) {
                // Served and at rest again since, or bytes are waiting: not idle after all.
                let next = if streams::has_deadline(source) || streams::is_readable(source) {
                    Next::Rest(connection)
                } else {
                    connection.expire(py, &self.shared)
                };
                self.settle(owner, next);
            }
        });
    }

    fn at_capacity(&self, reached: bool) {
        if reached {
            self.listening.stop();
            self.warn_of_the_cap();
            return;
        }
        self.left_capacity_at.set(Some(Instant::now()));
        self.listen();
    }

    fn before_poll(&self) {
        self.shared.flush_logs();
    }
}
