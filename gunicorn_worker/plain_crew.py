"""The crew of workers under Gunicorn's own arbiter, which knows nothing of it.

The arbiter calls `Worker.check_config` before it forks the first worker, and there the shared memory is made. A worker
takes a slot by itself when it begins, and gives it back at its end. A later worker takes the slot of a killed one. The
sockets are abstract, since no process would remove a directory.
"""

from __future__ import annotations

import atexit
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from rmeinheld import _crew, crew_directory
from rmeinheld._rmeinheld import Scoreboard

__all__ = ["PlainCrew"]


class PlainCrew:
    """The memory that the workers share, and the common part of the names of their sockets.

    Raises OSError if there is no memory or descriptor.
    """

    def __init__(self) -> None:
        self._scoreboard = Scoreboard()
        self._place = crew_directory.make(workers=1)

    def join(self) -> None:
        """Make this process, a worker, a member. Raises RuntimeError if no slot is free."""
        with self._exclusively():
            for slot in self._slots_of_the_dead():
                self._scoreboard.release(slot)
            slot = self._scoreboard.reserve()
            self._scoreboard.claim(slot)
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
