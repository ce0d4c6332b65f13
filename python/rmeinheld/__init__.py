"""rmeinheld: a WSGI server in which plain blocking Python code serves thousands of clients from one thread.

    import rmeinheld

    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"Hello, world!\\n"]

    if __name__ == "__main__":
        rmeinheld.run(app)

`run` serves until SIGINT or SIGTERM; `rmeinheld.settings` lists its options. `rmeinheld.coroutine` starts coroutines
beside the request's own, `rmeinheld.server` has Meinheld's names, and `rmeinheld MODULE:APP` is the command line.
"""

from __future__ import annotations

from ._rmeinheld import __version__
from .coroutine import sleep, spawn
from .server import (
    Timer,
    cancel_wait,
    get_backlog,
    get_client_body_buffer_size,
    get_ident,
    get_keepalive,
    get_max_content_length,
    get_picoev_max_fd,
    listen,
    run,
    schedule_call,
    set_access_logger,
    set_backlog,
    set_client_body_buffer_size,
    set_error_logger,
    set_fastwatchdog,
    set_keepalive,
    set_listen_socket,
    set_max_content_length,
    set_picoev_max_fd,
    set_watchdog,
    shutdown,
    stop,
    timeout,
    trampoline,
)

__all__ = [
    "Timer",
    "__version__",
    "cancel_wait",
    "get_backlog",
    "get_client_body_buffer_size",
    "get_ident",
    "get_keepalive",
    "get_max_content_length",
    "get_picoev_max_fd",
    "listen",
    "run",
    "schedule_call",
    "set_access_logger",
    "set_backlog",
    "set_client_body_buffer_size",
    "set_error_logger",
    "set_fastwatchdog",
    "set_keepalive",
    "set_listen_socket",
    "set_max_content_length",
    "set_picoev_max_fd",
    "set_watchdog",
    "shutdown",
    "sleep",
    "spawn",
    "stop",
    "timeout",
    "trampoline",
]
