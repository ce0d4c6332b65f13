//! Repairs of a request head before it is parsed. Settings ask for each repair; by default the fault is refused.
//!
//! Each repair leaves the number of bytes unchanged, so that positions and limits stay valid. The repaired head goes
//! through the same parser as every other head.
//!
//! A proxy that reads the same bytes differently sees other requests than this server (request smuggling, RFC 9112
//! 11.2). Fields that frame a message or name its host are therefore never repaired: 400, as without repairs.

use std::iter;

use memchr::{memchr, memchr_iter};

use super::error::{Checked, RequestError, require};
use super::trim;

/// The fields that are accepted as sent or refused.
const NEVER_REPAIRED: [&[u8]; 3] = [b"content-length", b"transfer-encoding", b"host"];

/// Bytes of a conventional method; the range includes all registered methods.
const CONVENTIONAL_BYTES: std::ops::RangeInclusive<usize> = 3..=20;

const FRAMING_FIELD: RequestError =
    RequestError::BadRequest("a folded line or space before the colon of a framing field or Host (RFC 9112 5)");
const NOTHING_TO_FOLD: RequestError =
    RequestError::BadRequest("a folded line without a field before it (RFC 9112 5.2)");
const EMPTY_FOLD: RequestError = RequestError::BadRequest("a folded line of white space (RFC 9112 5.2)");

/// The repairs to make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leniency {
    /// Methods are put in capitals, although case matters in them (RFC 9110 9.1).
    pub capital_methods: bool,
    /// Versions from 2 on are read as 1.1, and those below 1 as 1.0; otherwise they are a 505 (RFC 9110 2.5).
    pub any_version: bool,
    /// Lines that begin with white space continue the field before them, after one space (RFC 9112 5.2).
    pub folded_lines: bool,
    /// Space between a field's name and the colon is moved behind the colon (RFC 9112 5.1).
    pub spaced_names: bool,
}

/// Whether a method has 3 to 20 bytes, and neither small letters nor `#`: Gunicorn's rule beyond RFC 9110 9.1.
pub fn is_conventional(method: &[u8]) -> bool {
    let is_odd = |byte: &u8| byte.is_ascii_lowercase() || *byte == b'#';
    CONVENTIONAL_BYTES.contains(&method.len()) && !method.iter().any(is_odd)
}

impl Leniency {
    /// Repairs a head from its request line to its empty line. Each line ends in CRLF.
    ///
    /// # Errors
    ///
    /// [`RequestError::BadRequest`] for a fault that must not be repaired. Other faults are left to the parser.
    pub(super) fn apply(&self, head: &mut [u8]) -> Checked {
        let line_bytes = memchr(b'\n', head).map_or(0, |line_feed| line_feed + 1);
        let Some((request_line, mut rest)) = head.split_at_mut_checked(line_bytes) else { return Ok(()) };
        self.repair_request_line(request_line);
        while let Some((field, others)) = rest.split_at_mut_checked(self.field_bytes(rest))
            && !field.is_empty()
        {
            self.repair_field(field)?;
            rest = others;
        }
        Ok(())
    }

    fn repair_request_line(&self, line: &mut [u8]) {
        if self.capital_methods {
            line.iter_mut().take_while(|byte| **byte != b' ').for_each(|byte| byte.make_ascii_uppercase());
        }
        if self.any_version
            && let [.., b' ', b'H', b'T', b'T', b'P', b'/', major, b'.', minor, b'\r', b'\n'] = line
            && major.is_ascii_digit()
            && minor.is_ascii_digit()
            && *major != b'1'
        {
            (*major, *minor) = (b'1', if *major == b'0' { b'0' } else { b'1' });
        }
    }

    /// The bytes of the first field line, with those that continue it.
    fn field_bytes(&self, lines: &[u8]) -> usize {
        let is_continued = |next: usize| self.folded_lines && matches!(lines.get(next), Some(b' ' | b'\t'));
        let mut ends = memchr_iter(b'\n', lines).map(|line_feed| line_feed + 1);
        ends.find(|&end| !is_continued(end)).unwrap_or(lines.len())
    }

    fn repair_field(&self, field: &mut [u8]) -> Checked {
        let line_bytes = memchr(b'\n', field).map_or(0, |line_feed| line_feed + 1);
        let is_folded = line_bytes < field.len();
        let named = field.get(..line_bytes).and_then(|line| line.get(..memchr(b':', line)?)).unwrap_or_default();
        let name = trim(named);
        let (colon, name_bytes) = (named.len(), name.len());
        // White space before a name makes it invalid. Without a name there is nothing to repair.
        let is_name = !name.is_empty() && named.starts_with(name);
        let is_spaced = self.spaced_names && is_name && name_bytes < colon;
        if is_folded || is_spaced {
            require(is_name, NOTHING_TO_FOLD)?;
            require(!NEVER_REPAIRED.iter().any(|known| name.eq_ignore_ascii_case(known)), FRAMING_FIELD)?;
        }
        if is_folded {
            unfold(field)?;
        }
        if is_spaced && let Some([first, spaces @ ..]) = field.get_mut(name_bytes..=colon) {
            *first = b':';
            spaces.fill(b' ');
        }
        Ok(())
    }
}

/// Joins the lines of a field, each after one space. Spaces before the CRLF make up for the removed bytes.
fn unfold(field: &mut [u8]) -> Checked {
    let Some((text, _)) = field.split_last_chunk::<2>() else { return Ok(()) };
    let lines = text.split(|&byte| byte == b'\n').map(|line| trim(line.strip_suffix(b"\r").unwrap_or(line)));
    let lines: Vec<&[u8]> = lines.collect();
    // Some recipients take such a line for the end of the head.
    require(!lines.iter().any(|line| line.is_empty()), EMPTY_FOLD)?;
    let (text_bytes, joined) = (text.len(), lines.join(&b' '));
    for (slot, byte) in field.iter_mut().take(text_bytes).zip(joined.into_iter().chain(iter::repeat(b' '))) {
        *slot = byte;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Leniency = Leniency { capital_methods: true, any_version: true, folded_lines: true, spaced_names: true };
    const FOLDING: Leniency =
        Leniency { capital_methods: false, any_version: false, folded_lines: true, spaced_names: false };
    const SPACING: Leniency =
        Leniency { capital_methods: false, any_version: false, folded_lines: false, spaced_names: true };

    /// The fields as they are left, without the white space around them, or `None` if they are refused.
    fn fields(repairs: Leniency, sent: &str) -> Option<String> {
        let mut head = format!("GET / HTTP/1.1\r\n{sent}\r\n").into_bytes();
        let bytes = head.len();
        repairs.apply(&mut head).ok()?;
        assert_eq!(head.len(), bytes);
        let text = String::from_utf8(head).unwrap();
        let lines = text.strip_prefix("GET / HTTP/1.1\r\n").and_then(|text| text.strip_suffix("\r\n")).unwrap();
        Some(
            lines
                .split_inclusive("\r\n")
                .map(|line| line.trim_end_matches([' ', '\r', '\n']))
                .collect::<Vec<_>>()
                .join("|"),
        )
    }

    fn request_line(repairs: Leniency, sent: &str) -> String {
        let mut head = format!("{sent}\r\n\r\n").into_bytes();
        repairs.apply(&mut head).unwrap();
        String::from_utf8(head).unwrap().trim_end().to_owned()
    }

    #[test]
    #[rustfmt::skip] // tables
    fn folded_lines_are_joined_with_one_space() {
        for (sent, left) in [
            ("X: a\r\n b\r\n", "X: a b"),
            ("X: a \t\r\n \t b\t\r\n\tc\r\nY: d\r\n", "X: a b c|Y: d"),
            ("X:\r\n a\r\n", "X: a"),
            ("X: a\r\n b: c\r\n", "X: a b: c"),
            ("X: a\r\nY: b\r\n", "X: a|Y: b"),
            ("X : a\r\n b\r\n", "X : a b"),
            // Left for the parser to refuse.
            (" X: a\r\n", " X: a"),
            ("X\r\nY: a\r\n", "X|Y: a"),
            ("X: a\r\n b\rc\r\n", "X: a b\rc"),
        ] {
            assert_eq!(fields(FOLDING, sent).as_deref(), Some(left), "{sent:?}");
        }
        assert_eq!(fields(SPACING, "X: a\r\n b\r\n").as_deref(), Some("X: a| b"));
    }

    #[test]
    #[rustfmt::skip] // tables
    fn folds_that_others_may_read_otherwise_are_refused() {
        for sent in [
            "Content-Length:\r\n 5\r\n", "content-LENGTH: 5\r\n 6\r\n", "Transfer-Encoding:\r\n chunked\r\n",
            "Transfer-Encoding : x\r\n\tchunked\r\n", "Host: a\r\n b\r\n", "X: a\r\n \r\n", "X: a\r\n\t \t\r\n b\r\n",
            "X\r\n : a\r\n", " X: a\r\n b\r\n", ": a\r\n b\r\n", "X\r\n b\r\n",
        ] {
            assert_eq!(fields(FOLDING, sent), None, "{sent:?}");
            assert_eq!(fields(ALL, sent), None, "{sent:?}");
        }
    }

    #[test]
    #[rustfmt::skip] // tables
    fn space_before_the_colon_goes_behind_it() {
        for (sent, left) in [
            ("X : a\r\n", "X:  a"),
            ("X \t :a\r\nY: b : c\r\n", "X:   a|Y: b : c"),
            ("X :\r\n", "X:"),
            // Left for the parser to refuse.
            (" X : a\r\n", " X : a"),
            (" : a\r\n", " : a"),
            ("X y : a\r\n", "X y:  a"),
            ("X y\r\n", "X y"),
            ("Content-Length\x0b: 5\r\n", "Content-Length\x0b: 5"),
        ] {
            match sent.as_bytes() {
                [b' ', ..] => assert_eq!(fields(SPACING, sent), Some(left.to_owned()), "{sent:?}"),
                _ => assert_eq!(fields(SPACING, sent).as_deref(), Some(left), "{sent:?}"),
            }
        }
        for sent in ["Content-Length : 5\r\n", "transfer-encoding\t: chunked\r\n", "HOST : a\r\n"] {
            assert_eq!(fields(SPACING, sent), None, "{sent:?}");
        }
        assert_eq!(fields(FOLDING, "Content-Length : 5\r\n").as_deref(), Some("Content-Length : 5"));
        assert_eq!(fields(ALL, "X : a\r\n b\r\nY\t: c\r\n").as_deref(), Some("X:  a b|Y:  c"));
    }

    #[test]
    #[rustfmt::skip] // tables
    fn request_lines_are_put_right() {
        for (sent, left) in [
            ("get /a HTTP/1.1", "GET /a HTTP/1.1"),
            ("-bl\u{e4}h /a http/1.1", "-BL\u{e4}H /a http/1.1"),
            ("GET /a HTTP/2.0", "GET /a HTTP/1.1"),
            ("GET /a HTTP/0.9", "GET /a HTTP/1.0"),
            ("GET /a HTTP/9.7", "GET /a HTTP/1.1"),
            ("GET /a HTTP/1.0", "GET /a HTTP/1.0"),
            ("GET /a HTTP/1.3", "GET /a HTTP/1.3"),
            ("GET /a HTTP/22.0", "GET /a HTTP/22.0"),
            ("GET /a HTTP/2", "GET /a HTTP/2"),
            ("GET /a XHTTP/2.0", "GET /a XHTTP/2.0"),
            ("", ""),
        ] {
            assert_eq!(request_line(ALL, sent), left, "{sent:?}");
            assert_eq!(request_line(FOLDING, sent), sent);
        }
    }

    #[test]
    fn conventional_methods_are_gunicorns() {
        for method in ["GET", "VERSION-CONTROL", "A.B_C$1", &"A".repeat(20)] {
            assert!(is_conventional(method.as_bytes()), "{method}");
        }
        for method in ["", "GE", "get", "GEt", "GE#", &"A".repeat(21)] {
            assert!(!is_conventional(method.as_bytes()), "{method}");
        }
    }
}
