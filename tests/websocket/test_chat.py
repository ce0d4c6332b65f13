"""The examples: the chat in one process and with Redis under Gunicorn, and the server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import pytest

from databases import Redis
from frames import Client, frame, text
from serving import TIMEOUT, Connection, Process, Serve, Server, environment_of_child, request

websockets = pytest.importorskip("websockets", reason="wheels of this library are missing for this Python")
from websockets.asyncio.client import ClientConnection, connect  # noqa: E402
from websockets.exceptions import ConnectionClosed  # noqa: E402

EXAMPLES = Path(__file__).parents[2] / "examples"

CLIENTS, ROOMS, MESSAGES = (int(number) for number in os.environ.get("CHAT_LOAD", "500 20 5").split())
"""The load of the test with four workers. CHAT_LOAD="50 5 3" makes it smaller."""


class Guest(Client):
    """A client in a room."""

    def __init__(self, server: Server, name: str, room: str = "lobby", receive_buffer: int | None = None) -> None:
        target = "/socket?" + urlencode({"room": room, "name": name})
        super().__init__(server, target, receive_buffer=receive_buffer)
        self.name = name

    def hear(self, kind: str | None = None) -> dict[str, Any]:
        """Return the next event, or the next one of a kind."""
        while True:
            event: dict[str, Any] = json.loads(self.text())
            if kind is None or event["kind"] == kind:
                return event

    def say(self, what: object) -> None:
        """Send a text."""
        self.send(text(json.dumps({"say": what})))

    def wait_until_taken(self) -> None:
        """Wait until the server has taken all earlier messages: an invalid one is answered after them."""
        self.send(text("no message"))
        self.hear("error")


@pytest.fixture
def chat(serve: Serve) -> Server:
    """The chat in one process."""
    return serve("app:app", chdir=str(EXAMPLES / "chat"))


def test_a_message_reaches_every_member_of_its_room(chat: Server) -> None:
    with Guest(chat, "Ann") as ann, Guest(chat, "Bob") as bob, Guest(chat, "Eve", "elsewhere") as eve:
        welcome = ann.hear()
        assert welcome["members"] == ["Ann"]
        begun = welcome["number"]
        assert ann.hear("members")["members"] == ["Ann"]
        assert ann.hear("members")["members"] == ["Ann", "Bob"]
        assert bob.hear()["members"] == ["Ann", "Bob"]
        ann.say("hello")
        bob.say("<b>hi</b>")
        for guest in (ann, bob):
            heard = [guest.hear("message") for _ in range(2)]
            assert [event["number"] for event in heard] == [begun + 1, begun + 2]
            assert sorted((event["name"], event["text"]) for event in heard) == [("Ann", "hello"), ("Bob", "<b>hi</b>")]
            assert abs(heard[0]["at"] - time.time()) < 60
        eve.say("alone")
        assert eve.hear("message")["text"] == "alone"
        ann.end_in_order()
        assert bob.hear("members")["members"] == ["Bob"]


def test_a_client_that_joins_later_gets_the_history(chat: Server) -> None:
    with Guest(chat, "Ann") as ann:
        for number in range(60):
            ann.say(str(number))
        while ann.hear("message")["text"] != "59":
            pass
        with Guest(chat, "Bob") as bob:
            welcome = bob.hear("welcome")
            assert [event["text"] for event in welcome["history"]] == [str(number) for number in range(10, 60)]
            numbers = [event["number"] for event in welcome["history"]]
            assert numbers == list(range(welcome["number"] - 49, welcome["number"] + 1))


def test_a_long_history_makes_no_client_too_slow(chat: Server) -> None:
    with Guest(chat, "Ann") as ann:
        for letter in "xyz":
            for _ in range(15):
                ann.say(letter * 1000 + "\u2603" * 1000)
        ann.wait_until_taken()
        with Guest(chat, "Bob", receive_buffer=4096) as bob:
            payload = bob.frame().payload
            # Less than SLOW_BYTES, at which the chat closes a client.
            assert len(payload) < 40 * 1024
            history = json.loads(payload)["history"]
            assert len(history) == 7
            assert {event["text"] for event in history} == {"z" * 1000 + "\u2603" * 1000}
            ann.say("go on")
            assert bob.hear("message")["number"] == history[-1]["number"] + 1


def test_only_the_latest_empty_rooms_are_remembered(chat: Server) -> None:
    def histories(rooms: range) -> list[list[str]]:
        found = []
        for number in rooms:
            with Guest(chat, "Ann", f"room {number}") as ann:
                found.append([event["text"] for event in ann.hear("welcome")["history"]])
                ann.end_in_order()
        return found

    with Guest(chat, "Bob", "room 0") as bob:
        bob.say("here I stay")
        bob.wait_until_taken()
        for number in range(1, 120):
            with Guest(chat, "Ann", f"room {number}") as ann:
                ann.say("hello")
                ann.wait_until_taken()
                ann.end_in_order()
        assert histories(range(2)) == [["here I stay"], []]
        assert histories(range(110, 120)) == [["hello"]] * 10


def test_a_name_is_taken_once_and_free_after_its_client_left(chat: Server) -> None:
    with Guest(chat, "Ann") as ann:
        ann.hear("welcome")
        with Guest(chat, "Ann") as other:
            other.expect_close_from_server(4001, "this name is taken")
        ann.end_in_order()
    with Guest(chat, "Ann") as again:
        assert again.hear("welcome")["members"] == ["Ann"]


@pytest.mark.parametrize(("name", "room"), [(" ", "lobby"), ("x" * 31, "lobby"), ("Ann", "<room>"), ("a\nb", "lobby")])
def test_names_that_are_not_allowed_are_refused(chat: Server, name: str, room: str) -> None:
    with Guest(chat, name, room) as guest:
        guest.expect_close_from_server(4000)


def test_an_invalid_message_is_answered_with_the_reason(chat: Server) -> None:
    with Guest(chat, "Ann") as ann:
        for sent, problem in [
            (text("no JSON"), 'send {"say": "some text"}'),
            (text("[]"), 'send {"say": "some text"}'),
            (frame(0x82, b"\xff"), 'send {"say": "some text"}'),
            (text('{"say": 1}'), "there is nothing in it"),
            (text('{"say": " "}'), "there is nothing in it"),
            (text(json.dumps({"say": "x" * 2001})), "it has over 2000 characters"),
            (text("[" * 100_000), 'send {"say": "some text"}'),
        ]:
            ann.send(sent)
            assert ann.hear("error")["text"] == problem
        # Half of a surrogate pair is valid JSON, but cannot be UTF-8.
        ann.send(text(r'{"say": "still \ud83d here"}'))
        assert ann.hear("message")["text"] == "still ? here"


def test_a_slow_client_is_closed_and_holds_up_no_other(chat: Server) -> None:
    with Guest(chat, "Ann") as ann, Guest(chat, "Slow", receive_buffer=4096) as slow:
        while ann.hear("members")["members"] != ["Ann", "Slow"]:
            pass
        begun = slow.hear("welcome")["number"]
        count = 0
        # The kernel takes some megabytes for a client that does not read.
        while True:
            ann.say("x" * 2000)
            count += 1
            event = ann.hear()
            while event["kind"] != "message" and event.get("members") != ["Ann"]:
                event = ann.hear()
            if event.get("members") == ["Ann"]:
                break
            assert count < 20_000
        numbers = []
        while (received := slow.frame()).first == 0x81:
            numbers.append(json.loads(received.payload).get("number"))
        assert received.payload == b"\x03\xf5too slow"
        # No earlier message is missing.
        numbers = [number for number in numbers if number]
        assert numbers == list(range(begun + 1, begun + 1 + len(numbers)))


def test_a_flood_in_one_room_holds_up_no_other_and_loses_nothing(chat: Server) -> None:
    with Guest(chat, "Flood") as flood, Guest(chat, "Ann") as ann, Guest(chat, "Bob", "elsewhere") as bob:
        is_over = threading.Event()

        def send() -> None:
            with contextlib.suppress(OSError):
                while not is_over.is_set():
                    flood.send(text('{"say": "x"}') * 1000)

        def take() -> None:
            with contextlib.suppress(OSError):
                while flood.connection.socket.recv(1 << 20):
                    pass

        threads = [threading.Thread(target=work) for work in (send, take)]
        for thread in threads:
            thread.start()
        times = []
        for number in range(20):
            for guest in (ann, bob):
                started = time.monotonic()
                guest.say(f"number {number};")
                # The answer comes behind everything that the other client says meanwhile.
                guest.connection.read_until(b"number %d;" % number, limit=1 << 26)
                times.append(time.monotonic() - started)
        is_over.set()
        flood.connection.socket.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        # Without fairness each round trip took two seconds or more.
        assert sorted(times)[len(times) // 2] < 0.5, times


def test_the_page_is_served_and_other_paths_are_not(chat: Server) -> None:
    with chat.connect() as connection:
        assert b"<title>Chat</title>" in connection.request(request()).body
        assert connection.request(request("GET", "/socket")).status == 426
        assert connection.request(request("GET", "/nothing")).status == 404


def test_all_examples_are_served_together(serve: Serve) -> None:
    server = serve("app:app", chdir=str(EXAMPLES))
    with server.connect() as connection:
        assert b'href="/chat/"' in connection.request(request()).body
        moved = connection.request(request("GET", "/chat"))
        assert (moved.status, moved.header("Location")) == (308, "/chat/")
        assert b"<title>Chat</title>" in connection.request(request("GET", "/chat/")).body
        assert b"<title>Server-sent events</title>" in connection.request(request("GET", "/events/")).body
        assert connection.request(request("GET", "/hello")).status == 200
    with Client(server, "/chat/socket?name=Ann") as ann:
        assert json.loads(ann.text())["members"] == ["Ann"]


# --- server-sent events ----------------------------------------------------------------------------------------------


def read_event(connection: Connection) -> tuple[int, dict[str, Any]]:
    """Return the next event of a feed, which comes in chunks."""
    found = re.search(rb"id: (\d+)\ndata: (.*)", connection.read_until(b"}\n\n") + b"}")
    assert found
    return int(found[1]), json.loads(found[2])


def test_events_resume_after_the_last_one_that_the_client_received(serve: Serve) -> None:
    server = serve("app:app", chdir=str(EXAMPLES / "events"))
    with server.connect() as connection:
        connection.send(request("GET", "/feed"))
        response, _ = connection.read_head()
        assert response.header("Content-Type") == "text/event-stream"
        first, event = read_event(connection)
        assert (event["number"], event["readers"]) == (first, 1)
        assert read_event(connection)[0] == first + 1
    with server.connect() as connection:
        connection.send(request("GET", "/feed", f"Last-Event-ID: {first - 1}"))
        connection.read_head()
        assert [read_event(connection)[0] for _ in range(2)] == [first, first + 1]
        # The reader that has gone no longer counts.
        deadline = time.monotonic() + TIMEOUT
        while read_event(connection)[1]["readers"] != 1:
            assert time.monotonic() < deadline


@pytest.mark.parametrize("last", ["x", "9" * 5000, "\xb2"])
def test_an_invalid_event_number_starts_the_feed_anew(serve: Serve, last: str) -> None:
    server = serve("app:app", chdir=str(EXAMPLES / "events"))
    with server.connect() as connection:
        connection.send(request("GET", "/feed", f"Last-Event-ID: {last}"))
        response, _ = connection.read_head()
        assert response.status == 200
        assert read_event(connection)[0] == 1


# --- Redis, and several processes ------------------------------------------------------------------------------------


class Workers(Process):
    """Gunicorn with four workers that share their rooms."""

    def __init__(self, directory: Path, redis: Redis) -> None:
        options = ["--bind", "127.0.0.1:0", "--workers", "4", "--graceful-timeout", "8", "--worker-connections", "5000"]
        command = [sys.executable, "-m", "gunicorn", "--worker-class", "rmeinheld.gunicorn_worker.Worker", *options]
        command += ["--chdir", str(EXAMPLES / "chat"), "--env", f"REDIS_URL=redis://127.0.0.1:{redis.port}"]
        command += ["--env", "CHAT_LEASE_SECONDS=3", "app:app"]
        super().__init__(command, directory, environment_of_child(directory))
        self.port = int(self.wait_for_log(r"Listening at: http://127\.0\.0\.1:(\d+)")[1])
        self._known: dict[int, int] = {}

        # A worker that serves has a second thread, that of the loop.
        deadline = time.monotonic() + TIMEOUT
        while sum(len(os.listdir(f"/proc/{child}/task")) > 1 for child in self.children()) < 4:
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def children(self) -> list[str]:
        """Return the pids of the workers."""
        return Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()

    def worker_of(self, port: int) -> int:
        """Return the worker that has the other end of the connection from this port."""
        if port not in self._known:
            self._known = dict(self._connections())
        return self._known[port]

    def _connections(self) -> Iterator[tuple[int, int]]:
        """Find the ports of the clients, each with its worker, in one look: the kernel lists all sockets."""
        workers = {}
        for child in self.children():
            for descriptor in Path(f"/proc/{child}/fd").iterdir():
                with contextlib.suppress(OSError):
                    workers[os.readlink(descriptor)] = int(child)
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            worker = workers.get(f"socket:[{fields[9]}]")
            if worker is not None and int(fields[1].split(":")[1], 16) == self.port:
                yield int(fields[2].split(":")[1], 16), worker


class Talker:
    """A client that keeps all events."""

    def __init__(self, workers: Workers, name: str, room: str) -> None:
        self.name, self.room = name, room
        self.address = f"ws://127.0.0.1:{workers.port}/socket?" + urlencode({"room": room, "name": name})
        self.heard: list[dict[str, Any]] = []
        self.changed = asyncio.Event()
        self.is_lost = False
        self.connection: ClientConnection
        self.listener: asyncio.Task[None]

    async def come(self) -> Self:
        """Join, and listen."""
        self.connection = await connect(self.address, compression=None, open_timeout=30)
        self.heard.append(json.loads(await self.connection.recv()))
        assert self.heard[0]["kind"] == "welcome"
        self.listener = asyncio.create_task(self.listen())
        return self

    async def listen(self) -> None:
        try:
            with contextlib.suppress(ConnectionClosed):
                async for message in self.connection:
                    self.heard.append(json.loads(message))
                    self.changed.set()
        finally:
            self.is_lost = True
            self.changed.set()

    async def say(self, text: str) -> None:
        await self.connection.send(json.dumps({"say": text}))

    async def until(self, condition: Any, seconds: float = 30) -> None:
        """Wait until the events meet a condition."""
        async with asyncio.timeout(seconds):
            while not condition(self):
                self.changed.clear()
                await self.changed.wait()

    def texts(self) -> list[tuple[str, str]]:
        """Return the sender and text of each message."""
        return [(event["name"], event["text"]) for event in self.heard if event["kind"] == "message"]

    @property
    def port(self) -> int:
        return int(self.connection.local_address[1])


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """A Redis without persistence."""
    redis = Redis(tmp_path)
    redis.start()
    yield redis
    redis.kill()


class Line:
    """A relay between the chat and Redis that can delay or cut connections, as a network does."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.subscriptions: list[socket.socket] = []
        self.passes = threading.Event()
        self.passes.set()
        """While it is clear, data from Redis to subscriptions waits."""
        self.refused = b""
        """A connection that sends these bytes is closed."""
        self.awaited = b""
        """The first connection that sends these bytes sets `waits`, and waits for `goes_on`."""
        self.waits, self.goes_on = threading.Event(), threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.spawn(self.accept)

    def spawn(self, function: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=function, args=arguments, daemon=True).start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                chat, _ = self.listener.accept()
                redis = socket.create_connection(("127.0.0.1", self.redis.port))
                self.spawn(self.pass_on, chat, redis)
                self.spawn(self.pass_back, redis, chat)

    def pass_on(self, chat: socket.socket, redis: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := chat.recv(65536):
                if self.refused and self.refused in data:
                    break
                if self.awaited and self.awaited in data:
                    self.awaited = b""
                    self.waits.set()
                    self.goes_on.wait(TIMEOUT)
                if b"PSUBSCRIBE" in data:
                    self.subscriptions.append(chat)
                redis.sendall(data)
        self.cut(chat, redis)

    def pass_back(self, redis: socket.socket, chat: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := redis.recv(65536):
                if chat in self.subscriptions:
                    self.passes.wait(TIMEOUT)
                chat.sendall(data)
        self.cut(chat, redis)

    def cut(self, *sockets: socket.socket) -> None:
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def lose_subscriptions(self) -> None:
        """Cut all subscriptions, and refuse new ones until `refused` is empty again."""
        self.refused = b"PSUBSCRIBE"
        self.cut(*self.subscriptions)

    def ask(self, command: str) -> bytes:
        """Return the answer of Redis to a command."""
        with socket.create_connection(("127.0.0.1", self.redis.port), TIMEOUT) as connection:
            connection.sendall(command.encode() + b"\r\n")
            return connection.recv(65536)


@pytest.fixture
def line(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """A line through which servers that are started later reach Redis."""
    line = Line(redis)
    monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{line.port}")
    yield line
    line.cut(line.listener)
    line.listener.close()


def test_a_join_during_a_delivery_loses_no_message(line: Line, chat: Server) -> None:
    with Guest(chat, "Ann") as ann:
        ann.say("one")
        assert ann.hear("message")["text"] == "one"
        line.passes.clear()
        ann.say("two")
        ann.wait_until_taken()
        with Guest(chat, "Bob") as bob:
            assert [event["text"] for event in bob.hear("welcome")["history"]] == ["one", "two"]
            line.passes.set()
            ann.say("three")
            assert [ann.hear("message")["text"] for _ in range(2)] == ["two", "three"]
            assert bob.hear("message")["text"] == "three"


def test_a_join_while_redis_is_silent_loses_no_message_of_others(line: Line, chat: Server) -> None:
    with Guest(chat, "Ann") as ann:
        ann.hear("welcome")
        line.lose_subscriptions()
        for word in ("one", "two"):
            ann.say(word)
        ann.wait_until_taken()
        with Guest(chat, "Bob") as bob:
            assert [event["text"] for event in bob.hear("welcome")["history"]] == ["one", "two"]
            line.refused = b""
            assert [ann.hear("message")["text"] for _ in range(2)] == ["one", "two"]
            ann.say("three")
            assert ann.hear("message")["text"] == bob.hear("message")["text"] == "three"


def test_a_client_that_cannot_be_announced_does_not_join(line: Line, chat: Server) -> None:
    with Guest(chat, "Bob") as bob:
        bob.hear("members")
        line.refused = b"chat:room:lobby"
        with Guest(chat, "Eve") as eve:
            eve.hear("welcome")
            eve.expect_close_from_server(1013, "try again later")
        line.refused = b""
        with Guest(chat, "Eve") as eve:
            assert eve.hear()["members"] == ["Bob", "Eve"]


def test_no_older_list_of_members_follows_a_newer_one(line: Line, chat: Server) -> None:
    with Guest(chat, "Ann") as ann:
        ann.hear("members")
        line.awaited = b"chat:room:lobby"
        with Guest(chat, "Bob"):
            assert line.waits.wait(TIMEOUT)
            with Guest(chat, "Eve"):
                assert ann.hear()["members"] == ["Ann", "Bob", "Eve"]
                line.goes_on.set()
                assert ann.hear()["members"] == ["Ann", "Bob", "Eve"]


def test_a_client_joins_only_once_messages_can_be_heard(line: Line, chat: Server) -> None:
    line.awaited = b"PSUBSCRIBE"
    with Guest(chat, "Ann") as ann:
        assert line.waits.wait(TIMEOUT)
        assert not ann.connection.has_input(0.5)
        line.goes_on.set()
        ann.say("one")
        assert ann.hear("message")["text"] == "one"


def test_after_a_gap_the_messages_that_redis_keeps_are_delivered(line: Line, chat: Server) -> None:
    with Guest(chat, "Ann") as ann:
        ann.hear("welcome")
        line.lose_subscriptions()
        for number in range(60):
            ann.say(str(number))
        ann.wait_until_taken()
        line.refused = b""
        gap = ann.hear("gap")
        heard = [ann.hear() for _ in range(50)]
        assert [event["text"] for event in heard] == [str(number) for number in range(10, 60)]
        assert heard[-1]["number"] == gap["number"]


def test_a_message_during_the_reading_of_the_history_makes_no_gap(line: Line, chat: Server) -> None:
    with Guest(chat, "Ann") as ann:
        ann.hear("members")
        line.lose_subscriptions()
        ann.say("one")
        ann.wait_until_taken()
        line.awaited = b"\r\nGET\r\n"
        line.refused = b""
        assert line.waits.wait(TIMEOUT)
        ann.say("two")
        ann.wait_until_taken()
        line.goes_on.set()
        ann.say("three")
        heard = [event for event in (ann.hear() for _ in range(4)) if event["kind"] != "members"]
        assert [event.get("text") for event in heard] == ["one", "two", "three"]


def test_names_stay_taken_and_messages_pass_when_redis_has_lost_its_data(line: Line, chat: Server) -> None:
    with Guest(chat, "Ann") as ann:
        for word in ("one", "two", "three"):
            ann.say(word)
        numbers = [ann.hear("message")["number"] for _ in range(3)]
        assert line.ask("FLUSHALL") == b"+OK\r\n"
        with Guest(chat, "Ann") as other:
            other.expect_close_from_server(4001, "this name is taken")
        ann.say("four")
        event = ann.hear("message")
        assert event["text"] == "four"
        # By this number the client knows that there was a gap.
        assert event["number"] > numbers[-1] + 1


def test_members_of_a_suspended_process_return_with_it(
    line: Line, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAT_LEASE_SECONDS", "1")
    first, second = (serve("app:app", chdir=str(EXAMPLES / "chat")) for _ in range(2))
    with Guest(first, "Ann") as ann, Guest(second, "Bob") as bob:
        ann.hear("welcome")

        def wait_for(members: list[str]) -> None:
            while bob.hear("members")["members"] != members:
                pass

        wait_for(["Ann", "Bob"])
        os.kill(first.pid, signal.SIGSTOP)
        try:
            wait_for(["Bob"])
        finally:
            os.kill(first.pid, signal.SIGCONT)
        wait_for(["Ann", "Bob"])


def test_a_member_who_leaves_during_the_renewal_of_leases_does_not_come_back(
    line: Line, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAT_LEASE_SECONDS", "6")
    chat = serve("app:app", chdir=str(EXAMPLES / "chat"))
    with Guest(chat, "Bob") as bob, Guest(chat, "Ann") as ann:
        bob.hear("welcome")
        lease = line.ask("ZSCORE chat:members:lobby Bob")
        line.awaited = b"\r\nZADD\r\n"
        assert line.waits.wait(TIMEOUT)
        ann.end_in_order()
        while bob.hear("members")["members"] != ["Bob"]:
            pass
        line.goes_on.set()
        deadline = time.monotonic() + 3
        while line.ask("ZSCORE chat:members:lobby Bob") == lease:
            assert time.monotonic() < deadline
        # The lease that Ann was given would end much later.
        while line.ask("ZSCORE chat:members:lobby Ann") != b"$-1\r\n":
            assert time.monotonic() < deadline


def test_redis_forgets_an_empty_room_after_its_time(line: Line, chat: Server) -> None:
    with Guest(chat, "Ann") as ann:
        ann.say("hello")
        ann.wait_until_taken()
        for kind in ("members", "number", "history"):
            assert 0 < int(line.ask(f"TTL chat:{kind}:lobby")[1:]) <= 24 * 60 * 60, kind


async def say_in_turns(talkers: list[Talker], word: str) -> None:
    """Send from all members at once. Each receives every message of its room once, in the order of its sender."""
    before = {talker: len(talker.texts()) for talker in talkers}

    async def say(talker: Talker) -> None:
        for number in range(MESSAGES):
            await talker.say(f"{word} {number}")

    await asyncio.gather(*map(say, talkers))
    for talker in talkers:
        names = {other.name for other in talkers if other.room == talker.room}
        wanted = before[talker] + MESSAGES * len(names)
        await talker.until(lambda talker, wanted=wanted: len(talker.texts()) >= wanted)
        heard = talker.texts()[before[talker] :]
        for name in names:
            said = [text for who, text in heard if who == name]
            assert said == [f"{word} {number}" for number in range(MESSAGES)], (talker.name, name)
        assert len(heard) == MESSAGES * len(names)


def test_four_workers_share_rooms_through_redis(tmp_path: Path, redis: Redis) -> None:
    workers = Workers(tmp_path, redis)

    async def talk() -> None:
        talkers = [Talker(workers, f"n{number}", f"r{number % ROOMS}") for number in range(CLIENTS)]
        await asyncio.gather(*(talker.come() for talker in talkers))
        assert len({workers.worker_of(talker.port) for talker in talkers}) > 1
        await say_in_turns(talkers, "first")
        numbers = [event["number"] for event in talkers[0].heard if event["kind"] == "message"]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))

        # Redis loses its data. All clients stay connected, are notified of a gap, and go on.
        redis.restart()
        for talker in talkers:
            await talker.until(lambda talker: any(event["kind"] == "gap" for event in talker.heard))
        await say_in_turns(talkers, "after the restart")
        assert not any(talker.is_lost for talker in talkers)

        # A worker is killed. Clients of other workers lose nothing, and are notified of the members that are gone.
        victim = workers.worker_of(talkers[0].port)
        theirs = [talker for talker in talkers if workers.worker_of(talker.port) == victim]
        others = [talker for talker in talkers if talker not in theirs]
        assert others
        os.kill(victim, signal.SIGKILL)
        for talker in theirs:
            await talker.until(lambda talker: talker.is_lost)
        await say_in_turns(others, "among the others")
        gone = {talker.name for talker in theirs}
        for talker in others:
            expected = sorted(other.name for other in others if other.room == talker.room)
            if gone & {other.name for other in talkers if other.room == talker.room}:
                await talker.until(lambda talker, expected=expected: [*members(talker)][-1] == expected)
        assert not any(talker.is_lost for talker in others)
        # Their names are free again.
        again = await Talker(workers, theirs[0].name, theirs[0].room).come()
        assert theirs[0].name in [*members(again)][-1]
        for talker in (*others, again):
            await talker.connection.close()

    try:
        asyncio.run(talk())
        workers.signal(15)
        assert workers.wait() == 0, workers.log()
        assert "Traceback" not in workers.log(), workers.log()
    finally:
        workers.kill()
        print(workers.log())


def members(talker: Talker) -> Iterator[list[str]]:
    """Return every list of members that was sent."""
    for event in talker.heard:
        if event["kind"] in ("welcome", "members"):
            yield event["members"]
