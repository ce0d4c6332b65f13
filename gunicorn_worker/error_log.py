"""The error log under Gunicorn: the engine's messages and `wsgi.errors` go to Gunicorn's error log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from rmeinheld.error_log import LOGGER_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Errors", "forward_errors"]


class Errors:
    """`wsgi.errors`: writes to the files that Gunicorn's error log has open at the time, as its own workers do."""

    def __init__(self, cfg: Any) -> None:
        self._cfg = cfg

    def write(self, text: str) -> None:
        """Write and flush `text`."""
        from gunicorn.http.wsgi import WSGIErrorsWrapper

        WSGIErrorsWrapper(self._cfg).write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write all of `lines`."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Do nothing: each write flushes."""


def forward_errors(log: Any) -> None:
    """Send the records of the logger `rmeinheld.error` through the methods of Gunicorn's logger `log`."""
    logger = logging.getLogger(LOGGER_NAME)
    logger.handlers, logger.propagate = [_Forwarder(log)], False
    logger.setLevel(log.error_log.getEffectiveLevel())


class _Forwarder(logging.Handler):
    """Passes records to Gunicorn's logger, whose class may count them or send them elsewhere."""

    def __init__(self, log: Any) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Call the method that is named after the record's level."""
        if record.exc_info:
            self._log.exception(record.getMessage(), exc_info=record.exc_info)
        else:
            getattr(self._log, record.levelname.lower())(record.getMessage())
