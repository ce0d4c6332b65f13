//! The end of a process whose interpreter may be held for ever. An OS thread that needs no interpreter ends it.

#![expect(unsafe_code, reason = "std has no _exit(2)")]

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::RecvFlags;

use crate::kernel::timespec_until;
use crate::output;

/// How long a signal that ends the process in a hurry may stay unread.
const HURRIED_EXIT: Duration = Duration::from_millis(700);

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

/// Like [`arm_exit`], and watches `signals`, the socket of `signal.set_wakeup_fd`. The process also ends if one of the
/// signals `hurrying` stays unread there for [`HURRIED_EXIT`]. The thread that handles it then waits for the interpreter.
pub fn arm_exit_and_watch(after: Duration, status: i32, signals: OwnedFd, hurrying: &'static [u8]) {
    let number = ARMED.fetch_add(1, Ordering::AcqRel) + 1;
    let end = Instant::now() + after;
    let is_due = move || ARMED.load(Ordering::Acquire) == number;
    // If no thread can be started, the process ends when the interpreter does.
    let _ = std::thread::Builder::new().name("rmeinheld-exit".into()).spawn(move || {
        loop {
            let timeout = timespec_until(end);
            let _ = poll(&mut [PollFd::new(&signals, PollFlags::IN)], Some(&timeout));
            if Instant::now() < end {
                std::thread::sleep(HURRIED_EXIT.min(end.saturating_duration_since(Instant::now())));
            }
            if !is_due() {
                return;
            }
            if Instant::now() >= end || is_unread(&signals, hurrying) {
                break;
            }
        }
        output::say("the process ends in the middle of a request or thread that computes, or blocks in C");
        leave_process(status);
    });
}

/// Does one of `numbers` wait on the socket `signals`?
fn is_unread(signals: &OwnedFd, numbers: &[u8]) -> bool {
    let mut unread = Vec::with_capacity(512);
    let peeked =
        rustix::net::recv(signals, rustix::buffer::spare_capacity(&mut unread), RecvFlags::PEEK | RecvFlags::DONTWAIT);
    peeked.is_ok() && unread.iter().any(|number| numbers.contains(number))
}

/// Cancels [`arm_exit`].
pub fn disarm_exit() {
    ARMED.fetch_add(1, Ordering::AcqRel);
}

fn leave_process(status: i32) -> ! {
    // SAFETY: _exit(2) may be called at any time by any thread. No code of this process runs afterwards.
    unsafe { libc::_exit(status) }
}
