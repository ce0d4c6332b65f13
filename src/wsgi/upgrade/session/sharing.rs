//! A session as one of many: frames that it shares with others, and the collections that it is in.

use std::sync::Arc;

use pyo3::prelude::*;

use super::WebSocketSession;
use crate::sync::lock;
use crate::websocket::extension::Agreement;
use crate::websocket::shared_frame::SharedFrame;
use crate::wsgi::upgrade::wire::{Membership, Offered};

impl WebSocketSession {
    /// The key of this session in a [`Membership`].
    pub fn key(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// The compression that the handshake has agreed on.
    pub fn agreement(&self) -> Option<Agreement> {
        self.agreement
    }

    /// Offers a frame; see [`Wire::offer`](super::Wire::offer). Also returns whether [`Self::attend`] has to follow.
    /// `py` is None on a thread that is detached.
    pub fn offer(&self, py: Option<Python<'_>>, frame: &SharedFrame, sends: bool) -> (Offered, bool) {
        let mut wire = match py {
            Some(py) => self.lock(py),
            None => lock(&self.wire),
        };
        let offered = wire.offer(frame, sends);
        (offered, offered == Offered::Queued || wire.is_unsettled())
    }

    /// Sends the queue as far as the kernel takes it, and does the work that is forbidden under the lock.
    ///
    /// # Errors
    /// When the loop has ended.
    ///
    /// # Parks
    /// If the stream is encrypted and Python code of the transport waits, and if logging does.
    pub fn attend(&self, py: Python<'_>) -> PyResult<()> {
        let mut wire = self.lock(py);
        wire.flush();
        self.settle(py, wire)
    }

    /// Enters a collection by `join`, unless the connection is closed. `join` returns whether it was not there before.
    pub fn enter(&self, py: Python<'_>, membership: &Arc<dyn Membership>, join: impl FnOnce() -> bool) -> bool {
        let mut wire = self.lock(py);
        if wire.closing().close().is_some() {
            return false;
        }
        !join() || wire.enter(membership)
    }

    /// Leaves a collection.
    pub fn leave(&self, py: Python<'_>, membership: &Arc<dyn Membership>) {
        self.lock(py).leave(membership);
    }
}
