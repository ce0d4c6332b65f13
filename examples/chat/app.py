"""A chat in plain WSGI: rooms, names, history and presence, in any number of workers.

    rmeinheld --workers 4 --chdir examples/chat app:app             (or: make run, and http://127.0.0.1:8000/chat/)

The workers share the rooms through a channel. Through Redis, services on several machines share them:

    RMEINHELD_CHANNEL_URL=redis://localhost rmeinheld --workers 4 --chdir examples/chat app:app

A client opens a WebSocket at socket?room=ROOM&name=NAME&last=ID, where ID is that of the last message it has received,
if any. It sends {"say": TEXT, "ref": ANY} and receives {"kind": ...}:

    welcome   the members of the room, its last messages, and whether messages after `last` may be missing
    message   id, name, text and time. The ids give the order. A message may come before the welcome, and again in it
    members   the names that have come in, and those that have left
    gap       messages before this id may be missing
    sent      the message with this ref is on its way to every member
    error     the reason why the message with this ref was refused

The server closes with 4000 if a name is not allowed, 4001 if it is taken, 1008 after many refused messages, and 1013 if
the client reads too slowly.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
import uuid
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from wsgiref.types import StartResponse

from rmeinheld.channel import Change, Channel
from rmeinheld.coroutine import sleep, spawn
from rmeinheld.websocket import ConnectionClosed, WebSocket, broadcast

HISTORY = 50
"""Messages of a room that a client gets when it joins."""

HISTORY_BYTES = 32 * 1024
"""Bytes of history in a welcome. It stays below websocket_max_queue_size, and so makes no client too slow."""

KEPT_SECONDS = 60
"""Time for which all messages are kept. A worker that has lost some gets them from the others."""

ASK_AFTER_SECONDS = (0.0, 1.0, 4.0)
"""Pauses before the questions for lost messages."""

LEFT_ROOMS = 100
"""Empty rooms whose history is remembered."""

TEXT_CHARACTERS = 2000
"""Longer texts are refused."""

RATE, BURST = (float(number) for number in os.environ.get("CHAT_RATE", "5 20").split())
"""Messages per second that a member may send, and messages at once after a pause."""

REFUSALS = 100
"""A client is closed after this number of messages in a row that came too fast."""

ANNOUNCE_SECONDS = 0.1
"""Time for which joins and leaves are collected, so that a thousand clients who come back make few messages."""

QUEUE = 100_000
"""Messages of the channel that may wait for this worker."""

NAME = re.compile(r"\w(?:[\w .-]{0,28}\w)?")
"""Names of rooms and members."""

logger = logging.getLogger("chat")


def pack(event: dict[str, Any]) -> str:
    """Return an event as JSON on one line, without escapes for letters of other alphabets."""
    return json.dumps(event, ensure_ascii=False)


class Room:
    """A room, with its members of all workers and its clients of this worker."""

    def __init__(self) -> None:
        self.clients: dict[str, WebSocket] = {}
        self.names: set[str] = set()
        self.announced: set[str] = set()
        self.is_announcing = False
        self.ids: list[str] = []
        self.messages: list[str] = []
        self.has_forgotten = False

    def keep(self, number: str, packed: str) -> bool:
        """Keep a message in the order of ids. Returns False if it is known."""
        place = bisect_left(self.ids, number)
        if self.ids[place : place + 1] == [number]:
            return False
        self.ids.insert(place, number)
        self.messages.insert(place, packed)
        oldest = f"{(time.time() - KEPT_SECONDS) * 1e6:016.0f}"
        while len(self.ids) > HISTORY and self.ids[0] < oldest:
            del self.ids[0], self.messages[0]
            self.has_forgotten = True
        return True

    def welcome(self, name: str, last: str) -> str:
        """Return the welcome. The messages are packed already."""
        size, first = 0, len(self.messages)
        for packed in islice(reversed(self.messages), HISTORY):
            size += len(packed.encode())
            if size > HISTORY_BYTES:
                break
            first -= 1
        may_miss = bool(last) and (first == len(self.ids) or last < self.ids[first])
        event = pack({"kind": "welcome", "name": name, "members": list(self.names), "missing": may_miss})
        return f'{event[:-1]}, "history": [{", ".join(self.messages[first:])}]}}'

    def tell(self, packed: str) -> None:
        """Send an event to the clients of this worker. The frame is made once, and slow clients are closed (1013)."""
        broadcast(self.clients.values(), packed, slow="close")

    def announce(self) -> None:
        """Send the joins and leaves of the last moment."""
        sleep(ANNOUNCE_SECONDS)
        self.is_announcing = False
        came, left, self.announced = self.names - self.announced, self.announced - self.names, set(self.names)
        if came or left:
            self.tell(pack({"kind": "members", "came": sorted(came), "left": sorted(left)}))


class Chat:
    """The rooms, as this worker knows them. Every worker hears every message.

    A message travels as a line: its room, its id, and the event as clients get it, separated by tabs.
    """

    def __init__(self) -> None:
        self.rooms: defaultdict[str, Room] = defaultdict(Room)
        self.lines = Channel("chat")
        self.questions = Channel("chat.questions")
        self.starting = threading.Lock()
        self.worker = ""
        self.clock = 0
        self.is_asking = False

    def start_early(self) -> None:
        """Start before the first client comes, while a worker that leaves still has the history."""
        try:
            self.start()
        except Exception as error:
            logger.warning("the chat cannot start yet: %r", error)

    def start(self) -> None:
        """Listen, and learn from the other workers what is there. The first client repeats this if it has failed."""
        with self.starting:
            if self.worker:
                return
            worker = uuid.uuid4().hex[:12]
            for channel in (self.lines, Channel(f"chat.{worker}")):
                channel.subscribe(self.take_lines, max_queue=QUEUE, on_gap=self.ask)
            self.questions.subscribe(self.answer)
            self.lines.presence.watch(self.see, max_queue=QUEUE)
            for key in self.lines.presence.keys():
                self.see(Change("join", key, None))
            if self.questions.publish({"worker": worker, "since": ""}) > 1:
                sleep(0.3)  # for the answers
            self.worker = worker

    # Messages.

    def say(self, room: str, name: str, text: str) -> None:
        """Send a message to every worker. After that it is neither lost nor refused."""
        # Later than every message that this worker has seen, and unlike those of other workers.
        self.clock = max(time.time_ns() // 1000, self.clock + 1)
        number = f"{self.clock:016}.{self.worker}"
        event = {"kind": "message", "id": number, "name": name, "text": text, "at": time.time()}
        self.lines.publish(f"{room}\t{number}\t{pack(event)}")

    def take_lines(self, lines: str) -> None:
        """Take messages of any worker, also of this one, and deliver those that are new."""
        for line in lines.split("\n"):
            name, number, packed = line.split("\t")
            self.clock = max(self.clock, int(number[:16]))
            room = self.rooms[name]
            if room.keep(number, packed):
                room.tell(packed)

    def ask(self, missed: int | None = None) -> None:
        """Ask the other workers for the messages of the last minute, because some were lost on the way."""
        if self.worker and not self.is_asking:
            logger.warning("%s messages of other workers were lost on the way: asking for them", missed or "Some")
            self.is_asking = True
            spawn(self.ask_again)

    def ask_again(self) -> None:
        """Ask at once, and again later: another worker may hear nothing yet, because Redis was away for all."""
        since = f"{(time.time() - KEPT_SECONDS) * 1e6:016.0f}"
        try:
            for pause in ASK_AFTER_SECONDS:
                sleep(pause)
                self.questions.publish({"worker": self.worker, "since": since})
        except OSError as error:
            logger.warning("the other workers cannot be asked: %s", error)
        finally:
            self.is_asking = False

    def answer(self, question: dict[str, str]) -> None:
        """Send the asking worker what it may lack, in pieces that fit into a message."""
        if question["worker"] == self.worker or not self.worker:
            return
        target, since = Channel(f"chat.{question['worker']}"), question["since"]
        lines, size = [], 0
        for name, room in list(self.rooms.items()):
            ids, messages = room.ids, room.messages
            first = bisect_left(ids, since) if since else max(0, len(ids) - HISTORY)
            if since and first == 0 and room.has_forgotten:
                lines.append(f"{name}\t{since}\t{pack({'kind': 'gap', 'id': since})}")
            for number, packed in zip(ids[first:], messages[first:], strict=True):
                lines.append(f"{name}\t{number}\t{packed}")
                size += len(packed)
                if size > 200_000:
                    target.publish("\n".join(lines))
                    lines, size = [], 0
        if lines:
            target.publish("\n".join(lines))

    # Members. A key of the presence is ROOM/NAME, and its value is the worker.

    def enter(self, room: str, name: str, websocket: WebSocket) -> bool:
        """Add a client. Returns False if the name is taken in any worker."""
        presence, key = self.lines.presence, f"{room}/{name}"
        if key in presence:
            return False
        presence.join(key, self.worker)
        self.rooms[room].names.add(name)
        self.rooms[room].clients[name] = websocket
        return True

    def leave(self, room: str, name: str, websocket: WebSocket) -> None:
        """Remove a client."""
        if self.rooms[room].clients.get(name) is websocket:
            del self.rooms[room].clients[name]
            self.lines.presence.leave(f"{room}/{name}")

    def see(self, change: Change) -> None:
        """Take a change of the members, of this worker or another one. Those of a dead worker leave, too."""
        room_name, _, name = change.key.partition("/")
        room = self.rooms[room_name]
        if change.kind == "leave":
            room.names.discard(name)
            if not room.names:
                self.forget_rooms(room_name)
        else:
            room.names.add(name)
        if change.kind == "update" and change.value != self.worker and name in room.clients:
            # Two workers have let the same name in at the same moment, and the other one was later.
            room.clients.pop(name).close(4001, "this name is taken")
            self.lines.presence.leave(change.key)
        if room.clients and not room.is_announcing:
            room.is_announcing = True
            spawn(room.announce)

    def forget_rooms(self, left: str) -> None:
        """Forget the empty rooms but for those that were left last."""
        self.rooms[left] = self.rooms.pop(left)
        empty = [name for name, room in self.rooms.items() if not room.names]
        for name in empty[:-LEFT_ROOMS]:
            del self.rooms[name]


chat = Chat()
# With preload_app the master imports this, and the coroutine runs in each worker.
spawn(chat.start_early)


class Refused(Exception):
    """The reason why a message is not sent."""


class Member:
    """One client, from its welcome to its end."""

    def __init__(self, websocket: WebSocket, room: str, name: str) -> None:
        self.websocket, self.room, self.name = websocket, room, name
        self.tokens, self.counted_at = BURST, time.monotonic()
        self.refusals = 0

    def serve(self, last: str) -> None:
        """Welcome the client, and take its messages."""
        try:
            chat.start()
            is_in = chat.enter(self.room, self.name, self.websocket)
        except Exception as error:
            logger.warning("%s cannot enter %s: %r", self.name, self.room, error)
            return self.websocket.close(1013, "try again later")
        if not is_in:
            return self.websocket.close(4001, "this name is taken")
        try:
            self.websocket.send(chat.rooms[self.room].welcome(self.name, last))
            for message in self.websocket:
                self.websocket.send(pack(self.take(message)))
        except ConnectionClosed:
            pass
        finally:
            chat.leave(self.room, self.name, self.websocket)

    def take(self, message: str | bytes) -> dict[str, Any]:
        """Take a message, and return the answer. One with "sent" is acknowledged."""
        ref = None
        try:
            request = self.read(message)
            ref = request.get("ref")
            self.hold_to_rate()
            text = self.text_of(request)
            chat.say(self.room, self.name, text)
        except Refused as refusal:
            return {"kind": "error", "text": str(refusal), "ref": ref}
        except Exception as error:
            logger.warning("a message of %s may not have been sent: %s", self.name, error)
            return {"kind": "error", "text": "it may not have been sent: try again later", "ref": ref}
        return {"kind": "sent", "ref": ref}

    def read(self, message: str | bytes) -> dict[str, Any]:
        """Return the message as an object."""
        try:
            request = json.loads(message)
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict):
            raise Refused('send {"say": "some text"}')
        return request

    def hold_to_rate(self) -> None:
        """Refuse a message that comes too fast. The bucket of tokens is refilled at RATE, up to BURST."""
        now = time.monotonic()
        self.tokens = min(BURST, self.tokens + (now - self.counted_at) * RATE)
        self.counted_at = now
        if self.tokens >= 1:
            self.tokens -= 1
            self.refusals = 0
            return
        self.refusals += 1
        if self.refusals > REFUSALS:
            self.websocket.close(1008, "too many messages")
        raise Refused(f"that was too fast: {RATE:g} messages a second, please")

    def text_of(self, request: dict[str, Any]) -> str:
        """Return the text of a message."""
        text = request.get("say")
        if not isinstance(text, str):
            raise Refused('send {"say": "some text"}')
        if not text.strip():
            raise Refused("there is nothing in it")
        if len(text) > TEXT_CHARACTERS:
            raise Refused(f"it has over {TEXT_CHARACTERS} characters")
        # Half of a surrogate pair can be in a str, but not in UTF-8.
        return text.encode(errors="replace").decode()


def serve_socket(websocket: WebSocket, query: dict[str, list[str]]) -> None:
    """Let a client in, if its names are allowed."""
    room, name, last = (query.get(key, [""])[0] for key in ("room", "name", "last"))
    websocket.accept()
    if NAME.fullmatch(room) and NAME.fullmatch(name):
        Member(websocket, room, name).serve(last)
    else:
        websocket.close(4000, "names have 1 to 30 letters, digits, spaces, dots or dashes")


def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """The page and its WebSocket."""
    path = environ["PATH_INFO"]
    if path == "/socket" and "wsgi.websocket" in environ:
        serve_socket(environ["wsgi.websocket"], parse_qs(environ["QUERY_STRING"]))
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
