"""Meinheld's continuations: a request is suspended until another request, coroutine or OS thread resumes it.

    from rmeinheld.meinheld.middleware import CONTINUATION_KEY, ContinuationMiddleware

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/wait":
            waiting.append(environ[CONTINUATION_KEY])
            message = environ[CONTINUATION_KEY].suspend(60)
        ...

    app = ContinuationMiddleware(app)

In new code, use the queues and locks of `rmeinheld.coroutine`, which wait in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ..coroutine import Coroutine, Lock, can_park, sleep, spawn
from ..coroutine import timeout as _Timeout  # A parameter of suspend() is called timeout.
from ..option_kinds import Seconds

__all__ = ["CLIENT_KEY", "CONTINUATION_KEY", "Client", "Continuation"]

CLIENT_KEY: Final = "meinheld.client"
CONTINUATION_KEY: Final = "meinheld.continuation"

CLIENT_CHECK_SECONDS: Final = 1.0
"""Interval at which one coroutine checks the clients of all suspended requests."""


class Client:
    """The client of one request, with the state of its suspension. `has_gone` returns whether it has disconnected."""

    __slots__ = ("_has_gone", "_suspended", "_suspension")

    def __init__(self, has_gone: Callable[[], bool] | None = None) -> None:
        self._has_gone = has_gone
        self._suspended = Lock()
        # At most one. The coroutine or thread that takes it out ends it.
        self._suspension: list[_Suspension] = []

    def suspend(self, seconds: float | None) -> Any:
        """Wait until resumed; see `Continuation.suspend`."""
        if not self._suspended.acquire(False):
            raise OSError("already suspended")
        try:
            suspension = _Suspension()
            self._suspension.append(suspension)
            try:
                if self._has_gone is not None and can_park():
                    _watcher.add(self)
                return suspension.wait(seconds, self._take)
            finally:
                self._suspension.clear()
                _watcher.remove(self)
        finally:
            self._suspended.release()

    def resume(self, value: Any) -> None:
        """End the suspension with `value`. Raises OSError if there is none."""
        suspension = self._take()
        if suspension is None:
            raise OSError("not suspended or dead ")
        suspension.end(value)

    def look(self) -> None:
        """End the suspension with an exception if the client has disconnected."""
        if self._has_gone is not None and self._has_gone() and (suspension := self._take()) is not None:
            suspension.fail(ConnectionAbortedError("the client has gone away"))

    def _take(self) -> _Suspension | None:
        try:
            return self._suspension.pop()
        except IndexError:
            return None


class Continuation:
    """The continuation of one request; `environ["meinheld.continuation"]` behind `ContinuationMiddleware`."""

    __slots__ = ("client",)

    def __init__(self, client: Client) -> None:
        if not isinstance(client, Client):
            raise TypeError(f"client must be environ[{CLIENT_KEY!r}], not {type(client).__name__} {client!r}")
        self.client = client

    def suspend(self, timeout: float | None = 0) -> Any:
        """Park until `resume` is called, and return its arguments; at most `timeout` seconds (0, None: for ever).

        `resume()` returns `()`. One positional argument is returned as it is, several as a tuple, keyword arguments as
        a dict, and both as `(args, kwargs)`.

        Raises `rmeinheld.timeout` when the time is up, and ConnectionAbortedError (an OSError) soon after the client
        has disconnected. Raises OSError if the request is suspended already, TypeError or ValueError for a bad timeout.
        """
        seconds = Seconds().check("timeout", timeout or 0)
        return self.client.suspend(seconds or None)

    def resume(self, *args: Any, **kwargs: Any) -> None:
        """Let the suspended request go on. May be called from anywhere, also from another OS thread.

        Raises OSError if the request is not suspended: not yet, or no longer.
        """
        value: Any = args
        if kwargs:
            value = (args, kwargs) if args else kwargs
        elif len(args) == 1:
            value = args[0]
        self.client.resume(value)


class _Suspension:
    """One wait for a resumption."""

    __slots__ = ("_bell", "_error", "_value")

    def __init__(self) -> None:
        self._bell = Lock()
        self._bell.acquire()
        self._value: Any = None
        self._error: BaseException | None = None

    def end(self, value: Any) -> None:
        self._value = value
        self._bell.release()

    def fail(self, error: BaseException) -> None:
        self._error = error
        self._bell.release()

    def wait(self, seconds: float | None, take: Callable[[], object]) -> Any:
        if not self._bell.acquire(timeout=-1 if seconds is None else seconds):
            if take() is not None:
                raise _Timeout("timeout")
            # Another coroutine or thread has just taken it, and is about to ring.
            self._bell.acquire()
        if self._error is not None:
            raise self._error
        return self._value


class _Watcher:
    """The coroutine that checks the clients of suspended requests. It runs while there are any."""

    def __init__(self) -> None:
        self._clients: set[Client] = set()
        self._coroutine: Coroutine[None] | None = None

    def add(self, client: Client) -> None:
        self._clients.add(client)
        # If a server stopped in the meantime, the coroutine ended before it began.
        if self._coroutine is None or self._coroutine.done:
            self._coroutine = spawn(self._run)

    def remove(self, client: Client) -> None:
        self._clients.discard(client)

    def _run(self) -> None:
        try:
            while self._clients:
                sleep(CLIENT_CHECK_SECONDS)
                for client in list(self._clients):
                    client.look()
        finally:
            self._coroutine = None


_watcher: Final = _Watcher()
