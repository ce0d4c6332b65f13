"""Channels in one process: subscriptions with their limits, handlers, presence, and what is refused."""

from __future__ import annotations

import gc
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rmeinheld.channel import MAX_MESSAGE_BYTES, MAX_NAME_BYTES, Channel, Subscription, SubscriptionEnded
from rmeinheld.channel.hub import hub_of
from rmeinheld.coroutine import Event, Queue, Timeout, sleep, spawn, timeout

SECONDS = 20


@pytest.fixture
def channel(request: pytest.FixtureRequest) -> Channel:
    return Channel(request.node.name)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def in_coroutine(function: Callable[[], Any]) -> Any:
    coroutine = spawn(function)
    coroutine.join(SECONDS)
    return coroutine.result


def both() -> list[Callable[[Callable[[], Any]], Any]]:
    return [in_coroutine, lambda function: function()]


@pytest.mark.parametrize("run", both(), ids=["coroutine", "thread"])
def test_a_subscription_gets_messages_in_order_and_the_very_objects(
    channel: Channel, run: Callable[[Callable[[], Any]], Any]
) -> None:
    text, data, number = "text" * 9, b"bytes" * 9, [1, {"a": "\u20ac"}]

    def converse() -> None:
        with channel.subscribe() as subscription:
            assert [channel.publish(message) for message in (text, data, number)] == [1, 1, 1]
            assert subscription.waiting == 3
            assert subscription.get() is text
            assert subscription.get() is data
            received = subscription.get()
            assert received == number and received is not number
            with pytest.raises(TimeoutError, match=r"no message of channel .* came within 0\.01 seconds"):
                subscription.get(timeout=0.01)
        assert channel.publish("to nobody") == 0
        with pytest.raises(SubscriptionEnded, match="it was closed"):
            subscription.get()

    run(converse)


def test_iteration_ends_when_the_subscription_is_closed(channel: Channel) -> None:
    subscription = channel.subscribe()
    reader = spawn(list, subscription)
    channel.publish("one")
    until(lambda: not subscription.waiting)
    subscription.close()
    reader.join(SECONDS)
    assert reader.result == ["one"]


def test_iterating_a_channel_subscribes_until_the_loop_ends(channel: Channel) -> None:
    def first_two() -> list[str]:
        found = []
        for message in channel:
            found.append(message)
            if len(found) == 2:
                break
        return found

    reader = spawn(first_two)
    until(lambda: channel.publish("x"))
    channel.publish("y")
    reader.join(SECONDS)
    assert reader.result == ["x", "y"]
    gc.collect()
    assert channel.publish("z") == 0


def test_a_handler_gets_one_message_at_a_time_and_goes_on_after_an_exception(
    channel: Channel, caplog: pytest.LogCaptureFixture
) -> None:
    got: list[str] = []
    running: list[int] = []

    def handle(message: str) -> None:
        running.append(1)
        assert len(running) == 1
        sleep(0.001)
        running.pop()
        if message == "bad":
            raise ValueError("not this one")
        if message == "late":
            with timeout(0.001):
                sleep(SECONDS)
        got.append(message)

    with caplog.at_level(logging.ERROR, "rmeinheld.error"), channel.subscribe(handle):
        for message in ("one", "bad", "late", "two"):
            channel.publish(message)
        until(lambda: len(got) == 2)
    assert got == ["one", "two"]
    record, late = caplog.records
    assert late.exc_info is not None and isinstance(late.exc_info[1], Timeout)
    assert "handles messages of channel 'test_a_handler" in record.getMessage()
    assert record.exc_info is not None and "not this one" in str(record.exc_info[1])


def test_a_handler_that_waits_holds_up_no_other_subscription(channel: Channel) -> None:
    gate, got = Event(), queue.SimpleQueue[str]()
    with channel.subscribe(lambda message: gate.wait()) as slow, channel.subscribe(got.put):
        for number in range(100):
            channel.publish(str(number))
            assert got.get(timeout=SECONDS) == str(number)
        assert slow.waiting >= 99
        gate.set()
        until(lambda: not slow.waiting)


def fill(channel: Channel, subscription: Subscription) -> Subscription:
    for number in range(5):
        channel.publish(str(number))
    return subscription


def test_a_full_subscription_drops_the_oldest_or_the_newest_message_or_ends(channel: Channel) -> None:
    oldest = fill(channel, channel.subscribe(max_queue=3))
    assert (oldest.dropped, [oldest.get(0) for _ in range(3)]) == (2, ["2", "3", "4"])
    oldest.close()
    newest = channel.subscribe(max_queue=3, slow="drop_newest")
    assert [channel.publish(str(number)) for number in range(5)] == [1, 1, 1, 0, 0]
    assert (newest.dropped, [newest.get(0) for _ in range(3)]) == (2, ["0", "1", "2"])
    newest.close()
    ended = fill(channel, channel.subscribe(max_queue=3, slow="end"))
    assert ended.is_closed and ended.dropped == 1
    assert [ended.get(0) for _ in range(3)] == ["0", "1", "2"]
    with pytest.raises(SubscriptionEnded, match=r"3 messages \(max_queue\) waited for its subscriber"):
        next(iter(ended))
    assert channel.publish("on") == 0


def test_the_policies_hold_for_handlers_too(channel: Channel, caplog: pytest.LogCaptureFixture) -> None:
    gate = Event()
    got: dict[str, list[str]] = {"drop_oldest": [], "drop_newest": [], "end": []}

    def handler(policy: str) -> Callable[[str], object]:
        def handle(message: str) -> None:
            gate.wait()
            got[policy].append(message)

        return handle

    policies: tuple[Any, ...] = tuple(got)
    subscriptions = [channel.subscribe(handler(policy), max_queue=2, slow=policy) for policy in policies]
    channel.publish("first")
    until(lambda: not any(one.waiting for one in subscriptions))
    fill(channel, subscriptions[0])
    gate.set()
    until(lambda: all(len(one) == 3 for one in got.values()))
    assert got == {
        "drop_oldest": ["first", "3", "4"],
        "drop_newest": ["first", "0", "1"],
        "end": ["first", "0", "1"],
    }
    assert [one.dropped for one in subscriptions] == [3, 3, 1]
    assert [one.is_closed for one in subscriptions] == [False, False, True]
    assert "has ended: 2 messages (max_queue) waited" in caplog.text
    for one in subscriptions:
        one.close()


@pytest.mark.parametrize("make", [queue.Queue, queue.SimpleQueue, Queue], ids=["Queue", "SimpleQueue", "of coroutines"])
def test_a_queue_gets_decoded_messages_up_to_max_queue(channel: Channel, make: Callable[[], Any]) -> None:
    target = make()
    with channel.subscribe(target, max_queue=2) as subscription:
        for number in range(3):
            channel.publish([number])
        assert [target.get(timeout=SECONDS) for _ in range(2)] == [[1], [2]]
        assert subscription.dropped == 1
        with pytest.raises(TypeError, match="a queue of its own"):
            subscription.get()


def test_a_queue_with_less_room_than_max_queue_is_full_earlier(channel: Channel) -> None:
    target: queue.Queue[str] = queue.Queue(2)
    with fill(channel, channel.subscribe(target, slow="drop_newest")) as subscription:
        assert subscription.dropped == 3
        assert [target.get() for _ in range(2)] == ["0", "1"]


def test_publishing_within_a_handler_is_delivered_after_the_message(channel: Channel) -> None:
    got: list[int] = []

    def count(number: int) -> None:
        got.append(number)
        if number < 50:
            channel.publish(number + 1)

    with channel.subscribe(count):
        channel.publish(0)
        until(lambda: len(got) == 51)
    assert got == list(range(51))


def test_threads_and_coroutines_publish_at_once_and_nothing_is_lost(channel: Channel) -> None:
    def publish(sender: int) -> None:
        for number in range(300):
            channel.publish([sender, number])

    with channel.subscribe(max_queue=10_000) as subscription:
        threads = [threading.Thread(target=publish, args=(sender,)) for sender in range(3)]
        coroutines = [spawn(publish, sender) for sender in range(3, 6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        for coroutine in coroutines:
            coroutine.join(SECONDS)
        received = [subscription.get(0) for _ in range(1800)]
    for sender in range(6):
        assert [number for which, number in received if which == sender] == list(range(300))


def test_ten_thousand_subscriptions_that_are_closed_or_dropped_at_once_cost_little(channel: Channel) -> None:
    subscriptions = [channel.subscribe() for _ in range(10_000)]
    begun = time.process_time()
    for subscription in subscriptions:
        subscription.close()
    subscriptions = [channel.subscribe() for _ in range(10_000)]
    handled = [channel.subscribe(print) for _ in range(10_000)]
    del subscription, subscriptions
    for subscription in handled:
        subscription.close()
    assert channel.publish("to nobody") == 0
    assert time.process_time() - begun < 3
    assert channel.name.encode() not in {room.name for room in hub_of("").rooms()}


REFUSED_NAMES = [
    ("", ValueError, "1 to 255 bytes in UTF-8, not 0"),
    ("x" * (MAX_NAME_BYTES + 1), ValueError, "1 to 255 bytes in UTF-8, not 256"),
    ("\u20ac" * 86, ValueError, "1 to 255 bytes in UTF-8, not 258"),
    (b"bytes", TypeError, "is a str, not bytes"),
]


@pytest.mark.parametrize(("name", "error", "text"), REFUSED_NAMES)
def test_a_name_over_its_limit_is_refused(name: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Channel(name)
    assert Channel("x" * MAX_NAME_BYTES).publish("fits") == 0


def test_a_message_over_its_limit_is_refused_and_one_at_the_limit_is_not(channel: Channel) -> None:
    for message in ("x" * MAX_MESSAGE_BYTES, bytes(MAX_MESSAGE_BYTES), "\u20ac" * (MAX_MESSAGE_BYTES // 3)):
        assert channel.publish(message) == 0
        with pytest.raises(ValueError, match=f"longer than the limit of {MAX_MESSAGE_BYTES} bytes of a channel"):
            channel.publish(message * 2)
    with pytest.raises(ValueError, match="longer than the limit"):
        channel.publish(["x" * MAX_MESSAGE_BYTES])
    with pytest.raises(ValueError, match="surrogates not allowed"):
        channel.publish("\ud800")
    with pytest.raises(TypeError, match="not JSON serializable"):
        channel.publish({1, 2})
    with pytest.raises(ValueError, match="not JSON compliant"):
        channel.publish([float("nan")])


class BrokenQueue:
    """A queue that has no size."""

    def put_nowait(self, item: object) -> None: ...
    def get_nowait(self) -> None: ...
    def qsize(self) -> int:
        raise NotImplementedError("on this platform")


def test_a_queue_that_raises_ends_its_own_subscription_alone(
    channel: Channel, caplog: pytest.LogCaptureFixture
) -> None:
    with channel.subscribe(BrokenQueue()) as broken, channel.subscribe() as other:
        channel.publish("one")
        assert other.get(0) == "one"
        assert broken.is_closed and "NotImplementedError" in broken.reason
        assert channel.publish("two") == 1
    assert "which takes messages of channel" in caplog.text


REFUSED_OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"max_queue": 0}, ValueError, "max_queue is at least 1 message, not 0"),
    ({"max_queue": "9"}, TypeError, "max_queue is a number of messages, not str"),
    ({"slow": "wait"}, ValueError, "slow is one of drop_oldest, drop_newest, end, not 'wait'"),
    ({"on_gap": 5}, TypeError, "on_gap is callable or None, not int"),
    ({"subscriber": 5}, TypeError, "a subscriber is a function, a queue or None, not int"),
]


@pytest.mark.parametrize(("options", "error", "text"), REFUSED_OPTIONS)
def test_a_wrong_option_of_a_subscription_is_refused_by_name(
    channel: Channel, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        channel.subscribe(**options)
    assert channel.publish("to nobody") == 0


def test_an_unknown_url_is_refused_when_the_channel_is_used() -> None:
    with pytest.raises(ValueError, match="the URL of a channel must begin with one of redis://"):
        Channel("room", url="carrier://pigeon").publish("x")


@pytest.fixture
def watched(channel: Channel) -> Iterator[Subscription]:
    with channel.presence.watch() as subscription:
        yield subscription


def test_presence_has_members_and_tells_changes(channel: Channel, watched: Subscription) -> None:
    presence = channel.presence
    presence.join("ann", {"at": 1})
    presence.join("ann", {"at": 1})
    presence.join("ann", {"at": 2})
    presence.join("bob")
    assert presence.members() == {"ann": {"at": 2}, "bob": None}
    presence.members()["ann"]["at"] = 3
    assert (len(presence), "ann" in presence, "eve" in presence, presence.keys()) == (2, True, False, ["ann", "bob"])
    assert (presence.leave("ann"), presence.leave("ann")) == (True, False)
    changes = [tuple(watched.get(SECONDS)) for _ in range(4)]
    assert changes == [
        ("join", "ann", {"at": 1}),
        ("update", "ann", {"at": 2}),
        ("join", "bob", None),
        ("leave", "ann", {"at": 2}),
    ]
    presence.leave("bob")


def test_a_member_over_a_limit_is_refused(channel: Channel) -> None:
    for key, value, error, text in (
        ("", None, ValueError, "1 to 255 bytes in UTF-8, not 0"),
        ("x" * 256, None, ValueError, "1 to 255 bytes in UTF-8, not 256"),
        (5, None, TypeError, "the key of a member is a str, not int"),
        ("x", "y" * 16384, ValueError, "at most 16384 bytes as JSON, not 16386"),
        ("x", {1, 2}, TypeError, "not JSON serializable"),
    ):
        with pytest.raises(error, match=text):
            channel.presence.join(key, value)  # type: ignore[arg-type]
    assert len(channel.presence) == 0
