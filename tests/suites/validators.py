"""Applications between two validators of PEP 3333 and the server: wsgiref.validate, and webtest.lint.

A validator's complaint is an error or a warning in the log.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from outcome import Outcome
from serving import Server, Servers, request
from validated_apps import INPUTS, NO_BODY, OUTPUTS

BODY = b"first\nsecond line\n\nlast"

FAULTS = ("Error", "Traceback", "Warning", "Exception", "without being closed")


def requests(target: str) -> Iterator[tuple[str, bytes, bytes]]:
    """Requests: the name, the bytes, and the body that the application reads."""
    field = "Content-Type: text/plain"
    yield "GET", request("GET", target), b""
    yield "HEAD", request("HEAD", target), b""
    yield "GET 1.0", request("GET", target, version="1.0"), b""
    yield "POST", request("POST", target, field, body=BODY), BODY
    yield "POST empty", request("POST", target, field, body=b""), b""
    yield "POST chunked", request("POST", target, field, chunks=[BODY[:8], BODY[8:9], BODY[9:]]), BODY
    yield "POST expecting", request("POST", target, field, "Expect: 100-continue", body=BODY), BODY


def fault_of(server: Server, output: str, target: str, method: str, data: bytes, expected: bytes) -> str | None:
    """The fault of the answer, or the validator's complaint, or None."""
    start = len(server.log())
    try:
        with server.connect() as connection:
            connection.send(data)
            connection.finish_sending()
            while (response := connection.read_response(method)).status == 100:
                pass
            connection.expect_end()
        server.wait_for_log(f"^called with {target}$", start=start)
        if output == "iterable":
            server.wait_for_log("^closed$", start=start)
    except AssertionError as fault:
        return str(fault)
    log = server.log()[start:]
    if any(text in log for text in FAULTS):
        return log
    if response.status != OUTPUTS[output][1] or response.body != expected or response.all("X-Replaced"):
        return f"{response.status} with {response.body!r} instead of {expected!r}"
    return None


def run_with(name: str, release: str, application: str, servers: Servers) -> Outcome:
    """All requests to an application behind a validator."""
    server = servers(f"validated_apps:{application}")
    faults = {}
    for output in OUTPUTS:
        for how in INPUTS:
            target = f"/{output}/{how}"
            for kind, data, body in requests(target):
                is_empty = output in NO_BODY or kind == "HEAD"
                expected = b"" if is_empty else b"<" + (b"" if how == "unread" else body) + b">"
                method = kind.partition(" ")[0]
                faults[f"{kind} {target}"] = fault_of(server, output, target, method, data, expected)
    outcome = Outcome(name, release)
    outcome.count(faults, {})
    # There is no such output, hence an error.
    if fault_of(server, "list", "/none/whole", "GET", request("GET", "/none/whole"), b"<>") is None:
        outcome.unexpected.append("an error of the application went unnoticed")
    return outcome


def run(directory: Path) -> list[Outcome]:
    """Each validator alone, and one around the other."""
    servers = Servers(directory)
    webtest = version("webtest")
    try:
        return [
            run_with("wsgiref.validate", platform.python_version(), "validated", servers),
            run_with("webtest.lint", webtest, "linted", servers),
            run_with("webtest.lint in wsgiref.validate", webtest, "both", servers),
        ]
    finally:
        servers.stop()
