"""The configuration of the command line: the source of each option, and what Gunicorn's arbiter gets of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .settings import Settings

__all__ = ["Resolved"]


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """The configuration of a service.

    `target` is MODULE:APP. `settings` has all options with their values.

    `gunicorn` has the settings for Gunicorn's configuration, by name: those of options that the arbiter or Gunicorn's
    own code acts on, and hooks. `options` has the options of the engine, by their names in the table; for a worker they
    win over everything that Gunicorn's configuration holds.
    """

    target: str
    settings: Settings
    gunicorn: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
