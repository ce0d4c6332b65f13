"""Moved to `rmeinheld.meinheld.scheduling`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._moved import forward

if not TYPE_CHECKING:
    __getattr__ = forward(
        __name__,
        "rmeinheld.meinheld.server",
        ("Timer", "cancel_wait", "get_ident", "schedule_call", "spawn", "timeout", "trampoline"),
    )
