"""`/metrics` of a single process: what is counted, in which format, and under which load it is answered."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from health_probes import Address, connect, free_port, probe
from metrics import OPENMETRICS, PROMETHEUS, Scrape, ask, await_scrape, check_openmetrics, scrape
from rmeinheld._rmeinheld import metric_families
from serving import TIMEOUT, Connection, Serve, Server, request

ROOT = Path(__file__).parents[2]

APP = """
import threading
import time
from rmeinheld.coroutine import offload, sleep, spawn

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/websocket":
        for message in environ["wsgi.websocket"]:
            environ["wsgi.websocket"].send(message)
        return []
    if path == "/fail":
        raise ValueError("asked for")
    if path == "/sleep":
        sleep(60)
    if path == "/park":
        sleep(0.03)
    if path == "/block":
        time.sleep(0.3)
    if path == "/compute":
        while True:
            pass
    if path == "/offload":
        for _ in range(3):
            spawn(offload, time.sleep, 60)
        sleep(0)
    if path == "/thread":
        ends = time.monotonic() + 1
        def spin():
            while time.monotonic() < ends:
                pass
        threading.Thread(target=spin, daemon=True).start()
    if path == "/stream":
        start_response("200 OK", [])
        def items():
            yield b"first"
            sleep(0.12)
            yield b"second"
        return items()
    status = "404 Not Found" if path == "/missing" else "200 OK"
    start_response(status, [("Content-Length", "2")])
    return [b"ok"]
"""

BEGINNING = "http_server_request_duration_seconds"


def served(serve: Serve, **options: str | int | float | bool) -> tuple[Server, Address]:
    address = ("127.0.0.1", free_port())
    server = serve(APP, admin_bind=f"127.0.0.1:{address[1]}", **options)
    return server, address


def test_both_parsers_of_prometheus_read_a_scrape_which_has_every_metric(serve: Serve) -> None:
    server, address = served(serve)
    assert server.get("/").status == 200
    assert server.get("/missing").status == 404
    plain = ask(address)
    assert plain.header("Content-Type") == PROMETHEUS
    names = Scrape(plain.body.decode()).names()
    for name, kind, _, _, _ in metric_families():
        expected = f"{name}_bucket" if kind == "histogram" else name
        assert expected in names, name
    strict = ask(address, "Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1")
    assert strict.header("Content-Type") == OPENMETRICS
    kinds = check_openmetrics(strict.body.decode())
    assert kinds == {re.sub("_(total|info)$", "", name): kind for name, kind, _, _, _ in metric_families()}
    length = probe(address, "/metrics", "HEAD").header("Content-Length")
    assert length is not None and int(length) > 5000


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is missing (Debian: prometheus)")
def test_promtool_finds_no_fault(serve: Serve) -> None:
    server, address = served(serve)
    assert server.get("/").status == 200
    done = subprocess.run(["promtool", "check", "metrics"], input=ask(address).body, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_requests_are_counted_by_method_and_class_and_their_times_are_in_buckets(serve: Serve) -> None:
    server, address = served(serve)
    for method, target in (("GET", "/park"), ("GET", "/missing"), ("GET", "/fail"), ("POST", "/"), ("BREW", "/")):
        server.exchange(request(method, target, "Connection: close", "Content-Length: 0"), (method,))
    server.exchange(request("GET", "/stream", "Connection: close"))
    server.exchange(b"GET / HTTP/1.1\r\n\r\n")
    found = await_scrape(address, lambda found: found.sum(f"{BEGINNING}_count") == 6)
    for method, status_class, count in (
        ("GET", "2xx", 2),
        ("GET", "4xx", 1),
        ("GET", "5xx", 1),
        ("POST", "2xx", 1),
        ("_OTHER", "2xx", 1),
    ):
        labels = {"http_request_method": method, "http_response_status_class": status_class}
        assert found(f"{BEGINNING}_count", **labels) == count
    labels = {"http_request_method": "GET", "http_response_status_class": "2xx"}
    assert found(f"{BEGINNING}_bucket", le="0.025", **labels) == 0
    assert found(f"{BEGINNING}_sum", **labels) > 0.15
    # The stream's first bytes come at once, and its last ones late.
    assert found("rmeinheld_time_to_first_byte_seconds_count") == 6
    assert found("rmeinheld_time_to_first_byte_seconds_sum") < found.sum(f"{BEGINNING}_sum") - 0.1
    assert found("rmeinheld_refused_requests_total", http_response_status_code="400") == 1
    assert found("rmeinheld_coroutine_switches_total") >= 2
    received, sent = found("rmeinheld_received_bytes_total"), found("rmeinheld_sent_bytes_total")
    assert 300 < received < 1000
    assert 600 < sent < 3000


def test_connections_are_counted_by_what_they_do(serve: Serve) -> None:
    server, address = served(serve)

    def states() -> dict[str, float]:
        found = scrape(address)
        return {
            state: found("rmeinheld_connections", state=state)
            for state in ("idle", "head", "active", "websocket", "closing")
        }

    idle, part, active, websocket, closing = (server.connect() for _ in range(5))
    assert idle.request(request("GET", "/")).status == 200
    part.send(b"GET / HTT")
    active.send(request("GET", "/sleep"))
    open_websocket(websocket)
    closing.send(b"nonsense\r\n\r\n")
    closing.read_response()
    expected = {"idle": 1, "head": 1, "active": 1, "websocket": 1, "closing": 1}
    found = await_scrape(address, lambda _: states() == expected)
    assert found("http_server_active_requests") == 2
    found = await_scrape(address, lambda found: found("rmeinheld_coroutines", state="ready") == 0)
    assert found("rmeinheld_coroutines", state="sleep") == 1
    idle_ones = found("rmeinheld_coroutines", state="idle")
    assert idle_ones > 0
    assert found.sum("rmeinheld_coroutines") == idle_ones + 2
    for connection in (idle, part, active, websocket, closing):
        connection.close()
    found = await_scrape(
        address, lambda _: states() == {"idle": 0, "head": 0, "active": 1, "websocket": 0, "closing": 0}
    )
    assert found("rmeinheld_accepted_connections_total") == 5
    assert found("rmeinheld_websockets_total") == 1
    assert found("rmeinheld_websocket_messages_total", direction="received") == 1
    assert found("rmeinheld_websocket_messages_total", direction="sent") == 1
    server.signal(signal.SIGQUIT)
    assert server.wait() == 0


def open_websocket(connection: Connection) -> None:
    """Open a WebSocket, send a message and await its echo."""
    fields = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
    connection.send(request("GET", "/websocket", *fields, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="))
    connection.send(b"\x81\x82\0\0\0\0hi")
    received = b""
    while not received.endswith(b"\x81\x02hi"):
        received += connection.socket.recv(1000)


def test_the_time_in_the_queue_comes_from_trusted_proxies_alone(serve: Serve) -> None:
    for trusted, count in (("127.0.0.1", 2), ("10.0.0.1", 0)):
        server, address = served(serve, forwarded_allow_ips=trusted)
        now = time.time()
        for value in (f"t={now - 2:.3f}", f"{(now - 2) * 1e6:.0f}", "soon", f"t={now + 1e6}"):
            server.exchange(request("GET", "/", "Connection: close", f"X-Request-Start: {value}"))
        found = await_scrape(address, lambda found: found.sum(f"{BEGINNING}_count") == 4)
        assert found("rmeinheld_request_queue_seconds_count") == count
        assert found("rmeinheld_request_queue_seconds_sum") >= 2 * count


def test_a_blocked_loop_a_kept_gil_and_a_full_pool_are_seen(serve: Serve) -> None:
    server, address = served(serve, no_patch=True)
    before = scrape(address)
    server.get("/block")
    name = "rmeinheld_loop_lag_seconds_bucket"
    found = await_scrape(address, lambda found: found(name, le="+Inf") - found(name, le="0.25") >= 1)
    found.check_after(before)
    # CPython lets a thread keep the GIL for 5 ms. On a busy machine the thread may be over before the next request.
    deadline = time.monotonic() + TIMEOUT
    while scrape(address)("rmeinheld_gil_wait_seconds_sum") <= before("rmeinheld_gil_wait_seconds_sum") + 0.01:
        assert time.monotonic() < deadline
        server.get("/thread")
        for _ in range(5):
            server.get("/")
    server.get("/offload")
    found = await_scrape(address, lambda found: found("rmeinheld_offload_calls_total") == 3)
    assert found("rmeinheld_offload_threads") + found("rmeinheld_offload_queue") == 3
    server.kill()


def test_a_process_that_computes_is_saturated_and_answers(serve: Serve) -> None:
    server, address = served(serve)
    assert server.get("/").status == 200
    assert scrape(address)("rmeinheld_saturation_ratio") < 0.9
    server.connect().send(request("GET", "/compute"))
    found = await_scrape(address, lambda found: found("rmeinheld_loop_turn_seconds", worker="0") > 1)
    assert found("http_server_active_requests") == 1
    assert found("rmeinheld_loop_busy_seconds_total") > 1
    found = await_scrape(address, lambda found: found("rmeinheld_workers", state="stuck") == 1)
    assert found("rmeinheld_saturation_ratio") > 0.3
    assert found("rmeinheld_worker_resident_memory_bytes", worker="0") > 1e6
    assert found("rmeinheld_worker_open_fds", worker="0") > 5
    server.kill()


def test_requests_that_wait_saturate_a_process(serve: Serve) -> None:
    server, address = served(serve, worker_connections=4)
    connections = [server.connect() for _ in range(3)]
    for connection in connections:
        connection.send(request("GET", "/sleep"))
    found = await_scrape(address, lambda found: found("http_server_active_requests") == 3)
    assert found("rmeinheld_saturation_ratio") == found("rmeinheld_worker_saturation_ratio", worker="0") >= 0.75
    server.signal(signal.SIGQUIT)
    assert server.wait() == 0


def test_without_the_setting_nothing_is_measured(serve: Serve) -> None:
    server, address = served(serve, no_metrics=True)
    assert server.get("/").status == 200
    response = ask(address)
    assert (response.status, response.body) == (404, b"the setting metrics is off\n")
    assert probe(address, "/live").status == 200


def test_slow_scrapers_and_a_flood_of_connections_hold_up_no_probe(serve: Serve) -> None:
    server, address = served(serve)
    assert server.get("/").status == 200
    # The kernel's buffers hold some scrapes; a client that takes nothing of its own fills them.
    slow = [
        Connection(address, receive_buffer=1024) if isinstance(address, tuple) else connect(address) for _ in range(10)
    ]
    for connection in slow:
        connection.send(request("GET", "/metrics"))
    flood = []
    times = []
    for round_of_flood in range(8):
        flood += [connect(address) for _ in range(50)]
        for connection in flood[-25:]:
            connection.send(b"GET /metrics HTTP/1.1\r\nHost:")
        begun = time.monotonic()
        assert probe(address, "/live").status == 200
        assert scrape(address)(f"{BEGINNING}_count", http_request_method="GET", http_response_status_class="2xx") == 1
        times.append(time.monotonic() - begun)
        if round_of_flood == 0:
            with closing(connect(address)) as connection:
                assert connection.request(request("GET", "/metrics", "Accept: */*")).status == 200
    assert sorted(times)[4] < 0.5, times
    # Clients with a request in progress are not those that make room.
    for connection in slow:
        assert len(connection.read_response().body) > 5000
    for connection in [*slow, *flood]:
        connection.close()


def test_each_metric_of_the_dashboard_exists(serve: Serve) -> None:
    server, address = served(serve)
    assert server.get("/").status == 200
    names = scrape(address).names()
    dashboard = json.loads((ROOT / "examples" / "grafana" / "rmeinheld.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    queries += [row[1] for row in re.findall(r"^\| (.*) \| `(.*)` \|$", (ROOT / "docs/metrics.md").read_text(), re.M)]
    assert len(queries) > 20
    used = {name for query in queries for name in re.findall(r"\b(?:http_server|rmeinheld)_\w+", query)}
    assert used <= names, used - names
    # No metric is shown nowhere.
    shown = {re.sub("_(bucket|sum|count)$", "", name) for name in used}
    assert {name for name, *_ in metric_families()} - shown <= {"rmeinheld_build_info"}
