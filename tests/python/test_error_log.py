"""The lines of the error log."""

from __future__ import annotations

import logging
import sys
import time

from rmeinheld.error_log import DATE_FORMAT, FORMAT, LineFormatter


def record(created: float, failed: bool = False) -> logging.LogRecord:
    """Return a record of that time."""
    exception = None
    if failed:
        try:
            raise ValueError("no")
        except ValueError:
            exception = sys.exc_info()
    made = logging.LogRecord("name", logging.ERROR, "file", 1, "%s of %d", ("one", 2), exception)
    made.created = created
    return made


def test_lines_are_those_of_the_format() -> None:
    own, plain = LineFormatter(), logging.Formatter(FORMAT, DATE_FORMAT)
    now = time.time()
    for created in (now, now, now + 0.5, now + 3600, now, 0.0):
        for failed in (False, True):
            assert own.format(record(created, failed)) == plain.format(record(created, failed))


def test_a_record_has_its_message_and_its_time_for_the_next_handler() -> None:
    made = record(time.time())
    line = LineFormatter().format(made)
    assert made.message == "one of 2"
    assert line.startswith(f"[{made.asctime}] [{made.process}] [ERROR] ")
