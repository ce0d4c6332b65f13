//! State that the connections of a server share: the application, settings, logs, and buffers for the next request.

use std::cell::{RefCell, RefMut};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::access_log::AccessLog;
use super::connection_limit::ConnectionLimit;
use super::moving::Moving;
use super::settings::Settings;
use super::slow_requests::SlowRequests;
use super::stop_signal::{StopSignal, StopTerms};
use crate::crew::seat::Seat;
use crate::event_loop;
use crate::http::error::{Checked, RequestError, require};
use crate::http::head::Head;
use crate::http::head::known::KnownHeads;
use crate::http::leniency::{Leniency, is_conventional};
use crate::http::limits::HeadLimits;
use crate::http::proxy_protocol::Versions;
use crate::interp::{Level, log};
use crate::net::{Networks, Pace, Peer};
use crate::wsgi::{Finished, Gateway, LastAddress};

/// Bytes read from a connection at a time: a head and a small body fit.
const BUFFER_BYTES: usize = 16 * 1024;

/// How long a head that has begun to arrive may take at a stop that closes idle connections at once.
const LAST_HEADS: Duration = Duration::from_secs(1);

/// How long a new connection may rest without a request once the server stops.
const FIRST_REQUEST_GRACE: Duration = Duration::from_millis(500);

/// The same for a connection on which something has arrived that is no head, such as the beginning of TLS: the client
/// has two round trips to make.
const HANDSHAKE_GRACE: Duration = Duration::from_millis(1500);

/// Buffers and heads kept for the next request.
const KEPT: usize = 16;

const UNCONVENTIONAL_METHOD: RequestError =
    RequestError::BadRequest("an unconventional method (permit_unconventional_http_method is off)");
const NO_CONNECT: RequestError = RequestError::NotImplemented("CONNECT (permit_connect is off; RFC 9110 9.3.6)");

/// State that connections share. Lives on the loop thread.
pub struct Shared {
    gateway: Gateway,
    templates: Vec<Py<PyDict>>,
    limits: HeadLimits,
    leniency: Option<Leniency>,
    takes_any_method: bool,
    takes_connect: bool,
    keep_alive: Option<Duration>,
    requests_per_connection: u32,
    proxy_versions: Option<Versions>,
    proxy_peers: Networks,
    header_timeout: Option<Duration>,
    send_timeout: Option<Duration>,
    min_send_rate: u32,
    access_log: Option<RefCell<AccessLog>>,
    access_logger: Option<Py<PyAny>>,
    slow: Option<SlowRequests>,
    is_one_of_many: bool,
    request_limit: usize,
    connection_limit: ConnectionLimit,
    buffers: RefCell<Vec<Vec<u8>>>,
    #[expect(clippy::vec_box, reason = "connections keep a head that arrives in pieces, boxed")]
    heads: RefCell<Vec<Box<Head>>>,
    known_heads: RefCell<KnownHeads>,
    last_address: LastAddress,
    moving: Option<Moving>,
    stop_signal: Arc<StopSignal>,
}

impl Shared {
    /// The state for an application behind `gateway`. `templates` has the environ that the requests of each listener
    /// copy.
    pub fn new(
        settings: &Settings,
        gateway: Gateway,
        templates: Vec<Py<PyDict>>,
        access_log: Option<AccessLog>,
        access_logger: Option<Py<PyAny>>,
        slow: Option<SlowRequests>,
        stop_signal: Arc<StopSignal>,
    ) -> Shared {
        Shared {
            gateway,
            templates,
            limits: settings.head_limits(),
            leniency: settings.leniency(),
            takes_any_method: settings.permit_unconventional_http_method,
            takes_connect: settings.permit_connect,
            keep_alive: settings.keep_alive(),
            requests_per_connection: settings.keep_alive_requests,
            proxy_versions: settings.proxy_versions(),
            proxy_peers: settings.proxy_peers.clone(),
            header_timeout: settings.client_header_timeout(),
            send_timeout: settings.send_timeout(),
            min_send_rate: settings.min_send_rate,
            access_log: access_log.map(RefCell::new),
            access_logger,
            slow,
            is_one_of_many: settings.multiprocess,
            request_limit: settings.worker_connections,
            connection_limit: ConnectionLimit::new(settings.max_connections),
            buffers: RefCell::default(),
            heads: RefCell::default(),
            known_heads: RefCell::default(),
            last_address: LastAddress::default(),
            moving: None,
            stop_signal,
        }
    }

    /// Lets connections move to siblings.
    pub fn set_moving(&mut self, moving: Option<Moving>) {
        self.moving = moving;
    }

    /// The way of connections to siblings; `None` where each worker serves the connections that it accepts.
    pub fn moving(&self) -> Option<&Moving> {
        self.moving.as_ref()
    }

    /// The way to the application.
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// The environ that the requests of a listener copy.
    pub fn template(&self, listener: usize) -> &Py<PyDict> {
        &self.templates[listener]
    }

    /// The limits of a request head.
    pub fn head_limits(&self) -> &HeadLimits {
        &self.limits
    }

    /// The heads that connections repeat.
    pub fn known_heads(&self) -> RefMut<'_, KnownHeads> {
        self.known_heads.borrow_mut()
    }

    /// The address that a connection came from last.
    pub fn last_address(&self) -> &LastAddress {
        &self.last_address
    }

    /// The repairs of a request head; `None` without any.
    pub fn leniency(&self) -> Option<Leniency> {
        self.leniency
    }

    /// Refuses a method that the standard permits but the settings forbid.
    ///
    /// # Errors
    /// 400 for an unconventional method, 501 for CONNECT.
    pub fn check_method(&self, method: &[u8]) -> Checked {
        require(self.takes_any_method || is_conventional(method), UNCONVENTIONAL_METHOD)?;
        require(self.takes_connect || method != b"CONNECT", NO_CONNECT)
    }

    /// Do other processes serve the same application, by the settings?
    pub fn is_one_of_many(&self) -> bool {
        self.is_one_of_many
    }

    /// Requests that may be in progress at once.
    pub fn request_limit(&self) -> usize {
        self.request_limit
    }

    /// Does the server stop? A connection is used again then only for a request that has arrived.
    pub fn is_stopping(&self) -> bool {
        self.stop_signal.is_stopping()
    }

    /// Notes that the last connection is closed.
    pub fn drained(&self) {
        self.stop_signal.drained();
    }

    /// The limit of open connections.
    pub fn connection_limit(&self) -> &ConnectionLimit {
        &self.connection_limit
    }

    /// Stops the server after a failure; `run()` raises `why`.
    pub fn fail(&self, why: String) {
        self.stop_signal.fail(why);
    }

    /// May a connection that has carried `served` requests carry another one?
    pub fn keeps_alive(&self, served: u32) -> bool {
        let may_go_on = self.requests_per_connection == 0 || served < self.requests_per_connection;
        self.keep_alive.is_some() && may_go_on
    }

    /// The versions of the PROXY protocol that a connection may begin with; `None` where that is off.
    pub fn proxy_versions(&self) -> Option<Versions> {
        self.proxy_versions
    }

    /// May this peer use the PROXY protocol?
    pub fn may_speak_proxy(&self, peer: Peer) -> bool {
        self.proxy_peers.contains_peer(peer)
    }

    /// How long a connection may rest that begins to rest now; `None` without a limit, and once the server stops.
    pub fn idle_time(&self) -> Option<Duration> {
        self.keep_alive.filter(|_| self.stop_begun().is_none())
    }

    /// The deadline of a connection that begins to rest now.
    pub fn idle_deadline(&self) -> Option<Instant> {
        // The precise clock: deadlines also say which connection has been idle for longest.
        let deadline = self.keep_alive.map(|timeout| Instant::now() + timeout);
        self.last_idle_deadline().map_or(deadline, |last| Some(deadline.unwrap_or(last).min(last)))
    }

    /// The latest deadline of a connection that rests now, set by the stop of the server; `None` before a stop.
    pub fn last_idle_deadline(&self) -> Option<Instant> {
        let terms = self.stop_begun()?;
        Some(terms.idle.map_or(terms.kept_until(), |idle| terms.kept_until().min(Instant::now() + idle)))
    }

    /// The deadline of a head that begins to arrive now.
    pub fn head_deadline(&self) -> Option<Instant> {
        let deadline = self.header_timeout.map(|timeout| Instant::now() + timeout);
        self.last_head_deadline().map_or(deadline, |last| Some(deadline.unwrap_or(last).min(last)))
    }

    /// The latest deadline of a head that is arriving, set by the stop of the server; `None` before a stop.
    pub fn last_head_deadline(&self) -> Option<Instant> {
        let terms = self.stop_begun()?;
        let until = terms.kept_until();
        Some(if terms.is_quick() { until.min(Instant::now() + LAST_HEADS) } else { until })
    }

    /// The latest deadline of a connection whose first request is still to come, set by the stop of the server; `None`
    /// before a stop. `has_begun` says that something has arrived that is no head.
    pub fn first_request_deadline(&self, has_begun: bool) -> Option<Instant> {
        let terms = self.stop_begun()?;
        let grace = match has_begun {
            _ if terms.is_quick() => Duration::ZERO,
            true => HANDSHAKE_GRACE,
            false => FIRST_REQUEST_GRACE,
        };
        Some(terms.kept_until().min(Instant::now() + grace))
    }

    /// The deadline of a connection that is accepted now, for its first request.
    pub fn first_deadline(&self) -> Option<Instant> {
        self.first_request_deadline(false).or_else(|| self.head_deadline())
    }

    /// Does the server stop, and close idle connections at once?
    pub fn is_stopping_quickly(&self) -> bool {
        self.stop_begun().is_some_and(|terms| terms.is_quick())
    }

    /// Does a stopping server still keep connections that wait for a request?
    pub fn keeps_connections(&self) -> bool {
        self.stop_begun().is_some_and(|terms| Instant::now() < terms.kept_until())
    }

    /// The terms of the stop that has begun.
    pub fn stop_begun(&self) -> Option<StopTerms> {
        if self.is_stopping() { self.stop_signal.terms() } else { None }
    }

    /// The patience with a client that takes an answer of the server's own.
    pub fn pace(&self) -> Pace {
        Pace::new(self.send_timeout, self.min_send_rate)
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

    /// Is there an access log or an access logger?
    pub fn logs_access(&self) -> bool {
        self.access_log.is_some() || self.access_logger.is_some()
    }

    /// Logs a request to the access log and the access logger.
    // Not part of its caller: frames that coroutines wait in should be small.
    #[inline(never)]
    pub fn log_access(&self, py: Python<'_>, finished: &Finished<'_>, elapsed: Duration) {
        if let Some(access_log) = &self.access_log {
            let renderer = access_log.borrow_mut().renderer(py);
            match renderer.and_then(|renderer| renderer.line(finished, elapsed)) {
                Ok(line) => access_log.borrow().add(&line),
                Err(error) => error.write_unraisable(py, None),
            }
        }
        if let Some(logger) = &self.access_logger
            && let Err(error) = super::access_log::logger::tell(logger.bind(py), finished, elapsed)
        {
            self.gateway.report(py, "Error in the access logger", &error);
        }
    }

    /// The log of slow requests, if there is one.
    pub fn slow_requests(&self) -> Option<&SlowRequests> {
        self.slow.as_ref()
    }

    /// The seat in which the server notes its work.
    pub fn seat(&self) -> &Arc<Seat> {
        self.stop_signal.seat()
    }

    /// Counts a finished request.
    pub fn count(&self, finished: &Finished<'_>) {
        self.stop_signal.count(finished.client_gone);
    }

    /// Writes the gathered lines of the access log.
    pub fn flush_logs(&self) {
        if let Some(access_log) = &self.access_log {
            let news = access_log.borrow().flush();
            // A handler of the log may park, so nothing is borrowed meanwhile.
            if let Some((level, message)) = news {
                event_loop::spawn(Box::new(move || Python::attach(|py| log(py, level, &message, None))));
            }
        }
    }

    /// Opens the access log's file anew after it was moved away, or goes on in `opened`.
    pub fn reopen_logs(&self, py: Python<'_>, opened: Option<OwnedFd>) {
        let Some(access_log) = &self.access_log else { return };
        let outcome = access_log.borrow_mut().reopen(opened);
        // A handler of the log may park, so nothing is borrowed meanwhile.
        if let Err(error) = outcome {
            log(py, Level::Error, &format!("The access log cannot be opened again: {error}"), None);
        }
    }
}
