"""lxml: a parser or an XPath is used by one coroutine at a time.

lxml holds a lock in C while it calls Python: `read()` of a file object, resolvers, targets, extension functions. If
such a call parks, the next user of the same parser blocks the OS thread, and the coroutine that holds the lock never
continues. Therefore each use first takes a lock for which coroutines park.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from ..coroutine import Lock
from . import _state
from ._state import Finding

PARSING = ("HTML", "XML", "XMLDTDID", "XMLID", "fromstring", "fromstringlist", "parse", "parseid")
"""Functions whose second argument is a parser, or `parser`."""


def set_up(module: ModuleType) -> Finding:
    """Replace the functions and classes that use a parser or an XPath."""
    etree: Any = module
    for name in PARSING:
        if hasattr(etree, name):
            _state.replace(etree, name, _parsing(getattr(etree, name), etree.get_default_parser))
    trees = etree.ElementTree
    if isinstance(trees, type):
        # A class since lxml 6, and a function before.
        make = _parsing(trees.__new__, etree.get_default_parser, position=None)
        type.__setattr__(trees, "__new__", make)
    else:
        _state.replace(etree, "ElementTree", _parsing(trees, etree.get_default_parser, position=None))
    for name in ("XPath", "ETXPath"):
        _state.replace(etree, name, _evaluator(getattr(etree, name)))
    return Finding(module.__name__, "parsers and XPaths are used by one coroutine at a time", fixed=True)


class _Use:
    """The lock of a parser or XPath that is in use, and the number of its users."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.users = 0


_in_use: dict[int, _Use] = {}
"""The locks by the `id()` of a parser or XPath. These objects take no attributes."""


@contextmanager
def _alone_with(owner: object) -> Iterator[None]:
    """Exclude all other users of `owner`, to which the caller holds a reference. Parks."""
    use = _in_use.setdefault(id(owner), _Use())
    use.users += 1
    try:
        with use.lock:
            yield
    finally:
        use.users -= 1
        if not use.users:
            _in_use.pop(id(owner), None)


def _parsing(
    function: Callable[..., Any], default_parser: Callable[[], object], position: int | None = 1
) -> Callable[..., Any]:
    @functools.wraps(function)
    def parse(*args: Any, **kwargs: Any) -> Any:
        given = position is not None and len(args) > position
        parser = args[position or 0] if given else kwargs.get("parser")
        with _alone_with(default_parser() if parser is None else parser):
            return function(*args, **kwargs)

    return parse


def _evaluator(kind: Any) -> Any:
    def evaluate(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _alone_with(self):
            return kind.__call__(self, *args, **kwargs)

    contents = {"__call__": evaluate, "__doc__": kind.__doc__, "__module__": kind.__module__, "__slots__": ()}
    return type(kind)(kind.__name__, (kind,), contents)
