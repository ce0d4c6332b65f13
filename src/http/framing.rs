//! The framing of a request body: RFC 9112 section 6.3, in the order of the RFC.
//!
//! Two servers that disagree about where a request ends let an attacker hide a second request in the first one
//! (RFC 9112 11.2). Everything that the RFC lets a recipient repair is therefore refused. A Content-Length must not be
//! repeated, even with equal values, nor stand next to a Transfer-Encoding. A Transfer-Encoding must not be in
//! HTTP/1.0, nor have an empty member. Refusing the empty member deviates from RFC 9110 5.6.1.2, which ignores it.
//! Recipients disagree about `,chunked`, and no client sends it.
//!
//! [`response`](super::response) decides the lengths of responses, [`chunked`](super::chunked) decodes the chunked
//! coding, and the caller limits the size of the body.

use super::error::RequestError;
use super::{Version, is_token, trim};

/// The framing of a request body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyFraming {
    /// No body follows.
    #[default]
    None,
    /// A body of this many bytes follows; may be 0.
    Length(u64),
    /// Chunks follow (RFC 9112 7.1).
    Chunked,
}

impl BodyFraming {
    /// Does the head promise at least one byte of body, or a coding that may carry one?
    pub fn has_content(&self) -> bool {
        !matches!(self, Self::None | Self::Length(0))
    }
}

/// Decides the framing of a request body.
///
/// `content_lengths` and `transfer_encodings` are the values of all field lines of these names, in their order and
/// without white space around them.
///
/// # Errors
///
/// * [`RequestError::BadRequest`]: both fields, several Content-Length lines or values, or a Content-Length that is not
///   1*DIGIT below 2^64. The same for a Transfer-Encoding in HTTP/1.0, one with an empty member, and one in which
///   `chunked` is not the last coding exactly once.
/// * [`RequestError::NotImplemented`]: a coding before `chunked` (RFC 9112 6.1).
pub fn request_body<'a>(
    version: Version,
    mut content_lengths: impl Iterator<Item = &'a [u8]>,
    transfer_encodings: impl Iterator<Item = &'a [u8]>,
) -> Result<BodyFraming, RequestError> {
    let content_length = content_lengths.next();
    let mut transfer_encodings = transfer_encodings.peekable();

    // 1. and 2. speak of responses (to HEAD and CONNECT, and 1xx, 204, 304).

    // 3. Both a Transfer-Encoding and a Content-Length: "ought to be handled as an error".
    if transfer_encodings.peek().is_some() {
        if content_length.is_some() {
            return Err(RequestError::BadRequest("Content-Length together with Transfer-Encoding (RFC 9112 6.3)"));
        }
        // 6.1: a Transfer-Encoding in HTTP/1.0 means faulty framing, even if a Content-Length is absent.
        if version == Version::Http10 {
            return Err(RequestError::BadRequest("Transfer-Encoding in HTTP/1.0 (RFC 9112 6.1)"));
        }
        // 4. A Transfer-Encoding: the body is chunked if that is the final coding, else 400.
        return check_codings(transfer_encodings).map(|()| BodyFraming::Chunked);
    }

    // 7. Neither: the length is zero.
    let Some(value) = content_length else {
        return Ok(BodyFraming::None);
    };

    // 5. An invalid Content-Length is unrecoverable. (A list of equal values may be accepted by the RFC; not here.)
    if content_lengths.next().is_some() {
        return Err(RequestError::BadRequest("more than one Content-Length (RFC 9112 6.3)"));
    }
    // 6. A valid Content-Length is the length. (8. speaks of responses.)
    parse_content_length(value)
        .map(BodyFraming::Length)
        .ok_or(RequestError::BadRequest("Content-Length is not one number (RFC 9110 8.6)"))
}

/// The value of a Content-Length: 1*DIGIT that fits 64 bits, nothing else (RFC 9110 8.6).
pub(super) fn parse_content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0u64, |length, &byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        length.checked_mul(10)?.checked_add(digit)
    })
}

/// Is `chunked` the last coding and the only one? The names of codings have no letter case (RFC 9112 7).
///
/// Unlike [`list_members`](super::list_members), this refuses an empty member.
fn check_codings<'a>(values: impl Iterator<Item = &'a [u8]>) -> Result<(), RequestError> {
    let mut chunked_seen = false;
    let mut other_seen = false;
    for coding in values.flat_map(|value| value.split(|&byte| byte == b',').map(trim)) {
        if coding.is_empty() {
            return Err(RequestError::BadRequest(
                "an empty member in Transfer-Encoding (RFC 9112 6.1, RFC 9110 5.6.1)",
            ));
        }
        if chunked_seen {
            return Err(RequestError::BadRequest("chunked is not the last transfer coding (RFC 9112 6.1)"));
        }
        if coding.eq_ignore_ascii_case(b"chunked") {
            chunked_seen = true;
        } else {
            let name = coding.split(|&byte| byte == b';').next().unwrap_or_default();
            if !is_token(trim(name)) {
                return Err(RequestError::BadRequest("invalid transfer coding (RFC 9112 6.1)"));
            }
            other_seen = true;
        }
    }
    match (chunked_seen, other_seen) {
        (false, _) => Err(RequestError::BadRequest("Transfer-Encoding does not end in chunked (RFC 9112 6.3)")),
        (true, true) => Err(RequestError::NotImplemented("a transfer coding other than chunked (RFC 9112 6.1)")),
        (true, false) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framing(version: Version, lengths: &[&[u8]], codings: &[&[u8]]) -> Result<BodyFraming, u16> {
        request_body(version, lengths.iter().copied(), codings.iter().copied()).map_err(|error| error.status())
    }

    #[test]
    fn without_either_field_there_is_no_body() {
        assert_eq!(framing(Version::Http11, &[], &[]), Ok(BodyFraming::None));
        assert_eq!(framing(Version::Http10, &[], &[]), Ok(BodyFraming::None));
        assert!(!BodyFraming::None.has_content());
    }

    #[test]
    fn a_content_length_is_digits_that_fit_64_bits() {
        for (value, length) in [(&b"0"[..], 0), (b"5", 5), (b"007", 7), (b"18446744073709551615", u64::MAX)] {
            assert_eq!(framing(Version::Http11, &[value], &[]), Ok(BodyFraming::Length(length)));
            assert_eq!(framing(Version::Http10, &[value], &[]), Ok(BodyFraming::Length(length)));
        }
        let long_zeros = [b'0'; 400];
        assert_eq!(framing(Version::Http11, &[&long_zeros], &[]), Ok(BodyFraming::Length(0)));
    }

    #[test]
    #[rustfmt::skip] // tables
    fn anything_else_is_no_content_length() {
        let refused: [&[u8]; 22] = [
            b"", b"+1", b"-1", b"-0", b"0_1", b"1_0", b"0x10", b"0 1", b"3 1", b"5,5", b"5, 5", b"5,", b",5", b"1.0",
            b"1e3", b"a", b"\x0b5", b"5\xa0", b"\xb2", b"18446744073709551616", b"18446744073709551617", b" 5",
        ];
        for value in refused {
            assert_eq!(framing(Version::Http11, &[value], &[]), Err(400), "{value:?}");
        }
        assert_eq!(framing(Version::Http11, &[&[b'9'; 400]], &[]), Err(400));
    }

    #[test]
    fn two_content_length_lines_are_refused_even_when_they_agree() {
        assert_eq!(framing(Version::Http11, &[b"5", b"5"], &[]), Err(400));
        assert_eq!(framing(Version::Http11, &[b"5", b"6"], &[]), Err(400));
        assert_eq!(framing(Version::Http11, &[b"5", b""], &[]), Err(400));
    }

    #[test]
    fn content_length_together_with_transfer_encoding_is_refused() {
        assert_eq!(framing(Version::Http11, &[b"5"], &[b"chunked"]), Err(400));
        assert_eq!(framing(Version::Http11, &[b"0"], &[b""]), Err(400));
        assert_eq!(framing(Version::Http11, &[b"bad"], &[b"gzip, chunked"]), Err(400));
    }

    #[test]
    fn transfer_encoding_in_http_1_0_is_refused() {
        assert_eq!(framing(Version::Http10, &[], &[b"chunked"]), Err(400));
        assert_eq!(framing(Version::Http10, &[], &[b"identity"]), Err(400));
    }

    // Meinheld 1.0.2 compared the bytes exactly, so other letter cases were not seen (its #111).
    #[test]
    fn chunked_is_recognised_in_any_letter_case() {
        for value in [&b"chunked"[..], b"Chunked", b"CHUNKED", b"chUNKed", b" \tchunked"] {
            assert_eq!(framing(Version::Http11, &[], &[value]), Ok(BodyFraming::Chunked), "{value:?}");
        }
    }

    // RFC 9110 5.6.1.2 ignores them, but recipients disagree.
    #[test]
    fn empty_members_are_refused() {
        for values in [
            &[&b",chunked"[..]][..],
            &[b"chunked,"],
            &[b"chunked ,\t,"],
            &[b" , chunked"],
            &[b"", b"chunked"],
            &[b"chunked", b""],
            &[b"chunked", b" , "],
            &[b"gzip,,chunked"],
        ] {
            assert_eq!(framing(Version::Http11, &[], values), Err(400), "{values:?}");
        }
    }

    #[test]
    fn chunked_must_come_last_and_once() {
        for values in [
            &[&b"chunked, chunked"[..]][..],
            &[b"chunked", b"chunked"],
            &[b"chunked, gzip"],
            &[b"chunked", b"identity"],
            &[b"chunked", b"xchunked"],
            &[b"gzip, chunked, chunked"],
            &[b"identity"],
            &[b"xchunked"],
            &[b"gzip"],
            &[b"chunked;q=1"],
            &[b"\"chunked\""],
            &[b"chunked\0"],
            &[b""],
            &[b","],
        ] {
            assert_eq!(framing(Version::Http11, &[], values), Err(400), "{values:?}");
        }
    }

    // Gunicorn #3364: such bytes were stripped as if they were white space.
    #[test]
    fn other_white_space_is_not_stripped_from_a_coding() {
        for byte in [0x0B, 0x0C, 0x1C, 0x1D, 0x1E, 0x1F, 0x85, 0xA0] {
            let mut value = vec![byte];
            value.extend_from_slice(b"chunked");
            assert_eq!(framing(Version::Http11, &[], &[&value]), Err(400), "{byte:#04x}");
            value.extend_from_slice(b", chunked");
            assert_eq!(framing(Version::Http11, &[], &[&value]), Err(400), "{byte:#04x}");
        }
    }

    #[test]
    fn another_coding_before_chunked_is_not_implemented() {
        for values in
            [&[&b"gzip, chunked"[..]][..], &[b"gzip", b"chunked"], &[b"identity", b"chunked"], &[b"a;b=c,chunked"]]
        {
            assert_eq!(framing(Version::Http11, &[], values), Err(501), "{values:?}");
        }
    }
}
