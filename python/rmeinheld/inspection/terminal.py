"""`rmeinheld top` on a terminal, by curses."""

from __future__ import annotations

import locale
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from .model import Key, Top
from .view import Style, draw

if TYPE_CHECKING:
    import curses

__all__ = ["run"]

ESCAPE_MILLISECONDS: Final = 25
"""Time in which the rest of a function key's sequence arrives. The default of curses, 1 s, makes Escape slow."""


def run(top: Top, interval: float) -> None:
    """Show `top`, refreshed every `interval` seconds, until a key leaves it."""
    import curses

    locale.setlocale(locale.LC_ALL, "")
    os.environ.setdefault("ESCDELAY", str(ESCAPE_MILLISECONDS))
    with suppress(KeyboardInterrupt):
        curses.wrapper(lambda screen: _Terminal(screen, curses).run(top, interval))


class _Terminal:
    def __init__(self, screen: curses.window, curses: Any) -> None:
        self._screen, self._curses = screen, curses
        with suppress(curses.error):
            # Some terminals cannot hide the cursor.
            curses.curs_set(0)
        screen.keypad(True)
        self._styles: dict[Style, int] = {
            "plain": curses.A_NORMAL,
            "title": curses.A_BOLD,
            "head": curses.A_REVERSE,
            "selected": curses.A_STANDOUT | curses.A_BOLD,
            "dim": curses.A_DIM,
            "bad": curses.A_BOLD,
        }
        if curses.has_colors():
            curses.use_default_colors()
            for number, color in enumerate((curses.COLOR_RED, curses.COLOR_CYAN, curses.COLOR_GREEN), 1):
                curses.init_pair(number, color, -1)
            self._styles["bad"] |= curses.color_pair(1)
            self._styles["title"] |= curses.color_pair(3)
            self._styles["selected"] |= curses.color_pair(2)
        self._keys: dict[int, Key] = {
            curses.KEY_UP: "up",
            curses.KEY_DOWN: "down",
            curses.KEY_PPAGE: "page up",
            curses.KEY_NPAGE: "page down",
            curses.KEY_ENTER: "enter",
            10: "enter",
            13: "enter",
            27: "escape",
        }
        for letter in ("k", "y", "a", "q"):
            self._keys[ord(letter)] = letter

    def run(self, top: Top, interval: float) -> None:
        due = 0.0
        while True:
            if (now := time.monotonic()) >= due:
                top.refresh(now)
                due = time.monotonic() + interval
            self._show(top)
            self._screen.timeout(max(int((due - time.monotonic()) * 1000), 1))
            number = self._screen.getch()
            if number in (-1, self._curses.KEY_RESIZE):
                continue
            if not top.press(self._keys.get(number, "other")):
                return
            if number == ord("a") or top.message:
                due = 0.0

    def _show(self, top: Top) -> None:
        height, width = self._screen.getmaxyx()
        self._screen.erase()
        for number, line in enumerate(draw(top, width, height)):
            # A character in the last corner would scroll.
            with suppress(self._curses.error):
                self._screen.insnstr(number, 0, line.text, width, self._styles[line.style])
        self._screen.refresh()
