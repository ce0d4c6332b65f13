//! X-Forwarded-For and Forwarded: whatever a client sends, it cannot change what a proxy appends.

use std::net::{IpAddr, Ipv4Addr};

use _rmeinheld::http::forwarded::{Node, client_of_x_forwarded_for, origin_of_forwarded, split_host};

use crate::input::Input;

/// The address that the proxy has seen.
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let trusted = input.byte();
    // Some, but not the client.
    let is_trusted = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets()[0] != 192 && address.octets()[3] >= trusted,
        IpAddr::V6(address) => address.octets()[15] >= trusted,
    };
    let lines: Vec<&[u8]> = input.0.split(|&byte| byte == b'\n').collect();
    let _ = split_host(input.0);

    let _ = client_of_x_forwarded_for(lines.iter().copied(), is_trusted);
    let appended: Vec<Vec<u8>> = with_last(&lines, b", 192.0.2.1");
    let client = client_of_x_forwarded_for(appended.iter().map(Vec::as_slice), is_trusted);
    assert_eq!(client, Ok(Some(Node::Address(CLIENT, None))));

    let _ = origin_of_forwarded(lines.iter().copied(), is_trusted);
    let appended: Vec<Vec<u8>> = with_last(&lines, b", for=192.0.2.1;host=\"a:80\";proto=https");
    // A client that breaks the grammar is refused; one that keeps to it changes nothing.
    if let Ok(origin) = origin_of_forwarded(appended.iter().map(Vec::as_slice), is_trusted) {
        let (client, element) = origin.expect("an element was appended");
        assert_eq!(client, Some(Node::Address(CLIENT, None)));
        assert_eq!(element.host.as_deref(), Some(&b"a:80"[..]));
        assert_eq!(element.proto.as_deref(), Some(&b"https"[..]));
    }
}

/// The lines, with `end` behind the last one.
fn with_last(lines: &[&[u8]], end: &[u8]) -> Vec<Vec<u8>> {
    let mut lines: Vec<Vec<u8>> = lines.iter().map(|line| line.to_vec()).collect();
    if let Some(last) = lines.last_mut() {
        last.extend_from_slice(end);
    }
    lines
}
