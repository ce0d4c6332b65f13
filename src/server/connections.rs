//! The open connections of a server: those at rest, and those that a coroutine serves.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use slab::Slab;

use super::connection::{Connection, Resting};
use super::idle::{Candidate, Idle};
use super::shared::Shared;
use crate::crew::seat::Seat;
use crate::event_loop::SourceId;
use crate::net::held;

/// The connections by their keys, which are the owners of their sources in the loop. Lives on the loop thread.
pub struct Connections {
    seat: Arc<Seat>,
    slots: RefCell<Slab<ConnectionSlot>>,
    idle: Idle,
}

enum ConnectionSlot {
    Resting(Box<Connection>),
    /// A coroutine serves the connection.
    Busy,
}

impl Connections {
    /// No connection is open. The numbers of connections are noted in `seat`.
    pub fn new(seat: Arc<Seat>) -> Connections {
        Connections { seat, slots: RefCell::default(), idle: Idle::default() }
    }

    /// How many connections are open.
    pub fn count(&self) -> usize {
        self.slots.borrow().len()
    }

    /// Reserves the key of a new connection.
    pub fn reserve(&self) -> usize {
        let key = self.slots.borrow_mut().insert(ConnectionSlot::Busy);
        self.seat.count_accepted(self.count());
        key
    }

    /// Takes a connection to serve it, if it rests and its source is still this one.
    pub fn take(&self, source: SourceId, key: usize) -> Option<Box<Connection>> {
        let mut slots = self.slots.borrow_mut();
        match slots.get_mut(key) {
            Some(slot @ ConnectionSlot::Resting(_)) => match std::mem::replace(slot, ConnectionSlot::Busy) {
                ConnectionSlot::Resting(connection) if connection.stream.source() == source => {
                    self.note_rest(&connection, u64::wrapping_sub);
                    Some(connection)
                }
                other => {
                    *slot = other;
                    None
                }
            },
            _ => None,
        }
    }

    /// Puts a connection to rest, under the key that it was taken or reserved with.
    pub fn put_back(&self, key: usize, connection: Box<Connection>) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(key) {
            self.note_rest(&connection, u64::wrapping_add);
            *slot = ConnectionSlot::Resting(connection);
        }
    }

    /// Notes a connection that begins or ends to rest, unless it is idle: idle connections are the others.
    fn note_rest(&self, connection: &Connection, change: impl FnOnce(u64, u64) -> u64) {
        let Some(measures) = self.seat.measures() else { return };
        let gauge = match connection.resting() {
            Resting::Idle => return,
            Resting::Head => &measures.heads,
            Resting::Lingering => &measures.lingering,
        };
        gauge.store(change(gauge.load(Ordering::Relaxed), 1), Ordering::Relaxed);
    }

    /// Closes a connection at rest, or gives the key of another one free.
    pub fn remove(&self, key: usize) {
        // Closing may run Python code, so nothing is borrowed meanwhile.
        let removed = self.slots.borrow_mut().try_remove(key);
        if let Some(ConnectionSlot::Resting(connection)) = &removed {
            self.note_rest(connection, u64::wrapping_sub);
        }
        drop(removed);
        self.seat.note_open(self.count());
    }

    /// Prepares for a stop of the server, or for changed terms of it: sets the deadlines of all connections at rest.
    pub fn begin_stop(&self, shared: &Shared) {
        for (_, slot) in &mut *self.slots.borrow_mut() {
            if let ConnectionSlot::Resting(connection) = slot {
                connection.begin_stop(shared);
            }
        }
    }

    /// Is a connection idle, so that it can be closed to make room?
    pub fn has_idle(&self) -> bool {
        let Some(candidate) = self.longest_idle() else { return false };
        // The candidate is closed when another connection takes its place.
        self.idle.put_back(candidate);
        true
    }

    /// Closes the connection that has been idle for longest. Returns false if none is idle.
    pub fn close_longest_idle(&self) -> bool {
        let candidate = self.longest_idle();
        if let Some(candidate) = &candidate {
            self.remove(candidate.key);
        }
        candidate.is_some()
    }

    fn longest_idle(&self) -> Option<Candidate> {
        held::send_answers();
        let look = || {
            let slots = self.slots.borrow();
            let found = slots.iter().filter_map(|(key, slot)| match slot {
                ConnectionSlot::Resting(connection) if connection.is_kept() => {
                    Candidate::new(key, connection.stream.source())
                }
                _ => None,
            });
            found.collect()
        };
        let is_idle = |candidate: &Candidate| match self.slots.borrow().get(candidate.key) {
            Some(ConnectionSlot::Resting(connection)) => {
                // A request may have arrived since the last poll.
                let stream = &connection.stream;
                connection.is_kept()
                    && candidate.is_of(stream.source())
                    && !stream.has_unread()
                    && !held::is_unsent(stream)
            }
            _ => false,
        };
        self.idle.longest(look, is_idle)
    }
}
