"""`multiprocessing`: coroutines poll its locks, which are semaphores between processes.

The semaphore is patched when its module in C is imported, which few applications do.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

from . import _state
from ._imports import when_imported
from ._state import Finding

MODULE = "_multiprocessing"


def patch() -> Iterator[Finding]:
    """Replace the semaphore of which locks are made, as soon as it can be imported."""
    _state.promised.add(MODULE)
    when_imported(MODULE, _replace)
    synchronize = sys.modules.get("multiprocessing.synchronize")
    if synchronize is not None:
        early = len(_state.instances(synchronize.SemLock))
        if early:
            what = f"{early} locks made before the patch block all coroutines when they wait"
            yield Finding("multiprocessing", what, fixed=False)


def _replace(module: ModuleType) -> None:
    from . import _semaphores

    _semaphores.replace()
