"""Reports on a blocked loop: which coroutine, its stack, which kind of blockage it is, and the cure.

The engine's watchdog notices that the loop does not turn, and tells the kind. A thread of the watchdog that has got the
interpreter calls `Reporter`. While C code holds the interpreter, the watchdog writes a shorter report by itself, with
the texts that `Reporter` has given it.
"""

from __future__ import annotations

import io
import linecache
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from . import error_log
from .inspecting import dump
from .patch import _libraries, is_patched

if TYPE_CHECKING:
    import ast

__all__ = ["Reporter", "cure_of", "place_of"]

DEPTH: Final = 40
"""Most calls of a stack in a report, the innermost ones."""

UNPATCHED_CURE: Final = "start with --patch, or call rmeinheld.patch.patch_all() before other imports"

OFFLOAD: Final = "pass the call to rmeinheld.coroutine.offload"

KINDS: Final = {
    "python": "Python code runs",
    "holds": "C code holds the interpreter",
    "waits": "a call waits without parking",
    "computes": "C code computes, with the interpreter released",
    "thread": "C code of a thread holds the interpreter",
}
"""The kinds of blockage, each with the words for it."""

CURES: Final = {
    "python": "call rmeinheld.coroutine.sleep(0) now and then, or move the work to another process",
    "holds": "do less in one call, or move the work to another process (offload does not help: the call holds the "
    "interpreter)",
    "waits": OFFLOAD,
    "computes": f"{OFFLOAD}: others run meanwhile",
    "thread": "have the thread call functions that release the interpreter, or move its work to another process",
}
"""The cure for each kind, where nothing better is known."""

PARTS: Final = {
    "time.sleep": "time",
    "socket.getaddrinfo": "dns",
    "socket.gethostby": "dns",
    "_socket.getaddrinfo": "dns",
    "_socket.gethostby": "dns",
    "socket.": "socket",
    "_socket.": "socket",
    "ssl.": "ssl",
    "_ssl.": "ssl",
    "select.": "select",
    "selectors.": "select",
    "_thread.": "thread",
    "threading.": "thread",
    "queue.": "queue",
    "_queue.": "queue",
    "subprocess.": "subprocess",
    "_posixsubprocess.": "subprocess",
    "posix.": "os",
    "os.": "os",
    "fcntl.": "fcntl",
    "signal.": "signal",
    "_signal.": "signal",
    "sqlite3.": "sqlite3",
    "_sqlite3.": "sqlite3",
    "_io.": "io",
    "concurrent.futures.": "futures",
    "multiprocessing.": "multiprocessing",
}
"""Beginnings of the names of blocking functions, each with the part of `patch_all` that replaces them."""

CULPRITS: Final = {
    "re": "the regular expression backtracks: simplify it, or limit the length of the text",
    "ctypes.PyDLL": "ctypes.PyDLL keeps the interpreter: use ctypes.CDLL and offload",
    "ctypes.CDLL": OFFLOAD,
    "bcrypt": f"{OFFLOAD}: it releases the interpreter",
    "argon2": f"{OFFLOAD}: it releases the interpreter",
    "_hashlib": f"{OFFLOAD}: it releases the interpreter",
    "psycopg2": "the wait callback is missing: start with --patch",
    "psycopg": "the wait function is missing: start with --patch",
    "oracledb": "use oracledb in its thin mode, or offload",
}
"""Further culprits, modules or classes, each with the cure."""


class Called(NamedTuple):
    """The call that a frame is in: its text in the source, and the name of the function if that can be found."""

    text: str
    name: str


class Moment(NamedTuple):
    """Where a frame is at one moment: its instruction, and its stack with line numbers, the innermost call first.

    To import a module or to read a source file lets the interpreter go, and then the frame goes on.
    """

    frame: FrameType
    instruction: int
    stack: list[tuple[FrameType, int]]


class Reporter:
    """Logs the reports of one server. The engine makes it, and calls it from the watchdog's second thread."""

    def __init__(self) -> None:
        self.logger = logging.getLogger(error_log.LOGGER_NAME)
        self.kinds = [(kind, words, CURES[kind]) for kind, words in KINDS.items()]
        self.marks = [(f"/{name}/", cure) for name, cure in _known_libraries().items()]

    @property
    def is_unpatched(self) -> bool:
        """Does a wait of the standard library block the loop?"""
        return not is_patched("time")

    def descriptor(self) -> int:
        """Return the descriptor that the error log writes to; that of standard error if it has none."""
        for handler in _handlers(self.logger):
            try:
                return int(handler.stream.fileno())  # type: ignore[attr-defined]
            except (AttributeError, OSError, ValueError, TypeError):
                continue
        return 2

    def utc_offset(self) -> int:
        """Return the seconds by which local time is ahead of UTC."""
        return time.localtime().tm_gmtoff

    def hint(self, frame: FrameType | None, seconds: float) -> bool:
        """Say once that a wait has blocked the loop of an unpatched program. Returns whether it was said."""
        if is_patched("time"):
            return False
        place = f" in {place_of(frame)}" if frame is not None else ""
        self.logger.warning(
            "a wait%s has blocked the server for %.1f s, and all other requests with it: the standard library is not "
            "patched. Call rmeinheld.patch.patch_all() before other imports, start the application by the command "
            "rmeinheld, which patches, or pass the call to rmeinheld.coroutine.offload. (This line appears once)",
            place,
            seconds,
        )
        return True

    def blocked(
        self,
        subject: str,
        seconds: float,
        kind: str,
        details: str,
        frame: FrameType | None,
        unsaid: int,
        request_id: str | None,
    ) -> None:
        """Log that `subject` has blocked the loop for `seconds`. It is the request of this id, if it has one.

        `details` is what the kernel knows of a call that waits; it may be empty. `unsaid` is the number of blockages at
        the same place that were not reported since the last report.
        """
        moment = moment_of(frame) if frame is not None else None
        called = called_at(moment) if moment is not None else None
        words = KINDS[kind]
        if called is not None and kind != "python":
            words += f": {called.name or called.text}"
        if details:
            words += f" ({details})"
        more = f". {unsaid} more blockages at this place since its last report" if unsaid else ""
        stack = "" if moment is None else f"\nStack of the coroutine (most recent call last):\n{stack_of(moment)}"
        self.logger.warning(
            "%s has blocked the loop for %.1f s, and all requests with it: %s. Cure: %s%s%s",
            subject,
            seconds,
            words,
            cure_of(kind, frame, called),
            more,
            stack.rstrip("\n"),
            extra=_extra(request_id),
        )

    def let_go(
        self, subject: str, seconds: float, frame: FrameType | None, is_told: bool, request_id: str | None
    ) -> None:
        """Log that C code which held the interpreter has released it, with the cure and the stack unless `is_told`."""
        moment = moment_of(frame) if frame is not None else None
        called = called_at(moment) if moment is not None else None
        if is_told and (called is None or not called.name):
            return
        stack = "" if moment is None or is_told else f"\nStack (most recent call last):\n{stack_of(moment)}"
        name = f": {called.name or called.text}" if called is not None else ""
        self.logger.warning(
            "%s: C code has held the interpreter for %.1f s%s. Cure: %s%s",
            subject,
            seconds,
            name,
            cure_of("holds", frame, called),
            stack.rstrip("\n"),
            extra=_extra(request_id),
        )

    def stuck(self, subject: str, seconds: float, request_id: str | None) -> None:
        """Log the stacks of all coroutines."""
        text = io.StringIO()
        dump(text)
        stacks = text.getvalue().rstrip("\n")
        self.logger.warning(
            "%s still blocks the loop after %.1f s. All coroutines:\n%s",
            subject,
            seconds,
            stacks,
            extra=_extra(request_id),
        )

    def ended(self, subject: str, seconds: float, request_id: str | None) -> None:
        """Log that the loop turns again."""
        self.logger.warning(
            "%s had blocked the loop for %.1f s in the end; it turns again",
            subject,
            seconds,
            extra=_extra(request_id),
        )


def _extra(request_id: str | None) -> dict[str, str] | None:
    """Return the attributes of a record about a request: a filter for logging finds no request in the watchdog."""
    return {"request_id": request_id} if request_id else None


def moment_of(frame: FrameType) -> Moment:
    """Return where `frame` is now."""
    return Moment(frame, frame.f_lasti, list(traceback.walk_stack(frame))[:DEPTH])


def stack_of(moment: Moment) -> str:
    """Return the stack of a moment as text, the innermost call last."""
    summary = traceback.StackSummary.extract(iter(moment.stack), lookup_lines=True)
    summary.reverse()
    return "".join(summary.format())


def place_of(frame: FrameType) -> str:
    """Return the place of a call: file, line and function."""
    code = frame.f_code
    return f"{code.co_filename}:{frame.f_lineno} ({code.co_qualname})"


def cure_of(kind: str, frame: FrameType | None, called: Called | None) -> str:
    """Return the cure for a blockage: that of the function called or of a library on the stack, or a general one."""
    if kind == "python":
        return CURES[kind]
    name = called.name if called is not None else ""
    if kind == "waits":
        for start, part in PARTS.items():
            if name.startswith(start):
                return _cure_of_part(name, part)
    for candidate in (name, *_modules(frame)):
        for library, cure in _known_libraries().items():
            if candidate == library or candidate.startswith(f"{library}."):
                return cure
    return CURES[kind]


def _cure_of_part(name: str, part: str) -> str:
    if not is_patched(part):
        return f"`{name}` is not patched: {UNPATCHED_CURE}"
    return (
        f"`{name}` was taken before the patch, or cannot park: call rmeinheld.patch.patch_all() before other imports, "
        f"or {OFFLOAD}"
    )


def _known_libraries() -> dict[str, str]:
    blocking = {name: f"`{name}` waits in C: {cure}" for name, cure in _libraries.BLOCKING.items()}
    return {**blocking, **CULPRITS}


def _modules(frame: FrameType | None) -> Iterator[str]:
    """Return the modules of a stack's innermost calls: a library calls its C code through a few functions in Python."""
    for current, _ in zip(traceback.walk_stack(frame), range(5), strict=False):
        if isinstance(name := current[0].f_globals.get("__name__"), str):
            yield name


def called_at(moment: Moment) -> Called | None:
    """Return the call that a frame was in, as far as its source can be read."""
    # Few servers ever block. These modules would take 1 MB of each.
    import ast

    try:
        text = _text_of_instruction(moment.frame, moment.instruction)
        call = ast.parse(text.strip(), mode="eval").body
        if not isinstance(call, ast.Call):
            return Called(_shortened(text), "")
        return Called(_shortened(text), _name_of(_object_of(call.func, moment.frame)))
    except Exception:
        return None


def _text_of_instruction(frame: FrameType, instruction: int) -> str:
    code = frame.f_code
    positions = list(code.co_positions())[instruction // 2]
    line, end_line, column, end_column = positions
    if line is None or end_line is None or column is None or end_column is None:
        raise ValueError("no positions")
    lines = [text.encode() for text in linecache.getlines(code.co_filename, frame.f_globals)[line - 1 : end_line]]
    lines[-1] = lines[-1][:end_column]
    lines[0] = lines[0][column:]
    return b"".join(lines).decode()


def _object_of(node: ast.expr, frame: FrameType) -> object:
    """Return the object of an expression `name` or `name.attribute`. Runs no code of the application."""
    import ast
    import inspect

    if isinstance(node, ast.Name):
        for names in (frame.f_locals, frame.f_globals, frame.f_builtins):
            if node.id in names:
                return names[node.id]
        raise LookupError(node.id)
    if isinstance(node, ast.Attribute):
        owner = _object_of(node.value, frame)
        if isinstance(owner, ModuleType):
            return vars(owner)[node.attr]
        found = inspect.getattr_static(owner, node.attr)
        # A function of ctypes belongs to the class of its library.
        return owner if type(found).__name__ == "_FuncPtr" else found
    raise LookupError(ast.dump(node))


def _name_of(function: object) -> str:
    """Return the full name of a function: "time.sleep", "_socket.socket.recv", "ctypes.PyDLL"."""
    if type(function).__module__ == "ctypes":
        return f"ctypes.{type(function).__name__}"
    owner: Any = getattr(function, "__objclass__", None)
    module = getattr(owner, "__module__", None) or getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", None)
    if not isinstance(name, str):
        return ""
    return f"{module}.{name}" if isinstance(module, str) else name


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _handlers(logger: logging.Logger) -> Iterator[logging.Handler]:
    current: logging.Logger | None = logger
    while current is not None:
        yield from current.handlers
        current = current.parent if current.propagate else None
    # Gunicorn's logger, to which the worker's handler passes the records.
    if "gunicorn" in sys.modules:
        yield from logging.getLogger("gunicorn.error").handlers
