"""The standard descriptors 0 to 2, and a substitute for a closed standard error."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from typing import Final, TextIO

from . import error_log

__all__ = ["LoggedText", "fill_standard_descriptors", "standard_error"]

_STANDARD: Final = (0, 1, 2)


def fill_standard_descriptors() -> None:
    """Open /dev/null on each closed descriptor from 0 to 2.

    A service may be started without them. A client's connection would then get the number, and output of the
    application or a child to standard output or standard error would go to that client.
    """
    for number in _STANDARD:
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            else:
                os.set_inheritable(number, True)


def standard_error() -> TextIO | LoggedText:
    """Return the default of `wsgi.errors`: `sys.stderr`, or the error log if that is closed."""
    if sys.stderr is None or sys.stderr.closed:
        return LoggedText()
    return sys.stderr


class LoggedText:
    """A text stream whose lines go to the logger `rmeinheld.error`."""

    def __init__(self) -> None:
        self._part = ""

    def write(self, text: str) -> int:
        """Log the complete lines. Raises TypeError if `text` is not a str."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        *lines, self._part = (self._part + text).split("\n")
        for line in lines:
            logging.getLogger(error_log.LOGGER_NAME).error("%s", line)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write all of `lines`."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Log the incomplete line."""
        if self._part:
            self.write("\n")
