//! Heads that a connection repeats, which are recognised by their bytes instead of being parsed again.
//!
//! Most clients send the same fields in every request of a connection, and some ask for the same target, too.
//! [`KnownHeads`] keeps such field sections, each with the request line that was repeated last. A section becomes known
//! when a connection sends it twice in a row, so fields that differ in every request are never kept.
//!
//! Bytes are compared only with those that the same connection has sent before. The time of a comparison therefore
//! tells a client nothing about the requests of others.

use memchr::memchr;

use super::{FieldLine, Head, Parsed, Repeated, Semantics};
use crate::http::error::RequestError;
use crate::http::limits::HeadLimits;

/// The number of field sections that are kept.
pub const KNOWN_SECTIONS: usize = 64;
/// Bytes of the longest field section that is kept; those of browsers have 300 to 1,500.
const LONGEST_SECTION: usize = 2048;
/// Bytes of the longest request line that is kept.
const LONGEST_LINE: usize = 512;
/// While every place is taken, one of this many new sections gets a place. To keep a section costs more than to parse
/// it, and the sections of many clients would evict each other.
const ADMITTED: u32 = 8;

/// A connection's memory of the field section that it has sent last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LastSection {
    /// Nothing.
    #[default]
    Unknown,
    /// Its fingerprint: the section is new.
    Seen(u32),
    /// Its number among the known sections.
    Known(u32),
}

/// The field sections, and request lines, that connections repeat.
#[derive(Debug, Default)]
pub struct KnownHeads {
    /// The section with a number is in the place that the number has modulo [`KNOWN_SECTIONS`].
    sections: Vec<KnownSection>,
    /// The number of the newest section.
    newest: u32,
    /// The number of the newest request line.
    newest_line: u32,
    /// New sections that found every place taken.
    candidates: u32,
}

#[derive(Debug)]
struct KnownSection {
    number: u32,
    fingerprint: u32,
    /// The field lines, and the empty line behind them.
    bytes: Box<[u8]>,
    /// Positions from the beginning of the section.
    fields: Box<[FieldLine]>,
    seen: Semantics,
    /// The section was repeated since its place was last looked at for a new one.
    is_used: bool,
    /// The fingerprint of the last request line before the section.
    last_line: u32,
    /// The head that the section had when its request line was repeated.
    whole: Option<KnownHead>,
}

#[derive(Debug)]
struct KnownHead {
    line: Box<[u8]>,
    line_number: u32,
    head: Head,
}

impl Head {
    /// As [`parse`](Head::parse), for a connection whose `last` section may be repeated.
    ///
    /// # Errors
    ///
    /// As [`parse`](Head::parse).
    pub fn parse_repeated(
        &mut self,
        bytes: &[u8],
        limits: &HeadLimits,
        known: &mut KnownHeads,
        last: &mut LastSection,
    ) -> Result<Parsed, RequestError> {
        if self.scan.attempted == 0
            && let LastSection::Known(number) = *last
            && let Some(section) = known.sections.get_mut(place(number)).filter(|section| section.number == number)
            && self.take_known(bytes, limits, section, &mut known.newest_line)?
        {
            return Ok(Parsed::Complete);
        }
        let parsed = self.parse(bytes, limits)?;
        if parsed == Parsed::Complete {
            known.note(self, bytes, last);
        }
        Ok(parsed)
    }

    /// Takes over the head at the beginning of `bytes` if its field section is this one. Returns false for any other.
    fn take_known(
        &mut self,
        bytes: &[u8],
        limits: &HeadLimits,
        section: &mut KnownSection,
        newest_line: &mut u32,
    ) -> Result<bool, RequestError> {
        let whole = section.whole.as_ref().filter(|whole| bytes.starts_with(&whole.line));
        let line_bytes = match whole {
            Some(whole) => whole.line.len(),
            None => memchr(b'\n', bytes).map_or(bytes.len(), |line_feed| line_feed + 1),
        };
        let length = line_bytes + section.bytes.len();
        if bytes.get(line_bytes..length) != Some(&section.bytes) || length > limits.head_bytes.min(u32::MAX as usize) {
            return Ok(false);
        }
        section.is_used = true;
        if let Some(whole) = whole {
            self.repeat(&whole.head);
            self.repeated = Some(Repeated { section: section.number, line: whole.line_number });
            return Ok(true);
        }
        let Some(line) = bytes.get(..line_bytes).filter(|line| line.ends_with(b"\r\n")) else { return Ok(false) };
        let mut request = httparse::Request::new(&mut []);
        // Without the fields the head is incomplete. Errors are found again, and reported, by the parser of whole heads.
        if request.parse_with_uninit_headers(line, &mut []) != Ok(httparse::Status::Partial)
            || request.version.is_none()
        {
            return Ok(false);
        }
        let method = self.take_line(bytes, &request, limits)?;
        self.fields.clear();
        self.fields.extend(section.fields.iter().map(|field| field.moved(line_bytes as u32)));
        self.conclude(bytes, length, method, &section.seen.moved(line_bytes as u32))?;
        self.repeated = Some(Repeated { section: section.number, line: 0 });
        section.note_line(line, self, newest_line);
        Ok(true)
    }

    /// Becomes equal to `other`, and keeps its own allocation.
    fn repeat(&mut self, other: &Head) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        fields.extend_from_slice(&other.fields);
        *self = Head { fields, ..*other };
    }
}

impl KnownHeads {
    /// Takes note of the section of a head that was parsed. Makes it a known one if its connection repeats it.
    fn note(&mut self, head: &Head, bytes: &[u8], last: &mut LastSection) {
        let Some(first) = head.fields.first() else { return };
        let start = first.name.start;
        let section = bytes.get(start as usize..head.length).unwrap_or_default();
        if section.len() > LONGEST_SECTION {
            *last = LastSection::Unknown;
            return;
        }
        let fingerprint = fingerprint(section);
        if *last != LastSection::Seen(fingerprint) {
            *last = LastSection::Seen(fingerprint);
            return;
        }
        let same = |known: &&KnownSection| known.fingerprint == fingerprint && *known.bytes == *section;
        if let Some(known) = self.sections.iter().find(same) {
            *last = LastSection::Known(known.number);
        } else if let Some(number) = self.admit() {
            *last = LastSection::Known(number);
            let known = KnownSection {
                number,
                fingerprint,
                bytes: section.into(),
                fields: head.fields.iter().map(|field| field.moved(start.wrapping_neg())).collect(),
                seen: head.seen.moved(start.wrapping_neg()),
                is_used: true,
                last_line: 0,
                whole: None,
            };
            match self.sections.get_mut(place(number)) {
                Some(place) => *place = known,
                None => self.sections.push(known),
            }
        }
    }

    /// The number of a new section, if there is a place for it.
    fn admit(&mut self) -> Option<u32> {
        if self.sections.len() == KNOWN_SECTIONS {
            self.candidates = self.candidates.wrapping_add(1);
            if !self.candidates.is_multiple_of(ADMITTED) {
                return None;
            }
        }
        // Place by place. 0 is no number.
        self.newest = self.newest.checked_add(1).unwrap_or(KNOWN_SECTIONS as u32);
        let is_used = |section: &mut KnownSection| std::mem::take(&mut section.is_used);
        let is_taken = self.sections.get_mut(place(self.newest)).is_some_and(is_used);
        (!is_taken).then_some(self.newest)
    }
}

impl KnownSection {
    /// Takes note of the request line before the section, and keeps the whole head if the line is repeated.
    fn note_line(&mut self, line: &[u8], head: &Head, newest_line: &mut u32) {
        let fingerprint = fingerprint(line);
        if std::mem::replace(&mut self.last_line, fingerprint) == fingerprint && line.len() <= LONGEST_LINE {
            *newest_line = newest_line.wrapping_add(1).max(1);
            self.whole = Some(KnownHead { line: line.into(), line_number: *newest_line, head: head.clone() });
        }
    }
}

fn place(number: u32) -> usize {
    (number as usize).wrapping_sub(1) % KNOWN_SECTIONS
}

/// A number that tells nearly all sections apart. Equal ones are compared byte by byte.
fn fingerprint(bytes: &[u8]) -> u32 {
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    let mix = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(FACTOR);
    let (words, rest) = bytes.as_chunks::<8>();
    let hash = words.iter().fold(bytes.len() as u64, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    let hash = rest.iter().fold(hash, |hash, byte| mix(hash, u64::from(*byte)));
    (hash >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits =
        HeadLimits { request_line_bytes: 100, field_count: 10, field_bytes: 200, head_bytes: 4000 };

    struct Client {
        known: KnownHeads,
        last: LastSection,
    }

    impl Client {
        fn new() -> Client {
            Client { known: KnownHeads::default(), last: LastSection::default() }
        }

        /// Parses a request on the connection, which must come to the same as on a new connection.
        #[track_caller]
        fn send(&mut self, request: &[u8]) -> Result<Option<Repeated>, u16> {
            let (mut head, mut fresh) = (Head::new(), Head::new());
            let parsed = head.parse_repeated(request, &LIMITS, &mut self.known, &mut self.last);
            assert_eq!(parsed, fresh.parse(request, &LIMITS), "{:?}", String::from_utf8_lossy(request));
            let repeated = head.repeated.take();
            assert_eq!(format!("{head:?}"), format!("{fresh:?}"), "{:?}", String::from_utf8_lossy(request));
            parsed.map(|_| repeated).map_err(|error| error.status())
        }
    }

    fn request(line: &str, fields: &str) -> Vec<u8> {
        format!("{line}\r\nHost: example.com\r\n{fields}\r\n").into_bytes()
    }

    #[test]
    fn the_third_request_with_the_same_fields_is_recognised() {
        let mut client = Client::new();
        let section = |repeated: Result<Option<Repeated>, u16>| repeated.unwrap().map(|repeated| repeated.section);
        assert_eq!(section(client.send(&request("GET /a HTTP/1.1", "Accept: */*\r\n"))), None);
        assert_eq!(section(client.send(&request("GET /b?c HTTP/1.1", "Accept: */*\r\n"))), None);
        assert_eq!(section(client.send(&request("HEAD /d HTTP/1.1", "Accept: */*\r\n"))), Some(1));
        assert_eq!(section(client.send(&request("GET http://b/?e HTTP/1.1", "Accept: */*\r\n"))), Some(1));
        assert_eq!(section(client.send(&request("GET /a HTTP/1.0", "Accept: */*\r\n"))), Some(1));
        assert_eq!(section(client.send(&request("GET /a HTTP/1.0", "Accept: *\r\n"))), None);
    }

    #[test]
    fn a_request_line_that_is_repeated_makes_the_whole_head_known() {
        let mut client = Client::new();
        let requests: Vec<u8> = [request("GET /a?b HTTP/1.1", "Accept: */*\r\n"), b"GET /".to_vec()].concat();
        let lines: Vec<_> = (0..5).map(|_| client.send(&requests).unwrap().map(|repeated| repeated.line)).collect();
        assert_eq!(lines, [None, None, Some(0), Some(0), Some(1)]);
        // Another line in between does not forget it, and a second one replaces it.
        let other = request("GET /b HTTP/1.1", "Accept: */*\r\n");
        assert_eq!(client.send(&other).unwrap().unwrap().line, 0);
        assert_eq!(client.send(&requests).unwrap().unwrap().line, 1);
        let lines: Vec<_> = (0..3).map(|_| client.send(&other).unwrap().unwrap().line).collect();
        assert_eq!(lines, [0, 2, 2]);
    }

    #[test]
    fn a_known_section_does_not_excuse_a_bad_request_line() {
        let good = request("GET /a HTTP/1.1", "Transfer-Encoding: chunked\r\nConnection: Upgrade\r\nUpgrade: b\r\n");
        let section = &good[b"GET /a HTTP/1.1".len()..];
        let long = format!("GET /{} HTTP/1.1", "a".repeat(200));
        let lines: [(&[u8], u16); 8] = [
            (b"GET /a", 400),
            (b"GET /a HTTP/2.0", 505),
            (b"GET  /a HTTP/1.1", 400),
            (b"G\x00T /a HTTP/1.1", 400),
            (b"GET a HTTP/1.1", 400),
            (b"GET /a HTTP/1.1\n", 400),
            (b"GET /a HTTP/1.0", 400),
            (long.as_bytes(), 414),
        ];
        for (line, status) in lines {
            let mut client = Client::new();
            for _ in 0..4 {
                client.send(&good).unwrap();
            }
            assert_eq!(client.send(&[line, section].concat()), Err(status), "{:?}", String::from_utf8_lossy(line));
        }
        let mut client = Client::new();
        for _ in 0..4 {
            client.send(&good).unwrap();
        }
        let bare = [&b"GET /a HTTP/1.1"[..], &section[1..]].concat();
        assert_eq!(client.send(&bare), Err(400));
        let higher = [&b"GET /a HTTP/1.7"[..], section].concat();
        assert_eq!(client.send(&higher), Ok(None));
    }

    #[test]
    fn a_head_that_arrives_in_pieces_is_parsed_as_ever() {
        let mut client = Client::new();
        let whole = request("GET /a HTTP/1.1", "Accept: */*\r\n");
        for _ in 0..5 {
            client.send(&whole).unwrap();
        }
        for length in 1..whole.len() {
            client.send(&whole[..length]).unwrap();
        }
        assert_eq!(client.send(&whole).unwrap().unwrap().line, 1);
    }

    #[test]
    fn sections_of_many_clients_are_bounded_and_those_in_use_stay() {
        let mut known = KnownHeads::default();
        let mut send = |last: &mut LastSection, client: usize| {
            let request = request("GET / HTTP/1.1", &format!("X-Client: {client}\r\n"));
            let mut head = Head::new();
            head.parse_repeated(&request, &LIMITS, &mut known, last).unwrap();
            (head.repeated.is_some(), known.sections.len())
        };
        let mut steady = LastSection::default();
        for client in 0..2000 {
            let mut last = LastSection::default();
            for _ in 0..3 {
                assert!(send(&mut last, client + 1).1 <= KNOWN_SECTIONS);
            }
            assert!(send(&mut steady, 0).0 || client < 2, "client {client}");
        }
    }

    #[test]
    fn a_section_that_is_too_long_is_not_kept() {
        for (count, is_kept) in [(9, true), (11, false)] {
            let mut client = Client::new();
            let long = request("GET / HTTP/1.1", &format!("A: {}\r\n", "b".repeat(190)).repeat(count));
            let limits = HeadLimits { field_count: 20, ..LIMITS };
            let mut head = Head::new();
            for _ in 0..3 {
                head.parse_repeated(&long, &limits, &mut client.known, &mut client.last).unwrap();
            }
            assert_eq!(head.repeated.is_some(), is_kept, "{} bytes", long.len());
        }
    }
}
