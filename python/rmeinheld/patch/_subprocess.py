"""`subprocess`: `Popen` stays the same. Its pipes are files, which the part `io` makes park.

The part `os` patches the wait for a child, and the read from the child before it runs its program.
"""

from __future__ import annotations

from . import _io


def patch() -> None:
    """Make files of pipes park."""
    _io.patch()
