"""Spawns coroutines in requests, and waits for them."""

import json
import threading
import time

from rmeinheld.coroutine import current, sleep, spawn

running = 0
most = 0


def slow(seconds):
    global running, most
    running += 1
    most = max(most, running)
    sleep(seconds)
    running -= 1
    return current().ident  # type: ignore[union-attr]


def fan_out(number):
    coroutines = [spawn(slow, 0.05) for _ in range(number)]
    for coroutine in coroutines:
        assert coroutine.join(20)
    return len({coroutine.result for coroutine in coroutines})


def nested(depth):
    if not depth:
        return 0
    coroutine = spawn(nested, depth - 1)
    coroutine.join()
    return coroutine.result + 1


def fail():
    raise LookupError("of the coroutine")


def failing():
    coroutine = spawn(fail)
    coroutine.join()
    try:
        return coroutine.result
    except LookupError as error:
        return str(error)


def from_a_thread():
    found = []

    def thread():
        coroutine = spawn(slow, 0.01)
        coroutine.join()
        found.append(threading.get_native_id())

    threading.Thread(target=thread).start()
    deadline = time.monotonic() + 10
    while not found and time.monotonic() < deadline:
        sleep(0.005)
    return found[0] != threading.get_native_id()


def background():
    def later():
        sleep(0.3)
        print("later, the request has long ended", flush=True)

    spawn(later)
    return "started"


def app(environ, start_response):
    name, _, argument = environ["QUERY_STRING"].partition("=")
    result = globals()[name](*json.loads(f"[{argument}]"))
    if name == "slow":
        result = most
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(result).encode()]
