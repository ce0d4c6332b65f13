//! Sticky sessions: the worker to which a request belongs, from the bytes of its head and the table of places alone.
//!
//! Most modes hash a value of the request over the [places](super::places) (rendezvous hashing, so that a change of
//! their number moves few sessions). `cookie` names the place in a signed cookie. `socketio` names the very process,
//! because Socket.IO keeps its sessions there.

mod cookie;
mod session_id;

use std::net::IpAddr;
use std::sync::Arc;

use regex_lite::Regex;

use super::message::Sibling;
use super::places::KEY_BYTES;
use super::scoreboard::Scoreboard;
use crate::http::head::Head;
use crate::http::is_token;

use cookie::CookieSigner;

/// Bytes of a path that a pattern is matched with. A request with a longer path is served where it arrives: matching
/// costs time for each byte and each part of the pattern.
pub const MOST_PATH_BYTES: usize = 1024;

/// The property of a request that decides where it is served.
#[derive(Clone, Debug)]
pub enum StickyMode {
    /// The session of Engine.IO, in the query.
    Socketio,
    /// A cookie of ours with this name.
    Cookie(String),
    /// The value of the field with this name.
    Header(String),
    /// The address of the client.
    Ip,
    /// The part of the path that the pattern finds: its first group, or all that it matches.
    Path(Regex),
}

impl StickyMode {
    /// Parses `socketio`, `cookie:NAME`, `header:NAME`, `ip` or `path:REGEX`.
    ///
    /// # Errors
    /// The reason why the text is no mode.
    pub fn parse(text: &str) -> Result<StickyMode, String> {
        let (kind, argument) = text.split_once(':').map_or((text, None), |(kind, argument)| (kind, Some(argument)));
        let name = |what: &str| match argument {
            Some(name) if is_token(name.as_bytes()) => Ok(name.to_owned()),
            Some(name) => Err(format!("{name:?} is no name of a {what} (RFC 9110 5.6.2)")),
            None => Err(format!("{kind} needs the name of a {what}, as in {kind}:NAME")),
        };
        match (kind, argument) {
            ("socketio", None) => Ok(StickyMode::Socketio),
            ("ip", None) => Ok(StickyMode::Ip),
            ("cookie", _) => name("cookie").map(StickyMode::Cookie),
            ("header", _) => name("header").map(StickyMode::Header),
            ("path", Some(pattern)) if !pattern.is_empty() => Regex::new(pattern)
                .map(StickyMode::Path)
                .map_err(|error| format!("the pattern {pattern:?} is no regular expression: {error}")),
            ("path", _) => Err("path needs a regular expression, as in path:^/room/([^/]+)".to_owned()),
            _ => Err(format!("{text:?} is none of socketio, cookie:NAME, header:NAME, ip, path:REGEX")),
        }
    }
}

/// The policy of sticky sessions in one worker.
pub struct StickyPolicy {
    mode: StickyMode,
    board: Arc<Scoreboard>,
    own: Sibling,
    cookies: Option<CookieSigner>,
}

impl StickyPolicy {
    /// The policy of the worker in the slot `own`. `key` signs cookies; without one, it is that of the service.
    pub fn new(mode: StickyMode, board: Arc<Scoreboard>, own: u32, key: Option<&str>) -> StickyPolicy {
        let cookies = match &mode {
            StickyMode::Cookie(name) => {
                let shared = board.service_key().unwrap_or([0; KEY_BYTES]);
                Some(CookieSigner::new(name, key.map_or(&shared[..], str::as_bytes)))
            }
            _ => None,
        };
        let own = Sibling { slot: own, generation: board.generation(own) };
        StickyPolicy { mode, board, own, cookies }
    }

    /// Is the address of the client all that matters?
    pub fn is_by_address(&self) -> bool {
        matches!(self.mode, StickyMode::Ip)
    }

    /// Do responses set cookies?
    pub fn sets_cookies(&self) -> bool {
        self.cookies.is_some()
    }

    /// The sibling to which a request belongs. `None`: this worker serves it. `client` finds the client's address.
    pub fn owner(&self, head: &Head, bytes: &[u8], client: impl FnOnce() -> Option<IpAddr>) -> Option<Sibling> {
        let worker = match &self.mode {
            StickyMode::Ip => return self.owner_by_address(client()?),
            StickyMode::Socketio => self.process_of_session(head.query.of(bytes))?,
            StickyMode::Cookie(_) => self.board.worker_at(self.place_in_cookie(head, bytes)?)?,
            StickyMode::Header(name) => self.worker_for(field(head, bytes, name)?)?,
            StickyMode::Path(pattern) => self.worker_for(part_of_path(pattern, head.path.of(bytes))?)?,
        };
        (worker != self.own).then_some(worker)
    }

    /// The sibling to which a client belongs.
    pub fn owner_by_address(&self, client: IpAddr) -> Option<Sibling> {
        let worker = match client.to_canonical() {
            IpAddr::V4(address) => self.worker_for(&address.octets()),
            IpAddr::V6(address) => self.worker_for(&address.octets()),
        }?;
        (worker != self.own).then_some(worker)
    }

    /// The cookie to set in the response to a request that has no valid one, in the form of Set-Cookie. A worker
    /// without a place sets none.
    pub fn new_cookie(&self, head: &Head, bytes: &[u8], is_secure: bool) -> Option<String> {
        let cookies = self.cookies.as_ref()?;
        if self.place_in_cookie(head, bytes).is_some_and(|place| self.board.holder(place).is_some()) {
            return None;
        }
        Some(cookies.set_cookie(self.board.place_of(self.own.slot)?, is_secure))
    }

    /// The process that has made the session of Engine.IO in a query, while it lives.
    fn process_of_session(&self, query: &[u8]) -> Option<Sibling> {
        let named = session_id::process_of_query(query)?;
        self.board.serving(named.slot).filter(|&worker| worker == named)
    }

    fn place_in_cookie(&self, head: &Head, bytes: &[u8]) -> Option<u32> {
        let cookies = self.cookies.as_ref()?;
        let fields = head.fields.iter().filter(|field| field.name.of(bytes).eq_ignore_ascii_case(b"cookie"));
        fields.flat_map(|field| cookies.values(field.value.of(bytes))).find_map(|value| cookies.place_of(value))
    }

    /// The worker at the place for a value. A place without a holder is passed over for the next best one.
    fn worker_for(&self, value: &[u8]) -> Option<Sibling> {
        let hash = hash_of(value);
        let held = (0..self.board.places()).filter_map(|place| self.board.holder(place).map(|slot| (place, slot)));
        let (_, slot) = held.max_by_key(|&(place, _)| weight(hash, place))?;
        self.board.serving(slot)
    }
}

/// The value of the first field with a name, unless it is empty.
fn field<'a>(head: &Head, bytes: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut fields = head.fields.iter().filter(|field| field.name.of(bytes).eq_ignore_ascii_case(name.as_bytes()));
    fields.next().map(|field| field.value.of(bytes)).filter(|value| !value.is_empty())
}

fn part_of_path<'a>(pattern: &Regex, path: &'a [u8]) -> Option<&'a [u8]> {
    let path = std::str::from_utf8(path).ok().filter(|path| path.len() <= MOST_PATH_BYTES)?;
    let found = pattern.captures(path)?;
    let part = found.get(1).or_else(|| found.get(0))?;
    (!part.is_empty()).then(|| part.as_str().as_bytes())
}

/// A number for a value, the same in every process: FNV-1a.
fn hash_of(value: &[u8]) -> u64 {
    value.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The weight of a place for a value; the place with the largest one has the value (rendezvous hashing).
fn weight(hash: u64, place: u32) -> u64 {
    mix(hash ^ mix(u64::from(place).wrapping_add(1)))
}

/// Mixes the bits of a number: the finaliser of SplitMix64.
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests;
