//! The clock that all processes of the service share.

use rustix::time::{ClockId, clock_gettime};

/// The time on a clock that all processes share, in nanoseconds.
pub(in crate::crew) fn nanoseconds(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    now.tv_sec.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec.cast_unsigned())
}
