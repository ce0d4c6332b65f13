//! The format of a connection that moves to a sibling: the facts that its descriptor does not carry. No input and
//! output.
//!
//! A worker reads a head whose session belongs to a sibling. It sends the descriptor of the connection with all bytes
//! that it has read since the last answer. The sibling goes on as if it had accepted the connection and read the bytes.
//!
//! | Bytes | Field |
//! |---|---|
//! | 1 | [`FORMAT`] |
//! | 1 | flags: 1 the connection is new, 2 a PROXY header has named the client, 4 the client came by a Unix socket |
//! | 4 | requests that the connection has carried, little-endian |
//! | 8 | the listening socket, as a [`listener_key`], little-endian |
//! | 18 | the peer: an IPv6 address, or a mapped IPv4 address, and the port, in network order |
//! | 18 + 18 | with flag 2: source and destination of the PROXY header, in the same form |
//! | rest | the bytes that were read |

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::http::proxy_protocol::Addresses;
use crate::net::Peer;

/// The version of this format.
pub const FORMAT: u8 = 1;

const IS_NEW: u8 = 1;
const IS_PROXIED: u8 = 2;
const IS_UNIX: u8 = 4;

/// The length of an address and a port.
const END_BYTES: usize = 18;

/// A connection on its way to a sibling, without its descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MovedConnection<'a> {
    /// The connection was just accepted, and nothing was read of it. A PROXY header may come.
    pub is_new: bool,
    /// The number of requests that it has carried.
    pub served: u32,
    /// The listening socket that it came by.
    pub listener: u64,
    /// The client at the other end of the socket.
    pub peer: Peer,
    /// The ends that a PROXY header has named.
    pub proxied: Option<Addresses>,
    /// The bytes that were read since the last answer: a head, and whatever came with it.
    pub bytes: &'a [u8],
}

/// A malformed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadMove {
    /// The sender speaks another format.
    Format(u8),
    /// The message is shorter than its fields.
    Short,
    /// A flag is unknown, or bytes came with a new connection.
    Flags(u8),
}

impl fmt::Display for BadMove {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadMove::Format(format) => {
                write!(f, "it speaks format {format} of handed-over connections, this worker format {FORMAT}")
            }
            BadMove::Short => f.write_str("the message of a handed-over connection is too short"),
            BadMove::Flags(flags) => write!(f, "the flags {flags:#x} of a handed-over connection are wrong"),
        }
    }
}

/// The key of a listening socket, which is the same in all workers: a hash (FNV-1a) of the address in words.
pub fn listener_key(place: &str) -> u64 {
    place.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

impl<'a> MovedConnection<'a> {
    /// The payload of the message.
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(14 + 3 * END_BYTES + self.bytes.len());
        let is_unix = self.peer == Peer::Unix;
        let flags = [(self.is_new, IS_NEW), (self.proxied.is_some(), IS_PROXIED), (is_unix, IS_UNIX)];
        let flags = flags.iter().filter(|(is_set, _)| *is_set).fold(0, |flags, (_, flag)| flags | flag);
        payload.extend_from_slice(&[FORMAT, flags]);
        payload.extend_from_slice(&self.served.to_le_bytes());
        payload.extend_from_slice(&self.listener.to_le_bytes());
        match self.peer {
            Peer::Inet(address, port) => push_end(&mut payload, (address, port)),
            Peer::Unix => payload.extend_from_slice(&[0; END_BYTES]),
        }
        if let Some(addresses) = &self.proxied {
            push_end(&mut payload, addresses.source);
            push_end(&mut payload, addresses.destination);
        }
        payload.extend_from_slice(self.bytes);
        payload
    }

    /// Reads the payload of a message.
    ///
    /// # Errors
    /// See [`BadMove`].
    pub fn decode(payload: &'a [u8]) -> Result<MovedConnection<'a>, BadMove> {
        let (&format, rest) = payload.split_first().ok_or(BadMove::Short)?;
        if format != FORMAT {
            return Err(BadMove::Format(format));
        }
        let (&flags, rest) = rest.split_first().ok_or(BadMove::Short)?;
        let (served, rest) = rest.split_first_chunk::<4>().ok_or(BadMove::Short)?;
        let (listener, rest) = rest.split_first_chunk::<8>().ok_or(BadMove::Short)?;
        let (peer, rest) = take_end(rest)?;
        let (proxied, bytes) = if flags & IS_PROXIED == 0 {
            (None, rest)
        } else {
            let (source, rest) = take_end(rest)?;
            let (destination, rest) = take_end(rest)?;
            (Some(Addresses { source, destination }), rest)
        };
        let is_new = flags & IS_NEW != 0;
        let is_known = flags & !(IS_NEW | IS_PROXIED | IS_UNIX) == 0;
        if !is_known || (is_new && (proxied.is_some() || !bytes.is_empty())) {
            return Err(BadMove::Flags(flags));
        }
        let peer = if flags & IS_UNIX == 0 { Peer::Inet(peer.0, peer.1) } else { Peer::Unix };
        let (served, listener) = (u32::from_le_bytes(*served), u64::from_le_bytes(*listener));
        Ok(MovedConnection { is_new, served, listener, peer, proxied, bytes })
    }
}

fn push_end(payload: &mut Vec<u8>, (address, port): (IpAddr, u16)) {
    let address = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    payload.extend_from_slice(&address.octets());
    payload.extend_from_slice(&port.to_be_bytes());
}

fn take_end(bytes: &[u8]) -> Result<((IpAddr, u16), &[u8]), BadMove> {
    let (address, rest) = bytes.split_first_chunk::<16>().ok_or(BadMove::Short)?;
    let (port, rest) = rest.split_first_chunk::<2>().ok_or(BadMove::Short)?;
    Ok(((Ipv6Addr::from(*address).to_canonical(), u16::from_be_bytes(*port)), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(address: &str, port: u16) -> (IpAddr, u16) {
        (address.parse().unwrap(), port)
    }

    fn moved(bytes: &[u8]) -> MovedConnection<'_> {
        let peer = Peer::Inet("192.0.2.1".parse().unwrap(), 40_000);
        MovedConnection { is_new: false, served: 3, listener: 7, peer, proxied: None, bytes }
    }

    #[test]
    fn a_connection_arrives_as_it_left() {
        let ends = Addresses { source: end("2001:db8::1", 1), destination: end("192.0.2.9", 65_535) };
        for one in [
            moved(b"GET / HTTP/1.1\r\n\r\n"),
            MovedConnection { proxied: Some(ends), ..moved(b"POST") },
            MovedConnection { peer: Peer::Unix, served: u32::MAX, listener: u64::MAX, ..moved(b"") },
            MovedConnection { peer: Peer::Inet("::1".parse().unwrap(), 1), is_new: true, ..moved(b"") },
            MovedConnection { peer: Peer::Unix, proxied: Some(ends), ..moved(&[0xFF; 300]) },
        ] {
            assert_eq!(MovedConnection::decode(&one.encode()), Ok(one));
        }
    }

    #[test]
    fn the_bytes_of_a_moved_connection_stay_what_they_are() {
        let expected =
            [&b"\x01\0\x03\0\0\0\x07\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\0\x02\x01\x9c\x40"[..], b"GET /"];
        assert_eq!(moved(b"GET /").encode(), expected.concat());
    }

    #[test]
    fn a_short_message_is_refused_at_every_length() {
        let ends = Addresses { source: end("192.0.2.1", 1), destination: end("192.0.2.9", 2) };
        let payload = MovedConnection { proxied: Some(ends), ..moved(b"") }.encode();
        for length in 0..payload.len() {
            assert_eq!(MovedConnection::decode(&payload[..length]), Err(BadMove::Short), "{length}");
        }
    }

    #[test]
    fn another_format_or_an_unknown_flag_is_refused() {
        let mut payload = moved(b"GET").encode();
        payload[1] = 8;
        assert_eq!(MovedConnection::decode(&payload), Err(BadMove::Flags(8)));
        payload[1] = IS_NEW;
        assert_eq!(MovedConnection::decode(&payload), Err(BadMove::Flags(IS_NEW)));
        payload[0] = 2;
        assert_eq!(MovedConnection::decode(&payload), Err(BadMove::Format(2)));
    }

    #[test]
    fn listening_sockets_have_keys_of_their_own() {
        assert_eq!(listener_key(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(listener_key("a"), 0xaf63_dc4c_8601_ec8c);
        assert_ne!(listener_key("127.0.0.1:80"), listener_key("127.0.0.1:81"));
    }
}
