"""The engine of rmeinheld: its server, its coroutines, and the functions that the patches are made of."""

from collections.abc import Buffer, Callable, Iterable, Iterator, Sequence
from socket import socket
from ssl import MemoryBIO, SSLObject
from types import FrameType, TracebackType
from typing import Any, Literal, Never, Protocol, Self, final, overload
from wsgiref.types import WSGIApplication

from typing_extensions import disjoint_base

from .inspect_socket import Host
from .settings import Settings

__all__ = [
    "AdminListener",
    "BoundedSemaphore",
    "ClientCheck",
    "ClientDisconnected",
    "ClientSocket",
    "Condition",
    "ConnectionClosed",
    "Coroutine",
    "CoroutineExit",
    "Crew",
    "Deadline",
    "EarlyHints",
    "ErrorStream",
    "Event",
    "FileWrapper",
    "Input",
    "Inspector",
    "Jobs",
    "LifoQueue",
    "Lock",
    "LoggedRequest",
    "Members",
    "Queue",
    "RLock",
    "RequestTimeout",
    "Scoreboard",
    "Semaphore",
    "Server",
    "ShutDown",
    "SimpleQueue",
    "StartResponse",
    "Stopping",
    "Timeout",
    "WebSocket",
    "WebSocketError",
    "Write",
    "__version__",
    "_locks_park",
    "access_log_line",
    "arm_exit",
    "as_builtin",
    "broadcast",
    "can_park",
    "check_access_log_format",
    "check_sticky",
    "coroutine_frames",
    "current",
    "defer_spawned",
    "descriptor_closes",
    "detour",
    "disarm_exit",
    "end_awaited",
    "end_loop",
    "end_with_parent",
    "events_now",
    "exclusively",
    "follow_requests",
    "followed_request",
    "forget_followed_request",
    "get_ident",
    "give_way",
    "give_way_quietly",
    "in_turn",
    "inspect_coroutines",
    "is_fifo",
    "is_killed",
    "loop_thread_ident",
    "may_wait",
    "method",
    "metric_families",
    "send_held",
    "set_attribute",
    "set_awaited",
    "sleep",
    "sleep_until",
    "socket_recv",
    "socket_recv_into",
    "socket_recvfrom",
    "socket_recvfrom_into",
    "socket_repeat",
    "socket_send",
    "socket_sendall",
    "spawn",
    "stack_of",
    "start_spawned",
    "timeout",
    "wait_any",
    "wait_either",
    "wait_readable",
    "wait_writable",
    "waiting_for",
    "write_in_background",
]

__version__: str

class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...

class _WrapsBio(Protocol):
    def wrap_bio(self, incoming: MemoryBIO, outgoing: MemoryBIO, *, server_side: bool) -> SSLObject: ...

@final
class AdminListener:
    """Answers `/live`, `/ready` and `/metrics` on a listening socket, on an OS thread of its own that never takes the
    interpreter.

    It works with a duplicate of `descriptor`, a listening TCP or Unix socket that several processes may share. `/live`
    is answered with 200 as long as the process runs. `/ready` is answered with 200 while at least `ready_workers`
    workers of `scoreboard` are ready, and with 503 and the reasons otherwise. A worker is ready if it accepts requests,
    does not drain, and its loop has turned within the last `turn_limit` seconds (5 by default). With `metrics` (off by
    default) `/metrics` is answered with the measures of all workers, in the format of Prometheus or OpenMetrics.

    Raises ValueError for a negative or infinite `turn_limit`, and OSError for a bad descriptor.
    """

    def __new__(
        cls,
        descriptor: int,
        scoreboard: Scoreboard,
        ready_workers: int = 1,
        turn_limit: float = 5.0,
        *,
        metrics: bool = False,
    ) -> Self: ...
    def start(self) -> None:
        """Start to answer. A process calls it after its last fork.

        Raises RuntimeError if called a second time, and OSError if no thread or descriptor is left.
        """

    def stop(self) -> None:
        """Stop accepting, and close the duplicate of the socket. May be repeated. In a forked child it does nothing.

        Clients whose connections were accepted still get their answers, for 0.3 seconds at most.
        """

@final
class Crew:
    """The messages between one worker and its siblings, the other workers of the service.

    `place` is the text of a `rmeinheld.crew_directory.Place`, which all workers share. `slot` is the worker's slot of
    `scoreboard`, which it has claimed. No socket is opened until a message is sent or a handler registered. Call no
    method but `close` in the master: its workers would share the sockets.

    Raises ValueError for a place or a slot that does not exist, and RuntimeError if another process has claimed the
    slot.
    """

    def __new__(cls, place: str, slot: int, scoreboard: Scoreboard) -> Self: ...
    @property
    def slot(self) -> int:
        """Number of the worker's slot."""

    def on(self, kind: int, handler: Callable[[int, int, bytes, list[int]], object] | None, /) -> None:
        """Call `handler(slot, generation, payload, descriptors)` for each message of `kind`, from 2 to 255.

        `slot` and `generation` name the sender. Messages of one sender come in order: the next one waits until the
        handler has returned. The handler runs in a coroutine, and owns the `descriptors`, a list of numbers. A handler
        of None drops such messages. Messages without a handler are dropped, and their descriptors closed.

        Raises ValueError for another kind, TypeError if `handler` is not callable, OSError if the socket cannot be
        opened, and RuntimeError if the crew is closed.
        """

    def on_gone(self, handler: Callable[[int, int], object] | None, /) -> None:
        """Call `handler(slot, generation)` when the connection of a sibling that has sent messages has ended.

        The sibling has ended, or closed its crew, or sent something malformed. Raises as `on` does.
        """

    def send(self, slot: int, kind: int, payload: Buffer, descriptors: Sequence[int] = ()) -> None:
        """Send a message to the worker of `slot`. Never waits: it is queued if the sibling does not read now.

        `kind` is a number from 2 to 255, `payload` at most 1 MiB of bytes. Of up to 16 `descriptors` the sibling gets
        duplicates; these stay open. May be called from any thread.

        Raises ValueError for a message over a limit and for the worker's own slot. Raises BlockingIOError if the queue
        for the sibling is full, and ConnectionRefusedError if the slot has no worker that takes messages. Raises
        PermissionError if another user's process is in its place, RuntimeError if the crew is closed, and OSError.
        """

    def listen(self, name: bytes, /) -> None:
        """Receive messages to the listeners of the channel `name` from now on.

        Call it once for each name. Siblings learn it from shared memory, so it holds when this method has returned.
        Does nothing if the crew is closed, and in a forked child.
        """

    def unlisten(self, name: bytes, /) -> None:
        """Receive no more messages to the listeners of the channel `name`, which `listen` has named."""

    def send_to_listeners(
        self, name: bytes, kind: int, payload: bytes, resting: Sequence[tuple[int, int]] = (), /
    ) -> tuple[int, list[tuple[int, int]]]:
        """Send a message to all siblings that listen to the channel `name`, or to another one of the same hash.

        Returns the number of siblings that it was sent to, and a list of those whose queue is full: slots and
        generations. Never waits, as `send`. Nothing is sent to siblings in the list `resting`, which count as full. A
        sibling that takes no messages is left out.

        Raises ValueError for a message over a limit, and RuntimeError if the crew is closed.
        """

    def has_room(self, slot: int, /) -> bool:
        """Return whether at least half of the queue for the sibling of `slot` is free."""

    def waiting(self) -> int:
        """Return the number of messages to siblings that wait in this process."""

    def siblings(self) -> list[tuple[int, int, int]]:
        """Return the other workers of the service: tuples of slot, generation and process id."""

    def counts(self) -> dict[str, int]:
        """Return the numbers of messages since the worker began, by name.

        "sent" and "received" need no explanation. "refused" messages found a full queue. The sibling of "lost" messages
        died first. "faults" counts connections that were closed because they were malformed or of another user.
        """

    def close(self) -> None:
        """Close all sockets. Messages that the kernel has not taken yet are lost. May be called from any thread."""

@final
class Scoreboard:
    """The memory that the workers of a service share: a slot for each worker. Any process reads it without waking
    others.

    The master makes it before the first fork, with room for `slots` workers (256 by default). Slots have numbers from
    0. The master reserves a slot before it forks a worker, and releases it when the worker has ended.

    Raises ValueError if `slots` is not a number from 1 to 65536, and OSError if there is no memory or descriptor.
    """

    def __new__(cls, slots: int = 256) -> Self: ...
    @staticmethod
    def from_descriptor(descriptor: int, /) -> Scoreboard:
        """Open the scoreboard behind `descriptor`, of which it keeps a duplicate.

        Raises ValueError, with the difference, if the file is no scoreboard or one of another version or size. Raises
        OSError if the descriptor cannot be used.
        """

    @property
    def descriptor(self) -> int:
        """Number of the memory's descriptor. A program started by execve(2) inherits it only if it is made
        inheritable.
        """

    @property
    def slots(self) -> int:
        """Number of slots."""

    @property
    def is_stopping(self) -> bool:
        """Whether the whole service stops."""

    @is_stopping.setter
    def is_stopping(self, is_stopping: bool, /) -> None:
        """Whether the whole service stops."""

    def reserve(self) -> int:
        """Take a free slot for a worker that is about to start, whose state becomes "booting". Returns its number.

        Raises RuntimeError if no slot is free.
        """

    def release(self, slot: int, /) -> None:
        """Give the slot of a worker free that has ended. Its counters stay in the sum of all."""

    def claim(self, slot: int, /) -> None:
        """Note that the calling process, a worker after its fork, owns the slot."""

    def state(self, slot: int, /) -> str:
        """Return the state of a slot: "free", "booting", "ready" or "draining"."""

    def set_state(self, slot: int, state: str, /) -> None:
        """Set the state of a slot. A worker that drains does not become ready again: "ready" then changes nothing.

        Raises ValueError for an unknown state.
        """

    def asks(self, slot: int, /) -> str:
        """Return the reason why the worker asks to be replaced: "requests", "memory", "lifetime", "reload",
        "stuck"; "" without.
        """

    def ask(self, slot: int, reason: str, /) -> None:
        """Ask for a replacement of the worker. An empty reason takes the wish back.

        Raises ValueError for an unknown reason.
        """

    def pid(self, slot: int, /) -> int:
        """Return the process id of the worker; 0 before the worker has written it."""

    def generation(self, slot: int, /) -> int:
        """Return how many workers have owned the slot, the current one included."""

    def workers(self) -> list[tuple[int, str]]:
        """Return the slots that workers own, each with its state."""

    def places(self) -> list[int | None]:
        """Return the holders of all places, as slots; None for a place that is empty. See `assign_places`."""

    def assign_places(self, holders: Sequence[int | None], /) -> None:
        """Assign the places of sessions to slots, in their order. None leaves a place empty. Only the master may do
        this.

        Raises ValueError for a slot that does not exist, or more places than slots.
        """

    def set_service_key(self, key: bytes, /) -> None:
        """Set the key that signs cookies of sticky sessions: 32 bytes. The first one stays.

        Raises ValueError for another length.
        """

    def turn_age(self, slot: int, /) -> float:
        """Return how many seconds the running turn of the worker's loop has lasted; 0 while the loop waits for
        events.
        """

    def counters(self, slot: int | None = None) -> dict[str, int]:
        """Return the numbers of one worker, or of all, with those that have ended (None, the default).

        "requests" (answered) and "connections" (accepted) only grow. "open_connections", "in_progress" (requests) and
        "websockets" are those of now.
        """

    def metrics(self, slot: int | None = None) -> dict[str, Any]:
        """Return the measures of one slot, or of all (None, the default), with those of its earlier owners.

        They are empty unless metrics are on. The counts of "requests" are by method and class of the status, those of
        "refused" by status. The numbers of "waits" are coroutines by the reason of their wait. Those of
        "channels" are counted without metrics, too. The histograms are "request_duration", "time_to_first_byte",
        "queue_time", "loop_lag" and "gil_wait": dictionaries with "bounds" in seconds, "counts" for each bucket (one
        more than bounds), and the "sum" in seconds. The other items are numbers.
        Counts and histograms only grow, so the difference of two calls is that of the time between.
        """

    def scrape(self) -> str:
        """Return the text of `/metrics`, in the format of Prometheus."""

    def busy_share(self, slot: int, /) -> float:
        """Return the share of the last 10 seconds for which a worker's loop was busy, from 0 to 1. It needs metrics."""

    def count_channels(self, slot: int, published: int, delivered: int, dropped: int, gaps: int, /) -> None:
        """Count messages of channels in a slot: published, queued for subscriptions, dropped, and gaps."""

    def count_exit(self, reason: str, /) -> None:
        """Count a worker that has ended.

        `reason` is one for which a worker asks to be replaced, or "scale_down", "stop", "timeout", "killed", "crash" or
        "boot". Raises ValueError for another one.
        """

    def ready_workers(self) -> int:
        """Return the number of workers that are ready, alive, and whose loop has turned within the last five
        seconds.
        """

@final
class Server:
    """The engine of one server. It runs once.

    `app` is the WSGI application. `listeners` are the listening sockets, non-blocking, each with its descriptor,
    SERVER_NAME and SERVER_PORT; the engine works with duplicates of the descriptors. `settings` are the settings.

    With `ssl_context` (None by default) every connection speaks TLS. It is an `ssl.SSLContext`, or an object that
    chooses one in its method `wrap_bio`. With `suppress_ragged_eofs` (the default) a client may end a connection
    without the closing alert of TLS. `access_log` is the descriptor of an access log that is open already; the engine
    writes to a duplicate, and the setting `access_logfile` names the file.

    With `scoreboard` (None by default) the engine notes its turns, counters and state in the slot `slot`. With
    `metrics` (off by default) it measures for `/metrics`, too. With `crew` (None by default) it hands connections to
    the siblings that they belong to by the setting `sticky`, and takes those of its siblings.

    Raises TypeError if `app` is not callable, and OSError for a bad descriptor or if the access log cannot be opened.
    Raises ValueError if the scoreboard has no such slot.
    """

    def __new__(
        cls,
        app: WSGIApplication,
        listeners: Sequence[tuple[int, str, str]],
        settings: Settings,
        ssl_context: _WrapsBio | None = None,
        suppress_ragged_eofs: bool = True,
        access_log: int | None = None,
        *,
        scoreboard: Scoreboard | None = None,
        slot: int = -1,
        metrics: bool = False,
        crew: Crew | None = None,
    ) -> Self: ...
    @property
    def running(self) -> bool:
        """Whether `run()` is serving."""

    @property
    def requests(self) -> int:
        """Number of requests answered so far."""

    @property
    def clients_gone(self) -> int:
        """Number of requests whose client went away until the answer was complete."""

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the grace period is over; None before `stop()`."""

    def watch_parent(self, descriptor: int, parent: int, orphaned: Callable[[], object]) -> None:
        """Send heartbeats to a parent process that supervises this one, and find out that it is gone. Before `run`.

        While the loop turns or waits, the modification time of the file `descriptor` (-1: none) is set to the monotonic
        clock once a second, without the interpreter. `orphaned()` is called once, on a thread of the watchdog, when the
        process `parent` is no longer the parent, also while a request blocks the loop.

        Raises OSError for a bad descriptor, and ValueError for a number that no process has.
        """

    def run(
        self, wakeup_fd: int = -1, exit_status: int | None = None, on_stop: Callable[[], object] | None = None
    ) -> None:
        """Serve until `stop()`. Returns when the last request has ended or the grace period is over; the loop goes on.

        When `wakeup_fd` becomes readable, `run` empties it and runs Python's signal handlers; see
        `signal.set_wakeup_fd`. The default -1 means no descriptor.

        `exit_status` is the status of a process that ends with the server. If the caller does not get the interpreter
        in time to call `disarm_exit`, the process ends with this status. None (the default) leaves the process alone.

        `on_stop()` is called once accepting ends, in the thread of `run`; None (the default) calls nothing.

        Returns at once if `stop()` came first. Raises RuntimeError if called a second time or in a coroutine, and the
        exception of a signal handler or of `on_stop`.
        """

    def stop(
        self,
        timeout: float | None = None,
        idle: float | None = None,
        *,
        delay: float = 0.0,
        restarts: bool = False,
        interrupted: bool = False,
        hurries: bool = False,
    ) -> None:
        """Stop: accept what the kernel has queued, then nothing more, and let requests in progress end. Then `run()`
        returns.

        Every response ends its connection, unless the next request has arrived already. A connection that is idle waits
        for one more request, as long as `idle` and the grace period permit.

        `timeout` is the grace period in seconds; None (the default) is the setting `graceful_timeout`, 0 ends requests
        at once. `idle` is the time for idle connections in seconds; None (the default) is the setting `keep_alive`, 0
        closes them at once, and WebSockets, too. `delay` (0 by default) is the time in seconds for which the server
        goes on as before; the grace period begins after it. `restarts` closes WebSockets with 1012 instead of 1001,
        because another process takes over. `interrupted` says soon what is waited for: on the terminal of a person who
        has pressed Ctrl-C, or in the log. `hurries` shortens the waits for work that does not end, to less than a
        second together.

        May be called from any thread, signal handler or request, and more than once: a later call may only shorten the
        times.
        """

    def drain(self, seconds: float) -> None:
        """Close the WebSockets of now, evenly over `seconds`: the service stops after them, and all else goes on
        meanwhile. Does nothing once a stop has begun, and the second time.

        May be called from any thread.
        """

    def abandon(self) -> None:
        """Have `run()` return at once although the loop hangs, in a process that is about to end."""

    def reopen_logs(self, access_log: int | None = None) -> None:
        """Open the file of the access log anew, after the old one was renamed.

        With `access_log`, a descriptor, the engine goes on in a duplicate of it instead. Raises OSError if that fails.
        """

@final
class Coroutine[T]:
    """A function that runs, or ran, in a coroutine of its own. `spawn()` makes it; `current()` returns the caller's."""

    @property
    def ident(self) -> int:
        """A number that no other coroutine of this process has."""

    @property
    def name(self) -> str:
        """The qualified name of the function, or "request" for the coroutine of a request."""

    @property
    def done(self) -> bool:
        """Whether the coroutine has ended, by returning or by an exception."""

    @property
    def result(self) -> T:
        """The value that the function returned.

        Raises the exception that the function raised, and RuntimeError until the coroutine has ended.
        """

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the coroutine has ended. Returns whether it has.

        `timeout` is the longest wait in seconds; None (the default) waits for ever, 0 only looks. A coroutine that
        joins parks, an OS thread blocks.

        Raises ValueError for a negative timeout. Raises RuntimeError for a coroutine that joins itself, in a forked
        child, and in the master of a service, which runs no coroutine.
        """

    def throw(self, exception: BaseException | type[BaseException], /) -> bool:
        """Raise `exception` in the coroutine, where it waits now or will wait next. Returns whether it had not ended
        yet.

        `exception` is an instance or a class. A coroutine that has not started never calls its function. May be called
        from any thread.

        Raises TypeError if `exception` is no exception.
        """

    def kill(self) -> bool:
        """Raise CoroutineExit in the coroutine: `throw(CoroutineExit("killed"))`. Returns whether it had not ended yet.

        Does not wait for the end; `join()` does.
        """

class CoroutineExit(SystemExit):
    """Raised in a coroutine that is killed, and once in each coroutine that still runs when its server stops.

    Let it pass, and clean up in `finally`. It is a SystemExit, which libraries let pass as the end of a thread.
    """

class ClientDisconnected(BaseException):
    """Raised where a request waits whose client has gone away, if `cancel_on_disconnect` is on.

    It is no subclass of Exception, so code that retries after errors of its own does not swallow it. Let it pass, and
    clean up in `finally`.
    """

class RequestTimeout(BaseException):
    """Raised in a request whose time is up, where it waits or while it computes.

    The client gets 504 if nothing was sent, and a reset of its connection otherwise. It is no subclass of Exception, so
    code that answers or retries after errors of its own does not swallow it. Let it pass, and clean up in `finally`. A
    request that goes on gets CoroutineExit two seconds later.
    """

    def __new__(cls, *_args: object) -> Self: ...

class Timeout(BaseException):
    """Raised by `timeout(seconds)` in its own block, where the coroutine waits.

    It is no subclass of Exception, so code that retries after errors of its own does not swallow it.
    """

@final
class timeout:
    """A time limit for a block of code: `with timeout(5): ...` raises `Timeout` in it, where the coroutine waits.

    `seconds` is the limit, 0 or more; None is no limit. `exception` is an instance or a class to raise instead of
    `Timeout`; with False nothing is raised, and the block just ends. Code that computes is not interrupted. After a
    timeout, the state of the resource that was waited for is unknown: close such a connection.

    Raises ValueError for negative seconds. Entering it raises RuntimeError outside a coroutine and for a second time.
    """

    def __new__(cls, seconds: float | None, exception: object = None) -> Self: ...
    @property
    def seconds(self) -> float | None:
        """The limit in seconds; None for no limit."""

    @property
    def expired(self) -> bool:
        """Whether the limit was reached."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> bool: ...

@final
class Lock:
    """A mutual exclusion lock for coroutines and OS threads, like `threading.Lock`.

    It goes to the waiter that has waited longest, so a coroutine that takes it again and again cannot starve others.
    Any coroutine or thread may release it.
    """

    def __new__(cls) -> Self: ...
    def acquire(self, blocking: bool = True, timeout: float = ...) -> bool:
        """Take the lock. Returns whether it was taken.

        With `blocking` false the call does not wait. `timeout` is the longest wait in seconds; -1 (the default) waits
        for ever.

        Raises ValueError for a negative timeout and for a timeout of a call that does not wait, OverflowError for a
        timeout above `threading.TIMEOUT_MAX`.
        """

    def release(self) -> None:
        """Give the lock to the waiter that has waited longest, or unlock it.

        Raises RuntimeError if the lock is not locked.
        """

    def locked(self) -> bool:
        """Return whether the lock is locked."""

    def __enter__(self) -> bool: ...
    def __exit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...
    def acquire_lock(self, blocking: bool = True, timeout: float = ...) -> bool:
        """`acquire`, by its old name in `_thread`."""

    def release_lock(self) -> None:
        """`release`, by its old name in `_thread`."""

    def locked_lock(self) -> bool:
        """`locked`, by its old name in `_thread`."""

    def _at_fork_reinit(self) -> None:
        """Unlock the lock in a forked child, where its waiters do not exist."""

@disjoint_base
class RLock:
    """A reentrant lock for coroutines and OS threads, like `threading.RLock`. Its owner may take it again.

    CPython's own sees one owner in all coroutines, since they share an OS thread. This lock's owner is the coroutine or
    the OS thread. Arguments are ignored, as `threading.RLock` ignores them.
    """

    def __new__(cls, *args: object, **kwargs: object) -> Self: ...
    def acquire(self, blocking: bool = True, timeout: float = ...) -> bool:
        """Take the lock, or take it once more if the caller owns it. Returns whether it was taken.

        With `blocking` false the call does not wait. `timeout` is the longest wait in seconds; -1 (the default) waits
        for ever.

        Raises ValueError for a negative timeout and for a timeout of a call that does not wait, OverflowError for a
        timeout above `threading.TIMEOUT_MAX`.
        """

    def release(self) -> None:
        """Release the lock once. After as many releases as acquisitions it goes to the waiter that has waited longest.

        Raises RuntimeError if the caller does not own the lock.
        """

    def locked(self) -> bool:
        """Return whether the lock has an owner."""

    def __enter__(self) -> bool: ...
    def __exit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...
    def _is_owned(self) -> bool:
        """Return whether the caller owns the lock, for `threading.Condition`."""

    def _recursion_count(self) -> int:
        """Return how often the caller has taken the lock, for `threading`."""

    def _release_save(self) -> tuple[int, int]:
        """Release the lock completely for `threading.Condition.wait`. Returns its count and its owner."""

    def _acquire_restore(self, saved: tuple[int, int]) -> None:
        """Re-acquire the lock as often, for `threading.Condition.wait`. Interruptions are deferred to the caller's next
        wait.
        """

    def _at_fork_reinit(self) -> None:
        """Unlock the lock in a forked child, where its waiters do not exist."""

def spawn[**P, T](func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[T]:
    """Run `func(*args, **kwargs)` in a coroutine of its own. Returns its `Coroutine`.

    May be called from a coroutine or any OS thread. The first call of a process starts the loop. In the master of a
    service, with `preload_app`, the call is kept, and runs in each worker when that begins.

    Raises TypeError if `func` is not callable, and RuntimeError in a child forked from a process that uses coroutines.
    """

def sleep(seconds: float, /) -> None:
    """Park the coroutine for `seconds`. Outside a coroutine it is `time.sleep`.

    0 lets everything else that is ready run first.

    Raises ValueError for a negative or non-finite number, and CoroutineExit when the server stops.
    """

def sleep_until(at: float, /) -> None:
    """Park the coroutine until `time.monotonic()` is `at`, or not at all if that time is past. In a coroutine only.

    Sleepers wake in the order of their times, and sleepers of the same time in the order of their calls.

    Raises CoroutineExit when the server stops.
    """

def current() -> Coroutine[Any] | None:
    """Return the `Coroutine` that the caller runs in, or None in an OS thread."""

@final
class Event:
    """A flag to wait for, for coroutines and OS threads, like `threading.Event`."""

    def __new__(cls) -> Self: ...
    def is_set(self) -> bool:
        """Return whether the flag is set."""

    def set(self) -> None:
        """Set the flag and wake all waiters."""

    def clear(self) -> None:
        """Clear the flag."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the flag is set. Returns whether it is.

        `timeout` is the longest wait in seconds; None (the default) waits for ever.
        """

    def _at_fork_reinit(self) -> None:
        """Forget the waiters in a forked child, where they do not exist."""

@disjoint_base
class Semaphore:
    """A counting semaphore for coroutines and OS threads, like `threading.Semaphore`. Waiters get their turn in order.

    `value` is how many may hold it at once, 0 or more (1 by default). Raises ValueError for a negative value.
    """

    def __new__(cls, value: int = 1) -> Self: ...
    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Take the semaphore once. Returns whether it was taken.

        With `blocking` false the call does not wait. `timeout` is the longest wait in seconds; None (the default) waits
        for ever.

        Raises ValueError for a timeout of a call that does not wait.
        """

    def release(self, n: int = 1) -> None:
        """Release the semaphore `n` times, 1 or more (1 by default).

        Raises ValueError for less than 1, and if a bounded semaphore would exceed its initial value.
        """

    def __enter__(self) -> bool: ...
    def __exit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...

class BoundedSemaphore(Semaphore):
    """A semaphore that raises ValueError when it is released more often than it was taken:
    `threading.BoundedSemaphore`.

    `value` is how many may hold it at once, 0 or more (1 by default). Raises ValueError for a negative value.
    """

class _Lockable(Protocol):
    def acquire(self) -> object: ...
    def release(self) -> object: ...

@final
class Condition:
    """A condition variable for coroutines and OS threads, like `threading.Condition`.

    `lock` is any object with `acquire` and `release`; None (the default) makes a new `RLock`.
    """

    def __new__(cls, lock: _Lockable | None = None) -> Self: ...
    def acquire(self, *args: Any) -> bool:
        """Call `acquire` of the lock with the same arguments."""

    def release(self) -> None:
        """Call `release` of the lock."""

    def __enter__(self) -> bool: ...
    def __exit__(self, *args: Any) -> None: ...
    def wait(self, timeout: float | None = None) -> bool:
        """Release the lock, wait for a notification, and re-acquire the lock. Returns whether a notification came.

        `timeout` is the longest wait in seconds; None (the default) waits for ever.

        Raises RuntimeError if the caller does not hold the lock.
        """

    def wait_for[T](self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """Wait until `predicate()` is true. Returns its last value.

        `timeout` is the longest wait in seconds; None (the default) waits for ever.

        Raises RuntimeError if the caller does not hold the lock.
        """

    def notify(self, n: int = 1) -> None:
        """Wake the `n` longest waiters (1 by default).

        Raises RuntimeError if the caller does not hold the lock.
        """

    def notify_all(self) -> None:
        """Wake all waiters.

        Raises RuntimeError if the caller does not hold the lock.
        """

    def _at_fork_reinit(self) -> None:
        """Forget the waiters in a forked child, where they do not exist, and unlock the lock."""

class ShutDown(Exception):
    """Raised by `put` and `get` of a queue that has been shut down. It is `queue.ShutDown` on Python 3.13 and later."""

@disjoint_base
class Queue[T]:
    """A queue for coroutines and OS threads, like `queue.Queue`: first in, first out.

    `maxsize` is the largest number of items; 0 (the default) or less sets no limit. An item goes straight to the waiter
    that has waited longest.
    """

    def __new__(cls, maxsize: int = 0) -> Self: ...
    @property
    def maxsize(self) -> int:
        """The largest number of items; 0 for no limit."""

    def qsize(self) -> int:
        """Return the number of items."""

    def empty(self) -> bool:
        """Return whether the queue is empty."""

    def full(self) -> bool:
        """Return whether the queue holds `maxsize` items."""

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Put `item` in, and wait for room if need be.

        With `block` false the call does not wait. `timeout` is the longest wait in seconds; None (the default) waits
        for ever.

        Raises queue.Full without room in time, ShutDown after `shutdown`, ValueError for a negative timeout.
        """

    def put_nowait(self, item: T) -> None:
        """`put(item, block=False)`."""

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take an item out, and wait for one if need be.

        With `block` false the call does not wait. `timeout` is the longest wait in seconds; None (the default) waits
        for ever.

        Raises queue.Empty without an item in time, ShutDown after `shutdown`, ValueError for a negative timeout.
        """

    def get_nowait(self) -> T:
        """`get(block=False)`."""

    def task_done(self) -> None:
        """Say that an item taken out is dealt with.

        Raises ValueError if called more often than there were items.
        """

    def join(self) -> None:
        """Wait until `task_done` was called for every item that was put in."""

    def shutdown(self, immediate: bool = False) -> None:
        """Shut the queue down: `put` raises ShutDown from now on, and `get` does once the queue is empty.

        `immediate` empties the queue at once.
        """

    @classmethod
    def __class_getitem__(cls, key: Any) -> Any: ...

class LifoQueue[T](Queue[T]):
    """A queue for coroutines and OS threads, like `queue.LifoQueue`: last in, first out.

    `maxsize` is the largest number of items; 0 (the default) or less sets no limit.
    """

@disjoint_base
class SimpleQueue[T]:
    """A queue for coroutines and OS threads, like `queue.SimpleQueue`: no limit, no `task_done`."""

    def __new__(cls) -> Self: ...
    def qsize(self) -> int:
        """Return the number of items."""

    def empty(self) -> bool:
        """Return whether the queue is empty."""

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Put `item` in. `block` and `timeout` are ignored: there is always room."""

    def put_nowait(self, item: T) -> None:
        """`put(item)`."""

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take an item out, and wait for one if need be.

        With `block` false the call does not wait. `timeout` is the longest wait in seconds; None (the default) waits
        for ever.

        Raises queue.Empty without an item in time, ValueError for a negative timeout.
        """

    def get_nowait(self) -> T:
        """`get(block=False)`."""

    @classmethod
    def __class_getitem__(cls, key: Any) -> Any: ...

def get_ident() -> int:
    """Return the number by which the interpreter knows the caller: that of its coroutine, or of the OS thread
    outside one.
    """

def can_park() -> bool:
    """Return whether the caller is in a coroutine that may park. Elsewhere every wait blocks the OS thread."""

def give_way() -> None:
    """A chance to switch, for a call that may block. Does nothing outside a coroutine.

    Once the coroutine's turn has lasted `turn_budget`, everything else that is ready runs first.

    Raises an exception thrown into the coroutine, and CoroutineExit when the server stops.
    """

def is_killed() -> bool:
    """Return whether the end of the server has raised CoroutineExit in the coroutine, or will at its next wait."""

def end_awaited() -> None:
    """Raise CoroutineExit in the requests and in threads other than daemons, and wait two seconds at most for their
    end.

    The loop goes on. Not for coroutines.

    Raises RuntimeError, with the name of the request or coroutine, if one computes and keeps the loop from this.
    """

def end_loop() -> None:
    """Raise CoroutineExit in all coroutines and end the loop. A coroutine that still waits two seconds later is
    abandoned.

    Not for coroutines.

    Raises RuntimeError, with the name of the request or coroutine, if one computes and keeps the loop from its end.
    """

def arm_exit(seconds: float, status: int) -> None:
    """End the process with `status` after `seconds`, whichever thread holds the interpreter then. A later call
    replaces it.
    """

def disarm_exit() -> None:
    """Cancel `arm_exit`, and the exit that `Server.run` has armed."""

def defer_spawned() -> None:
    """Have this process keep its coroutines for the workers that it forks."""

def start_spawned() -> None:
    """Run the coroutines that the master of this process has kept. From now on coroutines run at once."""

def end_with_parent() -> None:
    """Have the kernel send SIGTERM to this process when its parent ends, however that ends.

    A change of the process's user, or a fork, undoes it. Raises OSError if a filter of system calls forbids it.
    """

def set_awaited() -> None:
    """Have the end of the process wait for the caller's coroutine, as it waits for requests."""

def give_way_quietly() -> None:
    """A chance to switch, for a call that cannot block in CPython. Raises nothing, and does nothing outside a
    coroutine.

    An exception thrown into the coroutine is raised at its next wait.
    """

def send_held() -> None:
    """Send the answers and items that are held back, as far as their clients take them now."""

def check_access_log_format(text: str, /) -> None:
    """Check the format of an access log.

    Raises ValueError, with the part that is not understood.
    """

def check_sticky(text: str, /) -> None:
    """Check the property of requests that names their session: the option `sticky`.

    Raises ValueError, with the part that is not understood.
    """

def metric_families() -> list[tuple[str, str, str, list[str], str]]:
    """Return all metrics of `/metrics`, in their order: name, kind, unit, names of the labels, meaning.

    The name is the one that the samples of the text format of Prometheus have. The kind is "counter", "gauge",
    "histogram" or "info". The unit is empty for a number of things.
    """

def follow_requests() -> None:
    """Have the server note the request of each context from now on, for `followed_request`."""

def followed_request() -> LoggedRequest | None:
    """Return the request that the caller's code works for, or None."""

def forget_followed_request() -> None:
    """Forget the request in the caller's context, which works for others, too."""

@final
class LoggedRequest:
    """The request that a log record belongs to; see `rmeinheld.logging`."""

    @property
    def request_id(self) -> str | None:
        """The request's id, or None without the option `request_id`."""

    @property
    def trace_id(self) -> str | None:
        """The id of its trace, or None."""

    @property
    def span_id(self) -> str | None:
        """The id of its span in the trace, or None."""

    @property
    def request_line(self) -> str:
        """The method and the target, such as "GET /path?query"."""

def access_log_line(form: str, environ: dict[str, Any], /) -> str:
    """Return the line of the access log in `form`, json or readable, for the environ that an access logger gets.

    Raises ValueError for another form, and KeyError for another environ.
    """

def descriptor_closes(fd: int, /) -> bool:
    """Wake every coroutine that waits for `fd` with OSError (EBADF), because `fd` is about to be closed.

    Returns False on other threads than the coroutines': call it again there after closing the descriptor.
    """

def as_builtin[**P, T](original: Callable[..., Any], function: Callable[P, T], /) -> Callable[P, T]:
    """Return a built-in function like `original` that calls `function`. As an attribute of a class it binds no
    instance.

    Raises TypeError if `original` is no built-in function.
    """

def _locks_park() -> bool:
    """Return whether CPython's own locks park coroutines, whenever they were made."""

def method(function: Callable[..., Any], /) -> Any:
    """Make `function` a method: set on a class, it binds its instances, as a built-in function does not."""

def set_attribute(class_: type, name: str, value: object, /) -> None:
    """Set an attribute of a class, including a class in C whose attributes Python code cannot set.

    Raises TypeError for a class such as `int`, which all interpreters of the process share.
    """

def in_turn(class_: type, name: str, /) -> Any:
    """Return a method like `class.name`, a method in C of a buffered file, that runs in one coroutine or thread at a
    time.

    Raises TypeError if `class.name` is no method in C.
    """

def detour(class_: type, name: str, function: Any, for_threads: bool, /) -> Any:
    """Return a method like `class.name`, a method in C of `io.FileIO`, that calls `function` unless the file is on a
    disk.

    It does so in coroutines, and with `for_threads` in OS threads, too.

    Raises TypeError if `class.name` is no method in C.
    """

def is_fifo(path: str, /) -> bool:
    """Return whether there is a FIFO at `path`."""

def may_wait(fd: int, /) -> bool:
    """Return whether a read or write of `fd` may wait for another program.

    True only in a coroutine, for a blocking descriptor of anything but a file or a directory.
    """

def socket_recv(sock: socket, bufsize: int, flags: int = 0, /) -> bytes:
    """`socket.recv(bufsize, flags=0)`, which parks the coroutine."""

def socket_recv_into(sock: socket, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> int:
    """`socket.recv_into(buffer, nbytes=0, flags=0)`, which parks the coroutine."""

def socket_recvfrom(sock: socket, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
    """`socket.recvfrom(bufsize, flags=0)`, which parks the coroutine."""

def socket_recvfrom_into(sock: socket, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
    """`socket.recvfrom_into(buffer, nbytes=0, flags=0)`, which parks the coroutine."""

def socket_repeat(sock: socket, writes: bool, function: Callable[..., Any], /, *args: Any) -> Any:
    """Call `function(sock, *args)` until it raises no BlockingIOError, and wait in between. In a coroutine only.

    `function` must not block: it gets MSG_DONTWAIT in its arguments, and the socket's timeout is 0 during the call. The
    wait is for reading, or with `writes` for writing.

    Raises TimeoutError after the socket's timeout, OSError for a closed socket, and the errors of `function`.
    """

def socket_send(sock: socket, data: Buffer, flags: int = 0, /) -> int:
    """`socket.send(data, flags=0)`, which parks the coroutine."""

def socket_sendall(sock: socket, data: Buffer, flags: int = 0, /) -> None:
    """`socket.sendall(data, flags=0)`, which parks the coroutine."""

def exclusively[T](function: Callable[[], T], cleanup: Callable[[], object], /) -> T:
    """Call `function()`, then `cleanup()`, as the only server of the process. Returns the result of `function`.

    If an exception of a signal handler cuts `cleanup` short, it is called again.

    Raises RuntimeError if another server runs.
    """

def wait_readable(fd: int, timeout: float | None = None) -> bool:
    """Wait until `fd` is readable. Returns whether it is.

    `timeout` is the longest wait in seconds; None (the default) waits for ever. The wait does not notice that the
    descriptor was closed, and then goes on until its timeout.

    Raises ValueError for a negative timeout, OSError for a bad descriptor, CoroutineExit when the server stops.
    """

def wait_writable(fd: int, timeout: float | None = None) -> bool:
    """Wait until `fd` is writable. Returns whether it is.

    `timeout` is the longest wait in seconds; None (the default) waits for ever. The wait does not notice that the
    descriptor was closed, and then goes on until its timeout.

    Raises ValueError for a negative timeout, OSError for a bad descriptor, CoroutineExit when the server stops.
    """

def wait_any(interests: list[tuple[int, int]], seconds: float, /) -> bool:
    """Wait until one of several descriptors may be ready. Returns whether one may be. In a coroutine only.

    `interests` are pairs of a descriptor and its events, those of `select.poll`. `seconds` is the longest wait.

    Raises OSError for a bad descriptor, for one of the server's own, and for one that is closed during the wait.
    """

def events_now(fd: int, events: int, /) -> int:
    """Return the events of `events` that `fd` is ready for now, and its errors. Never waits or switches.

    The events are those of `select.poll`.
    """

def wait_either(fd: int, timeout: float | None = None) -> bool:
    """Wait until `fd` is readable or writable. Returns whether it is; see `wait_readable`."""

@final
class ErrorStream:
    """A text stream on a duplicate of descriptor `fd` that never waits.

    Lines that the reader of the descriptor does not take are kept while there is room. Further lines are lost; their
    number is written later. Raises OSError for a bad descriptor.
    """

    def __new__(cls, fd: int, /) -> Self: ...
    def write(self, text: str) -> int:
        """Write whole lines. Returns the number of characters, as text streams do."""

    def flush(self) -> None:
        """Do nothing: the descriptor has all that it takes."""

    def close(self) -> None:
        """Write the rest, for one second at most."""

@final
class FileWrapper:
    """An iterable over the blocks of a file-like object: `wsgi.file_wrapper` (PEP 3333).

    `filelike` needs `read(size)`. `block_size` is in bytes, at least 1 (8192 by default). If an application returns the
    object as its response, the server sends a regular file with sendfile(2), from the file's position to its end.

    Raises ValueError for a smaller block size.
    """

    def __new__(cls, filelike: _Readable, block_size: int = 8192, /) -> Self: ...
    @property
    def filelike(self) -> _Readable:
        """The object that is sent."""

    @property
    def block_size(self) -> int:
        """The number of bytes read at a time."""

    def __iter__(self) -> Self: ...
    def __next__(self) -> bytes: ...
    def close(self) -> None:
        """Close the file-like object, if it has a `close` method."""

@final
class Input:
    """`environ["wsgi.input"]`: the request body, read from the client as the application asks for it (PEP 3333).

    Reads as a file opened in binary mode does. The end of the body is the end of the file, so no Content-Length is
    needed (`wsgi.input_terminated`). Reading parks the coroutine until the client has sent enough.

    Raises ConnectionResetError when the client goes away, TimeoutError when it sends nothing for `client_body_timeout`,
    OSError when it breaks HTTP or exceeds `limit_request_body`, and ValueError after the request has ended.
    """

    def read(self, size: int | None = None, /) -> bytes:
        """Return at most `size` bytes, fewer only at the end; None (the default) or a negative size means the
        whole rest.
        """

    def readline(self, size: int | None = None, /) -> bytes:
        """Return the next line with its line end, or its first `size` bytes; None (the default) means the whole
        line.
        """

    def readlines(self, hint: int | None = None, /) -> list[bytes]:
        """Return a list of the remaining lines.

        With `hint` above 0 the list ends with the line that brings it to that number of bytes. None (the default) sets
        no limit.
        """

    def readinto(self, buffer: Buffer) -> int:
        """Read into a writable buffer. Returns the number of bytes, 0 at the end."""

    def __iter__(self) -> Self: ...
    def __next__(self) -> bytes: ...
    def readable(self) -> bool:
        """Return True."""

    def writable(self) -> bool:
        """Return False."""

    def seekable(self) -> bool:
        """Return False: a body is read once."""

    def close(self) -> None:
        """Do nothing: the server owns the stream (PEP 3333)."""

    @property
    def closed(self) -> bool:
        """Always False: the server owns the stream."""

type _ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

@final
class Inspector:
    """Answers questions about the workers of a service on the inspect socket, on OS threads of its own.

    It works with a duplicate of `descriptor`, a listening Unix socket that several processes may share. The worker has
    claimed `slot` of `scoreboard`. `place` is where the workers find each other, as `Crew` takes it; None for a single
    process. `master` is the process id of the arbiter, or None. `user` is the number of a user who may ask, apart from
    the worker's own and root. `host` answers what needs Python code. With `sticky` (off by default) the answers have
    the places of workers, and the connections that have moved between them.

    Raises ValueError for a slot or a place that does not exist, and OSError for a bad descriptor.
    """

    def __new__(
        cls,
        descriptor: int,
        scoreboard: Scoreboard,
        slot: int,
        place: str | None,
        master: int | None,
        user: int,
        host: Host,
        sticky: bool = False,
    ) -> Self: ...
    def start(self) -> None:
        """Start to answer. A process calls it after its last fork.

        Raises RuntimeError if called a second time, and OSError if no thread or descriptor is left.
        """

    def stop(self) -> None:
        """Stop to answer, and close the duplicate of the socket. May be repeated. In a forked child it does nothing."""

@final
class Jobs:
    """The jobs of a pool of OS threads: jobs that wait for a thread, and threads that wait for a job.

    `limit` is the largest number of threads.
    """

    def __new__(cls, limit: int) -> Jobs: ...
    @property
    def limit(self) -> int:
        """The largest number of threads."""

    @property
    def threads(self) -> int:
        """The number of threads."""

    def put(self, job: Any, /) -> bool:
        """Hand `job` to an idle thread, or queue it. Returns whether the caller has to start a thread for it instead.

        The thread to start counts from now on.
        """

    def next(self, seconds: float, /) -> Any:
        """Return the next job for the calling thread, or None: then the thread is to end, and counts no longer.

        The thread waits for a job at most `seconds`.
        """

    def failed(self) -> None:
        """Note that a thread could not start."""

    def set_limit(self, limit: int, /) -> list[Any]:
        """Set the largest number of threads. Returns the jobs for which the caller has to start threads."""

@final
class ClientCheck:
    """`environ["rmeinheld.client_disconnected"]`: calling it returns whether the client has disconnected.

    True means that the client has closed or reset its connection, or has ended its side of it. A client that ends only
    its side may still wait for the answer, but few do. May be called from any coroutine or thread.
    """

    def __call__(self, *args: Never, **kwargs: Never) -> bool: ...

@final
class Deadline:
    """`environ["rmeinheld.deadline"]`: the deadline of the request, or of the coroutine, that uses it.

    Calling it returns the seconds that are left, below 0 once the time is up; None without a deadline. One object
    serves all requests. Raises RuntimeError outside a coroutine.
    """

    def __call__(self, *args: Never, **kwargs: Never) -> float | None: ...
    @property
    def at(self) -> float | None:
        """The deadline on the clock of `time.monotonic()`; None for no deadline. Assign to it to move the deadline.

        With a time that has passed, RequestTimeout is raised at once. Raises ValueError for NaN, infinity and times
        before the clock began.
        """

    @at.setter
    def at(self, at: float | None) -> None:
        """The deadline on the clock of `time.monotonic()`; None for no deadline. Assign to it to move the deadline.

        With a time that has passed, RequestTimeout is raised at once. Raises ValueError for NaN, infinity and times
        before the clock began.
        """

    def set(self, seconds: float | None, /) -> None:
        """Move the deadline to `seconds` from now; None removes it.

        With 0, RequestTimeout is raised at once. Raises ValueError for a negative number, NaN and infinity.
        """

    def extend_to(self, coroutine: object, /) -> None:
        """Have `coroutine` end at the present deadline of the request, too: RequestTimeout is raised in it.

        `coroutine` is a `Coroutine`, or a thread that is one. Later moves of the request's deadline do not move that of
        the coroutine. Without a deadline, or after the end of the coroutine, it does nothing. Raises TypeError for
        anything else, an OS thread included, because nothing can interrupt it.
        """

@final
class Stopping:
    """`environ["rmeinheld.stopping"]`: calling it returns whether the server is stopping.

    If an application has called it in the request's own coroutine and got False, its response gets GeneratorExit at its
    next wait once the server stops. One object serves all requests.
    """

    def __call__(self, *args: Never, **kwargs: Never) -> bool: ...

@final
class StartResponse:
    """`start_response(status, response_headers, exc_info=None)` of one request (PEP 3333). It returns `write`.

    Raises TypeError or ValueError naming the broken rule, AssertionError for a second call without `exc_info`, and the
    exception of `exc_info` once the head has been sent.
    """

    def __call__(
        self, status: str, response_headers: Iterable[Iterable[str]], exc_info: _ExceptionInfo | None = None, /
    ) -> Write: ...
    def client_has_gone(self) -> bool:
        """Return whether the client has gone away, as far as the loop knows without sending."""

@final
class Write:
    """The callable that `start_response` returns: `write(data)` sends bytes at once (PEP 3333, "The write() Callable").
    Prefer returning an iterable.

    Raises TypeError for anything but bytes, and ConnectionError when the client has gone.
    """

    def __call__(self, data: bytes, /) -> None: ...

@final
class EarlyHints:
    """`environ["wsgi.early_hints"]`: calling it sends a 103 (Early Hints, RFC 8297) ahead of the response.

    Its argument is an iterable of pairs of name and value, each a str or bytes. It may be called again. It does nothing
    under HTTP/1.0 and once the head of the response has been sent. Fields about the connection or a body are left out.

    Raises TypeError and ValueError as `start_response` does, and ConnectionError when the client has gone.
    """

    def __call__(self, headers: Iterable[Sequence[str | bytes]], /) -> None: ...

class WebSocketError(ConnectionError):
    """The base class of errors of a WebSocket."""

class ConnectionClosed(WebSocketError):
    """The WebSocket is closed.

    `code` and `reason` say why, as `close_code` and `close_reason` of the WebSocket do.
    """

    code: int
    """Why, as `WebSocket.close_code`."""
    reason: str
    """Why, as `WebSocket.close_reason`."""

@final
class WebSocket:
    """The WebSocket of a request: `environ["wsgi.websocket"]` of every valid handshake (RFC 6455, version 13).

    The first call of a method accepts it; until then the application may answer the request in the ordinary way. Any
    number of coroutines and threads may send, and messages never mix; one receives. It is closed when the application
    returns, and with 1011 if the application raises.
    """

    def accept(
        self,
        subprotocol: str | None = None,
        headers: Iterable[tuple[str, str]] | None = None,
        *,
        max_message_size: int | None = None,
        ping_interval: float | None = None,
        compression: bool | Literal["off", "on", "takeover"] | None = None,
    ) -> None:
        """Accept the connection. Any other use accepts it, too, without a subprotocol.

        `subprotocol` is one that the client offers; None (the default) chooses none. `headers` are more response
        headers, pairs of strings; None (the default) adds none.

        The other arguments are for this connection alone; None (the default) takes the server's setting.
        `max_message_size` is the longest message from the client in bytes. `ping_interval` is the longest silence in
        seconds before the client is pinged (0: never). `compression` is a word of `websocket_compression` (off, on,
        takeover), or True for on, or False.

        Raises RuntimeError if the request was accepted or answered before, and TypeError for anything but pairs of
        strings. Raises ValueError for a subprotocol that the client does not offer, for headers of the handshake
        itself (RFC 6455 4.2.2), and for values out of range.
        """

    def __enter__(self) -> Self: ...
    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None, /
    ) -> Literal[False]: ...
    def send(self, message: str | Buffer, binary: bool | None = None, *, timeout: float | None = None) -> None:
        """Send `message`, a str as text, or bytes or another buffer as binary. Parks while too much waits for a slow
        client.

        `binary` decides otherwise: True sends a str as binary, in UTF-8, and False sends bytes as text. `timeout` is
        the longest wait for room in seconds; None (the default) waits for ever, 0 does not wait. Once there is room,
        the whole message is queued, and `send` returns without a further wait.

        A client that takes nothing for `send_timeout`, or less than `min_send_rate` in the long run, is disconnected
        (1006), whatever the timeout.

        Raises TimeoutError without room in time: then nothing of the message was or will be sent, and the connection
        is as it was. Raises ConnectionClosed once the WebSocket is closed, TypeError for other types, and ValueError
        for text that is not UTF-8 and for a negative timeout.
        """

    def send_text(self, message: str, *, timeout: float | None = None) -> None:
        """Send `message`, a str, as text; see `send`."""

    def send_binary(self, message: Buffer, *, timeout: float | None = None) -> None:
        """Send `message`, bytes or another buffer, as binary; see `send`."""

    def send_json(self, value: object, *, timeout: float | None = None) -> None:
        """Send `value` as JSON in a text message (RFC 8259); see `send`.

        Raises what `json.dumps` raises: TypeError for a value that is not JSON, and ValueError for NaN and infinity,
        which browsers do not read. Nothing is sent then.
        """

    def receive_json(self, timeout: float | None = None) -> Any:
        """Return the value of the next message, which is JSON in text. Parks as `receive` does, which has `timeout`.

        Raises ValueError, with the beginning of the message, if it is not JSON or binary; the connection stays open,
        and the next call takes the next message. Raises ConnectionClosed once the connection is closed, since None is a
        value of JSON, and TimeoutError without a message in time.
        """

    def receive(self, timeout: float | None = None) -> str | bytes | None:
        """Return the next message, a str for text or bytes for binary, or None once the connection is closed.

        Parks until a message arrives. `timeout` is the longest wait in seconds; None (the default) waits for ever, 0
        only looks. When the server stops, messages that have arrived come first, and can be answered for
        `websocket_close_timeout`.

        Raises TimeoutError without a message in time, and ValueError for a negative timeout.
        """

    def wait(self) -> str | bytes | None:
        """The same as `receive()`, by Meinheld's name."""

    def __iter__(self) -> Iterator[str | bytes]: ...
    def __next__(self) -> str | bytes: ...
    @overload
    def ping(
        self, payload: str | Buffer | None = None, *, wait: Literal[True] = True, timeout: float | None = None
    ) -> float:
        """Send a ping, wait for the client's answer, and return the time between them in seconds (RFC 6455 5.5.2).

        `payload` is a str or at most 125 bytes, by which the answer is recognised; None (the default) takes one that no
        other ping has. `timeout` is the longest wait in seconds; None (the default) is `websocket_ping_timeout`, and 0
        does not wait. With `wait=False` the ping is sent without a wait for the answer, and None is returned; `latency`
        still notes it.

        The answer comes behind what the client has sent before. Where the application leaves over 64 KiB unread, the
        server does not read the answer. Browsers answer pings by themselves.

        Raises TimeoutError without an answer in time; the connection stays open. Raises ConnectionClosed once the
        WebSocket is closed, also during the wait. Raises ValueError for a longer payload, and for one whose answer is
        waited for already.
        """

    @overload
    def ping(self, payload: str | Buffer | None = None, *, wait: Literal[False], timeout: float | None = None) -> None:
        """Send a ping, wait for the client's answer, and return the time between them in seconds (RFC 6455 5.5.2).

        `payload` is a str or at most 125 bytes, by which the answer is recognised; None (the default) takes one that no
        other ping has. `timeout` is the longest wait in seconds; None (the default) is `websocket_ping_timeout`, and 0
        does not wait. With `wait=False` the ping is sent without a wait for the answer, and None is returned; `latency`
        still notes it.

        The answer comes behind what the client has sent before. Where the application leaves over 64 KiB unread, the
        server does not read the answer. Browsers answer pings by themselves.

        Raises TimeoutError without an answer in time; the connection stays open. Raises ConnectionClosed once the
        WebSocket is closed, also during the wait. Raises ValueError for a longer payload, and for one whose answer is
        waited for already.
        """

    @property
    def latency(self) -> float | None:
        """The time in seconds that the last answered ping took, or None before the first. Keep-alive pings count."""

    @property
    def last_received(self) -> float | None:
        """When the client's last frame, or part of one, arrived, on the clock of `time.monotonic()`.

        Pongs count. At first it is the time of the accept; before that it is None. `time.monotonic() -
        websocket.last_received` is the client's silence in seconds.
        """

    def close(self, code: int = 1000, reason: str | Buffer | None = "") -> None:
        """Close the connection, and wake the coroutine that receives. Does nothing once it is closed.

        `code` is a code of RFC 6455 7.4 (1000 by default). `reason` is a str or bytes, at most 123 bytes of UTF-8; None
        is an empty one. `close` does not wait for the client's answer, for which the client has
        `websocket_close_timeout`.

        Raises ValueError for a code that may not be sent, and for a reason that is longer or not UTF-8.
        """

    @property
    def closed(self) -> bool:
        """Whether the connection is closed or closing, so that nothing can be sent."""

    @property
    def websocket_closed(self) -> bool:
        """The same as `closed`, by Meinheld's name."""

    @property
    def close_code(self) -> int | None:
        """The code with which the connection was closed, by its client or by us, or None while it is open.

        1005 means that the client gave no code, 1006 that the connection broke (RFC 6455 7.1.5).
        """

    @property
    def close_reason(self) -> str | None:
        """The reason given with the code, or a description of the failure; None while the connection is open."""

    @property
    def buffered(self) -> int:
        """Number of bytes that wait to be sent because the client is slow.

        From `websocket_max_queue_size` on, `send` waits, too. A sender to many clients looks here first.
        """

    @property
    def path(self) -> str | None:
        """The path of the request, PATH_INFO."""

    @property
    def origin(self) -> str | None:
        """The Origin that a browser sent, or None (RFC 6455 10.2)."""

    @property
    def subprotocol(self) -> str | None:
        """The accepted subprotocol, or None."""

    @property
    def protocol(self) -> str | None:
        """The same as `subprotocol`, by Meinheld's name."""

    @property
    def subprotocols(self) -> tuple[str, ...]:
        """The subprotocols that the client offers, in its order."""

    @property
    def version(self) -> int:
        """The version of the protocol: 13."""

    @property
    def environ(self) -> dict[str, Any] | None:
        """The environ of the request; None once the request has ended."""

@final
class Members:
    """A set of WebSockets, such as a room, for `broadcast`. A WebSocket that closes leaves it by itself.

    `websockets` are the first members; none by default. Adding, leaving and `len` take the same time however many there
    are. From any coroutine or thread.
    """

    def __new__(cls, websockets: Iterable[WebSocket] = ()) -> Members: ...
    def add(self, websocket: WebSocket) -> bool:
        """Add a WebSocket, and return whether it is a member now: a closed one is not. Does nothing if it was.

        Accepts the connection if it is not accepted yet, without a subprotocol.

        Raises RuntimeError if the request was answered in another way.
        """

    def remove(self, websocket: WebSocket) -> None:
        """Remove a WebSocket. Does nothing if it is no member."""

    def discard(self, websocket: WebSocket) -> None:
        """The same as `remove`, by the name that sets have for it."""

    def broadcast(
        self, message: str | Buffer, slow: Literal["close", "skip"] | Callable[[WebSocket], object] = "close"
    ) -> list[WebSocket]:
        """Send `message` to all members; see `rmeinheld.websocket.broadcast`.

        Returns a list of the members that did not get the message, because they are slow or have just closed.
        """

    def __len__(self) -> int: ...
    def __contains__(self, websocket: object, /) -> bool: ...
    def __iter__(self) -> Iterator[WebSocket]: ...

def broadcast(
    websockets: Iterable[WebSocket],
    message: str | Buffer,
    slow: Literal["close", "skip"] | Callable[[WebSocket], object] = "close",
) -> list[WebSocket]:
    """Send `message`, a str as text, or bytes or another buffer as binary, to each of `websockets`, an iterable. Does
    not wait for a slow client. From any coroutine or thread.

    The message is encoded and compressed once, and no Python code runs for a member. Every member has it in its queue
    before anything else runs, so the messages of several senders arrive in one order.

    `slow` is for members for whom `websocket_max_queue_size` bytes or more wait already. "close" (the default) closes
    these with 1013, and "skip" leaves out this message. A callable is called with each such member, once all others
    have the message.

    Returns a list of the members that did not get the message: those that are slow, closed, or not accepted yet. A
    WebSocket that is not accepted yet stays so, because its request may still be answered in another way.

    Raises TypeError for other messages and for members that are no WebSockets, and ValueError for another `slow`;
    nothing is sent then. An exception of the callable is raised once all slow members have been seen.
    """

@final
class ClientSocket:
    """The client's connection, like a `socket.socket`: `environ["gunicorn.socket"]` of every valid handshake.

    Its calls park coroutines and block OS threads, patched or not. The first use takes the connection over: from then
    on the server sends nothing on it, and closes it when the application returns or raises StopIteration.

    When the server stops, `recv` returns what has arrived and then `b""`. Sending a close frame is up to the library:
    the server does not know its protocol.
    """

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Return at most `bufsize` bytes, or `b""` at the end of the stream.

        `flags` may contain MSG_PEEK, MSG_WAITALL and MSG_DONTWAIT, and flags without an effect here (0 by default).
        Raises ValueError for other flags, TimeoutError after the timeout, and BlockingIOError if the call would wait
        and must not.
        """

    def recv_into(self, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> int:
        """Receive into a writable buffer. Returns the number of bytes, 0 at the end of the stream.

        `nbytes` is the largest number of bytes; 0 (the default) means the size of the buffer. See `recv` for `flags`
        and errors.
        """

    def send(self, data: Buffer, flags: int = 0, /) -> int:
        """Send `data`. Returns the number of bytes sent.

        Without a timeout that is all of `data`, as from a blocking socket; with one, the part that the connection takes
        in time. `flags` may contain MSG_DONTWAIT (0 by default). Raises ValueError, TimeoutError and BlockingIOError as
        `recv` does.
        """

    def sendall(self, data: Buffer, flags: int = 0, /) -> None:
        """Send all of `data` within the timeout. See `send` for `flags` and errors."""

    def close(self) -> None:
        """End the server's side of the connection. The rest ends with the request."""

    def shutdown(self, how: int) -> None:
        """Shut down the reading side (`how` 0), the writing side (1) or both (2), as `socket.shutdown` does.

        Raises ValueError for other values.
        """

    def settimeout(self, value: float | None, /) -> None:
        """Set the timeout of each later call in seconds; None waits for ever, 0 does not wait.

        Raises ValueError for a negative value.
        """

    def gettimeout(self) -> float | None:
        """Return the timeout in seconds, or None."""

    def setblocking(self, flag: bool, /) -> None:
        """`settimeout(None)` if `flag` is true, otherwise `settimeout(0.0)`."""

    def fileno(self) -> int:
        """Return a descriptor of the connection to wait on, or -1 after `close()`."""

    def getpeername(self) -> Any:
        """Return the address of the peer, as `socket.getpeername` does."""

    def getsockname(self) -> Any:
        """Return the address of the server's side, as `socket.getsockname` does."""

    def getsockopt(self, *args: Any) -> Any:
        """Return a socket option, as `socket.getsockopt` does."""

    def setsockopt(self, *args: Any) -> None:
        """Set a socket option, as `socket.setsockopt` does."""

def inspect_coroutines(*, stacks: bool = True, redact: bool = True) -> list[dict[str, Any]]:
    """Return a list of dictionaries, one for each coroutine that has work. May be called from any thread.

    docs/inspecting.md describes the keys. `stacks` adds the Python stacks, innermost frame first. `redact` replaces the
    values of query strings and the credentials in targets. Runs no Python code meanwhile.
    """

def stack_of(work: int, /) -> list[tuple[str, int, str]] | None:
    """Return the stack of the piece of work with this number as (file, line, function), innermost frame first.

    Returns None if the work has ended. May be called from any thread.
    """

def coroutine_frames() -> dict[int, FrameType]:
    """Return the innermost frame of each coroutine that runs Python code, by the coroutine's ident."""

def loop_thread_ident() -> int | None:
    """Return the number of the OS thread that runs the coroutines, or None before the first one."""

def write_in_background(fd: int, text: str, /) -> None:
    """Write `text` to a descriptor, from an OS thread of its own and without waiting for the end of it.

    For text that a pipe without a reader may not take. After five seconds without progress the rest is lost. Raises
    OSError if the descriptor is not open.
    """

def waiting_for[*A, T](reason: str, detail: int, function: Callable[[*A], T], /, *args: *A) -> T:
    """Call `function(*args)`, which waits for `reason`, and return its result. A dump then names the reason.

    `reason` is one of the names in docs/inspecting.md, and `detail` the number that belongs to it, such as a process.

    Raises ValueError for another name.
    """
