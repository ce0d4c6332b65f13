//! A thread that answers at once on busy processors.

#![expect(unsafe_code, reason = "rustix has no safe wrapper for the attributes of a thread")]

/// The slice that the thread asks for, in nanoseconds: the shortest that the kernel grants.
const SLICE_NANOSECONDS: u64 = 100_000;

/// Asks the kernel to let this thread run soon after it wakes, although others compute on its processor.
///
/// Linux 6.12 and newer take the wanted slice of an ordinary thread from `sched_setattr(2)`. A thread with a short slice
/// comes before those with longer ones, and gets no more time than they. It needs no privilege. Older kernels ignore the
/// number, and a refusal changes nothing.
pub fn be_prompt() {
    let mut attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: The kernel writes at most `size` bytes, those of the value that is passed. 0 is the calling thread.
    let read = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, attributes.size, 0) };
    if read == 0 && attributes.sched_policy == libc::SCHED_OTHER as u32 {
        attributes.sched_runtime = SLICE_NANOSECONDS;
        // SAFETY: The kernel reads `size` bytes of the value that is passed. 0 is the calling thread.
        unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_thread_keeps_its_policy_and_its_niceness() {
        std::thread::spawn(|| {
            let before = rustix::process::nice(0);
            be_prompt();
            assert_eq!(rustix::process::nice(0), before);
        })
        .join()
        .unwrap();
    }
}
