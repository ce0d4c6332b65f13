"""Agents that report errors and traces keep overlapping requests apart. docs/tools.md has the table.

No agent has an account here: events stay in memory, or the agent finds nothing that listens.
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from serving import Serve, Server, request


def needs(module: str, package: str) -> pytest.MarkDecorator:
    """Skip a test where the package is missing."""
    try:
        found = find_spec(module) is not None
    except ModuleNotFoundError:
        found = False
    return pytest.mark.skipif(not found, reason=f"pip install {package}")


def overlapping(server: Server, *names: str, status: int = 200) -> list[Any]:
    """Send a request for each name, all at once, and return the answers."""
    connections = [server.connect() for _ in names]
    try:
        for connection, name in zip(connections, names, strict=True):
            connection.send(request("GET", f"/?{name}"))
        responses = [connection.read_response() for connection in connections]
    finally:
        for connection in connections:
            connection.close()
    assert [response.status for response in responses] == [status] * len(names), server.log()
    return [response.body for response in responses]


SENTRY = """
import json, threading, time
import sentry_sdk
from sentry_sdk.integrations.wsgi import SentryWsgiMiddleware
from sentry_sdk.transport import Transport

kept = []

class Kept(Transport):
    def capture_envelope(self, envelope):
        kept.extend(item.payload.json for item in envelope.items)

sentry_sdk.init("http://key@127.0.0.1:9/1", transport=Kept, traces_sample_rate=1.0,
                auto_enabling_integrations=False)

def fails(environ, start_response):
    name = environ["QUERY_STRING"]
    sentry_sdk.set_tag("name", name)
    with sentry_sdk.start_span(name=f"span {name}"):
        time.sleep(0.1)
    thread = threading.Thread(target=lambda: sentry_sdk.capture_message(f"thread {name}"))
    thread.start()
    thread.join()
    raise ValueError(f"error {name}")

reported = SentryWsgiMiddleware(fails)

def summary(event):
    errors = [error["value"] for error in event.get("exception", {}).get("values", [])]
    spans = [span["description"] for span in event.get("spans", [])]
    of = event.get("tags", {}).get("name"), event.get("request", {}).get("query_string")
    return [*of, *errors, *spans, *filter(None, [event.get("message")])]

def app(environ, start_response):
    if environ["PATH_INFO"] == "/":
        return reported(environ, start_response)
    start_response("200 OK", [])
    return [json.dumps(sorted(map(summary, kept))).encode()]
"""


@needs("sentry_sdk", "sentry-sdk")
def test_sentry_reports_each_error_once_with_the_data_of_its_request(serve: Serve) -> None:
    server = serve(SENTRY)
    overlapping(server, "a", "b", status=500)
    assert json.loads(server.get("/kept").body) == [
        [name, name, f"{what} {name}"] for name in "ab" for what in ("error", "span", "thread")
    ]


SENTRY_OVER_HTTP = """
import gzip, logging, os
import sentry_sdk

received = []

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/":
        # The agent's own worker, a thread that the patch makes a coroutine, sends the event to this server.
        sentry_sdk.init(f"http://key@127.0.0.1:{environ['SERVER_PORT']}/1", auto_enabling_integrations=False)
        sentry_sdk.capture_message("over HTTP")
        sentry_sdk.flush(10)
    elif path == "/api/1/envelope/":
        body = environ["wsgi.input"].read()
        received.append(gzip.decompress(body) if environ.get("HTTP_CONTENT_ENCODING") == "gzip" else body)
    start_response("200 OK", [])
    return [b"" if path != "/" else b"over HTTP" if b"over HTTP" in b"".join(received) else b"nothing came"]
"""


@needs("sentry_sdk", "sentry-sdk")
def test_sentry_sends_its_events_while_the_server_serves(serve: Serve) -> None:
    # Its connection to this server stays open, and a stop waits that long for another request.
    server = serve(SENTRY_OVER_HTTP, keep_alive=0.1)
    assert server.get("/").body == b"over HTTP"


OPENTELEMETRY = """
import json, time
from opentelemetry import trace
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=20))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("test")

def answer(environ, start_response):
    name = environ["QUERY_STRING"]
    with tracer.start_as_current_span(f"outer {name}"):
        time.sleep(0.1)
        with tracer.start_as_current_span(f"inner {name}"):
            time.sleep(0.05)
    start_response("200 OK", [])
    return [b"ok"]

traced = OpenTelemetryMiddleware(answer)

def app(environ, start_response):
    if environ["PATH_INFO"] == "/":
        return traced(environ, start_response)
    provider.force_flush()
    start_response("200 OK", [])
    spans = {span.context.span_id: span for span in exporter.get_finished_spans()}
    parents = {span.name: spans[span.parent.span_id].name for span in spans.values() if span.parent}
    traces = [[span.name for span in spans.values() if span.context.trace_id == trace] for trace in
              {span.context.trace_id for span in spans.values()}]
    return [json.dumps([parents, sorted(map(sorted, traces))]).encode()]
"""


@needs("opentelemetry.instrumentation.wsgi", "opentelemetry-instrumentation-wsgi opentelemetry-sdk")
def test_opentelemetry_keeps_the_spans_of_overlapping_requests_apart(serve: Serve) -> None:
    server = serve(OPENTELEMETRY)
    overlapping(server, "a", "b")
    parents, traces = json.loads(server.get("/spans").body)
    assert parents == {"inner a": "outer a", "outer a": "GET /", "inner b": "outer b", "outer b": "GET /"}
    assert traces == [["GET /", "inner a", "outer a"], ["GET /", "inner b", "outer b"]]


NEW_RELIC = """
import json, time
import newrelic.agent

# Without an account: the agent talks to a collector of its own.
newrelic.agent.register_application(timeout=10)

@newrelic.agent.WSGIApplicationWrapper
def app(environ, start_response):
    name = environ["QUERY_STRING"]
    transaction = newrelic.agent.current_transaction()
    newrelic.agent.set_transaction_name(name)
    time.sleep(0.1)
    with newrelic.agent.FunctionTrace(f"span {name}"):
        time.sleep(0.1)
        span = newrelic.agent.current_trace().name
    start_response("200 OK", [])
    after = newrelic.agent.current_transaction()
    return [json.dumps([after is transaction, after.name, span]).encode()]
"""

NEW_RELIC_CONFIGURATION = """
[newrelic]
license_key = 0123456789012345678901234567890123456789
app_name = test
developer_mode = true
log_file = stderr
"""


@needs("newrelic", "newrelic")
def test_new_relic_keeps_the_transactions_of_overlapping_requests_apart(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under its own command, which starts the agent before the patch."""
    (tmp_path / "new_relic_app.py").write_text(NEW_RELIC)
    (tmp_path / "newrelic.ini").write_text(NEW_RELIC_CONFIGURATION)
    monkeypatch.setenv("NEW_RELIC_CONFIG_FILE", str(tmp_path / "newrelic.ini"))
    agent = [sys.executable, "-c", "from newrelic.admin import main; main()", "run-program"]
    server = serve.command([*agent, sys.executable, "-m", "rmeinheld", "--bind", "127.0.0.1:0", "new_relic_app:app"])
    assert list(map(json.loads, overlapping(server, "a", "b"))) == [[True, each, f"span {each}"] for each in "ab"]


DATADOG = """
import json, time
from ddtrace import tracer
from ddtrace.contrib.wsgi import DDWSGIMiddleware
from ddtrace.trace import TraceFilter

kept = []

class Kept(TraceFilter):
    def process_trace(self, trace):
        kept.extend(trace)

tracer.configure(trace_processors=[Kept()])

def answer(environ, start_response):
    name = environ["QUERY_STRING"]
    with tracer.trace("outer", resource=name):
        time.sleep(0.1)
        with tracer.trace("inner", resource=name):
            time.sleep(0.05)
    start_response("200 OK", [])
    return [b"ok"]

traced = DDWSGIMiddleware(answer)

def app(environ, start_response):
    if environ["PATH_INFO"] == "/":
        return traced(environ, start_response)
    start_response("200 OK", [])
    spans = {span.span_id: span for span in kept}
    found = [[span.resource, spans[span.parent_id].resource] for span in kept if span.name == "inner"]
    return [json.dumps([found, len({span.trace_id for span in kept})]).encode()]
"""


@needs("ddtrace", "ddtrace")
def test_datadog_keeps_the_spans_of_overlapping_requests_apart_and_profiles(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under its own command, with its profiler, which samples the stacks of all coroutines."""
    command = [sys.executable, "-c", "import sys; from ddtrace.commands.ddtrace_run import main; sys.exit(main())"]
    (tmp_path / "datadog_app.py").write_text(DATADOG)
    monkeypatch.setenv("DD_PROFILING_ENABLED", "true")
    # A port that nothing listens at.
    monkeypatch.setenv("DD_TRACE_AGENT_URL", "http://127.0.0.1:9")
    serving = [sys.executable, "-m", "rmeinheld", "--bind", "127.0.0.1:0", "datadog_app:app"]
    server = serve.command([*command, *serving])
    overlapping(server, *"abcd")
    found, traces = json.loads(server.get("/kept").body)
    assert (sorted(found), traces) == ([[each, each] for each in "abcd"], 4)
