//! Sticky sessions: the worker of the service that a request belongs to. `moving` takes a connection there.

use std::net::IpAddr;
use std::sync::Arc;

use super::settings::Settings;
use crate::crew::seat::Seat;
use crate::crew::sticky::StickyPolicy;
use crate::http::forwarded::Node;
use crate::http::head::Head;
use crate::net::Peer;
use crate::wsgi::FieldPolicy;

/// The rule by which requests belong to workers.
pub struct Sticky {
    policy: Arc<StickyPolicy>,
    fields: FieldPolicy,
    at_accept: bool,
    /// Connections of one peer may be those of many clients.
    has_proxies: bool,
}

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
    /// The rule of the settings, for the worker in `seat`. `None` without sticky sessions, or siblings. `is_tls`: the
    /// server's own TLS hides the heads.
    pub fn new(settings: &Settings, seat: &Seat, is_tls: bool) -> Option<Sticky> {
        let mode = settings.sticky.clone()?;
        let (board, own) = seat.shared()?;
        let policy = StickyPolicy::new(mode, Arc::clone(board), own, settings.sticky_key.as_deref());
        let has_proxies = settings.proxy_versions().is_some() || !settings.forwarded_peers.is_empty();
        let at_accept = policy.is_by_address() && (is_tls || !has_proxies);
        Some(Sticky { policy: Arc::new(policy), fields: settings.field_policy(), at_accept, has_proxies })
    }

    /// The part that sets cookies, if any.
    pub fn cookies(&self) -> Option<Arc<StickyPolicy>> {
        self.policy.sets_cookies().then(|| Arc::clone(&self.policy))
    }

    /// The slot of the sibling that the request belongs to; `None` if it is served here.
    pub fn decide(&self, request: &SessionOf<'_>) -> Option<u32> {
        let owner = if self.at_accept {
            None
        } else {
            self.policy.owner(request.head, request.bytes, || self.address_of_client(request))
        };
        owner.map(|owner| owner.slot)
    }

    /// The slot of the sibling that a connection belongs to which was just accepted; `None` if it stays here at first.
    /// The address of a proxy, whose connections are those of many clients, decides nothing.
    pub fn decide_at_accept(&self, client: Peer) -> Option<u32> {
        match client {
            Peer::Inet(address, _) if self.at_accept && !(self.has_proxies && self.fields.trusts(client)) => {
                self.policy.owner_by_address(address).map(|owner| owner.slot)
            }
            _ => None,
        }
    }

    /// May a request be served here if its own worker cannot take it?
    pub fn may_serve_others(&self) -> bool {
        self.policy.is_by_address()
    }

    /// The client's address, as the application gets it. A request whose fields will be refused has none.
    fn address_of_client(&self, request: &SessionOf<'_>) -> Option<IpAddr> {
        let named = if request.is_trusted { self.fields.client(request.head, request.bytes).ok()? } else { None };
        match (named, request.client) {
            (Some(Node::Address(address, _)), _) => Some(address),
            (None, Peer::Inet(address, _)) => Some(address),
            (Some(Node::Hidden(_)), _) | (None, Peer::Unix) => None,
        }
    }
}
