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
}


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
        idle = data["idle"]["medians"][name]["kib_per_connection"]
        cells = [f"{broadcast['cpu_us_per_delivery']:.1f}", f"{broadcast['ms_to_the_last']:.1f}"] if broadcast else "--"
        rows.append([LABELS[name], f"{value:,.0f}", *cells, f"{idle:.1f}"])
    head = ["", "echo: messages for each CPU second", "broadcast: CPU of a delivery, us", "ms to the last client",
            "KiB of an idle connection"]  # fmt: skip
    return f"{_table(head, rows)}\n\n{_notes(data, 'gevent-websocket', 'websockets', 'uWSGI', 'granian')}"


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


def _load(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return data


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])


def _notes(data: dict[str, Any], *packages: str) -> str:
    machine = data["machine"]
    versions = {**data["versions"].get("peers", {}), "rmeinheld": data["versions"]["project"]["rmeinheld"]}
    named = ", ".join(f"{name} {versions[name]}" for name in ("rmeinheld", *packages))
    return (
        f"Medians of the rounds of `python {' '.join(data['command'])}`. {machine['cpu']}, {machine['cores']} cores; "
        f"Linux {machine['kernel']}, Python {machine['python']}; {named}."
    )
