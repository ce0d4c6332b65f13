"""`threading._DummyThread` before Python 3.13, where one stays for every thread that `threading` has not started.

Numbers of coroutines are never used again, so the dummies of coroutines would pile up. As from 3.13 on, a dummy goes
with the locals of its thread.
"""

from __future__ import annotations

import threading
from typing import Any

_own = threading.local()


class _Goes:
    """Is in the locals of a thread, and takes the thread's dummy along when these end."""

    def __init__(self, dummy: threading.Thread) -> None:
        self._dummy = dummy

    def __del__(self) -> None:
        # Without the lock of `threading`: a coroutine that ends cannot wait. Nobody else has this number meanwhile.
        active: dict[int | None, threading.Thread] = threading._active  # type: ignore[attr-defined]
        if active.get(self._dummy.ident) is self._dummy:
            active.pop(self._dummy.ident, None)


def patch() -> None:
    """Have dummies go."""
    dummy: Any = threading._DummyThread
    original = dummy.__init__

    def initialise(self: Any) -> None:
        original(self)
        _own.dummy = _Goes(self)

    dummy.__init__ = initialise
