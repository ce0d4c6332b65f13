"""WebSockets that are attached to a channel: they get its messages until they close."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest

from frames import BINARY, FIN, Client, text
from masters import wait_until
from serving import Serve, Server, request

APPLICATION = """
    import json

    from rmeinheld import run
    from rmeinheld.channel import Channel

    room = Channel("room")

    def app(environ, start_response):
        websocket = environ.get("wsgi.websocket")
        if websocket is None:
            message = environ["wsgi.input"].read()
            match environ["PATH_INFO"]:
                case "/text":
                    message = message.decode()
                case "/json":
                    message = json.loads(message)
            number = room.publish(message)
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(number).encode()]
        assert room.attach(websocket) and room.attach(websocket, slow=environ["QUERY_STRING"] or "close")
        websocket.send("attached")
        for message in websocket:
            room.detach(websocket)
            room.detach(websocket)
            websocket.send("detached")
        assert not room.attach(websocket)
        try:
            room.attach(websocket, slow="wait")
        except ValueError as error:
            print(f"refused: {error}", flush=True)
        return []
    """


@pytest.fixture
def server(serve: Serve) -> Server:
    return serve(APPLICATION, websocket_close_timeout=1, websocket_max_queue_size=4096)


def published(server: Server, kind: str, message: bytes) -> int:
    number: int = json.loads(server.connect().request(request("POST", f"/{kind}", body=message)).body)
    return number


def attached(server: Server, query: str = "") -> Client:
    client = Client(server, f"/?{query}")
    assert client.text() == "attached"
    return client


def test_attached_websockets_get_text_bytes_and_json_until_they_are_detached_or_close(server: Server) -> None:
    assert published(server, "text", b"to none") == 0
    with ExitStack() as stack:
        clients = [stack.enter_context(attached(server)) for _ in range(5)]
        assert published(server, "text", "\u20ac".encode()) == 5
        assert published(server, "bytes", b"\0\xff") == 5
        assert published(server, "json", b'{"a": [1, null]}') == 5
        for client in clients:
            assert client.text() == "\u20ac"
            assert client.frame() == (FIN | BINARY, b"\0\xff")
            assert json.loads(client.text()) == {"a": [1, None]}
        clients[0].send(text("detach"))
        assert clients[0].text() == "detached"
        assert published(server, "text", b"on") == 4
        assert clients[1].text() == "on"
        clients[1].end()
        wait_until(lambda: published(server, "text", b"on") == 3, server.log)
        assert clients[2].text() == "on"
    wait_until(lambda: published(server, "text", b"to none") == 0, server.log)
    wait_until(lambda: "refused: slow is close or skip, not 'wait'" in server.log(), server.log)


def test_a_slow_attached_client_is_closed_or_left_out(server: Server) -> None:
    with attached(server) as closed, attached(server, "skip") as skipping, attached(server) as quick:
        numbers = []
        for _ in range(400):
            numbers.append(published(server, "text", b"x" * 500_000))
            assert quick.text() == "x" * 500_000
            if numbers[-1] == 1:
                break
        # Both accept nothing, until their kernel's buffers and their queues are full.
        assert numbers[0] == 3 and numbers[-1] == 1
        for _ in range(numbers.count(3)):
            assert skipping.text() == "x" * 500_000
        assert published(server, "text", b"on") == 2
        assert closed is not skipping
