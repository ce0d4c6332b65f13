"""Channels between the workers of a service: order, loss, presence, and what the death of a worker does to them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crews import Service, Worker, service
from masters import wait_until

JOIN = """
from rmeinheld import _crew
_crew._current, _crew._scoreboard, _crew._process = crew, board, os.getpid()
from rmeinheld.channel import Channel
room = Channel("room")
got = []
subscription = None

def subscribe(**options):
    global subscription
    subscription = room.subscribe(got.append, **options)

def counts():
    return board.metrics(crew.slot)["channels"]
"""


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Service]:
    with service(tmp_path / "log") as made:
        yield made


def worker_of(crew: Service) -> Worker:
    """Start a worker that uses channels."""
    worker = crew.worker()
    # The tests of messages have their own handler of connections that end.
    worker.define(JOIN)
    return worker


def test_a_message_reaches_the_subscribers_of_all_workers_as_what_it_was(crew: Service) -> None:
    one, two, three = worker_of(crew), worker_of(crew), worker_of(crew)
    for worker in (one, two):
        worker.ask("subscribe()")
    messages = ["text", "\u20ac", "", b"\x00\xff", b"", {"a": [1, None]}, [], 5, True, None]
    # This worker's own subscription, and one worker: the third does not listen.
    assert one.ask(f"[room.publish(message) for message in {messages!r}]") == [2] * len(messages)
    assert three.ask("room.publish('last')") == 2
    for worker in (one, two):
        assert worker.ask(f"until(lambda: len(got) == {len(messages) + 1})")
        assert worker.ask("got") == [*messages, "last"]
    assert three.ask("crew.counts()['received']") == 0
    expected = {"published": len(messages), "delivered": len(messages) + 1, "dropped": 0, "gap": 0}
    assert one.ask("counts()") == expected


def test_a_worker_is_sent_nothing_once_it_has_no_subscriber(crew: Service) -> None:
    one, two = worker_of(crew), worker_of(crew)
    assert one.ask("room.publish('before')") == 0
    two.ask("subscribe()")
    assert one.ask("room.publish('one')") == 1
    two.ask("subscription.close()")
    assert one.ask("room.publish('after')") == 0
    two.ask("subscribe()")
    assert one.ask("room.publish('two')") == 1
    assert two.ask("until(lambda: got[-1:] == ['two'])")


def test_messages_of_each_publisher_arrive_once_and_in_order_while_all_publish(crew: Service) -> None:
    workers = [worker_of(crew) for _ in range(3)]
    for worker in workers:
        worker.ask("subscribe(max_queue=10_000)")
    for number, worker in enumerate(workers):
        worker.begin(f"[room.publish([{number}, number]) and None for number in range(500)] and None")
    for worker in workers:
        worker.answer()
    for worker in workers:
        assert worker.ask("until(lambda: len(got) == 1500)")
        for number in range(3):
            assert worker.ask(f"[each for sender, each in got if sender == {number}] == list(range(500))")


def test_a_worker_that_computes_misses_messages_with_gaps_that_are_counted(crew: Service) -> None:
    one, slow, two = worker_of(crew), worker_of(crew), worker_of(crew)
    slow.define("gaps = []\ndef note(missed):\n gaps.append((len(got), missed))\n")
    slow.ask("subscribe(max_queue=100_000, on_gap=note)")
    two.ask("subscribe(max_queue=100_000)")
    # Not patched, so this keeps the loop.
    slow.ask("_rmeinheld.spawn(time.sleep, 3) and None")
    for number in range(1, 16):
        one.ask("[room.publish(bytes(100_000)) for _ in range(10)] and None")
        assert two.ask(f"until(lambda: len(got) == {10 * number})")
    assert slow.ask("until(lambda: gaps)")
    # Everything that was sent before the gap has arrived, and nothing of the gap will.
    received, missed, gaps = slow.ask("(len(got), subscription.missed, subscription.gaps)")
    assert received + missed == 150 and gaps == 1 and missed > 0
    assert slow.ask("gaps") == [(received, missed)]
    assert two.ask("subscription.gaps") == 0
    assert one.ask("room.publish('next')") == 2
    assert slow.ask("until(lambda: got[-1] == 'next')")
    assert slow.ask("counts()['gap']") == 1


def test_presence_is_known_to_all_workers_also_to_later_ones(crew: Service) -> None:
    one, two = worker_of(crew), worker_of(crew)
    one.ask("room.presence.join('ann', {'name': 'Ann'})")
    assert two.ask("room.presence.members()") == {"ann": {"name": "Ann"}}
    two.ask("room.presence.join('bob')")
    two.ask("Channel('other').presence.join('eve', 5)")
    three = worker_of(crew)
    everybody = {"ann": {"name": "Ann"}, "bob": None}
    assert three.ask("room.presence.members()") == everybody
    assert three.ask("(len(room.presence), 'bob' in room.presence, 'eve' in room.presence)") == (2, True, False)
    assert one.ask(f"until(lambda: room.presence.members() == {everybody!r})")
    assert one.ask("room.presence.leave('ann'), room.presence.leave('ann'), room.presence.leave('bob')") == (
        True,
        False,
        False,
    )
    for worker in (one, two, three):
        assert worker.ask("until(lambda: room.presence.keys() == ['bob'])")


def test_the_members_of_a_killed_worker_vanish_within_a_second_and_a_moved_one_stays(crew: Service) -> None:
    one, two = worker_of(crew), worker_of(crew)
    one.define("changes = []\nwatch = room.presence.watch(lambda change: changes.append(tuple(change)))\n")
    two.ask("[room.presence.join(key, 'two') for key in ('ann', 'bob')]")
    assert one.ask("until(lambda: len(changes) == 2)")
    one.ask("room.presence.join('ann', 'two')")
    two.kill()
    begun = time.monotonic()
    assert one.ask("until(lambda: room.presence.keys() == ['ann'])")
    # It takes a few milliseconds. A busy machine has two seconds more.
    assert time.monotonic() - begun < 3
    # A watch hears of a change after the table has it.
    assert one.ask("until(lambda: len(changes) == 3)")
    assert one.ask("changes") == [("join", "ann", "two"), ("join", "bob", "two"), ("leave", "bob", "two")]
    assert one.ask("subscribe(), room.publish('on')") == (None, 1)


def test_presence_survives_a_worker_whose_queue_was_full(crew: Service) -> None:
    one, slow = worker_of(crew), worker_of(crew)
    assert slow.ask("room.presence.members()") == {}
    slow.ask("_rmeinheld.spawn(time.sleep, 1) and None")
    value = "x" * 16_000
    one.ask(f"[room.presence.join(str(number), {value!r}) for number in range(1000)] and None")
    one.ask("[room.presence.leave(str(number)) for number in range(0, 1000, 2)] and None")
    assert slow.ask("until(lambda: set(room.presence.keys()) == {str(number) for number in range(1, 1000, 2)})")


def test_a_connection_that_is_lost_between_living_workers_is_a_gap_and_presence_is_asked_again(crew: Service) -> None:
    one, two = worker_of(crew), worker_of(crew)
    one.ask("(subscribe(), room.presence.join('ann'))")
    two.ask("(subscribe(), room.presence.join('bob'))")
    assert two.ask("until(lambda: len(room.presence) == 2)")
    assert one.ask("until(lambda: len(room.presence) == 2)")
    # Descriptors without room end the connection.
    two.ask("resource.setrlimit(resource.RLIMIT_NOFILE, (open_descriptors() + 1, 4096))")
    one.ask("crew.send(1, 7, b'many', [0] * 16)")
    assert two.ask("until(lambda: crew.counts()['faults'] == 1)")
    two.ask("resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 4096))")
    assert two.ask("until(lambda: subscription.gaps == 1)")
    assert two.ask("until(lambda: len(room.presence) == 2)")
    assert one.ask("room.publish('on')") == 2
    assert two.ask("until(lambda: got == ['on'])")


def test_a_worker_that_leaves_sends_its_messages_and_refuses_further_ones(crew: Service) -> None:
    one, two = worker_of(crew), worker_of(crew)
    two.ask("subscribe(max_queue=100_000)")
    one.ask("[room.publish(bytes(50_000)) for _ in range(20)] and _crew.leave()")
    assert two.ask("until(lambda: len(got) == 20)")
    assert one.ask("room.publish('late')").startswith("RuntimeError: this worker has left its service")
    assert two.ask("subscription.gaps") == 0


FORK = """
def child_hears():
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            heard = []
            mine = room.subscribe(heard.append)
            number = room.publish("in the child")
            until(lambda: heard)
            subscription.close()
            os.write(write, repr((number, heard)).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return os.read(read, 1000).decode()
"""


def test_a_forked_child_of_a_worker_has_channels_of_its_own(crew: Service) -> None:
    one, two = worker_of(crew), worker_of(crew)
    for worker in (one, two):
        worker.ask("subscribe()")
    one.define(FORK)
    assert one.ask("child_hears()") == "(1, ['in the child'])"
    assert two.ask("room.publish('on')") == 2
    assert one.ask("until(lambda: got == ['on'])")


def test_a_malformed_message_of_a_channel_is_logged_and_the_next_one_comes(crew: Service) -> None:
    one, two = worker_of(crew), worker_of(crew)
    two.ask("subscribe()")
    for payload in (b"", b"\x00", b"\x00\x04\x00\x00\x00\x00\x00\x00room\xff", b"\x09\x04\x00\x00\x00\x00\x00\x00room"):
        one.ask(f"crew.send(1, 2, {payload!r})")
    assert one.ask("room.publish('next')") == 1
    assert two.ask("until(lambda: got == ['next'])")
    wait_until(lambda: two.log.count("which handles messages of siblings") == 3, lambda: two.log)
