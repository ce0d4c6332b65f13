"""Replaces functions and methods of the standard library, and remembers the originals."""

from __future__ import annotations

import gc
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import (
    BuiltinFunctionType,
    CellType,
    FunctionType,
    GetSetDescriptorType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any, NamedTuple

from .. import _rmeinheld


class Finding(NamedTuple):
    """An object that existed before it could be patched."""

    module: str
    """The name of its module."""
    what: str
    """A description of the object and of the consequence."""
    fixed: bool
    """Whether it has been repaired in place. An object that is not repaired still blocks."""

    def __str__(self) -> str:
        return f"{self.module}: {self.what}{' (repaired in place)' if self.fixed else ''}"


_originals: dict[tuple[str, str], Any] = {}
_replacements: dict[int, tuple[Any, Any]] = {}
_builtins: dict[FunctionType, object] = {}

promised: set[str] = set()
"""Modules that are patched as soon as they are imported, and count as patched."""

_scanned: dict[type, list[object]] = {}
"""Objects by their class, within `one_scan`."""


_COMMON = frozenset({tuple, dict, list, set, frozenset, type, CellType, GetSetDescriptorType, WrapperDescriptorType})
"""Classes of most objects, which no part of the patch looks for."""


def replace(owner: ModuleType | type, name: str, new: object) -> None:
    """Replace an attribute of a module or class, and remember the original. A second call has no effect."""
    key = (
        (owner.__name__, name) if isinstance(owner, ModuleType) else (owner.__module__, f"{owner.__qualname__}.{name}")
    )
    if key in _originals:
        return
    original = getattr(owner, name)
    _originals[key] = original
    # The type itself, since a tracing agent's proxy of a built-in function pretends to be one.
    if isinstance(owner, ModuleType) and isinstance(new, FunctionType) and type(original) is BuiltinFunctionType:
        new = _as_builtin(original, new)
    if isinstance(owner, type):
        _rmeinheld.set_attribute(owner, name, new)
        return
    if callable(original):
        _replacements[id(original)] = (original, new)
    setattr(owner, name, new)


def _as_builtin(original: BuiltinFunctionType, function: FunctionType) -> object:
    """Wrap a function as a built-in one. As an attribute of a class, a Python function would bind as a method."""
    if function not in _builtins:
        _builtins[function] = _rmeinheld.as_builtin(original, function)
    return _builtins[function]


def get_original(module: str, name: str) -> Any:
    """Return the value that `module.name` had before it was patched; its value, if it was not patched.

    `name` may be `Class.attribute`. Raises ImportError for an unknown module, and AttributeError for an unknown name.
    """
    # First, because a module may be patched when it is imported.
    __import__(module)
    if (module, name) in _originals:
        return _originals[module, name]
    value: Any = sys.modules[module]
    for part in name.split("."):
        if isinstance(value, type) and (original := _originals.get((value.__module__, f"{value.__qualname__}.{part}"))):
            # The class belongs to another module: `io.FileIO` is a class of `_io`.
            return original
        value = getattr(value, part)
    return value


def is_patched(module: str) -> bool:
    """Whether any attribute of the module `module` has been replaced, or will be before anyone can use it."""
    return module in promised or any(patched == module for patched, _ in _originals)


def closing[T](fd: int, close: Callable[[], T]) -> T:
    """Close a descriptor by `close`. Coroutines that wait for it get an OSError."""
    settled = fd < 0 or _rmeinheld.descriptor_closes(fd)
    try:
        return close()
    finally:
        if not settled:
            _rmeinheld.descriptor_closes(fd)


@contextmanager
def one_scan() -> Iterator[None]:
    """Let `instances` look through the objects of the process once in this block. Later objects are overlooked."""
    scanned = defaultdict(list)
    for each in [each for each in gc.get_objects() if type(each) not in _COMMON]:
        scanned[type(each)].append(each)
    _scanned.update(scanned)
    try:
        yield
    finally:
        _scanned.clear()


def instances(kind: type) -> list[Any]:
    """Return the objects of the class `kind` and of its subclasses. Proxies that pretend to be of it do not count."""
    if _scanned:
        return [each for found, several in _scanned.items() if kind in found.__mro__ for each in several]
    return [each for each in gc.get_objects() if kind in type(each).__mro__]


def rebind() -> Iterator[Finding]:
    """Replace the originals that modules have stored under names of their own.

    These are imported names (`from time import sleep`) and defaults of arguments (`def f(sleep=time.sleep)`).
    """
    yield from _rebind_names()
    yield from _rebind_defaults()


def _rebind_names() -> Iterator[Finding]:
    for name, module in list(sys.modules.items()):
        if not isinstance(module, ModuleType) or name.startswith("rmeinheld") or name == "__mp_main__":
            continue
        for attribute, value in list(vars(module).items()):
            if id(value) not in _replacements or (name, attribute) in _originals:
                continue
            new = _replacement(value)
            if new is value:
                continue
            _originals[name, attribute] = value
            setattr(module, attribute, new)
            if name.partition(".")[0] not in sys.stdlib_module_names:
                yield Finding(name, f"had imported {getattr(value, '__name__', attribute)} before", fixed=True)


def _rebind_defaults() -> Iterator[Finding]:
    for function in instances(FunctionType):
        in_order, by_name = function.__defaults__ or (), function.__kwdefaults__ or {}
        if not (in_order or by_name) or (module := str(function.__module__)).startswith("rmeinheld"):
            continue
        early = [value for value in (*in_order, *by_name.values()) if _replacement(value) is not value]
        if not early:
            continue
        if in_order:
            function.__defaults__ = tuple(map(_replacement, in_order))
        for name, value in by_name.items():
            by_name[name] = _replacement(value)
        if module.partition(".")[0] not in sys.stdlib_module_names:
            names = ", ".join(getattr(value, "__name__", repr(value)) for value in early)
            yield Finding(module, f"{function.__qualname__} had {names} as a default", fixed=True)


def _replacement(value: object) -> object:
    """Return the replacement of a value; the value itself, if it has none."""
    original, new = _replacements.get(id(value), (None, None))
    return new if original is value and original is not None else value
