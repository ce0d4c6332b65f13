"""The report of `--print-config`: each setting with its value and its source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..channel_options import without_password
from ..option_kinds import ChannelUrl, Mask, Secret
from ..settings import OPTIONS, Option

if TYPE_CHECKING:
    from . import Resolved

__all__ = ["report"]

NOTHING: Final = "-"
"""Stands for a value that is not set, and for an empty list."""


def report(resolved: Resolved) -> str:
    """Return a line for each setting, in the order of the help, and one that says what would start."""
    rows = [("setting", "value", "source")]
    for option in OPTIONS.values():
        if option.scope != "run":
            value = getattr(resolved.settings, option.name)
            rows.append((option.name, _text(option, value), resolved.source(option.name)))
    rows += [(name, _name(one.value), one.source) for name, one in resolved.extra.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    widths[1] = min(widths[1], 40)
    lines = [f"{name:<{widths[0]}}  {value:<{widths[1]}}  {source}" for name, value, source in rows]
    return "\n".join([*lines, "", _start(resolved)])


def _start(resolved: Resolved) -> str:
    if not resolved.reasons:
        return "One process serves, without Gunicorn."
    workers = resolved.settings.workers
    count = "1 worker" if workers == 1 else f"{workers} workers"
    return f"Gunicorn's arbiter starts {count}, because of {'; '.join(resolved.reasons)}."


def _text(option: Option, value: object) -> str:
    if value is None or value == ():
        return NOTHING
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(option.kind, Mask):
        return f"{value:03o}"
    if isinstance(option.kind, Secret):
        return "(secret)"
    if isinstance(option.kind, ChannelUrl):
        return without_password(str(value))
    if isinstance(value, tuple):
        return ",".join("=".join(item) if isinstance(item, tuple) else str(item) for item in value)
    if isinstance(value, float):
        return f"{value:g}"
    return _name(value)


def _name(value: object) -> str:
    return getattr(value, "__qualname__", None) or str(value)
