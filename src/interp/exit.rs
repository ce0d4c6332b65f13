//! The end of a process whose interpreter may be held for ever. An OS thread that needs no interpreter ends it.

#![expect(unsafe_code, reason = "std has no _exit(2)")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::output;

/// The number of calls of [`arm_exit`] and [`disarm_exit`]: an armed exit holds until the next one.
static ARMED: AtomicU64 = AtomicU64::new(0);

/// Ends the process with `status` in `after`, whichever thread holds the interpreter then, unless [`disarm_exit`] comes
/// first. Output that Python has buffered is lost.
pub fn arm_exit(after: Duration, status: i32) {
    let number = ARMED.fetch_add(1, Ordering::AcqRel) + 1;
    // If no thread can be started, the process ends when the interpreter does.
    let _ = std::thread::Builder::new().name("rmeinheld-exit".into()).spawn(move || {
        std::thread::sleep(after);
        if ARMED.load(Ordering::Acquire) == number {
            output::say("the process ends in the middle of a request or thread that computes, or blocks in C");
            leave_process(status);
        }
    });
}

/// Cancels [`arm_exit`].
pub fn disarm_exit() {
    ARMED.fetch_add(1, Ordering::AcqRel);
}

fn leave_process(status: i32) -> ! {
    // SAFETY: _exit(2) may be called at any time by any thread. No code of this process runs afterwards.
    unsafe { libc::_exit(status) }
}
