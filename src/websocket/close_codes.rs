//! Close codes: RFC 6455 7.4 and IANA's WebSocket Close Code Number Registry.

use std::ops::RangeInclusive;

/// The request has ended as it should.
pub const NORMAL: u16 = 1000;
/// The server stops.
pub const GOING_AWAY: u16 = 1001;
/// The client broke a rule of the protocol.
pub const PROTOCOL_ERROR: u16 = 1002;
/// The close frame had no code. Never sent.
pub const NO_CODE: u16 = 1005;
/// The connection broke (RFC 6455 7.1.5). Never sent.
pub const ABNORMAL: u16 = 1006;
/// Text was not UTF-8.
pub const INVALID_DATA: u16 = 1007;
/// A message was longer than the limit.
pub const MESSAGE_TOO_BIG: u16 = 1009;
/// The application failed.
pub const INTERNAL_ERROR: u16 = 1011;

/// The server stops, and another process takes over at once.
pub const SERVICE_RESTART: u16 = 1012;

/// The client is to come back later: it was too slow.
pub const TRY_AGAIN_LATER: u16 = 1013;

/// Codes, whether a close frame may carry them, and the registry's name. Codes outside the table are never sent.
const REGISTRY: [(RangeInclusive<u16>, bool, &str); 18] = [
    (NORMAL..=NORMAL, true, "normal closure"),
    (GOING_AWAY..=GOING_AWAY, true, "going away"),
    (PROTOCOL_ERROR..=PROTOCOL_ERROR, true, "protocol error"),
    (1003..=1003, true, "unsupported data"),
    (1004..=1004, false, "reserved"),
    (NO_CODE..=NO_CODE, false, "no status received"),
    (ABNORMAL..=ABNORMAL, false, "abnormal closure"),
    (INVALID_DATA..=INVALID_DATA, true, "invalid frame payload data"),
    (1008..=1008, true, "policy violation"),
    (MESSAGE_TOO_BIG..=MESSAGE_TOO_BIG, true, "message too big"),
    (1010..=1010, true, "mandatory extension"),
    (INTERNAL_ERROR..=INTERNAL_ERROR, true, "internal error"),
    (SERVICE_RESTART..=SERVICE_RESTART, true, "service restart"),
    (TRY_AGAIN_LATER..=TRY_AGAIN_LATER, true, "try again later"),
    (1014..=1014, true, "bad gateway"),
    (1015..=1015, false, "TLS handshake"),
    (3000..=3999, true, "registered by libraries and frameworks"),
    (4000..=4999, true, "private use"),
];

/// Whether a close frame may carry this code.
pub fn may_be_sent(code: u16) -> bool {
    REGISTRY.iter().any(|(codes, may_be_sent, _)| *may_be_sent && codes.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_may_be_sent_are_those_of_the_registry() {
        let sent: Vec<u16> = (0..=u16::MAX).filter(|&code| may_be_sent(code)).collect();
        let expected: Vec<u16> = (1000..=1003).chain(1007..=1014).chain(3000..=4999).collect();
        assert_eq!(sent, expected);
    }

    #[test]
    fn the_table_is_in_order_and_no_code_is_in_two_rows() {
        assert!(REGISTRY.windows(2).all(|rows| rows[0].0.end() < rows[1].0.start()));
    }
}
