"""The user and group of a server that root starts. Root opens sockets and logs; then the process becomes that user."""

from __future__ import annotations

import errno
import grp
import logging
import os
import pwd
import stat
from collections.abc import Iterable
from typing import Final, NamedTuple

from .error_log import LOGGER_NAME

__all__ = ["ROOT_WARNING", "Identity", "identity_of", "warn_root"]

LARGEST_ID: Final = 2**32 - 2
"""Largest number of a user or group: the number after it means "unchanged" in setuid(2) and chown(2)."""

ROOT_WARNING: Final = (
    "the server runs as root, so a fault of the application has root's rights; "
    "--user names another user, which takes over when the sockets are open"
)


class Identity(NamedTuple):
    """A user, a group, and the supplementary groups of the user."""

    user: int
    group: int
    groups: tuple[int, ...]

    @staticmethod
    def of_numbers(user: int, group: int, *, initgroups: bool) -> Identity:
        """Return the identity of a user with all of its groups, or (without `initgroups`) with this group alone."""
        entry = _entry_of(user)
        if initgroups and isinstance(entry, pwd.struct_passwd):
            return Identity(user, group, tuple(os.getgrouplist(entry.pw_name, group)))
        return Identity(user, group, (group,))

    def assume(self) -> None:
        """Become this user for good, with these groups alone.

        Raises PermissionError if the process runs as another user than root.
        """
        if os.geteuid() != 0:
            if (os.geteuid(), os.getegid()) == (self.user, self.group):
                return
            own = _name_of(os.geteuid())
            raise PermissionError(errno.EPERM, f"only root can become {self}; this process runs as user {own}")
        # In this order: only root can change groups.
        os.setgroups(self.groups)
        os.setgid(self.group)
        os.setuid(self.user)

    def own(self, paths: Iterable[str]) -> None:
        """Give files that root has opened to this user, so that the user can open them again.

        Files of others, links and devices are left alone. Raises OSError naming a file.
        """
        if os.geteuid() != 0:
            return
        for path in paths:
            status = os.lstat(path)
            # A link may lead to a file of the system, if the directory belongs to the user.
            is_plain = stat.S_ISSOCK(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink == 1)
            if is_plain and status.st_uid == 0:
                os.chown(path, self.user, self.group, follow_symlinks=False)

    def __str__(self) -> str:
        return f"user {_name_of(self.user)} in group {self.group}"


def identity_of(user: str | None, group: str | None, *, initgroups: bool = True) -> Identity | None:
    """Look up `user` and `group`, each a name or a number. None if both are None.

    The default group is the primary group of the user. The default user is that of the process. With `initgroups` the
    identity has all groups of the user; otherwise `group` is its only one.

    Raises ValueError naming an unknown user or group, and a user whose group is unknown.
    """
    if user is None and group is None:
        return None
    entry = _entry_of(os.geteuid()) if user is None else _user(user)
    number = entry.pw_uid if isinstance(entry, pwd.struct_passwd) else entry
    known = entry if isinstance(entry, pwd.struct_passwd) else None
    if group is not None:
        group_number = _group(group)
    elif known is not None:
        group_number = known.pw_gid
    else:
        raise ValueError(f"user {user!r} has no entry in the list of users, so its group is unknown; give a group")
    return Identity.of_numbers(number, group_number, initgroups=initgroups)


def warn_root() -> None:
    """Log a warning if this process, which serves, runs as root."""
    if os.geteuid() == 0:
        logging.getLogger(LOGGER_NAME).warning(ROOT_WARNING)


def _user(text: str) -> pwd.struct_passwd | int:
    if text.isascii() and text.isdigit():
        return _entry_of(_number("user", text))
    try:
        return pwd.getpwnam(text)
    except KeyError:
        raise ValueError(f"user: this machine has no user {text!r}") from None


def _group(text: str) -> int:
    if text.isascii() and text.isdigit():
        return _number("group", text)
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        raise ValueError(f"group: this machine has no group {text!r}") from None


def _number(label: str, text: str) -> int:
    number = int(text[:20])
    if number > LARGEST_ID:
        raise ValueError(f"{label} must be a name or a number from 0 to {LARGEST_ID}, not {text!r}")
    return number


def _entry_of(number: int) -> pwd.struct_passwd | int:
    try:
        return pwd.getpwuid(number)
    except KeyError:
        return number


def _name_of(number: int) -> str:
    entry = _entry_of(number)
    return repr(entry.pw_name) if isinstance(entry, pwd.struct_passwd) else str(number)
