//! Parking with little memory: the pages of a stack below the frames of a parked coroutine go back to the kernel.
//!
//! A stack keeps each page that was ever touched. A coroutine that has imported a module or answered a request, and now
//! waits for hours, would otherwise hold what its deepest call needed.
//!
//! The frames of the switch to another coroutine lie below the last address that is known, and their size is up to the
//! compiler. The first coroutine therefore paints its stack and parks. The paint then shows how far down the frames have
//! reached, and every stack keeps a little more than that. Without such a measure no stack is ever trimmed.

#![expect(unsafe_code, reason = "madvise(2) on the unused part of a stack")]

use std::cell::Cell;
use std::ptr;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Parker;
use super::overflow::StackBounds;

/// The most bytes that the frames of the switch to another coroutine may take. In an optimised build they take 300.
const MOST_BYTES: usize = if cfg!(debug_assertions) { 32 * 1024 } else { 1024 };

/// Bytes that are kept below these frames.
const SPARE_BYTES: usize = 128;

/// The words that tell how much of the stack the frames of the switch use.
const PAINT: usize = 0x5061_696E_7465_6421;

/// Bytes that stay below the frame of [`Parking::park`]; 0 until they are known.
static KEPT_BYTES: AtomicUsize = AtomicUsize::new(0);

/// How often the paint is looked at. A signal handler, which runs on the same stack, may spoil it.
const LOOKS: usize = 5;

/// The word that `may` writes at the bottom of a stack. A coroutine that ends without it counts as overflown.
const MARK: usize = 0xDEAD_BEEF;

/// The place where one coroutine parks, and its stack meanwhile. For where to make it, see [`Parker`].
#[derive(Default)]
pub struct Parking {
    parker: Parker,
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

    /// The bounds of the stack; empty before [`Self::begin`].
    pub fn bounds(&self) -> StackBounds {
        self.bounds.get()
    }

    /// Parks the coroutine, as [`Parker::park`] does.
    ///
    /// # Parks
    // In a frame of its own, which is small: in that of a caller, the noted address could be far above the stack pointer.
    #[inline(never)]
    pub fn park(&self) {
        let here = ptr::from_ref(&self.parked_at.get()).addr();
        let StackBounds { bottom, top } = self.bounds.get();
        // On another stack than its own, the frames are unknown.
        self.parked_at.set(if (bottom..top).contains(&here) { here } else { 0 });
        self.parker.park();
        self.parked_at.set(0);
    }

    /// Makes the coroutine runnable, as [`Parker::unpark`] does.
    pub fn unpark(&self) {
        self.parker.unpark();
    }

    /// Returns the unused pages to the kernel. Does nothing unless the coroutine is parked.
    pub fn trim(&self) {
        let (at, kept) = (self.parked_at.get(), KEPT_BYTES.load(Ordering::Relaxed));
        if at == 0 || kept == 0 {
            return;
        }
        let page = rustix::param::page_size();
        let bottom = self.bounds.get().bottom;
        let end = at.saturating_sub(kept) / page * page;
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

/// Finds out whether stacks may be trimmed. Call it in the first coroutine, before others wait.
///
/// # Parks
// Not part of its caller: frames that coroutines wait in should be small.
#[inline(never)]
pub fn measure_parking() {
    let parking = Rc::new(Parking::default());
    parking.begin(StackBounds::of_caller(super::stack_bytes()));
    for _ in 0..LOOKS {
        if KEPT_BYTES.load(Ordering::Relaxed) > 0 {
            return;
        }
        let observer = Observer(Rc::clone(&parking));
        let observe = move || {
            let Observer(parking) = { observer };
            let used = Some(parking.parked_at.get()).filter(|&at| at != 0).map(used_below);
            if let Some(used) = used.filter(|&used| used <= MOST_BYTES / 2) {
                KEPT_BYTES.store(used + SPARE_BYTES, Ordering::Relaxed);
            }
            parking.unpark();
        };
        if super::spawn(Box::new(observe)).is_err() {
            return;
        }
        paint();
        parking.park();
    }
}

/// A coroutine that parks, as the one sees it that looks at its stack.
struct Observer(Rc<Parking>);

// SAFETY: with one worker, both coroutines run on the same thread.
unsafe impl Send for Observer {}

/// Paints the stack below the caller, further down than [`MOST_BYTES`].
#[inline(never)]
fn paint() {
    std::hint::black_box(&mut [PAINT; MOST_BYTES / size_of::<usize>() + 64]);
}

/// The bytes of a parked coroutine's stack below `address` that have been used since [`paint`], as far as it has painted.
fn used_below(address: usize) -> usize {
    let mut words = (address - MOST_BYTES..address).step_by(size_of::<usize>());
    // SAFETY: the words are aligned and lie in a stack on which nothing runs, where `paint` has written. Nothing refers
    // to them.
    let lowest = words.find(|&word| unsafe { ptr::with_exposed_provenance::<usize>(word).read_volatile() != PAINT });
    lowest.map_or(0, |lowest| address - lowest)
}

/// Whether the lowest page of a stack is at `address`.
fn has_mark(address: usize, page: usize) -> bool {
    // SAFETY: this advice only reads the page, as any load would, and fails if it is not readable.
    let advice = unsafe { libc::madvise(ptr::with_exposed_provenance_mut(address), page, libc::MADV_POPULATE_READ) };
    // SAFETY: the address is aligned, and the page readable. No reference to the lowest page of a stack exists.
    advice == 0 && unsafe { ptr::with_exposed_provenance::<usize>(address).read() } == MARK
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coroutine::tests::in_a_coroutine;
    use crate::coroutine::{self, StackBounds};

    /// Touches `bytes` of the stack below the caller.
    #[inline(never)]
    fn go_deep(bytes: usize) -> u8 {
        let page = std::hint::black_box([1_u8; 4096]);
        if bytes <= 4096 { page[0] } else { page[7].max(go_deep(bytes - 4096)) }
    }

    fn resident_pages(bounds: StackBounds) -> usize {
        let page = rustix::param::page_size();
        let first = bounds.bottom - page;
        let mut pages = vec![0_u8; (bounds.top - first) / page];
        let length = bounds.top - first;
        // SAFETY: mincore(2) writes a byte for each page of the stack, which is mapped.
        let asked = unsafe { libc::mincore(ptr::with_exposed_provenance_mut(first), length, pages.as_mut_ptr()) };
        assert_eq!(asked, 0);
        pages.iter().filter(|&&page| page & 1 == 1).count()
    }

    #[test]
    fn a_parked_stack_keeps_its_frames_alone_and_goes_on() {
        let (running, parked, deep, kept) = in_a_coroutine(|| {
            let parking = Rc::new(Parking::default());
            let bounds = StackBounds::of_caller(coroutine::stack_bytes());
            parking.begin(bounds);
            measure_parking();
            assert!(KEPT_BYTES.load(Ordering::Relaxed) > SPARE_BYTES);
            let kept = std::hint::black_box([7_u8; 2048]);
            go_deep(256 * 1024);
            parking.trim();
            let running = resident_pages(bounds);
            let parked = Rc::new(Cell::new(0));
            let helper = Helper(Rc::clone(&parking), Rc::clone(&parked), bounds);
            let spawned = coroutine::spawn(Box::new(move || {
                let Helper(parking, parked, bounds) = { helper };
                parking.trim();
                parked.set(resident_pages(bounds));
                parking.trim();
                parking.unpark();
            }));
            assert!(spawned.is_ok());
            while parked.get() == 0 {
                parking.park();
            }
            let deep = go_deep(128 * 1024);
            parking.end();
            (running, parked.get(), deep, kept[2047])
        });
        assert!(running >= 64 && parked <= 20, "{running} pages before the trim and {parked} after it");
        assert_eq!((deep, kept), (1, 7));
    }

    #[test]
    fn the_paint_shows_what_was_used() {
        let mut words = vec![PAINT; MOST_BYTES / size_of::<usize>()];
        let used = |words: &[usize]| used_below(words.as_ptr_range().end.expose_provenance());
        assert_eq!(used(&words), 0);
        let count = words.len();
        words[count - 3] = 1;
        assert_eq!(used(&words), 3 * size_of::<usize>());
        words[0] = 1;
        assert_eq!(used(&words), MOST_BYTES);
    }

    struct Helper(Rc<Parking>, Rc<Cell<usize>>, StackBounds);

    // SAFETY: both coroutines run on the same thread.
    unsafe impl Send for Helper {}
}
