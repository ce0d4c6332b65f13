"""The directory of a crew: chosen, private, handed on, removed, and recognised when its service was killed."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from masters import wait_until
from rmeinheld import crew_directory

NOBODY = 65534
IS_ROOT = os.geteuid() == 0


@pytest.fixture(autouse=True)
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory that systemd would have made for the service. Its path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="crew") as path:
        monkeypatch.setenv("RUNTIME_DIRECTORY", path)
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        yield Path(path)


def names_in(base: Path) -> list[str]:
    return sorted(path.name for path in base.iterdir())


def bind_in(directory: Path, name: str) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(directory / name))


def test_a_directory_is_private_and_its_name_cannot_be_predicted(base: Path) -> None:
    places = [crew_directory.make() for _ in range(2)]
    for place in places:
        assert place.directory is not None
        assert place.directory.parent == base
        assert str(place) == str(place.directory)
        status = place.directory.stat()
        assert stat.S_IMODE(status.st_mode) == 0o700
        assert status.st_uid == os.geteuid()
        assert names_in(place.directory) == []
    assert len({place.token for place in places}) == 2
    assert all(crew_directory.remove(place) for place in places)
    assert names_in(base) == []


def test_the_mask_of_the_process_takes_nothing_from_the_owner(base: Path) -> None:
    before = os.umask(0o777)
    try:
        place = crew_directory.make()
    finally:
        os.umask(before)
    assert place.directory is not None
    assert stat.S_IMODE(place.directory.stat().st_mode) == 0o700
    assert crew_directory.remove(place)


def test_one_worker_needs_no_directory(base: Path) -> None:
    place = crew_directory.make(workers=1)
    assert (place.directory, place.reason) == (None, "")
    assert str(place) == f"@{place.token}"
    assert names_in(base) == []
    assert crew_directory.remove(place)


def test_a_directory_is_removed_with_the_sockets_in_it_and_with_nothing_else(base: Path) -> None:
    place = crew_directory.make()
    assert place.directory is not None
    bind_in(place.directory, "1-1.v1")
    (place.directory / "file").touch()
    assert not crew_directory.remove(place)
    assert names_in(place.directory) == ["file"]


FORKING = """
import os
from rmeinheld import crew_directory
place = crew_directory.make()
child = os.fork()
if child == 0:
    print(crew_directory.remove(place), place.directory.exists(), end=" ", flush=True)
    os._exit(0)
os.waitpid(child, 0)
print(place.directory.exists(), crew_directory.remove(place))
"""


def test_a_forked_child_leaves_the_directory_to_its_parent(base: Path) -> None:
    output = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True, check=True).stdout
    assert output == "False True True True\n"
    assert names_in(base) == []


def test_the_next_master_takes_the_directory_over_and_the_last_one_removes_it(base: Path) -> None:
    old = crew_directory.make()
    environ = {"OTHER": "1", **old.environment()}
    new = crew_directory.take_over(environ)
    assert new is not None
    assert environ == {"OTHER": "1"}
    assert str(new) == str(old)
    assert not crew_directory.remove(old)
    assert names_in(base) == [old.token]
    assert crew_directory.remove(new)
    assert names_in(base) == []


def test_an_abstract_place_is_handed_on_by_its_name() -> None:
    old = crew_directory.make(workers=1)
    new = crew_directory.take_over({**old.environment()})
    assert new is not None
    assert str(new) == str(old)


def test_a_place_that_is_gone_or_open_to_others_is_not_taken_over(base: Path) -> None:
    assert crew_directory.take_over({}) is None
    place = crew_directory.make()
    assert place.directory is not None
    environment = place.environment()
    for text in ("", "@", "/", "/tmp", "@other", str(base), "/x/../" + place.token):
        assert crew_directory.take_over({crew_directory.VARIABLE: text}) is None, text
    place.directory.chmod(0o755)
    assert crew_directory.take_over(dict(environment)) is None
    place.directory.chmod(0o700)
    link = base / crew_directory.make(workers=1).token
    link.symlink_to(place.directory)
    assert crew_directory.take_over({crew_directory.VARIABLE: str(link)}) is None
    assert crew_directory.remove(place)
    assert crew_directory.take_over(dict(environment)) is None


SERVICE = """
import os, sys, time
from rmeinheld import crew_directory
place = crew_directory.make()
worker = os.fork()
print(place, worker or os.getppid(), flush=True) if worker else time.sleep(60)
time.sleep(60)
"""


@pytest.fixture
def killed_master(base: Path) -> Iterator[tuple[Path, int]]:
    """A service whose master was killed and whose worker lives: the directory, and the worker's number."""
    with subprocess.Popen([sys.executable, "-c", SERVICE], stdout=subprocess.PIPE, text=True) as master:
        assert master.stdout is not None
        path, worker = master.stdout.readline().split()
        master.kill()
    yield Path(path), int(worker)
    with suppress(ProcessLookupError):
        os.kill(int(worker), signal.SIGKILL)


def test_what_a_killed_service_left_is_removed_once_its_last_worker_is_gone(
    killed_master: tuple[Path, int],
) -> None:
    directory, worker = killed_master
    bind_in(directory, "1-1.v1")
    assert crew_directory.remove_stale(directory.parent) == 0
    assert names_in(directory) == ["1-1.v1"]
    descriptor = os.pidfd_open(worker)
    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    os.close(descriptor)
    # The kernel ends the worker in its own time.
    wait_until(lambda: crew_directory.remove_stale(directory.parent) == 1, lambda: f"{directory} is left")
    assert not directory.exists()


def test_the_next_service_removes_what_a_killed_one_left(killed_master: tuple[Path, int]) -> None:
    directory, worker = killed_master
    os.kill(worker, signal.SIGKILL)

    def is_removed() -> bool:
        assert crew_directory.remove(crew_directory.make())
        return not directory.exists()

    wait_until(is_removed, lambda: f"{directory} is left")


def test_files_of_others_are_no_stale_directories(base: Path) -> None:
    token = crew_directory.make(workers=1).token
    (base / token).touch()
    (base / "rmeinheld-crew-other").mkdir()
    assert crew_directory.remove_stale(base) == 0
    assert names_in(base) == [token, "rmeinheld-crew-other"]


@pytest.mark.skipif(not IS_ROOT, reason="root alone gives a directory away")
def test_root_gives_the_directory_to_the_user_of_the_workers(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The directory of this test keeps other users out.
    monkeypatch.delenv("RUNTIME_DIRECTORY")
    place = crew_directory.make(NOBODY, NOBODY)
    assert place.directory is not None
    try:
        status = place.directory.stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (NOBODY, NOBODY, 0o700)
        # The new user may not be allowed to start this Python.
        script = f"import os, socket, sys; os.setgid({NOBODY}); os.setuid({NOBODY}); " + (
            "socket.socket(socket.AF_UNIX).bind(sys.argv[1])"
        )
        subprocess.run([sys.executable, "-c", script, str(place.directory / "1-1.v1")], check=True)
        assert names_in(place.directory) == ["1-1.v1"]
        assert crew_directory.take_over(place.environment()) is None
        new = crew_directory.take_over(place.environment(), NOBODY)
        assert new is not None
        assert not crew_directory.remove(new)
    finally:
        assert crew_directory.remove(place)


@pytest.mark.skipif(not IS_ROOT, reason="root alone gives a directory away")
def test_a_directory_that_the_workers_cannot_reach_is_not_used(base: Path) -> None:
    base.chmod(0o700)
    place = crew_directory.make(NOBODY, NOBODY)
    assert place.directory is None or place.directory.parent != base
    assert names_in(base) == []
    crew_directory.remove(place)


def test_a_base_whose_path_is_too_long_for_sockets_is_not_used(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = base / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr(crew_directory, "_bases", lambda user: iter([long]))
    place = crew_directory.make()
    assert place.directory is None
    assert "longer than" in place.reason
    assert names_in(long) == []


@pytest.mark.parametrize("error", [errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EACCES])
def test_without_a_file_system_that_takes_it_the_sockets_are_abstract_and_the_place_has_the_reason(
    base: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(crew_directory, "_bases", lambda user: iter([base]))
    monkeypatch.setattr(os, "mkdir", fail)
    place = crew_directory.make()
    assert str(place) == f"@{place.token}"
    assert place.reason == f"{base}: {os.strerror(error)}"


@pytest.mark.skipif(not IS_ROOT, reason="root alone mounts file systems")
@pytest.mark.parametrize("fault", ["ro", "nr_inodes=2", "nr_inodes=1"])
def test_a_full_or_read_only_file_system_is_not_used(base: Path, fault: str) -> None:
    # With two inodes there is room for a directory, but for no socket in it.
    script = f"""
mount -t tmpfs -o {fault} none {base} || exit 77
exec {sys.executable} -c '
from rmeinheld import crew_directory
from pathlib import Path
crew_directory._bases = lambda user: iter([Path("{base}")])
place = crew_directory.make()
print(str(place)[0], place.reason, list(Path("{base}").iterdir()))
'
"""
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no mount namespace: {done.stderr.strip()}")
    assert done.stdout.startswith(f"@ {base}: "), done.stdout + done.stderr
    assert done.stdout.endswith("[]\n")
