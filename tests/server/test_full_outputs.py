"""Standard streams and logs that are closed, broken, full or not read: requests are served all the same."""

from __future__ import annotations

import fcntl
import functools
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving import TIMEOUT, Connection, Log, RunScript, Serve, environment_of_child, request

SMALL_PIPE = 4096
F_SETPIPE_SZ = 1031


class Started:
    """A server that does not say where it listens: its socket was made here."""

    def __init__(self, popen: subprocess.Popen[bytes], address: tuple[str, int], log: Log | None) -> None:
        self.popen, self.address, self.log = popen, address, log

    def get(self, target: str) -> bytes:
        with Connection(self.address) as connection:
            return connection.request(request("GET", target, "Connection: close")).body

    def stop(self) -> None:
        self.popen.send_signal(signal.SIGTERM)
        assert self.popen.wait(TIMEOUT) == 0


Start = Callable[..., Started]


def close_all(descriptors: Iterable[int]) -> None:
    """In the child: close them."""
    for number in descriptors:
        os.close(number)


APPLICATION = """
import os
import subprocess
import sys


def app(environ, start_response):
    if environ["PATH_INFO"] == "/fail":
        raise RuntimeError("x" * 3000)
    if environ["PATH_INFO"] == "/print":
        print("to standard output")
        os.write(1, b"to descriptor 1")
        os.write(2, b"to descriptor 2")
        subprocess.run(["echo", "from a child"], check=True)
        environ["wsgi.errors"].write("to the errors\\nand part")
        environ["wsgi.errors"].writelines([" of a line"])
        environ["wsgi.errors"].flush()
    start_response("200 OK", [])
    return [" ".join(os.readlink(f"/proc/self/fd/{number}") for number in range(3)).encode()]
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(*options, stdout, stderr, closed)`: serve APPLICATION with these descriptors, or with `closed` ones."""
    (tmp_path / "application.py").write_text(textwrap.dedent(APPLICATION))
    running: list[subprocess.Popen[bytes]] = []

    def start(
        *options: str,
        stdout: int = subprocess.DEVNULL,
        stderr: int | None = None,
        closed: tuple[int, ...] = (),
        command: tuple[str, ...] = ("rmeinheld", "--bind"),
    ) -> Started:
        log = None
        with socket.create_server(("127.0.0.1", 0)) as listener:
            reader = None
            if stderr is None and 2 not in closed:
                reader, stderr = os.pipe()
            popen = subprocess.Popen(
                [sys.executable, "-m", *command, f"fd://{listener.fileno()}", *options, "application:app"],
                cwd=tmp_path,
                env=environment_of_child(tmp_path),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                pass_fds=[listener.fileno()],
                preexec_fn=functools.partial(close_all, closed),
            )
            running.append(popen)
            if reader is not None and stderr is not None:
                os.close(stderr)
                log = Log(reader)
            return Started(popen, listener.getsockname(), log)

    yield start
    for popen in running:
        if popen.poll() is None:
            popen.kill()
        popen.wait()


@contextmanager
def small_pipe() -> Iterator[tuple[int, int]]:
    """A pipe that holds 4 KiB; both ends, of which the reader may be closed meanwhile."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, F_SETPIPE_SZ, SMALL_PIPE)
    try:
        yield reader, writer
    finally:
        os.close(writer)
        os.close(reader)


# --- standard streams that are closed --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [("rmeinheld", "--bind"), ("gunicorn", "-k", "rmeinheld.gunicorn_worker.Worker", "-b")]
)
def test_no_client_gets_the_number_of_a_closed_standard_stream(
    start: Start, tmp_path: Path, command: tuple[str, ...]
) -> None:
    if command[0] == "gunicorn":
        pytest.importorskip("gunicorn")
    log = tmp_path / "log"
    server = start("--error-logfile", str(log), closed=(0, 1, 2), command=command)
    for _ in range(3):
        first, second, third = server.get("/print").decode().split()
        assert (second, third) == ("/dev/null", "/dev/null")
        # Gunicorn opens its log first.
        assert first in ("/dev/null", str(log))
    server.stop()
    assert log.read_text().count("to the errors\n") == 3
    assert log.read_text().count("and part of a line") == 3
    assert "Traceback" not in log.read_text()


def test_standard_streams_that_are_closed_are_no_listeners_either(script: RunScript) -> None:
    output = script("""
        import os, sys
        import rmeinheld
        from rmeinheld.meinheld import server

        kept = os.dup(1)
        for number in range(3):
            os.close(number)
        server.listen(("127.0.0.1", 0))
        names = [os.readlink(f"/proc/self/fd/{number}") for number in range(3)]
        os.write(kept, repr(names).encode())
    """)
    assert output.count("/dev/null") == 3


# --- the access log --------------------------------------------------------------------------------------------------


def test_an_access_log_that_is_not_read_holds_no_request_up(start: Start) -> None:
    requests = 150
    with small_pipe() as (reader, writer):
        server = start("--access-logfile", "-", "--access-logformat", "%(r)s", stdout=writer)
        assert server.log is not None
        for number in range(requests):
            server.get(f"/{number}/" + "x" * 3900)
        server.log.wait_for(r"\[ERROR\] The access log \(access_logfile, standard output\) loses lines: it is full")
        assert server.log.text().count("loses lines") == 1

        text: list[bytes] = []

        def collect() -> None:
            while data := os.read(reader, 65536):
                text.append(data)

        collector = threading.Thread(target=collect, daemon=True)
        collector.start()
        # The line is written when the server looks up from its wait.
        deadline = time.monotonic() + TIMEOUT
        while not (goes_on := re.search(r"goes on; (\d+) lines were lost", server.log.text())):
            assert time.monotonic() < deadline
            server.get("/late")
            time.sleep(0.1)
        lost = int(goes_on[1])
        server.stop()
        os.write(writer, b"end\n")
        while not text or not text[-1].endswith(b"end\n"):
            collector.join(0.01)
        lines = b"".join(text).decode().splitlines()[:-1]
        numbers = [int(found[1]) for line in lines if (found := re.fullmatch(r"GET /(\d+)/x{3900} HTTP/1.1", line))]
        assert lost > 0
        assert numbers == list(range(requests - lost))
        assert set(lines[len(numbers) :]) == {"GET /late HTTP/1.1"}


def test_an_access_log_on_a_full_disk_is_reported_once(serve: Serve) -> None:
    server = serve("wsgi_app:app", access_logfile="/dev/full")
    for _ in range(20):
        assert server.get("/hello").body == b"hello"
    server.wait_for_log(r"The access log \(access_logfile, /dev/full\) loses lines: No space left on device")
    assert server.log().count("loses lines") == 1
    server.stop()
    assert re.search(r"the access log \(access_logfile, /dev/full\) has lost 20 lines", server.log())


def test_an_access_log_may_be_a_fifo_that_is_read_later(serve: Serve, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    server = serve("wsgi_app:app", access_logfile=str(fifo), access_logformat="%(r)s")
    assert server.get("/hello?1").body == b"hello"
    with open(fifo, "rb") as reader:
        assert reader.readline() == b"GET /hello?1 HTTP/1.1\n"
        assert server.get("/hello?2").body == b"hello"
        assert reader.readline() == b"GET /hello?2 HTTP/1.1\n"


# --- standard error --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_standard_error_that_is_not_read_holds_no_request_up(start: Start, is_broken: bool) -> None:
    with small_pipe() as (reader, writer):
        if is_broken:
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, reader)
            os.close(null)
        server = start(stderr=writer)
        for _ in range(120):
            assert b"Internal Server Error" in server.get("/fail")
        assert server.get("/")
        server.stop()


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_line_of_the_engine_neither_waits_for_standard_error_nor_fails_by_it(
    script: RunScript, is_broken: bool
) -> None:
    # A forked child that comes back from its request says so on standard error.
    output = script(f"""
        import os, threading, http.client
        from rmeinheld.meinheld import server
        from rmeinheld.process_state import state

        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        try:
            while os.write(writer, b"x" * 4096):
                pass
        except BlockingIOError:
            pass
        os.set_blocking(writer, True)

        def app(environ, start_response):
            if (child := os.fork()) == 0:
                if {is_broken}:
                    os.close(reader)
                os.dup2(writer, 2)
                start_response("200 OK", [])
                return []
            start_response("200 OK", [])
            return [b"%d" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]

        server.listen(("127.0.0.1", 0))
        port = state.pending[0].server_port

        def client():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/")
            print(connection.getresponse().read())
            connection.close()
            server.stop()

        threading.Thread(target=client).start()
        server.run(app)
    """)
    assert "b'70'" in output
