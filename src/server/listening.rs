//! Listening sockets as the loop sees them: accepted from, left to other processes, tried again, given up.

use std::cell::{Cell, RefCell};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::event_loop::{SourceId, streams};
use crate::net::{Accepted, Listener};

/// Owners of sources from here on are listeners; below, connections.
pub const FIRST_LISTENER: usize = usize::MAX / 2;

/// Connections accepted before others get their turn.
pub const ACCEPT_TURN: usize = 64;

/// Where other processes accept from the same queue, a process that has accepted leaves what follows to them for so long,
/// or until one of its connections has ended: enough for one that is idle to wake up. Without it, the one that is awake
/// takes all of a burst, and keeps it while the others have nothing to do.
const SHARED_ACCEPT_PAUSE: Duration = Duration::from_micros(300);

/// After so many pauses in a row in which nobody took what was left, it takes one more at a time.
const PAUSES_IN_VAIN: usize = 4;

/// How long to wait before a listening socket that epoll did not take is given to it again.
pub const RETRY: Duration = Duration::from_millis(200);

/// How long that may fail before the server ends.
const PATIENCE: Duration = Duration::from_secs(30);

/// A listening socket.
struct Endpoint {
    /// The socket; none once the server stops, so that the kernel turns clients away, or when it is of no more use.
    listener: RefCell<Option<Listener>>,
    /// Its name in the loop while connections are accepted.
    source: Cell<Option<SourceId>>,
    /// While it is left to others: pauses so far at whose end something was left.
    pauses: Cell<Option<usize>>,
}

/// All of a server's.
pub struct Listening {
    endpoints: Vec<Endpoint>,
    /// Since when epoll has not taken one of them.
    failing_since: Cell<Option<Instant>>,
}

/// What became of an attempt to listen.
pub enum Attempt {
    /// Connections are accepted.
    Listens,
    /// And were not before.
    ListensAgain,
    /// One socket at least is still to be tried again. With text: what to say of it.
    Failed(Option<String>),
    /// It has been tried for long enough; what to say of it.
    GivenUp(String),
}

impl Listening {
    /// Nothing is accepted yet.
    pub fn new(listeners: Vec<Listener>) -> Listening {
        let endpoint = |listener| Endpoint {
            listener: RefCell::new(Some(listener)),
            source: Cell::new(None),
            pauses: Cell::new(None),
        };
        Listening { endpoints: listeners.into_iter().map(endpoint).collect(), failing_since: Cell::new(None) }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.endpoints.len()
    }

    /// Whether none is left.
    pub fn is_over(&self) -> bool {
        self.endpoints.iter().all(|endpoint| endpoint.listener.borrow().is_none())
    }

    /// Has the loop look at all of them.
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
                "Connections to {place} are not accepted for now: epoll does not take the listening socket ({error}). It is \
                 tried again every {} ms; after {} s the server ends. Look at fs.epoll.max_user_watches and at the \
                 machine's memory.",
                RETRY.as_millis(),
                PATIENCE.as_secs(),
            ))),
            Some(since) if now.duration_since(since) < PATIENCE => Attempt::Failed(None),
            Some(_) => Attempt::GivenUp(format!(
                "epoll has not taken the listening socket of {place} for {} s ({error})",
                PATIENCE.as_secs()
            )),
        }
    }

    /// Has the loop look at none of them.
    pub fn stop(&self) {
        for endpoint in &self.endpoints {
            endpoint.stop();
        }
    }

    /// Closes one. Returns where it listened.
    pub fn close(&self, index: usize) -> Option<String> {
        let endpoint = self.endpoints.get(index)?;
        endpoint.stop();
        endpoint.listener.take().map(|listener| listener.place())
    }

    /// Takes one connection; none if the socket is closed.
    pub fn accept(&self, index: usize) -> Option<Accepted> {
        self.endpoints.get(index)?.listener.borrow().as_ref().map(Listener::accept)
    }

    /// How many connections to accept in one turn where other processes accept from the same queue: more than one after
    /// some pauses, which must not bound how much a process takes.
    pub fn shared_turn(&self, index: usize) -> usize {
        let pauses = self.endpoints.get(index).and_then(|endpoint| endpoint.pauses.get());
        (1 + pauses.unwrap_or(0) / PAUSES_IN_VAIN).min(ACCEPT_TURN)
    }

    /// After a turn in which something was accepted: leaves the socket to other processes for a moment.
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

    /// Looks again at one that was left to others. `false` if that failed: it is to be [started](Self::start) anew.
    pub fn end_pause(&self, index: usize) -> bool {
        self.endpoints.get(index).is_none_or(Endpoint::end_pause)
    }

    /// The same for all.
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
            // Its source would never hear of a connection again.
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
