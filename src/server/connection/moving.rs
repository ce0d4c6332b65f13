//! The moves of a connection to and from siblings.

use std::os::fd::AsFd;

use pyo3::prelude::*;

use super::preface::source;
use super::{Adoption, Connection, Opening};
use crate::crew::moved_connection::MovedConnection;
use crate::crew::seat::MoveOutcome;
use crate::http::exchange::Ending;
use crate::http::head::Head;
use crate::http::redaction::redacted;
use crate::interp::{Level, log};
use crate::net::Stream;
use crate::server::moving::{Moving, Unmoved};
use crate::server::shared::Shared;
use crate::server::sticky::SessionOf;

/// Bytes of a request's method and target in a log line.
const LABEL_BYTES: usize = 200;

impl Connection {
    /// A connection that a sibling has accepted, and of which it has read `moved.bytes`. `has_room` says whether this
    /// worker may have the connection; its next request is refused otherwise.
    ///
    /// # Errors
    /// MemoryError.
    pub fn adopt(
        py: Python<'_>,
        shared: &Shared,
        stream: Stream,
        listener: usize,
        moved: &MovedConnection<'_>,
        has_room: bool,
    ) -> PyResult<Connection> {
        let mut connection = Connection::new(py, shared, stream, listener, moved.peer);
        if !moved.is_new {
            connection.opening = Opening::Over;
            if let Some(addresses) = moved.proxied {
                connection.take_name(py, shared, addresses)?;
            }
            connection.served = moved.served;
            let mut pending = shared.take_buffer(Vec::new());
            pending.extend_from_slice(moved.bytes);
            connection.arriving.set_bytes(pending);
        }
        shared.seat().count_hand_over(MoveOutcome::Received);
        // Siblings that see the places change at different times would hand it to and fro.
        connection.adoption = if has_room { Adoption::Stays } else { Adoption::HasNoRoom };
        Ok(connection)
    }

    /// Serves a request, or hands the connection to the sibling that the request belongs to. The connection is over
    /// here then.
    ///
    /// # Parks
    #[inline(never)]
    pub(super) fn run_or_move(
        &mut self,
        py: Python<'_>,
        shared: &Shared,
        moving: &Moving,
        head: Box<Head>,
        buffer: Vec<u8>,
    ) -> Ending {
        if self.adoption == Adoption::HasNoRoom {
            let why = format!("a sibling has handed it over. {}", shared.connection_limit().fullness());
            return self.refuse_unmoved(py, shared, &head, &buffer, &why);
        }
        match self.move_to_sibling(moving, &head, &buffer) {
            None => self.run(py, shared, head, buffer),
            Some((_, Ok(()))) => {
                shared.seat().count_hand_over(MoveOutcome::Sent);
                self.stream.leave();
                shared.give_buffer(buffer);
                shared.give_head(head);
                Ending::Close
            }
            // The session has ended with its process. The application begins another one here, or says so. A 503
            // until the master has filled the place would be of no use.
            Some((_, Err(why))) if why.is_gone() => self.run(py, shared, head, buffer),
            Some((slot, Err(why))) if moving.sticky().may_serve_others() => {
                shared.seat().count_hand_over(MoveOutcome::Failed);
                moving.complain(py, slot, &why);
                self.run(py, shared, head, buffer)
            }
            Some((slot, Err(why))) => {
                shared.seat().count_hand_over(MoveOutcome::Failed);
                let why = format!("it belongs to the worker of slot {slot}, which cannot take it: {why}");
                self.refuse_unmoved(py, shared, &head, &buffer, &why)
            }
        }
    }

    /// Sends the connection to the sibling that a request belongs to. Returns its slot, and whether it has the
    /// connection; `None` if the request is served here.
    fn move_to_sibling(&mut self, moving: &Moving, head: &Head, bytes: &[u8]) -> Option<(u32, Result<(), Unmoved>)> {
        let mut slot = self.sibling(moving, head, bytes)?;
        let moved = MovedConnection {
            is_new: false,
            served: self.served,
            listener: moving.key_of(self.listener.into()),
            peer: self.peer,
            proxied: self.proxied.as_ref().map(|proxied| proxied.addresses),
            bytes,
        };
        let mut sent = moving.send(slot, self.stream.as_fd(), &moved);
        if sent.as_ref().is_err_and(Unmoved::is_gone) {
            // The sibling may have ended since the decision.
            slot = self.sibling(moving, head, bytes)?;
            sent = moving.send(slot, self.stream.as_fd(), &moved);
        }
        Some((slot, sent))
    }

    /// The slot of the sibling that a request belongs to.
    fn sibling(&mut self, moving: &Moving, head: &Head, bytes: &[u8]) -> Option<u32> {
        // The state of a TLS connection cannot move.
        if std::mem::replace(&mut self.adoption, Adoption::None) == Adoption::Stays || self.stream.is_encrypted() {
            return None;
        }
        let client = self.proxied.as_ref().map_or(self.peer, |proxied| source(&proxied.addresses));
        moving.sticky().decide(&SessionOf { head, bytes, client, is_trusted: self.is_trusted })
    }

    /// Answers 503, with a line in the log.
    ///
    /// # Parks
    fn refuse_unmoved(&self, py: Python<'_>, shared: &Shared, head: &Head, bytes: &[u8], why: &str) -> Ending {
        let (line, length) = head.method_and_target(bytes);
        let label = line.get(..length.min(LABEL_BYTES)).unwrap_or(line).escape_ascii().to_string();
        log(py, Level::Warning, &format!("503 from {}: {}: {why}", self.client(py), redacted(&label)), None);
        self.answer_refusal(shared, 503, bytes)
    }
}
