//! The client as the proxies on the way name it: `X-Forwarded-For`, and `Forwarded` (RFC 7239).
//!
//! Each proxy appends the peer that it has seen, so the lists are read from their end. While an address is that of a
//! trusted proxy, the address before it is trusted, too. Everything before the first untrusted address is ignored,
//! since any client may have written it. `Forwarded` as a whole must still follow its grammar: a quote that the client
//! leaves open would swallow what a proxy appends.

use std::borrow::Cow;
use std::net::IpAddr;

use super::error::RequestError;
use super::{is_token, is_token_byte, list_members};

const BAD_FORWARDED: RequestError = RequestError::BadRequest("invalid Forwarded (RFC 7239 4)");
const BAD_NODE: RequestError = RequestError::BadRequest("Forwarded names no client (RFC 7239 6)");
const BAD_FORWARDED_FOR: RequestError = RequestError::BadRequest("X-Forwarded-For names no address");

/// A client or a proxy (RFC 7239 6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// An address, and its port where one is named.
    Address(IpAddr, Option<u16>),
    /// `unknown`, or a name that hides the address and begins with an underscore.
    Hidden(String),
}

/// One element of `Forwarded`: the report of one proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element<'a> {
    /// `for`: the sender of the request to the proxy.
    pub client: Option<Cow<'a, [u8]>>,
    /// `host`: the Host field that the proxy received.
    pub host: Option<Cow<'a, [u8]>>,
    /// `proto`: the scheme of the request to the proxy.
    pub proto: Option<Cow<'a, [u8]>>,
}

/// The client that the values of all `X-Forwarded-For` lines, in their order, name; `None` without a line.
///
/// # Errors
///
/// [`RequestError::BadRequest`] where a trusted proxy names no address.
pub fn client_of_x_forwarded_for<'a>(
    values: impl DoubleEndedIterator<Item = &'a [u8]>,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> Result<Option<Node>, RequestError> {
    let mut client = None;
    for value in values.rev() {
        let members: Vec<&[u8]> = list_members(value).collect();
        for member in members.into_iter().rev() {
            let node = parse_node(member).ok_or(BAD_FORWARDED_FOR)?;
            let is_proxy = matches!(node, Node::Address(address, _) if is_trusted(address));
            client = Some(node);
            if !is_proxy {
                return Ok(client);
            }
        }
    }
    Ok(client)
}

/// The client that the values of all `Forwarded` lines name, and the element in which its proxy names it; `None`
/// without an element.
///
/// # Errors
///
/// [`RequestError::BadRequest`] where the grammar is broken anywhere, or a trusted proxy's `for` is no node.
pub fn origin_of_forwarded<'a>(
    values: impl Iterator<Item = &'a [u8]>,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> Result<Option<(Option<Node>, Element<'a>)>, RequestError> {
    let mut elements = Vec::new();
    for value in values {
        parse_elements(value, &mut elements).ok_or(BAD_FORWARDED)?;
    }
    let mut origin = None;
    while let Some(element) = elements.pop() {
        let node = element.client.as_deref().map(|node| parse_node(node).ok_or(BAD_NODE)).transpose()?;
        let is_proxy = matches!(node, Some(Node::Address(address, _)) if is_trusted(address));
        origin = Some((node, element));
        if !is_proxy {
            break;
        }
    }
    Ok(origin)
}

/// The host, without brackets, and the port of a Host field's value; `None` if the value is invalid.
pub fn split_host(value: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let port = super::port_of(value)?;
    let is_port_said = value.len() > port.len() && value.get(value.len() - port.len() - 1) == Some(&b':');
    let host = value.get(..value.len() - port.len() - usize::from(is_port_said))?;
    let host = host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]")).unwrap_or(host);
    Some((host, (!port.is_empty()).then_some(port)))
}

/// `node = nodename [ ":" node-port ]`; an IPv6 address is taken without brackets too, as X-Forwarded-For has it.
fn parse_node(bytes: &[u8]) -> Option<Node> {
    let text = std::str::from_utf8(bytes).ok()?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(Node::Address(address.to_canonical(), None));
    }
    let (name, port) = match text.strip_prefix('[') {
        Some(literal) => {
            let (address, after) = literal.split_once(']')?;
            let port = if after.is_empty() { None } else { Some(after.strip_prefix(':')?) };
            let IpAddr::V6(_) = address.parse().ok()? else { return None };
            (address, port)
        }
        None => text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port))),
    };
    let is_hidden = |name: &str| {
        name.strip_prefix('_').is_some_and(|rest| {
            !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        })
    };
    let port = match port {
        // 6.3: a port may be hidden as well.
        Some(port) if is_hidden(port) => None,
        Some(port) if port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit()) => Some(port.parse().ok()?),
        Some(_) => return None,
        None => None,
    };
    if let Ok(address) = name.parse::<IpAddr>() {
        return Some(Node::Address(address.to_canonical(), port));
    }
    (name.eq_ignore_ascii_case("unknown") || is_hidden(name)).then(|| Node::Hidden(name.to_owned()))
}

/// `Forwarded = 1#( [ pair ] *( ";" [ pair ] ) )`; empty elements are skipped. `None` where the grammar is broken.
fn parse_elements<'a>(value: &'a [u8], elements: &mut Vec<Element<'a>>) -> Option<()> {
    let mut rest = value;
    loop {
        let mut element = Element::default();
        let mut is_empty = true;
        loop {
            rest = skip_space(rest);
            if !matches!(rest, [] | [b';' | b',', ..]) {
                rest = skip_space(parse_pair(rest, &mut element)?);
                is_empty = false;
            }
            match rest {
                [b';', after @ ..] => rest = after,
                _ => break,
            }
        }
        if !is_empty {
            elements.push(element);
        }
        match rest {
            [] => return Some(()),
            [b',', after @ ..] => rest = after,
            _ => return None,
        }
    }
}

/// `token "=" ( token / quoted-string )`, without white space (RFC 7239 4). Returns the rest. No parameter may occur
/// twice.
fn parse_pair<'a>(bytes: &'a [u8], element: &mut Element<'a>) -> Option<&'a [u8]> {
    let (name, after) = bytes.split_at_checked(memchr::memchr(b'=', bytes)?)?;
    let (value, rest) = match after.get(1..)? {
        [b'"', quoted @ ..] => unquote(quoted)?,
        plain => {
            let end = plain.iter().position(|&byte| !is_token_byte(byte)).unwrap_or(plain.len());
            let (token, rest) = plain.split_at_checked(end)?;
            is_token(token).then_some((Cow::Borrowed(token), rest))?
        }
    };
    let slot = match () {
        () if name.eq_ignore_ascii_case(b"for") => &mut element.client,
        () if name.eq_ignore_ascii_case(b"host") => &mut element.host,
        () if name.eq_ignore_ascii_case(b"proto") => &mut element.proto,
        () => return is_token(name).then_some(rest),
    };
    if slot.is_some() {
        return None;
    }
    *slot = Some(value);
    Some(rest)
}

/// The content of a quoted string after its opening quote, and the rest after its closing one (RFC 9110 5.6.4).
fn unquote(bytes: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let end = memchr::memchr2(b'"', b'\\', bytes)?;
    let (plain, mut rest) = bytes.split_at_checked(end)?;
    if let [b'"', after @ ..] = rest {
        return Some((Cow::Borrowed(plain), after));
    }
    let mut content = plain.to_vec();
    loop {
        match rest {
            [b'"', after @ ..] => return Some((Cow::Owned(content), after)),
            [b'\\', byte, after @ ..] => {
                content.push(*byte);
                rest = after;
            }
            [b'\\'] | [] => return None,
            [byte, after @ ..] => {
                content.push(*byte);
                rest = after;
            }
        }
    }
}

fn skip_space(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 10.0.0.0/8 are proxies.
    fn is_trusted(address: IpAddr) -> bool {
        matches!(address, IpAddr::V4(address) if address.octets()[0] == 10)
    }

    fn address(text: &str, port: Option<u16>) -> Option<Node> {
        Some(Node::Address(text.parse().unwrap(), port))
    }

    fn hidden(text: &str) -> Option<Node> {
        Some(Node::Hidden(text.to_owned()))
    }

    fn x_forwarded_for(values: &[&str]) -> Result<Option<Node>, u16> {
        let values = values.iter().map(|value| value.as_bytes());
        client_of_x_forwarded_for(values, is_trusted).map_err(|error| error.status())
    }

    #[test]
    fn x_forwarded_for_is_read_from_its_end() {
        let cases: [(&[&str], Option<Node>); 14] = [
            (&[], None),
            (&[""], None),
            (&[" , ,"], None),
            (&["192.0.2.1"], address("192.0.2.1", None)),
            (&["192.0.2.9, 192.0.2.1"], address("192.0.2.1", None)),
            (&["192.0.2.9, 192.0.2.1, 10.0.0.1, 10.0.0.2"], address("192.0.2.1", None)),
            (&["10.0.0.1, 10.0.0.2"], address("10.0.0.1", None)),
            (&["192.0.2.9", "192.0.2.1", "10.0.0.1"], address("192.0.2.1", None)),
            // mod_wsgi 6: empty members are no clients.
            (&["192.0.2.1,,10.0.0.1", ", "], address("192.0.2.1", None)),
            (&["rubbish, 192.0.2.1"], address("192.0.2.1", None)),
            (&["192.0.2.1:8080"], address("192.0.2.1", Some(8080))),
            (&["2001:db8::1, 10.0.0.1"], address("2001:db8::1", None)),
            (&["[2001:db8::1]:80"], address("2001:db8::1", Some(80))),
            (&["192.0.2.1, unknown"], hidden("unknown")),
        ];
        for (values, expected) in cases {
            assert_eq!(x_forwarded_for(values), Ok(expected), "{values:?}");
        }
    }

    #[test]
    fn a_trusted_proxy_must_name_a_node() {
        for value in [
            "rubbish",
            "rubbish, 10.0.0.1",
            "192.0.2.256",
            "192.0.2.1:",
            "192.0.2.1:x",
            "192.0.2.1:65536",
            "192.0.2.1 192.0.2.2",
            "[192.0.2.1]",
            "[::1",
            "[::1]80",
            "_",
            "\u{e4}",
        ] {
            assert_eq!(x_forwarded_for(&[value]), Err(400), "{value}");
        }
    }

    /// Client, host and scheme.
    fn forwarded(values: &[&str]) -> Result<Option<(Option<Node>, String, String)>, u16> {
        let values = values.iter().map(|value| value.as_bytes());
        let text = |value: Option<Cow<'_, [u8]>>| String::from_utf8(value.unwrap_or_default().into_owned()).unwrap();
        match origin_of_forwarded(values, is_trusted) {
            Ok(Some((client, element))) => Ok(Some((client, text(element.host), text(element.proto)))),
            Ok(None) => Ok(None),
            Err(error) => Err(error.status()),
        }
    }

    #[test]
    fn forwarded_is_read_from_its_end() {
        let is = |client, host: &str, proto: &str| Some((client, host.to_owned(), proto.to_owned()));
        let cases: [(&[&str], _); 14] = [
            (&[], None),
            (&["", " , ;"], None),
            // Examples of RFC 7239 4 and 6.
            (&["for=\"_gazonk\""], is(hidden("_gazonk"), "", "")),
            (&["For=\"[2001:db8:cafe::17]:4711\""], is(address("2001:db8:cafe::17", Some(4711)), "", "")),
            (&["for=192.0.2.60;proto=http;by=203.0.113.43"], is(address("192.0.2.60", None), "", "http")),
            (&["for=192.0.2.43, for=198.51.100.17"], is(address("198.51.100.17", None), "", "")),
            (&["for=\"192.0.2.43:47011\""], is(address("192.0.2.43", Some(47011)), "", "")),
            (&["for=\"192.0.2.43:_port\""], is(address("192.0.2.43", None), "", "")),
            // The element of the proxy that the client has connected to.
            (
                &["for=192.0.2.1;host=a;proto=https, for=10.0.0.1;host=b;proto=http"],
                is(address("192.0.2.1", None), "a", "https"),
            ),
            (&["host=\"x\";for=192.0.2.9", "for=10.0.0.1;host=b"], is(address("192.0.2.9", None), "x", "")),
            (&["for=192.0.2.1, proto=https"], is(None, "", "https")),
            (&["for=unknown;host=\"a\\\"b\""], is(hidden("unknown"), "a\"b", "")),
            (&["for=10.0.0.1;host=a, for=10.0.0.2"], is(address("10.0.0.1", None), "a", "")),
            (&["x=\",;\" ; for=192.0.2.1 , ,"], is(address("192.0.2.1", None), "", "")),
        ];
        for (values, expected) in cases {
            assert_eq!(forwarded(values), Ok(expected), "{values:?}");
        }
    }

    #[test]
    fn forwarded_that_breaks_its_grammar_is_400_wherever_it_does() {
        for value in [
            "for",
            "=a",
            "for=",
            "for=a b",
            "for =a",
            "for= a",
            "for=192.0.2.1;for=192.0.2.2",
            "for=\"192.0.2.1",
            // The client leaves it open, before the element of a proxy.
            "for=\"x, for=192.0.2.1",
            "for=\"x\\\", for=192.0.2.1",
            "for=[::1]",
            "for=192.0.2.1:80",
            "for=\"192.0.2.1\"x",
            "for=rubbish",
            "b@d=1;for=192.0.2.1",
        ] {
            assert_eq!(forwarded(&[value]), Err(400), "{value}");
        }
    }

    #[test]
    fn a_host_is_split_from_its_port() {
        let cases: [(&str, &str, Option<&str>); 5] = [
            ("a", "a", None),
            ("a:", "a", None),
            ("a:80", "a", Some("80")),
            ("[::1]", "::1", None),
            ("[::1]:80", "::1", Some("80")),
        ];
        for (value, host, port) in cases {
            assert_eq!(split_host(value.as_bytes()), Some((host.as_bytes(), port.map(str::as_bytes))), "{value}");
        }
        assert_eq!(split_host(b"a b"), None);
    }
}
