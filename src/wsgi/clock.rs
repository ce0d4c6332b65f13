//! The time of day for responses.

use std::cell::Cell;

use rustix::time::{ClockId, clock_gettime};

use crate::http::date::imf_fixdate;

thread_local! {
    static LAST: Cell<(u64, [u8; 29])> = const { Cell::new((u64::MAX, [0; 29])) };
}

/// Seconds since 1970, UTC, by the coarse clock: a few milliseconds late, and cheap enough for every response.
pub fn unix_seconds() -> u64 {
    u64::try_from(clock_gettime(ClockId::RealtimeCoarse).tv_sec).unwrap_or(0)
}

/// The value of a Date field, formatted once a second.
pub fn http_date() -> [u8; 29] {
    let now = unix_seconds();
    LAST.with(|last| {
        let (second, date) = last.get();
        if second == now {
            return date;
        }
        let date = imf_fixdate(now);
        last.set((now, date));
        date
    })
}
