"""The tools of the measurements: compiled C programs, wrk, and an environment with the peers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

BENCHES = Path(__file__).resolve().parent
BUILD = BENCHES.parent / ".build"
PROGRAMS = BUILD / "bench"
PEERS = BUILD / "bench-peers"
OLD_PEERS = BUILD / "bench-peers-3.8"

C_FLAGS = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", "-pthread"]
INSTALL_SECONDS = 600


class MissingTool(Exception):
    """Something that the benchmark cannot do without; the message says what to install."""


@dataclass(frozen=True)
class Peer:
    """A server from PyPI that rmeinheld is compared with."""

    name: str
    requirements: tuple[str, ...]
    needs: str = ""  # what to install when its build fails
    is_old: bool = False  # whether it needs Python 3.8


# The versions are fixed so that figures can be reproduced.
PEER_PACKAGES = (
    Peer("bjoern", ("bjoern==3.2.2",), "a C compiler, the headers of Python and libev (apt install libev-dev)"),
    # The successor of FastWSGI.
    Peer("fastpysgi", ("fastpysgi==0.6",), "a C compiler and the headers of Python"),
    Peer("granian", ("granian==2.8.7",)),
    Peer("gevent-websocket", ("gevent==26.9.0", "gevent-websocket==0.10.1")),
    # Its speed-ups are in C.
    Peer("websockets", ("websockets==17.4",)),
    Peer("uwsgi", ("gevent==26.9.0", "uwsgi==2.0.31"), "a C compiler and the headers of Python"),
    Peer("gthread", ("gunicorn==27.0.1",)),
    # It is the last version, and does not build on a later Python.
    Peer("meinheld", ("meinheld==1.0.2",), "a C compiler and the headers of Python 3.8", is_old=True),
    Peer("gunicorn-gevent", ("gunicorn[gevent]==27.0.1", "gevent==26.9.0", "redis==8.1.0", "urllib3==2.8.0")),
)

# Packages of the applications, in the peers' environment.
APPLICATION_PACKAGES = ("flask==3.1.3", "django==6.1.3", "psycopg[binary,pool]==3.3.9")
# The last versions for Python 3.8.
OLD_APPLICATION_PACKAGES = ("flask==3.0.3", "django==4.2.16", "psycopg[binary,pool]==3.2.3")


def compile_program(name: str) -> Path:
    """Compile benches/NAME.c and return the program; raises MissingTool without a compiler or when it fails."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise MissingTool("no C compiler: install one (apt install gcc libc6-dev)")
    PROGRAMS.mkdir(parents=True, exist_ok=True)
    program = PROGRAMS / name
    command = [compiler, *C_FLAGS, "-o", str(program), str(BENCHES / f"{name}.c")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise MissingTool(f"{name}.c does not compile:\n{result.stderr}")
    return program


def find_wrk() -> str:
    """Path of wrk; raises MissingTool without it."""
    wrk = shutil.which("wrk")
    if wrk is None:
        raise MissingTool("wrk, the load generator, is missing: install it (apt install wrk)")
    return wrk


def peers_python(*, is_old: bool = False) -> Path:
    """The interpreter of the peers' environment, or of that with Python 3.8."""
    return (OLD_PEERS if is_old else PEERS) / "bin" / "python"


def _old_python() -> str | None:
    """A Python 3.8: on PATH, or of pyenv."""
    places = [shutil.which("python3.8"), *map(str, Path.home().glob(".pyenv/versions/3.8.*/bin/python3.8"))]
    for place in filter(None, places):
        # pyenv has programs of this name that only print which versions exist.
        if subprocess.run([place, "-c", ""], capture_output=True, check=False).returncode == 0:
            return place
    return None


def _make_environment() -> None:
    """Create the peers' environment for the running interpreter, anew if it belongs to another one."""
    mark = PEERS / "made-for.txt"
    made_for = f"{sys.version}\n{sys.base_prefix}\n"
    if mark.exists() and mark.read_text() == made_for:
        return
    if PEERS.exists():
        shutil.rmtree(PEERS)
    subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
    mark.write_text(made_for)


def install_peers(names: list[str]) -> dict[str, str]:
    """Install the named peers; returns for each that could not be installed the reason, in one line."""
    left_out: dict[str, str] = {}
    if not names:
        return left_out
    _make_environment()
    for peer in PEER_PACKAGES:
        if peer.name not in names:
            continue
        if peer.is_old and not peers_python(is_old=True).exists():
            if (old_python := _old_python()) is None:
                left_out[peer.name] = "there is no Python 3.8, the last one that it supports"
                continue
            subprocess.run([old_python, "-m", "venv", str(OLD_PEERS)], check=True)
        packages = OLD_APPLICATION_PACKAGES if peer.is_old else APPLICATION_PACKAGES
        command = [
            str(peers_python(is_old=peer.is_old)),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
        try:
            result = subprocess.run(
                [*command, *peer.requirements, *packages],
                capture_output=True,
                text=True,
                timeout=INSTALL_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            left_out[peer.name] = f"pip did not finish within {INSTALL_SECONDS} s"
            continue
        if result.returncode != 0:
            PROGRAMS.mkdir(parents=True, exist_ok=True)
            log = PROGRAMS / f"pip-{peer.name}.log"
            log.write_text(result.stdout + result.stderr)
            hint = f"; it needs {peer.needs}" if peer.needs else ""
            left_out[peer.name] = f"pip could not install {' '.join(peer.requirements)}{hint} (see {log.name})"
    return left_out


def _list_packages(python: str) -> dict[str, str]:
    """Name and version of each package that an interpreter sees."""
    script = (
        "import importlib.metadata as m, json; "
        "print(json.dumps({d.metadata['Name']: d.version for d in m.distributions()}))"
    )
    result = subprocess.run([python, "-c", script], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        return {}
    packages: dict[str, str] = json.loads(result.stdout)
    return dict(sorted(packages.items()))


def versions() -> dict[str, dict[str, str]]:
    """Every package of the two environments."""
    found = {"project": _list_packages(sys.executable)}
    if peers_python().exists():
        found["peers"] = _list_packages(str(peers_python()))
    if peers_python(is_old=True).exists():
        found["peers-3.8"] = _list_packages(str(peers_python(is_old=True)))
    return found
