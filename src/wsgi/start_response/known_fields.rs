//! Response headers that applications pass again and again, recognised by the identity of their pairs.
//!
//! Most headers are constants of the application, or of its framework: the same tuple in each response. Such a tuple and
//! its strings cannot change, so the line that it became in one response is the line that it becomes in the next.

use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use crate::http::response::FieldKind;
use crate::interp::reference_count;

/// The number of sets of places. The address of a pair decides on its set.
const SETS: usize = 64;

/// Places of a set: with a single one, two pairs of a response with many headers would replace each other again and again.
const WAYS: usize = 4;

/// Bytes of the longest line that is kept.
const LONGEST_LINE: usize = 256;

/// One of this many pairs that could be kept is kept: to keep a pair costs more than to read it, and some frameworks make
/// new pairs for each response.
const ADMITTED: u32 = 16;

/// References to a pair that only its response's list has: by the list, and by the reader.
const REFERENCES_OF_LIST: isize = 2;

/// A header as `start_response` reads it.
#[derive(Clone, Copy)]
pub(super) struct ReadField<'a> {
    pub(super) kind: FieldKind,
    pub(super) is_event_stream: bool,
    /// The whole line.
    pub(super) line: &'a [u8],
}

/// The pairs that have become lines before.
#[derive(Default)]
pub(super) struct KnownFields {
    sets: Vec<[Option<KnownField>; WAYS]>,
    /// Pairs that could have been kept.
    candidates: u32,
}

struct KnownField {
    /// Keeps the pair alive, so that no other object has its address.
    pair: Py<PyTuple>,
    kind: FieldKind,
    is_event_stream: bool,
    line: Box<[u8]>,
}

impl KnownFields {
    /// The header that this very pair has become before.
    pub(super) fn find(&self, pair: &Bound<'_, PyTuple>) -> Option<ReadField<'_>> {
        let known = self.sets.get(set_of(pair))?.iter().flatten().find(|known| known.pair.is(pair))?;
        Some(ReadField { kind: known.kind, is_event_stream: known.is_event_stream, line: &known.line })
    }

    /// Keeps a pair that its application seems to keep, too. Returns the pair that it replaces.
    pub(super) fn keep(&mut self, pair: &Bound<'_, PyTuple>, field: ReadField<'_>) -> impl Sized + use<> {
        let is_plain = pair.is_exact_instance_of::<PyTuple>()
            && pair.iter_borrowed().all(|item| item.is_exact_instance_of::<PyString>());
        if reference_count(pair) <= REFERENCES_OF_LIST || !is_plain || field.line.len() > LONGEST_LINE {
            return None;
        }
        self.candidates = self.candidates.wrapping_add(1);
        if !self.candidates.is_multiple_of(ADMITTED) {
            return None;
        }
        let known = KnownField {
            pair: pair.clone().unbind(),
            kind: field.kind,
            is_event_stream: field.is_event_stream,
            line: field.line.into(),
        };
        self.sets.resize_with(SETS, Default::default);
        let set = self.sets.get_mut(set_of(pair))?;
        let way = set.iter().position(Option::is_none).unwrap_or((self.candidates / ADMITTED) as usize % WAYS);
        set.get_mut(way)?.replace(known)
    }
}

fn set_of(pair: &Bound<'_, PyTuple>) -> usize {
    // The low bits of an address are those of its alignment.
    const FACTOR: usize = 0x9E37_79B9_7F4A_7C15_u64 as usize;
    pair.as_ptr().addr().wrapping_mul(FACTOR) >> (usize::BITS - SETS.ilog2())
}
