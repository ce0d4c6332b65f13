"""Options from a file: rmeinheld.toml, pyproject.toml, or a Python file such as gunicorn.conf.py."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import Any, Final

from ..application import StartError
from ..settings import Option
from .layers import Given, Layer, read_value
from .names import ARBITER_SETTINGS, GLOBALS, HOOKS, INERT_SETTINGS, KEYS, nearest, refusal

__all__ = ["TOML_NAME", "find_file", "globals_of", "read_file"]

TOML_NAME: Final = "rmeinheld.toml"
PYPROJECT: Final = "pyproject.toml"
MODULE_NAME: Final = "__config__"
"""Name of the module of a Python file, as Gunicorn has it."""

NEAR_MISS: Final = 0.85
"""Closeness from which an unknown name in a Python file looks like a mistyped option."""

type Warn = Callable[[str], object]


def find_file(directory: str) -> str | None:
    """Return the file of settings in `directory`: rmeinheld.toml, or pyproject.toml with a table tool.rmeinheld.

    Raises StartError if both have settings.
    """
    own, shared = os.path.join(directory, TOML_NAME), os.path.join(directory, PYPROJECT)
    has_own = os.path.exists(own)
    # A pyproject.toml is here for other programs. A fault in it concerns this one only if it has our table.
    if os.path.exists(shared):
        try:
            has_table = "rmeinheld" in _load_toml(shared).get("tool", {})
        except StartError:
            has_table = "[tool.rmeinheld" in _text_of(shared)
        if has_table and has_own:
            raise StartError(f"both {TOML_NAME} and [tool.rmeinheld] of {PYPROJECT} have settings; keep one place")
        if has_table:
            return shared
    return own if has_own else None


def read_file(path: str, warn: Warn) -> Layer:
    """Return the values of the file `path`: TOML, or Python; "python:NAME" is a module, as for Gunicorn.

    `warn` gets a line for a name in a Python file that looks like a mistyped option.

    Raises StartError naming the file, the key and its bad value. `cause_shown` is an exception of a Python file.
    """
    if path.endswith(".toml"):
        return _read_toml(path)
    return globals_of(vars(_import(path)), _short(path), warn)


# --- TOML ------------------------------------------------------------------------------------------------------------


def _read_toml(path: str) -> Layer:
    table: Any = _load_toml(path)
    name = _short(path)
    if os.path.basename(path) == PYPROJECT:
        table, name = table.get("tool", {}).get("rmeinheld", {}), f"{name}: tool.rmeinheld"
    if not isinstance(table, dict):
        raise StartError(f"{name} must be a table of settings, not {table!r}")
    layer = Layer()
    for key, value in table.items():
        option = KEYS.get(key.replace("-", "_"))
        if option is None:
            raise StartError(f"{name} has the unknown key {key!r}{_hint(key.replace('-', '_'))}")
        source = f"{name}: {key}" if name == _short(path) else f"{name}.{key}"
        if not option.kind.has_text:
            raise StartError(f"{source} is a function; it can stand in a Python file only, such as gunicorn.conf.py")
        _refuse_in_file(option, source)
        layer.add(option, Given(read_value(option, source, value), source))
    return layer


def _load_toml(path: str) -> dict[str, Any]:
    # Most services have no such file.
    import tomllib

    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise StartError(f"cannot read {path!r}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StartError(f"{path} is no TOML file: {error}") from None


def _text_of(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _hint(key: str) -> str:
    if key in HOOKS:
        return "; a hook can stand in a Python file only, such as gunicorn.conf.py"
    close = nearest(key.removeprefix("no_"), KEYS)
    return f"; did you mean {close!r}?" if close else " (rmeinheld --print-config lists the options)"


def _refuse_in_file(option: Option, source: str) -> None:
    if option.name == "config":
        raise StartError(f"{source}: a file of settings cannot name another one")


# --- Python ----------------------------------------------------------------------------------------------------------


def _import(path: str) -> ModuleType:
    """Run the file or import the module that `path` names, and keep a file as `sys.modules["__config__"]`."""
    try:
        if path.startswith("python:"):
            return importlib.import_module(path.removeprefix("python:"))
        file = path.removeprefix("file:")
        if not os.path.isfile(file):
            raise StartError(f"there is no file {file!r}, which --config names")
        loader = SourceFileLoader(MODULE_NAME, file)
        spec = importlib.util.spec_from_loader(MODULE_NAME, loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        before = sys.modules.get(MODULE_NAME)
        sys.modules[MODULE_NAME] = module
        try:
            loader.exec_module(module)
        except BaseException:
            if before is not None:
                sys.modules[MODULE_NAME] = before
            raise
        return module
    except (Exception, SystemExit) as error:
        if isinstance(error, StartError):
            raise
        raise StartError(f"{_short(path)} failed: {type(error).__name__}: {error}", error) from None


def globals_of(names: Mapping[str, object], file: str, warn: Warn) -> Layer:
    """Return the values that the globals of a Python file have. Any other global is legal.

    Raises StartError naming the file, the global and its bad value.
    """
    layer = Layer()
    unknown = []
    for name, value in names.items():
        source = f"{file}: {name}"
        option = GLOBALS.get(name)
        if option is not None and not _is_something_else(option, name, value):
            layer.add(option, Given(read_value(option, source, value), source))
        elif name in ARBITER_SETTINGS:
            layer.extra[name] = Given(value, source)
        elif reason := refusal(name, value):
            raise StartError(f"{source} is {value!r}, which cannot be honoured: {reason}")
        elif name == "worker_class":
            layer.extra[name] = Given(value, source)
        elif option is None and not name.startswith("_") and not isinstance(value, ModuleType | type):
            unknown.append(name)
    _warn_of_near_misses(unknown, names, file, warn)
    return layer


def _is_something_else(option: Option, name: str, value: object) -> bool:
    """Does a global with the name of an option that Gunicorn does not have hold a module or a function?"""
    return name != option.gunicorn and (isinstance(value, ModuleType | type) or callable(value))


def _warn_of_near_misses(unknown: list[str], names: Mapping[str, object], file: str, warn: Warn) -> None:
    known = {*GLOBALS, *ARBITER_SETTINGS, *INERT_SETTINGS, "worker_class"}
    for name in unknown:
        close = nearest(name, known, NEAR_MISS) if refusal(name, None) is None else ""
        if close and close not in names:
            warn(f"{file} has the global {name!r}, which is no setting; did you mean {close!r}?")


def _short(path: str) -> str:
    """Return `path` as messages name it: relative to the current directory if it is in there."""
    relative = os.path.relpath(path) if os.path.isabs(path) else path
    return path if relative.startswith("..") else relative
