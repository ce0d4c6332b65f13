"""Moved to `rmeinheld.meinheld.watchdog`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._moved import forward

if not TYPE_CHECKING:
    __getattr__ = forward(__name__, "rmeinheld.meinheld.watchdog", ("INTERVAL_SECONDS", "ParentWatch", "Watchdog"))
