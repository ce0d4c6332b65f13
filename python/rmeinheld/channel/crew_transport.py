"""The transport between the workers of a service: their crew."""

from __future__ import annotations

import struct
from collections.abc import Hashable
from typing import TYPE_CHECKING, Final

from .. import _rmeinheld
from .subscriptions import spawn_or_thread
from .transport import Transport

if TYPE_CHECKING:
    from .transport import Receiver

__all__ = ["KIND", "CrewTransport"]

KIND: Final = 2
"""The kind of the crew's messages that are messages of channels."""

_LOST: Final = 255
"""A message without contents, which only says that messages before it were lost."""

_HEAD: Final = struct.Struct("<BBHI")
"""The kind, the length of the name, 0, and the number of messages that were lost before this one."""

_MOST_LOST_NAMES: Final = 10_000
"""Channels whose lost messages are counted one by one, for each sibling."""

_RETRY_SECONDS: Final = 0.05

type _Peer = tuple[int, int]


def _framed(channel: bytes, kind: int, payload: bytes, missed: int = 0) -> bytes:
    return b"".join((_HEAD.pack(kind, len(channel), 0, missed), channel, payload))


class CrewTransport(Transport):
    """Messages go from worker to worker. A message that has no room in the queue for a sibling is counted. The sibling
    hears of it as soon as there is room.
    """

    def __init__(self, crew: _rmeinheld.Crew) -> None:
        self._crew = crew
        self._receiver: Receiver | None = None
        # Held while a message is sent, so that the notes of lost messages stay in order with it.
        self._lock = _rmeinheld.RLock()
        self._lost: dict[_Peer, dict[bytes, int]] = {}
        self._is_retrying = False

    def open(self, receiver: Receiver) -> None:
        """Take messages of siblings from now on."""
        self._receiver = receiver
        self._crew.on_gone(self._gone)
        self._crew.on(KIND, self._receive)

    def publish(self, channel: bytes, kind: int, payload: bytes, to: Hashable | None = None) -> int:
        """Send a message to each sibling, or to one."""
        frame = _framed(channel, kind, payload)
        sent = 0
        with self._lock:
            for slot, generation, _ in self._crew.siblings():
                peer = slot, generation
                if to is not None and to != peer:
                    continue
                lost = self._lost.get(peer, {})
                missed = lost.get(channel, 0)
                if self._send(peer, channel, _framed(channel, kind, payload, missed) if missed else frame):
                    sent += 1
                    if missed:
                        del lost[channel]
        return sent

    def _send(self, peer: _Peer, channel: bytes, frame: bytes) -> bool:
        try:
            self._crew.send(peer[0], KIND, frame)
        except BlockingIOError:
            lost = self._lost.setdefault(peer, {})
            if channel in lost or len(lost) < _MOST_LOST_NAMES:
                lost[channel] = lost.get(channel, 0) + 1
            if not self._is_retrying:
                self._is_retrying = True
                spawn_or_thread(self._retry)
            return False
        except (OSError, RuntimeError):
            # It takes no messages yet, or no longer; or this worker is about to end.
            return False
        return True

    def _retry(self) -> None:
        """Tell siblings of lost messages, until each one knows."""
        while True:
            _rmeinheld.sleep(_RETRY_SECONDS)
            with self._lock:
                alive = {(slot, generation) for slot, generation, _ in self._crew.siblings()}
                for peer in list(self._lost):
                    if peer not in alive or self._notify(peer):
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
        """Do nothing: all siblings get all messages."""

    def unlisten(self, channel: bytes) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Take no more messages."""
        self._receiver = None

    def _receive(self, slot: int, generation: int, payload: bytes, _descriptors: list[int]) -> None:
        receiver = self._receiver
        if receiver is None:
            return
        kind, length, _, missed = _HEAD.unpack_from(payload)
        end = _HEAD.size + length
        channel = payload[_HEAD.size : end]
        peer = slot, generation
        if kind == _LOST:
            receiver.gap(channel, missed)
        else:
            receiver.message(peer, channel, kind, memoryview(payload)[end:], missed)

    def _gone(self, slot: int, generation: int) -> None:
        peer = slot, generation
        if self._receiver is not None:
            self._receiver.gone(peer)
            spawn_or_thread(self._look_again, peer)

    def _look_again(self, peer: _Peer) -> None:
        """Find out whether a sibling lives whose connection has ended. Messages on that connection may be lost."""
        _rmeinheld.sleep(_RETRY_SECONDS)
        with self._lock:
            is_alive = self._send(peer, b"", _framed(b"", _LOST, b""))
        receiver = self._receiver
        if is_alive and receiver is not None:
            receiver.gap(None, None)
            receiver.appeared(peer)
