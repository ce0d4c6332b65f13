"""The application of Gunicorn behind `rmeinheld --workers N`: its configuration comes from our command line.

`run_service` starts Gunicorn's arbiter in this process, as `ServiceArbiter`. Gunicorn is imported only here.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn

from rmeinheld import collector
from rmeinheld.application import StartError, load_application
from rmeinheld.patch import is_patched
from rmeinheld.tls import describe, tls_of

from .errors import one_line
from .hooks import is_hook_set

try:
    import gunicorn
    from gunicorn import util
    from gunicorn.app.base import Application, BaseApplication
    from gunicorn.errors import ConfigError
except ModuleNotFoundError as missing:
    if missing.name != "gunicorn":
        raise
    raise StartError("several workers need Gunicorn, which is not installed: pip install gunicorn") from None

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

    from rmeinheld.configuration import Resolved

__all__ = ["OLDEST", "TOO_NEW", "Service", "run_service"]

OLDEST: Final = (24, 1)
"""The oldest version of Gunicorn whose arbiter `ServiceArbiter` can change. It is in pyproject.toml, too."""

TOO_NEW: Final = (28,)
"""The first version that this package does not know."""

WORKER: Final = "rmeinheld.gunicorn_worker.Worker"


def run_service(load: Callable[[], Resolved]) -> NoReturn:
    """Serve with the configuration that `load` returns, until a signal. It is called again at each SIGHUP.

    Raises StartError if the service cannot start, and SystemExit at its end; in a worker process, too.
    """
    check_version(gunicorn.__version__, gunicorn.version_info)
    try:
        Service(load).run()
    except KeyboardInterrupt:
        # Before the handlers of the master: with preload_app, in the import.
        sys.exit(1)
    sys.exit(0)


def check_version(text: str, version: tuple[int | str, ...]) -> None:
    """Raise StartError unless `ServiceArbiter` is known to work with this version of Gunicorn."""
    numbers = tuple(number for number in version if isinstance(number, int))
    if not OLDEST <= numbers < TOO_NEW:
        raise StartError(
            f"several workers need Gunicorn {'.'.join(map(str, OLDEST))} to {TOO_NEW[0] - 1}, and {text} is installed: "
            f"pip install 'gunicorn>={'.'.join(map(str, OLDEST))},<{TOO_NEW[0]}'"
        )


class _Started(BaseApplication):  # type: ignore[misc]
    """The last step of `Application.run`, which names Gunicorn's own arbiter."""

    def run(self) -> None:
        from .arbiter import ServiceArbiter

        try:
            ServiceArbiter(self).run()
        except (RuntimeError, OSError, ValueError, ConfigError) as error:
            # Of the master before it serves: later its loop catches everything.
            raise StartError(one_line(error)) from None


class Service(Application, _Started):  # type: ignore[misc]
    """The configuration and the application of a service."""

    cfg: Any
    resolved: Resolved

    def __init__(self, load: Callable[[], Resolved]) -> None:
        self._load = load
        # Where a link leads to another directory at each deployment, this is the link.
        self.directory: str = util.getcwd()
        super().__init__(prog="rmeinheld")

    def do_load_config(self) -> None:
        """Load the configuration, as Gunicorn does, but raise instead of ending the process.

        Raises StartError, or what a configuration file raises.
        """
        before = self.cfg
        try:
            self.load_default_config()
            self.load_config()
            if hasattr(self.cfg, "validate"):
                self.cfg.validate()
        except BaseException:
            self.cfg = before
            raise

    def load_config(self) -> None:
        # A relative path means the same at a reload.
        os.chdir(self.directory)
        resolved = self._load()
        for name, value in resolved.gunicorn.items():
            self.cfg.set(name, value)
        # The arbiter opens the sockets before the first fork, so that a worker that leaves strands no connection.
        self.cfg.set("reuse_port", False)
        self.cfg.set("default_proc_name", resolved.target)
        self._check_worker_class()
        self._check_certificate()
        if is_patched("time") and not resolved.settings.patch:
            raise StartError("patch is off now, but the master is patched already: start the service anew")
        self.cfg.rmeinheld_options = dict(resolved.options)
        self.chdir()
        self.resolved = resolved

    def load(self) -> WSGIApplication:
        """Import the application, in a patched process: with `preload_app`, the master. Raises StartError."""
        if self.resolved.settings.patch:
            from rmeinheld.patch import patch_all

            patch_all()
        if self.resolved.settings.preload_app:
            logging.getLogger("gunicorn.error").info(
                "preload_app: the master imports %s%s. The workers share it, and SIGHUP does not load changed code",
                self.resolved.target,
                ", after it has patched the standard library" if self.resolved.settings.patch else "",
            )
        collector.resume()
        return load_application(self.resolved.target)

    def _check_worker_class(self) -> None:
        from .worker import Worker

        try:
            given = self.cfg.worker_class
        except RuntimeError as error:
            raise StartError(f"worker_class: {error}") from None
        if not issubclass(given, Worker):
            raise StartError(
                f"worker_class must be a subclass of {WORKER}, not {self.cfg.worker_class_str!r}; "
                "use Gunicorn's own command for other workers"
            )

    def _check_certificate(self) -> None:
        """Read the files of TLS, so that a bad one is noticed before a worker needs it."""
        if not is_hook_set(self.cfg, "ssl_context"):
            try:
                tls_of(self.cfg, None)
            except (OSError, ValueError, TypeError) as error:
                raise StartError(describe(error)) from None
