"""Meinheld's functions and continuations: names and meaning as there, without the faults."""

from __future__ import annotations

import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from scripts import in_a_coroutine as _in_a_coroutine
from scripts import output_of
from serving import RunScript, Serve, Server, request, takes

SERVER = """
import os, socket
from rmeinheld.meinheld import server
from rmeinheld.coroutine import current
# The imports may have used up the turn: the next cooperative call would let other coroutines run.
sleep(0)
"""


def in_a_coroutine(script: RunScript, body: str) -> str:
    """Run the body of a function in a coroutine of a fresh process; what it returns is printed."""
    return _in_a_coroutine(script, SERVER + body)


# --- schedule_call ---------------------------------------------------------------------------------------------------


def test_calls_are_made_in_the_order_in_which_they_were_scheduled(script: RunScript) -> None:
    body = """
made = []
for number in range(5):
    server.schedule_call(0, made.append, number)
for number in range(5, 10):
    server.schedule_call(0.02, made.append, number)
sleep(0.2)
return made == list(range(10)), made
"""
    assert in_a_coroutine(script, body).startswith("(True")


def test_a_call_takes_arguments_of_all_kinds_and_knows_whether_it_was_made(script: RunScript) -> None:
    body = """
made = []
def call(*args, **kwargs):
    made.append((args, kwargs))
timers = [server.schedule_call(0.01, call), server.schedule_call(0, call, 1, 2), server.schedule_call(0, call, a=1),
    server.schedule_call(0, call, 1, seconds=2)]
before = [timer.called for timer in timers]
sleep(0.1)
assert all(type(timer) is server.Timer and timer.called for timer in timers)
return before, made
"""
    expected = "([False, False, False, False], [((1, 2), {}), ((), {'a': 1}), ((1,), {'seconds': 2}), ((), {})])"
    assert in_a_coroutine(script, body) == expected


def test_calls_are_made_at_fractions_of_a_second_and_schedule_others(script: RunScript) -> None:
    body = """
made = []
def first():
    made.append("first")
    server.schedule_call(0.05, made.append, "nested")
server.schedule_call(0.25, made.append, "late")
server.schedule_call(0.05, first)
sleep(0.2)
soon = list(made)
sleep(0.2)
return soon, made
"""
    assert in_a_coroutine(script, body) == "(['first', 'nested'], ['first', 'nested', 'late'])"


def test_a_call_may_wait(script: RunScript) -> None:
    body = """
made = []
def call(name):
    sleep(0.05)
    made.append(name)
for name in "ab":
    server.schedule_call(0, call, name)
sleep(0.08)
return made
"""
    assert in_a_coroutine(script, body) == "['a', 'b']"


def test_a_cancelled_call_is_not_made_and_holds_nothing(script: RunScript) -> None:
    body = """
import gc, weakref
class Thing:
    pass
made = []
thing = Thing()
gone = weakref.ref(thing)
timers = [server.schedule_call(seconds, lambda _: made.append(1), thing) for seconds in (0, 0.01, 3600)]
del thing
for timer in timers:
    timer.cancel()
    timer.cancel()
sleep(0.05)
gc.collect()
return made, gone(), [timer.called for timer in timers]
"""
    assert in_a_coroutine(script, body) == "([], None, [True, True, True])"


def test_a_call_cannot_cancel_itself_any_more(script: RunScript) -> None:
    body = """
made = []
def call():
    timer.cancel()
    sleep(0.01)
    made.append("went on")
timer = server.schedule_call(0.01, call)
sleep(0.1)
return made
"""
    assert in_a_coroutine(script, body) == "['went on']"


def test_what_a_call_raises_is_logged_and_the_next_is_made(script: RunScript) -> None:
    body = """
made = []
def call():
    raise ValueError("on purpose")
server.schedule_call(0, call)
server.schedule_call(0, made.append, 1)
sleep(0.05)
class Mine:
    def error(self, kind, value, traceback):
        made.append((kind.__name__, str(value), traceback is not None))
server.set_error_logger(Mine())
server.schedule_call(0, call)
server.spawn(call)
sleep(0.05)
return made
"""
    output = output_of(script, SERVER + body)
    assert output.endswith("[1, ('ValueError', 'on purpose', True), ('ValueError', 'on purpose', True)]")
    assert output.count("ValueError: on purpose") == 1


def test_calls_are_scheduled_and_cancelled_from_os_threads(script: RunScript) -> None:
    output = script(
        """
        import threading
        from rmeinheld.meinheld import schedule_call

        made = threading.Event()
        other = schedule_call(30, print, "never")
        schedule_call(0.05, made.set)
        assert made.wait(10)
        other.cancel()
        print(other.called)
        """
    )
    assert output == "True\n"


def test_bad_arguments_are_named(script: RunScript) -> None:
    body = """
errors = []
for call in (lambda: server.schedule_call(-1, print), lambda: server.schedule_call("1", print),
             lambda: server.schedule_call(float("nan"), print), lambda: server.schedule_call(0, 3),
             lambda: server.spawn(3), lambda: server.spawn(print, 3), lambda: server.spawn(print, (), 3),
             lambda: server.trampoline(0), lambda: server.trampoline(0, read=True, timeout=-1),
             lambda: server.cancel_wait("0")):
    try:
        call()
        errors.append("none")
    except (TypeError, ValueError) as error:
        errors.append(type(error).__name__)
return " ".join(errors)
"""
    names = "ValueError TypeError ValueError TypeError TypeError TypeError TypeError ValueError ValueError TypeError"
    assert in_a_coroutine(script, body) == names


# --- spawn, get_ident, trampoline, cancel_wait -----------------------------------------------------------------------


def test_spawn_takes_arguments_as_a_tuple_and_a_dict(script: RunScript) -> None:
    body = """
def call(*args, **kwargs):
    return args, kwargs
spawned = [server.spawn(call), server.spawn(call, (1,)), server.spawn(call, kwargs={"a": 1}),
    server.spawn(call, (1, 2), {"a": 1})]
for each in spawned:
    each.join()
return [each.result for each in spawned]
"""
    assert in_a_coroutine(script, body) == "[((), {}), ((1,), {}), ((), {'a': 1}), ((1, 2), {'a': 1})]"


def test_get_ident_is_the_coroutine(script: RunScript) -> None:
    body = """
assert server.get_ident() is current() is server.get_ident()
others = [server.spawn(server.get_ident) for _ in range(3)]
for other in others:
    other.join()
return len({server.get_ident(), *(other.result for other in others)}), [other.result is other for other in others]
"""
    assert in_a_coroutine(script, body) == "(4, [True, True, True])"


def test_trampoline_waits_for_a_direction_or_both(script: RunScript) -> None:
    body = """
near, far = socket.socketpair()
log = []
def reader():
    server.trampoline(near.fileno(), read=True)
    log.append("read")
server.spawn(reader)
server.trampoline(near.fileno(), write=True)
server.trampoline(near.fileno(), read=True, write=True, timeout=5)
log.append("written")
sleep(0.02)
far.send(b"x")
sleep(0.02)
return log
"""
    assert in_a_coroutine(script, body) == "['written', 'read']"


def test_trampoline_times_out_in_any_coroutine(script: RunScript) -> None:
    body = """
near, far = socket.socketpair()
seen = []
def wait(**arguments):
    try:
        server.trampoline(near.fileno(), timeout=0.02, **arguments)
    except server.timeout as error:
        seen.append(isinstance(error, TimeoutError) and isinstance(error, OSError))
wait(read=True)
wait()
for arguments in ({"read": True}, {}):
    server.spawn(wait, (), arguments).join()
return seen
"""
    assert in_a_coroutine(script, body) == "[True, True, True, True]"


@pytest.mark.parametrize("cancel", ["server.cancel_wait(near.fileno())", "from_a_thread()"])
def test_cancel_wait_ends_every_wait_and_the_descriptor_lives_on(script: RunScript, cancel: str) -> None:
    body = f"""
import errno, threading
near, far = socket.socketpair()
seen = []
def from_a_thread():
    thread = threading.Thread(target=server.cancel_wait, args=(near.fileno(),))
    thread.start()
    thread.join()
def wait():
    try:
        server.trampoline(near.fileno(), read=True, timeout=10)
        seen.append("ready")
    except OSError as error:
        seen.append(error.errno == errno.ECANCELED)
waits = [server.spawn(wait) for _ in range(3)]
sleep(0.02)
{cancel}
for each in waits:
    assert each.join(5)
last = server.spawn(wait)
sleep(0.01)
far.send(b"x")
last.join(5)
return seen
"""
    assert in_a_coroutine(script, body) == "[True, True, True, 'ready']"


def test_outside_of_coroutines_the_functions_block(script: RunScript) -> None:
    output = script(
        """
        import socket, threading
        from rmeinheld.meinheld import server

        near, far = socket.socketpair()
        server.trampoline(near.fileno(), read=True, write=True, timeout=5)
        try:
            server.trampoline(near.fileno(), read=True, timeout=0.01)
        except server.timeout:
            print("timeout")
        print(server.get_ident() == threading.get_ident())
        """
    )
    assert output == "timeout\nTrue\n"


def test_patch_all_takes_what_meinhelds_does(script: RunScript) -> None:
    output = script(
        """
        import socket
        before = socket.socket
        from rmeinheld import patch
        patch.patch_all(socket=True, aggressive=True)
        patch.patch_socket(aggressive=False)
        print(patch.is_patched("socket"), socket.socket is before)
        """
    )
    assert output == "True True\n"


# --- continuations ---------------------------------------------------------------------------------------------------

CONTINUATIONS = """
    import threading
    from rmeinheld.meinheld import server
    from rmeinheld.meinheld.middleware import CONTINUATION_KEY, ContinuationMiddleware

    waiting = []
    gone = []

    def application(environ, start_response):
        continuation = environ[CONTINUATION_KEY]
        path, _, argument = environ["PATH_INFO"].strip("/").partition("/")
        def text(value):
            start_response("200 OK", [])
            return [str(value).encode()]
        if path == "wait":
            waiting.append(continuation)
            try:
                return text(continuation.suspend(float(argument or 0)))
            except ConnectionError as error:
                gone.append(str(error))
                raise
            finally:
                if continuation in waiting:
                    waiting.remove(continuation)
        if path == "count":
            return text(len(waiting))
        if path == "gone":
            return text(len(gone))
        if path == "resume":
            resumed = [waiting.pop(0) for _ in range(len(waiting))]
            for other in resumed:
                eval(f"other.resume({argument})", {"other": other})
            return text(len(resumed))
        if path == "resume_in_a_thread":
            thread = threading.Thread(target=waiting.pop().resume, args=("from a thread",))
            thread.start()
            thread.join()
            return text("done")
        if path == "twice":
            def other():
                continuation.suspend()
            twin = server.spawn(other)
            server.sleep(0)
            try:
                continuation.suspend(1)
            finally:
                continuation.resume()
                twin.join()
        if path == "not_suspended":
            continuation.resume()

    app = ContinuationMiddleware(application)
"""


@pytest.fixture
def suspending(serve: Serve) -> Server:
    """A server whose requests to /wait are suspended."""
    return serve(CONTINUATIONS, error_logfile="-")


def wait_until(server: Server, target: str, number: int) -> None:
    """Ask until the answer is `number`; each time is a request, so the loop turns."""
    for _ in range(2000):
        if int(server.get(target).body) == number:
            return
        threading.Event().wait(0.005)
    raise AssertionError(f"{target} does not become {number}: {server.get(target).body!r}")


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ("", "()"),
        ("1", "1"),
        ("1,2", "(1, 2)"),
        ("a=1", "{'a': 1}"),
        ("1,a=2", "((1,), {'a': 2})"),
        ("None", "None"),
    ],
)
def test_suspend_returns_what_resume_was_given(suspending: Server, arguments: str, value: str) -> None:
    with suspending.connect() as connection:
        connection.send(request(target="/wait"))
        wait_until(suspending, "/count", 1)
        assert suspending.get(f"/resume/{arguments}").body == b"1"
        assert connection.read_response().body.decode() == value
        # The next request of the connection has a continuation of its own.
        connection.send(request(target="/wait"))
        wait_until(suspending, "/count", 1)
        suspending.get("/resume/'again'")
        assert connection.read_response().body == b"again"


def test_a_request_can_be_resumed_by_an_os_thread(suspending: Server) -> None:
    with suspending.connect() as connection:
        connection.send(request(target="/wait"))
        wait_until(suspending, "/count", 1)
        assert suspending.get("/resume_in_a_thread").body == b"done"
        assert connection.read_response().body == b"from a thread"


def test_a_suspension_times_out(suspending: Server) -> None:
    with takes(0.2, 5):
        assert suspending.get("/wait/0.25").status == 500
    suspending.wait_for_log(r"rmeinheld\.coroutine\.timeout: timeout")


def test_suspending_twice_and_resuming_what_is_not_suspended_are_errors(suspending: Server) -> None:
    assert suspending.get("/twice").status == 500
    suspending.wait_for_log("OSError: already suspended")
    assert suspending.get("/not_suspended").status == 500
    suspending.wait_for_log("OSError: not suspended or dead")


def test_a_suspended_request_notices_that_its_client_goes_away(suspending: Server) -> None:
    with suspending.connect() as staying:
        staying.send(request(target="/wait"))
        leaving = [suspending.connect() for _ in range(3)]
        for connection in leaving:
            connection.send(request(target="/wait"))
        wait_until(suspending, "/count", 4)
        leaving[0].close()
        leaving[1].abort()
        leaving[2].close()
        wait_until(suspending, "/count", 1)
        wait_until(suspending, "/gone", 3)
        suspending.get("/resume/'still'")
        assert staying.read_response().body == b"still"
    assert "Traceback" not in suspending.log()


def test_clients_are_looked_at_in_a_new_loop_though_the_last_one_stopped_before_it_began_to(script: RunScript) -> None:
    output = script(
        """
        import atexit
        from rmeinheld.meinheld.continuation import Client
        from rmeinheld.coroutine import *

        client = Client(lambda: True)
        def other():
            try:
                sleep(30)
            finally:
                last.throw(KeyError)
        def suspends_at_the_end():
            try:
                sleep(30)
            except CoroutineExit:
                try:
                    client.suspend(20)
                except KeyError:
                    print("interrupted")
        def suspends():
            try:
                client.suspend(5)
            except ConnectionAbortedError:
                return "noticed"
        spawn(other)
        last = spawn(suspends_at_the_end)
        assert spawn(int).join(5)
        atexit._run_exitfuncs()  # Stops the loop.
        assert last.done
        coroutine = spawn(suspends)
        assert coroutine.join(10)
        print(coroutine.result)
        """
    )
    assert output == "interrupted\nnoticed\n"


def test_a_server_that_stops_ends_suspended_requests(suspending: Server) -> None:
    with suspending.connect() as connection:
        connection.send(request(target="/wait"))
        wait_until(suspending, "/count", 1)
        suspending.signal(signal.SIGQUIT)
        assert connection.read_response().status == 503
    assert suspending.wait() == 0


def test_the_long_polling_chat(serve: Serve) -> None:
    """The chat of Meinheld's examples: each client waits for the next messages, and a client that posts resumes all."""
    chat = serve(
        """
        import json
        from rmeinheld.meinheld.middleware import CONTINUATION_KEY, ContinuationMiddleware
        from rmeinheld import timeout

        class Room:
            def __init__(self):
                self.messages = []
                self.waiters = []

            def post(self, message):
                self.messages.append(message)
                waiters, self.waiters = self.waiters, []
                for waiter in waiters:
                    waiter.resume([message])

            def updates(self, cursor, continuation):
                if cursor < len(self.messages):
                    return self.messages[cursor:]
                self.waiters.append(continuation)
                try:
                    return continuation.suspend(60)
                except (timeout, OSError):
                    self.waiters.remove(continuation)
                    raise

        room = Room()

        def application(environ, start_response):
            if environ["REQUEST_METHOD"] == "POST":
                room.post(environ["wsgi.input"].read().decode())
                answer = len(room.waiters)
            elif environ["PATH_INFO"] == "/waiters":
                answer = len(room.waiters)
            else:
                answer = room.updates(int(environ["QUERY_STRING"]), environ[CONTINUATION_KEY])
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(answer).encode()]

        app = ContinuationMiddleware(application)
        """
    )

    def client(_: int) -> list[str]:
        seen: list[str] = []
        with chat.connect() as connection:
            while len(seen) < 5:
                answer = connection.request(request(target=f"/?{len(seen)}"))
                assert answer.status == 200
                seen += json.loads(answer.body)
        return seen

    with ThreadPoolExecutor(50) as clients:
        listening = [clients.submit(client, number) for number in range(50)]
        for number in range(5):
            if number == 0:
                wait_until(chat, "/waiters", 50)
            assert chat.exchange(request("POST", body=b"message %d" % number), ["POST"])[0].body == b"0"
        expected = [f"message {number}" for number in range(5)]
        assert all(each.result(15) == expected for each in listening)
