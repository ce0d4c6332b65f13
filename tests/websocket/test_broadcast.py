"""One message to many WebSockets: `rmeinheld.websocket.broadcast` and `Members`."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack
from typing import Any

import pytest

from frames import BINARY, FIN, TEXT, Client, close
from serving import Serve, Server, request

APPLICATION = """
    import json
    import threading

    from rmeinheld import run
    from rmeinheld.coroutine import Event, sleep, spawn
    from rmeinheld.websocket import Members, WebSocket, broadcast

    waiting = {}  # not accepted yet
    group = set()
    members = Members()
    slow_seen = []

    def say(order, message):
        kind, *options = order.split("/")
        to = members if kind == "members" else group
        options = dict(option.split("=") for option in options)
        if options.get("slow") == "callable":
            options["slow"] = slow_seen.append
        if to is members:
            return members.broadcast(message, **options)
        return broadcast(to, message, **options)

    def app(environ, start_response):
        path, websocket = environ["PATH_INFO"].strip("/"), environ.get("wsgi.websocket")
        if websocket is None:
            body = environ["wsgi.input"].read()
            if path == "state":
                answer = {"members": len(members), "listed": len(list(members)), "group": len(group),
                          "slow_seen": len(slow_seen), "buffered": sum(one.buffered for one in members)}
            elif path == "thread":
                results = []
                thread = threading.Thread(target=lambda: results.append(members.broadcast("from a thread")))
                thread.start()
                while thread.is_alive():
                    sleep(0.001)
                answer = [len(result) for result in results]
            else:
                message = body if environ.get("HTTP_X_KIND") == "binary" else body.decode()
                try:
                    skipped = say(path, message)
                    answer = [sorted(str(one.close_code) for one in skipped), len(skipped)]
                except (TypeError, ValueError) as error:
                    answer = f"{type(error).__name__}: {error}"
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(answer).encode()]
        if path == "unaccepted":
            group.add(websocket)
            ready = waiting[environ["QUERY_STRING"]] = Event()
            print("waits", flush=True)
            ready.wait()
            group.discard(websocket)
            start_response("403 Forbidden", [("Content-Type", "text/plain")])
            return [b"no\\n"]
        if path == "release":
            waiting.popitem()[1].set()
        group.add(websocket)
        assert members.add(websocket) and members.add(websocket) and websocket in members
        websocket.send("joined")
        try:
            for message in websocket:
                if message == "leave":
                    members.remove(websocket)
                    members.discard(websocket)
                    assert websocket not in members
                    websocket.send("left")
                if message == "return":
                    return []
        finally:
            if path != "forgets":
                group.discard(websocket)
            if path == "late":
                assert not members.add(websocket)
        return []
    """


@pytest.fixture
def server(serve: Serve) -> Server:
    return serve(APPLICATION, websocket_close_timeout=1, websocket_max_queue_size=4096)


def joined(server: Server, path: str = "/", **options: Any) -> Client:
    client = Client(server, path, **options)
    assert client.text() == "joined"
    return client


def said(server: Server, order: str, message: bytes, *headers: str) -> Any:
    return json.loads(server.connect().request(request("POST", f"/{order}", *headers, body=message)).body)


def state(server: Server) -> dict[str, int]:
    answer: dict[str, int] = json.loads(server.get("/state").body)
    return answer


@pytest.mark.parametrize("to", ["members", "group"])
def test_every_member_gets_the_message_once(server: Server, to: str) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(joined(server)) for _ in range(20)]
        for number in range(10):
            assert said(server, to, f"message {number}".encode()) == [[], 0]
        assert said(server, to, b"\0binary\xff" * 10_000, "X-Kind: binary") == [[], 0]
        for client in clients:
            assert [client.text() for _ in range(10)] == [f"message {number}" for number in range(10)]
            assert client.frame() == (FIN | BINARY, b"\0binary\xff" * 10_000)
            client.end()
