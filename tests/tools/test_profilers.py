"""Profilers and coverage see requests as they see the threads of another server. docs/tools.md has the table."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from serving import Serve, Server, request

APPLICATION = """
import json, sys, threading, time

def mine():
    time.sleep(0.25)
    work()

def work():
    return sum(range(1000)) + sum(number for number in range(20000))

def other():
    return sum(number for number in range(1000))

def names(seen):
    return sorted({"mine", "work", "other"} & set(seen))

def measured(environ):
    mine()
    return "measured"

CALLS = {"mine": measured, "other": lambda environ: other()}

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(CALLS[environ["PATH_INFO"][1:]](environ)).encode()]
"""


def needs(module: str, package: str | None = None) -> pytest.MarkDecorator:
    """Skip a test where the package is missing."""
    return pytest.mark.skipif(find_spec(module) is None, reason=f"pip install {package or module}")


def answers(server: Server, *paths: str) -> list[Any]:
    """Send requests that overlap, each on a connection of its own, and return their answers."""
    connections = [server.connect() for _ in paths]
    try:
        for connection, path in zip(connections, paths, strict=True):
            connection.send(request("GET", path))
            # In this order: the first waits when the second begins.
            connection.has_input(0.05)
        responses = [connection.read_response() for connection in connections]
    finally:
        for connection in connections:
            connection.close()
    assert all(response.status == 200 for response in responses), server.log()
    return [json.loads(response.body) for response in responses]


@pytest.fixture
def under(serve: Serve, tmp_path: Path) -> Callable[[Sequence[str]], Server]:
    """`under(command)`: a server of APPLICATION whose command line begins with that of a tool."""

    def start(tool: Sequence[str]) -> Server:
        (tmp_path / "measured_app.py").write_text(APPLICATION)
        return serve.command([sys.executable, *tool, "-m", "rmeinheld", "--bind", "127.0.0.1:0", "measured_app:app"])

    return start


# --- the interpreter's own -------------------------------------------------------------------------------------------


CPROFILE = """
import cProfile, pstats

def profiled(environ):
    profile = cProfile.Profile()
    try:
        profile.runcall(mine)
    except ValueError as error:
        return str(error)
    return names(name for _, _, name in pstats.Stats(profile).stats)

CALLS["profiled"] = profiled
"""


def test_cprofile_in_a_request_records_what_runs_while_it_waits(serve: Serve) -> None:
    """Since Python 3.12 cProfile watches the interpreter instead of a thread, on a server of threads too."""
    server = serve(APPLICATION + CPROFILE)
    assert answers(server, "/profiled", "/other") == [["mine", "other", "work"], 499500]
    first, second = answers(server, "/profiled", "/profiled")
    assert first == ["mine", "work"]
    # "Another profiling tool is already active", or, from 3.14 on, "tool 2 is already in use".
    assert "already" in second


def test_cprofile_of_the_whole_server_has_the_functions_of_requests(
    under: Callable[[Sequence[str]], Server], tmp_path: Path
) -> None:
    server = under(["-m", "cProfile", "-o", str(tmp_path / "profile")])
    answers(server, "/mine", "/mine", "/other")
    server.stop()
    shown = [sys.executable, "-m", "pstats", str(tmp_path / "profile")]
    text = subprocess.run(shown, input="stats measured_app\n", capture_output=True, text=True, check=True).stdout
    lines = [line for line in text.splitlines() if "measured_app.py:" in line]
    # Calls that overlap pass for recursion, and "2/1" is how they are shown.
    calls = {line.split("(")[-1].rstrip(")"): line.split()[0].split("/")[0] for line in lines}
    assert (calls["mine"], calls["work"], calls["other"]) == ("2", "2", "1"), text


HOOKS = """
def hooked(environ):
    install = getattr(threading, environ["QUERY_STRING"])
    seen = []
    install(lambda frame, event, argument: seen.append(frame.f_code.co_name))
    time.sleep(0.5)
    install(None)
    return names(seen)

CALLS["hooked"] = hooked
"""


@pytest.mark.parametrize("function", ["setprofile_all_threads", "settrace_all_threads"])
def test_a_hook_for_all_threads_reaches_requests_that_wait_and_later_ones(serve: Serve, function: str) -> None:
    server = serve(APPLICATION + HOOKS)
    _, names, _ = answers(server, "/mine", f"/hooked?{function}", "/other")
    # The call of mine() was over before, and a trace function begins with a call.
    assert set(names) >= {"work", "other"}
    # It is gone again.
    assert answers(server, f"/hooked?{function}") == [[]]


MONITORING = """
seen = []
MINE, START = sys.monitoring.PROFILER_ID, sys.monitoring.events.PY_START
sys.monitoring.use_tool_id(MINE, "a test")
sys.monitoring.register_callback(MINE, START, lambda code, offset: seen.append(code.co_name))
sys.monitoring.set_local_events(MINE, other.__code__, START)
CALLS["seen"] = lambda environ: seen
"""


def test_sys_monitoring_sees_the_functions_of_requests(serve: Serve) -> None:
    server = serve(APPLICATION + MONITORING)
    answers(server, "/other", "/other", "/mine")
    assert answers(server, "/seen") == [["other", "other"]]


# --- packages --------------------------------------------------------------------------------------------------------


@needs("coverage")
@pytest.mark.parametrize("core", ["ctrace", "sysmon"])
def test_coverage_counts_the_lines_that_requests_ran(
    under: Callable[[Sequence[str]], Server], tmp_path: Path, core: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COVERAGE_CORE", core)
    monkeypatch.setenv("COVERAGE_FILE", str(tmp_path / "data"))
    server = under(["-m", "coverage", "run", "--include=*/measured_app.py"])
    answers(server, "/mine")
    server.stop()
    command = [sys.executable, "-m", "coverage", "json", "-q", "-o", str(tmp_path / "json")]
    subprocess.run(command, check=True, cwd=tmp_path)
    missing = next(iter(json.loads((tmp_path / "json").read_text())["files"].values()))["missing_lines"]
    lines = APPLICATION.splitlines()
    assert [lines[number - 1].strip() for number in missing] == [
        "return sum(number for number in range(1000))",
        'return sorted({"mine", "work", "other"} & set(seen))',
    ]


@needs("viztracer")
def test_viztracer_draws_requests(under: Callable[[Sequence[str]], Server], tmp_path: Path) -> None:
    server = under(["-m", "viztracer", "-o", str(tmp_path / "trace.json"), "--ignore_c_function", "--quiet"])
    answers(server, "/mine", "/other")
    server.stop()
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    durations = {event["name"].split(" ")[0]: event["dur"] for event in events if "measured_app" in event["name"]}
    assert durations["mine"] >= 250_000 > durations["other"]


YAPPI = """
import yappi

def start(environ):
    yappi.set_clock_type("wall")
    yappi.start()

def stop(environ):
    yappi.stop()
    return {s.name: [s.ncall, s.ttot] for s in yappi.get_func_stats() if s.name in ("mine", "other")}

CALLS |= {"start": start, "stop": stop}
"""


@needs("yappi")
def test_yappi_keeps_the_times_of_requests_apart(serve: Serve) -> None:
    server = serve(APPLICATION + YAPPI)
    answers(server, "/start")
    answers(server, "/mine", "/mine", "/other")
    (found,) = answers(server, "/stop")
    assert (found["mine"][0], found["other"][0]) == (2, 1)
    assert found["mine"][1] >= 0.5
    assert found["other"][1] < 0.2


PYINSTRUMENT = """
from pyinstrument import Profiler

def profiled(environ):
    with Profiler(interval=0.0005) as profiler:
        mine()
    return profiler.output_text(show_all=True)

CALLS["profiled"] = profiled
"""


@needs("pyinstrument")
def test_pyinstrument_profiles_one_request_and_no_other(serve: Serve) -> None:
    server = serve(APPLICATION + PYINSTRUMENT)
    first, second, _ = answers(server, "/profiled", "/profiled", "/other")
    for text in (first, second):
        assert "mine" in text
        assert "cooperative_sleep" in text
        assert "other" not in text
