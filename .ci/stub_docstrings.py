"""The docstrings of `_rmeinheld.pyi`, taken from the compiled module. Their source is the doc comments in Rust.

    python .ci/stub_docstrings.py            name the docstrings of the stub that differ from the module's
    python .ci/stub_docstrings.py --write    write the module's docstrings into the stub

Run it with the Python in which rmeinheld is installed. Only the words count: the stub wraps its lines as it needs.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

STUB = Path(__file__).resolve().parents[1] / "python" / "rmeinheld" / "_rmeinheld.pyi"

WIDTH = 120

type Definition = ast.ClassDef | ast.FunctionDef


def definitions(body: list[ast.stmt], owner: object, path: str = "") -> Iterator[tuple[Definition, str, Any]]:
    """Every class, function, method and property of the stub, with its path and the object of the module."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found = inspect.getattr_static(owner, node.name, None)
            if found is not None and not is_foreign(found):
                yield node, path + node.name, found
            if isinstance(node, ast.ClassDef) and found is not None:
                yield from definitions(node.body, found, f"{path}{node.name}.")


def is_foreign(found: object) -> bool:
    """Whether the module only passes the object on, as it does with `queue.ShutDown`."""
    return isinstance(found, type) and not found.__module__.startswith("rmeinheld")


def wanted(node: Definition, found: object) -> str:
    """The docstring that the stub is to have. The class documents its special methods."""
    if node.name.startswith("__"):
        return ""
    # A static method has the docstring of its function only from Python 3.13 on.
    function = found.__func__ if isinstance(found, staticmethod) else found
    return inspect.cleandoc(getattr(function, "__doc__", None) or "")


def words(docstring: str) -> list[str]:
    """A docstring without its line breaks: a string for each paragraph."""
    return [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", docstring.strip())]


def differences(source: str, module: ModuleType) -> list[str]:
    """The paths of the definitions whose docstrings differ."""
    tree = ast.parse(source)
    is_same = words(ast.get_docstring(tree) or "") == words(module.__doc__ or "")
    return ([] if is_same else ["the module"]) + [
        path
        for node, path, found in definitions(tree.body, module)
        if words(ast.get_docstring(node) or "") != words(wanted(node, found))
    ]


def rewritten(source: str, module: ModuleType) -> str:
    """The stub with the module's docstrings."""
    lines = source.splitlines()
    found = [(node, wanted(node, of)) for node, _, of in definitions(ast.parse(source).body, module)]
    for node, docstring in sorted(found, key=lambda pair: pair[0].lineno, reverse=True):
        if words(ast.get_docstring(node) or "") != words(docstring):
            put(lines, node, docstring)
    return "\n".join(lines) + "\n"


def put(lines: list[str], node: Definition, docstring: str) -> None:
    """Give one definition its docstring."""
    first = node.body[0]
    assert first.end_lineno is not None
    text = literal(docstring, node.col_offset + 4) if docstring else []
    if ast.get_docstring(node) is not None:
        if not text and len(node.body) == 1:
            lines[first.lineno - 1 : first.end_lineno] = []
            lines[first.lineno - 2] += " ..."
            return
        lines[first.lineno - 1 : first.end_lineno] = text
    elif isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and first.value.value is ...:
        before = lines[first.lineno - 1][: first.col_offset].rstrip()
        after = [] if lines[first.end_lineno : first.end_lineno + 1] in ([], [""]) else [""]
        lines[first.lineno - 1 : first.end_lineno] = [before, *text, *after]
    else:
        decorators = first.decorator_list if isinstance(first, ast.ClassDef | ast.FunctionDef) else []
        start = min([first.lineno, *(decorator.lineno for decorator in decorators)])
        lines[start - 1 : start - 1] = [*text, ""]


def literal(docstring: str, indent: int) -> list[str]:
    """The lines of a docstring as ruff formats them."""
    margin = " " * indent
    paragraphs = [paragraph.replace("\\", "\\\\") for paragraph in words(docstring)]
    if len(paragraphs) == 1 and indent + len(paragraphs[0]) + 6 <= WIDTH:
        return [f'{margin}"""{paragraphs[0]}"""']
    lines = []
    for number, paragraph in enumerate(paragraphs):
        quotes = '"""' if number == 0 else ""
        # ruff moves the quotes that end a docstring of one line up to it.
        width = WIDTH - indent - (0 if len(paragraphs) > 1 else 6)
        wrapped = textwrap.wrap(quotes + paragraph, width, break_long_words=False, break_on_hyphens=False)
        lines += [*([""] if number else []), *(margin + line for line in wrapped)]
    return [*lines, f'{margin}"""']


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--write", action="store_true", help="write the module's docstrings into the stub")
    options = arguments.parse_args()
    from rmeinheld import _rmeinheld

    source = STUB.read_text()
    if options.write:
        STUB.write_text(rewritten(source, _rmeinheld))
        return 0
    found = differences(source, _rmeinheld)
    for path in found:
        print(f"{STUB.name}: the docstring of {path} is not the module's; run {Path(__file__).name} --write")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
