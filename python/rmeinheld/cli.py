"""The command line: `rmeinheld MODULE:APP`, or `python -m rmeinheld MODULE:APP`.

Options have Gunicorn's names where Gunicorn has them. They come from the table in `rmeinheld.settings`, and their
values from the sources in `rmeinheld.configuration`. One process serves, unless a value needs Gunicorn's arbiter. A
failure to start is one line on standard error and exit status 1. If the application raises while it is imported, its
traceback comes first.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Final

from . import channel_options, collector, ends, error_log, stdio
from .addresses import Address, parse_address
from .application import StartError, load_application, mounted
from .configuration import Command, Resolved, report
from .coroutine import set_offload_threads
from .health import watched
from .listeners import Listener, close_all, systemd_descriptors
from .privileges import Identity, identity_of, warn_root
from .running import make_engine, open_listeners, serve
from .settings import Settings
from .settings.sticky import WITHOUT_EFFECT
from .tls import Tls, tls_of

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

__all__ = ["StartError", "load_application", "main"]

NEW_MASTER: Final = "_RMEINHELD_HANDED_ON"
"""Environment variable of the master that SIGUSR2 starts. It serves with the arbiter, even if one worker is left."""

COMMANDS: Final = ("top", "ctl", "dump")
"""First words of the command line that look into a running server. An application of that name is `top:app`."""

FAILURE: Final = 1
"""Exit status of a server that could not start."""

INTERRUPTED: Final = 130
"""Exit status after Ctrl-C outside the life of the server: that of a shell for a process that SIGINT has ended."""


class _Hang(Exception):
    """A request or thread goes on computing, so the process cannot end in order."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line with `arguments` (None: those of the process) and return the exit status.

    0: the server stopped in order, or `--check-config` found no fault. 1: the server could not start, and one line on
    standard error says why. The status is also 1 if the process ended while a request or thread was computing. 130:
    SIGINT came before the server ran.
    """
    stdio.fill_standard_descriptors()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words and words[0] in COMMANDS:
            from .inspection.command import main as inspect

            # `top` runs for hours.
            collector.resume()
            return inspect(words)
        command = Command(words)
        resolved = command.load()
        if resolved.settings.print_config:
            _print_config(resolved)
        elif resolved.settings.check_config:
            _check_config(resolved)
        elif resolved.reasons or NEW_MASTER in os.environ:
            _serve_with_arbiter(command, resolved)
        else:
            _serve_alone(resolved)
    except _Hang as error:
        logging.getLogger(error_log.LOGGER_NAME).error("%s; the process ends anyway", error)
        ends.leave(FAILURE)
        return FAILURE
    except StartError as error:
        if error.cause_shown is not None:
            traceback.print_exception(error.cause_shown)
        # A message may quote text with line ends. It is printed as one line, in one piece: threads may log meanwhile.
        print(f"rmeinheld: error: {' '.join(str(error).splitlines())}\n", end="", file=sys.stderr)
        return FAILURE
    except KeyboardInterrupt:
        # Before the server has started, or in its last moment: a traceback of ours helps no user.
        return INTERRUPTED
    return 0


# --- the ways to go on -----------------------------------------------------------------------------------------------


def _print_config(resolved: Resolved) -> None:
    if resolved.reasons:
        _ = resolved.gunicorn
    try:
        print(report(resolved), flush=True)
    except BrokenPipeError:
        # A reader such as head(1) has read enough. The interpreter would write the rest again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check_config(resolved: Resolved) -> None:
    if resolved.reasons:
        _ = resolved.gunicorn
    _prepare_process(resolved)
    with _error_log(resolved):
        _tls_and_identity(resolved.settings)
        _load_patched(resolved)
        _check_otlp(resolved.settings)
    with _as_start_error():
        _addresses(resolved)
    print(f"rmeinheld: {resolved.target} and its options are in order")


def _serve_with_arbiter(command: Command, resolved: Resolved) -> None:
    """Start Gunicorn's arbiter in this process. It ends the process."""
    # Before anything else, so that a value that Gunicorn refuses is one line.
    _ = resolved.gunicorn
    _check_files(resolved)
    if resolved.settings.patch:
        # In the master, so that its workers share the work: each would touch, and so copy, all of its objects.
        from .patch import patch_all

        patch_all()
    _check_otlp(resolved.settings)
    from .gunicorn_worker.application import run_service

    if resolved.settings.umask is not None:
        os.umask(resolved.settings.umask)
    run_service(_loads(command, resolved))


def _check_otlp(settings: Settings) -> None:
    if settings.otlp_endpoint is not None:
        from . import otlp

        otlp.check(settings)


def _loads(command: Command, first: Resolved) -> Callable[[], Resolved]:
    """Return a function that returns `first` when it is called first, and then reads the sources again."""
    pending = [first]

    def load() -> Resolved:
        if pending:
            return pending.pop()
        resolved = command.load()
        _check_files(resolved)
        return resolved

    return load


def _check_files(resolved: Resolved) -> None:
    """Raise StartError for a certificate or a key that the workers could not use.

    The hook `ssl_context` is left to the workers, since it may need the application.
    """
    if resolved.settings.ssl_context is None:
        with _as_start_error():
            tls_of(resolved.settings)


def _serve_alone(resolved: Resolved) -> None:
    settings = resolved.settings
    channel_options.configure(settings)
    _prepare_process(resolved)
    with ExitStack() as stack:
        stack.enter_context(_error_log(resolved))
        with _as_start_error(resolved.label("admin_bind")):
            health = stack.enter_context(watched(settings))
        if settings.inspect_socket is not None:
            from .inspect_socket import inspected

            with _as_start_error(resolved.label("inspect_socket")):
                stack.enter_context(inspected(settings, health))
        # A private key is often readable by root alone.
        tls, identity = _tls_and_identity(settings)
        app = _load_mounted(resolved) if identity is None else None
        with _as_start_error():
            listeners = open_listeners(_addresses(resolved), settings)
        stack.callback(close_all, listeners)
        if settings.pid is not None:
            stack.enter_context(_pid_file(settings.pid))
        access_log = None if identity is None else _assume(identity, listeners, settings, stack)
        if app is None:
            # It has no more rights than the requests that it answers.
            app = _load_mounted(resolved)
        with _as_start_error():
            engine = make_engine(app, listeners, settings, tls=tls, access_log=access_log, health=health)
        if settings.otlp_endpoint is not None and health is not None:
            from . import otlp

            stack.enter_context(otlp.sending(settings, health.scoreboard, logging.getLogger(error_log.LOGGER_NAME)))
        warn_root()
        if settings.sticky is not None:
            logging.getLogger(error_log.LOGGER_NAME).info(WITHOUT_EFFECT, settings.sticky)
        with _as_hang():
            serve(engine, listeners, settings, tls=tls, exit_status=FAILURE, health=health)


def _tls_and_identity(settings: Settings) -> tuple[Tls | None, Identity | None]:
    with _as_start_error():
        identity = identity_of(settings.user, settings.group, initgroups=settings.initgroups)
        return tls_of(settings, settings.ssl_context), identity


def _assume(identity: Identity, listeners: Sequence[Listener], settings: Settings, stack: ExitStack) -> int | None:
    """Become the user and group of `identity`, who then owns sockets and logs. Returns the access log's descriptor."""
    descriptor: int | None = None
    paths = [listener.path for listener in listeners if listener.path is not None]
    if settings.error_logfile != "-":
        paths.append(settings.error_logfile)
    if settings.access_logfile not in (None, "-"):
        path = str(settings.access_logfile)
        with _as_start_error("access_logfile"):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        stack.callback(os.close, descriptor)
        paths.append(path)
    if settings.pid is not None:
        paths.append(settings.pid)
    with _as_start_error():
        identity.own(paths)
        identity.assume()
    return descriptor


@contextmanager
def _error_log(resolved: Resolved) -> Iterator[None]:
    with ExitStack() as stack:
        with _as_start_error(resolved.label("error_logfile")):
            stack.enter_context(error_log.configured(resolved.settings.log_level, resolved.settings.error_logfile))
        yield


def _load_patched(resolved: Resolved) -> WSGIApplication:
    """Patch the standard library, unless `--no-patch` forbids it, and import the application."""
    if resolved.settings.patch:
        from .patch import patch_all

        patch_all()
    collector.resume()
    return load_application(resolved.target)


def _load_mounted(resolved: Resolved) -> WSGIApplication:
    settings = resolved.settings
    app = _load_patched(resolved)
    if settings.threads > 1:
        set_offload_threads(settings.threads)
    return app if settings.root_path is None else mounted(app, settings.root_path)


# --- the process -----------------------------------------------------------------------------------------------------


def _prepare_process(resolved: Resolved) -> None:
    settings = resolved.settings
    if settings.chdir is not None:
        with _as_start_error(resolved.label("chdir")):
            os.chdir(settings.chdir)
    if settings.umask is not None:
        os.umask(settings.umask)
    for assignment in settings.env:
        name, _, value = assignment.partition("=")
        os.environ[name] = value
    # An installed command has the directory of its script on the path instead of the current one.
    front = [os.getcwd()]
    if settings.pythonpath is not None:
        front = [os.path.abspath(directory) for directory in settings.pythonpath.split(",")] + front
    sys.path[:0] = [directory for directory in front if directory not in sys.path]


def _addresses(resolved: Resolved) -> list[Address]:
    settings = resolved.settings
    if "bind" not in resolved.given and not settings.check_config and (passed := systemd_descriptors(os.environ)):
        return list(passed)
    return [parse_address(text) for text in settings.bind]


@contextmanager
def _pid_file(path: str) -> Iterator[None]:
    """Keep the process id in the file `path` while the block runs. Raises StartError if it cannot be written."""
    # Its own imports would take 0.8 MB of every server.
    import tempfile

    path = os.path.abspath(path)
    _refuse_living_owner(path)
    try:
        # Written under another name first, so that no reader sees half a number.
        descriptor, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=os.path.dirname(path))
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(f"{os.getpid()}\n")
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise StartError(f"--pid: cannot write {path!r}: {error.strerror}") from None
    try:
        yield
    finally:
        with suppress(OSError):
            if _pid_in(path) == os.getpid():
                os.unlink(path)


def _refuse_living_owner(path: str) -> None:
    owner = _pid_in(path)
    if owner is None or owner == os.getpid():
        return
    try:
        os.kill(owner, 0)
    except ProcessLookupError:
        return  # The file is left over from a process that did not end in order.
    except PermissionError:
        pass
    raise StartError(f"--pid: {path!r} belongs to process {owner}, which is running; remove the file if it is stale")


def _pid_in(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            number = int(file.read(32))
    except (OSError, ValueError):
        return None
    return number if number > 0 else None


@contextmanager
def _as_hang() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise _Hang(str(error)) from None
    except OSError as error:
        # A failure of the engine has no number. The log may have lost its line, since the process ends.
        if error.errno is None:
            raise StartError(f"the server ends: {error}") from None
        raise


@contextmanager
def _as_start_error(label: str = "") -> Iterator[None]:
    """Turn the errors that bad settings and refused resources raise into a StartError."""
    prefix = f"{label}: " if label else ""
    try:
        yield
    except OSError as error:
        text = error.strerror or str(error)
        place = f": {os.fsdecode(error.filename)!r}" if isinstance(error.filename, str | bytes) else ""
        raise StartError(f"{prefix}{text}{place}") from None
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise StartError(f"{prefix}{error}") from None
