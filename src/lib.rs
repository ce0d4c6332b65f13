//! The engine of rmeinheld, a WSGI server for Python. Every request runs in a stackful coroutine with a Python thread
//! state of its own, and all coroutines share one OS thread.
//!
//! The aim: plain blocking code serves thousands of clients. An application waits as it would in a thread, and pays for
//! a coroutine only while it waits. The Python package is in `python/rmeinheld`; this crate is its extension module
//! `rmeinheld._rmeinheld`.
//!
//! ```python
//! import rmeinheld
//! from rmeinheld.coroutine import sleep, spawn
//!
//! def app(environ, start_response):
//!     other = spawn(sum, range(10))     # a second coroutine of the request
//!     sleep(0.1)                        # parks the first; a thousand others go on
//!     other.join()
//!     start_response("200 OK", [("Content-Type", "text/plain")])
//!     return [b"%d\n" % other.result]
//!
//! rmeinheld.run(app)
//! ```
//!
//! On this page: [the idea](#the-idea), [the map of the code](#the-map), [the decisions](#decisions) and their
//! reasons, [the limits](#limits).
//!
//! # The idea
//!
//! A coroutine is a Python thread that shares an OS thread. Every coroutine that runs Python owns a `PyThreadState`,
//! and all coroutines live on the *loop thread*, of which a process has one. To wait, a coroutine detaches its thread
//! state (`PyEval_SaveThread`) and parks; when it is resumed, it attaches the thread state again. CPython sees a thread
//! that releases the GIL in a blocking call.
//!
//! - Context variables, `threading.local`, the active exception, recursion depth, tracing and asyncio's running loop
//!   belong to one coroutine each, without any patch.
//! - `faulthandler` and profilers see threads. Before Python 3.14 `sys._current_frames` does, too.
//! - No private structure of the interpreter is swapped, which is what breaks greenlets with every new Python. Three
//!   fields are written: two recursion counters and, before 3.14, the number of the thread (see below).
//! - Real OS threads run next to the coroutines, since a parked coroutine never holds the GIL.
//!
//! # The map
//!
//! Imports point down this picture, never up and never sideways; `tests/repository/test_layering.py` checks that. The
//! layers below the line know nothing of Python: `cargo check --no-default-features` builds them alone. The numbers are
//! the route of a request.
//!
//! ```text
//! api            the Python module: functions and classes, no logic
//! server         (2) accepts, (3) reads a head, (8) decides how the connection goes on; TLS, access log
//! wsgi           (5) environ, wsgi.input, start_response, the response body
//! cooperative    locks, queues, the calls of sockets and files, made to park
//! interp         (6) thread states, coroutines as Python sees them, exceptions
//! --------------------------------------------------------------------------------------------------
//! websocket      RFC 6455: the handshake; bytes in, messages and answers out
//! crew           the workers of one service: the memory that they share, messages between them
//! http           (4) HTTP/1.x: bytes in, heads and framing out
//! net            (7) sockets whose waits park
//! event_loop     (1) leader and followers: poller, waits, timers, inbox
//! coroutine      the only user of may: spawn, park, unpark, stacks and their overflow
//! output         lines on standard error and log files, written without waiting
//! kernel, sync   descriptors known by their number, bells, durations; locks that survive a panic
//! ```
//!
//! 1. The leader polls, and finds a listening socket readable.
//! 2. The server accepts the connection and keeps a record of it.
//! 3. Its head arrives. The leader makes a follower and serves the request itself, in a fresh context.
//! 4. The head is parsed and checked.
//! 5. The environ is made, and the application is called.
//! 6. The application waits: its thread state is detached, the follower leads, the coroutine parks.
//! 7. The response is sent; where the socket is full, the coroutine parks.
//! 8. The connection is kept, drained or closed. Its record returns to the poller; the coroutine is idle.
//!
//! The loop knows neither Python nor HTTP. [`event_loop::Host`] provides the surroundings of a coroutine's life and its
//! waits; `interp` implements it. [`event_loop::Service`] says what a readable socket means; `server` implements it.
//!
//! # Decisions
//!
//! ## Leader and followers
//!
//! One coroutine at a time *leads*: it polls and runs ready requests inline, on its own warm stack. An application that
//! never waits therefore costs no switch of coroutines or thread states. Work that has to wait first hands leadership
//! to an idle *follower*. The follower is made before the work starts, so that the hand-off cannot fail in the middle
//! of a request. When the work has ended, its coroutine is a follower itself.
//!
//! - A connection between requests is a record and holds no coroutine. The same is true while a head arrives in pieces.
//! - Coroutine, stack and thread state are one pooled *unit*. Sixteen idle units are kept. Of further ones, half of
//!   those that were not needed go every 200 ms. Two seconds after a burst its memory is with the kernel again; glibc
//!   would keep what lies below the highest block in use.
//! - The cap (`worker_connections`) counts requests in progress. At the cap the loop still polls and resumes, and new
//!   requests stay in the kernel's queue. Coroutines that applications spawn are not counted, so a request that waits
//!   for one cannot deadlock.
//! - The cap on open connections (`max_connections`) follows the limit of open files, of which the application keeps a
//!   part. At the cap the connection that has been idle for longest is closed; if none is idle, accepting pauses. The
//!   idle connection is looked up only then (`server::idle`), so a request pays nothing for it.
//! - A listening socket that epoll refuses is tried again every 200 ms for 30 s. Then, or when the last socket has been
//!   shut down, the server ends with an error, because a server that beats without accepting is worse than none.
//! - `sleep(0)` means after the next poll. Between two polls the loop runs only work that was ready at the first one.
//!   Coroutines that yield or spawn cannot starve input and timers.
//! - Each request runs in a fresh `contextvars` context. A `threading.local` belongs to the unit and outlives the
//!   request, as in a pool of threads: Django's persistent connections serve the next request of the unit.
//!
//! ## The used and the forbidden parts of `may`
//!
//! `may` has one worker, not pinned to a core and started when first needed, so after any fork. Five of its functions
//! are used: spawn with a stack size, park, unpark, yield, current. `tests/repository/test_layering.py` refuses all
//! others:
//!
//! - `sleep` and every wait with a time limit: `may` resumes the coroutine on its timer thread, and then there are two
//!   OS threads. Deadlines are in [`event_loop`]'s one ordered map, and the leader looks at them;
//! - cancellation, and dropping a parked coroutine: both unwind Rust panics through Python's frames;
//! - sockets: they know one waiter for each descriptor, but Python code may read in one coroutine and write in another.
//!
//! `may` drains its local queue to the end before it looks at anything else. Therefore the leader does the polling.
//!
//! ## Stacks and recursion
//!
//! A stack is 8 MiB of address space, like an OS thread's, and costs the pages that it has touched. Smaller stacks
//! saved nothing when measured, and overflowed in `json.loads`. Deep recursion becomes RecursionError:
//!
//! - CPython 3.12 and 3.13 count C calls, for stacks of 8 MiB. On a smaller stack the count is scaled
//!   (`interp::recursion`).
//! - CPython 3.14 and later compare the stack pointer with the bounds of the OS thread's stack.
//!   `PyUnstable_ThreadState_SetStackProtection` sets those of the coroutine's stack. It came with 3.14.1; 3.14.0 is
//!   refused.
//!
//! A coroutine takes two memory mappings: the stack, and CPython's stack of Python frames. Linux 6.13 and later have
//! guards within a mapping (`coroutine::guard`); on older kernels the guard page is a third. `vm.max_map_count` (65,530
//! by default) therefore bounds the number of coroutines, to about 30,600 (older kernels: 20,400). A sixteenth of the
//! mappings is left to the rest of the process. The engine checks for room before it makes a stack (`coroutine::room`).
//! Without room, accepting pauses, one line names the limit to raise, and waiting work goes on as soon as other work
//! ends.
//!
//! A true overflow meets the guard page. The handler runs on a stack of its own, prints a message and calls
//! faulthandler, which prints the Python traceback. The process dies by the signal (`coroutine::overflow`).
//!
//! ## Waiting
//!
//! One function parks, in [`event_loop`]. Every wait has a ticket with a number that is never used twice, so a late
//! wake-up reaches no other wait. Nothing borrowed crosses a wait: no lock, no `RefCell` guard, no borrow of pyo3's. A
//! function that can park says `# Parks`. Debug builds assert that no thread state is attached.
//!
//! - The server's own sockets are registered once, edge-triggered, for both directions, and never modified.
//! - A descriptor of the application's is registered one-shot, and armed anew for every wait, for many waiters at once.
//!   The application may close it and use its number again at any time.
//! - Where processes share a listening socket, a process that has accepted leaves it alone for a moment
//!   (`server::listening`). Otherwise the process that is awake would take a whole burst while the others are idle.
//! - Other OS threads reach the loop through its inbox, a queue and an eventfd.
//! - Near deadlines are the timeout of `epoll_wait`. Later ones, above all those of idle connections, are kept by one
//!   timerfd that is seldom set. A request sets and cancels no timer in the kernel. In memory, late deadlines that are
//!   close together share one timer, and an idle connection has only two links for it (`event_loop::source_deadlines`).
//! - Outside a coroutine, and in a forked child, each call does the real, blocking thing.
//!
//! A stack keeps each page that was ever touched. A coroutine that waits for over a second therefore returns the pages
//! below its frames to the kernel ([`coroutine::Parking`]). A look each second finds these coroutines, as long as any has
//! begun to wait since the last look.
//! The first coroutine of a process finds out whether the frames of a switch are as small as that takes; otherwise nothing
//! is returned.
//!
//! The calls of watchers that are queued run in a row, as one piece of work, for at most one tick of the coarse clock. The
//! coroutines that they have woken run after that, one behind the other. A switch for each call would cost a message of a
//! WebSocket a fifth of its CPU.
//!
//! ## A turn has a budget
//!
//! No coroutine is preempted, and code that always finds something ready never has to wait: a flooded WebSocket, an
//! upload that is faster than its reader, `while not event.is_set()`. Every cooperative call, each loop of the engine
//! over bytes, frames or items, and each read or write of a body is therefore a *chance to switch*
//! ([`event_loop::turn`]). A chance costs one look at a coarse clock. Once the turn has lasted `turn_budget` (10 ms),
//! the coroutine goes to a queue behind all other work. No more than one budget's worth of that queue runs between two
//! polls, so ten such turns do no more harm than one.
//!
//! - A call that cannot block in CPython (`is_set`, `locked`, `recv` with MSG_DONTWAIT) may switch and never raises. An
//!   exception thrown into the coroutine during the switch is raised at its next wait.
//! - No switch happens in `release`, `set` and `notify`, in `__del__`, in signal handlers, or in a forked child.
//! - The watcher of a stream takes 128 frames or 64 KiB at a time and is then queued again.
//!
//! Code that has no chance to switch blocks all others. The watchdog (`server::watchdog`), an OS thread that never takes
//! the interpreter, notices a turn that lasts longer than `block_warning`. It reports the coroutine with its stack, and
//! whether Python code runs, C code holds the interpreter, or a call waits without parking (`server::blockage`).
//!
//! ## The cooperative standard library
//!
//! `rmeinheld.patch` changes the standard library in place. A thread that is started in a coroutine is a coroutine. It
//! has a thread state of its own, so it finds the empty `threading.local` and context of a new thread, and takes them
//! along when it ends. A thread that is started elsewhere is an OS thread. Locks and all that is built on them know
//! both (`cooperative`). A waiter is a coroutine or an OS thread and is notified once. An interruption never loses a
//! notification: it is deferred to the next park. A lock goes to the longest waiter. With barging, a coroutine that
//! takes it again and again would starve the others, because it is not preempted.
//!
//! CPython's own locks and `SimpleQueue` park as well, whenever they were made, patched or not (`cooperative::native`).
//! Their methods are built-in functions, entries of static tables. When a loop starts, the function in the entry is
//! exchanged. This reaches bound methods, warm call sites and older objects, and no module or class changes. On the
//! loop thread the new function tries and parks. Elsewhere it calls the original, and a release checks for waiting
//! coroutines. `RLock` has an owner of its own among coroutines, since CPython's owner is the OS thread; so have the
//! import lock and the locks of modules. A self-test restores everything if the locks are unlike those of CPython 3.12
//! to 3.15.
//!
//! A waiter in the main thread steps aside while a signal handler runs in it. The handler may wait for the same lock,
//! and would otherwise wait for its own thread.
//!
//! Files, epoll objects and buffered files keep their classes. Their methods are exchanged in place, so objects made
//! before the patch park too. A buffered file has a lock of ours in front of the one in C, which takes all coroutines
//! for one thread.
//!
//! Descriptors keep their flags: a call of a socket is tried with MSG_DONTWAIT, and then waited for. `SSLContext` and
//! `socket.socket` are never replaced, so imports from before the patch work after it. Calls that block in C run on OS
//! threads (`rmeinheld.coroutine.offload`).
//!
//! `throw`, `kill` and `timeout` raise Python exceptions where the coroutine parks; nothing is unwound. Signal handlers
//! stay with the main thread, which runs no coroutine.
//!
//! The GIL is held over a batch of ready work, and released around every `epoll_wait` and at every park.
//!
//! ## One request ends
//!
//! A request has a deadline without a timer of its own. The deadline follows from the beginning of its work, and one
//! timer of the loop stands for the earliest ([`event_loop::deadlines`]). The loop ends work that waits by an exception
//! at its wait. Work that computes keeps the loop from that. The watchdog then has CPython raise the exception in that
//! thread state (`interp::asynchronous`). Both may be on their way at once. Whichever is raised first withdraws the
//! other, and the end of the work withdraws both while it holds the interpreter (`interp::endings`). Every piece of work
//! has a number of its own, also each request of a pipeline, so an exception never reaches the next one. C code that
//! holds the interpreter cannot be ended. Its worker asks in the scoreboard for its replacement (`server::overdue`).
//!
//! ## Signals
//!
//! Signals belong to the main thread, where CPython runs their handlers. The main thread waits in `run()` on the wakeup
//! descriptor while the loop thread serves (`server::waiting`). SIGINT and SIGTERM drain and stop. The previous handlers
//! are put back.
//!
//! ## Fork
//!
//! In the child of a fork within a coroutine the loop is switched off: its descriptors and stacks are the parent's. If
//! the child comes back into the server's code, it ends there, because the client is the parent's, too. Every forked
//! child closes the connections of clients and the listening sockets at once (`net::forks`), and an ended connection is
//! shut down before it is closed. A child that lives on therefore holds neither a client's connection nor the port.
//!
//! A master that imports the application (`preload_app`) starts no loop. It keeps the calls of `spawn`, and each worker
//! runs them when it begins (`interp::deferred`).
//!
//! ## The end
//!
//! 1. The server accepts until the kernel's queue is empty once, then closes its listening sockets. A process cannot
//!    know whether others keep a shared socket open, so it always takes the queue.
//! 2. Responses end their connections, unless the next request has arrived (`server::connection`). An idle connection
//!    keeps its deadline. At the deadline the server reads once more before it ends its side (`Connection::end_idle`),
//!    then and at any other time. Only a request that crosses this end on its way is lost. WebSockets end one after the
//!    other (`server::stopping_watchers`): while the server still goes on (`drain_delay`), or else from now on.
//! 3. `GeneratorExit` is raised in streams of events, and in responses that have asked whether the server stops.
//! 4. Other requests in progress finish within the grace period, and the log names those that are waited for. Then
//!    non-daemon threads and the jobs of executors finish (`rmeinheld.ends`).
//! 5. After the grace period `CoroutineExit` is raised in these; at the end of the loop, in all other coroutines. Each
//!    coroutine gets it once ([`event_loop::ends`]).
//!
//! - A daemon thread that still waits a second later, and a request two seconds later, is *left behind*. It stays
//!   parked for ever; its stack and its thread state are never used again and never freed. When the interpreter
//!   finalises, CPython clears such a thread state as it does a daemon thread's. If `run()` returns and the process
//!   lives on, they are a bounded leak: the loop ends without them, callers of `join` go on, locks pass them by. A lock
//!   that they hold stays held. The next loop starts next to them. All other thread states are ended.
//! - Work that computes, or blocks in C, keeps the loop thread, and the loop cannot end. `run()` raises RuntimeError
//!   naming the request, and so does a later start until the loop has ended after all. At the end of the process,
//!   CPython would end the loop thread in the middle of Rust code. Therefore the process is left by `_exit`, after the
//!   handlers at exit. In the command line and the worker these have two seconds, enforced by an OS thread that needs
//!   no interpreter.
//! - In the command line and the worker the loop goes on after the last request: it serves the
//!   hooks of `threading._register_atexit` and the handlers at exit. Daemon threads that these wait for go on, too.
//!
//! ## HTTP and WSGI
//!
//! [`http`] is bytes in, heads and framing out: httparse for the head, RFC 9112 section 6.3 in the RFC's order, a
//! chunked decoder of its own. Every limit is a named value with its precedent. An environ is a copy of a prebuilt one
//! with interned keys. Bodies stream in both directions, and no buffer is without a bound. Where a MUST of an RFC is
//! not followed, `tests/DEVIATIONS.md` has the clause and the reason.
//!
//! Items of an iterable share a write as far as one turn yields them ([`net::held`]). Before the request waits, its turn
//! is cut off or its iterable raises, all these items are on their way. After a millisecond they are anyway: an OS
//! thread that needs no interpreter sends them (PEP 3333 forbids to delay an item unless another thread is sure to send it).
//! `write()` and TLS send at once.
//!
//! With `hold_answers` a complete answer waits for the other requests of its poll (`net::held::answers`), because a
//! client with many connections is woken less often then. The leader sends these answers before it polls and before all
//! work but requests; a coroutine sends them before it waits, and a fork before it happens. The same OS thread sends them
//! after a millisecond, also while `close()` of an iterable runs. The loop holds no answer for itself alone: another
//! request must be ready, and most of the last turns must have been long (`server::answer_holding`). Off by default.
//!
//! One state machine owns how a request and its response proceed and end ([`http::exchange`]): whether the connection
//! persists, says `close`, lingers or is reset. Readers, senders and the connection report events and ask it.
//!
//! ## WebSocket
//!
//! A WebSocket is a request in progress: its coroutine receives, and there is no second one. The protocol must not
//! depend on that coroutine, which may be busy or wait for something else. Therefore a *watcher* of the stream
//! ([`event_loop::StreamWatcher`]) reads. The loop calls it when bytes arrive or its deadline is due. The watcher
//! answers pings and closes, checks messages, and wakes the receiver. It runs no Python and never waits. When 64 KiB of
//! messages wait for the application, it stops reading, and TCP holds up the client. It takes 128 frames or 64 KiB at a
//! time; the rest comes after all other work.
//!
//! The watcher also pings clients that are silent (`wsgi::upgrade::wire::pinging`), at an interval of each connection's
//! own: 50,000 clients that came together must not be pinged together. Answers are recognised by their payloads
//! ([`websocket::pings`]), so each one gives a latency.
//!
//! [`websocket`] has no input and output. tungstenite parses the headers of frames. Messages are assembled here,
//! because a byte that breaks UTF-8 or a limit has to be refused when it arrives, and because an idle connection should
//! have no buffer. Frames are queued whole, so messages of many senders never mix. The queue is written at once as far
//! as the kernel takes it, and only a sender that finds it full waits. Under TLS, Python's `ssl` module encrypts the
//! queue, with nothing locked and one call at a time (`net::Stream::work`), because its code may park.
//!
//! A message to many WebSockets is encoded once and offered to one connection after the other, without Python code. From
//! the end of the turn on it is only queued, so nothing else runs before each member has it. Sending these queues gives
//! way. A set of members ([`wsgi`]) loses closed ones by itself.
//!
//! Libraries that speak the protocol themselves find `environ["gunicorn.socket"]`, an object like a socket on the same
//! stream.
//!
//! ## The state of all workers is shared memory
//!
//! A worker that computes answers no message. Its state, the start of its running turn and its counters therefore stand
//! in a memfd that the master makes before the first fork ([`crew::scoreboard`]). Each worker writes its slot, with
//! relaxed stores and without locks: one store for a turn, and counters that were written anyway. Any process reads the
//! slots without waking their owners. A thread that never takes the interpreter answers `/live`, `/ready` and `/metrics`
//! from them ([`crew::admin`]), and the master decides by them which worker leaves and what systemd is notified of.
//!
//! Metrics are counters and histograms in the same slots ([`crew::measures`]), written by the loop while it works. A
//! slot's next owner goes on with them, so no sum goes backwards. One list in [`crew::metrics`] is the source of the text
//! and of the documentation's table.
//!
//! ## Any worker answers for all
//!
//! A thread of each worker answers questions on the service's inspect socket ([`crew::inspect`]). It takes the state of
//! all workers from the scoreboard, and asks the threads of its siblings, over private sockets, for their requests. None
//! of this needs a loop or an interpreter. Stacks and orders do: a second thread waits for the interpreter, and a
//! question that waits too long is taken back and never acted on. The id of a request has the slot, the generation and
//! the number of the work, so it never names another request.
//!
//! ## Workers pass each other messages and descriptors
//!
//! Each worker that takes messages listens on a Unix socket in a private directory of its service. A worker connects to
//! a sibling when it first sends to it ([`crew::siblings`]). The format is pure ([`crew::message`]). The sockets are on
//! the loop and never wait: a full or dead sibling is an error for the message to it alone. A connection is read only
//! while no handler of its messages waits, so messages of one sender come in order and queues have a bound. One worker
//! opens nothing.
//!
//! Channels (`rmeinheld.channel`) are messages of one kind. The scoreboard has bits of the names that each worker listens
//! to ([`crew::interest`]), so a message goes to those workers alone, from the moment at which a subscription is made.
//!
//! ## A live connection moves between workers
//!
//! A request may belong to a sibling, by its session. Its connection then moves after the head has been read, and before
//! anything has reached the application (`server::moving`). One message carries the descriptor, the bytes that were read
//! since the last answer, and what the descriptor does not know ([`crew::moved_connection`]). The answers before it have
//! been written by then. The sibling goes on as if it had accepted the connection and read the bytes itself: with its own
//! limits, logs and metrics. It serves the first request without asking again where that belongs, so no connection goes
//! to and fro. The sender closes its descriptor without a shutdown, and takes it out of its poller first.
//!
//! Nothing is acknowledged, which would cost a message for each move. A sibling that dies with the message unread
//! closes the connection, and its client sees an end without an answer. A sibling that ends in order first has its
//! sockets refuse messages (shutdown(2) of the side that reads), then reads what the kernel has taken, and serves it.
//! A message is therefore either served or an error for its sender. The sender then answers 503, or serves the request
//! itself where the rule permits that. It does the same for a sibling whose loop has not turned for a second.
//!
//! ## Logs and the requests that they are about
//!
//! The engine renders the lines of the access log itself, in each form (`server::access_log`). Ids come from trusted
//! peers or from the kernel's random numbers (`wsgi::request_ids`). Once a log filter wants to know the request of each
//! record, a context variable has it (`interp::followed`). It follows the code into `offload` and asyncio by itself, and
//! `spawn` hands it on. Slow requests are found by a thread that reads the records of units (`server::slow_requests`).
//! It sleeps until the next request can cross the limit.
//!
//! ## Every unit has a record
//!
//! A loop that does not turn answers no question. Each unit therefore has a record of atomics ([`event_loop::records`]):
//! its work, the request line or function, the age, the reason of a wait, the thread state. Any OS thread reads it
//! without the GIL. With the GIL, `interp::inspection` reads the stacks of all coroutines through their thread states,
//! in one moment and without Python code. The dump (`rmeinheld.dump`, SIGUSR2) is made of both.
//!
//! # Limits
//!
//! - No second loop thread, no work stealing, no preemption. A request that computes, or blocks in C, holds up all
//!   others. Without the patches, so does a request that blocks in the standard library: in `time.sleep`, in a socket
//!   and, from CPython 3.13 on, in `Thread.join`. Locks and `SimpleQueue` park even then.
//! - No HTTP/2, no prefork of its own, one extension of WebSocket (compression); Linux only.
//! - No free-threaded Python. CPython's documentation does not promise that thread states may share an OS thread. Its
//!   code allows it since 3.12, and a self-test at start refuses an interpreter that does not.

pub mod coroutine;
pub mod crew;
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
