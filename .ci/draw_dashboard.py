"""Draws docs/images/dashboard.svg: the panels of examples/grafana/rmeinheld.json, from a service under load.

    python .ci/draw_dashboard.py [--prometheus PATH] [--seconds 90]

Grafana draws nothing without a browser, so this script draws. The numbers are real. Prometheus (`apt-get install
prometheus`) scrapes four workers every second, and evaluates the queries of the dashboard's own file. The load has
three parts of equal length: short requests, then a slow database, then a request that computes in one worker.
"""

from __future__ import annotations

import argparse
import html
import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DASHBOARD = ROOT / "examples" / "grafana" / "rmeinheld.json"
PICTURE = ROOT / "docs" / "images" / "dashboard.svg"

APPLICATION = """
import random, time

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/orders":
        time.sleep(float(environ["QUERY_STRING"]) * random.uniform(0.5, 1.5))
    elif path == "/report":
        end = time.monotonic() + float(environ["QUERY_STRING"])
        while time.monotonic() < end:
            pass
    elif path == "/fails":
        start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
        return [b"failed"]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"x" * 2000]
"""

INTERVAL = "5s"
"""The window of rates, which Grafana chooses by the width of a panel."""

WIDTH, ROW_HEIGHT, GAP = 1200, 24, 10
COLUMNS = 24
COLOURS = ("#3274d9", "#e0752d", "#5c9e3c", "#b5367f", "#8f6fcf", "#c9a400", "#2a9d9d", "#8a8a8a", "#d44a3a", "#4b5d67")


@dataclass(frozen=True)
class Line:
    """One curve: its name and its points, each a time and a value."""

    name: str
    points: list[tuple[float, float]]


# --- the service and its load ----------------------------------------------------------------------------------------


def free_port() -> int:
    """Return a free port of 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        return int(reserved.getsockname()[1])


def wait_for(url: str) -> None:
    """Wait until an address answers 200."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.1)
    raise SystemExit(f"{url} does not answer")


def load(port: int, seconds: float) -> None:
    """Send requests in three parts; each client is a thread here."""
    begin = time.monotonic()

    def client(number: int) -> None:
        count = 0
        while (now := time.monotonic() - begin) < seconds:
            count += 1
            part = int(3 * now / seconds)
            path = f"/orders?{0.6 if part == 1 else 0.04}" if number % 3 else "/"
            if part == 2 and number == 0:
                path = "/report?0.8"
            if count % 50 == 7:
                path = "/fails"
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10).read()
            time.sleep(0.02)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def measured(prometheus: str, seconds: float) -> tuple[dict[str, list[Line]], str]:
    """Run a service, its load and Prometheus. Return the curves of each panel by its title, and the versions."""
    with tempfile.TemporaryDirectory(prefix="rmeinheld-") as name:
        directory = Path(name)
        (directory / "shop.py").write_text(APPLICATION)
        port, admin, scraper = free_port(), free_port(), free_port()
        target = {"job_name": "shop", "static_configs": [{"targets": [f"127.0.0.1:{admin}"]}]}
        # JSON is YAML.
        (directory / "prometheus.yml").write_text(
            json.dumps({"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [target]})
        )
        serve = [sys.executable, "-m", "rmeinheld", "--workers", "4", "--bind", f"127.0.0.1:{port}"]
        serve += ["--admin-bind", f"127.0.0.1:{admin}", "--chdir", name, "shop:app"]
        scrape = [
            prometheus,
            f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'data'}",
        ]
        scrape += [f"--web.listen-address=127.0.0.1:{scraper}", "--log.level=error"]
        processes = [subprocess.Popen(serve, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)]
        try:
            wait_for(f"http://127.0.0.1:{admin}/ready")
            processes.append(subprocess.Popen(scrape))
            wait_for(f"http://127.0.0.1:{scraper}/-/ready")
            begin = time.time()
            load(port, seconds)
            end = time.time()
            panels = {
                panel["title"]: curves(panel, lambda query: ask(scraper, query, begin + 6, end))
                for panel in json.loads(DASHBOARD.read_text())["panels"]
                if "targets" in panel
            }
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
                process.wait(60)
    version = subprocess.run([prometheus, "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    return panels, f"Prometheus {version}, Python {sys.version.split()[0]}, {os.cpu_count()} cores"


def ask(port: int, query: str, begin: float, end: float) -> list[dict[str, Any]]:
    """Return the series of a query over a range, one value for each second."""
    query = query.replace("$__rate_interval", INTERVAL).replace("$job", "shop")
    parameters = urllib.parse.urlencode({"query": query, "start": begin, "end": end, "step": 1})
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query_range?{parameters}", timeout=20) as answer:
        result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return result


def curves(panel: dict[str, Any], ask: Callable[[str], list[dict[str, Any]]]) -> list[Line]:
    """Return the curves of a panel."""
    found = []
    for target in panel["targets"]:
        for series in ask(target["expr"]):
            labels: dict[str, str] = series["metric"]
            legend = target["legendFormat"]
            for label, value in labels.items():
                legend = legend.replace(f"{{{{{label}}}}}", value)
            values = [(float(at), float(number)) for at, number in series["values"]]
            found.append(Line(legend, [(at, value) for at, value in values if math.isfinite(value)]))
    return [line for line in found if line.points]


# --- the picture -----------------------------------------------------------------------------------------------------


def shown(value: float, unit: str) -> str:
    """Return a value with its unit."""
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "s":
        return f"{1000 * value:.3g} ms" if value < 1 else f"{value:.3g} s"
    if unit in ("bytes", "Bps"):
        for size, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
            if value >= size:
                return f"{value / size:.3g} {name}{'/s' * (unit == 'Bps')}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def text(x: float, y: float, content: str, size: int = 11, extra: str = "") -> str:
    """Return an element of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" {extra}>{html.escape(content)}</text>'


def drawn(panel: dict[str, Any], lines: list[Line]) -> list[str]:
    """Return the elements of a panel."""
    place = panel["gridPos"]
    unit_width = WIDTH / COLUMNS
    left, top = place["x"] * unit_width + GAP / 2, place["y"] * ROW_HEIGHT + GAP / 2
    width, height = place["w"] * unit_width - GAP, place["h"] * ROW_HEIGHT - GAP
    unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit", "short")
    parts = [f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" class="panel"/>']
    parts.append(text(left + 10, top + 18, panel["title"], 12, 'font-weight="600"'))
    if panel["type"] != "timeseries":
        value = shown(lines[0].points[-1][1], unit) if lines else "no data"
        parts.append(text(left + width / 2, top + height / 2 + 18, value, 28, 'text-anchor="middle" fill="#3274d9"'))
        return parts
    if not lines:
        parts.append(
            text(left + width / 2, top + height / 2, "nothing in this load", 11, 'text-anchor="middle" class="dim"')
        )
        return parts
    stacked = panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"
    lines = sorted(lines, key=lambda line: -max(value for _, value in line.points))[: len(COLOURS)]
    return parts + plotted(lines, (left + 60, top + 30, width - 72, height - 76), unit, stacked)


def plotted(lines: list[Line], box: tuple[float, float, float, float], unit: str, stacked: bool) -> list[str]:
    """Return axes, curves and legend."""
    left, top, width, height = box
    times = sorted({at for line in lines for at, _ in line.points})
    first, span = times[0], max(times[-1] - times[0], 1)
    bases = dict.fromkeys(times, 0.0)
    layers: list[tuple[Line, list[tuple[float, float]], list[tuple[float, float]]]] = []
    for line in lines:
        values = dict(line.points)
        below = [(at, bases[at] if stacked else 0.0) for at in values]
        above = [(at, (bases[at] if stacked else 0.0) + value) for at, value in values.items()]
        if stacked:
            bases.update(above)
        layers.append((line, below, above))
    most = max((value for _, _, above in layers for _, value in above), default=0) or 1

    def at(point: tuple[float, float]) -> str:
        return f"{left + width * (point[0] - first) / span:.1f},{top + height * (1 - point[1] / most):.1f}"

    parts = []
    for share in (0, 0.5, 1):
        y = top + height * (1 - share)
        parts.append(f'<line x1="{left:.1f}" x2="{left + width:.1f}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(text(left - 6, y + 4, shown(share * most, unit), 10, 'text-anchor="end" class="dim"'))
    parts.append(text(left + width, top + height + 14, f"{span:.0f} s", 10, 'text-anchor="end" class="dim"'))
    x, y = left - 48, top + height + 30
    for number, (line, below, above) in enumerate(layers):
        colour = COLOURS[number]
        if stacked:
            outline = " ".join(map(at, [*above, *reversed(below)]))
            parts.append(f'<polygon points="{outline}" fill="{colour}" fill-opacity="0.3"/>')
        parts.append(
            f'<polyline points="{" ".join(map(at, above))}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        )
        needed = 20 + 6.2 * len(line.name)
        if x + needed > left + width and x > left - 48:
            x, y = left - 48, y + 13
        if y < top + height + 46:
            parts.append(f'<rect x="{x:.1f}" y="{y - 7:.1f}" width="9" height="4" fill="{colour}"/>')
            parts.append(text(x + 13, y, line.name, 10))
        x += needed
    return parts


def picture(panels: dict[str, list[Line]], note: str) -> str:
    """Return the SVG."""
    found = [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if "targets" in panel]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in found) * ROW_HEIGHT + 26
    style = (
        "text{font-family:Inter,Helvetica,Arial,sans-serif;fill:#24292f}.dim{fill:#6e7781}.panel{fill:#fff;stroke:#d8dee4}"
        ".grid{stroke:#eaeef2}"
    )
    parts = [element for panel in found for element in drawn(panel, panels[panel["title"]])]
    parts.append(text(GAP, height - 8, note, 11, 'class="dim"'))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">\n<style>{style}</style>\n'
        f'<rect width="{WIDTH}" height="{height}" fill="#f6f8fa"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def main() -> None:
    """Measure, and write the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prometheus", default="prometheus", metavar="PATH")
    parser.add_argument("--seconds", type=float, default=90)
    options = parser.parse_args()
    panels, versions = measured(options.prometheus, options.seconds)
    third = options.seconds / 3
    note = (
        f"Drawn by .ci/draw_dashboard.py from a run of {options.seconds:.0f} s: short requests, from {third:.0f} s a "
        f"slow database, from {2 * third:.0f} s a request that computes. {versions}."
    )
    PICTURE.write_text(picture(panels, note))


if __name__ == "__main__":
    main()
