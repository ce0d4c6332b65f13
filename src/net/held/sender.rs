//! The sender: an OS thread that sends what has been held for a millisecond, whatever the loop does.
//!
//! It reads a timer (timerfd_create(2)), which goes off a millisecond after something began to be held. The loop sends
//! nearly everything earlier. Therefore the timer is not stopped, and output that is held next sets it anew only if it
//! goes off too soon. Under load it hardly ever goes off, and the sender does not wake.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::io::Errno;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};

use crate::net::forks;

/// The time in nanoseconds after which held output is sent.
const LONGEST: u64 = 1_000_000;

/// The least time in nanoseconds for which output is held, unless the loop sends it.
const LEAST: u64 = 500_000;

/// The timer that wakes the sender.
static TIMER: OnceLock<OwnedFd> = OnceLock::new();

/// Whether the sender runs, or is being started.
static RUNS: AtomicBool = AtomicBool::new(false);

/// When the timer goes off, in nanoseconds of the monotonic clock; 0 if it is not set.
static DUE: AtomicU64 = AtomicU64::new(0);

/// The output that the sender looks after.
#[derive(Clone, Copy)]
pub struct Watched {
    /// Says when the oldest of it began to be held; `None` if nothing is held.
    pub since: fn() -> Option<u64>,
    /// Sends what the sockets accept now. Returns whether something is left.
    pub send: fn() -> bool,
    /// Sends what the sockets accept, in a thread that forks.
    pub before_fork: fn(),
}

/// Whether the sender runs, for `output`. Starts it. Without a descriptor or a thread for it, the next call tries again.
#[inline]
pub fn runs(output: Watched) -> bool {
    RUNS.load(Ordering::Relaxed) || start(output)
}

#[cold]
fn start(output: Watched) -> bool {
    let timer = TIMER.get().or_else(|| {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC).ok()?;
        Some(TIMER.get_or_init(|| timer))
    });
    let Some(timer) = timer else { return false };
    if RUNS.swap(true, Ordering::Relaxed) {
        return true;
    }
    forks::before_fork(output.before_fork);
    let thread = std::thread::Builder::new().name("rmeinheld-send".to_owned()).stack_size(64 * 1024);
    let is_started = thread.spawn(move || run(timer, output)).is_ok();
    if !is_started {
        RUNS.store(false, Ordering::Relaxed);
    }
    is_started
}

/// Has the sender look at the output that is held since `since`. Call it after the output can be seen. `is_alone` says
/// that nothing else is held, which might have to be sent earlier.
pub fn watch(since: u64, is_alone: bool) {
    let due = DUE.load(Ordering::SeqCst);
    if (due == 0 || (is_alone && due < since + LEAST))
        && let Some(timer) = TIMER.get()
    {
        set(timer, since + LONGEST);
    }
}

fn set(timer: &OwnedFd, due: u64) {
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let it_value =
        Timespec { tv_sec: (due / 1_000_000_000).cast_signed(), tv_nsec: (due % 1_000_000_000).cast_signed() };
    let once = Itimerspec { it_interval: zero, it_value };
    DUE.store(due, Ordering::SeqCst);
    // It can only fail for a descriptor that is no timer.
    let _ = timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &once);
}

/// The life of the sender.
fn run(timer: &OwnedFd, output: Watched) {
    loop {
        match rustix::io::read(timer, &mut [0; 8]) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(_) => return,
        }
        // Output that the loop has made visible before it read this zero is seen below; for other output it sets the timer.
        DUE.store(0, Ordering::SeqCst);
        let Some(since) = (output.since)() else { continue };
        let now = now();
        if now.saturating_sub(since) < LEAST {
            set(timer, since + LONGEST);
        } else if (output.send)() {
            // The client takes the rest later, and the running turn may still not look.
            set(timer, now + LONGEST);
        }
    }
}

/// The monotonic clock in nanoseconds. Never 0.
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec.cast_unsigned()).max(1)
}
