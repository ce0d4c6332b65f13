"""Train the profile by which the compiler optimises release builds, and write it to src/.

    make profile    # builds the server with counters in it, and runs this

The server counts how often each branch of its code is taken. Meanwhile it does what servers do: the loads of the
benchmark, WebSockets and waits between coroutines. Each takes a second or a few, and none outweighs the others. A build
with `-C profile-use`, which pyproject.toml asks for, then has the usual path of each function in one piece, and knows
which calls are worth inlining.

A profile names functions as this very compiler names them, with these features and versions of all crates. The name of
the file says which rustc made it, and `make build` says if another one builds without it. A change of Cargo.lock makes
a new profile necessary. A function that was changed since has none. `make gauge` tells: the rows take a tenth more
instructions.

A compiler reads the profiles of older ones, not those of newer ones. The oldest that is supported makes it, which is
`rust-version` in Cargo.toml. `llvm-profdata` has to be of LLVM's version in rustc or newer. `rustup component add
llvm-tools` brings it, or a distribution's package.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from load import Load, run_rate_client
from loads import ARENA, ARENA_BODY, BODIES, COLD, FRAMEWORKS, get, write_arena_data
from machine import choose_cores, pinned_to, raise_open_files_limit
from servers import RMEINHELD, Running, Task, running_server
from toolchain import BENCHES, MissingTool, compile_program

ROOT = BENCHES.parent
SOURCES = ROOT / "src"
PROJECT = ROOT / "pyproject.toml"
SECONDS = 1.0
FRAMEWORK_SECONDS = 4.0
"""A framework answers fewer requests in a second, and none of the server's code may look rare for that."""

HELLO = {
    "hello_c1": Load((get("/"),), 1),
    "hello_c64": Load((get("/"),), 64),
    "hello_fields": Load((get("/?a=1", "User-Agent: Mozilla/5.0\r\nAccept: */*\r\nAccept-Language: en\r\n"),), 64),
    **COLD,
}
LOADS: tuple[tuple[Task, dict[str, Load], float], ...] = (
    (Task(), HELLO, SECONDS),
    (Task("no_length"), {"no_length": Load((get("/"),), 64)}, SECONDS),
    (Task("parked", asleep_at_once=64), {"parked": Load((get("/"),), 64)}, SECONDS),
    (Task("bodies"), BODIES, SECONDS),
    (Task("arena.app:app", ("/pipeline", b"ok"), longest_body=ARENA_BODY), ARENA, SECONDS),
    *((Task(app), loads, FRAMEWORK_SECONDS) for app, loads in FRAMEWORKS.items()),
)
WEBSOCKETS = (("echo", 1, 1), ("echo", 64, 2), ("broadcast", 500, 200))
"""Tasks for the client of WebSockets: the connections, and the seconds or rounds."""

WAITS = {"echo": 20_000, "lock": 20_000, "event": 20_000, "queue": 20_000, "spawn": 10_000}


def rustc(*options: str) -> str:
    """The answer of rustc about itself."""
    return subprocess.run(["rustc", *options], capture_output=True, text=True, check=True).stdout.strip()


def oldest_rustc() -> str:
    """The version of rustc; raises MissingTool if it is not the oldest that may build the server."""
    version = rustc("--version").split()[1]
    oldest: str = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["rust-version"]
    if not f"{version}.".startswith(f"{oldest}."):
        message = f"rustc is {version}, and rust-version in Cargo.toml {oldest}, which could not read its profile: "
        raise MissingTool(message + f"take {oldest} (rustup), or raise rust-version")
    return version


def find_profdata() -> str:
    """The program `llvm-profdata` of rustc's LLVM or a newer one; raises MissingTool without it."""
    needed = int(rustc("-vV").rpartition("LLVM version: ")[2].partition(".")[0])
    names = ["llvm-profdata", *(f"llvm-profdata-{number}" for number in range(needed, needed + 5))]
    own = Path(rustc("--print", "sysroot")).glob("lib/rustlib/*/bin/llvm-profdata")
    for place in [*map(str, own), *filter(None, map(shutil.which, names))]:
        told = subprocess.run([place, "--version"], capture_output=True, text=True, check=False).stdout
        if (found := re.search(r"LLVM version (\d+)", told)) and int(found[1]) >= needed:
            return place
    message = (
        f"no llvm-profdata of LLVM {needed} or newer: rustup component add llvm-tools, or apt install llvm-{needed}"
    )
    raise MissingTool(message)


def use_websockets(server: Running, client: Path, core: int) -> None:
    """Messages to and fro, and one to all."""
    for what, connections, amount in WEBSOCKETS:
        command = [str(client), what, str(server.port), str(connections), str(amount)]
        with pinned_to(core):
            result = subprocess.run(command, input="go\n", capture_output=True, text=True, timeout=60, check=True)
        print(f"  {what}, {connections} connections: {result.stdout.splitlines()[-1]}", file=sys.stderr)


def train(core: int, client_core: int) -> None:
    """Run the server under each load."""
    rate_client, websocket_client = compile_program("rate_client"), compile_program("websocket_client")
    for task, loads, seconds in LOADS:
        with running_server(RMEINHELD, task, core) as server:
            for name, load in loads.items():
                figures = run_rate_client(rate_client, load, server.port, seconds, client_core)
                print(f"  {name}: {json.dumps(figures)}", file=sys.stderr)
    task = Task("websocket_apps:app")
    with running_server(RMEINHELD, task, core) as server:
        use_websockets(server, websocket_client, client_core)
    with pinned_to(core):
        for what, count in WAITS.items():
            script = [sys.executable, str(BENCHES / "cooperation_tasks.py"), "rmeinheld", what, str(count)]
            subprocess.run(script, stdout=subprocess.DEVNULL, timeout=120, check=True)


@contextmanager
def counted(directory: Path) -> Iterator[None]:
    """Processes that end inside the block leave their counts in the directory."""
    os.environ["LLVM_PROFILE_FILE"] = str(directory / "%m.profraw")
    try:
        yield
    finally:
        del os.environ["LLVM_PROFILE_FILE"]


def main() -> int:
    """Train, and replace the profile."""
    raise_open_files_limit()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_arena_data(directory / "arena")
        try:
            version, profdata = oldest_rustc(), find_profdata()
            with counted(directory):
                train(*choose_cores())
        except MissingTool as error:
            sys.exit(str(error))
        counts = sorted(directory.glob("*.profraw"))
        if not counts:
            sys.exit("the server counted nothing: is it the build of `make profile`?")
        for old in SOURCES.glob("rustc-*.profdata"):
            old.unlink()
        profile = SOURCES / f"rustc-{version}.profdata"
        subprocess.run([profdata, "merge", "--sparse", "--output", str(profile), *map(str, counts)], check=True)
    text, changes = re.subn(r"-Cprofile-use=[^\"]*", f"-Cprofile-use=src/{profile.name}", PROJECT.read_text())
    if changes != 1:
        sys.exit("pyproject.toml has no -Cprofile-use to change")
    PROJECT.write_text(text)
    print(f"{profile.relative_to(ROOT)}: {profile.stat().st_size // 1024} KiB", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
