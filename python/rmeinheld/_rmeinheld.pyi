"""The extension: the engine of the server, and its coroutines."""

from collections.abc import Buffer, Callable, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, final
from wsgiref.types import WSGIApplication

from .settings import Settings

__all__ = [
    "Coroutine",
    "CoroutineExit",
    "FileWrapper",
    "Input",
    "Server",
    "StartResponse",
    "__version__",
    "current",
    "sleep",
    "spawn",
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
    works with duplicates of them. Raises OSError if the access log cannot be opened.
    """

    def __new__(cls, app: WSGIApplication, listeners: Sequence[tuple[int, str, str]], settings: Settings) -> Self: ...
    @property
    def running(self) -> bool:
        """Whether run() is at work."""

    @property
    def requests(self) -> int:
        """Requests answered so far."""

    @property
    def clients_gone(self) -> int:
        """Requests whose client went away before the answer was complete."""

    def run(self, wakeup_fd: int = -1) -> None:
        """Serve until stopped. Whenever `wakeup_fd` is readable, read it empty and run the Python signal handlers.

        Returns at once after a stop() that came before. Raises RuntimeError a second time or in a coroutine, and what
        a signal handler raises.
        """

    def stop(self, timeout: float | None = None) -> None:
        """Stop accepting, let requests in progress end within `timeout` seconds, and end run().

        None is the setting `graceful_timeout`; 0 is at once. May be called from any thread or signal handler and more
        than once: a later call can only bring the end nearer.
        """

    def reopen_logs(self) -> None:
        """Have the file of the access log opened anew."""

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

class CoroutineExit(BaseException):
    """Raised in the coroutines that remain when the server ends."""

def spawn[**P, T](func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[T]:
    """Run `func(*args, **kwargs)` in a coroutine of its own; returns its `Coroutine`.

    From a coroutine or any OS thread. Raises TypeError if `func` is not callable, RuntimeError in a child forked from a
    process that uses coroutines.
    """

def sleep(seconds: float, /) -> None:
    """Park the coroutine for `seconds`; 0 lets everything else that is ready run. Outside a coroutine, `time.sleep`.

    Raises ValueError for a negative or non-finite value, CoroutineExit when the server stops.
    """

def current() -> Coroutine[Any] | None:
    """The `Coroutine` that the caller runs in, or None in an OS thread."""

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
class StartResponse:
    """The start_response of one request (PEP 3333)."""

    def __call__(
        self, status: str, response_headers: list[tuple[str, str]], exc_info: _ExceptionInfo | None = None, /
    ) -> Callable[[bytes], None]: ...
    def write(self, data: bytes) -> None: ...
