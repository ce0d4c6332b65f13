//! Ids of requests and traces: `X-Request-ID`, and `traceparent` of W3C Trace Context (level 1, with the flag of
//! level 2).

/// Most bytes of a request id that is taken over. UUIDs have 36; ids of load balancers are up to about 100 long.
const MOST_ID_BYTES: usize = 128;

/// Bytes of a `traceparent` of version 00.
const TRACEPARENT_BYTES: usize = 55;

/// The flag `sampled`: the caller may have recorded its part of the trace.
const SAMPLED: u8 = 1;

/// The flag `random` of level 2: the last seven bytes of the trace id are random.
const RANDOM: u8 = 2;

/// The caller's part of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent<'a> {
    /// 32 digits.
    pub trace_id: &'a str,
    /// 16 digits: the caller's span.
    pub parent_id: &'a str,
    /// The flags that are known here.
    pub flags: u8,
}

/// The flags of a trace that begins here: its id is random, and nothing was recorded yet.
pub const FLAGS_OF_NEW_TRACE: u8 = RANDOM;

/// Reads the value of a `traceparent` field; `None` if it is invalid, and the trace begins anew then.
///
/// A higher version is read as far as version 00 goes (W3C Trace Context 3.2.4). Its unknown flags are dropped.
pub fn parse_traceparent(value: &[u8]) -> Option<TraceParent<'_>> {
    let text = std::str::from_utf8(value).ok()?;
    let (known, rest) = text.split_at_checked(TRACEPARENT_BYTES)?;
    let mut parts = known.split('-');
    let (version, trace_id, parent_id, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_whole = parts.next().is_none()
        && [(version, 2), (trace_id, 32), (parent_id, 16), (flags, 2)].into_iter().all(is_hexadecimal);
    let is_continued = version != "00" && rest.starts_with('-');
    if !is_whole || version == "ff" || (!rest.is_empty() && !is_continued) {
        return None;
    }
    if is_zero(trace_id) || is_zero(parent_id) {
        return None;
    }
    let flags = u8::from_str_radix(flags, 16).ok()? & (SAMPLED | RANDOM);
    Some(TraceParent { trace_id, parent_id, flags })
}

/// The value of a `traceparent` field.
pub fn format_traceparent(trace_id: &str, span_id: &str, flags: u8) -> String {
    format!("00-{trace_id}-{span_id}-{flags:02x}")
}

/// May the value of an `X-Request-ID` field be taken over? It goes into logs, URLs and shells.
pub fn is_request_id(value: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:=+/@~".contains(byte);
    (1..=MOST_ID_BYTES).contains(&value.len()) && value.iter().all(is_plain)
}

fn is_hexadecimal((text, length): (&str, usize)) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_zero(text: &str) -> bool {
    text.bytes().all(|byte| byte == b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn a_valid_traceparent_is_read() {
        let value = format!("00-{TRACE}-{SPAN}-01");
        let parent = parse_traceparent(value.as_bytes()).unwrap();
        assert_eq!(parent, TraceParent { trace_id: TRACE, parent_id: SPAN, flags: 1 });
        assert_eq!(format_traceparent(parent.trace_id, parent.parent_id, parent.flags), value);
        for (flags, known) in [("00", 0), ("03", 3), ("ff", 3), ("fc", 0)] {
            assert_eq!(parse_traceparent(format!("00-{TRACE}-{SPAN}-{flags}").as_bytes()).unwrap().flags, known);
        }
        for later in ["", "-", "-what-the-future-will-be-like"] {
            assert!(parse_traceparent(format!("cc-{TRACE}-{SPAN}-01{later}").as_bytes()).is_some(), "{later}");
        }
    }

    #[test]
    fn an_invalid_traceparent_is_refused() {
        let (zeros, zero) = ("0".repeat(32), "0".repeat(16));
        for value in [
            String::new(),
            "00".to_owned(),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{zeros}-{SPAN}-01"),
            format!("00-{TRACE}-{zero}-01"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{SPAN}-0"),
            format!("00-{TRACE}-{SPAN}-0g"),
            format!("00-{TRACE}-{SPAN}-+1"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("cc-{TRACE}-{SPAN}-01more"),
            format!(" 00-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-01 "),
            format!("0-0{TRACE}-{SPAN}-01"),
            format!("00_{TRACE}_{SPAN}_01"),
            format!("00-{}\u{e9}-{SPAN}-01", &TRACE[..30]),
        ] {
            assert_eq!(parse_traceparent(value.as_bytes()), None, "{value:?}");
        }
        assert_eq!(parse_traceparent(&[0xe9; 60]), None);
    }

    #[test]
    fn an_id_is_short_and_plain() {
        for id in
            ["a", "6f1c2b8e-6a0f-4f9e-9f0e-0d9b1f6f0c11", "Root=1-67891233-abcdef012345678912345678", &"x".repeat(128)]
        {
            assert!(is_request_id(id.as_bytes()), "{id}");
        }
        for id in ["", "a b", "a\"b", "a\nb", "a,b", "a;b", "<a>", "caf\u{e9}", "$(id)", "`id`", &"x".repeat(129)] {
            assert!(!is_request_id(id.as_bytes()), "{id}");
        }
    }
}
