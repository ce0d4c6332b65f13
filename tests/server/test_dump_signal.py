"""SIGUSR2 writes a dump: standalone, in the workers of a service and under Gunicorn, also while a request computes."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from masters import Gunicorn, Masters, Service
from serving import Servers, request

APP = """
import os, threading
from rmeinheld.coroutine import sleep

lock = threading.Lock()

def app(environ, start_response):
    path = environ["PATH_INFO"]
    print("begun", path, file=environ["wsgi.errors"], flush=True)
    if path == "/spin":
        while not os.path.exists("released"):
            pass
    elif path == "/lock":
        with lock:
            while environ["QUERY_STRING"] and not os.path.exists("released"):
                sleep(0.02)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""

END = "--- end of the dump of process "


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Masters[Service]]:
    """`start(*options) -> Service`: a running master, which must end in order at the end of the test."""
    masters = Masters(tmp_path, Service)
    yield masters
    masters.stop()


@pytest.fixture
def start_gunicorn(tmp_path: Path) -> Iterator[Masters[Gunicorn]]:
    """`start_gunicorn(*options) -> Gunicorn`, as above."""
    masters = Masters(tmp_path, Gunicorn)
    yield masters
    masters.stop()


def test_a_dump_names_the_request_that_computes_first_and_the_holder_of_a_lock(serve: Servers) -> None:
    server = serve(APP)
    with server.connect() as holder, server.connect() as waiter, server.connect() as spinner:
        holder.send(request("GET", "/lock?token=secret"))
        server.wait_for_log("begun /lock")
        waiter.send(request("GET", "/lock"))
        server.wait_for_log("(?s)begun /lock.*begun /lock")
        spinner.send(request("GET", "/spin"))
        server.wait_for_log("begun /spin")
        server.signal(signal.SIGUSR2)
        server.wait_for_log(END)
        dump = server.log()
        assert re.search(
            r"coroutines?, \d OS threads? ---\n\nrequest \d+ GET /spin from 127\.0\.0\.1:\d+: RUNNING", dump
        )
        assert re.search(r"GET /lock from \S+: waits for lock 0x\w+ held by request \d+ GET /lock\?token=\*\*\*", dump)
        assert "secret" not in dump
        assert "in app" in dump
        assert "OS thread MainThread" in dump
        server.release()
        for connection in (spinner, holder, waiter):
            assert connection.read_response().status == 200


def test_the_signal_can_be_another_one_or_none(serve: Servers) -> None:
    server = serve(APP, dump_signal="prof")
    server.signal(signal.SIGPROF)
    server.wait_for_log(END)


def test_a_dump_during_a_stop(serve: Servers) -> None:
    server = serve(APP)
    with server.connect() as connection:
        connection.send(request("GET", "/lock?wait"))
        server.wait_for_log("begun /lock")
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGUSR2)
        server.wait_for_log(END)
        assert "GET /lock?*** from" in server.log()
        server.release()
        assert connection.read_response().status == 200
    assert server.wait() == 0


def test_a_worker_of_a_service_dumps_and_serves_on(start: Masters[Service]) -> None:
    service = start("--workers", "2", app="service_app:app")
    service.await_ready()
    with service.connect() as connection:
        connection.send(request("GET", "/held"))
        service.wait_for_log("begun to wait")
        for worker in service.running():
            os.kill(worker, signal.SIGUSR2)
            service.wait_for_log(f"{END}{worker} ---")
        # It waits, or runs for a moment to look for the file.
        assert re.search(r"request \d+ GET /held from ", service.log())
        service.release()
        assert connection.read_response().status == 200
    assert len(service.running()) == 2


def test_a_worker_of_gunicorn_dumps_and_serves_on(start_gunicorn: Masters[Gunicorn]) -> None:
    gunicorn = start_gunicorn()
    gunicorn.await_start()
    worker = int(gunicorn.wait_for_log(r"Booting worker with pid: (\d+)")[1])
    os.kill(worker, signal.SIGUSR2)
    gunicorn.wait_for_log(f"{END}{worker} ---")
    gunicorn.get("/")
    assert gunicorn.has(worker)
