"""Logs that join up: lines of JSON, ids of requests, the filter for `logging`, the log on a terminal."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from serving import TIMEOUT, Connection, Serve, Server, environment_of_child, request

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
MADE_ID = re.compile(r"[0-9a-f]{32}")

APPLICATION = """
def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/change":
        environ["RAW_URI"] = "/\\u20ac\\ud800\\n"
        environ["HTTP_REFERER"] = None
        environ["HTTP_USER_AGENT"] = 7
    keys = ("rmeinheld.request_id", "rmeinheld.trace_id", "rmeinheld.span_id", "rmeinheld.traceparent")
    keys += ("HTTP_X_REQUEST_ID", "HTTP_TRACEPARENT", "HTTP_TRACESTATE")
    body = "\\n".join(f"{key}={environ[key]}" for key in keys if key in environ).encode()
    start_response("200 OK", [("X-Request-ID", "own")] if path == "/own" else [])
    if path == "/fail":
        raise RuntimeError("failed")
    return [body]
"""

# --- the schema of a line --------------------------------------------------------------------------------------------

type Check = Callable[[Any], bool]


def is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def is_text_or_null(value: object) -> bool:
    return value is None or is_text(value)


def is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


SCHEMA: dict[str, Check] = {
    "time": lambda value: re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", value) is not None,
    "pid": is_number,
    "client": is_text_or_null,
    "user": is_text_or_null,
    "scheme": lambda value: value in ("http", "https"),
    "host": is_text_or_null,
    "method": is_text,
    "target": is_text,
    "protocol": lambda value: value in ("HTTP/1.0", "HTTP/1.1"),
    "status": lambda value: value is None or 100 <= value <= 599,
    "bytes": is_number,
    "duration": lambda value: isinstance(value, float) and value >= 0,
    "referer": is_text_or_null,
    "user_agent": is_text_or_null,
    "request_id": is_text_or_null,
    "trace_id": lambda value: value is None or re.fullmatch(r"[0-9a-f]{32}", value) is not None,
    "span_id": lambda value: value is None or re.fullmatch(r"[0-9a-f]{16}", value) is not None,
}
"""The members of a line in their order, as docs/logging.md has them, each with its check."""


def lines_of(path: Path, count: int) -> list[dict[str, Any]]:
    """The first `count` lines, which must be valid JSON in ASCII that follows the schema."""
    deadline = time.monotonic() + TIMEOUT
    while (data := path.read_bytes()).count(b"\n") < count:
        assert time.monotonic() < deadline, data
        time.sleep(0.01)
    lines = data.decode("ascii").split("\n")[:count]
    found = []
    for line in lines:
        assert line.isprintable(), line
        entry = json.loads(line)
        assert list(entry) == list(SCHEMA)
        for name, is_valid in SCHEMA.items():
            assert is_valid(entry[name]), (name, entry[name])
        found.append(entry)
    return found


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


@pytest.fixture
def logged(serve: Serve, log: Path) -> Iterator[Callable[..., Server]]:
    yield lambda **options: serve(APPLICATION, access_logfile=str(log), access_logformat="json", **options)


def test_a_line_is_an_object_with_the_documented_members(logged: Callable[..., Server], log: Path) -> None:
    server = logged()
    fields = "Referer: http://a/\r\nUser-Agent: caf\xc3\xa9\r\nAuthorization: Basic bWU6c2VjcmV0\r\nConnection: close"
    before = datetime.now(UTC)
    with server.connect() as connection:
        connection.request(request("GET", "/a?b=%22", fields))
    (line,) = lines_of(log, 1)
    taken = datetime.fromisoformat(line.pop("time"))
    assert abs((taken - before).total_seconds()) < TIMEOUT
    assert line.pop("duration") < TIMEOUT
    assert line.pop("pid") > 1
    assert line.pop("host").startswith("127.0.0.1") or True
    assert line == {
        "client": "127.0.0.1",
        "user": "me",
        "scheme": "http",
        "method": "GET",
        "target": "/a?b=%22",
        "protocol": "HTTP/1.1",
        "status": 200,
        "bytes": 0,
        "referer": "http://a/",
        "user_agent": "caf\u00e9",
        "request_id": None,
        "trace_id": None,
        "span_id": None,
    }


def test_every_byte_of_a_client_makes_a_valid_line(logged: Callable[..., Server], log: Path) -> None:
    server = logged()
    seeded = random.Random(7)
    values = [bytes([byte]) for byte in range(256) if byte not in b"\0\r\n\x7f" and (byte >= 32 or byte == 9)]
    values += [
        b"\xed\xa0\x80",
        b"\xf0\x9f\x92\xa9",
        b"\xf0\x9f\x92",
        b"\xc0\x80",
        b'"},{"',
        b"\\u0000",
        b"\xe2\x80\xa8",
    ]
    values += [bytes(seeded.choice(range(0x80, 0x100)) for _ in range(20)) for _ in range(50)]
    sent = 0
    with server.connect() as connection:
        for value in values:
            head = b"GET /x HTTP/1.1\r\nHost: a\r\nUser-Agent: <" + value + b">\r\nReferer: " + value + b"\r\n\r\n"
            assert connection.request(head).status == 200
            sent += 1
    for value, line in zip(values, lines_of(log, sent), strict=True):
        try:
            expected = value.decode()
        except UnicodeDecodeError:
            assert "\\x" in line["user_agent"]
        else:
            assert line["user_agent"] == f"<{expected}>"


def test_whatever_an_application_leaves_in_the_environ_makes_a_valid_line(
    logged: Callable[..., Server], log: Path
) -> None:
    assert logged().get("/change").status == 200
    (line,) = lines_of(log, 1)
    assert re.fullmatch("/\u20ac\ufffd+\n", line["target"])
    assert (line["referer"], line["user_agent"]) == (None, "7")


def test_a_line_that_a_logger_of_python_writes_is_the_same(serve: Serve) -> None:
    source = """
    import rmeinheld
    from rmeinheld._rmeinheld import access_log_line

    class Logger:
        def access(self, environ):
            print(access_log_line("json", environ), flush=True)
            for wrong in ("%(h)s", "xml"):
                try:
                    access_log_line(wrong, environ)
                except ValueError as error:
                    print(error, flush=True)

    def app(environ, start_response):
        start_response("200 OK", [])
        return [b"body"]

    rmeinheld.run(app, port=0, access_logger=Logger())
    """
    server = serve.script(source)
    server.get("/x")
    server.wait_for_log('"xml" is not the name of a form of the access log')
    line = json.loads(re.search(r"^\{.*\}$", server.log(), re.M)[0])  # type: ignore[index]
    assert list(line) == list(SCHEMA)
    assert (line["target"], line["status"], line["bytes"]) == ("/x", 200, 4)


# --- ids -------------------------------------------------------------------------------------------------------------


def ids_of(server: Server, fields: str = "", target: str = "/") -> dict[str, str]:
    body = server.get(target, fields).body.decode()
    return dict(line.split("=", 1) for line in body.splitlines())


def test_by_default_there_are_no_ids_and_fields_stay(serve: Serve) -> None:
    found = ids_of(serve(APPLICATION), "X-Request-ID: a b\r\n")
    assert found == {"HTTP_X_REQUEST_ID": "a b"}


def test_the_ids_of_an_untrusted_client_are_replaced(logged: Callable[..., Server], log: Path) -> None:
    server = logged(request_id="on")
    forged = f"X-Request-ID: forged\r\ntraceparent: 00-{TRACE}-{SPAN}-01\r\ntracestate: a=b\r\n"
    found = [ids_of(server, forged) for _ in range(20)]
    for ids, line in zip(found, lines_of(log, 20), strict=True):
        assert MADE_ID.fullmatch(ids["rmeinheld.request_id"])
        assert ids["HTTP_X_REQUEST_ID"] == ids["rmeinheld.request_id"] == line["request_id"]
        assert ids["rmeinheld.trace_id"] == line["trace_id"] != TRACE
        assert ids["rmeinheld.span_id"] == line["span_id"] != SPAN
        assert ids["rmeinheld.traceparent"] == f"00-{line['trace_id']}-{line['span_id']}-02"
        assert "HTTP_TRACEPARENT" not in ids and "HTTP_TRACESTATE" not in ids
    for name in ("rmeinheld.request_id", "rmeinheld.trace_id", "rmeinheld.span_id"):
        assert len({ids[name] for ids in found}) == 20


def test_the_ids_of_a_trusted_peer_are_taken_over(logged: Callable[..., Server], log: Path) -> None:
    server = logged(request_id="on", forwarded_allow_ips="127.0.0.1")
    given = f"X-Request-ID: from/proxy=1\r\ntraceparent: 00-{TRACE}-{SPAN}-01\r\ntracestate: a=b\r\n"
    ids = [ids_of(server, given) for _ in range(4)][-1]
    (*_, line) = lines_of(log, 4)
    assert ids["rmeinheld.request_id"] == ids["HTTP_X_REQUEST_ID"] == line["request_id"] == "from/proxy=1"
    assert ids["rmeinheld.trace_id"] == line["trace_id"] == TRACE
    assert ids["rmeinheld.span_id"] == line["span_id"] != SPAN
    assert ids["rmeinheld.traceparent"] == f"00-{TRACE}-{ids['rmeinheld.span_id']}-01"
    assert (ids["HTTP_TRACEPARENT"], ids["HTTP_TRACESTATE"]) == (f"00-{TRACE}-{SPAN}-01", "a=b")


@pytest.mark.parametrize(
    "fields",
    [
        "X-Request-ID: a b",
        "X-Request-ID:",
        "X-Request-ID: " + "x" * 129,
        "X-Request-ID: caf\xe9",
        'X-Request-ID: a"b',
        "X-Request-ID: a\r\nX-Request-ID: a",
    ],
)
def test_a_bad_id_of_a_trusted_peer_is_replaced(serve: Serve, fields: str) -> None:
    server = serve(APPLICATION, request_id="on", forwarded_allow_ips="*")
    ids = ids_of(server, f"{fields}\r\n")
    assert MADE_ID.fullmatch(ids["rmeinheld.request_id"])
    assert ids["HTTP_X_REQUEST_ID"] == ids["rmeinheld.request_id"]


def test_a_bad_trace_of_a_trusted_peer_begins_anew(serve: Serve) -> None:
    server = serve(APPLICATION, request_id="on", forwarded_allow_ips="*")
    good = f"traceparent: 00-{TRACE}-{SPAN}-01\r\n"
    for fields in (good.replace("00-", "ff-", 1), good.replace(SPAN, "0" * 16), good * 2, "traceparent: x\r\n"):
        ids = ids_of(server, f"{fields}tracestate: a=b\r\n")
        assert MADE_ID.fullmatch(ids["rmeinheld.trace_id"])
        assert ids["rmeinheld.trace_id"] != TRACE
        assert "HTTP_TRACESTATE" not in ids and "HTTP_TRACEPARENT" not in ids
    later = ids_of(server, good.replace("00-", "01-", 1).replace("-01\r\n", "-ff-new\r\n"))
    assert later["rmeinheld.traceparent"] == f"00-{TRACE}-{later['rmeinheld.span_id']}-03"


def test_a_response_has_the_id_only_where_asked_for(serve: Serve) -> None:
    assert serve(APPLICATION, request_id="on").get("/").header("X-Request-ID") is None
    server = serve(APPLICATION, request_id="respond")
    for target in ("/", "/fail"):
        assert MADE_ID.fullmatch(server.get(target).header("X-Request-ID") or "")
    assert server.get("/own").all("X-Request-ID") == ["own"]
    with server.connect() as connection:
        first, second = (connection.request(request("GET", "/")).header("X-Request-ID") for _ in range(2))
    assert first != second


def test_the_dump_shows_the_id(serve: Serve) -> None:
    source = """
    import rmeinheld

    def app(environ, start_response):
        start_response("200 OK", [])
        return [environ["rmeinheld.request_id"].encode(), rmeinheld.dump().encode()]

    rmeinheld.run(app, port=0, request_id=True)
    """
    body = serve.script(source).get("/x").body.decode()
    made = MADE_ID.match(body)
    assert made is not None
    assert re.search(rf"^request \d+ GET /x from \S+ \(id {made[0]}\): RUNNING", body, re.M)


def test_atoms_show_the_ids(serve: Serve, log: Path) -> None:
    form = "%({request_id}n)s %({trace_id}n)s %({span_id}n)s"
    server = serve(APPLICATION, access_logfile=str(log), access_logformat=form, request_id="on")
    ids = ids_of(server)
    server.stop()
    names = ("rmeinheld.request_id", "rmeinheld.trace_id", "rmeinheld.span_id")
    assert log.read_text() == " ".join(ids[name] for name in names) + "\n"


# --- the filter ------------------------------------------------------------------------------------------------------

FILTERED = """
    import logging, sys, threading
    import rmeinheld, rmeinheld.patch
    from rmeinheld.coroutine import offload, spawn
    from rmeinheld.logging import RequestFilter, current_request

    rmeinheld.patch.patch_all()
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(RequestFilter())
    handler.setFormatter(logging.Formatter("%(message)s|%(request_id)s|%(trace_id)s|%(span_id)s|%(request_line)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel("INFO")
    logging.info("before")

    def app(environ, start_response):
        def later():
            rmeinheld.sleep(0.05)
            logging.info("spawned")
            spawn(logging.info, "twice").join()
            ended.set()

        path = environ["PATH_INFO"]
        if path == "/late":
            rmeinheld.sleep(60)
        if path == "/block":
            rmeinheld.patch.get_original("time", "sleep")(1)
        logging.info("own")
        if path == "/other":
            start_response("200 OK", [])
            return [b""]
        if path == "/fail":
            raise RuntimeError("failed")
        ended = threading.Event()
        spawn(later)
        offload(logging.info, "offloaded")
        thread = threading.Thread(target=logging.info, args=("thread",))
        thread.start()
        thread.join()
        start_response("200 OK", [])
        spawn(lambda: (ended.wait(), logging.info("last")))
        request = current_request()
        return [f"{request.request_id} {request.trace_id} {request.span_id} {request.request_line}".encode()]

    rmeinheld.run(app, port=0, OPTIONS)
    """


def test_records_have_the_ids_of_their_request(serve: Serve) -> None:
    server = serve.script(FILTERED.replace("OPTIONS", 'request_id="on"'))
    request_id, trace, span, line = server.get("/a?b").body.decode().split(" ", 3)
    other = server.get("/other")
    assert other.status == 200
    server.wait_for_log(re.compile(r"^last\|.*$", re.M))
    records = dict(re.findall(r"^(\w+)\|(.*)$", server.log(), re.M))
    expected = f"{request_id}|{trace}|{span}|GET /a?b"
    assert line == "GET /a?b"
    assert records["before"] == records["thread"] == "-|-|-|-"
    for message in ("offloaded", "spawned", "twice", "last"):
        assert records[message] == expected, message
    own = re.findall(r"^own\|(.*)$", server.log(), re.M)
    assert own[0] == expected
    assert own[1].endswith("|GET /other") and not own[1].startswith(request_id)


def test_the_servers_own_records_have_them_too(serve: Serve) -> None:
    server = serve.script(FILTERED.replace("OPTIONS", 'request_id="on"'))
    server.get("/fail")
    server.wait_for_log(re.compile(r"^Error handling request GET /fail\|[0-9a-f]{32}\|.*\|GET /fail$", re.M))


def test_the_record_of_a_request_that_is_ended_has_its_id(serve: Serve) -> None:
    server = serve.script(FILTERED.replace("OPTIONS", 'request_id="on", request_timeout=0.3'))
    assert server.get("/late").status == 504
    server.wait_for_log(r"^request GET /late \(after \d+\.\d+ s, id ([0-9a-f]{32})\) is ended(.*\n)+?.*\|\1\|")


def test_the_records_about_a_blocked_loop_have_the_id_of_the_request(serve: Serve) -> None:
    server = serve.script(FILTERED.replace("OPTIONS", 'request_id="on", block_warning=0.3'))
    assert server.get("/block").status == 200
    blocked = r"^request GET /block \(\d\.\d s old, id ([0-9a-f]{32})\) has blocked the loop(.*\n)+?.*\|\1\|"
    request_id = server.wait_for_log(blocked)[1]
    server.wait_for_log(rf"^request GET /block had blocked the loop for .*\|{request_id}\|")


def test_without_ids_records_have_the_request_line(serve: Serve) -> None:
    server = serve.script(FILTERED.replace("OPTIONS", ""))
    server.get("/other")
    server.wait_for_log(re.compile(r"^own\|-\|-\|-\|GET /other$", re.M))


# --- the terminal ----------------------------------------------------------------------------------------------------


def on_terminal(directory: Path, *options: str, environment: dict[str, str] | None = None) -> str:
    """The output of the command on a terminal for two requests; its other output goes elsewhere."""
    (directory / "shown_app.py").write_text(APPLICATION)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "rmeinheld", "--bind", "127.0.0.1:0", *options, "shown_app:app"],
        cwd=directory,
        env={**environment_of_child(directory), "TERM": "xterm", **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)
    assert process.stderr is not None
    try:
        said = b""
        while (address := re.search(rb"http://127\.0\.0\.1:(\d+)", said, re.I)) is None:
            piece = os.read(process.stderr.fileno(), 4096)
            assert piece, said
            said += piece
        with Connection(("127.0.0.1", int(address[1]))) as connection:
            connection.request(request("GET", "/first"))
            connection.request(request("GET", "/fail", "Connection: close"))
        process.send_signal(signal.SIGTERM)
        shown = b""
        while select.select([ours], [], [], TIMEOUT)[0]:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # EIO: the other side is closed
                break
        process.stderr.read()
        assert process.wait(TIMEOUT) == 0
        return shown.decode()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
        os.close(ours)


READABLE = re.compile(
    r"\d\d:\d\d:\d\d  200 +\d+\.\d ms +0 B  127\.0\.0\.1 +GET /first\r\n"
    r"\d\d:\d\d:\d\d  500 +\d+\.\d ms +[\d.]+ k?B  127\.0\.0\.1 +GET /fail\r\n"
)


def test_on_a_terminal_requests_are_shown_in_colours(tmp_path: Path) -> None:
    shown = on_terminal(tmp_path, environment={"NO_COLOR": ""})
    assert "\x1b[32m200\x1b[0m" in shown and "\x1b[31m500\x1b[0m" in shown
    assert READABLE.fullmatch(re.sub(r"\x1b\[\d+m", "", shown))


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_can_be_refused(tmp_path: Path, environment: dict[str, str]) -> None:
    assert READABLE.fullmatch(on_terminal(tmp_path, environment=environment))


def test_several_workers_show_requests_as_well(tmp_path: Path) -> None:
    assert READABLE.fullmatch(on_terminal(tmp_path, "-w", "2", environment={"NO_COLOR": "1"}))


def test_the_log_on_a_terminal_can_be_turned_off_or_changed(tmp_path: Path) -> None:
    assert on_terminal(tmp_path, "--no-access-log") == ""
    assert on_terminal(tmp_path, "--access-logfile", str(tmp_path / "log")) == ""
    assert (tmp_path / "log").read_text().count('"GET /first HTTP/1.1" 200') == 1
    assert on_terminal(tmp_path, "--access-logformat", "%(s)s") == "200\r\n500\r\n"


def test_no_access_log_wins_over_a_file(tmp_path: Path, log: Path) -> None:
    assert on_terminal(tmp_path, "--no-access-log", "--access-logfile", str(log)) == ""
    assert not log.exists()


def test_without_a_terminal_nothing_is_shown(serve: Serve) -> None:
    server = serve(APPLICATION)
    server.get("/first")
    server.stop()
    assert "/first" not in server.log()
