"""The eight cases of docs/when-it-hangs.md: each starts a program in examples/hangs, and shows what the server says.

    python tests/support/hangs.py              write docs/hangs, the outputs that the page shows
    python tests/support/hangs.py deadlock     write those of this case

`tests/tools/test_hangs.py` stages the cases anew, and compares the outputs with the files by their shape.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from databases import PostgreSQL, free_port, running
from serving import Connection, Server, environment_of_child, request

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / "examples" / "hangs"
OUTPUTS = ROOT / "docs" / "hangs"

PROMPT = "$ "
SETTLED = 0.15
"""Seconds in which a request that was sent comes to its wait."""


class Stage:
    """One case: its server, the requests that hang, and the transcript of each command that looks into the server."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.name = name
        self.outputs: dict[str, str] = {}
        self.admin_port = 0
        self._server: Server | None = None
        self._connections: list[Connection] = []

    @property
    def server(self) -> Server:
        """The server that `serve` has started."""
        assert self._server is not None
        return self._server

    def serve(self, *options: str, **environment: str) -> None:
        """Start the command. Options may have `{socket}`, a path for the inspect socket, and `{admin}`, an address."""
        variables = environment_of_child(self.directory) | {"COLUMNS": "100", **environment}
        self.admin_port = free_port()
        places = {"socket": self.directory / "inspect.sock", "admin": f"127.0.0.1:{self.admin_port}"}
        given = [option.format(**places) for option in options]
        command = [sys.executable, "-m", "rmeinheld", "--bind", "127.0.0.1:0", "--chdir", str(PROGRAMS), *given]
        self._server = Server([*command, f"{self.name}:app"], self.directory, variables)

    def request(self, path: str, receive_buffer: int | None = None) -> Connection:
        """Send a request, and leave it alone."""
        connection = self.server.connect(receive_buffer=receive_buffer)
        self._connections.append(connection)
        connection.send(request("GET", path))
        return connection

    def settle(self) -> None:
        """Wait until requests that were sent are at their waits."""
        time.sleep(SETTLED)

    def show(self, name: str, command: str, output: str) -> None:
        """Add a transcript to the outputs."""
        text = f"{PROMPT}{command}\n{output.strip(chr(10))}\n"
        self.outputs[name] = self.outputs.get(name, "") + self._plain(text)

    def log_of(self, name: str, command: str, action: Callable[[], object], *ends: str) -> None:
        """Show what the server logs after `action`, until there is a line that matches each of `ends`."""
        start = len(self.server.log())
        action()
        end = max(self.server.wait_for_log(pattern, start=start).end() for pattern in ends)
        self.show(name, command, self.server.log()[start:end])

    def dump(self, name: str = "dump", settled: str = "") -> None:
        """Show the dump, once it has the text `settled`. OS threads of the server itself are left out."""
        command = "rmeinheld dump --inspect-socket ./shop.sock"
        output = self.output_of(command)
        for _ in range(20):
            if settled in output:
                break
            output = self.output_of(command)
        self.show(name, command, re.sub(r"(?s)\n+OS thread .*?(?=\n--- end)", "", output))

    def run(self, name: str, command: str) -> str:
        """Show the output of a command, and return it."""
        output = self.output_of(command)
        self.show(name, command, output)
        return output

    def output_of(self, command: str) -> str:
        """Run a command with the addresses of this stage instead of those that the page shows."""
        command = command.replace("./shop.sock", str(self.directory / "inspect.sock"))
        command = command.replace("127.0.0.1:8000", f"127.0.0.1:{self.server.port}")
        command = command.replace("127.0.0.1:9000", f"127.0.0.1:{self.admin_port}")
        command = re.sub(r"^rmeinheld ", f"{shlex.quote(sys.executable)} -m rmeinheld ", command)
        environment = environment_of_child(self.directory) | {"COLUMNS": "100", "LINES": "40"}
        shell = ["sh", "-c", command]
        done = subprocess.run(shell, capture_output=True, text=True, timeout=60, env=environment, cwd=self.directory)
        return done.stdout + done.stderr

    def stop(self) -> None:
        """End the clients and the server."""
        for connection in self._connections:
            connection.abort()
        if self._server is not None:
            # The coroutines of these cases do not end by themselves.
            self._server.kill()

    def _plain(self, text: str) -> str:
        """Replace whatever differs from run to run and says nothing: numbers of processes, ports, addresses, dates."""
        server = self.server
        text = text.replace(str(self.directory / "inspect.sock"), "./shop.sock").replace(str(PROGRAMS), "/srv/shop")
        text = text.replace(str(self.directory), "/run/shop")
        text = re.sub(r"/tmp/rmeinheld-\w+/", "/run/postgresql/", text)
        text = re.sub(r"(?<=[ \"(])/\S*/(rmeinheld/\S+\.py)", r"/srv/venv/lib/\1", text)
        text = re.sub(r"(?<=[ \"(])/\S*/(site-packages|lib/python3\.\d+)/(\S+\.py)", r"/srv/venv/lib/\2", text)
        text = text.replace(f":{server.port}", ":8000").replace(f":{self.admin_port}", ":9000")
        text = re.sub(rf"\b{server.pid}\b", "4021", text)
        text = re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d", "2026-11-29 03:12:07", text)
        text = re.sub(r"0x[0-9a-f]{6,}", "0x7f30a1b2c3d0", text)
        ports: dict[str, int] = {}
        for connection in self._connections:
            ports[str(connection.socket.getsockname()[1])] = 50001 + len(ports)
        return re.sub(r"(127\.0\.0\.1:)(\d+)", lambda m: m[1] + str(ports.get(m[2], m[2])), text)


END_OF_BLOCKAGE = r"^.*turns again.*$"

# Two threads of the watchdog write these two lines, in either order.
C_CODE = r"^.*C code has held the interpreter for .*$"


# --- the cases -------------------------------------------------------------------------------------------------------


def deadlock(stage: Stage) -> None:
    """Two locks in opposite order."""
    stage.serve("--inspect-socket={socket}")
    stage.request("/transfer")
    other = stage.request("/report")
    stage.settle()
    stage.dump()
    requests = stage.run("kill", "rmeinheld ctl requests --inspect-socket ./shop.sock")
    found = re.search(r"^(\S+) .*/transfer$", requests, re.M)
    assert found, requests
    stage.run("kill", f"rmeinheld ctl kill {found[1]} --inspect-socket ./shop.sock")
    assert other.read_response().body == b"reported\n"
    stage.run("kill", "rmeinheld ctl requests --inspect-socket ./shop.sock")


def driver(stage: Stage) -> None:
    """A call in C that waits."""
    stage.serve("--block-warning=0.3")
    stage.log_of("log", "tail -f shop.log", lambda: stage.request("/orders"), END_OF_BLOCKAGE)


def slow_sql(stage: Stage) -> None:
    """A query that takes too long."""
    with running(PostgreSQL) as database:
        stage.serve("--inspect-socket={socket}", DATABASE=database.dsn)
        for _ in range(20):
            stage.request("/orders")
        # The last is at its query.
        assert stage.server.get("/").status == 200
        stage.settle()
        # psycopg wakes ten times a second to look around.
        stage.dump(settled="\n20 coroutines: waits")


def regular_expression(stage: Stage) -> None:
    """A regular expression that backtracks."""
    stage.serve("--block-warning=0.3")
    # Each letter doubles the time. It should be shorter than ten times the limit, but longer than the limit and the
    # time in which Python code would let the interpreter go, half a second together.
    letters, seconds = 16, 0.0
    while seconds < 0.7:
        letters += 1
        begin = time.process_time()
        re.match(r"(\w+\s?)+$", "a" * letters + "!")
        seconds = time.process_time() - begin
    target = "/?" + "a" * letters + "!"
    stage.log_of("log", "tail -f shop.log", lambda: stage.request(target), END_OF_BLOCKAGE, C_CODE)


def extension(stage: Stage) -> None:
    """C code that keeps the GIL."""
    stage.serve("--block-warning=0.3", "--admin-bind={admin}")

    def hang() -> None:
        stage.request("/page")
        stage.settle()
        for path in ("live", "metrics | grep ^rmeinheld_loop_turn"):
            stage.run("metrics", f"curl -s http://127.0.0.1:9000/{path}")

    stage.log_of("log", "tail -f shop.log", hang, END_OF_BLOCKAGE, C_CODE)


def pool(stage: Stage) -> None:
    """A pool without a free connection."""
    stage.serve("--inspect-socket={socket}")
    for number in range(12):
        stage.request(f"/{number}")
    stage.settle()
    stage.dump()


def leak(stage: Stage) -> None:
    """Coroutines that nothing ends."""
    stage.serve("--inspect-socket={socket}", "--admin-bind={admin}")
    for _ in range(2):
        with stage.server.connect() as connection:
            for _ in range(50):
                connection.request(request())
        # The numbers of coroutines are at most this old.
        time.sleep(0.6)
        stage.run("metrics", "curl -s http://127.0.0.1:9000/metrics | grep ^rmeinheld_coroutines | grep -v ' 0$'")
    stage.dump()


def slow_clients(stage: Stage) -> None:
    """Clients that do not read."""
    stage.serve("--inspect-socket={socket}")
    for _ in range(5):
        stage.request("/export", receive_buffer=4096)
    stage.settle()
    stage.dump()


CASES = (deadlock, driver, slow_sql, regular_expression, extension, pool, leak, slow_clients)


@contextmanager
def staged(case: Callable[[Stage], None], directory: Path) -> Iterator[Stage]:
    """Stage a case, which has its outputs then."""
    stage = Stage(directory, case.__name__)
    try:
        case(stage)
        yield stage
    finally:
        stage.stop()


def path_of(case: Callable[[Stage], None], output: str) -> Path:
    """Return the file of an output."""
    return OUTPUTS / f"{case.__name__}-{output}.txt"


def shape(text: str) -> list[str]:
    """Return the lines of a text, sorted, without what differs from run to run: numbers, units and white space."""
    # On a busy machine a case may last so long that the watchdog says so a second time.
    text = re.sub(r"^.* still blocks the loop .*\n(?:[^\[].*\n|\n)*", "", text, flags=re.M)
    # Reasons of waits have names of their own, which other tests know.
    text = re.sub(r"^DEADLOCK.*\n+|\{state=\"\w+\"\}", "", text, flags=re.M)
    text = re.sub(r"waits for (something|(native )?lock)\b.*?(?= for \d+\.\d s at)", "waits for a lock", text)
    text = re.sub(r"(request +\S+ +)(something|(native )?lock\S*)( 0x\w+)?", r"\1a lock", text)
    text = re.sub(r"\d+(\.\d+)?(,\d{3})*( ?(us|ms|s|min|h|KiB|MiB|GiB|%))?\b", "N", text)
    return sorted({" ".join(line.split()) for line in text.splitlines() if line.strip()})


def main() -> None:
    """Write the outputs of the cases that the arguments name."""
    OUTPUTS.mkdir(exist_ok=True)
    for case in CASES:
        if sys.argv[1:] and case.__name__ not in sys.argv[1:]:
            continue
        with tempfile.TemporaryDirectory(prefix="rmeinheld-") as name, staged(case, Path(name)) as stage:
            for output, text in stage.outputs.items():
                path_of(case, output).write_text(text)
                print(f"=== {case.__name__}: {output}\n{text}")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
