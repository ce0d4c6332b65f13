"""The module `rmeinheld.meinheld.server`, under a shorter name."""

from __future__ import annotations

from .meinheld import server as _server
from .meinheld.server import *  # noqa: F403

__all__: list[str] = []
__all__ += _server.__all__
