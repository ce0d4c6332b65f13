//! Clocks of a connection: the next ping, the patience with slow clients, and the time limits of a closing.

use std::time::{Duration, Instant};

use super::super::settings::WebSocketSettings;
use super::{Wire, WireTime};
use crate::event_loop::streams;

impl Wire {
    /// Reads and sends what is ready. On the loop.
    pub fn look(&mut self, moment: WireTime<'_>) {
        self.wants_attention |= self.catch_up(moment);
        let awaits_ping = self.options.ping_interval.is_some() && !self.awaits_deadline;
        if awaits_ping || !self.closing().is_open() || self.is_stopping() {
            self.schedule();
        }
    }

    /// Reads and sends what is ready. Returns true if there is more to read after the turns of others.
    pub(super) fn catch_up(&mut self, moment: WireTime<'_>) -> bool {
        self.flush();
        let has_more = self.read(moment);
        self.flush();
        if !self.closing().is_open() && self.close_deadline.is_none() {
            self.set_close_deadline();
        }
        has_more
    }

    /// Acts on the stream's deadline, which has passed. On the loop.
    pub fn expire(&mut self, moment: WireTime<'_>) {
        let now = moment.now;
        self.awaits_deadline = false;
        if self.closing().is_over() {
            return;
        }
        if !self.closing().is_open() {
            if self.fail_now() {
                self.set_close_deadline();
            } else if self.close_deadline.is_some_and(|deadline| deadline <= now) {
                self.lose_after(
                    "it did not end the closing handshake within websocket_close_timeout",
                    self.settings.close_timeout,
                );
            }
        } else if self.stop_deadline.is_some_and(|deadline| deadline <= now) {
            self.close_for_stop();
        } else if self.next_ping().is_some_and(|at| at <= now) {
            self.keep_alive(moment);
        }
        self.schedule();
    }

    /// Gives the closing handshake its time, from now on.
    pub fn set_close_deadline(&mut self) {
        self.close_deadline = self.settings.close_timeout.map(|timeout| Instant::now() + timeout);
    }

    /// Sets the stream's deadline. On the loop.
    fn schedule(&mut self) {
        let deadline = if self.closing().is_over() {
            None
        } else if !self.closing().is_open() {
            self.close_deadline
        } else {
            self.next_ping().into_iter().chain(self.stop_deadline).min()
        };
        // Bytes of the client only move the next ping to a later time. The deadline stays, and is set anew when it passes.
        self.awaits_deadline = deadline.is_some();
        streams::set_deadline(self.stream.source(), deadline);
    }

    /// Starts the clock of a waiting sender. Returns the time until it checks the client's pace; none: for ever.
    pub fn next_pace_check(&mut self) -> Option<Duration> {
        if self.waited_for.is_none() {
            self.waited_for = Some((Instant::now(), self.acknowledged()));
        }
        self.pace.next_look()
    }

    /// Notes the bytes that the client has acknowledged since the last check, and gives it up if they are too few.
    pub fn check_pace(&mut self) {
        let Some((since, before)) = self.waited_for else { return };
        let (now, acknowledged) = (Instant::now(), self.acknowledged());
        self.pace.note(now - since, u64::try_from(acknowledged - before).unwrap_or(0));
        self.waited_for = Some((now, acknowledged.max(before)));
        if self.pace.is_over() {
            let WebSocketSettings { send_timeout, min_send_rate, .. } = &*self.settings;
            let seconds = send_timeout.unwrap_or_default().as_secs_f64();
            self.lose(&format!(
                "it acknowledged nothing for send_timeout ({seconds} s), or less than min_send_rate ({min_send_rate} \
                 bytes/s) in the long run"
            ));
        }
    }

    /// Gives the connection up because the client took longer than a setting allows.
    pub(super) fn lose_after(&mut self, cause: &str, limit: Option<Duration>) {
        self.lose(&format!("{cause} ({} s)", limit.unwrap_or_default().as_secs_f64()));
    }

    /// The position up to which the client has acknowledged. A Unix socket counts its memory, so there it is lower; TLS
    /// may hold up to one more piece. Only its growth counts.
    pub(super) fn acknowledged(&self) -> i64 {
        self.sent_bytes.cast_signed() - i64::from(self.stream.unacknowledged_bytes())
    }

    /// The position of the byte that is queued next.
    pub(super) fn end_of_queue(&self) -> i64 {
        (self.sent_bytes + self.backlog() as u64).cast_signed()
    }
}
