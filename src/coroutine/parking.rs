//! Parking with little memory: the pages of a stack below the frames of a parked coroutine go back to the kernel.
//!
//! A stack keeps each page that was ever touched. A coroutine that has imported a module or answered a request, and now
//! waits for hours, would otherwise hold what its deepest call needed.

#![expect(unsafe_code, reason = "madvise(2) on the unused part of a stack")]

use std::cell::Cell;
use std::ptr;

use super::overflow::StackBounds;

/// Bytes below the frame of [`Parking::park`] that stay: the frames of the switch to another coroutine. These take 300
/// bytes in an optimised build.
const KEPT_BYTES: usize = if cfg!(debug_assertions) { 32 * 1024 } else { 2048 };

/// The word that `may` writes at the bottom of a stack. A coroutine that ends without it counts as overflown.
const MARK: usize = 0xDEAD_BEEF;

/// The stack of one coroutine while it is parked.
#[derive(Debug, Default)]
pub struct Parking {
    bounds: Cell<StackBounds>,
    /// An address in the lowest frame but those of the switch, while the coroutine is parked; otherwise 0.
    parked_at: Cell<usize>,
    /// The address of the mark, if its page has gone back to the kernel.
    mark: Cell<usize>,
}

impl Parking {
    /// Notes the bounds of the stack. Call it in the coroutine.
    pub fn begin(&self, bounds: StackBounds) {
        self.bounds.set(bounds);
    }

    /// Parks the coroutine, as [`super::park`] does.
    ///
    /// # Parks
    // In a frame of its own, which is small: in that of a caller, the noted address could be far above the stack pointer.
    #[inline(never)]
    pub fn park(&self) {
        let here = ptr::from_ref(&self.parked_at.get()).addr();
        let StackBounds { bottom, top } = self.bounds.get();
        // On another stack than its own, the frames are unknown.
        self.parked_at.set(if (bottom..top).contains(&here) { here } else { 0 });
        super::park();
        self.parked_at.set(0);
    }

    /// Returns the unused pages to the kernel. Does nothing unless the coroutine is parked.
    pub fn trim(&self) {
        let at = self.parked_at.get();
        if at == 0 {
            return;
        }
        let page = rustix::param::page_size();
        let bottom = self.bounds.get().bottom;
        let end = at.saturating_sub(KEPT_BYTES) / page * page;
        // The bounds leave the lowest page out.
        let lowest = bottom.saturating_sub(page);
        if self.mark.get() != lowest && !has_mark(lowest, page) {
            // Not the stack that was expected.
            return;
        }
        if end > lowest {
            self.mark.set(lowest);
            // SAFETY: the pages belong to the stack of a parked coroutine, and all of its frames are above `end`. Only
            // code on that stack sets `parked_at`, and resets it before it goes on. The mark is written again before
            // the coroutine ends.
            unsafe { libc::madvise(ptr::with_exposed_provenance_mut(lowest), end - lowest, libc::MADV_DONTNEED) };
        }
    }

    /// Puts the mark back. Call it as the last thing in the coroutine.
    pub fn end(&self) {
        let mark = self.mark.replace(0);
        if mark != 0 {
            // SAFETY: the word had this value before `trim`, and belongs to the coroutine's own stack, which is in use.
            unsafe { ptr::with_exposed_provenance_mut::<usize>(mark).write(MARK) };
        }
    }
}

/// Whether the lowest page of a stack is at `address`.
fn has_mark(address: usize, page: usize) -> bool {
    // SAFETY: this advice only reads the page, as any load would, and fails if it is not readable.
    let advice = unsafe { libc::madvise(ptr::with_exposed_provenance_mut(address), page, libc::MADV_POPULATE_READ) };
    // SAFETY: the address is aligned, and the page readable. No reference to the lowest page of a stack exists.
    advice == 0 && unsafe { ptr::with_exposed_provenance::<usize>(address).read() } == MARK
}
