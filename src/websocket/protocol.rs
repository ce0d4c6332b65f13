//! Frames and messages of a WebSocket (RFC 6455 5, 6, 8): bytes in, messages out, and the answers of the protocol
//! itself.
//!
//! A message is checked while it arrives. A broken rule or limit is refused at the first byte that shows it. Compressed
//! messages are inflated while they arrive, too, so a limit holds for their contents and nothing is kept twice.

mod writing;

use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::close_codes::{self, INVALID_DATA, MESSAGE_TOO_BIG, NO_CODE, PROTOCOL_ERROR};
use super::closing::{Close, Closing, ClosingAction, ClosingEvent, Violation};
use super::deflate::{InflateError, Inflating, SlidingWindow};
use super::extension::Agreement;
use super::frames::{HEADER_BYTES, write_close, write_control};

pub use super::frames::{CONTROL_BYTES, Message, MessageKind, write_compressed, write_message, write_ping};
use super::pings::Pings;
use super::short::{ReceivedMessage, Short};

/// Compressed bytes that are inflated at a time. They become at most 1 MiB.
const INFLATED_PIECE_BYTES: usize = 1024;

/// Inflated bytes after which [`Protocol::receive_some`] lets its caller look at the clock and at its limits.
const INFLATED_AT_ONCE_BYTES: usize = 256 * 1024;

/// Bytes of the longest reason of a close: a control frame without the code.
pub const REASON_BYTES: usize = CONTROL_BYTES - 2;

const fn protocol_error(rule: &'static str) -> Violation {
    Violation { code: PROTOCOL_ERROR, rule }
}

const NOT_UTF8: Violation = Violation { code: INVALID_DATA, rule: "text that is not UTF-8 (RFC 6455 8.1)" };
const CORRUPT: Violation =
    Violation { code: INVALID_DATA, rule: "compressed data that is not valid DEFLATE (RFC 7692 7.2.2)" };
const TOO_BIG: Violation = Violation { code: MESSAGE_TOO_BIG, rule: "a message over websocket_max_message_size" };

/// The server's side of a connection.
#[derive(Debug)]
pub struct Protocol {
    message_limit: u64,
    /// The part of a frame's header that has arrived.
    header: [u8; HEADER_BYTES],
    header_length: usize,
    frame: Option<Frame>,
    message: Option<Incomplete>,
    control: Vec<u8>,
    closing: Closing,
    /// Pings of ours that wait for answers.
    pub pings: Pings,
    /// The compression that the handshake has agreed on.
    deflate: Option<Box<Deflate>>,
    /// Bytes inflated by the running call.
    inflated: usize,
}

/// The compression of a connection.
#[derive(Debug)]
struct Deflate {
    agreement: Agreement,
    /// The last bytes of messages in both directions, where they are the context of the next.
    received: SlidingWindow,
    sent: SlidingWindow,
}

impl Deflate {
    fn received_context(&self) -> Option<&SlidingWindow> {
        self.agreement.received_takeover.then_some(&self.received)
    }
}

/// The frame that is arriving.
#[derive(Debug)]
struct Frame {
    control: Option<Control>,
    is_final: bool,
    /// Its payload is part of a compressed message.
    is_compressed: bool,
    /// Turned so that its first byte belongs to the next byte of the payload.
    mask: [u8; 4],
    left: u64,
}

/// The message that is arriving.
#[derive(Debug)]
struct Incomplete {
    kind: MessageKind,
    data: Vec<u8>,
    /// Bytes of `data` that are known to be UTF-8.
    checked: usize,
    /// The state of a compressed message.
    inflating: Option<Box<Inflating>>,
}

impl Protocol {
    /// A connection after its handshake. Messages may have `message_limit` bytes, compressed ones after they are
    /// inflated.
    pub fn new(message_limit: usize, agreement: Option<Agreement>) -> Protocol {
        Protocol {
            message_limit: message_limit as u64,
            header: [0; HEADER_BYTES],
            header_length: 0,
            frame: None,
            message: None,
            control: Vec::new(),
            closing: Closing::default(),
            deflate: agreement.map(|agreement| {
                Box::new(Deflate { agreement, received: SlidingWindow::default(), sent: SlidingWindow::default() })
            }),
            inflated: 0,
            pings: Pings::default(),
        }
    }

    /// The compression that the handshake has agreed on.
    pub fn agreement(&self) -> Option<Agreement> {
        self.deflate.as_ref().map(|deflate| deflate.agreement)
    }

    /// How far the connection has closed.
    pub fn closing(&self) -> &Closing {
        &self.closing
    }

    /// Applies an event of the closing. Queues a close frame on `out` if the table asks for one; the returned action is
    /// for the owner of the stream.
    pub fn apply(&mut self, event: ClosingEvent, out: &mut Vec<u8>) -> ClosingAction {
        let action = self.closing.apply(event);
        if let ClosingAction::SendClose(code, reason) = &action {
            write_close(out, *code, reason);
        }
        action
    }

    /// Reads all of `input`. Whole messages go to `deliver`, answers to `out`. Returns how many frames ended.
    ///
    /// # Errors
    /// The broken rule. The rest of `input` is not looked at; [`Self::closing`] has noted the violation.
    pub fn receive(
        &mut self,
        mut input: &[u8],
        out: &mut Vec<u8>,
        mut deliver: impl FnMut(Message),
    ) -> Result<usize, Violation> {
        let mut frames = 0;
        while !input.is_empty() && self.closing.is_reading() {
            frames += self.receive_some(&mut input, usize::MAX, out, |message| deliver(message.into()))?;
        }
        Ok(frames)
    }

    /// As [`Self::receive`], but stops after `most` frames, or earlier when much has been inflated. `input` keeps the
    /// bytes that are left.
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub fn receive_some(
        &mut self,
        input: &mut &[u8],
        most: usize,
        out: &mut Vec<u8>,
        mut deliver: impl FnMut(ReceivedMessage<'_>),
    ) -> Result<usize, Violation> {
        self.inflated = 0;
        let received = self.read_frames(input, most, out, &mut deliver);
        if let Err(violation) = received {
            self.message = None;
            self.apply(ClosingEvent::Violation(violation), out);
        }
        received
    }

    fn read_frames(
        &mut self,
        input: &mut &[u8],
        most: usize,
        out: &mut Vec<u8>,
        deliver: &mut impl FnMut(ReceivedMessage<'_>),
    ) -> Result<usize, Violation> {
        let mut frames = 0;
        while self.closing.is_reading() && frames < most && self.inflated < INFLATED_AT_ONCE_BYTES {
            let Some(mut frame) = self.frame.take() else {
                // This reads most messages, with a third of the work.
                if let Some(short) = self.take_short(input) {
                    let message = short.arrival().ok_or(NOT_UTF8)?;
                    frames += 1;
                    if self.closing.is_open() {
                        deliver(message);
                    }
                    continue;
                }
                if input.is_empty() || !self.begin_frame(input)? {
                    break;
                }
                continue;
            };
            let most = if frame.is_compressed { INFLATED_PIECE_BYTES } else { usize::MAX }.min(input.len());
            let count = usize::try_from(frame.left).map_or(most, |left| left.min(most));
            let (payload, rest) = input.split_at(count);
            *input = rest;
            frame.left -= count as u64;
            self.take_payload(&mut frame, payload)?;
            if frame.left > 0 {
                self.frame = Some(frame);
                if input.is_empty() {
                    break;
                }
                continue;
            }
            frames += 1;
            match frame.control {
                None if frame.is_final => self.end_message(deliver)?,
                None => {}
                Some(Control::Close) => self.take_close(out)?,
                Some(Control::Ping) if self.closing.is_open() => {
                    write_control(out, Control::Pong, &self.control);
                }
                Some(Control::Pong) => self.pings.receive(&self.control),
                Some(Control::Ping | Control::Reserved(_)) => {}
            }
        }
        Ok(frames)
    }

    /// Takes a short message off `input`, unless something else has begun.
    #[inline]
    fn take_short(&self, input: &mut &[u8]) -> Option<Short> {
        if self.message.is_some() || self.header_length > 0 {
            return None;
        }
        Short::take(input, self.message_limit)
    }

    /// Takes the header of a frame off `input`. Returns false if it is incomplete.
    fn begin_frame(&mut self, input: &mut &[u8]) -> Result<bool, Violation> {
        let header = if self.header_length == 0 {
            let mut cursor = Cursor::new(*input);
            let header = parse(&mut cursor)?;
            if header.is_some() {
                *input = input.get(usize::try_from(cursor.position()).unwrap_or(usize::MAX)..).unwrap_or_default();
            }
            header
        } else {
            None
        };
        let header = match header {
            Some(header) => Some(header),
            None => self.continue_header(input)?,
        };
        let Some((header, length)) = header else { return Ok(false) };
        self.frame = Some(self.check_header(&header, length)?);
        Ok(true)
    }

    /// Completes a header that arrives in pieces.
    fn continue_header(&mut self, input: &mut &[u8]) -> Result<Option<(FrameHeader, u64)>, Violation> {
        while let Some((&byte, rest)) = input.split_first() {
            let Some(slot) = self.header.get_mut(self.header_length) else { break };
            *slot = byte;
            self.header_length += 1;
            *input = rest;
            let known = self.header.get(..self.header_length).unwrap_or_default();
            if let Some(header) = parse(&mut Cursor::new(known))? {
                self.header_length = 0;
                return Ok(Some(header));
            }
        }
        Ok(None)
    }

    fn check_header(&mut self, header: &FrameHeader, length: u64) -> Result<Frame, Violation> {
        let may_be_compressed =
            self.deflate.is_some() && matches!(header.opcode, OpCode::Data(Data::Text | Data::Binary));
        if header.rsv2 || header.rsv3 || (header.rsv1 && !may_be_compressed) {
            return Err(protocol_error(if header.rsv1 && self.deflate.is_some() {
                "the bit of compression on a frame that does not begin a message (RFC 7692 6.1)"
            } else {
                "a reserved bit, without an extension (RFC 6455 5.2)"
            }));
        }
        let mask = header.mask.ok_or(protocol_error("a frame that is not masked (RFC 6455 5.1)"))?;
        let control = match header.opcode {
            OpCode::Control(control) => {
                if !header.is_final {
                    return Err(protocol_error("a control frame in fragments (RFC 6455 5.5)"));
                }
                if length > CONTROL_BYTES as u64 {
                    return Err(protocol_error("a control frame of over 125 bytes (RFC 6455 5.5)"));
                }
                self.control.clear();
                Some(control)
            }
            OpCode::Data(data) => {
                let begun = self.message.as_ref().map(|message| message.data.len() as u64);
                let begins = match (data, begun) {
                    (Data::Text, None) => Some(MessageKind::Text),
                    (Data::Binary, None) => Some(MessageKind::Binary),
                    (Data::Continue, Some(_)) => None,
                    (Data::Continue, None) => {
                        return Err(protocol_error("a continuation of no message (RFC 6455 5.4)"));
                    }
                    _ => return Err(protocol_error("a message within a message (RFC 6455 5.4)")),
                };
                if let Some(kind) = begins {
                    let context = self.deflate.as_ref().filter(|_| header.rsv1);
                    let inflating = context.map(|deflate| Box::new(Inflating::new(deflate.received_context())));
                    self.message = Some(Incomplete { kind, data: Vec::new(), checked: 0, inflating });
                }
                // The length of a compressed message shows only while it is inflated.
                let is_compressed = self.message.as_ref().is_some_and(|message| message.inflating.is_some());
                if !is_compressed && length > self.message_limit.saturating_sub(begun.unwrap_or(0)) {
                    return Err(TOO_BIG);
                }
                return Ok(Frame { control: None, is_final: header.is_final, is_compressed, mask, left: length });
            }
        };
        Ok(Frame { control, is_final: header.is_final, is_compressed: false, mask, left: length })
    }

    fn take_payload(&mut self, frame: &mut Frame, payload: &[u8]) -> Result<(), Violation> {
        if frame.control.is_some() {
            append_unmasked(&mut self.control, payload, &mut frame.mask);
            return Ok(());
        }
        let Some(message) = &mut self.message else { return Ok(()) };
        let taken = if let Some(inflating) = &mut message.inflating {
            let mut piece = Vec::with_capacity(payload.len());
            append_unmasked(&mut piece, payload, &mut frame.mask);
            let limit = usize::try_from(self.message_limit).unwrap_or(usize::MAX);
            let context = self.deflate.as_ref().and_then(|deflate| deflate.received_context());
            let inflated = inflating.inflate(&piece, &mut message.data, limit, context);
            inflated.map(|work| self.inflated += work).map_err(|error| match error {
                InflateError::TooBig => TOO_BIG,
                InflateError::Corrupt => CORRUPT,
            })
        } else {
            message.make_room(payload.len(), self.message_limit);
            append_unmasked(&mut message.data, payload, &mut frame.mask);
            Ok(())
        };
        // The end of the message checks all of its text. Text that came before a limit or a wrong byte is wrong first.
        let ends = frame.is_final && frame.left == 0 && taken.is_ok();
        match message.kind {
            MessageKind::Text if !ends => message.check().and(taken),
            MessageKind::Text | MessageKind::Binary => taken,
        }
    }

    fn end_message(&mut self, deliver: &mut impl FnMut(ReceivedMessage<'_>)) -> Result<(), Violation> {
        let Some(mut message) = self.message.take() else { return Ok(()) };
        if let Some(inflating) = message.inflating.take() {
            inflating.finish().map_err(|_| CORRUPT)?;
            if let Some(deflate) = &mut self.deflate
                && deflate.agreement.received_takeover
            {
                deflate.received.add(&message.data, deflate.agreement.received_bits);
            }
        }
        let whole = match message.kind {
            MessageKind::Text => Message::Text(String::from_utf8(message.data).map_err(|_| NOT_UTF8)?),
            MessageKind::Binary => Message::Binary(message.data),
        };
        if self.closing.is_open() {
            deliver(ReceivedMessage::Message(whole));
        }
        Ok(())
    }

    /// Reads a close frame (RFC 6455 5.5.1).
    fn take_close(&mut self, out: &mut Vec<u8>) -> Result<(), Violation> {
        let close = match self.control.as_slice() {
            [] => Close { code: NO_CODE, reason: String::new() },
            [_] => return Err(protocol_error("a close with half a code (RFC 6455 5.5.1)")),
            [high, low, reason @ ..] => {
                let code = u16::from_be_bytes([*high, *low]);
                if !close_codes::may_be_sent(code) {
                    return Err(protocol_error("a close with a code that is not to be sent (RFC 6455 7.4)"));
                }
                let reason = str::from_utf8(reason).map_err(|_| NOT_UTF8)?;
                Close { code, reason: reason.to_owned() }
            }
        };
        self.message = None;
        self.apply(ClosingEvent::ClientClose(close), out);
        Ok(())
    }
}

impl Incomplete {
    /// Makes room for `more` bytes. Capacity doubles, as in a vector, but stays within the limit.
    fn make_room(&mut self, more: usize, limit: u64) {
        let (length, capacity) = (self.data.len(), self.data.capacity());
        if capacity - length < more {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let wanted = capacity.saturating_mul(2).min(limit).max(length.saturating_add(more));
            self.data.reserve_exact(wanted - length);
        }
    }

    /// Checks the text that has come since the last check.
    fn check(&mut self) -> Result<(), Violation> {
        match str::from_utf8(self.data.get(self.checked..).unwrap_or_default()) {
            Ok(_) => self.checked = self.data.len(),
            Err(error) if error.error_len().is_some() => return Err(NOT_UTF8),
            // The rest of a character may still come.
            Err(error) => self.checked += error.valid_up_to(),
        }
        Ok(())
    }
}

/// Parses a frame's header, if it is complete.
fn parse(cursor: &mut Cursor<&[u8]>) -> Result<Option<(FrameHeader, u64)>, Violation> {
    let parsed = FrameHeader::parse(cursor).map_err(|_| protocol_error("an opcode that is reserved (RFC 6455 5.2)"))?;
    if let Some((header, length)) = &parsed
        && cursor.position() != header.len(*length) as u64
    {
        return Err(protocol_error("a length in more bytes than it needs (RFC 6455 5.2)"));
    }
    Ok(parsed)
}

/// Appends `payload` without its mask (RFC 6455 5.3), and turns the mask for the next bytes.
fn append_unmasked(to: &mut Vec<u8>, payload: &[u8], mask: &mut [u8; 4]) {
    let start = to.len();
    to.extend_from_slice(payload);
    let wide = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let (words, tail) = to.get_mut(start..).unwrap_or_default().as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in tail.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    mask.rotate_left(payload.len() % 4);
}

#[cfg(test)]
mod tests;
