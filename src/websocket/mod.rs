//! The WebSocket protocol (RFC 6455) without input or output: a handshake judged, bytes in, messages and answers out.
//!
//! | module        | what                                                              | clauses                  |
//! |---------------|-------------------------------------------------------------------|--------------------------|
//! | [`handshake`] | which requests become WebSockets, and the head of the 101 answer  | RFC 6455 4.2             |
//! | [`protocol`]  | frames and messages of an open connection, and its closing        | RFC 6455 5, 6, 7, 8      |
//!
//! Headers of frames and codes of closes are tungstenite's; the assembly of messages is not, since it has to be checked
//! while it arrives: limits before anything is kept, UTF-8 in the middle of a frame. Nothing here knows Python or
//! sockets, and no byte of a peer leads to a panic or to more memory than the limit on messages allows.

pub mod handshake;
pub mod protocol;
