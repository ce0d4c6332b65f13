"""State that each coroutine has for itself, because it is a thread to the interpreter. No patch is needed: see
docs/libraries.md."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor

from serving import RunScript, Serve, takes

HEADER = """
from rmeinheld.coroutine import current, sleep, spawn
from side_by_side import main, together
"""


def test_threading_local_and_its_subclasses_are_a_coroutines_own(script: RunScript) -> None:
    output = script(
        f"""{HEADER}
import threading

class Mine(threading.local):
    def __init__(self):
        self.number = "fresh"

plain, mine = threading.local(), Mine()

def use(number):
    assert not hasattr(plain, "number") and mine.number == "fresh"
    plain.number = mine.number = number
    sleep(0.02)
    return plain.number, mine.number

main(lambda: together(use, range(50)) == [(number, number) for number in range(50)])
"""
    )
    assert output == "True\n"


def test_requests_may_find_the_locals_of_earlier_ones_and_new_threads_find_none(serve: Serve) -> None:
    server = serve(
        """
        from rmeinheld import patch
        patch.patch_all()
        import threading, time
        from concurrent.futures import ThreadPoolExecutor
        from rmeinheld.coroutine import spawn

        local = threading.local()

        def look():
            found, local.left = getattr(local, "left", 0), 1
            time.sleep(0.001)
            return found

        def app(environ, start_response):
            local.requests = getattr(local, "requests", 0) + 1
            found = []
            for start in (
                lambda: threading.Thread(target=lambda: found.append(look())),
                lambda: threading.Timer(0.001, lambda: found.append(look())),
            ) if environ["PATH_INFO"] == "/threads" else ():
                for _ in range(3):
                    thread = start()
                    thread.start()
                    thread.join()
                    with ThreadPoolExecutor(1) as executor:
                        found.append(executor.submit(look).result())
                    coroutine = spawn(look)
                    coroutine.join()
                    found.append(coroutine.result)
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [repr((local.requests, found)).encode()]
        """
    )
    # They never wait, so that one coroutine can run them all.
    assert any(server.get("/").body != b"(1, [])" for _ in range(5))
    for _ in range(3):
        assert server.get("/threads").body.endswith(f", {[0] * 18})".encode())


def test_the_context_of_decimal_is_a_coroutines_own(script: RunScript) -> None:
    output = script(
        f"""{HEADER}
from decimal import ROUND_DOWN, Decimal, getcontext, localcontext

def divide(digits):
    fresh = getcontext().prec
    getcontext().prec = digits
    sleep(0.02)
    with localcontext() as context:
        context.rounding = ROUND_DOWN
        sleep(0.02)
        down = len(str(Decimal(2) / 3)) - 2
    sleep(0.02)
    return fresh, down, str(Decimal(2) / 3)

def test():
    return together(divide, range(1, 20)) == [(28, digits, "0." + "6" * (digits - 1) + "7") for digits in range(1, 20)]

main(test)
"""
    )
    assert output == "True\n"


def test_a_debugger_traces_one_coroutine_and_no_other(script: RunScript) -> None:
    output = script(
        f"""{HEADER}
import bdb, sys, threading

class Debugger(bdb.Bdb):
    def __init__(self):
        super().__init__()
        self.stops = []

    def user_line(self, frame):
        if frame.f_code.co_name == "work":
            self.stops.append((frame.f_lineno - frame.f_code.co_firstlineno, frame.f_locals["number"]))
        self.set_step()

def work(number):
    a = number + 1
    sleep(0.02)
    b = a + 1
    sleep(0.02)
    return b

def debugged(number):
    debugger = Debugger()
    return debugger.runcall(work, number), debugger.stops

def plain(number):
    assert sys.gettrace() is None
    result = work(number)
    assert sys.gettrace() is None
    return result

def test():
    others = spawn(together, plain, range(20))
    first, second = together(debugged, (100, 200))
    assert others.join(20) and others.result == [number + 2 for number in range(20)]
    lines = [1, 2, 3, 4, 5]
    assert first == (102, [(line, 100) for line in lines]), first
    assert second == (202, [(line, 200) for line in lines]), second
    return "traced"

main(test)
"""
    )
    assert output == "traced\n"


def test_a_breakpoint_stops_in_a_request_and_pdb_sees_its_variables(script: RunScript) -> None:
    output = script(
        f"""{HEADER}
import io, pdb, sys

def work(number):
    sleep(0.01)
    answers = io.StringIO()
    pdb.Pdb(stdin=io.StringIO("p number * 2\\nwhere\\ncontinue\\n"), stdout=answers, nosigint=True).set_trace()
    return answers.getvalue()

def test():
    texts = together(work, range(5))
    assert all(f"(Pdb) {{2 * number}}" in text for number, text in enumerate(texts)), texts
    return all("work()" in text for text in texts)

main(test)
"""
    )
    assert output == "True\n"


def test_faulthandler_shows_each_coroutine_as_a_thread(script: RunScript) -> None:
    output = script(
        f"""{HEADER}
import faulthandler, sys

def first_wait():
    sleep(0.1)

def second_wait():
    sleep(0.1)

def test():
    waiting = [spawn(first_wait), spawn(second_wait)]
    sleep(0.02)
    frames = [frame.f_code.co_name for frame in sys._current_frames().values()]
    # Since Python 3.14, the key is the number of the OS thread, so only one of its coroutines is shown.
    assert sys.version_info >= (3, 14) or ("first_wait" in frames and "second_wait" in frames)
    faulthandler.dump_traceback(all_threads=True)
    return "dumped"

main(test)
"""
    )
    threads = re.split(r"\n\n", output)
    assert any("in first_wait" in text and "second_wait" not in text for text in threads), output
    assert any("in second_wait" in text and "first_wait" not in text for text in threads), output


ASYNCIO = """
    from rmeinheld import patch
    patch.patch_all()
    import asyncio, contextvars, json

    number = contextvars.ContextVar("number")

    async def part(value):
        number.set(value)
        await asyncio.sleep(0.1)
        return number.get()

    async def parts(value):
        tasks = [asyncio.create_task(part(10 * value + each)) for each in range(3)]
        process = await asyncio.create_subprocess_exec("echo", str(value), stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        reader, writer = await asyncio.open_connection("127.0.0.1", server_port)
        writer.write(b"GET /echo HTTP/1.1\\r\\nHost: test\\r\\nConnection: close\\r\\n\\r\\n")
        answer = await reader.read()
        writer.close()
        in_thread = await asyncio.to_thread(lambda: 7 * value)
        return await asyncio.gather(*tasks), int(output), answer[-6:].decode(), in_thread

    def app(environ, start_response):
        global server_port
        server_port = int(environ["SERVER_PORT"])
        if environ["PATH_INFO"] == "/echo":
            answer = "echo"
        else:
            value = int(environ["PATH_INFO"][1:])
            answer = asyncio.run(parts(value))
        start_response("200 OK", [])
        return [json.dumps(answer).encode()]
"""


def test_asyncio_runs_in_many_requests_at_once(serve: Serve) -> None:
    """Each request has an event loop, tasks, a child, and a connection to the server itself."""
    server = serve(ASYNCIO)
    with ThreadPoolExecutor(60) as clients, takes(0.1, 30):
        answers = list(clients.map(lambda number: server.get(f"/{number}"), range(60)))
    for number, answer in enumerate(answers):
        expected = [[10 * number, 10 * number + 1, 10 * number + 2], number, '"echo"', 7 * number]
        assert (answer.status, json.loads(answer.body)) == (200, expected)
