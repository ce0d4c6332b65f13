"""The cyclic garbage collector, paused while the command line starts.

Modules are no garbage. To look for some among the modules of a start takes 10 ms.
"""

from __future__ import annotations

import gc
from typing import Final

__all__ = ["pause", "resume"]

_paused: Final[list[bool]] = []
"""Not empty while the collector is paused."""


def pause() -> None:
    """Pause the collector, unless it is off anyway."""
    if gc.isenabled():
        gc.disable()
        _paused.append(True)


def resume() -> None:
    """Let a paused collector run again. The application is imported after this: it may want the collector off."""
    if _paused:
        _paused.clear()
        # Together they make everything old. Otherwise the first collection would come at once, and look at everything.
        gc.freeze()
        gc.unfreeze()
        gc.enable()
