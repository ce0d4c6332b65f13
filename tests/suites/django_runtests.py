"""Django's tests/runtests.py, with rmeinheld in the place of the servers that its live server tests start.

Runs in the directory of Django's tests, in a process of its own. The first argument is the file for the results, the
others are those of runtests.py. The server runs in the thread that Django starts for it, and shares the connections to
the database with the test, as Django's own does.
"""

from __future__ import annotations

import json
import runpy
import socket
import sys
import unittest
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from django.core.servers import basehttp
from django.db import connections
from django.test import runner, testcases

from rmeinheld.addresses import address_of
from rmeinheld.listeners import close_all, open_all
from rmeinheld.running import make_engine
from rmeinheld.settings import Settings

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

SECONDS = 5.0
"""The longest wait of a view or a test for an answer."""


class LiveServer:
    """The part that LiveServerThread uses of `ThreadedWSGIServer`."""

    keep_alive = 5
    running: ClassVar[LiveServer | None] = None
    requests: ClassVar[int] = 0

    def __init__(
        self,
        address: tuple[str, int],
        handler: type,
        *,
        allow_reuse_address: bool = False,
        connections_override: dict[str, Any] | None = None,
    ) -> None:
        if LiveServer.running is not None:
            raise RuntimeError("a server is running in this process already")
        self.connections_override = connections_override or {}
        self.settings = Settings.from_options({"keep_alive": self.keep_alive, "graceful_timeout": SECONDS}, {})
        self.listeners = open_all([address_of(*address)], backlog=100, reuse_port=False, umask=None)
        self.server_address = self.listeners[0].socket.getsockname()
        LiveServer.running = self

    def set_app(self, application: WSGIApplication) -> None:
        """Take the application to serve."""

        def served(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            # To Django each request is in a thread of its own, which has to be given the connections.
            for alias, connection in self.connections_override.items():
                connections[alias] = connection
            return Response(self, application(environ, start_response))

        self.engine = make_engine(served, self.listeners, self.settings)

    def serve_forever(self) -> None:
        """Run until `shutdown`."""
        self.engine.run()

    def shutdown(self) -> None:
        """Stop, also if `serve_forever` has not been called yet."""
        self.engine.stop(idle=0)

    def server_close(self) -> None:
        """Close the socket."""
        close_all(self.listeners)
        LiveServer.requests += self.engine.requests
        LiveServer.running = None

    def _close_connections(self) -> None:
        connections.close_all()


class OneRequestServer(LiveServer):
    """Replaces `WSGIServer`, and closes each connection after a request, as that does."""

    keep_alive = 0


class Response:
    """A response after which the connections to the database are closed."""

    def __init__(self, server: LiveServer, parts: Iterable[bytes]) -> None:
        self._server = server
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._parts)

    def close(self) -> None:
        """Close the response at the end of the request, and then the connections to the database."""
        try:
            if hasattr(self._parts, "close"):
                self._parts.close()
        finally:
            self._server._close_connections()


class Result(unittest.TextTestResult):
    """Notes the result of each test."""

    found: ClassVar[dict[str, str | None]] = {}

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.found.setdefault(test.id(), "")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self.found[test.id()] = None

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self.found[test.id()] = f"{err[0].__name__}: {err[1]}"

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self.found[test.id()] = f"{err[0].__name__}: {err[1]}"


class Runner(runner.DiscoverRunner):  # type: ignore[misc]
    """The runner of runtests.py, with notes."""

    def get_resultclass(self) -> type[Result]:
        return Result


def main() -> None:
    """Replace Django's servers by ours, and run the tests."""
    results, *arguments = sys.argv[1:]
    basehttp.ThreadedWSGIServer = testcases.LiveServerThread.server_class = LiveServer
    basehttp.WSGIServer = OneRequestServer
    runner.DiscoverRunner = Runner
    # A view that waits for an answer of its own server blocks the only OS thread: it must fail instead of hanging.
    socket.setdefaulttimeout(SECONDS)
    sys.argv = ["runtests.py", *arguments]
    sys.path.insert(0, "")
    try:
        runpy.run_path("runtests.py", run_name="__main__")
    finally:
        with open(results, "w") as file:
            json.dump({"requests": LiveServer.requests, "tests": Result.found}, file)


if __name__ == "__main__":
    main()
