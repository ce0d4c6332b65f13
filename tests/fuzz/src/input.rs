//! The first bytes of an input choose limits and pieces; the rest comes from the peer.
//!
//! `fuzz.py` makes seeds of the requests in `tests/corpus` by putting such bytes before them, so a change here is one
//! there, too. All integers are little-endian; bytes that are missing count as 0.

use _rmeinheld::http::chunked::ChunkLimits;
use _rmeinheld::http::limits::HeadLimits;

/// An input that is read from its beginning.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    pub fn short(&mut self) -> u16 {
        u16::from(self.byte()) | u16::from(self.byte()) << 8
    }

    /// This number of bytes, or the rest.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Five bytes: request line in steps of 2 bytes, field lines, one field line in steps of 2 bytes, the whole head
    /// (two bytes). The value 255 chooses the server's default, and 0 is no limit. For the whole head, 0 chooses the
    /// default.
    pub fn limits(&mut self) -> HeadLimits {
        let mut limit = |unit: usize, default: usize| match self.byte() {
            u8::MAX => default,
            steps => usize::from(steps) * unit,
        };
        HeadLimits {
            request_line_bytes: limit(2, 8208),
            field_count: limit(1, 128),
            field_bytes: limit(2, 8192),
            head_bytes: match self.short() {
                0 => 80 * 1024,
                bytes => usize::from(bytes),
            },
        }
    }

    /// Three bytes: chunk-size line, trailer section in steps of 2 bytes, trailer fields; 255 chooses the default.
    pub fn chunk_limits(&mut self) -> ChunkLimits {
        self.changed(ChunkLimits::default())
    }

    fn changed(&mut self, mut limits: ChunkLimits) -> ChunkLimits {
        let mut limit = |unit: usize, slot: &mut usize| match self.byte() {
            u8::MAX => {}
            steps => *slot = usize::from(steps) * unit,
        };
        limit(1, &mut limits.line_bytes);
        limit(2, &mut limits.trailer_bytes);
        limit(1, &mut limits.trailer_count);
        limits
    }

    /// Four bytes: the length of the first piece (two bytes), then the lengths less one of the others, in turn.
    pub fn cuts(&mut self) -> Cuts {
        Cuts { first: self.short().into(), others: [self.byte(), self.byte()].map(|length| usize::from(length) + 1) }
    }
}

/// How a message is cut into pieces.
#[derive(Clone, Debug)]
pub struct Cuts {
    first: usize,
    others: [usize; 2],
}

impl Cuts {
    /// Pieces of one byte.
    pub const SINGLE: Self = Self { first: 1, others: [1, 1] };

    /// Where each piece of a message ends.
    pub fn ends(&self, message_bytes: usize) -> impl Iterator<Item = usize> {
        let mut next = self.first;
        let before_last = self.others.into_iter().cycle().map(move |length| {
            let end = next;
            next += length;
            end
        });
        before_last.take_while(move |end| *end < message_bytes).chain([message_bytes])
    }

    /// The pieces of a message.
    pub fn pieces<'a>(&self, message: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let mut start = 0;
        self.ends(message.len()).map(move |end| &message[std::mem::replace(&mut start, end)..end])
    }
}
