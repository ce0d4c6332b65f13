"""The error log: where the logger `rmeinheld.error` writes to, and how a rotated file is opened anew."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from . import _rmeinheld

__all__ = ["DATE_FORMAT", "FORMAT", "LOGGER_NAME", "configured", "reopen"]

LOGGER_NAME: Final = "rmeinheld.error"
"""Name of the logger that the server and its extension write to."""

FORMAT: Final = "[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s"
"""Format of a record, as Gunicorn's."""

DATE_FORMAT: Final = "%Y-%m-%d %H:%M:%S %z"
"""Format of `asctime` in a record, as Gunicorn's."""


class ReopeningFileHandler(logging.FileHandler):
    """A file handler that can open its file anew, after a tool such as logrotate has moved it."""

    def reopen(self) -> None:
        """Open the file of the same name and close the old one. Raises OSError and keeps the old one if it cannot."""
        fresh = self._open()
        self.acquire()
        try:
            old, self.stream = self.stream, fresh
        finally:
            self.release()
        if old is not None:
            old.close()


class StandardErrorHandler(logging.StreamHandler[Any]):
    """Writes to standard error and never waits for it: a pipe that nobody reads would hold up every request."""

    def __init__(self) -> None:
        stream: Any = sys.stderr
        # Not a file: replaced by a program that collects it, or closed.
        with suppress(OSError, ValueError, AttributeError):
            stream = self._own = _rmeinheld.ErrorStream(sys.stderr.fileno())
        super().__init__(stream)

    _own: _rmeinheld.ErrorStream | None = None

    def close(self) -> None:
        """Write what is left, within a second."""
        if self._own is not None:
            self._own.close()
        super().close()


@contextmanager
def configured(level: str, path: str) -> Iterator[None]:
    """Write records of `level` and above to the file `path` (`-`: standard error) while the block runs.

    Records then go nowhere else. Raises OSError if the file cannot be opened.
    """
    handler = StandardErrorHandler() if path == "-" else ReopeningFileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(FORMAT, DATE_FORMAT))
    logger = logging.getLogger(LOGGER_NAME)
    level_before, propagate_before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    # The records have a place now; handlers of the root logger would write them a second time.
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level_before)
        logger.propagate = propagate_before
        handler.close()


def reopen() -> None:
    """Open the files of the error log anew. Raises OSError if one cannot be opened; the old one then stays in use."""
    for handler in logging.getLogger(LOGGER_NAME).handlers:
        if isinstance(handler, ReopeningFileHandler):
            handler.reopen()
