"""The crew of workers under Gunicorn's own arbiter, which knows nothing of it.

The arbiter calls `Worker.check_config` before it forks the first worker, and there the shared memory is made. A worker
takes a slot by itself when it begins, and gives it back at its end. A later worker takes the slot of a killed one. The
sockets are abstract, since no process would remove a directory. The socket of `inspect_socket` is opened there, too.
"""

from __future__ import annotations

import atexit
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rmeinheld import _crew, crew_directory
from rmeinheld._rmeinheld import Scoreboard
from rmeinheld.inspect_socket import Host, answer_questions, open_inspect_socket
from rmeinheld.listeners import Listener

__all__ = ["PlainCrew"]


class PlainCrew:
    """The memory that the workers share, and the common part of the names of their sockets.

    Raises OSError if there is no memory or descriptor.
    """

    def __init__(self) -> None:
        self._scoreboard = Scoreboard()
        self._place = crew_directory.make(workers=1)
        self._slot = -1
        self._inspect: Listener | None = None
        self._master, self._user = os.getpid(), os.geteuid()

    def open_inspect_socket(self, path: str) -> None:
        """Listen at the path of `inspect_socket`, for all workers. Raises OSError naming the path.

        The new master of an upgrade takes the path over. Nothing then asks the workers of the old one.
        """
        if os.environ.get("GUNICORN_PID") == str(os.getppid()):
            with suppress(OSError):
                os.unlink(path)
        self._inspect = open_inspect_socket(path)
        # It also runs in workers, where it leaves the path alone.
        atexit.register(self._inspect.close)

    def board(self) -> dict[str, Any]:
        """Return the arguments by which the engine notes its work for those who ask; none without an inspect socket."""
        if self._inspect is None or self._slot < 0:
            return {}
        return {"scoreboard": self._scoreboard, "slot": self._slot, "metrics": True}

    def answer_questions(self, host: Host) -> None:
        """Answer at the inspect socket, if there is one, until this worker ends."""
        if self._inspect is None or self._slot < 0:
            return
        inspector = answer_questions(
            self._inspect,
            self._scoreboard,
            self._slot,
            user=self._user,
            place=str(self._place),
            master=self._master,
            host=host,
        )
        atexit.register(inspector.stop)

    def join(self) -> None:
        """Make this process, a worker, a member. Raises RuntimeError if no slot is free."""
        with self._exclusively():
            for slot in self._slots_of_the_dead():
                self._scoreboard.release(slot)
            slot = self._scoreboard.reserve()
            self._scoreboard.claim(slot)
        self._slot = slot
        atexit.register(self._scoreboard.release, slot)
        _crew.join(self._place, slot, self._scoreboard)

    def _slots_of_the_dead(self) -> Iterator[int]:
        for slot in range(self._scoreboard.slots):
            if self._scoreboard.generation(slot) == 0:
                # Free slots are taken in their order.
                return
            pid = self._scoreboard.pid(slot)
            if pid and not _is_alive(pid):
                yield slot

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        # Each worker has locks of its own on the memory, which end with it (fcntl(2)).
        descriptor = self._scoreboard.descriptor
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(descriptor, fcntl.LOCK_UN)


def _is_alive(pid: int) -> bool:
    """Whether a process runs. One that has ended, and for which its parent has not waited yet, does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
