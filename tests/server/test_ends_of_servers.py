"""The end of a server: background work of requests is finished, and requests that compute are named.

Kinds of process are tried where they differ: the command line and Gunicorn's worker, whose process ends with the
server, and `run()` in a program that goes on.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ending import PATCHED, RUN, printed
from masters import Gunicorn, Masters
from serving import TIMEOUT, RunScript, Serve, Server, program, request, takes

BACKGROUND = program("background")


def ended(server: Server, number: int = signal.SIGTERM) -> list[str]:
    """Stop the server, which must end in order, and return the background work that was done."""
    server.signal(number)
    assert server.wait() == 0, server.log()
    return [line.removeprefix("done ") for line in server.log().splitlines() if line.startswith("done ")]


ALL_DONE = sorted(["hook", "thread", "nested", "timer", *map(str, range(5)), "job 0", "job 1"])


def test_background_work_of_requests_is_finished_before_the_process_ends(serve: Serve) -> None:
    server = serve(PATCHED + BACKGROUND)
    for path in ("/hook", "/thread", "/nested", "/timer", "/pool", "/daemon"):
        server.get(path)
    assert sorted(ended(server)) == ALL_DONE


def test_threads_of_requests_are_finished_without_the_patch_too(serve: Serve) -> None:
    server = serve(BACKGROUND, no_patch=True)
    assert server.get("/kind").body == b"False"
    assert server.get("/kind").body == b"False"
    server.get("/thread")
    assert ended(server) == ["thread"]


def test_a_thread_of_a_request_is_no_daemon(serve: Serve) -> None:
    assert serve(PATCHED + BACKGROUND).get("/kind").body == b"False"


def test_idle_workers_of_executors_do_not_hold_up_the_end(serve: Serve) -> None:
    server = serve(PATCHED + BACKGROUND, graceful_timeout=3600)
    server.get("/idle")
    with takes(0, 10):
        ended(server)


@pytest.mark.parametrize(("patch", "kind"), [(PATCHED, "threads are ended"), ("", "OS threads are left behind")])
def test_threads_that_go_on_after_the_grace_time_are_named(serve: Serve, patch: str, kind: str) -> None:
    server = serve(patch + BACKGROUND, graceful_timeout=0.5, no_patch=True)
    server.get("/forever")
    with takes(0.4, 10):
        ended(server)
    (line,) = [line for line in server.log().splitlines() if "unfinished" in line]
    assert "after graceful_timeout (0.5 s)" in line and kind in line and line.endswith(": export"), line


def test_the_warning_about_unfinished_threads_names_the_time_that_the_stop_gave(script: RunScript) -> None:
    source = """
def app(environ, start_response):
    threading.Thread(target=time.sleep, args=(100,), name="export").start()
    server.stop(0.2)
    start_response("200 OK", [("Content-Length", "0")])
    return []
serve(app, graceful_timeout=30)
"""
    output = script(PATCHED + RUN + source)
    expected = (
        "after the 0.2 s of the stop (graceful_timeout is 30 s), unfinished threads are ended by CoroutineExit: export"
    )
    assert expected in output, output


def test_a_second_signal_ends_background_work_at_once(serve: Serve) -> None:
    server = serve(PATCHED + BACKGROUND, graceful_timeout=3600)
    server.get("/forever")
    server.signal(signal.SIGTERM)
    deadline = time.monotonic() + TIMEOUT
    while True:  # until the first signal has had its effect
        try:
            server.connect().close()
        except OSError:
            break
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with takes(0, 10):
        ended(server, signal.SIGQUIT)
    assert "ended by CoroutineExit: export" in server.log()


def test_run_finishes_background_work_before_it_returns_and_executors_live_on(script: RunScript) -> None:
    # In one piece: print() writes the end of the line by itself, and another thread may print meanwhile.
    source = """
import os
pool = ThreadPoolExecutor(1)

def late(what):
    time.sleep(0.3)
    os.write(1, f"{what}\\n".encode())

def app(environ, start_response):
    threading.Thread(target=late, args=("thread",)).start()
    for number in range(2):
        pool.submit(late, number)
    return answer(start_response)

serve(app)
print("returned", pool.submit(sum, (1, 2)).result(), flush=True)
serve(app)
print("again", pool.submit(sum, (3, 4)).result())
"""
    said = printed(script(PATCHED + RUN + source))
    assert sorted(said[:3]) == sorted(said[4:7]) == ["0", "1", "thread"]
    assert (said[3], said[7:]) == ("returned 3", ["again 7"])


# --- what computes ---------------------------------------------------------------------------------------------------

COMPUTES = """
import atexit, time
atexit.register(time.sleep, 3600)
atexit.register(print, "handler", flush=True)
def app(environ, start_response):
    print("computing", flush=True)
    while True:
        pass
"""


def test_a_command_whose_request_computes_reports_it_and_gives_exit_handlers_two_seconds(serve: Serve) -> None:
    server = serve(COMPUTES, graceful_timeout=0)
    with server.connect() as connection:
        connection.send(request("GET", "/sum?all"))
        server.wait_for_log("computing")
        with takes(1.9, 12):
            server.signal(signal.SIGTERM)
            assert server.wait() == 1
    log = server.log()
    assert "request GET /sum?all computes" in log
    assert "handler" in log
    assert "Fatal" not in log and "panicked" not in log


def test_a_process_ends_whose_interpreter_is_held_for_ever(serve: Serve) -> None:
    server = serve(
        """
        import re

        def app(environ, start_response):
            print("computing", flush=True)
            re.match(r"(a+)+$", "a" * 60 + "b")
        """,
        graceful_timeout=0,
    )
    with server.connect() as connection:
        connection.send(request("GET", "/"))
        server.wait_for_log("computing")
        with takes(0, 14):
            server.signal(signal.SIGTERM)
            assert server.wait() == 1
    assert "ends in the middle of a request" in server.log()


def test_run_names_the_request_that_computes_and_the_program_goes_on(script: RunScript) -> None:
    source = """
import os
go_on = threading.Event()

def app(environ, start_response):
    server.stop()
    while not go_on.is_set():
        pass
    return answer(start_response)

try:
    serve(app, "/sum?all", graceful_timeout=0.1)
except RuntimeError as error:
    print(error)
try:
    serve(app)
except RuntimeError as error:
    print(error)
go_on.set()
deadline = time.monotonic() + 10
while True:
    try:
        serve(lambda environ, start_response: answer(start_response))
        break
    except RuntimeError:
        assert time.monotonic() < deadline
        time.sleep(0.05)
print("served")
"""
    first, second, third = printed(script(RUN + source))
    assert "request GET /sum?all computes" in first
    assert second == first
    assert third == "served"


# --- Gunicorn's worker -----------------------------------------------------------------------------------------------


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Masters[Gunicorn]]:
    """`start(*options) -> Gunicorn`: a running master, which must end in order at the end of the test."""
    masters = Masters(tmp_path, Gunicorn)
    yield masters
    masters.stop()


def test_a_worker_finishes_background_work_at_max_requests_and_at_the_end(
    start: Masters[Gunicorn], tmp_path: Path
) -> None:
    (tmp_path / "background.py").write_text(ANSWERS_JSON + BACKGROUND)
    server = start("--max-requests", "2", "--env", "RMEINHELD_PATCH=1", app="background:application")
    # The first request was the one that has waited for the start.
    server.get("/thread")
    server.wait_for_log("done thread")
    server.get("/timer")
    server.end()
    assert "done timer" in server.log()
    assert "Error" not in server.log()


ANSWERS_JSON = """
def application(environ, start_response):
    app(environ, lambda *arguments: None)
    start_response("200 OK", [])
    return [b"{}"]
"""


def test_a_worker_that_still_patches_obeys_sigterm(tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(SLOW_TO_PATCH)
    server = Gunicorn(tmp_path, ("--env", "RMEINHELD_PATCH=1", "--graceful-timeout", "3600"))
    try:
        server.wait_for_log("patching")
        with takes(0, 10):
            server.signal(signal.SIGTERM)
            server.wait_for_log("Handling signal: term")
            assert server.wait() == 0
        assert "Worker exiting" in server.log()
    finally:
        server.kill()


SLOW_TO_PATCH = """
def post_fork(server, worker):
    import time
    import rmeinheld.patch
    patch_all = rmeinheld.patch.patch_all

    def slowly():
        print("patching", flush=True)
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline and worker.alive:
            time.sleep(0.01)
        return patch_all()

    rmeinheld.patch.patch_all = slowly
"""


def test_the_reloader_starts_after_the_application_has_patched(start: Masters[Gunicorn], tmp_path: Path) -> None:
    (tmp_path / "patches.py").write_text(PATCHED + "from gunicorn_app import app\n")
    server = start("--reload", app="patches:app")
    assert server.get("/")["REQUEST_METHOD"] == "GET"
