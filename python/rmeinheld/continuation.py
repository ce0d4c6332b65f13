"""The module `rmeinheld.meinheld.continuation`, under a shorter name."""

from __future__ import annotations

from .meinheld import continuation as _continuation
from .meinheld.continuation import *  # noqa: F403

__all__: list[str] = []
__all__ += _continuation.__all__
