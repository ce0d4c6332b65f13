//! Listeners and the table of connections: what the loop calls when something happens.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::PyDict;
use slab::Slab;

use super::access_log::AccessLog;
use super::connection::{Connection, Next};
use super::progress::Progress;
use super::settings::Settings;
use crate::event_loop::{self, Service, SourceId, streams};
use crate::http::head::{Head, Limits};
use crate::interp::{Level, log};
use crate::net::{Accepted, Listener, Peer, Stream};
use crate::wsgi::{Finished, Gateway};

/// Bytes read from a connection at a time: a head and a small body fit.
const BUFFER_BYTES: usize = 16 * 1024;

/// Buffers and heads kept for the next request.
const KEPT: usize = 16;

/// Connections accepted before others get their turn.
const ACCEPT_TURN: usize = 64;

/// How long no connection is accepted after the process ran out of descriptors.
const OUT_OF_DESCRIPTORS_PAUSE: Duration = Duration::from_millis(200);

/// How long a connection without a request may rest once the server stops.
const FIRST_REQUEST_GRACE: Duration = Duration::from_millis(500);

/// Owners of sources from here on are listeners; below, connections.
const FIRST_LISTENER: usize = usize::MAX / 2;

/// A listening socket and what its requests share.
pub struct Endpoint {
    /// The socket; none once the server stops, so that the kernel turns clients away.
    listener: RefCell<Option<Listener>>,
    /// Its name in the loop while connections are accepted.
    source: Cell<Option<SourceId>>,
    /// The environ that its requests start from.
    template: Py<PyDict>,
}

impl Endpoint {
    /// A socket on which nothing is accepted yet.
    pub fn new(listener: Listener, template: Py<PyDict>) -> Endpoint {
        Endpoint { listener: RefCell::new(Some(listener)), source: Cell::new(None), template }
    }
}

/// The server as the loop sees it. Lives on the loop thread.
pub struct Site {
    gateway: Gateway,
    endpoints: Vec<Endpoint>,
    connections: RefCell<Slab<Slot>>,
    limits: Limits,
    keep_alive: Option<Duration>,
    header_timeout: Option<Duration>,
    send_timeout: Option<Duration>,
    access_log: Option<RefCell<AccessLog>>,
    access_logger: Option<Py<PyAny>>,
    stopping: Cell<bool>,
    out_of_descriptors_said: Cell<bool>,
    buffers: RefCell<Vec<Vec<u8>>>,
    #[expect(clippy::vec_box, reason = "connections keep a head that arrives in pieces, boxed")]
    heads: RefCell<Vec<Box<Head>>>,
    progress: Arc<Progress>,
}

enum Slot {
    Resting(Box<Connection>),
    /// A coroutine has it.
    Busy,
}

impl Site {
    /// # Errors
    /// OSError if the access log cannot be opened.
    pub fn new(
        settings: &Settings,
        gateway: Gateway,
        endpoints: Vec<Endpoint>,
        access_log: Option<AccessLog>,
        access_logger: Option<Py<PyAny>>,
        progress: Arc<Progress>,
    ) -> Site {
        Site {
            gateway,
            endpoints,
            connections: RefCell::default(),
            limits: settings.head_limits(),
            keep_alive: settings.keep_alive(),
            header_timeout: settings.client_header_timeout(),
            send_timeout: settings.send_timeout(),
            access_log: access_log.map(RefCell::new),
            access_logger,
            stopping: Cell::new(false),
            out_of_descriptors_said: Cell::new(false),
            buffers: RefCell::default(),
            heads: RefCell::default(),
            progress,
        }
    }

    /// Starts to accept connections.
    ///
    /// # Errors
    /// What epoll_ctl(2) reports.
    pub fn listen(&self) -> std::io::Result<()> {
        if self.stopping.get() {
            return Ok(());
        }
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            if let (Some(listener), None) = (&*endpoint.listener.borrow(), endpoint.source.get()) {
                endpoint.source.set(Some(streams::add_listener(listener.as_fd(), FIRST_LISTENER + index)?));
            }
        }
        Ok(())
    }

    fn stop_listening(&self) {
        for endpoint in &self.endpoints {
            if let (Some(source), Some(listener)) = (endpoint.source.take(), &*endpoint.listener.borrow()) {
                streams::remove(source, Some(listener.as_fd()));
            }
        }
    }

    /// Accepts what the kernel has queued, then nothing more; closes idle connections; requests in progress go on.
    pub fn begin_stop(self: &Rc<Self>, py: Python<'_>) {
        if self.stopping.get() {
            return;
        }
        self.stop_listening();
        for index in 0..self.endpoints.len() {
            self.accept(py, index);
            self.endpoints[index].listener.take();
        }
        self.stopping.set(true);
        self.gateway.announce_closing();
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

    fn accept(&self, py: Python<'_>, index: usize) {
        let Some(endpoint) = self.endpoints.get(index) else { return };
        for _ in 0..ACCEPT_TURN {
            let Some(accepted) = endpoint.listener.borrow().as_ref().map(Listener::accept) else { return };
            match accepted {
                Accepted::Connection(socket, peer) => {
                    if let Err(error) = self.add(py, socket, peer, index) {
                        log(py, Level::Warning, &format!("A connection was not taken: {error}"), None);
                    }
                }
                Accepted::Nothing => return,
                Accepted::OutOfResources(error) => return self.out_of_descriptors(py, &error),
            }
        }
    }

    fn add(&self, py: Python<'_>, socket: std::os::fd::OwnedFd, peer: Peer, listener: usize) -> PyResult<()> {
        let key = self.connections.borrow().vacant_key();
        let stream = Stream::new(socket, key)?;
        streams::set_deadline(stream.source(), self.head_deadline());
        let connection = Connection::new(py, stream, listener, peer)?;
        self.connections.borrow_mut().insert(Slot::Resting(Box::new(connection)));
        Ok(())
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
            Next::Rest(connection) if !self.stopping.get() || !connection.is_idle() || connection.is_new() => {
                let source = connection.stream.source();
                self.put_back(key, connection);
                streams::rest_or_queue(source, key);
            }
            Next::Queue(connection) => {
                let source = connection.stream.source();
                self.put_back(key, connection);
                streams::queue(source, key);
            }
            closed @ (Next::Close | Next::Rest(_)) => {
                self.connections.borrow_mut().try_remove(key);
                drop(closed);
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
        if self.stopping.get() && self.connections.borrow().is_empty() {
            self.progress.drained();
        }
    }

    /// The way to the application.
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// The environ that the requests of a listener start from.
    pub fn template(&self, listener: usize) -> &Py<PyDict> {
        &self.endpoints[listener].template
    }

    /// The bounds of a request head.
    pub fn head_limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether connections are used for more than one request now.
    pub fn keeps_alive(&self) -> bool {
        self.keep_alive.is_some() && !self.stopping.get()
    }

    /// When a connection that begins to rest now has rested long enough.
    pub fn idle_deadline(&self) -> Option<Instant> {
        self.keep_alive.map(|timeout| Instant::now() + timeout)
    }

    /// When a head that begins to arrive now must be complete.
    pub fn head_deadline(&self) -> Option<Instant> {
        self.header_timeout.map(|timeout| Instant::now() + timeout)
    }

    /// How long a client may take without taking anything.
    pub fn send_timeout(&self) -> Option<Duration> {
        self.send_timeout
    }

    /// An empty buffer, or `pending` with room for more.
    pub fn take_buffer(&self, pending: Vec<u8>) -> Vec<u8> {
        if pending.is_empty() {
            self.buffers.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES))
        } else {
            pending
        }
    }

    /// Takes a buffer back.
    pub fn give_buffer(&self, mut buffer: Vec<u8>) {
        let mut buffers = self.buffers.borrow_mut();
        if buffers.len() < KEPT && buffer.capacity() == BUFFER_BYTES {
            buffer.clear();
            buffers.push(buffer);
        }
    }

    /// A parser.
    pub fn take_head(&self) -> Box<Head> {
        self.heads.borrow_mut().pop().unwrap_or_else(|| Box::new(Head::new()))
    }

    /// Takes a parser back.
    pub fn give_head(&self, mut head: Box<Head>) {
        let mut heads = self.heads.borrow_mut();
        if heads.len() < KEPT {
            head.reset();
            heads.push(head);
        }
    }

    /// Whether anybody wants to hear of requests.
    pub fn logs_access(&self) -> bool {
        self.access_log.is_some() || self.access_logger.is_some()
    }

    /// Tells them.
    pub fn log_access(&self, py: Python<'_>, finished: &Finished<'_>, elapsed: Duration) {
        if let Some(access_log) = &self.access_log {
            let renderer = access_log.borrow_mut().renderer(py);
            match renderer.and_then(|renderer| renderer.line(finished, elapsed)) {
                Ok(line) => {
                    let failure = access_log.borrow_mut().add(&line);
                    report_lost_lines(failure);
                }
                Err(error) => error.write_unraisable(py, None),
            }
        }
        if let Some(logger) = &self.access_logger
            && let Err(error) = super::access_log::tell(logger.bind(py), finished, elapsed)
        {
            self.gateway.report(py, "Error in the access logger", &error);
        }
    }

    /// Counts a finished request.
    pub fn count(&self, finished: &Finished<'_>) {
        self.progress.count(finished.client_gone);
    }

    /// Opens the access log's file anew, after it was moved away.
    pub fn reopen_logs(&self, py: Python<'_>) {
        if let Some(access_log) = &self.access_log
            && let Err(error) = access_log.borrow_mut().reopen()
        {
            log(py, Level::Error, &format!("The access log cannot be opened again: {error}"), None);
        }
    }
}

impl Service for Site {
    fn serve(&self, source: SourceId, owner: usize) {
        Python::attach(|py| {
            if let Some(index) = owner.checked_sub(FIRST_LISTENER) {
                streams::about_to_read(source);
                self.accept(py, index);
                streams::rest(source);
            } else if let Some(connection) = self.take(source, owner) {
                let next = connection.serve(py, self);
                self.settle(owner, next);
            }
        });
    }

    fn expired(&self, source: SourceId, owner: usize) {
        Python::attach(|py| {
            if let Some(connection) = self.take(source, owner) {
                // Served and at rest again since, or bytes are waiting: not idle after all.
                let next = if streams::has_deadline(source) || streams::is_readable(source) {
                    Next::Rest(connection)
                } else {
                    connection.expire(py, self)
                };
                self.settle(owner, next);
            }
        });
    }

    fn at_capacity(&self, reached: bool) {
        if reached {
            self.stop_listening();
        } else if let Err(error) = self.listen() {
            eprintln!("rmeinheld: connections are not accepted any more: {error}");
        }
    }

    fn before_poll(&self) {
        if let Some(access_log) = &self.access_log {
            let failure = access_log.borrow_mut().flush();
            report_lost_lines(failure);
        }
    }
}

/// Logging may wait, in a handler: nothing is borrowed here.
fn report_lost_lines(failure: Option<String>) {
    if let Some(failure) = failure {
        Python::attach(|py| log(py, Level::Error, &failure, None));
    }
}

/// Duplicates a listening descriptor that Python owns.
///
/// # Errors
/// When it is closed or the process has no descriptor left.
pub fn duplicate(number: i32) -> std::io::Result<Listener> {
    let socket: BorrowedFd<'_> = event_loop::borrow_descriptor(number);
    Listener::new(socket)
}
