//! Closes the server's sockets in forked children.
//!
//! A child inherits every descriptor, close-on-exec or not. A child that never calls execve(2) (`multiprocessing`,
//! `os.fork`) would keep client connections open that the server has ended. It would also keep the port in use after
//! the server's end. After every fork, a handler (pthread_atfork(3)) therefore replaces the server's sockets in the
//! child by a socket without a peer. Reading the replacement returns the end of the stream, writing fails, and closing
//! it affects nothing else. The handler also detaches the child from the loop, so that its waits block.

#![expect(
    unsafe_code,
    reason = "pthread_atfork(3) exists only in libc, and descriptors are known by their number here"
)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, Once, OnceLock};

use crate::event_loop;
use crate::sync::lock;
use rustix::io::DupFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Descriptors below this number are replaced in children: the most that a process may have by Linux's default
/// (fs.nr_open).
const NUMBERS: usize = 1 << 20;

const WORD: usize = u64::BITS as usize;

/// One bit for each descriptor number, set if the descriptor is a socket of the server. Untouched pages take no memory.
static OWN: [AtomicU64; NUMBERS / WORD] = [const { AtomicU64::new(0) }; NUMBERS / WORD];

/// Listening sockets: the server's descriptor, and the embedder's descriptor of the same socket.
static LISTENERS: Mutex<Vec<(RawFd, RawFd)>> = Mutex::new(Vec::new());

/// The highest number ever set in `OWN`.
static HIGHEST: AtomicI32 = AtomicI32::new(-1);

static IS_CHILD: AtomicBool = AtomicBool::new(false);

/// The action before a fork.
static BEFORE_FORK: OnceLock<fn()> = OnceLock::new();

/// Whether this process is a forked child of a process that owned sockets. Only the parent may shut the sockets down.
pub fn is_child() -> bool {
    IS_CHILD.load(Ordering::Relaxed)
}

/// Makes forked children replace `socket`, until [`disown`].
pub fn own(socket: BorrowedFd<'_>) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: both have the right signature. `prepare` runs in the parent as ordinary code, and `let_go` only does
        // what is allowed in a child before execve(2).
        unsafe { libc::pthread_atfork(Some(prepare), None, Some(let_go)) };
    });
    if let Some((word, bit)) = place(socket.as_raw_fd()) {
        word.fetch_or(bit, Ordering::Relaxed);
        HIGHEST.fetch_max(socket.as_raw_fd(), Ordering::Relaxed);
    }
}

/// Calls `action` before each fork, in the thread that forks. One action per process.
pub fn before_fork(action: fn()) {
    let _ = BEFORE_FORK.set(action);
}

/// Runs in the parent before fork(2).
extern "C" fn prepare() {
    if let Some(action) = BEFORE_FORK.get() {
        action();
    }
}

/// Reverts [`own`], before `socket` is closed.
pub fn disown(socket: BorrowedFd<'_>) {
    if let Some((word, bit)) = place(socket.as_raw_fd()) {
        word.fetch_and(!bit, Ordering::Relaxed);
    }
}

/// Like [`own`], for a listening socket. `original` is the embedder's descriptor of the same socket.
pub fn own_listener(socket: BorrowedFd<'_>, original: RawFd) {
    own(socket);
    let pair = (socket.as_raw_fd(), original);
    let mut listeners = listeners();
    if !listeners.contains(&pair) {
        listeners.push(pair);
    }
}

/// Reverts [`own_listener`], before the listening socket is closed.
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

/// Runs in the child before fork(2) returns. Allocates nothing and waits for no lock, since another thread may have
/// held any lock at the fork.
extern "C" fn let_go() {
    IS_CHILD.store(true, Ordering::Relaxed);
    // Code in C that forks runs no hook of Python's. A wait of the child would take events of the parent's poller.
    event_loop::forget_in_child();
    let spare = without_peer().or_else(|_| {
        // No descriptor is left: close two of the server's sockets first.
        own_numbers().take(2).for_each(close);
        without_peer()
    });
    let Ok(spare) = spare else { return };
    if let Ok(listeners) = LISTENERS.try_lock() {
        for &(own, original) in &*listeners {
            // The embedder may have closed its descriptor, and the number may now name another file.
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
        // `spare` took a number that was closed above. A stream still owns that number, so it stays open.
        let _ = spare.into_raw_fd();
    }
}

fn own_numbers() -> impl Iterator<Item = RawFd> {
    (0..=HIGHEST.load(Ordering::Relaxed))
        .filter(|&number| place(number).is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0))
}

/// A socket whose peer is gone: reading returns the end of the stream, and writing fails.
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
    // SAFETY: the number belongs to a socket of this crate, which does not use the socket in a child.
    drop(unsafe { OwnedFd::from_raw_fd(number) });
}

fn replace(by: BorrowedFd<'_>, number: RawFd) {
    // SAFETY: the number is not closed here. It names another socket afterwards, whatever file it named before.
    let mut target = unsafe { OwnedFd::from_raw_fd(number) };
    let _ = rustix::io::dup3(by, &mut target, DupFlags::CLOEXEC);
    let _ = target.into_raw_fd();
}

fn borrow<'a>(number: RawFd) -> BorrowedFd<'a> {
    // SAFETY: callers use the result for its number or for one fstat(2), which reports a closed number. A socket's
    // number is never -1.
    unsafe { BorrowedFd::borrow_raw(number) }
}
