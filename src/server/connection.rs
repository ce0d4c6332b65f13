//! One connection's life, from top to bottom: rest, read a head, run the request, rest again; or refuse, linger, close.
//!
//! A connection at rest is a record in `connections` and holds no coroutine. The record also keeps a head that arrives
//! in pieces, so a slow client costs its bytes and nothing else. `http::exchange` decides how each request ends.

mod arriving;
mod lingering;
mod moving;
mod preface;
mod running;

use std::sync::Arc;
use std::time::Instant;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use self::arriving::Arriving;
use super::shared::Shared;
use crate::event_loop::{interrupts, streams, turn};
use crate::http::error::RequestError;
use crate::http::exchange::{Ending, Exchange};
use crate::http::head::known::LastSection;
use crate::http::head::{Head, Parsed};
use crate::http::proxy_protocol::Addresses;
use crate::http::response::error_page;
use crate::interp::{Level, log};
use crate::net::{Failure, Peer, Stream, held};
use crate::wsgi::{self, RemoteAddress, Unprepared};

/// Requests of one client's pipeline that run before other work gets its turn.
const PIPELINE_TURN: usize = 16;

/// A connection at rest.
pub struct Connection {
    /// The socket, which requests in progress share.
    pub stream: Arc<Stream>,
    /// The number of its listener.
    listener: u16,
    /// The client at the other end of the socket.
    peer: Peer,
    /// The ends that a PROXY header has named.
    proxied: Option<Box<Proxied>>,
    /// REMOTE_ADDR of its requests.
    address: Py<PyString>,
    /// The peer is trusted to speak for other clients.
    is_trusted: bool,
    opening: Opening,
    /// The request that is arriving.
    arriving: Arriving,
    /// The field section that came last, which most clients repeat.
    section: LastSection,
    beginning: ConnectionBeginning,
    stage: ConnectionStage,
    /// The number of requests so far.
    served: u32,
    /// The last response ended because the server stops.
    ended_with_server: bool,
    adoption: Adoption,
}

/// The state of a connection before its first request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ConnectionBeginning {
    /// Nothing has arrived, as far as is known.
    Nothing,
    /// Its first turn comes at once, whether or not something has arrived.
    FirstTurn,
    /// Something has arrived that is no head: a PROXY header, or the beginning of TLS.
    HasBegun,
}

/// How the next request of a connection is served that a sibling has handed over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Adoption {
    /// As any other: no sibling has handed it over, or it has had a request here.
    None,
    /// It is served here.
    Stays,
    /// It is refused, since there was no room for the connection.
    HasNoRoom,
}

/// The ends that a PROXY header has named.
struct Proxied {
    addresses: Addresses,
    /// The items that they add to the environ: Gunicorn's for the proxy that the client has connected to.
    items: Py<PyDict>,
}

/// The use of the PROXY protocol at the beginning of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opening {
    /// A header may come, and the peer is trusted.
    Trusted,
    /// A header is refused with 403.
    Forbidden,
    /// The connection speaks HTTP.
    Over,
}

/// The thing that a connection rests for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Resting {
    /// A request.
    Idle,
    /// The rest of a head.
    Head,
    /// The end of the client's side.
    Lingering,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ConnectionStage {
    /// No request has begun.
    Idle,
    /// Part of a head is here.
    Head,
    /// The last answer has been sent; everything that arrives is discarded.
    Lingering,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A coroutine of the application may still read or write: this ends it.
        if Arc::strong_count(&self.stream) > 1 {
            self.stream.may_be_dropped_elsewhere();
            self.stream.shutdown_both();
        }
    }
}

/// The next step of a connection after its turn.
pub enum Next {
    /// The connection rests until something arrives.
    Rest(Box<Connection>),
    /// The connection has bytes to go on with, after other work.
    Queue(Box<Connection>),
    /// The connection is over.
    Close,
}

impl Connection {
    /// A connection just accepted.
    pub fn new(py: Python<'_>, shared: &Shared, stream: Stream, listener: usize, peer: Peer) -> Connection {
        let opening = match shared.proxy_versions() {
            None => Opening::Over,
            Some(_) if shared.may_speak_proxy(peer) => Opening::Trusted,
            Some(_) => Opening::Forbidden,
        };
        Connection {
            stream: Arc::new(stream),
            listener: u16::try_from(listener).unwrap_or(u16::MAX),
            peer,
            proxied: None,
            address: shared.last_address().text(py, peer),
            is_trusted: shared.gateway().trusts(peer),
            opening,
            arriving: Arriving::default(),
            section: LastSection::default(),
            beginning: ConnectionBeginning::Nothing,
            stage: ConnectionStage::Idle,
            served: 0,
            ended_with_server: false,
            adoption: Adoption::None,
        }
    }

    /// Does its first turn come at once?
    pub fn is_new(&self) -> bool {
        self.beginning == ConnectionBeginning::FirstTurn
    }

    /// Announces that the next turn comes at once, whether or not something has arrived.
    pub fn expect_first_turn(&mut self) {
        self.beginning = ConnectionBeginning::FirstTurn;
    }

    /// Prepares for a stop of the server, or for changed terms of it: the connection ends at the deadline of the stop, or
    /// at its own, if that is earlier.
    pub fn begin_stop(&mut self, shared: &Shared) {
        let source = self.stream.source();
        let last = match self.stage {
            ConnectionStage::Lingering => return,
            ConnectionStage::Head => shared.last_head_deadline(),
            // Bytes of a pipeline are served soon.
            ConnectionStage::Idle if !self.is_idle() => return,
            ConnectionStage::Idle if self.served > 0 => shared.last_idle_deadline(),
            // The first request may be on the way. Browsers also open connections that they never use.
            ConnectionStage::Idle => shared.first_request_deadline(self.beginning == ConnectionBeginning::HasBegun),
        };
        let deadline = streams::deadline(source).into_iter().chain(last).min();
        if self.served == 0 || self.stage == ConnectionStage::Head {
            self.arriving.set_deadline(deadline);
        }
        streams::set_deadline(source, deadline);
    }

    /// Has no request begun to arrive?
    pub fn is_idle(&self) -> bool {
        self.stage == ConnectionStage::Idle && !self.has_bytes()
    }

    /// Are bytes here that are still to be served, without an event of the poller?
    pub fn has_bytes(&self) -> bool {
        self.arriving.has_bytes()
    }

    /// The thing that the connection rests for.
    pub fn resting(&self) -> Resting {
        match self.stage {
            ConnectionStage::Idle => Resting::Idle,
            ConnectionStage::Head => Resting::Head,
            ConnectionStage::Lingering => Resting::Lingering,
        }
    }

    /// Does the connection rest after a request?
    pub fn is_kept(&self) -> bool {
        self.is_idle() && self.served > 0
    }

    /// Serves the connection: there is something to read, or bytes were left over.
    ///
    /// # Parks
    pub fn serve(mut self: Box<Self>, py: Python<'_>, shared: &Shared) -> Next {
        if self.stage == ConnectionStage::Lingering {
            return self.linger(shared);
        }
        if held::is_unsent(&self.stream) && self.send_unsent(shared).is_err() {
            return Next::Close;
        }
        let untouched = self.is_new().then_some(self.opening);
        if untouched.is_some() {
            self.beginning = ConnectionBeginning::Nothing;
        }
        for _ in 0..PIPELINE_TURN {
            let ending = match self.take_request(py, shared) {
                NextRequest::Request(head, buffer) => match shared.moving() {
                    None => self.run(py, shared, head, buffer),
                    Some(moving) => self.run_or_move(py, shared, moving, head, buffer),
                },
                NextRequest::Part(head, buffer) => return self.rest_with_part(shared, head, buffer),
                NextRequest::Nothing => {
                    // Nothing has arrived, not even a header of the PROXY protocol.
                    let still_new = self.served == 0 && untouched == Some(self.opening);
                    return if still_new { Next::Rest(self) } else { self.rest_idle(shared) };
                }
                NextRequest::Over(ending) => ending,
            };
            match ending {
                Ending::Reuse(left_over) if left_over.is_empty() => return self.rest_idle(shared),
                Ending::Reuse(left_over) => {
                    self.arriving.set_bytes(left_over);
                    interrupts::begin_next_work();
                }
                ending => return self.end(ending),
            }
            if turn::is_spent() {
                break;
            }
        }
        Next::Queue(self)
    }

    /// Takes the next request, or what there is of it.
    ///
    /// # Parks
    /// Where a request is refused.
    // Not part of its caller: frames that coroutines wait in should be small.
    #[inline(never)]
    fn take_request(&mut self, py: Python<'_>, shared: &Shared) -> NextRequest {
        let mut buffer = shared.take_buffer(self.arriving.take_bytes());
        let mut head = self.arriving.take_head().unwrap_or_else(|| shared.take_head());
        match self.receive(py, shared, &mut head, &mut buffer) {
            ReceivedHead::Request => NextRequest::Request(head, buffer),
            ReceivedHead::Nothing if !buffer.is_empty() => NextRequest::Part(head, buffer),
            ReceivedHead::Nothing => {
                shared.give_buffer(buffer);
                shared.give_head(head);
                NextRequest::Nothing
            }
            ReceivedHead::Over => {
                shared.give_buffer(buffer);
                NextRequest::Over(Ending::Close)
            }
            ReceivedHead::Bad(error) => NextRequest::Over(self.refuse(py, shared, error, &buffer)),
        }
    }

    /// Sends an answer that was held, or the rest of it.
    ///
    /// # Errors
    /// See [`Failure`]. The connection is over.
    ///
    /// # Parks
    fn send_unsent(&self, shared: &Shared) -> Result<(), Failure> {
        held::take_owed(&self.stream).map_or(Ok(()), |rest| self.stream.write_all(&[&rest], &shared.pace()))
    }

    /// Ends the connection as its last exchange has decided.
    #[inline(never)]
    fn end(mut self: Box<Self>, ending: Ending) -> Next {
        match ending {
            Ending::Reuse(left_over) => {
                self.arriving.set_bytes(left_over);
                return Next::Queue(self);
            }
            Ending::Linger => return self.begin_lingering(),
            Ending::Reset => self.stream.reset_on_close(),
            Ending::Close => {}
        }
        Next::Close
    }

    /// Handles a deadline that has passed while the connection rested.
    ///
    /// # Parks
    pub fn expire(mut self: Box<Self>, py: Python<'_>, shared: &Shared) -> Next {
        match self.stage {
            // Cut short by the stop of the server, so the client is not to blame.
            ConnectionStage::Head if self.is_cut_short(shared) => Next::Close,
            ConnectionStage::Head => {
                let request = self.arriving.take_bytes();
                let ending = self.refuse(py, shared, RequestError::Timeout, &request);
                self.end(ending)
            }
            ConnectionStage::Idle => self.end_idle(),
            ConnectionStage::Lingering => Next::Close,
        }
    }

    /// Has the stop of the server set the deadline of the head that is arriving?
    fn is_cut_short(&self, shared: &Shared) -> bool {
        let last = shared.last_head_deadline();
        last.is_some_and(|last| self.arriving.deadline().is_none_or(|deadline| deadline >= last))
            || shared.is_stopping_quickly()
    }

    /// Ends an idle connection, unless a request has arrived meanwhile.
    ///
    /// # Parks
    /// If the stream is encrypted and Python code of the transport waits.
    fn end_idle(self: Box<Self>) -> Next {
        if self.stream.has_unread() {
            return Next::Queue(self);
        }
        self.stream.shutdown_write();
        // A request that has crossed this end is lost. Its client must see an orderly end instead of a reset, to know
        // that the request was not processed (RFC 9112 9.3.1 and 9.6).
        if self.stream.unread_bytes() > 0 { self.linger_from_now() } else { Next::Close }
    }

    /// Parses the received bytes, and reads until there is a head or nothing more to read.
    fn receive(&mut self, py: Python<'_>, shared: &Shared, head: &mut Head, buffer: &mut Vec<u8>) -> ReceivedHead {
        let limits = shared.head_limits();
        let mut must_read = buffer.is_empty() || self.stage == ConnectionStage::Head;
        loop {
            if must_read {
                if buffer.capacity() == buffer.len() {
                    buffer.reserve(buffer.len().max(1024).min(limits.head_bytes));
                }
                match self.stream.read_now(buffer) {
                    Ok(Some(0)) => return ReceivedHead::Over,
                    Ok(Some(_)) => {}
                    Ok(None) => return ReceivedHead::Nothing,
                    Err(error) => {
                        // An error without a number comes from TLS; the socket's own errors are clients that vanish.
                        if error.raw_os_error().is_none() {
                            log(py, Level::Info, &format!("TLS with {} failed: {error}", self.client(py)), None);
                        }
                        return ReceivedHead::Over;
                    }
                }
            }
            if self.opening != Opening::Over && !buffer.is_empty() {
                match self.take_preface(py, shared, buffer) {
                    Ok(true) => {}
                    Ok(false) if streams::is_readable(self.stream.source()) => {
                        must_read = true;
                        continue;
                    }
                    Ok(false) => return ReceivedHead::Nothing,
                    Err(Unprepared::Request(error)) => return ReceivedHead::Bad(error),
                    Err(Unprepared::Python(error)) => {
                        // No answer is better than one for the wrong client.
                        shared.gateway().report(py, "Error preparing a connection", &error);
                        return ReceivedHead::Over;
                    }
                }
            }
            let parsed = match shared.leniency() {
                None => head.parse_repeated(buffer, limits, &mut shared.known_heads(), &mut self.section),
                Some(leniency) => head.parse_leniently(buffer, limits, leniency),
            };
            match parsed {
                Ok(Parsed::Complete) => {
                    return shared
                        .check_method(head.method.of(buffer))
                        .map_or_else(ReceivedHead::Bad, |()| ReceivedHead::Request);
                }
                Ok(Parsed::Partial) => must_read = true,
                Err(error) => return ReceivedHead::Bad(error),
            }
            if !streams::is_readable(self.stream.source()) {
                return ReceivedHead::Nothing;
            }
        }
    }

    // Not part of its caller: frames that coroutines wait in should be small.
    #[inline(never)]
    fn rest_idle(mut self: Box<Self>, shared: &Shared) -> Next {
        if self.served == 0 {
            // Nothing but a PROXY header has arrived: the first request is still to come.
            (self.stage, self.beginning) = (ConnectionStage::Idle, ConnectionBeginning::HasBegun);
            // The first deadline stays: a handshake of TLS comes in many pieces.
            let last = shared.first_request_deadline(true);
            let deadline = self.arriving.deadline().or_else(|| shared.head_deadline()).into_iter().chain(last).min();
            self.arriving.set_deadline(deadline);
            streams::set_deadline(self.stream.source(), deadline);
            return Next::Rest(self);
        }
        self.arriving = Arriving::default();
        // A client whose stream was ended comes back after a while.
        let brief = if self.ended_with_server { shared.first_request_deadline(false) } else { None };
        if let (None, Some(time_left)) = (brief, shared.idle_time()) {
            streams::set_time_left(self.stream.source(), time_left);
            return Next::Rest(self);
        }
        match brief.or_else(|| shared.idle_deadline()) {
            Some(deadline) => {
                streams::set_deadline(self.stream.source(), Some(deadline));
                Next::Rest(self)
            }
            None if shared.keeps_alive(self.served) => Next::Rest(self),
            None => {
                // The connection is over in any case.
                let _ = self.send_unsent(shared);
                Next::Close
            }
        }
    }

    // Not part of its caller: frames that coroutines wait in should be small.
    #[inline(never)]
    fn rest_with_part(mut self: Box<Self>, shared: &Shared, head: Box<Head>, mut buffer: Vec<u8>) -> Next {
        if self.stage == ConnectionStage::Idle {
            self.stage = ConnectionStage::Head;
            self.arriving.set_deadline(shared.head_deadline());
            self.arriving.set_begun(shared.slow_requests().map(|_| Instant::now()));
        }
        streams::set_deadline(self.stream.source(), self.arriving.deadline());
        // Slow clients keep the bytes that they have sent instead of whole buffers.
        buffer.shrink_to_fit();
        self.arriving.set_bytes(buffer);
        self.arriving.set_head(head);
        Next::Rest(self)
    }

    /// Answers a request that is refused, of which `request` has arrived. The connection ends, since nothing behind it
    /// is certain to be a request.
    ///
    /// # Parks
    #[cold]
    fn refuse(&self, py: Python<'_>, shared: &Shared, error: RequestError, request: &[u8]) -> Ending {
        self.log_fault(py, error);
        self.answer_refusal(shared, error.status(), request)
    }

    /// Answers with an error page of the server's own.
    ///
    /// # Parks
    fn answer_refusal(&self, shared: &Shared, status: u16, request: &[u8]) -> Ending {
        if let Some(measures) = shared.seat().measures() {
            measures.note_refusal(status);
        }
        let page = error_page(status, request, &wsgi::http_date(), wsgi::SERVER_SOFTWARE.as_bytes());
        let sent = self.stream.write_all(&[&page], &shared.pace());
        Exchange::refused(sent.is_ok()).ending(Vec::new(), || true)
    }

    #[cold]
    fn log_fault(&self, py: Python<'_>, error: RequestError) {
        log(py, Level::Info, &format!("{} from {}: {error}", error.status(), self.client(py)), None);
    }

    /// The client as its requests name it.
    fn remote(&self) -> RemoteAddress<'_> {
        let port = match (&self.proxied, self.peer) {
            (Some(proxied), _) => Some(proxied.addresses.source.1),
            (None, Peer::Inet(_, port)) => Some(port),
            (None, Peer::Unix) => None,
        };
        RemoteAddress { address: &self.address, port, proxy: self.proxied.as_ref().map(|proxied| &proxied.items) }
    }

    /// The client's name in log lines.
    fn client(&self, py: Python<'_>) -> String {
        let client = self.address.bind(py).to_string();
        if client.is_empty() { "a Unix client".to_owned() } else { client }
    }
}

/// The next request of a connection, or what there is of it.
enum NextRequest {
    /// A complete head, in these bytes.
    Request(Box<Head>, Vec<u8>),
    /// Part of a head.
    Part(Box<Head>, Vec<u8>),
    /// Nothing.
    Nothing,
    /// The end of the connection.
    Over(Ending),
}

/// The outcome of reading.
enum ReceivedHead {
    /// A complete head.
    Request,
    /// Nothing, or part of a head.
    Nothing,
    /// The end of the stream, or an error: the client is gone.
    Over,
    /// Bytes that are no request.
    Bad(RequestError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_owns_two_small_records() {
        // In addition it has a source in the poller.
        assert_eq!(size_of::<Connection>(), 72);
        assert_eq!(size_of::<Stream>(), 40 - 16);
    }
}
