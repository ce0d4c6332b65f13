"""The error log: the handlers of the logger `rmeinheld.error`, and reopening a rotated file."""

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


class LineFormatter(logging.Formatter):
    """Formats records as `FORMAT` says. The text of a second is made once for all its records."""

    def __init__(self) -> None:
        super().__init__(FORMAT, DATE_FORMAT)
        self._date = (-1, "")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """Return the local time of the record's second."""
        second, text = self._date
        if second != int(record.created):
            text = super().formatTime(record, datefmt)
            self._date = (int(record.created), text)
        return text

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of the record, and the lines of its exception and its stack if it has them."""
        if record.exc_info or record.exc_text or record.stack_info:
            return super().format(record)
        record.message = record.getMessage()
        record.asctime = self.formatTime(record, self.datefmt)
        # As FORMAT, without the search for its parts.
        return f"[{record.asctime}] [{record.process}] [{record.levelname}] {record.message}"


class ReopeningFileHandler(logging.FileHandler):
    """A file handler that can reopen its file, after a tool such as logrotate has moved it."""

    def reopen(self) -> None:
        """Open the file of the same name and close the old one. If that raises OSError, the old one stays in use."""
        fresh = self._open()
        self.acquire()
        try:
            old, self.stream = self.stream, fresh
        finally:
            self.release()
        if old is not None:
            old.close()


class StandardErrorHandler(logging.StreamHandler[Any]):
    """Writes to standard error without waiting: a pipe without a reader would hold up every request."""

    def __init__(self) -> None:
        stream: Any = sys.stderr
        # Standard error is closed, or a program has replaced it by an object without a descriptor.
        with suppress(OSError, ValueError, AttributeError):
            stream = self._own = _rmeinheld.ErrorStream(sys.stderr.fileno())
        super().__init__(stream)

    _own: _rmeinheld.ErrorStream | None = None

    def flush(self) -> None:
        """Flush a program's stream. The engine's own has nothing to flush."""
        if self._own is None:
            super().flush()

    def close(self) -> None:
        """Write the pending text, for at most a second."""
        if self._own is not None:
            self._own.close()
        super().close()


@contextmanager
def configured(level: str, path: str) -> Iterator[None]:
    """Write records of `level` and above to the file `path` (`-`: standard error) while the block runs.

    No other handler gets the records. Raises OSError if the file cannot be opened.
    """
    handler = StandardErrorHandler() if path == "-" else ReopeningFileHandler(path, encoding="utf-8")
    handler.setFormatter(LineFormatter())
    logger = logging.getLogger(LOGGER_NAME)
    level_before, propagate_before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    # Handlers of the root logger would write the records a second time.
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level_before)
        logger.propagate = propagate_before
        handler.close()


def reopen() -> None:
    """Reopen the files of the error log. Raises OSError if one cannot be opened; the old file then stays in use."""
    for handler in logging.getLogger(LOGGER_NAME).handlers:
        if isinstance(handler, ReopeningFileHandler):
            handler.reopen()
