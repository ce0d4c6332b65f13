"""Children of coroutines: os.fork, multiprocessing with each start method, pools of processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving import RunScript

SUPPORT = Path(__file__).parents[1] / "support"

HEADER = """
from rmeinheld import patch
patch.patch_all()
import concurrent.futures, multiprocessing, os, threading, time, warnings
from rmeinheld.coroutine import can_park, current, sleep, spawn
from side_by_side import main, together

# CPython warns of forks in processes with several threads.
warnings.simplefilter("ignore", DeprecationWarning)
"""


def test_a_child_forked_in_a_coroutine_blocks_and_the_parent_goes_on(script: RunScript) -> None:
    output = script(
        f"""{HEADER}
import queue, socket

def in_the_child(number):
    assert not can_park() and current() is None
    lock = threading.Lock()
    with lock:
        time.sleep(0.05)
    things = queue.Queue()
    thread = threading.Thread(target=things.put, args=(number,))
    thread.start()
    thread.join()
    near, far = socket.socketpair()
    near.sendall(b"%d" % things.get())
    assert threading.current_thread() is threading.main_thread()
    return int(far.recv(10))

def fork(number):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writer, b"%d" % in_the_child(number))
            status = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writer)
    answer = int(os.read(reader, 10))
    os.close(reader)
    return answer, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

main(lambda: together(fork, range(20)) == [(number, 0) for number in range(20)], standstill=3)
"""
    )
    assert output == "True\n"


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_multiprocessing_from_coroutines(script: RunScript, method: str) -> None:
    output = script(
        f"""{HEADER}
def work(number, pipe, queue):
    time.sleep(0.05)
    pipe.send(number * 2)
    queue.put(number * 3)

def child(number):
    near, far = context.Pipe()
    process = context.Process(target=work, args=(number, far, queue))
    process.start()
    far.close()
    # A connection reads with os.read, which parks.
    doubled = near.recv()
    process.join(30)
    return doubled, process.exitcode

def test():
    assert together(child, range(6)) == [(number * 2, 0) for number in range(6)]
    return sorted(queue.get(timeout=10) for _ in range(6)) == [number * 3 for number in range(6)]

if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    queue = context.Queue()
    main(test, standstill=8)
""",
        timeout=60.0,
    )
    assert output == "True\n"


@pytest.mark.parametrize("place", ["made before", "made in a coroutine"])
def test_a_pool_of_processes_serves_coroutines(script: RunScript, place: str) -> None:
    make = "pool = concurrent.futures.ProcessPoolExecutor(2, mp_context=context)"
    before, within = (make, "pass") if place == "made before" else ("pass", make)
    output = script(
        f"""{HEADER}
def square(number):
    time.sleep(0.02)
    return number * number

def ask(number):
    return pool.submit(square, number).result(30)

def test():
    global pool
    {within}
    with pool:
        return together(ask, range(20)) == [number * number for number in range(20)]

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    {before}
    main(test, standstill=8)
""",
        timeout=60.0,
    )
    assert output == "True\n"


RELEASED = "(it.release(), it.acquire(timeout=5))"
PUT = "(it.put(1), it.get(timeout=5))"

# The object, and the wait for it. The child's action that would end the wait, and its result. The parent's action that
# ends the wait, and the result of the wait.
ROWS = {
    "Lock": ("taken(Lock())", "it.acquire()", RELEASED, (None, True), "it.release()", True),
    "RLock": ("taken(RLock())", "it.acquire()", RELEASED, (None, True), "it.release()", True),
    "Semaphore": ("Semaphore(0)", "it.acquire()", RELEASED, (None, True), "it.release()", True),
    "SimpleQueue": ("SimpleQueue()", "it.get()", PUT, (None, 1), "it.put(2)", 2),
    "Queue": ("Queue()", "it.get()", PUT, (None, 1), "it.put(2)", 2),
    "full Queue": ("taken(Queue(1), 'put', 1)", "it.put(2)", "(it.get(), it.qsize())", (1, 0), "it.get()", None),
}


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
@pytest.mark.parametrize("row", ROWS)
def test_a_child_does_not_end_waits_of_its_parent(script: RunScript, row: str, kind: str) -> None:
    make, wait, use, found, wake, got = ROWS[row]
    output = script(
        f"""
import sys
sys.path.insert(0, {str(SUPPORT)!r})
import os, warnings
from rmeinheld.coroutine import *
from strands import PATIENCE, Strand

warnings.simplefilter("ignore", DeprecationWarning)

def taken(it, how="acquire", *arguments):
    getattr(it, how)(*arguments)
    return it

def test():
    it = {make}
    waiter = Strand({kind!r}, lambda: {wait}).until_it_waits()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, repr({use}).encode())
        finally:
            os._exit(0)
    os.close(writer)
    said = os.read(reader, 100).decode()
    os.waitpid(child, 0)
    {wake}
    return said, waiter

if {kind!r} == "thread":
    # No loop has ever run here.
    said, waiter = test()
else:
    coroutine = spawn(test)
    assert coroutine.join(PATIENCE)
    said, waiter = coroutine.result
print(said, waiter.result())
"""
    )
    assert output == f"{found} {got}\n"


@pytest.mark.parametrize("imported", ["before", "after"])
@pytest.mark.parametrize("kind", ["Lock()", "RLock()", "Semaphore(1)", "Condition()"])
def test_a_lock_of_multiprocessing_excludes_coroutines_and_parks_them(
    script: RunScript, kind: str, imported: str
) -> None:
    early = "import multiprocessing.synchronize" if imported == "before" else ""
    output = script(
        f"""{early}{HEADER}
within = []

def use(number):
    for _ in range(3):
        with lock:
            within.append(number)
            sleep(0.002)
            assert within == [number], within
            within.remove(number)
    return number

def test():
    global lock
    lock = multiprocessing.{kind}
    return together(use, range(20)) == list(range(20))

main(test)
"""
    )
    assert output == "True\n"


def test_a_recursive_lock_of_multiprocessing_belongs_to_a_coroutine(script: RunScript) -> None:
    output = script(
        f"""{HEADER}
def another(_):
    assert not lock.acquire(False)
    before = time.monotonic()
    assert not lock.acquire(timeout=0.05) and time.monotonic() - before >= 0.05
    try:
        lock.release()
    except AssertionError as error:
        return str(error)

def test():
    global lock
    lock = multiprocessing.RLock()
    with lock, lock:
        refused = together(another, range(2))
        # After one release it is still held, and other coroutines see no difference.
        lock.release()
        refused += together(another, range(1))
        lock.acquire()
    assert lock.acquire(False)
    lock.release()
    return refused == ["attempt to release recursive lock not owned by thread"] * 3

main(test)
"""
    )
    assert output == "True\n"


def test_events_and_conditions_of_multiprocessing_wake_coroutines(script: RunScript) -> None:
    output = script(
        f"""{HEADER}
def wait(number):
    with condition:
        assert condition.wait_for(lambda: ready, 10)
    return event.wait(10)

def test():
    global condition, event, ready
    condition, event, ready = multiprocessing.Condition(), multiprocessing.Event(), False
    waiting = [spawn(wait, number) for number in range(10)]
    assert not event.wait(0.01)
    with condition:
        ready = True
        condition.notify_all()
    event.set()
    return all(each.join(10) and each.result for each in waiting)

main(test)
"""
    )
    assert output == "True\n"


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_coroutines_and_a_child_wait_for_each_other_by_locks_and_queues(script: RunScript, method: str) -> None:
    output = script(
        f"""{HEADER}
def serve(lock, questions, answers):
    while (number := questions.get()) is not None:
        with lock:
            time.sleep(0.005)
        answers.put(number * 2)

def ask(number):
    questions.put(number)
    with lock:
        sleep(0.001)
    # Many coroutines wait in one queue.
    return answers.get()

def test():
    global lock, questions, answers
    lock, questions, answers = context.Lock(), context.Queue(), context.Queue()
    child = context.Process(target=serve, args=(lock, questions, answers))
    child.start()
    assert sorted(together(ask, range(20))) == [number * 2 for number in range(20)]
    questions.put(None)
    child.join(30)
    return child.exitcode == 0

if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    main(test, standstill=8)
""",
        timeout=60.0,
    )
    assert output == "True\n"


def test_locks_of_multiprocessing_that_were_made_before_are_named(script: RunScript) -> None:
    output = script(
        """
        import multiprocessing
        lock = multiprocessing.Lock()
        from rmeinheld import patch
        print(*patch.patch_all())
        """
    )
    assert "multiprocessing: 1 locks made before the patch block all coroutines when they wait\n" in output


def test_processes_that_share_a_pipe_do_not_block_when_another_process_reads_first(script: RunScript) -> None:
    output = script(
        f"""{HEADER}
import sys

def read_all():
    taken = 0
    while got := os.read(reader, 1):
        taken += len(got)
    return taken

def child():
    os.close(writer)
    # It exits with an error if it stands still, as it would between two bytes.
    main(lambda: read_all() >= 0, standstill=0.5)

reader, writer = os.pipe()
children = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            child()
            status = 0
        except SystemExit as error:
            print(error, file=sys.stderr)
        finally:
            os._exit(status)
    children.append(pid)
for _ in range(5):
    time.sleep(0.7)
    os.write(writer, b"x")
os.close(writer)
print(*(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children))
"""
    )
    assert output.splitlines()[-1] == "0 0 0", output
