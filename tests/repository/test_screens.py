"""The pictures of terminals in the documentation: what a program writes is what the picture shows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def screens(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "docs" / "_extensions")
    import screens

    return screens


def test_moves_erasures_and_insertions_act_as_on_a_terminal(screens: Any) -> None:
    screen = screens.Screen(10, 3)
    screen.feed("hello\r\nworld\x1b[1;3HXY\x1b[2;2H\x1b[K")
    assert screen.text() == "heXYo\nw\n"
    screen.feed("\x1b[1;1H\x1b[2@\x1b[3;1H")
    screen.feed("a\x1b[")
    screen.feed("2Cb\x1b[1;4H\x1b[2P")
    assert screen.text() == "  hYo\nw\na  b"
    screen.feed("\x1b[3;1H\nnext\r\n\x1b[?25l\x1b(B\x1b[1J")
    assert screen.text().split("\n")[:2] == ["", ""]


def test_a_picture_has_the_text_and_its_styles(screens: Any) -> None:
    screen = screens.Screen(20, 2)
    screen.feed("\x1b[1;31mbad\x1b[m \x1b[7m<b>\x1b[27m")
    picture = screen.svg("a & b")
    assert "<title>a &amp; b</title>" in picture and 'font-weight="bold"' in picture
    assert screens.COLORS[1] in picture and "&lt;b&gt;" in picture


def test_a_command_gets_its_keys_on_a_screen_of_its_size(screens: Any) -> None:
    program = "import os; input(); print(os.get_terminal_size()); input()"
    screen = screens.run([sys.executable, "-c", program], 60, 5, ["\\n", "1"])
    assert "columns=60, lines=5" in screen.text()
