//! The coroutines that have taken CPython's own locks, for reports. A plain lock of CPython knows no owner.
//!
//! The table has a fixed size and forgets: of two locks with the same place it knows the one that was taken last. An OS
//! thread leaves no note. Written and read while attached.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The bits of the number of a place.
const PLACE_BITS: u32 = 10;

/// The number of places.
const PLACES: usize = 1 << PLACE_BITS;

/// Spreads addresses over the places (Knuth's multiplicative hashing).
const SPREAD: usize = 0x9e37_79b9_7f4a_7c15;

struct Holder {
    lock: AtomicUsize,
    ident: AtomicU64,
}

static HOLDERS: [Holder; PLACES] = [const { Holder { lock: AtomicUsize::new(0), ident: AtomicU64::new(0) } }; PLACES];

fn place(lock: usize) -> Option<&'static Holder> {
    HOLDERS.get(lock.wrapping_mul(SPREAD) >> (usize::BITS - PLACE_BITS))
}

/// Notes that the coroutine `ident` has taken the lock at this address.
pub fn note(lock: usize, ident: u64) {
    if let Some(holder) = place(lock) {
        holder.lock.store(lock, Ordering::Relaxed);
        holder.ident.store(ident, Ordering::Relaxed);
    }
}

/// Notes that the lock at this address was released.
pub fn forget(lock: usize) {
    if let Some(holder) = place(lock)
        && holder.lock.load(Ordering::Relaxed) == lock
    {
        holder.lock.store(0, Ordering::Relaxed);
    }
}

/// The ident of the coroutine that holds the lock at this address, if it is known.
pub fn holder(lock: usize) -> Option<u64> {
    place(lock)
        .filter(|holder| holder.lock.load(Ordering::Relaxed) == lock)
        .map(|holder| holder.ident.load(Ordering::Relaxed))
}
