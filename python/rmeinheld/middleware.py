"""The module `rmeinheld.meinheld.middleware`, under a shorter name."""

from __future__ import annotations

from .meinheld import middleware as _middleware
from .meinheld.middleware import *  # noqa: F403

__all__: list[str] = []
__all__ += _middleware.__all__
