"""Names of a module that are defined in another one: they are imported when they are first used.

Names that have moved give a DeprecationWarning, and the next release removes the old place.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from typing import Any

__all__ = ["forward"]


def forward(
    old: str,
    new: str,
    names: Collection[str],
    modules: Collection[str] = (),
    late: Mapping[str, str] | None = None,
) -> Callable[[str], Any]:
    """Return the `__getattr__` of the module `old`, of which `names` have moved to the module `new`.

    `late` has names that belong to `old`, each with the module that defines it: a program that does not use them is
    spared its import. `modules` of the package `old` are imported in the same way. Other names raise AttributeError.
    """

    def __getattr__(name: str) -> Any:
        if late is not None and name in late:
            value = getattr(import_module(late[name]), name)
            setattr(sys.modules[old], name, value)
            return value
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
