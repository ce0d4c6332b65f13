"""`concurrent.futures`: the workers of a `ThreadPoolExecutor` are coroutines, or stay OS threads.

Coroutines suit jobs that wait. Jobs that compute, or block in C, need OS threads: `patch_all(futures="native")`. A
coroutine that waits for a result parks in either case.

The executor is patched when its module is imported: many applications have none, and it takes 0.15 MB.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

from . import _state
from ._imports import when_imported
from ._state import Finding

OPTIONS = ("coroutines", "native")

MODULE = "concurrent.futures.thread"


def patch(option: object = "coroutines") -> Iterator[Finding]:
    """Make the workers coroutines, or OS threads with "native". Raises ValueError for any other `option`."""
    if option not in OPTIONS:
        raise ValueError(f"futures must be one of {', '.join(OPTIONS)}, not {option!r}")

    def replace(module: ModuleType) -> None:
        from . import _thread_pools

        _thread_pools.replace(native=option == "native")

    _state.promised.add(MODULE)
    is_late = MODULE in sys.modules
    when_imported(MODULE, replace)
    if is_late:
        from . import _thread_pools

        yield from _thread_pools.adopt()
