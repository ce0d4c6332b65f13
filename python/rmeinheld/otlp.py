"""The metrics of `/metrics` for an OpenTelemetry collector, by OTLP over HTTP, with the option `otlp_endpoint`.

One process sends for all workers: the master, or a single process. An OS thread of its own waits for the collector, so
neither the loop nor the master does. The library of OpenTelemetry encodes and sends. It is imported only where the
option is set.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from .application import StartError
from .channel_options import without_password
from .option_kinds import CollectorUrl, Count

if TYPE_CHECKING:
    from ._rmeinheld import Scoreboard
    from .settings import Settings

__all__ = ["Identity", "Reporting", "Sender", "check", "endpoint_of", "interval_seconds", "sender_of", "sending"]

METRICS_PATH: Final = "/v1/metrics"
"""Path of metrics below the URL of a collector (OTLP specification, "OTLP/HTTP Request")."""

DEFAULT_COLLECTOR: Final = "http://localhost:4318"
"""The collector of the specification, if no variable names another one."""

INTERVAL_VARIABLE: Final = "OTEL_METRIC_EXPORT_INTERVAL"
DEFAULT_INTERVAL: Final = "60000"
"""Milliseconds between two reports, the default of the specification."""

IDENTITY_VARIABLE: Final = "_RMEINHELD_REPORTED_AS"
"""Environment variable of a new master. It has no meaning for anything else."""

LAST_SECONDS: Final = 3.0
"""Most time that the end of a service waits for the last report."""

FORK_SECONDS: Final = 0.1
"""Most time that a fork waits for a report that is under way."""


class Identity(NamedTuple):
    """The time at which the counters of a service began, and its instance id. Masters hand it on, as the counters."""

    start: int
    """Nanoseconds since 1970."""
    instance: str

    @classmethod
    def new(cls) -> Identity:
        """Return the identity of a service that begins now."""
        import uuid

        return cls(time.time_ns(), str(uuid.uuid4()))

    @classmethod
    def take_over(cls, environ: MutableMapping[str, str]) -> Identity:
        """Take the identity out of `environ`, where an older master has put it; without one the service begins now."""
        start, _, instance = environ.pop(IDENTITY_VARIABLE, "").partition(" ")
        return cls(int(start), instance) if start.isdecimal() and instance else cls.new()

    def environment(self) -> dict[str, str]:
        """Return the variables from which a new master takes the identity."""
        return {IDENTITY_VARIABLE: f"{self.start} {self.instance}"}


class Reporting(Protocol):
    """The work of a `Sender`."""

    def send(self) -> str:
        """Send the metrics of now. Returns "", or the reason why the collector has not got them."""

    def close(self) -> None:
        """Give up what is under way. From another thread."""


def check(settings: Settings) -> None:
    """Raise StartError if `otlp_endpoint` is set, and the library is missing or a variable is wrong."""
    if settings.otlp_endpoint is not None:
        _library()
        endpoint_of(settings.otlp_endpoint)
        interval_seconds()


def endpoint_of(option: str) -> str:
    """Return the URL of the metrics for a value of `otlp_endpoint`. Raises StartError for a wrong variable."""
    if option != CollectorUrl.ENVIRONMENT:
        return _below(option)
    name, url = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", os.environ.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "")
    if not url:
        name = "OTEL_EXPORTER_OTLP_ENDPOINT"
        url = f"{(os.environ.get(name) or DEFAULT_COLLECTOR).rstrip('/')}{METRICS_PATH}"
    from urllib.parse import urlsplit

    if urlsplit(url).scheme not in ("http", "https"):
        raise StartError(f"{name} must be a URL that begins with http:// or https://, not {without_password(url)!r}")
    return url


def interval_seconds() -> float:
    """Return the time between two reports. Raises StartError for a wrong variable."""
    text = os.environ.get(INTERVAL_VARIABLE) or DEFAULT_INTERVAL
    try:
        return Count(100, 86_400_000).parse(f"{INTERVAL_VARIABLE} (milliseconds)", text) / 1000
    except ValueError as error:
        raise StartError(str(error)) from None


def sender_of(settings: Settings, scoreboard: Scoreboard, identity: Identity, logger: Any) -> Sender | None:
    """Return the sender for `otlp_endpoint`, which does not run yet; None without the option.

    `logger` has the methods of a logger of Python. Raises StartError as `check` does.
    """
    if settings.otlp_endpoint is None:
        return None
    url = endpoint_of(settings.otlp_endpoint)
    report = _library().Report(url, scoreboard, identity.start, identity.instance)
    return Sender(report, without_password(url), interval_seconds(), logger)


@contextmanager
def sending(settings: Settings, scoreboard: Scoreboard | None, logger: Any) -> Iterator[None]:
    """Send metrics while the block runs, if `otlp_endpoint` is set. For a single process. Raises StartError."""
    sender = None if scoreboard is None else sender_of(settings, scoreboard, Identity.new(), logger)
    if sender is None:
        yield
        return
    sender.start()
    try:
        yield
    finally:
        sender.stop()


class Sender:
    """Sends a report at once, after each interval, and at the end.

    The log has one line when the collector does not get a report, and one when it gets reports again.
    """

    def __init__(self, report: Reporting, title: str, interval: float, logger: Any) -> None:
        self._report, self._title, self._interval, self._log = report, title, interval, logger
        self._over = threading.Event()
        # Held by a report that is under way, and by a fork.
        self._quiet = threading.Lock()
        self._failures = 0
        self._thread: threading.Thread | None = None
        self._process = 0

    def start(self) -> None:
        """Start the thread, unless it has been started. Not in a coroutine, where a thread may be a coroutine."""
        if self._thread is None:
            self._process = os.getpid()
            self._thread = threading.Thread(target=self._run, name="rmeinheld-otlp", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Send the last report, and end. Waits for `LAST_SECONDS` at most. In a forked child it does nothing."""
        thread = self._thread
        if thread is None or self._process != os.getpid() or self._over.is_set():
            return
        self._over.set()
        thread.join(LAST_SECONDS)
        if thread.is_alive():
            self._log.warning("The last metrics were not sent to %s within %g s", self._title, LAST_SECONDS)
        self._report.close()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let no report begin while the block, which forks, runs. Waits briefly for one that is under way.

        The child has no such thread, so a lock that the thread held at the fork would stay locked there. A report that
        takes longer waits for the network, and holds no lock.
        """
        is_quiet = self._quiet.acquire(timeout=FORK_SECONDS)
        try:
            yield
        finally:
            if is_quiet:
                self._quiet.release()

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._over.is_set()
            with self._quiet:
                self._send()
            if not is_last:
                self._over.wait(self._interval)

    def _send(self) -> None:
        try:
            problem = self._report.send()
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        if problem and not self._failures:
            self._log.warning(
                "Metrics do not reach %s (otlp_endpoint): %s. They are sent again every %g s",
                self._title,
                problem,
                self._interval,
            )
        elif self._failures and not problem:
            self._log.info("Metrics reach %s again (failed reports: %d)", self._title, self._failures)
        self._failures = self._failures + 1 if problem else 0


def _below(collector: str) -> str:
    from urllib.parse import urlsplit

    url = collector.rstrip("/")
    return url if urlsplit(url).path.endswith(METRICS_PATH) else url + METRICS_PATH


def _library() -> Any:
    try:
        from . import otlp_report
    except ImportError as error:
        raise StartError(
            f"otlp_endpoint needs the library of OpenTelemetry, which cannot be imported ({error}): "
            "pip install 'rmeinheld[otlp]'"
        ) from None
    return otlp_report
