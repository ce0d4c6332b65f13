"""Pictures of terminals: runs a command in a pseudo terminal, types keys, and writes its last screen as SVG.

    python docs/_extensions/screens.py --size 120x24 --keys '1.5 j' -o top.svg -- rmeinheld top

Each item of `--keys` is a number of seconds to wait, or keys to type. The terminal is a VT100 with colours, as far as
curses and line-oriented programs need one.
"""

from __future__ import annotations

import argparse
import fcntl
import html
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Final, NamedTuple

CELL_WIDTH: Final = 8.4
LINE_HEIGHT: Final = 17
MARGIN: Final = 10
COLORS: Final = ("#555", "#d6382d", "#2f9e44", "#b08800", "#3b6fd4", "#a347ba", "#1d8e9c", "#ccc")
AFTER_KEYS: Final = 0.3
"""Seconds for the program to act on keys."""
PAPER: Final = "#fdfdfb"
INK: Final = "#222"

SEQUENCE: Final = re.compile(
    r"\x1b\[(?P<csi>[?\d;]*)(?P<final>[@-~])|\x1b[()][A-Z0-9]|\x1b[=>78M]|\x1b\][^\x07]*\x07|(?P<plain>[^\x1b])", re.S
)


class Style(NamedTuple):
    """The look of a cell."""

    color: int | None = None
    is_bold: bool = False
    is_dim: bool = False
    is_reverse: bool = False


class Screen:
    """A screen, and the effect of output on it."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.cells = [[(" ", Style())] * width for _ in range(height)]
        self._row = self._column = 0
        self._style = Style()
        self._pending = ""

    def text(self) -> str:
        """Return the text of all lines."""
        return "\n".join("".join(cell for cell, _ in row).rstrip() for row in self.cells)

    def feed(self, output: str) -> None:
        """Take output of the program."""
        output = self._pending + output
        end = 0
        for found in SEQUENCE.finditer(output):
            if found.start() != end:
                break
            end = found.end()
            if found["plain"] is not None:
                self._put(found["plain"])
            elif found["final"] is not None:
                self._obey(found["final"], found["csi"])
        self._pending = output[end:]

    def _put(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            if self._row == self.height - 1:
                self.cells = [*self.cells[1:], [(" ", Style())] * self.width]
            else:
                self._row += 1
        elif character == "\b":
            self._column = max(self._column - 1, 0)
        elif character == "\t":
            self._column = min((self._column // 8 + 1) * 8, self.width - 1)
        elif character >= " ":
            self.cells[self._row][min(self._column, self.width - 1)] = (character, self._style)
            self._column += 1

    def _obey(self, final: str, parameters: str) -> None:
        if parameters.startswith("?"):
            return
        numbers = [int(number or 0) for number in parameters.split(";")]
        first = numbers[0]
        count = max(first, 1)
        row, column = self._row, min(self._column, self.width - 1)
        match final:
            case "H" | "f":
                row, column = count - 1, (numbers[1] if len(numbers) > 1 else 1) - 1
            case "A":
                row -= count
            case "B" | "e":
                row += count
            case "C" | "a":
                column += count
            case "D":
                column -= count
            case "G" | "`":
                column = count - 1
            case "d":
                row = count - 1
            case "J":
                self._erase(first, (0, row * self.width + column, self.width * self.height))
            case "K":
                start = row * self.width
                self._erase(first, (start, start + column, start + self.width))
            case "X":
                self._erase(0, (0, row * self.width + column, row * self.width + min(column + count, self.width)))
            case "@":
                self.cells[row][column:] = [(" ", Style())] * count + self.cells[row][column : self.width - count]
            case "P":
                self.cells[row][column:] = self.cells[row][column + count :] + [(" ", Style())] * count
            case "m":
                self._choose(numbers)
        self._row, self._column = max(0, min(row, self.height - 1)), max(0, min(column, self.width - 1))

    def _erase(self, part: int, places: tuple[int, int, int]) -> None:
        begin, end = ((places[1], places[2]), (places[0], places[1] + 1), (places[0], places[2]))[min(part, 2)]
        for place in range(begin, end):
            self.cells[place // self.width][place % self.width] = (" ", Style())

    def _choose(self, numbers: list[int]) -> None:
        for number in numbers:
            match number:
                case 0:
                    self._style = Style()
                case 1:
                    self._style = self._style._replace(is_bold=True)
                case 2:
                    self._style = self._style._replace(is_dim=True)
                case 22:
                    self._style = self._style._replace(is_bold=False, is_dim=False)
                case 7 | 27:
                    self._style = self._style._replace(is_reverse=number == 7)
                case 39:
                    self._style = self._style._replace(color=None)
                case _ if 30 <= number < 38:
                    self._style = self._style._replace(color=number - 30)

    def svg(self, title: str) -> str:
        """Return the screen as a picture."""
        width, height = self.width * CELL_WIDTH + 2 * MARGIN, self.height * LINE_HEIGHT + 2 * MARGIN
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img">',
            f"<title>{html.escape(title)}</title>",
            f'<rect width="100%" height="100%" rx="6" fill="{PAPER}" stroke="#ccc"/>',
            '<g font-family="ui-monospace, DejaVu Sans Mono, monospace" font-size="14" xml:space="preserve">',
        ]
        for number, row in enumerate(self.cells):
            parts += self._runs(row, MARGIN + number * LINE_HEIGHT)
        return "\n".join([*parts, "</g>", "</svg>", ""])

    def _runs(self, row: list[tuple[str, Style]], top: float) -> list[str]:
        """Return the parts of a line, each with one style."""
        parts, begin = [], 0
        for end in range(1, self.width + 1):
            style = row[begin][1]
            if end < self.width and row[end][1] == style:
                continue
            text = "".join(cell for cell, _ in row[begin:end])
            left = MARGIN + begin * CELL_WIDTH
            ink, length = INK if style.color is None else COLORS[style.color], (end - begin) * CELL_WIDTH
            if style.is_reverse:
                parts.append(f'<rect x="{left:g}" y="{top:g}" width="{length:g}" height="{LINE_HEIGHT}" fill="{ink}"/>')
                ink = PAPER
            if text.strip():
                look = ' font-weight="bold"' * style.is_bold + ' opacity="0.6"' * style.is_dim
                kept = len(text.rstrip())
                parts.append(
                    f'<text x="{left:g}" y="{top + 13:g}" fill="{ink}" textLength="{kept * CELL_WIDTH:g}"{look}>'
                    f"{html.escape(text.rstrip())}</text>"
                )
            begin = end
        return parts


def run(command: list[str], width: int, height: int, keys: list[str]) -> Screen:
    """Run a command on a screen of this size, and return the screen after the last of the keys and waits."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env={**os.environ, "TERM": "xterm", "LINES": str(height), "COLUMNS": str(width)},
    )
    os.close(theirs)
    screen = Screen(width, height)
    try:
        for item in keys:
            is_wait = re.fullmatch(r"[\d.]+", item) is not None
            if not is_wait:
                os.write(ours, item.encode().decode("unicode_escape").encode())
            _watch(screen, ours, float(item) if is_wait else AFTER_KEYS)
    finally:
        process.terminate()
        process.wait()
        os.close(ours)
    return screen


def _watch(screen: Screen, descriptor: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if select.select([descriptor], [], [], left)[0]:
            try:
                screen.feed(os.read(descriptor, 65536).decode(errors="replace"))
            except OSError:
                return


def main() -> None:
    """Read the command line, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="120x24", help="width and height in characters")
    parser.add_argument("--keys", default="2", help="seconds and keys, separated by spaces")
    parser.add_argument("--title", default="", help="of the picture; the command by default")
    parser.add_argument("-o", "--output", type=Path, help="the file; standard output by default")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    screen = run(arguments.command, width, height, arguments.keys.split())
    picture = screen.svg(arguments.title or " ".join(arguments.command))
    if arguments.output is None:
        sys.stdout.write(picture)
    else:
        arguments.output.write_text(picture)


if __name__ == "__main__":
    main()
