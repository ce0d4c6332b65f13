"""The extension: the engine of the server, and its coroutines."""

from collections.abc import Buffer, Callable, Iterable, Iterator, Sequence
from socket import socket
from ssl import SSLContext
from types import TracebackType
from typing import Any, Never, Protocol, Self, final
from wsgiref.types import WSGIApplication

from typing_extensions import disjoint_base

from .settings import Settings

__all__ = [
    "BoundedSemaphore",
    "ClientDisconnected",
    "ClientSocket",
    "Condition",
    "ConnectionClosed",
    "Coroutine",
    "CoroutineExit",
    "EarlyHints",
    "ErrorStream",
    "Event",
    "FileWrapper",
    "Input",
    "Jobs",
    "LifoQueue",
    "Lock",
    "Queue",
    "RLock",
    "Semaphore",
    "Server",
    "ShutDown",
    "SimpleQueue",
    "StartResponse",
    "Stopping",
    "Timeout",
    "WebSocket",
    "WebSocketError",
    "__version__",
    "_locks_park",
    "arm_exit",
    "as_builtin",
    "can_park",
    "current",
    "descriptor_closes",
    "detour",
    "disarm_exit",
    "end_awaited",
    "end_loop",
    "events_now",
    "exclusively",
    "get_ident",
    "give_way",
    "give_way_quietly",
    "in_turn",
    "is_fifo",
    "is_killed",
    "may_wait",
    "method",
    "set_attribute",
    "set_awaited",
    "sleep",
    "sleep_until",
    "socket_recv",
    "socket_recv_into",
    "socket_send",
    "socket_sendall",
    "spawn",
    "timeout",
    "wait_any",
    "wait_either",
    "wait_readable",
    "wait_writable",
]

__version__: str

class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...

@final
class Server:
    """The engine of one server; it runs once.

    `listeners` are the listening sockets, non-blocking: descriptor, SERVER_NAME and SERVER_PORT of each. The engine
    works with duplicates of them. With `ssl_context`, every connection speaks TLS; with `suppress_ragged_eofs`, one may
    end without TLS's own goodbye. `access_log` is a descriptor of the access log where that is open already: the engine
    writes to a duplicate, and `access_logfile` is its name. Raises OSError if the access log cannot be opened.
    """

    def __new__(
        cls,
        app: WSGIApplication,
        listeners: Sequence[tuple[int, str, str]],
        settings: Settings,
        ssl_context: SSLContext | None = None,
        suppress_ragged_eofs: bool = True,
        access_log: int | None = None,
    ) -> Self: ...
    @property
    def running(self) -> bool:
        """Whether run() is at work."""

    @property
    def requests(self) -> int:
        """Requests answered so far."""

    @property
    def clients_gone(self) -> int:
        """Requests whose client went away before the answer was complete."""

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the time is over that `stop` gave to requests; None before it."""

    def run(self, wakeup_fd: int = -1, exit_status: int | None = None) -> None:
        """Serve until stopped. Whenever `wakeup_fd` is readable, read it empty and run the Python signal handlers.

        The loop goes on: `end_loop` ends it. With `exit_status` the process is to end with the server: should nobody
        get the interpreter in time to call `disarm_exit`, it ends with this status.

        Returns at once after a stop() that came before. Raises RuntimeError a second time or in a coroutine, and what
        a signal handler raises.
        """

    def stop(self, timeout: float | None = None) -> None:
        """Stop accepting, let requests in progress end within `timeout` seconds, and end run().

        None is the setting `graceful_timeout`; 0 is at once. May be called from any thread or signal handler and more
        than once: a later call can only bring the end nearer.
        """

    def abandon(self) -> None:
        """Have run() return at once: the loop hangs. For a process that is about to end."""

    def reopen_logs(self, access_log: int | None = None) -> None:
        """Have the file of the access log opened anew, or go on in a duplicate of the descriptor `access_log`."""

@final
class Coroutine[T]:
    """A function that runs beside others; made by `spawn`."""

    @property
    def ident(self) -> int:
        """A number that no other coroutine of this process has."""

    @property
    def name(self) -> str:
        """What it runs: the function's qualified name, or "request"."""

    @property
    def done(self) -> bool:
        """Whether it has ended, in whatever way."""

    @property
    def result(self) -> T:
        """What the function returned; raises what it raised, or RuntimeError while it has not ended."""

    def join(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, at most `timeout` seconds (None: for ever; 0: only look).

        Returns whether it has ended. Works in coroutines, which park, and in OS threads, which block. Raises ValueError
        for a negative timeout and RuntimeError for a coroutine that joins itself.
        """

    def throw(self, exception: BaseException | type[BaseException], /) -> bool:
        """Raise `exception` (an instance or a class) in the coroutine, where it waits or will wait next.

        In one that has not started, the function is not called. Returns whether it had not ended. From any thread.
        Raises TypeError for what is no exception.
        """

    def kill(self) -> bool:
        """Raise CoroutineExit in the coroutine: `throw(CoroutineExit("killed"))`. Does not wait: `join()` does.

        Returns whether it had not ended.
        """

class CoroutineExit(BaseException):
    """Raised in a coroutine that is killed, or, once, still runs when its server stops. Let it pass; use `finally`."""

class Timeout(BaseException):
    """Raised by `timeout(seconds)` in its own block, where the coroutine waits.

    No subclass of Exception: code that retries after an error of its own does not swallow it.
    """

@final
class timeout:
    """A time limit for a block of code: `with timeout(5): ...` raises `Timeout` in it, where the coroutine waits.

    `seconds` may be None: no limit. `exception` is raised instead, an instance or a class; with False, the block just
    ends. Code that computes is not interrupted. What was waited for is in an unknown state afterwards: close that
    connection. Raises ValueError for negative seconds, RuntimeError outside a coroutine and on a second use.
    """

    def __new__(cls, seconds: float | None, exception: object = None) -> Self: ...
    @property
    def seconds(self) -> float | None:
        """The limit."""

    @property
    def expired(self) -> bool:
        """Whether the limit was reached."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> bool: ...

@final
class Lock:
    """A mutual exclusion lock, handed to those who wait in the order in which they came.

    What `threading.Lock()` is, for coroutines and OS threads: any of them may release it.
    """

    def __new__(cls) -> Self: ...
    def acquire(self, blocking: bool = True, timeout: float = ...) -> bool:
        """Take the lock; returns whether that was possible within `timeout` seconds (-1: wait for ever).

        Raises ValueError for a timeout of a call that does not block or a negative one, OverflowError for one beyond
        `threading.TIMEOUT_MAX`.
        """

    def release(self) -> None:
        """Give the lock to the one who has waited longest, or nobody. Raises RuntimeError if it is not locked."""

    def locked(self) -> bool:
        """Whether somebody has it."""

    def __enter__(self) -> bool: ...
    def __exit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...
    def acquire_lock(self, blocking: bool = True, timeout: float = ...) -> bool: ...
    def release_lock(self) -> None: ...
    def locked_lock(self) -> bool: ...
    def _at_fork_reinit(self) -> None: ...

@disjoint_base
class RLock:
    """A reentrant lock, owned by the coroutine or OS thread that took it.

    What `threading.RLock()` is; CPython's own takes all coroutines for one owner, since they share an OS thread.
    """

    def __new__(cls, *args: object, **kwargs: object) -> Self: ...
    def acquire(self, blocking: bool = True, timeout: float = ...) -> bool:
        """Take the lock, once more if the caller has it; returns whether that was possible within `timeout` seconds.

        -1 waits for ever. Raises ValueError for a timeout of a call that does not block or a negative one,
        OverflowError for one beyond `threading.TIMEOUT_MAX`.
        """

    def release(self) -> None:
        """Give the lock back; after as many times as it was taken, to the one who has waited longest.

        Raises RuntimeError if the caller does not have it.
        """

    def locked(self) -> bool:
        """Whether somebody has it."""

    def __enter__(self) -> bool: ...
    def __exit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...
    def _is_owned(self) -> bool: ...
    def _recursion_count(self) -> int: ...
    def _release_save(self) -> tuple[int, int]: ...
    def _acquire_restore(self, saved: tuple[int, int]) -> None: ...
    def _at_fork_reinit(self) -> None: ...

def spawn[**P, T](func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[T]:
    """Run `func(*args, **kwargs)` in a coroutine of its own; returns its `Coroutine`.

    From a coroutine or any OS thread. Raises TypeError if `func` is not callable, RuntimeError in a child forked from a
    process that uses coroutines.
    """

def sleep(seconds: float, /) -> None:
    """Park the coroutine for `seconds`; 0 lets everything else that is ready run. Outside a coroutine, `time.sleep`.

    Raises ValueError for a negative or non-finite value, CoroutineExit when the server stops.
    """

def sleep_until(at: float, /) -> None:
    """Park the coroutine until `time.monotonic()` is `at`, or not at all if that is past. In a coroutine only.

    Those who sleep until different times wake in the order of these. Raises CoroutineExit when the server stops.
    """

def current() -> Coroutine[Any] | None:
    """The `Coroutine` that the caller runs in, or None in an OS thread."""

@final
class Event:
    """A flag that can be waited for: what `threading.Event` is, for coroutines and OS threads."""

    def __new__(cls) -> Self: ...
    def is_set(self) -> bool:
        """Whether the flag is set."""

    def set(self) -> None:
        """Set the flag, and wake all who wait for it."""

    def clear(self) -> None:
        """Take the flag back."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the flag is set, at most `timeout` seconds (None: for ever). Returns whether it was."""

    def _at_fork_reinit(self) -> None: ...

@disjoint_base
class Semaphore:
    """What `threading.Semaphore` is, for coroutines and OS threads; those who wait get their turn in order.

    `value`: how many may have it at once. Raises ValueError for a negative one.
    """

    def __new__(cls, value: int = 1) -> Self: ...
    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Take one; returns whether that was possible within `timeout` seconds (None: wait for ever).

        Raises ValueError for a timeout of a call that does not block.
        """

    def release(self, n: int = 1) -> None:
        """Give back `n`. Raises ValueError for less than 1, and for more than were taken from a bounded semaphore."""

    def __enter__(self) -> bool: ...
    def __exit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...

class BoundedSemaphore(Semaphore):
    """What `threading.BoundedSemaphore` is: giving back more than was taken is an error."""

class _Lockable(Protocol):
    def acquire(self) -> object: ...
    def release(self) -> object: ...

@final
class Condition:
    """What `threading.Condition` is, for coroutines and OS threads.

    `lock`: anything with `acquire` and `release`; a new `RLock` by default.
    """

    def __new__(cls, lock: _Lockable | None = None) -> Self: ...
    def acquire(self, *args: Any) -> bool:
        """Take the lock."""

    def release(self) -> None:
        """Give the lock back."""

    def __enter__(self) -> bool: ...
    def __exit__(self, *args: Any) -> None: ...
    def wait(self, timeout: float | None = None) -> bool:
        """Give the lock back, wait to be notified, at most `timeout` seconds (None: for ever), take the lock again.

        Returns whether it was notified. Raises RuntimeError if the caller does not have the lock.
        """

    def wait_for[T](self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """Wait until `predicate()` is true, at most `timeout` seconds (None: for ever). Returns its last value."""

    def notify(self, n: int = 1) -> None:
        """Wake the first `n` who wait. Raises RuntimeError if the caller does not have the lock."""

    def notify_all(self) -> None:
        """Wake all who wait. Raises RuntimeError if the caller does not have the lock."""

    def _at_fork_reinit(self) -> None: ...

class ShutDown(Exception):
    """Raised by `put` and `get` of a queue that has been shut down; `queue.ShutDown` where that exists (3.13)."""

@disjoint_base
class Queue[T]:
    """What `queue.Queue` is, for coroutines and OS threads: first in, first out, at most `maxsize` items (0: any).

    An item goes straight to the one who has waited longest.
    """

    def __new__(cls, maxsize: int = 0) -> Self: ...
    @property
    def maxsize(self) -> int:
        """The limit; 0 for none."""

    def qsize(self) -> int:
        """How many items there are."""

    def empty(self) -> bool:
        """Whether there is none."""

    def full(self) -> bool:
        """Whether there are `maxsize`."""

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Put `item` in, waiting for room at most `timeout` seconds (None: for ever) if `block`.

        Raises queue.Full, ShutDown, ValueError for a negative timeout.
        """

    def put_nowait(self, item: T) -> None:
        """`put(item, block=False)`."""

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take an item out, waiting for one at most `timeout` seconds (None: for ever) if `block`.

        Raises queue.Empty, ShutDown, ValueError for a negative timeout.
        """

    def get_nowait(self) -> T:
        """`get(block=False)`."""

    def task_done(self) -> None:
        """Say that an item that was got is dealt with. Raises ValueError for more than there were items."""

    def join(self) -> None:
        """Wait until `task_done` was called for every item."""

    def shutdown(self, immediate: bool = False) -> None:
        """Have `put` raise ShutDown from now on, and `get` when the queue is empty; `immediate`: empty it at once."""

    @classmethod
    def __class_getitem__(cls, key: Any) -> Any: ...

class LifoQueue[T](Queue[T]):
    """What `queue.LifoQueue` is: last in, first out."""

@disjoint_base
class SimpleQueue[T]:
    """What `queue.SimpleQueue` is: without a limit, without tasks."""

    def __new__(cls) -> Self: ...
    def qsize(self) -> int:
        """How many items there are."""

    def empty(self) -> bool:
        """Whether there is none."""

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Put `item` in. `block` and `timeout` have no meaning: there is always room."""

    def put_nowait(self, item: T) -> None:
        """Put `item` in."""

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take an item out, waiting for one at most `timeout` seconds (None: for ever) if `block`.

        Raises queue.Empty.
        """

    def get_nowait(self) -> T:
        """`get(block=False)`."""

    @classmethod
    def __class_getitem__(cls, key: Any) -> Any: ...

def get_ident() -> int:
    """The number by which the interpreter knows the caller: the coroutine's, or the OS thread's outside of one.

    `sys._current_frames()` and debuggers use it; `threading.get_ident()` is the OS thread's unless patched.
    """

def can_park() -> bool:
    """Whether the caller is in a coroutine that may park. Elsewhere every wait blocks the OS thread."""

def give_way() -> None:
    """A chance to switch, for a call that may block.

    Once the coroutine's turn has lasted `turn_budget`, everything else that is ready runs first. Nothing outside a
    coroutine.

    Raises what is thrown into the coroutine, and CoroutineExit when the server stops.
    """

def is_killed() -> bool:
    """Whether the end of the server has raised CoroutineExit in the coroutine, or will at its next wait."""

def end_awaited() -> None:
    """Raise CoroutineExit in the requests and in the threads that are no daemons; wait for them, at most two seconds.

    The loop goes on. Not from a coroutine. Raises RuntimeError naming what computes and keeps the loop from this.
    """

def end_loop() -> None:
    """Raise CoroutineExit in all coroutines and end the loop. What still waits a little later is left behind for ever.

    Not from a coroutine. Raises RuntimeError naming what computes and keeps the loop from its end.
    """

def arm_exit(seconds: float, status: int) -> None:
    """Have the process end with `status` in so many seconds, whoever holds the interpreter then. Replaces itself."""

def disarm_exit() -> None:
    """Take `arm_exit`, and what `Server.run` has armed, back."""

def set_awaited() -> None:
    """Have the end of the process wait for the caller's coroutine as it does for requests."""

def give_way_quietly() -> None:
    """A chance to switch, for a call that cannot block in CPython: it raises nothing.

    What is thrown into the coroutine is raised at its next wait.
    """

def descriptor_closes(fd: int, /) -> bool:
    """Wake every coroutine that waits for `fd` with OSError (EBADF): it is about to be closed.

    Returns False on another thread than the coroutines': there it is to be called again after the closing.
    """

def as_builtin[**P, T](original: Callable[..., Any], function: Callable[P, T], /) -> Callable[P, T]:
    """A built-in function like `original` that calls `function`: as an attribute of a class it binds no instance.

    Raises TypeError if `original` is no built-in function.
    """

def _locks_park() -> bool:
    """Whether CPython's own locks park coroutines, whenever they were made."""

def method(function: Callable[..., Any], /) -> Any:
    """Make `function` a method: set on a class, it binds its instances, as a built-in function does not."""

def set_attribute(class_: type, name: str, value: object, /) -> None:
    """Set an attribute of a class, including one of a class in C whose attributes Python code cannot set.

    Raises TypeError for a class such as `int`, which all interpreters of the process share.
    """

def in_turn(class_: type, name: str, /) -> Any:
    """A method like `class.name`, a method in C of a buffered file, that one coroutine or OS thread at a time is in.

    Raises TypeError for what is no such method.
    """

def detour(class_: type, name: str, function: Any, for_threads: bool, /) -> Any:
    """A method like `class.name`, a method in C of `io.FileIO`, that calls `function` for files that are not on a disk.

    In coroutines, and if `for_threads` in OS threads, too.

    Raises TypeError for what is no such method.
    """

def is_fifo(path: str, /) -> bool:
    """Whether there is a FIFO at `path`."""

def may_wait(fd: int, /) -> bool:
    """Whether a read or write of `fd` may wait for another program: in a coroutine, on a descriptor that blocks, for
    anything but files and directories.
    """

def socket_recv(sock: socket, bufsize: int, flags: int = 0, /) -> bytes:
    """`socket.recv(bufsize, flags=0)`, which parks the coroutine."""

def socket_recv_into(sock: socket, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> int:
    """`socket.recv_into(buffer, nbytes=0, flags=0)`, which parks the coroutine."""

def socket_send(sock: socket, data: Buffer, flags: int = 0, /) -> int:
    """`socket.send(data, flags=0)`, which parks the coroutine."""

def socket_sendall(sock: socket, data: Buffer, flags: int = 0, /) -> None:
    """`socket.sendall(data, flags=0)`, which parks the coroutine."""

def exclusively[T](function: Callable[[], T], cleanup: Callable[[], object], /) -> T:
    """Call `function()`, then `cleanup()`, as the only server of the process; returns what `function` returned.

    `cleanup` is called again if an exception of a signal handler cuts it short. Raises RuntimeError if a server runs.
    """

def wait_readable(fd: int, timeout: float | None = None) -> bool:
    """Wait until `fd` can be read, at most `timeout` seconds (None: for ever). Returns whether it can.

    Raises ValueError for a negative timeout, OSError for a bad descriptor, CoroutineExit when the server stops. One
    that is closed meanwhile is not noticed: the wait goes on until its timeout.
    """

def wait_writable(fd: int, timeout: float | None = None) -> bool:
    """Wait until `fd` can be written, at most `timeout` seconds (None: for ever). Returns whether it can.

    Raises ValueError for a negative timeout, OSError for a bad descriptor, CoroutineExit when the server stops. One
    that is closed meanwhile is not noticed: the wait goes on until its timeout.
    """

def wait_any(interests: list[tuple[int, int]], seconds: float, /) -> bool:
    """Wait until one of several descriptors may be ready, each for its events (those of `select.poll`).

    At most for `seconds`. Returns whether one may be. In a coroutine only.

    Raises OSError for a bad descriptor, for one of the server's own, and for one that is closed meanwhile.
    """

def events_now(fd: int, events: int, /) -> int:
    """The events of `events` (those of `select.poll`) that `fd` is ready for now, and its errors.

    Never waits or switches.
    """

def wait_either(fd: int, timeout: float | None = None) -> bool:
    """Wait until `fd` can be read or written, as `wait_readable` and `wait_writable` do."""

@final
class ErrorStream:
    """A text stream on a duplicate of descriptor `fd` that never waits: what nobody reads is kept as far as there is
    room, and then lost and counted. Raises OSError for a bad descriptor."""

    def __new__(cls, fd: int, /) -> Self: ...
    def write(self, text: str) -> int:
        """Write whole lines. Returns the number of characters."""

    def flush(self) -> None:
        """Do nothing: what can be written has been."""

    def close(self) -> None:
        """Write what is left, within a second."""

@final
class FileWrapper:
    """wsgi.file_wrapper (PEP 3333): a file sent in blocks, or by sendfile where it is one of the system's."""

    def __new__(cls, filelike: _Readable, block_size: int = 8192, /) -> Self: ...
    @property
    def filelike(self) -> _Readable:
        """The object that is sent."""

    @property
    def block_size(self) -> int:
        """Bytes read at a time."""

    def __iter__(self) -> Self: ...
    def __next__(self) -> bytes: ...
    def close(self) -> None: ...

@final
class Input:
    """wsgi.input: the body of a request, read from the client as the application asks for it."""

    def read(self, size: int | None = None, /) -> bytes: ...
    def readline(self, size: int | None = None, /) -> bytes: ...
    def readlines(self, hint: int | None = None, /) -> list[bytes]: ...
    def readinto(self, buffer: Buffer) -> int: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> bytes: ...
    def readable(self) -> bool: ...
    def writable(self) -> bool: ...
    def seekable(self) -> bool: ...
    def close(self) -> None: ...
    @property
    def closed(self) -> bool: ...

type _ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

@final
class Jobs:
    """Jobs that wait for an OS thread of a pool, threads that wait for a job, and how many threads there are."""

    def __new__(cls, limit: int) -> Jobs: ...
    @property
    def limit(self) -> int:
        """How many threads there may be."""

    @property
    def threads(self) -> int:
        """How many threads there are."""

    def put(self, job: Any, /) -> bool:
        """Give the job to a thread that has none, or let it wait.

        Returns whether the caller has to start a thread for it instead, which counts from now on.
        """

    def next(self, seconds: float, /) -> Any:
        """The next job of the calling thread, which waits for one at most `seconds`.

        None: the thread is to end, and counts no longer.
        """

    def failed(self) -> None:
        """Note that a thread could not be started."""

    def set_limit(self, limit: int, /) -> list[Any]:
        """Set how many threads there may be. Returns the jobs for which the caller has to start threads."""

@final
class ClientDisconnected:
    """`environ["rmeinheld.client_disconnected"]`, one to a connection."""

    def __call__(self, *args: Never, **kwargs: Never) -> bool:
        """Return whether the client has closed or reset its connection, or ended what it sends. From any thread."""

@final
class Stopping:
    """`environ["rmeinheld.stopping"]`, one for all requests."""

    def __call__(self, *args: Never, **kwargs: Never) -> bool:
        """Return whether the server stops.

        A response whose application has asked in the request's own coroutine, and was told that it does not, gets
        GeneratorExit at its next wait once it does.
        """

@final
class StartResponse:
    """The start_response of one request (PEP 3333)."""

    def __call__(
        self, status: str, response_headers: Iterable[Iterable[str]], exc_info: _ExceptionInfo | None = None, /
    ) -> Callable[[bytes], None]: ...
    def write(self, data: bytes) -> None: ...
    def client_has_gone(self) -> bool:
        """Whether the client has gone away, as far as the loop knows without trying to send."""

@final
class EarlyHints:
    """`environ["wsgi.early_hints"]` of one request: sends what its client can act upon before the response is ready."""

    def __call__(self, headers: Iterable[Sequence[str | bytes]], /) -> None:
        """Send a 103 (RFC 8297) with these pairs of name and value. May be called again.

        Does nothing in HTTP/1.0 and once the head of the response has gone out. Fields that concern the connection or a
        body are left out. Raises TypeError or ValueError for what start_response would not take either, and
        ConnectionError when the client is gone.
        """

class WebSocketError(ConnectionError):
    """A WebSocket cannot be used as asked."""

class ConnectionClosed(WebSocketError):
    """The WebSocket is closed."""

    code: int
    """Why, as `WebSocket.close_code`."""
    reason: str
    """Why, as `WebSocket.close_reason`."""

@final
class WebSocket:
    """A request's WebSocket: `environ["wsgi.websocket"]` of every valid handshake (RFC 6455, version 13).

    The first thing done with it accepts it; until then the request can be answered in the ordinary way instead. Any
    number of coroutines and threads may send, and messages never mix; one receives. It is closed when the application
    returns, with 1011 if it raises.
    """

    def accept(self, subprotocol: str | None = None, headers: Iterable[tuple[str, str]] | None = None) -> None:
        """Accept the connection with `subprotocol`, one of those that the client offers, and more response headers.

        Anything else that is done with it accepts it, too, without a subprotocol. Raises RuntimeError if it has been
        accepted or answered otherwise before, ValueError for a subprotocol that the client does not offer and for
        headers that are the handshake's own (RFC 6455 4.2.2), TypeError for anything but pairs of strings.
        """

    def send(self, message: str | Buffer) -> None:
        """Send a str as text, bytes and the like as binary. Parks while too much waits for a slow client.

        A client that takes nothing for `send_timeout` then, or less than `min_send_rate` in the long run, is given up
        (1006). Raises ConnectionClosed once the WebSocket is closed, by whomever, and TypeError for anything else.
        """

    def send_text(self, message: str) -> None:
        """Send text; see `send`."""

    def send_binary(self, message: Buffer) -> None:
        """Send binary; see `send`."""

    def receive(self, timeout: float | None = None) -> str | bytes | None:
        """Return the next message, str for text and bytes for binary, or None once the connection is closed.

        When the server stops, what had arrived is returned first; it can be answered for `websocket_close_timeout`.
        Parks until one arrives, at most `timeout` seconds (None: for ever; 0: only look). Raises TimeoutError then,
        and ValueError for a negative timeout.
        """

    def wait(self) -> str | bytes | None:
        """`receive()`, by Meinheld's name."""

    def __iter__(self) -> Iterator[str | bytes]: ...
    def __next__(self) -> str | bytes: ...
    def ping(self, payload: Buffer | None = None) -> None:
        """Send a ping with `payload`, at most 125 bytes. Its answer is not told (RFC 6455 5.5.2).

        Raises ConnectionClosed once the WebSocket is closed, and ValueError for a longer payload.
        """

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close with a code of RFC 6455 7.4 and a reason of at most 123 bytes. Wakes whoever receives.

        Does not wait for the client's answer: that has `websocket_close_timeout`. Once closed, it does nothing. Raises
        ValueError for a code that may not be sent and for a longer reason.
        """

    @property
    def closed(self) -> bool:
        """Whether it is closed, or closing: nothing can be sent."""

    @property
    def websocket_closed(self) -> bool:
        """`closed`, by Meinheld's name."""

    @property
    def close_code(self) -> int | None:
        """The code with which it was closed: the client's, or ours if we were first; None while it is open.

        1005 without one, 1006 if the connection broke (RFC 6455 7.1.5).
        """

    @property
    def close_reason(self) -> str | None:
        """The reason that came with the code, or what went wrong. None while it is open."""

    @property
    def buffered(self) -> int:
        """Bytes that wait to be sent because the client is slow.

        From `websocket_max_queue_size` on, `send` waits, too: whoever sends to many looks here first.
        """

    @property
    def path(self) -> str | None:
        """The path of the request, PATH_INFO."""

    @property
    def origin(self) -> str | None:
        """The page that a browser comes from, or None (RFC 6455 10.2)."""

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was accepted, or None."""

    @property
    def protocol(self) -> str | None:
        """`subprotocol`, by Meinheld's name."""

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
class ClientSocket:
    """The client's connection, like a `socket.socket`: `environ["gunicorn.socket"]` of every valid handshake.

    Its calls park coroutines and block OS threads, patched or not. Whoever uses it has taken the connection over: the
    server sends nothing on it from then on, and closes it when the application returns, or raises StopIteration.
    """

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes: ...
    def recv_into(self, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> int: ...
    def send(self, data: Buffer, flags: int = 0, /) -> int: ...
    def sendall(self, data: Buffer, flags: int = 0, /) -> None: ...
    def close(self) -> None: ...
    def shutdown(self, how: int) -> None: ...
    def settimeout(self, value: float | None, /) -> None: ...
    def gettimeout(self) -> float | None: ...
    def setblocking(self, flag: bool, /) -> None: ...
    def fileno(self) -> int: ...
    def getpeername(self) -> Any: ...
    def getsockname(self) -> Any: ...
    def getsockopt(self, *args: Any) -> Any: ...
    def setsockopt(self, *args: Any) -> None: ...
