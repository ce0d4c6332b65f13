"""The access log on a terminal: a person who starts the command wants to see requests."""

from __future__ import annotations

import sys
from typing import Final

from .layers import Given, Layer

__all__ = ["read_terminal"]

SOURCE: Final = "standard output is a terminal"

_OTHER_LOGS: Final = ("daemon", "logconfig", "logconfig_dict", "logconfig_json", "logger_class", "syslog")
"""Options and settings of Gunicorn with which the user has decided about logs already, or leaves the terminal."""


def read_terminal(given: Layer) -> Layer:
    """Return the values that a terminal adds to those in `given`: a readable access log.

    None, if `given` names a file of the access log or another logger, or if standard output is no terminal.
    """
    layer = Layer()
    values = {**given.options, **given.extra}
    is_decided = not values.keys().isdisjoint(("access_logfile", "access_log"))
    is_decided |= any(name in values and values[name].value for name in _OTHER_LOGS)
    if not is_decided and _has_terminal():
        layer.options["access_logfile"] = Given("-", SOURCE)
        layer.options["access_logformat"] = Given("readable", SOURCE)
    return layer


def _has_terminal() -> bool:
    try:
        return sys.stdout.isatty()
    except (AttributeError, ValueError):
        # It is closed, or a program has replaced it.
        return False
