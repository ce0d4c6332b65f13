"""The chat in several workers, which share their rooms by a channel."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import pytest

from chat_guests import CHAT
from databases import Redis
from masters import Masters, Service, wait_until
from serving import TIMEOUT

websockets = pytest.importorskip("websockets", reason="wheels of this library are missing for this Python")
from websockets.asyncio.client import ClientConnection, connect  # noqa: E402
from websockets.exceptions import ConnectionClosed  # noqa: E402

CLIENTS, ROOMS, MESSAGES = (int(number) for number in os.environ.get("CHAT_LOAD", "200 10 5").split())
"""The load of the test with four workers. CHAT_LOAD="50 5 3" makes it smaller."""

ESTABLISHED = "01"
OPTIONS = ("--pythonpath", str(CHAT), "--worker-connections", "5000")


class Chat(Service):
    """A chat with several workers."""

    def await_start(self) -> None:
        self.await_socket()
        self.await_ready()

    def workers_of_clients(self) -> dict[int, int]:
        """Return the ports of the clients, each with its worker, in one look: the kernel lists all sockets."""
        workers = {}
        for worker in self.running():
            for descriptor in Path(f"/proc/{worker}/fd").iterdir():
                with contextlib.suppress(OSError):
                    workers[os.readlink(descriptor)] = worker
        found = {}
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            owner = workers.get(f"socket:[{fields[9]}]")
            if owner is not None and int(fields[1].split(":")[1], 16) == self.port and fields[3] == ESTABLISHED:
                found[int(fields[2].split(":")[1], 16)] = owner
        return found


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Masters[Chat]]:
    """Starts chats whose members may send as fast as they can."""
    monkeypatch.setenv("CHAT_RATE", "1e9 1e9")
    masters = Masters(tmp_path, Chat)
    yield masters
    masters.stop()


class Talker:
    """A client that keeps all events."""

    def __init__(self, chat: Chat, name: str, room: str) -> None:
        self.chat, self.name, self.room = chat, name, room
        self.heard: list[dict[str, Any]] = []
        self.members: set[str] = set()
        self.said = 0
        self.acknowledged = 0
        self.changed = asyncio.Event()
        self.is_lost = False
        self.connection: ClientConnection
        self.listener: asyncio.Task[None]

    async def come(self) -> Self:
        """Join, and listen."""
        address = f"ws://127.0.0.1:{self.chat.port}/socket?" + urlencode({"room": self.room, "name": self.name})
        self.connection = await connect(address, compression=None, open_timeout=30)
        self.listener = asyncio.create_task(self.listen())
        await self.until(lambda: any(event["kind"] == "welcome" for event in self.heard))
        return self

    async def listen(self) -> None:
        try:
            with contextlib.suppress(ConnectionClosed):
                async for message in self.connection:
                    self.take(json.loads(message))
                    self.changed.set()
        finally:
            self.is_lost = True
            self.changed.set()

    def take(self, event: dict[str, Any]) -> None:
        """Keep an event."""
        self.heard.append(event)
        match event["kind"]:
            case "welcome":
                self.members |= set(event["members"])
            case "members":
                self.members = (self.members | set(event["came"])) - set(event["left"])
            case "sent":
                self.acknowledged += 1

    async def say(self, words: list[str]) -> None:
        """Say several texts without a pause, and wait until they are acknowledged."""
        for text in words:
            await self.connection.send(json.dumps({"say": text}))
        self.said += len(words)
        await self.until(lambda: self.acknowledged == self.said)

    async def until(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Wait until the events meet a condition."""
        async with asyncio.timeout(seconds):
            while not condition():
                assert not self.is_lost, (self.name, self.heard[-1:])
                self.changed.clear()
                await self.changed.wait()

    async def await_members(self, names: set[str]) -> None:
        """Wait until these are the members."""
        await self.until(lambda: self.members == names)

    async def await_texts(self, count: int) -> None:
        """Wait until this number of messages has come."""
        await self.until(lambda: len(self.texts()) >= count)

    def texts(self) -> list[tuple[str, str]]:
        """Return the sender and text of each message."""
        return [(event["name"], event["text"]) for event in self.heard if event["kind"] == "message"]

    @property
    def port(self) -> int:
        return int(self.connection.local_address[1])


async def say_in_turns(talkers: list[Talker], word: str, count: int = MESSAGES) -> None:
    """Send from all members at once. Each receives every message of its room once, in the order of its sender."""
    before = {talker: len(talker.texts()) for talker in talkers}
    words = [f"{word} {number}" for number in range(count)]
    await asyncio.gather(*(talker.say(words) for talker in talkers))
    for talker in talkers:
        names = {other.name for other in talkers if other.room == talker.room}
        wanted = before[talker] + count * len(names)
        await talker.await_texts(wanted)
        heard = talker.texts()[before[talker] :]
        for name in names:
            assert [text for who, text in heard if who == name] == words, (talker.name, name)
        assert len(heard) == count * len(names)


async def come_to_workers(chat: Chat, room: str, prefix: str = "n") -> dict[int, Talker]:
    """Let clients come until each worker has one."""
    found: dict[int, Talker] = {}
    for number in range(200):
        talker = await Talker(chat, f"{prefix}{number}", room).come()
        if found.setdefault(chat.workers_of_clients()[talker.port], talker) is not talker:
            await talker.connection.close()
        if len(found) == len(chat.running()):
            return found
    raise AssertionError(f"only workers {list(found)} have clients")


def test_four_workers_share_rooms(start: Masters[Chat]) -> None:
    chat = start("--workers", "4", *OPTIONS, app="app:app")

    async def talk() -> None:
        talkers = [Talker(chat, f"n{number}", f"r{number % ROOMS}") for number in range(CLIENTS)]
        await asyncio.gather(*(talker.come() for talker in talkers))
        ports = chat.workers_of_clients()
        workers = {talker: ports[talker.port] for talker in talkers}
        assert len(set(workers.values())) > 1
        await say_in_turns(talkers, "first")
        for talker in talkers:
            names = {other.name for other in talkers if other.room == talker.room}
            await talker.await_members(names)

        # A worker is killed. Clients of other workers lose nothing, and learn who is gone.
        victim = workers[talkers[0]]
        theirs = [talker for talker in talkers if workers[talker] == victim]
        others = [talker for talker in talkers if workers[talker] != victim]
        os.kill(victim, signal.SIGKILL)
        await say_in_turns(others, "among the others")
        for talker in others:
            names = {other.name for other in others if other.room == talker.room}
            await talker.await_members(names)
        assert not any(talker.is_lost for talker in others)
        # Their names are free again.
        again = await Talker(chat, theirs[0].name, theirs[0].room).come()
        assert again.name in again.members
        for talker in (*others, again):
            await talker.connection.close()

    asyncio.run(talk())


def test_a_name_is_taken_in_all_workers(start: Masters[Chat]) -> None:
    chat = start("--workers", "2", *OPTIONS, app="app:app")

    async def talk() -> None:
        found = await come_to_workers(chat, "lobby")
        names = [talker.name for talker in found.values()]
        for name in names * 3:
            address = f"ws://127.0.0.1:{chat.port}/socket?" + urlencode({"room": "lobby", "name": name})
            async with connect(address, compression=None) as connection:
                with contextlib.suppress(ConnectionClosed):
                    await connection.recv()
            assert connection.close_code == 4001
        for talker in found.values():
            await talker.connection.close()

    asyncio.run(talk())


def test_new_workers_learn_the_history_and_the_members_from_the_old_ones(start: Masters[Chat]) -> None:
    chat = start("--workers", "2", *OPTIONS, app="app:app")

    async def talk() -> None:
        ann = await Talker(chat, "Ann", "lobby").come()
        await ann.say(["one", "two"])
        # A message may come after its acknowledgement.
        await ann.await_texts(2)
        last = [event["id"] for event in ann.heard if event["kind"] == "message"]
        old = chat.running()
        chat.signal(signal.SIGHUP)
        await asyncio.to_thread(chat.await_ready, 2)
        await asyncio.to_thread(wait_until, lambda: not {*old} & {*chat.running()}, chat.log)
        for number in range(8):
            new = await Talker(chat, f"new{number}", "lobby").come()
            (welcome,) = (event for event in new.heard if event["kind"] == "welcome")
            assert [event["text"] for event in welcome["history"]] == ["one", "two"], chat.log()
            assert [event["id"] for event in welcome["history"]] == last
            assert not welcome["missing"]
            await new.connection.close()

    asyncio.run(talk())


# --- over Redis ------------------------------------------------------------------------------------------------------


@pytest.fixture
def redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Redis]:
    """A Redis, through which chats that start later share their rooms."""
    redis = Redis(tmp_path)
    redis.start()
    monkeypatch.setenv("RMEINHELD_CHANNEL_URL", f"redis://127.0.0.1:{redis.port}")
    monkeypatch.setenv("RMEINHELD_CHANNEL_KEY", "of the tests")
    yield redis
    redis.kill()


def cut_subscriptions(redis: Redis) -> None:
    """Have Redis close the connections on which processes receive."""
    with socket.create_connection(("127.0.0.1", redis.port), TIMEOUT) as connection:
        connection.sendall(b"CLIENT KILL TYPE pubsub\r\n")
        assert connection.recv(100) != b":0\r\n"


def test_a_burst_over_redis_loses_nothing_that_is_acknowledged(redis: Redis, start: Masters[Chat]) -> None:
    chats = [start("--workers", "2", *OPTIONS, app="app:app") for _ in range(2)]

    async def talk() -> None:
        talkers = [await Talker(chat, f"n{id(chat)}{number}", "lobby").come() for chat in chats for number in range(4)]
        names = {talker.name for talker in talkers}
        for talker in talkers:
            await talker.await_members(names)
        await say_in_turns(talkers, "burst", 4000 // len(talkers))
        # Messages that no process hears from Redis come from the memory of the others.
        cut_subscriptions(redis)
        await say_in_turns(talkers, "while Redis is deaf")
        for talker in talkers:
            await talker.connection.close()

    asyncio.run(talk())
