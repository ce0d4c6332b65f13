"""The application of the command line: `MODULE:APP` is imported, looked up and, if it is a factory, called."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Final, cast

from .settings import suggestion
from .wsgi_callable import check_application

if TYPE_CHECKING:
    import ast
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["StartError", "load_application", "mounted"]

DEFAULT_ATTRIBUTES: Final = ("application", "app")
"""Names of the application that are tried if the command line gives none: Gunicorn's, then Flask's."""


class StartError(Exception):
    """The reason why the server cannot start, as one line. `cause_shown` holds the traceback to print before it."""

    def __init__(self, message: str, cause_shown: BaseException | None = None) -> None:
        super().__init__(message)
        self.cause_shown = cause_shown


def load_application(target: str) -> WSGIApplication:
    """Import the application that `target` names: `module:name`, `module:object.name` or `module:factory("x", n=1)`.

    The default name is `application` or `app`. Arguments of a factory are literals.

    Raises StartError naming the missing or wrong part. If the application's own code raises, `cause_shown` is that
    exception, with a traceback that begins in that code.
    """
    name, _, expression = target.partition(":")
    module = _import(name)
    if not expression:
        if target.endswith(":"):
            raise StartError(f"{target!r} names no application after the colon")
        found = [attribute for attribute in DEFAULT_ATTRIBUTES if hasattr(module, attribute)]
        if not found:
            wanted = " or ".join(repr(attribute) for attribute in DEFAULT_ATTRIBUTES)
            raise StartError(f"module {name!r} has no attribute {wanted}; name the application as in {name}:NAME")
        expression = found[0]
    dotted, call = _parse_expression(expression)
    app = _attribute(module, name, dotted)
    if call is not None:
        app = _call_factory(f"{name}:{dotted}", app, *call)
    try:
        check_application(app, f"application {name + ':' + expression!r}", "" if call else f"{name}:{dotted}")
    except TypeError as error:
        raise StartError(str(error)) from None
    return cast("WSGIApplication", app)


def _import(name: str) -> ModuleType:
    is_file = name.endswith(".py") and os.path.isfile(name)
    if is_file or not all(part.isidentifier() for part in name.split(".")):
        hint = ""
        if is_file:
            directory, file = os.path.split(name)
            where = f"--chdir {directory} " if directory else ""
            hint = f"; a file is named as in: rmeinheld {where}{file.removesuffix('.py')}:app"
        raise StartError(f"{name!r} is not the name of a module{hint}")
    try:
        return importlib.import_module(name)
    except Exception as error:
        own = _outside_of_import(error.__traceback__)
        if own is None and isinstance(error, ModuleNotFoundError) and error.name and _is_part(error.name, name):
            raise StartError(
                f"cannot import {name!r}: {error} (looked in {os.getcwd()} and on the Python path)"
            ) from None
        raise StartError(
            f"importing {name!r} failed: {type(error).__name__}: {error}", error.with_traceback(own)
        ) from None


def _is_part(name: str, module: str) -> bool:
    return module == name or module.startswith(name + ".")


def _outside_of_import(tb: TracebackType | None) -> TracebackType | None:
    """Drop the frames of this module and of the import system from the top of a traceback."""
    ours = {__file__, importlib.__file__}
    while tb is not None:
        file = tb.tb_frame.f_code.co_filename
        if file not in ours and not file.startswith("<frozen importlib"):
            return tb
        tb = tb.tb_next
    return None


def _parse_expression(expression: str) -> tuple[str, tuple[list[Any], dict[str, Any]] | None]:
    """Split `a.b` or `a.b("x", n=1)` into the dotted name and the arguments. Without a call, the arguments are None."""
    if expression.isascii() and all(part.isidentifier() for part in expression.split(".")):
        return expression, None
    # Most applications are a name, so most servers need no parser.
    import ast

    wrong = StartError(f"{expression!r} is neither a name nor a call with literal arguments")
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        raise wrong from None
    if not isinstance(tree, ast.Call):
        return _dotted(tree, wrong), None
    try:
        positional = [ast.literal_eval(argument) for argument in tree.args]
        named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in tree.keywords}
    except ValueError:
        raise wrong from None
    if None in named:
        raise wrong
    return _dotted(tree.func, wrong), (positional, cast(dict[str, Any], named))


def _dotted(tree: ast.expr, wrong: StartError) -> str:
    import ast

    if isinstance(tree, ast.Name):
        return tree.id
    if isinstance(tree, ast.Attribute):
        return f"{_dotted(tree.value, wrong)}.{tree.attr}"
    raise wrong


def _attribute(module: ModuleType, name: str, dotted: str) -> object:
    value: object = module
    path = f"module {name!r}"
    for part in dotted.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            raise StartError(f"{path} has no attribute {part!r}{suggestion(part, dir(value))}") from None
        path = f"{part!r} of {path}"
    return value


def _call_factory(name: str, factory: object, positional: list[Any], named: dict[str, Any]) -> object:
    if not callable(factory):
        raise StartError(f"{name!r} cannot be called; it is of type {type(factory).__name__}")
    _check_call(name, factory, positional, named)
    try:
        return factory(*positional, **named)
    except Exception as error:
        message = f"calling {name!r} failed: {type(error).__name__}: {error}"
        raise StartError(message, error.with_traceback(_outside_of_import(error.__traceback__))) from None


def _check_call(name: str, factory: Callable[..., object], positional: list[Any], named: dict[str, Any]) -> None:
    import inspect

    try:
        signature = inspect.signature(factory)
    except (ValueError, TypeError):
        return  # A callable written in C may have no signature. The call itself will check the arguments.
    try:
        signature.bind(*positional, **named)
    except TypeError as error:
        raise StartError(f"{name!r} does not take these arguments: {error}") from None


def mounted(app: WSGIApplication, root: str) -> WSGIApplication:
    """Return `app` below the path `root`. A proxy may have removed `root` from the path already."""
    root = "/" + root.strip("/")

    def mounted(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # A trusted proxy may have set it already.
        if not environ["SCRIPT_NAME"] and root != "/":
            environ["SCRIPT_NAME"] = root
            path = environ["PATH_INFO"]
            if path == root or path.startswith(root + "/"):
                environ["PATH_INFO"] = path[len(root) :]
        return app(environ, start_response)

    return mounted
