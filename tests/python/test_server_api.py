"""Running the server from Python, its loggers, and how it ends."""

from __future__ import annotations

import json
import re
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from serving import TIMEOUT, RunScript, Serve, Server, request, takes

HELLO = '''
import http.client
import signal
import sys
import threading
import time

import rmeinheld
from rmeinheld.coroutine import sleep, spawn
from rmeinheld.meinheld import server


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]


def free_port():
    import socket
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def get(port, path="/", method="GET"):
    """One request, tried until the server listens; in an OS thread of its own."""
    deadline = time.monotonic() + 10
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request(method, path, headers={"Connection": "close"})
            response = connection.getresponse()
            return response.status, response.read()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        finally:
            connection.close()


def in_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    return thread
'''
"""The start of the scripts below."""


def hello(source: str) -> str:
    """`source` after HELLO."""
    lines = source.splitlines()
    indent = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    return HELLO + "\n".join(line[indent:] for line in lines) + "\n"


# --- run, listen and stop --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_serves_until_a_signal_and_returns(serve: Serve, number: int) -> None:
    server = serve.script(
        hello("""
        assert rmeinheld.run(app, port=0) is None
        print("returned", flush=True)
    """)
    )
    assert server.get("/").body == b"hello"
    server.signal(number)
    assert server.wait() == 0
    assert server.log().endswith("returned\n")


def test_run_raises_keyboard_interrupt_if_asked_to(serve: Serve) -> None:
    server = serve.script(
        hello("""
        try:
            rmeinheld.run(app, port=0, silent=False)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
    """)
    )
    server.signal(signal.SIGINT)
    assert server.wait() == 0
    assert server.log().endswith("interrupted\n")


def test_handlers_that_were_there_before_are_restored(script: RunScript) -> None:
    output = script(
        hello("""
        def mine(number, frame):
            print("mine", flush=True)

        signal.signal(signal.SIGINT, mine)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        before = [signal.getsignal(number) for number in signal.valid_signals()]
        port = free_port()
        in_thread(lambda: (get(port), server.stop()))
        rmeinheld.run(app, port=port)
        assert [signal.getsignal(number) for number in signal.valid_signals()] == before
        assert signal.set_wakeup_fd(-1) == -1
        signal.raise_signal(signal.SIGINT)
    """)
    )
    assert output.endswith("mine\n")


def test_listen_and_run_can_be_repeated(script: RunScript) -> None:
    output = script(
        hello("""
        port = free_port()
        for number in range(5):
            def answer(environ, start_response, number=number):
                start_response("200 OK", [("Content-Length", "1")])
                return [b"%d" % number]

            bodies = []

            def client():
                for _ in range(20):
                    bodies.append(get(port)[1])
                server.stop()

            server.listen(("127.0.0.1", port))
            thread = in_thread(client)
            server.run(answer)
            thread.join()
            assert bodies == [b"%d" % number] * 20, bodies
            print("round", number)
    """)
    )
    assert output.count("round") == 5


def test_a_server_can_be_run_again_wherever_an_exception_has_cut_the_first_one_short(script: RunScript) -> None:
    # Ctrl-C, or another handler that raises, can come between any two instructions of the server's own code.
    output = script(
        hello("""
        from rmeinheld import process_state, running, signals

        class Cut(KeyboardInterrupt):
            pass

        def cutting(at):
            count = 0

            def trace(frame, event, argument):
                nonlocal count
                if frame.f_code.co_filename not in (process_state.__file__, running.__file__, signals.__file__):
                    return None
                frame.f_trace_opcodes = True
                # Python 3.12.1 reports no instructions.
                if event in ("opcode", "line"):
                    count += 1
                    if count == at:
                        raise Cut
                return trace

            return trace

        def run_once(port=0):
            over = threading.Event()

            def stopper():
                while not over.wait(0.001):
                    server.stop(0)

            thread = in_thread(stopper)
            try:
                server.run(app, port=port)
            finally:
                over.set()
                sys.settrace(None)
                thread.join()

        handlers = [signal.getsignal(number) for number in signal.valid_signals()]
        at = 0
        cut = True
        while cut:
            at += 3
            sys.settrace(cutting(at))
            try:
                run_once()
                cut = False
            except Cut:
                cut = True
            finally:
                sys.settrace(None)
            assert [signal.getsignal(number) for number in signal.valid_signals()] == handlers, at
            assert signal.set_wakeup_fd(-1) == -1, at
            run_once()
        print("cut at", at)
    """)
    )
    assert int(output.split("cut at")[1]) > 60


def test_two_servers_cannot_run_at_once(script: RunScript) -> None:
    output = script(
        hello("""
        def second(environ, start_response):
            seen = []

            def other():
                try:
                    server.run(app, port=0)
                except RuntimeError as error:
                    seen.append(str(error))

            thread = in_thread(other)
            while thread.is_alive():
                sleep(0.01)
            start_response("200 OK", [])
            return [seen[0].encode()]

        port = free_port()
        thread = in_thread(lambda: (print(get(port), flush=True), server.stop()))
        server.run(second, port=port)
        thread.join()
    """)
    )
    assert "a server is running in this process already; stop() it first" in output


def test_the_server_can_be_stopped_by_a_request(script: RunScript) -> None:
    output = script(
        hello("""
        def stopping(environ, start_response):
            start_response("200 OK", [("Content-Type", "text/plain")])
            yield b"going "
            server.stop()
            sleep(0.1)
            yield b"down"

        port = free_port()
        thread = in_thread(lambda: print(get(port), flush=True))
        rmeinheld.run(stopping, port=port)
        thread.join()
        print("returned")
    """)
    )
    assert output.endswith("(200, b'going down')\nreturned\n")


def test_each_server_of_a_process_ends_requests_whose_time_is_up(script: RunScript) -> None:
    output = script(
        hello("""
        def waiting(environ, start_response):
            sleep(30)

        def ask(port):
            # In one piece: the line of the log comes at the same time.
            print(f"{get(port)[0]}\\n", end="", flush=True)
            server.stop()

        for _ in range(2):
            port = free_port()
            thread = in_thread(lambda: ask(port))
            rmeinheld.run(waiting, port=port, request_timeout=0.1)
            thread.join()
    """)
    )
    assert output.count("504\n") == 2


def test_the_server_can_be_stopped_by_a_coroutine_and_from_a_handler(script: RunScript) -> None:
    output = script(
        hello("""
        def later():
            sleep(0.2)
            server.shutdown()

        spawn(later)
        rmeinheld.run(app, port=0)
        print("returned from the first")
        signal.signal(signal.SIGALRM, lambda number, frame: server.stop(0))
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        rmeinheld.run(app, port=0)
        print("returned from the second")
    """)
    )
    assert "returned from the first" in output
    assert output.endswith("returned from the second\n")


def test_stop_without_a_server_does_nothing(script: RunScript) -> None:
    output = script(
        hello("""
        server.stop()
        server.shutdown(1.5)
        for wrong in (-1, float("nan"), "1"):
            try:
                server.stop(wrong)
            except (ValueError, TypeError) as error:
                print(type(error).__name__, error)
        print("done")
    """)
    )
    assert output.count("Error") == 3
    assert output.endswith("done\n")


def test_the_server_runs_in_a_thread_too(script: RunScript) -> None:
    output = script(
        hello("""
        before = signal.getsignal(signal.SIGINT)
        port = free_port()
        for _ in range(3):
            thread = in_thread(lambda: rmeinheld.run(app, port=port))
            print(get(port))
            assert signal.getsignal(signal.SIGINT) is before
            server.stop()
            thread.join(10)
            assert not thread.is_alive()
    """)
    )
    assert output.count("(200, b'hello')") == 3


def test_only_one_server_runs_at_a_time(script: RunScript) -> None:
    output = script(
        hello("""
        port = free_port()

        def second():
            print(get(port), flush=True)
            try:
                rmeinheld.run(app, port=0)
            except RuntimeError as error:
                print("RuntimeError", error, flush=True)
            print(get(port), flush=True)
            server.stop()

        thread = in_thread(second)
        rmeinheld.run(app, port=port)
        thread.join()
    """)
    )
    assert output.count("(200, b'hello')") == 2
    assert "RuntimeError" in output


def test_the_server_runs_after_coroutines_and_they_after_it(script: RunScript) -> None:
    script(
        hello("""
        assert spawn(lambda: sleep(0.01) or 1).join(10)
        parked = spawn(sleep, 0.5)
        port = free_port()
        thread = in_thread(lambda: (get(port), server.stop()))
        rmeinheld.run(app, port=port)
        thread.join()
        after = spawn(lambda: sleep(0.01) or 2)
        assert after.join(10)
        assert after.result == 2
        assert parked.join(10)
    """)
    )


def test_settings_by_meinhelds_names_are_used(serve: Serve) -> None:
    server = serve.script(
        hello("""
        server.set_keepalive(0)
        server.set_max_content_length(10)
        assert (server.get_keepalive(), server.get_max_content_length()) == (0, 10)
        server.listen(("127.0.0.1", 0))
        server.run(app)
    """)
    )
    with server.connect() as connection:
        assert connection.request(request("POST", "/", body=b"x" * 10), "POST").ends_connection
        connection.expect_end()
    assert server.exchange(request("POST", "/", body=b"x" * 11), ["POST"])[0].status == 413


def test_the_watchdog_is_called_once_a_second_and_after_it_raised(script: RunScript) -> None:
    script(
        hello(
            """
            calls = []

            def watch():
                calls.append(time.monotonic())
                if len(calls) == 1:
                    raise ValueError("on purpose")
                if len(calls) == 3:
                    server.stop()

            server.set_watchdog(watch)
            server.run(app, port=0)
            assert len(calls) == 3, calls
            for earlier, later in zip(calls, calls[1:]):
                assert 0.9 < later - earlier < 3, calls
            server.set_watchdog(None)
            """
        )
    )


def test_the_fast_watchdog_beats_on_a_file_and_stops_an_orphan(script: RunScript) -> None:
    script(
        hello(
            """
            import os
            import tempfile

            with tempfile.TemporaryFile() as file:
                begun = time.monotonic()
                os.utime(file.fileno(), (0, 0))

                def stop_after_beats():
                    # The watchdog of an idle loop rests after two seconds.
                    while not begun + 3.2 < os.fstat(file.fileno()).st_mtime:
                        time.sleep(0.05)
                    server.stop()

                server.set_fastwatchdog(file.fileno(), os.getppid(), 1)
                in_thread(stop_after_beats)
                server.run(app, port=0)
                assert os.fstat(file.fileno()).st_mtime <= time.monotonic()
                # The parent is another one than was said: the server ends by itself.
                server.set_fastwatchdog(-1, os.getppid() + 1, 0)
                server.run(app, port=0)
            """
        )
    )


def test_a_blocked_loop_gives_no_beats_and_ends_as_an_orphan(script: RunScript) -> None:
    output = script(
        hello(
            f"""
            import os
            import tempfile

            blocked, said = os.pipe()
            ends, end = os.pipe()
            if (parent := os.fork()) == 0:
                if os.fork() != 0:
                    os.close(said)
                    os._exit(not os.read(blocked, 1))
                beats = tempfile.TemporaryFile()

                def blocks(environ, start_response):
                    # The time without beats grows.
                    while time.monotonic() - os.fstat(beats.fileno()).st_mtime < 2:
                        time.sleep(0.05)
                    os.write(said, b"1")
                    time.sleep(2 * {TIMEOUT})

                port = free_port()
                threading.Thread(target=get, args=(port,), daemon=True).start()
                server.set_fastwatchdog(beats.fileno(), os.getppid(), 0)
                try:
                    server.run(blocks, port=port)
                except RuntimeError as error:
                    print(error, flush=True)
                os._exit(0)
            os.close(end)
            os.close(said)
            assert os.waitpid(parent, 0)[1] == 0
            assert os.read(ends, 1) == b""
            """
        )
    )
    assert "is gone: the server stops, and requests in progress have 0 s" in output
    assert re.search(r"GET / .*computes|blocks", output)


def test_a_bad_descriptor_for_the_heartbeat_is_an_error_at_the_start(script: RunScript) -> None:
    output = script(hello("server.set_fastwatchdog(1_000_000, 1, 1)\nserver.run(app, port=0)"), status=1)
    assert "OSError" in output and "descriptor 1000000, for the heartbeat of set_fastwatchdog, cannot be used" in output


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("set_watchdog(3)", "TypeError: the watchdog must be callable, not int 3"),
        ("set_fastwatchdog('a', 1, 1)", "TypeError: fd must be an integer from -1 to 2147483647, not str 'a'"),
        ("set_fastwatchdog(-2, 1, 1)", "ValueError: fd must be an integer from -1 to 2147483647, not -2"),
        ("set_fastwatchdog(1, 0, 1)", "ValueError: ppid must be an integer from 1 to 2147483647, not 0"),
        ("set_fastwatchdog(1, 1, -1)", "ValueError: timeout must be a number of seconds from 0"),
    ],
)
def test_a_watchdog_that_makes_no_sense_is_refused(script: RunScript, call: str, message: str) -> None:
    assert message in script(hello(f"server.{call}"), status=1)


def test_a_unix_socket_is_served(script: RunScript, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    output = script(
        hello(f"""
        import socket

        def environ_of(environ, start_response):
            start_response("200 OK", [("Content-Type", "text/plain")])
            names = ("REMOTE_ADDR", "REMOTE_PORT", "SERVER_NAME", "SERVER_PORT")
            return [repr([environ.get(name) for name in names]).encode()]

        def client():
            deadline = time.monotonic() + 10
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(10)
                while True:
                    try:
                        connection.connect({str(path)!r})
                        break
                    except OSError:
                        if time.monotonic() > deadline:
                            raise
                        time.sleep(0.01)
                connection.sendall(b"GET / HTTP/1.0\\r\\nHost: somewhere\\r\\n\\r\\n")
                data = b""
                while part := connection.recv(65536):
                    data += part
            print(data.decode().rpartition("\\r\\n\\r\\n")[2], flush=True)
            server.stop()

        thread = in_thread(client)
        rmeinheld.run(environ_of, "unix:" + {str(path)!r})
        thread.join()
    """)
    )
    address, port, name, server_port = json.loads(output.splitlines()[-1].replace("'", '"').replace("None", "null"))
    assert (address, port) == ("", None)
    # PEP 3333 wants both; Host says what the client has asked for.
    assert (name, server_port) == ("somewhere", "80")
    assert not path.exists()


# --- loggers ---------------------------------------------------------------------------------------------------------


def test_an_access_logger_is_called_for_each_response(serve: Serve) -> None:
    server = serve.script(
        hello("""
        def various(environ, start_response):
            if environ["PATH_INFO"] == "/fail":
                raise RuntimeError("on purpose")
            if environ["PATH_INFO"] == "/slow":
                sleep(0.25)
            start_response("201 Created", [("Content-Type", "text/plain")])
            return (item for item in (b"12345", b"67890"))

        class Logger:
            def access(self, environ):
                print("access", environ["REQUEST_METHOD"], environ["PATH_INFO"], repr(environ["STATUS_CODE"]),
                      repr(environ["SEND_BYTES"]), repr(environ["REQUEST_TIME"]), environ["LOCAL_TIME"], flush=True)

        server.set_access_logger(Logger())
        rmeinheld.run(various, port=0)
    """)
    )
    pattern = r"access (\S+) (\S+) (\d+) (\d+) (\d+) (\d\d/[A-Z][a-z][a-z]/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})$"
    for method, path, status, size, fastest in (
        ("GET", "/", "201", 10, 0),
        ("HEAD", "/head", "201", 0, 0),
        ("GET", "/slow", "201", 10, 240),
    ):
        start = len(server.log())
        server.exchange(request(method, path), [method])
        found = server.wait_for_log(pattern, start=start)
        assert found.groups()[:3] == (method, path, status)
        assert int(found[4]) == size
        assert fastest <= int(found[5]) < fastest + 2000
    start = len(server.log())
    server.get("/fail")
    assert server.wait_for_log(pattern, start=start)[3] == "500"


def test_a_failing_access_logger_harms_no_request(serve: Serve) -> None:
    server = serve.script(
        hello("""
        class Logger:
            def access(self, environ):
                raise LookupError("the logger failed")

        rmeinheld.run(app, port=0, access_logger=Logger())
    """)
    )
    for _ in range(2):
        assert server.get("/").body == b"hello"
    server.wait_for_log("the logger failed")


def test_an_error_logger_is_called_for_errors_of_the_application(serve: Serve) -> None:
    server = serve.script(
        hello("""
        def failing(environ, start_response):
            raise KeyError("on purpose")

        class Logger:
            def error(self, kind, value, traceback):
                assert isinstance(value, kind)
                print("error", kind.__name__, value, type(traceback).__name__, flush=True)

        server.set_error_logger(Logger())
        rmeinheld.run(failing, port=0)
    """)
    )
    assert server.get("/").status == 500
    server.wait_for_log("error KeyError 'on purpose' traceback")
    assert "Traceback" not in server.log()


LOGGED = """
    def app(environ, start_response):
        headers = [("Content-Type", "text/plain"), ("X-B", 'of "the" response')]
        if environ["PATH_INFO"] == "/empty":
            start_response("204 No Content", headers)
            return []
        start_response("200 OK", headers)
        return [b"hello"]
"""


def lines_of(server: Server, path: Path, number: int) -> list[str]:
    """The lines of an access log, once it has this `number` of lines."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        text = path.read_bytes().decode("utf-8", "surrogateescape") if path.exists() else ""
        if text.count("\n") >= number:
            lines = text.splitlines()
            assert len(lines) == number, lines
            return lines
        assert time.monotonic() < deadline, f"{number} lines expected:\n{text}\n{server.log()}"
        time.sleep(0.01)


def test_the_access_log_has_gunicorns_format(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    server = serve(LOGGED, access_logfile=str(path))
    data = request("GET", "/a%20b?x=%22y%22", "Referer: http://from/", "User-Agent: tests/1.0")
    server.exchange(data + request("GET", "/empty") + request("HEAD", "/"), ["GET", "GET", "HEAD"])
    first, second, third = lines_of(server, path, 3)
    time_pattern = r"\[\d\d/[A-Z][a-z][a-z]/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]"
    assert re.fullmatch(
        rf'127\.0\.0\.1 - - {time_pattern} "GET /a%20b\?x=%22y%22 HTTP/1\.1" 200 5 "http://from/" "tests/1\.0"', first
    )
    assert re.fullmatch(rf'127\.0\.0\.1 - - {time_pattern} "GET /empty HTTP/1\.1" 204 (-|0) "-" "-"', second)
    assert re.fullmatch(rf'127\.0\.0\.1 - - {time_pattern} "HEAD / HTTP/1\.1" 200 (-|0) "-" "-"', third)


def test_the_access_log_knows_gunicorns_atoms(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    atoms = ["h", "l", "u", "m", "U", "q", "H", "s", "b", "B", "{x-a}i", "{x-none}i", "{x-b}o", "{REMOTE_ADDR}e", "p"]
    form = "|".join([f"%({atom})s" for atom in atoms] + [f"%({atom})s" for atom in "TMDL"] + ["100%%"])
    server = serve(LOGGED, access_logfile=str(path), access_logformat=form)
    server.exchange(request("GET", "/path?q=1", "X-A: of the request", "Authorization: Basic dXNlcjpwYXNz"))
    (line,) = lines_of(server, path, 1)
    values = line.split("|")
    assert values[:12] == [
        "127.0.0.1", "-", "user", "GET", "/path", "q=1", "HTTP/1.1", "200", "5", "5", "of the request", "-",
    ]  # fmt: skip
    assert values[12] == r"of \"the\" response"
    assert values[13:15] == ["127.0.0.1", f"<{server.pid}>"]
    seconds, milliseconds, microseconds, decimal, literal = values[15:]
    assert int(seconds) == 0
    assert 0 <= int(milliseconds) < 1000
    assert 0 < int(microseconds) < 1_000_000
    assert re.fullmatch(r"0\.\d{6}", decimal)
    assert literal == "100%"


def test_the_access_log_escapes_what_the_client_sent(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    server = serve(LOGGED, access_logfile=str(path))
    server.exchange(request("GET", '/"quoted"', 'User-Agent: a"b\\c\td\xe9', 'Referer: " 200 5 "'))
    (line,) = lines_of(server, path, 1)
    quoted = re.findall(r'"((?:[^"\\]|\\.)*)"', line)
    assert len(quoted) == 3, line
    assert re.sub(r'"(?:[^"\\]|\\.)*"', "", line).count('"') == 0
    assert "\t" not in line
    assert line.isprintable()


def test_malformed_requests_cannot_forge_lines_of_the_access_log(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    server = serve(LOGGED, access_logfile=str(path))
    for data in (b"GET /\x1b[31m HTTP/1.1\r\n\r\n", b'GET /\n127.0.0.1 - - "forged" HTTP/1.1\r\nHost: a\r\n\r\n'):
        assert server.exchange(data)[0].status == 400
    server.get("/")
    deadline = time.monotonic() + TIMEOUT
    while '"GET / HTTP/1.1" 200' not in (text := path.read_text() if path.exists() else ""):
        assert time.monotonic() < deadline, text
        time.sleep(0.01)
    for line in text.splitlines():
        assert line.startswith("127.0.0.1 - - [")
        assert line.isprintable()


def test_the_access_log_goes_to_standard_output(serve: Serve) -> None:
    server = serve(LOGGED, access_logfile="-")
    server.get("/to-stdout")
    server.wait_for_log(r'"GET /to-stdout HTTP/1\.1" 200 5')


def test_there_is_no_access_log_by_default(serve: Serve) -> None:
    server = serve(LOGGED)
    server.get("/quiet")
    server.stop()
    assert "/quiet" not in server.log()


def test_a_signal_opens_the_log_files_anew(serve: Serve, tmp_path: Path) -> None:
    path, errors = tmp_path / "access.log", tmp_path / "error.log"
    server = serve(LOGGED, access_logfile=str(path), error_logfile=str(errors))
    server.get("/before")
    lines_of(server, path, 1)
    moved = path.rename(tmp_path / "access.log.1")
    server.get("/moved")
    assert "/moved" in lines_of(server, moved, 2)[1]
    server.signal(signal.SIGUSR1)
    deadline = time.monotonic() + TIMEOUT
    while not path.exists():
        assert time.monotonic() < deadline, "no new file"
        time.sleep(0.01)
    server.get("/after")
    assert "/after" in lines_of(server, path, 1)[0]
    lines_of(server, moved, 2)


def test_a_logging_handler_that_waits_does_not_stop_the_server(serve: Serve, tmp_path: Path) -> None:
    # The coroutine that polls also logs between two requests, and no other coroutine polls in its place.
    directory = tmp_path / "logs"
    directory.mkdir()
    server = serve(
        """
        import logging
        from rmeinheld.coroutine import current, sleep

        class Waits(logging.Handler):
            def emit(self, record):
                sleep(0.01)
                print("handled", record.getMessage(), flush=True)

        logging.getLogger("rmeinheld.error").addHandler(Waits())

        def app(environ, start_response):
            if environ["PATH_INFO"] == "/fail":
                raise RuntimeError("on purpose")
            start_response("200 OK", [])
            return [b"hello"]
        """,
        access_logfile=str(directory / "access.log"),
    )
    assert server.get("/").body == b"hello"
    (directory / "access.log").unlink()
    directory.rmdir()
    server.signal(signal.SIGUSR1)
    server.wait_for_log("handled The access log cannot be opened again")
    assert server.get("/").body == b"hello"
    assert server.get("/fail").status == 500
    server.wait_for_log("handled Error handling request GET /fail")
    assert server.get("/").body == b"hello"


# --- the end of a server ---------------------------------------------------------------------------------------------

SLOW = """
    import time

    from rmeinheld.coroutine import CoroutineExit, sleep

    def app(environ, start_response):
        seconds = float(environ["QUERY_STRING"] or 0)
        try:
            if seconds:
                print("parked", flush=True)
            sleep(seconds)
        except BaseException as error:
            print("raised", type(error).__name__, isinstance(error, CoroutineExit), flush=True)
            raise
        finally:
            print("finally", flush=True)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return (item for item in (b"one", b"two"))
"""


def test_requests_in_flight_are_finished_and_ctrl_c_closes_idle_connections_at_once(serve: Serve) -> None:
    server = serve(SLOW, keep_alive=60)
    with server.connect() as idle, server.connect() as busy, server.connect() as silent:
        assert idle.request(request("GET", "/")).body == b"onetwo"
        busy.send(request("GET", "/?4"))
        server.wait_for_log("parked")
        server.signal(signal.SIGINT)
        with takes(0, 3):
            idle.expect_end()
            silent.expect_end()
        with pytest.raises(ConnectionRefusedError):
            server.connect()
        assert not busy.has_input(0)
        response = busy.read_response()
        assert response.body == b"onetwo"
        assert response.ends_connection
        busy.expect_end()
        with takes(0, 3):
            assert server.wait() == 0
    assert "raised" not in server.log()


def test_a_server_whose_requests_have_parked_ends_in_order_every_time(serve: Serve) -> None:
    # Another coroutine leads by then than the one that started; the interpreter is finalised right after the last.
    for _ in range(12):
        server = serve(SLOW)
        assert server.get("/?0.01").body == b"onetwo"
        server.stop()


def test_all_requests_in_flight_are_finished(serve: Serve) -> None:
    server = serve(SLOW)
    connections = [server.connect() for _ in range(20)]
    try:
        for connection in connections:
            connection.send(request("GET", "/?0.3"))
        server.wait_for_log(r"(?s)(parked.*){20}")
        server.signal(signal.SIGTERM)
        for connection in connections:
            assert connection.read_response().body == b"onetwo"
        assert server.wait() == 0
    finally:
        for connection in connections:
            connection.close()


def test_connections_in_the_queue_of_the_kernel_are_served_before_the_end(serve: Serve) -> None:
    server = serve(SLOW, worker_connections=1)
    with server.connect() as busy, ExitStack() as stack:
        busy.send(request("GET", "/?1"))
        server.wait_for_log("parked")
        waiting = [stack.enter_context(server.connect()) for _ in range(200)]
        for connection in waiting:
            connection.send(request("GET", "/"))
        server.signal(signal.SIGTERM)
        for connection in [busy, *waiting]:
            response = connection.read_response()
            assert (response.body, response.ends_connection) == (b"onetwo", True)
            connection.expect_end()
    assert server.wait() == 0


def test_requests_that_remain_after_the_grace_time_are_ended(serve: Serve) -> None:
    server = serve(SLOW, graceful_timeout=0.5)
    with server.connect() as connection:
        connection.send(request("GET", "/?3600"))
        server.wait_for_log("parked")
        with takes(0.4, 6):
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
        assert connection.read_response().status == 503
    assert "raised CoroutineExit True" in server.log()
    assert "finally" in server.log()


@pytest.mark.parametrize(("first", "second"), [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGQUIT)])
def test_a_second_signal_ends_the_server_at_once(serve: Serve, first: int, second: int) -> None:
    server = serve(SLOW, graceful_timeout=3600)
    with server.connect() as connection:
        connection.send(request("GET", "/?3600"))
        server.wait_for_log("parked")
        server.signal(first)
        deadline = time.monotonic() + TIMEOUT
        while True:  # until the first signal has had its effect
            try:
                server.connect().close()
            except OSError:
                break
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert server.popen.poll() is None
        with takes(0, 5):
            server.signal(second)
            server.wait()
    assert "raised CoroutineExit" in server.log()
    assert "panicked" not in server.log()


def test_an_application_that_ignores_its_end_cannot_prevent_it(serve: Serve) -> None:
    server = serve(
        """
        from rmeinheld.coroutine import sleep

        def app(environ, start_response):
            print("parked", flush=True)
            while True:
                try:
                    sleep(3600)
                except BaseException as error:
                    print("ignored", type(error).__name__, flush=True)
        """,
        graceful_timeout=0.2,
    )
    with server.connect() as connection:
        connection.send(request("GET", "/"))
        server.wait_for_log("parked")
        with takes(0, 14):
            server.signal(signal.SIGTERM)
            server.wait()
    assert "panicked" not in server.log()


def test_coroutines_of_the_application_end_with_the_server(serve: Serve) -> None:
    server = serve(
        """
        from rmeinheld.coroutine import sleep, spawn

        def background():
            try:
                print("parked", flush=True)
                sleep(3600)
            finally:
                print("finally", flush=True)

        def app(environ, start_response):
            spawn(background)
            start_response("200 OK", [])
            return [b"spawned"]
        """,
        graceful_timeout=0.5,
    )
    server.get("/")
    server.wait_for_log("parked")
    with takes(0, 6):
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert "Fatal Python error" not in server.log()


def test_a_slow_client_does_not_keep_the_server_for_ever(serve: Serve) -> None:
    server = serve("http_app:app", graceful_timeout=0.5)
    with server.connect(receive_buffer=4096) as reader, server.connect() as writer:
        reader.send(request("GET", "/flood"))
        reader.read_exactly(1000)
        writer.send(request("POST", "/count", "Content-Length: 100") + b"x")
        server.wait_for_log("served POST /count")
        with takes(0, 6):
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
    assert "flood closed" in server.log()


def test_the_port_is_free_after_the_end(serve: Serve) -> None:
    first = serve(SLOW)
    first.get("/")
    first.stop()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(first.address)
