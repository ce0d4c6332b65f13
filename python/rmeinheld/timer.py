"""A call that runs later, in a coroutine of its own."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

from . import _rmeinheld
from ._rmeinheld import Coroutine, spawn

__all__ = ["Timer"]


class Timer:
    """Calls `function(*args, **kwargs)` in a coroutine of its own, `seconds` after `start()`, unless cancelled.

    Timers of the same time call in the order of their starts. Raises ValueError for negative seconds.
    """

    __slots__ = ("__weakref__", "_calls", "_coroutine", "_seconds")

    def __init__(self, seconds: float, function: Callable[..., object], /, *args: Any, **kwargs: Any) -> None:
        if not seconds >= 0:
            raise ValueError(f"seconds must be a number >= 0, not {seconds!r}")
        self._seconds = seconds
        # Taken out once, by the call or by its cancellation. A lock would let other coroutines run in between.
        self._calls: list[Callable[[], object]] = [lambda: function(*args, **kwargs)]
        self._coroutine: Coroutine[None] | None = None

    @property
    def called(self) -> bool:
        """Has the call begun, or was it cancelled?"""
        return not self._calls

    def start(self) -> None:
        """Start the time. Raises RuntimeError the second time."""
        if self._coroutine is not None:
            raise RuntimeError("this timer has been started before")
        self._coroutine = spawn(self._run, monotonic() + self._seconds if self._seconds else None)

    def cancel(self) -> None:
        """Cancel the call and release its references. A call that has begun goes on."""
        if self._take() is not None and self._coroutine is not None:
            self._coroutine.kill()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until it is over, at most `timeout` seconds (None: for ever). Returns whether it is.

        Raises RuntimeError if it has not been started.
        """
        if self._coroutine is None:
            raise RuntimeError("this timer has not been started")
        return self._coroutine.join(timeout)

    def _run(self, at: float | None) -> None:
        if at is not None:
            _rmeinheld.sleep_until(at)
        call = self._take()
        if call is not None:
            call()

    def _take(self) -> Callable[[], object] | None:
        try:
            return self._calls.pop()
        except IndexError:
            return None

    def __repr__(self) -> str:
        return f"<Timer {'called' if self.called else 'waiting'}>"
