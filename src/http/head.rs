//! The head of a request: request line and field section (RFC 9112 2, 3 and 5, RFC 9110 5 and 7.2).
//!
//! [`Head`] keeps positions in the caller's buffer instead of copies, and is used again for the next request, so a
//! request costs no allocation. `httparse` splits the lines. This module refuses what `httparse` tolerates against
//! RFC 9112: bare LF, more than one empty line before the request, and targets of other than visible ASCII. It also
//! checks Host, framing and Expect.
//!
//! It does not decode the target, join repeated fields, or judge field names that only matter to CGI (underscores).
//!
//! A head that arrives in pieces is not parsed again for each piece. After a first attempt the lines are counted and
//! measured as they arrive, and parsed once the empty line is there. The work is linear in the bytes of the head.

use std::mem::MaybeUninit;

use memchr::memchr;

pub use super::Version;
use super::error::{Checked, RequestError, require};
use super::framing::{self, BodyFraming};
use super::head_scan::{BARE_LF, HeadScan, LONG_FIELD, TOO_MANY_FIELDS, or_unlimited, skip_empty_line};
use super::leniency::Leniency;
use super::limits::HeadLimits;
use super::{list_members, port_of};

pub mod known;

/// Field lines that are parsed without an allocation; a head with more lines costs one.
const FIELDS_ON_STACK: usize = 64;
/// The length of `HTTP/1.1`.
const VERSION_BYTES: usize = 8;

const BAD_REQUEST_LINE: RequestError = RequestError::BadRequest("invalid request line (RFC 9112 3)");
const BAD_VERSION: RequestError = RequestError::BadRequest("invalid HTTP version (RFC 9112 2.3)");
const BAD_TARGET: RequestError = RequestError::BadRequest("invalid request target (RFC 9112 3.2)");
const TWO_CONTENT_TYPES: RequestError = RequestError::BadRequest("more than one Content-Type (RFC 9110 5.3, 8.3)");
const BAD_CONNECT: RequestError =
    RequestError::BadRequest("CONNECT without host and port (RFC 9112 3.2.3, 9110 9.3.6)");
const TWO_HOSTS: RequestError = RequestError::BadRequest("more than one Host (RFC 9112 3.2)");
const NO_HOST: RequestError = RequestError::BadRequest("no Host (RFC 9112 3.2)");
const BAD_HOST: RequestError = RequestError::BadRequest("invalid Host (RFC 9112 3.2)");
const EMPTY_HOST: RequestError = RequestError::BadRequest("an empty Host (RFC 9110 4.2.1)");

/// A range of the buffer that was parsed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The first byte.
    pub start: u32,
    /// The byte after the last one.
    pub end: u32,
}

impl Span {
    /// The bytes of this span in the buffer that was parsed; empty when the buffer is too short.
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// Does the span have no bytes?
    pub fn is_empty(self) -> bool {
        self.start >= self.end
    }

    fn moved(self, by: u32) -> Self {
        Self { start: self.start.wrapping_add(by), end: self.end.wrapping_add(by) }
    }

    /// The place of `part`, a subslice of `bytes`. Both are within `u32::MAX` bytes: `Head::parse` cuts its input.
    fn locate(bytes: &[u8], part: &[u8]) -> Self {
        let start = part.as_ptr().addr().wrapping_sub(bytes.as_ptr().addr());
        Self { start: start as u32, end: start.wrapping_add(part.len()) as u32 }
    }
}

/// One field line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldLine {
    /// The name as sent; a token.
    pub name: Span,
    /// The value without SP and HTAB around it: bytes of HTAB, SP, VCHAR and obs-text.
    pub value: Span,
}

impl FieldLine {
    fn moved(self, by: u32) -> Self {
        Self { name: self.name.moved(by), value: self.value.moved(by) }
    }
}

/// Was the head complete?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The fields of [`Head`] describe the request.
    Complete,
    /// More bytes are needed; the fields of [`Head`] mean nothing yet.
    Partial,
}

/// A request head, as positions in the buffer that was parsed.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// The method as sent; any token.
    pub method: Span,
    /// The request target as sent.
    pub target: Span,
    /// The path, still percent-encoded; `*` for the asterisk-form, empty for the authority-form, and `/` for an
    /// absolute-form without path (the span then is another slash of the target).
    pub path: Span,
    /// The query without its `?`.
    pub query: Span,
    /// The authority of an absolute-form, which counts instead of Host (RFC 9112 3.2.2); empty otherwise.
    pub authority: Span,
    /// The version of the request.
    pub version: Version,
    /// All field lines in their order.
    pub fields: Vec<FieldLine>,
    /// The bytes of the head, with an empty line before it and the one after it.
    pub length: usize,
    /// The body that follows.
    pub body: BodyFraming,
    /// Does the request allow another one on its connection (RFC 9112 9.3)? In HTTP/1.0 only with `keep-alive`.
    pub keep_alive: bool,
    /// Does the client wait for a 100 before it sends the body? Never without a body, nor in HTTP/1.0.
    pub expects_continue: bool,
    /// The value of Host; may be empty.
    pub host: Span,
    /// Is there an Upgrade field? In HTTP/1.0 it does not count (RFC 9110 7.8).
    pub has_upgrade: bool,
    /// The head was recognised by its bytes; see [`known`].
    pub repeated: Option<Repeated>,
    seen: Semantics,
    scan: HeadScan,
}

/// The numbers of a head among those that connections repeat. Heads with equal numbers have equal bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeated {
    /// The number of the field section.
    pub section: u32,
    /// The number of the request line; 0 if only the field section was recognised.
    pub line: u32,
}

impl Head {
    /// An empty head, ready for a request.
    pub fn new() -> Self {
        Self::default()
    }

    /// Method and target as they stand in `bytes`, with the bytes behind them, and their length alone.
    pub fn method_and_target<'a>(&self, bytes: &'a [u8]) -> (&'a [u8], usize) {
        let length = self.target.end.saturating_sub(self.method.start);
        (bytes.get(self.method.start as usize..).unwrap_or_default(), length as usize)
    }

    /// Forgets a head that was not completed, so that the next call of [`parse`](Self::parse) starts a new request.
    pub fn reset(&mut self) {
        self.scan = HeadScan::default();
        self.fields.clear();
    }

    /// Reads a head at the beginning of `bytes`.
    ///
    /// After [`Parsed::Partial`] the next call gets the same bytes and those that arrived since. The buffer may have
    /// moved. No more than `limits.head_bytes` bytes are ever needed.
    ///
    /// # Errors
    ///
    /// Each [`RequestError`] except `Timeout` and `BodyTooLarge`. Every call checks the limits, so the answer to an
    /// endless line does not wait for its end. After an error the connection must be closed.
    pub fn parse(&mut self, bytes: &[u8], limits: &HeadLimits) -> Result<Parsed, RequestError> {
        let most = limits.head_bytes.min(u32::MAX as usize);
        let window = bytes.get(..most).unwrap_or(bytes);
        if self.scan.attempted == 0 {
            if self.parse_window(window, limits)? == Parsed::Complete {
                return Ok(Parsed::Complete);
            }
            self.scan.attempted = window.len();
        }
        if self.scan.find_end(window, limits)? {
            self.scan = HeadScan::default();
            let parsed = self.parse_window(window, limits)?;
            return require(parsed == Parsed::Complete, BAD_REQUEST_LINE).map(|()| parsed);
        }
        if window.len() >= most {
            return Err(self.scan.fault_of_length());
        }
        // A parse at each doubling refuses garbage before its end.
        if window.len() / 2 >= self.scan.attempted {
            self.scan.attempted = window.len();
            self.parse_window(window, limits)?;
        }
        Ok(Parsed::Partial)
    }

    /// As [`parse`](Self::parse), after `leniency` has changed the bytes of a complete head. Faults are found once the
    /// head is complete, except for a request line over its limit and a bare LF.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse); 400 for a fault that must not be repaired.
    pub fn parse_leniently(
        &mut self,
        bytes: &mut [u8],
        limits: &HeadLimits,
        leniency: Leniency,
    ) -> Result<Parsed, RequestError> {
        let most = limits.head_bytes.min(u32::MAX as usize).min(bytes.len());
        let window = bytes.get_mut(..most).unwrap_or_default();
        // Field lines are counted and measured once they are whole.
        let bounds = HeadLimits { field_count: 0, field_bytes: 0, ..*limits };
        if !self.scan.find_end(window, &bounds)? {
            require(window.len() < limits.head_bytes, self.scan.fault_of_length())?;
            return Ok(Parsed::Partial);
        }
        let end = self.scan.line_start + 2;
        self.scan = HeadScan::default();
        let start = skip_empty_line(window)?.unwrap_or_default();
        leniency.apply(window.get_mut(start..end).unwrap_or_default())?;
        let parsed = self.parse_window(window, limits)?;
        require(parsed == Parsed::Complete, BAD_REQUEST_LINE).map(|()| parsed)
    }

    /// Parses the window once. The scratch of `httparse` lives in this frame alone, so that a parked request does not
    /// keep its pages.
    #[inline(never)]
    fn parse_window(&mut self, window: &[u8], limits: &HeadLimits) -> Result<Parsed, RequestError> {
        let Some(start) = skip_empty_line(window)? else {
            return Ok(Parsed::Partial);
        };
        let mut scratch = [const { MaybeUninit::uninit() }; FIELDS_ON_STACK];
        let count = or_unlimited(limits.field_count);
        let few = scratch.get_mut(..count.min(FIELDS_ON_STACK)).unwrap_or_default();
        match self.parse_with(window, start, few, limits) {
            Err(TOO_MANY_FIELDS) if count > FIELDS_ON_STACK => {
                // A field takes a line, so the bytes of the peer bound this allocation.
                let most = memchr::memchr_iter(b'\n', window).count().min(count);
                let mut scratch = Vec::with_capacity(most);
                let many = scratch.spare_capacity_mut().get_mut(..most).unwrap_or_default();
                self.parse_with(window, start, many, limits)
            }
            outcome => outcome,
        }
    }

    #[inline]
    fn parse_with<'b>(
        &mut self,
        window: &'b [u8],
        start: usize,
        scratch: &mut [MaybeUninit<httparse::Header<'b>>],
        limits: &HeadLimits,
    ) -> Result<Parsed, RequestError> {
        let message = window.get(start..).unwrap_or_default();
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(message, scratch) {
            Ok(httparse::Status::Complete(length)) => self.accept(window, start + length, &request, limits),
            Ok(httparse::Status::Partial) => Ok(Parsed::Partial),
            Err(httparse::Error::Version) => match unknown_version(message)? {
                Some(minor_at) => self.parse_as_1_1(window, start + minor_at, limits),
                None => Ok(Parsed::Partial),
            },
            Err(error) => Err(refuse(error)),
        }
    }

    /// RFC 9110 2.5: a higher minor version is processed as the highest one that the recipient knows. Only 1.0 and 1.1
    /// exist, so a copy that says 1.1 is rarely made.
    #[cold]
    fn parse_as_1_1(&mut self, window: &[u8], minor_at: usize, limits: &HeadLimits) -> Result<Parsed, RequestError> {
        let mut copy = window.to_vec();
        match copy.get_mut(minor_at) {
            Some(minor) => *minor = b'1',
            None => return Err(BAD_REQUEST_LINE),
        }
        self.parse_window(&copy, limits)
    }

    /// Takes over a head that `httparse` found complete, and applies the rules that it does not know.
    fn accept(
        &mut self,
        window: &[u8],
        length: usize,
        request: &httparse::Request<'_, '_>,
        limits: &HeadLimits,
    ) -> Result<Parsed, RequestError> {
        let method = self.take_line(window, request, limits)?;
        let seen = self.take_fields(window, length, request.headers, limits)?;
        self.conclude(window, length, method, &seen)?;
        Ok(Parsed::Complete)
    }

    /// Takes over the request line. Returns the method.
    fn take_line<'b>(
        &mut self,
        window: &[u8],
        request: &httparse::Request<'_, 'b>,
        limits: &HeadLimits,
    ) -> Result<&'b str, RequestError> {
        let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
            return Err(BAD_REQUEST_LINE);
        };
        self.version = if minor == 0 { Version::Http10 } else { Version::Http11 };
        self.method = Span::locate(window, method.as_bytes());
        self.target = Span::locate(window, target.as_bytes());
        let line_bytes = method.len() + 1 + target.len() + 1 + VERSION_BYTES;
        require(line_bytes <= or_unlimited(limits.request_line_bytes), RequestError::UriTooLong)?;
        Ok(method)
    }

    /// Applies the rules that depend on both the request line and the fields.
    fn conclude(&mut self, window: &[u8], length: usize, method: &str, seen: &Semantics) -> Checked {
        self.take_target(window, method)?;
        self.take_host(window, seen)?;
        self.body = BodyFraming::None;
        if seen.has_framing {
            let lengths = values(window, &self.fields, b"content-length");
            let codings = values(window, &self.fields, b"transfer-encoding");
            self.body = framing::request_body(self.version, lengths, codings)?;
        }
        let is_http_1_1 = self.version == Version::Http11;
        require(!is_http_1_1 || !seen.other_expectation, RequestError::ExpectationFailed)?;
        self.expects_continue = is_http_1_1 && seen.expects_continue && self.body.has_content();
        self.keep_alive = !seen.close && (is_http_1_1 || seen.keep_alive);
        self.has_upgrade = is_http_1_1 && seen.upgrade;
        self.length = length;
        self.seen = *seen;
        self.repeated = None;
        self.scan = HeadScan::default();
        Ok(())
    }

    /// Takes over the field lines. `httparse` accepts LF for CRLF, so the end of each line is checked here: the end of
    /// the line before each field, and the empty line after the last field.
    fn take_fields(
        &mut self,
        window: &[u8],
        length: usize,
        headers: &[httparse::Header<'_>],
        limits: &HeadLimits,
    ) -> Result<Semantics, RequestError> {
        let mut seen = Semantics::default();
        let mut line_start = None;
        self.fields.clear();
        for header in headers {
            let name = Span::locate(window, header.name.as_bytes());
            let value = Span::locate(window, header.value);
            check_line_before(window, line_start, name.start as usize, limits)?;
            line_start = Some(name.start as usize);
            self.fields.push(FieldLine { name, value });
            seen.note(header.name.as_bytes(), header.value, value);
        }
        let empty_line = length.saturating_sub(2);
        check_line_before(window, line_start, empty_line, limits)?;
        require(window.get(empty_line..length) == Some(b"\r\n"), BARE_LF)?;
        // Recipients disagree about two Content-Type lines.
        require(seen.content_type_count < 2, TWO_CONTENT_TYPES)?;
        Ok(seen)
    }

    /// RFC 9112 3.2: an HTTP/1.1 request has exactly one Host, and no request has two or an invalid one.
    ///
    /// Host is empty where the target URI has no authority, such as that of `OPTIONS *`. The URI of an origin-form has
    /// the scheme http or https, which is invalid without a host (RFC 9110 4.2.1). The other forms do not need Host.
    fn take_host(&mut self, window: &[u8], seen: &Semantics) -> Checked {
        self.host = seen.host;
        let host = seen.host.of(window);
        require(seen.host_count < 2, TWO_HOSTS)?;
        require(seen.host_count == 1 || self.version == Version::Http10, NO_HOST)?;
        if host.is_empty() {
            let is_origin_form = self.target.of(window).starts_with(b"/");
            return require(!is_origin_form || self.version == Version::Http10, EMPTY_HOST);
        }
        require(port_of(host).is_some(), BAD_HOST)
    }

    /// The four forms of a request target (RFC 9112 3.2).
    fn take_target(&mut self, window: &[u8], method: &str) -> Checked {
        let target = self.target.of(window);
        // A fold without an early exit is vectorised.
        let is_visible = |is_so_far: bool, byte: &u8| is_so_far & matches!(byte, b'!'..=b'~') & (*byte != b'#');
        require(target.iter().fold(true, is_visible), BAD_TARGET)?;
        (self.path, self.query, self.authority) = Default::default();
        let start = self.target.start as usize;
        match target {
            // 3.2.3: authority-form belongs to CONNECT alone, and has a port.
            _ if method == "CONNECT" => require(port_of(target).is_some_and(is_port), BAD_CONNECT)?,
            // 3.2.1: origin-form.
            [b'/', ..] => self.split_query(target, start, 0),
            // 3.2.4: asterisk-form belongs to OPTIONS alone.
            [b'*'] if method == "OPTIONS" => self.path = self.target,
            // 3.2.2: absolute-form.
            _ => self.take_absolute_form(target, start)?,
        }
        Ok(())
    }

    fn take_absolute_form(&mut self, target: &[u8], start: usize) -> Checked {
        let has = |scheme: &&[u8]| target.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme));
        let scheme = [&b"http://"[..], b"https://"].into_iter().find(has);
        let scheme_bytes = scheme.ok_or(BAD_TARGET)?.len();
        let rest = target.get(scheme_bytes..).unwrap_or_default();
        let authority_bytes = memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
        // RFC 9110 4.2: no empty host, and user information is an error.
        require(port_of(rest.get(..authority_bytes).unwrap_or_default()).is_some(), BAD_TARGET)?;
        let path_at = scheme_bytes + authority_bytes;
        self.authority = span(start + scheme_bytes, start + path_at);
        self.split_query(target, start, path_at);
        if self.path.is_empty() {
            // An empty path means "/" (RFC 9110 4.2.3): the span is the slash before the authority.
            self.path = span(start + scheme_bytes - 1, start + scheme_bytes);
        }
        Ok(())
    }

    /// Sets path and query from the target behind `path_at`; `start` is the target's place in the buffer.
    fn split_query(&mut self, target: &[u8], start: usize, path_at: usize) {
        let path_and_query = target.get(path_at..).unwrap_or_default();
        let path_start = start + path_at;
        let path_bytes = memchr(b'?', path_and_query).unwrap_or(path_and_query.len());
        self.path = span(path_start, path_start + path_bytes);
        if path_bytes < path_and_query.len() {
            self.query = span(path_start + path_bytes + 1, path_start + path_and_query.len());
        }
    }
}

/// The contents of the few fields that matter to the server.
#[derive(Clone, Copy, Debug, Default)]
struct Semantics {
    host: Span,
    host_count: usize,
    content_type_count: usize,
    has_framing: bool,
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    expects_continue: bool,
    other_expectation: bool,
}

impl Semantics {
    /// The same contents at another place.
    fn moved(self, by: u32) -> Self {
        Self { host: if self.host_count > 0 { self.host.moved(by) } else { self.host }, ..self }
    }

    /// Takes note of a field. Length and first letter tell most names apart.
    fn note(&mut self, name: &[u8], value: &[u8], value_span: Span) {
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        match (name.len(), name.first().map_or(0, |letter| letter | 0x20)) {
            (4, b'h') if is(b"host") => {
                self.host = value_span;
                self.host_count += 1;
            }
            (6, b'e') if is(b"expect") => {
                for expectation in list_members(value) {
                    let is_known = expectation.eq_ignore_ascii_case(b"100-continue");
                    self.expects_continue |= is_known;
                    self.other_expectation |= !is_known;
                }
            }
            (7, b'u') if is(b"upgrade") => self.upgrade = true,
            (10, b'c') if is(b"connection") => {
                for option in list_members(value) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            (12, b'c') if is(b"content-type") => self.content_type_count += 1,
            (14, b'c') if is(b"content-length") => self.has_framing = true,
            (17, b't') if is(b"transfer-encoding") => self.has_framing = true,
            _ => {}
        }
    }
}

/// Does the line before `next_line` end in CRLF, and is it short enough? `line_start` is `None` for the request line.
fn check_line_before(window: &[u8], line_start: Option<usize>, next_line: usize, limits: &HeadLimits) -> Checked {
    let line_end = next_line.saturating_sub(2);
    require(window.get(line_end..next_line) == Some(b"\r\n"), BARE_LF)?;
    let line_bytes = line_start.map_or(0, |start| line_end.saturating_sub(start));
    require(line_bytes <= or_unlimited(limits.field_bytes), LONG_FIELD)
}

/// The values of all fields of a name, which is given in lower case.
fn values<'a>(window: &'a [u8], fields: &[FieldLine], name: &[u8]) -> impl Iterator<Item = &'a [u8]> {
    fields
        .iter()
        .filter(move |field| field.name.of(window).eq_ignore_ascii_case(name))
        .map(move |field| field.value.of(window))
}

/// Is this the number of a TCP port? All bytes are digits already; port 0 is reserved (RFC 9110 9.3.6).
fn is_port(digits: &[u8]) -> bool {
    let number = digits
        .iter()
        .try_fold(0u16, |number, digit| number.checked_mul(10)?.checked_add(u16::from(digit.wrapping_sub(b'0'))));
    number.is_some_and(|number| number != 0)
}

fn span(start: usize, end: usize) -> Span {
    Span { start: start as u32, end: end as u32 }
}

/// Turns a fault that `httparse` has found into an error. [`unknown_version`] judges versions.
#[cold]
fn refuse(error: httparse::Error) -> RequestError {
    match error {
        httparse::Error::Version => BAD_VERSION,
        httparse::Error::TooManyHeaders => TOO_MANY_FIELDS,
        httparse::Error::HeaderName => RequestError::BadRequest("invalid field name (RFC 9112 5.1, 5.2)"),
        httparse::Error::HeaderValue => RequestError::BadRequest("invalid byte in a field value (RFC 9110 5.5)"),
        httparse::Error::NewLine => BARE_LF,
        httparse::Error::Token | httparse::Error::Status => BAD_REQUEST_LINE,
    }
}

/// The place of the minor version that is to be read as 1, or `None` while the version is incomplete.
///
/// # Errors
///
/// 505 for another major version of HTTP, 400 for anything that is no version.
#[cold]
fn unknown_version(message: &[u8]) -> Result<Option<usize>, RequestError> {
    let line_end = memchr(b'\n', message);
    let line = message.get(..line_end.unwrap_or(message.len())).unwrap_or_default();
    let version = line.splitn(3, |&byte| byte == b' ').nth(2).unwrap_or_default();
    let mut pairs = version.iter().zip(b"HTTP/0.0\r");
    let is_like = pairs.all(|(byte, like)| byte == like || (*like == b'0' && byte.is_ascii_digit()));
    let is_complete = version.len() == VERSION_BYTES + 1;
    match line_end {
        Some(_) if is_like && is_complete && version.starts_with(b"HTTP/1.") => Ok(Some(line.len() - 2)),
        Some(_) if is_like && is_complete => Err(RequestError::VersionNotSupported),
        None if is_like && version.len() <= VERSION_BYTES + 1 => Ok(None),
        _ => Err(BAD_VERSION),
    }
}

#[cfg(test)]
mod tests;
