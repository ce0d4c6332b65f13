//! The WebSocket protocol (RFC 6455) without input or output: bytes in, messages and answers out.
//!
//! | module          | contents                                                          | clauses                  |
//! |-----------------|-------------------------------------------------------------------|--------------------------|
//! | [`handshake`]   | which requests become WebSockets, and the head of the 101 answer  | RFC 6455 4.2             |
//! | [`extension`]   | offers of compression, and the agreement on one                   | RFC 7692 5, 7.1          |
//! | [`protocol`]    | frames and messages of an open connection                         | RFC 6455 5, 6, 8         |
//! | [`short`]       | short messages, read without memory of their own                  | RFC 6455 5, 6            |
//! | [`frames`]      | the frames that the server writes                                 | RFC 6455 5.2             |
//! | [`deflate`]     | messages compressed and inflated                                  | RFC 7692 7.2             |
//! | [`closing`]     | how far a connection has closed, and why: one transition table    | RFC 6455 7               |
//! | [`shared_frame`] | a message for many connections, encoded once                     | RFC 6455 5, 6            |
//! | [`close_codes`] | the codes of close frames                                         | RFC 6455 7.4             |
//! | [`pings`]       | pings of ours and their answers                                   | RFC 6455 5.5.2, 5.5.3    |
//! | [`origins`]     | the pages that may connect                                        | RFC 6455 10.2            |
//!
//! tungstenite parses and writes the headers of frames; flate2 with zlib-rs compresses. Messages are assembled here, because they are checked while
//! they arrive: limits before anything is kept, UTF-8 in the middle of a frame. Nothing here knows Python or sockets.
//! No byte of a peer leads to a panic, or to more memory than the limit on messages allows.

pub mod close_codes;
pub mod closing;
pub mod deflate;
pub mod extension;
pub mod frames;
pub mod handshake;
pub mod origins;
pub mod pings;
pub mod protocol;
pub mod shared_frame;
pub mod short;
