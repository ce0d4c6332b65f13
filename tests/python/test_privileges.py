"""`--user`, `--group` and `--umask`: root opens sockets and logs, and the application runs as another user."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from masters import wait_until
from rmeinheld.privileges import Identity, identity_of
from serving import TIMEOUT, Process, environment_of_child

APPLICATION = """
import json, os

def identity():
    return [*os.getresuid(), *os.getresgid(), sorted(os.getgroups())]

AT_IMPORT = identity()

def app(environ, start_response):
    start_response("200 OK", [])
    with open("/proc/self/status") as file:
        mask = [line.split()[1] for line in file if line.startswith("Umask")]
    return [json.dumps({"import": AT_IMPORT, "request": identity(), "mask": mask}).encode()]
"""

HIDE = """
mkdir -p "$1/python"
mount --bind "$2" "$1/python"
mount -t tmpfs -o mode=755 tmpfs "$3"
mkdir -p "$2"
mount --bind "$1/python" "$2"
shift 3
exec "$@"
"""
"""Shows the installation of Python ($2) to every user, although its home directory ($3) belongs to root alone."""

NOBODY = pwd.getpwnam("nobody")

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user can read; those of pytest belong to root alone."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    (directory / "who.py").write_text(APPLICATION)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def command(place: Path) -> Iterator[Callable[..., Process]]:
    """`command(*options)`: the command, on the Unix socket `site.sock`, started and ready."""
    started: list[Process] = []

    def start(*options: str, program: tuple[str, ...] = ("-m", "rmeinheld"), until: str = "listening at") -> Process:
        words = [sys.executable, *program, "--bind", "unix:site.sock", *options, "who:app"]
        base = Path(sys.base_prefix).resolve()
        if home := next((parent for parent in base.parents if not parent.stat().st_mode & stat.S_IXOTH), None):
            names = [str(path) for path in (place, base, home)]
            words = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", HIDE, "sh", *names, *words]
        environment = {**environment_of_child(place), "PYTHONDONTWRITEBYTECODE": "1"}
        process = Process(words, place, environment)
        started.append(process)
        process.wait_for_log(until)
        return process

    yield start
    for process in started:
        print(process.log())
        process.kill()


def ask(place: Path) -> dict[str, list[object]]:
    """The users and groups that the application reports."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(TIMEOUT)
        client.connect(str(place / "site.sock"))
        client.sendall(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        received = b""
        while data := client.recv(65536):
            received += data
    seen: dict[str, list[object]] = json.loads(received.partition(b"\r\n\r\n")[2])
    return seen


def owner(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid


@only_root
def test_the_application_runs_as_the_user(place: Path, command: Callable[..., Process]) -> None:
    logs = ("--access-logfile", "access.log", "--error-logfile", "error.log", "--pid", "site.pid")
    server = command("--user", "nobody", "--umask", "027", *logs)
    user, group = NOBODY.pw_uid, NOBODY.pw_gid
    expected = [user, user, user, group, group, group, sorted(os.getgrouplist("nobody", group))]
    assert ask(place) == {"import": expected, "request": expected, "mask": ["0027"]}
    # Root has made these, and the user can open them again.
    for name in ("site.sock", "access.log", "error.log", "site.pid"):
        assert owner(place / name) == (user, group), name
    assert stat.S_IMODE((place / "site.sock").stat().st_mode) == 0o750
    (place / "access.log").rename(place / "access.old")
    (place / "access.log").touch()
    os.chown(place / "access.log", user, group)
    server.signal(signal.SIGUSR1)
    wait_until(lambda: bool(ask(place)) and '"GET / HTTP/1.1" 200' in (place / "access.log").read_text(), server.log)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert "root" not in (place / "error.log").read_text()


@only_root
def test_several_workers_run_as_the_user(place: Path, command: Callable[..., Process]) -> None:
    place.joinpath("who.py").write_text(APPLICATION)
    server = command("--workers", "2", "--user", "nobody", "--umask", "027", until="Workers ready")
    user, group = NOBODY.pw_uid, NOBODY.pw_gid
    expected = [user, user, user, group, group, group, sorted(os.getgrouplist("nobody", group))]
    seen = ask(place)
    assert (seen["import"], seen["request"]) == (expected, expected)
    assert owner(place / "site.sock") == (user, group)
    assert "runs as root" not in server.log()
    # The master, which stays root, starts others.
    server.signal(signal.SIGHUP)
    server.wait_for_log("Workers ready(.|\n)*Workers ready")
    assert ask(place)["request"] == expected
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert "[ERROR]" not in server.log()


@only_root
def test_workers_of_root_have_only_the_groups_that_are_asked_for(place: Path, command: Callable[..., Process]) -> None:
    numbers = ("--user", "54321", "--group", "12345", "--no-initgroups")
    server = command("--workers", "2", *numbers, until="Workers ready")
    assert ask(place)["request"] == [54321, 54321, 54321, 12345, 12345, 12345, [12345]]
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


@only_root
def test_workers_that_stay_root_are_warned_of_once(place: Path, command: Callable[..., Process]) -> None:
    server = command("--workers", "2", until="Workers ready")
    assert server.log().count("[WARNING] the server runs as root") == 1
    assert ask(place)["request"][0] == 0


@only_root
def test_a_group_and_numbers(place: Path, command: Callable[..., Process]) -> None:
    command("--user", "54321", "--group", "12345", "--no-initgroups")
    expected = [54321, 54321, 54321, 12345, 12345, 12345, [12345]]
    assert ask(place)["request"] == expected
    assert owner(place / "site.sock") == (54321, 12345)


@only_root
def test_root_is_warned(place: Path, command: Callable[..., Process]) -> None:
    server = command()
    assert "[WARNING] the server runs as root, so a fault of the application has root's rights; --user" in server.log()
    assert ask(place)["request"][0] == 0


@only_root
def test_files_of_others_and_links_keep_their_owner(place: Path) -> None:
    (place / "target").touch()
    (place / "link").symlink_to("target")
    os.link(place / "target", place / "second name")
    (place / "other").touch()
    os.chown(place / "other", 12345, 12345)
    (place / "plain").touch()
    identity = Identity(54321, 54321, (54321,))
    identity.own(str(place / name) for name in ("link", "target", "other", "plain"))
    found = [owner(place / name)[0] for name in ("link", "target", "other", "plain")]
    assert found == [0, 0, 12345, 54321]


@only_root
def test_another_user_than_root_cannot_change_the_user(place: Path, command: Callable[..., Process]) -> None:
    become = (
        "import os, sys; os.setgid(65534); os.setuid(65534); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    place.chmod(0o777)
    program = ("-c", become, "-m", "rmeinheld")
    server = command("--user", "daemon", program=program, until="error")
    assert server.wait() == 1
    assert "only root can become user 'daemon' in group 1; this process runs as user 'nobody'" in server.log()
    # The user that it is already is no change.
    command("--user", "nobody", program=program)
    assert ask(place)["request"][0] == NOBODY.pw_uid


@pytest.mark.parametrize(
    ("user", "group", "message"),
    [
        ("no-such-user", None, "user: this machine has no user 'no-such-user'"),
        (None, "no-such-group", "group: this machine has no group 'no-such-group'"),
        ("54321", None, "user '54321' has no entry in the list of users, so its group is unknown; give a group"),
        ("99999999999", None, "user must be a name or a number from 0 to 4294967294, not '99999999999'"),
        (None, "4294967295", "group must be a name or a number from 0 to 4294967294, not '4294967295'"),
        ("-1", None, "user: this machine has no user '-1'"),
    ],
)
def test_a_bad_name_is_an_error_that_names_it(user: str | None, group: str | None, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        identity_of(user, group)
    assert str(caught.value) == message


def test_without_options_there_is_no_identity() -> None:
    assert identity_of(None, None) is None
