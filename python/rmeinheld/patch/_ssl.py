"""`ssl`: TLS over sockets parks; `SSLContext` and `SSLSocket` stay the same classes.

`ssl` is patched when it is imported: OpenSSL takes 4 MB and 5 ms, which an application without TLS is spared.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

from . import _state
from ._imports import when_imported
from ._state import Finding


def patch() -> Iterator[Finding]:
    """Make the sockets of every context park as soon as `ssl` is imported, including sockets that exist already."""
    _state.promised.add("ssl")
    is_late = "ssl" in sys.modules
    when_imported("ssl", _replace)
    if is_late:
        from . import _ssl_sockets

        yield from _ssl_sockets.adopt()


def _replace(module: ModuleType) -> None:
    from . import _ssl_sockets

    _ssl_sockets.replace()
