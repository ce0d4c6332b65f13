"""The form of a message in Redis: signed, and with the name of its sender.

    number of Redis | version, kind, sender, number of the sender, signature | contents

Redis puts the first part before what the sender has signed. A message whose signature is wrong, or whose sender has
already sent a later one, counts as forged.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Final, NamedTuple

__all__ = ["PEER_BYTES", "Frame", "Names", "Signer", "key_of"]

PEER_BYTES: Final = 16
"""Length of the name of a process."""

_VERSION: Final = 1
_HEAD: Final = struct.Struct(">BB16sQ16s")
_SIGNED: Final = struct.Struct(">BB16sQ")
_SIGNATURE_BYTES: Final = 16
_MOST_NUMBER_BYTES: Final = 48
"""The longest number of Redis, with some room: two integers of 64 bits and two separators."""


class Frame(NamedTuple):
    """A message of another process."""

    kind: int
    peer: bytes
    number: int
    """Number of the message among those of its sender."""
    epoch: int
    """Time at which Redis began to number the channel, in microseconds since 1970; 0 if it does not number it."""
    position: int
    """Number of the message on its channel, from 1."""
    payload: memoryview


def key_of(secret: str) -> bytes:
    """Return the key for signatures that belongs to a secret of any length."""
    return hashlib.blake2b(secret.encode(), digest_size=32, person=b"rmeinheld.chan").digest()


class Signer:
    """Makes and reads messages, signed with a key (HMAC-SHA256, of which 128 bits are sent)."""

    def __init__(self, key: bytes, peer: bytes) -> None:
        self._key = key
        self._peer = peer

    def pack(self, channel: bytes, kind: int, number: int, payload: bytes) -> bytes:
        """Return a message for a channel of Redis."""
        head = _SIGNED.pack(_VERSION, kind, self._peer, number)
        return b"".join((head, self._signature(channel, head, payload), payload))

    def unpack(self, channel: bytes, data: bytes) -> Frame | None:
        """Return the parts of a message, or None if it is malformed or its signature is wrong."""
        separator = data.find(b" ", 0, _MOST_NUMBER_BYTES)
        if separator < 0 or len(data) < separator + 1 + _HEAD.size:
            return None
        epoch, colon, position = data[:separator].partition(b":")
        if not (colon and epoch.isdigit() and position.isdigit()):
            return None
        start = separator + 1
        version, kind, peer, number, signature = _HEAD.unpack_from(data, start)
        view = memoryview(data)
        payload = view[start + _HEAD.size :]
        expected = self._signature(channel, view[start : start + _SIGNED.size], payload)
        if version != _VERSION or not hmac.compare_digest(signature, expected):
            return None
        return Frame(kind, peer, number, int(epoch), int(position), payload)

    def _signature(self, channel: bytes, head: bytes | memoryview, payload: bytes | memoryview) -> bytes:
        # The name of the channel has a length of its own, so that no byte moves from one part to another.
        signed = b"".join((len(channel).to_bytes(2), channel, head, payload))
        return hmac.digest(self._key, signed, "sha256")[:_SIGNATURE_BYTES]


class Names:
    """Names of channels and keys in Redis, which begin with `rmeinheld:` and the number of the database.

    Redis has the same channels in all databases.
    """

    def __init__(self, database: int) -> None:
        self._base = b"rmeinheld:%d:" % database
        self._channels = self._base + b"m:"
        self.peers = self._base + b"peers"
        """The sorted set of the processes that live."""
        self.all = self._base + b"all"
        """The channel of messages for all processes."""

    def channel(self, name: bytes) -> bytes:
        """Return the channel of Redis for a channel of the application."""
        return self._channels + name

    def numbers(self, name: bytes) -> bytes:
        """Return the key with the number of the last message."""
        return self._base + b"n:" + name

    def peer(self, peer: bytes) -> bytes:
        """Return the channel of messages for one process."""
        return self._base + b"p:" + peer.hex().encode()

    def name(self, channel: bytes) -> bytes | None:
        """Return the application's name for a channel of Redis; None for a channel of this transport's own."""
        return channel[len(self._channels) :] if channel.startswith(self._channels) else None
