//! One HTTP/1.x exchange: a request is read, a response is written, and the connection is used again or ends
//! (RFC 9112 9.3 to 9.6).
//!
//! Each direction is a state machine, [`Reading`] and [`Writing`]. All transitions stand in one table, the two `after`
//! functions below. [`Exchange`] adds the counts and the framing of the bodies, and owns the decision whether the
//! connection persists. Everything else asks it:
//!
//! | question                           | asked by                                          |
//! |------------------------------------|---------------------------------------------------|
//! | [`Exchange::may_send_continue`]    | the reader of a request body, before it waits     |
//! | [`Exchange::takes_interim`]        | early hints                                       |
//! | [`Exchange::announces_close`]      | the head of the response                          |
//! | [`Exchange::has_next`]             | the head of the response, once the server stops   |
//! | [`Exchange::should_drain`]         | the end of a request                              |
//! | [`Exchange::ending`]               | the connection, when the request has ended        |
//!
//! Nothing here reads, writes, waits or knows Python.

use std::fmt;

use super::Version;
use super::error::RequestError;
use super::framing::BodyFraming;
use super::response::{ResponseBody, ResponsePlan};

/// Bytes of an unread request body that are read and discarded after the response, so that the connection can be used
/// again. Closing is cheaper for a longer rest (Gunicorn 27 drains 64 KiB, Apache any amount).
pub const DRAIN_BYTES: u64 = 256 * 1024;

/// The status of a request whose time is up (RFC 9110 15.6.5, Gateway Timeout).
pub const TIME_IS_UP: u16 = 504;

/// How far the request has been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// The head is still to come.
    #[default]
    Head,
    /// Some of the body is still to come.
    Body,
    /// The whole request has been received.
    Drained,
    /// The rest of the request will not be read: it is invalid, too long, late, or out of reach.
    Abandoned,
}

/// How far the response has been written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writing {
    /// Nothing has been sent.
    #[default]
    Nothing,
    /// Interim responses alone have been sent (RFC 9110 15.2).
    Interim,
    /// The head of the response has been sent, its body is on the way.
    Body,
    /// The response is complete.
    Done,
    /// The response cannot be completed as it was announced. The connection must end; sending may go on in vain.
    Broken,
    /// The connection speaks another protocol, which the server has accepted (RFC 9110 7.8).
    Upgraded,
}

/// An event in an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeEvent {
    /// The head of the request is invalid, late or not permitted.
    HeadRefused,
    /// A head without a body has been read.
    HeadWithoutBody,
    /// A head that announces a body has been read.
    HeadWithBody,
    /// The last byte of the body has been received.
    BodyEnded,
    /// Reading the body has failed.
    BodyFailed,
    /// The rest of the body, or what follows it, cannot be read any more.
    BodyAbandoned,
    /// An interim response is sent.
    InterimSent,
    /// The head of the response is sent.
    ResponseBegan,
    /// Some of the response's body is sent.
    DataSent,
    /// The body has ended as its framing says.
    ResponseEnded,
    /// The body ends before its framing says.
    ResponseCut,
    /// Sending has failed.
    SendFailed,
    /// The client is known to be gone, without an attempt to send.
    ClientGone,
    /// The connection speaks another protocol from now on.
    Upgraded,
    /// The time of the request is up. A response that has begun is not completed.
    TimeIsUp,
}

impl ExchangeEvent {
    /// Every event, in the order of the table.
    pub const ALL: [ExchangeEvent; 15] = [
        ExchangeEvent::HeadRefused,
        ExchangeEvent::HeadWithoutBody,
        ExchangeEvent::HeadWithBody,
        ExchangeEvent::BodyEnded,
        ExchangeEvent::BodyFailed,
        ExchangeEvent::BodyAbandoned,
        ExchangeEvent::InterimSent,
        ExchangeEvent::ResponseBegan,
        ExchangeEvent::DataSent,
        ExchangeEvent::ResponseEnded,
        ExchangeEvent::ResponseCut,
        ExchangeEvent::SendFailed,
        ExchangeEvent::ClientGone,
        ExchangeEvent::Upgraded,
        ExchangeEvent::TimeIsUp,
    ];

    const fn is_of_request(self) -> bool {
        use ExchangeEvent::*;
        matches!(self, HeadRefused | HeadWithoutBody | HeadWithBody | BodyEnded | BodyFailed | BodyAbandoned)
    }
}

// --- the transition table --------------------------------------------------------------------------------------------

impl Reading {
    /// The state after an event; `None` where the event is illegal.
    const fn after(self, event: ExchangeEvent) -> Option<Reading> {
        use ExchangeEvent::*;
        match (self, event) {
            (Reading::Head, HeadRefused) => Some(Reading::Abandoned),
            (Reading::Head, HeadWithoutBody) => Some(Reading::Drained),
            (Reading::Head, HeadWithBody) => Some(Reading::Body),
            (Reading::Body, BodyEnded) => Some(Reading::Drained),
            // A second read after a failure fails again.
            (Reading::Body | Reading::Abandoned, BodyFailed) => Some(Reading::Abandoned),
            (Reading::Body | Reading::Drained | Reading::Abandoned, BodyAbandoned) => Some(Reading::Abandoned),
            // No response goes out before its request has been read or refused.
            (Reading::Head, _) => None,
            (state, event) if !event.is_of_request() => Some(state),
            _ => None,
        }
    }
}

impl Writing {
    /// The state after an event; `None` where the event is illegal.
    const fn after(self, event: ExchangeEvent) -> Option<Writing> {
        use ExchangeEvent::*;
        match (self, event) {
            (state, event) if event.is_of_request() => Some(state),
            (Writing::Nothing | Writing::Interim, InterimSent) => Some(Writing::Interim),
            (Writing::Nothing | Writing::Interim, ResponseBegan) => Some(Writing::Body),
            (Writing::Nothing | Writing::Interim, Upgraded) => Some(Writing::Upgraded),
            (Writing::Body, DataSent) => Some(Writing::Body),
            (Writing::Body, ResponseEnded) => Some(Writing::Done),
            (Writing::Interim | Writing::Body, SendFailed) => Some(Writing::Broken),
            // A failure after the last byte of the response still ends the connection.
            (Writing::Body | Writing::Done, ResponseCut) => Some(Writing::Broken),
            (Writing::Body | Writing::Done, ClientGone) => Some(Writing::Broken),
            // The client may have closed its own side alone: nothing is broken until sending fails.
            (Writing::Nothing | Writing::Interim | Writing::Upgraded, ClientGone) => Some(self),
            (Writing::Body, TimeIsUp) => Some(Writing::Broken),
            // Nothing but 504 may begin now; a complete response and another protocol stay as they are.
            (Writing::Nothing | Writing::Interim | Writing::Done | Writing::Upgraded, TimeIsUp) => Some(self),
            (Writing::Broken, Upgraded) => None,
            (Writing::Broken, _) => Some(Writing::Broken),
            _ => None,
        }
    }
}

// --- the exchange ----------------------------------------------------------------------------------------------------

/// An event that the present states do not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IllegalEvent {
    /// The event.
    pub event: ExchangeEvent,
    /// The state of the request.
    pub reading: Reading,
    /// The state of the response.
    pub writing: Writing,
}

impl fmt::Display for IllegalEvent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let IllegalEvent { event, reading, writing } = self;
        write!(formatter, "{event:?} is illegal while the request is {reading:?} and the response is {writing:?}")
    }
}

impl std::error::Error for IllegalEvent {}

/// The use of the connection after the exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Persistence {
    /// Another request may follow.
    Reusable,
    /// The connection ends.
    #[default]
    Closing,
    /// Another protocol or a tunnel follows.
    Switched,
}

/// How a connection goes on when its exchange is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The next request follows; these bytes of it have been received.
    Reuse(Vec<u8>),
    /// The server ends its side and discards what the client still sends. An immediate close would be a reset, which
    /// destroys the response on its way (RFC 9112 9.6).
    Linger,
    /// The connection is closed.
    Close,
    /// The connection is reset: the end of the connection would look like the proper end of the body (RFC 9112 8).
    Reset,
}

/// A body that does not have the length of its Content-Length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LengthFault {
    /// It was longer, and has been cut.
    TooLong,
    /// It was shorter.
    TooShort,
}

/// One request and its response. The default has not read a head, and ends its connection.
#[derive(Debug, Default)]
pub struct Exchange {
    reading: Reading,
    writing: Writing,
    persistence: Persistence,
    /// The client waits for "100 Continue" before it sends the body (RFC 9110 10.1.1).
    awaits_continue: bool,
    /// A reader waits for more of the body.
    is_body_awaited: bool,
    /// Bytes of the body that are still to come, where that is known.
    body_left: Option<u64>,
    /// More than the request has been received.
    has_more: bool,
    is_client_gone: bool,
    is_time_up: bool,
    /// The body of the response was longer than its Content-Length.
    is_overlong: bool,
    /// The client's fault that reading has met.
    fault: Option<RequestError>,
    /// The framing of the response, once its head is sent.
    framing: Option<ResponseBody>,
    /// Bytes of the response's body, without their framing.
    sent_bytes: u64,
}

impl Exchange {
    /// An exchange whose head has been read. `received` bytes have come behind the head. `is_reusable` says that client
    /// and server would use the connection again.
    pub fn new(body: BodyFraming, expects_continue: bool, received: usize, is_reusable: bool) -> Exchange {
        let has_body = body.has_content();
        let mut exchange = Exchange {
            persistence: if is_reusable { Persistence::Reusable } else { Persistence::Closing },
            awaits_continue: has_body && expects_continue && received == 0,
            body_left: match body {
                BodyFraming::None => Some(0),
                BodyFraming::Length(length) => Some(length),
                BodyFraming::Chunked => None,
            },
            has_more: match body {
                BodyFraming::None => received > 0,
                BodyFraming::Length(length) => received as u64 > length,
                // Known at the end of the body.
                BodyFraming::Chunked => false,
            },
            ..Exchange::default()
        };
        exchange.must(if has_body { ExchangeEvent::HeadWithBody } else { ExchangeEvent::HeadWithoutBody });
        exchange
    }

    /// The exchange of a request that was refused before it reached the application. `is_answered` says that the error
    /// page was sent.
    pub fn refused(is_answered: bool) -> Exchange {
        let mut exchange = Exchange::default();
        exchange.must(ExchangeEvent::HeadRefused);
        exchange.must(ExchangeEvent::ResponseBegan);
        exchange.framing = Some(ResponseBody::None);
        exchange.must(if is_answered { ExchangeEvent::ResponseEnded } else { ExchangeEvent::ClientGone });
        exchange.is_client_gone = !is_answered;
        exchange
    }

    /// Applies one event to both machines.
    ///
    /// # Errors
    /// Where the table has no transition. Nothing has changed then.
    pub fn apply(&mut self, event: ExchangeEvent) -> Result<(), IllegalEvent> {
        let Exchange { reading, writing, .. } = *self;
        match (reading.after(event), writing.after(event)) {
            (Some(reading), Some(writing)) => {
                (self.reading, self.writing) = (reading, writing);
                Ok(())
            }
            _ => Err(IllegalEvent { event, reading, writing }),
        }
    }

    /// Applies an event that is legal in the present states.
    fn must(&mut self, event: ExchangeEvent) {
        let outcome = self.apply(event);
        debug_assert_eq!(outcome, Ok(()));
    }

    // --- the request ---

    /// A reader is about to wait for more of the body. Returns whether it must send "100 Continue" first.
    pub fn await_body(&mut self) -> bool {
        let may_send_continue = self.may_send_continue();
        (self.awaits_continue, self.is_body_awaited) = (false, true);
        if may_send_continue {
            self.must(ExchangeEvent::InterimSent);
        }
        may_send_continue
    }

    /// The wait for more of the body is over.
    pub fn stop_awaiting_body(&mut self) {
        self.is_body_awaited = false;
    }

    /// The reader got `count` bytes of the body, its last ones if `is_end`.
    ///
    /// # Errors
    /// When the body has ended or failed before.
    pub fn take_body(&mut self, count: usize, is_end: bool) -> Result<(), IllegalEvent> {
        self.body_left = self.body_left.map(|left| left.saturating_sub(count as u64));
        if is_end { self.apply(ExchangeEvent::BodyEnded) } else { Ok(()) }
    }

    /// More than the request has been received.
    pub fn note_more(&mut self) {
        self.has_more = true;
    }

    /// Has the next request begun to arrive? `has_unread` says whether the kernel has bytes from the client.
    pub fn has_next(&self, has_unread: impl FnOnce() -> bool) -> bool {
        self.has_more || (self.reading == Reading::Drained && has_unread())
    }

    /// Reading the body has failed, by a fault of the client's or by something else.
    ///
    /// # Errors
    /// When there is no body, or it has ended before.
    pub fn fail_body(&mut self, fault: Option<RequestError>) -> Result<(), IllegalEvent> {
        self.apply(ExchangeEvent::BodyFailed)?;
        self.fault = fault;
        Ok(())
    }

    /// The client's fault that reading the body has met.
    pub fn fault(&self) -> Option<RequestError> {
        self.fault
    }

    /// Is "100 Continue" due before more of the body is read? It comes too late once the response has begun
    /// (RFC 9110 15.2.1). Clients send after a while without it, too (RFC 9110 10.1.1).
    pub fn may_send_continue(&self) -> bool {
        self.awaits_continue && self.reading == Reading::Body && self.takes_interim()
    }

    /// Does the rest of the body keep the connection from being used again? It may never come, or is too long to be
    /// read and discarded.
    fn is_held_by_body(&self) -> bool {
        match self.reading {
            Reading::Body => self.awaits_continue || self.body_left.is_some_and(|left| left > DRAIN_BYTES),
            Reading::Head | Reading::Abandoned => true,
            Reading::Drained => false,
        }
    }

    // --- the response ---

    /// Is the response still to begin, so that an interim one may precede it?
    pub fn takes_interim(&self) -> bool {
        matches!(self.writing, Writing::Nothing | Writing::Interim)
    }

    /// The head of the response goes out. `closes` says that application or server wants the connection to end.
    ///
    /// # Errors
    /// When a response has begun before, or the connection speaks another protocol.
    pub fn begin_response(&mut self, status: u16, plan: &ResponsePlan, closes: bool) -> Result<(), IllegalEvent> {
        let event = ExchangeEvent::ResponseBegan;
        if self.framing.is_some() || (self.is_time_up && status != TIME_IS_UP) {
            // A broken response has no second head.
            return Err(IllegalEvent { event, reading: self.reading, writing: self.writing });
        }
        self.apply(event)?;
        self.framing = Some(plan.body);
        let is_held = self.is_held_by_body() && !self.is_body_awaited;
        if status == 101 || plan.body == ResponseBody::Tunnel {
            self.persistence = Persistence::Switched;
        } else if closes || is_held || !plan.allows_reuse || self.writing == Writing::Broken {
            self.persistence = Persistence::Closing;
        }
        Ok(())
    }

    /// Does the head of the response say `Connection: close`? To be asked once it has begun.
    pub fn announces_close(&self) -> bool {
        self.persistence == Persistence::Closing
    }

    /// The option that the Connection field of the response names, if it has one (RFC 9112 9.3).
    ///
    /// `close` goes to clients of both versions: the response is an HTTP/1.1 message, whose connection persists unless
    /// it says otherwise. `keep-alive` goes to HTTP/1.0 only. Neither precedes a tunnel or another protocol, which
    /// begins where the response ends.
    pub fn connection_option(&self, request_version: Version) -> Option<&'static [u8]> {
        match self.persistence {
            _ if self.announces_close() => Some(b"close"),
            Persistence::Reusable if request_version == Version::Http10 => Some(b"keep-alive"),
            _ => None,
        }
    }

    /// The application gives `count` bytes of the body. Returns how many bytes the framing has room for.
    ///
    /// # Errors
    /// When the response has not begun, or is complete.
    pub fn send_data(&mut self, count: usize) -> Result<usize, IllegalEvent> {
        self.apply(ExchangeEvent::DataSent)?;
        let taken = match self.framing {
            Some(ResponseBody::Length(length)) => {
                let left = length.saturating_sub(self.sent_bytes);
                let taken = usize::try_from(left).map_or(count, |left| left.min(count));
                if taken < count {
                    self.is_overlong = true;
                    self.persistence = Persistence::Closing;
                }
                taken
            }
            Some(ResponseBody::Chunked | ResponseBody::UntilClose | ResponseBody::Tunnel) => count,
            Some(ResponseBody::None) | None => 0,
        };
        self.sent_bytes += taken as u64;
        Ok(taken)
    }

    /// `count` bytes of the body went out by other means.
    pub fn note_sent(&mut self, count: u64) {
        self.sent_bytes += count;
    }

    /// The application has no more. A body that is shorter than its Content-Length breaks the response.
    ///
    /// # Errors
    /// When the response has not begun, or is complete.
    pub fn end_response(&mut self) -> Result<(), IllegalEvent> {
        match self.framing {
            Some(ResponseBody::Length(length)) if self.sent_bytes < length => self.apply(ExchangeEvent::ResponseCut),
            _ => self.apply(ExchangeEvent::ResponseEnded),
        }
    }

    /// Sending has failed; `is_client_gone` tells why.
    ///
    /// # Errors
    /// When nothing was being sent.
    pub fn fail_sending(&mut self, is_client_gone: bool) -> Result<(), IllegalEvent> {
        self.apply(ExchangeEvent::SendFailed)?;
        self.is_client_gone |= is_client_gone;
        Ok(())
    }

    /// The client is gone, or has ended its own side at least.
    ///
    /// # Errors
    /// When no request has been read.
    pub fn lose_client(&mut self) -> Result<(), IllegalEvent> {
        self.apply(ExchangeEvent::ClientGone)?;
        self.is_client_gone = true;
        Ok(())
    }

    /// The time of the request is up. A response that has begun ends in a reset; otherwise 504 alone may be sent.
    ///
    /// # Errors
    /// When no request has been read.
    pub fn end_time(&mut self) -> Result<(), IllegalEvent> {
        self.apply(ExchangeEvent::TimeIsUp)?;
        self.is_time_up = true;
        Ok(())
    }

    /// Was the time of the request up before its response was complete?
    pub fn is_time_up(&self) -> bool {
        self.is_time_up
    }

    /// The state of the response.
    pub fn writing(&self) -> Writing {
        self.writing
    }

    /// Does the connection speak another protocol than HTTP?
    pub fn is_upgraded(&self) -> bool {
        self.writing == Writing::Upgraded
    }

    /// Has the head of a response been sent, be it that of an upgrade?
    pub fn is_answered(&self) -> bool {
        self.framing.is_some() || self.is_upgraded()
    }

    /// The framing of the response, once its head has gone out. Only the end of the connection can signal an error
    /// then.
    pub fn framing(&self) -> Option<ResponseBody> {
        self.framing
    }

    /// Will nothing of the body that is still to come be sent? True for answers to HEAD and the like, and for a body
    /// that has exceeded its Content-Length.
    pub fn is_body_over(&self) -> bool {
        self.is_overlong || self.framing == Some(ResponseBody::None)
    }

    /// Bytes of the response's body so far, without their framing.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// Is the client known to be gone?
    pub fn is_client_gone(&self) -> bool {
        self.is_client_gone
    }

    // --- the end ---

    /// How the body that was sent differs from its Content-Length, by the application's fault.
    pub fn length_fault(&self) -> Option<LengthFault> {
        match self.framing {
            _ if self.is_overlong => Some(LengthFault::TooLong),
            Some(ResponseBody::Length(length))
                if self.writing == Writing::Broken
                    && !self.is_client_gone
                    && !self.is_time_up
                    && self.sent_bytes < length =>
            {
                Some(LengthFault::TooShort)
            }
            _ => None,
        }
    }

    fn is_reusable(&self) -> bool {
        self.writing == Writing::Done && self.persistence == Persistence::Reusable && !self.is_client_gone
    }

    /// Is the rest of the body worth reading, so that the connection can be used again?
    pub fn should_drain(&self) -> bool {
        self.is_reusable() && !self.is_held_by_body()
    }

    /// How the connection goes on. `left_over` was received behind the request; `has_unread` says whether the kernel
    /// has more from the client.
    pub fn ending(&self, left_over: Vec<u8>, has_unread: impl FnOnce() -> bool) -> Ending {
        if self.is_reusable() && self.reading == Reading::Drained {
            return Ending::Reuse(left_over);
        }
        let is_cut = self.writing == Writing::Broken || self.is_client_gone;
        if is_cut && matches!(self.framing, Some(ResponseBody::UntilClose | ResponseBody::Tunnel)) {
            return Ending::Reset;
        }
        if self.is_time_up && self.writing == Writing::Broken && self.framing.is_some() {
            return Ending::Reset;
        }
        // A close would be a reset while unread bytes wait.
        if self.is_answered()
            && !self.is_client_gone
            && (self.reading != Reading::Drained || self.has_more || has_unread())
        {
            return Ending::Linger;
        }
        Ending::Close
    }
}

#[cfg(test)]
mod tests;
