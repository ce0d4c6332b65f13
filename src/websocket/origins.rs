//! The origins that browsers may come from (RFC 6455 10.2, RFC 6454).

use super::handshake::values;
use crate::http::error::RequestError;
use crate::http::head::Head;

const BAD_ORIGIN: RequestError = RequestError::Forbidden("an Origin that is not in websocket_origins (RFC 6455 10.2)");

const OTHER_HOST: RequestError = RequestError::Forbidden(
    "an Origin other than the Host, which websocket_origins=same demands (RFC 6455 10.2); behind a proxy that changes \
     Host, see forwarded_allow_ips and trusted_proxy_headers",
);

/// The setting for the origin of the page's own server.
const SAME: &str = "same";

/// The allowed origins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    /// The origin may be that of the requested host.
    pub allows_same: bool,
    listed: Vec<String>,
}

/// The host that a client has asked for, as far as the server trusts who says so.
#[derive(Clone, Copy, Debug)]
pub struct RequestedHost<'a> {
    /// The scheme of the request; with a proxy in front that is not trusted, that of the proxy's own connection.
    pub is_https: bool,
    /// The host, with its port if that is not the usual one.
    pub host: &'a str,
    /// The port that a trusted proxy names in addition to the host.
    pub port: Option<&'a str>,
}

impl Origins {
    /// The origins of a setting.
    pub fn new(settings: &[String]) -> Origins {
        let (same, listed): (Vec<String>, Vec<String>) = settings.iter().cloned().partition(|origin| origin == SAME);
        Origins { allows_same: !same.is_empty(), listed }
    }

    /// Checks the origins of a request. A request without one does not come from a browser.
    ///
    /// # Errors
    /// [`RequestError::Forbidden`] for an origin that is not allowed.
    pub fn check(&self, head: &Head, bytes: &[u8], requested: Option<RequestedHost<'_>>) -> Result<(), RequestError> {
        let requested = requested.filter(|_| self.allows_same);
        let is_allowed =
            |origin: &[u8]| self.lists(origin) || requested.is_some_and(|requested| requested.is_of(origin));
        match values(head, bytes, b"origin").all(is_allowed) {
            true => Ok(()),
            false if self.allows_same && self.listed.is_empty() => Err(OTHER_HOST),
            false => Err(BAD_ORIGIN),
        }
    }

    fn lists(&self, origin: &[u8]) -> bool {
        self.listed.iter().any(|listed| listed.as_bytes().eq_ignore_ascii_case(origin))
    }
}

impl RequestedHost<'_> {
    /// Whether an origin has this host and this port. A port that is absent is the usual one of the scheme.
    ///
    /// A page of http may not connect to https: anyone between it and its client may have written it. The other way
    /// round, a proxy has ended TLS.
    pub fn is_of(&self, origin: &[u8]) -> bool {
        let Some((is_https, authority)) = str::from_utf8(origin).ok().and_then(split_origin) else { return false };
        if self.is_https && !is_https {
            return false;
        }
        let usual = if is_https { "443" } else { "80" };
        let (host, port) = split_port(authority);
        let (own_host, own_port) = split_port(self.host);
        !host.is_empty()
            && host.eq_ignore_ascii_case(own_host)
            && port.unwrap_or(usual) == own_port.or(self.port).unwrap_or(usual)
    }
}

fn split_origin(origin: &str) -> Option<(bool, &str)> {
    let (scheme, authority) = origin.split_once("://")?;
    match scheme.to_ascii_lowercase().as_str() {
        "https" => Some((true, authority)),
        "http" => Some((false, authority)),
        _ => None,
    }
}

/// A host, IPv6 addresses in brackets, and its port.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port).filter(|port| !port.is_empty())),
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::Parsed;
    use crate::http::limits::HeadLimits;

    const LIMITS: HeadLimits = HeadLimits { request_line_bytes: 0, field_count: 0, field_bytes: 0, head_bytes: 65536 };

    #[test]
    fn origins_are_compared_and_clients_without_one_pass() {
        let check = |settings: &[&str], fields: &str| {
            let bytes = format!("GET / HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n\r\n");
            let mut head = Head::new();
            assert_eq!(head.parse(bytes.as_bytes(), &LIMITS), Ok(Parsed::Complete));
            let settings: Vec<String> = settings.iter().map(|&origin| origin.to_owned()).collect();
            let requested = RequestedHost { is_https: true, host: "shop.example", port: None };
            Origins::new(&settings).check(&head, bytes.as_bytes(), Some(requested))
        };
        for settings in [&["https://shop.example"][..], &["same"]] {
            let error = if settings == ["same"] { OTHER_HOST } else { BAD_ORIGIN };
            assert_eq!(check(settings, "Origin: https://shop.example"), Ok(()));
            assert_eq!(check(settings, "X: y"), Ok(()));
            for other in ["https://shop.example.org", "http://shop.example", "null", ""] {
                assert_eq!(check(settings, &format!("Origin: {other}")), Err(error), "{other}");
            }
            assert_eq!(check(settings, "Origin: https://shop.example\r\nOrigin: https://evil.example"), Err(error));
        }
        assert_eq!(check(&["same", "https://a.example"], "Origin: https://a.example"), Ok(()));
        assert_eq!(check(&["same", "https://a.example"], "Origin: https://b.example"), Err(BAD_ORIGIN));
    }

    fn is_same(origin: &str, is_https: bool, host: &str, port: Option<&str>) -> bool {
        RequestedHost { is_https, host, port }.is_of(origin.as_bytes())
    }

    #[test]
    fn the_same_host_and_port_are_the_same_origin() {
        assert!(is_same("https://shop.example", true, "shop.example", None));
        assert!(is_same("https://Shop.example", true, "sHop.example:443", None));
        assert!(is_same("http://localhost:8000", false, "localhost:8000", None));
        assert!(is_same("http://[::1]:8000", false, "[::1]:8000", None));
        assert!(is_same("http://[::1]", false, "[::1]:80", None));
        // TLS ends at a proxy.
        assert!(is_same("https://shop.example", false, "shop.example", None));
        assert!(is_same("https://shop.example:8443", false, "shop.example", Some("8443")));
        assert!(is_same("https://shop.example", false, "shop.example", Some("443")));
    }

    #[test]
    fn other_hosts_ports_and_weaker_schemes_are_not() {
        for (origin, is_https, host, port) in [
            ("https://evil.example", true, "shop.example", None),
            ("https://shop.example.evil.example", true, "shop.example", None),
            ("https://shop.example:8443", true, "shop.example", None),
            ("http://localhost:3000", false, "localhost:8000", None),
            ("http://shop.example", true, "shop.example", None),
            ("http://shop.example", false, "shop.example", Some("443")),
            ("http://[::1]:8000", false, "[::2]:8000", None),
            ("null", false, "null", None),
            ("", false, "", None),
            ("https://", true, "", None),
            ("file://shop.example", false, "shop.example", None),
            ("https://shop.example@evil.example", true, "shop.example", None),
        ] {
            assert!(!is_same(origin, is_https, host, port), "{origin} {host}");
        }
        assert!(!RequestedHost { is_https: false, host: "a", port: None }.is_of(b"http://\xff"));
    }

    #[test]
    fn a_list_may_have_the_own_origin_too() {
        let origins = Origins::new(&["same".to_owned(), "https://a.example".to_owned()]);
        assert!(origins.allows_same);
        assert!(origins.lists(b"HTTPS://a.example"));
        assert!(!origins.lists(b"same"));
    }
}
