//! One message to many WebSockets, without Python code for each one.
//!
//! The frame is encoded once and sent to one connection after the other. A message to very many takes longer than a
//! turn may last. Then the rest gets the frame into its queues before anything else runs, so messages of two senders
//! arrive in one order everywhere. Sending these queues is what gives way.

use std::sync::Arc;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};

use super::compressing::compress_in_turns;
use super::session::WebSocketSession;
use super::websocket::{WebSocket, bytes_of};
use super::wire::Offered;
use crate::event_loop::{self, turn};
use crate::interp;
use crate::websocket::close_codes::TRY_AGAIN_LATER;
use crate::websocket::protocol::MessageKind;
use crate::websocket::shared_frame::SharedFrame;

/// The reason in the close frame of a client that is too slow.
const TOO_SLOW: &str = "too slow";

/// Members between two looks at the clock of the turn: some tens of microseconds of system calls.
const LOOK_EVERY: usize = 16;

/// One WebSocket that a message is for; without a session it is not accepted.
pub(super) struct Recipient {
    pub session: Option<Arc<WebSocketSession>>,
    pub websocket: Py<WebSocket>,
}

impl Recipient {
    pub fn of(websocket: &Bound<'_, WebSocket>) -> Recipient {
        Recipient { session: websocket.get().accepted_session().cloned(), websocket: websocket.clone().unbind() }
    }
}

impl Clone for Recipient {
    fn clone(&self) -> Recipient {
        Python::attach(|py| Recipient { session: self.session.clone(), websocket: self.websocket.clone_ref(py) })
    }
}

/// The treatment of a member whose queue is full.
enum Slow<'py> {
    Close,
    Skip,
    Call(Bound<'py, PyAny>),
}

/// Send `message`, a str as text, or bytes or another buffer as binary, to each of `websockets`, an iterable. Does not
/// wait for a slow client. From any coroutine or thread.
///
/// The message is encoded and compressed once, and no Python code runs for a member. Every member has it in its queue
/// before anything else runs, so the messages of several senders arrive in one order.
///
/// `slow` is for members for whom `websocket_max_queue_size` bytes or more wait already. "close" (the default) closes
/// these with 1013, and "skip" leaves out this message. A callable is called with each such member, once all others
/// have the message.
///
/// Returns a list of the members that did not get the message: those that are slow, closed, or not accepted yet. A
/// WebSocket that is not accepted yet stays so, because its request may still be answered in another way.
///
/// Raises TypeError for other messages and for members that are no WebSockets, and ValueError for another `slow`;
/// nothing is sent then. An exception of the callable is raised once all slow members have been seen.
#[pyfunction]
#[pyo3(signature = (websockets, message, slow = None), text_signature = "(websockets, message, slow='close')")]
pub fn broadcast<'py>(
    websockets: &Bound<'py, PyAny>,
    message: &Bound<'py, PyAny>,
    slow: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyList>> {
    let recipients = websockets
        .try_iter()?
        .map(|one| {
            let one = one?;
            let websocket = one.cast::<WebSocket>().map_err(|_| not_a_websocket(&one))?;
            Ok(Recipient::of(websocket))
        })
        .collect::<PyResult<Vec<Recipient>>>()?;
    send_to_all(&recipients, message, slow)
}

/// TypeError for a member that is none.
pub(super) fn not_a_websocket(found: &Bound<'_, PyAny>) -> PyErr {
    let name = found.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string());
    PyTypeError::new_err(format!("websockets must be rmeinheld.websocket.WebSocket objects, not {name}"))
}

/// Sends `message` to all `recipients`. See [`broadcast`].
///
/// # Parks
pub(super) fn send_to_all<'py>(
    recipients: &[Recipient],
    message: &Bound<'py, PyAny>,
    slow: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyList>> {
    let py = message.py();
    let slow = slow_of(slow)?;
    let frame = if let Ok(text) = message.cast::<PyString>() {
        frame_for(py, MessageKind::Text, text.to_str()?.as_bytes(), recipients)?
    } else {
        frame_for(py, MessageKind::Binary, bytes_of(message)?.as_bytes(), recipients)?
    };
    let Outcome { unsettled, skipped } = if event_loop::is_loop_thread() {
        offer_to_all(Some(py), recipients, &frame)
    } else {
        // Others run meanwhile.
        py.detach(|| offer_to_all(None, recipients, &frame))
    };
    for number in unsettled {
        if let Some(session) = recipients.get(number).and_then(|recipient| recipient.session.as_ref()) {
            // The messages are queued, so an interruption has to wait.
            interp::give_way_quietly(py);
            session.attend(py)?;
        }
    }
    let list = PyList::empty(py);
    let mut failure = None;
    if let Some(first) = recipients.first() {
        first.websocket.get().count_sent(recipients.len() - skipped.len());
    }
    for (number, offered) in skipped {
        let Some(Recipient { session, websocket }) = recipients.get(number) else { continue };
        list.append(websocket)?;
        let (Offered::Slow, Some(session)) = (offered, session) else { continue };
        match &slow {
            Slow::Skip => {}
            Slow::Close => session.close(py, TRY_AGAIN_LATER, TOO_SLOW)?,
            Slow::Call(handler) => failure = failure.or(handler.call1((websocket,)).err()),
        }
    }
    failure.map_or(Ok(list), Err)
}

/// Encodes a message, and compresses it once for each window that a recipient has agreed on.
///
/// # Parks
fn frame_for(py: Python<'_>, kind: MessageKind, payload: &[u8], recipients: &[Recipient]) -> PyResult<SharedFrame> {
    let mut frame = SharedFrame::new(kind, payload);
    for session in recipients.iter().filter_map(|recipient| recipient.session.as_ref()) {
        if let Some(bits) = frame.missing_window(session.agreement(), payload) {
            frame.add(bits, compress_in_turns(py, payload, bits)?);
        }
    }
    Ok(frame)
}

/// Members by their number.
struct Outcome {
    /// Those with more to be done.
    unsettled: Vec<usize>,
    /// Those that did not get the frame.
    skipped: Vec<(usize, Offered)>,
}

/// Offers the frame to all. From the end of the turn on, it is only queued.
fn offer_to_all(py: Option<Python<'_>>, recipients: &[Recipient], frame: &SharedFrame) -> Outcome {
    let mut outcome = Outcome { unsettled: Vec::new(), skipped: Vec::new() };
    let mut sends = true;
    for (number, recipient) in recipients.iter().enumerate() {
        let (offered, is_unsettled) = match &recipient.session {
            Some(session) => {
                sends = sends && (py.is_none() || !number.is_multiple_of(LOOK_EVERY) || !turn::is_spent());
                session.offer(py, frame, sends)
            }
            None => (Offered::Closed, false),
        };
        if is_unsettled {
            outcome.unsettled.push(number);
        }
        if matches!(offered, Offered::Slow | Offered::Closed) {
            outcome.skipped.push((number, offered));
        }
    }
    outcome
}

fn slow_of<'py>(slow: Option<&Bound<'py, PyAny>>) -> PyResult<Slow<'py>> {
    let Some(slow) = slow else { return Ok(Slow::Close) };
    match slow.cast::<PyString>().ok().map(|word| word.to_str()).transpose()? {
        Some("close") => Ok(Slow::Close),
        Some("skip") => Ok(Slow::Skip),
        None if slow.is_callable() => Ok(Slow::Call(slow.clone())),
        _ => {
            Err(PyValueError::new_err(format!("slow must be \"close\", \"skip\" or a callable, not {}", slow.repr()?)))
        }
    }
}
