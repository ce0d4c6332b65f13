//! Messages that wait for the application.

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::websocket::protocol::Message;
use crate::websocket::short::ReceivedMessage;
use crate::wsgi::text::ascii;

/// The cost of a message in addition to its bytes, so that empty ones count too.
const MESSAGE_BYTES: usize = 64;

/// A message that waits for the application.
pub enum WaitingMessage {
    /// A short message, as the application gets it, and its size. It needs no memory but that of the object, which is
    /// not much more than the message: its text is ASCII.
    Object(Py<PyAny>, usize),
    /// Any other message.
    Message(Message),
}

impl WaitingMessage {
    /// The message that has arrived.
    #[inline]
    pub fn of(py: Python<'_>, arrival: ReceivedMessage<'_>) -> WaitingMessage {
        match arrival {
            ReceivedMessage::Ascii(text) => match ascii(py, text) {
                Ok(object) => WaitingMessage::Object(object.into_any().unbind(), text.as_bytes().len()),
                // Out of memory. There may be more of it later.
                Err(_) => WaitingMessage::Message(arrival.into()),
            },
            ReceivedMessage::Bytes(data) => {
                WaitingMessage::Object(PyBytes::new(py, data).into_any().unbind(), data.len())
            }
            ReceivedMessage::Message(message) => WaitingMessage::Message(message),
        }
    }

    /// The bytes that the message counts as.
    pub fn cost(&self) -> usize {
        let size = match self {
            WaitingMessage::Object(_, size) => *size,
            WaitingMessage::Message(message) => message.size(),
        };
        size + MESSAGE_BYTES
    }
}
