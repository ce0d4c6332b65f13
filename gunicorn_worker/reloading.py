"""`--reload` under the command `rmeinheld`: finds changed code, and has it loaded by a new worker.

The worker that serves never ends because of an edit. It asks for a replacement, which imports the code and is ready
before it takes over. A replacement that cannot import the code waits for the next edit, and then makes room for
another one. It also watches the files that its import has touched, and those that appear next to them.
"""

from __future__ import annotations

import glob
import os
import signal
import site
import sys
import sysconfig
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Final, NoReturn

import rmeinheld
from rmeinheld.patch import get_original

__all__ = ["Changes", "Reloading"]

LOOK_SECONDS: Final = 0.2
"""Time between two looks at the files. Code counts as edited when one look has found no further change."""

LONGEST_SECONDS: Final = 2.0
"""Time after which an edit counts although files go on changing."""

LOOKS_OF_INSTALLED: Final = 5
"""Looks for each one at the files of installed packages, which are many and seldom edited."""

type State = tuple[int, int] | None
"""Time of the last write in nanoseconds, and bytes. None: there is no such file."""


class Changes:
    """Changes of the files that a process has imported, and of `extra`, names or patterns, since `began_ns`."""

    def __init__(self, extra: Iterable[str] = (), began_ns: int | None = None) -> None:
        self._extra = [os.path.abspath(path) for path in extra]
        self._began_ns = time.time_ns() if began_ns is None else began_ns
        self._states: dict[str, State] = {}
        self._failed: set[str] = set()
        self._directories: set[str] = set()
        self._looks = 0
        self._standard = os.path.realpath(sysconfig.get_path("stdlib")) + os.sep
        places = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        with suppress(AttributeError):
            # An old virtualenv has a module `site` of its own.
            places |= {*site.getsitepackages(), site.getusersitepackages()}
        self._installed = tuple({each + os.sep for place in places for each in (place, os.path.realpath(place))})
        # Files that a pattern finds later are new.
        self._patterns = [path for path in self._extra if glob.has_magic(path)]
        for path in self._extra:
            if path not in self._patterns:
                self._states[path] = _state_of(path)
        for path in self._matches():
            self._states[path] = _state_of(path)

    def look(self) -> str | None:
        """Return a file that has changed since the last look, or None. The first look compares with the start."""
        with_installed = self._looks % LOOKS_OF_INSTALLED == 0
        self._looks += 1
        changed: str | None = None
        appearing = {*self._matches(), *self._nearby()}
        for path in {*self._modules(with_installed), *self._failed, *appearing, *self._states}:
            if not with_installed and path.startswith(self._installed):
                continue
            state = _state_of(path)
            if path in self._states:
                is_changed = state != self._states[path]
            else:
                # A time in the future comes from another clock, and proves nothing. The present is that after the look.
                is_new = state is not None and self._began_ns < state[0] <= time.time_ns()
                is_changed = is_new or (state is not None and path in appearing)
            self._states[path] = state
            if is_changed:
                changed = changed or path
        return changed

    def add_failure(self, error: BaseException) -> None:
        """Watch what the import that ended with `error` has touched, and the directories where its files may appear."""
        for path in _files_of(error):
            self._failed.add(os.path.abspath(path))
        known = [*self._modules(with_installed=False), *self._failed]
        self._directories = {os.path.dirname(path) for path in known if not path.startswith(self._installed)}
        for entry in sys.path:
            path = os.path.abspath(entry or os.curdir)
            if not self._is_foreign(path + os.sep) and os.path.isdir(path):
                self._directories.add(path)
        for path in self._nearby():
            # The failed import may have missed these, and has not loaded them: only a change from now on counts.
            self._states.setdefault(path, _state_of(path))

    def _modules(self, with_installed: bool) -> Iterator[str]:
        for module in list(sys.modules.values()):
            # Without running a module's own __getattr__.
            file = vars(module).get("__file__") if isinstance(module, ModuleType) else None
            if not isinstance(file, str):
                continue
            path = os.path.abspath(file)
            if path.endswith((".pyc", ".pyo")) and os.path.exists(path[:-1]):
                path = path[:-1]
            if path.startswith(self._installed):
                if with_installed:
                    yield path
            elif not path.startswith(self._standard):
                yield path

    def _is_foreign(self, path: str) -> bool:
        real = os.path.realpath(path) + os.sep
        return real.startswith((self._standard, *self._installed)) or self._standard.startswith(real)

    def _matches(self) -> Iterator[str]:
        for pattern in self._patterns:
            yield from glob.iglob(pattern, recursive=True)

    def _nearby(self) -> Iterator[str]:
        """Modules and packages in the directories of a failed import."""
        for directory in self._directories:
            with suppress(OSError), os.scandir(directory) as entries:
                for entry in entries:
                    if entry.name.endswith(".py"):
                        yield entry.path
                    elif entry.name.isidentifier() and entry.name != "__pycache__" and entry.is_dir():
                        yield os.path.join(entry.path, "__init__.py")


class Reloading:
    """Watches the code of a worker in an OS thread, from before the import on, and also while Python computes."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._changes = Changes(worker.cfg.reload_extra_files)
        self._serves = False
        self._decision = get_original("_thread", "allocate_lock")()
        """Held while it is decided whether an edit ends the process, which then must not begin to serve."""
        self._has_failed = False
        self._edited: str | None = None

    def start(self) -> None:
        """Start the thread."""
        # A file of bytecode that is written now would stay valid after a second edit within this second.
        sys.dont_write_bytecode = True
        # A coroutine would wait for one that computes.
        get_original("_thread", "start_new_thread")(self._run, ())

    def serves(self) -> None:
        """Have an edit ask for a replacement from now on. Until then, an edit ends the process."""
        with self._decision:
            self._serves = True

    def await_edit(self, error: BaseException) -> NoReturn:
        """Print the traceback of a failed import, and wait for the next edit. Ends the process.

        The arbiter then starts another worker. Meanwhile the worker of before serves, if there is one.
        """
        worker = self._worker
        self._changes.add_failure(error)
        self._has_failed = True
        text = "".join(traceback.format_exception(error.with_traceback(_own(error.__traceback__))))
        worker.log.error("The application cannot be imported. The next edit tries again.\n%s", text.rstrip("\n"))
        while self._edited is None and worker.alive and os.getppid() == worker.ppid:
            worker.notify()
            time.sleep(0.05)
        sys.exit(0)

    def _run(self) -> None:
        pause = get_original("time", "sleep")
        edited: str | None = None
        began = 0.0
        while True:
            pause(LOOK_SECONDS)
            changed = self._changes.look()
            if changed is not None and edited is None:
                edited, began = changed, time.monotonic()
            if edited is not None and (changed is None or time.monotonic() - began > LONGEST_SECONDS):
                self._act(edited)
                edited = None

    def _act(self, path: str) -> None:
        worker = self._worker
        worker.log.info("%s has changed; a new worker loads the application", path)
        worker.scoreboard.ask(worker.slot, "reload")
        with self._decision:
            if self._has_failed:
                self._edited = path
            elif not self._serves:
                # It has imported a part of the code of before.
                os._exit(0)
        # The arbiter looks at the scoreboard. A worker of another user may not wake it.
        with suppress(ProcessLookupError, PermissionError):
            os.kill(worker.ppid, signal.SIGCHLD)


def _own(tb: TracebackType | None) -> TracebackType | None:
    """Drop the frames of Gunicorn, this package and the import system from the top of a traceback."""
    import gunicorn

    ours = tuple(str(Path(str(package.__file__)).parent) + os.sep for package in (gunicorn, rmeinheld))
    below = tb
    while below is not None:
        file = below.tb_frame.f_code.co_filename
        is_import = file.startswith("<frozen importlib") or file.endswith(os.path.join("importlib", "__init__.py"))
        if not file.startswith(ours) and not is_import and Path(file).parent != Path(__file__).parent:
            return below
        below = below.tb_next
    return None


def _state_of(path: str) -> State:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _files_of(error: BaseException) -> Iterator[str]:
    """Files that the traceback of `error`, and those of its causes, name."""
    seen: set[int] = set()
    errors: list[BaseException | None] = [error]
    while errors:
        one = errors.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        errors += [one.__cause__, one.__context__]
        if isinstance(one, SyntaxError) and one.filename:
            yield one.filename
        if isinstance(one, ImportError) and one.path:
            yield one.path
        for frame, _ in traceback.walk_tb(one.__traceback__):
            if not frame.f_code.co_filename.startswith("<"):
                yield frame.f_code.co_filename
