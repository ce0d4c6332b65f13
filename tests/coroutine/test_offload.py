"""`offload`: functions that block, on OS threads, while the coroutine that calls them parks."""

from __future__ import annotations

from pathlib import Path

from serving import RunScript

PRELUDE = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1] / "support")!r})
import contextvars, os, threading, time, traceback
from rmeinheld.coroutine import *
from strands import PATIENCE, Signal, Strand
pool = sys.modules["rmeinheld.offload"]

def wait_until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never comes to that"
        time.sleep(0.001)

def in_a_coroutine(func, *args):
    return Strand("coroutine", func, *args).result()
"""


def run(script: RunScript, body: str, **options: int) -> str:
    return script(PRELUDE + body, **options)


def test_the_function_runs_on_another_thread_and_its_coroutine_parks(script: RunScript) -> None:
    body = """
def work(one, *, two):
    released.wait()
    return one, two, threading.get_native_id(), current(), can_park()
released = Signal()
waiting = Strand("coroutine", lambda: offload(work, 1, two=2)).until_it_waits()
loop = in_a_coroutine(threading.get_native_id)
assert waiting.outcome is None
released.give()
one, two, thread, coroutine, parks = waiting.result()
assert (one, two, coroutine, parks) == (1, 2, None, False)
assert thread not in (loop, threading.get_native_id())
print("well")
"""
    assert run(script, body) == "well\n"


def test_in_an_os_thread_the_function_is_just_called(script: RunScript) -> None:
    body = """
assert offload(threading.get_ident) == threading.get_ident()
assert Strand("thread", lambda: offload(threading.get_ident) == threading.get_ident()).result() is True
# A function that is offloaded is in an OS thread.
set_offload_threads(1)
assert in_a_coroutine(lambda: offload(lambda: offload(int))) == 0
assert pool.number_of_threads() == 1
print("well")
"""
    assert run(script, body) == "well\n"


def test_an_exception_of_the_function_is_raised_with_its_traceback(script: RunScript) -> None:
    body = """
def fails():
    raise KeyError("mine")
def call():
    for exception in (KeyError, SystemExit, KeyboardInterrupt):
        try:
            offload(fails) if exception is KeyError else offload(raises, exception)
        except exception as error:
            seen.append((error.args, [frame.name for frame in traceback.extract_tb(error.__traceback__)][-1]))
def raises(exception):
    raise exception
seen = []
in_a_coroutine(call)
assert seen == [(("mine",), "fails"), ((), "raises"), ((), "raises")], seen
assert in_a_coroutine(lambda: offload(lambda: "the thread goes on")) == "the thread goes on"
assert pool.number_of_threads() == 1
print("well")
"""
    assert run(script, body) == "well\n"


def test_it_sees_a_copy_of_the_callers_context(script: RunScript) -> None:
    body = """
name = contextvars.ContextVar("name", default="nobody")
def call():
    name.set("caller")
    def work():
        before = name.get()
        name.set("function")
        return before
    return offload(work), name.get(), offload(name.get)
assert in_a_coroutine(call) == ("caller", "caller", "caller")
assert in_a_coroutine(lambda: offload(name.get)) == "nobody"
print("well")
"""
    assert run(script, body) == "well\n"


def test_no_more_threads_than_the_limit_run_and_all_jobs_have_their_turn(script: RunScript) -> None:
    body = """
now, most, guard = [0], [0], threading.Lock()
def work(number):
    with guard:
        now[0] += 1
        most[0] = max(most[0], now[0])
    time.sleep(0.002)
    with guard:
        now[0] -= 1
    return number
for limit in (1, 3, 2):
    set_offload_threads(limit)
    assert get_offload_threads() == limit
    most[0] = 0
    strands = [Strand("coroutine", offload, work, number) for number in range(20)]
    assert [strand.result() for strand in strands] == list(range(20))
    # A thread beyond the limit ends with its job.
    wait_until(lambda: pool.number_of_threads() <= limit)
    assert most[0] <= 3 and (limit == 2 or most[0] == limit), (limit, most)
print("well")
"""
    assert run(script, body) == "well\n"


def test_a_higher_limit_serves_waiting_jobs_too(script: RunScript) -> None:
    body = """
set_offload_threads(1)
released = Signal()
blocked = Strand("coroutine", offload, released.wait).until_it_waits()
waiting = [Strand("coroutine", offload, int).until_it_waits() for _ in range(3)]
assert [strand.outcome for strand in waiting] == [None] * 3
set_offload_threads(2)
assert [strand.result() for strand in waiting] == [0] * 3
assert blocked.outcome is None
released.give()
blocked.result()
print("well")
"""
    assert run(script, body) == "well\n"


def test_bad_limits_are_refused(script: RunScript) -> None:
    body = """
before = get_offload_threads()
assert before == min(32, (os.cpu_count() or 1) + 4)
for bad, exception in ((0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError), (True, TypeError)):
    try:
        set_offload_threads(bad)
    except exception as error:
        assert repr(bad) in str(error)
    else:
        raise AssertionError(bad)
assert get_offload_threads() == before
print("well")
"""
    assert run(script, body) == "well\n"


def test_a_coroutine_that_is_interrupted_leaves_the_function_running(script: RunScript) -> None:
    body = """
released, done = Signal(), []
def work():
    released.wait()
    done.append(1)
    return "dropped"
def call():
    try:
        with timeout(0.02):
            offload(work)
    except Timeout:
        return "timed out", done == [], offload(lambda: "its own")
assert in_a_coroutine(call) == ("timed out", True, "its own")
killed = Strand("coroutine", offload, int, "1").until_it_waits()
released.give()
wait_until(lambda: done == [1])
print("well")
"""
    assert run(script, body) == "well\n"


def test_threads_without_work_end_and_new_ones_start(script: RunScript) -> None:
    body = """
assert pool.number_of_threads() == 0
pool.IDLE_SECONDS = 0.02
thread = in_a_coroutine(lambda: offload(threading.get_native_id))
assert pool.number_of_threads() <= 1
wait_until(lambda: pool.number_of_threads() == 0)
wait_until(lambda: not os.path.exists(f"/proc/self/task/{thread}"))
assert in_a_coroutine(lambda: offload(int)) == 0
assert pool.number_of_threads() == 1
print("well")
"""
    assert run(script, body) == "well\n"


def test_a_job_that_comes_when_its_thread_gives_up_waiting_is_done_once(script: RunScript) -> None:
    # The wait of a thread times out in the moment in which it is given a job.
    body = """
pool.IDLE_SECONDS = 0.001
done = []
def work():
    for number in range(300):
        offload(done.append, number)
        sleep(0.001 + number % 10 * 0.00002)
in_a_coroutine(work)
assert done == list(range(300)), done
wait_until(lambda: pool.number_of_threads() == 0)
print("well")
"""
    assert run(script, body) == "well\n"


def test_a_destructor_may_wait_and_offload_while_a_job_is_handed_over(script: RunScript) -> None:
    body = """
import gc
gc.set_threshold(10)
lock, ended, end = threading.Lock(), [], time.monotonic() + 0.7
class Cycle:
    def __init__(self):
        self.own = self
    def __del__(self):
        with lock:
            ended.append(offload(int))
def hold():
    while time.monotonic() < end:
        with lock:
            sleep(0.001)
def use():
    while time.monotonic() < end:
        Cycle()
        offload(int)
coroutines = [spawn(hold), *(spawn(use) for _ in range(10))]
for each in coroutines:
    assert each.join(PATIENCE), "the loop hangs"
print(len(ended) > 10)
"""
    assert run(script, body) == "True\n"


def test_current_thread_works_inside(script: RunScript) -> None:
    body = """
def look():
    thread = threading.current_thread()
    return thread.ident == threading.get_ident(), thread is not threading.main_thread(), bool(thread.name)
assert in_a_coroutine(offload, look) == (True, True, True)
print("well")
"""
    assert run(script, body) == "well\n"


def test_a_function_that_still_runs_does_not_hold_up_the_end_of_the_process(script: RunScript) -> None:
    body = """
import select
begun = Signal()
def work():
    begun.give()
    select.select([], [], [], 60)
Strand("coroutine", offload, work)
Strand("coroutine", offload, int).result()
begun.wait()
print("well", flush=True)
"""
    assert run(script, body, timeout=15) == "well\n"


def test_a_forked_child_calls_the_function_itself(script: RunScript) -> None:
    body = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
assert in_a_coroutine(offload, int) == 0
def fork():
    child = os.fork()
    if child == 0:
        same = offload(threading.get_native_id) == os.getpid()
        os._exit(0 if same and pool.number_of_threads() == 0 else 1)
    return os.waitpid(child, 0)[1]
assert fork() == 0
assert in_a_coroutine(fork) == 0
assert in_a_coroutine(offload, int) == 0
print("well")
"""
    assert run(script, body) == "well\n"


def test_under_the_patches_its_threads_stay_real(script: RunScript) -> None:
    body = """
from rmeinheld.patch import patch_all
patch_all()
import _thread
def call():
    loop = threading.get_native_id()
    thread, waited = offload(lambda: (threading.get_native_id(), time.sleep(0.01)))
    return thread != loop, offload(lambda: threading.current_thread().ident == _thread.get_ident())
assert in_a_coroutine(call) == (True, True)
print("well")
"""
    assert run(script, body) == "well\n"
