//! Settings of WebSockets, and those that one connection may have for itself.

use std::time::Duration;

use crate::websocket::extension::Compression;

/// Settings of WebSockets. A duration of `None` means no limit.
#[derive(Clone, Debug)]
pub struct WebSocketSettings {
    /// Bytes of the longest message that is received.
    pub message_bytes: usize,
    /// Bytes that may wait to be sent. Then senders wait.
    pub queue_bytes: usize,
    /// Silence of the client after which it is pinged.
    pub ping_interval: Option<Duration>,
    /// Time for an answer to the ping. A client that still acknowledges earlier bytes gets more.
    pub ping_timeout: Option<Duration>,
    /// Time for the closing handshake.
    pub close_timeout: Option<Duration>,
    /// Longest pause in which the client acknowledges no byte while senders wait.
    pub send_timeout: Option<Duration>,
    /// Bytes a second that the client must acknowledge in the long run while senders wait; 0 for no such rule.
    pub min_send_rate: u32,
    /// The origins that browsers may come from; `None` for all.
    pub origins: Option<Vec<String>>,
    /// The compression with clients that offer it.
    pub compression: Compression,
}

/// Settings of one connection: those of the server, unless `accept` was given others.
#[derive(Clone, Copy, Debug)]
pub struct AcceptOptions {
    /// Bytes of the longest message that is received.
    pub message_bytes: usize,
    /// Silence of the client after which it is pinged; `None` for no pings.
    pub ping_interval: Option<Duration>,
    /// The compression if the client offers it.
    pub compression: Compression,
}

impl AcceptOptions {
    /// The server's settings.
    pub fn of(settings: &WebSocketSettings) -> AcceptOptions {
        AcceptOptions {
            message_bytes: settings.message_bytes,
            ping_interval: settings.ping_interval,
            compression: settings.compression,
        }
    }
}
