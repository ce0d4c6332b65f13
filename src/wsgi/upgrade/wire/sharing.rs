//! Frames that many connections get, and the collections that a connection leaves when it closes.

use std::sync::{Arc, Weak};

use super::Wire;
use crate::websocket::shared_frame::SharedFrame;

/// The fate of a frame that was offered to one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// The kernel or the queue has it; the queue is sent as soon as the client takes more.
    Sent,
    /// The queue has it, and the caller has to flush the queue.
    Queued,
    /// Not taken: the client is slow, and its queue is full.
    Slow,
    /// Not taken: the connection is closed or closing.
    Closed,
}

/// A collection of connections, which each one leaves when it closes.
pub trait Membership: Send + Sync {
    /// Drops the connection with this key. The caller holds no lock.
    fn forget(&self, key: usize);
}

impl Wire {
    /// Takes a frame unless the queue is full. Sends it at once if `sends` is set. The caller settles.
    pub fn offer(&mut self, frame: &SharedFrame, sends: bool) -> Offered {
        if self.closing().close().is_some() {
            return Offered::Closed;
        }
        if !self.is_sendable() {
            return Offered::Slow;
        }
        let (frame, is_compressed) = frame.of(self.protocol.agreement());
        if is_compressed {
            self.protocol.note_shared_frame();
        }
        if sends && self.sends_directly() {
            // The usual case: nothing waits, and the kernel takes the frame. No byte of it is copied.
            self.send_directly(frame);
            return if self.closing().close().is_some() { Offered::Closed } else { Offered::Sent };
        }
        self.outgoing.extend_from_slice(frame);
        if !sends {
            return Offered::Queued;
        }
        self.flush();
        Offered::Sent
    }

    /// Whether anything is to be done once the lock is released.
    #[inline]
    pub fn is_unsettled(&self) -> bool {
        let leaves = !self.memberships.is_empty() && self.closing().close().is_some();
        let is_attended = !self.is_paused && !self.wants_attention && self.note.is_none() && !leaves;
        !is_attended || (self.stream.is_encrypted() && (self.stream.has_more() || self.stream.has_work()))
    }

    /// Enters a collection, which [`Membership::forget`] tells of the close. Returns false once the connection is closed.
    pub fn enter(&mut self, membership: &Arc<dyn Membership>) -> bool {
        let is_open = self.closing().close().is_none();
        if is_open {
            self.memberships.retain(|other| other.strong_count() > 0);
            self.memberships.push(Arc::downgrade(membership));
        }
        is_open
    }

    /// Leaves a collection.
    pub fn leave(&mut self, membership: &Arc<dyn Membership>) {
        let left = Arc::as_ptr(membership);
        self.memberships.retain(|other| !std::ptr::addr_eq(other.as_ptr(), left));
        self.memberships.shrink_to(0);
    }

    /// The collections to leave now, because the connection is closed.
    pub fn take_gatherings(&mut self) -> Vec<Weak<dyn Membership>> {
        if self.memberships.is_empty() || self.closing().close().is_none() {
            return Vec::new();
        }
        std::mem::take(&mut self.memberships)
    }
}
