"""`--reload`: which files count as changed code."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from rmeinheld.gunicorn_worker.reloading import Changes


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory on the path; modules that a test imports from it are forgotten."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(path: Path, text: str) -> None:
    """Write a file whose time differs from that of the last write."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    if path.stat().st_mtime_ns <= before:
        os.utime(path, ns=(before + 1_000_000, before + 1_000_000))


def imported(place: Path, name: str, text: str = "x = 1") -> ModuleType:
    write(place / f"{name}.py", text)
    importlib.invalidate_caches()
    return importlib.import_module(name)


def failure(name: str) -> BaseException:
    importlib.invalidate_caches()
    with pytest.raises(Exception) as caught:
        importlib.import_module(name)
    return caught.value


def test_an_edited_module_has_changed_once(place: Path) -> None:
    imported(place, "changes_a")
    changes = Changes()
    assert changes.look() is None
    write(place / "changes_a.py", "x = 2")
    assert changes.look() == str(place / "changes_a.py")
    assert changes.look() is None


def test_files_that_are_not_imported_do_not_count(place: Path) -> None:
    imported(place, "changes_b")
    write(place / "other_b.py", "x = 1")
    changes = Changes()
    assert changes.look() is None
    write(place / "other_b.py", "x = 2")
    write(place / "new_b.py", "x = 2")
    write(place / "changes.log", "line")
    assert changes.look() is None


def test_an_edit_between_the_import_and_the_first_look_counts(place: Path) -> None:
    changes = Changes(began_ns=time.time_ns() - 1_000_000_000)
    imported(place, "changes_c")
    assert changes.look() == str(place / "changes_c.py")


def test_an_edit_while_the_files_are_looked_at_counts(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported(place, "changes_f")
    changes = Changes()
    stat = os.stat

    def slow(path: str) -> os.stat_result:
        # The machine is busy, and the file is written just before it is looked at.
        if str(path).endswith("changes_f.py"):
            monkeypatch.setattr(os, "stat", stat)
            time.sleep(0.02)
            Path(path).write_text("x = 22")
        return stat(path)

    monkeypatch.setattr(os, "stat", slow)
    assert changes.look() == str(place / "changes_f.py")


def test_a_time_in_the_future_is_not_an_edit(place: Path) -> None:
    imported(place, "changes_d")
    later = time.time_ns() + 3_600_000_000_000
    os.utime(place / "changes_d.py", ns=(later, later))
    changes = Changes()
    assert changes.look() is None
    write(place / "changes_d.py", "x = 2")
    assert changes.look() == str(place / "changes_d.py")


def test_a_module_that_is_removed_or_replaced_has_changed(place: Path) -> None:
    path = place / "changes_e.py"
    imported(place, "changes_e")
    changes = Changes()
    assert changes.look() is None
    path.unlink()
    assert changes.look() == str(path)
    # As editors write: under another name first.
    write(place / "changes_e.tmp", "x = 22")
    (place / "changes_e.tmp").replace(path)
    assert changes.look() == str(path)


def test_further_files_and_patterns_are_watched(place: Path) -> None:
    write(place / "one.txt", "1")
    write(place / "a.html", "1")
    changes = Changes([str(place / "one.txt"), str(place / "later.txt"), str(place / "**" / "*.html")])
    assert changes.look() is None
    write(place / "one.txt", "2")
    assert changes.look() == str(place / "one.txt")
    write(place / "later.txt", "1")
    assert changes.look() == str(place / "later.txt")
    (place / "deep").mkdir()
    write(place / "deep" / "b.html", "1")
    assert changes.look() == str(place / "deep" / "b.html")
    (place / "a.html").unlink()
    assert changes.look() == str(place / "a.html")


def test_a_failed_import_is_watched_with_what_it_touched(place: Path) -> None:
    write(place / "outer.py", "import inner")
    write(place / "inner.py", "x = 1 / 0")
    changes = Changes()
    assert changes.look() is None
    changes.add_failure(failure("outer"))
    assert changes.look() is None
    write(place / "inner.py", "x = 1 / 1")
    assert changes.look() == str(place / "inner.py")
    write(place / "outer.py", "import inner  # again")
    assert changes.look() == str(place / "outer.py")


def test_after_a_syntax_error_its_file_is_watched(place: Path) -> None:
    write(place / "wrong.py", "def f(:")
    changes = Changes()
    changes.add_failure(failure("wrong"))
    assert changes.look() is None
    write(place / "wrong.py", "def f(): pass")
    assert changes.look() == str(place / "wrong.py")


@pytest.mark.parametrize("appears", ["missing.py", "missing/__init__.py"])
def test_after_a_failed_import_a_file_that_appears_counts(place: Path, appears: str) -> None:
    write(place / "needs.py", "import missing")
    changes = Changes()
    changes.add_failure(failure("needs"))
    assert changes.look() is None
    (place / appears).parent.mkdir(exist_ok=True)
    # A copy keeps the time of its original.
    (place / appears).write_text("x = 1")
    os.utime(place / appears, (1, 1))
    assert changes.look() == str(place / appears)


def test_a_module_of_the_standard_library_does_not_count() -> None:
    import colorsys

    changes = Changes()
    assert colorsys.__file__ not in list(changes._modules(with_installed=True))
