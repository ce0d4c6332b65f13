"""One report for an OpenTelemetry collector: the metrics of a service in the data model of OpenTelemetry.

Names and units are those of OpenTelemetry: `http.server.request.duration` in `s`. A collector that writes them for
Prometheus makes the names of `/metrics` again, so that a dashboard reads both.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, cast

import requests
from opentelemetry import context
from opentelemetry.exporter.otlp.proto.http import metric_exporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from . import _rmeinheld

if TYPE_CHECKING:
    from ._rmeinheld import Scoreboard

__all__ = ["Report", "metrics_of"]

type Value = str | int

SERVICE: Final = "rmeinheld"
"""The name of the service, unless a variable of OpenTelemetry has another one."""

UNITS: Final = {"seconds": "s", "bytes": "By", "ratio": "1"}
"""Units of OpenTelemetry (UCUM) by those of Prometheus."""

NAMES: Final = {
    "http_server_request_duration": "http.server.request.duration",
    "http_server_active_requests": "http.server.active_requests",
    "http_request_method": "http.request.method",
    "http_response_status_class": "http.response.status_class",
    "http_response_status_code": "http.response.status_code",
}
"""Names of OpenTelemetry's conventions, for metrics and labels."""

UP_AND_DOWN: Final = frozenset({"http_server_active_requests"})
"""Gauges that the conventions have as sums which may fall."""

_SAMPLE: Final = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPED: Final = re.compile(r"\\(.)")
_CUMULATIVE: Final = AggregationTemporality.CUMULATIVE
_UNKNOWN: Final = cast(float, None)
"""The smallest and the largest duration, which the protocol lets out."""


class Report:
    """Sends the metrics of a service to the URL `url`. Headers, certificates and compression come from the environment.

    The counters of the service `instance` began at `start`, in nanoseconds since 1970.
    """

    def __init__(self, url: str, scoreboard: Scoreboard, start: int, instance: str) -> None:
        self._scoreboard = scoreboard
        self._session = _Session()
        self._exporter = metric_exporter.OTLPMetricExporter(endpoint=url, session=self._session)
        self._start = start
        own = Resource({SERVICE_NAME: SERVICE, SERVICE_INSTANCE_ID: instance})
        self._resource = own.merge(OTELResourceDetector().detect())
        self._scope = InstrumentationScope(SERVICE, _rmeinheld.__version__)

    def send(self) -> str:
        """Send the metrics of now. Returns "", or the reason why the collector has not got them."""
        self._session.problem = ""
        # An application in this process may trace the requests that it sends.
        token = context.attach(context.set_value(context._SUPPRESS_INSTRUMENTATION_KEY, True))
        try:
            with _Silence():
                result = self._exporter.export(self._data())
        except _Unreachable:
            # Older versions of the library let it through.
            result = MetricExportResult.FAILURE
        finally:
            context.detach(token)
        return (
            "" if result is MetricExportResult.SUCCESS else self._session.problem or "the library refuses the metrics"
        )

    def close(self) -> None:
        """Give up what is under way."""
        self._exporter.shutdown()

    def _data(self) -> MetricsData:
        metrics = list(metrics_of(self._scoreboard.scrape(), self._start, time.time_ns()))
        scope = ScopeMetrics(scope=self._scope, metrics=metrics, schema_url="")
        return MetricsData([ResourceMetrics(resource=self._resource, scope_metrics=[scope], schema_url="")])


def metrics_of(text: str, start: int, now: int) -> Iterator[Metric]:
    """Yield the metrics of a scrape in the format of Prometheus. The times are nanoseconds since 1970.

    Counters begin at `start`.
    """
    samples: dict[str, list[tuple[dict[str, str], str]]] = {}
    for line in text.splitlines():
        if (match := _SAMPLE.match(line)) is not None:
            samples.setdefault(match[1], []).append((_labels(match[2] or ""), match[3]))
    for name, kind, unit, _, meaning in _rmeinheld.metric_families():
        data: Histogram | Sum | Gauge
        if kind == "histogram":
            data = _histogram(samples.get(f"{name}_bucket", []), samples.get(f"{name}_sum", []), start, now)
        else:
            data = _numbers(name, kind, unit, samples.get(name, []), start, now)
        if data.data_points:
            yield Metric(name=_name(name, kind, unit), description=meaning, unit=UNITS.get(unit, ""), data=data)


def _name(name: str, kind: str, unit: str) -> str:
    stem = name.removesuffix("_total") if kind == "counter" else name
    stem = stem.removesuffix(f"_{unit}") if unit else stem
    return NAMES.get(stem) or stem.replace("rmeinheld_", "rmeinheld.", 1)


def _numbers(
    name: str, kind: str, unit: str, samples: list[tuple[dict[str, str], str]], start: int, now: int
) -> Sum | Gauge:
    is_sum = kind == "counter" or name in UP_AND_DOWN
    # A series keeps its type, also where a time is a whole number.
    number = float if unit in ("seconds", "ratio") else lambda text: int(float(text))
    points = [
        NumberDataPoint(
            attributes=_attributes(labels),
            start_time_unix_nano=start if is_sum else 0,
            time_unix_nano=now,
            value=number(text),
        )
        for labels, text in samples
    ]
    return Sum(points, _CUMULATIVE, is_monotonic=kind == "counter") if is_sum else Gauge(points)


def _histogram(
    buckets: list[tuple[dict[str, str], str]], sums: list[tuple[dict[str, str], str]], start: int, now: int
) -> Histogram:
    counts: dict[tuple[tuple[str, str], ...], list[tuple[float, int]]] = {}
    for labels, text in buckets:
        bound = float(labels.pop("le"))
        counts.setdefault(tuple(labels.items()), []).append((bound, int(float(text))))
    points = []
    for labels, text in sums:
        found = counts[tuple(labels.items())]
        # Those of Prometheus include the buckets below.
        numbers = [0, *(count for _, count in found)]
        points.append(
            HistogramDataPoint(
                attributes=_attributes(labels),
                start_time_unix_nano=start,
                time_unix_nano=now,
                count=numbers[-1],
                sum=float(text),
                bucket_counts=[after - before for before, after in pairwise(numbers)],
                explicit_bounds=[bound for bound, _ in found[:-1]],
                min=_UNKNOWN,
                max=_UNKNOWN,
            )
        )
    return Histogram(points, _CUMULATIVE)


def _labels(text: str) -> dict[str, str]:
    return {name: _ESCAPED.sub(_unescaped, value) for name, value in _LABEL.findall(text)}


def _unescaped(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]


def _attributes(labels: Mapping[str, str]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for name, value in labels.items():
        if name != "http_response_status_code":
            found[NAMES.get(name, name)] = value
        elif value.isdigit():
            # The conventions have a number. Rare statuses are counted together, as `other`.
            found[NAMES[name]] = int(value)
    return found


class _Unreachable(Exception):
    """A failure that the library does not try again: the next report has all numbers."""


class _Session(requests.Session):
    """The requests of the exporter, each with a connection of its own. Notes why the last one failed."""

    def __init__(self) -> None:
        super().__init__()
        self.problem = ""
        # A collector closes a connection that is idle for an interval.
        self.headers["Connection"] = "close"

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """See `requests.Session.send`."""
        try:
            response = super().send(request, **options)
        except Exception as error:
            self.problem = _root(error)
            raise _Unreachable(self.problem) from None
        if not response.ok:
            self.problem = f"the answer is {response.status_code} {response.reason}"
        return response


def _root(error: BaseException) -> str:
    """Return the text of the first cause: that of the socket, instead of those of three libraries about it."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__


class _Silence(logging.Filter):
    """Drops the library's log lines about our reports, and no others: the application may use the library, too."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def __enter__(self) -> None:
        metric_exporter._logger.addFilter(self)

    def __exit__(self, *_: object) -> None:
        metric_exporter._logger.removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        return record.thread != self._thread
