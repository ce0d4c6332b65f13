//! The service that the loop calls when something happens on a listening socket or a connection.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use super::accepting::Accepting;
use super::answer_holding::AnswerHolding;
use super::connection::Next;
use super::connections::Connections;
use super::listening::FIRST_LISTENER;
use super::moving::Moving;
use super::shared::Shared;
use super::stopping_watchers::StoppingWatchers;
use super::tls::Tls;
use crate::crew::Letter;
use crate::crew::moved_connection::MovedConnection;
use crate::event_loop::{Service, SourceId, streams};
use crate::interp::{Level, log};
use crate::net::{Listener, held};
use crate::output;
use crate::wsgi::{self, Waited};

/// The server as the loop sees it. Lives on the loop thread.
pub struct LoopService {
    shared: Rc<Shared>,
    connections: Rc<Connections>,
    accepting: Accepting,
    stopping_watchers: StoppingWatchers,
    answer_holding: AnswerHolding,
}

impl LoopService {
    /// A service that accepts nothing yet.
    pub fn new(shared: Shared, listeners: Vec<Listener>, tls: Option<Tls>, hold_answers: Duration) -> LoopService {
        let connections = Rc::new(Connections::new(Arc::clone(shared.seat())));
        let shared = Rc::new(shared);
        let accepting = Accepting::new(Rc::clone(&shared), Rc::clone(&connections), listeners, tls);
        LoopService {
            shared,
            connections,
            accepting,
            stopping_watchers: StoppingWatchers::default(),
            answer_holding: AnswerHolding::new(hold_answers),
        }
    }

    /// The state that connections share.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Starts to accept connections.
    pub fn begin(&self) {
        self.accepting.begin();
    }

    /// Moves clients of WebSockets to other servers, over the time for which this one goes on before it stops.
    pub fn begin_draining(&self, delay: Duration) {
        self.stopping_watchers.begin_early(delay);
    }

    /// Stops the server, or changes the terms of its stop. Accepts what the kernel has queued, then nothing more.
    /// Connections that wait for a request get deadlines, and requests in progress go on.
    pub fn begin_stop(&self, py: Python<'_>) {
        let Some(terms) = self.shared.stop_begun() else { return };
        self.accepting.accept_the_last(py);
        self.connections.begin_stop(&self.shared);
        self.stopping_watchers.begin(terms.spread());
        if let Err(error) = wsgi::end_streams(py) {
            error.write_unraisable(py, None);
        }
        self.note_if_drained();
    }

    /// Logs the requests that the stop waits for until `deadline`.
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

    /// Says which requests a stop by SIGINT waits for: to the person at the terminal, and to the log without one.
    pub fn tell_a_person_what_is_waited_for(&self, py: Python<'_>) {
        let Some(Waited { count, oldest, oldest_seconds }) = wsgi::waited_for(py) else { return };
        let message = format!(
            "waiting for {count} request{}, oldest {oldest_seconds} s: {oldest}; press Ctrl-C again to stop now",
            if count == 1 { "" } else { "s" },
        );
        if output::has_reader() {
            output::say(&message);
        } else {
            log(py, Level::Warning, &message, None);
        }
    }

    /// Takes the connection in a message of a sibling.
    ///
    /// # Parks
    /// Where the transport runs Python code that waits.
    pub fn adopt(&self, py: Python<'_>, letter: Letter<OwnedFd>) {
        let Letter { payload, descriptors, .. } = letter;
        let fault = match (MovedConnection::decode(&payload), <[OwnedFd; 1]>::try_from(descriptors)) {
            (Ok(moved), Ok([socket])) => return self.accepting.adopt(py, socket, &moved),
            (Err(fault), _) => fault.to_string(),
            (Ok(_), Err(descriptors)) => format!("it came with {} descriptors instead of 1", descriptors.len()),
        };
        log(py, Level::Warning, &format!("A connection of a sibling was closed: {fault}"), None);
    }

    fn take_turn(&self, py: Python<'_>, source: SourceId, index: usize) {
        self.accepting.take_turn(py, source, index);
        self.note_if_drained();
    }

    fn settle(&self, key: usize, next: Next) {
        match next {
            Next::Rest(connection) => {
                let source = connection.stream.source();
                let is_kept = connection.is_kept();
                let is_owed = held::is_owed(&connection.stream);
                self.connections.put_back(key, connection);
                if is_owed {
                    streams::serve_first(source);
                } else {
                    streams::rest_or_queue(source, key);
                }
                if is_kept {
                    self.accepting.note_room();
                }
            }
            Next::Queue(connection) => {
                let source = connection.stream.source();
                self.connections.put_back(key, connection);
                streams::serve_later(source, key);
            }
            Next::Close => {
                self.connections.remove(key);
                self.accepting.note_room();
                self.accepting.end_pauses();
                self.note_if_drained();
            }
        }
    }

    fn note_if_drained(&self) {
        // Until `begin_stop` has run, the kernel may have connections that are still to be accepted.
        if self.shared.is_stopping()
            && self.accepting.is_over()
            && self.connections.count() == 0
            && self.shared.moving().is_none_or(Moving::is_over)
        {
            self.shared.drained();
        }
    }
}

impl Service for LoopService {
    fn serve(&self, source: SourceId, owner: usize) {
        Python::attach(|py| {
            if let Some(index) = owner.checked_sub(FIRST_LISTENER) {
                self.take_turn(py, source, index);
            } else if let Some(connection) = self.connections.take(source, owner) {
                let turn = self.answer_holding.begin();
                let next = connection.serve(py, &self.shared);
                self.settle(owner, next);
                self.answer_holding.end(turn.as_ref());
            }
        });
    }

    fn expired(&self, source: SourceId, owner: usize) {
        Python::attach(|py| {
            if let Some(index) = owner.checked_sub(FIRST_LISTENER) {
                self.take_turn(py, source, index);
            } else if let Some(connection) = self.connections.take(source, owner) {
                // A connection that was served since, or has bytes to read, is not idle after all.
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
            self.accepting.pause_at_capacity();
        } else {
            self.accepting.resume_below_capacity();
            self.note_if_drained();
        }
    }

    fn before_poll(&self) {
        self.shared.flush_logs();
    }
}
