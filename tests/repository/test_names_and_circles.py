"""Files under src need each other in one direction, and a name of a type stands for one thing in the whole crate."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rust_imports import Crate, circles, use_trees
from rust_source import line_of, sources_under

ROOT = Path(__file__).resolve().parents[2]

TYPE = re.compile(r"^\s*(?:pub(?:\([^)]*\))?\s+)?(?:unsafe\s+)?(?:struct|enum|trait|union)\s+(\w+)", re.MULTILINE)


@pytest.fixture(scope="module")
def crate() -> Crate:
    return Crate(sources_under(ROOT))


def types_named_twice(code: dict[Path, str]) -> dict[str, list[str]]:
    """Names that several structs, enums or traits bear, with the places."""
    places: dict[str, list[str]] = {}
    for path, text in code.items():
        for found in TYPE.finditer(text):
            places.setdefault(found[1], []).append(f"{path}:{line_of(text, found.start(1))}")
    return {name: where for name, where in places.items() if len(where) > 1}


def test_files_need_each_other_in_one_direction(crate: Crate) -> None:
    needs = crate.needs()
    complaints = {
        str(file): {str(needed): sorted(names) for needed, names in needs[file].items() if needed in circle}
        for circle in circles(needs)
        for file in circle
    }
    assert complaints == {}


def test_a_name_of_a_type_stands_for_one_thing(crate: Crate) -> None:
    assert types_named_twice(crate.code) == {}


# --- the rules do complain -------------------------------------------------------------------------------------------


def crate_of(**files: str) -> Crate:
    return Crate({Path("src/lib.rs"): "mod net;"} | {Path(f"src/net/{name}.rs"): text for name, text in files.items()})


@pytest.mark.parametrize(
    ("files", "is_circle"),
    [
        ({"mod": "pub use a::A;", "a": "use super::b::B;", "b": ""}, False),
        ({"mod": "", "a": "use super::b::B;", "b": "use super::a::A;"}, True),
        ({"mod": "", "a": "use crate::net::b::B;", "b": "fn f() { super::a::g() }"}, True),
        ({"mod": "", "a": "use super::b;", "b": "use super::{c, a::{self, A}};", "c": ""}, True),
        # A name that comes through the re-export of `mod.rs` belongs to the file that defines it.
        ({"mod": "pub use a::A;\nfn f() { a::g() }", "a": "use super::B;", "b": ""}, True),
        ({"mod": "pub use b::B;\nfn f() { a::g() }", "a": "use super::B;", "b": ""}, False),
        ({"mod": "", "a": "use super::b::B;", "b": "#[cfg(test)]\nmod tests { use super::super::a::A; }"}, False),
        ({"mod": "", "a": "use super::b::B;", "b": "// super::a::A\nfn f() { a::g() }"}, False),
        ({"mod": "", "a": "use super::b::B;", "b": "use std::a::A;"}, False),
    ],
)
def test_a_circle_is_seen(files: dict[str, str], is_circle: bool) -> None:
    assert bool(circles(crate_of(**files).needs())) is is_circle


def test_the_tree_of_a_use_declaration_is_read() -> None:
    code = "use crate::{a::{self, B as C}, d::*, e};"
    assert list(use_trees(code, 4)) == [
        (("crate", "a", "self"), "self"),
        (("crate", "a", "B"), "C"),
        (("crate", "d", "*"), "*"),
        (("crate", "e"), "e"),
    ]


def test_a_name_that_stands_for_two_things_is_seen() -> None:
    code = {Path("a.rs"): "struct A;\npub(super) enum B {}", Path("b.rs"): "    pub trait A {}\nstruct C(B);"}
    assert types_named_twice(code) == {"A": ["a.rs:1", "b.rs:1"]}
