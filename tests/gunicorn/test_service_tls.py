"""TLS of several workers: new certificates by SIGHUP and by a change of the files, and bad ones."""

from __future__ import annotations

import re
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from certificates import (
    Certificate,
    bad_renewals,
    get_tls,
    make_certificate,
    make_expired_certificate,
    open_tls,
    shown_certificate,
)
from masters import Gunicorn, Masters, Service, wait_until
from serving import TIMEOUT, environment_of_child

APPLICATION = """
import rmeinheld.tls

if CHECKS_OFTEN:
    rmeinheld.tls.CHECK_SECONDS = 0.05

def app(environ, start_response):
    start_response("200 OK", [])
    return [environ["wsgi.url_scheme"].encode()]
"""


class Secure(Service):
    """A service whose first answer is not waited for."""

    def await_start(self) -> None:
        self.await_socket()
        self.await_ready()


class SecureGunicorn(Gunicorn):
    """A master of Gunicorn whose first answer is not waited for."""

    def await_start(self) -> None:
        self.await_socket()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Certificate, Certificate]:
    """Two certificates."""
    first, second = (make_certificate(tmp_path_factory.mktemp(name)) for name in ("first", "second"))
    return first, second


@pytest.fixture
def current(tmp_path: Path, both: tuple[Certificate, Certificate]) -> Certificate:
    """The files that a service has been given, with the first certificate."""
    place = Certificate(tmp_path / "site.pem", tmp_path / "site.key")
    both[0].put(place)
    return place


@pytest.fixture
def start(tmp_path: Path, current: Certificate) -> Iterator[Callable[..., Gunicorn]]:
    """`start(kind, checks_often)`: a master that serves TLS."""
    running: list[Masters[Gunicorn]] = []

    def run(kind: type[Gunicorn] = Secure, *options: str, checks_often: bool = False) -> Gunicorn:
        (tmp_path / "secure_app.py").write_text(f"CHECKS_OFTEN = {checks_often}\n{APPLICATION}")
        running.append(Masters(tmp_path, kind))
        tls = ("--certfile", str(current.certificate), "--keyfile", str(current.key))
        return running[-1](*tls, "--workers", "2", *options, app="secure_app:app")

    yield run
    for masters in running:
        masters.stop()


def number_of_loops(server: Gunicorn) -> int:
    """Number of workers whose loop has started, which is a thread of its own."""
    children = Path(f"/proc/{server.popen.pid}/task/{server.popen.pid}/children").read_text().split()
    return sum(len(list(Path(f"/proc/{pid}/task").iterdir())) > 1 for pid in children)


def serves(server: Gunicorn, certificate: Certificate) -> bool:
    """Is this the certificate of new connections?"""
    try:
        with open_tls(server.port, certificate) as connection:
            return get_tls(connection).body == b"https"
    except ssl.SSLCertVerificationError:
        return False


def test_sighup_replaces_the_certificate_and_keeps_it_if_the_new_one_is_bad(
    start: Callable[..., Gunicorn], current: Certificate, both: tuple[Certificate, Certificate]
) -> None:
    first, second = both
    server = start()
    assert serves(server, first)
    shutil.copy(second.key, current.key)
    server.signal(signal.SIGHUP)
    server.wait_for_log(
        "The new configuration is refused, and the old one stays in use: keyfile: the key in '.*site.key' does not "
        "belong to the certificate in '.*site.pem'"
    )
    assert serves(server, first)
    second.put(current)
    server.signal(signal.SIGHUP)
    wait_until(lambda: serves(server, second), server.log)
    assert server.log().count("[ERROR]") == 1


def test_every_bad_renewal_at_sighup_is_one_error_line_and_the_workers_stay(
    start: Callable[..., Gunicorn], current: Certificate, both: tuple[Certificate, Certificate], tmp_path: Path
) -> None:
    first, second = both
    server = start()
    workers = set(re.findall(r"Booting worker with pid: \d+", server.log()))
    for fault in bad_renewals(current, second):
        seen = len(server.log())
        server.signal(signal.SIGHUP)
        line = server.wait_for_log(r"\[ERROR\] The new configuration is refused.*? stays in use: (.*)", start=seen)
        assert line[1].startswith(fault)
        assert serves(server, first)
        assert "Traceback" not in server.log()
    assert set(re.findall(r"Booting worker with pid: \d+", server.log())) == workers
    # Clients judge whether it has expired.
    expired = make_expired_certificate(tmp_path / "expired")
    expired.put(current)
    server.signal(signal.SIGHUP)
    wait_until(lambda: shown_certificate(server.port).split() == expired.certificate.read_text().split(), server.log)


@pytest.mark.parametrize("kind", [Secure, SecureGunicorn])
def test_workers_read_changed_files_again(
    start: Callable[..., Gunicorn], current: Certificate, both: tuple[Certificate, Certificate], kind: type[Gunicorn]
) -> None:
    first, second = both
    server = start(kind, checks_often=True)
    # A worker that starts later would find the second certificate at once.
    wait_until(lambda: number_of_loops(server) == 2, server.log)
    assert serves(server, first)
    second.put(current)
    wait_until(lambda: server.log().count("TLS: read the certificates again") == 2, server.log)
    assert serves(server, second)
    current.key.write_text("no key")
    wait_until(lambda: server.log().count("holds no private key in PEM; the certificates that") == 2, server.log)
    assert serves(server, second)


@pytest.mark.parametrize("command", ["rmeinheld", "gunicorn"])
def test_a_bad_certificate_at_the_start_is_named(
    tmp_path: Path, both: tuple[Certificate, Certificate], command: str
) -> None:
    (tmp_path / "secure_app.py").write_text(f"CHECKS_OFTEN = False\n{APPLICATION}")
    options = ["--bind", "127.0.0.1:0", "--certfile", str(both[0].certificate), "--keyfile", str(both[1].key)]
    worker = ["--worker-class", "rmeinheld.gunicorn_worker.Worker"] if command == "gunicorn" else []
    done = subprocess.run(
        [sys.executable, "-m", command, "--workers", "2", *worker, *options, "secure_app:app"],
        cwd=tmp_path,
        env=environment_of_child(tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT,
    )
    assert done.returncode != 0
    assert f"keyfile: the key in '{both[1].key}' does not belong to the certificate in" in done.stderr
    assert "Traceback" not in done.stderr or command == "gunicorn", done.stderr
