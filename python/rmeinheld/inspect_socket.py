"""The server's end of the inspect socket, where `rmeinheld top`, `ctl` and `dump` ask for the state of all workers.

Threads of the engine answer there, and need neither the loop nor the interpreter for most of it.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from . import _rmeinheld
from .addresses import UnixAddress
from .error_log import LOGGER_NAME
from .inspecting import dump
from .listeners import Listener, open_listener

if TYPE_CHECKING:
    from types import FrameType

    from .health import Health
    from .settings import Settings

__all__ = ["Host", "answer_questions", "inspected", "open_inspect_socket"]

LONGEST_LOCAL: Final = 200
"""Characters of the text of a local variable."""

UMASK: Final = 0o177
"""Only the user who starts the service, and root, may connect."""


@contextmanager
def inspected(settings: Settings, health: Health | None) -> Iterator[None]:
    """Answer questions at `inspect_socket`, if it is set, while the block runs. For a single process.

    Raises OSError naming the path if it cannot listen there.
    """
    if settings.inspect_socket is None or health is None:
        yield
        return
    listener = open_inspect_socket(settings.inspect_socket)
    try:
        inspector = answer_questions(listener, health.scoreboard, health.slot, user=os.geteuid())
        try:
            yield
        finally:
            inspector.stop()
    finally:
        listener.close()


def open_inspect_socket(path: str) -> Listener:
    """Listen at `path` with the permissions 0600. A socket that no process listens on is replaced.

    Raises OSError naming the path if a process listens there, or if it is another kind of file.
    """
    return open_listener(UnixAddress(path), backlog=128, umask=UMASK)


def answer_questions(
    listener: Listener,
    scoreboard: _rmeinheld.Scoreboard,
    slot: int,
    *,
    user: int,
    place: str | None = None,
    master: int | None = None,
    host: Host | None = None,
    sticky: bool = False,
) -> _rmeinheld.Inspector:
    """Start the threads that answer questions on `listener`, in this process. See `_rmeinheld.Inspector`."""
    number, host = listener.socket.fileno(), Host() if host is None else host
    inspector = _rmeinheld.Inspector(number, scoreboard, slot, place, master, user, host, sticky)
    inspector.start()
    return inspector


class Host:
    """The answers that need Python code. Threads of the engine call it, outside of coroutines."""

    def set_level(self, level: str) -> None:
        """Set the level of the error log, by the lower-case name of the level."""
        logging.getLogger(LOGGER_NAME).setLevel(level.upper())

    def stack(self, frames: Iterable[tuple[str, int, str]]) -> str:
        """Return a stack as text, from its frames: file, line and function, the innermost first."""
        summaries = [traceback.FrameSummary(file, line, function) for file, line, function in frames]
        return "".join(traceback.format_list(summaries))

    def stack_with_locals(self, frame: FrameType | None) -> str:
        """Return the stack of its innermost frame as text, with the local variables."""
        if frame is None:
            return ""
        walked = traceback.StackSummary.extract(traceback.walk_stack(frame), capture_locals=True)
        for summary in walked:
            summary.locals = {
                name: text if len(text) <= LONGEST_LOCAL else f"{text[:LONGEST_LOCAL]}..."
                for name, text in (summary.locals or {}).items()
            }
        return "".join(traceback.format_list(walked))

    def dump(self, with_locals: bool) -> str:
        """Return the dump of this process."""
        return dump(locals=with_locals) or ""
