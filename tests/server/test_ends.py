"""The end of work when the interpreter ends, or goes on: daemon threads, computations, late starts.

The end of a server, which is the same on every Python, is in `test_ends_of_servers.py`.
"""

from __future__ import annotations

import pytest

from ending import PATCHED, RUN, printed
from serving import RunScript, takes

# --- daemon threads --------------------------------------------------------------------------------------------------


def test_a_daemon_thread_gets_its_exit_once_and_is_left_behind_when_it_swallows_it(script: RunScript) -> None:
    source = """
LOCK = threading.Lock()
seen = []
resumed = []

def stubborn():
    with LOCK:
        while True:
            try:
                time.sleep(0.05)
                resumed.append(1)
            except BaseException as error:
                seen.append(type(error).__name__)

def app(environ, start_response):
    global daemon
    daemon = threading.Thread(target=stubborn, daemon=True)
    daemon.start()
    return answer(start_response)

began = time.monotonic()
serve(app)
print(*seen, 0.9 < time.monotonic() - began < 20, len(resumed) > 1, daemon.is_alive())
count = len(resumed)
daemon.join(5)
serve(lambda environ, start_response: answer(start_response))
print("served again", len(resumed) == count)
sys.exit(3)
"""
    assert printed(script(PATCHED + RUN + source, status=3)) == ["CoroutineExit True True False", "served again True"]


def test_who_is_left_behind_takes_no_notification_with_it(script: RunScript) -> None:
    source = """
LOCK = threading.Lock()

def stubborn():
    while True:
        try:
            LOCK.acquire()
        except BaseException:
            pass

def app(environ, start_response):
    threading.Thread(target=stubborn, daemon=True).start()
    time.sleep(0.1)
    return answer(start_response)

LOCK.acquire()
serve(app)
LOCK.release()
print(LOCK.acquire(timeout=5))
"""
    assert printed(script(PATCHED + RUN + source)) == ["True"]


def test_a_daemon_thread_that_swallows_everything_does_not_hinder_the_end_of_a_program(
    script: RunScript,
) -> None:
    source = """
def stubborn():
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            pass

def main():
    for _ in range(3):
        threading.Thread(target=stubborn, daemon=True).start()
    time.sleep(0.1)

atexit.register(print, "handler")
spawn(main).join()
sys.exit(4)
"""
    with takes(0, 12):
        assert script(PATCHED + RUN + source, status=4).split() == ["handler"]


@pytest.mark.parametrize("wait", ["client.recv(1)", "client.recv_into(bytearray(1))", "sleep(0.001)"])
def test_the_interpreter_ends_while_a_daemon_os_thread_waits_in_a_call_that_the_patch_replaces(
    script: RunScript, wait: str
) -> None:
    # Before Python 3.14 the thread ends by pthread_exit(3), once its wait is over.
    source = f"""
client, other = socket.socketpair()
client.settimeout(0.001)

def waits():
    while True:
        try:
            {wait}
        except TimeoutError:
            pass

for _ in range(8):
    threading.Thread(target=waits, daemon=True).start()
spawn(sleep, 0.02).join()
print("ends")
sys.exit(3)
"""
    assert script(PATCHED + RUN + source, status=3) == "ends\n"


# --- what computes ---------------------------------------------------------------------------------------------------


def test_a_program_whose_coroutine_computes_at_its_end_ends_without_a_crash(script: RunScript) -> None:
    source = """
def compute():
    started.set()
    while True:
        pass

started = threading.Event()
atexit.register(print, "handler")
spawn(compute)
started.wait()
print("end")
"""
    with takes(0, 20):
        assert script(RUN + source).split()[:2] == ["end", "handler"]


# --- threads that cannot be started, or are started late -------------------------------------------------------------


def test_a_thread_without_room_for_its_stack_is_an_error(script: RunScript) -> None:
    source = """
import pathlib, resource

def main():
    threads, failures = [], []
    mapped = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + 200 * 2**20, resource.RLIM_INFINITY))
    done = threading.Event()
    for start in (lambda: thread.start() or thread, lambda: spawn(done.wait)):
        try:
            for _ in range(200):
                thread = threading.Thread(target=done.wait)
                # Room may come back in between, so that a few more start.
                threads.append(start())
        except RuntimeError as error:
            print(str(error).split(":")[0], len(threads) > 3, thread in threading.enumerate())
    done.set()
    for thread in threads:
        thread.join()
    print("joined")

spawn(main).join()
"""
    said = script(PATCHED + RUN + source).splitlines()
    assert said == ["can't start new thread True False", "can't start new thread True False", "joined"]


@pytest.mark.parametrize("inside", [True, False])
def test_a_thread_made_before_the_patch_can_be_started_after_it(script: RunScript, inside: bool) -> None:
    source = f"""
import threading
thread = threading.Thread(target=print, args=("thread",))
timer = threading.Timer(0.05, print, ("timer",))
from rmeinheld.patch import patch_all
patch_all()
from rmeinheld.coroutine import spawn

def main():
    thread.start()
    thread.join()
    timer.start()
    timer.join()
    print(thread.is_alive(), timer.is_alive())

{"spawn(main).join()" if inside else "main()"}
"""
    assert script(source).split() == ["thread", "timer", "False", "False"]
