"""Applications, hooks and loggers find under our worker the same as under Gunicorn's own: each test asks both."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from masters import LISTENING, Gunicorn, Masters, wait_until
from serving import TIMEOUT, request, takes

type Start = Masters[Gunicorn]

OURS = "rmeinheld.gunicorn_worker.Worker"


@pytest.fixture(params=[OURS, "gthread"])
def worker_class(request: pytest.FixtureRequest) -> str:
    """The class of workers."""
    return str(request.param)


@pytest.fixture
def start(tmp_path: Path, worker_class: str) -> Iterator[Start]:
    """`start(*options, conf="", app=...) -> Gunicorn`: a running master with workers of the class."""

    def gunicorn(directory: Path, options: tuple[str, ...], app: str) -> Gunicorn:
        return Gunicorn(directory, ("--worker-class", worker_class, *options), app)

    masters = Masters(tmp_path, gunicorn)
    yield masters
    masters.stop()


# --- requests --------------------------------------------------------------------------------------------------------


def test_the_last_request_of_a_worker_is_its_connections_last(start: Start) -> None:
    # One was sent to see that the worker is there.
    server = start("--max-requests", "4", "--keep-alive", "30")
    with server.connect() as connection:
        for is_last in (False, False, True):
            response = connection.request(request("POST", "/", "Content-Length: 0"))
            assert response.ends_connection is is_last
        connection.expect_end()


def test_the_scheme_that_a_stranger_names_is_passed_on_but_not_trusted(start: Start) -> None:
    server = start("--forwarded-allow-ips", "192.0.2.1")
    seen = server.get("/", "X-Forwarded-Proto: https")
    assert (seen["wsgi.url_scheme"], seen["HTTP_X_FORWARDED_PROTO"]) == ("http", "https")


# --- hooks -----------------------------------------------------------------------------------------------------------

CHANGES = """
def pre_request(worker, req):
    assert req.remote_addr[0] == "127.0.0.1" and req.peer_addr[0] == "127.0.0.1"
    req.headers.append(("X-PATH", req.path))
    req.headers = [pair for pair in req.headers if pair[0] != "X-GONE"]
    if req.method == "POST":
        req.method = "PUT"
"""


def test_pre_request_may_change_the_request(start: Start) -> None:
    server = start(conf=CHANGES)
    seen = server.get("/a", "X-Gone: 1", "X-Stays: 1")
    assert (seen["HTTP_X_PATH"], seen["HTTP_X_STAYS"], "HTTP_X_GONE" in seen) == ("/a", "1", False)
    assert seen["REQUEST_METHOD"] == "GET"
    with server.connect() as connection:
        data = request("POST", "http://test/a%20b?c", "Content-Length: 0", "Connection: close")
        seen = json.loads(connection.request(data).body)
    assert (seen["REQUEST_METHOD"], seen["HTTP_X_PATH"]) == ("PUT", "/a%20b")
    assert (seen["PATH_INFO"], seen["QUERY_STRING"]) == ("/a b", "c")


def test_a_worker_counts_its_requests(start: Start, tmp_path: Path) -> None:
    server = start(conf='def worker_exit(server, worker):\n    open("count", "w").write(str(worker.nr))\n')
    server.get("/")
    server.end()
    assert (tmp_path / "count").read_text() == "2"


@pytest.mark.parametrize("worker_class", [OURS], indirect=True)
def test_worker_exit_is_called_when_the_master_ends_a_worker_that_hangs(start: Start, tmp_path: Path) -> None:
    server = start("--timeout", "1", conf='def worker_exit(server, worker):\n    open("exited", "w").close()\n')
    with server.connect() as connection:
        connection.send(request("GET", "/busy"))
        wait_until((tmp_path / "exited").exists, server.log)
    server.get("/")


# --- logs ------------------------------------------------------------------------------------------------------------


def open_files(pid: int) -> list[str]:
    """Where the descriptors of a process lead to. The list is empty if a descriptor is closed meanwhile."""
    try:
        return [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    except FileNotFoundError:
        return []


def test_wsgi_errors_is_the_error_log_and_usr1_opens_it_anew(tmp_path: Path, worker_class: str) -> None:
    errors = tmp_path / "errors.log"
    errors.touch()
    server = Gunicorn(tmp_path, ("--worker-class", worker_class, "--error-logfile", str(errors)))
    try:
        wait_until(lambda: re.search(LISTENING, errors.read_text()) is not None, errors.read_text)
        listening = re.search(LISTENING, errors.read_text())
        assert listening is not None
        server.port = int(listening[1])
        worker = server.get("/one")["pid"]
        assert "begun /one\n" in errors.read_text()
        errors.rename(tmp_path / "moved.log")
        server.signal(signal.SIGUSR1)
        # The master opens it before the worker does. A request meanwhile fails in gthread, which writes to the old one.
        wait_until(lambda: str(errors) in open_files(worker), server.log)
        server.get("/two")
        assert "begun /two\n" in errors.read_text()
        assert "begun" not in server.log()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    finally:
        server.kill()


def test_the_access_log_stays_the_file_that_the_master_has_opened(start: Start, tmp_path: Path) -> None:
    conf = 'import os\ndef post_worker_init(worker):\n    os.mkdir("sub")\n    os.chdir("sub")\n'
    server = start("--access-logfile", "access", "--access-logformat", "%(U)s %(b)s", conf=conf)
    path, moved = tmp_path / "access", tmp_path / "moved"
    wait_until(lambda: path.read_text().startswith("/ "), path.read_text)
    path.rename(moved)
    server.signal(signal.SIGUSR1)
    wait_until(lambda: bool(server.get("/a")) and path.exists() and "/a " in path.read_text(), server.log)
    assert not list((tmp_path / "sub").iterdir())


LOGGERS = {
    "access_fmt": 'class logger_class(Logger):\n    access_fmt = "[mine] %(message)s"\n',
    "now": 'class logger_class(Logger):\n    def now(self):\n        return "[mine]"\n',
    "setup": """
class logger_class(Logger):
    def setup(self, cfg):
        super().setup(cfg)
        self.access_log.handlers[0].setFormatter(logging.Formatter("[mine] %(message)s"))
""",
    "filter": """
def mark(record):
    record.msg = "[mine] " + record.msg
    return True
class logger_class(Logger):
    def setup(self, cfg):
        super().setup(cfg)
        self.access_log.handlers[0].addFilter(mark)
""",
}


@pytest.mark.parametrize("how", LOGGERS)
def test_a_logger_of_the_users_decides_what_a_line_is_like(start: Start, tmp_path: Path, how: str) -> None:
    conf = "import logging\nfrom gunicorn.glogging import Logger\n" + LOGGERS[how]
    start("--access-logfile", "access", conf=conf).get("/a")
    path = tmp_path / "access"
    wait_until(lambda: "GET /a " in path.read_text(), path.read_text)
    assert "[mine]" in path.read_text()


def test_a_body_of_no_bytes_is_logged_alike(start: Start, tmp_path: Path) -> None:
    server = start("--access-logfile", "access", "--access-logformat", "%(m)s %(U)s %(s)s %(b)s %(B)s")
    with server.connect() as connection:
        connection.send(request("HEAD", "/a", "Connection: close"))
        connection.read_response("HEAD")
    path = tmp_path / "access"
    wait_until(lambda: "HEAD" in path.read_text(), path.read_text)
    assert path.read_text().splitlines()[-1].startswith("HEAD /a 200 0 ")


def test_exceptions_of_the_application_are_counted_by_statsd(start: Start) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.settimeout(TIMEOUT)
        server = start("--statsd-host", f"127.0.0.1:{statsd.getsockname()[1]}")
        with server.connect() as connection:
            connection.send(request("GET", "/fail", "Connection: close"))
            connection.read_until(b"HTTP/1.1 500 ")
        while statsd.recv(1000) != b"gunicorn.log.exception:1|c|@1.0":
            pass
    server.wait_for_log("RuntimeError: the application failed on purpose")


# --- the beginning and the end ---------------------------------------------------------------------------------------


def test_an_interrupt_ends_a_worker_that_imports_the_application(tmp_path: Path, worker_class: str) -> None:
    (tmp_path / "slow_app.py").write_text('import time\nprint("importing", flush=True)\ntime.sleep(60)\n')
    server = Gunicorn(tmp_path, ("--worker-class", worker_class), app="slow_app:app")
    try:
        server.wait_for_log("importing")
        with takes(0, 5):
            server.signal(signal.SIGINT)
            assert server.wait() == 0
    finally:
        server.kill()


@pytest.mark.parametrize("worker_class", [OURS], indirect=True)
def test_quit_ends_a_worker_whose_loop_hangs(start: Start) -> None:
    server = start()
    with server.connect() as connection:
        connection.send(request("GET", "/busy"))
        server.wait_for_log("begun /busy")
        with takes(0, 7):
            server.signal(signal.SIGQUIT)
            assert server.wait() == 0
    assert "Traceback" not in server.log()


@pytest.mark.parametrize(
    ("options", "name"),
    [(("--worker-connections", "0"), "worker_connections"), (("--keep-alive", "99999999"), "keep_alive")],
)
def test_a_setting_that_cannot_be_ends_the_master_with_its_name(
    tmp_path: Path, options: tuple[str, ...], name: str
) -> None:
    server = Gunicorn(tmp_path, options)
    try:
        assert server.wait() == 1
        assert name in server.log()
        assert "Booting worker" not in server.log()
    finally:
        server.kill()
