"""A turn has a budget: the others get their turn, whatever one coroutine or client does.

The limits are far above `turn_budget`, since machines have other work, too. They are far below the times without it.
"""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from serving import Connection, ConnectionEnded, RunScript, Serve, Server, request

APPLICATION = "fairness_app:app"

PATIENT_SECONDS = 0.5
"""The longest median of a short request while another request never waits."""

LOOPS = {
    "select": "select.select([a], [], [], 5)",
    "select that does not wait": "select.select([a], [], [], 0)",
    "poll": "poll.poll()",
    "epoll": "epoll.poll()",
    "selectors": "selector.select()",
    "recv": "a.recv(1, socket.MSG_PEEK)",
    "recv that does not wait": "not_blocking()",
    "recvfrom": "a.recvfrom(1, socket.MSG_PEEK)",
    "send": "(a.send(b'x'), b.recv(1))",
    "os.read": "(os.write(w, b'x'), os.read(r, 1))",
    "Connection.poll": "near.poll(0)",
    "connection.wait": "multiprocessing.connection.wait([near], 0)",
    "waitpid": "os.waitpid(child.pid, os.WNOHANG)",
    "Popen.poll": "child.poll()",
    "Thread.is_alive": "thread.is_alive()",
    "Thread.join": "done.join()",
    "threading.Event.is_set": "event.is_set()",
    "threading.Event.wait": "is_set.wait()",
    "Lock.locked": "lock.locked()",
    "Lock.acquire": "lock.acquire(False) and lock.release()",
    "RLock": "rlock.acquire() and rlock.release()",
    "Semaphore": "semaphore.acquire() and semaphore.release()",
    "SimpleQueue": "(simple.put(1), simple.get())",
    "SimpleQueue.empty": "simple.empty()",
    "Queue": "(queued.put(1), queued.get())",
    "Queue.qsize": "queued.qsize()",
    "coroutine.Event.is_set": "ours.is_set()",
    "coroutine.Event.wait": "ours_set.wait()",
    "Coroutine.done": "beside.done",
    "Coroutine.join": "beside.join(0)",
    "time.sleep(0)": "time.sleep(0)",
    "asyncio": "asyncio.run(some())",
}
"""Calls that a coroutine may repeat without ever having to wait."""

SCRIPT = f"""
from rmeinheld.patch import patch_all
patch_all()
import asyncio, multiprocessing, multiprocessing.connection, os, queue, select, selectors, socket, subprocess, threading
import time
from rmeinheld import coroutine
from rmeinheld.coroutine import spawn

LOOPS = {LOOPS!r}
PATIENCE = 10.0

async def some():
    for _ in range(100):
        await asyncio.sleep(0)

def main():
    a, b = socket.socketpair()
    b.send(b"x")
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    silent.bind(("127.0.0.1", 0))
    silent.setblocking(False)
    def not_blocking():
        try:
            silent.recv(1)
        except BlockingIOError:
            pass
    poll = select.poll(); poll.register(a, select.POLLIN)
    epoll = select.epoll(); epoll.register(a, select.EPOLLIN)
    selector = selectors.DefaultSelector(); selector.register(a, selectors.EVENT_READ)
    r, w = os.pipe()
    near, far = multiprocessing.Pipe()
    child = subprocess.Popen(["sleep", "60"])
    end = threading.Event()
    thread = threading.Thread(target=end.wait); thread.start()
    done = threading.Thread(target=int); done.start(); done.join()
    event, is_set = threading.Event(), threading.Event()
    is_set.set()
    lock, rlock, semaphore = threading.Lock(), threading.RLock(), threading.Semaphore()
    simple, queued = queue.SimpleQueue(), queue.Queue()
    ours, ours_set = coroutine.Event(), coroutine.Event()
    ours_set.set()
    beside = spawn(end.wait)
    names = locals() | globals()
    for name, code in LOOPS.items():
        code = compile(code, name, "eval")
        ran = []
        spawn(ran.append, True)
        give_up = time.monotonic() + PATIENCE
        while not ran and time.monotonic() < give_up:
            eval(code, names)
        if not ran:
            print("starved by", name)
    end.set()
    child.kill()
    print("done")

coroutine = __import__("rmeinheld.coroutine", fromlist=["coroutine"])
it = spawn(main)
it.join()
it.result
"""


def test_a_coroutine_that_never_has_to_wait_lets_the_others_run(script: RunScript) -> None:
    assert script(SCRIPT, timeout=60) == "done\n"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool_of_processes_works_in_a_coroutine(script: RunScript, method: str) -> None:
    source = f"""
    import warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
    from rmeinheld.patch import patch_all
    patch_all()
    import multiprocessing
    from rmeinheld.coroutine import spawn

    def main():
        with multiprocessing.get_context({method!r}).Pool(2) as pool:
            for _ in range(5):
                assert pool.map(abs, [-1, -2]) == [1, 2]
        print("well")

    if __name__ == "__main__":
        it = spawn(main)
        it.join()
        it.result
    """
    assert script(source) == "well\n"


def test_a_call_that_cannot_block_never_raises_what_is_thrown_meanwhile(script: RunScript) -> None:
    source = """
    import time
    from rmeinheld.coroutine import CoroutineExit, Event, Lock, sleep, spawn, timeout, Timeout

    seen = []

    def look():
        event, lock, until = Event(), Lock(), time.monotonic() + 0.1
        while time.monotonic() < until:
            event.is_set(), lock.locked(), lock.acquire(False) and lock.release()
        seen.append("looked")
        try:
            sleep(60)
        except CoroutineExit:
            seen.append("killed")

    it = spawn(look)
    spawn(it.kill)
    it.join()

    def limited():
        event = Event()
        try:
            with timeout(0.02):
                until = time.monotonic() + 0.1
                while time.monotonic() < until:
                    event.is_set()
                seen.append("looked")
                sleep(60)
        except Timeout:
            seen.append("limited")

    spawn(limited).join()
    print(seen)
    """
    assert script(source) == "['looked', 'killed', 'looked', 'limited']\n"


def test_a_finalizer_is_not_interrupted_by_the_end_of_its_turn(script: RunScript) -> None:
    source = """
    import time
    from rmeinheld.coroutine import Event, spawn

    order = []

    class Slow:
        def __del__(self):
            self.look()
            order.append("finalized")
        def look(self):
            event, until = Event(), time.monotonic() + 0.1
            while time.monotonic() < until:
                event.is_set()

    def main():
        beside.append(spawn(order.append, "beside"))
        slow = Slow()
        del slow
        order.append("main")

    beside = []
    spawn(main).join()
    beside[0].join()
    print(order)
    """
    assert script(source) == "['finalized', 'main', 'beside']\n"


def test_a_forked_child_whose_turn_is_over_does_not_run_the_coroutines_of_its_parent(script: RunScript) -> None:
    source = """
    import os, time, warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    locks = []
    # Before the hooks of rmeinheld, as those of threading and logging.
    os.register_at_fork(after_in_child=lambda: [lock.locked() for lock in locks])
    from rmeinheld.coroutine import Lock, spawn
    locks.append(Lock())
    beside = []

    def main():
        parent = os.getpid()
        beside.append(spawn(lambda: os.getpid() == parent or os.write(1, b"in the child")))
        until = time.monotonic() + 0.1
        while time.monotonic() < until:
            pass
        if (child := os.fork()) == 0:
            os._exit(7)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    it = spawn(main)
    it.join()
    beside[0].join()
    print(it.result, beside[0].result)
    """
    assert script(source) == "7 True\n"


# --- requests --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Server:
    """A server whose requests would keep the loop for themselves."""
    return serve_module(APPLICATION, limit_request_body=0)


@contextlib.contextmanager
def busy(server: Server, send: Callable[[Connection, threading.Event], None]) -> Iterator[None]:
    """Run `send` on a connection of its own, in a thread, until the block ends."""
    stop = threading.Event()

    def run() -> None:
        with server.connect() as connection, contextlib.suppress(OSError, ConnectionEnded):
            send(connection, stop)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def upload(path: str, data: bytes) -> Callable[[Connection, threading.Event], None]:
    """Send a body in chunks for as long as it takes."""

    def send(connection: Connection, stop: threading.Event) -> None:
        connection.send(request("POST", path, "Transfer-Encoding: chunked"))
        while not stop.is_set():
            connection.send(data)

    return send


def receive(path: str) -> Callable[[Connection, threading.Event], None]:
    """Take an endless response as fast as it comes."""

    def send(connection: Connection, stop: threading.Event) -> None:
        connection.send(request("GET", path))
        while not stop.is_set() and connection.receive():
            connection.buffer = b""

    return send


def pipeline(connection: Connection, stop: threading.Event) -> None:
    """Have many requests that compute in the pipeline."""
    connection.send(request("GET", "/busy") * 10)
    while not stop.is_set():
        connection.read_response()
        connection.send(request("GET", "/busy"))


FLOODS = {
    "chunks of one byte": upload("/lines", b"1\r\nx\r\n" * 10_000),
    "lines": upload("/lines", b"8000\r\n" + b"x\n" * 0x4000 + b"\r\n"),
    "blocks": upload("/blocks", b"8000\r\n" + b"x" * 0x8000 + b"\r\n"),
    "items": receive("/items"),
    "write()": receive("/write"),
    "a pipeline": pipeline,
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_client_that_never_makes_its_request_wait_does_not_starve_others(server: Server, name: str) -> None:
    with busy(server, FLOODS[name]):
        times = []
        for _ in range(8):
            begun = time.monotonic()
            assert server.get("/").status == 200
            times.append(time.monotonic() - begun)
    assert statistics.median(times) < PATIENT_SECONDS, times


def test_empty_items_let_others_run(server: Server) -> None:
    with busy(server, receive("/empty")):
        assert server.get("/").status == 200
