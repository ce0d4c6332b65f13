"""Markdown of the metrics, from the list in the engine."""

from __future__ import annotations

from rmeinheld._rmeinheld import metric_families


def table() -> str:
    """Return a table of all metrics: name, kind, unit, labels, meaning."""
    rows = []
    for name, kind, unit, labels, meaning in metric_families():
        names = ", ".join(f"`{label}`" for label in labels)
        rows.append(f"| `{name}` | {kind} | {unit} | {names} | {meaning} |")
    return "\n".join(["| Metric | Type | Unit | Labels | Meaning |", "| --- | --- | --- | --- | --- |", *rows])
