"""The hand-over from a master to the new master that SIGUSR2 starts: sockets, the scoreboard, the crew's directory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

from rmeinheld._rmeinheld import Scoreboard
from rmeinheld.cli import NEW_MASTER

from .sockets import ServiceSocket

__all__ = ["VARIABLE", "HandedOn", "hand_on"]

VARIABLE: Final = NEW_MASTER
"""Environment variable of the new master, as JSON. It has no meaning for anything else."""


class HandedOn(NamedTuple):
    """The hand-over of the old master. Sockets are pairs of an address and a descriptor."""

    board: int
    listeners: Sequence[tuple[str, int]]
    admin: Sequence[tuple[str, int]] = ()
    inspect: Sequence[tuple[str, int]] = ()

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> HandedOn | None:
        """Take the variable out of `environ`, so that no child finds it. None: this master is the first."""
        text = environ.pop(VARIABLE, None)
        if text is None:
            return None
        found = json.loads(text)
        # An older master hands on fewer kinds of sockets.
        groups = (found.get(key, []) for key in ("listeners", "admin", "inspect"))
        return cls(found["board"], *([(bind, number) for bind, number in group] for group in groups))

    def scoreboard(self) -> Scoreboard:
        """Open the scoreboard of the service. Raises ValueError if it is of another version."""
        try:
            return Scoreboard.from_descriptor(self.board)
        finally:
            # The scoreboard has a duplicate.
            os.close(self.board)


@contextmanager
def hand_on(
    environ: MutableMapping[str, str],
    scoreboard: Scoreboard,
    listeners: Sequence[ServiceSocket],
    admin: Sequence[ServiceSocket],
    inspect: Sequence[ServiceSocket],
    further: Mapping[str, str],
) -> Iterator[None]:
    """Let a process that is started within the block inherit the descriptors, and `environ` name them.

    `further` has more variables for it.
    """
    groups = {"listeners": listeners, "admin": admin, "inspect": inspect}
    text = {key: [[one.bind, one.fileno()] for one in sockets] for key, sockets in groups.items()}
    variables = {**further, VARIABLE: json.dumps({"board": scoreboard.descriptor, **text})}
    environ.update(variables)
    descriptors = [scoreboard.descriptor, *(one.fileno() for sockets in groups.values() for one in sockets)]
    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)
    try:
        yield
    finally:
        for name in variables:
            del environ[name]
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
