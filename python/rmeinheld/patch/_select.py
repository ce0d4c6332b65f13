"""`select` and `selectors`: all of them stay, and park.

A wait for many descriptors is a wait for one epoll descriptor in which they are registered: it becomes readable when
one of them is ready. What is ready, the original function then says without waiting.
"""

from __future__ import annotations

import gc
import select
import selectors
from collections.abc import Iterable, Iterator
from time import monotonic
from types import TracebackType
from typing import Any, Self

from .._rmeinheld import give_way, give_way_quietly
from ..coroutine import can_park, wait_readable
from . import _state
from ._state import Finding
from ._time import number

LONGEST = 100 * 365 * 86_400.0
"""Seconds that one park may take; a longer wait consists of several."""

LONGEST_MILLISECONDS = 2**31 - 1
"""What poll(2) takes."""

_poll: Any = select.poll
_epoll: Any = select.epoll
_select: Any = select.select

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


def _give_way(timeout: float | None) -> None:
    """A chance to switch for code that looks again and again and always finds something, or never waits."""
    if timeout == 0:
        give_way_quietly()
    else:
        give_way()


def _wait_for_any(interests: Iterable[tuple[int, int]], seconds: float) -> None:
    """Wait until one of the descriptors is ready, at most for `seconds`. May return early."""
    with _epoll() as epoll:
        for fd, events in interests:
            try:
                epoll.register(fd, events & _KNOWN_TO_EPOLL)
            except FileExistsError:
                continue
            except PermissionError:
                # A regular file does not become ready: it is, or is not, as the original function has just said.
                continue
        wait_readable(epoll.fileno(), seconds)


def cooperative_select(rlist: Any, wlist: Any, xlist: Any, timeout: float | None = None, /) -> Any:
    """`select.select`, which parks the coroutine."""
    timeout = number(timeout)
    if not can_park() or (timeout is not None and not isinstance(timeout, int | float)):
        return _select(rlist, wlist, xlist, timeout)
    if timeout is not None and not timeout >= 0:
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
        if not can_park() or (timeout is not None and not isinstance(timeout, int | float)):
            events: list[tuple[int, int]] = self._real.poll(timeout)
            return events
        if timeout is not None and timeout > LONGEST_MILLISECONDS:
            raise OverflowError("timeout is too large")
        if self._waits:
            raise RuntimeError("concurrent poll() invocation")
        deadline = _Deadline(None if timeout is None or timeout < 0 else timeout / 1000)
        self._waits = True
        try:
            _give_way(timeout)
            while True:
                events = self._real.poll(0)
                left = deadline.left()
                if events or left == 0:
                    return events
                _wait_for_any(self._interests.items(), left)
        finally:
            self._waits = False


def _number(fd: Any) -> int:
    return int(fd) if isinstance(fd, int) else int(fd.fileno())


class epoll:
    """`select.epoll()`, whose `poll` parks the coroutine."""

    def __init__(self, sizehint: int = -1, flags: int = 0) -> None:
        self._real = _epoll(sizehint, flags)

    @classmethod
    def fromfd(cls, fd: int, /) -> Self:
        """An epoll object for an existing descriptor."""
        return cls.around(_epoll.fromfd(fd))

    @classmethod
    def around(cls, real: Any) -> Self:
        """The same, of an epoll object that waits by itself."""
        new = cls.__new__(cls)
        new._real = real
        return new

    def __enter__(self) -> Self:
        self._real.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        exc_tb: TracebackType | None = None,
        /,
    ) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return bool(self._real.closed)

    def fileno(self) -> int:
        """Its descriptor."""
        return int(self._real.fileno())

    def close(self) -> None:
        """Close it; those who wait in it get OSError."""
        _state.closing(-1 if self._real.closed else self._real.fileno(), self._real.close)

    def register(self, fd: Any, eventmask: int = select.EPOLLIN | select.EPOLLPRI | select.EPOLLOUT) -> None:
        """Register a descriptor."""
        self._real.register(fd, eventmask)

    def modify(self, fd: Any, eventmask: int) -> None:
        """Change what a registered descriptor is waited for."""
        self._real.modify(fd, eventmask)

    def unregister(self, fd: Any) -> None:
        """Remove a descriptor."""
        self._real.unregister(fd)

    def poll(self, timeout: float | None = None, maxevents: int = -1) -> list[tuple[int, int]]:
        """Wait for events, at most `timeout` seconds (None or negative: for ever)."""
        timeout = number(timeout)
        if not can_park() or (timeout is not None and not isinstance(timeout, int | float)):
            events: list[tuple[int, int]] = self._real.poll(timeout, maxevents)
            return events
        _give_way(timeout)
        deadline = _Deadline(None if timeout is None or timeout < 0 else timeout)
        while True:
            events = self._real.poll(0, maxevents)
            left = deadline.left()
            if events or left == 0:
                return events
            wait_readable(self._real.fileno(), left)


epoll.__module__ = poll.__module__ = "select"
epoll.__qualname__, poll.__qualname__ = "epoll", "poll"


def patch() -> Iterator[Finding]:
    """Replace `select`, `poll` and `epoll`, and have the selectors use them."""
    _state.replace(select, "select", cooperative_select)
    _state.replace(select, "poll", poll)
    _state.replace(select, "epoll", epoll)
    _state.replace(selectors.SelectSelector, "_select", staticmethod(cooperative_select))
    _state.replace(selectors.PollSelector, "_selector_cls", poll)
    _state.replace(selectors.EpollSelector, "_selector_cls", epoll)
    early = [each for each in gc.get_objects() if isinstance(each, selectors.BaseSelector)]
    adopted = 0
    for selector in early:
        real = getattr(selector, "_selector", None)
        if isinstance(real, _epoll):
            selector._selector = epoll.around(real)  # type: ignore[attr-defined]
            adopted += 1
        elif isinstance(real, type(_poll())):
            name = type(selector).__name__
            yield Finding("selectors", f"a {name} made before blocks every coroutine when it waits", fixed=False)
    if adopted:
        yield Finding("selectors", f"{adopted} selectors had been made before", fixed=True)
