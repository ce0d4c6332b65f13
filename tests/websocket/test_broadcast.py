"""One message to many WebSockets: `rmeinheld.websocket.broadcast` and `Members`."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from typing import Any

import pytest

from frames import BINARY, FIN, HANDSHAKE, TEXT, Client, text
from rmeinheld.websocket import Members, broadcast
from serving import TIMEOUT, Serve, Server, request, takes

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


def test_a_member_that_closes_leaves_by_itself(server: Server) -> None:
    with joined(server) as stays, joined(server) as closes, joined(server) as vanishes, joined(server) as returns:
        assert state(server)["members"] == 4
        closes.end()
        vanishes.connection.abort()
        returns.send(text("return"))
        returns.expect_close_after_answer()
        deadline = time.monotonic() + TIMEOUT
        while state(server)["members"] > 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert state(server) | {"group": 0} == {"members": 1, "listed": 1, "group": 0, "slow_seen": 0, "buffered": 0}
        assert said(server, "members", b"still here") == [[], 0]
        assert stays.text() == "still here"
        stays.send(text("leave"))
        assert stays.text() == "left"
        assert state(server)["members"] == 0
        assert said(server, "members", b"nobody") == [[], 0]
        stays.end()


def test_a_closed_member_of_a_set_is_skipped_and_a_closed_one_is_not_added(server: Server) -> None:
    with joined(server) as stays, joined(server, "/forgets") as forgotten, joined(server, "/late") as late:
        forgotten.end()
        late.end()
        deadline = time.monotonic() + TIMEOUT
        while (answer := said(server, "group", b"hello")) != [["1000"], 1] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert answer == [["1000"], 1]
        assert stays.text() == "hello"


def test_a_websocket_that_is_not_accepted_is_skipped_and_stays_so(server: Server) -> None:
    with server.connect() as waiting:
        waiting.send(request("GET", "/unaccepted?1", *HANDSHAKE))
        server.wait_for_log("waits")
        assert said(server, "group", b"hello") == [["None"], 1]
        with joined(server, "/release") as other:
            response = waiting.read_response()
            assert (response.status, response.body) == (403, b"no\n")
            other.end()


@pytest.mark.parametrize("slow", ["skip", "callable", "close"])
def test_a_slow_member_is_treated_as_asked_and_holds_up_no_other(server: Server, slow: str) -> None:
    message = b"x" * 65536
    with joined(server, receive_buffer=4096) as lazy, joined(server) as quick:
        sent = 0
        with takes(0, TIMEOUT):
            while (answer := said(server, f"members/slow={slow}", message))[1] == 0:
                assert quick.frame().payload == message
                sent += 1
                assert sent < 1000, "the queue of a client that reads nothing must fill"
        assert quick.frame().payload == message
        assert answer == [["1013" if slow == "close" else "None"], 1]
        after = state(server)
        assert after["slow_seen"] == (slow == "callable")
        assert after["members"] == (1 if slow == "close" else 2)
        assert after["buffered"] >= (0 if slow == "close" else 4096)
        for _ in range(sent):
            assert lazy.frame() == (FIN | TEXT, message)
        if slow == "close":
            lazy.expect_close_from_server(1013, "too slow")
        else:
            assert said(server, f"members/slow={slow}", b"again") == [[], 0]
            assert lazy.text() == quick.text() == "again"


def test_a_thread_broadcasts(server: Server) -> None:
    with joined(server) as one, joined(server) as other:
        assert json.loads(server.get("/thread").body) == [0]
        assert one.text() == other.text() == "from a thread"


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("members.broadcast('x', 'drop')", "ValueError: slow must be"),
        ("broadcast([], 'x', slow=5)", "ValueError: slow must be"),
        ("broadcast([], 5)", "TypeError: a message must be a str or bytes, not int"),
        ("broadcast([5], 'x')", "TypeError: websockets must be rmeinheld.websocket.WebSocket objects, not int"),
        ("broadcast(5, 'x')", "TypeError"),
        ("Members([5])", "TypeError"),
        ("Members().add(5)", "TypeError"),
    ],
)
def test_wrong_arguments_are_named(call: str, error: str) -> None:
    with pytest.raises((ValueError, TypeError)) as raised:
        eval(call, {"Members": Members, "broadcast": broadcast, "members": Members()})
    assert f"{raised.type.__name__}: {raised.value}".startswith(error)


def test_an_empty_set_is_a_set() -> None:
    members = Members()
    assert (len(members), list(members), 5 in members) == (0, [], False)
    assert members.broadcast("x") == broadcast(members, b"x") == broadcast(frozenset(), "x") == []


ORDER = """
    from rmeinheld.coroutine import spawn
    from rmeinheld.websocket import Members

    members = Members()

    def say(word):
        for number in range(20):
            members.broadcast(f"{word} {number}")

    def app(environ, start_response):
        websocket = environ["wsgi.websocket"]
        members.add(websocket)
        websocket.send("joined")
        if environ["PATH_INFO"] == "/last":
            speakers = [spawn(say, word) for word in "ab"]
            for speaker in speakers:
                speaker.join()
        websocket.receive()
        return []
    """


def test_a_broadcast_that_outlasts_its_turn_lets_others_run_and_keeps_one_order(serve: Serve) -> None:
    server = serve(ORDER, turn_budget=0.0001)
    with ExitStack() as stack:
        clients = [stack.enter_context(joined(server)) for _ in range(60)]
        clients.append(stack.enter_context(joined(server, "/last")))
        orders = {tuple(client.text() for _ in range(40)) for client in clients}
        assert len(orders) == 1, "each client gets the messages in the same order"
        (order,) = orders
        for word in "ab":
            assert [one for one in order if one[0] == word] == [f"{word} {number}" for number in range(20)]
        assert order != tuple(sorted(order)), "neither of the two waits for the other's end"
