//! Facts about an OS thread of this process, from proc(5): whether it runs or waits, and in which system call.

use std::fs;

/// The state of an OS thread at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadState {
    /// The thread runs, or waits for a processor alone.
    pub is_running: bool,
    /// How often the thread has waited so far. While this number stays the same, it is one wait. `None` if the system
    /// does not count.
    pub waits: Option<u64>,
}

/// The system call that a thread waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemCall {
    /// Its number.
    pub number: i64,
    /// Its first argument.
    pub first: u64,
}

/// System calls that continue after a handler of a signal with SA_RESTART (signal(7)). They have no time limit of their
/// own; one of a socket (SO_RCVTIMEO) cannot be seen, so calls of sockets are not among them.
const RESTARTED: [i64; 5] = [libc::SYS_wait4, libc::SYS_waitid, libc::SYS_flock, libc::SYS_openat, libc::SYS_fsync];

/// Names of system calls that block, for people.
const NAMES: [(i64, &str); 24] = [
    (libc::SYS_read, "read"),
    (libc::SYS_write, "write"),
    (libc::SYS_readv, "readv"),
    (libc::SYS_writev, "writev"),
    (libc::SYS_pread64, "pread"),
    (libc::SYS_pwrite64, "pwrite"),
    (libc::SYS_recvfrom, "recvfrom"),
    (libc::SYS_recvmsg, "recvmsg"),
    (libc::SYS_sendto, "sendto"),
    (libc::SYS_sendmsg, "sendmsg"),
    (libc::SYS_connect, "connect"),
    (libc::SYS_accept4, "accept4"),
    (libc::SYS_ppoll, "ppoll"),
    (libc::SYS_pselect6, "pselect"),
    (libc::SYS_epoll_pwait, "epoll_pwait"),
    (libc::SYS_nanosleep, "nanosleep"),
    (libc::SYS_clock_nanosleep, "clock_nanosleep"),
    (libc::SYS_futex, "futex"),
    (libc::SYS_wait4, "wait4"),
    (libc::SYS_waitid, "waitid"),
    (libc::SYS_flock, "flock"),
    (libc::SYS_fcntl, "fcntl"),
    (libc::SYS_fsync, "fsync"),
    (libc::SYS_rt_sigtimedwait, "sigtimedwait"),
];

/// Further names on processors that have the older calls.
#[cfg(target_arch = "x86_64")]
const OLDER_NAMES: [(i64, &str); 4] = [
    (libc::SYS_poll, "poll"),
    (libc::SYS_select, "select"),
    (libc::SYS_epoll_wait, "epoll_wait"),
    (libc::SYS_accept, "accept"),
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER_NAMES: [(i64, &str); 0] = [];

/// Calls whose first argument is a descriptor.
const WITH_DESCRIPTOR: [&str; 16] = [
    "read", "write", "readv", "writev", "pread", "pwrite", "recvfrom", "recvmsg", "sendto", "sendmsg", "connect",
    "accept4", "accept", "flock", "fcntl", "fsync",
];

impl ThreadState {
    /// The state of the thread with this number. `None` if the thread is gone, or the system does not say.
    pub fn of(thread: i32) -> Option<ThreadState> {
        let status = fs::read_to_string(format!("/proc/self/task/{thread}/status")).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        Some(ThreadState {
            is_running: field("State:")?.starts_with('R'),
            waits: field("voluntary_ctxt_switches:").and_then(|text| text.parse().ok()),
        })
    }
}

impl SystemCall {
    /// The system call that the thread waits in. `None` if it runs, is gone, or the system does not say.
    pub fn of(thread: i32) -> Option<SystemCall> {
        let text = fs::read_to_string(format!("/proc/self/task/{thread}/syscall")).ok()?;
        SystemCall::parse(&text)
    }

    fn parse(text: &str) -> Option<SystemCall> {
        let mut words = text.split_ascii_whitespace();
        let number = words.next()?.parse().ok().filter(|&number| number >= 0)?;
        let first = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
        Some(SystemCall { number, first })
    }

    /// Whether a handler of a signal leaves the call unharmed.
    pub fn is_restarted(self) -> bool {
        RESTARTED.contains(&self.number)
    }

    /// The name of the call, if it is a well-known one.
    pub fn name(self) -> Option<&'static str> {
        NAMES.iter().chain(&OLDER_NAMES).find(|(number, _)| *number == self.number).map(|(_, name)| *name)
    }

    /// The call as people know it: `recvfrom(2) of descriptor 7, a TCP socket`, or its number.
    pub fn describe(self) -> String {
        let Some(name) = self.name() else { return format!("system call {}", self.number) };
        if !WITH_DESCRIPTOR.contains(&name) {
            return format!("{name}(2)");
        }
        let target = fs::read_link(format!("/proc/self/fd/{}", self.first)).ok();
        let what = target.map(|target| format!(" ({})", target.to_string_lossy().escape_debug())).unwrap_or_default();
        format!("{name}(2) on descriptor {}{what}", self.first)
    }
}

/// The names of the threads of this process that run now, apart from the calling thread.
pub fn running_threads() -> Vec<(i32, String)> {
    let own = rustix::thread::gettid().as_raw_nonzero().get();
    let Ok(entries) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    numbers
        .filter(|&number| number != own && ThreadState::of(number).is_some_and(|state| state.is_running))
        .map(|number| {
            let name = fs::read_to_string(format!("/proc/self/task/{number}/comm")).unwrap_or_default();
            (number, name.trim().escape_debug().to_string())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    #[test]
    fn a_thread_that_waits_differs_from_one_that_runs() {
        let (sender, receiver) = mpsc::channel();
        let (ends, over) = mpsc::channel::<()>();
        let waiter = std::thread::spawn(move || {
            sender.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            let _ = over.recv();
        });
        let number = receiver.recv().unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while ThreadState::of(number).unwrap().is_running && Instant::now() < until {
            std::thread::yield_now();
        }
        let state = ThreadState::of(number).unwrap();
        assert!(!state.is_running && state == ThreadState::of(number).unwrap());
        if let Some(call) = SystemCall::of(number) {
            assert_eq!((call.name(), call.is_restarted()), (Some("futex"), false));
        }
        assert!(ThreadState::of(rustix::thread::gettid().as_raw_nonzero().get()).unwrap().is_running);
        drop(ends);
        waiter.join().unwrap();
        assert_eq!((ThreadState::of(i32::MAX), SystemCall::of(i32::MAX)), (None, None));
    }

    #[test]
    fn a_system_call_is_read_from_its_line() {
        let parse = SystemCall::parse;
        assert_eq!(parse("running\n"), None);
        assert_eq!(parse("-1 0x7ffc0e288f28 0x7f7108b302ad\n"), None);
        assert_eq!(parse(""), None);
        let call = parse("230 0x0 0x0 0x7ffd 0x7ffd 0x0 0x0 0x7ffe 0x7f71\n").unwrap();
        assert_eq!((call.number, call.first), (230, 0));
        let (reader, _writer) = std::io::pipe().unwrap();
        let read = SystemCall { number: libc::SYS_read, first: std::os::fd::AsRawFd::as_raw_fd(&reader) as u64 };
        assert!(read.describe().starts_with("read(2) on descriptor ") && read.describe().contains("(pipe:["));
        assert_eq!(SystemCall { number: 99_999, first: 0 }.describe(), "system call 99999");
        assert_eq!(SystemCall { number: libc::SYS_clock_nanosleep, first: 0 }.describe(), "clock_nanosleep(2)");
    }
}
