//! Connections that become WebSockets (RFC 6455).
//!
//! The protocol is [`crate::websocket`]'s. Here it meets a socket ([`wire`]), those who wait for it ([`session`]) and the
//! application ([`websocket`]); [`client_socket`] is for libraries that speak the protocol themselves.

use pyo3::prelude::*;

use crate::event_loop::{self, Message};
use crate::interp;

mod client_socket;
mod session;
mod websocket;
mod wire;

pub use client_socket::ClientSocket;
pub use websocket::{ConnectionClosed, WebSocket, WebSocketError};
pub use wire::WebSocketSettings;

/// Runs `action` on the loop thread, now if that is where the caller is.
fn on_the_loop(py: Python<'_>, action: impl FnOnce() + Send + 'static) -> PyResult<()> {
    if event_loop::is_loop_thread() {
        action();
    } else {
        interp::ensure_started(py)?.send(Message::Control(Box::new(action)));
    }
    Ok(())
}
