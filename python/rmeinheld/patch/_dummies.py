"""`threading._DummyThread` on Python 3.12, which keeps a dummy for every thread that `threading` did not start.

Numbers of coroutines are never used again, so the dummies of coroutines would pile up. With this patch, as in Python
3.13, a dummy is removed together with the `threading.local` values of its thread.
"""

from __future__ import annotations

import threading
from typing import Any

_own = threading.local()


class _DummyRemover:
    """A `threading.local` value that removes the dummy of its thread when it is destroyed."""

    def __init__(self, dummy: threading.Thread) -> None:
        self._dummy = dummy

    def __del__(self) -> None:
        # The lock of `threading` is not taken: a coroutine that ends cannot wait. The number is this thread's alone.
        active: dict[int | None, threading.Thread] = threading._active  # type: ignore[attr-defined]
        if active.get(self._dummy.ident) is self._dummy:
            active.pop(self._dummy.ident, None)


def patch() -> None:
    """Make each dummy end with its thread."""
    dummy: Any = threading._DummyThread
    original = dummy.__init__

    def initialise(self: Any) -> None:
        original(self)
        _own.remover = _DummyRemover(self)

    dummy.__init__ = initialise
