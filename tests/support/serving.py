"""Servers as subprocesses, scripts in fresh processes, and a raw client that detects desync.

Every wait in this file is bounded, and none waits for readiness by sleeping: a server is ready when it has printed
the line that says where it listens.
"""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

TIMEOUT = 15.0
"""Seconds that any single wait may take, unless a test says otherwise."""

APPLICATIONS = Path(__file__).parents[1] / "apps"
"""Where the applications live that `module:app` names in tests refer to."""

START_LINE = re.compile(r"^rmeinheld \S+ listening at https?://\S+?:(?P<port>\d+)\b.* \(pid (?P<pid>\d+)\)$", re.M)


ALWAYS_PRESENT = ("Date", "Server")
"""Fields that every final response has exactly once."""


class ProtocolViolation(AssertionError):
    """The server sent bytes that are not a well-formed HTTP/1.1 response (RFC 9112)."""


class ConnectionEnded(AssertionError):
    """The server closed the connection where the test expected a response, or more of one."""


# --- responses -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Response:
    """One response as it was on the wire.

    `framing` is "none" (the status or HEAD excludes a body), "sized", "chunked" or "close" (delimited by the end of
    the connection). `chunks` holds the data of each chunk of a chunked body.
    """

    version: str
    status: int
    reason: str
    headers: list[tuple[str, str]]
    framing: str
    body: bytes = b""
    chunks: list[bytes] = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        """Values of every field line called `name`, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def header(self, name: str) -> str | None:
        """Value of the only field line called `name`, or None. AssertionError if there are several."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} appears {len(values)} times: {values}"
        return values[0] if values else None

    @property
    def ends_connection(self) -> bool:
        """Does the response say that the connection ends after it (RFC 9112 9.3)?"""
        options = [option.strip().lower() for value in self.all("Connection") for option in value.split(",")]
        if "close" in options:
            return True
        return self.framing == "close" or (self.version == "HTTP/1.0" and "keep-alive" not in options)


STATUS_LINE = re.compile(rb"(HTTP/1\.[01]) ([1-5][0-9]{2}) ([\t\x20-\x7e\x80-\xff]*)\Z")
FIELD_LINE = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*((?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)[ \t]*\Z"
)
CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,8}\Z")


def parse_head(head: bytes) -> tuple[str, int, str, list[tuple[str, str]]]:
    """Split a response head (without its final empty line) into version, status, reason and field lines."""
    lines = head.split(b"\r\n")
    status_line = STATUS_LINE.match(lines[0])
    if not status_line:
        raise ProtocolViolation(f"not a status line: {lines[0]!r}")
    headers: list[tuple[str, str]] = []
    for line in lines[1:]:
        match = FIELD_LINE.match(line)
        if not match:
            raise ProtocolViolation(f"not a field line: {line!r}")
        headers.append((match[1].decode("latin-1"), match[2].decode("latin-1")))
    return status_line[1].decode(), int(status_line[2]), status_line[3].decode("latin-1"), headers


def framing_of(method: str, status: int, headers: Iterable[tuple[str, str]]) -> tuple[str, int]:
    """Say how the body of a response is delimited (RFC 9112 6.3), as `(framing, Content-Length or 0)`."""
    lengths = [value for name, value in headers if name.lower() == "content-length"]
    codings = [value for name, value in headers if name.lower() == "transfer-encoding"]
    if len(lengths) > 1 or len(codings) > 1 or (lengths and codings):
        raise ProtocolViolation(f"contradictory framing: Content-Length {lengths}, Transfer-Encoding {codings}")
    if lengths and not re.fullmatch(r"[0-9]+", lengths[0]):
        raise ProtocolViolation(f"Content-Length is not a number: {lengths[0]!r}")
    if status < 200 or status == 204:
        # RFC 9110 8.6 and RFC 9112 6.1 forbid both fields here.
        if lengths or codings:
            raise ProtocolViolation(f"{status} with Content-Length {lengths} or Transfer-Encoding {codings}")
        return "none", 0
    if status == 304 or method == "HEAD":
        return "none", 0
    if codings:
        if codings[0] != "chunked":
            raise ProtocolViolation(f"unknown transfer coding: {codings[0]!r}")
        return "chunked", 0
    if lengths:
        return "sized", int(lengths[0])
    return "close", 0


# --- client ----------------------------------------------------------------------------------------------------------


class Connection:
    """A raw client connection with a strict reader. `buffer` holds bytes that are received but not consumed yet.

    `source` is the address that the connection comes from; any address in 127.0.0.0/8 is allowed.
    """

    def __init__(
        self,
        address: tuple[str, int],
        timeout: float = TIMEOUT,
        receive_buffer: int | None = None,
        source: str | None = None,
    ) -> None:
        self.timeout = timeout
        self.buffer = b""
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if receive_buffer is not None:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            if source is not None:
                self.socket.bind((source, 0))
            self.socket.settimeout(timeout)
            self.socket.connect(address)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()

    def abort(self) -> None:
        """Close the connection with a reset (RST), as a client does that vanishes."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send all of `data`."""
        self.socket.sendall(data)

    def send_slowly(self, data: bytes, step: int = 1, pause: float = 0.001) -> None:
        """Send `data` in pieces of `step` bytes, `pause` seconds apart, so that the server sees many reads."""
        for start in range(0, len(data), step):
            self.socket.sendall(data[start : start + step])
            time.sleep(pause)

    def finish_sending(self) -> None:
        """Half-close: the server reads the end of the stream, and can still answer."""
        # The server may have closed first, which the reader will see.
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def receive(self) -> bool:
        """Read once into the buffer; False at the end of the stream (a reset counts as one)."""
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            return False
        except TimeoutError:
            raise AssertionError(f"nothing came for {self.timeout} s; unread: {self.buffer[:500]!r}") from None
        self.buffer += data
        return bool(data)

    def has_input(self, seconds: float) -> bool:
        """Does anything (bytes or the end of the stream) arrive within `seconds`?"""
        return bool(self.buffer) or bool(select.select([self.socket], [], [], seconds)[0])

    def read_exactly(self, size: int) -> bytes:
        """Read `size` bytes; ConnectionEnded if the stream ends before."""
        parts = [self.buffer]
        have = len(self.buffer)
        self.buffer = b""
        while have < size:
            if not self.receive():
                raise ConnectionEnded(f"the stream ended {size - have} bytes too early")
            parts.append(self.buffer)
            have += len(self.buffer)
            self.buffer = b""
        data = b"".join(parts)
        self.buffer = data[size:]
        return data[:size]

    def read_until(self, mark: bytes, limit: int = 1 << 20) -> bytes:
        """Read up to and without `mark`, which is consumed; ConnectionEnded if the stream ends before."""
        while mark not in self.buffer:
            if len(self.buffer) > limit:
                raise ProtocolViolation(f"no {mark!r} within {limit} bytes: {self.buffer[:200]!r}")
            if not self.receive():
                raise ConnectionEnded(f"the stream ended before {mark!r}; unread: {self.buffer[:500]!r}")
        data, _, self.buffer = self.buffer.partition(mark)
        return data

    def read_to_end(self) -> bytes:
        """Read everything up to the end of the stream."""
        parts = [self.buffer]
        self.buffer = b""
        while self.receive():
            parts.append(self.buffer)
            self.buffer = b""
        return b"".join(parts)

    def read_chunks(self) -> list[bytes]:
        """Read a chunked body with its (empty) trailer section."""
        chunks: list[bytes] = []
        while True:
            size_line = self.read_until(b"\r\n", limit=1024)
            if not CHUNK_SIZE.match(size_line):
                raise ProtocolViolation(f"not a chunk size: {size_line!r}")
            size = int(size_line, 16)
            data = self.read_exactly(size + 2)
            if data[size:] != b"\r\n":
                raise ProtocolViolation(f"chunk of {size} bytes is followed by {data[size:]!r}")
            if size == 0:
                return chunks
            chunks.append(data[:size])

    def read_head(self, method: str = "GET") -> tuple[Response, int]:
        """Read a response head; returns the response without a body, and its Content-Length or 0."""
        version, status, reason, headers = parse_head(self.read_until(b"\r\n\r\n"))
        framing, length = framing_of(method, status, headers)
        response = Response(version, status, reason, headers, framing)
        if status >= 200:
            for name in ALWAYS_PRESENT:
                if len(response.all(name)) != 1:
                    raise ProtocolViolation(f"{status} with {len(response.all(name))} {name} fields")
        return response, length

    def read_response(self, method: str = "GET") -> Response:
        """Read one response, interim (1xx) responses included, to a request with `method`."""
        head, length = self.read_head(method)
        body, chunks = b"", list[bytes]()
        if head.framing == "sized":
            body = self.read_exactly(length)
        elif head.framing == "chunked":
            chunks = self.read_chunks()
            body = b"".join(chunks)
        elif head.framing == "close":
            body = self.read_to_end()
        return Response(head.version, head.status, head.reason, head.headers, head.framing, body, chunks)

    def request(self, data: bytes, method: str = "GET") -> Response:
        """Send `data` and read one response."""
        self.send(data)
        return self.read_response(method)

    def expect_end(self) -> None:
        """Assert that the server closes the connection without sending another byte."""
        leftover = self.read_to_end()
        if leftover:
            raise ProtocolViolation(f"{len(leftover)} bytes after the last response: {leftover[:500]!r}")


# --- server ----------------------------------------------------------------------------------------------------------


class Log:
    """Output of a process through a pipe. A thread collects it, so that the process never blocks on the pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._data = b""
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        while True:
            data = os.read(self._descriptor, 65536)
            with self._changed:
                self._data += data
                self._ended = not data
                self._changed.notify_all()
            if not data:
                os.close(self._descriptor)
                return

    def text(self) -> str:
        """Everything written so far."""
        with self._changed:
            return self._data.decode("utf-8", "replace")

    def wait_for(self, pattern: str | re.Pattern[str], timeout: float = TIMEOUT, start: int = 0) -> re.Match[str]:
        """Wait until `pattern` is found in the text from `start` on; AssertionError with the text otherwise."""
        deadline = time.monotonic() + timeout
        expression = re.compile(pattern, re.M) if isinstance(pattern, str) else pattern
        with self._changed:
            while True:
                text = self._data.decode("utf-8", "replace")
                if match := expression.search(text, start):
                    return match
                remaining = deadline - time.monotonic()
                if self._ended or remaining <= 0:
                    why = "the process ended" if self._ended else f"{timeout} s passed"
                    raise AssertionError(f"{why} without {expression.pattern!r} in the log:\n{text[start:]}")
                self._changed.wait(remaining)

    def wait_for_end(self, timeout: float = TIMEOUT) -> None:
        """Wait until the process has closed its end of the pipe."""
        self._thread.join(timeout)


def heed_interrupts() -> None:
    """In the child: a job that a shell started in the background ignores SIGINT, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Process:
    """A process in the background, with its standard error (and output) as a log. It inherits `descriptors`."""

    def __init__(
        self, command: Sequence[str], directory: Path, environment: dict[str, str], descriptors: Sequence[int] = ()
    ) -> None:
        self.directory = directory
        reader, writer = os.pipe()
        try:
            self.popen = subprocess.Popen(
                command,
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                pass_fds=descriptors,
                preexec_fn=heed_interrupts,
            )
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        self.pid = self.popen.pid
        self._log = Log(reader)

    def log(self) -> str:
        """Standard error and standard output so far."""
        return self._log.text()

    def wait_for_log(self, pattern: str | re.Pattern[str], timeout: float = TIMEOUT, start: int = 0) -> re.Match[str]:
        """Wait (bounded) for `pattern`, a multi-line regular expression, in the log from character `start` on."""
        return self._log.wait_for(pattern, timeout, start)

    def release(self) -> None:
        """Make the file `released` in the server's directory, for which requests of an application may wait."""
        (self.directory / "released").touch()

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        self.popen.send_signal(number)

    def wait(self, timeout: float = TIMEOUT) -> int:
        """Wait for the end of the process; its exit status (negative: number of the signal that ended it)."""
        try:
            status = self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            # faulthandler, if enabled, tells what each thread was doing.
            self.popen.send_signal(signal.SIGABRT)
            self.popen.wait(TIMEOUT)
            self._log.wait_for_end()
            raise AssertionError(f"still running after {timeout} s:\n{self.log()}") from None
        self._log.wait_for_end()
        return status

    def kill(self) -> None:
        """End the process without ceremony, if it still runs."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait(TIMEOUT)
        self._log.wait_for_end()

    def resident_kib(self) -> int:
        """Resident memory of the process in KiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        match = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.M)
        assert match
        return int(match[1])

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        stat = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    def threads(self) -> int:
        """Number of OS threads of the process."""
        return len(os.listdir(f"/proc/{self.pid}/task"))


class Server(Process):
    """A running server. `port` is where it listens on 127.0.0.1."""

    def __init__(
        self, command: Sequence[str], directory: Path, environment: dict[str, str], descriptors: Sequence[int] = ()
    ) -> None:
        super().__init__(command, directory, environment, descriptors)
        try:
            match = self.wait_for_log(START_LINE)
        except BaseException:
            self.kill()
            raise
        self.port = int(match["port"])
        self.address = ("127.0.0.1", self.port)
        self.url = f"http://127.0.0.1:{self.port}"

    def connect(self, timeout: float = TIMEOUT, receive_buffer: int | None = None) -> Connection:
        """Open a connection."""
        return Connection(self.address, timeout, receive_buffer)

    def exchange(self, data: bytes, methods: Sequence[str] = ("GET",), step: int | None = None) -> list[Response]:
        """Send `data` on a new connection and return one response for each of `methods`.

        Then half-closes and asserts that the server ends the connection without another byte. `step` sends the data in
        pieces of this number of bytes.
        """
        with self.connect() as connection:
            if step is None:
                connection.send(data)
            else:
                connection.send_slowly(data, step)
            responses = [connection.read_response(method) for method in methods]
            connection.finish_sending()
            connection.expect_end()
            return responses

    def get(self, target: str, headers: str = "") -> Response:
        """One GET request on a new connection; `headers` are field lines that end in CRLF."""
        data = f"GET {target} HTTP/1.1\r\nHost: test\r\n{headers}Connection: close\r\n\r\n"
        return self.exchange(data.encode("latin-1"))[0]

    def stop(self, timeout: float = TIMEOUT) -> None:
        """Send SIGTERM and check that the server ends in order: exit status 0, and no panic in the log."""
        if self.popen.poll() is None:
            self.signal(signal.SIGTERM)
        status = self.wait(timeout)
        assert status == 0, f"exit status {status}; log:\n{self.log()}"
        assert "panicked" not in self.log(), self.log()


def command_of_server(target: str, options: Sequence[str]) -> list[str]:
    """Command line that serves `target` ("module:app") on a free port of 127.0.0.1."""
    return [sys.executable, "-m", "rmeinheld", "--bind", "127.0.0.1:0", *options, target]


def environment_of_child(directory: Path) -> dict[str, str]:
    """Environment in which a child finds the modules in `directory` and in tests/apps."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    path = [str(directory), str(APPLICATIONS)]
    if inherited := environment.get("PYTHONPATH"):
        path.append(inherited)
    environment["PYTHONPATH"] = os.pathsep.join(path)
    return environment


Option = str | int | float | bool


def option_arguments(options: dict[str, Option]) -> list[str]:
    """`keep_alive=2` becomes `--keep-alive=2`, and `reuse_port=True` becomes `--reuse-port`."""
    arguments = []
    for name, value in options.items():
        # Gunicorn spells this one with an underscore, and so does the command line.
        flag = "--limit-request-field_size" if name == "limit_request_field_size" else "--" + name.replace("_", "-")
        if value is True:
            arguments.append(flag)
        elif value is not False:
            arguments.append(f"{flag}={value}")
    return arguments


class Servers:
    """Starts servers, and checks when it stops them that each ends in order. The `serve` fixtures return one."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._servers: list[Server] = []
        self._count = 0

    def __call__(self, application: str, descriptors: Sequence[int] = (), /, **options: Option) -> Server:
        """Serve `application`: "module:app" in tests/apps, or (if it has several lines) a module's source text.

        Source text must bind `app`. `options` are options of the command line. The server inherits `descriptors`.
        """
        if "\n" in application:
            self._count += 1
            name = f"application_{self._count}"
            (self._directory / f"{name}.py").write_text(textwrap.dedent(application))
            application = f"{name}:app"
        return self._start(command_of_server(application, option_arguments(options)), descriptors)

    def script(self, source: str) -> Server:
        """Run the source text of a script that starts a server by itself, and wait for its start line."""
        self._count += 1
        path = self._directory / f"script_{self._count}.py"
        path.write_text(textwrap.dedent(source))
        return self._start([sys.executable, str(path)])

    def command(self, command: Sequence[str]) -> Server:
        """Run a command that starts a server, a profiler's for instance, and wait for its start line."""
        return self._start(command)

    def _start(self, command: Sequence[str], descriptors: Sequence[int] = ()) -> Server:
        server = Server(command, self._directory, environment_of_child(self._directory), descriptors)
        self._servers.append(server)
        return server

    def stop(self) -> None:
        """Stop what still runs; AssertionError if a server does not end in order."""
        faults = []
        for server in self._servers:
            print(f"--- log of the server with pid {server.pid} ---\n{server.log()}")
            if server.popen.poll() is None:
                try:
                    server.stop()
                except AssertionError as fault:
                    faults.append(str(fault))
                finally:
                    server.kill()
        assert not faults, "\n".join(faults)


def program(name: str) -> str:
    """Source text of `tests/programs/NAME.py`, for `serve`, `serve.script` and `script`."""
    return (APPLICATIONS.with_name("programs") / f"{name}.py").read_text()


def run_script(source: str, directory: Path, timeout: float = 30.0, status: int | None = 0) -> str:
    """Run Python source in a fresh process, check its exit status (None: any), and return all that it printed."""
    path = directory / "script.py"
    path.write_text(textwrap.dedent(source))
    # An interpreter with assertions shows these by default, the others do not.
    options = ["-X", "faulthandler", "-W", "ignore::ResourceWarning"]
    process = Process([sys.executable, *options, str(path)], directory, environment_of_child(directory))
    try:
        ended = process.wait(timeout)
    finally:
        process.kill()
    assert "panicked" not in process.log(), process.log()
    if status is not None:
        assert ended == status, f"exit status {ended}, expected {status}:\n{process.log()}"
    return process.log()


Serve = Servers
RunScript = Callable[..., str]


# --- pieces of requests ----------------------------------------------------------------------------------------------


def request(
    method: str = "GET",
    target: str = "/",
    *headers: str,
    body: bytes | None = None,
    chunks: Sequence[bytes] | None = None,
    version: str = "1.1",
) -> bytes:
    """Bytes of a request; `body` is sent with Content-Length, `chunks` chunked. `headers` are field lines."""
    lines = [f"{method} {target} HTTP/{version}", "Host: test", *headers]
    payload = b""
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
        payload = body
    if chunks is not None:
        lines.append("Transfer-Encoding: chunked")
        payload = chunked(chunks)
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + payload


def chunked(chunks: Iterable[bytes]) -> bytes:
    """Encode `chunks` with the chunked transfer coding, including the last chunk."""
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


@contextmanager
def _elapsed(minimum: float, maximum: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    taken = time.monotonic() - started
    assert minimum <= taken <= maximum, f"took {taken:.2f} s, expected {minimum} to {maximum} s"


def takes(minimum: float, maximum: float) -> AbstractContextManager[None]:
    """Assert that the block takes between `minimum` and `maximum` seconds (be generous: machines are busy)."""
    return _elapsed(minimum, maximum)
