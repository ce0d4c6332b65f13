"""Presence: who is where, over all processes of a service.

Each process owns the members that it has joined, and tells the others of changes. A process that begins to use presence
asks the others for what they own. The members of a process vanish with it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from .. import _rmeinheld
from .messages import MAX_MESSAGE_BYTES, MAX_NAME_BYTES, PRESENCE
from .subscriptions import Feed, Slow, Subscription, feed_of

if TYPE_CHECKING:
    from .hub import Hub
    from .subscriptions import AnyQueue

__all__ = ["Change", "Presence", "PresenceBook", "book_of"]

CHANNEL: Final = b""
"""The channel of all presence. Channels of applications have longer names."""

MAX_VALUE_BYTES: Final = 16 * 1024
"""The longest value of a member, as JSON. Each process keeps the values of all members."""

_SNAPSHOT_BYTES: Final = MAX_MESSAGE_BYTES // 4
"""Length of a piece of a snapshot, roughly."""

_ASK, _JOIN, _LEAVE, _PIECE = b"?", b"J", b"L", b"P"
"""The first bytes of the messages: a question for all members, two changes, and a part of the answer."""

_compact: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

type _Entry = tuple[int, str]
"""When a member has joined, in nanoseconds since 1970, and its value as JSON."""

_OWN: Final = None
"""Stands for this process among the peers."""


class Change(NamedTuple):
    """A change of the presence: a member has come, has another value, or has gone."""

    kind: Literal["join", "update", "leave"]
    """The kind of the change."""
    key: str
    """The key of the member."""
    value: Any
    """The value of the member; of "leave", the last one."""


class PresenceBook:
    """The presence of all channels of a hub. The lock of the hub protects it."""

    def __init__(self, hub: Hub) -> None:
        from .hub import Room

        self._hub = hub
        self._new_room: Callable[[bytes], Room] = lambda name: Room(hub, name, self._watched)
        self._watched: dict[bytes, Room] = {}
        # Channel, key, peer.
        self._members: dict[bytes, dict[str, dict[Hashable, _Entry]]] = {}
        # Peer, channel, keys.
        self._owned: dict[Hashable, dict[bytes, set[str]]] = {}
        self._pieces: dict[Hashable, list[list[tuple[bytes, str, _Entry]]]] = {}
        self._answered: set[Hashable] = set()
        self._is_whole = _rmeinheld.Event()
        hub.transport.listen(CHANNEL)
        asked = hub.transport.publish(CHANNEL, PRESENCE, _ASK)
        self._asked = asked if isinstance(asked, int) else 0
        self._note_answer()

    # For applications, with the lock.

    def join(self, channel: bytes, key: str, value: Any) -> None:
        """Add or change a member of this process. Raises ValueError and TypeError."""
        checked_key(key)
        text = _compact(value)
        if len(text.encode()) > MAX_VALUE_BYTES:
            raise ValueError(
                f"the value of a member has at most {MAX_VALUE_BYTES} bytes as JSON, not {len(text.encode())}"
            )
        entry = time.time_ns(), text
        self._change(channel, key, _OWN, entry)
        self._tell(_JOIN, [channel.decode(), key, *entry])

    def leave(self, channel: bytes, key: str) -> bool:
        """Remove a member of this process. Returns whether there was one."""
        if key not in self._owned.get(_OWN, {}).get(channel, ()):
            return False
        self._change(channel, key, _OWN, None)
        self._tell(_LEAVE, [channel.decode(), key])
        return True

    def members(self, channel: bytes) -> dict[str, Any]:
        """Return the members of a channel with their values."""
        return {key: json.loads(_latest(peers)[1]) for key, peers in self._members.get(channel, {}).items()}

    def keys(self, channel: bytes) -> list[str]:
        """Return the keys of the members of a channel."""
        return list(self._members.get(channel, {}))

    def has(self, channel: bytes, key: str) -> bool:
        """Whether a channel has a member."""
        return key in self._members.get(channel, {})

    def count(self, channel: bytes) -> int:
        """Return the number of members of a channel."""
        return len(self._members.get(channel, {}))

    def watch(self, channel: bytes, make: Callable[[Any], Feed]) -> Feed:
        """Add a watcher of the changes of a channel."""
        room = self._watched.get(channel)
        if room is None:
            room = self._watched[channel] = self._new_room(channel)
        try:
            feed = make(room)
            room.add(feed)
        finally:
            self._hub.release(room)
        return feed

    def await_whole(self, timeout: float) -> bool:
        """Wait until all processes have answered the first question. Without the lock."""
        return self._is_whole.is_set() or self._is_whole.wait(timeout)

    # For the hub, with the lock.

    def message(self, peer: Hashable, payload: bytes, missed: int) -> None:
        """Take a message of another process's presence."""
        if missed:
            self._ask(peer)
        kind, rest = payload[:1], payload[1:]
        if kind == _ASK:
            self._answer(peer)
        elif kind == _JOIN:
            channel, key, stamp, text = json.loads(rest)
            self._change(channel.encode(), key, peer, (stamp, text))
        elif kind == _LEAVE:
            channel, key = json.loads(rest)
            self._change(channel.encode(), key, peer, None)
        elif kind == _PIECE:
            self._take_piece(peer, *json.loads(rest))

    def _take_piece(self, peer: Hashable, number: int, is_last: bool, entries: list[tuple[str, str, int, str]]) -> None:
        pieces = self._pieces.setdefault(peer, [])
        if number == 0:
            pieces.clear()
        if number != len(pieces):
            # A piece was lost. The note of that has been answered by a new question.
            return
        pieces.append([(channel.encode(), key, (stamp, text)) for channel, key, stamp, text in entries])
        if is_last:
            self._replace(peer, [entry for piece in self._pieces.pop(peer) for entry in piece])
            self._answered.add(peer)
            self._note_answer()

    def appeared(self, peer: Hashable) -> None:
        """Ask a process for its members, which are not known, or not for certain."""
        self._ask(peer)

    def gap(self) -> None:
        """Ask all processes for their members, after messages were lost."""
        self._hub.transport.publish(CHANNEL, PRESENCE, _ASK)

    def gone(self, peer: Hashable) -> None:
        """Forget the members of a process."""
        self._pieces.pop(peer, None)
        self._replace(peer, [])
        if not self._is_whole.is_set():
            self._answered.add(peer)
            self._note_answer()

    def _ask(self, peer: Hashable) -> None:
        self._hub.transport.publish(CHANNEL, PRESENCE, _ASK, peer)

    def _note_answer(self) -> None:
        if len(self._answered) >= self._asked:
            self._answered.clear()
            self._asked = 0
            self._is_whole.set()

    def _tell(self, kind: bytes, fields: list[Any]) -> None:
        self._hub.transport.publish(CHANNEL, PRESENCE, kind + _compact(fields).encode())

    def _answer(self, peer: Hashable) -> None:
        """Send all members of this process, in pieces."""
        piece: list[Any] = []
        size = number = 0
        for channel, keys in self._owned.get(_OWN, {}).items():
            for key in keys:
                stamp, text = self._members[channel][key][_OWN]
                piece.append([channel.decode(), key, stamp, text])
                size += len(channel) + len(key) + len(text) + 40
                if size > _SNAPSHOT_BYTES:
                    self._send_piece(peer, number, False, piece)
                    piece, size, number = [], 0, number + 1
        self._send_piece(peer, number, True, piece)

    def _send_piece(self, peer: Hashable, number: int, is_last: bool, piece: list[Any]) -> None:
        payload = _PIECE + _compact([number, is_last, piece]).encode()
        self._hub.transport.publish(CHANNEL, PRESENCE, payload, peer)

    def _replace(self, peer: Hashable, entries: list[tuple[bytes, str, _Entry]]) -> None:
        """Make `entries` all members of a process."""
        stays = {(channel, key) for channel, key, _ in entries}
        gone = [
            (channel, key)
            for channel, keys in self._owned.get(peer, {}).items()
            for key in keys
            if (channel, key) not in stays
        ]
        for channel, key in gone:
            self._change(channel, key, peer, None)
        for channel, key, entry in entries:
            self._change(channel, key, peer, entry)

    def _change(self, channel: bytes, key: str, peer: Hashable, entry: _Entry | None) -> None:
        """Note a member of a process, or its end, and tell watchers of what changes for the whole service."""
        room = self._members.setdefault(channel, {})
        peers = room.setdefault(key, {})
        before = _latest(peers) if peers else None
        owned = self._owned.setdefault(peer, {}).setdefault(channel, set())
        if entry is None:
            peers.pop(peer, None)
            owned.discard(key)
        else:
            peers[peer] = entry
            owned.add(key)
        if not owned:
            self._forget_owner(peer, channel)
        after = _latest(peers) if peers else None
        if after is None:
            del room[key]
            if not room:
                del self._members[channel]
        watchers = self._watched.get(channel)
        if watchers is None:
            return
        before_text, after_text = before and before[1], after and after[1]
        if before_text == after_text:
            return
        kind: Literal["join", "update", "leave"] = (
            "leave" if after_text is None else "join" if before_text is None else "update"
        )
        watchers.deliver(Change(kind, key, json.loads(after_text or before_text or "null")))
        self._hub.release(watchers)

    def _forget_owner(self, peer: Hashable, channel: bytes) -> None:
        channels = self._owned[peer]
        del channels[channel]
        if not channels:
            del self._owned[peer]


def _latest(peers: dict[Hashable, _Entry]) -> _Entry:
    """Return the entry of the process that a key has joined last, the same in all processes."""
    return next(iter(peers.values())) if len(peers) == 1 else max(peers.values())


def checked_key(key: str) -> None:
    """Raise TypeError, or ValueError naming the limit, if `key` cannot be the key of a member."""
    if not isinstance(key, str):
        raise TypeError(f"the key of a member is a str, not {type(key).__name__}")
    length = len(key.encode())
    if not 0 < length <= MAX_NAME_BYTES:
        raise ValueError(f"the key of a member has 1 to {MAX_NAME_BYTES} bytes in UTF-8, not {length}")


def book_of(hub: Hub) -> PresenceBook:
    """Return the presence of a hub. The first call asks the other processes for theirs."""
    book = hub.presence
    if book is None:
        with hub.lock:
            book = hub.presence
            if book is None:
                book = hub.presence = PresenceBook(hub)
    return book


class Presence:
    """The members of a channel: `Channel.presence`.

    A member is a key, such as the id of a user or a connection, with a value. It belongs to the process that has joined
    it, and ends with that process: within a second if the process is killed. A key may be joined in several processes.
    It is a member until the last one has left, and has the value of the latest `join`.
    """

    def __init__(self, name: bytes, hub: Callable[[], Hub]) -> None:
        self._name = name
        self._hub = hub

    def join(self, key: str, value: Any = None) -> None:
        """Make `key` a member in this process, or give it another value. All processes hear of it.

        `key` has 1 to 255 bytes in UTF-8. `value` is what JSON knows, up to 16 KiB. Raises ValueError naming the limit,
        and TypeError.
        """
        hub = self._hub()
        book = book_of(hub)
        with hub.lock:
            book.join(self._name, key, value)
        hub.make_calls()

    def leave(self, key: str) -> bool:
        """End the membership of `key` in this process. Returns false if this process has not joined it."""
        hub = self._hub()
        book = book_of(hub)
        with hub.lock:
            left = book.leave(self._name, key)
        hub.make_calls()
        return left

    def members(self, timeout: float = 1.0) -> dict[str, Any]:
        """Return the members of all processes: their keys and values.

        A process knows the changes of others a moment after they happen. At its first use of any presence it asks the
        others, and waits at most `timeout` seconds for their answers: a process that computes does not answer.
        """
        hub, book = self._whole(timeout)
        with hub.lock:
            return book.members(self._name)

    def keys(self, timeout: float = 1.0) -> list[str]:
        """Return the keys of the members, which is faster than `members`. `timeout` is that of `members`."""
        hub, book = self._whole(timeout)
        with hub.lock:
            return book.keys(self._name)

    def watch(
        self,
        subscriber: Callable[[Change], object] | AnyQueue | None = None,
        *,
        max_queue: int = 1000,
        slow: Slow = "drop_oldest",
    ) -> Subscription:
        """Subscribe to changes: a `Change` for each member that comes, goes, or gets another value.

        The arguments are those of `Channel.subscribe`. A member that moves from one process to another, and joins there
        before it leaves here, does not change.
        """
        hub = self._hub()
        book = book_of(hub)
        with hub.lock:
            feed = book.watch(self._name, lambda room: feed_of(room, subscriber, max_queue, slow, None))
        return Subscription(feed)

    def _whole(self, timeout: float) -> tuple[Hub, PresenceBook]:
        hub = self._hub()
        book = book_of(hub)
        book.await_whole(timeout)
        return hub, book

    def __contains__(self, key: object) -> bool:
        book = self._whole(1.0)[1]
        return isinstance(key, str) and book.has(self._name, key)

    def __len__(self) -> int:
        book = self._whole(1.0)[1]
        return book.count(self._name)
