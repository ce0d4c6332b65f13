"""`subprocess`: `Popen` stays as it is. Its pipes are files, which `io`'s part has park.

Waiting for a child and reading what it says to its parent before it runs is `os`'s part.
"""

from __future__ import annotations

from . import _io


def patch() -> None:
    """Have files of pipes park."""
    _io.patch()
