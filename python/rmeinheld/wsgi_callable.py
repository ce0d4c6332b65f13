"""Refusal of objects that are no WSGI application (PEP 3333), with the cure."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import inspect

__all__ = ["check_application"]

_FACTORY_NAME: Final = re.compile(r"(create|make|build|get|new)_|_factory$|^factory$")

_CO_COROUTINE: Final = 0x80
_CO_ASYNC_GENERATOR: Final = 0x200
"""Flags of code, as in `inspect`."""

ASGI_CURE: Final = "is an ASGI application; wrap it with a2wsgi: a2wsgi.ASGIMiddleware(app)"


def check_application(app: object, name: str = "the application", target: str = "") -> None:
    """Raise TypeError naming the type of `app`, and the cure, if it is no WSGI application.

    `name` begins the message. `target` is MODULE:NAME if the application was named so; a factory is then called as in
    MODULE:NAME().
    """
    if not callable(app):
        raise TypeError(f"{name} must be a callable as PEP 3333 has it, not {type(app).__name__} {app!r:.80}")
    if _is_plain_function(app):
        return
    if _is_asynchronous(app):
        raise TypeError(f"{name} {ASGI_CURE}")
    parameters = _parameters(app)
    if parameters is None:
        return
    required = [one.name for one in parameters if one.default is one.empty and one.kind not in (
        one.VAR_POSITIONAL, one.VAR_KEYWORD
    )]  # fmt: skip
    if required == ["scope", "receive", "send"] or required == ["scope"]:
        raise TypeError(f"{name} {ASGI_CURE}")
    is_factory_by_name = not required and _FACTORY_NAME.search(getattr(app, "__name__", "")) is not None
    if _takes_two(parameters) and not (is_factory_by_name and parameters[0].kind is not parameters[0].VAR_POSITIONAL):
        return
    call = f"{target or getattr(app, '__name__', 'app')}({', '.join(f'{one}=...' for one in required)})"
    raise TypeError(f"{name} does not take environ and start_response, so it may be a factory; did you mean {call!r}?")


def _is_plain_function(app: object) -> bool:
    """Is it the usual application, a function of two arguments? Others need `inspect`, which takes 4 ms and 1 MB."""
    if not isinstance(app, FunctionType) or app.__dict__ or app.__defaults__ or app.__kwdefaults__:
        return False
    code = app.__code__
    is_asynchronous = code.co_flags & (_CO_COROUTINE | _CO_ASYNC_GENERATOR)
    return code.co_argcount == 2 and code.co_kwonlyargcount == 0 and not is_asynchronous


def _is_asynchronous(app: Callable[..., Any]) -> bool:
    while hasattr(app, "func") and hasattr(app, "keywords"):
        app = app.func  # functools.partial
    import inspect

    call = inspect.getattr_static(type(app), "__call__", None)
    tests = (inspect.iscoroutinefunction, inspect.isasyncgenfunction)
    # An instance of a type is called by the type's method; a class is called to make an instance.
    return any(test(app) or (not isinstance(app, type) and test(call)) for test in tests)


def _parameters(app: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """Return the parameters of a call; None if they are not known."""
    import inspect

    try:
        # A decorator may take other parameters than the function whose signature it shows.
        return list(inspect.signature(app, follow_wrapped=False).parameters.values())
    except (ValueError, TypeError):
        return None


def _takes_two(parameters: list[inspect.Parameter]) -> bool:
    import inspect

    try:
        inspect.Signature(parameters).bind(None, None)
    except TypeError:
        return False
    return True
