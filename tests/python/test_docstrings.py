"""The docstrings of the stub are those of the compiled module, and every public name has one."""

from __future__ import annotations

import ast
import sys
import types
from pathlib import Path

import pytest

from rmeinheld import _rmeinheld

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / ".ci"))

import stub_docstrings


def test_the_docstrings_of_the_stub_are_those_of_the_module() -> None:
    assert stub_docstrings.differences(stub_docstrings.STUB.read_text(), _rmeinheld) == []


def test_every_public_name_has_a_docstring_that_begins_with_a_sentence() -> None:
    tree = ast.parse(stub_docstrings.STUB.read_text())
    summaries = {
        path: stub_docstrings.words(stub_docstrings.wanted(node, found))[0]
        for node, path, found in stub_docstrings.definitions(tree.body, _rmeinheld)
        if not node.name.startswith("_")
    }
    assert len(summaries) > 150
    assert {path: summary for path, summary in summaries.items() if not summary.endswith((".", ")"))} == {}


SAMPLE = '''\
def f() -> None: ...
def g() -> None:
    """Old."""

class C:
    @property
    def p(self) -> int: ...
    def m(self) -> None: ...
    def __call__(self) -> None:
        """Call."""

class Passed:
    """Of another module."""
'''


@pytest.fixture
def module() -> types.ModuleType:
    module = types.ModuleType("rmeinheld.sample")
    text = '''
class C:
    """The class."""
    @property
    def p(self):
        """The property, of which there is a lot to say, so much that it does not fit into one line of a stub, nor into
        two of its lines."""
    def m(self): "The method.\\n\\nMore of it."
    def __call__(self): "Other."
class Passed: "Words."
Passed.__module__ = "queue"
def f(): "The function."
def g(): "New."
'''
    exec(text, module.__dict__)
    return module


def test_docstrings_are_written_where_they_belong(module: types.ModuleType) -> None:
    written = stub_docstrings.rewritten(SAMPLE, module)
    assert stub_docstrings.differences(SAMPLE, module) == ["f", "g", "C", "C.p", "C.m", "C.__call__"]
    assert stub_docstrings.differences(written, module) == []
    assert written.startswith('def f() -> None:\n    """The function."""\n\ndef g() -> None:\n    """New."""\n')
    assert "    def __call__(self) -> None: ...\n" in written
    assert '"""Of another module."""' in written
    assert max(len(line) for line in written.splitlines()) <= stub_docstrings.WIDTH


def test_only_the_words_of_a_docstring_count(module: types.ModuleType) -> None:
    wrapped = SAMPLE.replace('"""Old."""', '"""\n    New.\n    """')
    assert "g" not in stub_docstrings.differences(wrapped, module)
