"""A chat in plain WSGI: rooms, names, history and presence.

    rmeinheld --chdir examples/chat app:app                         (or: make run, and http://127.0.0.1:8000/chat/)

In one process it needs nothing else. With REDIS_URL, any number of processes and machines share the rooms:

    REDIS_URL=redis://localhost gunicorn --workers 4 --worker-class rmeinheld.gunicorn_worker.Worker \\
        --worker-connections 10000 --chdir examples/chat app:app

A client opens a WebSocket at socket?room=ROOM&name=NAME and sends {"say": TEXT}. It receives {"kind": ...}:

    welcome   the members of the room, its last messages, and its last number
    message   number, name, text and time; the numbers of a room have no gaps unless messages were lost
    members   who is in the room now
    gap       messages may have been lost while Redis was away; and the last number of the room
    error     the reason why a message was refused

The server closes with 4001 if the name is taken, 4000 if it is not allowed, and 1013 if the client reads too slowly.
"""

from __future__ import annotations

from rmeinheld import patch

patch.patch_all()  # makes redis-py park

import json
import logging
import os
import re
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from wsgiref.types import StartResponse

from rmeinheld.coroutine import Event as Signal
from rmeinheld.coroutine import sleep, spawn
from rmeinheld.websocket import ConnectionClosed, WebSocket

HISTORY = 50
"""Messages of each room that are kept for clients who join later."""

HISTORY_BYTES = 32 * 1024
"""Bytes of history in a welcome. With the members it stays below SLOW_BYTES, so a welcome makes no client too slow."""

LEFT_ROOMS = 100
"""Empty rooms whose history one process remembers."""

LEFT_SECONDS = 24 * 60 * 60
"""Time for which Redis remembers an empty room."""

TEXT_CHARACTERS = 2000
"""Longer texts are refused."""

SLOW_BYTES = 48 * 1024
"""Unsent bytes at which a client is closed. From websocket_max_queue_size on, which is larger, senders would wait."""

NAME = re.compile(r"\w(?:[\w .-]{0,28}\w)?")
"""Names of rooms and members."""

REDIS_URL = os.environ.get("REDIS_URL")
PREFIX = os.environ.get("REDIS_PREFIX", "chat")
LEASE_SECONDS = float(os.environ.get("CHAT_LEASE_SECONDS", "15"))
"""Time after which members of a killed process are removed."""

logger = logging.getLogger("chat")

Event = dict[str, Any]


def pack(event: Event) -> str:
    """Return an event as JSON, without escapes for letters of other alphabets."""
    return json.dumps(event, ensure_ascii=False)


def first_number() -> int:
    """Return the number before the first one of a room: the time, so that a forgotten room never reuses a number."""
    return int(time.time() * 1000)


class Member:
    """A client in a room. Events that come before its welcome are kept until then.

    Sending may switch to other coroutines. For that reason events are first queued, in the same order for all members,
    and then sent.
    """

    def __init__(self, websocket: WebSocket, name: str) -> None:
        self.websocket = websocket
        self.name = name
        self.early: list[Event] | None = []
        self.seen = 0
        self.queued = deque[Event]()
        self.is_sending = False

    def send(self, event: Event) -> None:
        """Send an event, behind those that are queued."""
        self.queue(event)
        self.send_queued()

    def queue(self, event: Event) -> None:
        """Queue an event, a message only once."""
        if self.early is not None:
            self.early.append(event)
            return
        if event["kind"] == "message":
            if event["number"] <= self.seen:
                return
            self.seen = event["number"]
        self.queued.append(event)

    def send_queued(self) -> None:
        """Send the queued events. Only one coroutine sends at a time."""
        if self.is_sending:
            return
        self.is_sending = True
        try:
            while self.queued:
                self.send_now(self.queued[0])
                self.queued.popleft()
        finally:
            self.is_sending = False

    def send_now(self, event: Event) -> None:
        """Send an event, or close a slow client, which would hold up the others."""
        if self.websocket.buffered < SLOW_BYTES:
            try:
                self.websocket.send(pack(event))
            except ConnectionClosed:
                pass  # the coroutine of this client notices
        else:
            self.websocket.close(1013, "too slow")

    def welcome(self, members: list[str], history: list[Event], number: int) -> None:
        """Send the welcome, with as much history as fits, then the events since."""
        size, newest = 0, deque[Event]()
        for event in reversed(history):
            size += len(pack(event).encode())
            if size > HISTORY_BYTES:
                break
            newest.appendleft(event)
        early, self.early, self.seen = self.early or [], None, number
        welcome = {"kind": "welcome", "name": self.name, "members": members, "number": number, "history": [*newest]}
        for event in [welcome, *early]:
            self.queue(event)
        self.send_queued()

    def look_for_gap(self, history: list[Event], number: int) -> None:
        """Send a gap if the history lacks messages that this client missed."""
        if number != self.seen + sum(event["number"] > self.seen for event in history):
            # There were more messages than are kept; or Redis has lost its data, or fell back to an older replica.
            self.seen = min(self.seen, number)
            self.send({"kind": "gap", "number": number})


class Rooms:
    """The rooms of one process, with their members among its clients."""

    def __init__(self) -> None:
        self.members: defaultdict[str, dict[str, Member]] = defaultdict(dict)
        self.history: defaultdict[str, deque[Event]] = defaultdict(lambda: deque(maxlen=HISTORY))
        self.numbers: defaultdict[str, int] = defaultdict(first_number)

    def join(self, room: str, member: Member) -> bool:
        """Add a member. Returns False if the name is taken."""
        if member.name in self.members[room]:
            return False
        self.members[room][member.name] = member
        member.welcome(sorted(self.members[room]), list(self.history[room]), self.numbers[room])
        self.announce_members(room)
        return True

    def leave(self, room: str, member: Member) -> None:
        """Remove a member."""
        del self.members[room][member.name]
        if self.members[room]:
            return self.announce_members(room)
        del self.members[room]
        self.history[room] = self.history.pop(room)  # now the room that was left last
        for old in [one for one in self.history if one not in self.members][:-LEFT_ROOMS]:
            del self.history[old], self.numbers[old]

    def say(self, room: str, name: str, text: str) -> None:
        """Deliver a message of a member."""
        self.numbers[room] += 1
        event = {"kind": "message", "number": self.numbers[room], "name": name, "text": text, "at": time.time()}
        self.history[room].append(event)
        self.deliver(room, event)

    def announce_members(self, room: str) -> None:
        """Send the list of members to all members."""
        self.deliver(room, {"kind": "members", "members": sorted(self.members[room])})

    def deliver(self, room: str, event: Event) -> None:
        """Send an event to the room's members in this process."""
        members = list(self.members.get(room, {}).values())
        for member in members:
            member.queue(event)
        for member in members:
            member.send_queued()


class SharedRooms(Rooms):
    """Rooms that processes share by Redis.

    One script numbers a message, keeps it and publishes it, so that all clients see the same order. Each process has
    one subscription. The members are a sorted set of names, each with the time at which the lease of its process ends.
    """

    SAY = """
        redis.call('SET', KEYS[1], ARGV[3], 'NX')
        local number = redis.call('INCR', KEYS[1])
        local event = cjson.decode(ARGV[1])
        event['number'] = number
        local text = cjson.encode(event)
        redis.call('RPUSH', KEYS[2], text)
        redis.call('LTRIM', KEYS[2], -tonumber(ARGV[2]), -1)
        redis.call('EXPIRE', KEYS[1], ARGV[4])
        redis.call('EXPIRE', KEYS[2], ARGV[4])
        redis.call('PUBLISH', KEYS[3], text)
    """
    JOIN = """
        local until_then = redis.call('ZSCORE', KEYS[1], ARGV[1])
        if until_then and tonumber(until_then) > tonumber(ARGV[2]) then return 0 end
        redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
        redis.call('EXPIRE', KEYS[1], ARGV[5])
        redis.call('SET', KEYS[2], ARGV[4], 'NX', 'EX', ARGV[5])
        return 1
    """
    ANNOUNCE = """
        local names = redis.call('ZRANGE', KEYS[1], 0, -1)
        table.sort(names)
        if #names > 0 then
            redis.call('PUBLISH', KEYS[2], cjson.encode({kind = 'members', members = names}))
        end
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        # Coroutines share the connections, and wait for a free one. Without retries no message is published twice.
        pool = redis.BlockingConnectionPool.from_url(
            url, max_connections=20, timeout=10, decode_responses=True, protocol=2, retry=Retry(NoBackoff(), 0)
        )
        self.redis = redis.Redis(connection_pool=pool)
        self.failure = redis.RedisError
        self.script_say = self.redis.register_script(self.SAY)
        self.script_join = self.redis.register_script(self.JOIN)
        self.script_announce = self.redis.register_script(self.ANNOUNCE)
        self.is_started = False
        self.is_listening = Signal()

    def key(self, *parts: str) -> str:
        """Return a key of this application."""
        return ":".join((PREFIX, *parts))

    def start(self) -> None:
        """Begin to listen, with the first client and so after any fork. Return once the subscription is complete."""
        if not self.is_started:
            self.is_started = True
            spawn(self.listen)
            spawn(self.keep_leases)
        if not self.is_listening.wait(10):
            raise TimeoutError("Redis is away")

    def read(self, room: str) -> tuple[list[Event], int, list[str]]:
        """Return the history, the last number and the members of a room, all of one moment."""
        pipeline = self.redis.pipeline()
        pipeline.lrange(self.key("history", room), 0, -1)
        pipeline.get(self.key("number", room))
        pipeline.zrange(self.key("members", room), 0, -1)
        history, number, names = pipeline.execute()
        return [json.loads(text) for text in history], int(number or 0), sorted(names)

    def join(self, room: str, member: Member) -> bool:
        """Add a member. Returns False if the name is taken in any process."""
        self.start()
        now = time.time()
        keys = [self.key("members", room), self.key("number", room)]
        if not self.script_join(keys, [member.name, now, now + LEASE_SECONDS, first_number(), LEFT_SECONDS]):
            return False
        if member.name in self.members[room]:
            return False  # Redis has lost the name
        # The member joins before the history is read, so no message falls between the two.
        self.members[room][member.name] = member
        try:
            history, number, names = self.read(room)
            member.welcome(names, history, number)
            self.announce_members(room)
        except BaseException:
            self.leave(room, member)
            raise
        return True

    def leave(self, room: str, member: Member) -> None:
        """Remove a member."""
        del self.members[room][member.name]
        if not self.members[room]:
            del self.members[room]
        self.redis.zrem(self.key("members", room), member.name)
        self.announce_members(room)

    def say(self, room: str, name: str, text: str) -> None:
        """Deliver a message of a member through all processes."""
        event = pack({"kind": "message", "name": name, "text": text, "at": time.time()})
        keys = [self.key("number", room), self.key("history", room), self.key("room", room)]
        self.script_say(keys, [event, HISTORY, first_number(), LEFT_SECONDS])

    def announce_members(self, room: str) -> None:
        """Send the list of members to all members. One script does it, so that no older list follows a newer one."""
        self.script_announce([self.key("members", room), self.key("room", room)])

    def listen(self) -> None:
        """Deliver the messages of all processes, without end. Send a gap where messages may have been lost."""
        is_away = False
        while True:
            try:
                with self.redis.pubsub() as subscription:
                    subscription.psubscribe(self.key("room", "*"))
                    for message in subscription.listen():
                        if message["type"] == "psubscribe":
                            # From now on no message is missed.
                            self.catch_up()
                            self.is_listening.set()
                            is_away = False
                        else:
                            room = message["channel"].removeprefix(self.key("room", ""))
                            self.deliver(room, json.loads(message["data"]))
            except (self.failure, OSError) as error:
                if not is_away:
                    logger.warning("Redis is away: %s", error)
                is_away = True
                sleep(0.2)

    def catch_up(self) -> None:
        """Deliver the messages that came while Redis was away, or send a gap."""
        for room, members in list(self.members.items()):
            # A member who joins during this wait may have a newer history than the one read here.
            present = [member for member in members.values() if member.early is None]
            history, number, _ = self.read(room)
            for member in present:
                member.look_for_gap(history, number)
            for event in history:
                self.deliver(room, event)
            self.renew(room)
            self.announce_members(room)

    def renew(self, room: str) -> None:
        """Renew the lease of the members of this process."""
        names = list(self.members.get(room, {}))
        if not names:
            return
        pipeline = self.redis.pipeline()
        pipeline.zadd(self.key("members", room), dict.fromkeys(names, time.time() + LEASE_SECONDS))
        for kind in ("members", "number", "history"):
            pipeline.expire(self.key(kind, room), LEFT_SECONDS)
        was_lapsed = pipeline.execute()[0]
        # A member who left during this wait must not come back.
        if gone := [name for name in names if name not in self.members.get(room, {})]:
            self.redis.zrem(self.key("members", room), *gone)
        # This process was suspended, and others have removed its members.
        if was_lapsed:
            self.announce_members(room)

    def keep_leases(self) -> None:
        """Renew leases, and remove the members of dead processes."""
        while True:
            sleep(LEASE_SECONDS / 3)
            try:
                for room in list(self.members):
                    self.renew(room)
                    # One of the processes removes them, and sends the new list.
                    if self.redis.zremrangebyscore(self.key("members", room), 0, time.time()):
                        self.announce_members(room)
            except (self.failure, OSError) as error:
                logger.debug("leases were not renewed: %s", error)


rooms = SharedRooms(REDIS_URL) if REDIS_URL else Rooms()


def chat(websocket: WebSocket, room: str, name: str) -> None:
    """Serve one client, from its welcome to its end."""
    websocket.accept()
    if not NAME.fullmatch(room) or not NAME.fullmatch(name):
        return websocket.close(4000, "a name has 1 to 30 letters, digits, spaces, dots or dashes")
    member = Member(websocket, name)
    try:
        is_in = rooms.join(room, member)
    except Exception as error:
        logger.warning("%s cannot join %s: %r", name, room, error)
        return websocket.close(1013, "try again later")
    if not is_in:
        return websocket.close(4001, "this name is taken")
    try:
        for message in websocket:
            if problem := take(room, name, message):
                member.send({"kind": "error", "text": problem})
    finally:
        try:
            rooms.leave(room, member)
        except Exception as error:
            logger.warning("%s could not be removed from %s: %s", name, room, error)


def take(room: str, name: str, message: str | bytes) -> str | None:
    """Take a message of a client. Returns the reason if it is refused."""
    try:
        text = json.loads(message)["say"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return 'send {"say": "some text"}'
    if not isinstance(text, str) or not text.strip():
        return "there is nothing in it"
    if len(text) > TEXT_CHARACTERS:
        return f"it has over {TEXT_CHARACTERS} characters"
    # Half of a surrogate pair can be in a str, but not in UTF-8.
    text = text.encode(errors="replace").decode()
    try:
        rooms.say(room, name, text)
    except Exception as error:
        logger.warning("a message of %s may not have been sent: %s", name, error)
        return "it may not have been sent: try again later"
    return None


def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """The page and its WebSocket."""
    path = environ["PATH_INFO"]
    if path == "/socket" and "wsgi.websocket" in environ:
        query = parse_qs(environ["QUERY_STRING"])
        chat(environ["wsgi.websocket"], query.get("room", ["lobby"])[0], query.get("name", [uuid.uuid4().hex[:8]])[0])
        return []
    if path == "/":
        page = Path(__file__).with_name("index.html").read_bytes()
        start_response("200 OK", [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(page)))])
        return [page]
    if path == "":
        # The addresses in the page are relative.
        start_response("308 Permanent Redirect", [("Location", environ.get("SCRIPT_NAME", "") + "/")])
        return []
    status = "426 Upgrade Required" if path == "/socket" else "404 Not Found"
    start_response(status, [("Content-Type", "text/plain"), ("Upgrade", "websocket")])
    return [status.encode() + b"\n"]


if __name__ == "__main__":
    import rmeinheld

    rmeinheld.run(app)
