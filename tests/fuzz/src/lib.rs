//! Fuzz targets for `rmeinheld::http`, `rmeinheld::websocket` and the messages of `rmeinheld::crew`: each module's `run`
//! takes arbitrary bytes and panics where a promise is broken.
//!
//! The binaries in `fuzz_targets` hand them to libFuzzer; `make fuzz` builds and runs them. Accepted input is compared
//! with [`reference`], a second and much plainer reading of the RFCs. Input in pieces is compared with the same input
//! as a whole. [`input`] reads the first bytes, which choose limits and pieces.

pub mod chunked;
pub mod closing;
pub mod connection;
pub mod crew;
pub mod deflate;
pub mod exchange;
pub mod forwarded;
pub mod framing;
pub mod handshake;
pub mod head;
pub mod input;
pub mod proxy_protocol;
pub mod reference;
pub mod repeated;
pub mod response;
pub mod websocket;

#[path = "../../receiver/mod.rs"]
pub mod receiver;

/// The statuses that a request can be refused with before a byte of its body is read.
pub const HEAD_STATUSES: [u16; 6] = [400, 414, 417, 431, 501, 505];

/// Bytes as text for messages.
pub fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
