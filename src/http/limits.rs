//! The limits of a request head.

/// The most that a head may have. A limit of 0 means no limit of its own: then only `head_bytes` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of the request line without CRLF; a longer one is refused with 414.
    pub request_line_bytes: usize,
    /// The number of field lines; a head with more lines is refused with 431.
    pub field_count: usize,
    /// Bytes of one field line without CRLF; a longer one is refused with 431.
    pub field_bytes: usize,
    /// Bytes of the whole head with every CRLF; never 0. A longer one is refused with 431, or with 414 when the request
    /// line alone is longer.
    pub head_bytes: usize,
}
