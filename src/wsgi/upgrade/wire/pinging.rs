//! Pings: those that keep the connection alive, and those of the application.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Ping, UNREAD_BYTES, Wire, WireTime};
use crate::websocket::pings::Latency;
use crate::websocket::protocol;

impl Wire {
    /// When the client was last heard; at first, when the connection was accepted.
    pub fn last_heard(&self) -> Instant {
        self.last_heard
    }

    /// The time that the last answered ping took.
    pub fn latency(&self) -> Option<Duration> {
        self.latency
    }

    /// Notes that bytes of the client have come, and answers to pings among them.
    pub(super) fn note_heard(&mut self, now: Instant) {
        self.last_heard = now;
        // The ping may have been given more time than the next one has.
        self.awaits_deadline &= self.pinged.take().is_none();
    }

    /// Notes the answers to pings that have come.
    pub(super) fn settle_pings(&mut self) {
        if !self.protocol.pings.has_answers() {
            return;
        }
        self.latency = self.protocol.pings.settle(Instant::now()).or(self.latency);
        for pinger in self.pingers.drain(..) {
            pinger.notify();
        }
    }

    /// Queues a ping of the application; `latency` is set once the answer has come. Without a payload it gets one of its
    /// own. Returns false, without a ping, if the answer to one with the same payload is waited for.
    pub fn send_ping(&mut self, payload: Option<&[u8]>, latency: &Latency) -> bool {
        let own = self.protocol.pings.next_payload();
        let payload = payload.unwrap_or(&own);
        if self.protocol.pings.is_waited_for(payload) {
            return false;
        }
        self.put_ping(payload, Instant::now(), Arc::clone(latency));
        true
    }

    fn put_ping(&mut self, payload: &[u8], now: Instant, latency: Latency) {
        // First, since the answer may come at once.
        self.protocol.pings.add(payload, now, latency);
        self.put(|out| protocol::write_ping(out, payload));
    }

    /// The time of the next ping, or of giving up a client that did not answer the last one.
    pub(super) fn next_ping(&self) -> Option<Instant> {
        let interval = self.options.ping_interval?;
        match (&self.pinged, self.settings.ping_timeout) {
            (Some(ping), Some(timeout)) => Some(ping.at + timeout),
            (Some(ping), None) => Some(ping.at + interval),
            (None, _) => Some(self.last_heard + interval),
        }
    }

    /// Pings the client, or gives it up if it did not answer the last ping in time.
    pub(super) fn keep_alive(&mut self, moment: WireTime<'_>) {
        if self.pinged.is_some() && self.settings.ping_timeout.is_some() {
            return self.check_ping(moment);
        }
        let acknowledged = self.acknowledged();
        let has_queue = acknowledged < self.end_of_queue();
        let payload = self.protocol.pings.next_payload();
        self.put_ping(&payload, moment.now, Latency::default());
        let end = self.end_of_queue();
        // Behind an empty queue the kernel acknowledges the ping at once; that does not prove that the client is alive.
        self.pinged = Some(Ping { at: moment.now, end, acknowledged: if has_queue { acknowledged } else { end } });
    }

    /// Gives up a client that did not answer a ping in time, unless it cannot have answered yet.
    fn check_ping(&mut self, moment: WireTime<'_>) {
        // The answer may have come while something else kept the loop busy.
        let has_more = self.catch_up(moment);
        self.wants_attention |= has_more;
        if !self.closing().is_open() {
            return;
        }
        let acknowledged = self.acknowledged();
        let is_unread = has_more || self.incoming_bytes >= UNREAD_BYTES / 2;
        let Some(ping) = &mut self.pinged else { return };
        // The answer may wait behind what the application leaves unread; the ping, behind what a slow client still
        // takes.
        if is_unread || (ping.acknowledged < ping.end && ping.acknowledged < acknowledged) {
            (ping.at, ping.acknowledged) = (moment.now, acknowledged);
        } else {
            self.lose_after("it did not answer a ping within websocket_ping_timeout", self.settings.ping_timeout);
        }
    }
}
