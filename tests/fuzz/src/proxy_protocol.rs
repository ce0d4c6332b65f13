//! The PROXY protocol: an early decision is final, and a proxy's statement is read as it was encoded.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use _rmeinheld::http::proxy_protocol::{Addresses, Preface, Versions, parse};

use crate::input::Input;

const BOTH: Versions = Versions { v1: true, v2: true };

pub fn run(input: &[u8]) {
    growing(input);
    there_and_back(Input(input));
}

/// Each longer prefix says the same as the first one that was enough.
fn growing(bytes: &[u8]) {
    let whole = parse(bytes, BOTH);
    let decided =
        (0..=bytes.len()).map(|length| parse(&bytes[..length], BOTH)).find(|seen| *seen != Ok(Preface::Partial));
    match decided {
        None => assert_eq!(whole, Ok(Preface::Partial)),
        Some(first) => assert_eq!(first, whole),
    }
    if let Ok(Preface::Header { length, .. }) = whole {
        assert!(length <= bytes.len() && length <= 16 + usize::from(u16::MAX));
    }
    // Where nothing is looked for, nothing is found.
    assert_eq!(parse(bytes, Versions { v1: false, v2: false }), Ok(Preface::Absent));
}

fn there_and_back(mut input: Input<'_>) {
    let is_v6 = input.byte() % 2 == 1;
    let mut address = || {
        let bytes = input.take(16);
        let mut octets = [0; 16];
        octets[..bytes.len()].copy_from_slice(bytes);
        if is_v6 {
            IpAddr::from(Ipv6Addr::from(octets))
        } else {
            Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]).into()
        }
    };
    let (source, destination) = (address(), address());
    let (source_port, destination_port) = (input.short(), input.short());
    let expected = Addresses {
        source: (source.to_canonical(), source_port),
        destination: (destination.to_canonical(), destination_port),
    };
    let family = if is_v6 { "TCP6" } else { "TCP4" };
    let line = format!("PROXY {family} {source} {destination} {source_port} {destination_port}\r\n").into_bytes();
    assert_read(&line, input.0, expected);
    let extra = &input.0[..input.0.len().min(100)];
    let mut body = Vec::new();
    for address in [source, destination] {
        match address {
            IpAddr::V4(address) => body.extend_from_slice(&address.octets()),
            IpAddr::V6(address) => body.extend_from_slice(&address.octets()),
        }
    }
    body.extend_from_slice(&source_port.to_be_bytes());
    body.extend_from_slice(&destination_port.to_be_bytes());
    body.extend_from_slice(extra);
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    header.push(if is_v6 { 0x21 } else { 0x11 });
    header.extend_from_slice(&(body.len() as u16).to_be_bytes());
    header.extend_from_slice(&body);
    assert_read(&header, input.0, expected);
}

fn assert_read(header: &[u8], what_follows: &[u8], expected: Addresses) {
    let seen = parse(&[header, what_follows].concat(), BOTH);
    assert_eq!(seen, Ok(Preface::Header { length: header.len(), addresses: Some(expected) }));
}
