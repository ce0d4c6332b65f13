//! Python stacks without the interpreter: `faulthandler` writes them in the handler of a signal.
//!
//! C code that holds the interpreter keeps every other thread from Python's structures. The thread itself may read them
//! in a handler, and `faulthandler.register` has one. Two signals without another use get it: the first writes the stack
//! of the thread that it is sent to, the second writes the stacks of all threads.
//!
//! A handler interrupts a system call. Calls with a time limit, such as nanosleep(2) and poll(2), then end early, even
//! with SA_RESTART (signal(7)). The first signal is therefore sent only to a thread that runs, and the second to the
//! caller's own thread, which harms no one.

#![expect(unsafe_code, reason = "sigaction(2) and tgkill(2)")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use pyo3::exceptions::PyOSError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rustix::fs::{MemfdFlags, SeekFrom, fstat, ftruncate, memfd_create, seek};
use rustix::thread::gettid;

use crate::sync::lock;

/// How long a thread may take to write its stack. It may have to wait for a processor.
const PATIENCE: Duration = Duration::from_millis(60);

/// The pause between two looks at what was written.
const LOOK: Duration = Duration::from_millis(3);

/// The most bytes that are read of the stacks.
const MOST_BYTES: usize = 256 * 1024;

/// The number of threads whose stacks faulthandler writes.
const SHOWN: usize = 100;

/// Held while Python's structures are read without the interpreter.
static READS: Mutex<()> = Mutex::new(());

/// Two signals with handlers that write Python stacks.
pub struct StackSignals {
    own: i32,
    all: i32,
    /// The memory that the handlers write to.
    memory: OwnedFd,
}

impl StackSignals {
    /// Takes two real-time signals that are not in use, and installs the handlers.
    ///
    /// # Errors
    /// OSError if no signal is free or no descriptor is left, and the errors of `faulthandler.register`.
    pub fn install(py: Python<'_>) -> PyResult<StackSignals> {
        let memory = memfd_create("rmeinheld-stacks", MemfdFlags::CLOEXEC).map_err(io::Error::from)?;
        // The last one is often taken as the last one of all.
        let mut free = (libc::SIGRTMIN()..libc::SIGRTMAX()).rev().filter(|&number| is_free(number));
        let (Some(own), Some(all)) = (free.next(), free.next()) else {
            return Err(PyOSError::new_err("no real-time signal is free"));
        };
        let faulthandler = py.import("faulthandler")?;
        for (number, all_threads) in [(own, false), (all, true)] {
            let kwargs = PyDict::new(py);
            kwargs.set_item("file", memory.as_raw_fd())?;
            kwargs.set_item("all_threads", all_threads)?;
            faulthandler.call_method("register", (number,), Some(&kwargs))?;
        }
        Ok(StackSignals { own, all, memory })
    }

    /// Removes the handlers.
    pub fn remove(self, py: Python<'_>) {
        if let Ok(faulthandler) = py.import("faulthandler") {
            for number in [self.own, self.all] {
                let _ = faulthandler.call_method1("unregister", (number,));
            }
        }
    }

    /// The Python stack of a thread that runs, in the form of faulthandler: the innermost call first. Empty if the
    /// thread does not write it in time. Without the interpreter.
    pub fn stack_of(&self, thread: i32) -> String {
        self.empty();
        if !send(self.own, thread) {
            return String::new();
        }
        let until = Instant::now() + PATIENCE;
        let mut size = 0;
        while Instant::now() < until {
            std::thread::sleep(LOOK);
            let before = std::mem::replace(&mut size, fstat(&self.memory).map_or(0, |status| status.st_size));
            if size > 0 && size == before {
                break;
            }
        }
        self.written()
    }

    /// The Python stack with a thread state, in the form of faulthandler, for a thread that waits in a call of C code
    /// which holds the interpreter. Empty if it is not among the 100 that faulthandler writes. Without the interpreter.
    pub fn stack_of_state(&self, state: usize) -> String {
        let _interpreter_may_come_later = lock(&READS);
        let place = place_of(state);
        let text = self.stacks();
        let block = place.filter(|_| place == place_of(state)).and_then(|place| text.split("\n\n").nth(place));
        block.unwrap_or_default().to_owned()
    }

    /// The Python stacks of all threads, of which faulthandler writes 100. Without the interpreter: best called while
    /// it is held, since a thread that ends meanwhile is read after its end.
    pub fn stacks(&self) -> String {
        self.empty();
        // A signal to the calling thread itself is handled before the call returns.
        if send(self.all, gettid().as_raw_nonzero().get()) { self.written() } else { String::new() }
    }

    fn empty(&self) {
        let _ = ftruncate(&self.memory, 0);
        let _ = seek(&self.memory, SeekFrom::Start(0));
    }

    fn written(&self) -> String {
        let mut bytes = vec![0; MOST_BYTES];
        let count = rustix::io::pread(&self.memory, &mut bytes, 0).unwrap_or(0);
        String::from_utf8_lossy(bytes.get(..count).unwrap_or_default()).into_owned()
    }
}

/// Waits, with the interpreter, until no thread reads Python's structures without it.
pub fn wait_for_readers(_py: Python<'_>) {
    drop(lock(&READS));
}

/// The place of a thread state among those that faulthandler writes. `None` if it is not among the first 100.
fn place_of(state: usize) -> Option<usize> {
    // SAFETY: the main interpreter lives as long as this module. Its list of thread states changes only while another
    // thread holds the interpreter, or at its head. At this time C code of the loop's thread holds it, and waits in a
    // system call. The watchdog's second thread is the next to get it, and waits for `READS` then.
    let mut current = unsafe { ffi::PyInterpreterState_ThreadHead(ffi::PyInterpreterState_Main()) };
    for place in 0..SHOWN {
        if current.is_null() {
            return None;
        }
        if current as usize == state {
            return Some(place);
        }
        // SAFETY: as above; `current` is a thread state of the list.
        current = unsafe { ffi::PyThreadState_Next(current) };
    }
    None
}

/// Whether a signal has its default action.
fn is_free(number: i32) -> bool {
    // SAFETY: all zeros are a valid `sigaction`, a struct of numbers, flags and a pointer that may be null.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: sigaction(2) with a null second argument only writes the present action to `action`.
    let asked = unsafe { libc::sigaction(number, std::ptr::null(), &raw mut action) };
    asked == 0 && action.sa_sigaction == libc::SIG_DFL
}

/// Sends a signal to a thread of this process. Returns whether the thread exists.
fn send(number: i32, thread: i32) -> bool {
    // SAFETY: tgkill(2) sends a signal to a thread of this process alone, and `install` has given the signal a handler.
    unsafe {
        libc::syscall(
            libc::SYS_tgkill,
            libc::c_long::from(libc::getpid()),
            libc::c_long::from(thread),
            libc::c_long::from(number),
        ) == 0
    }
}
