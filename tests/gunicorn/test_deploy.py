"""The files in examples/deploy: what they say is started here, with sockets and notes as systemd has them."""

from __future__ import annotations

import configparser
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from health_probes import ServiceManager, UnixConnection, free_port, probe, service_manager
from masters import wait_until
from pages import ROOT
from proxying import program
from serving import Connection, Process, environment_of_child, request

DEPLOY = ROOT / "examples" / "deploy"

APPLICATION = """
TEXT = b"one"

def app(environ, start_response):
    start_response("200 OK", [])
    return [b" ".join([TEXT, environ["REMOTE_ADDR"].encode(), environ["wsgi.url_scheme"].encode()])]
"""


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / name)
    return parser


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The directory /srv/site, with a free port for the probes."""
    (tmp_path / "app.py").write_text(APPLICATION)
    text = (DEPLOY / "rmeinheld.toml").read_text()
    assert "127.0.0.1:8001" in text
    (tmp_path / "rmeinheld.toml").write_text(text.replace("127.0.0.1:8001", f"127.0.0.1:{free_port()}"))
    return tmp_path


def command(site: Path) -> list[str]:
    """The unit's command, of this interpreter and in another directory."""
    start, *arguments = shlex.split(unit("site.service")["Service"]["ExecStart"])
    assert start == "/srv/site/venv/bin/rmeinheld"
    arguments = [argument.replace("/srv/site", str(site)) for argument in arguments]
    return [sys.executable, "-m", "rmeinheld", *arguments]


def ask(site: Path) -> str:
    connection = UnixConnection(str(site / "site.sock"))
    fields = ("X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https", "Connection: close")
    with connection:
        response = connection.request(request("GET", "/", *fields))
        assert response.status == 200, response
        return response.body.decode()


@pytest.fixture
def activated(site: Path) -> Iterator[tuple[Process, ServiceManager]]:
    """The service as its unit starts it, when the first client connects to the socket."""
    activate = program("systemd-socket-activate", "systemd")
    seconds = int(unit("site.service")["Service"]["WatchdogSec"])
    with service_manager(seconds * 1_000_000) as manager:
        # The file of bytecode does not notice a second edit within a second.
        environment = {**environment_of_child(site), "PYTHONDONTWRITEBYTECODE": "1"}
        passed = [f"--setenv={name}" for name in (*manager.environment, "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")]
        server = Process([activate, f"--listen={site}/site.sock", *passed, *command(site)], site, environment)
        try:
            wait_until((site / "site.sock").is_socket, server.log)
            yield server, manager
        finally:
            print(server.log())
            server.kill()


def test_the_unit_serves_a_passed_socket_reloads_and_stops(
    site: Path, activated: tuple[Process, ServiceManager]
) -> None:
    server, manager = activated
    assert ask(site) == "one 192.0.2.1 https"
    note = manager.read_until("READY")
    assert "2 of 2 workers" in note.fields["STATUS"], note
    manager.read_until("WATCHDOG")
    admin = re.search(r'admin_bind = "(127.0.0.1):(\d+)"', (site / "rmeinheld.toml").read_text())
    assert admin is not None
    assert probe((admin[1], int(admin[2]))).status == 200
    # ExecReload.
    assert unit("site.service")["Service"]["ExecReload"] == "/bin/kill -s HUP $MAINPID"
    (site / "app.py").write_text(APPLICATION.replace("one", "two"))
    server.signal(signal.SIGHUP)
    assert "MONOTONIC_USEC" in manager.read_until("RELOADING").fields
    manager.read_until("READY")
    # The old workers now leave, one after the other.
    wait_until(lambda: ask(site) == "two 192.0.2.1 https", server.log)
    server.signal(signal.SIGTERM)
    manager.read_until("STOPPING")
    assert server.wait() == 0
    # The socket belongs to systemd, which starts the service again for the next client.
    assert (site / "site.sock").is_socket()


def test_a_single_process_serves_a_passed_socket(site: Path) -> None:
    activate = program("systemd-socket-activate", "systemd")
    port = free_port()
    with service_manager(20_000_000) as manager:
        environment = environment_of_child(site)
        passed = [f"--setenv={name}" for name in (*manager.environment, "PYTHONPATH")]
        listen = [activate, f"--listen=127.0.0.1:{port}", *passed]
        server = Process([*listen, sys.executable, "-m", "rmeinheld", "app:app"], site, environment)
        try:
            server.wait_for_log("Listening on")
            # The kernel takes this client before the program starts.
            with Connection(("127.0.0.1", port)) as client:
                response = client.request(request("GET", "/", "Connection: close"))
            assert response.body == b"one 127.0.0.1 http"
            manager.read_until("READY")
            server.signal(signal.SIGTERM)
            manager.read_until("STOPPING")
            assert server.wait() == 0
        finally:
            print(server.log())
            server.kill()


def test_the_times_of_the_unit_fit_those_of_the_settings(site: Path) -> None:
    service = unit("site.service")["Service"]
    done = subprocess.run(
        [*command(site), "--print-config"],
        cwd=site,
        env=environment_of_child(site),
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    values = dict(re.findall(r"^(\w+) +([\d.]+) ", done.stdout, re.M))
    assert float(values["graceful_timeout"]) + float(values["drain_delay"]) < float(service["TimeoutStopSec"])
    upstream = re.search(r"keepalive_timeout (\d+)s", (DEPLOY / "nginx.conf").read_text())
    assert upstream is not None
    assert float(values["keep_alive"]) > float(upstream[1])


def test_the_sandbox_of_the_unit_is_rated_as_safe(tmp_path: Path) -> None:
    analyze = program("systemd-analyze", "systemd")
    (tmp_path / "site.service").write_text((DEPLOY / "site.service").read_text())
    command = [analyze, "security", "--offline=true", "--threshold=30", str(tmp_path / "site.service")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd cannot rate a unit without a manager")
    assert done.returncode == 0, done.stdout + done.stderr
