"""Pages of the documentation say what is so: code runs, options exist, configuration files load, links lead somewhere.

`make docs` builds the site and checks the links between its pages.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from gunicorn.config import Config

from frames import Client, text
from pages import PROJECT_URL, ROOT, Block, all_blocks, blocks, commands, links, other_pages, pages
from proxying import program
from rmeinheld.cli import COMMANDS
from rmeinheld.configuration.arguments import read_arguments
from rmeinheld.inspection.command import parser_of
from rmeinheld.settings import OPTIONS
from serving import RunScript, Serve, request

NAMES = [page.relative_to(ROOT).as_posix() for page in pages()]
OTHER_NAMES = [page.relative_to(ROOT).as_posix() for page in other_pages()]

# Programs whose arguments no test here looks at.
OTHER_PROGRAMS = {*"apt curl docker gdb git haproxy kill nginx openssl pip py-spy python".split(), "seq", "sysctl"}
OTHER_PROGRAMS |= {"ddtrace-run", "echo", "nc", "newrelic-admin"}
OTHER_PROGRAMS |= set("apt-get chmod cp django-admin python3 rm sed systemctl tail ulimit useradd".split())


# --- Python ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_python_code_of_a_page_compiles(name: str) -> None:
    for block in blocks(ROOT / name):
        if block.language == "python":
            compile("\n" * (block.line - 1) + block.text, name, "exec")


def has_app(block: Block) -> bool:
    """Does the code bind the application that a server looks for?"""
    return bool(re.search(r"^(def app\(|app = )", block.text, re.M))


def answered() -> list[tuple[Block, list[tuple[str, str]]]]:
    """Applications of the pages, each with the curl commands of the console blocks up to the next application."""
    found: list[tuple[Block, list[tuple[str, str]]]] = []
    for page in pages():
        current: list[tuple[str, str]] | None = None
        for block in blocks(page):
            if block.language == "python" and has_app(block):
                current = []
                found.append((block, current))
            elif block.language == "console" and current is not None:
                current += [(command, output) for command, output in commands(block) if output and "curl" in command]
    return [(block, asked) for block, asked in found if asked]


ANSWERED = answered()


def test_pages_have_applications_with_their_answers() -> None:
    assert len(ANSWERED) > 5


@pytest.mark.parametrize(("block", "asked"), ANSWERED, ids=[str(block) for block, _ in ANSWERED])
def test_an_application_answers_as_its_page_says(block: Block, asked: list[tuple[str, str]], serve: Serve) -> None:
    server = serve(block.text)
    for command, output in asked:
        words = shlex.split(command)
        assert words[0] == "curl"
        url = next(word for word in words if word.startswith("http://127.0.0.1:8000"))
        path = url.removeprefix("http://127.0.0.1:8000") or "/"
        with server.connect() as connection:
            response = connection.request(request("GET", path))
        if "-i" not in words:
            assert response.body.decode().rstrip("\n") == output.rstrip("\n")
            continue
        # The application's fields come first, and the engine's follow in this order.
        shown = [f"{response.version} {response.status} {response.reason}"]
        shown += [f"{key}: {value}" for key, value in response.headers]
        text = "\n".join([*shown, "", response.body.decode()])
        assert re.sub(r"(?m)^Date: .*", "Date:", text) == re.sub(r"(?m)^Date: .*", "Date:", output)


OTHERS = list({block.text: block for block in all_blocks("python") if block not in dict(ANSWERED)}.values())


@pytest.mark.parametrize("block", [block for block in OTHERS if has_app(block)], ids=str)
def test_an_application_without_a_shown_answer_serves(block: Block, serve: Serve) -> None:
    server = serve(block.text)
    if "wsgi.websocket" in block.text:
        with Client(server) as client:
            client.send(text("hello"))
            assert client.text() == "hello"
    else:
        with server.connect() as connection:
            assert connection.request(request()).status in (103, 200)


@pytest.mark.parametrize("block", [block for block in OTHERS if not has_app(block)], ids=str)
def test_code_that_is_no_application_runs(block: Block, script: RunScript) -> None:
    script(block.text)


# --- commands --------------------------------------------------------------------------------------------------------


def refuse_unknown_options(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """SystemExit or StartError for an option that does not exist."""
    _, unknown = parser.parse_known_args(words)
    assert not [word for word in unknown if word.startswith("-")], unknown


def check_command(command: str) -> None:
    """AssertionError for a program that no page should need, or an option or a target of make that does not exist."""
    words = [word for word in shlex.split(command, comments=True) if word != "..."]
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        name, _, _ = words.pop(0).partition("=")
        check_variable(name)
    # A program of a virtual environment is named with its directory.
    words[0] = words[0].rpartition("/")[2]
    if words[0] == "rmeinheld" and words[1] in COMMANDS:
        parser_of(words[1]).parse_args(words[2:])
    elif words[0] == "rmeinheld":
        read_arguments(words[1:])
    elif words[0] == "gunicorn":
        for place, word in enumerate(words):
            if word in ("--env", "-e"):
                check_variable(words[place + 1].partition("=")[0])
        refuse_unknown_options(Config().parser(), words[1:])
    elif words[0] == "make":
        makefile = (ROOT / "Makefile").read_text()
        for target in words[1:]:
            assert "=" in target or re.search(rf"^{target}:", makefile, re.M), f"no target {target}"
    else:
        assert words[0] in OTHER_PROGRAMS, command


def check_variable(name: str) -> None:
    """AssertionError for a variable that looks like ours and is none."""
    if name.startswith("RMEINHELD_") and name != "RMEINHELD_PATCH":
        assert name.removeprefix("RMEINHELD_").lower() in OPTIONS, name


@pytest.mark.parametrize("name", NAMES)
def test_commands_of_a_page_have_options_that_exist(name: str) -> None:
    for block in blocks(ROOT / name):
        if block.language in ("console", "sh"):
            assert block.language == "console" and block.text.startswith("$ "), f"{block}: no prompt"
            for command, _ in commands(block):
                for part in re.split(r" && | \| ", command):
                    check_command(part)


@pytest.mark.parametrize("name", [*NAMES, *OTHER_NAMES])
def test_targets_of_make_that_a_page_names_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for command in re.findall(r"(?:^    |`)(make [a-z][^#\n`]*)", text, re.M):
        check_command(command)


# --- configuration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", all_blocks("nginx"), ids=str)
def test_nginx_takes_the_configuration(block: Block, tmp_path: Path, certificate: Path) -> None:
    text = re.sub(r"(ssl_certificate(?:_key)?) \S+;", rf"\1 {certificate};", block.text)
    if not re.search(r"^events", text, re.M):
        text = f"events {{}}\nhttp {{\n{text}\n}}\n"
    # Only root may have a port below 1024.
    text = re.sub(r"listen (\[::\]:)?(80|443)\b", r"listen \g<1>8\2", text)
    (tmp_path / "nginx.conf").write_text(f"pid {tmp_path}/nginx.pid;\n{text}")
    command = [program("nginx", "nginx-light"), "-t", "-q", "-e", "stderr", "-p", str(tmp_path), "-c", "nginx.conf"]
    subprocess.run(command, check=True, timeout=30)


@pytest.mark.parametrize("block", all_blocks("haproxy"), ids=str)
def test_haproxy_takes_the_configuration(block: Block, tmp_path: Path, certificate: Path) -> None:
    text = re.sub(r" crt \S+", f" crt {certificate}", block.text)
    (tmp_path / "haproxy.cfg").write_text(text)
    command = [program("haproxy", "haproxy"), "-c", "-f", str(tmp_path / "haproxy.cfg")]
    done = subprocess.run(command, timeout=30, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    verify = program("systemd-analyze", "systemd")
    units = all_blocks("systemd")
    assert len(units) > 1
    for block in units:
        heading = re.match(r"# /etc/systemd/system/(\S+)\n", block.text)
        assert heading, f"{block}: the first line names the file"
        check_exec(block)
        # The program is not here, and neither are the users.
        text = re.sub(r"^(ExecStart=)\S+", rf"\1{sys.executable}", block.text, flags=re.M)
        (tmp_path / heading[1]).write_text(re.sub(r"^(Socket)?(User|Group)=.*\n", "", text, flags=re.M))
    paths = [str(path) for path in tmp_path.iterdir()]
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"}
    done = subprocess.run([verify, "verify", *paths], env=environment, timeout=60, capture_output=True, text=True)
    ours = [line for line in done.stderr.splitlines() if any(path in line for path in (*paths, *os.listdir(tmp_path)))]
    assert not ours, ours


def check_exec(block: Block) -> None:
    """AssertionError for an option in a unit's ExecStart that does not exist."""
    text = block.text.replace("\\\n", " ")
    for program_path, arguments in re.findall(r"^ExecStart=(\S+) (.*)$", text, re.M):
        check_command(f"{Path(program_path).name} {arguments}")


DOCKERFILE_WORDS = {"FROM", "RUN", "COPY", "ENV", "USER", "WORKDIR", "EXPOSE", "STOPSIGNAL", "CMD", "ENTRYPOINT"}
DOCKERFILE_WORDS |= {"HEALTHCHECK"}


@pytest.mark.parametrize("block", all_blocks("dockerfile"), ids=str)
def test_a_dockerfile_is_well_formed(block: Block) -> None:
    lines = [line for line in block.text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    assert lines[0].startswith("FROM ")
    for line in lines:
        word, _, rest = line.partition(" ")
        assert word in DOCKERFILE_WORDS, line
        if word == "CMD":
            check_command(shlex.join(json.loads(rest)))


# --- links -----------------------------------------------------------------------------------------------------------


def headings(page: Path) -> set[str]:
    """Anchors of the headings of a page, as forges and MyST make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    found = set(re.findall(r"^\((\S+)\)=$", text, re.M))
    for title in re.findall(r"^#+ (.+)$", text, re.M):
        found.add(re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-"))
    return found


@pytest.mark.parametrize("name", [*NAMES[1:], *OTHER_NAMES])
def test_links_of_a_page_lead_to_files_that_exist(name: str) -> None:
    page = ROOT / name
    for link in links(page):
        if re.match(r"[a-z]+:", link) or link.startswith("#"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve()
        assert target.exists(), f"{name}: {link}"
        if anchor and target.suffix == ".md" and "generated:" not in target.read_text(encoding="utf-8"):
            assert anchor in headings(target), f"{name}: {link}"


def test_links_of_the_readme_work_on_pypi_too() -> None:
    for link in links(ROOT / "README.md"):
        if link.startswith("#"):
            assert link[1:] in headings(ROOT / "README.md"), link
            continue
        assert link.startswith("https://"), f"{link} is relative: PyPI has no such file"
        if link.startswith(PROJECT_URL):
            match = re.fullmatch(rf"{re.escape(PROJECT_URL)}/(blob|tree|raw)/main/([^#]+)(?:#(.+))?", link)
            assert match, link
            target = ROOT / match[2]
            assert target.exists(), link
            assert target.is_dir() == (match[1] == "tree"), link
            assert match[3] is None or match[3] in headings(target), link


def test_no_page_names_another_address_of_the_project() -> None:
    for page in pages():
        for address in re.findall(r"https://[\w.-]*rmeinheld[\w.-]*", page.read_text(encoding="utf-8")):
            assert PROJECT_URL.startswith(address) or address == PROJECT_URL, f"{page}: {address}"


# --- figures ---------------------------------------------------------------------------------------------------------


def test_the_chart_shows_the_results() -> None:
    code = "import chart; print(chart.svg(chart.panels()), end='')"
    command = [sys.executable, "-c", code]
    drawn = subprocess.run(command, cwd=ROOT / "benches", check=True, capture_output=True, text=True, timeout=60).stdout
    assert drawn == (ROOT / "docs" / "images" / "figures.svg").read_text(encoding="utf-8")


def test_figures_of_the_comparison_are_those_that_were_measured() -> None:
    measured = (ROOT / "benches/results/table.md").read_text(encoding="utf-8")
    measured += (ROOT / "docs/images/figures.svg").read_text(encoding="utf-8")
    cooperation = json.loads((ROOT / "benches/results/cooperation.json").read_text(encoding="utf-8"))
    measured += " ".join(f"{value:.1f}" for value in cooperation["spawn"]["medians"].values())
    known = set(re.findall(r"[0-9][0-9,]*(?:\.[0-9]+)?", measured)) | {"1,000", "100", "64"}
    page = (ROOT / "docs/comparison.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("- ")]
    quoted = re.findall(r"(?<![.0-9])[0-9][0-9,]*(?:\.[0-9]+)?(?![0-9])", " ".join(lines))
    assert len(quoted) > 20
    assert [number for number in quoted if number.rstrip(",") not in known] == []


# --- generated text --------------------------------------------------------------------------------------------------


def test_text_for_the_generated_parts_is_made_without_sphinx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs" / "_extensions")
    options, api, figures = (importlib.import_module(name) for name in ("options", "api", "figures"))
    settings = options.settings()
    for name in OPTIONS:
        assert f"### `{name}`\n" in settings
        for table in (options.by_name(), options.by_source()):
            assert f"[`{name}`](#setting-{name.replace('_', '-')})" in table
    for make in (figures.http, figures.websocket, figures.cooperation, figures.gunicorn, options.access_log_atoms):
        assert "| --- |" in make()
    for page in (ROOT / "docs" / "api").glob("*.md"):
        for arguments in re.findall(r"<!-- generated: api (.*) -->", page.read_text(encoding="utf-8")):
            assert "{py:module}" in api.module(*arguments.split())


RESULTS = {
    "service": {
        "command": ["benches/service.py"],
        "machine": {"cpu": "a CPU", "cores": 2, "kernel": "6", "python": "3.13"},
        "versions": {"project": {"rmeinheld": "1", "gunicorn": "27"}},
        "wanted": {"start_behind_gthread_ms": 50, "longest_wait_ms": 50, "spread": 1.2, "scaling": 1.9, "ready_ms": 5},
        "start_behind_gthread_ms": 12.5,
        "rounds": {"waits": {"rmeinheld": [{"recycles": {"longest_ms": 6.25, "failed": {}},
                                            "reloads": {"longest_ms": 7.5, "failed": {"new": 2, "lost": 1}}}]}},
        "medians": {
            "start": {"rmeinheld": {"first_answer_ms": 333.4}, "gthread": {"first_answer_ms": 321}},
            "spread": {"rmeinheld": {"64 kept": 1.03, "new connections": 1.01}},
            "scaling": {"rmeinheld": {"one_per_second": 1000, "two_per_second": 1950}},
            "ready": {"rmeinheld": {"median_ms": 0.061, "worst_ms": 3.2, "probes": 200}},
            "memory": {"rmeinheld": {"master_pss_kib": 12345, "worker_pss_kib": 6789, "worker_resident_kib": 34567}},
        },
    },
    "restarts": {
        "command": ["benches/restarts.py"],
        "machine": {"cpu": "a CPU", "cores": 2, "kernel": "6", "python": "3.13"},
        "versions": {"project": {"rmeinheld": "1", "gunicorn": "27"}, "peers": {"uWSGI": "2", "gunicorn": "27"}},
        "left_out": {"granian": "it has no wheel"},
        "phases": {
            "rmeinheld": [{"name": "reloads", "events": 100, "failed": {},
                           "report": {"answers": {"short": 1000, "long": 20},
                                      "waits_ms": {"longest": 12.3, "p99": 4}}}],
            "uwsgi": [{"name": "reloads", "events": 3, "failed": {"lost": 7}, "report": {}}],
        },
    },
}  # fmt: skip
"""The parts of the two files that the tables show."""

ROWS = {
    "service": [
        "| the same, after that of gthread, ms | 12.5 | - | at most 50 |",
        "| longest wait at SIGHUP, ms | 7.5 | - | at most 50 |",
        "| failed requests at SIGHUP | 3 | - | 0 |",
        "| requests of the busier worker, of the mean: 64 kept connections | 1.03 | - | at most 1.2 |",
        "| requests per second of two workers, of those of one | 1.95 | - | at least 1.9 |",
        "| the slowest of 200, ms | 3.2 | - | at most 5 |",
        "| master, KiB of its own (PSS) | 12,345 | - |  |",
    ],
    "restarts": [
        "| **rmeinheld** | 100 reloads | 1,020 | 0 | 12.3 | 4 |",
        "| uWSGI | 3 reloads | 0 | 7 lost | - | - |",
        "Left out: Granian (ASGI): it has no wheel.",
    ],
}


@pytest.mark.parametrize(("name", "make"), [("service", "services"), ("restarts", "restarts")])
def test_figures_of_services_are_shown_once_they_are_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, make: str
) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs" / "_extensions")
    figures = importlib.import_module("figures")
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    assert getattr(figures, make)().endswith(f"writes `benches/results/{name}.json`.")
    (tmp_path / f"{name}.json").write_text(json.dumps(RESULTS[name]))
    text = getattr(figures, make)()
    for row in ROWS[name]:
        assert row in text


def test_the_api_has_each_public_name_with_its_docstring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs" / "_extensions")
    text = importlib.import_module("api").module("rmeinheld.coroutine")
    for name in importlib.import_module("rmeinheld.coroutine").__all__:
        assert re.search(rf"^:+\{{py:\w+\}} {name}\b", text, re.M), name
    assert "{py:method} join(timeout: float | None=None) -> bool\n" in text
