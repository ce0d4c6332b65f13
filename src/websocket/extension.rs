//! The extension permessage-deflate (RFC 7692): offers of a client, and the agreement that the handshake makes.
//!
//! A client offers the extension once or several times, in the order of its preference. The first offer that the
//! server can keep is answered (RFC 7692 5.1). An offer with an unknown, repeated or invalid parameter is declined, and
//! the next one counts (RFC 7692 7.1).

use std::io::Write;

use crate::http::is_token;

const NAME: &[u8] = b"permessage-deflate";

/// The largest window of DEFLATE: 32 KiB (RFC 7692 7.1.2.1).
const MOST_BITS: u8 = 15;

/// The smallest window that a client may ask for: 256 bytes (RFC 7692 7.1.2.1).
const LEAST_BITS: u8 = 8;

/// The smallest window that zlib compresses for. It takes 8 for 9.
const LEAST_OWN_BITS: u8 = 9;

/// The window of a connection that keeps its context, where the client allows to choose: 4 KiB. `websockets` uses 4
/// KiB, too: most of the gain at an eighth of the memory.
const KEPT_BITS: u8 = 12;

/// The server's wish for the compression of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// No offer is accepted.
    #[default]
    Off,
    /// Each message is compressed for itself, so a connection keeps nothing between messages.
    On,
    /// A message may refer to those before it, so a connection keeps the last few KiB in both directions.
    Takeover,
}

impl Compression {
    /// The compression of a word: off, on or takeover.
    pub fn of(word: &str) -> Option<Compression> {
        match word {
            "off" => Some(Compression::Off),
            "on" => Some(Compression::On),
            "takeover" => Some(Compression::Takeover),
            _ => None,
        }
    }
}

/// An offer that the server can keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    /// The longest window for messages of the server.
    server_max_window_bits: Option<u8>,
    /// The longest window for messages of the client. The parameter may come without a value.
    client_max_window_bits: Option<u8>,
}

/// The extension as both sides use it. A window has `1 << bits` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Agreement {
    /// The window of messages of the server: 9 to 15.
    pub sent_bits: u8,
    /// Messages of the server may refer to earlier ones.
    pub sent_takeover: bool,
    /// The window of messages of the client: 8 to 15.
    pub received_bits: u8,
    /// Messages of the client may refer to earlier ones.
    pub received_takeover: bool,
    answers_sent_bits: bool,
    answers_received_bits: bool,
}

/// A field Sec-WebSocket-Extensions that breaks the grammar (RFC 6455 9.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl Offer {
    /// The first offer in the fields Sec-WebSocket-Extensions that the server can keep.
    ///
    /// # Errors
    /// [`Malformed`], for any extension (RFC 6455 9.1).
    pub fn of<'a>(fields: impl Iterator<Item = &'a [u8]>) -> Result<Option<Offer>, Malformed> {
        let mut first = None;
        for field in fields {
            let mut rest = Text(field);
            loop {
                rest.skip_spaces();
                // Empty members do not count (RFC 9110 5.6.1.2).
                if !rest.0.is_empty() && !rest.starts_with(b',') {
                    let offer = rest.take_extension()?;
                    first = first.or(offer);
                }
                if !rest.take(b',') {
                    break;
                }
            }
            if !rest.0.is_empty() {
                return Err(Malformed);
            }
        }
        Ok(first)
    }

    /// Adds a parameter. Returns false if it is unknown, repeated or invalid.
    fn add(&mut self, name: &[u8], value: Option<&[u8]>) -> bool {
        let flag = |known: &mut bool| value.is_none() && !std::mem::replace(known, true);
        match (name, value) {
            (b"server_no_context_takeover", _) => flag(&mut self.server_no_context_takeover),
            (b"client_no_context_takeover", _) => flag(&mut self.client_no_context_takeover),
            (b"server_max_window_bits", Some(value)) => {
                let bits = window_bits(value);
                bits.is_some() && self.server_max_window_bits.replace(bits.unwrap_or_default()).is_none()
            }
            (b"client_max_window_bits", value) => {
                let bits = value.map_or(Some(MOST_BITS), window_bits);
                bits.is_some() && self.client_max_window_bits.replace(bits.unwrap_or_default()).is_none()
            }
            _ => false,
        }
    }

    /// The agreement; none if compression is off.
    pub fn agree(&self, compression: Compression) -> Option<Agreement> {
        let (offered, longest) = (self.server_max_window_bits.unwrap_or(MOST_BITS), self.client_max_window_bits);
        match compression {
            Compression::Off => None,
            Compression::On => Some(Agreement {
                sent_bits: offered,
                sent_takeover: false,
                received_bits: MOST_BITS,
                received_takeover: false,
                answers_sent_bits: self.server_max_window_bits.is_some(),
                answers_received_bits: false,
            }),
            Compression::Takeover => {
                let received_takeover = !self.client_no_context_takeover;
                // A client that did not offer the parameter may not get it (RFC 7692 7.1.2.2).
                let restricts = received_takeover && longest.is_some();
                Some(Agreement {
                    sent_bits: if self.server_no_context_takeover { offered } else { offered.min(KEPT_BITS) },
                    sent_takeover: !self.server_no_context_takeover,
                    received_bits: longest.filter(|_| restricts).map_or(MOST_BITS, |bits| bits.min(KEPT_BITS)),
                    received_takeover,
                    answers_sent_bits: self.server_max_window_bits.is_some(),
                    answers_received_bits: restricts,
                })
            }
        }
    }
}

impl Agreement {
    /// The value of Sec-WebSocket-Extensions in the answer (RFC 7692 7.1).
    pub fn answer(&self) -> Vec<u8> {
        let mut out = NAME.to_vec();
        if !self.sent_takeover {
            out.extend_from_slice(b"; server_no_context_takeover");
        }
        if !self.received_takeover {
            out.extend_from_slice(b"; client_no_context_takeover");
        }
        // Writing to a vector does not fail.
        if self.answers_sent_bits {
            let _ = write!(out, "; server_max_window_bits={}", self.sent_bits);
        }
        if self.answers_received_bits {
            let _ = write!(out, "; client_max_window_bits={}", self.received_bits);
        }
        out
    }
}

/// A decimal from 8 to 15 without a leading zero (RFC 7692 7.1.2.1).
fn window_bits(value: &[u8]) -> Option<u8> {
    let bits = match value {
        [digit @ b'0'..=b'9'] => digit - b'0',
        [b'1', digit @ b'0'..=b'9'] => 10 + digit - b'0',
        _ => return None,
    };
    (LEAST_BITS..=MOST_BITS).contains(&bits).then_some(bits)
}

/// The rest of a field's value.
struct Text<'a>(&'a [u8]);

impl<'a> Text<'a> {
    fn starts_with(&self, byte: u8) -> bool {
        self.0.first() == Some(&byte)
    }

    fn skip_spaces(&mut self) {
        while let [b' ' | b'\t', rest @ ..] = self.0 {
            self.0 = rest;
        }
    }

    /// Takes `byte` and the spaces after it. Returns false, and takes nothing, if another one comes.
    fn take(&mut self, byte: u8) -> bool {
        let is_next = self.starts_with(byte);
        if is_next {
            self.0 = self.0.get(1..).unwrap_or_default();
            self.skip_spaces();
        }
        is_next
    }

    /// Takes a token and the spaces after it.
    fn take_token(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.0.iter().take_while(|&&byte| is_token(&[byte])).count();
        let (token, rest) = self.0.split_at(length);
        self.0 = rest;
        self.skip_spaces();
        if token.is_empty() { Err(Malformed) } else { Ok(token) }
    }

    /// Takes a quoted string, whose contents must be a token (RFC 6455 9.1). An empty result is none.
    fn take_quoted(&mut self) -> Result<Vec<u8>, Malformed> {
        let mut value = Vec::new();
        loop {
            let (&byte, rest) = self.0.split_first().ok_or(Malformed)?;
            self.0 = rest;
            match byte {
                b'"' => break,
                b'\\' => {
                    let (&escaped, rest) = self.0.split_first().ok_or(Malformed)?;
                    self.0 = rest;
                    value.push(escaped);
                }
                byte => value.push(byte),
            }
        }
        self.skip_spaces();
        if is_token(&value) { Ok(value) } else { Err(Malformed) }
    }

    /// Takes an extension with its parameters, up to a comma or the end. Returns its offer if it is one that the server
    /// can keep.
    fn take_extension(&mut self) -> Result<Option<Offer>, Malformed> {
        let mut is_fine = self.take_token()? == NAME;
        let mut offer = Offer::default();
        while self.take(b';') {
            let name = self.take_token()?;
            let quoted;
            let value = if !self.take(b'=') {
                None
            } else if self.starts_with(b'"') {
                self.0 = self.0.get(1..).unwrap_or_default();
                quoted = self.take_quoted()?;
                Some(quoted.as_slice())
            } else {
                Some(self.take_token()?)
            };
            is_fine = is_fine && offer.add(name, value);
        }
        // The server cannot keep a window of 256 bytes.
        is_fine = is_fine && offer.server_max_window_bits.is_none_or(|bits| bits >= LEAST_OWN_BITS);
        Ok(is_fine.then_some(offer))
    }
}

#[cfg(test)]
mod tests;
