"""The command line with its sources: what it prints, what it refuses to serve, and patching before the import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving import environment_of_child

APPLICATIONS = """
import functools
from rmeinheld.patch import is_patched

patched = is_patched("time")

def app(environ, start_response):
    start_response("200 OK", [])
    return []

class WSGIClass:
    def __init__(self, environ, start_response): ...
    def __iter__(self): ...

class Instance:
    def __call__(self, environ, start_response, *more): ...

class ASGIInstance:
    async def __call__(self, scope, receive, send): ...

class Framework(ASGIInstance):
    pass

async def asgi(scope, receive, send): ...

def asgi_by_hand(scope, receive, send): ...

def asgi_2(scope): ...

def create_app(config=None):
    return app

def make_site(name="shop", debug=False):
    return app

def wants_name(name):
    return app

def wrapper(function):
    @functools.wraps(function)
    def wrapped(*arguments):
        return function(*arguments)
    return wrapped

instance, asgi_instance, framework = Instance(), ASGIInstance(), Framework()
partial, asgi_partial = functools.partial(lambda a, environ, start_response: [], 1), functools.partial(asgi)
decorated, decorated_factory = wrapper(app), wrapper(create_app)
either = lambda environ=None, start_response=None: []
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the commands run."""
    (tmp_path / "shop.py").write_text(APPLICATIONS)
    return tmp_path


def command(directory: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rmeinheld", *arguments],
        cwd=directory,
        env=environment_of_child(directory) | environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


# --- applications ----------------------------------------------------------------------------------------------------

GOOD = ["app", "WSGIClass", "instance", "partial", "decorated", "decorated_factory", "either", "create_app()"]

ASGI = "is an ASGI application; wrap it with a2wsgi: a2wsgi.ASGIMiddleware(app)"
FACTORY = "does not take environ and start_response, so it may be a factory; did you mean "

BAD = {
    "asgi": ASGI,
    "asgi_instance": ASGI,
    "framework": ASGI,
    "asgi_partial": ASGI,
    "asgi_by_hand": ASGI,
    "asgi_2": ASGI,
    "create_app": FACTORY + "'shop:create_app()'?",
    "make_site": FACTORY + "'shop:make_site()'?",
    "wants_name": FACTORY + "'shop:wants_name(name=...)'?",
    "patched": "must be a callable as PEP 3333 has it, not bool False",
}


def test_an_application_is_accepted_or_refused_with_the_cure(directory: Path) -> None:
    # One process for all applications, because each start takes a while.
    (directory / "check.py").write_text(
        """
import json, sys
from rmeinheld.application import StartError, load_application
answers = {}
for name in json.loads(sys.argv[1]):
    try:
        load_application(f"shop:{name}")
        answers[name] = ""
    except StartError as error:
        answers[name] = str(error)
print(json.dumps(answers))
"""
    )
    ended = subprocess.run(
        [sys.executable, "check.py", json.dumps([*GOOD, *BAD])],
        cwd=directory,
        env=environment_of_child(directory),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    answers = json.loads(ended.stdout)
    assert {name: answers[name] for name in GOOD} == dict.fromkeys(GOOD, "")
    assert {name: answers[name] for name in BAD} == {
        name: f"application 'shop:{name}' {cure}" for name, cure in BAD.items()
    }


def test_an_asgi_application_of_django_is_recognised(directory: Path) -> None:
    pytest.importorskip("django")
    (directory / "site_of_asgi.py").write_text(
        "import django.conf\ndjango.conf.settings.configure()\n"
        "from django.core.asgi import get_asgi_application\napplication = get_asgi_application()\n"
    )
    ended = command(directory, "--check-config", "site_of_asgi")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert f"application 'site_of_asgi:application' {ASGI}" in ended.stderr


@pytest.mark.parametrize("workers", [(), ("--workers", "2", "--preload")])
def test_check_config_refuses_an_application_under_workers_too(directory: Path, workers: tuple[str, ...]) -> None:
    if workers:
        pytest.importorskip("gunicorn")
    ended = command(directory, "--check-config", *workers, "shop:create_app")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"rmeinheld: error: application 'shop:create_app' {BAD['create_app']}\n"
    ended = command(directory, "--check-config", *workers, "shop")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "rmeinheld: shop and its options are in order\n", "")


# --- the configuration -----------------------------------------------------------------------------------------------


def test_print_config_needs_no_application_and_starts_nothing(directory: Path) -> None:
    (directory / "rmeinheld.toml").write_text("backlog = 5\n")
    ended = command(directory, "--print-config", RMEINHELD_KEEP_ALIVE="3")
    assert (ended.returncode, ended.stderr) == (0, "")
    rows = {line.split()[0]: line.split()[1:] for line in ended.stdout.splitlines() if line}
    assert rows["backlog"] == ["5", "rmeinheld.toml:", "backlog"]
    assert rows["keep_alive"] == ["3", "RMEINHELD_KEEP_ALIVE"]
    assert ended.stdout.endswith("\nOne process serves, without Gunicorn.\n")


def test_print_config_may_be_read_in_part(directory: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as closed:
        arguments = [sys.executable, "-m", "rmeinheld", "--print-config"]
        ended = subprocess.run(
            arguments,
            cwd=directory,
            env=environment_of_child(directory),
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_an_error_of_a_python_file_shows_its_traceback(directory: Path) -> None:
    (directory / "gunicorn.conf.py").write_text("import os\nworkers = int('two')\n")
    ended = command(directory, "-c", "gunicorn.conf.py", "shop")
    assert ended.returncode == 1
    assert "workers = int('two')" in ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert (
        last == "rmeinheld: error: gunicorn.conf.py failed: ValueError: invalid literal for int() with base 10: 'two'"
    )


@pytest.mark.parametrize(
    ("arguments", "environ", "patched"),
    [((), {}, True), (("--no-patch",), {}, False), ((), {"RMEINHELD_PATCH": "0"}, False)],
)
def test_the_standard_library_is_patched_before_the_import_unless_that_is_forbidden(
    directory: Path, arguments: tuple[str, ...], environ: dict[str, str], patched: bool
) -> None:
    (directory / "says.py").write_text("import shop\nprint(shop.patched, flush=True)\nfrom shop import app\n")
    ended = command(directory, "--check-config", *arguments, "says", **environ)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[0] == str(patched)
