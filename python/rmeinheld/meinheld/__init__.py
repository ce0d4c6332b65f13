"""Meinheld's names, so that a program moves by one line: `from rmeinheld.meinheld import server, middleware`.

    from rmeinheld.meinheld import server

    server.listen(("127.0.0.1", 8000))
    server.run(app)

As in Meinheld, the names of `server` are here as well. Two functions differ from those of `rmeinheld.coroutine`.
`spawn(func, args, kwargs)` takes the arguments as a tuple and a dict. `get_ident()` returns the coroutine's object,
where `coroutine.get_ident()` returns its number. `sleep`, `timeout` and `Timer` are the same in both places.

| module         | contents                                                       |
|----------------|----------------------------------------------------------------|
| `server`       | listen, run, stop, `set_*` and `get_*`, and the names below    |
| `scheduling`   | spawn, schedule_call, trampoline, cancel_wait, get_ident       |
| `continuation` | Continuation: a request suspends until another one resumes it  |
| `middleware`   | ContinuationMiddleware, WebSocketMiddleware                    |
| `watchdog`     | `set_watchdog` and `set_fastwatchdog`                          |
| `websocket`    | `rmeinheld.websocket`                                          |
| `patch`        | `rmeinheld.patch`                                              |
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .. import websocket
from . import continuation, middleware, server
from .server import *  # noqa: F403

if TYPE_CHECKING:
    from .. import patch

__all__ = ["continuation", "middleware", "patch", "server", "websocket"]
__all__ += server.__all__


def __getattr__(name: str) -> Any:
    # Imported only by programs that patch: it imports much of the standard library.
    if name == "patch":
        return import_module("rmeinheld.patch")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
