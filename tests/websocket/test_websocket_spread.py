"""The closes of WebSockets at a stop are spread over a time, so that clients do not come back all at once."""

from __future__ import annotations

import selectors
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from frames import CLOSE, FIN, Client, frame, text
from masters import Masters, Service
from proxying import Front
from serving import Serve

APPLICATION = """
    def app(environ, start_response):
        websocket = environ.get("wsgi.websocket")
        if websocket is None:
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"served"]
        for message in websocket:
            websocket.send(message)
        return []
    """

COUNT = 200


def closes_of(clients: list[Client], started: float, longest: float) -> list[float]:
    """When each client got its close, which it answers, in seconds since `started`."""
    times: list[float] = []
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.connection.socket, selectors.EVENT_READ, client)
        while len(times) < len(clients):
            left = started + longest - time.monotonic()
            assert left > 0, f"{len(times)} of {len(clients)} are closed after {longest} s"
            for key, _ in selector.select(left):
                client = key.data
                selector.unregister(key.fileobj)
                assert client.frame() == (FIN | CLOSE, struct.pack("!H", 1001) + b"the server stops")
                times.append(time.monotonic() - started)
                client.send(frame(FIN | CLOSE, struct.pack("!H", 1001)))
                client.connection.expect_end()
    return times


@pytest.mark.parametrize(
    ("options", "spread"),
    [
        ({"drain_delay": 2.0, "graceful_timeout": 20.0}, 2.0),
        ({"drain_delay": 0.0, "graceful_timeout": 4.0}, 2.0),
    ],
    ids=["over drain_delay", "over half of graceful_timeout"],
)
def test_closes_are_spread_and_all_happen(serve: Serve, options: dict[str, float], spread: float) -> None:
    server = serve(APPLICATION, worker_connections=COUNT + 10, **options)
    clients = [Client(server) for _ in range(COUNT)]
    clients[-1].send(text("ready"))
    assert clients[-1].text() == "ready"
    started = time.monotonic()
    server.signal(15)
    if options["drain_delay"]:
        # All else goes on as before.
        assert server.get("/").body == b"served"
    times = closes_of(clients, started, longest=spread + 10)
    assert len(times) == COUNT
    # Evenly: a busy machine delays some.
    for share in (0.25, 0.5, 0.75):
        assert spread * share - 0.3 < times[int(COUNT * share)] < spread * share + 1, (share, times)
    assert server.wait() == 0


def test_a_client_that_comes_during_drain_delay_is_closed_after_it(serve: Serve) -> None:
    server = serve(APPLICATION, drain_delay=1.0, graceful_timeout=20)
    with Client(server) as first:
        started = time.monotonic()
        server.signal(15)
        first.expect_close_from_server(1001, "the server stops")
        with Client(server) as second:
            second.send(text("served"))
            assert second.text() == "served"
            second.expect_close_from_server(1001, "the server stops")
            assert time.monotonic() - started >= 1
    assert server.wait() == 0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Masters[Service]]:
    """`start(*options) -> Service`: a running master, which must end in order at the end of the test."""
    masters = Masters(tmp_path, Service)
    yield masters
    masters.stop()


def test_workers_spread_the_closes_over_drain_delay(start: Masters[Service]) -> None:
    service = start("--workers", "2", "--drain-delay", "4", app="websocket_methods_app:app")
    service.await_ready()
    front = Front("service", ("127.0.0.1", service.port))
    clients = [Client(front, "/waits") for _ in range(20)]
    started = time.monotonic()
    service.signal(15)
    times = closes_of(clients, started, longest=12)
    # A worker looks for it once a second.
    assert times[10] < 4 and times[15] - times[0] > 1, times
    assert service.wait() == 0
