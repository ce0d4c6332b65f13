//! Sticky sessions: the worker of the service that a request belongs to. `moving` takes a connection there.

use std::sync::Arc;

use super::settings::Settings;
use crate::crew::seat::Seat;
use crate::http::head::Head;
use crate::net::Peer;

/// The rule by which requests belong to workers.
pub struct Sticky {}

/// The properties of a request that decide where it belongs.
pub struct SessionOf<'a> {
    /// The parsed head.
    pub head: &'a Head,
    /// The bytes of the head.
    pub bytes: &'a [u8],
    /// The client: the peer, or the one that a PROXY header has named.
    pub client: Peer,
    /// The client is trusted to speak for other clients.
    pub is_trusted: bool,
}

impl Sticky {
    /// The rule of the settings, for the worker in `seat`. `None` without sticky sessions.
    pub fn new(_settings: &Settings, _seat: &Arc<Seat>) -> Option<Sticky> {
        None
    }

    /// The slot of the sibling that the request belongs to; `None` if it is served here.
    #[expect(clippy::unused_self, reason = "filled later")]
    pub fn decide(&self, _request: &SessionOf<'_>) -> Option<u32> {
        None
    }

    /// The slot of the sibling that a connection belongs to which was just accepted; `None` if it stays here at first.
    #[expect(clippy::unused_self, reason = "filled later")]
    pub fn decide_at_accept(&self, _client: Peer) -> Option<u32> {
        None
    }

    /// May a request be served here if its own worker cannot take it?
    #[expect(clippy::unused_self, reason = "filled later")]
    pub fn may_serve_others(&self) -> bool {
        false
    }
}
