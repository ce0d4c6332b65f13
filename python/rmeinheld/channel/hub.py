"""The hub: the channels of this process over one transport."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Final, Literal

from .. import _crew, _rmeinheld, channel_options
from ..error_log import LOGGER_NAME
from .messages import BINARY, JSON, PRESENCE, decode
from .subscriptions import CLOSED, DISPLACED, OVER, Feed, HandledFeed, JsonText, spawn_or_thread
from .transport import LocalTransport, Pending, Transport

if TYPE_CHECKING:
    from .presence import PresenceBook

__all__ = ["Hub", "Room", "SlowClient", "hub_of"]

_logger: Final = logging.getLogger(LOGGER_NAME)

type SlowClient = Literal["close", "skip"]
"""The treatment of an attached WebSocket that accepts data too slowly."""


class Room:
    """The subscribers of a channel in this process. The lock of the hub protects it."""

    def __init__(self, hub: Hub, name: bytes, registry: dict[bytes, Room]) -> None:
        self.hub = hub
        self.name = name
        self.registry = registry
        self.title = name.decode()
        self.feeds: dict[int, Feed] = {}
        self.attached: dict[SlowClient, _rmeinheld.Members] = {}
        """WebSockets that get the messages, by the treatment of slow ones."""
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
        for slow, members in self.attached.items():
            number = len(members)
            left_out = len(members.broadcast(item.text if type(item) is JsonText else item, slow))
            delivered += number - left_out
            dropped += left_out
        return delivered, dropped

    def note_gap(self, missed: int | None) -> int:
        """Note lost messages for all subscribers, and return the number of gaps."""
        for feed in list(self.feeds.values()):
            feed.note_gap(missed)
        # Attached WebSockets do not notice the gap, but it is counted.
        return len(self.feeds) or any(len(members) for members in self.attached.values())

    def is_unused(self) -> bool:
        """Whether the room has no subscriber."""
        return not self.feeds and not any(len(members) for members in self.attached.values())


class Hub:
    """The channels of this process over one transport. It is also the `Receiver` of the transport."""

    def __init__(
        self, transport: Transport, count: Callable[[int, int, int, int], object], *, is_deferred: bool = False
    ) -> None:
        self.lock = _rmeinheld.RLock()
        self.presence: PresenceBook | None = None
        self.is_over = False
        """Whether this process sends no more."""
        self.interruption: BaseException | None = None
        """Exception that was thrown into the publisher while a message was being queued. It is raised afterwards."""
        self.process = os.getpid()
        self.is_deferred = is_deferred
        """Whether this is the master of a service, whose workers take its subscriptions over."""
        self.default_url = channel_options.url()
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

    def attach(self, name: bytes, websocket: _rmeinheld.WebSocket, slow: SlowClient) -> bool:
        """Have a WebSocket get the messages of a channel. Returns whether it is open."""
        with self.lock:
            room = self.room(name)
            try:
                for other in room.attached.values():
                    other.remove(websocket)
                members = room.attached.setdefault(slow, _rmeinheld.Members())
                is_open = members.add(websocket)
            finally:
                self.release(room)
        self.await_messages(room)
        return is_open

    def detach(self, name: bytes, websocket: _rmeinheld.WebSocket) -> None:
        """End what `attach` has begun."""
        with self.lock:
            if (room := self._rooms.get(name)) is not None:
                for members in room.attached.values():
                    members.remove(websocket)
                self.release(room)

    def unsubscribe(self, feed: Feed) -> None:
        """End a subscription, and discard its queue."""
        if feed.room.hub is not self:
            feed.room.hub.unsubscribe(feed)
            return
        if self.process != os.getpid():
            # In a forked child the subscription is the parent's.
            return
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
            if self.is_over:
                self._refuse()
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
        if self.interruption is not None:
            self._raise_interruption()
        return delivered + (sent if isinstance(sent, int) else sent.wait() or 0)

    def _refuse(self) -> None:
        text = "this worker has left its service and is about to end: the message would reach no other worker"
        # In a coroutine every wait raises this by now.
        raise _rmeinheld.CoroutineExit(text) if _rmeinheld.can_park() else RuntimeError(text)

    def _raise_interruption(self) -> None:
        interruption, self.interruption = self.interruption, None
        if interruption is not None:
            raise interruption

    def adopt(self, inherited: Hub) -> None:
        """Take over the subscriptions of the hub of the master. Without its lock, which nothing holds any more."""
        with self.lock:
            for former in inherited.rooms():
                room = self.room(former.name)
                for feed in former.feeds.values():
                    feed.move(room)
                    room.add(feed)
                self.release(room)

    def rooms(self) -> list[Room]:
        """Return the channels that have subscribers."""
        return list(self._rooms.values())

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
        while self._calls and not self.is_deferred:
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

    def left(self) -> None:
        """Refuse to publish from now on."""
        self.is_over = True

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


_deferred: dict[str, Hub] = {}
"""The hubs of the master, whose subscriptions this worker has not taken over yet."""


def _begin_process() -> None:
    """Begin without hubs, in a forked child: the parent's transports are dead, and its locks may be held."""
    global _hubs, _hubs_of, _making, _deferred
    _deferred = {url: hub for url, hub in _hubs.items() if hub.is_deferred}
    _making, _hubs, _hubs_of = _rmeinheld.RLock(), {}, os.getpid()


def _enter() -> None:
    """Take over the subscriptions that the application made in the master, when the master imported it."""
    global _deferred
    if _hubs_of not in (0, os.getpid()):
        _begin_process()
    deferred, _deferred = _deferred, {}
    for url, inherited in deferred.items():
        # The master may not know the option yet.
        hub_of(channel_options.url() if url == inherited.default_url else url).adopt(inherited)


_crew.entering.append(_enter)


def hub_of(url: str) -> Hub:
    """Return the hub of this process for a URL; "" is the crew. Raises ValueError for an unknown scheme."""
    if _hubs_of != os.getpid():
        _begin_process()
    hub = _hubs.get(url)
    if hub is None:
        with _making:
            hub = _hubs.get(url)
            if hub is None:
                is_deferred = _crew.is_master()
                transport = LocalTransport() if is_deferred else _transport_of(url)
                hub = _hubs[url] = Hub(transport, _crew.counter() or _uncounted, is_deferred=is_deferred)
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
