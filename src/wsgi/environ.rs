//! From a request head to an `environ` dictionary (PEP 3333, "environ Variables").
//!
//! Each environ is a copy of a prebuilt dictionary, which holds what most requests share. Only the differences are set.
//! Keys of common fields are interned once.

use std::borrow::Cow;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::forwarding::FieldPolicy;
use super::known_environs::{Beginning, KnownEnvirons};
use super::request::{PortTexts, Request, Unprepared};
use super::text::{environ_key, latin1, percent_decode};
use crate::http::Version;

/// Common field names, in lower case. At most 64: a set of bits notes those that were seen.
const COMMON_FIELDS: [&str; 52] = [
    "host",
    "user-agent",
    "accept",
    "accept-encoding",
    "accept-language",
    "accept-charset",
    "connection",
    "cookie",
    "referer",
    "origin",
    "cache-control",
    "pragma",
    "authorization",
    "content-type",
    "content-length",
    "transfer-encoding",
    "expect",
    "upgrade",
    "te",
    "trailer",
    "via",
    "date",
    "from",
    "dnt",
    "range",
    "if-range",
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
    "keep-alive",
    "max-forwards",
    "upgrade-insecure-requests",
    "sec-fetch-site",
    "sec-fetch-mode",
    "sec-fetch-user",
    "sec-fetch-dest",
    "sec-ch-ua",
    "sec-ch-ua-mobile",
    "sec-ch-ua-platform",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-protocol",
    "sec-websocket-extensions",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-real-ip",
    "x-requested-with",
    "x-request-id",
    "forwarded",
];

/// Environ keys, made once.
pub struct Keys {
    request_method: Py<PyString>,
    path_info: Py<PyString>,
    query_string: Py<PyString>,
    raw_uri: Py<PyString>,
    request_uri: Py<PyString>,
    server_protocol: Py<PyString>,
    remote_addr: Py<PyString>,
    remote_port: Py<PyString>,
    /// `wsgi.input`.
    pub input: Py<PyString>,
    /// `rmeinheld.client_disconnected`.
    pub client_disconnected: Py<PyString>,
    /// `wsgi.early_hints`.
    pub early_hints: Py<PyString>,
    http10: Py<PyString>,
    /// The common fields, by length of the name, then in the order of [`COMMON_FIELDS`].
    fields: Vec<Vec<CommonField>>,
}

struct CommonField {
    name: &'static [u8],
    bit: u64,
    key: Py<PyString>,
}

impl Keys {
    /// Interns the keys.
    pub fn new(py: Python<'_>) -> Keys {
        let intern = |text: &str| PyString::intern(py, text).unbind();
        let mut fields: Vec<Vec<CommonField>> = Vec::new();
        for (index, name) in COMMON_FIELDS.into_iter().enumerate() {
            let key = intern(&environ_key(name.as_bytes()));
            fields.resize_with(fields.len().max(name.len() + 1), Vec::new);
            fields[name.len()].push(CommonField { name: name.as_bytes(), bit: 1 << index, key });
        }
        Keys {
            request_method: intern("REQUEST_METHOD"),
            path_info: intern("PATH_INFO"),
            query_string: intern("QUERY_STRING"),
            raw_uri: intern("RAW_URI"),
            request_uri: intern("REQUEST_URI"),
            server_protocol: intern("SERVER_PROTOCOL"),
            remote_addr: intern("REMOTE_ADDR"),
            remote_port: intern("REMOTE_PORT"),
            input: intern("wsgi.input"),
            client_disconnected: intern("rmeinheld.client_disconnected"),
            early_hints: intern("wsgi.early_hints"),
            http10: intern("HTTP/1.0"),
            fields,
        }
    }

    fn common(&self, name: &[u8]) -> Option<&CommonField> {
        self.fields.get(name.len())?.iter().find(|field| field.name.eq_ignore_ascii_case(name))
    }
}

/// Makes the dictionary that requests copy. It has the keys that every request sets, since a new key can make a copy grow,
/// which rebuilds it. With these keys a dictionary has room for 18 fields.
pub fn template<'py>(shared: &Bound<'py, PyDict>, keys: &Keys) -> PyResult<Bound<'py, PyDict>> {
    let py = shared.py();
    let base = shared.copy()?;
    let defaults =
        [("REQUEST_METHOD", "GET"), ("SCRIPT_NAME", ""), ("QUERY_STRING", ""), ("SERVER_PROTOCOL", "HTTP/1.1")];
    for (key, value) in defaults {
        base.set_item(PyString::intern(py, key), PyString::intern(py, value))?;
    }
    let set_by_requests = [
        &keys.raw_uri,
        &keys.request_uri,
        &keys.path_info,
        &keys.remote_addr,
        &keys.remote_port,
        &keys.client_disconnected,
        &keys.early_hints,
    ];
    for key in set_by_requests {
        base.set_item(key, py.None())?;
    }
    Ok(base)
}

/// The environ of one request, except for `wsgi.input` of a body.
///
/// # Errors
/// MemoryError, or the fault that the policy finds in the fields.
pub fn build<'py>(
    py: Python<'py>,
    keys: &Keys,
    known: &KnownEnvirons,
    ports: &PortTexts,
    policy: &FieldPolicy,
    request: &Request<'_>,
) -> Result<Bound<'py, PyDict>, Unprepared> {
    let remote = request.remote;
    let environ = match known.begin(py, request)? {
        Beginning::Whole(environ) => environ,
        Beginning::Fields(environ) => {
            add_line(keys, &environ, request)?;
            known.keep_whole(&environ, request)?;
            environ
        }
        Beginning::Template(environ) => {
            add_fields(keys, policy, &environ, request)?;
            known.keep_fields(&environ, request)?;
            add_line(keys, &environ, request)?;
            environ
        }
    };
    environ.set_item(&keys.remote_addr, remote.address)?;
    match remote.port {
        // The key is a plain str, which the dictionary has.
        Some(port) => ports.with_text(py, port, |text| environ.set_item(&keys.remote_port, text))?,
        None => environ.del_item(&keys.remote_port)?,
    }
    if let Some(proxy) = remote.proxy {
        environ.update(proxy.bind(py).as_mapping())?;
    }
    policy.apply(&environ, request)?;
    Ok(environ)
}

/// Adds the items of the request line.
fn add_line(keys: &Keys, environ: &Bound<'_, PyDict>, request: &Request<'_>) -> PyResult<()> {
    let py = environ.py();
    let Request { head, bytes, .. } = request;
    let method = head.method.of(bytes);
    if method != b"GET" {
        environ.set_item(&keys.request_method, latin1(py, method)?)?;
    }
    if head.version == Version::Http10 {
        environ.set_item(&keys.server_protocol, &keys.http10)?;
    }
    let (target, path) = (head.target.of(bytes), head.path.of(bytes));
    let raw = latin1(py, target)?;
    environ.set_item(&keys.raw_uri, &raw)?;
    environ.set_item(&keys.request_uri, &raw)?;
    match percent_decode(path) {
        Cow::Borrowed(path) if path == target => environ.set_item(&keys.path_info, &raw)?,
        path => environ.set_item(&keys.path_info, latin1(py, &path)?)?,
    }
    if !head.query.is_empty() {
        environ.set_item(&keys.query_string, latin1(py, head.query.of(bytes))?)?;
    }
    // RFC 9112 3.2.2: the authority of an absolute target replaces Host, which HTTP/1.0 may lack.
    if !head.authority.is_empty()
        && let Some(host) = keys.common(b"host")
    {
        environ.set_item(&host.key, latin1(py, head.authority.of(bytes))?)?;
    }
    Ok(())
}

fn add_fields(
    keys: &Keys,
    policy: &FieldPolicy,
    environ: &Bound<'_, PyDict>,
    request: &Request<'_>,
) -> Result<(), Unprepared> {
    let py = environ.py();
    let Request { head, bytes, is_trusted, .. } = request;
    let mut seen = 0_u64;
    for field in &head.fields {
        let (name, value) = (field.name.of(bytes), field.value.of(bytes));
        let value = latin1(py, value)?;
        match keys.common(name) {
            Some(common) if seen & common.bit != 0 => {
                let separator = if common.name == b"cookie" { "; " } else { "," };
                append(environ, common.key.bind(py), &value, separator)?;
            }
            Some(common) => {
                seen |= common.bit;
                environ.set_item(&common.key, value)?;
            }
            None if policy.passes_on(name, *is_trusted)? => {
                append(environ, &PyString::new(py, &environ_key(name)), &value, ",")?
            }
            None => {}
        }
    }
    Ok(())
}

/// Sets a value, or joins it to the present one (RFC 9110 5.3; RFC 6265 5.4 for Cookie).
fn append(
    environ: &Bound<'_, PyDict>,
    key: &Bound<'_, PyString>,
    value: &Bound<'_, PyString>,
    separator: &str,
) -> PyResult<()> {
    match environ.get_item(key)? {
        Some(earlier) => environ.set_item(key, earlier.add(separator)?.add(value)?),
        None => environ.set_item(key, value),
    }
}
