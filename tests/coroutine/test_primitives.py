"""Locks, conditions, events, semaphores, barriers and queues, between coroutines and OS threads in both directions.

The table has for each primitive a way to wait and a way to end the wait. The tests walk through it with every pair of a
coroutine and an OS thread. Each row runs in a process of its own.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from serving import RunScript, program

SUPPORT = Path(__file__).parents[1] / "support"

TABLE = f"import sys\nsys.path.insert(0, {str(SUPPORT)!r})\n{program('primitives')}"

ROWS = [
    "Lock",
    "RLock",
    "Condition",
    "Condition of Lock",
    "Condition of threading.Lock",
    "Condition of RLock, held twice",
    "Event",
    "Semaphore",
    "BoundedSemaphore",
    "Barrier",
    "Queue.get",
    "Queue.put",
    "LifoQueue.get",
    "LifoQueue.put",
    "PriorityQueue.get",
    "PriorityQueue.put",
    "SimpleQueue.get",
]

each_row = pytest.mark.parametrize("row", ROWS)


def walk(script: RunScript, row: str, body: str, timeout: float = 30.0) -> str:
    """Run `body` for one row of the table."""
    return script(f"{TABLE}\nassert sorted(rows) == {sorted(ROWS)!r}\nrow = rows[{row!r}]\n{body}", timeout=timeout)


@each_row
def test_each_kind_of_waiter_is_woken_by_each_kind_of_waker(script: RunScript, row: str) -> None:
    body = """
for waiting, waking in PAIRS:
    for timeout in (None, PATIENCE):
        it = row.make()
        waker = Waker(waking, row, it)
        waiter = Strand(waiting, row.wait, it, timeout).until_it_waits()
        assert waiter.outcome is None
        waker.wake()
        assert waiter.result() == row.got, (waiting, waking, timeout, waiter.outcome)
print("well")
"""
    assert walk(script, row, body) == "well\n"


@each_row
def test_a_wait_that_times_out_loses_nothing(script: RunScript, row: str) -> None:
    body = """
for waiting, waking in PAIRS:
    it = row.make()
    waker = Waker(waking, row, it)
    start = time.monotonic()
    assert Strand(waiting, row.wait, it, 0.03).result() == row.late, (waiting, waking)
    assert 0.029 <= time.monotonic() - start < 5
    if row.again:
        waiter = Strand(waiting, row.wait, it, None).until_it_waits()
        waker.wake()
        assert waiter.result() == row.got, (waiting, waking, waiter.outcome)
print("well")
"""
    assert walk(script, row, body) == "well\n"


@each_row
def test_a_coroutine_that_is_interrupted_before_it_is_woken_leaves_that_to_the_next(
    script: RunScript, row: str
) -> None:
    body = """
for waking in KINDS:
    for exception in (KeyError, CoroutineExit):
        it = row.make()
        waker = Waker(waking, row, it)
        first = Strand("coroutine", row.wait, it, None).until_it_waits()
        second = row.again and Strand("coroutine", row.wait, it, PATIENCE).until_it_waits()
        assert first.coroutine.throw(exception)
        assert first.result() == exception.__name__, first.outcome
        if second:
            waker.wake()
            assert second.result() == row.got, (waking, second.outcome)
print("well")
"""
    assert walk(script, row, body) == "well\n"


@each_row
def test_a_coroutine_that_is_interrupted_after_it_was_woken_has_what_it_waited_for(script: RunScript, row: str) -> None:
    # A condition's waiter has to take the lock again; what becomes of the notification then has tests of its own.
    body = """
def wait_then_sleep(it):
    got = row.wait(it, None)
    try:
        sleep(PATIENCE)
    except KeyError:
        return got, "later"

def wake_and_throw(it, victim):
    row.wake(it)
    victim.coroutine.throw(KeyError)

it = row.make()
held, go = Signal(), Signal()
def waker():
    row.hold(it)
    held.give()
    go.wait()
    # No wait between the two: the victim is woken, but has not had its turn.
    wake_and_throw(it, victim)
strand = Strand("coroutine", waker)
held.wait()
victim = Strand("coroutine", wait_then_sleep, it).until_it_waits()
go.give()
strand.result()
assert victim.result() == (row.got, "later"), victim.outcome
print("well")
"""
    assert walk(script, row, body) == "well\n"


@pytest.mark.parametrize(
    "row", ["Lock", "RLock", "Semaphore", "Queue.get", "Queue.put", "LifoQueue.put", "SimpleQueue.get", "Condition"]
)
def test_waiters_have_their_turn_in_order(script: RunScript, row: str) -> None:
    body = """
import itertools
for kinds in itertools.product(KINDS, repeat=3):
    it = row.make()
    order, turns = [], [Signal() for _ in kinds]
    def wait(number):
        row.wait(it, None)
        order.append(number)
        turns[number].give()
        if isinstance(it, RLock):
            it.release()
    row.hold(it)
    strands = [Strand(kind, wait, number).until_it_waits() for number, kind in enumerate(kinds)]
    for number in range(3):
        if number == 0 or not isinstance(it, RLock):
            row.wake(it)
        turns[number].wait()
    [strand.result() for strand in strands]
    assert order == [0, 1, 2], (kinds, order)
print("well")
"""
    assert walk(script, row, body) == "well\n"


def test_items_put_while_getters_time_out_and_are_interrupted_arrive_once_each(script: RunScript) -> None:
    body = """
import random
for make in (Queue, SimpleQueue, LifoQueue, PriorityQueue, lambda: Queue(2)):
    it, got, number = make(), [], 400
    def produce(part):
        for item in range(part, number, 4):
            it.put(item)
            if item % 16 == part:
                sleep(random.random() / 1000)
    def consume(stop=threading.Event()):
        while len(got) < number:
            try:
                got.append(it.get(timeout=random.random() / 500))
            except queue.Empty:
                pass
            except KeyError:
                pass
    consumers = [Strand(kind, consume) for kind in KINDS * 2]
    producers = [Strand(kind, produce, part) for part, kind in enumerate(KINDS * 2)]
    while len(got) < number:
        for consumer in consumers[::2]:
            consumer.coroutine.throw(KeyError)
        time.sleep(0.001)
        assert all(producer.outcome is None for producer in producers)
    assert sorted(got) == list(range(number)), sorted(set(range(number)) - set(got))
    [strand.result() for strand in consumers + producers]
print("well")
"""
    assert walk(script, "Lock", body) == "well\n"


def test_a_lock_that_is_waited_for_with_short_timeouts_excludes_and_ends_up_free(script: RunScript) -> None:
    body = """
import random
for make in (Lock, RLock, lambda: Semaphore(1)):
    it, inside, entered = make(), [0], [0]
    def work():
        for _ in range(150):
            if it.acquire(timeout=random.random() / 1000):
                inside[0] += 1
                assert inside[0] == 1
                sleep(random.random() / 5000)
                inside[0] -= 1
                entered[0] += 1
                it.release()
    strands = [Strand(kind, work) for kind in KINDS * 3]
    assert [strand.result() for strand in strands] == [None] * 6, [strand.outcome for strand in strands]
    assert entered[0] > 0
    assert it.acquire(blocking=False)
print("well")
"""
    assert walk(script, "Lock", body) == "well\n"


# --- conditions ------------------------------------------------------------------------------------------------------


def test_a_notification_while_the_lock_is_being_given_back_is_not_missed(script: RunScript) -> None:
    body = """
class Slow:
    '''A lock that lets others run after it has been released, before release returns.'''
    def __init__(self):
        self.lock = Lock()
    def acquire(self, *args):
        return self.lock.acquire(*args)
    def release(self):
        self.lock.release()
        sleep(0.01)
    __enter__ = acquire
    def __exit__(self, *exception):
        self.release()

for waking in KINDS:
    condition = Condition(Slow())
    begun = Signal()
    waiter = Strand("coroutine", lambda: within(condition, lambda: (begun.give(), condition.wait(PATIENCE / 2))[1]))
    begun.wait()
    assert Strand(waking, lambda: within(condition, condition.notify)).result() is None
    assert waiter.result() is True
print("well")
"""
    assert walk(script, "Condition", body) == "well\n"


def test_a_waiter_that_is_interrupted_after_its_notification_passes_it_on(script: RunScript) -> None:
    body = """
condition = Condition()
waiters = [Strand("coroutine", lambda: within(condition, lambda: condition.wait(PATIENCE / 2))).until_it_waits()
           for _ in range(2)]
def notify():
    with condition:
        condition.notify()
        waiters[0].coroutine.throw(KeyError)
        sleep(0.01)
assert Strand("coroutine", notify).result() is None
assert [waiter.result() for waiter in waiters] == ["KeyError", True]
print("well")
"""
    assert walk(script, "Condition", body) == "well\n"


def test_a_waiter_that_is_interrupted_goes_on_with_the_lock(script: RunScript) -> None:
    body = """
for lock in (RLock(), Lock()):
    condition, seen = Condition(lock), []
    def wait():
        with condition:
            try:
                condition.wait()
            except KeyError:
                seen.append(held and lock.locked())
    held = False
    waiter = Strand("coroutine", wait).until_it_waits()
    def hold():
        global held
        with condition:
            waiter.coroutine.throw(KeyError)
            waiter.coroutine.throw(KeyError)
            sleep(0.01)
            assert seen == []
            held = True
    assert Strand("coroutine", hold).result() is None
    assert waiter.result() in (None, "KeyError")
    assert seen == [True]
    assert not lock.locked()
print("well")
"""
    assert walk(script, "Condition", body) == "well\n"


def test_a_waiter_whose_lock_is_never_given_back_does_not_hold_up_the_end(script: RunScript) -> None:
    body = """
condition = Condition()
def hold():
    with condition:
        for _ in range(100):
            try:
                sleep(PATIENCE)
            except CoroutineExit:
                pass
Strand("coroutine", lambda: within(condition, condition.wait)).until_it_waits()
Strand("coroutine", hold).until_it_waits()
print("end")
"""
    assert walk(script, "Condition", body) == "end\n"


def test_a_condition_is_used_only_by_the_owner_of_its_lock(script: RunScript) -> None:
    body = """
for lock in (RLock(), Lock(), threading.Lock(), threading.RLock()):
    condition = Condition(lock)
    for action in (condition.wait, condition.notify, condition.notify_all, condition.release):
        try:
            action()
        except RuntimeError:
            continue
        raise AssertionError((lock, action))
    with condition:
        assert condition.wait(0.001) is False
        assert condition.wait_for(lambda: 0, 0.001) == 0
        assert condition.wait_for(lambda: "yes") == "yes"
print("well")
"""
    assert walk(script, "Condition", body) == "well\n"


# --- queues ----------------------------------------------------------------------------------------------------------


def test_a_queue_that_is_shut_down_wakes_all_and_keeps_what_it_has(script: RunScript) -> None:
    body = """
for kind in KINDS:
    for make in (Queue, LifoQueue):
        it = make(1)
        it.put(1)
        putters = [Strand(kind, it.put, 2).until_it_waits() for _ in range(2)]
        joiner = Strand(kind, it.join).until_it_waits()
        it.shutdown()
        assert [putter.result() for putter in putters] == ["ShutDown"] * 2
        assert it.get() == 1
        for action in (it.get, it.get_nowait, lambda: it.put(1), lambda: it.put_nowait(1)):
            try:
                action()
            except getattr(queue, "ShutDown", ShutDown):
                continue
            raise AssertionError(action)
        it.task_done()
        assert joiner.result() is None

        it = make()
        getters = [Strand(kind, it.get).until_it_waits() for _ in range(2)]
        it.shutdown(immediate=True)
        assert [getter.result() for getter in getters] == ["ShutDown"] * 2

        it = make()
        it.put(1)
        joiner = Strand(kind, it.join).until_it_waits()
        it.shutdown(immediate=True)
        assert joiner.result() is None
        assert it.empty()
print("well")
"""
    assert walk(script, "Queue.get", body) == "well\n"


def test_join_waits_for_every_item_to_be_done(script: RunScript) -> None:
    body = """
for joining, working in PAIRS:
    for make in (Queue, LifoQueue, PriorityQueue):
        it = make()
        [it.put(number) for number in range(3)]
        joiner = Strand(joining, it.join).until_it_waits()
        def work():
            for _ in range(3):
                assert joiner.outcome is None and not joiner._ended.is_set()
                it.get()
                it.task_done()
        assert Strand(working, work).result() is None
        assert joiner.result() is None
        try:
            it.task_done()
        except ValueError as error:
            assert str(error) == "task_done() called too many times"
        else:
            raise AssertionError("task_done() more often than items")
print("well")
"""
    assert walk(script, "Queue.get", body) == "well\n"


def test_bad_arguments_of_queues_are_refused_in_the_words_of_the_standard_library(script: RunScript) -> None:
    body = """
def complaint(action):
    try:
        action()
    except Exception as error:
        return type(error), str(error)

for ours, theirs in ((Queue(1), queue.Queue(1)), (LifoQueue(1), queue.LifoQueue(1)),
                     (PriorityQueue(1), queue.PriorityQueue(1))):
    for it in (ours, theirs):
        it.put(1)
    for action in (
        lambda it: it.put(2, timeout=-1),
        lambda it: it.put(2, block=False),
        lambda it: it.put_nowait(2),
        lambda it: it.put(2, timeout=0),
        lambda it: it.get(),
        lambda it: it.get(timeout=-1),
        lambda it: it.get(block=False),
        lambda it: it.get_nowait(),
        lambda it: it.get(timeout=0),
        lambda it: (it.task_done(), it.task_done()),
    ):
        assert complaint(partial(action, ours)) == complaint(partial(action, theirs))
        assert (ours.qsize(), ours.empty(), ours.full()) == (theirs.qsize(), theirs.empty(), theirs.full())
print("well")
"""
    assert walk(script, "Queue.get", body) == "well\n"


def test_the_collector_finds_a_queue_or_a_condition_that_refers_to_itself(script: RunScript) -> None:
    body = """
import gc, weakref
class Node:
    acquire = release = None
for make in (Queue, LifoQueue, PriorityQueue, SimpleQueue, Condition):
    node = Node()
    node.it = make() if make is not Condition else Condition(node)
    if make is not Condition:
        node.it.put(node)
        node.it.put((0, node)) if make is not PriorityQueue else None
    known = weakref.ref(node)
    del node
    gc.collect()
    assert known() is None, make
it = SimpleQueue()
it.put(it)
known = weakref.ref(it)
del it
gc.collect()
assert known() is None
print("well")
"""
    assert walk(script, "Queue.get", body) == "well\n"


# --- the standard library's own tests --------------------------------------------------------------------------------

LOCK_TESTS = """
import sys, unittest
{patch}
from rmeinheld.coroutine import *
from test import lock_tests

class LockTests(lock_tests.LockTests):
    locktype = Lock
class RLockTests(lock_tests.RLockTests):
    locktype = RLock
class EventTests(lock_tests.EventTests):
    eventtype = Event
class ConditionTests(lock_tests.ConditionTests):
    condtype = Condition
class SemaphoreTests(lock_tests.SemaphoreTests):
    semtype = Semaphore
class BoundedSemaphoreTests(lock_tests.BoundedSemaphoreTests):
    semtype = BoundedSemaphore
class BarrierTests(lock_tests.BarrierTests):
    barriertype = staticmethod(Barrier)

for name, reason in {without!r}.items():
    owner, _, method = name.partition(".")
    setattr(globals()[owner], method, unittest.skip(reason)(lambda self: None))

def run():
    program = unittest.main(exit=False, verbosity=0, argv=["lock_tests"])
    print("well" if program.result.wasSuccessful() and program.result.testsRun > 60 else program.result)
{run}
"""

WITHOUT = {
    "BarrierTests.test_repr": "expects the name of a module without a dot",
    "BoundedSemaphoreTests.test_repr": "expects the name of a module without a dot",
    "EventTests.test_repr": "expects the name of a module without a dot",
    "SemaphoreTests.test_repr": "expects the name of a module without a dot",
    "EventTests.test_at_fork_reinit": "looks at an attribute of the class that is written in Python",
    "ConditionTests.test_nan_timeout": "looks at an attribute of the class that is written in Python; ours is below",
}


@pytest.mark.parametrize("kind", ["thread", "coroutine"])
def test_the_standard_librarys_own_tests_of_locks_hold(script: RunScript, kind: str) -> None:
    pytest.importorskip("test.lock_tests", reason="this Python comes without its tests")
    patch = "from rmeinheld.patch import patch_all; patch_all()" if kind == "coroutine" else ""
    run = "strand = spawn(run); assert strand.join(100)" if kind == "coroutine" else "run()"
    source = LOCK_TESTS.format(patch=patch, without=WITHOUT, run=run)
    assert script(source, timeout=120.0).splitlines()[-1] == "well"


def test_a_timeout_that_is_not_a_number_is_refused_and_leaves_no_waiter(script: RunScript) -> None:
    body = """
from rmeinheld.coroutine import *
nan = float("nan")
condition, barrier = Condition(), Barrier(2)
with condition:
    for call in (
        lambda: condition.wait(nan),
        lambda: condition.wait_for(lambda: False, nan),
        lambda: Event().wait(nan),
        lambda: Semaphore(0).acquire(timeout=nan),
        lambda: Lock().acquire(timeout=nan),
        lambda: RLock().acquire(timeout=nan),
        lambda: Queue().get(timeout=nan),
        lambda: SimpleQueue().get(timeout=nan),
    ):
        try:
            print("no error", call())
        except ValueError as error:
            assert "timeout" in str(error), error
    condition.notify_all()
assert condition.acquire(False)
print("well")
"""
    assert script(body) == "well\n"


# --- groups and pools ------------------------------------------------------------------------------------------------


def test_members_that_are_killed_before_they_begin_leave_their_group_and_give_their_room_back(
    script: RunScript,
) -> None:
    body = """
def in_a_coroutine():
    ran = []
    for group in (Group(), Pool(2)):
        for _ in range(5):
            group.spawn(ran.append, 1).kill()
        assert group.join(PATIENCE) is True
        assert len(group) == 0
        assert group.spawn(lambda: 5).join(PATIENCE)
        assert len(group) == 0
    return ran
assert Strand("coroutine", in_a_coroutine).result() == []
print("well")
"""
    assert walk(script, "Lock", body) == "well\n"


def test_the_repr_of_each_shows_its_state(script: RunScript) -> None:
    body = """
for it, text in (
    (Semaphore(3), "Semaphore at 0x*: value=3"),
    (BoundedSemaphore(3), "BoundedSemaphore at 0x*: value=3/3"),
    (Event(), "Event at 0x*: unset"),
):
    import re
    assert re.sub("0x[0-9a-f]+", "0x*", repr(it)) == f"<rmeinheld.coroutine.{text}>", it
print("well")
"""
    assert walk(script, "Lock", body) == "well\n"


def test_a_pool_runs_no_more_than_its_size_at_once(script: RunScript) -> None:
    body = """
for kind in KINDS:
    pool, now, most = Pool(3), [0], [0]
    def work(number):
        now[0] += 1
        most[0] = max(most[0], now[0])
        sleep(0.002)
        now[0] -= 1
        return number * number
    squares = [number * number for number in range(20)]
    assert Strand(kind, pool.map, work, range(20)).result() == squares
    assert Strand(kind, lambda: list(pool.imap(work, range(20)))).result() == squares
    assert Strand(kind, lambda: sorted(pool.imap_unordered(work, range(20)))).result() == squares
    def by_hand():
        members = [pool.spawn(work, number) for number in range(20)]
        assert pool.join(PATIENCE)
        return [member.result for member in members]
    assert Strand(kind, by_hand).result() == squares
    assert most == [3] and len(pool) == 0, (kind, most, len(pool))
print("well")
"""
    assert walk(script, "Lock", body) == "well\n"


def test_an_exception_in_a_call_of_a_pool_is_raised_by_map(script: RunScript) -> None:
    body = """
def work(number):
    if number == 3:
        raise KeyError(number)
    return number
def items():
    yield 1
    raise OSError("no more")
import logging
logging.getLogger("rmeinheld.error").disabled = True
for kind in KINDS:
    pool = Pool(2)
    for method in (pool.map, lambda *a: list(pool.imap(*a)), lambda *a: list(pool.imap_unordered(*a))):
        assert Strand(kind, method, work, range(9)).result() == "KeyError"
        assert Strand(kind, method, work, items()).result() == "OSError"
    assert Strand(kind, pool.map, work, range(3)).result() == [0, 1, 2]
print("well")
"""
    assert walk(script, "Lock", body) == "well\n"


def test_a_call_of_a_pool_that_is_killed_before_it_begins_is_not_waited_for(script: RunScript) -> None:
    body = """
from rmeinheld.coroutine import CoroutineExit
pool = Pool(3)
def items():
    yield 1
    for member in pool:
        member.kill()
    yield 2
def outcome(method):
    try:
        return list(method(str, items()))
    except CoroutineExit:
        return "killed"
for method in (pool.map, pool.imap, pool.imap_unordered):
    assert Strand("coroutine", outcome, method).result() == "killed"
    assert Strand("coroutine", pool.join, PATIENCE).result() is True
    assert Strand("coroutine", pool.map, str, (1, 2, 3, 4)).result() == ["1", "2", "3", "4"]
print("well")
"""
    assert walk(script, "Lock", body) == "well\n"


def test_a_group_is_joined_within_one_timeout(script: RunScript) -> None:
    body = """
import time
def in_a_coroutine():
    group = Group()
    members = [group.spawn(sleep, 0.1 * count) for count in range(1, 40)]
    started = time.monotonic()
    assert group.join(0.3) is False
    took = time.monotonic() - started
    group.kill()
    assert group.join(PATIENCE) is True
    return took
assert 0.3 <= Strand("coroutine", in_a_coroutine).result() < 1.5
print("well")
"""
    assert walk(script, "Lock", body) == "well\n"


def test_a_timer_calls_once_unless_it_is_cancelled(script: RunScript) -> None:
    body = """
called = []
timer = Timer(0.01, called.append, 1)
timer.start()
assert timer.join(PATIENCE) and called == [1]
other = Timer(PATIENCE * 100, called.append, 2)
other.start()
assert other.join(0.01) is False
other.cancel()
assert other.join(PATIENCE) and called == [1]
for bad in (timer.start, lambda: Timer(1, print).join(), lambda: Timer(-1, print), lambda: Timer(float("nan"), print)):
    try:
        bad()
    except (RuntimeError, ValueError):
        continue
    raise AssertionError(bad)
print("well")
"""
    assert walk(script, "Lock", body) == "well\n"
