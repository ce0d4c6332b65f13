"""Exceptions raised in a coroutine from outside: throw, kill, timeout; and locks that a coroutine is interrupted at."""

from __future__ import annotations

from scripts import in_a_coroutine, patched
from serving import RunScript


def test_a_thrown_exception_is_raised_where_the_coroutine_waits(script: RunScript) -> None:
    body = """
seen = []
def victim():
    try:
        sleep(30)
    except KeyError as error:
        seen.append(error.args)
    sleep(0)
    return "went on"
coroutine = spawn(victim)
sleep(0)
assert coroutine.throw(KeyError("mine")) is True
assert coroutine.join(5)
return seen, coroutine.result, coroutine.throw(ValueError)
"""
    assert in_a_coroutine(script, body) == "([('mine',)], 'went on', False)"


def test_several_exceptions_are_raised_one_after_the_other(script: RunScript) -> None:
    body = """
seen = []
def victim():
    for _ in range(3):
        try:
            sleep(30)
        except Exception as error:
            seen.append(type(error).__name__)
coroutine = spawn(victim)
sleep(0)
for exception in (KeyError, ValueError("v"), OSError):
    coroutine.throw(exception)
assert coroutine.join(5)
return seen
"""
    assert in_a_coroutine(script, body) == "['KeyError', 'ValueError', 'OSError']"


def test_an_exception_for_a_coroutine_that_is_ready_waits_for_its_next_wait(script: RunScript) -> None:
    body = """
lock = Lock()
lock.acquire()
def victim():
    lock.acquire()
    try:
        sleep(30)
    except KeyError:
        return "later"
coroutine = spawn(victim)
sleep(0)
lock.release()
coroutine.throw(KeyError)
assert coroutine.join(5)
return coroutine.result
"""
    assert in_a_coroutine(script, body) == "later"


def test_an_exception_can_be_thrown_from_a_thread(script: RunScript) -> None:
    body = """
def victim():
    try:
        sleep(30)
    except KeyError:
        return "raised"
coroutine = spawn(victim)
sleep(0)
thread = threading.Thread(target=lambda: coroutine.throw(KeyError))
thread.start()
assert coroutine.join(5)
return coroutine.result
"""
    assert in_a_coroutine(script, body) == "raised"


def test_a_killed_coroutine_ends_with_its_exit_exception_and_runs_finally(script: RunScript) -> None:
    body = """
cleaned = []
def victim():
    try:
        sleep(30)
    finally:
        cleaned.append(1)
coroutine = spawn(victim)
sleep(0)
assert coroutine.kill() is True
assert coroutine.join(5)
try:
    coroutine.result
except CoroutineExit as error:
    return cleaned, str(error), coroutine.kill()
"""
    assert in_a_coroutine(script, body) == "([1], 'killed', False)"


def test_a_coroutine_killed_before_its_start_does_not_start(script: RunScript) -> None:
    body = """
started = []
coroutine = spawn(started.append, 1)
coroutine.kill()
coroutine.join()
try:
    coroutine.result
except CoroutineExit:
    return started
"""
    assert in_a_coroutine(script, body) == "[]"


def test_a_coroutine_that_kills_itself_raises_at_once(script: RunScript) -> None:
    body = """
def suicidal():
    current().kill()
    return "survived"
coroutine = spawn(suicidal)
coroutine.join()
try:
    return coroutine.result
except CoroutineExit:
    return "gone"
"""
    assert in_a_coroutine(script, body) == "gone"


def test_an_exit_passes_code_that_logs_unknown_exceptions_and_goes_on(script: RunScript) -> None:
    # As the service task of engineio does; it would go on until it is abandoned.
    body = """
seen = []
def service():
    while True:
        try:
            sleep(30)
        except (SystemExit, KeyboardInterrupt):
            seen.append("ends")
            return
        except:
            seen.append("unknown exception")
coroutine = spawn(service)
sleep(0)
coroutine.kill()
return coroutine.join(5), seen
"""
    assert in_a_coroutine(script, body) == "(True, ['ends'])"


def test_only_exceptions_can_be_thrown(script: RunScript) -> None:
    body = """
coroutine = spawn(sleep, 0.1)
errors = []
for wrong in (None, 3, "KeyError", int, object()):
    try:
        coroutine.throw(wrong)
    except TypeError as error:
        errors.append(str(error))
coroutine.join()
return len(errors), errors[1]
"""
    expected = "(5, 'exceptions must be classes or instances deriving from BaseException, not int')"
    assert in_a_coroutine(script, body) == expected


def test_a_timeout_ends_a_wait_of_its_block_and_nothing_else(script: RunScript) -> None:
    body = """
before = time.monotonic()
try:
    with timeout(0.05) as limit:
        sleep(30)
except Timeout as error:
    assert limit.expired and "0.05" in str(error), error
took = time.monotonic() - before
with timeout(0.01) as limit:
    pass
sleep(0.05)
assert not limit.expired
with timeout(None) as limit:
    sleep(0.01)
return 0.04 < took < 5, isinstance(Timeout(), Exception)
"""
    assert in_a_coroutine(script, body) == "(True, False)"


def test_a_timeout_can_raise_another_exception_or_none(script: RunScript) -> None:
    body = """
seen = []
for exception in (ValueError, OSError("mine"), False):
    try:
        with timeout(0.01, exception) as limit:
            sleep(30)
    except Exception as error:
        seen.append(repr(error))
    seen.append(limit.expired)
return seen
"""
    assert in_a_coroutine(script, body) == "['ValueError()', True, \"OSError('mine')\", True, True]"


def test_nested_timeouts_end_their_own_blocks(script: RunScript) -> None:
    body = """
seen = []
with timeout(0.2, False) as outer:
    with timeout(0.02, False) as inner:
        sleep(30)
    seen.append((inner.expired, outer.expired))
    with timeout(30) as long:
        sleep(30)
seen.append((outer.expired, long.expired))
return seen
"""
    assert in_a_coroutine(script, body) == "[(True, False), (True, False)]"


def test_timeouts_that_expire_while_the_coroutine_computes_are_raised_at_its_next_wait(script: RunScript) -> None:
    body = """
def compute(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
with timeout(0.01):
    compute(0.05)
sleep(0.01)
try:
    with timeout(0.01):
        compute(0.05)
        sleep(0)
        sleep(30)
except Timeout:
    return "raised"
"""
    assert in_a_coroutine(script, body) == "raised"


def test_bad_timeouts_are_errors(script: RunScript) -> None:
    body = """
errors = []
for seconds in (-1, float("nan"), []):
    try:
        timeout(seconds)
    except (ValueError, TypeError) as error:
        errors.append(type(error).__name__)
limit = timeout(5)
with limit:
    pass
try:
    with limit:
        pass
except RuntimeError as error:
    errors.append(str(error))
outside = []
def in_a_thread():
    try:
        with timeout(1):
            pass
    except RuntimeError as error:
        outside.append("coroutines" in str(error))
thread = threading.Thread(target=in_a_thread)
thread.start()
while not outside:
    sleep(0.01)
return errors, outside
"""
    expected = "(['ValueError', 'ValueError', 'TypeError', 'this timeout() has been entered before'], [True])"
    assert in_a_coroutine(script, body) == expected


def test_an_interrupted_waiter_does_not_take_the_lock_with_it(script: RunScript) -> None:
    body = """
lock = Lock()
lock.acquire()
def waits():
    lock.acquire()
waiter = spawn(waits)
after = spawn(waits)
sleep(0)
waiter.kill()
waiter.join()
lock.release()
assert after.join(5), "the lock was given to the dead"
assert lock.locked()
lock.release()
# Killed in the very moment in which it is handed the lock: it has it, and dies at its next wait.
lock.acquire()
def holds():
    with lock:
        sleep(30)
waiter = spawn(holds)
sleep(0)
lock.release()
waiter.kill()
waiter.join()
return lock.locked()
"""
    assert in_a_coroutine(script, body) == "False"


def test_locks_go_from_threads_to_coroutines_and_back(script: RunScript) -> None:
    body = """
counts = {"coroutine": 0, "thread": 0}
for kind in (Lock, RLock):
    lock = kind()
    inside = []
    def work(who, pause):
        for _ in range(200):
            with lock:
                assert not inside, "two at once"
                inside.append(who)
                pause(0)
                inside.pop()
                counts[who] += 1
    threads = [threading.Thread(target=work, args=("thread", time.sleep)) for _ in range(3)]
    for thread in threads:
        thread.start()
    coroutines = [spawn(work, "coroutine", sleep) for _ in range(3)]
    for coroutine in coroutines:
        coroutine.join()
        coroutine.result
    while any(thread.is_alive() for thread in threads):
        sleep(0.01)
return counts
"""
    assert in_a_coroutine(script, body) == "{'coroutine': 1200, 'thread': 1200}"


def test_a_lock_goes_to_its_waiters_in_order(script: RunScript) -> None:
    body = """
lock = Lock()
order = []
def work(number):
    for _ in range(3):
        with lock:
            order.append(number)
            sleep(0)
coroutines = [spawn(work, number) for number in range(3)]
for coroutine in coroutines:
    coroutine.join()
return order
"""
    assert in_a_coroutine(script, body) == "[0, 1, 2, 0, 1, 2, 0, 1, 2]"


def test_every_coroutine_owns_its_reentrant_lock_itself(script: RunScript) -> None:
    body = """
lock = RLock()
seen = []
def other():
    seen.append((lock._is_owned(), lock.acquire(False), lock.acquire(timeout=0.01)))
    try:
        lock.release()
    except RuntimeError as error:
        seen.append(str(error))
with lock, lock:
    coroutine = spawn(other)
    coroutine.join()
    seen.append((lock._is_owned(), lock._recursion_count()))
return seen, lock.locked()
"""
    expected = "([(False, False, False), 'cannot release un-acquired lock', (True, 2)], False)"
    assert in_a_coroutine(script, body) == expected


def test_values_left_in_a_thread_state_end_with_their_coroutine(script: RunScript) -> None:
    body = """
import contextvars, sys, weakref
local = threading.local()
variable = contextvars.ContextVar("variable", default=None)
class Thing:
    pass
def leave():
    before = hasattr(local, "thing"), variable.get()
    local.thing = Thing()
    variable.set(1)
    return before, weakref.ref(local.thing), sys.version_info >= (3, 14) or get_ident() in sys._current_frames()
left = []
for _ in range(3):
    coroutine = spawn(leave)
    coroutine.join()
    before, thing, known = coroutine.result
    left.append((before, thing(), known))
return left == [((False, None), None, True)] * 3, len({spawn(get_ident).join() for _ in range(3)})
"""
    assert in_a_coroutine(script, body) == "(True, 1)"


def test_a_coroutine_interrupted_while_a_condition_of_threading_takes_its_lock_again_has_it(script: RunScript) -> None:
    body = """
seen = []
for make in (threading.Lock, threading.RLock):
    condition = threading.Condition(make())
    def wait():
        try:
            with condition:
                condition.wait()
        except KeyError:
            seen.append(condition._is_owned())
        try:
            time.sleep(30)
        except ValueError:
            seen.append("the second at its next wait")
    victim = spawn(wait)
    sleep(0)
    with condition:
        victim.throw(KeyError)
        sleep(0)
        # It wants the lock back now.
        victim.throw(ValueError)
        sleep(0)
        seen.append(condition._is_owned())
    assert victim.join(5)
    victim.result
    # Its place in the queue is free: a notification goes to a waiter.
    def wait_again():
        with condition:
            return condition.wait(5)
    waiter = spawn(wait_again)
    sleep(0)
    with condition:
        condition.notify()
    assert waiter.join(10)
    seen.append(waiter.result)
return seen == [True, False, "the second at its next wait", True] * 2 or seen
"""
    assert patched(script, body) == "True"


def test_a_killed_coroutine_does_not_give_back_a_lock_that_it_has_not_taken_again(script: RunScript) -> None:
    body = """
ends = []
for make in (threading.Lock, threading.RLock):
    condition = threading.Condition(make())
    def wait():
        try:
            with condition:
                condition.wait()
        except BaseException as error:
            ends.append(type(error).__name__)
    victim = spawn(wait)
    sleep(0)
    with condition:
        for _ in range(2):
            victim.kill()
            sleep(0)
    assert victim.join(5)
return ends
"""
    assert patched(script, body) == "['CoroutineExit', 'CoroutineExit']"


def test_a_time_limit_that_raises_timeout_errors_is_not_taken_for_the_sockets_own(script: RunScript) -> None:
    body = """
class Mine(TimeoutError):
    pass
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
left, right = socket.socketpair()
secured = context.wrap_socket(left, do_handshake_on_connect=False)
listener, first, second = (socket.socket(socket.AF_UNIX) for _ in range(3))
listener.bind("")
listener.listen(0)
first.connect(listener.getsockname())
seen = []
for call in (secured.do_handshake, lambda: second.connect_ex(listener.getsockname())):
    secured.settimeout(30)
    second.settimeout(30)
    try:
        with timeout(0.05, Mine("mine")):
            seen.append(call())
    except TimeoutError as error:
        seen.append(error)
    secured.settimeout(0.05)
    second.settimeout(0.05)
    try:
        seen.append(call())
    except TimeoutError as error:
        seen.append(error)
return seen
"""
    expected = "[Mine('mine'), TimeoutError('The handshake operation timed out'), Mine('mine'), 11]"
    assert patched(script, body) == expected
