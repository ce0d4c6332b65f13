"""The dump: every coroutine and OS thread of this process, with what it waits for and its Python stack.

`dump` may be called from any coroutine or thread, and from a signal handler. Coroutines that are alike share an entry.
The facts come from the engine in one moment; this module only writes them down.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import FrameType
from typing import Any, Final, Protocol

from . import _rmeinheld, error_log

__all__ = ["dump", "handle", "number_of", "write_dump"]

NAMED: Final = 5
"""Coroutines that are named in the entry of a group. The others are counted."""

LONGEST_VALUE: Final = 200
"""Characters of the representation of a local variable."""

ENGINE: Final = os.path.dirname(os.path.abspath(__file__)) + os.sep
"""The directory of this package, whose frames are not the place where an application waits."""

STANDARD_LIBRARY: Final = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
"""The directory of the standard library. It has site-packages within."""

PACKAGES: Final = ("/site-packages/", "/dist-packages/")
"""Directories of installed packages."""

type Frame = tuple[str, int, str]
"""File, line and function."""


class _Writable(Protocol):
    """A text stream."""

    def write(self, text: str, /) -> object:
        """Write the text."""
        ...


class _Group:
    """Coroutines that do the same at the same place."""

    def __init__(self, first: dict[str, Any]) -> None:
        self.first = first
        self.members: list[dict[str, Any]] = []

    @property
    def age(self) -> float:
        """The age of the oldest member, in seconds."""
        return max(float(member["age"]) for member in self.members)


def dump(file: _Writable | None = None, *, locals: bool = False, redact: bool = True) -> str | None:
    """Write all coroutines and OS threads of this process to `file`; without one, return the text.

    The coroutine that runs comes first, then the oldest. Each has its request or function, the client, its age, what it
    waits for and since when, and its Python stack, innermost frame first. Coroutines that wait for the same at the same
    place share one entry.

    `locals` adds the local variables of each frame, which may be secret, by calling their `repr`. With `redact` (the
    default) the values of query strings and the credentials in targets are replaced by `***`.

    Can be called in a coroutine, in a thread and in a signal handler. Without a loop only OS threads are listed.
    """
    text = "".join(line + "\n" for line in _lines(with_locals=locals, redact=redact))
    if file is None:
        return text
    file.write(text)
    return None


def write_dump() -> None:
    """Write a dump to the file of the error log, or to standard error if the log has none.

    Does not wait for a slow reader. For signal handlers: takes no lock that the interrupted code may hold.
    """
    text = dump()
    assert text is not None
    with suppress(OSError):
        _rmeinheld.write_in_background(_log_descriptor(), text)


def number_of(name: str) -> int | None:
    """The number of the signal of the setting `dump_signal`; None if no dump is wanted.

    An application that handles the signal keeps it. Then, too, there is none.
    """
    if name == "none":
        return None
    number = signal.Signals[f"SIG{name.upper()}"]
    return None if number in _caught() else number


def _caught() -> set[int]:
    """The signals that this process has handlers for, those in C included (`faulthandler.register`)."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            mask = next(int(line.split()[1], 16) for line in file if line.startswith("SigCgt:"))
    except (OSError, StopIteration, ValueError):
        # Without /proc only Python's own handlers are known.
        usual = (signal.SIG_DFL, signal.SIG_IGN)
        return {number for number in signal.valid_signals() if signal.getsignal(number) not in usual}
    return {number for number in range(1, signal.NSIG) if mask >> (number - 1) & 1}


def handle(number: int, frame: FrameType | None) -> None:
    """Write a dump: the handler of `dump_signal`."""
    # An exception would be raised in the code that the signal interrupts.
    try:
        write_dump()
    except Exception as error:
        os.write(2, f"rmeinheld: no dump could be written: {error!r}\n".encode(errors="replace"))


def _log_descriptor() -> int:
    """The descriptor of the first file that the error log is written to; 2 if there is none."""
    logger: logging.Logger | None = logging.getLogger(error_log.LOGGER_NAME)
    while logger is not None:
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler) and handler.stream is not None:
                with suppress(OSError, ValueError):
                    return int(handler.stream.fileno())
        logger = logger.parent if logger.propagate else None
    return 2


def _lines(*, with_locals: bool, redact: bool) -> Iterator[str]:
    coroutines = _rmeinheld.inspect_coroutines(redact=redact)
    threads = list(_threads())
    counts = f"{_counted(len(coroutines), 'coroutine')}, {_counted(len(threads), 'OS thread')}"
    yield f"--- rmeinheld, process {os.getpid()}: {counts} ---"
    yield from _deadlocks(coroutines)
    frames = _rmeinheld.coroutine_frames() if with_locals else {}
    for group in _grouped(coroutines, apart=with_locals):
        yield ""
        yield _headline(group, coroutines)
        if len(group.members) > 1:
            yield f"  {_names(group.members)}"
        if with_locals:
            yield from _stack_with_locals(frames.get(group.first["ident"]))
        else:
            yield from _stack(group.first["stack"])
    for name, ident, stack in threads:
        yield ""
        yield f"OS thread {name} ({ident}):"
        yield from _stack(stack)
    yield f"--- end of the dump of process {os.getpid()} ---"


def _grouped(coroutines: Iterable[dict[str, Any]], *, apart: bool) -> list[_Group]:
    """Put coroutines together that are alike; the running one first, then by age."""
    groups: dict[object, _Group] = {}
    for facts in coroutines:
        wait = facts["wait"] or {}
        # A sleep differs only in what is left of it.
        what = (wait.get("reason"), _text_of_group(wait) if wait else "", wait.get("object"))
        key = facts["ident"] if apart else (facts["kind"], facts["state"], what, tuple(facts["stack"]))
        groups.setdefault(key, _Group(facts)).members.append(facts)
    order = {"running": 0, "waiting": 1, "ready": 2}
    return sorted(groups.values(), key=lambda group: (order[group.first["state"]], -group.age))


def _text_of_group(wait: dict[str, Any]) -> str:
    """The words for a wait without what differs between those that are alike: the time left, the client's address."""
    text = str(wait["text"]).split(",")[0]
    return text.replace(f" {wait['peer']}", "") if wait["reason"] == "client" else text


def _headline(group: _Group, coroutines: list[dict[str, Any]]) -> str:
    facts = group.first
    count = len(group.members)
    at = _place(facts["stack"])
    at = f" at {at}" if at else ""
    ages = sorted(float(member["age"]) for member in group.members)
    what = _what(facts, coroutines, alone=count == 1)
    if count > 1:
        age = f"{ages[0]:.1f} to {ages[-1]:.1f} s old"
        return f"{count} coroutines: {what}{at}, {age}"
    since = "" if facts["since"] is None or facts["state"] == "ready" else f" for {facts['since']:.1f} s"
    return f"{_name(facts)}: {what}{since}{at}, {ages[0]:.1f} s old"


def _what(facts: dict[str, Any], coroutines: list[dict[str, Any]], *, alone: bool) -> str:
    """Say what a coroutine does: it runs, is ready, or waits for something."""
    if facts["state"] != "waiting":
        return "RUNNING" if facts["state"] == "running" else "ready to run"
    wait = facts["wait"]
    text = str(wait["text"]) if alone else _text_of_group(wait)
    if alone and wait["descriptor"] is not None:
        text += f" (descriptor {wait['descriptor']})"
    if wait["object"]:
        text += f" {wait['object']:#x}"
    if wait["owner"]:
        text += f" {'of' if wait['reason'] == 'join' else 'held by'} {_owner(wait, coroutines)}"
    return f"waits for {text}"


def _owner(wait: dict[str, Any], coroutines: list[dict[str, Any]]) -> str:
    owner = next((facts for facts in coroutines if facts["ident"] == wait["owner"]), None)
    if owner is not None:
        return _name(owner)
    name = wait["owner_name"]
    return f"OS thread {name} ({wait['owner']})" if name else f"{wait['owner']}, which has ended"


def _name(facts: dict[str, Any]) -> str:
    label = f" {facts['label']}" if facts["label"] else ""
    client = f" from {facts['client']}" if facts["client"] else ""
    request_id = f" (id {facts['request_id']})" if facts["request_id"] else ""
    return f"{facts['kind']} {facts['work']}{label}{client}{request_id}"


def _names(members: list[dict[str, Any]]) -> str:
    oldest = sorted(members, key=lambda facts: -float(facts["age"]))
    names = ", ".join(_name(facts) for facts in oldest[:NAMED])
    more = f" and {len(members) - NAMED} more" if len(members) > NAMED else ""
    return f"{names}{more}"


def _deadlocks(coroutines: list[dict[str, Any]]) -> Iterator[str]:
    """Circles of coroutines, each of which waits for a lock of the next or for its end."""
    by_ident = {facts["ident"]: facts for facts in coroutines}
    seen: set[int] = set()
    for start in by_ident:
        path: list[int] = []
        ident = start
        while ident in by_ident and ident not in seen:
            seen.add(ident)
            path.append(ident)
            wait = by_ident[ident]["wait"]
            ident = (wait and wait["owner"]) or 0
        if ident in path:
            circle = path[path.index(ident) :]
            yield "DEADLOCK: each of these waits for the next, and the last one for the first: " + "; ".join(
                _name(by_ident[member]) for member in circle
            )


def _place(stack: list[Frame]) -> str:
    """The place where an application waits: `db.py:41`.

    It is the innermost frame outside of this package and the standard library. If that is an installed package, the
    line that has called it follows.
    """
    frames = [frame for frame in stack if not frame[0].startswith(ENGINE)]
    outside = [frame for frame in frames if not frame[0].startswith(STANDARD_LIBRARY) or _is_packaged(frame[0])]
    if not frames:
        return ""
    place = outside[0] if outside else frames[0]
    caller = next((frame for frame in outside if not _is_packaged(frame[0])), place)
    called = "" if caller is place else f", called at {_line(caller)}"
    return f"{_line(place)}{called}"


def _line(frame: Frame) -> str:
    return f"{os.path.basename(frame[0])}:{frame[1]}"


def _is_packaged(file: str) -> bool:
    return any(directory in file for directory in PACKAGES)


def _stack(stack: list[Frame]) -> Iterator[str]:
    for file, line, function in stack:
        if file == __file__:
            # The dump itself.
            continue
        yield f'  File "{file}", line {line}, in {function}'


def _stack_with_locals(frame: FrameType | None) -> Iterator[str]:
    while frame is not None:
        yield f'  File "{frame.f_code.co_filename}", line {frame.f_lineno}, in {frame.f_code.co_qualname}'
        for name, value in list(frame.f_locals.items()):
            yield f"    {name} = {_value(value)}"
        frame = frame.f_back


def _value(value: object) -> str:
    """The representation of a local variable. It belongs to the application, so anything may go wrong."""
    try:
        text = repr(value)
    except BaseException as error:
        return f"<repr raised {type(error).__name__}>"
    text = text.replace("\n", "\\n")
    return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "..."


def _threads() -> Iterator[tuple[str, int, list[Frame]]]:
    """OS threads that run Python code: name, ident and stack. The loop's thread runs the coroutines and is left out."""
    # `threading.enumerate` takes a lock, which the code that a signal handler interrupts may hold.
    names = {ident: thread.name for ident, thread in list(threading._active.items())}  # type: ignore[attr-defined]
    coroutines = _rmeinheld.coroutine_frames()
    loop = _rmeinheld.loop_thread_ident()
    for ident, frame in sys._current_frames().items():
        if ident in coroutines or ident == loop:
            continue
        yield names.get(ident, "without a name"), ident, list(_frames(frame))


def _frames(frame: FrameType | None) -> Iterator[Frame]:
    while frame is not None:
        yield frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname
        frame = frame.f_back


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
