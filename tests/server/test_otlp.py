"""The metrics of a single process for an OpenTelemetry collector: the data model, the variables, and its absence."""

from __future__ import annotations

import signal
import subprocess
import threading
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from health_probes import free_port
from metrics import Scrape
from otlp_collector import Collector, Exported
from rmeinheld import otlp
from rmeinheld._rmeinheld import Scoreboard, metric_families
from rmeinheld.application import StartError
from rmeinheld.otlp_report import metrics_of
from rmeinheld.settings import Settings
from serving import TIMEOUT, Serve, command_of_server, environment_of_child

APP = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""

PROMETHEUS_UNITS = {"s": "_seconds", "By": "_bytes", "1": "_ratio", "": ""}

DURATIONS = """\
# TYPE rmeinheld_time_to_first_byte_seconds histogram
rmeinheld_time_to_first_byte_seconds_bucket{le="0.005"} 2
rmeinheld_time_to_first_byte_seconds_bucket{le="0.01"} 2
rmeinheld_time_to_first_byte_seconds_bucket{le="+Inf"} 5
rmeinheld_time_to_first_byte_seconds_count 5
rmeinheld_time_to_first_byte_seconds_sum 1.5
# TYPE rmeinheld_refused_requests_total counter
rmeinheld_refused_requests_total{http_response_status_code="431"} 3
rmeinheld_refused_requests_total{http_response_status_code="other"} 1
# TYPE rmeinheld_build_info gauge
rmeinheld_build_info{version="a\\\\b\\"c\\n",python="3"} 1
"""


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENDPOINT", "METRICS_ENDPOINT", "HEADERS"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}", raising=False)
    monkeypatch.delenv("OTEL_METRIC_EXPORT_INTERVAL", raising=False)


def exported(text: str, start: int = 1, now: int = 2) -> Exported:
    """The metrics of a scrape, as a collector gets them."""
    scope = ScopeMetrics(InstrumentationScope("rmeinheld"), list(metrics_of(text, start, now)), "")
    data = MetricsData([ResourceMetrics(Resource({}), [scope], "")])
    return Exported("", {}, encode_metrics(data).SerializeToString())


# --- the data model --------------------------------------------------------------------------------------------------


def test_a_collector_that_writes_for_prometheus_makes_the_names_of_a_scrape_again() -> None:
    board = Scoreboard(1)
    board.reserve()
    found = exported(board.scrape())
    names = set()
    for name, metric in found.metrics.items():
        kind = metric.WhichOneof("data")
        end = "_total" if kind == "sum" and metric.sum.is_monotonic else ""
        names.add(name.replace(".", "_") + PROMETHEUS_UNITS[metric.unit] + end)
        assert metric.description.endswith(".")
    scraped = Scrape(board.scrape()).names()
    # A family without a sample is not sent.
    expected = {name for name, *_ in metric_families() if {name, f"{name}_sum"} & scraped}
    assert names == expected
    assert {"http.server.request.duration", "http.server.active_requests", "rmeinheld.workers"} <= set(found.metrics)


def test_numbers_labels_and_buckets_are_those_of_the_scrape() -> None:
    found = exported(DURATIONS)
    (point,) = found.metrics["rmeinheld.time_to_first_byte"].histogram.data_points
    assert (point.count, point.sum, list(point.bucket_counts), list(point.explicit_bounds)) == (
        5,
        1.5,
        [2, 0, 3],
        [0.005, 0.01],
    )
    assert not point.HasField("min") and not point.HasField("max")
    assert (point.start_time_unix_nano, point.time_unix_nano) == (1, 2)
    assert found("rmeinheld.refused_requests", http__response__status_code=431) == 3
    assert found("rmeinheld.refused_requests") == 1
    assert found("rmeinheld.build_info", version='a\\b"c\n', python="3") == 1


def test_a_series_keeps_its_type_when_a_time_is_a_whole_number() -> None:
    for text in ("0", "2", "2.5"):
        found = exported(f"rmeinheld_loop_busy_seconds_total {text}\nrmeinheld_sent_bytes_total 7\n")
        (busy,) = found.metrics["rmeinheld.loop_busy"].sum.data_points
        (sent,) = found.metrics["rmeinheld.sent"].sum.data_points
        assert (busy.WhichOneof("value"), sent.WhichOneof("value")) == ("as_double", "as_int")


# --- the options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "variables", "url"),
    [
        ("http://c:4318", {}, "http://c:4318/v1/metrics"),
        ("https://c/", {}, "https://c/v1/metrics"),
        ("http://c/otlp", {}, "http://c/otlp/v1/metrics"),
        ("http://c/v1/metrics", {"ENDPOINT": "http://d"}, "http://c/v1/metrics"),
        ("environment", {}, "http://localhost:4318/v1/metrics"),
        ("environment", {"ENDPOINT": "http://d:1/"}, "http://d:1/v1/metrics"),
        ("environment", {"ENDPOINT": "http://d", "METRICS_ENDPOINT": "http://e/as/it/is"}, "http://e/as/it/is"),
    ],
)
def test_the_url_is_that_of_the_specification(
    option: str, variables: dict[str, str], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", value)
    assert otlp.endpoint_of(str(Settings(otlp_endpoint=option).otlp_endpoint)) == url


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317", "must be a URL that begins with http:// or https://"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "60s", r"\(milliseconds\) must be an integer from 100 to 86400000, not '60s'"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "0", r"\(milliseconds\) must be an integer from 100 to 86400000, not 0"),
    ],
)
def test_a_wrong_variable_is_an_error_at_start(
    variable: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(StartError, match=f"{variable} {message}"):
        otlp.check(Settings(otlp_endpoint="environment"))
    otlp.check(Settings())


@pytest.mark.parametrize(
    "value", ["collector:4318", "grpc://c", "http://", "http://a:b@c", "http://c?x=y", "http://c:0", "http://c:x"]
)
def test_a_wrong_url_is_named_without_a_password(value: str) -> None:
    with pytest.raises(ValueError, match="otlp_endpoint must be a URL that begins with http:// or https://") as caught:
        Settings(otlp_endpoint=value)
    assert "a:b" not in str(caught.value)


def test_otlp_endpoint_without_metrics_is_refused() -> None:
    with pytest.raises(ValueError, match="otlp_endpoint needs metrics"):
        Settings(otlp_endpoint="http://c", metrics=False)


@pytest.mark.parametrize("options", [(), ("--workers", "2"), ("--check-config",)], ids=str)
def test_a_missing_library_is_an_error_at_start_that_names_the_extra(options: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "opentelemetry.py").write_text("raise ModuleNotFoundError(\"No module named 'opentelemetry'\")\n")
    (tmp_path / "shop.py").write_text(APP)
    command = command_of_server("shop:app", ("--otlp-endpoint", "http://127.0.0.1:1", *options))
    done = subprocess.run(
        command, cwd=tmp_path, env=environment_of_child(tmp_path), capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "rmeinheld: error: otlp_endpoint needs the library of OpenTelemetry, which cannot be imported (No module named "
        "'opentelemetry'): pip install 'rmeinheld[otlp]'"
    )


# --- a server --------------------------------------------------------------------------------------------------------


def test_a_single_process_sends_at_its_start_and_the_last_numbers_at_its_end(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.instance.id=one")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20token")
    with Collector() as collector:
        server = serve(APP, otlp_endpoint=collector.url)
        first = collector.wait_for(1)
        for _ in range(3):
            assert server.get("/").status == 200
        server.stop()
        last = collector.wait_for(2)
        assert len(collector.exports) == 2
    assert first.requests() == 0
    assert last.requests() == 3
    assert last("http.server.request.duration", http__request__method="GET", http__response__status_class="2xx") == 3
    assert (last.path, last.scope) == ("/v1/metrics", "rmeinheld")
    assert last.fields["authorization"] == "Bearer token"
    assert last.resource == {
        "service.name": "shop",
        "service.instance.id": "one",
        "deployment.environment.name": "test",
    }


def test_a_collector_that_is_away_has_one_line_in_the_log_and_one_when_it_is_back(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "100")
    port = free_port()
    server = serve(APP, otlp_endpoint=f"http://127.0.0.1:{port}")
    away = rf"Metrics do not reach http://127\.0\.0\.1:{port}/v1/metrics \(otlp_endpoint\): "
    server.wait_for_log(away + r"Connection refused\. They are sent again every 0\.1 s")
    assert server.get("/").status == 200
    with Collector(port) as collector:
        last = collector.wait_for(3)
        server.wait_for_log(rf"Metrics reach http://127\.0\.0\.1:{port}/v1/metrics again \(failed reports: \d+\)")
        collector.status = 400
        server.wait_for_log(away + "the answer is 400 Bad Request")
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert last.requests() == 1
    assert last.resource["service.name"] == "rmeinheld"
    assert server.log().count("Metrics do not reach") == 2
    # The library's own lines about each report.
    assert "xport" not in server.log().replace("(failed reports", "")


# --- the thread ------------------------------------------------------------------------------------------------------


class Lines:
    """A logger that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, text: str, *values: object) -> None:
        self.lines.append(text % values)

    info = warning


class Hanging:
    """Reports that wait until they are given up."""

    def __init__(self) -> None:
        self.begun, self.given_up = threading.Event(), threading.Event()

    def send(self) -> str:
        self.begun.set()
        self.given_up.wait(TIMEOUT)
        return "given up"

    def close(self) -> None:
        self.given_up.set()


def test_a_collector_that_hangs_holds_up_neither_a_fork_nor_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "LAST_SECONDS", 0.05)
    report, log = Hanging(), Lines()
    sender = otlp.Sender(report, "http://c", 60, log)
    sender.start()
    assert report.begun.wait(TIMEOUT)
    with sender.paused():
        assert not report.given_up.is_set()
    sender.stop()
    assert log.lines[0] == "The last metrics were not sent to http://c within 0.05 s"
    assert report.given_up.is_set()
    sender.stop()


def test_a_fork_waits_for_a_short_report_and_keeps_the_next_one_back() -> None:
    class Report:
        def __init__(self) -> None:
            self.sent = threading.Semaphore(0)

        def send(self) -> str:
            self.sent.release()
            return ""

        def close(self) -> None:
            pass

    report = Report()
    sender = otlp.Sender(report, "http://c", 0.001, Lines())
    with sender.paused():
        sender.start()
        assert not report.sent.acquire(timeout=0.05)
    assert report.sent.acquire(timeout=TIMEOUT)
    sender.stop()


def test_a_fault_of_the_library_is_a_line_and_the_next_report_follows() -> None:
    class Report:
        def __init__(self) -> None:
            self.sent = 0

        def send(self) -> str:
            self.sent += 1
            if self.sent == 1:
                raise KeyError("x")
            return ""

        def close(self) -> None:
            pass

    log = Lines()
    sender = otlp.Sender(Report(), "http://c", 60, log)
    sender.start()
    sender.stop()
    assert log.lines == [
        "Metrics do not reach http://c (otlp_endpoint): KeyError: 'x'. They are sent again every 60 s",
        "Metrics reach http://c again (failed reports: 1)",
    ]
