"""The chart of the README, as SVG, from the results in benches/results. `python benches/chart.py` writes it anew."""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path

import results as results_module
from report import FLOOR, LABELS, UNPATCHED

HERE = Path(__file__).parent
CHART = HERE.parent / "docs" / "images" / "figures.svg"

WIDTH, LEFT, RIGHT, BAR, GAP, TITLE = 540, 164, 74, 16, 6, 44
OURS, OTHERS, INK, FAINT = "#1f6f54", "#b9c4bf", "#1b1f1d", "#5b645f"
WEBSOCKET_LABELS = {
    "rmeinheld": "rmeinheld",
    "uwsgi": "uWSGI",
    "websockets": "websockets (asyncio)",
    "granian": "Granian (ASGI)",
    "gevent-websocket": "gevent-websocket",
}


@dataclass(frozen=True)
class Panel:
    """Bars under a title: the value of each server, the best one first."""

    title: str
    subtitle: str
    values: dict[str, float]
    pattern: str


def panels() -> list[Panel]:
    """The three figures, from the results."""
    http = results_module.load(HERE / "results" / "results.json")
    websocket = json.loads((HERE / "results" / "websocket.json").read_text())

    def cpu(case: str) -> dict[str, float]:
        medians = {name: http.median(case, name, "cpu_us") for name in LABELS if name not in (FLOOR, UNPATCHED)}
        found = {LABELS[name].strip("*"): value for name, value in medians.items() if value is not None}
        return dict(sorted(found.items(), key=lambda item: item[1]))

    echo = {
        WEBSOCKET_LABELS[name]: statistics.median(each["messages_per_cpu_second"] for each in rounds)
        for name, rounds in websocket["echo"]["rounds"].items()
        if name != FLOOR
    }
    return [
        Panel("Hello world", "CPU of a request in us, 64 connections; less is better", cpu("hello_c64"), "{:.1f}"),
        Panel(
            "Requests that wait",
            "CPU of a request in us, 1,000 that sleep 100 ms at once; less is better",
            cpu("parked100ms_c1000"),
            "{:.1f}",
        ),
        Panel(
            "WebSocket echo",
            "messages for each second of CPU, 64 connections; more is better",
            dict(sorted(echo.items(), key=lambda item: -item[1])),
            "{:,.0f}",
        ),
    ]


def svg(shown: list[Panel]) -> str:
    """Return the chart as a text of SVG."""
    parts: list[str] = []
    top = 12
    for panel in shown:
        parts.append(_text(16, top + 16, panel.title, weight="600", size=15))
        parts.append(_text(16, top + 34, panel.subtitle, fill=FAINT, size=12))
        top += TITLE
        longest = max(panel.values.values())
        for name, value in panel.values.items():
            width = max(2.0, (WIDTH - LEFT - RIGHT) * value / longest)
            is_ours = name == "rmeinheld"
            weight = "600" if is_ours else "400"
            parts.append(_text(LEFT - 8, top + 12.5, name, anchor="end", weight=weight))
            fill = OURS if is_ours else OTHERS
            parts.append(f'<rect x="{LEFT}" y="{top}" width="{width:.1f}" height="{BAR}" rx="2" fill="{fill}"/>')
            parts.append(_text(LEFT + width + 6, top + 12.5, panel.pattern.format(value), weight=weight))
            top += BAR + GAP
        top += 12
    label = escape("; ".join(f"{panel.title}: {_spoken(panel)}" for panel in shown))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}" '
        f'role="img" aria-label="{label}" font-family="system-ui, sans-serif">\n'
        f'<rect width="{WIDTH}" height="{top}" rx="8" fill="#ffffff" stroke="#dfe5e2"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _spoken(panel: Panel) -> str:
    return ", ".join(f"{name} {panel.pattern.format(value)}" for name, value in panel.values.items())


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", weight: str = "400", fill: str = INK, size: int = 13
) -> str:
    style = f'text-anchor="{anchor}" font-weight="{weight}" font-size="{size}" fill="{fill}"'
    return f'<text x="{x:g}" y="{y:g}" {style}>{escape(text)}</text>'


def main() -> int:
    """Write the chart."""
    CHART.write_text(svg(panels()), encoding="utf-8")
    print(CHART)
    return 0


if __name__ == "__main__":
    sys.exit(main())
