//! The policy for request fields: the names under which they reach the environ, and the fields of trusted proxies.
//!
//! By default no peer is trusted to speak for other clients. `forwarded_allow_ips` lists the trusted proxies. Once it
//! names one, the fields that proxies set are removed from the requests of all other peers, unless a setting keeps
//! them. An application then cannot mistake the field of a client for that of a proxy.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::request::{Request, Unprepared};
use super::text::{environ_key, latin1, percent_decode};
use crate::http::error::{RequestError, require};
use crate::http::forwarded::{Node, client_of_x_forwarded_for, origin_of_forwarded, split_host};
use crate::http::head::Head;
use crate::http::list_members;
use crate::net::{Networks, Peer};

const BAD_SCHEMES: RequestError = RequestError::BadRequest("fields that contradict each other about the scheme");
const BAD_PROTO: RequestError = RequestError::BadRequest("Forwarded with a proto other than http or https");
const BAD_HOST: RequestError = RequestError::BadRequest("a proxy's field names no host");
const BAD_PORT: RequestError = RequestError::BadRequest("X-Forwarded-Port is no port");
const BAD_SCRIPT_NAME: RequestError = RequestError::BadRequest("the path does not begin with the proxy's SCRIPT_NAME");
const UNDERSCORE: RequestError = RequestError::BadRequest("a field name with an underscore (header_map is refuse)");

/// The treatment of names with an underscore, which look like names with a dash in the environ (Gunicorn's
/// `header_map`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Underscores {
    /// The field is left out.
    Drop,
    /// The request gets 400.
    Refuse,
    /// The field is mapped like any other; an application cannot distinguish the two.
    Map,
}

/// The fields of a trusted proxy that are honoured, in addition to those that name the scheme.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrustedFields {
    /// `X-Forwarded-For`.
    pub x_forwarded_for: bool,
    /// `X-Forwarded-Host`.
    pub x_forwarded_host: bool,
    /// `X-Forwarded-Port`.
    pub x_forwarded_port: bool,
    /// `Forwarded` (RFC 7239), which then replaces all others except `forwarder_names`.
    pub forwarded: bool,
}

/// The settings of this module.
pub struct FieldPolicy {
    /// The treatment of names with an underscore.
    pub underscores: Underscores,
    /// The trusted peers.
    pub trusted: Networks,
    /// The fields of trusted peers are removed from the requests of all others.
    pub clears_untrusted: bool,
    /// The fields of trusted peers that are honoured.
    pub fields: TrustedFields,
    /// Field names, and the value of each that means https (Gunicorn's `secure_scheme_headers`).
    pub secure_schemes: Vec<(String, String)>,
    /// Names with underscores that trusted peers may send, in capitals; "*" is all (Gunicorn's `forwarder_headers`).
    pub forwarder_names: Vec<String>,
}

impl FieldPolicy {
    /// Is the peer trusted to speak for other clients?
    pub fn trusts(&self, peer: Peer) -> bool {
        self.trusted.contains_peer(peer)
    }

    /// Does an uncommon field go into the environ?
    ///
    /// # Errors
    /// 400 where `header_map` is `refuse`.
    #[inline]
    pub fn passes_on(&self, name: &[u8], is_trusted: bool) -> Result<bool, RequestError> {
        // The field would become HTTP_PROXY, which libraries take for the proxy of their own requests (httpoxy).
        if name.eq_ignore_ascii_case(b"proxy") {
            return Ok(false);
        }
        if !name.contains(&b'_') || (is_trusted && self.is_forwarders(name)) {
            return Ok(true);
        }
        match self.underscores {
            Underscores::Drop => Ok(false),
            Underscores::Refuse => Err(UNDERSCORE),
            Underscores::Map => Ok(true),
        }
    }

    fn is_forwarders(&self, name: &[u8]) -> bool {
        let mut names = self.forwarder_names.iter();
        names.any(|known| known == "*" || known.as_bytes().eq_ignore_ascii_case(name))
    }

    /// Corrects the environ by the fields of a trusted peer, or removes those of another.
    ///
    /// # Errors
    /// 400 where a trusted peer contradicts itself, or names no client.
    pub fn apply(&self, environ: &Bound<'_, PyDict>, request: &Request<'_>) -> Result<(), Unprepared> {
        if request.is_local {
            name_server(environ, request)?;
        }
        if self.trusted.is_empty() {
            return Ok(());
        }
        if !request.is_trusted {
            return if self.clears_untrusted { Ok(self.forget(environ)?) } else { Ok(()) };
        }
        if self.fields.forwarded {
            self.apply_forwarded(environ, request)?;
        } else {
            self.apply_x_forwarded(environ, request)?;
        }
        if self.is_forwarders(b"script_name") {
            apply_script_name(environ, request)?;
        }
        Ok(())
    }

    /// Removes the fields that only a proxy may set.
    fn forget(&self, environ: &Bound<'_, PyDict>) -> PyResult<()> {
        let forget = |is_listened_to: bool, key: &str| match is_listened_to && environ.contains(key)? {
            true => environ.del_item(key),
            false => Ok(()),
        };
        forget(self.fields.x_forwarded_for, "HTTP_X_FORWARDED_FOR")?;
        forget(self.fields.x_forwarded_host, "HTTP_X_FORWARDED_HOST")?;
        forget(self.fields.x_forwarded_port, "HTTP_X_FORWARDED_PORT")?;
        forget(self.fields.forwarded, "HTTP_FORWARDED")?;
        for (name, _) in &self.secure_schemes {
            forget(!self.fields.forwarded, &environ_key(name.as_bytes()))?;
        }
        Ok(())
    }

    /// The client that the fields of a trusted peer name; `None` if they name none.
    ///
    /// # Errors
    /// 400 where the peer contradicts itself.
    pub fn client(&self, head: &Head, bytes: &[u8]) -> Result<Option<Node>, RequestError> {
        let is_trusted = |address| self.trusted.contains(address);
        if self.fields.forwarded {
            let origin = origin_of_forwarded(values_of(head, bytes, b"forwarded"), is_trusted)?;
            return Ok(origin.and_then(|(client, _)| client));
        }
        if !self.fields.x_forwarded_for {
            return Ok(None);
        }
        client_of_x_forwarded_for(values_of(head, bytes, b"x-forwarded-for"), is_trusted)
    }

    fn apply_x_forwarded(&self, environ: &Bound<'_, PyDict>, request: &Request<'_>) -> Result<(), Unprepared> {
        let py = environ.py();
        let scheme = self.scheme(request)?;
        if let Some(scheme) = scheme {
            set_scheme(environ, request, scheme)?;
        }
        if let Some(client) = self.client(request.head, request.bytes)? {
            set_client(environ, client)?;
        }
        // The nearest proxy has written the last value.
        let last = |is_listened_to: bool, name: &'static [u8]| {
            let value = values(request, name).next_back().filter(|_| is_listened_to);
            value.and_then(|value| list_members(value).last())
        };
        let host = last(self.fields.x_forwarded_host, b"x-forwarded-host");
        let port = last(self.fields.x_forwarded_port, b"x-forwarded-port");
        if let Some(port) = port {
            let is_port = port.len() <= 5 && port.iter().all(u8::is_ascii_digit);
            require(is_port && !port.is_empty(), BAD_PORT)?;
            environ.set_item("SERVER_PORT", latin1(py, port)?)?;
        }
        if let Some(host) = host {
            set_host(environ, host, port)?;
        }
        Ok(())
    }

    /// Sets the scheme as Gunicorn does: a field with its value for https means https, any other value means http, and
    /// the fields must agree.
    fn scheme(&self, request: &Request<'_>) -> Result<Option<&'static str>, RequestError> {
        let mut scheme = None;
        for (name, secure) in &self.secure_schemes {
            for value in values(request, name.as_bytes()) {
                let said = if value == secure.as_bytes() { "https" } else { "http" };
                if scheme.is_some_and(|scheme| scheme != said) {
                    return Err(BAD_SCHEMES);
                }
                scheme = Some(said);
            }
        }
        Ok(scheme)
    }

    fn apply_forwarded(&self, environ: &Bound<'_, PyDict>, request: &Request<'_>) -> Result<(), Unprepared> {
        let is_trusted = |address| self.trusted.contains(address);
        let Some((client, element)) = origin_of_forwarded(values(request, b"forwarded"), is_trusted)? else {
            return Ok(());
        };
        if let Some(client) = client {
            set_client(environ, client)?;
        }
        let scheme = match element.proto.as_deref() {
            None => None,
            Some(proto) if proto.eq_ignore_ascii_case(b"https") => Some("https"),
            Some(proto) if proto.eq_ignore_ascii_case(b"http") => Some("http"),
            Some(_) => return Err(BAD_PROTO.into()),
        };
        if let Some(scheme) = scheme {
            set_scheme(environ, request, scheme)?;
        }
        if let Some(host) = &element.host {
            set_host(environ, host, None)?;
        }
        Ok(())
    }
}

/// The values of all fields of a name, in their order.
pub(super) fn values<'a>(request: &Request<'a>, name: &[u8]) -> impl DoubleEndedIterator<Item = &'a [u8]> {
    values_of(request.head, request.bytes, name)
}

fn values_of<'a>(head: &'a Head, bytes: &'a [u8], name: &[u8]) -> impl DoubleEndedIterator<Item = &'a [u8]> {
    let fields = head.fields.iter().filter(move |field| field.name.of(bytes).eq_ignore_ascii_case(name));
    fields.map(move |field| field.value.of(bytes))
}

/// Sets SERVER_NAME and SERVER_PORT of a Unix socket, which has neither, to the host that the client has asked for, as
/// in Gunicorn.
fn name_server(environ: &Bound<'_, PyDict>, request: &Request<'_>) -> PyResult<()> {
    let Request { head, bytes, .. } = request;
    let authority = if head.authority.is_empty() { head.host } else { head.authority };
    if let Some((name, port)) = split_host(authority.of(bytes)) {
        let py = environ.py();
        let port = match port {
            Some(port) => latin1(py, port)?,
            None => usual_port(environ)?,
        };
        environ.set_item(intern!(py, "SERVER_NAME"), latin1(py, name)?)?;
        environ.set_item(intern!(py, "SERVER_PORT"), port)?;
    }
    Ok(())
}

/// The default port of the request's scheme.
fn usual_port<'py>(environ: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyString>> {
    let py = environ.py();
    Ok(if is_https(environ)? { intern!(py, "443") } else { intern!(py, "80") }.clone())
}

/// Is https the scheme of the request?
pub(super) fn is_https(environ: &Bound<'_, PyDict>) -> PyResult<bool> {
    let py = environ.py();
    let scheme = environ.get_item(intern!(py, "wsgi.url_scheme"))?;
    Ok(scheme.is_some_and(|scheme| scheme.eq(intern!(py, "https")).unwrap_or(false)))
}

fn set_scheme(environ: &Bound<'_, PyDict>, request: &Request<'_>, scheme: &str) -> PyResult<()> {
    environ.set_item("wsgi.url_scheme", scheme)?;
    if request.is_local { name_server(environ, request) } else { Ok(()) }
}

fn set_client(environ: &Bound<'_, PyDict>, client: Node) -> PyResult<()> {
    let (address, port) = match client {
        Node::Address(address, port) => (address.to_string(), port),
        Node::Hidden(name) => (name, None),
    };
    environ.set_item("REMOTE_ADDR", address)?;
    match port {
        Some(port) => environ.set_item("REMOTE_PORT", port.to_string()),
        // The port of the proxy's own connection would belong to another client.
        None if environ.contains("REMOTE_PORT")? => environ.del_item("REMOTE_PORT"),
        None => Ok(()),
    }
}

/// Sets the host that the client has asked for, and with it SERVER_NAME and SERVER_PORT.
fn set_host(environ: &Bound<'_, PyDict>, host: &[u8], said_port: Option<&[u8]>) -> Result<(), Unprepared> {
    let py = environ.py();
    let (name, port) = split_host(host).ok_or(BAD_HOST)?;
    environ.set_item("HTTP_HOST", latin1(py, host)?)?;
    environ.set_item("SERVER_NAME", latin1(py, name)?)?;
    let port = match port.or(said_port) {
        Some(port) => latin1(py, port)?,
        None => usual_port(environ)?,
    };
    environ.set_item("SERVER_PORT", port)?;
    Ok(())
}

/// Applies SCRIPT_NAME, a field of proxies that serve the application below a path, as in Gunicorn.
fn apply_script_name(environ: &Bound<'_, PyDict>, request: &Request<'_>) -> Result<(), Unprepared> {
    let py = environ.py();
    let Some(script_name) = values(request, b"script_name").next_back() else { return Ok(()) };
    let script_name = script_name.strip_suffix(b"/").unwrap_or(script_name);
    let path_info = request.head.path.of(request.bytes).strip_prefix(script_name);
    let path_info = path_info.filter(|path| path.is_empty() || path.starts_with(b"/")).ok_or(BAD_SCRIPT_NAME)?;
    environ.set_item("SCRIPT_NAME", latin1(py, script_name)?)?;
    environ.set_item("PATH_INFO", latin1(py, &percent_decode(path_info))?)?;
    Ok(())
}
