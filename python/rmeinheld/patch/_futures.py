"""`concurrent.futures`: the workers of a `ThreadPoolExecutor` are coroutines, or stay OS threads.

As coroutines they wait beside each other, as everything else does. What computes, or blocks in C, wants OS threads:
`patch_all(futures="native")`. Whoever waits for a result parks in either case.
"""

from __future__ import annotations

import concurrent.futures.thread as pools
import threading
from types import ModuleType
from typing import Any

from . import _state
from ._threading import NativeThread

OPTIONS = ("coroutines", "native")


class _Threading(ModuleType):
    """`threading`, as the executor sees it: its threads are OS threads."""

    Thread = NativeThread

    def __getattr__(self, name: str) -> Any:
        return getattr(threading, name)


def patch(option: object = "coroutines") -> None:
    """Have the workers be what `option` says.

    Raises ValueError for anything but "coroutines" and "native".
    """
    if option not in OPTIONS:
        raise ValueError(f"futures must be one of {', '.join(OPTIONS)}, not {option!r}")
    if option == "native":
        _state.replace(pools, "threading", _Threading("threading"))
