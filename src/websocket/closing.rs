//! The closing of a WebSocket (RFC 6455 7): one table of states and events, without input or output.
//!
//! [`Closing`] alone decides what may still be read and sent, and when the connection ends. Frames, sockets and waiting
//! senders ask it.
//!
//! | state        | read | messages sent | until                                                              |
//! |--------------|------|---------------|--------------------------------------------------------------------|
//! | `Open`       | yes  | yes           | either side closes or fails                                        |
//! | `Failing`    | no   | yes           | the application has taken what came before the broken rule         |
//! | `CloseSent`  | yes  | no            | the client answers our close                                       |
//! | `Flushing`   | no   | no            | the queue has been sent                                            |
//! | `Over`       | no   | no            | for ever                                                           |

use super::close_codes::{ABNORMAL, NO_CODE};

/// Why a connection was closed. The first reason counts: the client's, ours, or a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// The code, [`super::close_codes::NO_CODE`] if the client's close frame had none (RFC 6455 7.4).
    pub code: u16,
    /// A text for people; may be empty.
    pub reason: String,
}

/// A rule that the client broke. The connection must be failed (RFC 6455 7.1.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The code to close with.
    pub code: u16,
    /// The rule.
    pub rule: &'static str,
}

/// An event that may move the closing on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClosingEvent {
    /// The application or the server closes.
    OwnClose(Close),
    /// A valid close frame of the client has arrived: it closes, or answers our close (RFC 6455 5.5.1).
    ClientClose(Close),
    /// The client broke a rule.
    Violation(Violation),
    /// The application has taken all messages before the broken rule, or its time for that has passed.
    ViolationDue,
    /// The queue has been sent: frames, and what TLS held.
    Flushed,
    /// The connection broke, or the client took too long. The text says how.
    Lost(String),
}

/// The work that an event gives to the owner of the frames and the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClosingAction {
    /// Nothing.
    Nothing,
    /// Queue a close frame; without a code it has no payload.
    SendClose(Option<u16>, String),
    /// End our side of the stream. The server closes first (RFC 6455 7.1.1).
    EndStream,
    /// Drop the queue and shut the stream down.
    Abort,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum ClosingState {
    Open,
    Failing(Violation),
    CloseSent(Close),
    Flushing(Close),
    Over(Close),
}

/// How far the closing of one connection has come.
#[derive(Debug)]
pub struct Closing(ClosingState);

impl Default for Closing {
    fn default() -> Closing {
        Closing(ClosingState::Open)
    }
}

impl Closing {
    /// Applies an event. Returns the work that follows.
    pub fn apply(&mut self, event: ClosingEvent) -> ClosingAction {
        let (state, action) = next(std::mem::replace(&mut self.0, ClosingState::Open), event);
        self.0 = state;
        action
    }

    /// Whether neither side has closed or failed. Then messages are delivered, and pings answered (RFC 6455 5.5.1,
    /// 5.5.2).
    pub fn is_open(&self) -> bool {
        matches!(self.0, ClosingState::Open)
    }

    /// Whether bytes of the client are still parsed.
    pub fn is_reading(&self) -> bool {
        matches!(self.0, ClosingState::Open | ClosingState::CloseSent(_))
    }

    /// The broken rule, while the application may still take and answer what came before it.
    pub fn violation(&self) -> Option<Violation> {
        if let ClosingState::Failing(violation) = self.0 { Some(violation) } else { None }
    }

    /// Why the connection is closed or closing; none while messages may be sent.
    pub fn close(&self) -> Option<&Close> {
        match &self.0 {
            ClosingState::Open | ClosingState::Failing(_) => None,
            ClosingState::CloseSent(close) | ClosingState::Flushing(close) | ClosingState::Over(close) => Some(close),
        }
    }

    /// Whether only the queue is still to be sent.
    pub fn is_flushing(&self) -> bool {
        matches!(self.0, ClosingState::Flushing(_))
    }

    /// Whether nothing is read or sent any more.
    pub fn is_over(&self) -> bool {
        matches!(self.0, ClosingState::Over(_))
    }
}

/// The transition table.
fn next(state: ClosingState, event: ClosingEvent) -> (ClosingState, ClosingAction) {
    use ClosingAction::{Abort, EndStream, Nothing, SendClose};
    use ClosingEvent::{ClientClose, Flushed, Lost, OwnClose, Violation, ViolationDue};
    use ClosingState::{CloseSent, Failing, Flushing, Open, Over};
    match (state, event) {
        (Open, OwnClose(close)) => {
            let action = SendClose(Some(close.code), close.reason.clone());
            (CloseSent(close), action)
        }
        (Open, ClientClose(close)) => {
            let code = Some(close.code).filter(|&code| code != NO_CODE);
            (Flushing(close), SendClose(code, String::new()))
        }
        (Open, Violation(violation)) => (Failing(violation), Nothing),

        // An own close comes second here: the client gets the code of its violation.
        (Failing(violation), OwnClose(_) | ViolationDue) => {
            let close = Close { code: violation.code, reason: violation.rule.to_owned() };
            (Flushing(close), SendClose(Some(violation.code), String::new()))
        }

        // After our close the client's may only answer it; a violation ends the connection without another frame.
        (CloseSent(close), ClientClose(_) | Violation(_)) => (Flushing(close), Nothing),

        (Flushing(close), Flushed) => (Over(close), EndStream),

        (Open | Failing(_), Lost(cause)) => (Over(Close { code: ABNORMAL, reason: cause }), Abort),
        (CloseSent(close) | Flushing(close), Lost(_)) => (Over(close), Abort),

        // Nothing is parsed in these states, so frames of the client play no part.
        (state @ (Failing(_) | Flushing(_) | Over(_)), ClientClose(_) | Violation(_)) => (state, Nothing),
        // The first close counts.
        (state @ (CloseSent(_) | Flushing(_) | Over(_)), OwnClose(_)) => (state, Nothing),
        (state @ (Open | CloseSent(_) | Flushing(_) | Over(_)), ViolationDue) => (state, Nothing),
        // The queue may be empty at any time.
        (state @ (Open | Failing(_) | CloseSent(_) | Over(_)), Flushed) => (state, Nothing),
        (state @ Over(_), Lost(_)) => (state, Nothing),
    }
}

#[cfg(test)]
mod tests;
