//! Scans an incomplete head: counts and measures its lines as they arrive, each byte once.

use memchr::memchr;

use super::error::{Checked, RequestError, require};
use super::limits::HeadLimits;

pub(super) const BARE_LF: RequestError = RequestError::BadRequest("a line does not end in CRLF (RFC 9112 2.2)");
const EMPTY_LINES: RequestError =
    RequestError::BadRequest("more than one empty line before the request (RFC 9112 2.2)");
pub(super) const LONG_FIELD: RequestError = RequestError::FieldsTooLarge("field line over the limit of bytes");
const LONG_HEAD: RequestError = RequestError::FieldsTooLarge("head over the limit of bytes");
pub(super) const TOO_MANY_FIELDS: RequestError = RequestError::FieldsTooLarge("more field lines than the limit");

/// The progress of counting and measuring the lines of an incomplete head.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HeadScan {
    /// The bytes present at the last attempt to parse.
    pub(super) attempted: usize,
    /// The bytes whose line ends have all been counted.
    pub(super) scanned: usize,
    /// The start of the first line whose end has not arrived.
    pub(super) line_start: usize,
    /// The number of complete lines, the request line included.
    lines: usize,
}

impl HeadScan {
    /// Scans the new bytes. Has the empty line arrived that ends the head?
    pub(super) fn find_end(&mut self, window: &[u8], limits: &HeadLimits) -> Result<bool, RequestError> {
        if self.scanned == 0 {
            let Some(start) = skip_empty_line(window)? else {
                return Ok(false);
            };
            (self.scanned, self.line_start) = (start, start);
        }
        while let Some(distance) = window.get(self.scanned..).and_then(|new| memchr(b'\n', new)) {
            let line_feed = self.scanned + distance;
            let Some([line @ .., b'\r']) = window.get(self.line_start..line_feed) else {
                return Err(BARE_LF);
            };
            if line.is_empty() {
                return require(self.lines > 0, EMPTY_LINES).map(|()| true);
            }
            self.check_line(line.len(), limits)?;
            self.lines += 1;
            (self.scanned, self.line_start) = (line_feed + 1, line_feed + 1);
        }
        self.scanned = window.len();
        let open_line = window.get(self.line_start..).unwrap_or_default();
        self.check_line(open_line.strip_suffix(b"\r").unwrap_or(open_line).len(), limits)?;
        Ok(false)
    }

    /// The fault of a head that reaches its limit.
    pub(super) fn fault_of_length(&self) -> RequestError {
        if self.lines == 0 { RequestError::UriTooLong } else { LONG_HEAD }
    }

    fn check_line(&self, line_bytes: usize, limits: &HeadLimits) -> Checked {
        if self.lines == 0 {
            return require(line_bytes <= or_unlimited(limits.request_line_bytes), RequestError::UriTooLong);
        }
        // `lines` counts the request line but not this field; the two cancel out.
        require(line_bytes == 0 || self.lines <= or_unlimited(limits.field_count), TOO_MANY_FIELDS)?;
        require(line_bytes <= or_unlimited(limits.field_bytes), LONG_FIELD)
    }
}

/// The limit; 0 stands for no limit.
pub(super) fn or_unlimited(limit: usize) -> usize {
    if limit == 0 { usize::MAX } else { limit }
}

/// The start of the request line: one empty line before it is tolerated (RFC 9112 2.2). `None` until it is known.
pub(super) fn skip_empty_line(window: &[u8]) -> Result<Option<usize>, RequestError> {
    match window {
        [b'\r', b'\n', b'\r' | b'\n', ..] => Err(EMPTY_LINES),
        [b'\r', b'\n', ..] => Ok(Some(2)),
        [b'\r'] => Ok(None),
        [b'\r' | b'\n', ..] => Err(BARE_LF),
        _ => Ok(Some(0)),
    }
}
