//! The head of a request: request line and field section (RFC 9112 2, 3 and 5, RFC 9110 5 and 7.2).
//!
//! [`Head`] keeps positions in the caller's buffer instead of copies, and is used again for the next request, so a
//! request costs no allocation. `httparse` splits the lines; what it tolerates and RFC 9112 does not want from a
//! server is refused here: bare LF, more than one empty line before the request, targets of other than visible ASCII,
//! and all that concerns Host, framing and Expect.
//!
//! It does not decode the target, join repeated fields, or judge field names that only matter to CGI (underscores).
//!
//! A head that arrives in pieces is not parsed again for each of them: after a first look, the lines are counted and
//! measured as they come, and parsed when the empty line is there. The work is linear in the bytes of the head.

use std::mem::MaybeUninit;

use memchr::memchr;

pub use super::Version;
use super::error::{Checked, RequestError, require};
use super::framing::{self, BodyFraming};
use super::progress::{BARE_LF, LONG_FIELD, Progress, TOO_MANY_FIELDS, or_unlimited, skip_empty_line};
use super::repair::Repairs;
use super::{list_members, port_of};

/// Field lines that are parsed without an allocation; heads with more of them cost one.
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

/// What a head may cost. A limit of 0 means no own limit, so that only `head_bytes` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the request line without CRLF; more is 414.
    pub request_line_bytes: usize,
    /// Field lines; more is 431.
    pub field_count: usize,
    /// Bytes of one field line without CRLF; more is 431.
    pub field_bytes: usize,
    /// Bytes of the whole head with every CRLF; never 0. More is 431, or 414 when the request line alone is larger.
    pub head_bytes: usize,
}

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
    progress: Progress,
}

impl Head {
    /// An empty head, ready for a request.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets a head that was not completed, so that the next call of [`parse`](Self::parse) starts a new request.
    pub fn reset(&mut self) {
        self.progress = Progress::default();
        self.fields.clear();
    }

    /// Reads a head at the beginning of `bytes`.
    ///
    /// After [`Parsed::Partial`] the next call gets the same bytes and those that came since; the buffer may have
    /// moved. No more than `limits.head_bytes` bytes are ever needed.
    ///
    /// # Errors
    ///
    /// Each [`RequestError`] except `Timeout` and `BodyTooLarge`. Limits are checked at every call, so the answer to
    /// an endless line does not wait for its end. After an error the connection must be closed.
    pub fn parse(&mut self, bytes: &[u8], limits: &Limits) -> Result<Parsed, RequestError> {
        let most = limits.head_bytes.min(u32::MAX as usize);
        let window = bytes.get(..most).unwrap_or(bytes);
        if self.progress.attempted == 0 {
            if self.parse_window(window, limits)? == Parsed::Complete {
                return Ok(Parsed::Complete);
            }
            self.progress.attempted = window.len();
        }
        if self.progress.find_end(window, limits)? {
            self.progress = Progress::default();
            let parsed = self.parse_window(window, limits)?;
            return require(parsed == Parsed::Complete, BAD_REQUEST_LINE).map(|()| parsed);
        }
        if window.len() >= most {
            return Err(self.progress.fault_of_length());
        }
        // Now and then a look at what is there, so that rubbish is refused before its end.
        if window.len() / 2 >= self.progress.attempted {
            self.progress.attempted = window.len();
            self.parse_window(window, limits)?;
        }
        Ok(Parsed::Partial)
    }

    /// As [`parse`](Self::parse), after `repairs`, which change the bytes of a complete head. What is wrong with it is
    /// found when it is complete, except for a request line over its limit and a bare LF.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse); 400 for what must not be repaired.
    pub fn parse_repaired(
        &mut self,
        bytes: &mut [u8],
        limits: &Limits,
        repairs: Repairs,
    ) -> Result<Parsed, RequestError> {
        let most = limits.head_bytes.min(u32::MAX as usize).min(bytes.len());
        let window = bytes.get_mut(..most).unwrap_or_default();
        // Field lines are counted and measured once they are whole.
        let bounds = Limits { field_count: 0, field_bytes: 0, ..*limits };
        if !self.progress.find_end(window, &bounds)? {
            require(window.len() < limits.head_bytes, self.progress.fault_of_length())?;
            return Ok(Parsed::Partial);
        }
        let end = self.progress.line_start + 2;
        self.progress = Progress::default();
        let start = skip_empty_line(window)?.unwrap_or_default();
        repairs.apply(window.get_mut(start..end).unwrap_or_default())?;
        let parsed = self.parse_window(window, limits)?;
        require(parsed == Parsed::Complete, BAD_REQUEST_LINE).map(|()| parsed)
    }

    /// One attempt. The scratch of `httparse` lives in this frame only, since stacks of parked requests are small.
    #[inline(never)]
    fn parse_window(&mut self, window: &[u8], limits: &Limits) -> Result<Parsed, RequestError> {
        let Some(start) = skip_empty_line(window)? else {
            return Ok(Parsed::Partial);
        };
        let mut scratch = [const { MaybeUninit::uninit() }; FIELDS_ON_STACK];
        let count = or_unlimited(limits.field_count);
        let few = scratch.get_mut(..count.min(FIELDS_ON_STACK)).unwrap_or_default();
        match self.parse_with(window, start, few, limits) {
            Err(TOO_MANY_FIELDS) if count > FIELDS_ON_STACK => {
                // A field takes a line, so this allocation is bounded by what the peer has sent.
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
        limits: &Limits,
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
    /// exist, so a copy that says 1.1 costs nobody anything.
    #[cold]
    fn parse_as_1_1(&mut self, window: &[u8], minor_at: usize, limits: &Limits) -> Result<Parsed, RequestError> {
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
        limits: &Limits,
    ) -> Result<Parsed, RequestError> {
        let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
            return Err(BAD_REQUEST_LINE);
        };
        self.version = if minor == 0 { Version::Http10 } else { Version::Http11 };
        self.method = Span::locate(window, method.as_bytes());
        self.target = Span::locate(window, target.as_bytes());
        let line_bytes = method.len() + 1 + target.len() + 1 + VERSION_BYTES;
        require(line_bytes <= or_unlimited(limits.request_line_bytes), RequestError::UriTooLong)?;
        let seen = self.take_fields(window, length, request.headers, limits)?;
        self.take_target(window, method)?;
        self.take_host(window, &seen)?;
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
        self.progress = Progress::default();
        Ok(Parsed::Complete)
    }

    /// Takes over the field lines. As `httparse` accepts LF for CRLF, the end of each line is looked at: that of the
    /// line before a field, and after the last field also that of the empty line.
    fn take_fields(
        &mut self,
        window: &[u8],
        length: usize,
        headers: &[httparse::Header<'_>],
        limits: &Limits,
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
        // Two of these are read differently by different recipients.
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
            // An empty path means "/" (RFC 9110 4.2.3): the slash before the authority lends itself.
            self.path = span(start + scheme_bytes - 1, start + scheme_bytes);
        }
        Ok(())
    }

    /// Sets path and query from what follows `path_at` in the target; `start` is the target's place in the buffer.
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

/// What the few fields say that matter to the server.
#[derive(Default)]
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
    /// Most names are told apart by their length and first letter.
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
fn check_line_before(window: &[u8], line_start: Option<usize>, next_line: usize, limits: &Limits) -> Checked {
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

/// Is this the number of a TCP port? It is all digits already; 0 is nobody's (RFC 9110 9.3.6).
fn is_port(digits: &[u8]) -> bool {
    let number = digits
        .iter()
        .try_fold(0u16, |number, digit| number.checked_mul(10)?.checked_add(u16::from(digit.wrapping_sub(b'0'))));
    number.is_some_and(|number| number != 0)
}

fn span(start: usize, end: usize) -> Span {
    Span { start: start as u32, end: end as u32 }
}

/// Turns what `httparse` found into the answer; a version that it does not know is `unknown_version`'s.
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

/// Where the minor version stands that is to be read as 1, or `None` while the version is incomplete.
///
/// # Errors
///
/// 505 for another major version of HTTP, 400 for what is no version.
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
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { request_line_bytes: 100, field_count: 10, field_bytes: 200, head_bytes: 2000 };

    /// What a head says, in words, so that heads in different buffers can be compared.
    fn describe(head: &Head, bytes: &[u8]) -> String {
        let text = |span: Span| String::from_utf8_lossy(span.of(bytes)).into_owned();
        let fields: Vec<String> =
            head.fields.iter().map(|field| format!("{}={}", text(field.name), text(field.value))).collect();
        format!(
            "{} {} path={} query={} authority={} host={} {:?} {:?} keep={} continue={} upgrade={} length={} {}",
            text(head.method),
            text(head.target),
            text(head.path),
            text(head.query),
            text(head.authority),
            text(head.host),
            head.version,
            head.body,
            head.keep_alive,
            head.expects_continue,
            head.has_upgrade,
            head.length,
            fields.join("|"),
        )
    }

    /// The description, the status of the answer, or status 0 while more bytes are needed.
    type Outcome = Result<String, u16>;

    /// Shows the head growing prefixes of these lengths.
    fn grow(bytes: &[u8], limits: &Limits, lengths: impl IntoIterator<Item = usize>) -> Outcome {
        let mut head = Head::new();
        for length in lengths {
            match head.parse(&bytes[..length], limits) {
                Ok(Parsed::Complete) => return Ok(describe(&head, bytes)),
                Ok(Parsed::Partial) => {}
                Err(error) => return Err(error.status()),
            }
        }
        Err(0)
    }

    /// Did the pieces lead to the same answer? While the empty line is missing it may still be on its way, but then
    /// the head must not be accepted once that line is there.
    #[track_caller]
    fn assert_alike(whole: &Outcome, bytes: &[u8], limits: &Limits, lengths: impl IntoIterator<Item = usize>) {
        let lengths: Vec<usize> = lengths.into_iter().collect();
        let pieces = grow(bytes, limits, lengths.iter().copied());
        if pieces == Err(0) && whole.is_err() {
            let ended = [bytes, b"\r\n\r\n"].concat();
            let later = grow(&ended, limits, lengths.iter().copied().chain([ended.len()]));
            assert!(*whole == Err(0) || later.is_err_and(|status| status != 0), "{:?}", String::from_utf8_lossy(bytes));
        } else {
            assert_eq!(pieces, *whole, "{lengths:?} of {:?}", String::from_utf8_lossy(bytes));
        }
    }

    /// Parses whole, byte by byte and split in two at every position, which must agree.
    #[track_caller]
    fn parse_with(limits: &Limits, bytes: &[u8]) -> Outcome {
        let whole = grow(bytes, limits, [bytes.len()]);
        assert_alike(&whole, bytes, limits, 0..=bytes.len());
        for at in 0..bytes.len() {
            assert_alike(&whole, bytes, limits, [at, bytes.len()]);
        }
        whole
    }

    #[track_caller]
    fn parse(bytes: &[u8]) -> Outcome {
        parse_with(&LIMITS, bytes)
    }

    #[track_caller]
    fn assert_refused(status: u16, requests: &[&[u8]]) {
        for &request in requests {
            assert_eq!(parse(request), Err(status), "{:?}", String::from_utf8_lossy(request));
        }
    }

    /// A GET with these field lines, which bring their CRLF.
    fn with_fields(fields: &[u8]) -> Vec<u8> {
        [b"GET / HTTP/1.1\r\nHost: a\r\n", fields, b"\r\n"].concat()
    }

    #[track_caller]
    fn assert_fields_refused(status: u16, fields: &[&[u8]]) {
        for &lines in fields {
            assert_eq!(parse(&with_fields(lines)), Err(status), "{:?}", String::from_utf8_lossy(lines));
        }
    }

    /// Parses into the head itself, which must succeed.
    #[track_caller]
    fn head_of(bytes: &[u8]) -> Head {
        assert!(parse(bytes).is_ok(), "{:?} {:?}", parse(bytes), String::from_utf8_lossy(bytes));
        let mut head = Head::new();
        assert_eq!(head.parse(bytes, &LIMITS), Ok(Parsed::Complete));
        head
    }

    /// The target of a GET, and what was made of it.
    #[track_caller]
    fn target(method: &str, target: &str) -> Result<[String; 3], u16> {
        let request = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        parse(request.as_bytes())?;
        let head = head_of(request.as_bytes());
        Ok([head.path, head.query, head.authority]
            .map(|span| String::from_utf8_lossy(span.of(request.as_bytes())).into_owned()))
    }

    #[test]
    fn a_plain_get_is_taken_apart() {
        assert_eq!(
            parse(b"GET /a/%20b?c=d?e HTTP/1.1\r\nHost: example.com:80\r\nX-Y:\t z \xe4\t \r\nE:\r\n\r\nrest").unwrap(),
            "GET /a/%20b?c=d?e path=/a/%20b query=c=d?e authority= host=example.com:80 Http11 None keep=true \
             continue=false upgrade=false length=69 Host=example.com:80|X-Y=z \u{fffd}|E="
        );
    }

    #[test]
    fn a_head_is_used_again_for_the_next_request() {
        let mut head = Head::new();
        let first = b"POST http://h/a?b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
        assert_eq!(head.parse(first, &LIMITS), Ok(Parsed::Complete));
        assert_eq!((head.body, head.expects_continue, head.fields.len()), (BodyFraming::Length(3), true, 3));
        head.reset();
        let second = b"GET / HTTP/1.0\r\n\r\n";
        assert_eq!(head.parse(second, &LIMITS), Ok(Parsed::Complete));
        let mut fresh = Head::new();
        assert_eq!(fresh.parse(second, &LIMITS), Ok(Parsed::Complete));
        assert_eq!(describe(&head, second), describe(&fresh, second));
        // A head that was left half-way, too.
        assert_eq!(head.parse(b"GET / HT", &LIMITS), Ok(Parsed::Partial));
        head.reset();
        assert_eq!(head.parse(second, &LIMITS), Ok(Parsed::Complete));
    }

    #[test]
    fn pipelined_requests_are_read_one_after_another() {
        let bytes = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut head = Head::new();
        assert_eq!(head.parse(bytes, &LIMITS), Ok(Parsed::Complete));
        let rest = &bytes[head.length..];
        assert_eq!(head.parse(rest, &LIMITS), Ok(Parsed::Complete));
        assert_eq!((head.path.of(rest), head.length), (&b"/2"[..], rest.len()));
    }

    #[test]
    fn an_incomplete_head_waits_for_more() {
        let request = b"\r\nGET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n";
        for end in 0..request.len() {
            assert_eq!(parse(&request[..end]), Err(0), "{end}");
        }
    }

    #[test]
    fn one_empty_line_before_the_request_is_tolerated() {
        let request = b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(head_of(request).length, request.len());
        assert_refused(
            400,
            &[
                b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
                b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
                b"\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
                b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n",
                b"\r\n GET / HTTP/1.1\r\nHost: a\r\n\r\n",
                b" GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            ],
        );
    }

    // Waitress CVE-2019-16785, Gunicorn 27: a proxy that needs CRLF sees another message.
    #[test]
    fn a_bare_lf_or_cr_anywhere_in_the_head_is_refused() {
        let request = b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\nE:\r\n\r\n";
        for at in 0..request.len() {
            if request[at] == b'\r' {
                let mut broken = request.to_vec();
                broken.remove(at);
                assert_eq!(parse(&broken), Err(400), "without the CR at {at}");
            }
            if request[at] == b'\n' && at + 1 < request.len() {
                let mut broken = request.to_vec();
                broken.remove(at);
                assert_eq!(parse(&broken), Err(400), "without the LF at {at}");
            }
            // An LF before the last LF takes its place, which leaves a proper head.
            for byte in [b'\r', b'\n', 0] {
                if byte == b'\n' && at + 1 == request.len() {
                    continue;
                }
                let mut broken = request.to_vec();
                broken.insert(at, byte);
                assert_eq!(parse(&broken), Err(400), "{byte:#04x} at {at}");
            }
        }
        assert_refused(400, &[b"GET / HTTP/1.1\nHost: a\n\n", b"GET / HTTP/1.1\r\nHost: a\r\n\n"]);
    }

    #[test]
    #[rustfmt::skip] // tables
    fn a_method_is_any_token_and_keeps_its_letter_case() {
        for method in [
            "GET", "POST", "get", "G", "M-SEARCH", "!#$%&'*+-.^_`|~09az", "GETX", "POSTER", "PROPFIND",
        ] {
            let request = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(
                head_of(request.as_bytes()).method.of(request.as_bytes()),
                method.as_bytes()
            );
        }
        for method in [
            &b""[..],
            b"GET:", b"G\0T", b"GET\0PROXY", b"G(T", b"\xc3\x9f", b"G\"", b"G\tT", b"G/T", b"G\x7f",
        ] {
            assert_refused(400, &[&[method, b" / HTTP/1.1\r\nHost: a\r\n\r\n"].concat()]);
        }
    }

    #[test]
    #[rustfmt::skip] // tables
    fn the_request_line_has_single_spaces_and_three_parts() {
        assert_refused(
            400,
            &[
                b"GET\r\n\r\n", b"GET /\r\n\r\n", b"GET / \r\n\r\n", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
                b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /\tHTTP/1.1\r\nHost: a\r\n\r\n",
                b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
                b"GET / HTTP/1.1\t\r\nHost: a\r\n\r\n", b"GET / a HTTP/1.1\r\nHost: a\r\n\r\n",
                b"GET HTTP/1.1\r\nHost: a\r\n\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", // a TLS handshake
            ],
        );
    }

    #[test]
    #[rustfmt::skip] // tables
    fn another_version_of_http_is_505_and_rubbish_is_400() {
        for version in ["HTTP/0.9", "HTTP/2.0", "HTTP/3.0", "HTTP/9.9"] {
            assert_refused(505, &[format!("GET / {version}\r\nHost: a\r\n\r\n").as_bytes()]);
        }
        assert_refused(505, &[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]);
        for version in [
            "HTTP/1.10", "HTTP/1111", "HTTP/1", "HTTP/1.", "HTTP/.1", "HTTP/11.1", "HTTP/2", "HTTP/2.00",
            "HTTP/-1.1", "http/1.1", "Http/1.1", "HTTP 1.1", "HTTP/1,1", "HTTP/a.b", "HTTPS/1.1", "JUNK", "X",
            "HTTP/2.0 ", "1.1",
        ] {
            assert_refused(400, &[format!("GET / {version}\r\nHost: a\r\n\r\n").as_bytes()]);
        }
    }

    // RFC 9110 2.5: "process the message as if it was in the highest minor version" that the recipient knows.
    #[test]
    fn a_higher_minor_version_is_read_as_1_1() {
        for minor in 2..=9 {
            let bytes = format!("GET /a HTTP/1.{minor}\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").into_bytes();
            let expected = bytes.clone();
            let as_1_1 = [&expected[..14], b"1", &expected[15..]].concat();
            let known = grow(&as_1_1, &LIMITS, [as_1_1.len()]);
            assert!(known.is_ok());
            assert_eq!(grow(&bytes, &LIMITS, [bytes.len()]), known);
            assert_eq!(grow(&bytes, &LIMITS, 1..=bytes.len()), known);
        }
        assert_refused(400, &[b"GET / HTTP/1.2\r\n\r\n", b"GET / HTTP/1.2\nHost: a\r\n\r\n"]);
    }

    #[test]
    fn targets_have_one_of_four_forms() {
        let cases: [(&str, &str, [&str; 3]); 14] = [
            ("GET", "/", ["/", "", ""]),
            ("GET", "//a//b?", ["//a//b", "", ""]),
            ("GET", "/?a=b", ["/", "a=b", ""]),
            ("GET", "/http://x/", ["/http://x/", "", ""]),
            ("GET", "/%zz%2e[]|\\^`{}\"<>", ["/%zz%2e[]|\\^`{}\"<>", "", ""]),
            ("GET", "http://h", ["/", "", "h"]),
            ("GET", "HTTPS://h:8/p?q", ["/p", "q", "h:8"]),
            ("GET", "http://h?q", ["/", "q", "h"]),
            ("GET", "http://[::1]:80/", ["/", "", "[::1]:80"]),
            ("OPTIONS", "*", ["*", "", ""]),
            ("OPTIONS", "http://h", ["/", "", "h"]),
            ("CONNECT", "h:443", ["", "", ""]),
            ("CONNECT", "[::1]:443", ["", "", ""]),
            ("CONNECT", "h:0065535", ["", "", ""]),
        ];
        for (method, text, parts) in cases {
            assert_eq!(target(method, text), Ok(parts.map(String::from)), "{method} {text}");
        }
    }

    #[test]
    #[rustfmt::skip] // tables
    fn other_targets_are_refused() {
        for (method, text) in [
            ("GET", "*"), ("GET", "**"), ("OPTIONS", "**"), ("OPTIONS", "*?a"), ("GET", "a"), ("GET", "a/b"),
            ("GET", "?a"), ("GET", "h:443"), ("GET", "/#a"), ("GET", "/a?b#c"), ("GET", "#"), ("GET", "ftp://h/"),
            ("GET", "http:/h"), ("GET", "http:///a"), ("GET", "http://"), ("GET", "http://?a"),
            ("GET", "http://u@h/"), ("GET", "http://h:x/"), ("GET", "http://:80/"), ("GET", "http://[::1/"),
            ("GET", "http://h\\/"), ("GET", "http://a%2/"), ("GET", "http://a%zz/"), ("CONNECT", "/"),
            ("CONNECT", "h"), ("CONNECT", "h:"), ("CONNECT", "*"), ("CONNECT", "http://h/"), ("CONNECT", ":443"),
            ("CONNECT", "h:443/"), ("CONNECT", "h:0"), ("CONNECT", "h:65536"), ("CONNECT", "h:4294967739"), ("connect", "h:443"), ("options", "*"),
        ] {
            assert_eq!(target(method, text), Err(400), "{method} {text}");
        }
    }

    #[test]
    fn a_target_is_visible_ascii() {
        // At each of many places, since the search runs over several bytes at once.
        for at in [0, 1, 7, 15, 16, 31, 32, 33, 63] {
            for byte in (0..=0x20).chain(0x7F..=0xFF).chain([b'#']) {
                let mut target = [b'a'; 64];
                target[at] = byte;
                let request = [b"GET /", &target[..], b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
                assert_eq!(grow(&request, &LIMITS, [request.len()]), Err(400), "{byte:#04x} at {at}");
            }
        }
    }

    #[test]
    #[rustfmt::skip] // tables
    fn http_1_1_needs_exactly_one_valid_host() {
        assert_refused(400, &[b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHosts: a\r\n\r\n"]);
        assert_refused(
            400,
            &[
                b"GET / HTTP/1.1\r\nHost: a\r\nhOST: a\r\n\r\n",
                b"GET http://h/ HTTP/1.1\r\n\r\n",
            ],
        );
        assert_refused(400, &[b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"]);
        assert!(head_of(b"GET / HTTP/1.0\r\n\r\n").host.is_empty());
        for host in [
            "a", "A.b-c_d~:80", "a:", "127.0.0.1:8000", "[::1]", "[::ffff:1.2.3.4]:80", "a%2Fb", "xn--a.de",
        ] {
            for version in ["1.0", "1.1"] {
                let request = format!("GET / HTTP/{version}\r\nHOST:{host}\r\n\r\n");
                assert_eq!(head_of(request.as_bytes()).host.of(request.as_bytes()), host.as_bytes());
            }
        }
        for host in [
            "a b", "a/b", "a@b", "a:b", "a:80:80", ":80", ":", "[::1", "[]", "[::1]a", "::1", "a?", "a#", "a\\",
            "a\"", "<a>", "a%", "a%2", "a%zz", "[::1%25eth0]", "\u{e4}", "a,\tb", "{}", "a:+1",
        ] {
            assert_refused(400, &[format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()]);
        }
    }

    // nginx does the same. The authority of an absolute-form stands for Host, and `*` has no authority.
    #[test]
    fn an_empty_host_is_refused_where_the_target_needs_one() {
        for fields in ["Host:", "Host: \t", "host:", "X: y\r\nHost: "] {
            for target in ["/", "/a?b", "//a", "/*"] {
                assert_refused(400, &[format!("GET {target} HTTP/1.1\r\n{fields}\r\n\r\n").as_bytes()]);
                let request = format!("GET {target} HTTP/1.0\r\n{fields}\r\n\r\n");
                assert!(head_of(request.as_bytes()).host.is_empty(), "{request}");
            }
            for line in ["GET http://h/", "GET https://h?a", "OPTIONS *", "OPTIONS http://h", "CONNECT h:443"] {
                let request = format!("{line} HTTP/1.1\r\n{fields}\r\n\r\n");
                assert!(head_of(request.as_bytes()).host.is_empty(), "{request}");
            }
        }
        assert_refused(400, &[b"GET / HTTP/1.2\r\nHost:\r\n\r\n", b"OPTIONS /* HTTP/1.1\r\nHost:\r\n\r\n"]);
        assert_refused(400, &[b"GET http://h/ HTTP/1.1\r\nHost: a b\r\n\r\n", b"OPTIONS * HTTP/1.1\r\n\r\n"]);
    }

    #[test]
    #[rustfmt::skip] // tables
    fn field_names_are_tokens_directly_before_the_colon() {
        assert_fields_refused(
            400,
            &[
                b"X : y\r\n", b"X\t: y\r\n", b": y\r\n", b" X: y\r\n", b"X\r\n", b"X y\r\n", b"X(: y\r\n",
                b"\xe4: y\r\n", b"Content-Length\xc3\x9f: 1\r\n", b"X\0: y\r\n", b"X\x7f: y\r\n",
                b"Content-Length : 3\r\n", b"\"X\": y\r\n", b"Transfer-Encoding : chunked\r\n",
            ],
        );
        // A line with white space before the first field (RFC 9112 2.2).
        assert_refused(
            400,
            &[
                b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
                b"GET / HTTP/1.1\r\n \r\nHost: a\r\n\r\n",
            ],
        );
    }

    #[test]
    fn a_folded_line_is_refused() {
        assert_fields_refused(400, &[b"X: y\r\n z\r\n", b"X: y\r\n\tz\r\n", b"X:\r\n z\r\n", b"X: y\r\n \r\n"]);
    }

    #[test]
    fn field_values_have_no_control_characters_but_tab() {
        for at in [0, 1, 7, 15, 16, 31, 32, 33, 62] {
            for byte in 0..=u8::MAX {
                let mut value = [b'a'; 64];
                value[at] = byte;
                let request = with_fields(&[b"X: ", &value[..], b"\r\n"].concat());
                let outcome = grow(&request, &LIMITS, [request.len()]);
                let is_allowed = byte == b'\t' || (byte >= 0x20 && byte != 0x7F);
                assert_eq!(outcome.is_ok(), is_allowed, "{byte:#04x} at {at}");
            }
        }
        // Waitress CVE-2019-16789: only SP and HTAB are white space.
        for byte in [0x85, 0xA0] {
            let request = with_fields(&[b"X: ", &[byte][..], b"y \t", &[byte], b"\t\r\n"].concat());
            let head = head_of(&request);
            assert_eq!(head.fields[1].value.of(&request), [byte, b'y', b' ', b'\t', byte]);
        }
    }

    #[test]
    fn framing_comes_from_the_fields() {
        for (fields, body) in [
            (&b""[..], BodyFraming::None),
            (b"content-LENGTH: 12\r\n", BodyFraming::Length(12)),
            (b"Content-Length:0 \r\n", BodyFraming::Length(0)),
            (b"transfer-encoding: Chunked\r\n", BodyFraming::Chunked),
            (b"TRANSFER-ENCODING:\tCHUNKED\t\r\n", BodyFraming::Chunked),
            (b"Transfer_Encoding: chunked\r\nContent_Length: 5\r\n", BodyFraming::None),
            (b"Content-Length-X: 5\r\nTransfer-Encodin: chunked\r\n", BodyFraming::None),
        ] {
            assert_eq!(head_of(&with_fields(fields)).body, body, "{:?}", String::from_utf8_lossy(fields));
        }
        assert_fields_refused(
            400,
            &[
                b"Content-Length: 5\r\nContent-Length: 5\r\n",
                b"Content-Length: 5\r\nX: y\r\ncontent-length: 6\r\n",
                b"Content-Length: 5, 5\r\n",
                b"Content-Length: +5\r\n",
                b"Content-Length:\r\n",
                b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                b"transfer-encoding: Chunked\r\ncontent-length: 5\r\n",
                b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
                b"Transfer-Encoding: \x85chunked\r\n",
                b"Transfer-Encoding: xchunked\r\n",
            ],
        );
        assert_fields_refused(501, &[b"Transfer-Encoding: gzip, chunked\r\n"]);
        assert_refused(400, &[b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"]);
    }

    #[test]
    fn two_content_types_are_refused() {
        assert_fields_refused(400, &[b"Content-Type: a/b\r\ncontent-type: a/b\r\n"]);
        head_of(&with_fields(b"Content-Type: a/b\r\n"));
    }

    #[test]
    fn connections_persist_as_the_version_and_the_options_say() {
        for (options, in_1_1, in_1_0) in [
            ("", true, false),
            ("Connection: close\r\n", false, false),
            ("connection: CLOSE\r\n", false, false),
            ("Connection: keep-alive\r\n", true, true),
            ("Connection: x, Keep-Alive ,, y\r\n", true, true),
            ("Connection: keep-alive, close\r\n", false, false),
            ("Connection: keep-alive\r\nConnection: close\r\n", false, false),
            ("Connection: closed, keep\r\n", true, false),
            ("Connections: close\r\n", true, false),
        ] {
            for (version, expected) in [("1.1", in_1_1), ("1.0", in_1_0)] {
                let request = format!("GET / HTTP/{version}\r\nHost: a\r\n{options}\r\n");
                assert_eq!(head_of(request.as_bytes()).keep_alive, expected, "{request}");
            }
        }
    }

    #[test]
    fn only_100_continue_can_be_expected() {
        let request =
            |version: &str, fields: &str| format!("POST / HTTP/{version}\r\nHost: a\r\n{fields}\r\n").into_bytes();
        for (version, fields, expected) in [
            ("1.1", "Expect: 100-continue\r\nContent-Length: 1\r\n", true),
            ("1.1", "expect: 100-Continue\r\nTransfer-Encoding: chunked\r\n", true),
            ("1.1", "Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 1\r\n", true),
            ("1.1", "Expect:\r\nContent-Length: 1\r\n", false),
            ("1.1", "Expect: 100-continue\r\nContent-Length: 0\r\n", false),
            ("1.1", "Expect: 100-continue\r\n", false),
            ("1.0", "Expect: 100-continue\r\nContent-Length: 1\r\n", false),
            ("1.0", "Expect: rubbish\r\n", false),
        ] {
            assert_eq!(head_of(&request(version, fields)).expects_continue, expected, "{version} {fields}");
        }
        for value in ["200-ok", "100-continue, x", "100-continue;a=b", "100"] {
            assert_eq!(parse(&request("1.1", &format!("Expect: {value}\r\n"))), Err(417), "{value}");
        }
    }

    #[test]
    fn upgrade_is_only_recorded() {
        assert!(head_of(&with_fields(b"upgrade: h2c\r\n")).has_upgrade);
        assert!(!head_of(&with_fields(b"")).has_upgrade);
        assert!(!head_of(b"GET / HTTP/1.0\r\nUpgrade: websocket\r\n\r\n").has_upgrade);
    }

    #[test]
    fn a_request_line_over_its_limit_is_414() {
        for (target_bytes, is_ok) in [(87, true), (88, false), (300, false)] {
            let line = [&b"GET /"[..], &vec![b'a'; target_bytes - 1], b" HTTP/1.1"].concat();
            let request = [&line[..], b"\r\nHost: a\r\n\r\n"].concat();
            assert_eq!(parse(&request).map(|_| ()), if is_ok { Ok(()) } else { Err(414) }, "{target_bytes}");
            assert_eq!(parse(&line), Err(if is_ok { 0 } else { 414 }), "no line end yet, {target_bytes}");
        }
        // Without a limit of its own, that of the head says the same.
        let limits = Limits { request_line_bytes: 0, head_bytes: 300, ..LIMITS };
        assert_eq!(parse_with(&limits, &[&b"GET /"[..], &[b'a'; 400]].concat()), Err(414));
        assert!(parse_with(&limits, &[&b"GET /"[..], &[b'a'; 200], b" HTTP/1.0\r\n\r\n"].concat()).is_ok());
    }

    #[test]
    fn field_lines_over_their_limits_are_431() {
        for (value_bytes, is_ok) in [(197, true), (198, false), (900, false)] {
            let line = [&b"X: "[..], &vec![b'a'; value_bytes]].concat();
            let request = with_fields(&[&line[..], b"\r\n"].concat());
            assert_eq!(parse(&request).map(|_| ()), if is_ok { Ok(()) } else { Err(431) }, "{value_bytes}");
            let open = [b"GET / HTTP/1.1\r\n", &line[..]].concat();
            assert_eq!(parse(&open), Err(if is_ok { 0 } else { 431 }), "no line end yet, {value_bytes}");
            let first = [b"GET / HTTP/1.0\r\n", &line[..], b"\r\nA: b\r\n\r\n"].concat();
            assert_eq!(parse(&first).map(|_| ()), if is_ok { Ok(()) } else { Err(431) }, "first, {value_bytes}");
        }
    }

    #[test]
    fn more_field_lines_than_the_limit_are_431() {
        for (count, is_ok) in [(9, true), (10, false), (50, false)] {
            let request = with_fields(&b"X: y\r\n".repeat(count));
            assert_eq!(parse(&request).map(|_| ()), if is_ok { Ok(()) } else { Err(431) }, "{count}");
        }
        for (limit, count, is_ok) in [
            (64, 63, true),
            (64, 64, false),
            (65, 64, true),
            (65, 65, false),
            (128, 127, true),
            (128, 128, false),
            (0, 300, true),
        ] {
            let limits = Limits { field_count: limit, ..LIMITS };
            let request = with_fields(&b"X: y\r\n".repeat(count));
            assert_eq!(
                parse_with(&limits, &request).map(|_| ()),
                if is_ok { Ok(()) } else { Err(431) },
                "{limit} {count}"
            );
        }
    }

    #[test]
    fn a_head_over_its_limit_is_431() {
        let request = with_fields(&[&b"X: "[..], &[b'a'; 100], b"\r\n"].concat());
        for (head_bytes, is_ok) in [(request.len(), true), (request.len() - 1, false), (60, false), (17, false)] {
            let limits = Limits { head_bytes, ..LIMITS };
            assert_eq!(
                parse_with(&limits, &request).map(|_| ()),
                if is_ok { Ok(()) } else { Err(431) },
                "{head_bytes}"
            );
        }
        let limits = Limits { head_bytes: 0, ..LIMITS };
        assert_eq!(parse_with(&limits, &request), Err(414));
        // Bytes after the head do not count.
        let limits = Limits { head_bytes: request.len(), ..LIMITS };
        assert!(parse_with(&limits, &[&request[..], &[b'b'; 500]].concat()).is_ok());
    }

    #[test]
    fn a_head_in_single_bytes_is_parsed_a_logarithmic_number_of_times() {
        let request = with_fields(&[&b"X: "[..], &[b'a'; 190], b"\r\n"].concat().repeat(9));
        let mut head = Head::new();
        let mut attempts = 0;
        for end in 1..request.len() {
            let before = head.progress.attempted;
            assert_eq!(head.parse(&request[..end], &LIMITS), Ok(Parsed::Partial));
            attempts += usize::from(head.progress.attempted != before);
            assert_eq!(head.progress.scanned, end);
        }
        assert_eq!(attempts, request.len().ilog2() as usize + 1);
    }

    #[test]
    fn spans_never_panic() {
        let bytes = b"abc";
        assert_eq!(Span { start: 1, end: 3 }.of(bytes), b"bc");
        for (start, end) in [(1, 4), (4, 5), (2, 1), (u32::MAX, u32::MAX), (0, u32::MAX), (3, 3)] {
            assert_eq!(Span { start, end }.of(bytes), b"");
        }
        assert!(Span { start: 2, end: 1 }.is_empty() && Span::default().is_empty());
        assert!(!Span { start: 1, end: 2 }.is_empty());
    }

    /// As `grow`, with repairs.
    fn grow_repaired(repairs: Repairs, bytes: &[u8], lengths: impl IntoIterator<Item = usize>) -> Outcome {
        let (mut head, mut buffer) = (Head::new(), Vec::new());
        for length in lengths {
            buffer.extend_from_slice(&bytes[buffer.len()..length]);
            match head.parse_repaired(&mut buffer, &LIMITS, repairs) {
                Ok(Parsed::Complete) => return Ok(describe(&head, &buffer)),
                Ok(Parsed::Partial) => assert_eq!(buffer, bytes[..length], "changed before it is complete"),
                Err(error) => return Err(error.status()),
            }
        }
        Err(0)
    }

    const EVERY_REPAIR: Repairs =
        Repairs { capital_methods: true, any_version: true, folded_lines: true, spaced_names: true };

    #[test]
    #[rustfmt::skip] // tables
    fn a_repaired_head_is_read_alike_whole_and_in_pieces() {
        let long = "a".repeat(90);
        let field = |lines: usize| format!("X: a{}\r\n", "\r\n b".repeat(lines));
        let folded = |count: usize, lines: usize| field(lines).repeat(count) + "\r\n";
        for (sent, same_as) in [
            ("get / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), Ok("GET / HTTP/1.1\r\nHost: a\r\n\r\n")),
            ("connect h:1 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), Ok("CONNECT h:1 HTTP/1.1\r\nHost: a\r\n\r\n")),
            ("\r\nGET / HTTP/3.0\r\nHost: a\r\n\r\n".to_owned(), Ok("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")),
            ("GET / HTTP/0.9\r\n\r\nmore".to_owned(), Ok("GET / HTTP/1.0\r\n\r\nmore")),
            ("GET / HTTP/0.9\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), Err(400)),
            ("GET / HTTP/0.9\r\nX :\r\n b\r\n\r\n".to_owned(), Ok("GET / HTTP/1.0\r\nX: b   \r\n\r\n")),
            ("GET / HTTP/1.1\r\nHost: a\r\nExpect:\r\n x\r\n\r\n".to_owned(), Err(417)),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: b\n c\r\n\r\n".to_owned(), Err(400)),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\n".to_owned(), Err(400)),
            ("GET / HTTP/1.1\r\n Host: a\r\nHost: b\r\n\r\n".to_owned(), Err(400)),
            (format!("GET / HTTP/0.9\r\n{}", folded(10, 3)), Ok("10 fields")),
            (format!("GET / HTTP/0.9\r\n{}", folded(11, 0)), Err(431)),
            (format!("GET / HTTP/0.9\r\nX: {long}\r\n {long}\r\n\r\n"), Ok("long")),
            (format!("GET / HTTP/0.9\r\nX: {long}\r\n {long}\r\n {long}\r\n\r\n"), Err(431)),
            (format!("GET /{long} HTTP/1.0\r\n\r\n"), Err(414)),
            (format!("GET / HTTP/1.0\r\n{}", folded(1, 900)), Err(431)),
            ("G".repeat(101), Err(414)),
        ] {
            let bytes = sent.as_bytes();
            let whole = grow_repaired(EVERY_REPAIR, bytes, [bytes.len()]);
            match same_as {
                Ok(same_as) if same_as.contains('/') => assert_eq!(whole, parse(same_as.as_bytes()), "{sent:?}"),
                Ok(_) => assert!(whole.is_ok(), "{sent:?} {whole:?}"),
                Err(status) => assert_eq!(whole, Err(status), "{sent:?}"),
            }
            assert_eq!(grow_repaired(EVERY_REPAIR, bytes, 0..=bytes.len()), whole, "{sent:?}");
            for at in 0..bytes.len() {
                assert_eq!(grow_repaired(EVERY_REPAIR, bytes, [at, bytes.len()]), whole, "{sent:?} at {at}");
            }
        }
    }

    /// Shows `check` heads made of these, with a few bytes changed, and a place in each where it may be cut.
    fn for_damaged(seeds: &[&[u8]], mut check: impl FnMut(&[u8], usize)) {
        let interesting = b"\r\n\0 \t:/?#%*,;\x7f\x80\xff09aHT";
        let mut state = 0x9E37_79B9_7F4A_7C15u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below.max(1) as u64) as usize
        };
        for round in 0..6000 {
            let mut bytes = seeds[round % seeds.len()].to_vec();
            for _ in 0..=random(3) {
                let at = random(bytes.len());
                match random(4) {
                    0 if bytes.len() > 1 => drop(bytes.remove(at)),
                    1 => bytes.insert(at, interesting[random(interesting.len())]),
                    0 | 2 => bytes[at] = interesting[random(interesting.len())],
                    _ => bytes.truncate(at.max(1)),
                }
            }
            check(&bytes, random(bytes.len()));
        }
    }

    // Whatever a peer sends, how it was cut into packets does not decide whether and how it is understood.
    #[test]
    fn damaged_heads_are_read_alike_whole_and_in_pieces() {
        const HARMLESS: Repairs = Repairs { capital_methods: false, ..EVERY_REPAIR };
        let seeds: [&[u8]; 3] = [
            b"\r\nGET http://h:1/p?q HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            b"POST /a HTTP/1.1\r\nHost: [::1]:8\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n0\r\n\r\n",
            b"PUT /%41 HTTP/1.0\r\nContent-Length: 12\r\nConnection: keep-alive\r\nX:\r\n\r\nhello",
        ];
        let mut completed = 0;
        for_damaged(&seeds, |bytes, at| {
            let whole = grow(bytes, &LIMITS, [bytes.len()]);
            let shown = String::from_utf8_lossy(bytes);
            // Of several faults, pieces may meet another one first, so the status is not compared.
            assert_eq!(grow(bytes, &LIMITS, 0..=bytes.len()).ok(), whole.clone().ok(), "byte by byte: {shown:?}");
            assert_eq!(grow(bytes, &LIMITS, [at, bytes.len()]).ok(), whole.clone().ok(), "split at {at}: {shown:?}");
            let unrepaired = grow_repaired(Repairs::default(), bytes, 0..=bytes.len());
            assert_eq!(unrepaired.ok(), whole.clone().ok(), "no repairs: {shown:?}");
            if whole.is_ok() {
                // What is right needs no repair.
                assert_eq!(grow_repaired(HARMLESS, bytes, [bytes.len()]), whole, "repaired: {shown:?}");
            }
            completed += usize::from(whole.is_ok());
        });
        assert!(completed > 500, "{completed}");
    }

    #[test]
    fn no_repair_makes_framing_or_a_host() {
        let seeds: [&[u8]; 3] = [
            b"put /a HTTP/2.0\r\nHost: a\r\nX : b\r\n c: d\r\nContent-Length: 5\r\n\r\nhello",
            b"PUT /a HTTP/1.1\r\nX:\r\n\tb\r\nHost: a\r\nTransfer-Encoding: chunked\r\nY\t: z\r\n\r\n0\r\n\r\n",
            b"PUT /a HTTP/1.1\r\nHost : a\r\nX: y\r\n Content-Length: 5\r\n\r\nhello",
        ];
        let mut completed = 0;
        for_damaged(&seeds, |bytes, at| {
            let (mut head, mut repaired) = (Head::new(), bytes.to_vec());
            let is_complete = head.parse_repaired(&mut repaired, &LIMITS, EVERY_REPAIR) == Ok(Parsed::Complete);
            let shown = String::from_utf8_lossy(bytes);
            for lengths in [vec![at, bytes.len()], (0..=bytes.len()).collect()] {
                let pieces = grow_repaired(EVERY_REPAIR, bytes, lengths).ok();
                assert_eq!(pieces, is_complete.then(|| describe(&head, &repaired)), "{shown:?}");
            }
            if !is_complete {
                return;
            }
            assert_eq!(bytes.get(head.length..), repaired.get(head.length..), "what follows the head: {shown:?}");
            // Whoever repairs nothing sees the same lines of these fields, and no others.
            let lines = |name: &str, bytes: &[u8]| -> Vec<Vec<u8>> {
                let lines = bytes[..head.length].split(|&byte| byte == b'\n').map(<[u8]>::to_vec);
                lines.filter(|line| line.to_ascii_lowercase().starts_with(name.as_bytes())).collect()
            };
            for name in ["host", "content-length", "transfer-encoding"] {
                assert_eq!(lines(name, bytes), lines(name, &repaired), "{shown:?}");
            }
            completed += 1;
        });
        assert!(completed > 500, "{completed}");
    }
}
