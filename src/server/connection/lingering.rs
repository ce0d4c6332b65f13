//! The end of a connection whose last answer may still be on its way.

use std::time::{Duration, Instant};

use super::arriving::Arriving;
use super::{Connection, ConnectionStage, Next};
use crate::event_loop::streams;
use crate::server::shared::Shared;

/// How long the server reads and discards what the client sends on an ended connection. An immediate close would
/// destroy the answer on its way (RFC 9112 9.6). Apache waits 2 s at first, nginx 5.
const LINGER: Duration = Duration::from_secs(2);

impl Connection {
    // Not part of its caller: frames that coroutines wait in should be small.
    #[inline(never)]
    pub(super) fn begin_lingering(self: Box<Self>) -> Next {
        self.stream.shutdown_write();
        self.linger_from_now()
    }

    pub(super) fn linger_from_now(mut self: Box<Self>) -> Next {
        self.stage = ConnectionStage::Lingering;
        self.arriving = Arriving::default();
        streams::set_deadline(self.stream.source(), Some(Instant::now() + LINGER));
        Next::Rest(self)
    }

    // Not part of its caller: frames that coroutines wait in should be small.
    #[inline(never)]
    pub(super) fn linger(self: Box<Self>, shared: &Shared) -> Next {
        let mut buffer = shared.take_buffer(Vec::new());
        // After its closing alert, the TLS library takes further bytes for an error.
        let read = self.stream.discard_now(&mut buffer);
        shared.give_buffer(buffer);
        match read {
            Ok(Some(0)) | Err(_) => Next::Close,
            Ok(_) => Next::Rest(self),
        }
    }
}
