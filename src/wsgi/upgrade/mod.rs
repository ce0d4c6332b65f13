//! Connections that leave HTTP for another protocol.
//!
//! [`crate::websocket`] has the WebSocket protocol (RFC 6455). Here it meets a socket ([`wire`]), the coroutines and
//! threads that wait ([`session`]) and the application ([`websocket`]). Libraries that speak a protocol themselves take
//! the connection over ([`client_socket`], [`taken_over`]). One message goes to many WebSockets by [`broadcasting`] and
//! [`members`].

use pyo3::prelude::*;

use crate::event_loop::{self, LoopMessage};
use crate::interp;

mod broadcasting;
mod client_socket;
mod compressing;
mod members;
mod session;
mod settings;
mod taken_over;
mod websocket;
mod wire;

pub use broadcasting::broadcast;
pub use client_socket::ClientSocket;
pub use members::Members;
pub use settings::WebSocketSettings;
pub use websocket::{ConnectionClosed, WebSocket, WebSocketError};

/// Runs `action` on the loop thread: now if the caller is there, otherwise as soon as the loop takes it.
///
/// # Errors
/// RuntimeError when the loop has ended.
fn on_the_loop(py: Python<'_>, action: impl FnOnce() + Send + 'static) -> PyResult<()> {
    if event_loop::is_loop_thread() {
        action();
    } else {
        interp::ensure_started(py)?.send(LoopMessage::Control(Box::new(action)));
    }
    Ok(())
}
