"""`select` and `selectors`: all of them stay, and park.

The loop waits for the descriptors. What is ready, the original function then says without waiting. The class of epoll
objects stays what it is, so those that were made before the patch park too.
"""

from __future__ import annotations

import errno
import functools
import gc
import select
import selectors
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from time import monotonic
from typing import Any

from .._rmeinheld import events_now, give_way, give_way_quietly, wait_any
from ..coroutine import can_park, sleep, wait_readable
from . import _state
from ._os import LONGEST_PAUSE, SHORTEST_PAUSE
from ._state import Finding
from ._time import TOO_LONG, number

LONGEST = 100 * 365 * 86_400.0
"""Seconds that one park may take; a longer wait consists of several."""

TOO_MANY_MILLISECONDS = 2.0**31 if sys.version_info < (3, 15) else 2.0**63 / 1e6
"""From here on poll(2) and epoll_wait(2) do not take it."""

_poll: Any = select.poll
_epoll: Any = select.epoll
_select: Any = select.select
_poll_now: Any = type(_poll()).poll

# What poll(2) asks for, in epoll's terms: the numbers are the same.
_READABLE = select.POLLIN | select.POLLPRI | select.POLLRDNORM | select.POLLRDBAND | select.POLLRDHUP
_WRITABLE = select.POLLOUT | select.POLLWRNORM | select.POLLWRBAND
_KNOWN_TO_EPOLL = _READABLE | _WRITABLE


class _Deadline:
    """The end of a wait."""

    def __init__(self, seconds: float | None) -> None:
        self._at = None if seconds is None else monotonic() + seconds

    def left(self) -> float:
        """Seconds; never negative."""
        return LONGEST if self._at is None else min(max(0.0, self._at - monotonic()), LONGEST)


def _is_timeout(value: Any, limit: float) -> bool:
    """Whether C takes it for a timeout: None, or a number that is not too large."""
    return value is None or (isinstance(value, int | float) and value < limit)


def _give_way(timeout: float | None) -> None:
    """A chance to switch for code that looks again and again and always finds something, or never waits."""
    if timeout == 0:
        give_way_quietly()
    else:
        give_way()


def _wait_for_any(interests: Iterable[tuple[int, int]], seconds: float) -> None:
    """Wait until one of the descriptors is ready, at most for `seconds`. May return early."""
    known = [(fd, events & _KNOWN_TO_EPOLL) for fd, events in interests]
    try:
        wait_any(known, seconds)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        # One has been closed meanwhile, which the original function reports. Or it is one of the server's own.
        if all(_is_open(fd) for fd, _ in known):
            _wait_apart(known, seconds)


def _is_open(fd: int) -> bool:
    return not events_now(fd, 0) & select.POLLNVAL


def _wait_apart(interests: Iterable[tuple[int, int]], seconds: float) -> None:
    """The same, by an epoll object for this wait alone: it becomes readable when one of the descriptors is ready."""
    epoll = _epoll()
    try:
        for fd, events in interests:
            # A regular file does not become ready: it is, or is not, as the original function has just said.
            with suppress(FileExistsError, PermissionError):
                epoll.register(fd, events)
        wait_readable(epoll.fileno(), seconds)
    finally:
        _epoll_methods["close"](epoll)


def cooperative_select(rlist: Any, wlist: Any, xlist: Any, timeout: float | None = None, /) -> Any:
    """`select.select`, which parks the coroutine."""
    timeout = number(timeout)
    if not can_park() or not _is_timeout(timeout, TOO_LONG):
        # The original says what is wrong with it.
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
        """Change what a registered descriptor is waited for."""
        self._real.modify(fd, eventmask)
        self._interests[_number(fd)] = eventmask

    def unregister(self, fd: Any, /) -> None:
        """Remove a descriptor."""
        self._real.unregister(fd)
        self._interests.pop(_number(fd), None)

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]:
        """Wait for events, at most `timeout` milliseconds (None or negative: for ever)."""
        timeout = number(timeout)
        if not can_park() or not _is_timeout(timeout, TOO_MANY_MILLISECONDS):
            # The original says what is wrong with it.
            events: list[tuple[int, int]] = _poll_now(self._real, timeout)
            return events
        if self._waits:
            raise RuntimeError("concurrent poll() invocation")
        deadline = _Deadline(None if timeout is None or timeout < 0 else timeout / 1000)
        self._waits = True
        try:
            _give_way(timeout)
            while True:
                events = _poll_now(self._real, 0)
                left = deadline.left()
                if events or left == 0:
                    return events
                _wait_for_any(self._interests.items(), left)
        finally:
            self._waits = False


def _number(fd: Any) -> int:
    return int(fd) if isinstance(fd, int) else int(fd.fileno())


def _epoll_poll(self: Any, timeout: float | None = None, maxevents: int = -1) -> list[tuple[int, int]]:
    """Wait for events, at most `timeout` seconds (None or negative: for ever)."""
    original = _epoll_methods["poll"]
    timeout = number(timeout)
    if not can_park() or not _is_timeout(timeout, TOO_MANY_MILLISECONDS / 1000):
        # The original says what is wrong with it.
        return original(self, timeout, maxevents)  # type: ignore[no-any-return]
    _give_way(timeout)
    deadline = _Deadline(None if timeout is None or timeout < 0 else timeout)
    while True:
        events: list[tuple[int, int]] = original(self, 0, maxevents)
        left = deadline.left()
        if events or left == 0:
            return events
        wait_readable(self.fileno(), left)


def _epoll_close(self: Any) -> None:
    """Close it; those who wait in it get OSError."""
    _state.closing(-1 if self.closed else self.fileno(), lambda: _epoll_methods["close"](self))


def _epoll_exit(self: Any, exc_type: Any = None, exc_value: Any = None, exc_tb: Any = None, /) -> None:
    self.close()


_epoll_methods: dict[str, Any] = {name: getattr(_epoll, name) for name in ("__exit__", "close", "poll")}


def _early_poll(self: Any, timeout: float | None = None, /) -> list[tuple[int, int]]:
    """`poll` of an object made before the patch. Only C knows what it waits for, so it is asked again and again."""
    timeout = number(timeout)
    if not can_park() or not _is_timeout(timeout, TOO_MANY_MILLISECONDS):
        return _poll_now(self, timeout)  # type: ignore[no-any-return]
    _give_way(timeout)
    deadline = _Deadline(None if timeout is None or timeout < 0 else timeout / 1000)
    pause = SHORTEST_PAUSE
    while True:
        events: list[tuple[int, int]] = _poll_now(self, 0)
        left = deadline.left()
        if events or left == 0:
            return events
        sleep(min(pause, left))
        pause = min(2 * pause, LONGEST_PAUSE)


poll.__module__ = "select"
poll.__qualname__ = "poll"


def patch() -> Iterator[Finding]:
    """Replace `select` and `poll`, have objects of `epoll` and the selectors park."""
    _state.replace(select, "select", cooperative_select)
    _state.replace(select, "poll", poll)
    for name, method in (("__exit__", _epoll_exit), ("close", _epoll_close), ("poll", _epoll_poll)):
        functools.update_wrapper(method, _epoll_methods[name], ("__name__", "__qualname__", "__doc__"), ())
        _state.replace(_epoll, name, method)
    _state.replace(type(_poll()), "poll", _early_poll)
    _state.replace(selectors.SelectSelector, "_select", staticmethod(cooperative_select))
    _state.replace(selectors.PollSelector, "_selector_cls", poll)
    early = [each for each in gc.get_objects() if isinstance(each, selectors.PollSelector)]
    for selector in early:
        new = poll()
        for key in selector.get_map().values():
            new.register(
                key.fd,
                select.POLLIN * bool(key.events & selectors.EVENT_READ)
                | select.POLLOUT * bool(key.events & selectors.EVENT_WRITE),
            )
        selector._selector = new  # type: ignore[attr-defined]
    if early:
        yield Finding("selectors", f"{len(early)} selectors had been made before", fixed=True)
