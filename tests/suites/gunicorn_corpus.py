"""The corpus of requests in Gunicorn's source distribution, sent to a server over TCP.

A case is a file `.http` with bytes, and one `.py` with the requests that a parser sees in them, or the exception that
Gunicorn's raises. Both are read by Gunicorn's own code, of the same source distribution. Cases that set options of
Gunicorn apply as far as the server has the same options.

Many cases are of HTTP/1.1 and have no Host, which Gunicorn does not miss. RFC 9112 3.2 wants 400 for each such request,
and the rest of its contents would go untested. Each is therefore sent twice: as they are, when nothing may be served,
and with a Host, when they are compared.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote_to_bytes

from outcome import Outcome
from rmeinheld.settings import OPTIONS
from serving import Connection, ConnectionEnded, Option, Response, Server, Servers, request

LIMITS = ("limit_request_line", "limit_request_fields", "limit_request_field_size")
"""Options of Gunicorn that the server has too. The corpus means Gunicorn's defaults where a case sets no option."""

LENIENCY = tuple(option.name for option in OPTIONS.values() if option.group == "Leniency")
"""Options for clients that break rules."""

SHARED = [option for option in (*LIMITS, *LENIENCY, "header_map") if option in OPTIONS]
"""Options that a case may set."""

STRICTER = "stricter than Gunicorn, where the RFC leaves the choice: "

EXPECTED: dict[str, tuple[str, str]] = {
    "valid/005": (
        "400",
        STRICTER + "the target has a fragment, which no form of a request-target has (RFC 9112 3.2)",
    ),
    "valid/025": ("501", STRICTER + "gzip is a transfer coding that is not understood, hence 501 (RFC 9112 6.1)"),
    "valid/025_line": ("501", STRICTER + "gzip is a transfer coding that is not understood, hence 501 (RFC 9112 6.1)"),
    "valid/028": (
        "400",
        STRICTER + "space before the colon of Content-Length is not stripped, even on request (RFC 9112 5.1)",
    ),
    "valid/029": ("501", STRICTER + "identity is no transfer coding since RFC 7230 (A.2), hence 501 (RFC 9112 6.1)"),
    "valid/030": ("501", STRICTER + "identity is no transfer coding since RFC 7230 (A.2), hence 501 (RFC 9112 6.1)"),
    "valid/099": (
        "400",
        "the file holds 8599 of 17914 bytes of the body, and then the connection ends: incomplete (RFC 9112 8)",
    ),
    "valid/rfc9112_smuggle_gzip_chunked_01": (
        "501",
        STRICTER + "gzip is a transfer coding that is not understood, hence 501 (RFC 9112 6.1)",
    ),
    "valid/rfc9112_smuggle_te_identity_chunked_01": (
        "501",
        STRICTER + "identity is no transfer coding since RFC 7230 (A.2), hence 501 (RFC 9112 6.1)",
    ),
    "valid/rfc9112_target_absolute_userinfo_01": (
        "400",
        STRICTER + "user information in the target ought to be treated as an error (RFC 9110 4.2.4)",
    ),
}
"""Where the server sees something else than Gunicorn: what, and why."""

SMUGGLED = request("GET", "/smuggled")

HOST = "added"
"""The field that a request without Host gets."""

HEAD = re.compile(rb"( HTTP/1\.1\r\n)((?:.*\r\n)*?)(?=\r\n|\Z)")
HAS_HOST = re.compile(rb"^host[ \t]*:", re.I | re.M)


@dataclass
class Case:
    """One file of the corpus. `requests` is None for one that is invalid."""

    name: str
    data: bytes
    options: dict[str, Option]
    requests: list[dict[str, Any]] | None


def load(sdist: Path) -> tuple[list[Case], list[str]]:
    """The cases that apply, and the names of the others."""
    treq = import_file(sdist / "tests" / "treq.py")
    cases: list[Case] = []
    others: list[str] = []
    default = treq.load_py.__globals__["Config"]()
    default.set("http_parser", "python")
    for path in sorted((sdist / "tests" / "requests").glob("*/*.http")):
        name = f"{path.parent.name}/{path.stem}"
        module = treq.load_py(str(path.with_suffix(".py")))
        settings = {option: setting.get() for option, setting in module["cfg"].settings.items()}
        changed = {option: value for option, value in settings.items() if value != default.settings[option].get()}
        # 0 means no limit here, and a default in Gunicorn.
        if not all(option in SHARED and value != 0 for option, value in changed.items()):
            others.append(name)
            continue
        options: dict[str, Option] = {option: settings[option] for option in (*LIMITS, *changed)}
        # Off by default in Gunicorn, and on here.
        if not options.pop("permit_unconventional_http_method", False):
            options["no_permit_unconventional_http_method"] = True
        # Gunicorn counts the CRLF of a field line.
        options["limit_request_field_size"] = settings["limit_request_field_size"] - len("\r\n")
        expected = module["request"]
        if path.parent.name == "valid":
            requests = expected if isinstance(expected, list) else [expected]
            cases.append(Case(name, treq.request(str(path), expected).data, options, requests))
        else:
            cases.append(Case(name, treq.badrequest(str(path)).data, options, None))
    return cases, others


def import_file(path: Path) -> ModuleType:
    """Import the module in a file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- one case --------------------------------------------------------------------------------------------------------


def fault_of(server: Server, case: Case) -> str | None:
    """The fault in the server's view of a case, or None."""
    try:
        if case.requests is None:
            return fault_of_invalid(server, with_host(case.data))
        if all(has_host(expected) for expected in case.requests):
            return fault_of_valid(server, case.data, case.requests)
        statuses = [answer.status for answer in all_answers(server, case.data)]
        if statuses[-1:] != [400] or len(statuses) > len(case.requests):
            return f"answered with {statuses} without Host"
        return fault_of_valid(server, with_host(case.data), case.requests)
    except AssertionError as fault:
        return str(fault)


def has_host(expected: dict[str, Any]) -> bool:
    return expected["version"] == (1, 0) or any(name == "HOST" for name, _ in expected["headers"])


def with_host(data: bytes) -> bytes:
    """`data` with a Host in each head of HTTP/1.1 that has none."""
    return HEAD.sub(
        lambda head: head[0] if HAS_HOST.search(head[2]) else b"%sHost: %s\r\n%s" % (head[1], HOST.encode(), head[2]),
        data,
    )


def fault_of_valid(server: Server, data: bytes, requests: Iterable[dict[str, Any]]) -> str | None:
    with server.connect() as connection:
        connection.send(data)
        connection.finish_sending()
        for expected in requests:
            response = read_final(connection, expected["method"])
            if response.status != (405 if expected["method"] == "CONNECT" else 200):
                return f"{response.status}"
            seen = json.loads(response.header("X-Seen") or response.body)
            for what, is_expected, is_seen in differences(expected, seen):
                return f"{what} is {is_seen!r} instead of {is_expected!r}"
        connection.expect_end()
    return None


def differences(expected: dict[str, Any], seen: dict[str, Any]) -> Iterable[tuple[str, Any, Any]]:
    """All differences between the application's view and that of Gunicorn's parser."""
    uri = expected["uri"]
    path = unquote_to_bytes(uri["path"]).decode("latin-1")
    if expected["method"] == "CONNECT":
        path = ""  # what urllib makes of host:port means nothing
    elif not uri["raw"].startswith("/"):
        path = path or "/"
    pairs = [
        ("method", expected["method"], seen["method"]),
        ("target", uri["raw"], seen["target"]),
        ("path", path, seen["path"]),
        ("query", uri["query"], seen["query"]),
        ("version", "HTTP/{}.{}".format(*expected["version"]), seen["environ"]["SERVER_PROTOCOL"]),
        ("fields", fields_of(expected), {key: value for key, value in seen["environ"].items() if is_field(key)}),
        ("body", text_of(expected["body"]), seen["body"]),
    ]
    return [pair for pair in pairs if pair[1] != pair[2]]


def text_of(body: bytes | str) -> str:
    return body if isinstance(body, str) else body.decode("latin-1")


def is_field(key: str) -> bool:
    return key.startswith("HTTP_") or key in ("CONTENT_TYPE", "CONTENT_LENGTH")


def fields_of(expected: dict[str, Any]) -> dict[str, str]:
    """The keys of the environ that Gunicorn's list of fields means."""
    environ: dict[str, str] = {}
    for name, value in expected["headers"]:
        key = name.replace("-", "_")
        # A name with an underscore never becomes one of the two that stand without a prefix.
        key = key if name.upper() in ("CONTENT-TYPE", "CONTENT-LENGTH") else f"HTTP_{key}"
        separator = "; " if key == "HTTP_COOKIE" else ","
        environ[key] = f"{environ[key]}{separator}{value}" if key in environ else value
    if not has_host(expected):
        environ["HTTP_HOST"] = HOST
    scheme, _, rest = expected["uri"]["raw"].partition("://")
    if scheme in ("http", "https"):
        # RFC 9112 3.2.2: the authority of an absolute target replaces Host.
        environ["HTTP_HOST"] = rest.partition("/")[0]
    return environ


def fault_of_invalid(server: Server, data: bytes) -> str | None:
    """Nothing may be served, neither of the case nor a request that follows, and one error tells why.

    None has to tell that the connection ended before the request did.
    """
    for sent, needs_answer in ((data, False), (data + SMUGGLED, True)):
        statuses = [answer.status for answer in all_answers(server, sent)]
        if statuses and statuses[0] == 200:
            return "answered with 200"
        if len(statuses) > 1 or (needs_answer and not statuses) or not all(400 <= status < 600 for status in statuses):
            return f"answered with {statuses}"
    return None


def all_answers(server: Server, data: bytes) -> list[Response]:
    """Every final response up to the end of the connection."""
    answers: list[Response] = []
    with server.connect() as connection:
        connection.send(data)
        connection.finish_sending()
        while True:
            try:
                answers.append(read_final(connection, "GET"))
            except ConnectionEnded:
                assert not connection.buffer, f"half a response: {connection.buffer!r}"
                return answers


def read_final(connection: Connection, method: str) -> Response:
    """The next response that is not 100 (Continue)."""
    while (response := connection.read_response(method)).status == 100:
        pass
    return response


# --- all of them -----------------------------------------------------------------------------------------------------


def run(sdist: Path, directory: Path) -> Outcome:
    """Run the suite; `directory` is for files of the servers."""
    cases, others = load(sdist)
    outcome = Outcome("Gunicorn's request corpus", sdist.name.rpartition("-")[2], skipped=len(others))
    faults: dict[str, str | None] = {}
    for options in {tuple(sorted(case.options.items())): case.options for case in cases}.values():
        servers = Servers(directory)
        try:
            # Gunicorn's parser takes CONNECT, as the server does where it is asked to.
            server = servers("corpus_app:app", permit_connect=True, **options)
            faults |= {case.name: fault_of(server, case) for case in cases if case.options == options}
            if "served /smuggled" in server.log():
                outcome.unexpected.append(f"with {options}: a request was served that no case holds")
        finally:
            servers.stop()
    outcome.count(faults, EXPECTED)
    return outcome
