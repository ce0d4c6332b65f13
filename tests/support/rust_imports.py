"""The imports of a crate between its files: each file with the files that define the names it uses.

A re-export (`pub use`) is a signpost: it needs nothing itself, and a name that comes through it belongs to the file
that defines the name. Tests are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from rust_source import code_of, is_test_file, module_of, without_tests

type Names = tuple[str, ...]

USE = re.compile(r"\b(?P<public>pub(?:\([^)]*\))?\s+)?use\s+")
TOKEN = re.compile(r"\w+|::|[{},;*]")
PATH = re.compile(r"(?<![\w:])\w+(?:\s*::\s*\w+)+")


def use_trees(code: str, start: int) -> Iterator[tuple[Names, str]]:
    """The paths of the `use` declaration whose tree begins at `start`, each with the name that it brings."""
    tokens = [found[0] for found in TOKEN.finditer(code[: code.index(";", start)], start)]
    at = 0

    def parse(path: Names) -> Iterator[tuple[Names, str]]:
        nonlocal at
        while at < len(tokens) and tokens[at] not in (",", "}"):
            if tokens[at] == "{":
                at += 1
                while tokens[at] != "}":
                    yield from parse(path)
                    at += tokens[at] == ","
                at += 1
                return
            if tokens[at] == "as":
                at += 2
                yield path, tokens[at - 1]
                return
            if tokens[at] != "::":
                path = (*path, tokens[at])
            at += 1
        yield path, path[-1]

    yield from parse(())


class Crate:
    """The modules of a crate, what each imports, and the imports between files."""

    def __init__(self, sources: dict[Path, str]) -> None:
        self.code = {
            path: without_tests(code_of(source)) for path, source in sources.items() if not is_test_file(path, sources)
        }
        self._files = {module_of(path): path for path in self.code}
        self._brought = {module: dict(self._imports_of(module)) for module in self._files}

    def needs(self) -> dict[Path, dict[Path, set[str]]]:
        """By file and needed file, the paths by which it is named. `lib.rs` names all, and is left out."""
        return {path: self._needs_of(module, path) for module, path in self._files.items() if module}

    def _absolute(self, module: Names, path: Names) -> Names | None:
        """The path from the crate's root, or None for the name of another crate, a type or a variable."""
        if path[0] == "crate":
            return path[1:]
        if path[0] == "self":
            return (*module, *path[1:])
        if path[0] == "super":
            rest = path[1:] if path[1] == "super" else ("self", *path[1:])
            return self._absolute(module[:-1], rest)
        return (*module, *path) if (*module, path[0]) in self._files else None

    def _imports_of(self, module: Names) -> Iterator[tuple[str, Names]]:
        code = self.code[self._files[module]]
        for found in USE.finditer(code):
            for path, name in use_trees(code, found.end()):
                if (absolute := self._absolute(module, path)) is not None and path[-1] != "*":
                    yield (path[-2], absolute[:-1]) if path[-1] == "self" else (name, absolute)

    def _defining(self, path: Names, seen: frozenset[Names] = frozenset()) -> Path | None:
        """The file that defines what a path from the root names."""
        module: Names = ()
        for depth, name in enumerate(path):
            if (*module, name) in self._files:
                module = (*module, name)
            elif name in self._brought[module] and path not in seen:
                return self._defining((*self._brought[module][name], *path[depth + 1 :]), seen | {path})
            else:
                break
        return self._files[module]

    def _needs_of(self, module: Names, file: Path) -> dict[Path, set[str]]:
        code = self.code[file]
        needs: dict[Path, set[str]] = {}

        def note(path: Names, absolute: Names | None) -> None:
            defining = None if absolute is None else self._defining(absolute)
            if defining not in (None, file, Path("src/lib.rs")):
                assert defining is not None
                needs.setdefault(defining, set()).add("::".join(path))

        uses = []
        for found in USE.finditer(code):
            uses.append(range(found.start(), code.index(";", found.end())))
            for path, _ in [] if found["public"] else use_trees(code, found.end()):
                absolute = self._absolute(module, path)
                note(path, absolute[:-1] if absolute and path[-1] in ("*", "self") else absolute)
        for found in PATH.finditer(code):
            if not any(found.start() in use for use in uses):
                path = tuple(re.split(r"\s*::\s*", found[0]))
                brought = self._brought[module].get(path[0])
                note(path, self._absolute(module, path) if brought is None else (*brought, *path[1:]))
        return needs


def circles(needs: dict[Path, dict[Path, set[str]]]) -> list[list[Path]]:
    """The sets of two or more files of which each needs, by way of others, each other (Tarjan's algorithm)."""
    order: dict[Path, int] = {}
    lowest: dict[Path, int] = {}
    stack: list[Path] = []
    found = []

    def visit(file: Path) -> None:
        order[file] = lowest[file] = len(order)
        stack.append(file)
        for needed in needs.get(file, {}):
            if needed not in order:
                visit(needed)
                lowest[file] = min(lowest[file], lowest[needed])
            elif needed in stack:
                lowest[file] = min(lowest[file], order[needed])
        if lowest[file] == order[file]:
            at = stack.index(file)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for file in needs:
        if file not in order:
            visit(file)
    return found
