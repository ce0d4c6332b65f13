"""Connections are spread over the workers of a service by their number."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from masters import Masters, Service
from serving import Connection, request

type Start = Masters[Service]

CONNECTIONS = 64

MOST = 52
"""Of 64 connections. On a quiet machine each worker gets 32; the limit leaves room for a worker that has to wait for a
processor. Without the spread the worker that polls first gets nearly all."""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(*options) -> Service`: a running master, which must end in order at the end of the test."""
    masters = Masters(tmp_path, Service)
    yield masters
    masters.stop()


def worker_of(connection: Connection) -> int:
    """The process that answers on this connection."""
    pid: int = json.loads(connection.request(request("GET", "/")).body)["pid"]
    return pid


def test_connections_go_to_the_worker_that_has_fewer(start: Start) -> None:
    service = start("--workers", "2", "--keep-alive", "60", app="service_app:app")
    service.await_ready()
    connections = [service.connect() for _ in range(CONNECTIONS)]
    workers = [worker_of(connection) for connection in connections]
    counts = Counter(workers)
    print(counts)
    assert len(counts) == 2
    assert max(counts.values()) <= MOST

    # The next worker gets what the killed one had.
    killed, staying = counts
    os.kill(killed, signal.SIGKILL)
    service.await_ready(2)
    anew = []
    for worker in workers:
        if worker == killed:
            anew.append(service.connect())
            # Time for a worker that has to wait for a processor.
            time.sleep(0.005)
    again = Counter(map(worker_of, anew))
    print(again)
    # It has as many already. One that comes alone wakes one worker, whichever has fewer.
    assert again[staying] < 0.75 * len(anew)
    for connection in connections + anew:
        connection.close()


def test_a_worker_that_began_alone_shares_with_the_one_that_sigttin_adds(start: Start) -> None:
    service = start("--workers", "1", "--max-requests", "100000", "--keep-alive", "60", app="service_app:app")
    service.await_ready()
    service.signal(signal.SIGTTIN)
    service.await_ready(2)
    connections = []
    counts: Counter[int] = Counter()
    for _ in range(CONNECTIONS):
        connections.append(service.connect())
        counts[worker_of(connections[-1])] += 1
    print(counts)
    assert len(counts) == 2
    assert max(counts.values()) <= MOST
    for connection in connections:
        connection.close()
