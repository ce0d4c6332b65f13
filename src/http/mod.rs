//! HTTP/1.x without input or output: bytes in, parsed heads, framing and response bytes out.
//!
//! | module             | contents                                               | clauses                 |
//! |--------------------|--------------------------------------------------------|-------------------------|
//! | [`error`]          | the faults of a peer, each with its status code        | RFC 9110 15             |
//! | [`exchange`]       | how a request and its response proceed and end         | RFC 9112 9              |
//! | [`head`]           | request line and field section                         | RFC 9112 2, 3, 5        |
//! | `head_scan`        | the lines of an incomplete head                        | RFC 9112 2.2            |
//! | [`limits`]         | the limits of a head                                   |                         |
//! | [`leniency`]       | repairs of a head that settings ask for                | RFC 9112 5.1, 5.2       |
//! | [`framing`]        | the body that follows a request head                   | RFC 9112 6              |
//! | [`chunked`]        | the chunked transfer coding of a request body          | RFC 9112 7.1            |
//! | [`response`]       | checks of an application's response, and its framing   | PEP 3333, RFC 9112 4, 6 |
//! | [`forwarded`]      | the client that trusted proxies name                   | RFC 7239                |
//! | [`proxy_protocol`] | the client that a proxy names before HTTP begins       | PROXY protocol 2        |
//! | [`date`]           | dates of the `Date` field and of the access log        | RFC 9110 5.6.7          |
//!
//! Nothing here reads, writes, waits, logs or knows Python. No byte of a peer leads to a panic or to an unbounded
//! allocation: each limit is a named value that the caller passes in.
//!
//! This file defines the terms that all modules share: the protocol version, and the small grammar of RFC 9110 4.2 and
//! 5.6.

use std::net::Ipv6Addr;

pub mod chunked;
pub mod date;
pub mod error;
pub mod exchange;
pub mod forwarded;
pub mod framing;
pub mod head;
mod head_scan;
pub mod leniency;
pub mod limits;
pub mod proxy_protocol;
pub mod redaction;
pub mod response;
pub mod trace_context;

/// The protocol version of a request (RFC 9112 2.3). HTTP/1.2 and up count as 1.1 (RFC 9110 2.5); another major version
/// is answered with 505.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// `HTTP/1.0`
    Http10,
    /// `HTTP/1.1`
    #[default]
    Http11,
}

/// Is this byte a `tchar` (RFC 9110 5.6.2)?
const fn is_token_byte(byte: u8) -> bool {
    const IS_TOKEN_BYTE: [bool; 256] = table_of(b"!#$%&'*+-.^_`|~");
    IS_TOKEN_BYTE[byte as usize]
}

/// Is this a `token`, which has at least one byte (RFC 9110 5.6.2)?
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| is_token_byte(byte))
}

/// May this byte stand in a field value, a reason phrase or a quoted string: HTAB, SP, VCHAR, obs-text (RFC 9110 5.5)?
const fn is_text_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7F)
}

/// The bytes without SP and HTAB around them (OWS, RFC 9110 5.6.3). No other byte counts as white space, since a proxy
/// does not strip it and would see another value.
fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// The members of a comma-separated list, trimmed; empty members are left out (RFC 9110 5.6.1.2).
pub fn list_members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim).filter(|member| !member.is_empty())
}

/// The port, perhaps empty, of `uri-host [ ":" port ]` (RFC 9110 4.2, RFC 3986 3.2.2). `None` if the grammar is broken
/// or the host is empty. Host and the authority of a request target have this grammar.
fn port_of(authority: &[u8]) -> Option<&[u8]> {
    let (is_host, after_host) = if let [b'[', literal @ ..] = authority {
        let (literal, after) = literal.split_at_checked(memchr::memchr(b']', literal)?)?;
        (is_address(literal), after.get(1..)?)
    } else {
        let name_bytes = memchr::memchr(b':', authority).unwrap_or(authority.len());
        let (name, after) = authority.split_at_checked(name_bytes)?;
        let is_name = name.iter().all(|&byte| is_host_byte(byte)) && has_whole_escapes(name);
        (is_name && !name.is_empty(), after)
    };
    let port = match after_host {
        [] => after_host,
        [b':', port @ ..] => port,
        _ => return None,
    };
    (is_host && port.iter().all(u8::is_ascii_digit)).then_some(port)
}

/// Is this the content of brackets: `IPv6address / IPvFuture` (RFC 3986 3.2.2)?
fn is_address(literal: &[u8]) -> bool {
    let Some(future) = literal.strip_prefix(b"v").or_else(|| literal.strip_prefix(b"V")) else {
        return str::from_utf8(literal).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok());
    };
    let mut parts = future.splitn(2, |&byte| byte == b'.');
    let is_version = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_hexdigit);
    let is_byte = |&byte: &u8| byte == b':' || (byte != b'%' && is_host_byte(byte));
    parts.next().is_some_and(is_version)
        && parts.next().is_some_and(|part| !part.is_empty() && part.iter().all(is_byte))
}

/// A byte of `reg-name`: unreserved, sub-delims, or the `%` of an escape (RFC 3986 3.2.2).
const fn is_host_byte(byte: u8) -> bool {
    const IS_HOST_BYTE: [bool; 256] = table_of(b".-_~%!$&'()*+,;=");
    IS_HOST_BYTE[byte as usize]
}

/// A table that marks letters, digits and `others`.
const fn table_of(mut others: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    while let [byte, rest @ ..] = others {
        table[*byte as usize] = true;
        others = rest;
    }
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] |= byte.is_ascii_alphanumeric();
        byte += 1;
    }
    table
}

fn has_whole_escapes(name: &[u8]) -> bool {
    let mut parts = name.split(|&byte| byte == b'%').skip(1);
    parts.all(|part| matches!(part, [high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_space_and_tab_are_trimmed() {
        assert_eq!(trim(b" \t a b\t "), b"a b");
        assert_eq!(trim(b" \t "), b"");
        for other in [0x0B, 0x0C, 0x1C, 0x85, 0xA0, b'\r', b'\n', 0] {
            assert_eq!(trim(&[other, b'a', other]), &[other, b'a', other]);
        }
    }

    #[test]
    fn empty_list_members_are_skipped() {
        let members: Vec<&[u8]> = list_members(b", a ,\t,b,, c d,").collect();
        assert_eq!(members, [&b"a"[..], b"b", b"c d"]);
        assert_eq!(list_members(b" , ").count(), 0);
    }

    #[test]
    fn the_token_alphabet_is_that_of_the_rfc() {
        let delimiters = b"\"(),/:;<=>?@[\\]{}";
        for byte in 0..=u8::MAX {
            let expected = (0x21..=0x7E).contains(&byte) && !delimiters.contains(&byte);
            assert_eq!(is_token_byte(byte), expected, "{byte:#04x}");
        }
        assert!(!is_token(b""));
    }

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
        let accepted: [(&[u8], &[u8]); 9] = [
            (b"a", b""),
            (b"a:", b""),
            (b"a.b-c:80", b"80"),
            (b"[::1]", b""),
            (b"[::1]:80", b"80"),
            (b"a%2f", b""),
            (b"[2001:DB8:0:0:1:2:255.0.0.1]", b""),
            (b"[v1.a:b]:", b""),
            (b"[VF0.~]", b""),
        ];
        for (authority, port) in accepted {
            assert_eq!(port_of(authority), Some(port));
        }
        #[rustfmt::skip] // a table
        let refused = [
            "", ":", ":80", "a:b", "a:1:2", "[", "[]", "[a", "[a]b", "[a]]", "]", "a/", "a@b", "a%", "%4", "\u{e4}",
            "[a]", "[:]", "[:::]", "[1.2.3.4]", "[::1%25eth0]", "[1::2::3]", "[00000::]", "[::1.2.3]", "[::1.2.3.04]",
            "[1:2:3:4:5:6:7]", "[1:2:3:4:5:6:7:8:9]", "[v]", "[v1]", "[v1.]", "[v.a]", "[vg.a]", "[v1.a%20]", "[\u{e4}]",
        ];
        for refused in refused {
            assert_eq!(port_of(refused.as_bytes()), None, "{refused}");
        }
    }
}
