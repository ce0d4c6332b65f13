"""Hazards of several thread states on one OS thread, each with the test that would show it.

Other files test further hazards: a descriptor's many waiters, closing and reuse in `test_coroutine.py` and
`test_patch.py`; deep recursion in `test_isolation.py`. The end with coroutines parked is in `test_server_api.py`, forks
are in `test_processes.py`, exceptions in the middle of a query in `test_databases.py`, debuggers in
`test_without_patch.py`.
"""

from __future__ import annotations

from scripts import in_a_coroutine, patched
from serving import RunScript


def test_an_hours_worth_of_timers_leaves_every_coroutine_on_its_thread(script: RunScript) -> None:
    # Ten timed waits a second for an hour.
    body = """
here = threading.get_native_id()
def wait(number):
    event, items, lock = Event(), Queue(), Lock()
    lock.acquire()
    strayed = 0
    for count in range(45):
        sleep(0.001)
        event.wait(0.001)
        try:
            items.get(timeout=0.001)
        except Exception:
            pass
        lock.acquire(timeout=0.001)
        strayed += threading.get_native_id() != here
    return strayed
coroutines = [spawn(wait, number) for number in range(200)]
for coroutine in coroutines:
    coroutine.join()
return sum(coroutine.result for coroutine in coroutines), 200 * 45 * 4
"""
    assert in_a_coroutine(script, body) == "(0, 36000)"


def test_a_logging_handler_that_waits_is_entered_by_one_coroutine_at_a_time(script: RunScript) -> None:
    body = """
import logging
inside, most, said = 0, 0, []
class Slow(logging.Handler):
    def emit(self, record):
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.002)
        said.append(record.getMessage())
        inside -= 1
logger = logging.getLogger("slow")
logger.addHandler(Slow())
logger.propagate = False
coroutines = [spawn(logger.error, "%d", number) for number in range(30)]
for coroutine in coroutines:
    coroutine.join()
return most, said == [str(number) for number in range(30)]
"""
    assert patched(script, body) == "(1, True)"


def test_a_module_is_imported_once_though_its_import_waits(script: RunScript) -> None:
    body = """
import importlib, pathlib, tempfile
with tempfile.TemporaryDirectory() as directory:
    pathlib.Path(directory, "slow_module.py").write_text("import time\\ntime.sleep(0.05)\\nvalue = object()\\n")
    sys.path.insert(0, directory)
    coroutines = [spawn(importlib.import_module, "slow_module") for _ in range(5)]
    for coroutine in coroutines:
        coroutine.join()
return len({id(coroutine.result.value) for coroutine in coroutines})
"""
    assert patched(script, body) == "1"


def test_destructors_of_thread_locals_may_wait(script: RunScript) -> None:
    body = """
ended = []
class Last:
    def __del__(self):
        left, right = socket.socketpair()
        time.sleep(0.001)
        left.sendall(b"x")
        ended.append(right.recv(1))
        left.close(), right.close()
storage = threading.local()
def keep():
    storage.last = Last()
coroutines = [spawn(keep) for _ in range(20)]
for coroutine in coroutines:
    coroutine.join()
return ended == [b"x"] * 20
"""
    assert patched(script, body) == "True"


def test_destructors_of_thread_locals_wait_for_a_lock_and_log(script: RunScript) -> None:
    body = """
import logging, threading
records = []
class Slow(logging.Handler):
    def emit(self, record):
        time.sleep(0.05)
        records.append((record.getMessage(), threading.get_ident()))
logger = logging.getLogger("slow")
logger.addHandler(Slow())
lock = threading.Lock()
class Last:
    def __del__(self):
        with lock:
            logger.warning("end of %d", self.number)
storage = threading.local()
def keep(number):
    storage.last = Last()
    storage.last.number = threading.get_ident()
lock.acquire()
coroutines = [spawn(keep, number) for number in range(5)]
time.sleep(2.2)
lock.release()
for coroutine in coroutines:
    coroutine.join()
return sorted(records) == sorted((f"end of {each.ident}", each.ident) for each in coroutines)
"""
    assert patched(script, body) == "True"


def test_destructors_that_wait_may_be_run_by_the_collector(script: RunScript) -> None:
    body = """
import gc
ended = []
class Cycle:
    def __init__(self):
        self.own = self
    def __del__(self):
        time.sleep(0.001)
        ended.append(1)
def work():
    for _ in range(5):
        Cycle()
        gc.collect()
        time.sleep(0)
coroutines = [spawn(work) for _ in range(10)]
for coroutine in coroutines:
    coroutine.join()
gc.collect()
return len(ended)
"""
    assert patched(script, body) == "50"


def test_thousands_of_coroutines_leave_nothing_behind(script: RunScript) -> None:
    body = """
import pathlib
def resident():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
def run(count):
    for _ in range(count // 100):
        for coroutine in [spawn(sleep, 0) for _ in range(100)]:
            coroutine.join()
run(2000)
before = resident()
run(20000)
grown = resident() - before
return grown < 4000 or grown
"""
    assert in_a_coroutine(script, body) == "True"


def test_callbacks_from_c_may_wait(script: RunScript) -> None:
    body = """
import ctypes
order = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
sort = ctypes.CDLL(None).qsort
def compare(left, right):
    sleep(0.0005)
    return left[0] - right[0]
def sorted_by_c(numbers):
    array = (ctypes.c_int * len(numbers))(*numbers)
    sort(array, len(numbers), ctypes.sizeof(ctypes.c_int), order(compare))
    return list(array)
coroutines = [spawn(sorted_by_c, [5, 3, number, 1]) for number in range(10)]
for coroutine in coroutines:
    coroutine.join()
return all(coroutine.result == sorted([5, 3, number, 1]) for number, coroutine in enumerate(coroutines))
"""
    assert in_a_coroutine(script, body) == "True"


def test_a_trace_function_sees_its_own_coroutine_only(script: RunScript) -> None:
    body = """
import sys
def traced(seen):
    def trace(frame, event, argument):
        if event == "call":
            seen.append(frame.f_code.co_name)
        return trace
    def inner():
        sleep(0.002)
    sys.settrace(trace)
    inner()
    sys.settrace(None)
    return seen
def untraced():
    def hidden():
        sleep(0.001)
    for _ in range(5):
        hidden()
    return sys.gettrace()
first, second, other = spawn(traced, []), spawn(traced, []), spawn(untraced)
for coroutine in (first, second, other):
    coroutine.join()
return first.result, second.result, other.result
"""
    assert in_a_coroutine(script, body) == "(['inner'], ['inner'], None)"


def test_processors_are_those_of_the_process(script: RunScript) -> None:
    output = script(
        """
        import os, subprocess, sys
        before = os.sched_getaffinity(0)
        from rmeinheld.coroutine import spawn
        def look():
            child = [sys.executable, "-c", "import os; print(len(os.sched_getaffinity(0)))"]
            return os.sched_getaffinity(0), int(subprocess.run(child, capture_output=True, check=True).stdout)
        coroutine = spawn(look)
        coroutine.join()
        print(coroutine.result == (before, len(before)), os.sched_getaffinity(0) == before)
        """
    )
    assert output == "True True\n"


def test_signal_handlers_run_while_coroutines_wait(script: RunScript) -> None:
    output = script(
        """
        import os, signal, threading, time
        from rmeinheld import patch
        patch.patch_all()
        from rmeinheld.coroutine import sleep, spawn
        handled = []
        signal.signal(signal.SIGUSR1, lambda number, frame: handled.append(threading.get_native_id()))
        def wait():
            for _ in range(20):
                os.kill(os.getpid(), signal.SIGUSR1)
                sleep(0.005)
            return threading.get_native_id()
        coroutine = spawn(wait)
        coroutine.join()
        deadline = time.monotonic() + 5
        while not handled and time.monotonic() < deadline:
            time.sleep(0.01)
        print(set(handled) == {os.getpid()}, coroutine.result != os.getpid())
        """
    )
    assert output == "True True\n"
