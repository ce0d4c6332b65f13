//! The listening sockets in the loop: accepting, pausing for other processes, retrying and giving up.

use std::cell::{Cell, RefCell};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::event_loop::{SourceId, streams};
use crate::net::{Accepted, Listener};

/// The first owner number of listeners; lower numbers are connections.
pub const FIRST_LISTENER: usize = (u32::MAX / 2) as usize;

/// Connections accepted at most before other work runs.
pub const ACCEPT_TURN: usize = 64;

/// The time for which a process leaves the shared queue to other processes after accepting. The pause ends early if a
/// connection of the process ends. An idle process wakes up in this time. Without the pause, the one process that is
/// awake accepts a whole burst, and the others stay idle.
const SHARED_ACCEPT_PAUSE: Duration = Duration::from_micros(300);

/// Pauses in vain (no other process accepts) after which a turn accepts one connection more.
const PAUSES_IN_VAIN: usize = 4;

/// The time between two attempts to add a listening socket to epoll.
pub const RETRY: Duration = Duration::from_millis(200);

/// The time for which attempts to add a socket to epoll may fail. The server then ends.
const PATIENCE: Duration = Duration::from_secs(30);

/// A listening socket.
struct Endpoint {
    /// The socket. `None` after a failure, or once the server stops, so that the kernel refuses clients.
    listener: RefCell<Option<Listener>>,
    /// The socket's source in the loop while connections are accepted.
    source: Cell<Option<SourceId>>,
    /// The number of pauses so far in which no other process accepted; `None` while the socket is not paused.
    pauses: Cell<Option<usize>>,
}

/// The listening sockets of a server.
pub struct Listening {
    endpoints: Vec<Endpoint>,
    /// The time of the first failure, while epoll refuses a socket.
    failing_since: Cell<Option<Instant>>,
}

/// The outcome of an attempt to listen.
pub enum Attempt {
    /// Connections are accepted.
    Listens,
    /// Connections are accepted again.
    ListensAgain,
    /// At least one socket has to be retried. The text is for the log, at the first failure.
    Failed(Option<String>),
    /// A socket has failed for too long. The text names the socket.
    GivenUp(String),
}

impl Listening {
    /// Takes over sockets. Nothing is accepted until [`Self::start`].
    pub fn new(listeners: Vec<Listener>) -> Listening {
        let endpoint = |listener| Endpoint {
            listener: RefCell::new(Some(listener)),
            source: Cell::new(None),
            pauses: Cell::new(None),
        };
        Listening { endpoints: listeners.into_iter().map(endpoint).collect(), failing_since: Cell::new(None) }
    }

    /// The number of listening sockets.
    pub fn count(&self) -> usize {
        self.endpoints.len()
    }

    /// Are all sockets closed?
    pub fn is_over(&self) -> bool {
        self.endpoints.iter().all(|endpoint| endpoint.listener.borrow().is_none())
    }

    /// Adds all sockets to the loop.
    pub fn start(&self) -> Attempt {
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            if let (Some(listener), None) = (&*endpoint.listener.borrow(), endpoint.source.get()) {
                listener.keep_from_children();
                endpoint.pauses.set(None);
                match streams::add_listener(listener.as_fd(), FIRST_LISTENER + index) {
                    Ok(source) => endpoint.source.set(Some(source)),
                    Err(error) => return self.failed(listener, &error),
                }
            }
        }
        if self.failing_since.take().is_some() { Attempt::ListensAgain } else { Attempt::Listens }
    }

    fn failed(&self, listener: &Listener, error: &std::io::Error) -> Attempt {
        let now = Instant::now();
        let since = self.failing_since.get();
        self.failing_since.set(Some(since.unwrap_or(now)));
        let place = listener.place();
        match since {
            None => Attempt::Failed(Some(format!(
                "Connections to {place} are not accepted for now: epoll does not take the listening socket ({error}). \
                 The socket is tried again every {} ms; after {} s the server ends. \
                 Look at fs.epoll.max_user_watches and at the machine's memory.",
                RETRY.as_millis(),
                PATIENCE.as_secs(),
            ))),
            Some(since) if now.duration_since(since) < PATIENCE => Attempt::Failed(None),
            Some(_) => Attempt::GivenUp(format!(
                "epoll has refused the listening socket of {place} for {} s ({error})",
                PATIENCE.as_secs()
            )),
        }
    }

    /// Removes all sockets from the loop.
    pub fn stop(&self) {
        for endpoint in &self.endpoints {
            endpoint.stop();
        }
    }

    /// Closes a socket. Returns the socket's address.
    pub fn close(&self, index: usize) -> Option<String> {
        let endpoint = self.endpoints.get(index)?;
        endpoint.stop();
        endpoint.listener.take().map(|listener| listener.place())
    }

    /// Accepts one connection; `None` if the socket is closed.
    pub fn accept(&self, index: usize) -> Option<Accepted> {
        self.endpoints.get(index)?.listener.borrow().as_ref().map(Listener::accept)
    }

    /// The number of connections to accept in one turn of a shared queue. The number grows with the pauses in vain, so
    /// that pauses do not limit how much a process accepts.
    pub fn shared_turn(&self, index: usize) -> usize {
        let pauses = self.endpoints.get(index).and_then(|endpoint| endpoint.pauses.get());
        (1 + pauses.unwrap_or(0) / PAUSES_IN_VAIN).min(ACCEPT_TURN)
    }

    /// Leaves the socket to other processes for a moment. Call it after a turn that has accepted a connection, or that
    /// leaves one.
    pub fn pause(&self, index: usize, source: SourceId) {
        let Some(endpoint) = self.endpoints.get(index) else { return };
        if endpoint.source.get() != Some(source) {
            return;
        }
        if let Some(listener) = &*endpoint.listener.borrow() {
            let pauses = endpoint.pauses.get();
            if pauses.is_none() {
                streams::pause_listener(source, listener.as_fd());
            }
            endpoint.pauses.set(Some(pauses.map_or(0, |pauses| pauses + 1)));
            streams::set_deadline(source, Some(Instant::now() + SHARED_ACCEPT_PAUSE));
        }
    }

    /// Is the socket left to other processes at the moment?
    pub fn is_paused(&self, index: usize) -> bool {
        self.endpoints.get(index).is_some_and(|endpoint| endpoint.pauses.get().is_some())
    }

    /// Resumes a socket that was left to other processes. Returns `false` on failure: the socket must then be
    /// [started](Self::start) anew.
    pub fn end_pause(&self, index: usize) -> bool {
        self.endpoints.get(index).is_none_or(Endpoint::end_pause)
    }

    /// Resumes all sockets that were left to other processes; see [`Self::end_pause`].
    pub fn end_pauses(&self) -> bool {
        self.endpoints.iter().filter(|endpoint| !endpoint.end_pause()).count() == 0
    }
}

impl Endpoint {
    fn stop(&self) {
        self.pauses.set(None);
        if let (Some(source), Some(listener)) = (self.source.take(), &*self.listener.borrow()) {
            streams::remove(source, Some(listener.as_fd()));
        }
    }

    fn end_pause(&self) -> bool {
        if self.pauses.take().is_none() {
            return true;
        }
        let resumed = match (self.source.get(), &*self.listener.borrow()) {
            (Some(source), Some(listener)) => streams::resume_listener(source, listener.as_fd()).is_ok(),
            _ => true,
        };
        if !resumed {
            // A source that is not resumed would never report a connection again.
            self.stop();
        }
        resumed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_epoll_refuses_is_given_up_after_its_patience() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listener = Listener::new(socket.as_fd()).unwrap();
        let listening = Listening::new(Vec::new());
        let refused = std::io::Error::from(std::io::ErrorKind::OutOfMemory);
        assert!(matches!(listening.failed(&listener, &refused), Attempt::Failed(Some(_))));
        assert!(matches!(listening.failed(&listener, &refused), Attempt::Failed(None)));
        listening.failing_since.set(Instant::now().checked_sub(PATIENCE));
        let Attempt::GivenUp(why) = listening.failed(&listener, &refused) else { panic!("it is not given up") };
        assert!(why.contains(&socket.local_addr().unwrap().to_string()), "{why}");
    }
}
