//! The engine of rmeinheld, a WSGI server for Python: every request runs in a stackful coroutine that has a Python
//! thread state of its own, all of them on one OS thread.
//!
//! The aim is that plain blocking code serves thousands of clients: an application waits as it would in a thread, and
//! pays for a coroutine only while it waits. The Python package is in `python/rmeinheld`; this crate is its extension
//! module `rmeinheld._rmeinheld`.
//!
//! ```python
//! import rmeinheld
//! from rmeinheld.coroutine import sleep, spawn
//!
//! def app(environ, start_response):
//!     beside = spawn(sum, range(10))    # a coroutine beside the request's own
//!     sleep(0.1)                        # parks this one; a thousand others go on
//!     beside.join()
//!     start_response("200 OK", [("Content-Type", "text/plain")])
//!     return [b"%d\n" % beside.result]
//!
//! rmeinheld.run(app)
//! ```
//!
//! On this page: [the idea](#the-idea), [the map of the code](#the-map), [the decisions](#decisions) and their
//! reasons, [what it does not do](#what-it-does-not-do).
//!
//! # The idea
//!
//! A coroutine is a Python thread that shares an OS thread. Every coroutine that runs Python owns a `PyThreadState`;
//! all of them live on the *loop thread*, one to a process. A coroutine that has to wait detaches its thread state
//! (`PyEval_SaveThread`), parks, and attaches it again when it is resumed. To CPython that is a thread which releases
//! the GIL in a blocking call.
//!
//! So context variables, `threading.local`, the active exception, recursion depth, tracing and asyncio's running loop
//! are kept apart without patching anything; `faulthandler` and profilers see threads, `sys._current_frames` too before
//! Python 3.14; and no private structure of the interpreter is swapped, which is what breaks greenlets at every new Python
//! (two recursion counters and, before 3.14, the thread's number are written, see below). Real OS threads go on beside it, since a parked coroutine never holds the GIL.
//!
//! # The map
//!
//! Imports point down this table, never up and never sideways; `tests/repository/test_layering.py` checks it. The rows below the
//! line know nothing of Python: `cargo check --no-default-features` builds them alone.
//!
//! | layer | what |
//! |---|---|
//! | `api` | the Python module: functions and classes, no logic |
//! | `server` | lifecycle, the table of connections, one connection's life, TLS, access log |
//! | `wsgi` | environ, `wsgi.input`, `start_response`, the response body |
//! | `cooperative` | what blocks in Python, made to park: locks, queues, the calls of sockets |
//! | `interp` | the interpreter boundary: thread states, runtime, coroutines as Python sees them, exceptions |
//! | — | — |
//! | [`websocket`] | RFC 6455: the handshake; bytes in, messages and the protocol's own answers out |
//! | [`net`], [`http`] | sockets whose waits park; HTTP/1.x as bytes in, heads and framing out |
//! | [`event_loop`] | leader and followers: poller, waits, timers, inbox |
//! | [`coroutine`] | the only user of `may`: spawn, park, unpark, stacks and their overflow |
//! | [`output`] | lines on standard error and log files, written without waiting |
//!
//! The loop knows neither Python nor HTTP. What a coroutine needs around its life and its waits comes from
//! [`event_loop::Host`], which `interp` implements; what a readable socket means, from [`event_loop::Service`], which
//! `server` implements.
//!
//! # Decisions
//!
//! ## Leader and followers
//!
//! One coroutine at a time *leads*: it polls and runs ready requests inline, on its own warm stack. An application
//! that never waits therefore costs no switch of coroutines or thread states. Work that has to wait first hands
//! leadership to an idle *follower*, which is made before the work starts, so that handing over cannot fail in the
//! middle of a request. When it has ended, the coroutine is a follower itself.
//!
//! - A connection between requests is a record and holds no coroutine; nor does one whose head arrives in pieces.
//! - Coroutine, stack and thread state are one pooled *unit*. Sixteen idle ones are kept; of more, half of what nobody
//!   needed goes every second, so that a burst does not hold its memory and its repetition finds most of it.
//! - The cap (`worker_connections`) counts requests in progress. At the cap the loop still polls and resumes, and new
//!   requests stay in the kernel's queue. Coroutines that applications spawn are not counted: a request that waits for
//!   one cannot deadlock.
//! - The cap on open connections (`max_connections`) follows the limit of open files, of which the application keeps a
//!   part. At the cap the connection that has been idle for longest makes room; if none is idle, accepting pauses. Which
//!   one that is, is looked up only then (`server::idle`): a request pays nothing for it.
//! - A listening socket that epoll does not take is tried again every 200 ms, for 30 s; then, or when the last one has been
//!   shut down, the server ends with an error: one that beats and does not accept is worse than none.
//! - `sleep(0)` means after the next poll, and between two polls only what was ready at the first is run: neither
//!   coroutines that yield nor such that spawn can starve input and timers.
//! - Each request runs in a fresh `contextvars` context. A `threading.local` is the unit's, and outlives the request, as
//!   in a pool of threads: what is kept in one (Django's persistent connections) serves the next request of the unit.
//!
//! ## What is used of `may`, and what is forbidden
//!
//! One worker, not pinned to a core, started when first needed and so after any fork. Of its functions: spawn with a
//! stack size, park, unpark, yield, current. `tests/repository/test_layering.py` refuses the rest, above all:
//!
//! - its `sleep` and every wait with a time limit: its timer thread resumes the coroutine *on the timer thread*, and
//!   then there are two OS threads. Deadlines are in [`event_loop`]'s one ordered map, looked at by the leader;
//! - its cancellation, and dropping a parked coroutine: both unwind Rust panics through Python's frames;
//! - its sockets: they know one waiter per descriptor, and Python code may read in one coroutine and write in another.
//!
//! Its local queue is drained to the end before it looks at anything else, which is why the leader does the polling.
//!
//! ## Stacks and recursion
//!
//! A stack is 8 MiB of address space, as an OS thread's, and costs the pages that it has touched. Smaller ones saved
//! nothing when measured, and overflowed in `json.loads`. Deep recursion becomes RecursionError:
//!
//! - CPython 3.12 and 3.13 count C calls, for stacks of 8 MiB: on a smaller stack the count is scaled
//!   (`interp::recursion`).
//! - CPython 3.14 and later compare the stack pointer with bounds, and take those of the OS thread:
//!   `PyUnstable_ThreadState_SetStackProtection` tells them of the coroutine's. It came with 3.14.1; 3.14.0 is
//!   refused.
//!
//! A coroutine takes two memory mappings: the stack, and CPython's stack of Python frames. Linux 6.13 and later have
//! guards within a mapping (`coroutine::guard`); on older kernels the guard page is a third. So `vm.max_map_count`
//! (65,530 by default) bounds the number of coroutines, to about 30,600 (older kernels: 20,400). A sixteenth of it is
//! left to the rest of the process. Room is looked for before a stack is made (`coroutine::room`). Without room,
//! accepting pauses, one line says what to raise, and whatever waits goes on as soon as others end.
//!
//! A true overflow meets the guard page. The handler runs on a stack of its own, prints a message and hands on to
//! faulthandler, which prints the Python traceback; the process dies by the signal (`coroutine::overflow`).
//!
//! ## Waiting
//!
//! There is one function that parks, in [`event_loop`], and every wait has a ticket with a number that is never used
//! twice: a late wake-up finds nobody. Nothing borrowed crosses a wait: no lock, no `RefCell` guard, no borrow of
//! pyo3's; a function that can park says `# Parks`. Debug builds assert that no thread state is attached.
//!
//! - The server's own sockets are registered once, edge-triggered, for both directions, and never modified.
//! - A descriptor of the application's is registered one-shot and armed anew for every wait, for many waiters at once:
//!   the application may close it and use its number again without telling anybody.
//! - Where processes share a listening socket, one that has accepted leaves it alone for a moment (`server::listening`): the
//!   one that is awake would else take all of a burst, and keep it while the others have nothing to do.
//! - Other OS threads reach the loop through its inbox, a queue and an eventfd.
//! - Deadlines that are near are the timeout of `epoll_wait`; later ones, those of idle connections above all, are kept
//!   by one timerfd that is seldom set: a request sets and cancels no timer in the kernel.
//! - Outside a coroutine, and in a forked child, each call does the real, blocking thing.
//!
//! ## A turn has a budget
//!
//! Nobody preempts a coroutine, and code that always finds something ready never has to wait: a flooded WebSocket, an
//! upload that is faster than its reader, `while not event.is_set()`. So every cooperative call, each loop of the engine
//! over bytes, frames or items, and each read or write of a body is a *chance to switch* ([`event_loop::turn`]). It costs
//! one look at a coarse clock. Once the turn has lasted `turn_budget` (10 ms) the coroutine goes to a queue behind all
//! other work, of which no more than one budget's worth runs between two polls: ten such turns do no more harm than one.
//!
//! - A call that cannot block in CPython (`is_set`, `locked`, `recv` with MSG_DONTWAIT) may switch and never raises. What
//!   is thrown into the coroutine meanwhile is raised at its next wait.
//! - No switch happens in `release`, `set` and `notify`, in `__del__`, in signal handlers, or in a forked child.
//! - The stream watcher of a stream takes 128 frames or 64 KiB at a time and is then queued again.
//!
//! ## The cooperative standard library
//!
//! `rmeinheld.patch` changes the standard library in place. A thread that is started in a coroutine is a coroutine with
//! a thread state of its own, so that it finds the empty `threading.local` and context of a new thread and takes them
//! along when it ends; one that is started elsewhere is an OS thread. Locks and what is built on them know both
//! (`cooperative`): a waiter is a coroutine or an OS thread, it is notified once, and a notification is never lost to an
//! interruption, which waits for the next park instead. A lock goes to the one who has waited longest: with barging, a
//! coroutine that takes it again and again would starve all others, since nobody preempts it.
//!
//! CPython's own locks and `SimpleQueue` park as well, whenever they were made, patched or not
//! (`cooperative::native`). Their methods are built-in functions, entries of static tables; the function in the entry is
//! exchanged when a loop starts, so bound methods, warm call sites and objects made before are reached, and no module or
//! class changes. On the loop thread the new function tries and parks. Elsewhere it calls the original, and a release
//! looks whether a coroutine waits. `RLock` has an owner of its own among coroutines, since CPython's is the OS thread; the
//! import lock likewise. A self-test restores everything where the locks are unlike those of CPython 3.12 to 3.15.
//!
//! A waiter in the main thread stands aside while a handler of a signal runs in it: the handler may wait for the same lock,
//! and would wait for its own thread.
//!
//! Files, epoll objects and buffered files keep their classes: the methods are exchanged in place, so what was made before
//! the patch parks too. A buffered file has a lock of ours before the one in C, to which all coroutines are one thread.
//!
//! Descriptors keep their flags: a socket's calls are tried with MSG_DONTWAIT and waited for. `SSLContext` and
//! `socket.socket` are never replaced, so that what was imported before the patch works after it. What blocks in C runs
//! on OS threads (`rmeinheld.coroutine.offload`).
//!
//! `throw`, `kill` and `timeout` raise Python exceptions at a park of the coroutine; nothing is unwound. Signal handlers
//! stay the main thread's, which runs no coroutine.
//!
//! The GIL is held over a batch of ready work and released around every `epoll_wait` and at every park.
//!
//! ## Signals
//!
//! They belong to the main thread, where CPython runs their handlers. It waits in `run()` on the wakeup descriptor
//! while the loop thread serves; SIGINT and SIGTERM drain and stop. The handlers that were there before are put back.
//!
//! ## Fork
//!
//! In the child of a fork within a coroutine the loop is switched off: its descriptors and stacks are the parent's. A
//! child that comes back into the server's code ends there; the client is the parent's, too. Whoever forks it, a child
//! lets go of the connections of clients and of the listening sockets at once (`net::forks`), and an ended connection is
//! shut down before it is closed: a child that lives on holds neither a client's connection nor the port.
//!
//! ## The end
//!
//! Stop accepting; close idle connections; raise `GeneratorExit` in streams of events and in responses that have asked
//! whether the server stops; let other requests in progress finish within the grace period, and say which, then the threads
//! that are no daemons and the jobs of executors (`rmeinheld.ends`). After the grace period `CoroutineExit` is raised in
//! these; at the end of the loop, in all other coroutines. It is raised once in each ([`event_loop::ends`]).
//!
//! - What waits on all the same, a second later (a daemon thread) or two (a request), is left behind: it stays parked
//!   for ever, its stack and its thread state are never used again, and nobody frees them. When the interpreter
//!   finalises, CPython clears such a thread state as it does a daemon thread's. Where `run()` returns and the process
//!   lives on, they are a leak of a bounded kind: the loop ends without them, who joins them goes on, a lock passes them
//!   by, a lock that they hold stays held, and the next loop starts beside them. All other thread states are ended.
//! - What computes, or blocks in C, keeps the loop thread, and the loop cannot end. `run()` raises RuntimeError naming
//!   the request, and so does a later start until the loop has ended after all. Where the process ends, CPython would end
//!   the loop thread in the middle of Rust code: the process is left by `_exit`, after the handlers at exit. In the
//!   command line and the worker these have two seconds, and an OS thread that needs no interpreter sees to that.
//! - In the command line and the worker the loop goes on after the last request: for the hooks of
//!   `threading._register_atexit`, the handlers at exit, and the daemon threads that those wait for.
//!
//! ## HTTP and WSGI
//!
//! [`http`] is bytes in, heads and framing out: httparse for the head, RFC 9112 section 6.3 in the RFC's order, a
//! chunked decoder of its own. Every limit is a named value with its precedent. An environ is a copy of a prebuilt one
//! with interned keys. Bodies stream in both directions, and neither direction is buffered without a bound. Where a MUST
//! of an RFC is not followed, `tests/DEVIATIONS.md` has the clause and the reason.
//!
//! ## WebSocket
//!
//! A WebSocket is a request in progress, so its coroutine is the one that receives, and there is no second one. What
//! the protocol does by itself must not need it: the application may be busy, or wait for something else. So an
//! *stream watcher* of the stream ([`event_loop::StreamWatcher`]) reads: the loop calls it when bytes arrive or its deadline is
//! due. It answers pings and closes, checks what comes, and wakes who receives; it runs no Python and never waits.
//! When 64 KiB of messages wait for the application it stops reading, and TCP holds up the client. It takes 128 frames or
//! 64 KiB at a time; the rest comes after everybody else's turn.
//!
//! [`websocket`] has no input and output. The headers of frames are tungstenite's; messages are put together here,
//! because a byte that breaks UTF-8 or a limit has to be refused when it arrives, and because an idle connection
//! should have no buffer. Frames are queued whole, so messages of many senders never mix; the queue is written at once
//! as far as the kernel takes it, and only who finds it full waits. Under TLS, Python's `ssl` module enciphers what is
//! queued, with nothing locked and one at a time (`net::Stream::work`): its code may park.
//!
//! Libraries that speak the protocol themselves find `environ["gunicorn.socket"]`, an object like a socket on the same
//! stream.
//!
//! # What it does not do
//!
//! - No second loop thread, no work stealing, no preemption: a request that computes, or blocks in C, holds up all
//!   others; without the patches, so does one that blocks in the standard library, locks and `SimpleQueue` excepted.
//! - No HTTP/2, no prefork, no extensions of WebSocket (compression), TLS under Gunicorn only; Linux only.
//! - No free-threaded Python. CPython's documentation does not promise that thread states may share an OS thread; its
//!   code allows it since 3.12, and a self-test at start refuses an interpreter on which it does not hold.

pub mod coroutine;
pub mod event_loop;
pub mod http;
pub mod kernel;
pub mod net;
pub mod output;
pub mod sync;
pub mod websocket;

#[cfg(feature = "python")]
mod api;
#[cfg(feature = "python")]
pub mod cooperative;
#[cfg(feature = "python")]
pub mod interp;
#[cfg(feature = "python")]
pub mod server;
#[cfg(feature = "python")]
pub mod wsgi;
