"""The wheel and the source distribution, each installed into an empty environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import textwrap
import tomllib
import zipfile
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from rmeinheld.gunicorn_worker.application import OLDEST, TOO_NEW

from pages import PROJECT_URL

ROOT = Path(__file__).resolve().parents[2]
BUILD = (ROOT / os.environ.get("BUILD", ".build")).resolve() / f"packaging-{sys.version_info[0]}.{sys.version_info[1]}"
"""Kept between runs, so that cargo compiles again only what changed."""

TARGET = os.environ.get("CARGO_TARGET_DIR", str(BUILD / "target"))
"""Under `make test` the one that the package was just built in: then only the crate itself is compiled again."""

NOT_SOURCE = shutil.ignore_patterns(
    ".git", ".build", "build", "dist", "target", "*.egg-info", "__pycache__", "*.so", ".*_cache", ".hypothesis", ".venv"
)

# No compilation of the crate takes this long; a build that hangs has to end.
pytestmark = [pytest.mark.packaging, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Wheel:
    """A built wheel, and what the build printed."""

    path: Path
    log: str

    def metadata(self) -> Message:
        return Parser().parsestr(self.read("METADATA"))

    def read(self, name: str) -> str:
        """A file of its .dist-info directory."""
        with zipfile.ZipFile(self.path) as archive:
            (member,) = (member for member in archive.namelist() if member.endswith(f".dist-info/{name}"))
            return archive.read(member).decode()


def output_of(*command: str | Path, directory: Path = ROOT) -> str:
    """Both output streams of a command. AssertionError with the output if the command fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    # PIP_VERBOSE shows what cargo says.
    environment |= {"CARGO_TARGET_DIR": TARGET, "PYO3_PYTHON": sys.executable, "PIP_VERBOSE": "1"}
    ended = subprocess.run(
        command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def build_wheel(source: Path, name: str) -> Wheel:
    directory = BUILD / name
    shutil.rmtree(directory, ignore_errors=True)
    pip = (sys.executable, "-m", "pip", "wheel")
    log = output_of(*pip, "--no-build-isolation", "--no-deps", "--wheel-dir", directory, ".", directory=source)
    (path,) = directory.glob("*.whl")
    return Wheel(path, log)


@pytest.fixture(scope="module")
def checkout() -> Path:
    """A copy of the repository without what builds leave in it."""
    copy = BUILD / "checkout"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(ROOT, copy, ignore=NOT_SOURCE)
    return copy


@pytest.fixture(scope="module")
def sdist(checkout: Path) -> Path:
    """The source distribution, built from the checkout."""
    directory = BUILD / "sdist"
    shutil.rmtree(directory, ignore_errors=True)
    output_of(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", directory, directory=checkout)
    (path,) = directory.glob("*.tar.gz")
    return path


@pytest.fixture(scope="module")
def unpacked(sdist: Path) -> Path:
    """The unpacked source distribution."""
    directory = BUILD / "unpacked"
    shutil.rmtree(directory, ignore_errors=True)
    with tarfile.open(sdist) as archive:
        archive.extractall(directory, filter="data")
    (top,) = directory.iterdir()
    return top


@pytest.fixture(scope="module")
def wheels(checkout: Path, unpacked: Path) -> dict[str, Wheel]:
    """The wheel of the checkout, and that of the source distribution."""
    return {"checkout": build_wheel(checkout, "wheel"), "sdist": build_wheel(unpacked, "wheel-of-sdist")}


@pytest.fixture(params=["checkout", "sdist"])
def wheel(request: pytest.FixtureRequest, wheels: dict[str, Wheel]) -> Wheel:
    return wheels[request.param]


@pytest.fixture
def installed(wheel: Wheel, tmp_path: Path) -> Path:
    """The Python of an environment with nothing in it but the wheel: one worker needs no other package."""
    environment = tmp_path / "environment"
    output_of(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin" / "python"
    output_of(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--no-index",
        "--no-deps",
        wheel.path,
        directory=tmp_path,
    )
    return python


def test_every_package_is_installed() -> None:
    """The list of packages is written by hand, and a package that it lacks is missed by users alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    directories = [path.parent.relative_to(ROOT / "python") for path in (ROOT / "python").rglob("__init__.py")]
    packages = {".".join(directory.parts) for directory in directories}
    assert set(project["tool"]["setuptools"]["packages"]) == packages | {"rmeinheld.gunicorn_worker"}


def test_the_wheel_requires_the_versions_of_gunicorn_whose_arbiter_is_known(wheel: Wheel) -> None:
    (requirement,) = [one for one in wheel.metadata().get_all("Requires-Dist", []) if "extra ==" not in one]
    assert requirement.replace(" ", "") in {
        "gunicorn<{1},>={0[0]}.{0[1]}".format(OLDEST, *TOO_NEW),
        "gunicorn>={0[0]}.{0[1]},<{1}".format(OLDEST, *TOO_NEW),
    }


def test_the_wheel_has_the_extra_that_messages_name(wheel: Wheel) -> None:
    assert wheel.metadata().get_all("Provides-Extra") == ["otlp"]
    (requirement,) = [one for one in wheel.metadata().get_all("Requires-Dist", []) if "extra ==" in one]
    assert re.fullmatch(r"""opentelemetry-exporter-otlp-proto-http>=[\d.]+; extra == ["']otlp["']""", requirement)


def test_an_installed_wheel_imports(installed: Path, tmp_path: Path) -> None:
    script = """
        import importlib.util, inspect
        import rmeinheld, rmeinheld._rmeinheld, rmeinheld.gunicorn_worker

        assert inspect.isclass(rmeinheld.gunicorn_worker.Worker)
        assert rmeinheld.gunicorn_worker.__name__ == "rmeinheld.gunicorn_worker"
        assert importlib.util.find_spec("gunicorn_worker") is None
        print(rmeinheld.__version__, rmeinheld._rmeinheld.__version__)
    """
    # -I keeps the current directory off sys.path, where gunicorn_worker/ of the repository could lie.
    printed = output_of(installed, "-I", "-c", textwrap.dedent(script), directory=tmp_path)
    assert printed.split() == [version(), version()]


def test_the_console_script_runs(installed: Path, tmp_path: Path) -> None:
    assert version() in output_of(installed.with_name("rmeinheld"), "--version", directory=tmp_path)


def test_the_extension_is_the_release_build(wheel: Wheel) -> None:
    assert "Finished `release` profile [optimized" in wheel.log
    assert "profile [unoptimized" not in wheel.log


def test_the_extension_is_optimised_by_the_profile(wheel: Wheel) -> None:
    (profile,) = (ROOT / "src").glob("*.profdata")
    assert f"-Cprofile-use=src/{profile.name}" in wheel.log


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Wheel) -> None:
    python = {path.relative_to(ROOT / "python").as_posix() for path in (ROOT / "python" / "rmeinheld").rglob("*.py*")}
    worker = {f"rmeinheld/gunicorn_worker/{path.name}" for path in (ROOT / "gunicorn_worker").glob("*.py")}
    expected = {name for name in python if not name.endswith(".pyc")} | worker | {"rmeinheld/py.typed"}
    assert {"rmeinheld/_rmeinheld.pyi", "rmeinheld/gunicorn_worker/worker.py"} <= expected
    with zipfile.ZipFile(wheel.path) as archive:
        members = {name for name in archive.namelist() if ".dist-info/" not in name}
    extensions = {name for name in members if name.endswith(".so")}
    assert [name.split(".")[0] for name in extensions] == ["rmeinheld/_rmeinheld"]
    assert members - extensions == expected


def test_the_wheel_says_what_it_is(wheel: Wheel) -> None:
    metadata = wheel.metadata()
    assert metadata["Name"] == "rmeinheld"
    assert metadata["Version"] == version()
    assert set(metadata["Requires-Python"].split(",")) == {">=3.12", "<3.16"}
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata["License-File"] == "LICENSE"
    # README.md links to this address, and test_docs.py holds it to that.
    assert metadata.get_all("Project-URL") == [f"Source, {PROJECT_URL}"]
    entry_points = wheel.read("entry_points.txt")
    assert "rmeinheld = rmeinheld.__main__:main" in entry_points
    assert "gunicorn_worker = rmeinheld.gunicorn_worker:Worker" in entry_points


def test_the_sdist_holds_the_sources_and_nothing_built(sdist: Path, checkout: Path) -> None:
    with tarfile.open(sdist) as archive:
        members = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"Cargo.toml", "Cargo.lock", "pyproject.toml", "Makefile", "README.md", "CHANGELOG.md", "LICENSE"}
    for directory in ("src", "python", "gunicorn_worker", "tests", ".ci"):
        files = (path for path in (checkout / directory).rglob("*") if path.is_file())
        needed |= {path.relative_to(checkout).as_posix() for path in files}
    needed = {name for name in needed if ".egg-info/" not in name}
    assert needed - members == set()
    assert [name for name in members if name.endswith((".so", ".pyc", ".o", ".rlib"))] == []


def version() -> str:
    """The version in Cargo.toml, which pyproject.toml has to repeat."""
    versions = {
        tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"],
        tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"],
    }
    (only,) = versions
    return str(only)
