"""The tables of a run in Markdown, for the documentation. `python benches/report.py FILE.json` makes them again."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import results as results_module
from core_distance import FAR
from results import Results

FLOOR, BJOERN, OURS, UNPATCHED = "floor", "bjoern", "rmeinheld", "rmeinheld-no-patch"
AT_ONCE, ALONE = "rmeinheld-at-once", "alone"
LABELS = {
    "floor": "C epoll loop (the floor)",
    "alone": "the application, without a server",
    "rmeinheld": "**rmeinheld**",
    "rmeinheld-no-patch": "rmeinheld without patches",
    "rmeinheld-at-once": "rmeinheld with `hold_answers = 0`",
    "bjoern": "Bjoern",
    "fastpysgi": "FastPySGI",
    "fastwsgi": "FastWSGI",
    "granian": "Granian",
    "gunicorn-gevent": "Gunicorn + gevent",
    "gthread": "Gunicorn's gthread",
    "uwsgi": "uWSGI",
    "meinheld": "Meinheld on Python 3.8",
}
PACKAGES = {
    "rmeinheld": ("project", ("rmeinheld",)),
    "bjoern": ("peers", ("bjoern",)),
    "fastpysgi": ("peers", ("fastpysgi",)),
    "fastwsgi": ("peers", ("fastwsgi",)),
    "granian": ("peers", ("granian",)),
    "gunicorn-gevent": ("peers", ("gunicorn", "gevent")),
    "uwsgi": ("peers", ("uWSGI",)),
    "meinheld": ("peers-3.8", ("meinheld",)),
}


@dataclass(frozen=True)
class Figure:
    """A figure of a case as the tables show it. Lower is better unless `more_is_better`."""

    case: str
    name: str
    title: str
    pattern: str
    more_is_better: bool = False


HELLO_CPU = [
    Figure("hello_c1", "cpu_us", "1 connection", "{:.1f}"),
    Figure("hello_c64", "cpu_us", "64", "{:.1f}"),
    Figure("hello_c512", "cpu_us", "512", "{:.1f}"),
    *(Figure(f"nolength_c{count}", "cpu_us", f"{count}, no Content-Length", "{:.1f}") for count in (1, 64, 512)),
]
HELLO_THROUGHPUT = [
    Figure("hello_c1", "requests_per_second", "1 connection", "{:,.0f}", more_is_better=True),
    Figure("hello_c64", "requests_per_second", "64", "{:,.0f}", more_is_better=True),
    Figure("hello_c512", "requests_per_second", "512", "{:,.0f}", more_is_better=True),
    Figure("nolength_c64", "requests_per_second", "64, no Content-Length", "{:,.0f}", more_is_better=True),
    Figure("hello_c512", "latency_p99_ms", "99% within, ms, 512", "{:.1f}"),
]
SLEEP = [
    Figure("parked100ms_c1000", "requests_per_second", "requests/s, 1,000 asleep 100 ms", "{:,.0f}", True),
    Figure("parked100ms_c1000", "cpu_us", "CPU of each, us", "{:.1f}"),
    Figure("burst", "seconds", "burst asleep 1 s, done in s", "{:.2f}"),
    Figure("memory_parked", "resident_kib_each", "KiB a sleeping request", "{:.1f}"),
    Figure("memory_parked", "resident_kib_each_for_long", "after 3 s", "{:.1f}"),
    Figure("memory_parked", "page_tables_kib_each", "and page tables", "{:.1f}"),
]
IDLE = [
    Figure("memory_idle", "resident_kib_each", "KiB an idle connection", "{:.2f}"),
    Figure("memory_idle", "resident_kib_before", "KiB of the idle server", "{:,.0f}"),
    Figure("idle", "switches_per_second", "context switches/s when idle", "{:.1f}"),
]


def _cpu(titles: dict[str, str]) -> list[Figure]:
    return [Figure(case, "cpu_us", title, "{:,.1f}") for case, title in titles.items()]


BODIES = [
    *_cpu(
        {
            "headers_20": "20 response headers",
            "generator_10k": "generator, 10 x 1 kB",
            "large_100k": "100 kB",
            "echo_10k": "10 kB POST, echo",
            "file_10m": "file of 10 MB",
            "cold_c64": "a connection for each request, 64",
        }
    ),
    Figure("cold_c64", "requests_per_second", "the same, requests/s", "{:,.0f}", True),
]
ARENA_TITLES = {
    "arena_baseline": "baseline",
    "arena_limited": "10 requests a connection",
    "arena_json": "JSON",
    "arena_upload": "20 MB upload",
    "arena_static": "static file",
}
ARENA = [*_cpu(ARENA_TITLES), Figure("arena_upload", "peak_mib_more", "MiB more for uploads", "{:,.0f}")]
FRAMEWORKS_TITLES = {
    "flask_json": "Flask, JSON",
    "django_page": "Django, page",
    "bimodal_c64": "90 % of 5 us, 10 % of 300 us",
}
FRAMEWORKS = [
    *_cpu(FRAMEWORKS_TITLES),
    *(
        Figure(case, "latency_p99_ms", f"{title}: 99% within, ms", "{:.2f}")
        for case, title in FRAMEWORKS_TITLES.items()
    ),
]
TESTS = ("db", "queries", "fortunes", "updates")
DATABASE = {
    name: [
        *_cpu({f"{name.lower()}_{test}": f"{test}, CPU in us" for test in TESTS}),
        *(
            Figure(f"{name.lower()}_{test}", "requests_per_second", f"{test}, requests/s", "{:,.0f}", True)
            for test in TESTS
        ),
    ]
    for name in ("Flask", "Django")
}
LATENCY = [
    Figure(f"rate_{name.lower()}", f"latency_{percentile}_ms", f"{name}, {title} within", "{:.2f}")
    for name in ("hello", "Flask")
    for percentile, title in (("p50", "50 %"), ("p99", "99 %"), ("p999", "99.9 %"))
]

SECTIONS = {
    "CPU per request in us, hello world over keep-alive (and as a multiple of the floor)": HELLO_CPU,
    "Requests per second, hello world over keep-alive": HELLO_THROUGHPUT,
    "Requests that sleep": SLEEP,
    "Doing nothing": IDLE,
    "CPU per request in us, answers of several kinds": BODIES,
    "CPU per request in us, requests of HttpArena": ARENA,
    "CPU per request in us, frameworks": FRAMEWORKS,
    **{f"TechEmpower's tests with PostgreSQL on {name}": figures for name, figures in DATABASE.items()},
    "Latency in ms at a constant rate: hello at 5,000 requests per second, Flask's JSON at 2,000": LATENCY,
}


@dataclass(frozen=True)
class Target:
    """A target of rmeinheld: at most `limit` (at least, if more is better), as it is or as a ratio to a server."""

    text: str
    case: str
    figure: str
    limit: float
    relative_to: str | None = None
    at_least: bool = False


TARGETS = [
    *(
        Target(f"hello world at {count}, CPU as a multiple of {name}", f"hello_c{count}", "cpu_us", limit, other)
        for count, floor_limit, bjoern_limit in ((1, 1.25, 0.75), (64, 1.25, 0.75), (512, 1.4, 0.9))
        for name, other, limit in (("the floor", FLOOR, floor_limit), ("Bjoern", BJOERN, bjoern_limit))
    ),
    Target("an idle keep-alive connection, KiB", "memory_idle", "resident_kib_each", 1.0),
    Target("a request asleep, KiB", "memory_parked", "resident_kib_each", 32.0),
    Target("asleep 100 ms, requests/s", "parked100ms_c1000", "requests_per_second", 9000.0, at_least=True),
    Target("asleep 100 ms, CPU of each in us", "parked100ms_c1000", "cpu_us", 30.0),
    Target("burst asleep 1 s, all done, s", "burst", "seconds", 2.0),
    Target("idle server, context switches/s", "idle", "switches_per_second", 5.0),
]


def brief(figures: dict[str, float]) -> str:
    """The two leading figures of a measurement, for the terminal."""
    return ", ".join(f"{name} {value:,.2f}" for name, value in list(figures.items())[:2])


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(results: Results, figure: Figure, server: str) -> str:
    value = results.median(figure.case, server, figure.name)
    if value is None:
        return "failed" if (figure.case, server) in results.problems() else "-"
    text = figure.pattern.format(value)
    ratio = results.ratio(figure.case, server, FLOOR, figure.name) if figure.name == "cpu_us" else None
    return text if ratio is None or server == FLOOR else f"{text} ({ratio:.2f} x)"


def _figures_table(results: Results, title: str, figures: list[Figure]) -> str:
    """One row a server that has any of the figures; nothing if no server has."""
    measured = {measurement.case for measurement in results.measurements}
    figures = [figure for figure in figures if figure.case in measured]
    rows = []
    for server in LABELS:
        cells = [_cell(results, figure, server) for figure in figures]
        if any(cell != "-" for cell in cells):
            rows.append([LABELS[server], *cells])
    return f"{title}\n\n{_table(['', *(figure.title for figure in figures)], rows)}\n\n" if rows else ""


def _verdict(results: Results, target: Target) -> list[str]:
    if target.relative_to is None:
        value = results.median(target.case, OURS, target.figure)
    else:
        value = results.ratio(target.case, OURS, target.relative_to, target.figure)
    bound = f"{'at least' if target.at_least else 'at most'} {target.limit:,g}"
    if value is None:
        return [target.text, bound, "not measured", "-"]
    met = value >= target.limit if target.at_least else value <= target.limit
    shown = f"{value:,.0f}" if target.limit > 100 else f"{value:.2f}"
    return [target.text, bound, shown, "met" if met else "**missed**"]


def _targets_table(results: Results) -> str:
    measured = {measurement.case for measurement in results.measurements}
    rows = [_verdict(results, target) for target in TARGETS if target.case in measured]
    return f"Targets of rmeinheld\n\n{_table(['', 'target', 'measured', ''], rows)}\n\n" if rows else ""


def _defeats(results: Results) -> str:
    """Every shown figure in which another server is better than rmeinheld."""
    lines = []
    for title, figure in ((title, figure) for title, figures in SECTIONS.items() for figure in figures):
        ours = results.median(figure.case, OURS, figure.name)
        if ours is None:
            continue
        better = []
        for server in (name for name in LABELS if name not in (FLOOR, ALONE, OURS, UNPATCHED, AT_ONCE)):
            theirs = results.median(figure.case, server, figure.name)
            if theirs is not None and (theirs > ours if figure.more_is_better else theirs < ours):
                better.append(f"{LABELS[server]} {figure.pattern.format(theirs)}")
        if better:
            what = f"{title.partition(' (')[0]}: {figure.title}"
            lines.append(f"- {what}: {', '.join(better)} against {figure.pattern.format(ours)}")
    if OURS not in results.servers() or len(results.servers()) < 3:
        return ""
    return "Where rmeinheld loses\n\n" + ("\n".join(lines) or "- in none of the figures above") + "\n\n"


def _versions(results: Results) -> str:
    named = []
    for server in results.servers():
        if server in PACKAGES:
            environment, packages = PACKAGES[server]
            known = results.versions.get(environment, {})
            named += [f"{package} {known.get(package, '?')}" for package in packages]
    return ", ".join(named)


def _core_distance(results: Results) -> str:
    """How far apart the cores were, in the runs that measured it; see core_distance.py."""
    distances = [one.figures["core_distance_ns"] for one in results.measurements if one.figures.get("core_distance_ns")]
    if not distances:
        return ""
    far = sum(distance > FAR * min(distances) for distance in distances)
    return (
        f" A cache line took {min(distances):.0f} to {max(distances):.0f} ns from core to core and back, and more than "
        f"{FAR:g} times the least before {far} of {len(distances)} measurements."
    )


def _notes(results: Results) -> str:
    facts = results.machine
    core = f"servers on core {facts['server_core']}, client on core {facts['client_core']}"
    if facts["server_core"] == facts["client_core"]:
        core = "servers and client on THE SAME core, so the figures say little"
    when = results.date + (f" at commit {results.commit}" if results.commit else "")
    lines = [
        f"Measured {when} by `{results.command}`: {results.rounds} round(s), {results.seconds} s each, "
        f"medians; ratios are medians of the ratios within a round. {facts['cpu']}, {facts['cores']} cores, {core}; "
        f"Linux {facts['kernel']}, Python {facts['python']}, {facts['wrk']}, {facts['compiler']}; "
        f"{_versions(results)}. Load average before: {facts['load_average_before']}." + _core_distance(results),
    ]
    if results.rows:
        lines.append(
            "Rows of other runs, with date and commit: "
            + "; ".join(f"{case} {row['date']} {row['commit']}" for case, row in results.rows.items())
            + "."
        )
    if results.quick:
        lines.append("A quick run: it proves that the benchmark works, and its figures count for nothing.")
    if float(facts["load_average_before"]) > 0.5:
        lines.append("Something else was running on this machine, which makes figures worse and ratios doubtful.")
    lines += [f"Left out: {LABELS.get(name, name)}: {reason}." for name, reason in results.left_out.items()]
    # One line for each server and reason, however many cases it spoilt.
    failures: dict[tuple[str, str], list[str]] = {}
    for (case, server), reasons in results.problems().items():
        failures.setdefault((server, reasons[0]), []).append(f"{case} ({len(reasons)} of its rounds)")
    for (server, reason), cases in failures.items():
        lines.append(f"Failed: {LABELS[server]} in {', '.join(cases)}: {reason}")
    if unanswered := _unanswered(results):
        lines.append(unanswered)
    return "\n\n".join(lines) + "\n"


def _unanswered(results: Results) -> str:
    """Which servers left requests without an answer: they serve some connections, and the others wait."""
    most: dict[str, int] = {}
    for one in results.measurements:
        most[one.server] = max(most.get(one.server, 0), int(one.figures.get("unanswered", 0)))
    named = [f"{LABELS[server]} up to {count} of them" for server, count in most.items() if count]
    return f"Connections whose last request had no answer, and does not count: {', '.join(named)}." if named else ""


def markdown(results: Results) -> str:
    """All tables of a run, the targets, what rmeinheld loses, and how it was measured."""
    return (
        "".join(_figures_table(results, title, figures) for title, figures in SECTIONS.items())
        + _targets_table(results)
        + _defeats(results)
        + _notes(results)
    )


def main() -> int:
    """Print the tables of the results file that the command line names."""
    if len(sys.argv) != 2:
        print("usage: python benches/report.py RESULTS.json", file=sys.stderr)
        return 2
    print(markdown(results_module.load(Path(sys.argv[1]))), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
