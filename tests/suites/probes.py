"""Public probes of HTTP/1.1, as data in `probes/`, sent to a server over TCP.

A case of the data has a `name`, a `source` (the clause that the probe names), and the steps to `send` on one
connection. It also has lists of answers: `fail`, `pass` and `warn`. The lists are read in this order, and the first
match decides. An answer that is in no list fails.

An answer is a status (`400`), a class (`2xx`), `any`, or without a response `close` (the server ends the connection) or
`wait` (it waits for more). Words behind it narrow it: `closed` (the connection ends after it), `once` and `twice` (the
number of final responses, or more), `field=X`, `lacks=X`, `body=X`. Further words are `with=X` and `without=X` (a part
of the body), and `imf-date` (the form of its Date). `then` stands before the answer to the next step; without it, later
steps do not matter.

A step is a text of one byte for each code point, or the parts of a long one, of which `{"repeat": "a{n}", "times": 9}`
is one, where `{n}` counts.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from outcome import Outcome
from serving import Connection, ConnectionEnded, Response, Server, Servers, request

DATA = Path(__file__).parent / "probes"

EXPECTED: dict[str, dict[str, tuple[str, str]]] = {
    "http11probe": {
        "MAL-LONG-METHOD": (
            "414",
            "RFC 9110 15.5.15, RFC 9112 3: the request line is over its limit, and 400 is no better an answer to that",
        ),
        "MAL-POST-CL-HUGE-NO-BODY": (
            "413",
            "RFC 9110 15.5.14: the body is larger than the server takes, which is said before it is sent",
        ),
    },
    "h1spec_unetworking": {},
    "h1spec_dropseed": {},
}
"""Failures that are right, by name: how the server answers, and why."""

WARNED: dict[str, dict[str, str]] = {
    "http11probe": {
        "COMP-GET-WITH-CL-BODY": "RFC 9110 9.3.1: content in a GET has no meaning; it is read as content",
        "COMP-HTTP10-NO-HOST": "RFC 9112 3.2: HTTP/1.0 needs no Host",
        "COMP-HTTP12-VERSION": "RFC 9110 2.5: a higher minor version is processed as the highest one that is known",
        "COMP-ACCEPT-NONSENSE": "RFC 9110 12.5.1: the application's choice",
        "SMUG-CL-LEADING-ZEROS": "RFC 9110 8.6: 1*DIGIT",
        "SMUG-CL-DOUBLE-ZERO": "RFC 9110 8.6: 1*DIGIT",
        "SMUG-CL-LEADING-ZEROS-OCTAL": "RFC 9110 8.6: 1*DIGIT, and decimal; all 200 bytes are the body",
        "SMUG-CL-TRAILING-SPACE": "RFC 9110 5.5: white space around a value is not part of it",
        "SMUG-CL-EXTRA-LEADING-SP": "RFC 9110 5.5: white space around a value is not part of it",
        "MAL-CL-TAB-BEFORE-VALUE": "RFC 9110 5.5: white space around a value is not part of it",
        "SMUG-TRANSFER_ENCODING": "RFC 9110 5.1: a field of another name; it is not passed on (header_map)",
        "SMUG-EXPECT-100-CL": "RFC 9110 10.1.1: a 100 may be omitted where the content has come already",
        "SMUG-TRAILER-AUTH": "RFC 9110 6.5.1: a trailer field may be dropped",
        "SMUG-TRAILER-CONTENT-TYPE": "RFC 9110 6.5.1: a trailer field may be dropped",
        "SMUG-HEAD-CL-BODY": "RFC 9110 9.3.2: content in a HEAD has no meaning; it is read as content",
        "SMUG-OPTIONS-CL-BODY": "RFC 9110 9.3.7: an OPTIONS may have content",
        "SMUG-ABSOLUTE-URI-HOST-MISMATCH": "RFC 9112 3.2.2: Host is ignored for the authority of the target",
        "SMUG-CL0-BODY-POISON": "RFC 9112 6.3: what follows a complete request is the next one, here XGET",
        "MAL-URL-BACKSLASH": "RFC 9112 3: to refuse it is a SHOULD; the application sees it as it was sent",
        "MAL-URL-PERCENT-NULL": "RFC 3986 2.1: a valid escape; the application sees the byte",
        "MAL-URL-PERCENT-CRLF": "RFC 3986 2.1: valid escapes; no field of a response can hold them",
        "MAL-RANGE-OVERLAPPING": "RFC 9110 14.2: ranges are the application's choice",
    },
    "h1spec_unetworking": {},
    "h1spec_dropseed": {},
}
"""Answers that a probe only warns of, by name: why the server gives them."""

HALF_CLOSING = ("h1spec_dropseed",)
"""Probes that half-close their connections behind the last step."""

VERSIONS = {
    "http11probe": ("Http11Probe", "95bc6a9"),
    "h1spec_unetworking": ("h1spec of uNetworking", "f0a5650"),
    "h1spec_dropseed": ("h1spec of dropseed", "d8f6918"),
}
"""The name of each probe, and the commit that its data are of."""

PATIENCE = 2.0
"""Seconds for an answer where silence would be a failure."""

IMF_DATE = re.compile(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT")


@dataclass
class Answer:
    """The result of one step: the responses, and whether the connection has ended."""

    responses: list[Response] = field(default_factory=list)
    is_closed: bool = False

    def __str__(self) -> str:
        if not self.responses:
            return "close" if self.is_closed else "wait"
        statuses = " and ".join(str(response.status) for response in self.responses)
        return f"{statuses} closed" if self.is_closed else statuses


# --- one case --------------------------------------------------------------------------------------------------------


def text_of(value: Any) -> str:
    """A step, put together."""
    if isinstance(value, str):
        return value
    texts = []
    for part in value:
        if isinstance(part, str):
            texts.append(part)
        else:
            texts.extend(part["repeat"].replace("{n}", str(number)) for number in range(part["times"]))
    return "".join(texts)


def play(server: Server, case: Mapping[str, Any], bystander: Connection, half_closes: bool) -> list[Answer]:
    """Send the steps of a case, each after the answer to the one before it."""
    answers: list[Answer] = []
    with server.connect() as connection:
        for left, step in zip(reversed(range(len(case["send"]))), case["send"], strict=True):
            data = text_of(step)
            # The server may refuse a long text before its end.
            with suppress(OSError):
                connection.send(data.encode("latin-1"))
            if half_closes and left == 0:
                connection.finish_sending()
            answers.append(read_answer(connection, bystander, re.split("[ \r\n]", data.lstrip("\r\n"))[0], case))
            if answers[-1].is_closed:
                break
    return answers


def read_answer(connection: Connection, bystander: Connection, method: str, case: Mapping[str, Any]) -> Answer:
    answer = Answer()
    # The server takes what is ready in its order: when these are answered, it has read what was sent before.
    for _ in range(2):
        bystander.request(request("GET", "/"))
    may_wait = "wait" in case.get("pass", ())
    while connection.has_input(0 if may_wait or answer.responses else PATIENCE):
        try:
            answer.responses.append(connection.read_response(method))
        except ConnectionEnded:
            answer.is_closed = True
            break
        if answer.responses[-1].ends_connection:
            connection.expect_end()
            answer.is_closed = True
            break
    return answer


def verdict(case: Mapping[str, Any], answers: list[Answer]) -> str:
    """The probe's verdict on these answers: "fail", "pass" or "warn"."""
    for kind in ("fail", "pass", "warn"):
        if any(fits(rule, answers) for rule in case.get(kind, ())):
            return kind
    return "fail"


def fits(rule: str, answers: list[Answer]) -> bool:
    wanted: list[list[str]] = [[]]
    for word in shlex.split(rule):
        if word == "then":
            wanted.append([])
        else:
            wanted[-1].append(word)
    return len(wanted) <= len(answers) and all(map(fits_step, wanted, answers))


def fits_step(words: list[str], answer: Answer) -> bool:
    status, *conditions = words
    if status in ("close", "wait"):
        return not answer.responses and answer.is_closed == (status == "close")
    if not answer.responses:
        return False
    response = answer.responses[0]
    if status != "any" and not re.fullmatch(status.replace("x", r"\d"), str(response.status)):
        return False
    finals = sum(response.status >= 200 for response in answer.responses)
    text = response.body.decode("latin-1")
    checks: dict[str, Callable[[str], bool]] = {
        "closed": lambda _: answer.is_closed,
        "once": lambda _: finals == 1,
        "twice": lambda _: finals >= 2,
        "field": lambda name: bool(response.all(name)),
        "lacks": lambda name: not response.all(name),
        "body": lambda body: text == body,
        "with": lambda part: part in text,
        "without": lambda part: part not in text,
        "imf-date": lambda _: bool(IMF_DATE.fullmatch(response.header("Date") or "")),
    }
    return all(checks[word](value) for word, _, value in (condition.partition("=") for condition in conditions))


# --- all of them -----------------------------------------------------------------------------------------------------


def run(directory: Path) -> list[Outcome]:
    """Run all probes; `directory` is for files of the server."""
    servers = Servers(directory)
    try:
        server = servers("probe_app:app", keep_alive=60)
        with server.connect() as bystander:
            return [run_probe(name, server, bystander) for name in VERSIONS]
    finally:
        servers.stop()


def run_probe(name: str, server: Server, bystander: Connection) -> Outcome:
    outcome = Outcome(*VERSIONS[name])
    faults: dict[str, str | None] = {}
    warned = dict(WARNED[name])
    for case in json.loads((DATA / f"{name}.json").read_text()):
        try:
            answers = play(server, case, bystander, name in HALF_CLOSING)
        except AssertionError as fault:
            faults[case["name"]] = str(fault)
            continue
        seen = ", then ".join(map(str, answers))
        print(f"{name} {case['name']}: {verdict(case, answers)}: {seen}")
        faults[case["name"]] = seen if verdict(case, answers) == "fail" else None
        if (verdict(case, answers) == "warn") != (warned.pop(case["name"], None) is not None):
            outcome.unexpected.append(f"{case['name']}: {verdict(case, answers)}, other than the table says: {seen}")
    outcome.unexpected += [f"{case}: is in the table of warnings, but not in the data" for case in warned]
    outcome.count(faults, EXPECTED[name])
    return outcome
