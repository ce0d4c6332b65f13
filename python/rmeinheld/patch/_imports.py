"""Changes modules when they are imported, or at once if they have been imported."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from ._state import Finding

type Action = Callable[[ModuleType], Finding | None]
"""Changes a module that has been executed. Returns a finding about the change, or about a module that blocks."""

_awaited: dict[str, Action] = {}
"""The actions for modules that have not been imported yet, by the name of the module."""


def when_imported(name: str, action: Action) -> Finding | None:
    """Call `action` with the module `name` when it is imported.

    If the module has been imported, call it at once and return its finding. If it is imported later, the finding is
    logged (logger "rmeinheld.patch"), unless it is repaired.
    """
    module = sys.modules.get(name)
    if module is not None:
        return action(module)
    _awaited[name] = action
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    return None


class _Finder:
    """Finds awaited modules by the other finders, and wraps their loaders so that the action is called afterwards.

    It does not inherit from `importlib.abc.MetaPathFinder`: up to Python 3.13 that module imports 25 others.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        if fullname not in _awaited:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
                return spec
        return None


class _Loader:
    """A wrapper of the loader of one module, in use until the module has been executed."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """See `importlib.abc.Loader`."""
        return self._loader.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module, and call its action."""
        # Code that inspects the module later finds the original loader.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        action = _awaited.pop(module.__name__, None)
        if action is not None:
            finding = action(module)
            if finding is not None and not finding.fixed:
                logging.getLogger("rmeinheld.patch").warning("%s", finding)
