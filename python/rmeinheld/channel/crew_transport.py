"""The transport between the workers of a service: their crew."""

from __future__ import annotations

import struct
from collections.abc import Hashable
from typing import TYPE_CHECKING, Final, cast

from .. import _crew, _rmeinheld
from .subscriptions import spawn_or_thread
from .transport import Transport

if TYPE_CHECKING:
    from .transport import Receiver

__all__ = ["KIND", "CrewTransport"]

KIND: Final = 2
"""The kind of the crew's messages that are messages of channels."""

_LOST: Final = 255
"""A message without contents, which only says that messages before it were lost."""

_ANY: Final = b"\0"
"""The channel of a note that stands for all channels."""

_HEAD: Final = struct.Struct("<BBxxI")
"""The kind, the length of the name, and in a note the number of messages of the channel that were lost before it."""

_MOST_LOST_NAMES: Final = 10_000
"""Channels whose lost messages are counted one by one, for each sibling."""

_RETRY_SECONDS: Final = 0.02
"""Time between two looks whether a queue that was full has room again."""

type _Peer = tuple[int, int]


def _framed(channel: bytes, kind: int, payload: bytes, missed: int = 0) -> bytes:
    return b"".join((_HEAD.pack(kind, len(channel), missed), channel, payload))


class CrewTransport(Transport):
    """Messages go from worker to worker. A message that has no room in the queue for a sibling is counted. The sibling
    hears of it as soon as there is room.
    """

    def __init__(self, crew: _rmeinheld.Crew) -> None:
        self._crew = crew
        self._receiver: Receiver | None = None
        self._lost: dict[_Peer, dict[bytes, int]] = {}
        self._is_retrying = False

    def open(self, receiver: Receiver) -> None:
        """Take messages of siblings from now on."""
        self._receiver = receiver
        _crew.leaving.append(receiver.left)
        self._crew.on_gone(self._gone)
        self._crew.on(KIND, self._receive)

    def publish(self, channel: bytes, kind: int, payload: bytes, to: Hashable | None = None) -> int:
        """Send a message to each sibling, or to one."""
        frame = _framed(channel, kind, payload)
        if to is not None:
            slot, generation = cast("_Peer", to)
            return int(self._send((slot, generation), channel, frame))
        try:
            # A sibling that has lost messages gets none until it knows, so that the gap is where it was.
            sent, full = self._crew.send_to_listeners(channel, KIND, frame, list(self._lost))
        except RuntimeError:
            # This worker is about to end.
            return 0
        for peer in full:
            self._note_lost(peer, channel)
        return sent

    def _send(self, peer: _Peer, channel: bytes, frame: bytes) -> bool:
        """Send a message to one sibling."""
        if peer in self._lost:
            self._note_lost(peer, channel)
            return False
        try:
            self._crew.send(peer[0], KIND, frame)
        except BlockingIOError:
            self._note_lost(peer, channel)
            return False
        except (OSError, RuntimeError):
            # It takes no messages yet, or no longer; or this worker is about to end.
            return False
        return True

    def _note_lost(self, peer: _Peer, channel: bytes) -> None:
        lost = self._lost.setdefault(peer, {})
        # Beyond the limit a gap of all channels stands for the rest.
        channel = channel if channel in lost or len(lost) < _MOST_LOST_NAMES else _ANY
        lost[channel] = lost.get(channel, 0) + 1
        if not self._is_retrying:
            self._is_retrying = True
            spawn_or_thread(self._retry, self._receiver)

    def _retry(self, receiver: Receiver) -> None:
        """Tell siblings of lost messages, until each one knows."""
        while True:
            _rmeinheld.sleep(_RETRY_SECONDS)
            with receiver.lock:
                alive = {(slot, generation) for slot, generation, _ in self._crew.siblings()}
                for peer in list(self._lost):
                    if peer not in alive or (self._crew.has_room(peer[0]) and self._notify(peer)):
                        del self._lost[peer]
                if not self._lost:
                    self._is_retrying = False
                    return

    def _notify(self, peer: _Peer) -> bool:
        """Send notes of lost messages until the queue is full. Returns whether all are sent."""
        lost = self._lost[peer]
        while lost:
            channel, missed = next(iter(lost.items()))
            try:
                self._crew.send(peer[0], KIND, _framed(channel, _LOST, b"", missed))
            except BlockingIOError:
                return False
            except (OSError, RuntimeError):
                return True
            del lost[channel]
        return True

    def listen(self, channel: bytes) -> None:
        """Note in the shared memory that this worker listens."""
        self._crew.listen(channel)

    def unlisten(self, channel: bytes) -> None:
        """Note that this worker listens no longer."""
        self._crew.unlisten(channel)

    def close(self) -> None:
        """Take no more messages."""
        self._receiver = None

    def _receive(self, slot: int, generation: int, payload: bytes, _descriptors: list[int]) -> None:
        receiver = self._receiver
        if receiver is None:
            return
        kind, length, missed = _HEAD.unpack_from(payload)
        end = _HEAD.size + length
        channel = payload[_HEAD.size : end]
        if kind != _LOST:
            receiver.message((slot, generation), channel, kind, payload[end:])
        elif missed:
            receiver.gap(None if channel == _ANY else channel, None if channel == _ANY else missed)

    def _gone(self, slot: int, generation: int) -> None:
        peer = slot, generation
        receiver = self._receiver
        if receiver is not None:
            receiver.gone(peer)
            spawn_or_thread(self._look_again, peer, receiver)

    def _look_again(self, peer: _Peer, receiver: Receiver) -> None:
        """Find out whether a sibling lives whose connection has ended. Messages on that connection may be lost."""
        _rmeinheld.sleep(_RETRY_SECONDS)
        with receiver.lock:
            is_alive = self._send(peer, b"", _framed(b"", _LOST, b""))
        if is_alive:
            receiver.gap(None, None)
            receiver.appeared(peer)
