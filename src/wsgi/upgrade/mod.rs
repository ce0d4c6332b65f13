//! Connections that become WebSockets (RFC 6455).
//!
//! The protocol is [`crate::websocket`]'s. Here it meets a socket ([`wire`]), those who wait for it ([`session`]) and the
//! application ([`websocket`]); [`client_socket`] is for libraries that speak the protocol themselves.

mod client_socket;
mod session;
mod websocket;
mod wire;

pub use client_socket::ClientSocket;
pub use websocket::{ConnectionClosed, WebSocket, WebSocketError};
pub use wire::SessionSettings;
