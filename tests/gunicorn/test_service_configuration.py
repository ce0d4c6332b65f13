"""`rmeinheld --workers`: the configuration of the arbiter, and reloads whose configuration is refused."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rmeinheld.gunicorn_worker.application import OLDEST, TOO_NEW, check_version

from masters import LISTENING, Masters, Service, wait_until
from rmeinheld.application import StartError
from serving import TIMEOUT, Connection, Process, environment_of_child, request

type Start = Masters[Service]

APP = "service_app:app"


class Configured(Service):
    """A service whose only options are in rmeinheld.toml."""

    @staticmethod
    def command(options: tuple[str, ...], app: str) -> list[str]:
        return [sys.executable, "-m", "rmeinheld", *options, app]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(*options) -> Service`: a running master, which must end in order at the end of the test."""
    masters: Start = Masters(tmp_path, Configured)
    yield masters
    masters.stop()


def ask(path: Path) -> bytes:
    """The answer to a request on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(TIMEOUT)
        sock.connect(str(path))
        sock.sendall(request("GET", "/", "Connection: close"))
        return sock.recv(65536)


def configure(directory: Path, text: str) -> None:
    (directory / "rmeinheld.toml").write_text(text)


GOOD = 'workers = 2\nenv = ["MARK=old"]\ngraceful_timeout = 8\nbind = ["127.0.0.1:0"]\n'


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("workers = = 2", r"rmeinheld\.toml"),
        ("workers = -2", r"workers.*-2"),
        ("wrokers = 2", r"wrokers.*workers"),
        (GOOD + 'certfile = "missing.pem"\nkeyfile = "missing.pem"\n', r"missing\.pem"),
        (GOOD + "patch = false\n", r"patch is off now"),
        (GOOD.replace('0"]', '0", "unix:/no/such/directory/socket"]'), r"/no/such/directory"),
    ],
)
def test_a_reload_with_a_bad_configuration_changes_nothing_and_is_tried_again(
    start: Start, tmp_path: Path, bad: str, message: str
) -> None:
    configure(tmp_path, GOOD)
    service = start(app=APP)
    service.await_ready()
    first = set(service.running())
    configure(tmp_path, bad)
    service.signal(signal.SIGHUP)
    service.wait_for_log(rf"\[ERROR\] The new configuration is refused, and the old one stays in use: .*{message}")
    # Workers that start meanwhile have the old one.
    os.kill(service.workers()[0], signal.SIGKILL)
    wait_until(lambda: len(service.workers()) == 3, service.log)
    service.await_ready(2)
    assert {service.get("/")["mark"] for _ in range(5)} == {"old"}
    configure(tmp_path, GOOD.replace("old", "new"))
    wait_until(lambda: not first & set(service.running()), service.log)
    service.await_ready(3)
    wait_until(lambda: service.get("/")["mark"] == "new", service.log)
    assert service.log().count("is refused") == 1


def test_a_reload_changes_addresses_and_the_pidfile(start: Start, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"

    def text(path: Path) -> str:
        return GOOD.replace('0"]', f'0", "unix:{path}.sock"]').replace("2", "1", 1) + f'pid = "{path}.pid"\n'

    configure(tmp_path, text(one) + "max_requests = 100000\n")
    service = start(app=APP)
    service.await_ready()
    port, (first,) = service.port, service.running()
    assert Path(f"{one}.pid").read_text() == f"{service.pid}\n"
    configure(tmp_path, text(two) + "max_requests = 100000\n")
    service.signal(signal.SIGHUP)
    service.await_ready(2)
    wait_until(lambda: not service.has(first), service.log)
    assert ask(Path(f"{two}.sock")).startswith(b"HTTP/1.1 200")
    assert Path(f"{two}.pid").read_text() == f"{service.pid}\n"
    assert [path for path in tmp_path.iterdir() if path.name.startswith("one.")] == []
    # The socket that is still wanted is the same.
    assert service.port == port
    assert service.get("/")["pid"] != first


def test_an_upgrade_takes_the_configuration_of_its_time(start: Start, tmp_path: Path) -> None:
    """The new master serves with the arbiter, although one worker does not need it. A relative chdir means the same."""
    good = GOOD + 'chdir = "sub"\n'
    (tmp_path / "sub").mkdir()
    configure(tmp_path, good)
    service = start(app=APP)
    service.directory = (tmp_path / "sub").resolve()
    service.await_ready()
    configure(tmp_path, good.replace("old", "new").replace("2", "1", 1))
    service.signal(signal.SIGUSR2)
    service.wait_for_log("The new master is ready")
    service.signal(signal.SIGTERM)
    wait_until(lambda: len(service.running()) == 1, service.log)
    assert service.get("/")["mark"] == "new"


def test_two_services_on_one_port_are_an_error(start: Start, tmp_path: Path) -> None:
    configure(tmp_path, GOOD)
    service = start(app=APP)
    other = Service(tmp_path, ("--workers", "2", "--bind", f"127.0.0.1:{service.port}"), APP)
    try:
        assert other.wait() == 1
        (line,) = other.log().splitlines()
        assert re.fullmatch(rf"rmeinheld: error: cannot listen on 127\.0\.0\.1:{service.port}: .*in use", line), line
    finally:
        other.kill()
    assert service.get("/")["pid"] in service.workers()


READ_ONLY = """
for directory in /tmp /var/tmp /usr/tmp /run /dev/shm "$PWD"; do
    if [ -d "$directory" ]; then
        mount --bind "$directory" "$directory"
        mount -o remount,ro,bind "$directory"
    fi
done
cd "$PWD"
exec "$@"
"""
"""Runs a command where no directory for temporary files can be written."""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_service_needs_no_writable_directory(tmp_path: Path) -> None:
    options = ["--workers", "2", "--timeout", "2", "--bind", "127.0.0.1:0", APP]
    command = ["unshare", "--mount", "sh", "-euc", READ_ONLY, "sh", sys.executable, "-B", "-m", "rmeinheld", *options]
    service = Process(command, tmp_path, environment_of_child(tmp_path))
    try:
        port = int(service.wait_for_log(LISTENING)[1])
        service.wait_for_log("Workers ready: 2")
        assert "their names are abstract" in service.log()
        # The heartbeats, in memory, are read.
        with Connection(("127.0.0.1", port)) as connection:
            connection.send(request("GET", "/compute"))
            service.wait_for_log("WORKER TIMEOUT")
            service.wait_for_log("(Workers ready: 2(.|\n)*){2}")
        service.signal(signal.SIGTERM)
        assert service.wait() == 0
    finally:
        service.kill()


def test_the_oldest_and_the_newest_gunicorn_are_checked() -> None:
    check_version("24.1.0", (*OLDEST, 0))
    check_version("27.9.9", (27, 9, 9))
    for text, version in (("24.0.0", (24, 0, 0)), ("28.0.0", (*TOO_NEW, 0, 0)), ("23.0.0", (23, 0, 0))):
        with pytest.raises(StartError, match=rf"Gunicorn 24\.1 to 27, and {text} is installed: pip install"):
            check_version(text, version)
