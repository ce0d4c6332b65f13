"""Coroutines: spawn, join, result, sleep and waiting for descriptors; in requests, in scripts, next to real threads."""

from __future__ import annotations

import json
import signal
import time

import pytest

from serving import TIMEOUT, RunScript, Serve, program, request, takes

# --- in a plain script -----------------------------------------------------------------------------------------------


def test_a_script_can_spawn_and_join(script: RunScript) -> None:
    output = script(
        """
        from rmeinheld.coroutine import Coroutine, current, sleep, spawn

        def add(a, b, *, c=0):
            sleep(0.01)
            return a + b + c

        assert current() is None
        coroutine = spawn(add, 1, 2, c=3)
        assert isinstance(coroutine, Coroutine)
        assert coroutine.join() is True
        assert coroutine.done is True
        assert coroutine.result == 6
        assert coroutine.join(0) is True
        assert isinstance(coroutine.ident, int)
        assert isinstance(coroutine.name, str)
        print("the end")
        """
    )
    assert output == "the end\n"


def test_sys_exit_ends_a_coroutine_silently_as_it_ends_a_thread(script: RunScript) -> None:
    output = script(
        """
        import logging
        import sys
        import threading

        from rmeinheld.coroutine import spawn

        records = []
        handler = logging.Handler()
        handler.emit = records.append
        logging.getLogger("rmeinheld.error").addHandler(handler)

        thread = threading.Thread(target=sys.exit, args=(3,))
        thread.start()
        thread.join()
        coroutine = spawn(sys.exit, 3)
        assert coroutine.join(10)
        assert records == [], records
        try:
            coroutine.result
        except SystemExit as error:
            print("SystemExit", error.code)
        failed = spawn(int, "x")
        assert failed.join(10)
        assert len(records) == 1, records
        """
    )
    assert output == "SystemExit 3\n"


def test_the_result_of_a_coroutine_can_be_what_it_raised(script: RunScript) -> None:
    output = script(
        """
        from rmeinheld.coroutine import spawn

        class Mine(Exception):
            pass

        def fail():
            raise Mine("on purpose")

        coroutine = spawn(fail)
        assert coroutine.join(10) is True
        for _ in range(2):
            try:
                coroutine.result
            except Mine as error:
                names = []
                traceback = error.__traceback__
                while traceback:
                    names.append(traceback.tb_frame.f_code.co_name)
                    traceback = traceback.tb_next
                assert "fail" in names, names
                print(error)
        """
    )
    assert output.count("on purpose\n") >= 2


def test_a_result_that_is_not_there_yet_raises_or_is_joined(script: RunScript) -> None:
    output = script(
        """
        from rmeinheld.coroutine import sleep, spawn

        def slow():
            sleep(0.3)
            return "done"

        coroutine = spawn(slow)
        assert coroutine.done is False
        assert coroutine.join(0.01) is False
        assert coroutine.join(0) is False
        try:
            print(coroutine.result)
        except Exception as error:
            print(type(error).__name__)
        assert coroutine.join(10) is True
        print(coroutine.result)
        """
    )
    first, second = output.splitlines()
    assert first in ("done", "RuntimeError", "InvalidStateError")
    assert second == "done"


def test_a_coroutine_knows_itself(script: RunScript) -> None:
    script(
        """
        from rmeinheld.coroutine import current, sleep, spawn

        def itself():
            before = current()
            sleep(0.01)
            return before, current()

        coroutines = [spawn(itself) for _ in range(10)]
        for coroutine in coroutines:
            assert coroutine.join(10)
            assert coroutine.result[0] is coroutine
            assert coroutine.result[1] is coroutine
        assert len({coroutine.ident for coroutine in coroutines}) == 10
        assert current() is None
        """
    )


def test_coroutines_spawn_and_join_coroutines(script: RunScript) -> None:
    output = script(
        """
        from rmeinheld.coroutine import sleep, spawn

        def fibonacci(n):
            if n < 2:
                sleep(0)
                return n
            parts = [spawn(fibonacci, n - 1), spawn(fibonacci, n - 2)]
            for part in parts:
                part.join()
            return sum(part.result for part in parts)

        coroutine = spawn(fibonacci, 10)
        coroutine.join()
        print(coroutine.result)
        """
    )
    assert output == "55\n"


def test_many_can_join_one(script: RunScript) -> None:
    script(
        """
        import threading
        from rmeinheld.coroutine import sleep, spawn

        def slow():
            sleep(0.2)
            return "result"

        one = spawn(slow)

        def wait():
            assert one.join(10) is True
            return one.result

        joined = []
        threads = [threading.Thread(target=lambda: joined.append(wait())) for _ in range(10)]
        for thread in threads:
            thread.start()
        coroutines = [spawn(wait) for _ in range(50)]
        for coroutine in coroutines:
            assert coroutine.join(10)
            assert coroutine.result == "result"
        for thread in threads:
            thread.join(10)
        assert joined == ["result"] * 10
        """
    )


def test_the_time_of_a_join_is_kept_in_coroutines_and_threads(script: RunScript) -> None:
    script(
        """
        import time
        from rmeinheld.coroutine import sleep, spawn

        slow = spawn(sleep, 5)

        def impatient():
            started = time.monotonic()
            joined = slow.join(0.2)
            return joined, time.monotonic() - started

        inside = spawn(impatient)
        joined, taken = impatient()
        assert joined is False
        assert 0.19 <= taken < 4, taken
        inside.join(10)
        joined, taken = inside.result
        assert joined is False
        assert 0.19 <= taken < 4, taken
        assert slow.join(10) is True
        assert slow.result is None
        """
    )


@pytest.mark.parametrize("value", ["-1", "-0.001", "float('nan')", "float('inf')", "float('-inf')"])
@pytest.mark.parametrize("place", ["outside", "inside"])
def test_a_time_to_sleep_must_make_sense(script: RunScript, value: str, place: str) -> None:
    output = script(
        f"""
        from rmeinheld.coroutine import sleep, spawn

        def wrong():
            try:
                sleep({value})
            except (ValueError, OverflowError) as error:
                return type(error).__name__ + ": " + str(error)

        if "{place}" == "inside":
            coroutine = spawn(wrong)
            assert coroutine.join(10), "it sleeps"
            print(coroutine.result)
        else:
            print(wrong())
        """,
        timeout=20,
    )
    named = str(eval(value)).removesuffix(".0")
    assert named in output
    if "inf" not in value or "-" in value:
        assert output.startswith("ValueError: ")


@pytest.mark.parametrize("call", ["sleep('1')", "sleep(None)", "sleep()", "spawn()", "spawn(42)", "slow.join('1')"])
def test_arguments_of_a_wrong_type_are_refused(script: RunScript, call: str) -> None:
    output = script(
        f"""
        from rmeinheld.coroutine import sleep, spawn

        slow = spawn(sleep, 0)
        try:
            {call}
        except TypeError as error:
            print("TypeError", error)
        """
    )
    assert output.startswith("TypeError")


def test_sleep_takes_its_time(script: RunScript) -> None:
    script(
        """
        import time
        from rmeinheld.coroutine import sleep, spawn

        def timed(seconds):
            started = time.monotonic()
            sleep(seconds)
            return time.monotonic() - started

        times = [0.0, 0.001, 0.05, 0.1, 0.25, 1, True]
        coroutines = [spawn(timed, seconds) for seconds in times]
        for seconds, coroutine in zip(times, coroutines):
            coroutine.join(10)
            assert seconds <= coroutine.result < seconds + 0.5, (seconds, coroutine.result)
        assert 0.1 <= timed(0.1) < 0.6  # outside of a coroutine it really sleeps
        """
    )


def test_sleepers_wake_in_the_order_of_their_times(script: RunScript) -> None:
    script(
        """
        from rmeinheld.coroutine import sleep, spawn

        order = []

        def sleeper(number):
            sleep(0.1 + number * 0.02)
            order.append(number)

        numbers = [7, 3, 9, 1, 0, 8, 2, 6, 4, 5]
        for coroutine in [spawn(sleeper, number) for number in numbers]:
            coroutine.join(10)
        assert order == sorted(numbers), order
        """
    )


def test_sleep_of_zero_lets_each_of_the_others_run(script: RunScript) -> None:
    script(
        """
        from rmeinheld.coroutine import sleep, spawn

        turns = [0] * 10
        spread = []

        def turn(number):
            for _ in range(200):
                turns[number] += 1
                spread.append(max(turns) - min(turns))
                sleep(0)

        def start():  # within a coroutine, so that all are spawned before the first of them runs
            for coroutine in [spawn(turn, number) for number in range(10)]:
                coroutine.join()

        spawn(start).join(20)
        assert turns == [200] * 10
        assert max(spread) <= 3, max(spread)
        """
    )


def test_sleep_of_zero_starves_neither_timers_nor_descriptors_nor_other_threads(script: RunScript) -> None:
    script(
        """
        import socket
        import threading
        import time
        from rmeinheld.coroutine import sleep, spawn, wait_readable

        finished = []
        stop = False
        a, b = socket.socketpair()

        def busy():
            while not stop:
                sleep(0)

        def timer():
            sleep(0.1)
            finished.append("timer")

        def descriptor():
            assert wait_readable(b.fileno(), 10)
            finished.append("descriptor")

        loops = [spawn(busy) for _ in range(3)]
        others = [spawn(timer), spawn(descriptor)]
        thread = threading.Thread(target=lambda: (time.sleep(0.05), a.send(b"x"), spawn(finished.append, "spawned")))
        thread.start()
        for other in others:
            assert other.join(10), finished
        thread.join(10)
        deadline = time.monotonic() + 10
        while len(finished) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert sorted(finished) == ["descriptor", "spawned", "timer"], finished
        stop = True
        for loop in loops:
            assert loop.join(10)
        """
    )


def test_two_thousand_coroutines_sleep_at_once(script: RunScript) -> None:
    script(
        """
        import threading
        import time
        from rmeinheld.coroutine import sleep, spawn

        threads = set()

        def slow(number):
            threads.add(threading.get_native_id())
            sleep(1)
            return number

        started = time.monotonic()
        coroutines = [spawn(slow, number) for number in range(2000)]
        assert [coroutine.join(30) for coroutine in coroutines] == [True] * 2000
        taken = time.monotonic() - started
        assert [coroutine.result for coroutine in coroutines] == list(range(2000))
        assert taken < 6, taken
        assert len(threads) == 1
        """
    )


def test_coroutines_that_end_give_their_memory_back(script: RunScript) -> None:
    script(
        """
        import gc
        import re
        from pathlib import Path
        from rmeinheld.coroutine import sleep, spawn

        def resident():
            return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

        def burst():
            for coroutine in [spawn(sleep, 0.01) for _ in range(300)]:
                coroutine.join(20)

        for _ in range(3):
            burst()
        before = resident()
        for _ in range(20):
            burst()
        gc.collect()
        grown = resident() - before
        assert grown < 8 * 1024, f"{grown} KiB"
        """
    )


def test_state_belongs_to_the_coroutine(script: RunScript) -> None:
    script(
        """
        import contextvars
        import sys
        import threading
        from rmeinheld.coroutine import sleep, spawn

        variable = contextvars.ContextVar("variable", default="default")
        local = threading.local()

        def own(number):
            assert variable.get() in ("default", "of the script")
            variable.set(number)
            local.number = number
            try:
                raise KeyError(number)
            except KeyError as error:
                sleep(0.05)
                assert sys.exception() is error
            assert sys.exception() is None
            return variable.get(), local.number

        variable.set("of the script")
        coroutines = [spawn(own, number) for number in range(50)]
        for number, coroutine in enumerate(coroutines):
            coroutine.join(10)
            assert coroutine.result == (number, number)
        assert variable.get() == "of the script"
        assert not hasattr(local, "number")
        """
    )


# --- descriptors -----------------------------------------------------------------------------------------------------


def test_waiting_for_a_descriptor(script: RunScript) -> None:
    for place in ("coroutine", "thread"):
        script(
            f"""
            import socket
            import time
            from rmeinheld.coroutine import sleep, spawn, wait_readable, wait_writable

            def scenario():
                a, b = socket.socketpair()
                assert wait_writable(a.fileno(), 5) is True
                started = time.monotonic()
                assert wait_readable(b.fileno(), 0.1) is False
                assert 0.09 <= time.monotonic() - started < 2
                assert wait_readable(b.fileno(), 0) is False
                a.send(b"x")
                assert wait_readable(b.fileno()) is True
                assert wait_readable(b.fileno(), 0) is True
                assert wait_readable(b.fileno(), 5) is True  # still there: waiting does not consume it
                b.recv(10)
                assert wait_readable(b.fileno(), 0.05) is False
                a.setblocking(False)
                try:
                    while True:
                        a.send(b"x" * 65536)
                except BlockingIOError:
                    pass
                assert wait_writable(a.fileno(), 0.05) is False
                while wait_readable(b.fileno(), 0):
                    b.recv(1_000_000)
                assert wait_writable(a.fileno(), 5) is True
                a.close()
                assert wait_readable(b.fileno(), 5) is True  # the end of the stream
                return "passed"

            if "{place}" == "coroutine":
                coroutine = spawn(scenario)
                assert coroutine.join(30)
                assert coroutine.result == "passed"
            else:
                assert scenario() == "passed"
            """
        )


def test_many_can_wait_for_one_descriptor(script: RunScript) -> None:
    script(
        """
        import socket
        from rmeinheld.coroutine import sleep, spawn, wait_readable, wait_writable

        a, b = socket.socketpair()
        readers = [spawn(wait_readable, b.fileno(), 10) for _ in range(100)]
        writers = [spawn(wait_writable, b.fileno(), 10) for _ in range(10)]
        impatient = [spawn(wait_readable, b.fileno(), 0.05) for _ in range(10)]
        for coroutine in writers:
            assert coroutine.join(10)
            assert coroutine.result is True
        for coroutine in impatient:
            assert coroutine.join(10)
            assert coroutine.result is False
        assert not any(coroutine.done for coroutine in readers)
        a.send(b"x")
        for coroutine in readers:
            assert coroutine.join(10)
            assert coroutine.result is True
        """
    )


def test_one_reads_while_another_writes_on_the_same_descriptor(script: RunScript) -> None:
    script(
        """
        import socket
        from rmeinheld.coroutine import spawn, wait_readable, wait_writable

        SIZE = 3_000_000
        a, b = socket.socketpair()
        for each in (a, b):
            each.setblocking(False)

        def send(sock):
            left = SIZE
            while left:
                try:
                    left -= sock.send(b"x" * min(left, 65536))
                except BlockingIOError:
                    assert wait_writable(sock.fileno(), 10)

        def receive(sock):
            total = 0
            while total < SIZE:
                try:
                    total += len(sock.recv(65536))
                except BlockingIOError:
                    assert wait_readable(sock.fileno(), 10)
            return total

        coroutines = [spawn(function, sock) for function in (send, receive) for sock in (a, b)]
        for coroutine in coroutines:
            assert coroutine.join(20)
            coroutine.result
        """
    )


def test_a_descriptor_can_be_closed_and_its_number_used_again(script: RunScript) -> None:
    script(
        """
        import socket
        from rmeinheld.coroutine import spawn, wait_readable

        def scenario():
            for _ in range(300):
                a, b = socket.socketpair()
                number = b.fileno()
                assert wait_readable(number, 0) is False
                waiter = spawn(wait_readable, number, 5)
                a.send(b"x")
                assert waiter.join(5)
                assert waiter.result is True
                a.close()
                b.close()

        coroutine = spawn(scenario)
        assert coroutine.join(30)
        coroutine.result
        """
    )


def test_bad_descriptors_are_errors(script: RunScript) -> None:
    output = script(
        """
        import os
        from rmeinheld.coroutine import spawn, wait_readable, wait_writable

        reader, writer = os.pipe()
        os.close(reader)
        os.close(writer)

        def scenario():
            names = []
            for function in (wait_readable, wait_writable):
                for number in (reader, -1, 10**6):
                    try:
                        function(number, 0.5)
                    except (OSError, ValueError) as error:
                        names.append(type(error).__name__)
            return len(names)

        print(scenario())
        coroutine = spawn(scenario)
        assert coroutine.join(10)
        print(coroutine.result)
        """
    )
    assert output == "6\n6\n"


def test_a_regular_file_is_always_ready(script: RunScript) -> None:
    script(
        """
        from rmeinheld.coroutine import spawn, wait_readable, wait_writable

        def scenario():
            with open(__file__, "rb") as file:
                return wait_readable(file.fileno(), 5), wait_writable(file.fileno(), 5)

        coroutine = spawn(scenario)
        assert coroutine.join(10)
        assert coroutine.result == (True, True)
        """
    )


# --- next to OS threads ----------------------------------------------------------------------------------------------


def test_os_threads_spawn_and_join(script: RunScript) -> None:
    script(
        """
        import threading
        from rmeinheld.coroutine import current, sleep, spawn

        loop_threads = set()
        faults = []

        def work(number):
            loop_threads.add(threading.get_native_id())
            sleep(0.001)
            return number

        def thread(base):
            try:
                assert current() is None
                for number in range(100):
                    coroutine = spawn(work, base + number)
                    assert coroutine.join(20) is True
                    assert coroutine.result == base + number
            except BaseException as error:
                faults.append(error)

        threads = [threading.Thread(target=thread, args=(base * 1000,)) for base in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(60)
            assert not each.is_alive()
        assert not faults, faults
        assert len(loop_threads) == 1
        assert threading.get_native_id() not in loop_threads
        """
    )


def test_a_coroutine_does_not_hold_threads_up_while_it_waits(script: RunScript) -> None:
    script(
        """
        import threading
        import time
        from rmeinheld.coroutine import sleep, spawn

        ticks = []

        def tick():
            while len(ticks) < 50:
                ticks.append(time.monotonic())
                time.sleep(0.005)

        sleepers = [spawn(sleep, 1) for _ in range(100)]
        thread = threading.Thread(target=tick)
        thread.start()
        thread.join(20)
        assert len(ticks) == 50
        assert not sleepers[0].done or ticks[-1] - ticks[0] > 1
        for sleeper in sleepers:
            assert sleeper.join(10)
        """
    )


def test_threads_started_in_a_coroutine_are_real_ones(script: RunScript) -> None:
    script(
        """
        import threading
        from rmeinheld.coroutine import current, sleep, spawn

        def scenario():
            here = threading.get_native_id()
            found = []
            thread = threading.Thread(target=lambda: found.append((threading.get_native_id(), current())))
            thread.start()
            while not found:
                sleep(0.005)
            thread.join()
            assert found[0][0] != here
            assert found[0][1] is None
            return True

        coroutine = spawn(scenario)
        assert coroutine.join(20)
        assert coroutine.result
        """
    )


# --- fork ------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("place", ["coroutine", "main"])
def test_a_forked_child_works_and_leaves_the_parent_alone(script: RunScript, place: str) -> None:
    output = script(
        f"""
        import os
        import time
        import warnings
        from rmeinheld.coroutine import sleep, spawn

        warnings.simplefilter("ignore", DeprecationWarning)
        parked = [spawn(sleep, 0.5) for _ in range(20)]

        def scenario():
            sleep(0.05)
            child = os.fork()
            if not child:
                try:
                    started = time.monotonic()
                    sleep(0.1)  # really blocks now
                    assert 0.09 <= time.monotonic() - started < 5
                    os.write(1, b"child\\n")
                    os._exit(7)
                except BaseException as error:
                    os.write(1, repr(error).encode())
                    os._exit(1)
            deadline = time.monotonic() + 10
            while True:
                pid, status = os.waitpid(child, os.WNOHANG)
                if pid:
                    return os.waitstatus_to_exitcode(status)
                if time.monotonic() > deadline:
                    os.kill(child, 9)
                    os.waitpid(child, 0)
                    return "the child hangs"
                sleep(0.01)

        if "{place}" == "coroutine":
            coroutine = spawn(scenario)
            assert coroutine.join(20)
            result = coroutine.result
        else:
            result = scenario()
        for each in parked:
            assert each.join(10)
        after = spawn(lambda: 42)
        assert after.join(10)
        assert after.result == 42
        print(result, flush=True)
        """
    )
    assert output == "child\n7\n"


def test_a_forked_child_can_end_in_order(script: RunScript) -> None:
    output = script(
        """
        import os
        import sys
        import warnings
        from rmeinheld.coroutine import sleep, spawn

        warnings.simplefilter("ignore", DeprecationWarning)
        parked = [spawn(sleep, 0.3) for _ in range(20)]
        spawn(sleep, 0.01).join(10)
        child = os.fork()
        if not child:
            print("child", flush=True)
            sys.exit(5)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
        """
    )
    assert output == "child\n5\n"


def test_coroutines_can_be_started_after_a_fork(script: RunScript) -> None:
    """As a prefork server does: import before the fork, run after it."""
    output = script(
        """
        import os
        import sys
        from rmeinheld.coroutine import sleep, spawn

        children = []
        for number in range(3):
            child = os.fork()
            if not child:
                coroutine = spawn(lambda: sleep(0.01) or number)
                assert coroutine.join(10)
                sys.exit(coroutine.result)
            children.append(child)
        print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
        """
    )
    assert output == "[0, 1, 2]\n"


# --- the end of a process --------------------------------------------------------------------------------------------


def test_a_script_ends_while_coroutines_are_parked(script: RunScript) -> None:
    with takes(0, 15):
        output = script(
            """
            import os
            from rmeinheld.coroutine import sleep, spawn, wait_readable

            reader, writer = os.pipe()
            parked = [spawn(sleep, 3600) for _ in range(50)] + [spawn(wait_readable, reader) for _ in range(50)]
            parked += [spawn(parked[0].join) for _ in range(50)]
            spawn(sleep, 0.05).join(10)
            print("the end", flush=True)
            """
        )
    assert output == "the end\n"


def test_a_script_ends_while_coroutines_run(script: RunScript) -> None:
    with takes(0, 15):
        output = script(
            """
            from rmeinheld.coroutine import sleep, spawn

            def endless():
                while True:
                    sleep(0)

            for _ in range(5):
                spawn(endless)
            spawn(sleep, 0.05).join(10)
            print("the end", flush=True)
            """
        )
    assert output == "the end\n"


def test_a_script_can_be_interrupted_while_it_joins(script: RunScript) -> None:
    with takes(0, 15):
        output = script(
            """
            import _thread
            import os
            import signal
            import threading
            from rmeinheld.coroutine import sleep, spawn

            parked = [spawn(sleep, 3600) for _ in range(500)]
            threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
            try:
                parked[0].join()
            except KeyboardInterrupt:
                print("interrupted", flush=True)
            """
        )
    assert output == "interrupted\n"


def test_an_error_that_is_never_asked_for_is_reported(script: RunScript) -> None:
    output = script(
        """
        from rmeinheld.coroutine import sleep, spawn

        def fail():
            raise LookupError("nobody asked")

        spawn(fail)
        spawn(sleep, 0.2).join(10)
        """
    )
    assert "nobody asked" in output


def test_a_coroutine_that_exits_ends_alone(script: RunScript) -> None:
    output = script(
        """
        import sys
        from rmeinheld.coroutine import spawn

        coroutine = spawn(sys.exit, 3)
        assert coroutine.join(10)
        try:
            coroutine.result
        except SystemExit as error:
            print("SystemExit", error.code)
        """
    )
    assert "SystemExit 3\n" in output


# --- in requests -----------------------------------------------------------------------------------------------------

IN_REQUESTS = program("spawning")


def test_requests_spawn_and_join(serve: Serve) -> None:
    # A thread of the system, which a patched program would not have.
    server = serve(IN_REQUESTS, no_patch=True)
    with takes(0, 8):
        assert json.loads(server.get("/?fan_out=100").body) == 100
    assert json.loads(server.get("/?nested=50").body) == 50
    assert json.loads(server.get("/?failing").body) == "of the coroutine"
    assert json.loads(server.get("/?from_a_thread").body) is True
    assert json.loads(server.get("/?background").body) == "started"
    server.wait_for_log("later, the request has long ended")


def test_no_more_than_worker_connections_run_at_once(serve: Serve) -> None:
    server = serve(IN_REQUESTS, worker_connections=5)
    connections = [server.connect(timeout=2 * TIMEOUT) for _ in range(50)]
    try:
        for connection in connections:
            connection.send(request("GET", "/?slow=0.05"))
        answers = [json.loads(connection.read_response().body) for connection in connections]
    finally:
        for connection in connections:
            connection.close()
    assert len(answers) == 50
    assert max(answers) <= 5
    assert max(answers) >= 2, "they ran one after the other"


def test_requests_at_the_cap_can_spawn_and_join(serve: Serve) -> None:
    server = serve(IN_REQUESTS, worker_connections=5)
    connections = [server.connect(timeout=2 * TIMEOUT) for _ in range(20)]
    try:
        for connection in connections:
            connection.send(request("GET", "/?fan_out=10"))
        assert [json.loads(connection.read_response().body) for connection in connections] == [10] * 20
        for connection in connections:
            connection.send(request("GET", "/?nested=20"))
        assert [json.loads(connection.read_response().body) for connection in connections] == [20] * 20
    finally:
        for connection in connections:
            connection.close()


def test_idle_connections_do_not_count_for_the_cap(serve: Serve) -> None:
    server = serve(IN_REQUESTS, worker_connections=5, keep_alive=60)
    idle = [server.connect() for _ in range(50)]
    try:
        for connection in idle[25:]:
            assert connection.request(request("GET", "/?slow=0")).status == 200
        with takes(0, 5):
            assert server.get("/?slow=0").status == 200
    finally:
        for connection in idle:
            connection.close()


def test_a_connection_that_waits_at_the_cap_is_answered_later(serve: Serve) -> None:
    server = serve(IN_REQUESTS, worker_connections=1, keep_alive=1)
    with server.connect() as first, server.connect() as second:
        first.send(request("GET", "/?slow=2"))
        server_is_busy = time.monotonic() + 0.2
        while time.monotonic() < server_is_busy:
            assert not first.has_input(0.05)
        second.send(request("GET", "/?slow=0"))  # waits longer than the idle timeout
        assert first.read_response().status == 200
        assert second.read_response().status == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_with_500_parked_requests_ends_in_its_grace_time(serve: Serve, number: int) -> None:
    server = serve(IN_REQUESTS, graceful_timeout=1)
    connections = [server.connect() for _ in range(500)]
    try:
        for connection in connections:
            connection.send(request("GET", "/?slow=3600"))
        # The 500 are parked once a later request sees them.
        with server.connect() as probe:
            deadline = time.monotonic() + TIMEOUT
            while json.loads(probe.request(request("GET", "/?slow=0")).body) < 500:
                assert time.monotonic() < deadline
        with takes(0.5, 12):
            server.signal(number)
            assert server.wait() == 0, server.log()
    finally:
        for connection in connections:
            connection.close()
    assert "panicked" not in server.log()
    assert "Fatal Python error" not in server.log()
