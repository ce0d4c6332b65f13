//! The PROXY protocol, versions 1 and 2: a proxy names its client before the first byte of HTTP.
//!
//! The source is HAProxy's `proxy-protocol.txt` (2020/03/05): sections 2.1 (text) and 2.2 (binary). The caller decides
//! whether the peer may use it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::error::RequestError;

/// The longest header of version 1, with CRLF (section 2.1).
const V1_BYTES: usize = 107;
/// The first bytes of every header of version 2 (section 2.2).
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
const V2_FIXED_BYTES: usize = 16;

const BAD_V1: RequestError = RequestError::BadRequest("invalid PROXY line (PROXY protocol 2.1)");
const BAD_V2: RequestError = RequestError::BadRequest("invalid PROXY header (PROXY protocol 2.2)");

/// The versions to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The line of text.
    pub v1: bool,
    /// The binary header.
    pub v2: bool,
}

/// Both ends of the proxy's connection with its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The client's end.
    pub source: (IpAddr, u16),
    /// The proxy's end.
    pub destination: (IpAddr, u16),
}

/// The beginning of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preface {
    /// No header: the bytes are HTTP.
    Absent,
    /// Perhaps a header; more bytes are needed.
    Partial,
    /// A header.
    Header {
        /// The length of the header in bytes; HTTP follows.
        length: usize,
        /// The ends that it names; `None` where the proxy connects for itself (a health check) or does not know.
        addresses: Option<Addresses>,
    },
}

/// Looks for a header at the beginning of a connection. No more than 64 KiB and 16 bytes are ever needed.
///
/// # Errors
///
/// [`RequestError::BadRequest`] for a header that breaks its grammar, or names another transport than TCP.
pub fn parse(bytes: &[u8], versions: Versions) -> Result<Preface, RequestError> {
    if versions.v2 && begins_alike(bytes, V2_SIGNATURE) {
        return if bytes.len() < V2_SIGNATURE.len() { Ok(Preface::Partial) } else { parse_v2(bytes) };
    }
    if versions.v1 && begins_alike(bytes, b"PROXY ") {
        return parse_v1(bytes);
    }
    Ok(Preface::Absent)
}

fn begins_alike(bytes: &[u8], signature: &[u8]) -> bool {
    bytes.iter().zip(signature).all(|(byte, expected)| byte == expected)
}

/// `PROXY TCP4 source destination port port CRLF`, TCP6 alike, or `PROXY UNKNOWN` and anything.
fn parse_v1(bytes: &[u8]) -> Result<Preface, RequestError> {
    let window = bytes.get(..V1_BYTES).unwrap_or(bytes);
    let Some(line_feed) = memchr::memchr(b'\n', window) else {
        return if window.len() < V1_BYTES { Ok(Preface::Partial) } else { Err(BAD_V1) };
    };
    let line = window.get(..line_feed).and_then(|line| line.strip_suffix(b"\r")).ok_or(BAD_V1)?;
    let line = std::str::from_utf8(line).map_err(|_| BAD_V1)?;
    let length = line_feed + 1;
    let mut words = line.split(' ').skip(1);
    let addresses = match words.next() {
        Some("UNKNOWN") => return Ok(Preface::Header { length, addresses: None }),
        Some("TCP4") => v1_addresses::<Ipv4Addr>(&mut words),
        Some("TCP6") => v1_addresses::<Ipv6Addr>(&mut words),
        _ => None,
    };
    if addresses.is_none() || words.next().is_some() {
        return Err(BAD_V1);
    }
    Ok(Preface::Header { length, addresses })
}

fn v1_addresses<'a, A: FromStr + Into<IpAddr>>(words: &mut impl Iterator<Item = &'a str>) -> Option<Addresses> {
    let source: A = words.next()?.parse().ok()?;
    let destination: A = words.next()?.parse().ok()?;
    let (source_port, destination_port) = (port(words.next()?)?, port(words.next()?)?);
    Some(Addresses {
        source: (source.into().to_canonical(), source_port),
        destination: (destination.into().to_canonical(), destination_port),
    })
}

/// Decimal, "in the range [0..65535] inclusive", without a sign or leading zeroes.
fn port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain)
}

fn parse_v2(bytes: &[u8]) -> Result<Preface, RequestError> {
    let Some(&[version_and_command, family_and_transport, high, low]) = bytes.get(12..V2_FIXED_BYTES) else {
        return Ok(Preface::Partial);
    };
    let length = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    // A wrong beginning is refused without waiting for the rest.
    if !matches!(version_and_command, 0x20 | 0x21) {
        return Err(BAD_V2);
    }
    let Some(rest) = bytes.get(V2_FIXED_BYTES..length) else {
        return Ok(Preface::Partial);
    };
    // LOCAL: "the receiver must accept this connection as valid and must use the real connection endpoints".
    if version_and_command == 0x20 {
        return Ok(Preface::Header { length, addresses: None });
    }
    let addresses = match family_and_transport {
        // UNSPEC: "the receiver should ignore address information".
        0x00 => return Ok(Preface::Header { length, addresses: None }),
        0x11 => v2_addresses::<4, Ipv4Addr>(rest),
        0x21 => v2_addresses::<16, Ipv6Addr>(rest),
        // A Unix socket's client has no address.
        0x31 if rest.len() >= 216 => return Ok(Preface::Header { length, addresses: None }),
        _ => None,
    };
    if addresses.is_none() {
        return Err(BAD_V2);
    }
    Ok(Preface::Header { length, addresses })
}

/// Both addresses, then both ports. The TLV behind them (section 2.2.1) are ignored.
fn v2_addresses<const BYTES: usize, A: From<[u8; BYTES]> + Into<IpAddr>>(bytes: &[u8]) -> Option<Addresses> {
    let (source, rest) = bytes.split_first_chunk::<BYTES>()?;
    let (destination, rest) = rest.split_first_chunk::<BYTES>()?;
    let (source_port, rest) = rest.split_first_chunk::<2>()?;
    let (destination_port, _) = rest.split_first_chunk::<2>()?;
    let address = |bytes: &[u8; BYTES]| A::from(*bytes).into().to_canonical();
    Some(Addresses {
        source: (address(source), u16::from_be_bytes(*source_port)),
        destination: (address(destination), u16::from_be_bytes(*destination_port)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Versions = Versions { v1: true, v2: true };

    fn v2(version_and_command: u8, family_and_transport: u8, rest: &[u8]) -> Vec<u8> {
        let length = (rest.len() as u16).to_be_bytes();
        [V2_SIGNATURE, &[version_and_command, family_and_transport], &length, rest].concat()
    }

    /// Parses each prefix on the way, then the whole with HTTP behind it.
    fn whole(header: &[u8]) -> Result<Option<Addresses>, u16> {
        for length in 0..header.len() {
            match parse(&header[..length], BOTH) {
                Ok(Preface::Partial) => {}
                Ok(other) => panic!("{other:?} after {length} bytes"),
                Err(error) => return Err(error.status()),
            }
        }
        match parse(&[header, b"GET / HTTP/1.1\r\n"].concat(), BOTH) {
            Ok(Preface::Header { length, addresses }) => {
                assert_eq!(length, header.len());
                Ok(addresses)
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.status()),
        }
    }

    fn addresses(source: &str, source_port: u16, destination: &str, destination_port: u16) -> Option<Addresses> {
        Some(Addresses {
            source: (source.parse().unwrap(), source_port),
            destination: (destination.parse().unwrap(), destination_port),
        })
    }

    #[test]
    fn version_1_is_a_line() {
        let cases = [
            ("PROXY TCP4 192.0.2.1 192.0.2.2 1 65535\r\n", addresses("192.0.2.1", 1, "192.0.2.2", 65535)),
            ("PROXY TCP6 2001:db8::1 ::1 0 80\r\n", addresses("2001:db8::1", 0, "::1", 80)),
            ("PROXY TCP6 ::ffff:192.0.2.1 ::1 5 80\r\n", addresses("192.0.2.1", 5, "::1", 80)),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None),
        ];
        for (line, expected) in cases {
            assert_eq!(whole(line.as_bytes()), Ok(expected), "{line}");
        }
    }

    #[test]
    fn a_bad_line_is_400() {
        let long = format!("PROXY UNKNOWN {}\r\n", "a".repeat(V1_BYTES));
        for line in [
            "PROXY \r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
            "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2  2\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n",
            "PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
            "PROXY TCP4 192.0.2.1\t192.0.2.2 1 2\r\n",
            &long,
        ] {
            assert_eq!(whole(line.as_bytes()), Err(400), "{line:?}");
        }
    }

    #[test]
    fn version_2_is_binary() {
        let v4 = [&[192, 0, 2, 1, 192, 0, 2, 2, 0, 1, 0xFF, 0xFF][..], b"\x03\x00\x04abcd"].concat();
        let v6 = [&[0; 15][..], &[1], &[0; 15], &[2], &[0x1F, 0x90, 0, 80]].concat();
        let cases = [
            (v2(0x21, 0x11, &v4), addresses("192.0.2.1", 1, "192.0.2.2", 65535)),
            (v2(0x21, 0x21, &v6), addresses("::1", 8080, "::2", 80)),
            (v2(0x21, 0x00, b""), None),
            (v2(0x21, 0x00, b"anything"), None),
            (v2(0x20, 0x00, b""), None),
            (v2(0x20, 0x11, &v4), None),
            (v2(0x21, 0x31, &[0; 216]), None),
        ];
        for (header, expected) in cases {
            assert_eq!(whole(&header), Ok(expected), "{header:?}");
        }
    }

    #[test]
    fn a_bad_header_is_400() {
        for header in [
            v2(0x11, 0x11, &[0; 12]), // version 1
            v2(0x22, 0x11, &[0; 12]), // no command
            v2(0x21, 0x12, &[0; 12]), // UDP
            v2(0x21, 0x11, &[0; 11]),
            v2(0x21, 0x21, &[0; 35]),
            v2(0x21, 0x31, &[0; 215]),
            v2(0x21, 0x41, &[0; 12]),
        ] {
            assert_eq!(whole(&header), Err(400), "{header:?}");
        }
    }

    #[test]
    fn what_is_not_looked_for_is_http() {
        let (v1, v2) = (b"PROXY UNKNOWN\r\n", v2(0x20, 0, b""));
        let (only_v1, only_v2) = (Versions { v1: true, v2: false }, Versions { v1: false, v2: true });
        assert_eq!(parse(v1, only_v2), Ok(Preface::Absent));
        assert_eq!(parse(&v2, only_v1), Ok(Preface::Absent));
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"\r\nGET", b"PROXYX", b"POST", b"\r\n\r\nG"] {
            assert_eq!(parse(bytes, BOTH), Ok(Preface::Absent), "{bytes:?}");
        }
    }
}
