"""`timeout`: a time limit for a block of code, and the exception that it and timed-out waits raise."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from . import _rmeinheld
from ._rmeinheld import Timeout

__all__ = ["timeout"]


class timeout(TimeoutError, Timeout):
    """A time limit for a block of code, and the exception that leaves the block when the time is up.

        try:
            with timeout(5):
                answer = ask()
        except timeout:
            answer = None

    Inside the block, `Timeout` is raised where the coroutine waits. It is no subclass of Exception, so code that
    retries after an error of its own does not swallow it. The block itself raises this `timeout`, which is a
    TimeoutError and also a `Timeout`: handlers of each catch it. `trampoline` and `Continuation.suspend` raise it too.

    `seconds` may be None: no limit. `exception`, an instance or a class, is raised inside the block in place of
    `Timeout` and leaves it unchanged. With `exception=False` the block just ends. Code that computes is not
    interrupted. A wait that was interrupted leaves its object in an unknown state: close that connection.

    Raises ValueError for negative seconds. Entering it raises RuntimeError outside a coroutine and the second time.
    `timeout("text")` is the exception alone.
    """

    __module__ = "rmeinheld.coroutine"

    def __init__(self, seconds: float | str | None = "timed out", exception: object = None) -> None:
        self._limit: _rmeinheld.timeout | None = None
        self._inside: Timeout | None = None
        if isinstance(seconds, str):
            super().__init__(seconds)
            return
        text = "no limit" if seconds is None else f"{seconds} seconds"
        super().__init__(text)
        if exception is None:
            exception = self._inside = Timeout(text)
        self._limit = _rmeinheld.timeout(seconds, exception)

    @property
    def seconds(self) -> float | None:
        """The limit. None: there is none."""
        return None if self._limit is None else self._limit.seconds

    @property
    def expired(self) -> bool:
        """Was the limit reached?"""
        return self._limit is not None and self._limit.expired

    def __enter__(self) -> Self:
        if self._limit is None:
            raise TypeError(f"timeout({str(self)!r}) is an exception only; a time limit is timeout(seconds)")
        self._limit.__enter__()
        return self

    def __exit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> bool:
        inside, self._inside = self._inside, None
        if self._limit is not None and self._limit.__exit__(type, value, traceback):
            return True
        if value is not None and value is inside:
            raise self.with_traceback(traceback) from None
        return False
