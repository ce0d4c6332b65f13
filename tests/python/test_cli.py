"""The command line: what it says when it cannot start, what it prepares, and how a server starts and ends.

Every test runs the command in a process of its own. A server is ready when it has printed where it listens.
"""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import rmeinheld
from rmeinheld.settings import GROUPS, OPTIONS
from serving import TIMEOUT, Process, RunScript, environment_of_child

HELLO = """
    import os, sys

    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"{environ['SERVER_NAME']} {environ['SERVER_PORT']}".encode()]

    def factory(greeting, *, loud=False):
        return lambda environ, start_response: (start_response("200 OK", []), [greeting.encode()])[1]

    def cwd(environ, start_response):
        start_response("200 OK", [])
        return [f"{os.getcwd()} {os.environ.get('COLOUR')} {sys.path[0]}".encode()]

    class site:
        app = app

    def broken_factory():
        raise LookupError("no database")

    number = 7
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the commands run: with the applications hello, asking and broken."""
    (tmp_path / "hello.py").write_text(textwrap.dedent(HELLO))
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "asking.py").write_text("import module_that_is_missing\n")
    (tmp_path / "broken.py").write_text("def app(:\n")
    (tmp_path / "named.py").write_text("def application(environ, start_response): ...\n")
    return tmp_path


def command(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "rmeinheld", *arguments],
        cwd=directory,
        env=environment_of_child(directory) | {"COLUMNS": "100"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )


def refusal(directory: Path, *arguments: str) -> str:
    """Run a command that must not start, and return its one line without the prefix."""
    ended = command(directory, *arguments)
    assert ended.returncode == 1, ended
    assert ended.stdout == ""
    assert ended.stderr.startswith("rmeinheld: error: "), ended.stderr
    assert ended.stderr.endswith("\n")
    assert ended.stderr.count("\n") == 1, ended.stderr
    return ended.stderr.removeprefix("rmeinheld: error: ").rstrip("\n")


# --- what is said without a server -----------------------------------------------------------------------------------


def test_version_is_printed(directory: Path) -> None:
    ended = command(directory, "--version")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"rmeinheld {rmeinheld.__version__}\n", "")


def test_help_names_every_flag_in_groups_and_the_defaults_with_units(directory: Path) -> None:
    ended = command(directory, "--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    for group in GROUPS:
        assert f"\n{group}:\n" in ended.stdout
    for option in OPTIONS.values():
        for flag in option.flags:
            assert re.search(rf"(?m)^  .*{re.escape(flag)}\b", ended.stdout), flag
    flowing = " ".join(ended.stdout.split())
    for text in ("[5 seconds]", "[8388608 bytes]", "[127.0.0.1:8000]", '"%(a)s"]', "MODULE:APP", "SIGTERM"):
        assert text in flowing
    assert max(map(len, ended.stdout.splitlines())) <= 100


@pytest.mark.parametrize("target", ["hello", "hello:app", "hello:site.app", "hello:factory('x', loud=True)", "named"])
def test_check_config_loads_the_application_and_exits(directory: Path, target: str) -> None:
    ended = command(directory, "--check-config", "--bind", "192.0.2.1:80", target)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == f"rmeinheld: {target} and its options are in order\n"


# --- one line, status 1 ----------------------------------------------------------------------------------------------

HINT = " (rmeinheld --help lists the options)"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], f"the following arguments are required: MODULE:APP{HINT}"),
        (["--bind"], f"argument -b/--bind: expected one argument{HINT}"),
        (["--worker", "4", "hello"], f"unknown argument '--worker'; did you mean '--workers'?{HINT}"),
        (["hello", "other"], f"unknown argument 'other', after the application 'hello'{HINT}"),
        (["--xyzzy=1", "hello"], f"unknown argument '--xyzzy=1'{HINT}"),
        (["--no-sendfile=1", "hello"], f"argument --no-sendfile: ignored explicit argument '1'{HINT}"),
        (["--backlog", "0", "hello"], "--backlog must be an integer from 1 to 65535, not 0"),
        (["--backlog", "many", "hello"], "--backlog must be an integer from 1 to 65535, not 'many'"),
        (["--keep-alive", "-1", "hello"], "--keep-alive must be a number of seconds from 0 to 31536000, not -1"),
        (
            ["--stack-size", "1K", "hello"],
            "--stack-size must be an integer number of bytes from 262144 to 1073741824, not '1K'",
        ),
        (
            ["--limit-request-field_size", "x", "hello"],
            "--limit-request-field_size must be an integer number of bytes from 0 to 16777216 "
            "(K, M or G may follow), not 'x'",
        ),
        (
            ["--log-level", "loud", "hello"],
            "--log-level must be one of debug, info, warning, error, critical, not 'loud'",
        ),
        (["--umask", "9", "hello"], "--umask must be an octal mask of permissions from 0o000 to 0o777, not '9'"),
        (["--env", "X", "hello"], "--env must be assignments of the form NAME=VALUE, not 'X'"),
        (
            ["--bind", "unix:missing/app.sock", "hello"],
            "cannot listen on unix:missing/app.sock: No such file or directory",
        ),
        (["--bind", "fd://0", "hello"], "cannot listen on fd://0: descriptor 0 is not a socket"),
        (["--chdir", "missing", "hello"], "--chdir: No such file or directory: 'missing'"),
        (["hello:nothing"], "module 'hello' has no attribute 'nothing'"),
        (["hello:ap"], "module 'hello' has no attribute 'ap'; did you mean 'app'?"),
        (["hello:site.nothing"], "'site' of module 'hello' has no attribute 'nothing'"),
        (["empty"], "module 'empty' has no attribute 'application' or 'app'; name the application as in empty:NAME"),
        (["hello:"], "'hello:' names no application after the colon"),
        ([":app"], "'' is not the name of a module"),
        (["hello.py"], "'hello.py' is not the name of a module; a file is named as in: rmeinheld hello:app"),
        (["hello:number()"], "'hello:number' cannot be called; it is of type int"),
        (["hello:factory()"], "'hello:factory' does not take these arguments: missing a required argument: 'greeting'"),
        (["hello:factory(x)"], "'factory(x)' is neither a name nor a call with literal arguments"),
        (["hello:app("], "'app(' is neither a name nor a call with literal arguments"),
        (["hello:1 + 1"], "'1 + 1' is neither a name nor a call with literal arguments"),
    ],
)
def test_what_keeps_the_server_from_starting_is_one_line_and_status_1(
    directory: Path, arguments: list[str], line: str
) -> None:
    assert refusal(directory, *arguments) == line


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--bind", "localhost:x", "hello"], ["'localhost:x'", "'x' is not an integer from 0 to 65535"]),
        (["--bind", "::1:80", "hello"], ["'::1:80'", "brackets"]),
        (["--bind", "192.0.2.1:80", "hello"], ["cannot listen on 192.0.2.1:80: "]),
        (["--bind", "name.invalid:80", "hello"], ["cannot listen on name.invalid:80: "]),
        (["--error-logfile", "missing/log", "hello"], ["--error-logfile: No such file or directory", "missing/log"]),
        (["--bind", "127.0.0.1:0", "--access-logfile", "missing/log", "hello"], ["missing/log"]),
        (["--bind", "127.0.0.1:0", "--pid", "missing/pid", "hello"], ["--pid: cannot write", "missing/pid"]),
        (["--access-logformat", "%(z)s", "hello"], ["--access-logformat: ", "unknown atom '%(z)s'"]),
        (["missing:app"], ["cannot import 'missing': No module named 'missing' (looked in "]),
        (["hello.inner:app"], ["cannot import 'hello.inner': ", "'hello' is not a package"]),
        # Flags are not abbreviated: a new one would change what an old command means.
        (["--keep", "1", "hello"], ["unknown argument '--keep'"]),
        (["hello:factory(**{'greeting': 'x'})"], ["is neither a name nor a call with literal arguments"]),
        (["hello:factory(*['x'])"], ["is neither a name nor a call with literal arguments"]),
        (["hello:number"], ["application 'hello:number' must be a callable", "not int 7"]),
    ],
)
def test_the_line_names_the_value_that_is_wrong(directory: Path, arguments: list[str], parts: list[str]) -> None:
    said = refusal(directory, *arguments)
    for part in parts:
        assert part in said


def test_the_line_is_written_in_one_piece(directory: Path) -> None:
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with reader, writer:
        ended = subprocess.run(
            [sys.executable, "-u", "-m", "rmeinheld", "nothing:app"],
            cwd=directory, stderr=writer.fileno(), env=environment_of_child(directory), timeout=TIMEOUT, check=False,
        )  # fmt: skip
        assert ended.returncode == 1
        # Each write is a message of its own.
        assert re.fullmatch(rb"rmeinheld: error: .*nothing.*\n", reader.recv(65536))


@pytest.mark.parametrize(
    ("target", "own_line", "last"),
    [
        ("asking", "import module_that_is_missing", "importing 'asking' failed: ModuleNotFoundError: No module named"),
        ("broken", "def app(:", "importing 'broken' failed: SyntaxError: "),
        ("hello:broken_factory()", 'raise LookupError("no database")', "LookupError: no database"),
    ],
)
def test_an_error_of_the_applications_own_code_shows_its_traceback(
    directory: Path, target: str, own_line: str, last: str
) -> None:
    ended = command(directory, target)
    assert ended.returncode == 1
    *traceback, line = ended.stderr.splitlines()
    assert line.startswith("rmeinheld: error: ")
    assert last in line
    assert own_line in "\n".join(traceback)
    # It begins in the application, not in the server or the import system.
    assert "rmeinheld" not in "\n".join(traceback)
    assert "importlib" not in "\n".join(traceback)


def test_a_port_in_use_is_one_line(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = refusal(directory, "--bind", address, "hello")
    assert said == f"cannot listen on {address}: Address already in use"


def test_a_unix_socket_in_use_is_one_line_and_stays(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(directory / "app.sock"))
        taken.listen()
        said = refusal(directory, "--bind", "unix:app.sock", "hello")
    assert said == "cannot listen on unix:app.sock: another process listens there"
    assert (directory / "app.sock").exists()


def test_a_pid_file_of_a_living_process_is_refused(directory: Path) -> None:
    (directory / "pid").write_text(f"{os.getpid()}\n")
    said = refusal(directory, "--bind", "127.0.0.1:0", "--pid", "pid", "hello")
    assert f"belongs to process {os.getpid()}, which is running" in said
    assert (directory / "pid").read_text() == f"{os.getpid()}\n"


# --- a server --------------------------------------------------------------------------------------------------------

STARTED = re.compile(r"^rmeinheld (\S+) listening at (.+) \(pid (\d+)\)$", re.M)


class Running(Process):
    """A server; `urls` are the places that its start line names."""

    def __init__(self, directory: Path, *command: str) -> None:
        super().__init__([sys.executable, *command], directory, environment_of_child(directory))
        try:
            found = self.wait_for_log(STARTED)
        except BaseException:
            self.kill()
            raise
        self.version = found[1]
        self.urls = found[2].split(", ")
        assert int(found[3]) == self.pid


Start = Callable[..., Running]


@pytest.fixture
def start(directory: Path) -> Iterator[Start]:
    """`start(*arguments)` runs the command line, `start(script=source)` a script; ended with the test."""
    started: list[Running] = []

    def begin(*arguments: str, script: str | None = None) -> Running:
        if script is None:
            process = Running(directory, "-m", "rmeinheld", *arguments)
        else:
            (directory / "script.py").write_text(textwrap.dedent(script))
            process = Running(directory, "-X", "faulthandler", "script.py", *arguments)
        started.append(process)
        return process

    yield begin
    for process in started:
        print(process.log())
        process.kill()


def connect(url: str) -> socket.socket:
    """Connect to a place that a start line names."""
    if url.startswith("unix:"):
        path = url.removeprefix("unix:")
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(TIMEOUT)
        sock.connect("\0" + path[1:] if path.startswith("@") else path)
        return sock
    host, port = url.removeprefix("http://").rsplit(":", 1)
    return socket.create_connection((host.strip("[]"), int(port)), timeout=TIMEOUT)


def get(url: str, path: str = "/") -> tuple[int, str]:
    """GET from a place that a start line names; status and body."""
    connection = http.client.HTTPConnection("test")
    connection.sock = connect(url)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def wait_until(true: Callable[[], bool]) -> None:
    """Wait, bounded, for what no log line tells."""
    deadline = time.monotonic() + TIMEOUT
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


LOCAL = ("--bind", "127.0.0.1:0")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_server_says_where_it_listens_serves_and_ends_with_status_0(start: Start, number: int) -> None:
    server = start(*LOCAL, "hello:app")
    assert server.version == rmeinheld.__version__
    port = server.urls[0].rpartition(":")[2]
    assert server.urls == [f"http://127.0.0.1:{port}"]
    assert port != "0"
    assert get(server.urls[0]) == (200, f"127.0.0.1 {port}")
    server.signal(number)
    assert server.wait() == 0
    assert "Traceback" not in server.log()


def test_several_addresses_are_served_and_named_in_one_line(start: Start, directory: Path) -> None:
    abstract = f"unix:@rmeinheld-test-{os.getpid()}"
    server = start(*LOCAL, "--bind", "unix:app.sock", "--bind", abstract, "--umask", "007", "hello")
    assert server.urls[1:] == ["unix:app.sock", abstract]
    assert get(server.urls[0])[0] == 200
    # A Unix socket has no name and no port, and PEP 3333 allows neither to be empty.
    assert get(f"unix:{directory}/app.sock") == (200, "test 80")
    assert get(abstract) == (200, "test 80")
    assert (directory / "app.sock").stat().st_mode & 0o777 == 0o770
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert not (directory / "app.sock").exists()


def test_an_ipv6_address_is_served(start: Start) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    server = start("--bind", "[::1]:0", "hello")
    port = server.urls[0].rpartition(":")[2]
    assert server.urls == [f"http://[::1]:{port}"]
    assert get(server.urls[0]) == (200, f"[::1] {port}")


def test_an_inherited_descriptor_is_served(start: Start) -> None:
    server = start(
        script="""
        import socket, sys
        from rmeinheld.cli import main

        with socket.create_server(("127.0.0.1", 0)) as given:
            status = main(["--bind", f"fd://{given.fileno()}", "hello"])
            # Still open, since it is not the server's.
            print("still listening", given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN), flush=True)
        sys.exit(status)
        """
    )
    port = server.urls[0].rpartition(":")[2]
    assert get(server.urls[0]) == (200, f"127.0.0.1 {port}")
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert "still listening 1" in server.log()


def test_sockets_of_systemd_are_served_when_no_address_is_given(start: Start) -> None:
    server = start(
        script="""
        import os, socket, sys

        # As systemd does it: descriptors from 3, and an environment that names the process.
        given = socket.create_server(("127.0.0.1", 0))
        os.dup2(given.fileno(), 3)
        os.set_inheritable(3, True)
        os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
        os.execv(sys.executable, [sys.executable, "-m", "rmeinheld", "hello"])
        """
    )
    assert server.urls != ["http://127.0.0.1:8000"]
    assert get(server.urls[0])[0] == 200
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


def test_chdir_pythonpath_and_env_come_before_the_application(start: Start, directory: Path) -> None:
    (directory / "below").mkdir()
    (directory / "library").mkdir()
    (directory / "hello.py").rename(directory / "library" / "greeting.py")
    server = start(
        *LOCAL, "--chdir", "below", "--pythonpath", "../library,/other", "--env", "COLOUR=blue=green", "greeting:cwd"
    )
    assert get(server.urls[0]) == (200, f"{directory}/below blue=green {directory}/library")


def test_the_pid_file_is_there_while_the_server_runs(start: Start, directory: Path) -> None:
    server = start(*LOCAL, "--pid", "server.pid", "hello")
    assert (directory / "server.pid").read_text() == f"{server.pid}\n"
    assert [path.name for path in directory.iterdir() if path.name.startswith(".")] == []
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert not (directory / "server.pid").exists()


def test_a_stale_pid_file_is_replaced_and_a_replaced_one_stays(start: Start, directory: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(TIMEOUT)
    (directory / "server.pid").write_text(str(ended.pid))
    server = start(*LOCAL, "--pid", "server.pid", "hello")
    assert (directory / "server.pid").read_text() == f"{server.pid}\n"
    (directory / "server.pid").write_text("1\n")
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert (directory / "server.pid").read_text() == "1\n"


LOGGING = """
import logging

def app(environ, start_response):
    logging.getLogger("rmeinheld.error").info("quiet %s", environ["PATH_INFO"])
    logging.getLogger("rmeinheld.error").error("loud %s", environ["PATH_INFO"])
    start_response("200 OK", [])
    return []
"""


def test_the_error_log_has_gunicorns_format_and_the_level_that_was_asked_for(start: Start, directory: Path) -> None:
    (directory / "talking.py").write_text(LOGGING)
    server = start(*LOCAL, "--log-level", "error", "talking")
    get(server.urls[0], "/one")
    server.wait_for_log(rf"^\[\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{{4}}\] \[{server.pid}\] \[ERROR\] loud /one$")
    assert "quiet" not in server.log()


def test_sigusr1_opens_the_error_log_anew(start: Start, directory: Path) -> None:
    (directory / "talking.py").write_text(LOGGING)
    server = start(*LOCAL, "--error-logfile", "error.log", "talking")
    get(server.urls[0], "/one")
    (directory / "error.log").rename(directory / "error.log.1")
    server.signal(signal.SIGUSR1)
    wait_until((directory / "error.log").exists)

    def arrives_in_the_new_file() -> bool:
        # The file exists a moment before records go there.
        get(server.urls[0], "/two")
        return "loud /two" in (directory / "error.log").read_text()

    wait_until(arrives_in_the_new_file)
    assert "loud /one" in (directory / "error.log.1").read_text()
    assert "loud" not in server.log()


SLOW = """
import sys
import rmeinheld

def app(environ, start_response):
    print("in the application", file=sys.stderr, flush=True)
    rmeinheld.sleep(float(environ["PATH_INFO"][1:]))
    start_response("200 OK", [("Content-Length", "4")])
    return [b"done"]
"""


def test_sigterm_lets_a_request_in_progress_end(start: Start, directory: Path) -> None:
    (directory / "slow.py").write_text(SLOW)
    server = start(*LOCAL, "slow")
    answers: list[tuple[int, str]] = []
    client = threading.Thread(target=lambda: answers.append(get(server.urls[0], "/0.5")))
    client.start()
    server.wait_for_log("in the application")
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    client.join(TIMEOUT)
    assert answers == [(200, "done")]


def test_the_address_is_free_while_requests_in_progress_end(start: Start, directory: Path) -> None:
    (directory / "slow.py").write_text(SLOW)
    path = directory / "app.sock"
    ending = start("--bind", "unix:app.sock", "slow")
    with connect(f"unix:{path}") as client:
        client.sendall(b"GET /100 HTTP/1.1\r\nHost: test\r\n\r\n")
        ending.wait_for_log("in the application")
        ending.signal(signal.SIGTERM)
        wait_until(lambda: not path.exists())
        start("--bind", "unix:app.sock", "hello")
        assert ending.popen.poll() is None
        ending.signal(signal.SIGQUIT)
        assert ending.wait() == 0
    # The path is the other server's now.
    assert get(f"unix:{path}")[0] == 200


@pytest.mark.parametrize(
    "numbers", [(signal.SIGQUIT,), (signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)]
)
def test_sigquit_or_sigint_while_ending_stops_at_once(start: Start, directory: Path, numbers: tuple[int, ...]) -> None:
    (directory / "slow.py").write_text(SLOW)
    server = start(*LOCAL, "--graceful-timeout", "100", "slow")
    with connect(server.urls[0]) as client:
        client.sendall(b"GET /100 HTTP/1.1\r\nHost: test\r\n\r\n")
        server.wait_for_log("in the application")
        first, *rest = numbers
        server.signal(first)
        for number in rest:
            # It goes on for the sake of the request, and by then it has understood the first signal.
            with pytest.raises(subprocess.TimeoutExpired):
                server.popen.wait(1)
            server.signal(number)
        assert server.wait() == 0


def test_the_graceful_timeout_ends_a_request_that_does_not_end(start: Start, directory: Path) -> None:
    (directory / "slow.py").write_text(SLOW)
    server = start(*LOCAL, "--graceful-timeout", "0.2", "slow")
    with connect(server.urls[0]) as client:
        client.sendall(b"GET /100 HTTP/1.1\r\nHost: test\r\n\r\n")
        server.wait_for_log("in the application")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


# --- run() from Python -----------------------------------------------------------------------------------------------


def test_listen_run_and_stop_can_be_repeated_and_leave_no_trace(script: RunScript, directory: Path) -> None:
    printed = script(
        """
        import signal, socket, threading, urllib.request
        import rmeinheld
        from rmeinheld.meinheld import server
        from rmeinheld.process_state import state

        def mine(number, frame): ...
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1)
        for number in numbers:
            signal.signal(number, mine)
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno())

        def app(environ, start_response):
            # From a request, from another thread, and by its other name.
            (server.stop, server.shutdown)[round % 2]()
            start_response("200 OK", [("Content-Length", "2")])
            return [b"ok"]

        for round in range(3):
            server.listen(("127.0.0.1", 0))
            port = state.pending[0].server_port
            answers = []
            client = threading.Thread(
                target=lambda: answers.append(urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=10).read())
            )
            client.start()
            server.run(app)
            client.join()
            assert [signal.getsignal(number) for number in numbers] == [mine] * 4
            print(answers, state.pending, flush=True)
        assert signal.set_wakeup_fd(-1) == writer.fileno()
        """
    )
    assert printed.count("[b'ok'] []\n") == 3
    assert printed.count(" listening at http://127.0.0.1:") == 3


def test_run_in_another_thread_handles_no_signal_and_is_stopped_from_here(script: RunScript) -> None:
    printed = script(
        """
        import signal, threading, time, urllib.request
        import rmeinheld
        from rmeinheld.meinheld import server
        from rmeinheld.process_state import state

        def app(environ, start_response):
            start_response("200 OK", [("Content-Length", "2")])
            return [b"ok"]

        before = signal.getsignal(signal.SIGTERM)
        server.listen(("127.0.0.1", 0))
        port = state.pending[0].server_port
        thread = threading.Thread(target=rmeinheld.run, args=(app,))
        thread.start()
        print(urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=10).read())
        assert signal.getsignal(signal.SIGTERM) is before
        try:
            rmeinheld.run(app, port=0)
        except RuntimeError as error:
            print(error)
        server.stop()
        thread.join(15)
        print(thread.is_alive())
        """
    )
    assert "b'ok'\na server is running in this process already; stop() it first\nFalse\n" in printed


@pytest.mark.parametrize(("silent", "outcome"), [(True, "returned"), (False, "KeyboardInterrupt")])
def test_sigint_ends_run_and_raises_only_if_asked_to(start: Start, silent: bool, outcome: str) -> None:
    server = start(
        script=f"""
        import rmeinheld

        try:
            rmeinheld.run(lambda environ, start_response: [], port=0, silent={silent})
            print("returned")
        except KeyboardInterrupt:
            print("KeyboardInterrupt")
        """
    )
    server.signal(signal.SIGINT)
    assert server.wait() == 0
    assert server.log().splitlines()[-1] == outcome


def test_run_serves_unix_sockets_several_binds_and_what_listen_has_made(start: Start, directory: Path) -> None:
    server = start(
        script="""
        import rmeinheld
        from hello import app
        from rmeinheld.meinheld import server

        server.listen("unix:first.sock")
        rmeinheld.run(app, "unix:second.sock", keepalive=1)
        rmeinheld.run(app, bind=["unix:third.sock", "127.0.0.1:0"])
        """
    )
    assert server.urls == ["unix:first.sock", "unix:second.sock"]
    for name in ("first", "second"):
        assert get(f"unix:{directory}/{name}.sock")[0] == 200
    said = len(server.log())
    server.signal(signal.SIGTERM)
    found = server.wait_for_log(STARTED, start=said)
    assert found[2].startswith("unix:third.sock, http://127.0.0.1:")
    assert get(f"unix:{directory}/third.sock")[0] == 200
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert list(directory.glob("*.sock")) == []


def test_run_says_which_port_is_in_use(script: RunScript) -> None:
    printed = script(
        """
        import socket
        import rmeinheld
        from rmeinheld.meinheld import server

        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            try:
                rmeinheld.run(print, port=port)
            except OSError as error:
                assert error.strerror == f"cannot listen on 127.0.0.1:{port}: Address already in use", error
                print("refused")
        server.stop()
        """
    )
    assert printed == "refused\n"


def test_a_child_that_the_application_forks_dies_of_sigterm(start: Start, directory: Path) -> None:
    (directory / "forking.py").write_text(
        textwrap.dedent(
            """
            import os, signal

            def app(environ, start_response):
                reader, writer = os.pipe()
                child = os.fork()
                if child == 0:
                    os.write(writer, b"x")
                    signal.pause()
                    os._exit(1)
                os.read(reader, 1)
                os.kill(child, signal.SIGTERM)
                status = os.waitpid(child, 0)[1]
                start_response("200 OK", [])
                return [str(os.WTERMSIG(status)).encode()]
            """
        )
    )
    server = start(*LOCAL, "forking")
    assert get(server.urls[0]) == (200, str(int(signal.SIGTERM)))
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


@pytest.mark.parametrize("words", [["dump", "--inspect-socket", "/nowhere"], ["--check-config", "application:app"]])
def test_the_garbage_collector_runs_once_there_is_something_for_it(script: RunScript, words: list[str]) -> None:
    output = script(f"""
        import gc, sys, types
        from rmeinheld import cli, collector

        class Application(types.ModuleType):
            def __getattr__(self, name):
                print("imported with the collector", gc.isenabled())
                return lambda environ, start_response: []

        sys.modules["application"] = Application("application")
        collector.pause()
        assert not gc.isenabled()
        cli.main({words!r})
        print("at the end", gc.isenabled())
    """)
    assert "at the end True" in output
    assert words[0] == "dump" or "imported with the collector True" in output
