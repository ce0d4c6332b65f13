"""The chat among the examples: in one process, and with Redis under Gunicorn. And the server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
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

EXAMPLES = Path(__file__).parents[1] / "examples"

CLIENTS, ROOMS, MESSAGES = (int(number) for number in os.environ.get("CHAT_LOAD", "500 20 5").split())
"""Of the test with Redis; CHAT_LOAD="50 5 3" is a smaller one."""


class Guest(Client):
    """Somebody in a room."""

    def __init__(self, server: Server, name: str, room: str = "lobby", receive_buffer: int | None = None) -> None:
        target = "/socket?" + urlencode({"room": room, "name": name})
        super().__init__(server, target, receive_buffer=receive_buffer)
        self.name = name

    def hear(self, kind: str | None = None) -> dict[str, Any]:
        """The next event, or the next of its kind."""
        while True:
            event: dict[str, Any] = json.loads(self.text())
            if kind is None or event["kind"] == kind:
                return event

    def say(self, what: object) -> None:
        """Send a text."""
        self.send(text(json.dumps({"say": what})))


@pytest.fixture
def chat(serve: Serve) -> Server:
    """The chat in one process."""
    return serve("app:app", chdir=str(EXAMPLES / "chat"))


def test_what_one_says_all_in_the_room_hear(chat: Server) -> None:
    with Guest(chat, "Ann") as ann, Guest(chat, "Bob") as bob, Guest(chat, "Eve", "elsewhere") as eve:
        assert ann.hear()["members"] == ["Ann"]
        assert ann.hear("members")["members"] == ["Ann"]
        assert ann.hear("members")["members"] == ["Ann", "Bob"]
        assert bob.hear()["members"] == ["Ann", "Bob"]
        ann.say("hello")
        bob.say("<b>hi</b>")
        for guest in (ann, bob):
            heard = [guest.hear("message") for _ in range(2)]
            assert [(event["number"], event["name"], event["text"]) for event in heard] in (
                [(1, "Ann", "hello"), (2, "Bob", "<b>hi</b>")],
                [(1, "Bob", "<b>hi</b>"), (2, "Ann", "hello")],
            )
            assert abs(heard[0]["at"] - time.time()) < 60
        eve.say("alone")
        assert eve.hear("message")["text"] == "alone"
        ann.end_in_order()
        assert bob.hear("members")["members"] == ["Bob"]


def test_who_comes_later_gets_the_history(chat: Server) -> None:
    with Guest(chat, "Ann") as ann:
        for number in range(60):
            ann.say(str(number))
        while ann.hear("message")["text"] != "59":
            pass
        with Guest(chat, "Bob") as bob:
            history = bob.hear("welcome")["history"]
            assert [event["text"] for event in history] == [str(number) for number in range(10, 60)]
            assert [event["number"] for event in history] == list(range(11, 61))


def test_names_are_taken_once_and_free_again(chat: Server) -> None:
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


def test_what_is_no_message_is_answered_with_the_reason(chat: Server) -> None:
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
        # Half of a surrogate pair: JSON that no text in UTF-8 can be.
        ann.send(text(r'{"say": "still \ud83d here"}'))
        assert ann.hear("message")["text"] == "still ? here"


def test_one_who_is_too_slow_is_put_out_and_holds_up_nobody(chat: Server) -> None:
    with Guest(chat, "Ann") as ann, Guest(chat, "Slow", receive_buffer=4096) as slow:
        while ann.hear("members")["members"] != ["Ann", "Slow"]:
            pass
        slow.hear("welcome")
        count = 0
        # The kernel takes some megabytes for one who does not read.
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
        # Nothing is missing before that.
        numbers = [number for number in numbers if number]
        assert numbers == list(range(1, len(numbers) + 1))


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
    """The next event of a feed, which comes in chunks."""
    found = re.search(rb"id: (\d+)\ndata: (.*)", connection.read_until(b"}\n\n") + b"}")
    assert found
    return int(found[1]), json.loads(found[2])


def test_events_go_on_where_the_client_was(serve: Serve) -> None:
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
        # The one that has gone is not counted any more.
        deadline = time.monotonic() + TIMEOUT
        while read_event(connection)[1]["readers"] != 1:
            assert time.monotonic() < deadline


@pytest.mark.parametrize("last", ["x", "9" * 5000, "\xb2"])
def test_what_is_no_number_of_an_event_begins_the_feed_anew(serve: Serve, last: str) -> None:
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

        # A worker that serves has a second thread, the loop's.
        deadline = time.monotonic() + TIMEOUT
        while sum(len(os.listdir(f"/proc/{child}/task")) > 1 for child in self.children()) < 4:
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def children(self) -> list[str]:
        """The pids of the workers."""
        return Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()

    def worker_of(self, port: int) -> int:
        """The worker that has the other end of a connection from this port."""
        inode = None
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[1].split(":")[1], 16) == self.port and int(fields[2].split(":")[1], 16) == port:
                inode = fields[9]
        for child in self.children():
            for descriptor in Path(f"/proc/{child}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(descriptor) == f"socket:[{inode}]":
                        return int(child)
        raise AssertionError(f"no worker has the connection from port {port}")


class Talker:
    """A client that keeps all that it hears."""

    def __init__(self, workers: Workers, name: str, room: str) -> None:
        self.name, self.room = name, room
        self.address = f"ws://127.0.0.1:{workers.port}/socket?" + urlencode({"room": room, "name": name})
        self.heard: list[dict[str, Any]] = []
        self.changed = asyncio.Event()
        self.is_lost = False
        self.connection: ClientConnection
        self.listener: asyncio.Task[None]

    async def come(self) -> Self:
        """Come in, and listen."""
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
        """Wait until what has been heard meets a condition."""
        async with asyncio.timeout(seconds):
            while not condition(self):
                self.changed.clear()
                await self.changed.wait()

    def texts(self) -> list[tuple[str, str]]:
        """Who has said what."""
        return [(event["name"], event["text"]) for event in self.heard if event["kind"] == "message"]

    @property
    def port(self) -> int:
        return int(self.connection.local_address[1])


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """A Redis that keeps nothing over a restart."""
    redis = Redis(tmp_path)
    redis.start()
    yield redis
    redis.kill()


async def say_in_turns(talkers: list[Talker], word: str) -> None:
    """Everybody says so many messages, all at once, and hears what was said in the room: once, in order per sender."""
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


def test_four_workers_share_rooms_by_redis(tmp_path: Path, redis: Redis) -> None:
    workers = Workers(tmp_path, redis)

    async def talk() -> None:
        talkers = [Talker(workers, f"n{number}", f"r{number % ROOMS}") for number in range(CLIENTS)]
        await asyncio.gather(*(talker.come() for talker in talkers))
        assert len({workers.worker_of(talker.port) for talker in talkers}) > 1
        await say_in_turns(talkers, "first")
        numbers = [event["number"] for event in talkers[0].heard if event["kind"] == "message"]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))

        # Redis forgets everything. Nobody is cut off, everybody is told, and it goes on.
        redis.restart()
        for talker in talkers:
            await talker.until(lambda talker: any(event["kind"] == "gap" for event in talker.heard))
        await say_in_turns(talkers, "after the restart")
        assert not any(talker.is_lost for talker in talkers)

        # A worker is killed. The clients of the others lose nothing, and hear who is gone.
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
    """Who was there, each time that it was said."""
    for event in talker.heard:
        if event["kind"] in ("welcome", "members"):
            yield event["members"]
