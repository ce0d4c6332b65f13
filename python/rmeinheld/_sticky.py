"""Sessions of Engine.IO that name their process: `--sticky socketio`.

python-engineio keeps a session in the process that made it, and draws its id at random. Here the id gets the worker's
slot and generation at its end, `<id>.<slot>.<generation>`. Any worker can then hand a request over to the right one.
"""

from __future__ import annotations

import functools
import logging
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .patch._imports import when_imported
from .patch._state import Finding

if TYPE_CHECKING:
    from ._rmeinheld import Scoreboard

__all__ = ["name_process"]

_process = ""
"""The end of each id that this process makes."""


def name_process(scoreboard: Scoreboard, slot: int) -> None:
    """Have the ids of Engine.IO name this worker, at once or when python-engineio is imported."""
    global _process
    _process = f".{slot:x}.{scoreboard.generation(slot):x}"
    finding = when_imported("engineio", _wrap)
    if finding is not None and not finding.fixed:
        logging.getLogger("rmeinheld.patch").warning("%s", finding)


def _wrap(module: ModuleType) -> Finding:
    server: Any = getattr(module, "Server", None)
    # The class that defines it is a base of the asynchronous server, too.
    owner: Any = next((one for one in getattr(server, "__mro__", ()) if "generate_id" in vars(one)), None)
    if owner is None:
        version = getattr(module, "__version__", "unknown")
        return Finding("engineio", f"sticky socketio needs python-engineio 4, and this is {version}", fixed=False)
    original = owner.generate_id
    if not hasattr(original, "__wrapped__"):

        @functools.wraps(original)
        def generate_id(self: Any) -> str:
            return f"{original(self)}{_process}"

        owner.generate_id = generate_id
    return Finding("engineio", "its session ids name the worker", fixed=True)
