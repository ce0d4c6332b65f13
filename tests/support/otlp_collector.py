"""An OpenTelemetry collector that keeps the metrics which it gets by OTLP over HTTP."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any, Self

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from serving import TIMEOUT

CUMULATIVE = 2
"""AGGREGATION_TEMPORALITY_CUMULATIVE."""

type Key = tuple[str, frozenset[tuple[str, Any]]]


class Exported:
    """The metrics of one request."""

    def __init__(self, path: str, fields: dict[str, str], body: bytes) -> None:
        message = ExportMetricsServiceRequest()
        message.ParseFromString(body)
        (resource,) = message.resource_metrics
        (scope,) = resource.scope_metrics
        self.path, self.fields = path, fields
        self.resource = _attributes(resource.resource)
        self.scope = scope.scope.name
        self.metrics = {metric.name: metric for metric in scope.metrics}
        self.points: dict[Key, Any] = {}
        self.growing: dict[Key, float] = {}
        """Counters, and the numbers of histograms."""
        self.starts: set[int] = set()
        for metric in scope.metrics:
            kind = metric.WhichOneof("data")
            data = getattr(metric, kind)
            assert kind == "gauge" or data.aggregation_temporality == CUMULATIVE
            for point in data.data_points:
                key = (metric.name, frozenset(_attributes(point).items()))
                assert key not in self.points, f"{key} is there twice"
                self.points[key] = point
                if kind != "gauge":
                    self.starts.add(point.start_time_unix_nano)
                    assert 0 < point.start_time_unix_nano <= point.time_unix_nano
                if kind == "histogram":
                    assert sum(point.bucket_counts) == point.count
                    assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
                    self.growing[key] = point.count
                elif kind == "sum" and data.is_monotonic:
                    self.growing[key] = _number(point)

    def __call__(self, name: str, **attributes: object) -> float:
        """The number of the series with exactly these attributes; `__` stands for a dot. Of a histogram, its count."""
        point = self.points[name, frozenset((key.replace("__", "."), value) for key, value in attributes.items())]
        return float(point.count) if hasattr(point, "bucket_counts") else _number(point)

    def requests(self) -> float:
        """The number of requests."""
        return sum(count for (name, _), count in self.growing.items() if name == "http.server.request.duration")

    def check_after(self, earlier: Exported) -> None:
        """AssertionError if a counter has gone backwards since `earlier`, or if it is that of another service."""
        assert (self.starts, self.resource) == (earlier.starts, earlier.resource)
        for key, before in earlier.growing.items():
            assert self.growing[key] >= before, key


class Collector:
    """Listens on a free port of 127.0.0.1, or on `port`, while it is a context. `status` is that of its answers."""

    def __init__(self, port: int = 0, status: int = 200) -> None:
        self.exports: list[Exported] = []
        self.faults: list[Exception] = []
        self.status = status
        self._changed = threading.Condition()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector._take(self.path, dict(self.headers.items()), body)
                self.send_response(collector.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def wait_for(self, number: int) -> Exported:
        """Wait (bounded) until this number of reports has come, check their order, and return the last one."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.faults or len(self.exports) >= number, TIMEOUT), self.exports
            assert not self.faults, self.faults
            exports = list(self.exports)
        for earlier, later in pairwise(exports):
            later.check_after(earlier)
        return exports[-1]

    def _take(self, path: str, fields: dict[str, str], body: bytes) -> None:
        with self._changed:
            try:
                self.exports.append(Exported(path, fields, body))
            except Exception as fault:
                self.faults.append(fault)
            self._changed.notify_all()


def _number(point: Any) -> float:
    return float(getattr(point, point.WhichOneof("value")))


def _attributes(holder: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in holder.attributes}
