//! Small parts of the kernel's interface that several layers use: times, poll events, bells, lent descriptors, threads.

mod bell;
mod free_memory;
mod lent_descriptor;
mod os_thread;
mod promptness;

pub use bell::Bell;
pub use free_memory::return_free_memory;
pub use lent_descriptor::LentDescriptor;
pub use os_thread::{SystemCall, ThreadState, running_threads};
pub use promptness::be_prompt;

use std::time::{Duration, Instant};

use rustix::event::{PollFlags, Timespec};

/// `duration` as a timespec. A duration that is too long becomes the longest timespec.
pub fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: duration.subsec_nanos().into() }
}

/// The time from now until `deadline` as a timespec; zero if the deadline has passed.
pub fn timespec_until(deadline: Instant) -> Timespec {
    timespec(deadline.saturating_duration_since(Instant::now()))
}

/// The poll(2) events with these numbers. The backends of rustix disagree on the sign of the events' type.
pub fn poll_events(numbers: u16) -> PollFlags {
    PollFlags::from_bits_retain(numbers as _)
}

/// The numbers of poll(2) events.
pub fn poll_numbers(events: PollFlags) -> u16 {
    events.bits() as _
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_keep_their_numbers() {
        assert_eq!(poll_events(1), PollFlags::IN);
        assert_eq!(poll_numbers(PollFlags::IN | PollFlags::HUP), 0x11);
        assert_eq!(poll_numbers(poll_events(0xffff)), 0xffff);
    }

    #[test]
    fn a_duration_keeps_its_nanoseconds_and_is_cut_at_the_longest_of_the_kernel() {
        let short = timespec(Duration::new(7, 999_999_999));
        assert_eq!((short.tv_sec, short.tv_nsec), (7, 999_999_999));
        assert_eq!(timespec(Duration::MAX).tv_sec, i64::MAX);
    }

    #[test]
    fn a_deadline_that_has_passed_leaves_no_time() {
        let left = timespec_until(Instant::now() - Duration::from_secs(1));
        assert_eq!((left.tv_sec, left.tv_nsec), (0, 0));
    }
}
