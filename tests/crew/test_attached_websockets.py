"""`Channel.attach`: messages of a channel that reach WebSockets without Python code for each one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest

from frames import BINARY, FIN, TEXT, Client, text
from masters import Masters, Service
from rmeinheld.channel import Channel
from serving import Connection, Serve, Server


class Door:
    """A service as `Client` takes a server."""

    def __init__(self, service: Service) -> None:
        self.port = service.port

    def connect(self, receive_buffer: int | None = None) -> Connection:
        return Connection(("127.0.0.1", self.port), receive_buffer=receive_buffer)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Masters[Service]]:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    masters = Masters(tmp_path, Service)
    yield masters
    masters.stop()


def client_of(service: Service) -> Client:
    return Client(cast("Server", Door(service)))


def test_a_message_reaches_the_attached_websockets_of_all_workers(start: Masters[Service]) -> None:
    service = start("--workers", "2", app="attach_app:app")
    service.await_ready()
    with ExitStack() as stack:
        clients = [stack.enter_context(client_of(service)) for _ in range(40)]
        assert len({client.text() for client in clients}) == 2, "the clients are in both workers"
        clients[0].send(text("leave"))
        assert clients[0].text() == "left"
        for query in ("text=hello", "bytes=hello", "json=hello", "text=end"):
            # Each from one worker or the other: the order is that of one publisher.
            published: object = service.get(f"/?{query}")
            assert published == 0
            for client in clients[1:]:
                if query.startswith("bytes"):
                    assert client.frame() == (FIN | BINARY, b"hello")
                elif query.startswith("json"):
                    assert json.loads(client.text()) == {"say": "hello"}
                else:
                    assert client.text() == query.partition("=")[2]
        for client in clients:
            client.end()


def test_a_slow_client_is_closed_or_skipped_and_holds_up_no_other(serve: Serve) -> None:
    server = serve("attach_app:app", websocket_max_queue_size=1000)
    message = "x" * 30_000
    with ExitStack() as stack:
        closed, skipped = (stack.enter_context(Client(server, way, receive_buffer=4096)) for way in ("/close", "/skip"))
        quick = stack.enter_context(Client(server, "/close"))
        for client in (closed, skipped, quick):
            client.text()
        sent = 300
        for _ in range(sent):
            server.get(f"/?long={len(message)}")
            assert quick.text() == message
        got = 0
        while (found := closed.frame()).first == FIN | TEXT:
            got += 1
        assert got < sent
        assert found.payload == b"\x03\xf5too slow"
        server.get("/?text=end")
        assert quick.text() == "end"
        texts = [skipped.text()]
        while texts[-1] != "end":
            if len(texts) % 20 == 0:
                server.get("/?text=end")
            texts.append(skipped.text())
        assert set(texts) == {message, "end"}
        assert texts.count(message) < sent


@pytest.mark.parametrize("slow", ["wait", 5, None])
def test_another_treatment_of_slow_clients_is_refused(slow: Any) -> None:
    nobody: Any = None
    with pytest.raises(ValueError, match="slow is"):
        Channel("of nothing").attach(nobody, slow=slow)
