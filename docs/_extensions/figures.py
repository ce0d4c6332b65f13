"""Markdown of the measured figures, from the files that the benchmarks wrote. Nothing here is typed by hand."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[2] / "benches" / "results"
LABELS = {
    "rmeinheld": "**rmeinheld**",
    "gevent-websocket": "gevent-websocket",
    "websockets": "websockets (asyncio)",
    "uwsgi": "uWSGI",
    "granian": "Granian (ASGI)",
    "floor": "C epoll loop (the floor)",
}
SERVICES = ("rmeinheld", "gunicorn -k rmeinheld", "gthread")


def http() -> str:
    """Return the tables of `make bench`, each under a heading."""
    text = (RESULTS / "table.md").read_text(encoding="utf-8")
    text = re.sub(r"^(?![|\-])(.+)\n\n(?=[|\-] )", r"### \1\n\n", text, flags=re.M)
    # A figure and its ratio stay on one line.
    return re.sub(r"(\d) \(([\d.]+) x\)", "\\1\N{NO-BREAK SPACE}(\\2\N{NO-BREAK SPACE}x)", text)


def websocket() -> str:
    """Return the table of `make bench-websocket`."""
    data = _load("websocket")
    echo = {name: statistics.median(each["messages_per_cpu_second"] for each in rounds)
            for name, rounds in data["echo"]["rounds"].items()}  # fmt: skip
    rows = []
    for name, value in sorted(echo.items(), key=lambda item: -item[1]):
        broadcast = data["broadcast"]["medians"].get(name)
        idle = data["idle"]["medians"].get(name, {}).get("kib_per_connection")
        cells = [f"{broadcast['cpu_us_per_delivery']:.1f}", f"{broadcast['ms_to_the_last']:.1f}"] if broadcast else "--"
        rows.append([LABELS[name], f"{value:,.0f}", *cells, f"{idle:.1f}" if idle else "-"])
    head = ["", "echo: messages for each CPU second", "broadcast: CPU of a delivery, us", "ms to the last client",
            "KiB of an idle connection"]  # fmt: skip
    one, four = (data["publish"]["medians"][name] for name in ("1 worker", "4 workers"))
    of_four, of_one = (f"{each['cpu_us_per_delivery']:.1f} us" for each in (four, one))
    publish = (
        f"A message of a channel costs {of_four} a delivery to 2,000 clients of four workers, {of_one} of one worker."
    )
    return f"{_table(head, rows)}\n\n{publish}\n\n{_notes(data, 'gevent-websocket', 'websockets', 'uWSGI', 'granian')}"


def cooperation() -> str:
    """Return the table of `make bench-cooperation`."""
    data = _load("cooperation")
    cases = [value for value in data.values() if isinstance(value, dict) and "meaning" in value]
    rows = [[each["meaning"], *(f"{each['medians'][name]:g}" for name in ("rmeinheld", "gevent"))] for each in cases]
    return f"{_table(['', '**rmeinheld**', 'gevent'], rows)}\n\n{_notes(data, 'gevent')}"


def gunicorn() -> str:
    """Return the table of `make bench-gunicorn`."""
    data = _load("gunicorn_worker")
    texts = {
        "of_standalone": ("CPU of a request under Gunicorn, as a multiple of the server's alone", "at most"),
        "of_gevent": ("the same, as a multiple of Gunicorn's gevent worker", "at most"),
        "two_workers": ("requests per second of two workers on two cores, as a multiple of one on one", "at least"),
    }
    rows = [[text, f"{data['ratios'][name]:.2f}", f"{bound} {data['wanted'][name]:g}"]
            for name, (text, bound) in texts.items()]  # fmt: skip
    return f"{_table(['', 'measured', 'target'], rows)}\n\n{_notes(data, 'gunicorn', 'gevent')}"


def services() -> str:
    """Return the table of `make bench-service`."""
    if not (RESULTS / "service.json").exists():
        return _unmeasured("make bench-service", "service.json")
    data = _load("service")
    names = [name for name in SERVICES if any(name in each for each in data["medians"].values())]
    wanted = data["wanted"]
    rows: list[tuple[str, dict[str, Any], str]] = []

    def medians(scenario: str) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = data["medians"].get(scenario, {})
        return found

    def add(text: str, scenario: str, figure: str, target: str = "") -> None:
        rows.append((text, {name: each.get(figure) for name, each in medians(scenario).items()}, target))

    add("first answer with four workers, ms", "start", "first_answer_ms")
    behind = {"rmeinheld": data.get("start_behind_gthread_ms")}
    rows.append(("the same, after that of gthread, ms", behind, f"at most {wanted['start_behind_gthread_ms']}"))
    for key, when in (("recycles", "while workers are recycled"), ("reloads", "at SIGHUP")):
        each = {name: rounds[0][key] for name, rounds in data["rounds"].get("waits", {}).items()}
        longest = {name: one["longest_ms"] for name, one in each.items()}
        rows.append((f"longest wait {when}, ms", longest, f"at most {wanted['longest_wait_ms']}"))
        rows.append((f"failed requests {when}", {name: sum(one["failed"].values()) for name, one in each.items()}, "0"))
    for figure in next(iter(medians("spread").values()), {}):
        what = figure.replace(" kept", " kept connections")
        add(f"requests of the busier worker, of the mean: {what}", "spread", figure, f"at most {wanted['spread']}")
    scaling = {name: each["two_per_second"] / each["one_per_second"] for name, each in medians("scaling").items()}
    rows.append(("requests per second of two workers, of those of one", scaling, f"at least {wanted['scaling']}"))
    add("`/ready` while all workers compute, ms", "ready", "median_ms", f"at most {wanted['ready_ms']}")
    add("the slowest of 200, ms", "ready", "worst_ms", f"at most {wanted['ready_ms']}")
    for figure, text in (
        ("master_pss_kib", "master, KiB of its own (PSS)"),
        ("worker_pss_kib", "a worker, KiB of its own"),
        ("worker_resident_kib", "a worker, KiB resident"),
    ):
        add(text, "memory", figure)
    cells = [[text, *(_number(values.get(name)) for name in names), target] for text, values, target in rows]
    head = ["", *(f"**{name}**" if name == "rmeinheld" else f"`{name}`" for name in names), "target"]
    return f"{_table(head, cells)}\n\n{_notes(data, 'gunicorn')}"


def restarts() -> str:
    """Return the table of `make soak-restarts`."""
    if not (RESULTS / "restarts.json").exists():
        return _unmeasured("make soak-restarts", "restarts.json")
    data = _load("restarts")
    # Granian recycles after a minute at the earliest, so it has a run of its own.
    granian = _load("restarts_granian") if (RESULTS / "restarts_granian.json").exists() else None
    rows = []
    for name, phases in (data["phases"] | (granian["phases"] if granian else {})).items():
        for phase in filter(lambda phase: phase["events"], phases):
            report = phase["report"]
            waits = report.get("waits_ms", {})
            failed = ", ".join(f"{count} {how}" for how, count in phase["failed"].items()) or "0"
            label = LABELS.get(name, name).removesuffix(" (ASGI)")
            answers = _number(sum(report.get("answers", {}).values()))
            shown = [_number(waits.get("longest")), _number(waits.get("p99"))]
            rows.append([label, f"{phase['events']} {phase['name']}", answers, failed, *shown])
    head = ["", "", "answers", "failed requests", "longest wait of a short request, ms", "99% within, ms"]
    left_out = "".join(f"\n\nLeft out: {LABELS.get(name, name)}: {why}." for name, why in data["left_out"].items())
    peers = [package for name, package in (("granian", "granian"), ("uwsgi", "uWSGI")) if name in data["phases"]]
    notes = _notes(data, "gunicorn", *peers, shown="Counted by")
    if granian:
        notes += f" {_notes(granian, 'granian', shown='Granian: by')}"
    return f"{_table(head, rows)}\n\n{notes}{left_out}"


def soak() -> str:
    """Return the sums of a long run of `make soak-restarts`."""
    phases = _load("restarts_soak")["phases"]["rmeinheld"]
    recycles = sum(phase["events"] for phase in phases if phase["name"].startswith("recycles"))
    others = [f"{phase['events']} {phase['name']}" for phase in phases if not phase["name"].startswith("recycles")]
    answers = sum(sum(phase["report"]["answers"].values()) for phase in phases)
    failed = [
        f"{count} failed at {phase['name']} ({how})" for phase in phases for how, count in phase["failed"].items()
    ]
    return f"{recycles:,} recycles, {', '.join(others)}: {answers:,} answers, {', '.join(failed) or 'none failed'}."


def instructions() -> str:
    """Return the table of `make gauge`: the first count of each row, and the present one."""
    data = _load("instructions")
    rows = [[name, *(f"{data[when][name]:,}" for when in ("before", "instructions"))] for name in data["instructions"]]
    return _table(["", "before the changes below", "now"], rows)


def held() -> str:
    """Return the table of `make bench-held`."""
    if not (RESULTS / "held.json").exists():
        return _unmeasured("make bench-held", "held.json")
    data = _load("held")
    places = {"same machine": "on the same machine", "namespace": "in another network namespace"}
    rows = []
    for name, on in data["medians"].items():
        row, place, server = name.split("; ")
        if server == "rmeinheld":
            off = data["medians"][f"{row}; {place}; rmeinheld-at-once"]
            figures = ("cpu_us", "requests_per_second", "latency_p99_ms")
            pairs = [[each[figure] for each in (off, on)] for figure in figures]
            title = row.replace("bimodal", "90% of 5 us, 10% of 300 us")
            rows.append([f"{title}, client {places[place]}", *(" / ".join(map(_number, pair)) for pair in pairs)])
    head = ["off / on", "CPU of a request, us", "requests per second", "99% within, ms"]
    return f"{_table(head, rows)}\n\n{_notes(data)} Load average before: {data['machine']['load_average_before']}."


def many_requests() -> str:
    """Return the figures of `make soak-memory`."""
    if not (RESULTS / "many_requests.json").exists():
        return _unmeasured("make soak-memory", "many_requests.json")
    data = _load("many_requests")
    resident = data["resident_kib"]
    return (
        f"{data['requests']:,} requests and {data['faulty_requests']:,} faulty ones: {resident[0]:,} KiB after the "
        f"first million, {max(resident):,} KiB at most after a later one, {resident[-1]:,} KiB at the end. "
        f"{_notes(data, shown='Counted by')}"
    )


def _unmeasured(command: str, name: str) -> str:
    return f"Not measured yet: `{command}` writes `benches/results/{name}`."


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _load(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return data


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])


def _notes(data: dict[str, Any], *packages: str, shown: str = "Medians of the rounds of") -> str:
    machine = data["machine"]
    versions = {**data["versions"]["project"], **data["versions"].get("peers", {})}
    versions["rmeinheld"] = data["versions"]["project"]["rmeinheld"]
    named = ", ".join(f"{name} {versions[name]}" for name in ("rmeinheld", *packages))
    return (
        f"{shown} `python {' '.join(data['command'])}`. {machine['cpu']}, {machine['cores']} cores; "
        f"Linux {machine['kernel']}, Python {machine['python']}; {named}."
    )
