//! From the socket to the messages that wait for the application, one turn at a time.

use super::{BUFFER, Drain, READ_BYTES, UNREAD_BYTES, WaitingMessage, Wire, WireTime};
use crate::event_loop::{streams, turn};

/// Frames and bytes that are taken from one client before others have their turn. A client that sends as fast as it is
/// read would otherwise be the only one.
const TURN_FRAMES: usize = 128;
const TURN_BYTES: usize = 64 * 1024;

/// Bytes that a client may have sent before it sees our close: as much as the buffers of two kernels hold. The message
/// that it has to end first comes on top.
const CROSSING_BYTES: usize = 16 * 1024 * 1024;

impl Wire {
    /// Whether the server stops.
    pub(super) fn is_stopping(&self) -> bool {
        self.drain != Drain::Not
    }

    /// Resumes reading if it was paused and there is room, or if the stream has more by now. Returns whether it does;
    /// the poller would not report it.
    pub fn resume(&mut self) -> bool {
        let resumes = self.closing().is_reading() && self.has_room() && (self.is_paused || self.stream.has_more());
        self.is_paused &= !resumes;
        resumes
    }

    /// Whether the client may send more. A client that pings and does not read has to wait too.
    fn has_room(&self) -> bool {
        let queue = self.settings.queue_bytes;
        let (unread, unsent) =
            if self.is_paused { (UNREAD_BYTES / 2, queue) } else { (UNREAD_BYTES, queue.saturating_add(READ_BYTES)) };
        self.incoming_bytes < unread && self.backlog() <= unsent
    }

    /// Reads until nothing is left for now, too much is unread or unsent, or others must have their turn. Returns true
    /// in the last case.
    pub(super) fn read(&mut self, moment: WireTime<'_>) -> bool {
        BUFFER.with(|kept| {
            let mut buffer = kept.take();
            buffer.clear();
            buffer.reserve(READ_BYTES);
            let has_more = self.read_into(moment, &mut buffer);
            kept.set(buffer);
            has_more
        })
    }

    fn read_into(&mut self, moment: WireTime<'_>, buffer: &mut Vec<u8>) -> bool {
        let (mut frames, mut bytes) = (TURN_FRAMES, TURN_BYTES);
        loop {
            if !self.closing().is_reading() {
                self.received = Vec::new();
                return false;
            }
            self.is_paused = !self.has_room();
            if self.is_paused {
                return false;
            }
            if self.received.is_empty() && self.drain == Drain::Left(0) {
                self.end_draining();
            }
            // The first piece is read without a look at the clock: mostly it is all there is.
            let is_begun = frames < TURN_FRAMES || bytes < TURN_BYTES;
            if frames == 0 || bytes == 0 || (is_begun && turn::is_spent()) {
                return true;
            }
            if !self.received.is_empty() {
                frames -= self.take_received(moment, frames);
                continue;
            }
            buffer.clear();
            match self.stream.take_now(buffer) {
                Ok(Some(0)) => self.lose("it closed the connection without a closing handshake"),
                Ok(Some(count)) => {
                    bytes = bytes.saturating_sub(count);
                    if !self.count_received(count) {
                        continue;
                    }
                    let mut rest = buffer.as_slice();
                    frames -= self.take(moment, &mut rest, frames);
                    if !rest.is_empty() {
                        (self.received, self.parsed) = (rest.to_vec(), 0);
                    }
                }
                // An enciphered stream has more to decipher.
                Ok(None) if self.stream.has_more() || streams::is_readable(self.stream.source()) => return true,
                Ok(None) => {}
                Err(error) => self.lose(&error.to_string()),
            }
            if self.received.is_empty() && !streams::is_readable(self.stream.source()) {
                self.end_draining();
                return false;
            }
        }
    }

    /// Counts bytes that have come. Returns false if the client goes on sending instead of answering our close.
    fn count_received(&mut self, count: usize) -> bool {
        if let Drain::Left(left) = &mut self.drain {
            *left = left.saturating_sub(count as u64);
        }
        if self.closing().close().is_some() {
            self.crossing_bytes += count;
            let limit = self.options.message_bytes.saturating_add(CROSSING_BYTES);
            if self.crossing_bytes > limit {
                self.lose(&format!("it sent over {limit} bytes after the close instead of answering it"));
                return false;
            }
        }
        true
    }

    /// Ends the draining of a stopping server: everything that had arrived has been read.
    fn end_draining(&mut self) {
        if matches!(self.drain, Drain::Left(_)) {
            self.drain = Drain::Done;
            self.end_stop();
        }
    }

    /// Takes at most `most` frames of the bytes that an earlier turn has left. Returns how many it took.
    fn take_received(&mut self, moment: WireTime<'_>, most: usize) -> usize {
        let received = std::mem::take(&mut self.received);
        let mut rest = received.get(self.parsed..).unwrap_or_default();
        let frames = self.take(moment, &mut rest, most);
        self.parsed = received.len() - rest.len();
        if !rest.is_empty() {
            self.received = received;
        }
        frames
    }

    /// Takes at most `most` frames off `input`. Returns how many it took.
    fn take(&mut self, moment: WireTime<'_>, input: &mut &[u8], most: usize) -> usize {
        self.note_heard(moment.now);
        let Wire { protocol, outgoing, incoming, incoming_bytes, receivers, drain, .. } = self;
        let received = protocol.receive_some(input, most, outgoing, |message| {
            if *drain == Drain::Done {
                return;
            }
            let message = WaitingMessage::of(moment.py, message);
            *incoming_bytes += message.cost();
            incoming.push_back(message);
            // A receiver that has given up at this moment leaves the message to the next one.
            while let Some(receiver) = receivers.pop_front()
                && !receiver.notify()
            {}
        });
        if let Err(violation) = received
            && self.incoming.is_empty()
            && !self.fail_now()
        {
            self.note = Some(format!("A WebSocket's client broke a rule after the close: {}", violation.rule));
        }
        self.settle_pings();
        self.notify_of_closing();
        received.unwrap_or(most)
    }
}
