//! Listeners and the table of connections: what the loop calls when something happens.

use std::cell::{Cell, RefCell};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use slab::Slab;

use super::connection::{Connection, Next};
use super::site::Site;
use super::tls::Tls;
use crate::event_loop::{self, Service, SourceId, streams};
use crate::interp::{Level, log};
use crate::net::{Accepted, Listener, Peer, Stream};
use crate::output;

/// Connections accepted before others get their turn.
const ACCEPT_TURN: usize = 64;

/// Where other processes accept from the same queue, a process that has accepted leaves what follows to them for so long,
/// or until one of its connections has ended: enough for one that is idle to wake up. Without it, the one that is awake
/// takes all of a burst, and keeps it while the others have nothing to do.
const SHARED_ACCEPT_PAUSE: Duration = Duration::from_micros(300);

/// After so many pauses in a row in which nobody took what was left, it takes one more at a time.
const PAUSES_IN_VAIN: usize = 4;

/// How long no connection is accepted after the process ran out of descriptors.
const OUT_OF_DESCRIPTORS_PAUSE: Duration = Duration::from_millis(200);

/// A cap that is reached again within this time is the same episode: the log has one line for it.
const CAPACITY_EPISODE: Duration = Duration::from_secs(10);

/// How long a connection without a request may rest once the server stops.
const FIRST_REQUEST_GRACE: Duration = Duration::from_millis(500);

/// Owners of sources from here on are listeners; below, connections.
const FIRST_LISTENER: usize = usize::MAX / 2;

/// A listening socket.
struct Endpoint {
    /// The socket; none once the server stops, so that the kernel turns clients away.
    listener: RefCell<Option<Listener>>,
    /// Its name in the loop while connections are accepted.
    source: Cell<Option<SourceId>>,
    /// While it is left to others: pauses so far at whose end something was left.
    pauses: Cell<Option<usize>>,
}

/// The server as the loop sees it. Lives on the loop thread.
pub struct Table {
    site: Site,
    tls: Option<Tls>,
    endpoints: Vec<Endpoint>,
    connections: RefCell<Slab<Slot>>,
    out_of_descriptors_said: Cell<bool>,
    /// When requests in progress were last fewer than the cap, after they had reached it.
    left_capacity_at: Cell<Option<Instant>>,
    capacity_said: Cell<bool>,
}

enum Slot {
    Resting(Box<Connection>),
    /// A coroutine has it.
    Busy,
}

impl Table {
    /// A table on whose listeners nothing is accepted yet.
    pub fn new(site: Site, listeners: Vec<Listener>, tls: Option<Tls>) -> Table {
        let endpoint = |listener| Endpoint {
            listener: RefCell::new(Some(listener)),
            source: Cell::new(None),
            pauses: Cell::new(None),
        };
        Table {
            site,
            tls,
            endpoints: listeners.into_iter().map(endpoint).collect(),
            connections: RefCell::default(),
            out_of_descriptors_said: Cell::new(false),
            left_capacity_at: Cell::new(None),
            capacity_said: Cell::new(false),
        }
    }

    /// What the connections share.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Starts to accept connections.
    ///
    /// # Errors
    /// What epoll_ctl(2) reports.
    pub fn listen(&self) -> std::io::Result<()> {
        if self.site.is_stopping() {
            return Ok(());
        }
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            if let (Some(listener), None) = (&*endpoint.listener.borrow(), endpoint.source.get()) {
                listener.keep_from_children();
                endpoint.pauses.set(None);
                endpoint.source.set(Some(streams::add_listener(listener.as_fd(), FIRST_LISTENER + index)?));
            }
        }
        Ok(())
    }

    fn stop_listening(&self) {
        for endpoint in &self.endpoints {
            endpoint.pauses.set(None);
            if let (Some(source), Some(listener)) = (endpoint.source.take(), &*endpoint.listener.borrow()) {
                streams::remove(source, Some(listener.as_fd()));
            }
        }
    }

    /// Accepts what the kernel has queued, then nothing more; closes idle connections; requests in progress go on.
    pub fn begin_stop(&self, py: Python<'_>) {
        if self.site.is_stopping() {
            return;
        }
        self.stop_listening();
        for index in 0..self.endpoints.len() {
            self.accept(py, index, usize::MAX);
            self.endpoints[index].listener.take();
        }
        self.site.begin_stop();
        streams::stop_attendants();
        let mut idle = Vec::new();
        for (key, slot) in &*self.connections.borrow() {
            let Slot::Resting(connection) = slot else { continue };
            let source = connection.stream.source();
            if connection.is_new() {
                // Its first request may be on the way; browsers also open connections that they never use.
                streams::set_deadline(source, Some(Instant::now() + FIRST_REQUEST_GRACE));
            } else if connection.is_idle() && !streams::is_readable(source) {
                idle.push(key);
            }
        }
        for key in idle {
            let closed = self.connections.borrow_mut().try_remove(key);
            drop(closed);
        }
        self.note_if_drained();
    }

    /// A listener has something, or its pause is over.
    fn take_turn(&self, py: Python<'_>, source: SourceId, index: usize) {
        let Some(endpoint) = self.endpoints.get(index) else { return };
        streams::about_to_read(source);
        if self.site.is_one_of_many() {
            // More than one after some pauses: they must not bound how much a process takes.
            let pauses = endpoint.pauses.get();
            let taken = self.accept(py, index, (1 + pauses.unwrap_or(0) / PAUSES_IN_VAIN).min(ACCEPT_TURN));
            if taken == 0 {
                self.end_pause(endpoint);
            } else if let Some(listener) = &*endpoint.listener.borrow() {
                if pauses.is_none() {
                    streams::pause_listener(source, listener.as_fd());
                }
                endpoint.pauses.set(Some(pauses.map_or(0, |pauses| pauses + 1)));
                streams::set_deadline(source, Some(Instant::now() + SHARED_ACCEPT_PAUSE));
            }
        } else {
            self.accept(py, index, ACCEPT_TURN);
        }
        streams::rest(source);
    }

    /// Looks at a listener again that was left to others.
    fn end_pause(&self, endpoint: &Endpoint) {
        if endpoint.pauses.take().is_some()
            && let (Some(source), Some(listener)) = (endpoint.source.get(), &*endpoint.listener.borrow())
            && let Err(error) = streams::resume_listener(source, listener.as_fd())
        {
            output::say(&format!("connections are not accepted any more: {error}"));
        }
    }

    /// Accepts at most so many connections. Returns how many there were.
    fn accept(&self, py: Python<'_>, index: usize, most: usize) -> usize {
        let Some(endpoint) = self.endpoints.get(index) else { return 0 };
        for taken in 0..most {
            let Some(accepted) = endpoint.listener.borrow().as_ref().map(Listener::accept) else { return taken };
            match accepted {
                Accepted::Connection(socket, peer) => {
                    if let Err(error) = self.add(py, socket, peer, index) {
                        log(py, Level::Warning, &format!("A connection was not taken: {error}"), None);
                    }
                }
                Accepted::Nothing => return taken,
                Accepted::OutOfResources(error) => {
                    self.out_of_descriptors(py, &error);
                    return taken;
                }
            }
        }
        most
    }

    fn add(&self, py: Python<'_>, socket: std::os::fd::OwnedFd, peer: Peer, listener: usize) -> PyResult<()> {
        let key = self.connections.borrow().vacant_key();
        let mut stream = Stream::new(socket, key)?;
        if let Some(tls) = &self.tls {
            stream.secure(tls.transport(py)?);
        }
        streams::set_deadline(stream.source(), self.site.head_deadline());
        let connection = Connection::new(py, &self.site, stream, listener, peer)?;
        self.connections.borrow_mut().insert(Slot::Resting(Box::new(connection)));
        Ok(())
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
            self.site.request_limit()
        );
        // A handler of the log may wait, and the leader must not.
        event_loop::spawn(Box::new(move || Python::attach(|py| log(py, Level::Warning, &message, None))));
    }

    /// Leaves the kernel's queue alone for a moment: it would report the same connection again and again.
    fn out_of_descriptors(&self, py: Python<'_>, error: &std::io::Error) {
        if !self.out_of_descriptors_said.replace(true) {
            let open = self.connections.borrow().len();
            let message = format!(
                "Connections are not accepted for now: {error} ({open} are open). Raise the limit of open files (ulimit -n)."
            );
            log(py, Level::Error, &message, None);
        }
        self.stop_listening();
        // The pause ends through the service, on whichever unit leads then.
        event_loop::spawn(Box::new(|| {
            event_loop::sleep(Instant::now() + OUT_OF_DESCRIPTORS_PAUSE);
            event_loop::resume_service();
        }));
    }

    fn take(&self, source: SourceId, key: usize) -> Option<Box<Connection>> {
        let mut connections = self.connections.borrow_mut();
        match connections.get_mut(key) {
            Some(slot @ Slot::Resting(_)) => match std::mem::replace(slot, Slot::Busy) {
                Slot::Resting(connection) if connection.stream.source() == source => Some(connection),
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
            Next::Rest(connection) if !self.site.is_stopping() || !connection.is_idle() || connection.is_new() => {
                let source = connection.stream.source();
                self.put_back(key, connection);
                streams::rest_or_queue(source, key);
            }
            Next::Queue(connection) => {
                let source = connection.stream.source();
                self.put_back(key, connection);
                streams::serve_later(source, key);
            }
            closed @ (Next::Close | Next::Rest(_)) => {
                self.connections.borrow_mut().try_remove(key);
                drop(closed);
                self.endpoints.iter().for_each(|endpoint| self.end_pause(endpoint));
                self.note_if_drained();
            }
        }
    }

    fn put_back(&self, key: usize, connection: Box<Connection>) {
        if let Some(slot) = self.connections.borrow_mut().get_mut(key) {
            *slot = Slot::Resting(connection);
        }
    }

    fn note_if_drained(&self) {
        if self.site.is_stopping() && self.connections.borrow().is_empty() {
            self.site.drained();
        }
    }
}

impl Service for Table {
    fn serve(&self, source: SourceId, owner: usize) {
        Python::attach(|py| {
            if let Some(index) = owner.checked_sub(FIRST_LISTENER) {
                self.take_turn(py, source, index);
            } else if let Some(connection) = self.take(source, owner) {
                let next = connection.serve(py, &self.site);
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
                    connection.expire(py, &self.site)
                };
                self.settle(owner, next);
            }
        });
    }

    fn at_capacity(&self, reached: bool) {
        if reached {
            self.stop_listening();
            self.warn_of_the_cap();
            return;
        }
        self.left_capacity_at.set(Some(Instant::now()));
        if let Err(error) = self.listen() {
            output::say(&format!("connections are not accepted any more: {error}"));
        }
    }

    fn before_poll(&self) {
        self.site.flush_logs();
    }
}
