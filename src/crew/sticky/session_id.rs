//! The process in a session id of Engine.IO: `<id>.<slot>.<generation>`, both numbers in hexadecimal digits.
//!
//! `rmeinheld.sticky` appends the numbers to the ids that python-engineio makes. The id is not signed: a client that
//! names another process gets "unknown session" from it.

use super::super::message::Sibling;

/// The most bytes of an id that are looked at. Engine.IO's own have 20.
const MOST_BYTES: usize = 128;

/// The process in the parameter `sid` of a query.
pub fn process_of_query(query: &[u8]) -> Option<Sibling> {
    let id = query.split(|&byte| byte == b'&').find_map(|pair| pair.strip_prefix(b"sid="))?;
    let id = std::str::from_utf8(id).ok().filter(|id| id.len() <= MOST_BYTES)?;
    let mut parts = id.rsplitn(3, '.');
    let (generation, slot) = (parts.next()?, parts.next()?);
    parts.next().filter(|rest| !rest.is_empty())?;
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_number(generation) || !is_number(slot) {
        return None;
    }
    Some(Sibling { slot: u32::from_str_radix(slot, 16).ok()?, generation: u64::from_str_radix(generation, 16).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_at_the_end_of_the_id() {
        let process = Some(Sibling { slot: 10, generation: 31 });
        for query in ["sid=abc.a.1f", "EIO=4&transport=polling&sid=A-_9.a.1f&t=x", "sid=a.b.a.1f&sid=x.1.1"] {
            assert_eq!(process_of_query(query.as_bytes()), process, "{query}");
        }
    }

    #[test]
    fn other_ids_name_no_process() {
        let long = format!("sid={}.1.1", "a".repeat(MOST_BYTES));
        for query in [
            "",
            "sid=",
            "sid=abc",
            "sid=abc.1",
            "sid=.1.1",
            "sid=abc..",
            "sid=abc.1.",
            "sid=abc.-1.1",
            "sid=abc.+1.1",
            "sid=abc.g.1",
            "sid=abc.100000000.1",
            "sid=abc.1.10000000000000000",
            "nosid=abc.1.1",
            "SID=abc.1.1",
            "sid=\u{fc}.x.1",
            &long,
        ] {
            assert_eq!(process_of_query(query.as_bytes()), None, "{query}");
        }
        assert_eq!(process_of_query(b"sid=\xff.1.1"), None);
    }
}
