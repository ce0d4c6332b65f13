"""The notes to systemd: a socket of the test's own stands for the service manager."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path

import pytest

from health_probes import service_manager
from rmeinheld._rmeinheld import Scoreboard
from rmeinheld.health import Health
from rmeinheld.systemd import Notifier
from serving import Serve, request

APP = """
import os
from rmeinheld.coroutine import sleep

def app(environ, start_response):
    if environ["PATH_INFO"] == "/compute":
        os.write(2, b"computes\\n")
        while not os.path.exists("go"):
            pass
    if environ["PATH_INFO"] == "/wait":
        sleep(float(environ["QUERY_STRING"]))
    start_response("200 OK", [("Content-Length", "0")])
    return []
"""


@pytest.mark.parametrize("is_abstract", [False, True])
def test_each_state_is_a_note(is_abstract: bool) -> None:
    with service_manager(20_000_000, is_abstract=is_abstract) as manager:
        notifier = Notifier()
        assert (notifier.is_on, notifier.watchdog_interval) == (True, 10.0)
        notifier.ready("2 of 2\nworkers")
        assert manager.read().fields == {"READY": "1", "STATUS": "2 of 2 workers"}
        notifier.status("2 of 2 workers")
        before = time.monotonic_ns() // 1000
        notifier.reloading()
        fields = manager.read().fields
        assert fields.pop("RELOADING") == "1"
        assert before <= int(fields.pop("MONOTONIC_USEC")) <= time.monotonic_ns() // 1000
        assert fields == {}
        notifier.beat("serving")
        assert manager.read().fields == {"WATCHDOG": "1", "STATUS": "serving"}
        notifier.main_pid(17)
        assert manager.read().fields == {"MAINPID": "17"}
        notifier.stopping(30, "stopping")
        assert manager.read().fields == {"STOPPING": "1", "STATUS": "stopping", "EXTEND_TIMEOUT_USEC": "40000000"}
        notifier.extend_timeout(2.5)
        assert manager.read().fields == {"EXTEND_TIMEOUT_USEC": "12500000"}
        with notifier.hidden():
            assert "NOTIFY_SOCKET" not in os.environ
        assert "NOTIFY_SOCKET" in os.environ


def test_without_a_service_manager_nothing_happens() -> None:
    notifier = Notifier({})
    assert (notifier.is_on, notifier.watchdog_interval) == (False, None)
    notifier.ready()
    notifier.beat("serving")
    notifier.stopping(30)


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"NOTIFY_SOCKET": "relative"}, "NOTIFY_SOCKET='relative' is neither an absolute path nor @name"),
        ({"NOTIFY_SOCKET": "vsock:2:1"}, "NOTIFY_SOCKET='vsock:2:1' is neither"),
        ({"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "soon"}, "WATCHDOG_USEC='soon' is no number of microseconds"),
        ({"NOTIFY_SOCKET": "/nowhere/" + 200 * "a"}, "systemd was not notified"),
        ({"NOTIFY_SOCKET": "/nowhere"}, r"systemd was not notified \(READY=1\) by NOTIFY_SOCKET='/nowhere': .*No such"),
    ],
)
def test_a_socket_or_number_that_is_no_good_is_one_line_in_the_log(
    variables: dict[str, str], complaint: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "rmeinheld.error"):
        notifier = Notifier(variables)
        for _ in range(3):
            notifier.ready()
    (line, *others) = [record.getMessage() for record in caplog.records]
    assert __import__("re").search(complaint, line), line
    assert all("not notified" in other for other in others) and len(others) <= 1


def test_the_watchdog_of_another_process_gets_no_beats() -> None:
    with service_manager(1_000_000):
        os.environ["WATCHDOG_PID"] = "999999999"
        assert Notifier().watchdog_interval is None
        os.environ["WATCHDOG_PID"] = str(os.getpid())
        assert Notifier().watchdog_interval == 0.5


def test_a_full_socket_holds_up_nothing() -> None:
    with service_manager(1_000_000):
        notifier = Notifier()
        started = time.monotonic()
        for _ in range(2000):
            notifier.beat()
        assert time.monotonic() - started < 10


def test_a_service_gets_beats_while_one_of_its_workers_turns() -> None:
    board = Scoreboard(4)
    with service_manager(1) as manager:
        notifier = Notifier()
        slot = board.reserve()
        notifier.beat_if_due(board)
        assert manager.read().fields == {
            "STATUS": "0 of 1 workers ready, 0 requests answered, 0 in progress, 0 connections"
        }
        board.set_state(slot, "ready")
        notifier.beat_if_due(board)
        fields = manager.read().fields
        assert fields.pop("STATUS").startswith("1 of 1 workers ready, ")
        assert fields == {"WATCHDOG": "1"}


def test_the_command_line_is_ready_when_it_serves_and_reports_its_stop(serve: Serve) -> None:
    with service_manager() as manager:
        server = serve(APP, graceful_timeout=30)
        ready = manager.read_until("READY")
        assert ready.fields["STATUS"] == "serving: 0 requests answered, 0 in progress, 0 connections"
        assert server.get("/").status == 200
        with server.connect() as connection:
            connection.send(request("GET", "/wait?0.3"))
            time.sleep(0.1)
            server.signal(signal.SIGTERM)
            stopping = manager.read_until("STOPPING")
            assert stopping.fields["EXTEND_TIMEOUT_USEC"] == "40000000"
            assert connection.read_response().status == 200
        assert server.wait() == 0


def test_a_reload_of_a_single_process_ends_with_ready_even_if_it_fails() -> None:
    def fail() -> None:
        raise ValueError("no good")

    with service_manager() as manager:
        reload = Health(ends_process=True).reloads(fail)
        with pytest.raises(ValueError, match="no good"):
            reload()
        assert [list(manager.read().fields) for _ in range(2)] == [["RELOADING", "MONOTONIC_USEC"], ["READY"]]


def test_nothing_is_ready_before_the_import_has_ended(serve: Serve) -> None:
    with service_manager() as manager:
        serve("import time; time.sleep(0.5)\n" + APP)
        assert manager.read_until("READY") is manager.notes[0]
    assert manager.notes[0].fields["READY"] == "1"


def test_the_watchdog_gets_beats_only_while_the_loop_turns(serve: Serve, tmp_path: Path) -> None:
    with service_manager(200_000) as manager:
        server = serve(APP)
        manager.read_until("READY")
        first = manager.read_until("WATCHDOG")
        second = manager.read_until("WATCHDOG")
        assert second.at - first.at < 5
        with server.connect() as connection:
            connection.send(request("GET", "/compute"))
            server.wait_for_log("^computes$")
            manager.read_all()
            time.sleep(0.6)
            assert [note for note in manager.read_all() if "WATCHDOG" in note.fields] == []
            (tmp_path / "go").touch()
            assert connection.read_response().status == 200
        manager.read_until("WATCHDOG")


def test_a_program_that_calls_run_is_ready_and_its_stop_is_its_own_business(serve: Serve) -> None:
    with service_manager() as manager:
        server = serve.script(APP + "\nimport rmeinheld\nrmeinheld.run(app, port=0)\nprint('and on')\n")
        manager.read_until("READY")
        server.stop()
        server.wait_for_log("^and on$")
        assert [note for note in manager.read_all() if "STOPPING" in note.fields] == []
