"""rmeinheld: a WSGI server in which plain blocking Python code serves thousands of clients from one thread.

    import rmeinheld

    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"Hello, world!\\n"]

    if __name__ == "__main__":
        rmeinheld.run(app)

`run` serves until SIGINT or SIGTERM; `rmeinheld.settings` lists its options. `spawn`, `sleep` and `timeout` come from
`rmeinheld.coroutine`, which has locks, queues and pools too. `dump` shows what every coroutine does.
`rmeinheld.meinheld` has Meinheld's names, and `rmeinheld MODULE:APP` is the command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._moved import forward
from ._rmeinheld import ClientDisconnected, RequestTimeout, __version__
from .coroutine import sleep, spawn, timeout

if TYPE_CHECKING:
    from .inspecting import dump
    from .running import run

__all__ = ["ClientDisconnected", "RequestTimeout", "__version__", "dump", "run", "sleep", "spawn", "timeout"]

_MOVED = frozenset(
    """
    Timer cancel_wait get_backlog get_client_body_buffer_size get_ident get_keepalive get_max_content_length
    get_picoev_max_fd listen schedule_call set_access_logger set_backlog set_client_body_buffer_size set_error_logger
    set_fastwatchdog set_keepalive set_listen_socket set_max_content_length set_picoev_max_fd set_watchdog shutdown stop
    trampoline
    """.split()
)

if not TYPE_CHECKING:
    # Programs that only import rmeinheld find `rmeinheld.server` too.
    __getattr__ = forward(
        __name__,
        "rmeinheld.meinheld.server",
        _MOVED,
        modules=("server",),
        late={"dump": "rmeinheld.inspecting", "run": "rmeinheld.running"},
    )

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
