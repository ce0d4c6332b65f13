"""Locks and queues of CPython's own, made before the patch or without it: coroutines exclude each other and park."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from serving import RunScript

BEFORE = """
import _queue, _thread, os, queue, signal, sys, threading, time
def bound(lock):
    return lock.acquire, lock.release
def warm(lock):
    with lock:
        pass
lock, rlock, items = threading.Lock(), threading.RLock(), queue.SimpleQueue()
condition, tasks, happened = threading.Condition(), queue.Queue(), threading.Event()
of_lock, of_rlock = bound(lock), bound(rlock)
for _ in range(100):
    warm(lock), warm(rlock)
"""

AFTER = """
from rmeinheld.coroutine import CoroutineExit, sleep, spawn
from side_by_side import main, together

def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never comes to that"
        time.sleep(0.002)
"""

PATCHES = {
    "without-a-patch": "",
    "before-the-patch": "from rmeinheld.patch import patch_all; patch_all()",
}

either = pytest.mark.parametrize("patch", PATCHES.values(), ids=PATCHES)


@either
def test_a_lock_excludes_coroutines_and_threads_and_parks(script: RunScript, patch: str) -> None:
    output = script(
        f"""{BEFORE}{patch}{AFTER}
from threading import Thread as OSThread

def most_inside(take, give, again):
    inside, most = [], []
    def work():
        take()
        if again: take()
        inside.append(1)
        most.append(len(inside))
        (sleep if coroutine() else time.sleep)(0.005)
        inside.pop()
        if again: give()
        give()
    from rmeinheld.coroutine import can_park as coroutine
    threads = [OSThread(target=work) for _ in range(3)]
    for thread in threads: thread.start()
    coroutines = [spawn(work) for _ in range(5)]
    for each in (*threads, *coroutines): each.join()
    for each in coroutines: each.result
    return max(most), len(most)

def with_statement(lock):
    def work(number):
        with lock:
            assert not inside
            inside.append(number)
            warm(rlock) if lock is rlock else None
            sleep(0.005)
            inside.pop()
    inside = []
    return len(together(work, range(5)))

print(most_inside(lock.acquire, lock.release, False), most_inside(rlock.acquire, rlock.release, True))
print(most_inside(*of_lock, False), most_inside(*of_rlock, True))
main(lambda: (with_statement(lock), with_statement(rlock), lock.locked(), rlock._is_owned()))
"""
    )
    assert output.splitlines() == ["(1, 8) (1, 8)", "(1, 8) (1, 8)", "(5, 5, False, False)"]


@either
def test_conditions_queues_and_events_on_such_locks_park_too(script: RunScript, patch: str) -> None:
    output = script(
        f"""{BEFORE}{patch}{AFTER}
from concurrent.futures import Future
future = Future()

def wait():
    with condition:
        with condition:
            woken = condition.wait(20)
            assert condition._is_owned()
    return woken

def test():
    waiting = [spawn(wait) for _ in range(3)]
    others = [spawn(tasks.get), spawn(happened.wait, 20), spawn(future.result, 20)]
    sleep(0.03)
    with condition:
        condition.notify_all()
    tasks.put("task")
    happened.set()
    future.set_result("result")
    for each in (*waiting, *others):
        each.join(20)
    with condition:
        late = condition.wait(0.02)
    return [each.result for each in (*waiting, *others)], late

main(test)
"""
    )
    assert output == "([True, True, True, 'task', True, 'result'], False)\n"


@either
def test_a_simple_queue_parks_and_gives_each_item_to_one(script: RunScript, patch: str) -> None:
    output = script(
        f"""{BEFORE}{patch}{AFTER}
def empty(*args):
    begin = time.monotonic()
    try:
        return items.get(*args)
    except _queue.Empty:
        return round(time.monotonic() - begin, 1)

def test():
    waiting = [spawn(items.get) for _ in range(5)]
    sleep(0.01)
    for number in range(3):
        items.put(number)
    thread = threading.Thread(target=lambda: (items.put(3), items.put_nowait(4), items.put(5)))
    thread.start()
    for each in waiting:
        assert each.join(20)
    thread.join()
    rest = items.get()
    return sorted([*(each.result for each in waiting), rest]), empty(False), empty(True, 0.1), empty(), items.empty()

def later():
    sleep(0.2)
    items.put("late")
spawn(later)
main(test)
"""
    )
    assert output == "([0, 1, 2, 3, 4, 5], 0.0, 0.1, 'late', True)\n"


@either
def test_waiters_of_a_lock_get_it_in_order(script: RunScript, patch: str) -> None:
    output = script(
        f"""{BEFORE}{patch}{AFTER}
def test():
    order = []
    def hold(name, lock):
        for _ in range(3):
            with lock:
                order.append(name)
                sleep(0.001)
    for one in (lock, rlock):
        for each in [spawn(hold, name, one) for name in "abc"]:
            each.join()
    return "".join(order)

main(test)
"""
    )
    assert output == "abcabcabc" * 2 + "\n"


def test_a_coroutine_that_is_killed_while_it_waits_has_not_taken_the_lock(script: RunScript) -> None:
    output = script(
        f"""{BEFORE}{AFTER}
def test():
    results = []
    for one in (lock, rlock):
        def use():
            with one:
                sleep(0.005)
                return "used"
        one.acquire()
        first, second = spawn(use), spawn(use)
        sleep(0)
        first.kill()
        first.join()
        one.release()
        second.join()
        try:
            first.result
        except CoroutineExit:
            results.append(second.result)
        killed = spawn(items.get)
        sleep(0)
        killed.kill()
        killed.join()
        items.put(1)
        results.append(items.get())
    return results

main(test)
"""
    )
    assert output == "['used', 1, 'used', 1]\n"


def test_a_thread_may_release_a_lock_that_a_coroutine_waits_for(script: RunScript) -> None:
    output = script(
        f"""{BEFORE}{AFTER}
lock.acquire()
rlock.acquire()
coroutines = [spawn(lambda one: one.acquire() and one.release() is None, one) for one in (lock, rlock)]
time.sleep(0.03)
begin = time.monotonic()
lock.release()
rlock.release()
for each in coroutines:
    each.join(20)
print([each.result for each in coroutines])
"""
    )
    assert output == "[True, True]\n"


def test_an_rlock_belongs_to_the_coroutine_that_took_it(script: RunScript) -> None:
    output = script(
        f"""{BEFORE}{AFTER}
def other():
    answers = [rlock._is_owned(), rlock.acquire(False), rlock.acquire(timeout=0.01), rlock._recursion_count()]
    for method in (rlock.release, rlock._release_save, lambda: rlock.__exit__(None, None, None)):
        try:
            method()
        except RuntimeError as error:
            answers.append(str(error))
    return answers

def test():
    rlock.acquire()
    rlock.acquire()
    [answers] = together(lambda _: other(), range(1))
    saved = rlock._release_save()
    [taken] = together(lambda _: rlock.acquire() and rlock.release() is None, range(1))
    rlock._acquire_restore(saved)
    count = rlock._recursion_count()
    rlock.release()
    rlock.release()
    return answers, taken, count, rlock._is_owned()

main(test)
"""
    )
    refused = "cannot release un-acquired lock"
    assert output == f"{([False, False, False, 0, refused, refused, refused], True, 2, False)}\n"


def test_an_rlock_that_is_dropped_while_it_is_held_does_not_affect_the_next(script: RunScript) -> None:
    output = script(
        f"""{BEFORE}{AFTER}
def test():
    def leave():
        dropped = threading.RLock()
        dropped.acquire()
        return id(dropped)
    addresses, taken = set(), []
    for _ in range(50):
        addresses.add(together(lambda _: leave(), range(1))[0])
        fresh = threading.RLock()
        taken.append(fresh.acquire(False) and not together(lambda _: fresh.acquire(False), range(1))[0])
    return all(taken)

main(test)
"""
    )
    assert output == "True\n"


def test_wrong_arguments_raise_the_same_errors_as_elsewhere(script: RunScript) -> None:
    output = script(
        f"""{BEFORE}{AFTER}
CALLS = [
    (lock.acquire, (False, 1), {{}}), (lock.acquire, (1, 2, 3), {{}}), (rlock.acquire, (True, -2), {{}}),
    (lock.acquire, (), {{"timeout": "x"}}), (rlock.acquire, (), {{"wait": 1}}), (lock.acquire, (True, 1e300), {{}}),
    (rlock.acquire, (True,), {{"blocking": True}}), (lock.release, (), {{}}), (lock.release, (1,), {{}}),
    (items.get, (True, -1), {{}}), (items.get, (), {{"wait": 1}}), (items.get, (True, "x"), {{}}),
    (lock.acquire, (True, float("nan")), {{}}), (rlock._acquire_restore, (1,), {{}}), (rlock.release, (), {{}}),
    (rlock._acquire_restore, (), {{}}),
]
def raised():
    texts = []
    for function, args, kwargs in CALLS:
        try:
            texts.append(function(*args, **kwargs))
        except Exception as error:
            texts.append(repr(error))
    return texts
here = raised()
main(lambda: (raised() == here, len(here), [text for text in here if not isinstance(text, str)]))
"""
    )
    assert output == "(True, 16, [])\n"


def test_a_thread_that_a_coroutine_joins_does_not_hold_up_the_others(script: RunScript) -> None:
    output = script(
        f"""{BEFORE}{AFTER}
def test():
    thread = threading.Thread(target=happened.wait)
    thread.start()
    spawn(lambda: (sleep(0.05), happened.set()))
    if sys.version_info >= (3, 13):
        happened.wait()
    thread.join()
    return thread.is_alive()

main(test)
"""
    )
    assert output == "False\n"


def test_only_the_methods_are_exchanged_and_no_module_changes(script: RunScript) -> None:
    output = script(
        f"""{BEFORE}
modules = [dict(vars(module)) for module in (_thread, _queue, queue, threading)]
{AFTER}
spawn(int).join()
print(modules == [dict(vars(module)) for module in (_thread, _queue, queue, threading)], type(lock), type(rlock))
"""
    )
    assert output == "True <class '_thread.lock'> <class '_thread.RLock'>\n"


# --- the import lock -------------------------------------------------------------------------------------------------


@either
def test_an_import_waits_for_the_coroutine_that_imports_the_same_module(
    script: RunScript, patch: str, tmp_path: Path
) -> None:
    (tmp_path / "slowly_made.py").write_text(
        "from rmeinheld.coroutine import sleep\nbegun = True\nsleep(0.3)\nfinished = True\n"
    )
    (tmp_path / "needs_it.py").write_text("import slowly_made\nfinished = slowly_made.finished\n")
    output = script(
        f"""{BEFORE}{patch}{AFTER}
sys.path.insert(0, {str(tmp_path)!r})
def use(how):
    if how == "from":
        from slowly_made import finished
    elif how == "through another":
        import needs_it as module
        finished = module.finished
    else:
        import slowly_made
        finished = slowly_made.finished
    return finished

main(lambda: together(use, ["first", "second", "from", "through another"]))
"""
    )
    assert output == "[True, True, True, True]\n"


@either
def test_an_import_in_a_thread_waits_for_a_coroutine_and_a_circle_of_imports_ends(
    script: RunScript, patch: str, tmp_path: Path
) -> None:
    slow = "from rmeinheld.coroutine import sleep\nsleep(0.2)\n"
    (tmp_path / "left.py").write_text(slow + "import right\nfinished = True\n")
    (tmp_path / "right.py").write_text(slow + "import left\nfinished = True\n")
    output = script(
        f"""
import threading
OSThread = threading.Thread
{BEFORE}{patch}{AFTER}
sys.path.insert(0, {str(tmp_path)!r})
found = []
def use(name):
    __import__(name)
    return sys.modules[name].finished
def in_a_thread():
    while "left" not in sys.modules:
        time.sleep(0.001)
    import left
    found.append(left.finished)

thread = OSThread(target=in_a_thread)
thread.start()
main(lambda: together(use, ["left", "right"]))
thread.join()
print(found)
"""
    )
    assert output == "[True, True]\n[True]\n"


@either
def test_a_fork_waits_for_the_coroutine_that_has_the_import_lock(script: RunScript, patch: str) -> None:
    output = script(
        f"""{BEFORE}{patch}{AFTER}
import _imp, warnings

def importer():
    _imp.acquire_lock()
    _imp.acquire_lock()
    sys.modules["halved"] = "half"
    sleep(0.05)
    _imp.release_lock()
    sleep(0.05)
    sys.modules["halved"] = "whole"
    _imp.release_lock()

def other():
    _imp.acquire_lock()
    seen = sys.modules["halved"]
    _imp.release_lock()
    return seen

def test():
    warnings.simplefilter("ignore", DeprecationWarning)
    importing = spawn(importer)
    sleep(0.01)
    seen = spawn(other)
    pid = os.fork()
    if pid == 0:
        os._exit(42 if sys.modules["halved"] == "whole" and not _imp.lock_held() else 1)
    importing.join()
    seen.join()
    try:
        _imp.release_lock()
    except RuntimeError as error:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen.result, str(error), _imp.lock_held()

main(test)
"""
    )
    assert output == "(42, 'whole', 'not holding the import lock', False)\n"


# --- handlers of signals ---------------------------------------------------------------------------------------------

HANDLER = """
import signal
taken = []
def handler(number, frame):
    take("handler")
signal.signal(signal.SIGUSR1, handler)
def alarm():
    for _ in range(ALARMS):
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore"])
@pytest.mark.parametrize("holder", ["spawn", "Thread"])
def test_a_signal_handler_may_take_the_lock_its_thread_waits_for(script: RunScript, kind: str, holder: str) -> None:
    output = script(
        f"""import os, threading, time
from rmeinheld.coroutine import *
ALARMS = 3
{HANDLER}
lock, held = {kind}(), Event()
def take(name):
    with lock:
        taken.append(name)
def hold():
    with lock:
        held.set()
        (sleep if can_park() else time.sleep)(0.4)
spawn(hold) if "{holder}" == "spawn" else threading.Thread(target=hold).start()
held.wait()
threading.Thread(target=alarm, daemon=True).start()
take("main")
print(sorted(taken))
""",
        timeout=20,
    )
    assert output == "['handler', 'handler', 'handler', 'main']\n"


def test_a_signal_handler_may_take_from_the_queue_its_thread_waits_for(script: RunScript) -> None:
    output = script(
        f"""import os, threading, time
from rmeinheld.coroutine import *
ALARMS = 1
{HANDLER}
items, full = SimpleQueue(), Queue(1)
full.put(0)
def take(name):
    taken.append(items.get())
    full.put(name)
def feed():
    alarm()
    time.sleep(0.05)
    items.put("first")
    taken.append(full.get())
    items.put("second")
    taken.append(full.get())
feeding = threading.Thread(target=feed)
feeding.start()
take("main")
feeding.join()
print(sorted(map(str, taken)), full.get())
""",
        timeout=20,
    )
    assert output == "['0', 'first', 'handler', 'second'] main\n"


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_a_signal_handler_that_raises_leaves_the_lock_to_the_others(script: RunScript, kind: str) -> None:
    output = script(
        f"""import os, threading, time
from rmeinheld.coroutine import *
ALARMS = 1
{HANDLER}
lock, held, waits = {kind}(), Event(), Event()
def take(name):
    raise ZeroDivisionError
def hold():
    with lock:
        held.set()
        sleep(0.2)
def follow():
    with lock:
        return "taken"
holding = spawn(hold)
held.wait()
following = spawn(lambda: (sleep(0.02), follow())[1])
threading.Thread(target=alarm, daemon=True).start()
try:
    lock.acquire()
except ZeroDivisionError:
    following.join(20)
    print(following.result, lock.acquire(False))
""",
        timeout=20,
    )
    assert output == "taken True\n"


@pytest.mark.skipif(sys.version_info < (3, 14), reason="RLock.locked came with Python 3.14")
def test_an_rlock_says_whether_it_is_locked(script: RunScript) -> None:
    output = script(
        f"""{BEFORE}{AFTER}
main(lambda: (rlock.locked(), rlock.acquire(), rlock.locked(), rlock.release(), rlock.locked()))
"""
    )
    assert output == "(False, True, True, None, False)\n"
