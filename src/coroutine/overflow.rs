//! Ends the process when a coroutine overflows its stack.
//!
//! The guard page below a stack turns an overflow into SIGSEGV. The handler must run on a stack of its own. The
//! handler prints a message and restores the handler from before the first coroutine. Python's faulthandler then prints
//! the traceback, and the default action kills the process by the signal. The handler of `may`'s stack switching is
//! replaced, since it would abandon the coroutine with its frames and locks, or exit(1).

#![expect(unsafe_code, reason = "signal handlers and alternate stacks exist only in libc")]

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;

/// Bytes of the handler's own stack, on which faulthandler walks frames and formats text.
const ALTERNATE_STACK_BYTES: usize = 128 * 1024;

/// The distance below a stack, in bytes, within which a fault counts as an overflow. One frame may skip the guard page.
const OVERSHOOT_BYTES: usize = 1024 * 1024;

/// The addresses of a coroutine's stack, which grows from `top` down to `bottom`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackBounds {
    /// The lowest usable address.
    pub bottom: usize,
    /// One past the highest address.
    pub top: usize,
}

impl StackBounds {
    /// The bounds of the caller's stack of `stack_bytes`. They are exact to a page near the start of a coroutine: the
    /// stack's top is page-aligned and the first frames are small.
    pub fn of_caller(stack_bytes: usize) -> StackBounds {
        let page = rustix::param::page_size();
        let here = ptr::from_ref(&page).addr();
        let top = here.div_ceil(page) * page;
        // The guard page takes the lowest page of the mapping.
        StackBounds { bottom: top.saturating_sub(stack_bytes) + page, top }
    }
}

thread_local! {
    static CURRENT: Cell<StackBounds> = const { Cell::new(StackBounds { bottom: 0, top: 0 }) };
}

/// Records the stack that is in use from now on, for the handler. Empty bounds stand for the thread's own stack.
pub fn set_current_stack(bounds: StackBounds) {
    CURRENT.set(bounds);
}

struct Previous {
    segv: libc::sigaction,
    bus: libc::sigaction,
}

static PREVIOUS: OnceLock<Previous> = OnceLock::new();

/// Records the handlers of SIGSEGV and SIGBUS from before the first coroutine.
///
/// Call it before the first spawn of the process. Later calls change nothing.
pub fn remember_handlers() {
    PREVIOUS.get_or_init(|| Previous { segv: action_of(libc::SIGSEGV), bus: action_of(libc::SIGBUS) });
}

/// Gives the current OS thread an alternate signal stack and installs the overflow handler.
///
/// Called once on the loop thread, in the first coroutine. By then the stack switching has installed its own handlers.
pub fn install() {
    // The alternate stack lives as long as the thread, and the thread as long as the process.
    let stack = Box::leak(vec![0_u8; ALTERNATE_STACK_BYTES].into_boxed_slice());
    let alternate = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: ALTERNATE_STACK_BYTES };
    // SAFETY: the memory is leaked and so valid for ever, and nothing else uses it.
    unsafe { libc::sigaltstack(&raw const alternate, ptr::null_mut()) };
    // SAFETY: a zeroed sigaction is a valid value; its mask is then empty.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    action.sa_sigaction = on_fault as *const () as libc::sighandler_t;
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: `action` is initialised and `on_fault` has the signature that SA_SIGINFO asks for.
        unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    }
}

fn action_of(signal: libc::c_int) -> libc::sigaction {
    let mut action = MaybeUninit::zeroed();
    // SAFETY: with a null new action sigaction only writes the current one; zeroed is a valid value if it fails.
    unsafe {
        libc::sigaction(signal, ptr::null(), action.as_mut_ptr());
        action.assume_init()
    }
}

/// Writes to descriptor 2, restores the previous handler and returns. The faulting instruction then runs again under
/// that handler. All this is async-signal-safe.
extern "C" fn on_fault(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo for SIGSEGV and SIGBUS.
    let address = unsafe { (*info).si_addr() }.addr();
    let stack = CURRENT.with(Cell::get);
    let lowest = stack.bottom.saturating_sub(OVERSHOOT_BYTES);
    if stack.top != 0 && (lowest..stack.bottom + rustix::param::page_size()).contains(&address) {
        const MESSAGE: &[u8] = b"\nrmeinheld: stack overflow: a coroutine ran off its C stack (a larger stack_size \
            may help). The process ends.\n";
        // SAFETY: write(2) is async-signal-safe and the buffer is static.
        unsafe { libc::write(libc::STDERR_FILENO, MESSAGE.as_ptr().cast(), MESSAGE.len()) };
    }
    let previous = PREVIOUS.get().map(|previous| if signal == libc::SIGBUS { &previous.bus } else { &previous.segv });
    match previous {
        // SAFETY: an action that sigaction(2) itself reported.
        Some(action) => unsafe { libc::sigaction(signal, action, ptr::null_mut()) },
        // SAFETY: the default action is always valid.
        None => unsafe { libc::signal(signal, libc::SIG_DFL) as libc::c_int },
    };
}
