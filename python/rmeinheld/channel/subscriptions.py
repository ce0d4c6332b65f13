"""Subscriptions: bounded queues between a channel and its subscribers."""

from __future__ import annotations

import json
import logging
import queue
import sys
from collections import deque
from collections.abc import Callable, Iterator
from threading import Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, Self, cast

from .. import _rmeinheld
from ..error_log import LOGGER_NAME

if TYPE_CHECKING:
    from .hub import Room

__all__ = [
    "CLOSED",
    "DISPLACED",
    "DROPPED",
    "OVER",
    "QUEUED",
    "AnyQueue",
    "Feed",
    "HandledFeed",
    "JsonText",
    "Slow",
    "Subscription",
    "SubscriptionEnded",
    "feed_of",
    "spawn_or_thread",
]

type Slow = Literal["drop_oldest", "drop_newest", "end"]
"""The treatment of a subscriber whose queue is full."""

SLOW: Final = ("drop_oldest", "drop_newest", "end")

QUEUED: Final = 0
DISPLACED: Final = 1
DROPPED: Final = 2
OVER: Final = 3

CLOSED: Final = "it was closed"
"""The reason of a subscription that its subscriber has ended."""

_logger: Final = logging.getLogger(LOGGER_NAME)


class SubscriptionEnded(Exception):
    """The subscription has ended: it was closed, or its subscriber was too slow."""


class AnyQueue(Protocol):
    """A queue of the application: `queue.Queue`, `rmeinheld.coroutine.Queue` or one like them."""

    def put_nowait(self, item: Any, /) -> object:
        """Put an item in, or raise queue.Full."""

    def get_nowait(self) -> Any:
        """Take an item out, or raise queue.Empty."""

    def qsize(self) -> int:
        """Return the number of items."""


class JsonText:
    """A message that is JSON. Each subscriber decodes it, so that none gets another one's object."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class _Gap:
    """A place in a queue where messages are missing."""

    __slots__ = ("missed",)

    def __init__(self, missed: int | None) -> None:
        self.missed = missed


def _decoded(item: Any) -> Any:
    return json.loads(item.text) if type(item) is JsonText else item


def spawn_or_thread(call: Callable[..., object], *arguments: Any) -> None:
    """Run a call in a coroutine; in a forked child, which has none, in a thread."""
    try:
        _rmeinheld.spawn(call, *arguments)
    except RuntimeError:
        Thread(target=call, args=arguments, daemon=True).start()


class Feed:
    """The queue of one subscription. The hub calls `put` and `note_gap` while it holds its lock."""

    def __init__(self, room: Room, max_queue: int, slow: Slow, on_gap: Callable[[int | None], object] | None) -> None:
        self.room = room
        self.max_queue = max_queue
        self.slow = slow
        self.on_gap = on_gap
        self.dropped = 0
        self.gaps = 0
        self.missed = 0
        self.end: str | None = None
        """Why it has ended; None while it lasts."""

    def put(self, item: Any) -> int:
        """Queue a message. Returns QUEUED, DISPLACED if the oldest one was dropped for it, DROPPED, or OVER."""
        if self.end is not None:
            return OVER
        if self._offer(item):
            return QUEUED
        self.dropped += 1
        if self.slow == "drop_oldest":
            self._drop_oldest()
            if self._offer(item):
                return DISPLACED
            # Another thread has put something into the queue.
        elif self.slow == "end":
            self.finish(f"{self.max_queue} messages (max_queue) waited for its subscriber, which is too slow")
        return DROPPED

    def note_gap(self, missed: int | None) -> None:
        """Count lost messages; None: their number is unknown."""
        self.gaps += 1
        self.missed += missed or 0
        if self.on_gap is not None and self.end is None:
            self._offer_gap(_Gap(missed))

    def finish(self, reason: str, *, discards: bool = False) -> None:
        """End the subscription. Queued messages are still delivered, unless it `discards` them."""
        if self.end is None:
            self.end = reason

    def move(self, room: Room) -> None:
        """Belong to the room of another process, a child of the one that made the subscription."""
        self.room = room

    def waiting(self) -> int:
        """Return the number of queued messages."""
        raise NotImplementedError

    def _offer(self, item: Any) -> bool:
        raise NotImplementedError

    def _offer_gap(self, gap: _Gap) -> None:
        self._offer(gap)

    def _drop_oldest(self) -> None:
        raise NotImplementedError

    def _call_on_gap(self, missed: int | None) -> None:
        if self.on_gap is not None:
            self.on_gap(missed)


class PulledFeed(Feed):
    """Messages that the subscriber takes by iteration or `get`."""

    def __init__(self, room: Room, max_queue: int, slow: Slow, on_gap: Callable[[int | None], object] | None) -> None:
        super().__init__(room, max_queue, slow, on_gap)
        self.queue: _rmeinheld.Queue[Any] = _rmeinheld.Queue(max_queue)

    def _offer(self, item: Any) -> bool:
        try:
            self.queue.put_nowait(item)
        except queue.Full:
            return False
        except _rmeinheld.ShutDown:
            # Another thread closes it.
            pass
        return True

    def _drop_oldest(self) -> None:
        try:
            self.queue.get_nowait()
        except (queue.Empty, _rmeinheld.ShutDown):
            pass

    def finish(self, reason: str, *, discards: bool = False) -> None:
        super().finish(reason)
        self.queue.shutdown(discards)

    def waiting(self) -> int:
        return self.queue.qsize()

    def take(self, timeout: float | None) -> Any:
        """Return the next message. Raises TimeoutError, and SubscriptionEnded."""
        try:
            while True:
                item = self.queue.get(timeout=timeout)
                if type(item) is not _Gap:
                    _rmeinheld.give_way()
                    return _decoded(item)
                self._call_on_gap(item.missed)
        except queue.Empty:
            raise TimeoutError(f"no message of channel {self.room.title!r} came within {timeout} seconds") from None
        except _rmeinheld.ShutDown:
            raise SubscriptionEnded(f"the subscription to channel {self.room.title!r} has ended: {self.end}") from None


class HandledFeed(Feed):
    """Messages for a handler, which a coroutine calls for as long as there are messages."""

    def __init__(
        self,
        room: Room,
        max_queue: int,
        slow: Slow,
        on_gap: Callable[[int | None], object] | None,
        handler: Callable[[Any], object],
    ) -> None:
        super().__init__(room, max_queue, slow, on_gap)
        self.handler = handler
        self.items: deque[Any] = deque()
        self.is_running = False

    def _offer(self, item: Any) -> bool:
        if len(self.items) >= self.max_queue:
            return False
        self.items.append(item)
        if not self.is_running:
            self.is_running = True
            self.room.hub.start_later(self)
        return True

    def _drop_oldest(self) -> None:
        if self.items:
            self.items.popleft()

    def finish(self, reason: str, *, discards: bool = False) -> None:
        if self.end is None and self.slow == "end" and not discards:
            _logger.warning("The subscription of %r to channel %r has ended: %s", self.handler, self.room.title, reason)
        super().finish(reason)
        if discards:
            self.items.clear()

    def waiting(self) -> int:
        return len(self.items)

    def move(self, room: Room) -> None:
        super().move(room)
        self.items.clear()
        self.is_running = False

    def run(self) -> None:
        """Call the handler for each message until none is left. In a coroutine of its own."""
        lock = self.room.hub.lock
        try:
            while True:
                try:
                    item = self.items.popleft()
                except IndexError:
                    with lock:
                        if not self.items:
                            self.is_running = False
                            return
                    continue
                self._handle(item)
                _rmeinheld.give_way()
        except BaseException:
            # The end of the server, or an exception thrown into this coroutine.
            with lock:
                self.is_running = False
            raise

    def _handle(self, item: Any) -> None:
        try:
            if type(item) is _Gap:
                self._call_on_gap(item.missed)
            else:
                self.handler(_decoded(item))
        except _rmeinheld.CoroutineExit:
            raise
        except BaseException:
            # A Timeout of the handler's own, for instance, is no Exception.
            _logger.exception("Exception in %r, which handles messages of channel %r", self.handler, self.room.title)


class QueueFeed(Feed):
    """Messages for a queue of the application."""

    def __init__(
        self, room: Room, max_queue: int, slow: Slow, on_gap: Callable[[int | None], object] | None, target: AnyQueue
    ) -> None:
        super().__init__(room, max_queue, slow, on_gap)
        self.target = target

    def _offer(self, item: Any) -> bool:
        try:
            if self.target.qsize() >= self.max_queue:
                return False
            self.target.put_nowait(_decoded(item))
        except queue.Full:
            return False
        except Exception as error:
            self.finish(f"its queue raises {error!r}")
            _logger.exception("Exception in %r, which takes messages of channel %r", self.target, self.room.title)
        except BaseException as interruption:
            self.room.hub.interruption = interruption
            return False
        return True

    def _offer_gap(self, gap: _Gap) -> None:
        self.room.hub.call_later(self._report_gap, gap.missed)

    def _report_gap(self, missed: int | None) -> None:
        try:
            self._call_on_gap(missed)
        except Exception:
            _logger.exception("Exception in %r, which hears of gaps of channel %r", self.on_gap, self.room.title)

    def _drop_oldest(self) -> None:
        try:
            self.target.get_nowait()
        except queue.Empty:
            pass

    def waiting(self) -> int:
        return self.target.qsize()


def feed_of(
    room: Room,
    target: Callable[[Any], object] | AnyQueue | None,
    max_queue: int,
    slow: Slow,
    on_gap: Callable[[int | None], object] | None,
) -> Feed:
    """Return the feed for a target. Raises TypeError and ValueError that name the argument."""
    if not isinstance(max_queue, int) or isinstance(max_queue, bool):
        raise TypeError(f"max_queue is a number of messages, not {type(max_queue).__name__}")
    if max_queue < 1:
        raise ValueError(f"max_queue is at least 1 message, not {max_queue}")
    if slow not in SLOW:
        raise ValueError(f"slow is one of {', '.join(SLOW)}, not {slow!r}")
    if on_gap is not None and not callable(on_gap):
        raise TypeError(f"on_gap is callable or None, not {type(on_gap).__name__}")
    if target is None:
        return PulledFeed(room, max_queue, slow, on_gap)
    if hasattr(target, "put_nowait"):
        return QueueFeed(room, max_queue, slow, on_gap, cast("AnyQueue", target))
    if callable(target):
        return HandledFeed(room, max_queue, slow, on_gap, target)
    raise TypeError(f"a subscriber is a function, a queue or None, not {type(target).__name__}")


class Subscription:
    """One subscriber of a channel, made by `Channel.subscribe`.

    Without a handler or a queue, iterate it or call `get`. It is a context manager that closes it. A subscription that
    is neither iterated nor referenced any more closes itself; one with a handler or a queue lasts until it is closed.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    @property
    def channel(self) -> str:
        """Name of the channel."""
        return self._feed.room.title

    @property
    def dropped(self) -> int:
        """Number of messages that were dropped because the queue was full."""
        return self._feed.dropped

    @property
    def gaps(self) -> int:
        """Number of places at which messages were lost on the way from other processes."""
        return self._feed.gaps

    @property
    def missed(self) -> int:
        """Number of messages that were lost at these places, as far as it is known."""
        return self._feed.missed

    @property
    def waiting(self) -> int:
        """Number of messages in the queue."""
        return self._feed.waiting()

    @property
    def is_closed(self) -> bool:
        """Whether the subscription has ended. Messages may still wait in its queue."""
        return self._feed.end is not None

    @property
    def reason(self) -> str:
        """Why the subscription has ended; empty while it lasts."""
        return self._feed.end or ""

    def get(self, timeout: float | None = None) -> Any:
        """Return the next message. Waits for at most `timeout` seconds; None (the default) waits for ever.

        Parks in a coroutine, and blocks in a thread. Raises TimeoutError, SubscriptionEnded once the subscription has
        ended and its queue is empty, and TypeError if it has a handler or a queue.
        """
        feed = self._feed
        if not isinstance(feed, PulledFeed):
            raise TypeError("this subscription has a handler or a queue of its own, which gets its messages")
        return feed.take(timeout)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the messages until the subscription is closed.

        Raises SubscriptionEnded if the subscription has ended for another reason: its subscriber was too slow.
        """
        while True:
            try:
                message = self.get()
            except SubscriptionEnded:
                if self._feed.end == CLOSED:
                    return
                raise
            yield message

    def close(self) -> None:
        """End the subscription. Messages in its queue are discarded. May be repeated, from any thread."""
        self._feed.room.hub.unsubscribe(self._feed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        feed = getattr(self, "_feed", None)
        if isinstance(feed, PulledFeed) and feed.end is None and not sys.is_finalizing():
            # No lock here: the collector may run in the middle of anything.
            feed.room.hub.abandon(feed)

    def __repr__(self) -> str:
        state = f"ended: {self.reason}" if self.is_closed else f"{self.waiting} waiting"
        return f"<rmeinheld.channel.Subscription to {self.channel!r}, {state}>"
