//! Settings of WebSockets, and those that one connection may have for itself.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::websocket::extension::Compression;
use crate::websocket::origins::Origins;

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
    pub origins: Option<Origins>,
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

    /// These options with an interval of this connection's own: between half of the given one and all of it. Clients
    /// that came together, or spoke together, are then not pinged together.
    #[must_use]
    pub fn with_own_interval(self) -> AcceptOptions {
        // Each state has other keys, at the cost of an addition.
        let random = u32::try_from(RandomState::new().hash_one(()) >> 32).unwrap_or(0);
        let part = 0.5 + f64::from(random) / f64::from(u32::MAX) / 2.0;
        AcceptOptions { ping_interval: self.ping_interval.map(|interval| interval.mul_f64(part)), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_of_connections_lie_between_half_of_the_setting_and_all_of_it() {
        let options = AcceptOptions {
            message_bytes: 1,
            ping_interval: Some(Duration::from_secs(20)),
            compression: Compression::default(),
        };
        let mut seconds: Vec<f64> = (0..1000)
            .filter_map(|_| options.with_own_interval().ping_interval)
            .map(|interval| interval.as_secs_f64())
            .collect();
        seconds.sort_by(f64::total_cmp);
        assert!(10.0 <= seconds[0] && seconds[0] < 10.5, "{}", seconds[0]);
        assert!((14.0..16.0).contains(&seconds[500]), "{}", seconds[500]);
        assert!(19.5 < seconds[999] && seconds[999] <= 20.0, "{}", seconds[999]);
    }
}
