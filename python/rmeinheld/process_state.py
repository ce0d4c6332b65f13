"""State of this process: the running server, the sockets for the next one, and the defaults that `set_*` changed."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from typing import Final, Protocol

from . import _rmeinheld
from .listeners import Listener, close_all

__all__ = ["End", "defaults", "start_hooks", "state"]


class End(Protocol):
    """Stops the running server within `timeout` seconds. The arguments are those of `_rmeinheld.Server.stop`."""

    def __call__(
        self,
        timeout: float | None,
        idle: float | None = None,
        *,
        delay: float = 0.0,
        interrupted: bool = False,
        hurries: bool = False,
    ) -> None: ...


defaults: Final[dict[str, object]] = {}
"""Values that the `set_*` functions have set, by the name of the option."""

start_hooks: Final[list[Callable[[_rmeinheld.Server, End], object]]] = []
"""Functions that `run` calls with the engine and its end when the server starts."""


class ProcessState:
    """The running server and the sockets for the next one."""

    def __init__(self) -> None:
        self.end: End | None = None
        """Stops the running server; None if no server runs."""
        # At most one item, added and removed in one step each: threads and signal handlers may run in between.
        self._pending: list[list[Listener]] = []

    @property
    def pending(self) -> list[Listener]:
        """Listeners that the next `run` serves."""
        return [listener for listeners in self._pending for listener in listeners]

    def refuse_second_listen(self) -> None:
        """Raise RuntimeError if there are pending listeners."""
        if pending := self.pending:
            places = ", ".join(listener.url for listener in pending)
            raise RuntimeError(f"there is a listening socket already ({places}); run() the server before the next")

    def add_pending(self, listeners: list[Listener]) -> None:
        """Keep `listeners` for the next `run`, and close them at exit if there is none."""
        self._pending.append(listeners)
        atexit.register(close_all, listeners)

    def take_pending(self) -> list[Listener]:
        """Return the pending listeners, which the caller then owns."""
        taken: list[Listener] = []
        while self._pending:
            taken += self._pending.pop()
        atexit.unregister(close_all)
        return taken


state: Final = ProcessState()
