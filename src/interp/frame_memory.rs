//! The memory of Python frames, kept from one coroutine to the next.
//!
//! A thread state takes 16 KiB for its first frames from the arena allocator, which maps and unmaps them. With the page
//! fault that follows, that was most of the cost of a spawned coroutine. Some of these pieces are kept for the next one.
//! The frames of a coroutine that waits mostly take a few hundred bytes, but a page of their own in a mapping. Pieces
//! therefore come from the heap, where the page is shared. Everything else goes to the allocator that was there before.

#![expect(unsafe_code, reason = "an allocator of CPython's")]

use std::ffi::c_void;
use std::sync::{Mutex, Once, OnceLock};

use pyo3::ffi;
use pyo3::prelude::*;

/// The size of CPython's pieces of memory for frames (`DATA_STACK_CHUNK_SIZE`). Without pieces of this size, nothing is
/// kept.
pub const PIECE: usize = 16 * 1024;

/// The size of pieces for few frames; see [`FewFrames`](super::few_frames::FewFrames). CPython asks for none of this
/// size.
pub const SMALL_PIECE: usize = 1024;

/// The alignment of blocks that malloc(3) returns.
const HEAP_ALIGNMENT: usize = 16;

/// Mappings begin at a multiple of this, the smallest page of any machine.
const MAPPING_ALIGNMENT: usize = 4096;

/// The number of pieces that are kept.
const KEPT: usize = 16;

/// Addresses of free pieces, and their number.
struct Pieces([usize; KEPT], usize);

static PIECES: Mutex<Pieces> = Mutex::new(Pieces([0; KEPT], 0));

/// The allocator that was there before.
struct Before(ffi::PyObjectArenaAllocator);

// SAFETY: functions and a context that CPython calls from any thread.
unsafe impl Send for Before {}
// SAFETY: as above; nothing is written.
unsafe impl Sync for Before {}

static BEFORE: OnceLock<Before> = OnceLock::new();

/// Keeps memory of frames from now on. A second call does nothing.
pub fn keep_frame_memory(_py: Python<'_>) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let mut before = ffi::PyObjectArenaAllocator { ctx: std::ptr::null_mut(), alloc: None, free: None };
        // SAFETY: attached, and the structure is ours.
        unsafe { ffi::PyObject_GetArenaAllocator(&mut before) };
        let mut ours = ffi::PyObjectArenaAllocator { ctx: before.ctx, alloc: Some(allocate), free: Some(free) };
        if before.alloc.is_some() && before.free.is_some() && BEFORE.set(Before(before)).is_ok() {
            // SAFETY: attached. Memory of before comes back to the allocator of before, by `free`.
            unsafe { ffi::PyObject_SetArenaAllocator(&mut ours) };
        }
    });
}

/// Whether CPython takes its memory for frames from here.
pub fn is_ours() -> bool {
    BEFORE.get().is_some()
}

/// A piece of this size, [`PIECE`] or [`SMALL_PIECE`]. Null without memory.
pub fn take(size: usize) -> *mut c_void {
    BEFORE.get().map_or(std::ptr::null_mut(), |Before(before)| allocate(before.ctx, size))
}

/// Takes back a piece of this size that CPython or [`take`] got here.
pub fn give_back(piece: *mut c_void, size: usize) {
    if let Some(Before(before)) = BEFORE.get() {
        free(before.ctx, piece, size);
    }
}

/// Neither waits nor allocates: CPython may hold locks of its own, and a forked child may have a locked mutex.
extern "C" fn allocate(context: *mut c_void, size: usize) -> *mut c_void {
    if size == PIECE
        && let Ok(mut pieces) = PIECES.try_lock()
        && let Some(last) = pieces.1.checked_sub(1)
        && let Some(&piece) = pieces.0.get(last)
    {
        pieces.1 = last;
        return std::ptr::with_exposed_provenance_mut(piece);
    }
    if size == PIECE {
        return from_heap();
    }
    if size == SMALL_PIECE {
        // SAFETY: a new block. Memory for frames needs no content.
        return unsafe { libc::malloc(SMALL_PIECE) };
    }
    let Some(Before(ffi::PyObjectArenaAllocator { alloc: Some(alloc), .. })) = BEFORE.get() else {
        return std::ptr::null_mut();
    };
    alloc(context, size)
}

extern "C" fn free(context: *mut c_void, piece: *mut c_void, size: usize) {
    if size == PIECE
        && let Ok(mut pieces) = PIECES.try_lock()
    {
        let count = pieces.1;
        if let Some(place) = pieces.0.get_mut(count) {
            *place = piece.expose_provenance();
            pieces.1 = count + 1;
            return;
        }
    }
    if size == SMALL_PIECE {
        // SAFETY: a piece of this size comes from `allocate`, which took it from malloc(3).
        unsafe { libc::free(piece) };
    } else if size == PIECE && !piece.addr().is_multiple_of(MAPPING_ALIGNMENT) {
        to_heap(piece);
    } else if let Some(Before(ffi::PyObjectArenaAllocator { free: Some(free), .. })) = BEFORE.get() {
        free(context, piece, size);
    }
}

/// A piece of the heap, or null. It never begins on a page's border, which tells it from mapped ones. The word in front
/// of it has the address of its block.
fn from_heap() -> *mut c_void {
    // SAFETY: a new block. Memory for frames needs no content.
    let block = unsafe { libc::malloc(PIECE + 2 * HEAP_ALIGNMENT) };
    if block.is_null() {
        return block;
    }
    let mut piece = block.wrapping_byte_add(HEAP_ALIGNMENT);
    if piece.addr().is_multiple_of(MAPPING_ALIGNMENT) {
        piece = piece.wrapping_byte_add(HEAP_ALIGNMENT);
    }
    // SAFETY: the word lies within the block, in front of the piece, and is aligned as the block is.
    unsafe { piece.cast::<*mut c_void>().sub(1).write(block) };
    piece
}

fn to_heap(piece: *mut c_void) {
    // SAFETY: a piece that is not at a page's border comes from `from_heap`, which wrote the word.
    unsafe { libc::free(piece.cast::<*mut c_void>().sub(1).read()) };
}
