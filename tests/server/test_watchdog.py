"""The watchdog: a report on each kind of a blocked loop, while it is blocked, and silence otherwise."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from serving import Response, Server, Servers

LIMIT = 0.2

BLOCKED_SECONDS = 1.0

APPLICATION = """
import ctypes, fcntl, hashlib, math, os, re, tempfile, threading, time
from rmeinheld.coroutine import offload, sleep, spawn
from rmeinheld.patch import get_original

SECONDS = 1.0

def scale(function, size):
    # A computation of 1.2 seconds takes as many times as long as a call with this size, on any machine. A busy one may
    # have measured the call twice as long as it is, and its watchdog may come late.
    begun = time.thread_time()
    function(size)
    return 1.2 / max(time.thread_time() - begun, 1e-6)

def matches(length):
    re.match(r"(a+)+$", "a" * length + "b")

def adds(length):
    sum(range(length))

def derives(rounds):
    hashlib.pbkdf2_hmac("sha256", b"secret", b"salt", rounds)

def spins():
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        pass

def backtracks():
    matches(LENGTH)

def sums():
    adds(ADDENDS)

def sleeps_with_the_interpreter():
    ctypes.PyDLL(None).usleep(int(SECONDS * 1_000_000))

def sleeps_without_the_interpreter():
    ctypes.CDLL(None).usleep(int(SECONDS * 1_000_000))

def sleeps_unpatched():
    get_original("time", "sleep")(SECONDS)

def reads_a_pipe():
    reader, writer = os.pipe()
    get_original("_thread", "start_new_thread")(writes_later, (writer,))
    ctypes.CDLL(None).read(reader, ctypes.create_string_buffer(1), 1)
    os.close(reader)
    os.close(writer)

def writes_later(writer):
    time.sleep(SECONDS)
    os.write(writer, b"x")

def waits_for_a_lock():
    with tempfile.NamedTemporaryFile() as file, open(file.name) as again:
        libc = ctypes.CDLL(None)
        libc.flock(file.fileno(), fcntl.LOCK_EX)
        get_original("_thread", "start_new_thread")(unlocks_later, (libc, file.fileno()))
        libc.flock(again.fileno(), fcntl.LOCK_EX)

def unlocks_later(libc, number):
    time.sleep(SECONDS)
    libc.flock(number, fcntl.LOCK_UN)

def hashes():
    derives(ROUNDS)

def has_a_thread_that_sums():
    spawn(offload, adds, ADDENDS)
    sleep(0.05)

def forks():
    child = os.fork()
    if child == 0:
        os.write(1, b"tasks of the child: %d\\n" % len(os.listdir("/proc/self/task")))
        get_original("time", "sleep")(1.0)
        os._exit(0)
    os.waitpid(child, 0)

def stands_still():
    print("computes", flush=True)
    deadline = time.thread_time() + 0.2
    while time.thread_time() < deadline:
        pass

# A longer text of one letter doubles the time.
LENGTH = 16 + round(math.log2(scale(matches, 16)))
ADDENDS = round(1_000_000 * scale(adds, 1_000_000))
ROUNDS = round(50_000 * scale(derives, 50_000))

def app(environ, start_response):
    begun = time.monotonic()
    globals()[environ["PATH_INFO"].strip("/")]()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%.2f" % (time.monotonic() - begun)]
"""

WAITS = r"a call waits without parking(: \S+)? \({}.*\). Cure: pass the call to rmeinheld.coroutine.offload"
HOLDS = r"C code holds the interpreter{}\. Cure: {}"

CASES = {
    "spins": "Python code runs. Cure: call rmeinheld.coroutine.sleep",
    "backtracks": HOLDS.format("", "the regular expression backtracks"),
    "sums": HOLDS.format("", "do less in one call"),
    "sleeps_with_the_interpreter": HOLDS.format(r", in (clock_)?nanosleep\(2\)", "do less in one call"),
    "sleeps_without_the_interpreter": WAITS.format(r"(clock_)?nanosleep\(2\)"),
    "sleeps_unpatched": WAITS.format(r"(clock_)?nanosleep\(2\)"),
    "reads_a_pipe": WAITS.format(r"read\(2\) on descriptor \d+ \(pipe:\[\d+\]\)"),
    "waits_for_a_lock": WAITS.format(r"flock\(2\) on descriptor \d+ "),
    "hashes": "C code computes, with the interpreter released: _hashlib.pbkdf2_hmac. Cure: pass the call",
}


@pytest.fixture(scope="module")
def server(serve_module: Servers) -> Iterator[Server]:
    """A server whose requests block the loop, each at a place of its own."""
    yield serve_module(APPLICATION, block_warning=LIMIT)


@pytest.mark.parametrize("work", CASES)
def test_a_blocked_loop_is_reported_with_its_kind_its_stack_and_the_cure_while_it_is_blocked(
    server: Server, work: str
) -> None:
    start = len(server.log())
    taken = float(get(server, f"/{work}?token=secret").body)
    server.wait_for_log(r"^.* had blocked the loop for .* in the end; it turns again$", 60, start)
    log = server.log()[start:]
    subject = rf"\[WARNING\] request GET /{work}\?token=\*\*\*"
    report = re.search(rf"{subject} \(\d+\.\d s old\) has blocked the loop for (\d+\.\d) s, .*: {CASES[work]}", log)
    assert report, log
    assert LIMIT - 0.1 <= float(report[1]) < max(taken, BLOCKED_SECONDS)
    stack = log[report.end() :].partition("had blocked the loop")[0]
    assert re.search(rf"Stack of the coroutine \(most recent call last\):\n(.*\n)*.* in {work}\n", stack), log
    end = re.search(rf"{subject} had blocked the loop for (\d+\.\d) s in the end", log)
    assert end and abs(float(end[1]) - taken) < 0.5 + taken / 2
    # No signal has cut the wait of C code short.
    if "sleeps" in work:
        assert taken >= BLOCKED_SECONDS


def test_a_thread_that_keeps_the_interpreter_from_the_loop_is_named(serve: Servers) -> None:
    server = serve(APPLICATION, block_warning=LIMIT)
    start = len(server.log())
    get(server, "/has_a_thread_that_sums")
    report = server.wait_for_log(r"\[WARNING\] (.*) has blocked the loop for .*: C code of a thread holds", start=start)
    assert re.fullmatch(r"OS thread \d+ \(.*\)|another OS thread", report[1])
    server.wait_for_log(r"had blocked the loop for .* in the end", start=start)


def test_a_place_is_reported_once_a_minute(serve: Servers) -> None:
    server = serve(APPLICATION, block_warning=LIMIT)
    for _ in range(2):
        get(server, "/sleeps_unpatched")
    server.wait_for_log("in the end; it turns again")
    assert server.log().count("has blocked the loop for") == 1
    assert server.log().count("had blocked the loop for") == 1


def test_a_loop_that_stays_blocked_is_dumped_and_zero_turns_the_watchdog_off(serve: Servers) -> None:
    server = serve(APPLICATION.replace("SECONDS = 1.0", "SECONDS = 3.0"), block_warning=0.1)
    get(server, "/spins")
    dumped = server.wait_for_log(r"request GET /spins still blocks the loop after 1\.\d s\. All coroutines:")
    assert "in spins" in server.log()[dumped.end() :] or "(spins)" in server.log()[dumped.end() :]
    server = serve(APPLICATION, block_warning=0)
    get(server, "/sleeps_unpatched")
    assert "blocked" not in server.log()


def test_an_unpatched_function_is_named_with_the_cure(serve: Servers) -> None:
    application = APPLICATION.replace('get_original("time", "sleep")(SECONDS)', "time.sleep(SECONDS)")
    server = serve(application, block_warning=0.5, no_patch=True)
    get(server, "/sleeps_unpatched")
    server.wait_for_log(r"a wait in .*\(sleeps_unpatched\) has blocked the server for 0\.\d s")
    server.wait_for_log(r"waits without parking: time\.sleep .*Cure: `time\.sleep` is not patched: start with --patch")


def test_a_process_that_was_stopped_is_no_blocked_loop(serve: Servers) -> None:
    server = serve(APPLICATION, block_warning=2)
    client = threading.Thread(target=get, args=(server, "/stands_still"))
    client.start()
    server.wait_for_log("^computes$")
    server.signal(signal.SIGSTOP)
    time.sleep(2.5)
    server.signal(signal.SIGCONT)
    client.join()
    assert "blocked the loop" not in server.log()


def test_a_forked_child_has_no_watchdog_and_the_parent_goes_on(serve: Servers) -> None:
    server = serve(APPLICATION, block_warning=LIMIT)
    get(server, "/forks")
    server.wait_for_log("^tasks of the child: 1$")
    assert "blocked the loop" not in server.log()
    get(server, "/sleeps_unpatched")
    server.wait_for_log(r"GET /sleeps_unpatched .* has blocked the loop")


def test_the_watchdog_of_an_idle_server_sleeps_and_the_next_request_wakes_it(serve: Servers) -> None:
    server = serve(APPLICATION, block_warning=LIMIT)
    deadline = time.monotonic() + 20
    while "watchdog" not in (threads := threads_of(server)):
        assert time.monotonic() < deadline
    watchdog = threads["watchdog"]
    while not_woken_for(watchdog, 0.8) is False:
        assert time.monotonic() < deadline, "the watchdog of an idle server goes on looking"
    get(server, "/sleeps_unpatched")
    server.wait_for_log("GET /sleeps_unpatched .* has blocked the loop")


def get(server: Server, target: str) -> Response:
    """Send a request that a busy machine may need long for."""
    with server.connect(timeout=60) as client:
        return client.request(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())


def threads_of(server: Server) -> dict[str, Path]:
    """The OS threads of a process, by their names."""
    threads = {}
    for task in Path(f"/proc/{server.pid}/task").iterdir():
        # A thread may end at any time.
        with suppress(FileNotFoundError, ProcessLookupError):
            threads[(task / "comm").read_text().strip()] = task
    return threads


def not_woken_for(task: Path, seconds: float) -> bool:
    """Has a thread not been woken for some seconds?"""

    def switches() -> list[str]:
        return [line for line in (task / "status").read_text().splitlines() if "voluntary_ctxt" in line]

    before = switches()
    time.sleep(seconds)
    return switches() == before
