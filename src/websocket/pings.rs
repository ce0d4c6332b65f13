//! Pings of ours and their answers (RFC 6455 5.5.2, 5.5.3). Without a clock: the owner of the connection has one.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Pings that are remembered although nothing waits for their answers. A client that answers none would otherwise cost
/// more and more memory.
const KEPT: usize = 16;

/// The time from a ping to its answer, once that has come.
pub type Latency = Arc<OnceLock<Duration>>;

/// The pings of one connection.
#[derive(Debug, Default)]
pub struct Pings {
    sent: VecDeque<SentPing>,
    /// The first pings of `sent` that are answered.
    answered: usize,
    last_number: u32,
}

#[derive(Debug)]
struct SentPing {
    payload: Box<[u8]>,
    at: Instant,
    latency: Latency,
}

impl SentPing {
    fn is_waited_for(&self) -> bool {
        Arc::strong_count(&self.latency) > 1
    }
}

impl Pings {
    /// A payload that no other ping of this kind on the connection has.
    pub fn next_payload(&mut self) -> [u8; 4] {
        self.last_number = self.last_number.wrapping_add(1);
        self.last_number.to_be_bytes()
    }

    /// Whether the answer to a ping with this payload is waited for.
    pub fn is_waited_for(&self, payload: &[u8]) -> bool {
        self.sent.iter().any(|ping| *ping.payload == *payload && ping.is_waited_for())
    }

    /// Notes a ping that was queued at `at`.
    pub fn add(&mut self, payload: &[u8], at: Instant, latency: Latency) {
        if self.sent.len() >= KEPT
            && let Some(oldest) = self.sent.iter().skip(self.answered).position(|ping| !ping.is_waited_for())
        {
            self.sent.remove(self.answered + oldest);
        }
        self.sent.push_back(SentPing { payload: payload.into(), at, latency });
    }

    /// Takes a pong. It answers the first ping with its payload, and those before it: a client may answer the latest
    /// ping alone (RFC 6455 5.5.3). Pongs also come unasked for.
    pub fn receive(&mut self, payload: &[u8]) {
        let unanswered = self.sent.iter().skip(self.answered);
        if let Some(position) = unanswered.map(|ping| &*ping.payload).position(|sent| sent == payload) {
            self.answered += position + 1;
        }
    }

    /// Notes `now` as the time of the answers received since the last call. Returns the latency of the latest ping
    /// among those answered.
    pub fn settle(&mut self, now: Instant) -> Option<Duration> {
        let mut latest = None;
        for ping in self.sent.drain(..std::mem::take(&mut self.answered)) {
            let latency = now.saturating_duration_since(ping.at);
            // Set once: a ping is answered once.
            let _ = ping.latency.set(latency);
            latest = Some(latency);
        }
        if self.sent.is_empty() && latest.is_some() {
            // Most connections are idle. The next ping is seconds away.
            self.sent = VecDeque::new();
        }
        latest
    }

    /// Whether answers have come since the last call of [`Self::settle`].
    pub fn has_answers(&self) -> bool {
        self.answered > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_pong_answers_its_ping_and_those_before() {
        let (mut pings, start) = (Pings::default(), Instant::now());
        let latencies: Vec<Latency> = (0..3).map(|_| Latency::default()).collect();
        for (number, latency) in (0u8..).zip(&latencies) {
            pings.add(&[number], start + MS * u32::from(number), Arc::clone(latency));
        }
        pings.receive(b"unasked for");
        assert!(!pings.has_answers());
        pings.receive(&[1]);
        assert_eq!(pings.settle(start + MS * 11), Some(MS * 10));
        let known: Vec<Option<Duration>> = latencies.iter().map(|latency| latency.get().copied()).collect();
        assert_eq!(known, [Some(MS * 11), Some(MS * 10), None]);
        // A second answer to a ping counts for nothing.
        pings.receive(&[1]);
        assert_eq!(pings.settle(start + MS * 12), None);
        pings.receive(&[2]);
        assert_eq!(pings.settle(start + MS * 12), Some(MS * 10));
    }

    #[test]
    fn equal_payloads_are_answered_in_their_order() {
        let (mut pings, start) = (Pings::default(), Instant::now());
        pings.add(b"same", start, Latency::default());
        pings.add(b"same", start + MS, Latency::default());
        pings.receive(b"same");
        assert_eq!(pings.settle(start + MS * 5), Some(MS * 5));
        pings.receive(b"same");
        assert_eq!(pings.settle(start + MS * 5), Some(MS * 4));
    }

    #[test]
    fn pings_without_an_answer_are_forgotten_unless_one_waits() {
        let (mut pings, start) = (Pings::default(), Instant::now());
        let latency = Latency::default();
        pings.add(b"waits", start, Arc::clone(&latency));
        for _ in 0..1000 {
            let payload = pings.next_payload();
            pings.add(&payload, start, Latency::default());
        }
        assert_eq!(pings.sent.len(), KEPT);
        assert!(pings.is_waited_for(b"waits"));
        pings.receive(b"waits");
        pings.settle(start + MS);
        assert_eq!(latency.get(), Some(&MS));
    }

    #[test]
    fn an_answered_connection_keeps_no_memory() {
        let mut pings = Pings::default();
        let payload = pings.next_payload();
        pings.add(&payload, Instant::now(), Latency::default());
        pings.receive(&payload);
        pings.settle(Instant::now());
        assert_eq!(pings.sent.capacity(), 0);
    }
}
