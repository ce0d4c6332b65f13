"""`sqlite3`: a coroutine that finds the database locked parks; see `_sqlite_busy`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

from . import _state
from ._imports import when_imported
from ._state import Finding


def patch() -> Iterator[Finding]:
    """Replace `connect`, `Connection` and `Cursor` as soon as `sqlite3` is imported."""
    yield from _early_connections()
    when_imported("sqlite3.dbapi2", _replace)


def _replace(module: ModuleType) -> None:
    from . import _sqlite_classes

    owners = [sys.modules["_sqlite3"], module]
    package = sys.modules["sqlite3"]
    if hasattr(package, "Connection"):
        owners.append(package)
    for owner in owners:
        for name in ("connect", "Connection", "Cursor"):
            _state.replace(owner, name, getattr(_sqlite_classes, name))


def _early_connections() -> Iterator[Finding]:
    """Find connections that third-party modules and the application already hold."""
    early = sys.modules.get("_sqlite3")
    if early is None:
        return
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in {*sys.stdlib_module_names, "rmeinheld"}:
            continue
        for attribute, value in list(vars(module).items()):
            if isinstance(value, early.Connection):
                what = f"{attribute} was made before the patch: it blocks all coroutines while its database is locked"
                yield Finding(name, what, fixed=False)
