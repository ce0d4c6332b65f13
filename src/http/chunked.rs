//! The chunked transfer coding of a request body (RFC 9112 7.1), as a state machine that takes pieces of any size.
//!
//! The decoder is strict, since a lenient reader and a strict proxy disagree about where the body ends. A size is
//! 1*HEXDIG that fits 64 bits, lines end in CRLF, and chunk extensions follow their grammar. Extensions and the trailer
//! section are bounded. Trailer fields are checked and dropped, which RFC 9110 6.5.1 permits for every field. Fields
//! that frame a message, name its host or change its connection are refused: a client that sends one tries to deceive a
//! proxy.
//!
//! The caller limits the size of the whole body. Chunk extensions have no meaning here.

use std::ops::Range;

use super::error::RequestError;
use super::{is_text_byte, is_token_byte};

/// Default of [`ChunkLimits::line_bytes`].
pub const DEFAULT_LINE_BYTES: usize = 4096;
/// Default of [`ChunkLimits::trailer_bytes`].
pub const DEFAULT_TRAILER_BYTES: usize = 8192;
/// Default of [`ChunkLimits::trailer_count`], the same as for fields of a head.
pub const DEFAULT_TRAILER_COUNT: usize = 128;

/// Bytes of chunk-size lines beyond the free ones of each chunk, over the whole body (Go's net/http has the same rule
/// and number). Extensions that cost more than the data they come with are an attack.
const EXCESS_BYTES: u64 = 16 * 1024;
/// Bytes of a chunk-size line that are free, in addition to twice the data of the chunk. One-byte chunks are permitted.
const FREE_LINE_BYTES: u64 = 16;

/// Trailer fields that are refused (RFC 9110 6.5.1): framing, routing and the connection. In lower case.
const FORBIDDEN_TRAILERS: [&[u8]; 5] = [b"connection", b"content-length", b"host", b"transfer-encoding", b"upgrade"];

/// The length of the longest name above. No more of a trailer's name is kept for comparison.
const KEPT_NAME_BYTES: usize = 17;

const BAD_SIZE: RequestError = RequestError::BadRequest("invalid chunk size (RFC 9112 7.1)");
const BAD_EXTENSION: RequestError = RequestError::BadRequest("invalid chunk extension (RFC 9112 7.1.1)");
const BAD_LINE_END: RequestError = RequestError::BadRequest("chunk line without CRLF (RFC 9112 7.1)");
const BAD_DATA_END: RequestError = RequestError::BadRequest("chunk data without CRLF (RFC 9112 7.1)");
const BAD_TRAILER: RequestError = RequestError::BadRequest("invalid trailer field (RFC 9112 7.1.2)");
const FAILED_BEFORE: RequestError = RequestError::BadRequest("chunked body already failed");

/// The limits of a chunked body in addition to its data. Values above `u32::MAX` count as `u32::MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkLimits {
    /// Bytes of a chunk-size line with its extensions, without CRLF. Default 4096; more is 400.
    pub line_bytes: usize,
    /// Bytes of the trailer section, with all its CRLF. Default 8192; more is 431.
    pub trailer_bytes: usize,
    /// Field lines of the trailer section. Default 128; more is 431.
    pub trailer_count: usize,
}

impl Default for ChunkLimits {
    fn default() -> Self {
        Self {
            line_bytes: DEFAULT_LINE_BYTES,
            trailer_bytes: DEFAULT_TRAILER_BYTES,
            trailer_count: DEFAULT_TRAILER_COUNT,
        }
    }
}

/// The outcome of one call of [`ChunkedDecoder::decode`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The bytes of the input that the caller may forget, `data` included.
    pub consumed: usize,
    /// The place of the body data in the input; may be empty.
    pub data: Range<usize>,
    /// The body is complete. The rest of the input belongs to the next request.
    pub finished: bool,
}

/// The position within a chunked body.
///
/// Call [`decode`](Self::decode) until it says `finished`, or consumes nothing because the input is empty.
#[derive(Clone, Debug)]
pub struct ChunkedDecoder {
    /// The size that is being read, then the bytes of data that are still to come.
    remaining: u64,
    max_line_bytes: u32,
    max_trailer_bytes: u32,
    max_trailer_count: u32,
    line_bytes: u32,
    trailer_bytes: u32,
    trailer_count: u32,
    excess_bytes: u32,
    state: ChunkState,
    name_length: u8,
    /// The beginning of the trailer's name, in lower case.
    name: [u8; KEPT_NAME_BYTES],
}

/// The bytes that may come next. `Bws` is "bad white space" before or after a delimiter (RFC 9110 5.6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChunkState {
    /// The first digit of a size.
    Size,
    /// More digits, BWS before an extension, `;` or CR.
    SizeMore,
    /// BWS, then `;`.
    BeforeSemicolon,
    /// BWS, then the name of an extension.
    BeforeName,
    Name,
    /// BWS, then `=` or `;`.
    AfterName,
    /// BWS, then a token or a quoted string.
    BeforeValue,
    TokenValue,
    QuotedValue,
    QuotedPair,
    /// After the closing quote: BWS, `;` or CR.
    AfterQuote,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// The first byte of a trailer line, or the CR of the empty line.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    LastLf,
    Finished,
    Failed,
}

impl Default for ChunkedDecoder {
    fn default() -> Self {
        Self::new(ChunkLimits::default())
    }
}

impl ChunkedDecoder {
    /// Starts a body.
    pub fn new(limits: ChunkLimits) -> Self {
        let clip = |limit: usize| u32::try_from(limit).unwrap_or(u32::MAX);
        Self {
            remaining: 0,
            max_line_bytes: clip(limits.line_bytes),
            max_trailer_bytes: clip(limits.trailer_bytes),
            max_trailer_count: clip(limits.trailer_count),
            line_bytes: 0,
            trailer_bytes: 0,
            trailer_count: 0,
            excess_bytes: 0,
            state: ChunkState::Size,
            name_length: 0,
            name: [0; KEPT_NAME_BYTES],
        }
    }

    /// Is the body complete?
    pub fn is_finished(&self) -> bool {
        self.state == ChunkState::Finished
    }

    /// Consumes framing and at most one run of data, which is not copied.
    ///
    /// All input is consumed unless it holds a second run of data or the body ends before it does.
    ///
    /// # Errors
    ///
    /// [`RequestError::BadRequest`] where the grammar is broken, a chunk-size line is over its limit, or all lines
    /// together are out of proportion to the data. [`RequestError::FieldsTooLarge`] where the trailer section is over a
    /// limit. After an error each further call fails.
    pub fn decode(&mut self, input: &[u8]) -> Result<Decoded, RequestError> {
        let mut decoded = Decoded { consumed: 0, data: 0..0, finished: false };
        while let Some(rest) = input.get(decoded.consumed..)
            && let Some(&byte) = rest.first()
        {
            match self.state {
                ChunkState::Finished => break,
                ChunkState::Data if !decoded.data.is_empty() => break,
                ChunkState::Data => {
                    let run = usize::try_from(self.remaining).map_or(rest.len(), |left| left.min(rest.len()));
                    decoded.data = decoded.consumed..decoded.consumed + run;
                    decoded.consumed += run;
                    self.remaining -= run as u64;
                    if self.remaining == 0 {
                        self.state = ChunkState::DataCr;
                    }
                }
                _ => {
                    self.state = self.step(byte).inspect_err(|_| self.state = ChunkState::Failed)?;
                    decoded.consumed += 1;
                }
            }
        }
        decoded.finished = self.is_finished();
        Ok(decoded)
    }

    /// Takes one byte of framing and names the state after it.
    fn step(&mut self, byte: u8) -> Result<ChunkState, RequestError> {
        match self.state {
            ChunkState::Size | ChunkState::SizeMore => {
                self.count_line_byte(byte)?;
                self.size(byte)
            }
            ChunkState::BeforeSemicolon
            | ChunkState::BeforeName
            | ChunkState::Name
            | ChunkState::AfterName
            | ChunkState::BeforeValue
            | ChunkState::TokenValue
            | ChunkState::QuotedValue
            | ChunkState::QuotedPair
            | ChunkState::AfterQuote => {
                self.count_line_byte(byte)?;
                extension(self.state, byte)
            }
            ChunkState::SizeLf if byte == b'\n' => {
                self.weigh_line()?;
                Ok(if self.remaining == 0 { ChunkState::TrailerStart } else { ChunkState::Data })
            }
            ChunkState::SizeLf => Err(BAD_LINE_END),
            ChunkState::DataCr if byte == b'\r' => Ok(ChunkState::DataLf),
            ChunkState::DataLf if byte == b'\n' => Ok(ChunkState::Size),
            ChunkState::DataCr | ChunkState::DataLf => Err(BAD_DATA_END),
            ChunkState::TrailerStart
            | ChunkState::TrailerName
            | ChunkState::TrailerValue
            | ChunkState::TrailerLf
            | ChunkState::LastLf => {
                self.count_trailer_byte()?;
                self.trailer(byte)
            }
            // `decode` takes these itself, except for a failed body.
            ChunkState::Data | ChunkState::Finished | ChunkState::Failed => Err(FAILED_BEFORE),
        }
    }

    fn count_line_byte(&mut self, byte: u8) -> Result<(), RequestError> {
        if byte != b'\r' && self.line_bytes >= self.max_line_bytes {
            return Err(RequestError::BadRequest("chunk-size line over the limit (RFC 9112 7.1.1)"));
        }
        self.line_bytes = self.line_bytes.saturating_add(1);
        Ok(())
    }

    /// Ends a chunk-size line: charges its bytes against the data that it announces.
    fn weigh_line(&mut self) -> Result<(), RequestError> {
        let line_bytes = u64::from(std::mem::take(&mut self.line_bytes));
        let free_bytes = self.remaining.saturating_mul(2).saturating_add(FREE_LINE_BYTES);
        let excess = (u64::from(self.excess_bytes) + line_bytes).saturating_sub(free_bytes);
        if excess > EXCESS_BYTES {
            return Err(RequestError::BadRequest("chunk extensions outweigh the data (RFC 9112 7.1.1)"));
        }
        self.excess_bytes = u32::try_from(excess).unwrap_or(u32::MAX);
        Ok(())
    }

    fn count_trailer_byte(&mut self) -> Result<(), RequestError> {
        if self.trailer_bytes >= self.max_trailer_bytes {
            return Err(RequestError::FieldsTooLarge("trailer section over the limit of bytes"));
        }
        self.trailer_bytes = self.trailer_bytes.saturating_add(1);
        Ok(())
    }

    /// `chunk-size = 1*HEXDIG`: no sign, no prefix, no underscore, no space.
    fn size(&mut self, byte: u8) -> Result<ChunkState, RequestError> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ if self.state == ChunkState::Size => return Err(BAD_SIZE),
            b'\r' => return Ok(ChunkState::SizeLf),
            b';' => return Ok(ChunkState::BeforeName),
            b' ' | b'\t' => return Ok(ChunkState::BeforeSemicolon),
            _ => return Err(BAD_SIZE),
        };
        self.remaining = match self.remaining.checked_mul(16) {
            Some(size) => size | u64::from(digit),
            None => return Err(RequestError::BadRequest("chunk size over 64 bits (RFC 9112 7.1)")),
        };
        Ok(ChunkState::SizeMore)
    }

    fn trailer(&mut self, byte: u8) -> Result<ChunkState, RequestError> {
        match (self.state, byte) {
            (ChunkState::TrailerStart, b'\r') => Ok(ChunkState::LastLf),
            (ChunkState::LastLf, b'\n') => Ok(ChunkState::Finished),
            // A line that begins with white space (obs-fold) is one of the errors below.
            (ChunkState::TrailerStart, _) if is_token_byte(byte) => {
                if self.trailer_count >= self.max_trailer_count {
                    return Err(RequestError::FieldsTooLarge("more trailer fields than the limit"));
                }
                self.trailer_count += 1;
                self.name_length = 0;
                self.keep_name_byte(byte);
                Ok(ChunkState::TrailerName)
            }
            (ChunkState::TrailerName, b':') if self.is_forbidden_name() => {
                Err(RequestError::BadRequest("trailer field that must not be one (RFC 9110 6.5.1)"))
            }
            (ChunkState::TrailerName, b':') => Ok(ChunkState::TrailerValue),
            (ChunkState::TrailerName, _) if is_token_byte(byte) => {
                self.keep_name_byte(byte);
                Ok(ChunkState::TrailerName)
            }
            (ChunkState::TrailerValue, b'\r') => Ok(ChunkState::TrailerLf),
            (ChunkState::TrailerValue, _) if is_text_byte(byte) => Ok(ChunkState::TrailerValue),
            (ChunkState::TrailerLf, b'\n') => Ok(ChunkState::TrailerStart),
            _ => Err(BAD_TRAILER),
        }
    }

    /// Bytes beyond the longest forbidden name are only counted, up to one.
    fn keep_name_byte(&mut self, byte: u8) {
        if let Some(slot) = self.name.get_mut(usize::from(self.name_length)) {
            *slot = byte.to_ascii_lowercase();
        }
        self.name_length = (self.name_length + 1).min(KEPT_NAME_BYTES as u8 + 1);
    }

    fn is_forbidden_name(&self) -> bool {
        let name = self.name.get(..usize::from(self.name_length));
        name.is_some_and(|name| FORBIDDEN_TRAILERS.contains(&name))
    }
}

/// `chunk-ext = *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )`, the value a token or a quoted string.
/// BWS at the end of the line is not in the grammar.
fn extension(state: ChunkState, byte: u8) -> Result<ChunkState, RequestError> {
    let is_space = byte == b' ' || byte == b'\t';
    match state {
        ChunkState::BeforeSemicolon if byte == b';' => Ok(ChunkState::BeforeName),
        ChunkState::BeforeSemicolon | ChunkState::BeforeName | ChunkState::AfterName | ChunkState::BeforeValue
            if is_space =>
        {
            Ok(state)
        }
        ChunkState::BeforeName | ChunkState::Name if is_token_byte(byte) => Ok(ChunkState::Name),
        ChunkState::Name | ChunkState::AfterName if byte == b'=' => Ok(ChunkState::BeforeValue),
        ChunkState::Name | ChunkState::AfterName if byte == b';' => Ok(ChunkState::BeforeName),
        ChunkState::Name if is_space => Ok(ChunkState::AfterName),
        ChunkState::BeforeValue if byte == b'"' => Ok(ChunkState::QuotedValue),
        ChunkState::BeforeValue | ChunkState::TokenValue if is_token_byte(byte) => Ok(ChunkState::TokenValue),
        ChunkState::TokenValue | ChunkState::AfterQuote if byte == b';' => Ok(ChunkState::BeforeName),
        ChunkState::TokenValue | ChunkState::AfterQuote if is_space => Ok(ChunkState::BeforeSemicolon),
        ChunkState::QuotedValue if byte == b'"' => Ok(ChunkState::AfterQuote),
        ChunkState::QuotedValue if byte == b'\\' => Ok(ChunkState::QuotedPair),
        ChunkState::QuotedValue | ChunkState::QuotedPair if is_text_byte(byte) => Ok(ChunkState::QuotedValue),
        ChunkState::Name | ChunkState::TokenValue | ChunkState::AfterQuote if byte == b'\r' => Ok(ChunkState::SizeLf),
        _ => Err(BAD_EXTENSION),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<(Vec<u8>, usize), u16>;

    /// Feeds the pieces; gives the data and the bytes consumed, or the status. An unfinished body is status 0.
    fn feed<'a>(decoder: &mut ChunkedDecoder, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
        let mut data = Vec::new();
        let mut total = 0;
        for mut piece in pieces {
            while !piece.is_empty() {
                let decoded = decoder.decode(piece).map_err(|error| error.status())?;
                assert!(decoded.data.end <= decoded.consumed && decoded.consumed <= piece.len());
                data.extend_from_slice(&piece[decoded.data.clone()]);
                total += decoded.consumed;
                piece = &piece[decoded.consumed..];
                if decoded.finished {
                    return Ok((data, total));
                }
                assert_ne!(decoded.consumed, 0, "no progress with input at hand");
            }
        }
        Err(0)
    }

    /// Decodes whole, byte by byte and split in two at every position, which must agree.
    fn decode_with(limits: ChunkLimits, body: &[u8]) -> Outcome {
        let whole = feed(&mut ChunkedDecoder::new(limits), [body]);
        let single = feed(&mut ChunkedDecoder::new(limits), body.chunks(1));
        assert_eq!(single, whole, "byte by byte: {:?}", String::from_utf8_lossy(body));
        if body.len() <= 600 {
            for at in 0..=body.len() {
                let (left, right) = body.split_at(at);
                let split = feed(&mut ChunkedDecoder::new(limits), [left, right]);
                assert_eq!(split, whole, "split at {at}: {:?}", String::from_utf8_lossy(body));
            }
        }
        whole
    }

    fn decode(body: &[u8]) -> Outcome {
        decode_with(ChunkLimits::default(), body)
    }

    #[track_caller]
    fn assert_bodies(expected: &[u8], bodies: &[&[u8]]) {
        for &body in bodies {
            let outcome = decode(body);
            assert_eq!(outcome, Ok((expected.to_vec(), body.len())), "{:?}", String::from_utf8_lossy(body));
        }
    }

    #[track_caller]
    fn assert_refused(status: u16, bodies: &[&[u8]]) {
        for &body in bodies {
            assert_eq!(decode(body), Err(status), "{:?}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn extensions_must_not_outweigh_the_data() {
        let chunk = |extension_bytes: usize| format!("1;{}\r\na\r\n", "x".repeat(extension_bytes)).into_bytes();
        // 2,000 bytes of extension are accepted four times, but not ten times.
        let four = [chunk(2000).repeat(4), b"0\r\n\r\n".to_vec()].concat();
        assert_eq!(decode(&four), Ok((b"aaaa".to_vec(), four.len())));
        assert_eq!(decode(&[chunk(2000).repeat(10), b"0\r\n\r\n".to_vec()].concat()), Err(400));
        // One-byte chunks are accepted, also with a short extension each.
        let many = [chunk(8).repeat(20_000), b"0\r\n\r\n".to_vec()].concat();
        assert_eq!(feed(&mut ChunkedDecoder::default(), [&many[..]]), Ok((vec![b'a'; 20_000], many.len())));
    }

    #[test]
    fn chunks_are_joined_and_the_next_request_is_left_alone() {
        assert_bodies(b"", &[b"0\r\n\r\n", b"000\r\n\r\n"]);
        assert_bodies(b"hello", &[b"5\r\nhello\r\n0\r\n\r\n", b"1\r\nh\r\n4\r\nello\r\n00\r\n\r\n"]);
        let body = b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\nGET / HTTP/1.1\r\n";
        assert_eq!(decode(body), Ok((b"hello world".to_vec(), body.len() - 16)));
    }

    #[test]
    fn sizes_are_hexadecimal_in_either_case() {
        let data = [b'x'; 0x1ab];
        for size in ["1ab", "1AB", "1aB", "00001ab", "00000000000000000000000000001ab"] {
            let body = [size.as_bytes(), b"\r\n", &data, b"\r\n0\r\n\r\n"].concat();
            assert_bodies(&data, &[&body]);
        }
    }

    // Waitress GHSA-4f7p-27jc-3c36, cheroot's int(), Gunicorn's chunked_01 to chunked_14.
    #[test]
    #[rustfmt::skip] // tables
    fn a_size_is_nothing_but_digits() {
        assert_refused(
            400,
            &[
                b"\r\n", b"+5\r\nhello\r\n0\r\n\r\n", b"-5\r\n", b"-0\r\n\r\n", b"0x5\r\nhello\r\n", b"6_0\r\n",
                b"_5\r\n", b"5_\r\n", b" 5\r\nhello\r\n", b"\t5\r\n", b"5 \r\nhello\r\n", b"0 \r\n\r\n",
                b"5\x0b\r\n", b"5\xa0\r\n", b"g\r\n", b"5h\r\n", b"5.0\r\n", b"\0\r\n", b";a=b\r\n",
                b"\xef\xbc\x95\r\n", b"5,5\r\n", b"5 5\r\n", b"\n", b"GET / HTTP/1.1\r\n",
            ],
        );
    }

    #[test]
    fn a_size_over_64_bits_is_refused() {
        assert_refused(400, &[b"10000000000000000\r\n", b"fffffffffffffffff\r\n", b"18446744073709551617\r\n"]);
        let mut decoder = ChunkedDecoder::default();
        let decoded = decoder.decode(b"ffffffffffffffff\r\nabc").unwrap();
        assert_eq!(decoded, Decoded { consumed: 21, data: 18..21, finished: false });
        assert_eq!(decoder.remaining, u64::MAX - 3);
    }

    #[test]
    #[rustfmt::skip] // tables
    fn lines_end_in_crlf_only() {
        assert_refused(
            400,
            &[
                b"5\nhello\r\n0\r\n\r\n", b"5\rhello\r\n0\r\n\r\n", b"5\r\rhello", b"5\r\nhello\n0\r\n\r\n",
                b"5\r\nhello\r0\r\n\r\n", b"5\r\nhello0\r\n\r\n", b"5\r\nhello!\r\n0\r\n\r\n", b"5\r\nhello\r\n\r\n",
                b"0\n\r\n", b"0\r\n\n", b"0\n\n", b"0\r\n\rx", b"0\r\n\r\r\n", b"5\r\nhell\r\n0\r\n\r\n",
            ],
        );
    }

    #[test]
    fn a_body_cut_short_is_never_finished() {
        let body = b"5;a=\"b\"\r\nhello\r\n0\r\nA: b\r\n\r\n";
        for end in 0..body.len() {
            assert_eq!(feed(&mut ChunkedDecoder::default(), [&body[..end]]), Err(0), "{end}");
        }
    }

    #[test]
    #[rustfmt::skip] // tables
    fn extensions_follow_their_grammar_and_mean_nothing() {
        assert_bodies(
            b"hello",
            &[
                b"5;a\r\nhello\r\n0;b=c\r\n\r\n",
                b"5;a=b;c=d;e\r\nhello\r\n0\r\n\r\n",
                b"5 ; a = b\t;\tc\r\nhello\r\n0\r\n\r\n",
                b"5;a=\"\"\r\nhello\r\n0\r\n\r\n",
                b"5;a=\"b;c \\\" \\\\ \t=\xe4\" ;d\r\nhello\r\n0\r\n\r\n",
                b"5;a \t=\"b\";c=d ;e\r\nhello\r\n0\r\n\r\n",
            ],
        );
        assert_refused(
            400,
            &[
                b"5;\r\nhello\r\n0\r\n\r\n", b"5;;\r\n", b"5;a=\r\n", b"5;=b\r\n", b"5;a=b=c\r\n", b"5;a \r\n",
                b"5;a=b \r\n", b"5;a=\"b\" \r\n", b"5;a b\r\n", b"5;a=b c\r\n", b"5;a=\"b\r\n", b"5;a=\"b\"c\r\n",
                b"5;a=\"\\\r\n\"", b"5;a=\"\x01\"\r\n", b"5;a=\"\x7f\"\r\n", b"5;a\n", b"5;a=b\n", b"5;a=\"\n\"\r\n",
                b"5;a\rb\r\n", b"5;a=\"\rb\"\r\n", b"5;a=b\r\r\n", b"5;\xe4\r\n", b"5;a=\xe4\r\n", b"5;a,b\r\n",
                b"5;a=b\"c\"\r\n", b"5 a\r\n", b"5; ;a\r\n", b"5;a\0\r\n",
            ],
        );
    }

    #[test]
    fn a_size_line_may_be_as_long_as_its_limit() {
        for length in [4095, 4096, 4097, 9000] {
            let line = [&b"5;"[..], &vec![b'a'; length - 2]].concat();
            let body = [&line[..], b"\r\nhello\r\n0\r\n\r\n"].concat();
            let expected = if length <= 4096 { Ok((b"hello".to_vec(), body.len())) } else { Err(400) };
            assert_eq!(decode(&body), expected, "{length}");
            // An endless line is refused without waiting for its end.
            let expected = if length <= 4096 { Err(0) } else { Err(400) };
            assert_eq!(decode(&line), expected, "{length}");
        }
        let zeros = [&[b'0'; 4097][..], b"\r\n\r\n"].concat();
        assert_eq!(decode(&zeros), Err(400));
        // The limit is for each line, not for all lines together.
        let many = [&b"1\r\nx\r\n".repeat(5000)[..], b"0\r\n\r\n"].concat();
        assert_eq!(decode(&many), Ok((vec![b'x'; 5000], many.len())));
    }

    #[test]
    #[rustfmt::skip] // tables
    fn trailer_fields_are_checked_and_dropped() {
        assert_bodies(
            b"hello",
            &[
                b"5\r\nhello\r\n0\r\nA: b\r\n\r\n",
                b"5\r\nhello\r\n0\r\nA:\r\nDigest: \t \xe4, x \r\nX-Hosts: y\r\nHos: z\r\n\r\n",
                b"5\r\nhello\r\n0\r\nTransfer-Encodings: chunked\r\nT: x\r\nProxy-Connection: x\r\n\r\n",
                b"5\r\nhello\r\n0\r\nTE: trailers\r\nTrailer: a\r\nContent-Type: a/b\r\nExpect: x\r\n\r\n",
                b"5\r\nhello\r\n0\r\nAuthorization: x\r\nCookie: x\r\nX-Forwarded-For: x\r\n\r\n",
            ],
        );
        assert_refused(
            400,
            &[
                b"0\r\nA\r\n\r\n", b"0\r\nA : b\r\n\r\n", b"0\r\n: b\r\n\r\n", b"0\r\n A: b\r\n\r\n",
                b"0\r\nA: b\r\n c\r\n\r\n", b"0\r\nA: b\n\r\n", b"0\r\nA: b\n\n", b"0\r\nA: b\rc\r\n\r\n",
                b"0\r\nA: \0\r\n\r\n", b"0\r\nA: \x7f\r\n\r\n", b"0\r\n\xe4: b\r\n\r\n", b"0\r\nA(: b\r\n\r\n",
                b"0\r\nA\0: b\r\n\r\n", b"0\r\nGET / HTTP/1.1\r\n\r\n",
            ],
        );
    }

    #[test]
    fn trailer_fields_that_change_the_request_are_refused() {
        for name in FORBIDDEN_TRAILERS {
            assert!(name.len() <= KEPT_NAME_BYTES && name.iter().all(|byte| !byte.is_ascii_uppercase()));
            let upper = name.to_ascii_uppercase();
            assert_refused(
                400,
                &[&[b"0\r\n", name, b": x\r\n\r\n"].concat(), &[b"0\r\n", &upper[..], b":\r\n\r\n"].concat()],
            );
        }
        assert_refused(400, &[b"0\r\nA: b\r\nHost: c\r\n\r\n", b"0\r\nContent-Length: 5\r\n\r\n"]);
        assert_refused(400, &[b"0\r\nTransfer-Encoding: chunked\r\n\r\n", b"0\r\nUpgrade: h2c\r\n\r\n"]);
    }

    #[test]
    fn the_trailer_section_is_bounded_in_bytes_and_fields() {
        let limits = ChunkLimits { line_bytes: 10, trailer_bytes: 20, trailer_count: 2 };
        let accepted: [&[u8]; 3] = [b"0\r\n\r\n", b"0\r\na:\r\nb:\r\n\r\n", b"0\r\na: 3456789012345\r\n\r\n"];
        for body in accepted {
            assert_eq!(decode_with(limits, body), Ok((vec![], body.len())));
        }
        let refused: [&[u8]; 4] = [
            b"0\r\na: 3456789012345678\r\n\r\n",
            b"0\r\na: 34567890123456\r\n\r\n",
            b"0\r\na:\r\nb:\r\nc:\r\n\r\n",
            b"0\r\naaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        ];
        for body in refused {
            assert_eq!(decode_with(limits, body), Err(431));
        }
        let endless = [&b"0\r\n"[..], &b"a: bcdefghijklmnop\r\n".repeat(1000)].concat();
        assert_eq!(decode(&endless), Err(431));
        assert_eq!(decode(&[&b"0\r\n"[..], &b"a:\r\n".repeat(129)].concat()), Err(431));
    }

    #[test]
    fn a_failed_body_stays_failed_and_a_finished_one_consumes_nothing() {
        let mut decoder = ChunkedDecoder::default();
        assert!(decoder.decode(b"x").is_err());
        assert_eq!(decoder.decode(b"5\r\nhello\r\n0\r\n\r\n"), Err(FAILED_BEFORE));
        let mut decoder = ChunkedDecoder::default();
        assert!(decoder.decode(b"0\r\n\r\n").is_ok_and(|decoded| decoded.finished));
        let after = Decoded { consumed: 0, data: 0..0, finished: true };
        assert_eq!(decoder.decode(b"5\r\nhello"), Ok(after.clone()));
        assert_eq!(decoder.decode(b""), Ok(after));
    }

    #[test]
    fn one_call_gives_one_run_and_the_framing_around_it() {
        let mut decoder = ChunkedDecoder::default();
        let body = b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n";
        assert_eq!(decoder.decode(body), Ok(Decoded { consumed: 13, data: 3..8, finished: false }));
        assert_eq!(decoder.decode(&body[13..]), Ok(Decoded { consumed: 8, data: 0..1, finished: true }));
    }

    #[test]
    fn the_decoder_is_small_enough_to_stay_in_a_connection() {
        assert!(size_of::<ChunkedDecoder>() <= 64, "{}", size_of::<ChunkedDecoder>());
    }
}
