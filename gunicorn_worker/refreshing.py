"""SIGHUP, as a part of the arbiter: the new configuration is in use as a whole, or everything stays as it was."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any

from gunicorn import util
from gunicorn.pidfile import Pidfile

from rmeinheld.application import StartError

from .errors import one_line
from .replacement import GrowingPause
from .sockets import ServiceSocket, close_sockets, opened_again
from .stopping import Stopping

__all__ = ["Refreshing"]


class Refreshing(Stopping):
    """The part of the arbiter that loads the configuration anew."""

    pidfile: Any
    _stale = 0
    """Workers up to this age are from before the last reload."""
    _refused = ""
    """The fault of the configuration that is tried again."""
    _refusals: GrowingPause
    _crashes: GrowingPause

    def _binds(self, passed: list[ServiceSocket]) -> list[str]:
        raise NotImplementedError

    def _owner(self) -> tuple[int, int] | None:
        raise NotImplementedError

    def _change_admin(self) -> None:
        raise NotImplementedError

    def reload(self) -> None:
        """Load the configuration anew. Workers with the old one leave as their replacements become ready.

        If the new configuration is refused, everything stays as it is, and the next try comes after a growing pause.
        """
        self._reporter.reload()
        before = _Before(self)
        opened: list[ServiceSocket] = []
        try:
            self._reset_environment()
            self.app.reload()
            opened = opened_again(self.LISTENERS, self._binds(self.LISTENERS), self.settings, self._owner())
            self.setup(self.app)
            self.cfg.on_reload(self)
            self._change_pidfile()
            self._change_admin()
        except (Exception, SystemExit) as error:
            close_sockets((one for one in opened if one not in self.LISTENERS), unlink=True)
            before.put_back()
            with suppress(OSError, ValueError, RuntimeError):
                self._change_pidfile()
                self._change_admin()
            self._refuse(error)
            self._reporter.fail_reload("the new configuration is refused")
            return
        close_sockets((one for one in self.LISTENERS if one not in opened), unlink=self._is_alone)
        if opened != self.LISTENERS:
            self.LISTENERS = opened
            self.log.info("Listening at: %s", ",".join(map(str, opened)))
        self.log.reopen_files()
        util._setproctitle(f"master [{self.proc_name}]")
        self._stale, self._refused = self.worker_age, ""
        self._crashes.reset()
        self._refusals.reset()

    def _refuse(self, error: BaseException) -> None:
        text = one_line(error)
        if not isinstance(error, StartError | OSError):
            text = f"{type(error).__name__}: {text}"
        pause = self._refusals.fail(time.monotonic())
        if text != self._refused:
            self.log.error(
                "The new configuration is refused, and the old one stays in use: %s. The next try is in %g s",
                text,
                pause,
            )
        self._refused = text

    def _reset_environment(self) -> None:
        """Undo the variables of `--env`, as Gunicorn does before it reads the configuration."""
        for name in self.cfg.env:
            if name in self.cfg.env_orig:
                os.environ[name] = self.cfg.env_orig[name]
            else:
                os.environ.pop(name, None)

    def _change_pidfile(self) -> None:
        """Write another file if the configuration names another. Raises RuntimeError if another process owns it."""
        path = self.cfg.pidfile
        if path is not None and self.master_pid:
            path += ".2"
        if path == (None if self.pidfile is None else self.pidfile.fname):
            return
        new = None if path is None else Pidfile(path)
        if new is not None:
            new.create(self.pid)
        if self.pidfile is not None:
            self.pidfile.unlink()
        self.pidfile = new


class _Before:
    """The configuration of a master, to put back if the next one is refused."""

    def __init__(self, arbiter: Refreshing) -> None:
        self._arbiter, self._environ, self._directory = arbiter, dict(os.environ), os.getcwd()
        self._cfg, self._resolved, self._number = arbiter.app.cfg, arbiter.app.resolved, arbiter.num_workers

    def put_back(self) -> None:
        arbiter = self._arbiter
        is_changed = arbiter.cfg is not self._cfg
        arbiter.app.cfg, arbiter.app.resolved = self._cfg, self._resolved
        with suppress(OSError):
            os.chdir(self._directory)
        os.environ.clear()
        os.environ.update(self._environ)
        if is_changed:
            try:
                arbiter.setup(arbiter.app)
            except (Exception, SystemExit):
                arbiter.log.exception("A hook failed while the old configuration was put back")
            arbiter.cfg = self._cfg
            arbiter._num_workers = self._number
