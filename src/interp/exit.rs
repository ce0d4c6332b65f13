//! The end of a process whose interpreter may be held for ever: by an OS thread that does not need it.

#![expect(unsafe_code, reason = "std has no _exit(2)")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::output;

/// Grows with every [`arm_exit`] and [`disarm_exit`].
static ARMED: AtomicU64 = AtomicU64::new(0);

/// Ends the process `after` that time with `status`, whoever holds the interpreter then, unless [`disarm_exit`] comes first.
/// Whatever has been written by then is not lost; what Python has buffered is.
pub fn arm_exit(after: Duration, status: i32) {
    let number = ARMED.fetch_add(1, Ordering::AcqRel) + 1;
    // Without a thread the process ends as the interpreter does.
    let _ = std::thread::Builder::new().name("rmeinheld-exit".into()).spawn(move || {
        std::thread::sleep(after);
        if ARMED.load(Ordering::Acquire) == number {
            output::say("the process ends in the middle of a request or thread that computes, or blocks in C");
            leave_process(status);
        }
    });
}

/// Takes [`arm_exit`] back.
pub fn disarm_exit() {
    ARMED.fetch_add(1, Ordering::AcqRel);
}

fn leave_process(status: i32) -> ! {
    // SAFETY: always callable; nothing of this process runs afterwards.
    unsafe { libc::_exit(status) }
}
