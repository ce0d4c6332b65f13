"""Children of coroutines: os.fork, multiprocessing with each start method, pools of processes."""

from __future__ import annotations

import pytest

from serving import RunScript

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
