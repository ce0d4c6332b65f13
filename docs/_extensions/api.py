"""Markdown of the Python API, from the source: signatures as they are written there, docstrings as Markdown."""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import re
import threading
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import rmeinheld
from rmeinheld import _rmeinheld

Definition = ast.FunctionDef | ast.ClassDef
STUB = Path(rmeinheld.__file__).parent / "_rmeinheld.pyi"


def module(name: str, only: str = "") -> str:
    """Return the docstring of a module, then an entry for each name in `__all__` (or in `only`, comma-separated).

    With "none" there is only the docstring.
    """
    found = importlib.import_module(name)
    names = [each for each in found.__all__ if not each.startswith("_")]
    if only:
        names = [] if only == "none" else only.split(",")
    parts = [f":::{{py:module}} {name}\n:::\n", markdown(inspect.getdoc(found) or "") + "\n"]
    entries = {each: _entry(each, getattr(found, each)) for each in names}
    return "\n".join([*parts, *(text for text in entries.values() if text)])


def markdown(docstring: str) -> str:
    """Return a docstring with its indented blocks and examples as code blocks."""
    out: list[str] = []
    block: list[str] = []

    def end_block() -> None:
        while block and not block[-1]:
            block.pop()
        if block:
            language = "pycon" if block[0].startswith(">>>") else "python"
            out.extend(["", f"```{language}", *(line.removeprefix("    ") for line in block), "```", ""])
            block.clear()

    in_list = False
    for line in docstring.splitlines():
        in_list = bool(re.match(r"[-*] ", line)) or (in_list and (line.startswith("  ") or not line))
        is_example = line.startswith(">>>") or bool(block and block[0].startswith(">>>") and line)
        if (line.startswith("    ") and not in_list) or is_example or (block and not line):
            block.append(line)
        else:
            end_block()
            out.append(line)
    end_block()
    return "\n".join(out)


@cache
def _definitions(file: Path) -> dict[str, Definition]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found: dict[str, Definition] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.setdefault(node.name, node)
    return found


def _definition(name: str, value: object) -> Definition | None:
    if getattr(_rmeinheld, name, None) is value:
        return _definitions(STUB).get(name)
    is_ours = str(getattr(value, "__module__", "")).startswith("rmeinheld.")
    if not is_ours or not (inspect.isfunction(value) or inspect.isclass(value)):
        return None
    files = [inspect.getsourcefile(value)]
    # A class may bear the name of another module than the one that defines it.
    files += [each.__code__.co_filename for each in vars(value).values() if inspect.isfunction(each)]
    found = (_definitions(Path(file)).get(value.__name__) for file in files if file)
    return next((each for each in found if each is not None), None)


def _entry(name: str, value: object) -> str:
    node = _definition(name, value)
    if inspect.isclass(value) and node is not None and value.__name__ != name:
        return f":::{{py:attribute}} {name}\nAnother name of `{value.__name__}`.\n:::\n"
    if node is None:
        if callable(value):
            # `threading` has the public name of what `_thread` defines.
            is_threads = getattr(threading, name, None) is value
            where = f"{'threading' if is_threads else getattr(value, '__module__', '')}.{name}"
            return f":::{{py:attribute}} {name}\nThe same object as `{where}`.\n:::\n"
        return ""
    if isinstance(node, ast.FunctionDef):
        return f":::{{py:function}} {_signature(node)}\n{_docstring(node, value)}\n:::\n"
    return _class(name, node, value)


def _docstring(node: Definition, value: object) -> str:
    return markdown(ast.get_docstring(node) or inspect.getdoc(value) or "")


def _signature(node: ast.FunctionDef, name: str | None = None, *, bound: bool = False) -> str:
    arguments = copy.deepcopy(node.args)
    if bound:
        first = arguments.posonlyargs or arguments.args
        first.pop(0)
    text = f"{name or node.name}({ast.unparse(arguments).removeprefix('/, ')})"
    return text if node.returns is None or name else f"{text} -> {ast.unparse(node.returns)}"


def _is_public(name: str) -> bool:
    return not name.startswith("_") or name in ("__call__", "__iter__", "__len__", "__enter__", "__getitem__")


def _class(name: str, node: ast.ClassDef, value: object) -> str:
    makers = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name in ("__init__", "__new__")]
    kind = "exception" if isinstance(value, type) and issubclass(value, BaseException) else "class"
    signature = _signature(makers[0], name, bound=True) if makers else name
    members = [text for maker in makers for text in _attributes_of_init(maker)]
    for each, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(each, ast.FunctionDef) and _is_public(each.name):
            members.append(_member(each, getattr(value, each.name, None)))
        elif isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name) and _is_public(each.target.id):
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            if text:
                members.append(_attribute(each.target.id, ast.unparse(each.annotation), inspect.cleandoc(str(text))))
    body = "\n".join([_docstring(node, value), "", *dict.fromkeys(members)])
    return f":::::{{py:{kind}}} {signature}\n{body}\n:::::\n"


def _attributes_of_init(node: ast.FunctionDef) -> Iterator[str]:
    """Yield an entry for each attribute that `__init__` sets and that a docstring follows."""
    for each, after in pairwise(node.body):
        target = each.targets[0] if isinstance(each, ast.Assign) else getattr(each, "target", None)
        if not isinstance(target, ast.Attribute) or not isinstance(after, ast.Expr) or not _is_public(target.attr):
            continue
        if isinstance(after.value, ast.Constant):
            annotation = ast.unparse(each.annotation) if isinstance(each, ast.AnnAssign) else ""
            yield _attribute(target.attr, annotation, inspect.cleandoc(str(after.value.value)))


def _member(node: ast.FunctionDef, value: object) -> str:
    decorators = {ast.unparse(each) for each in node.decorator_list}
    if any(each.endswith(".setter") or each == "overload" for each in decorators):
        return ""
    text = markdown(ast.get_docstring(node) or "")
    if "property" in decorators:
        return _attribute(node.name, "" if node.returns is None else ast.unparse(node.returns), text)
    if not text and node.name.startswith("__"):
        return ""
    option = ":classmethod:\n" if "classmethod" in decorators else ""
    bound = "staticmethod" not in decorators
    return f"::::{{py:method}} {_signature(node, bound=bound)}\n{option}\n{text}\n::::\n"


def _attribute(name: str, annotation: str, text: str) -> str:
    option = f":type: {annotation}\n" if annotation else ""
    return f"::::{{py:attribute}} {name}\n{option}\n{markdown(text)}\n::::\n"
