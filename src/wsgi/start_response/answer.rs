//! The response as it stands: status and fields as the application gives them, and how far the exchange has come.

use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use pyo3::exceptions::{PyBaseException, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyIterator, PyList, PyString, PyTuple};

use super::super::{SERVER_SOFTWARE, clock, text};
use super::known_fields::{KnownFields, ReadField};
use crate::event_loop::streams;
use crate::http::Version;
use crate::http::exchange::{Ending, Exchange, IllegalEvent};
use crate::http::response::{
    FieldKind, MethodKind, check_field, find_field, parse_status, plan, reason, write_common, write_field,
    write_status_line,
};
use crate::net::{Failure, Stream};
use crate::sync::lock;

/// Room for the head of an ordinary response and the server's own fields, so that its buffer need not grow.
pub(super) const HEAD_BYTES: usize = 512;

/// Request properties and settings that shape the response.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    /// The request's version.
    pub version: Version,
    /// Its method, as far as that decides how the answer is framed.
    pub method: MethodKind,
}

/// The response as it stands. The default belongs to a request that has ended.
#[derive(Default)]
pub struct Answer {
    /// Where the response goes, until the request has ended.
    pub(super) stream: Option<Arc<Stream>>,
    /// The stream of the request, also after its end. Weak, so that a kept environ does not keep the connection.
    client: Weak<Stream>,
    pub(super) terms: Terms,
    /// How far request and response have come.
    pub exchange: Exchange,
    /// Status and fields, until and after they are sent.
    pub head: ResponseHead,
    /// The lock on sending: a coroutine or thread is at it.
    pub(super) is_sending: bool,
    /// The application has named a server error after the upgrade, which the client does not see.
    pub has_failed: bool,
    pub(super) at_stop: AtStop,
    /// When the first bytes of the response had been sent, on the clock of the seat; 0 if that is not measured.
    pub first_byte: u64,
    /// The first bytes were the whole response.
    pub is_sent_at_once: bool,
    /// Fields of the server that few responses have.
    added: Option<Box<AddedFields>>,
    /// State that few responses need.
    pub(super) rare: Option<Box<Rare>>,
}

/// Fields of the server that few responses have, by their values.
#[derive(Default)]
pub struct AddedFields {
    /// X-Request-ID, unless the application gives one.
    pub request_id: Option<Box<str>>,
    /// Set-Cookie, of sticky sessions.
    pub cookie: Option<Box<str>>,
}

/// Status line and fields of a response.
#[derive(Default)]
pub struct ResponseHead {
    /// The status code; 0 until `start_response` has been called.
    pub status: u16,
    /// Status line and fields as they are sent: at first the application's alone.
    pub bytes: Vec<u8>,
    /// The application's Content-Length.
    pub(super) declared_length: Option<u64>,
    has_server: bool,
    has_date: bool,
    wants_close: bool,
    is_event_stream: bool,
}

/// How a stop of the server concerns a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum AtStop {
    /// It goes on to its end.
    #[default]
    GoesOn,
    /// It ends with the server: it is a stream of events, or its application has asked whether the server stops.
    Ends,
    /// The application knows of the stop, and needs no exception.
    IsInformed,
}

/// State of responses that end before their application is done.
#[derive(Default)]
pub(super) struct Rare {
    /// The exception that was thrown into the request to end it.
    pub(super) ending: Option<Py<PyBaseException>>,
    /// When the client was first seen to have closed its own side, with nothing sent since.
    pub(super) half_closed_since: Option<Instant>,
    /// Why items that were held back could not be sent.
    pub(super) held_failure: Option<Failure>,
}

impl Answer {
    /// Begins a response of which nothing is known yet, after the end of another. `buffer` is for its head.
    pub(super) fn begin(&mut self, terms: Terms, stream: Arc<Stream>, exchange: Exchange, buffer: Vec<u8>) {
        if self.client.as_ptr() != Arc::as_ptr(&stream) {
            self.client = Arc::downgrade(&stream);
        }
        (self.stream, self.terms, self.exchange) = (Some(stream), terms, exchange);
        self.head.bytes = buffer;
    }

    /// Becomes the response to a request that has ended. Returns the parts whose end may run Python code.
    pub(super) fn end(&mut self) -> (Option<Arc<Stream>>, Option<Box<Rare>>) {
        (self.exchange, self.head) = Default::default();
        (self.is_sending, self.has_failed, self.at_stop) = Default::default();
        (self.first_byte, self.is_sent_at_once) = Default::default();
        self.added = None;
        (self.stream.take(), self.rare.take())
    }

    /// The stream of the request, unless its connection is over.
    pub fn client(&self) -> Option<Arc<Stream>> {
        self.client.upgrade()
    }

    /// Replaces what the application has said so far by an error page of the server's own. `closes` ends the
    /// connection.
    pub(super) fn become_error(&mut self, status: u16, closes: bool) {
        let mut head = ResponseHead { status, wants_close: closes, ..ResponseHead::default() };
        write_status_line(&mut head.bytes, format!("{status} {}", reason(status)).as_bytes());
        write_field(&mut head.bytes, b"Content-Type", b"text/html; charset=utf-8");
        self.head = head;
        (self.has_failed, self.at_stop, self.rare) = Default::default();
    }

    /// Takes over what `start_response` was given.
    pub(super) fn set_head(&mut self, mut head: ResponseHead) {
        // A wish to close outlives a second call.
        head.wants_close |= self.head.wants_close;
        if head.is_event_stream && self.at_stop == AtStop::GoesOn {
            self.at_stop = AtStop::Ends;
        }
        self.head = head;
    }

    /// Has the client's next request begun to arrive? Asks the kernel.
    pub(super) fn has_next(&self) -> bool {
        self.exchange.has_next(|| self.stream.as_ref().is_some_and(|stream| stream.has_unread()))
    }

    /// Begins the response: adds the server's own fields and the end of the head. `closes` says that the server ends
    /// the connection. Returns the whole head.
    pub(super) fn complete_head(&mut self, known_length: Option<u64>, closes: bool) -> PyResult<Vec<u8>> {
        let terms = self.terms;
        let ResponseHead { status, declared_length, has_server, has_date, wants_close, .. } = self.head;
        let plan = plan(terms.version, terms.method, status, declared_length, known_length);
        self.exchange.begin_response(status, &plan, wants_close || closes).map_err(illegal)?;
        let mut out = std::mem::take(&mut self.head.bytes);
        if status == 101 {
            // RFC 9110 7.8: the connection speaks another protocol from here on.
            write_field(&mut out, b"Connection", b"upgrade");
        }
        if let Some(added) = self.added.take() {
            added.write(&mut out);
        }
        let option = self.exchange.connection_option(terms.version);
        write_common(&mut out, &plan, option, has_server, has_date, &clock::http_date(), SERVER_SOFTWARE.as_bytes());
        out.extend_from_slice(b"\r\n");
        Ok(out)
    }

    /// How the connection goes on; see [`Exchange::ending`].
    pub fn ending(&self, left_over: Vec<u8>) -> Ending {
        let has_unread = || self.stream.as_ref().is_some_and(|stream| streams::is_readable(stream.source()));
        self.exchange.ending(left_over, has_unread)
    }

    /// Is the response one that ends with the server?
    pub fn ends_with_server(&self) -> bool {
        self.at_stop != AtStop::GoesOn
    }

    /// The fields of the server that few responses have.
    pub fn added(&mut self) -> &mut AddedFields {
        self.added.get_or_insert_default()
    }

    /// The state that few responses need.
    pub(super) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }
}

impl AddedFields {
    fn write(&self, out: &mut Vec<u8>) {
        if let Some(id) = &self.request_id
            && find_field(out, b"x-request-id").is_none()
        {
            write_field(out, b"X-Request-ID", id.as_bytes());
        }
        if let Some(cookie) = &self.cookie {
            write_field(out, b"Set-Cookie", cookie.as_bytes());
        }
    }
}

impl ResponseHead {
    /// The head of an upgrade, which goes out by other means.
    pub(super) fn of_upgrade(bytes: Vec<u8>) -> ResponseHead {
        ResponseHead { status: 101, bytes, ..ResponseHead::default() }
    }

    /// Reads status and fields, which may run Python code, into the empty buffer `bytes`.
    ///
    /// # Errors
    /// TypeError or ValueError naming the rule that is broken.
    pub(super) fn read(
        status: &Bound<'_, PyAny>,
        fields: &Bound<'_, PyAny>,
        mut bytes: Vec<u8>,
        known: &Mutex<KnownFields>,
    ) -> PyResult<ResponseHead> {
        let status =
            status.cast::<PyString>().map_err(|_| text::wrong_type("the status must be a str", status, "PEP 3333"))?;
        let status = text::latin1_bytes(status, "the status")?;
        let code = parse_status(status).map_err(|error| PyValueError::new_err(error.to_string()))?;
        // A client waits for the final response behind such a one, and would take that of its next request for it.
        if matches!(code, 100 | 102..=199) {
            return Err(PyValueError::new_err("the status is that of an interim response (PEP 3333, RFC 9110 15.2)"));
        }
        bytes.reserve(HEAD_BYTES);
        let mut head = ResponseHead { status: code, bytes, ..ResponseHead::default() };
        write_status_line(&mut head.bytes, status);
        if let Ok(list) = fields.cast::<PyList>() {
            for field in list {
                head.add_pair(&field, known)?;
            }
        } else {
            // PEP 3333 asks for a list; Gunicorn takes whatever can be iterated, and applications count on that.
            for field in iterate(fields, "the response headers must be a list of pairs")? {
                head.add_pair(&field?, known)?;
            }
        }
        Ok(head)
    }

    fn add_pair(&mut self, field: &Bound<'_, PyAny>, known: &Mutex<KnownFields>) -> PyResult<()> {
        const RULE: &str = "each response header must be a pair (name, value)";
        if let Ok(pair) = field.cast::<PyTuple>()
            && pair.len() == 2
        {
            if let Some(known) = lock(known).find(pair) {
                return self.add_known(known);
            }
            let start = self.bytes.len();
            let added = self.add_field(&pair.get_item(0)?, &pair.get_item(1)?)?;
            if let Some((kind, is_event_stream)) = added {
                let line = self.bytes.get(start..).unwrap_or_default();
                let previous = lock(known).keep(pair, ReadField { kind, is_event_stream, line });
                drop(previous);
            }
            return Ok(());
        }
        let mut items = iterate(field, RULE)?;
        match (items.next().transpose()?, items.next().transpose()?, items.next().transpose()?) {
            (Some(name), Some(value), None) => self.add_field(&name, &value).map(drop),
            _ => Err(text::wrong_type(RULE, field, "PEP 3333")),
        }
    }

    /// Adds a field. Returns its meaning if that depends on nothing but the field.
    fn add_field(&mut self, name: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<Option<(FieldKind, bool)>> {
        let name = name
            .cast::<PyString>()
            .map_err(|_| text::wrong_type("a response header's name must be a str", name, "PEP 3333"))?;
        let name = text::latin1_bytes(name, "a response header's name")?;
        let value = value.cast::<PyString>().map_err(|_| {
            let what = format!("the value of response header {:?} must be a str", String::from_utf8_lossy(name));
            text::wrong_type(&what, value, "PEP 3333")
        })?;
        let value = text::latin1_bytes(value, "a response header's value")?;
        let kind = check_field(name, value).map_err(|error| {
            PyValueError::new_err(format!("response header {:?}: {error}", String::from_utf8_lossy(name)))
        })?;
        let mut is_event_stream_field = false;
        match kind {
            FieldKind::ContentLength(length) => {
                self.declare_length(length)?;
                return Ok(Some((kind, false)));
            }
            // PEP 3333, "Other HTTP Features": hop-by-hop fields are the server's. The wish to close is honoured.
            FieldKind::Connection => {
                self.wants_close |=
                    value.split(|&byte| byte == b',').any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"));
                return Ok(None);
            }
            FieldKind::Upgrade if self.status == 101 => {}
            // RFC 9110 15.5.22: a 426 names the protocol that the client should ask for.
            FieldKind::Upgrade if self.status == 426 => write_field(&mut self.bytes, b"Connection", b"upgrade"),
            FieldKind::TransferEncoding | FieldKind::HopByHop | FieldKind::Upgrade => return Ok(None),
            FieldKind::Date => self.has_date = true,
            FieldKind::Server => self.has_server = true,
            FieldKind::Other => is_event_stream_field = is_event_stream(name, value),
        }
        self.is_event_stream |= is_event_stream_field;
        write_field(&mut self.bytes, name, value);
        Ok((kind != FieldKind::Upgrade).then_some((kind, is_event_stream_field)))
    }

    /// Adds a field that an earlier response had.
    fn add_known(&mut self, field: ReadField<'_>) -> PyResult<()> {
        if let FieldKind::ContentLength(length) = field.kind {
            return self.declare_length(length);
        }
        self.has_date |= field.kind == FieldKind::Date;
        self.has_server |= field.kind == FieldKind::Server;
        self.is_event_stream |= field.is_event_stream;
        self.bytes.extend_from_slice(field.line);
        Ok(())
    }

    fn declare_length(&mut self, length: u64) -> PyResult<()> {
        if self.declared_length.is_some_and(|other| other != length) {
            return Err(PyValueError::new_err(
                "two different Content-Length response headers (PEP 3333, RFC 9110 8.6)",
            ));
        }
        self.declared_length = Some(length);
        Ok(())
    }
}

/// Does a field say that the body is a stream of server-sent events (HTML, "Server-sent events")? Such a stream goes on
/// until the server ends it, and its client reconnects by itself.
fn is_event_stream(name: &[u8], value: &[u8]) -> bool {
    const TYPE: &[u8] = b"text/event-stream";
    value.get(..TYPE.len()).is_some_and(|start| start.eq_ignore_ascii_case(TYPE))
        && name.eq_ignore_ascii_case(b"content-type")
}

/// The items of an iterable other than a string, whose characters would count as items.
fn iterate<'py>(value: &Bound<'py, PyAny>, rule: &str) -> PyResult<Bound<'py, PyIterator>> {
    if value.is_instance_of::<PyString>() || value.is_instance_of::<PyBytes>() || !value.hasattr("__iter__")? {
        return Err(text::wrong_type(rule, value, "PEP 3333"));
    }
    value.try_iter()
}

/// The exception for an event that the exchange does not allow.
pub(super) fn illegal(error: IllegalEvent) -> PyErr {
    PyRuntimeError::new_err(format!("the response cannot go on: {error}"))
}
