//! Connections that move to the sibling that their session belongs to: the way out of this worker.
//!
//! A connection moves between two requests: the answers before it have been written in full, and nothing of the next
//! request has reached the application. Its descriptor and the bytes that were read of it travel in one message
//! ([`moved_connection`](crate::crew::moved_connection)). The sibling owns the connection from then on. If the sibling
//! dies with the message unread, the kernel closes the connection, and its client sees an end without an answer.

use std::cell::Cell;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use super::episode::Episode;
use super::sticky::Sticky;
use crate::crew::kinds::MOVED_CONNECTION;
use crate::crew::moved_connection::{MovedConnection, listener_key};
use crate::crew::scoreboard::{Scoreboard, WorkerState};
use crate::crew::{Crew, NotSent};
use crate::event_loop;
use crate::interp::{Level, log};

/// A sibling whose loop has not turned for this long gets no further connection, if another worker will do.
const PATIENCE: Duration = Duration::from_secs(1);

/// The same where no other worker will do. Shorter turns are waited for, as with one worker: an error would end a session
/// that is alive. A loop is unhealthy after the same time (`crew::probe`).
const PATIENCE_FOR_SESSIONS: Duration = Duration::from_secs(5);

/// The most time for the messages of siblings that have arrived when the server ends.
const LAST_MESSAGES: Duration = Duration::from_millis(500);

/// The time between two looks whether they have been read.
const LOOK: Duration = Duration::from_millis(3);

/// The reason why a connection did not move.
#[derive(Debug)]
pub enum Unmoved {
    /// The slot has no worker that serves.
    NoWorker,
    /// The sibling computes, or is stopped.
    Computes(Duration),
    /// The sibling has as many connections as this worker may have.
    HasNoRoom(u64),
    /// The crew does not take the message.
    NotSent(NotSent),
}

impl Unmoved {
    /// Has the slot no worker any more that takes connections?
    pub fn is_gone(&self) -> bool {
        matches!(self, Unmoved::NoWorker | Unmoved::NotSent(NotSent::NoSibling(_)))
    }
}

impl fmt::Display for Unmoved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unmoved::NoWorker => f.write_str("the slot has no worker that serves"),
            Unmoved::Computes(age) => {
                write!(f, "its loop has not turned for {:.1} s, because it computes or is stopped", age.as_secs_f64())
            }
            Unmoved::HasNoRoom(open) => {
                write!(f, "it has {open} connections, as many as max_connections allows")
            }
            Unmoved::NotSent(why) => why.fmt(f),
        }
    }
}

/// The way of connections to siblings. Lives on the loop thread.
pub struct Moving {
    crew: Arc<Crew>,
    board: Arc<Scoreboard>,
    sticky: Sticky,
    /// The keys of the listening sockets, by their numbers.
    listeners: Vec<u64>,
    /// The largest number of open connections.
    connection_limit: usize,
    complaints: Episode,
    /// When this worker stops to wait for the last messages of siblings, once it ends.
    ends_at: Cell<Option<Instant>>,
}

impl Moving {
    /// A way to the siblings in `board`, which reach this worker by `crew`. `places` are the addresses of the listening
    /// sockets.
    pub fn new(
        crew: Arc<Crew>,
        board: Arc<Scoreboard>,
        sticky: Sticky,
        places: impl Iterator<Item = String>,
        connection_limit: usize,
    ) -> Moving {
        let listeners = places.map(|place| listener_key(&place)).collect();
        Moving {
            crew,
            board,
            sticky,
            listeners,
            connection_limit,
            complaints: Episode::default(),
            ends_at: Cell::new(None),
        }
    }

    /// The rule by which requests belong to workers.
    pub fn sticky(&self) -> &Sticky {
        &self.sticky
    }

    /// The key of a listening socket in messages.
    pub fn key_of(&self, listener: usize) -> u64 {
        self.listeners.get(listener).copied().unwrap_or_default()
    }

    /// The number of the listening socket with a key.
    pub fn listener_of(&self, key: u64) -> Option<usize> {
        self.listeners.iter().position(|&known| known == key)
    }

    /// Sends a connection to the worker of `slot`. The descriptor stays open here, too.
    ///
    /// # Errors
    /// See [`Unmoved`]. The sibling has nothing then.
    pub fn send(&self, slot: u32, socket: BorrowedFd<'_>, connection: &MovedConnection<'_>) -> Result<(), Unmoved> {
        if matches!(self.board.state(slot), WorkerState::Free | WorkerState::Booting) {
            return Err(Unmoved::NoWorker);
        }
        let age = self.board.turn_age(slot);
        let patience = if self.sticky.may_serve_others() { PATIENCE } else { PATIENCE_FOR_SESSIONS };
        if age >= patience {
            return Err(Unmoved::Computes(age));
        }
        if self.sticky.may_serve_others() {
            // The sibling would have to refuse the connection, which is of use here.
            let open = self.board.counters(slot).open_connections;
            if open >= self.connection_limit as u64 {
                return Err(Unmoved::HasNoRoom(open));
            }
        }
        self.crew.send(slot, MOVED_CONNECTION, &connection.encode().into(), &[socket]).map_err(Unmoved::NotSent)
    }

    /// Can no sibling hand a connection to this server any more, which ends? The first call stops the siblings from
    /// sending. Until all that they have sent is read, the service is asked again soon.
    pub fn is_over(&self) -> bool {
        let now = Instant::now();
        match self.ends_at.get() {
            Some(at) if now >= at || !self.crew.is_receiving() => return true,
            Some(_) => {}
            None => {
                self.crew.end_receiving();
                self.ends_at.set(Some(now + LAST_MESSAGES));
            }
        }
        event_loop::resume_service_at(now + LOOK);
        false
    }

    /// Logs that a connection is served here instead of by its sibling, once for each episode.
    ///
    /// # Parks
    /// If a handler of the log waits.
    pub fn complain(&self, py: Python<'_>, slot: u32, why: &Unmoved) {
        if self.complaints.is_new() {
            let message =
                format!("Connections that belong to the worker of slot {slot} are served here for now, because {why}");
            log(py, Level::Warning, &message, None);
        }
    }
}
