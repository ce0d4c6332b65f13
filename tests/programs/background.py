"""Starts background work in requests."""

import atexit
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

pool = ThreadPoolExecutor(2)
jobs: queue.Queue[Any] = queue.Queue()


def say(what):
    print("done", what, flush=True)


def late(what):
    time.sleep(0.2)
    say(what)


def nest():
    time.sleep(0.1)
    threading.Thread(target=late, args=("nested",)).start()


def consume():
    while True:
        jobs.get()()
        jobs.task_done()


def flush():
    with jobs.all_tasks_done:
        while jobs.unfinished_tasks:
            jobs.all_tasks_done.wait(5)


def app(environ, start_response):
    match environ["PATH_INFO"]:
        case "/hook":
            called = threading.Event()
            threading._register_atexit(called.set)  # type: ignore[attr-defined]
            threading.Thread(target=lambda: (called.wait(), say("hook"))).start()
        case "/thread":
            threading.Thread(target=late, args=("thread",)).start()
        case "/nested":
            threading.Thread(target=nest).start()
        case "/timer":
            threading.Timer(0.4, say, ("timer",)).start()
        case "/pool":
            for number in range(5):
                pool.submit(late, number)
        case "/idle":
            pool.submit(int).result()
        case "/daemon":
            threading.Thread(target=consume, daemon=True).start()
            atexit.register(flush)
            for number in range(2):
                jobs.put(lambda number=number: late(f"job {number}"))
        case "/forever":
            threading.Thread(target=time.sleep, args=(3600,), name="export").start()
        case "/kind":
            start_response("200 OK", [])
            return [str(threading.Thread(target=int).daemon).encode()]
    start_response("200 OK", [])
    return [b"begun"]
