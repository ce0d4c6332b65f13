"""Messages and descriptors between the workers of a service, and what the death of one does to the others."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from crews import Service, Worker, service
from masters import wait_until

NOBODY = 65534
IS_ROOT = os.geteuid() == 0

MOST_PAYLOAD = 1 << 20


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Service]:
    with service(tmp_path / "log") as made:
        yield made


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="crew") as path:
        yield Path(path)


def socket_of(crew: Service, worker: Worker) -> str:
    return f"{crew.place}/{worker.slot}-{crew.board.generation(worker.slot)}.v1"


def test_messages_of_one_sender_arrive_in_order(crew: Service) -> None:
    one, two = crew.worker(), crew.worker()
    assert one.ask("[crew.send(1, 7, b'%d' % number) for number in range(500)] == [None] * 500")
    assert two.ask("until(lambda: len(heard) == 500)")
    assert two.ask("heard") == [(0, b"%d" % number) for number in range(500)]
    assert two.ask("crew.counts()") == {"sent": 0, "received": 500, "refused": 0, "lost": 0, "faults": 0}
    assert one.ask("crew.siblings()") == [(1, 1, two.pid)]
    assert one.log == ""


WAITING = """
gate = _rmeinheld.Event()

def wait(slot, generation, payload, descriptors):
    if slot == 0:
        gate.wait()
    heard.append(payload)

crew.on(7, wait)
"""


def test_a_handler_that_waits_holds_up_its_sender_alone(crew: Service) -> None:
    one, two, three = crew.worker(), crew.worker(), crew.worker()
    two.define(WAITING)
    one.ask("[crew.send(1, 7, b'one %d' % number) for number in range(3)]")
    three.ask("[crew.send(1, 7, b'three %d' % number) for number in range(3)]")
    assert two.ask("until(lambda: len(heard) == 3)")
    assert two.ask("heard") == [b"three 0", b"three 1", b"three 2"]
    two.ask("gate.set()")
    assert two.ask("until(lambda: len(heard) == 6)")
    assert two.ask("heard[3:]") == [b"one 0", b"one 1", b"one 2"]


def test_an_exception_of_a_handler_is_logged_and_the_next_message_comes(crew: Service) -> None:
    one, two = crew.worker(), crew.worker()
    two.ask("crew.on(8, lambda *message: 1 / 0)")
    one.ask("(crew.send(1, 8, b''), crew.send(1, 9, b'no handler'), crew.send(1, 7, b'next'))")
    assert two.ask("until(lambda: heard == [(0, b'next')])")
    assert two.log.count("ZeroDivisionError") == 1
    assert "which handles messages of siblings" in two.log


def test_descriptors_are_passed_and_none_is_left_open(crew: Service) -> None:
    one, two = crew.worker(), crew.worker()
    one.ask("crew.send(1, 7, b'first')")
    assert two.ask("until(lambda: len(heard) == 1)")
    before = [worker.ask("open_descriptors()") for worker in (one, two)]
    one.ask("setattr(threading, 'pipe', os.pipe())")
    for number in range(30):
        one.ask(f"crew.send(1, 7, b'{number}', [threading.pipe[1]] * {number % 17})")
    # A message without a handler takes its descriptors with it.
    one.ask("crew.send(1, 9, b'', [threading.pipe[1]] * 3)")
    one.ask("crew.send(1, 7, b'last', (threading.pipe[1],))")
    assert two.ask("until(lambda: heard[-1] == (0, b'last'))")
    expected = b"from %d" % two.pid * (sum(number % 17 for number in range(30)) + 1)
    assert one.ask(f"os.read(threading.pipe[0], 65536) == {expected!r}")
    one.ask("[os.close(number) for number in threading.pipe]")
    assert [worker.ask("open_descriptors()") for worker in (one, two)] == before


def test_descriptors_that_a_worker_has_no_room_for_are_lost_with_a_line_that_names_the_limit(crew: Service) -> None:
    one, two = crew.worker(), crew.worker()
    one.ask("crew.send(1, 7, b'first')")
    assert two.ask("until(lambda: len(heard) == 1)")
    two.ask("resource.setrlimit(resource.RLIMIT_NOFILE, (open_descriptors() + 1, 4096))")
    one.ask("crew.send(1, 7, b'many', [0] * 16)")
    assert two.ask("until(lambda: crew.counts()['faults'] == 1)")
    two.ask("resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 4096))")
    wait_until(lambda: "raise the limit of open files (ulimit -n)" in two.log, lambda: two.log)
    # The next message finds the worker again.
    wait_until(lambda: one.ask("crew.send(1, 7, b'next')") is None, lambda: one.log)
    assert two.ask("until(lambda: heard[-1] == (0, b'next'))")
    assert two.ask("[slot for slot, _ in heard]") == [0] * two.ask("len(heard)")


REFUSED = [
    (
        f"1, 7, bytes({MOST_PAYLOAD + 1})",
        f"ValueError: a payload of {MOST_PAYLOAD + 1} bytes is longer than the limit",
    ),
    ("1, 7, b'', [0] * 17", "ValueError: 17 descriptors are more than the limit of 16 for one message"),
    ("1, 0, b''", "ValueError: the kind of a message is a number from 2 to 255, not 0"),
    ("1, 256, b''", "ValueError: the kind of a message is a number from 2 to 255, not 256"),
    ("0, 7, b''", "ValueError: slot 0 is this worker's own"),
    ("5, 7, b''", "ConnectionRefusedError: [Errno 111] slot 5 has no worker that takes messages"),
    ("99, 7, b''", "ConnectionRefusedError: [Errno 111] slot 99 has no worker that takes messages"),
    ("1, 7, 'text'", "TypeError: "),
    ("1, 7, b'', [999]", "OSError: [Errno 9] Bad file descriptor"),
    ("1, 7, b'', [-1]", "OSError: [Errno 9] Bad file descriptor"),
]


def test_a_message_that_cannot_be_sent_is_refused_by_name(crew: Service) -> None:
    one, two = crew.worker(), crew.worker()
    for call, error in REFUSED:
        assert one.ask(f"crew.send({call})").startswith(error)
    one.ask(f"crew.send(1, 7, bytes({MOST_PAYLOAD}))")
    assert two.ask("until(lambda: heard == [(0, 1 << 20)])")


def test_a_slow_sibling_with_a_full_queue_holds_up_no_other(crew: Service) -> None:
    one, two, slow = crew.worker(), crew.worker(), crew.worker()
    # Not patched, so this keeps the loop.
    slow.ask("_rmeinheld.spawn(time.sleep, 3600) and None")
    error = one.ask("[crew.send(2, 7, bytes(100_000)) for _ in range(1000)]")
    assert error.startswith("BlockingIOError: [Errno 11]"), error
    assert "wait for the worker of slot 2" in error
    for number in range(100):
        assert one.ask(f"crew.send(1, 7, b'{number}')") is None
        assert two.ask(f"until(lambda: len(heard) == {number + 1})")
    counts = one.ask("crew.counts()")
    assert (counts["refused"], counts["lost"]) == (1, 0)
    crew.reap(slow)
    assert one.ask("until(lambda: crew.counts()['lost'] > 50)")


def test_a_sibling_that_is_killed_is_forgotten_and_its_successor_found(crew: Service) -> None:
    one, two = crew.worker(), crew.worker()
    two.ask("crew.send(0, 7, b'here')")
    assert one.ask("until(lambda: len(heard) == 1)")
    one.ask("crew.send(1, 7, b'to the first')")
    crew.reap(two)
    assert one.ask("until(lambda: gone == [(1, 1)])")
    assert one.ask("crew.send(1, 7, b'')").startswith("ConnectionRefusedError")
    successor = crew.worker()
    assert successor.slot == 1
    assert sorted(os.listdir(crew.place)) == ["0-1.v1", "1-2.v1"]
    assert one.ask("crew.send(1, 7, b'to the second')") is None
    assert successor.ask("until(lambda: heard == [(0, b'to the second')])")


VICTIM = """
def close_all(slot, generation, payload, descriptors):
    for number in descriptors:
        os.close(number)

def talk():
    while True:
        for slot in (0, 1):
            try:
                crew.send(slot, 7, bytes(3000), [0] * 3)
            except BlockingIOError:
                pass
        time.sleep(0.0005)

crew.on(7, close_all)
threading.Thread(target=talk, daemon=True).start()
"""


def test_workers_that_are_killed_at_any_moment_harm_no_other(crew: Service) -> None:
    """A victim sends and receives descriptors without a pause, and dies at a random moment."""
    chance = random.Random(5)
    one, two = crew.worker(), crew.worker()
    for worker in (one, two):
        worker.define(
            "def hear_all(slot, generation, payload, descriptors):\n hear(slot, generation, payload, [])\n"
            " for number in descriptors:\n  os.close(number)\n"
        )
        worker.ask("crew.on(7, hear_all)")
    idle = []
    for round_ in range(8):
        victim = crew.worker()
        victim.define(VICTIM)
        until = time.monotonic() + chance.uniform(0.01, 0.15)
        while time.monotonic() < until:
            for worker in (one, two):
                answer = worker.ask(f"crew.send({victim.slot}, 7, bytes(70_000), [0] * 5)")
                assert answer is None or "BlockingIOError" in answer
            assert one.ask("crew.send(1, 7, b'meanwhile')") is None
        crew.reap(victim)
        for worker in (one, two):
            assert worker.ask(f"until(lambda: ({victim.slot}, {round_ + 1}) in gone)")
            # This message makes the worker forget the dead one.
            assert worker.ask(f"crew.send({victim.slot}, 7, b'')").startswith("ConnectionRefusedError")
        assert one.ask(f"crew.send(1, 7, b'after {round_}')") is None
        assert two.ask(f"until(lambda: (0, b'after {round_}') in heard)")
        idle.append([worker.ask("open_descriptors()") for worker in (one, two)])
    assert idle == [idle[0]] * 8
    assert [worker.ask("crew.counts()['faults']") for worker in (one, two)] == [0, 0]
    assert one.log == ""


def test_a_flood_of_garbage_ends_its_connections_and_nothing_else(crew: Service) -> None:
    one, two = crew.worker(), crew.worker()
    one.ask("crew.send(1, 7, b'before')")
    path = socket_of(crew, two)
    chance = random.Random(7)
    connections = 0
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline and connections < 2000:
        with socket.socket(socket.AF_UNIX) as stray, suppress(OSError):
            stray.connect(path)
            connections += 1
            stray.sendall(chance.randbytes(chance.choice([1, 8, 100, 70_000])))
    assert one.ask("crew.send(1, 7, b'after')") is None
    assert two.ask("until(lambda: heard == [(0, b'before'), (0, b'after')])")
    # Pieces that are shorter than a header end with their connection, and are no fault.
    assert two.ask(f"until(lambda: crew.counts()['faults'] >= {connections // 2})")
    lines = two.log.splitlines()
    assert 1 <= len(lines) <= 8, lines
    assert all("closed a connection to the crew's socket" in line for line in lines)


def test_a_flood_of_idle_connections_keeps_no_sibling_out(crew: Service) -> None:
    one, two = crew.worker(), crew.worker()
    one.ask("crew.send(1, 7, b'known')")
    path = socket_of(crew, two)
    with ExitStack() as idle:
        for _ in range(1100):
            stray = idle.enter_context(socket.socket(socket.AF_UNIX))
            stray.connect(path)
        three = crew.worker()
        assert three.ask("crew.send(1, 7, b'new')") is None
        assert one.ask("crew.send(1, 7, b'still known')") is None
        assert two.ask("until(lambda: {(2, b'new'), (0, b'still known')} <= set(heard))")
    assert two.ask("crew.counts()['faults']") >= 70


def test_a_process_that_claims_to_be_another_worker_is_refused(crew: Service) -> None:
    crew.worker()
    two = crew.worker()
    with socket.socket(socket.AF_UNIX) as liar:
        liar.connect(socket_of(crew, two))
        hello = b"crew" + (0).to_bytes(4, "little") + (1).to_bytes(8, "little")
        liar.sendall((16).to_bytes(4, "little") + b"\1\0\0\0" + hello)
        assert liar.recv(1) == b""
    wait_until(lambda: "it claims to be the worker of slot 0, which it is not" in two.log, lambda: two.log)
    assert f"process {os.getpid()}" in two.log


@pytest.mark.skipif(not IS_ROOT, reason="root alone becomes another user")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_connection_of_another_user_is_refused(tmp_path: Path, workers: int) -> None:
    with service(tmp_path / "log", workers) as crew:
        one, two = crew.worker(), crew.worker()
        if workers == 1:
            address = f"\\0{crew.place[1:]}/1-1.v1"
        else:
            # The directory keeps others out. Here it is open by mistake.
            os.chmod(crew.place, 0o755)
            os.chmod(socket_of(crew, two), 0o777)
            address = socket_of(crew, two)
        script = f"""
import os, socket
os.setgid({NOBODY}); os.setuid({NOBODY})
stray = socket.socket(socket.AF_UNIX)
stray.connect("{address}")
print(stray.recv(1))
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert done.stdout == "b''\n", done.stderr
        assert f"refused a connection of user {NOBODY}" in two.log
        assert "only user 0 and root may connect" in two.log
        one.ask("crew.send(1, 7, b'on')")
        assert two.ask("until(lambda: heard == [(0, b'on')])")


@pytest.mark.skipif(not IS_ROOT, reason="root alone becomes another user")
def test_a_process_of_another_user_in_the_place_of_a_sibling_gets_nothing(tmp_path: Path) -> None:
    with service(tmp_path / "log", 1) as crew:
        one = crew.worker()
        slot = crew.board.reserve()
        # The worker of the slot lives, and a stranger has taken its abstract name.
        script = f"""
import os, socket, sys
os.setgid({NOBODY}); os.setuid({NOBODY})
stray = socket.socket(socket.AF_UNIX)
stray.bind("\\0{crew.place[1:]}/{slot}-1.v1")
stray.listen()
print(flush=True)
sys.stdin.read()
"""
        with subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as stranger:
            assert stranger.stdout is not None
            stranger.stdout.readline()
            crew.board.claim(slot)
            answer = one.ask(f"crew.send({slot}, 7, b'secret')")
            stranger.kill()
        assert (
            answer
            == f"PermissionError: [Errno 1] the socket of slot {slot} belongs to a process of user {NOBODY}, "
            + ("which is not of this service")
        )


@pytest.mark.skipif(not IS_ROOT, reason="root alone mounts file systems")
def test_workers_find_each_other_where_the_directory_has_become_full(tmp_path: Path, short: Path) -> None:
    script = f"""
import sys
sys.path[:0] = {sys.path!r}
import os, subprocess
from pathlib import Path
from crews import Service
from rmeinheld import crew_directory
base = "{short}"
if subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=4", "none", base]).returncode:
    sys.exit(77)
os.environ["RUNTIME_DIRECTORY"] = base
place = crew_directory.make()
assert str(place).startswith(base), place.reason
with Service(str(place), Path("{tmp_path}/log")) as crew:
    one = crew.worker()
    (place.directory / "filler").touch()
    two = crew.worker()
    print(sorted(os.listdir(place.directory)))
    print(one.ask("crew.send(1, 7, b'to the abstract one')"), two.ask("crew.send(0, 7, b'to the path')"))
    print(one.ask("until(lambda: heard)") and one.ask("heard"), two.ask("until(lambda: heard)") and two.ask("heard"))
os.unlink(place.directory / "filler")
print(crew_directory.remove(place))
"""
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    if done.returncode == 77 or "unshare:" in done.stderr:
        pytest.skip(f"no mount namespace: {done.stderr.strip()}")
    assert done.stdout.splitlines() == [
        "['0-1.v1', 'filler']",
        "None None",
        "[(1, b'to the path')] [(0, b'to the abstract one')]",
        "True",
    ], done.stderr


SILENT = """
import os, sys
from rmeinheld import _rmeinheld
board = _rmeinheld.Scoreboard(4)
slot = board.reserve()
board.claim(slot)
before = os.listdir("/proc/self/fd"), os.listdir("/proc/self/task"), os.listdir(sys.argv[1])
crew = _rmeinheld.Crew(sys.argv[1], slot, board)
assert (crew.siblings(), crew.counts(), crew.slot) == ([], {}, 0)
print((os.listdir("/proc/self/fd"), os.listdir("/proc/self/task"), os.listdir(sys.argv[1])) == before)
crew.on(7, print)
print(os.listdir(sys.argv[1]))
"""


def test_a_worker_that_sends_and_hears_nothing_opens_no_socket_and_starts_no_loop() -> None:
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-c", SILENT, place]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert output == "True\n['0-1.v1']\n"


def test_a_closed_crew_says_so_and_leaves_no_socket(crew: Service) -> None:
    one, two = crew.worker(), crew.worker()
    one.ask("crew.send(1, 7, b'first')")
    assert two.ask("until(lambda: len(heard) == 1)")
    one.ask("crew.close()")
    assert sorted(os.listdir(crew.place)) == ["1-1.v1"]
    assert two.ask("until(lambda: gone == [(0, 1)])")
    for call in ("send(1, 7, b'')", "on(7, hear)"):
        assert one.ask(f"crew.{call}") == "RuntimeError: the crew is closed in this process"
    one.ask("crew.close()")


CHILD = """
def status_of_child():
    child = os.fork()
    if child == 0:
        try:
            crew.send(1, 7, b"child")
        except RuntimeError:
            crew.close()
            os._exit(3)
        os._exit(4)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def test_a_forked_child_of_a_worker_is_no_member_of_the_crew(crew: Service) -> None:
    one, two = crew.worker(), crew.worker()
    one.ask("crew.send(1, 7, b'before')")
    one.define(CHILD)
    assert one.ask("status_of_child()") == 3
    assert one.ask("crew.send(1, 7, b'after')") is None
    assert two.ask("until(lambda: heard == [(0, b'before'), (0, b'after')])")
    two.ask("crew.send(0, 7, b'to the parent')")
    assert one.ask("until(lambda: heard == [(1, b'to the parent')])")


NOT_JOINED = [
    ("'relative', slot, board", 'ValueError: a crew\'s place is an absolute path, or @ and a name, not "relative"'),
    ("place, 99, board", "ValueError: the scoreboard has slots 0 to 7, not 99"),
    ("place, 5, board", "RuntimeError: this process has not claimed slot 5: call scoreboard.claim(5) first"),
]


def test_a_crew_that_cannot_be_joined_is_refused_by_name(crew: Service) -> None:
    worker = crew.worker()
    for arguments, error in NOT_JOINED:
        assert worker.ask(f"_rmeinheld.Crew({arguments})") == error
