"""`select` and `selectors`: `select`, `poll`, `epoll` and all selectors stay available, and park.

The event loop waits for the descriptors. The original function, called without waiting, then says which are ready. The
class of epoll objects stays the same, so objects that were made before the patch park too.
"""

from __future__ import annotations

import errno
import functools
import select
import selectors
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any

from .._rmeinheld import events_now, give_way, give_way_quietly, wait_any
from ..coroutine import can_park, wait_readable
from . import _state
from ._pauses import Pauses
from ._state import Finding
from ._time import TOO_LONG, number

LONGEST = 100 * 365 * 86_400.0
"""Seconds that one park may take; a longer wait consists of several."""

TOO_MANY_MILLISECONDS = 2.0**31 if sys.version_info < (3, 15) else 2.0**63 / 1e6
"""Milliseconds that are too many for poll(2) and epoll_wait(2)."""

_poll: Any = select.poll
_epoll: Any = select.epoll
_select: Any = select.select
_poll_now: Any = type(_poll()).poll

# The events of poll(2) by what the event loop waits for. Epoll uses the same numbers.
_READABLE = select.POLLIN | select.POLLPRI | select.POLLRDNORM | select.POLLRDBAND | select.POLLRDHUP
_WRITABLE = select.POLLOUT | select.POLLWRNORM | select.POLLWRBAND
_KNOWN_TO_EPOLL = _READABLE | _WRITABLE


class _Deadline:
    """The end of a wait."""

    def __init__(self, seconds: float | None) -> None:
        self._at = None if seconds is None else monotonic() + seconds

    def left(self) -> float:
        """Return seconds, never a negative number."""
        return LONGEST if self._at is None else min(max(0.0, self._at - monotonic()), LONGEST)


def _is_timeout(value: Any, limit: float) -> bool:
    """Whether the function in C accepts `value` as a timeout: None, or a number below `limit`."""
    return value is None or (isinstance(value, int | float) and value < limit)


def _give_way(timeout: float | None) -> None:
    """May switch, for code that calls in a loop and always finds an event, or never waits."""
    if timeout == 0:
        give_way_quietly()
    else:
        give_way()


def _wait_for_any(interests: Iterable[tuple[int, int]], seconds: float) -> None:
    """Wait until one of the descriptors is ready, for at most `seconds`. May return early. Parks."""
    known = [(fd, events & _KNOWN_TO_EPOLL) for fd, events in interests]
    try:
        wait_any(known, seconds)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        # A descriptor was closed, which the original function reports. Or the server uses a descriptor itself.
        if all(_is_open(fd) for fd, _ in known):
            _wait_apart(known, seconds)


def _is_open(fd: int) -> bool:
    return not events_now(fd, 0) & select.POLLNVAL


def _wait_apart(interests: Iterable[tuple[int, int]], seconds: float) -> None:
    """Wait as `_wait_for_any` does, by an epoll object that becomes readable when a descriptor is ready. Parks."""
    epoll = _epoll()
    try:
        for fd, events in interests:
            # A regular file never changes its state, which the original function has just reported.
            with suppress(FileExistsError, PermissionError):
                epoll.register(fd, events)
        wait_readable(epoll.fileno(), seconds)
    finally:
        _epoll_methods["close"](epoll)


def cooperative_select(rlist: Any, wlist: Any, xlist: Any, timeout: float | None = None, /) -> Any:
    """`select.select`, which parks the coroutine."""
    timeout = number(timeout)
    if not can_park() or not _is_timeout(timeout, TOO_LONG):
        # The original raises the error.
        return _select(rlist, wlist, xlist, timeout)
    if timeout is not None and timeout < 0:
        raise ValueError("timeout must be non-negative")
    lists = [each if isinstance(each, list | tuple) else list(each) for each in (rlist, wlist, xlist)]
    _give_way(timeout)
    deadline = _Deadline(timeout)
    while True:
        ready = _select(*lists, 0)
        left = deadline.left()
        if any(ready) or left == 0:
            return ready
        interests: dict[int, int] = {}
        for objects, events in zip(lists, (select.POLLIN, select.POLLOUT, select.POLLPRI), strict=True):
            for each in objects:
                fd = each if isinstance(each, int) else each.fileno()
                interests[fd] = interests.get(fd, 0) | events
        _wait_for_any(interests.items(), left)


def _until_ready(
    look: Callable[[], list[tuple[int, int]]], wait: Callable[[float], object], seconds: float | None
) -> list[tuple[int, int]]:
    """Look for events, and wait until there may be some, for at most `seconds` (None: for ever). Parks."""
    _give_way(seconds)
    deadline = _Deadline(seconds)
    while True:
        events = look()
        left = deadline.left()
        if events or left == 0:
            return events
        wait(left)


def _seconds(milliseconds: float | None) -> float | None:
    """Convert a timeout of `poll`, for which None and negative numbers mean no limit."""
    return None if milliseconds is None or milliseconds < 0 else milliseconds / 1000


class poll:
    """`select.poll()`, whose `poll` parks the coroutine."""

    def __init__(self) -> None:
        self._real = _poll()
        self._interests: dict[int, int] = {}
        self._waits = False

    def register(self, fd: Any, eventmask: int = select.POLLIN | select.POLLPRI | select.POLLOUT, /) -> None:
        """Register a descriptor."""
        self._real.register(fd, eventmask)
        self._interests[_number(fd)] = eventmask

    def modify(self, fd: Any, eventmask: int, /) -> None:
        """Change the events of a registered descriptor."""
        self._real.modify(fd, eventmask)
        self._interests[_number(fd)] = eventmask

    def unregister(self, fd: Any, /) -> None:
        """Remove a descriptor."""
        self._real.unregister(fd)
        self._interests.pop(_number(fd), None)

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]:
        """Wait for events, for at most `timeout` milliseconds (None or negative: for ever)."""
        timeout = number(timeout)
        if not can_park() or not _is_timeout(timeout, TOO_MANY_MILLISECONDS):
            # The original raises the error.
            events: list[tuple[int, int]] = _poll_now(self._real, timeout)
            return events
        if self._waits:
            raise RuntimeError("concurrent poll() invocation")
        self._waits = True
        try:
            wait = partial(_wait_for_any, self._interests.items())
            return _until_ready(partial(_poll_now, self._real, 0), wait, _seconds(timeout))
        finally:
            self._waits = False


def _number(fd: Any) -> int:
    return int(fd) if isinstance(fd, int) else int(fd.fileno())


def _epoll_poll(self: Any, timeout: float | None = None, maxevents: int = -1) -> list[tuple[int, int]]:
    """Wait for events, for at most `timeout` seconds (None or negative: for ever)."""
    original = _epoll_methods["poll"]
    timeout = number(timeout)
    if not can_park() or not _is_timeout(timeout, TOO_MANY_MILLISECONDS / 1000):
        # The original raises the error.
        return original(self, timeout, maxevents)  # type: ignore[no-any-return]
    # The descriptor is looked up for each wait: another coroutine may close the object.
    return _until_ready(
        partial(original, self, 0, maxevents),
        lambda left: wait_readable(self.fileno(), left),
        None if timeout is None or timeout < 0 else timeout,
    )


def _epoll_close(self: Any) -> None:
    """Close the object; coroutines that wait in it get an OSError."""
    _state.closing(-1 if self.closed else self.fileno(), lambda: _epoll_methods["close"](self))


def _epoll_exit(self: Any, exc_type: Any = None, exc_value: Any = None, exc_tb: Any = None, /) -> None:
    self.close()


_epoll_methods: dict[str, Any] = {name: getattr(_epoll, name) for name in ("__exit__", "close", "poll")}


def _early_poll(self: Any, timeout: float | None = None, /) -> list[tuple[int, int]]:
    """`poll` of an object made before the patch. Only C knows its descriptors, so it is polled at growing intervals."""
    timeout = number(timeout)
    if not can_park() or not _is_timeout(timeout, TOO_MANY_MILLISECONDS):
        return _poll_now(self, timeout)  # type: ignore[no-any-return]
    return _until_ready(partial(_poll_now, self, 0), Pauses().pause, _seconds(timeout))


poll.__module__ = "select"
poll.__qualname__ = "poll"


def patch() -> Iterator[Finding]:
    """Replace `select` and `poll`, and make epoll objects and selectors park."""
    _state.replace(select, "select", cooperative_select)
    _state.replace(select, "poll", poll)
    for name, method in (("__exit__", _epoll_exit), ("close", _epoll_close), ("poll", _epoll_poll)):
        functools.update_wrapper(method, _epoll_methods[name], ("__name__", "__qualname__", "__doc__"), ())
        _state.replace(_epoll, name, method)
    _state.replace(type(_poll()), "poll", _early_poll)
    _state.replace(selectors.SelectSelector, "_select", staticmethod(cooperative_select))
    _state.replace(selectors.PollSelector, "_selector_cls", poll)
    early = _state.instances(selectors.PollSelector)
    for selector in early:
        new = poll()
        for key in selector.get_map().values():
            new.register(
                key.fd,
                select.POLLIN * bool(key.events & selectors.EVENT_READ)
                | select.POLLOUT * bool(key.events & selectors.EVENT_WRITE),
            )
        selector._selector = new
    if early:
        yield Finding("selectors", f"{len(early)} selectors had been made before the patch", fixed=True)
