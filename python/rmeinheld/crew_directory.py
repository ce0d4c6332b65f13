"""The private directory in which the workers of one service keep the sockets of their crew.

The master chooses the place before its first fork, by `make()`, and removes it at its end, by `remove()`. A worker
passes `str(place)` to `rmeinheld._rmeinheld.Crew`. Two masters share a place during an upgrade (USR2): the old one puts
`place.environment()` into the environment of the new one, which calls `take_over()`. The last one removes it.

A directory is in use as long as a process holds a shared lock (flock(2)) on it. Workers inherit their master's lock.
The kernel drops the lock of a process that was killed, which is how `remove_stale()` knows what such a service left.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import socket
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .listeners import UNIX_PATH_MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping

__all__ = ["VARIABLE", "Place", "make", "remove", "remove_stale", "take_over"]

VARIABLE: Final = "_RMEINHELD_CREW"
"""The environment variable by which a master hands its place on to the master that replaces it."""

_PREFIX: Final = "rmeinheld-crew-"
_TOKEN: Final = re.compile(rf"{_PREFIX}[0-9a-f]{{16}}\Z")
"""A name with 64 random bits, which other users cannot predict."""

_LONGEST_PATH: Final = UNIX_PATH_MAX_BYTES - len("/65535-4294967295.v255")
"""Bytes of the directory's path. The names of the sockets take the rest of an address."""

_ATTEMPTS: Final = 3
"""Attempts to make a directory, since another service may take a new one for a stale one until it is locked."""


@dataclass(eq=False)
class Place:
    """A directory for the sockets of a crew, or the common part of the names of its abstract sockets."""

    token: str
    """The last part of the directory's path, and the name of the crew's abstract sockets."""
    directory: Path | None = None
    """The directory; None for abstract sockets, which take no place in any file system."""
    reason: str = ""
    """Why there is no directory, for the log; empty if there is one, or if none was wanted."""
    _lock: int = -1
    _pid: int = field(default_factory=os.getpid)

    def __str__(self) -> str:
        """Return the text that `rmeinheld._rmeinheld.Crew` takes."""
        return f"@{self.token}" if self.directory is None else str(self.directory)

    def environment(self) -> dict[str, str]:
        """Return the variable that hands this place on to the next master."""
        return {VARIABLE: str(self)}


def make(user: int | None = None, group: int | None = None, *, workers: int = 2) -> Place:
    """Choose a place for the sockets of a service, before its workers are forked.

    `user` and `group` are the numbers of the workers' user and group, if these are not the caller's. One worker needs
    no directory: a service of one gets a place for abstract sockets, which costs nothing until it is used. A service
    that finds no file system with room for a directory of sockets gets such a place, too; `Place.reason` says why.
    """
    if workers <= 1:
        return Place(_new_token())
    reasons = []
    for base in _bases(user):
        remove_stale(base)
        try:
            return _make_in(base, user, group)
        except OSError as error:
            reasons.append(f"{base}: {error.strerror or error}")
    return Place(_new_token(), reason="; ".join(reasons))


def take_over(environ: MutableMapping[str, str], user: int | None = None) -> Place | None:
    """Take the place that the previous master has handed on out of `environ`. Returns None if there is none.

    A directory that is gone, or that others than `user` (the caller by default) can enter, is not taken.
    """
    text = environ.pop(VARIABLE, "")
    token = text.removeprefix("@") if text.startswith("@") else os.path.basename(text)
    if not _TOKEN.match(token):
        return None
    if text.startswith("@"):
        return Place(token)
    directory = Path(text)
    try:
        lock = _open(directory)
    except OSError:
        return None
    status = os.fstat(lock)
    owners = {os.geteuid(), os.geteuid() if user is None else user}
    is_private = status.st_uid in owners and stat.S_IMODE(status.st_mode) & 0o077 == 0
    if is_private and _lock_shared(directory, lock):
        return Place(token, directory, _lock=lock)
    os.close(lock)
    return None


def remove(place: Place) -> bool:
    """Remove the place, unless another master still uses it. Returns whether nothing of it is left.

    Does nothing in a process that was forked from the one that made the place.
    """
    if place.directory is None:
        return True
    if place._lock < 0 or place._pid != os.getpid():
        return False
    lock, place._lock = place._lock, -1
    try:
        return _remove_unused(place.directory, lock)
    finally:
        os.close(lock)


def remove_stale(base: Path | None = None) -> int:
    """Remove the directories that killed services have left in `base`, or wherever `make()` would make one.

    Returns their number. Directories of other users are left alone, unless the caller is root.
    """
    removed = 0
    for place in [base] if base is not None else list(_bases(None)):
        with contextlib.suppress(OSError):
            for name in os.listdir(place):
                if _TOKEN.match(name):
                    removed += _remove_if_stale(place / name)
    return removed


def _new_token() -> str:
    return _PREFIX + os.urandom(8).hex()


def _bases(user: int | None) -> Iterator[Path]:
    """Directories in which to make the place, the best one first."""
    is_own_user = user is None or user == os.geteuid()
    for name in os.environ.get("RUNTIME_DIRECTORY", "").split(":"):
        # Made by systemd for this service (RuntimeDirectory=).
        if name.startswith("/"):
            yield Path(name)
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    if is_own_user and own.startswith("/") and _owner(Path(own)) == os.geteuid():
        yield Path(own)
    if os.geteuid() == 0:
        yield Path("/run")
    with contextlib.suppress(OSError):
        # FileNotFoundError: no directory can be written to.
        yield Path(tempfile.gettempdir())


def _owner(path: Path) -> int | None:
    try:
        return path.stat().st_uid
    except OSError:
        return None


def _make_in(base: Path, user: int | None, group: int | None) -> Place:
    for _ in range(_ATTEMPTS):
        token = _new_token()
        directory = base / token
        if len(os.fsencode(directory)) > _LONGEST_PATH:
            raise OSError(errno.ENAMETOOLONG, f"the path is longer than the {_LONGEST_PATH} bytes that sockets allow")
        os.mkdir(directory, 0o700)
        lock = -1
        try:
            lock = _open(directory)
            if not _lock_shared(directory, lock):
                os.close(lock)
                continue
            # The mask of the process may have taken bits away.
            os.fchmod(lock, 0o700)
            _try_socket(directory)
            if user is not None or group is not None:
                os.fchown(lock, -1 if user is None else user, -1 if group is None else group)
                _check_reachable(base, -1 if user is None else user, -1 if group is None else group)
        except BaseException:
            if lock >= 0:
                os.close(lock)
            with contextlib.suppress(OSError):
                os.rmdir(directory)
            raise
        return Place(token, directory, _lock=lock)
    raise OSError(errno.EAGAIN, "another service removes each new directory")


def _open(directory: Path) -> int:
    return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _lock_shared(directory: Path, lock: int) -> bool:
    """Lock an open directory. Returns False if another process removes it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        now = os.lstat(directory)
    except (BlockingIOError, FileNotFoundError):
        return False
    then = os.fstat(lock)
    return (now.st_dev, now.st_ino) == (then.st_dev, then.st_ino)


def _try_socket(directory: Path) -> None:
    """Raise OSError if the file system has no sockets, or no room for one."""
    path = directory / "trial"
    with socket.socket(socket.AF_UNIX) as trial:
        trial.bind(os.fspath(path))
    os.unlink(path)


def _check_reachable(base: Path, user: int, group: int) -> None:
    """Raise PermissionError if a directory on the way to `base` keeps the workers' user out."""
    for part in (base, *base.parents):
        status = os.stat(part)
        is_open = status.st_mode & (
            stat.S_IXUSR if status.st_uid == user else stat.S_IXGRP if status.st_gid == group else stat.S_IXOTH
        )
        if user not in (-1, 0) and not is_open:
            raise PermissionError(errno.EACCES, f"the workers' user {user} cannot enter {part}")


def _remove_if_stale(directory: Path) -> bool:
    try:
        lock = _open(directory)
    except OSError:
        return False
    try:
        return os.geteuid() in (0, os.fstat(lock).st_uid) and _remove_unused(directory, lock)
    except OSError:
        return False
    finally:
        os.close(lock)


def _remove_unused(directory: Path, lock: int) -> bool:
    """Remove the directory and the sockets in it, unless another process holds a lock on it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    # By the open directory, as its owner may put another one in its place.
    for name in os.listdir(lock):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.lstat(name, dir_fd=lock).st_mode):
                os.unlink(name, dir_fd=lock)
    try:
        os.rmdir(directory)
    except OSError:
        return not directory.exists()
    return True
