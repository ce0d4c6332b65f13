//! The server's own sockets in a forked child, which lets go of these at once.
//!
//! A child inherits every descriptor, close-on-exec or not. One that never calls execve(2) (`multiprocessing`, `os.fork`)
//! would keep the connections of clients open that the server has ended, and the port taken after the server's own end.
//! In the child each of these numbers therefore names a socket without a peer, after every fork (pthread_atfork(3)). It
//! can neither be read nor written, and closing it there closes nothing else.

#![expect(
    unsafe_code,
    reason = "pthread_atfork(3) exists only in libc, and descriptors are known by their number here"
)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, Once};

use crate::sync::lock;
use rustix::io::DupFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Numbers below this one are let go of: as many as Linux gives a process by default at most (fs.nr_open).
const NUMBERS: usize = 1 << 20;

const WORD: usize = u64::BITS as usize;

/// A bit for each number that is a socket of the server's. Pages of it that are never touched cost nothing.
static OWN: [AtomicU64; NUMBERS / WORD] = [const { AtomicU64::new(0) }; NUMBERS / WORD];

/// Listening sockets: the server's number, and the number that its embedder holds for the same socket.
static LISTENERS: Mutex<Vec<(RawFd, RawFd)>> = Mutex::new(Vec::new());

/// The highest number that was ever set in `OWN`.
static HIGHEST: AtomicI32 = AtomicI32::new(-1);

static IS_CHILD: AtomicBool = AtomicBool::new(false);

/// Whether this process was forked from one that had such sockets: they are the parent's to shut down.
pub fn is_child() -> bool {
    IS_CHILD.load(Ordering::Relaxed)
}

/// Has children let go of `socket`, until [`disown`].
pub fn own(socket: BorrowedFd<'_>) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the function has the right signature and does only what is allowed in a child before execve(2).
        unsafe { libc::pthread_atfork(None, None, Some(let_go)) };
    });
    if let Some((word, bit)) = place(socket.as_raw_fd()) {
        word.fetch_or(bit, Ordering::Relaxed);
        HIGHEST.fetch_max(socket.as_raw_fd(), Ordering::Relaxed);
    }
}

/// To be called before `socket` is closed.
pub fn disown(socket: BorrowedFd<'_>) {
    if let Some((word, bit)) = place(socket.as_raw_fd()) {
        word.fetch_and(!bit, Ordering::Relaxed);
    }
}

/// The same as [`own`] for a listening socket, which its embedder knows as `original`.
pub fn own_listener(socket: BorrowedFd<'_>, original: RawFd) {
    own(socket);
    let pair = (socket.as_raw_fd(), original);
    let mut listeners = listeners();
    if !listeners.contains(&pair) {
        listeners.push(pair);
    }
}

/// To be called before a listening socket is closed.
pub fn disown_listener(socket: BorrowedFd<'_>) {
    disown(socket);
    listeners().retain(|&(own, _)| own != socket.as_raw_fd());
}

fn listeners() -> MutexGuard<'static, Vec<(RawFd, RawFd)>> {
    lock(&LISTENERS)
}

fn place(number: RawFd) -> Option<(&'static AtomicU64, u64)> {
    let number = usize::try_from(number).ok()?;
    Some((OWN.get(number / WORD)?, 1 << (number % WORD)))
}

/// Runs in the child, before anything else of it. Allocates nothing and waits for no lock: other threads may have held any
/// lock at the fork.
extern "C" fn let_go() {
    IS_CHILD.store(true, Ordering::Relaxed);
    let spare = without_peer().or_else(|_| {
        // Out of descriptors: two of these are given back first.
        own_numbers().take(2).for_each(close);
        without_peer()
    });
    let Ok(spare) = spare else { return };
    if let Ok(listeners) = LISTENERS.try_lock() {
        for &(own, original) in &*listeners {
            // The embedder may have closed its own already, and the number may be another file's.
            if is_same(borrow(own), borrow(original)) {
                replace(spare.as_fd(), original);
            }
        }
    }
    let mut is_own = false;
    for number in own_numbers() {
        if number == spare.as_raw_fd() {
            is_own = true;
        } else {
            replace(spare.as_fd(), number);
        }
        disown(borrow(number));
    }
    if is_own {
        // Its number was given back above, and belongs to a stream still.
        let _ = spare.into_raw_fd();
    }
}

fn own_numbers() -> impl Iterator<Item = RawFd> {
    (0..=HIGHEST.load(Ordering::Relaxed))
        .filter(|&number| place(number).is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0))
}

/// A socket whose peer is gone: reading it gives the end of the stream, writing an error.
fn without_peer() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).map(|(one, _)| one)
}

fn is_same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    match (rustix::fs::fstat(one), rustix::fs::fstat(other)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}

fn close(number: RawFd) {
    // SAFETY: the number is a socket's of this crate, which does nothing with it in a child.
    drop(unsafe { OwnedFd::from_raw_fd(number) });
}

fn replace(by: BorrowedFd<'_>, number: RawFd) {
    // SAFETY: the number is not closed here; whatever it was, it is another socket's afterwards.
    let mut target = unsafe { OwnedFd::from_raw_fd(number) };
    let _ = rustix::io::dup3(by, &mut target, DupFlags::CLOEXEC);
    let _ = target.into_raw_fd();
}

fn borrow<'a>(number: RawFd) -> BorrowedFd<'a> {
    // SAFETY: for one fstat(2), which reports a number that is not open. Numbers of sockets are never -1.
    unsafe { BorrowedFd::borrow_raw(number) }
}
