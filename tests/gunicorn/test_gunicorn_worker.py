"""Gunicorn with `--worker-class rmeinheld.gunicorn_worker.Worker`: serving, signals, heartbeat, recycling, settings.

Another version of Gunicorn is tested by `pip install --no-deps --target DIR gunicorn==22.0.0` and PYTHONPATH=DIR.
"""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from rmeinheld.gunicorn_worker import MeinheldWorker, Worker

from masters import Gunicorn, Load, Masters
from serving import TIMEOUT, request, takes

type Start = Masters[Gunicorn]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(*options) -> Gunicorn`: a running master, which must end in order at the end of the test."""
    masters = Masters(tmp_path, Gunicorn)
    yield masters
    masters.stop()


def test_an_application_is_served(start: Start) -> None:
    server = start("--workers", "2")
    seen = server.get("/a%20b?c", "X-Forwarded-For: 192.0.2.1")
    assert (seen["PATH_INFO"], seen["RAW_URI"], seen["QUERY_STRING"]) == ("/a b", "/a%20b?c", "c")
    assert (seen["REMOTE_ADDR"], seen["SERVER_PORT"]) == ("127.0.0.1", str(server.port))
    assert seen["wsgi.multiprocess"] is True
    assert seen["wsgi.multithread"] is True
    assert seen["wsgi.input_terminated"] is True


def test_the_log_says_which_promises_need_the_other_command(start: Start) -> None:
    log = start("--workers", "2").log()
    assert log.count("The command 'rmeinheld --workers' has both") == 1


def test_requests_that_wait_do_not_hinder_each_other(start: Start) -> None:
    server = start()
    connections = [server.connect() for _ in range(20)]
    with takes(0.9, 3):
        for connection in connections:
            connection.send(request("GET", "/sleep"))
        assert {connection.read_response().status for connection in connections} == {200}
    for connection in connections:
        connection.close()


def test_term_lets_requests_in_progress_finish(start: Start) -> None:
    server = start()
    with server.connect() as connection:
        connection.send(request("GET", "/sleep"))
        server.wait_for_log("begun /sleep")
        server.signal(signal.SIGTERM)
        response = connection.read_response()
        assert (response.status, response.ends_connection) == (200, True)
    assert server.wait() == 0
    assert "Traceback" not in server.log()


def test_bursts_of_connections_are_spread_over_the_workers(start: Start) -> None:
    server = start("--workers", "2")
    pids: set[int] = set()
    deadline = time.monotonic() + TIMEOUT
    while len(pids) < 2:
        assert time.monotonic() < deadline
        pids.add(server.get("/")["pid"])
    bursts = [burst(server) for _ in range(5)]
    assert set().union(*bursts) == pids
    # One may be asleep for long on a busy machine.
    spread = [counts for counts in bursts if len(counts) == 2 and min(counts.values()) >= 4]
    assert len(spread) >= 4, bursts


def burst(server: Gunicorn) -> Counter[int]:
    """How many of 64 connections that are opened at once, and kept, each worker has."""
    connections = [server.connect() for _ in range(64)]
    for connection in connections:
        connection.send(request("GET", "/"))
    counts = Counter(json.loads(connection.read_response().body)["pid"] for connection in connections)
    for connection in connections:
        connection.close()
    return counts


def test_quit_ends_at_once(start: Start) -> None:
    server = start("--graceful-timeout", "30")
    with server.connect() as connection:
        connection.send(request("GET", "/sleep"))
        server.wait_for_log("begun /sleep")
        with takes(0, 5):
            server.signal(signal.SIGQUIT)
            assert server.wait() == 0


def test_reloads_and_recycled_workers_lose_no_request(start: Start) -> None:
    """The same at length is in test_gunicorn_load.py."""
    server = start("--workers", "2", "--max-requests", "200", app="load_app:app")
    with Load(server) as load:
        load.wait_for_workers(4, set())
        for _ in range(2):
            seen = load.pids
            server.signal(signal.SIGHUP)
            load.wait_for_workers(2, seen)
    assert load.breaks == []
    server.wait_for_log("Autorestarting worker after current request")


def test_an_idle_worker_is_left_alone(start: Start) -> None:
    server = start("--timeout", "3")
    first = server.get("/")["pid"]
    with server.connect() as connection:
        # Requests that wait are no reason either.
        for _ in range(5):
            assert connection.request(request("GET", "/sleep")).status == 200
    assert server.get("/")["pid"] == first
    assert "WORKER TIMEOUT" not in server.log()


def test_the_access_log_is_gunicorns_and_usr1_opens_it_anew(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    server = start("--access-logfile", str(log), "--access-logformat", "%(m)s %(U)s %(s)s")
    moved = log.rename(tmp_path / "moved.log")
    server.signal(signal.SIGUSR1)
    deadline = time.monotonic() + TIMEOUT
    while not log.exists():
        assert time.monotonic() < deadline
        server.get("/again")
    assert moved.read_text().startswith("GET / 200\n")


def test_errors_go_to_gunicorns_error_log(start: Start) -> None:
    server = start()
    assert server.status(request("GET", "/fail")) == 500
    server.wait_for_log(r"\[ERROR\] Error handling request GET /fail")
    server.wait_for_log("RuntimeError: the application failed on purpose")


def test_settings_of_gunicorn_are_honoured(start: Start) -> None:
    server = start(
        *("--limit-request-line", "100", "--limit-request-fields", "5", "--header-map", "refuse"),
        *("--proxy-protocol", "--keep-alive", "0"),
    )
    assert server.status(request("GET", "/" + "x" * 100)) == 414
    assert server.status(request("GET", "/", *[f"X-{number}: 1" for number in range(6)])) == 431
    assert server.status(request("GET", "/", "X_Y: 1")) == 400
    with server.connect() as connection:
        header = b"PROXY TCP4 192.0.2.7 192.0.2.2 1 2\r\n"
        response = connection.request(header + request("GET", "/", "X-Forwarded-Proto: https"))
        assert response.ends_connection
        seen = json.loads(response.body)
    # The client that the header names is not among forwarded_allow_ips.
    assert (seen["REMOTE_ADDR"], seen["wsgi.url_scheme"]) == ("192.0.2.7", "http")
    assert server.get("/", "X-Forwarded-Proto: https")["wsgi.url_scheme"] == "https"


def test_the_entry_point_names_the_worker() -> None:
    (entry,) = metadata.entry_points(group="gunicorn.workers", name="gunicorn_worker")
    assert entry.load() is Worker is MeinheldWorker
