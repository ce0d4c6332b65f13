//! A request head: the limits, the cuts, then the bytes of the peer.

use _rmeinheld::http::head::{Head, Parsed, Span};
use _rmeinheld::http::limits::HeadLimits;

use crate::input::{Cuts, Input};
use crate::{HEAD_STATUSES, reference, shown};

/// The reading of the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome<'a> {
    Complete(reference::Head<'a>),
    Partial,
    Refused(u16),
}

pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let (limits, cuts) = (input.limits(), input.cuts());
    let message = input.0;

    let mut head = Head::new();
    let whole = grow(&mut head, message, &limits, [message.len()]);
    match (&whole, reference::head(message, &limits)) {
        (Outcome::Complete(head), expected) => {
            assert_eq!(Some(head), expected.as_ref(), "{}", shown(message));
            // Bytes after the head play no part.
            let alone = grow(&mut Head::new(), &message[..head.length], &limits, [head.length]);
            assert_eq!(alone, whole, "{}", shown(message));
        }
        (_, None) => {}
        (outcome, Some(expected)) => panic!("{outcome:?}, not {expected:?}: {}", shown(message)),
    }

    for cuts in [cuts, Cuts::SINGLE] {
        head.reset();
        assert_alike(&mut head, &whole, message, &limits, &cuts);
    }
}

/// Did the pieces lead to the same answer? Of several faults, pieces may meet another one first. One way may also still
/// wait where the other has refused, but then it must not end in accepting.
fn assert_alike(head: &mut Head, whole: &Outcome, message: &[u8], limits: &HeadLimits, cuts: &Cuts) {
    let pieces = grow(head, message, limits, cuts.ends(message.len()));
    match (whole, &pieces) {
        (Outcome::Refused(_), Outcome::Refused(_)) => {}
        (Outcome::Refused(_), Outcome::Partial) | (Outcome::Partial, Outcome::Refused(_)) => {
            let ended = [message, b"\r\n\r\n"].concat();
            let later = grow(&mut Head::new(), &ended, limits, cuts.ends(message.len()).chain([ended.len()]));
            let at_once = grow(&mut Head::new(), &ended, limits, [ended.len()]);
            let are_refused = matches!((&later, &at_once), (Outcome::Refused(_), Outcome::Refused(_)));
            assert!(are_refused, "{later:?} {at_once:?} {cuts:?} {}", shown(message));
        }
        _ => assert_eq!(&pieces, whole, "{cuts:?} {}", shown(message)),
    }
}

/// Shows the head growing beginnings of the message.
fn grow<'a>(
    head: &mut Head,
    message: &'a [u8],
    limits: &HeadLimits,
    lengths: impl IntoIterator<Item = usize>,
) -> Outcome<'a> {
    for length in lengths {
        let bytes = &message[..length];
        match head.parse(bytes, limits) {
            Ok(Parsed::Complete) => return Outcome::Complete(content(head, bytes)),
            Ok(Parsed::Partial) => assert!(length < limits.head_bytes, "more than head_bytes asked for"),
            Err(error) => {
                assert!(HEAD_STATUSES.contains(&error.status()), "{error:?}");
                return Outcome::Refused(error.status());
            }
        }
    }
    Outcome::Partial
}

/// The contents of the head, once each span is known to lie within it.
pub fn content<'a>(head: &Head, bytes: &'a [u8]) -> reference::Head<'a> {
    let of = |span: Span| {
        let (start, end) = (span.start as usize, span.end as usize);
        assert!(start <= end && end <= head.length, "{span:?} of {}", head.length);
        &bytes[start..end]
    };
    assert!(head.length <= bytes.len());
    reference::Head {
        method: of(head.method),
        target: of(head.target),
        path: of(head.path),
        query: of(head.query),
        authority: of(head.authority),
        host: of(head.host),
        version: head.version,
        fields: head.fields.iter().map(|field| (of(field.name), of(field.value))).collect(),
        length: head.length,
        body: head.body,
        keep_alive: head.keep_alive,
        expects_continue: head.expects_continue,
        has_upgrade: head.has_upgrade,
    }
}
