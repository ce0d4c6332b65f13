"""Names that have moved: for one release the old place forwards to the new one, with a DeprecationWarning."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from importlib import import_module
from typing import Any

__all__ = ["forward"]


def forward(old: str, new: str, names: Collection[str], modules: Collection[str] = ()) -> Callable[[str], Any]:
    """Return the `__getattr__` of the module `old`, of which `names` have moved to the module `new`.

    It imports `modules` of the package `old` without a warning, and raises AttributeError for other names.
    """

    def __getattr__(name: str) -> Any:
        if name in modules:
            return import_module(f"{old}.{name}")
        if name not in names:
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        warnings.warn(
            f"{old}.{name} has moved to {new}.{name}; the next release removes the old name",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(import_module(new), name)

    return __getattr__
