"""The hub: the channels of this process over one transport."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Final, Protocol

from .. import _crew, _rmeinheld, channel_options
from ..error_log import LOGGER_NAME
from .messages import BINARY, JSON, PRESENCE, decode
from .subscriptions import CLOSED, DISPLACED, OVER, Feed, HandledFeed, JsonText, spawn_or_thread
from .transport import LocalTransport, Pending, Transport

if TYPE_CHECKING:
    from .presence import PresenceBook

__all__ = ["Attached", "Hub", "Room", "hub_of"]

_logger: Final = logging.getLogger(LOGGER_NAME)


class Attached(Protocol):
    """A group of receivers that takes a message without Python code for each one."""

    def __len__(self) -> int:
        """Return the number of receivers."""

    def broadcast(self, message: str | bytes, /) -> int:
        """Give the message to each receiver, and return the number of those that got it. Returns soon."""


class Room:
    """The subscribers of a channel in this process. The lock of the hub protects it."""

    def __init__(self, hub: Hub, name: bytes, registry: dict[bytes, Room]) -> None:
        self.hub = hub
        self.name = name
        self.registry = registry
        self.title = name.decode()
        self.feeds: dict[int, Feed] = {}
        self.attached: Attached | None = None
        self.pending: Pending | None = None
        """The wait until messages of other processes come; None after it."""
        self._copy: tuple[Feed, ...] | None = ()

    def add(self, feed: Feed) -> None:
        """Add a subscriber."""
        self.feeds[id(feed)] = feed
        self._copy = None

    def remove(self, feed: Feed) -> None:
        """Remove a subscriber, if it is there."""
        if self.feeds.pop(id(feed), None) is not None:
            self._copy = None

    def deliver(self, item: Any) -> tuple[int, int]:
        """Queue a message for all subscribers. Returns the numbers of those that got it, and of dropped messages."""
        feeds = self._copy
        if feeds is None:
            # A queue of the application, or a destructor, may subscribe or close meanwhile.
            feeds = self._copy = tuple(self.feeds.values())
        delivered, dropped = len(feeds), 0
        for feed in feeds:
            outcome = feed.put(item)
            if outcome:
                dropped += outcome < OVER
                delivered -= outcome > DISPLACED
                if feed.end is not None:
                    self.remove(feed)
        if self.attached is not None:
            delivered += self.attached.broadcast(item.text if type(item) is JsonText else item)
        return delivered, dropped

    def note_gap(self, missed: int | None) -> int:
        """Tell all subscribers of lost messages, and return their number."""
        for feed in list(self.feeds.values()):
            feed.note_gap(missed)
        return len(self.feeds)

    def is_unused(self) -> bool:
        """Whether the room has no subscriber."""
        return not self.feeds and (self.attached is None or not len(self.attached))


class Hub:
    """The channels of this process over one transport. It is also the `Receiver` of the transport."""

    def __init__(self, transport: Transport, count: Callable[[int, int, int, int], object]) -> None:
        self.lock = _rmeinheld.RLock()
        self.presence: PresenceBook | None = None
        self.transport = transport
        self._count = count
        self._rooms: dict[bytes, Room] = {}
        self._abandoned: deque[Feed] = deque()
        self._calls: deque[Callable[[], object]] = deque()
        transport.open(self)

    def room(self, name: bytes) -> Room:
        """Return the subscribers of a channel. Call it, and use the room, with the lock."""
        room = self._rooms.get(name)
        if room is None:
            self._remove_abandoned()
            room = self._rooms[name] = Room(self, name, self._rooms)
            room.pending = self.transport.listen(name)
        return room

    def subscribe(self, name: bytes, make: Callable[[Room], Feed]) -> Feed:
        """Add a subscriber to a channel. Messages that are published from now on reach it."""
        with self.lock:
            room = self.room(name)
            try:
                feed = make(room)
                room.add(feed)
            finally:
                self.release(room)
        try:
            self.await_messages(room)
        except BaseException:
            self.unsubscribe(feed)
            raise
        return feed

    def await_messages(self, room: Room) -> None:
        """Wait until messages of other processes come to a room. Without the lock. Raises OSError naming the URL."""
        pending = room.pending
        if pending is not None:
            pending.wait()
            room.pending = None

    def unsubscribe(self, feed: Feed) -> None:
        """End a subscription, and discard its queue."""
        with self.lock:
            feed.finish(CLOSED, discards=True)
            feed.room.remove(feed)
            self.release(feed.room)

    def abandon(self, feed: Feed) -> None:
        """End a subscription that nothing refers to. Without the lock: in a destructor."""
        feed.end = CLOSED
        self._abandoned.append(feed)

    def _remove_abandoned(self) -> None:
        while self._abandoned:
            self.unsubscribe(self._abandoned.popleft())

    def release(self, room: Room) -> None:
        """Forget a room that is unused, with the lock."""
        if room.is_unused() and room.registry.get(room.name) is room:
            del room.registry[room.name]
            if room.registry is self._rooms:
                self.transport.unlisten(room.name)

    def publish(self, name: bytes, kind: int, local: str | bytes, data: bytes) -> int:
        """Publish an encoded message here and to other processes. Returns the numbers of subscribers and processes."""
        delivered = dropped = 0
        with self.lock:
            if self._abandoned:
                self._remove_abandoned()
            room = self._rooms.get(name)
            if room is not None:
                delivered, dropped = room.deliver(JsonText(local) if kind == JSON else local)  # type: ignore[arg-type]
                self.release(room)
            sent = self.transport.publish(name, kind, data)
        self._count(1, delivered, dropped, 0)
        if self._calls:
            self.make_calls()
        return delivered + (sent if isinstance(sent, int) else sent.wait() or 0)

    def start_later(self, feed: HandledFeed) -> None:
        """Start the coroutine that calls a handler, once the lock is released."""
        self._calls.append(lambda: self._start(feed))

    def call_later(self, call: Callable[..., object], *arguments: Any) -> None:
        """Make a call in a coroutine of its own, once the lock is released."""
        self._calls.append(lambda: spawn_or_thread(call, *arguments))

    def _start(self, feed: HandledFeed) -> None:
        try:
            spawn_or_thread(feed.run)
        except BaseException:
            feed.is_running = False
            raise

    def make_calls(self) -> None:
        """Start what was put off until the lock is released."""
        while self._calls:
            try:
                self._calls.popleft()()
            except IndexError:
                return
            except Exception:
                _logger.exception("A handler of a channel cannot be called: its messages wait for the next one")

    # The calls of the transport.

    def message(self, peer: Hashable, channel: bytes, kind: int, payload: bytes | memoryview, missed: int = 0) -> None:
        """Take a message of another process."""
        delivered = dropped = gaps = 0
        with self.lock:
            if kind == PRESENCE:
                if self.presence is not None:
                    self.presence.message(peer, bytes(payload), missed)
            elif (room := self._rooms.get(channel)) is not None:
                if missed:
                    gaps = room.note_gap(missed)
                if kind <= JSON:
                    item = bytes(payload) if kind == BINARY else decode(kind, payload)
                    delivered, dropped = room.deliver(JsonText(item) if kind == JSON else item)  # type: ignore[arg-type]
                    self.release(room)
        self._count(0, delivered, dropped, gaps)
        if self._calls:
            self.make_calls()

    def gap(self, channel: bytes | None, missed: int | None) -> None:
        """Tell subscribers of lost messages."""
        with self.lock:
            room = None if channel is None else self._rooms.get(channel)
            rooms = list(self._rooms.values()) if channel is None else [] if room is None else [room]
            gaps = sum(one.note_gap(missed) for one in rooms)
            if self.presence is not None and not channel:
                self.presence.gap()
        self._count(0, 0, 0, gaps)
        self.make_calls()

    def appeared(self, peer: Hashable) -> None:
        """Send the presence to a new process."""
        with self.lock:
            if self.presence is not None:
                self.presence.appeared(peer)
        self.make_calls()

    def gone(self, peer: Hashable) -> None:
        """Forget the presence of a process that has ended."""
        with self.lock:
            if self.presence is not None:
                self.presence.gone(peer)
        self.make_calls()

    def close(self) -> None:
        """End all subscriptions, and the transport."""
        with self.lock:
            for room in list(self._rooms.values()):
                for feed in list(room.feeds.values()):
                    self.unsubscribe(feed)
            self.transport.close()


_hubs: dict[str, Hub] = {}
_hubs_of = 0
_making = _rmeinheld.RLock()


def _uncounted(published: int, delivered: int, dropped: int, gaps: int) -> None:
    """Count nothing, in a process that is no worker."""


def hub_of(url: str) -> Hub:
    """Return the hub of this process for a URL; "" is the crew. Raises ValueError for an unknown scheme."""
    global _hubs, _hubs_of, _making
    if _hubs_of != os.getpid():
        # In a forked child the parent's transports are dead, and its locks may be held.
        _making, _hubs, _hubs_of = _rmeinheld.RLock(), {}, os.getpid()
    hub = _hubs.get(url)
    if hub is None:
        with _making:
            hub = _hubs.get(url)
            if hub is None:
                hub = _hubs[url] = Hub(_transport_of(url), _crew.counter() or _uncounted)
    return hub


def _transport_of(url: str) -> Transport:
    origin = "channel_url" if url == channel_options.url() else "the URL of a channel"
    if not url:
        crew = _crew.current()
        if crew is None:
            return LocalTransport()
        from .crew_transport import CrewTransport

        return CrewTransport(crew)
    scheme = url.partition("://")[0]
    if scheme not in channel_options.SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in channel_options.SCHEMES)
        shown = channel_options.without_password(url)
        raise ValueError(f"{origin} must begin with one of {known}, not {shown!r}")
    from .over_redis.transport import RedisTransport

    return RedisTransport(url, origin, channel_options.key())
