//! The closing of a WebSocket, with the events of both sides in any order. One byte chooses each step, another its
//! details.
//!
//! [`Protocol`] is compared with a plain model: the facts of the connection, from which every answer is derived.

use _rmeinheld::websocket::closing::{Close, ClosingAction, ClosingEvent, Violation};
use _rmeinheld::websocket::protocol::{Message, Protocol};

use crate::input::Input;
use crate::shown;
use crate::websocket::write_frame;

const MESSAGE_LIMIT: usize = 100;
const MASK: [u8; 4] = [1, 2, 3, 4];

/// Close codes of both sides.
const CODES: [u16; 4] = [1000, 1001, 3000, 4999];

/// Frames that break a rule: a reserved bit, no mask, text that is not UTF-8, a message over the limit, half a close code.
const BROKEN: [(&[u8], u16); 5] = [
    (b"\xc1\x80\0\0\0\0", 1002),
    (b"\x81\x01a", 1002),
    (b"\x81\x81\0\0\0\0\xff", 1007),
    (b"\x82\xe5\0\0\0\0", 1009),
    (b"\x88\x81\0\0\0\0\x03", 1002),
];

pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let mut protocol = Protocol::new(MESSAGE_LIMIT, None);
    let mut facts = Facts::default();
    let (mut sent, mut messages) = (Vec::new(), Vec::new());
    while !input.0.is_empty() {
        let (step, detail) = (input.byte(), input.byte());
        let code = CODES[usize::from(detail) % CODES.len()];
        let mut event = None;
        match step % 8 {
            0 => {
                let close = Close { code, reason: "own".to_owned() };
                facts.close(close.clone());
                event = Some(ClosingEvent::OwnClose(close));
            }
            1 => {
                facts.violation_is_due();
                event = Some(ClosingEvent::ViolationDue);
            }
            2 => {
                facts.flush();
                event = Some(ClosingEvent::Flushed);
            }
            3 => {
                facts.lose();
                event = Some(ClosingEvent::Lost("lost".to_owned()));
            }
            kind => {
                let frame = client_frame(kind, detail, code);
                let heard = facts.hear(kind, detail, code);
                let received = protocol.receive(&frame, &mut sent, |message| messages.push(message));
                assert_eq!(received.map_err(|violation| violation.code), heard, "{}", shown(&frame));
            }
        }
        if let Some(event) = event {
            let action = protocol.apply(event, &mut sent);
            facts.check_action(&action);
        }
        facts.check(&protocol);
        assert_eq!(shown(&sent), shown(&facts.sent));
        assert_eq!(messages, facts.messages);
    }
}

/// A close, a frame that breaks a rule, a text or a ping.
fn client_frame(kind: u8, detail: u8, code: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    let mut write =
        |first, payload: &[u8]| write_frame(&mut frame, first, 0, payload.len() as u64, Some(MASK), payload);
    match kind {
        4 if detail >= 128 => write(0x88, b""),
        4 => write(0x88, &[&code.to_be_bytes()[..], b"client"].concat()),
        5 => return BROKEN[usize::from(detail) % BROKEN.len()].0.to_vec(),
        6 => write(0x81, &[b'a' + detail % 26]),
        _ => write(0x89, &[detail]),
    }
    frame
}

/// Everything that has happened, in the order of its first occurrence.
#[derive(Default)]
struct Facts {
    own_close: Option<Close>,
    client_close: Option<Close>,
    broken_code: Option<u16>,
    client_knows_violation: bool,
    is_lost: bool,
    is_flushed: bool,
    /// The code that the application sees.
    first_code: Option<u16>,
    sent: Vec<u8>,
    messages: Vec<Message>,
    /// The demand of the last event on the stream.
    action: Option<ClosingAction>,
}

impl Facts {
    fn is_over(&self) -> bool {
        self.is_lost || self.is_flushed
    }

    fn is_reading(&self) -> bool {
        !self.is_over() && self.client_close.is_none() && self.broken_code.is_none()
    }

    fn is_open(&self) -> bool {
        self.is_reading() && self.own_close.is_none()
    }

    /// The client broke a rule before any close, and the server has not answered yet.
    fn is_failing(&self) -> bool {
        let is_first = self.own_close.is_none() && !self.client_knows_violation && !self.is_over();
        self.broken_code.is_some() && is_first
    }

    fn is_flushing(&self) -> bool {
        !self.is_over() && !self.is_reading() && !self.is_failing()
    }

    fn close(&mut self, close: Close) {
        if self.is_failing() {
            return self.violation_is_due();
        }
        self.action = Some(ClosingAction::Nothing);
        if self.is_open() {
            self.action = Some(ClosingAction::SendClose(Some(close.code), close.reason.clone()));
            self.say_close(&[&close.code.to_be_bytes()[..], close.reason.as_bytes()].concat());
            self.first_code = Some(close.code);
            self.own_close = Some(close);
        }
    }

    fn violation_is_due(&mut self) {
        self.action = Some(ClosingAction::Nothing);
        if self.is_failing() {
            self.first_code = self.broken_code;
            self.client_knows_violation = true;
            let code = self.broken_code.expect("a rule was broken");
            self.say_close(&code.to_be_bytes());
            self.action = Some(ClosingAction::SendClose(Some(code), String::new()));
        }
    }

    fn flush(&mut self) {
        let is_end = self.is_flushing();
        self.action = Some(if is_end { ClosingAction::EndStream } else { ClosingAction::Nothing });
        self.is_flushed |= is_end;
    }

    fn lose(&mut self) {
        self.action = Some(if self.is_over() { ClosingAction::Nothing } else { ClosingAction::Abort });
        if !self.is_over() {
            self.first_code = self.first_code.or(Some(1006));
            self.is_lost = true;
        }
    }

    /// The client sends a frame. Returns how many frames are looked at, or the code of the broken rule.
    fn hear(&mut self, kind: u8, detail: u8, code: u16) -> Result<usize, u16> {
        if !self.is_reading() {
            return Ok(0);
        }
        let was_open = self.is_open();
        match kind {
            4 => {
                let (code, payload) = if detail >= 128 { (1005, vec![]) } else { (code, code.to_be_bytes().to_vec()) };
                let reason = if payload.is_empty() { "" } else { "client" };
                self.client_close = Some(Close { code, reason: reason.to_owned() });
                if was_open {
                    self.first_code = Some(code);
                    self.say_close(&payload);
                }
            }
            5 => {
                let code = BROKEN[usize::from(detail) % BROKEN.len()].1;
                self.broken_code = Some(code);
                return Err(code);
            }
            6 if was_open => self.messages.push(Message::Text(char::from(b'a' + detail % 26).into())),
            7 if was_open => self.sent.extend([0x8A, 1, detail]),
            _ => {}
        }
        Ok(1)
    }

    fn say_close(&mut self, payload: &[u8]) {
        self.sent.extend([0x88, payload.len() as u8]);
        self.sent.extend(payload);
    }

    fn check_action(&mut self, action: &ClosingAction) {
        assert_eq!(Some(action), self.action.take().as_ref());
    }

    fn check(&self, protocol: &Protocol) {
        let closing = protocol.closing();
        assert_eq!(closing.is_open(), self.is_open());
        assert_eq!(closing.is_reading(), self.is_reading());
        assert_eq!(closing.is_flushing(), self.is_flushing());
        assert_eq!(closing.is_over(), self.is_over());
        assert_eq!(closing.close().map(|close| close.code), self.first_code);
        let violation: Option<Violation> = closing.violation();
        assert_eq!(violation.map(|violation| violation.code), self.broken_code.filter(|_| self.is_failing()));
        // With the first close comes its reason.
        if let Some(close) =
            self.own_close.as_ref().or(self.client_close.as_ref()).filter(|_| self.broken_code.is_none())
        {
            assert_eq!(closing.close(), Some(close));
        }
    }
}
