//! Little memory for the frames of code that waits for long.
//!
//! A thread state takes 16 KiB for its first frames. The handler of a WebSocket mostly needs a few hundred bytes of it,
//! but they lie in a page of their own. Such a handler therefore begins with a small piece. Deeper calls get pieces of
//! the usual size from the interpreter, as always when a piece is full.
//!
//! The interpreter knows the size of each piece from the piece itself (`_PyStackChunk` in Include/cpython/pystate.h,
//! `push_chunk` and `_PyThreadState_PopFrame` in Python/pystate.c), so the first one may have any size. A thread
//! state names its piece, its first free byte and its end in three neighbouring fields. Their place differs between
//! versions. They are searched for, by the values that they have while no frame exists.

#![expect(unsafe_code, reason = "fields of PyThreadState")]

use std::mem::offset_of;

use pyo3::ffi;
use pyo3::prelude::*;

use super::frame_memory::{self, PIECE, SMALL_PIECE};

/// The number of words of PyThreadState that are searched. The first of the fields is the 30th word in
/// CPython 3.12 and 3.13, and the structure has at least forty.
const WORDS: usize = 36;

/// The beginning of a piece.
#[repr(C)]
struct FirstPiece {
    previous: *mut FirstPiece,
    size: usize,
    top: usize,
    /// The interpreter never uses the first word of the first piece.
    data: [usize; 2],
}

/// Three fields of PyThreadState.
#[repr(C)]
struct Fields {
    piece: *mut FirstPiece,
    top: usize,
    limit: usize,
}

/// A thread state whose first piece of memory for frames is small.
#[must_use]
pub struct FewFrames(());

impl FewFrames {
    /// Gives the attached thread state a small piece. `None`, without a change, if it has frames, or keeps them in another
    /// way than is known.
    pub fn expect(py: Python<'_>) -> Option<FewFrames> {
        replace(py, PIECE, SMALL_PIECE).then_some(FewFrames(()))
    }

    /// Gives the attached thread state, which is the one of [`Self::expect`], a piece of the usual size again. Without
    /// memory for that, the small one stays.
    pub fn end(self, py: Python<'_>) {
        replace(py, SMALL_PIECE, PIECE);
    }
}

/// Replaces the first piece of the attached thread state, which has size `from` and no frames, by one of size `to`.
/// Returns whether it did.
#[inline(never)]
fn replace(_py: Python<'_>, from: usize, to: usize) -> bool {
    if !frame_memory::is_ours() {
        return false;
    }
    // SAFETY: attached, as the token shows. A thread state that is attached belongs to the calling thread.
    let Some(fields) = (unsafe { find(ffi::PyThreadState_Get(), from) }) else { return false };
    // SAFETY: the fields are those of the attached thread state, which nothing else uses now. Their values show that
    // `piece` is its memory for frames, and that no frame is in it.
    unsafe {
        let Fields { piece: old, .. } = fields.read();
        if !(*old).previous.is_null() || (*old).size != from {
            return false;
        }
        let new = frame_memory::take(to).cast::<FirstPiece>();
        if new.is_null() {
            return false;
        }
        new.write(FirstPiece { previous: std::ptr::null_mut(), size: to, top: 0, data: [0; 2] });
        let start = new.expose_provenance();
        fields.write(Fields { piece: new, top: start + FIRST, limit: start + to });
        frame_memory::give_back(old.cast(), from);
    }
    true
}

/// The first byte for frames in a first piece.
const FIRST: usize = offset_of!(FirstPiece, data) + size_of::<usize>();

/// The fields of `state`, if they name an empty first piece of this size.
///
/// # Safety
/// `state` is valid, and belongs to the calling thread.
unsafe fn find(state: *mut ffi::PyThreadState, size: usize) -> Option<*mut Fields> {
    let words = state.cast::<usize>();
    // SAFETY: `index` is below WORDS, and the structure has more words than that in CPython 3.12 to 3.15, which
    // `recursion::check` lets pass. The caller promises that `state` is valid.
    let word = |index: usize| unsafe { words.add(index).read() };
    let names_piece = |index: &usize| {
        let start = word(*index);
        start != 0
            && start.is_multiple_of(size_of::<usize>())
            && start.checked_add(FIRST) == Some(word(index + 1))
            && start.checked_add(size) == Some(word(index + 2))
    };
    let index = (0..WORDS - 2).find(names_piece)?;
    // SAFETY: as above.
    Some(unsafe { words.add(index) }.cast::<Fields>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interp::testing::{in_coroutine, run, with_python};

    /// Runs Python code that calls itself `depth` times. Returns what it has computed.
    fn deep(py: Python<'_>, depth: usize) -> usize {
        let code = "def deep(left):\n    return left and 1 + deep(left - 1)\n";
        let names = run(py, code, &[]).unwrap();
        let deep = names.get_item("deep").unwrap().unwrap();
        deep.call1((depth,)).unwrap().extract().unwrap()
    }

    #[test]
    fn code_on_few_frames_may_go_deep_and_the_usual_memory_comes_back() {
        with_python(|py| {
            let found = in_coroutine(py, |py| {
                // In the coroutine's own thread state, which has no frame below this one.
                crate::interp::thread_state::in_fresh_state(py, crate::interp::identity::next(), |py| {
                    let few = FewFrames::expect(py);
                    let has_changed = few.is_some();
                    let depths = [deep(py, 1), deep(py, 200), deep(py, 900)];
                    if let Some(few) = few {
                        few.end(py);
                    }
                    let again = FewFrames::expect(py);
                    let is_back = again.is_some();
                    if let Some(few) = again {
                        few.end(py);
                    }
                    (has_changed, depths.to_vec(), is_back)
                })
            });
            let found: (bool, Vec<usize>, bool) = found.unwrap().extract().unwrap();
            assert_eq!(found, (true, vec![1, 200, 900], true));
        });
    }
}
