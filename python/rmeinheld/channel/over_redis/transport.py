"""The transport of channels over Redis."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import time
from collections.abc import Hashable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ... import _crew, _rmeinheld
from ...error_log import LOGGER_NAME
from ..messages import PRESENCE
from ..transport import Pending, Transport
from .frames import PEER_BYTES, Frame, Names, Signer, key_of
from .link import Link, in_background
from .listener import Confirmation, Listener
from .numbers import FORGED, Numbers
from .sender import Reply, Script, Sender

if TYPE_CHECKING:
    from ..transport import Receiver

__all__ = ["RedisTransport"]

_logger: Final = logging.getLogger(LOGGER_NAME)

BEAT_SECONDS: Final = 0.5
"""The time between two signs of life."""

LIFE_SECONDS: Final = 3.0
"""A process without a sign of life for this time counts as ended, with its presence."""

_APPEARED: Final = 254
"""A message of a process whose presence the others may not know."""

_GONE: Final = 255
"""A message about a process that has ended, with its name."""

_FORGOTTEN_SECONDS: Final = 24 * 60 * 60
"""The time after its last message for which Redis numbers a channel."""

_COMPLAINT_SECONDS: Final = 60.0
"""The least time between two lines of the log about forged messages."""

_PUBLISH: Final = Script(f"""
local position = redis.call('HINCRBY', KEYS[1], 'n', 1)
local epoch
if position == 1 then
    local time = redis.call('TIME')
    epoch = time[1] .. string.sub('00000' .. time[2], -6)
    redis.call('HSET', KEYS[1], 'e', epoch)
else
    epoch = redis.call('HGET', KEYS[1], 'e')
end
redis.call('EXPIRE', KEYS[1], {_FORGOTTEN_SECONDS})
return redis.call('PUBLISH', ARGV[1], epoch .. ':' .. string.format('%.0f', position) .. ' ' .. ARGV[2])
""")
"""Numbers a message and publishes it. Returns the number of connections that get it."""

_BEAT: Final = Script("""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. string.format('%.0f', now))
local is_new = redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[2]), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {is_new, redis.call('ZRANGE', KEYS[1], 0, -1)}
""")
"""Notes a sign of life. Returns whether the process was not known, and all that live."""


class RedisTransport(Transport):
    """Carries messages over one Redis. `origin` names the place of `url`, and `secret` signs messages.

    Without a secret, the password of the URL signs them. Raises ImportError and ValueError as `Link` does.
    """

    def __init__(self, url: str, origin: str, secret: str = "") -> None:
        self._link = Link(url, origin)
        self._is_secret = bool(secret or self._link.password)
        self.peer, self._crew_part = _own_name()
        self._signer = Signer(key_of(secret or self._link.password), self.peer)
        self._names = Names(self._link.database)
        self._sender = Sender(self._link)
        self._listener = Listener(self._link, self)
        self._receiver: Receiver | None = None
        self._number = 0
        self._numbering = _rmeinheld.RLock()
        self._numbers: dict[bytes, Numbers] = {}
        self._unchecked: set[bytes] = set()
        self._peers: dict[bytes, float] = {}
        """The processes that live, each with the time at which this one knew of it."""
        self._last_numbers: dict[tuple[bytes, bytes], int] = {}
        self._buried: dict[bytes, float] = {}
        self._distrusted_until = 0.0
        self._must_appear = True
        self._end = _rmeinheld.Event()
        self._sender.last_words = self._last_words
        self._complained_at = -_COMPLAINT_SECONDS
        self.refused = 0
        """Number of messages that were dropped because they were malformed, forged or repeated."""

    # For the hub.

    def open(self, receiver: Receiver) -> None:
        """Connect, and learn which processes live. Raises ConnectionError or TimeoutError naming the URL.

        # Parks
        """
        self._receiver = receiver
        if not self._is_secret:
            _logger.warning(
                "Messages over %s are not signed by a secret: neither channel_key (RMEINHELD_CHANNEL_KEY) is set, nor "
                "has the URL a password. Every client of this Redis can publish to the channels",
                self._link.title,
            )
        self._sender.start()
        try:
            self._beat()
            self._listener.start()
            for channel in (self._names.all, self._names.peer(self.peer)):
                self._listener.subscribe(channel).wait()
        except BaseException:
            self.close()
            raise
        in_background(self._keep_alive)

    def publish(self, channel: bytes, kind: int, payload: bytes, to: Hashable | None = None) -> int | Pending:
        """Send a message. The number of an application's message is `Pending` until Redis has the message."""
        if kind == PRESENCE:
            target = self._names.peer(to) if isinstance(to, bytes) else self._names.all
            self._send(target, kind, payload)
            return 1 if to is not None else len(self._peers)
        target = self._names.channel(channel)
        with self._numbering:
            self._number += 1
            frame = self._signer.pack(target, kind, self._number, payload)
            reply = self._sender.submit(_PUBLISH, 1, self._names.numbers(channel), target, frame)
        return _Published(reply, channel in self._numbers)

    def listen(self, channel: bytes) -> Confirmation | None:
        """Subscribe to a channel. The messages for all processes and for this one come anyway."""
        if not channel:
            return None
        self._numbers[channel] = Numbers()
        return self._listener.subscribe(self._names.channel(channel))

    def unlisten(self, channel: bytes) -> None:
        """End the subscription to a channel."""
        if self._numbers.pop(channel, None) is not None:
            self._listener.unsubscribe(self._names.channel(channel))

    def close(self) -> None:
        """End, and tell the other processes."""
        self._end.set()
        self._listener.close()
        self._sender.close()

    # For the listener.

    def message(self, channel: bytes, data: bytes) -> None:
        """Take a message from Redis."""
        frame = self._signer.unpack(channel, data)
        if frame is None:
            self._refuse(channel, "a wrong signature")
            return
        name = self._names.name(channel)
        numbers = None if name is None else self._numbers.get(name)
        if name is None:
            self._handle_internal(channel, frame)
        elif numbers is not None:
            missed = numbers.message(frame.peer, frame.number, frame.epoch, frame.position)
            if missed == FORGED:
                self._refuse(channel, "a number that was used before")
            else:
                self._deliver(name, frame, missed)

    def _deliver(self, name: bytes, frame: Frame, missed: Any) -> None:
        receiver = self._receiver
        if receiver is None:
            return
        if missed is None:
            receiver.gap(name, None)
        if frame.peer == self.peer:
            # This process had it when it was published.
            if missed:
                receiver.gap(name, missed)
        else:
            receiver.message(frame.peer, name, frame.kind, frame.payload, missed or 0)

    def disconnected(self) -> None:
        """Note that messages may be lost."""
        for numbers in list(self._numbers.values()):
            numbers.disconnected()
        self._distrusted_until = time.monotonic() + LIFE_SECONDS

    def confirmed(self, channels: list[bytes]) -> None:
        """Ask for the numbers of channels whose messages come from now on."""
        self._sender.back_off.retry_now()
        if self._names.all in channels and self._receiver is not None and self._distrusted_until:
            # Messages of the presence may be lost.
            self._must_appear = True
            self._receiver.gap(b"", None)
        self._check([name for channel in channels if (name := self._names.name(channel)) is not None])

    def _check(self, names: Iterable[bytes]) -> None:
        """Compare the last number of channels in Redis with that of the messages that have come."""
        for name in names:
            self._unchecked.add(name)
            key = self._names.numbers(name)
            self._sender.submit(b"HMGET", key, b"e", b"n", callback=partial(self._compare, name))

    def _compare(self, name: bytes, found: Any) -> None:
        if found is None:
            return  # Redis is away. The next beat asks again.
        epoch, position = int(found[0] or 0), int(found[1] or 0)

        def compare() -> None:
            self._unchecked.discard(name)
            numbers, receiver = self._numbers.get(name), self._receiver
            if numbers is not None and receiver is not None:
                missed = numbers.reached(epoch, position)
                if missed is None or missed > 0:
                    receiver.gap(name, missed)

        self._listener.after_arrived(compare)

    # Other processes.

    def _send(self, channel: bytes, kind: int, payload: bytes) -> None:
        """Send a message of the transport's own, whose loss the next beat makes good."""
        with self._numbering:
            self._sender.submit(b"PUBLISH", channel, self._frame(channel, kind, payload), callback=self._note_sent)

    def _frame(self, channel: bytes, kind: int, payload: bytes) -> bytes:
        self._number += 1
        return b"0:0 " + self._signer.pack(channel, kind, self._number, payload)

    def _note_sent(self, heard: Any) -> None:
        if heard is None:
            self._must_appear = True

    def _handle_internal(self, channel: bytes, frame: Frame) -> None:
        receiver, peer = self._receiver, frame.peer
        if receiver is None or peer == self.peer:
            return
        if frame.number <= self._last_numbers.get((channel, peer), 0):
            self._refuse(channel, "a number that was used before")
            return
        self._last_numbers[channel, peer] = frame.number
        if frame.kind == PRESENCE and peer in self._peers:
            # One that is not known will say that it has appeared, and be asked for its members.
            receiver.message(peer, b"", PRESENCE, frame.payload)
        elif frame.kind == _APPEARED:
            self._peers[peer] = time.monotonic()
            receiver.appeared(peer)
        elif frame.kind == _GONE and len(frame.payload) == PEER_BYTES:
            ended = bytes(frame.payload)
            self._buried[ended] = time.monotonic() + LIFE_SECONDS
            self._forget(ended)

    def _forget(self, peer: bytes) -> None:
        if self._peers.pop(peer, None) is None:
            return
        for channel in (self._names.all, self._names.peer(self.peer)):
            self._last_numbers.pop((channel, peer), None)
        for numbers in list(self._numbers.values()):
            numbers.forget(peer)
        if self._receiver is not None:
            self._receiver.gone(peer)

    def _beat(self) -> None:
        """Give a sign of life, and note those of the others. Raises ConnectionError.

        # Parks
        """
        now = time.monotonic()
        life = b"%d" % (LIFE_SECONDS * 1000)
        is_new, found = self._sender.submit(_BEAT, 1, self._names.peers, self.peer, life).wait()
        self._note_peers(bool(is_new), found, now)

    def _keep_alive(self) -> None:
        while not self._end.wait(BEAT_SECONDS):
            try:
                self._beat()
                self._bury_siblings()
                self._check(list(self._unchecked))
            except ConnectionError:
                # The others may not have been able to give a sign of life.
                self._distrusted_until = time.monotonic() + LIFE_SECONDS

    def _note_peers(self, is_new: bool, found: list[bytes], asked_at: float) -> None:
        now = time.monotonic()
        self._buried = {peer: until for peer, until in self._buried.items() if until > now}
        alive = {peer for peer in found if len(peer) == PEER_BYTES} - {self.peer} - self._buried.keys()
        for peer in alive - self._peers.keys():
            self._peers[peer] = asked_at
            if self._receiver is not None and not self._must_appear:
                self._receiver.appeared(peer)
        if now >= self._distrusted_until:
            for peer in self._peers.keys() - alive:
                if self._peers[peer] < asked_at:
                    self._forget(peer)
        if is_new or self._must_appear:
            self._must_appear = False
            self._send(self._names.all, _APPEARED, b"")

    def _bury_siblings(self) -> None:
        """Tell all processes of workers of this service that have died, which they would notice later."""
        crew = _crew.current()
        if crew is None or not self._crew_part:
            return
        siblings = [peer for peer in self._peers if peer.startswith(self._crew_part)]
        alive = {_name_in_crew(self._crew_part, slot, generation) for slot, generation, _ in crew.siblings()}
        for peer in siblings:
            if peer not in alive:
                self._sender.submit(b"ZREM", self._names.peers, peer)
                self._send(self._names.all, _GONE, peer)
                self._buried[peer] = time.monotonic() + LIFE_SECONDS
                self._forget(peer)

    def _last_words(self) -> list[tuple[Any, ...]]:
        gone = self._frame(self._names.all, _GONE, self.peer)
        return [(b"ZREM", self._names.peers, self.peer), (b"PUBLISH", self._names.all, gone)]

    def _refuse(self, channel: bytes, reason: str) -> None:
        self.refused += 1
        now = time.monotonic()
        if now - self._complained_at >= _COMPLAINT_SECONDS:
            self._complained_at = now
            _logger.warning(
                "Dropped a message over %s on %r: it has %s. %d were dropped so far. All machines of a service need "
                "the same channel_key (RMEINHELD_CHANNEL_KEY), and other services another database",
                self._link.title,
                channel.decode(errors="replace"),
                reason,
                self.refused,
            )


class _Published:
    """A message that is on its way to Redis."""

    __slots__ = ("_hears_itself", "_reply")

    def __init__(self, reply: Reply, hears_itself: bool) -> None:
        self._reply = reply
        self._hears_itself = hears_itself

    def wait(self) -> int:
        """Wait until Redis has it, and return the number of other processes that get it. Raises ConnectionError."""
        return max(0, int(self._reply.wait()) - self._hears_itself)


def _own_name() -> tuple[bytes, bytes]:
    """Return the name of this process among those of all machines, and the part that its siblings have, too."""
    identity = _crew.identity()
    if identity is None:
        return secrets.token_bytes(PEER_BYTES), b""
    place, slot, generation = identity
    part = hashlib.blake2b(f"{os.uname().nodename} {place}".encode(), digest_size=8).digest()
    return _name_in_crew(part, slot, generation), part


def _name_in_crew(part: bytes, slot: int, generation: int) -> bytes:
    return part + slot.to_bytes(4) + generation.to_bytes(4)
