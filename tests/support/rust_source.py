"""Rust source text for the tests of the source tree: code without comments and literals, modules, names, imports."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

TOKEN = re.compile(
    r"""
      (?P<comment> //[^\n]* )
    | (?P<block> /\* )
    | (?P<string> \b(?:br|cr|r)(?P<hashes>\#*)".*?"(?P=hashes) | "(?:\\.|[^"\\])*" )
    | (?P<character> '(?: \\u\{[^}]*\} | \\x.. | \\. | [^\\'\n] )' )
    """,
    re.VERBOSE | re.DOTALL,
)


def blanked(match: str) -> str:
    return re.sub(r"[^\n]", " ", match)


def code_of(source: str) -> str:
    """Rust source with comments and the contents of literals replaced by spaces; lines stay where they are."""
    parts = []
    position = 0
    while found := TOKEN.search(source, position):
        parts.append(source[position : found.start()])
        end = found.end()
        if found["block"]:
            depth = 1
            while depth and (edge := re.compile(r"/\*|\*/").search(source, end)):
                depth += 1 if edge[0] == "/*" else -1
                end = edge.end()
            end = len(source) if depth else end
        text = blanked(source[found.start() : end])
        # Something has to remain of a literal: a line that holds only one is a line of code.
        parts.append(text if found["comment"] or found["block"] else '"' + text[1:])
        position = end
    return "".join([*parts, source[position:]])


def end_of_item(code: str, start: int) -> int:
    """Where the item ends that starts at `start`: after its closing brace, or after a semicolon before any brace."""
    depth = 0
    for position in range(start, len(code)):
        character = code[position]
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
            if character == "}" and depth == 0:
                return position + 1
        elif character == ";" and depth == 0:
            return position + 1
    return len(code)


def without_tests(code: str) -> str:
    """Code without the items under #[cfg(test)]."""
    while found := re.search(r"#\[cfg\(test\)\]", code):
        end = end_of_item(code, found.end())
        code = code[: found.start()] + blanked(code[found.start() : end]) + code[end:]
    return code


def module_of(path: Path) -> tuple[str, ...]:
    """`src/http/head.rs` is ("http", "head"), `src/http/mod.rs` is ("http",), `src/lib.rs` is ()."""
    parts = path.with_suffix("").parts[1:]
    return parts[:-1] if parts[-1] in ("mod", "lib") else parts


def is_test_file(path: Path, sources: dict[Path, str]) -> bool:
    """Is the file declared as `#[cfg(test)] mod name;`?"""
    *_, name = ("", *module_of(path))
    declaration = re.compile(rf"#\[cfg\(test\)\]\s*mod\s+{name}\s*;")
    parents = (path.with_name("mod.rs"), path.with_name("lib.rs"), path.parent.with_suffix(".rs"))
    return any(parent in sources and declaration.search(code_of(sources[parent])) for parent in parents)


def line_of(code: str, position: int) -> int:
    return code.count("\n", 0, position) + 1


def names_in(code: str, position: int) -> Iterator[str]:
    """The first names of what stands at `position`: an identifier, `*`, or a group `{a::b, c}`, which may be nested."""
    if code[position : position + 1] != "{":
        if found := re.compile(r"\s*(\w+|\*)").match(code, position):
            yield found[1]
        return
    depth = 0
    expecting = False
    for token in re.compile(r"[{},]|\w+|\*").finditer(code, position):
        if token[0] == "{":
            depth += 1
            expecting = depth == 1
        elif token[0] == "}":
            depth -= 1
            if depth == 0:
                return
        elif token[0] == ",":
            expecting = depth == 1
        elif expecting:
            yield token[0]
            expecting = False


def named_from_root(code: str, module: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Every name that is looked up at the crate's root, by `crate::` or by enough `super::`, with its position."""
    for found in re.finditer(r"(?<![\w:])crate\s*::\s*(?=[\w{*])", code):
        for name in names_in(code, found.end()):
            yield found.start(), name
    # Inline modules deepen what `super` counts from.
    edges = [(found.start(), found[0]) for found in re.finditer(r"\bmod\s+\w+\s*\{|\{|\}", code)]
    for found in re.finditer(r"(?<![\w:])(?:self\s*::\s*)?((?:super\s*::\s*)+)(?=[\w{*])", code):
        braces: list[bool] = []
        for position, text in edges:
            if position > found.start():
                break
            if text == "}":
                if braces:
                    braces.pop()
            else:
                braces.append(text.startswith("mod"))
        if found[1].count("super") >= len(module) + sum(braces):
            for name in names_in(code, found.end()):
                yield found.start(), name


def code_lines(source: str) -> int:
    return sum(1 for line in without_tests(code_of(source)).splitlines() if line.strip())


def sources_under(root: Path) -> dict[Path, str]:
    """Text of every Rust file under `src`, by its path from the root of the repository."""
    found = {path.relative_to(root): path.read_text() for path in sorted((root / "src").rglob("*.rs"))}
    assert Path("src/lib.rs") in found
    return found
