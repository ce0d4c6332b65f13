"""Install the package into the virtual environment of the interpreter that runs this script.

    python .ci/install.py                as a user has it: the release profile, by pip
    python .ci/install.py --wheel DIR    a wheel into DIR, installed nowhere
    python .ci/install.py --dev DIR      for editing: the profile dev-fast, and links to the sources in DIR
    python .ci/install.py --counting DIR for benches/training.py: counts its branches, links in DIR, installed nowhere

pip hides the output of cargo, and a release build takes more than a minute, so the first form shows which crate cargo
compiles. Builds for several Pythons may run side by side: each has a directory of its own for what setuptools copies.
The form with --dev makes DIR/rmeinheld, whose files are links, and names DIR in a .pth file. Python code takes
effect without another call. A changed Rust file takes one, which is an incremental build.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SITE = Path(sysconfig.get_path("purelib"))
SCRIPTS = Path(sysconfig.get_path("scripts"))
LINK = SITE / "rmeinheld-dev.pth"
PACKAGES = {"": "python/rmeinheld", "gunicorn_worker": "gunicorn_worker"}


def install(wheels: Path | None) -> int:
    """Build the wheel, and install it unless it goes to `wheels`. The output is printed only if that fails."""
    if notice := profile_notice():
        print(notice, file=sys.stderr)
    pip = [sys.executable, "-m", "pip", "--verbose"]
    if wheels is None:
        unlink()
        command = [*pip, "install", "--no-build-isolation", "--no-deps", "--force-reinstall", "."]
    else:
        shutil.rmtree(wheels, ignore_errors=True)
        command = [*pip, "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", str(wheels), "."]
    with tempfile.TemporaryDirectory() as scratch:
        # setuptools copies into its build directory and never removes from it, so the directory must not survive.
        configuration = Path(scratch) / "setup.cfg"
        configuration.write_text(f"[build]\nbuild_base = {scratch}/build\n[egg_info]\negg_base = {scratch}\n")
        return run(command, os.environ | {"DIST_EXTRA_CONFIG": str(configuration)})


def profile_notice() -> str:
    """A line for the user if rustc is not the one that made the profile of usual branches; empty if it is."""
    (made,) = (path.stem.removeprefix("rustc-") for path in (ROOT / "src").glob("rustc-*.profdata"))
    words = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.split()
    if words[1] == made:
        return ""
    return f"rustc {words[1]} cannot use the profile of rustc {made} in src/: this build takes some hundredths more CPU"


def run(command: list[str], environment: dict[str, str]) -> int:
    """Run pip, and show which crates cargo compiles."""
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    output = []
    started = time.monotonic()
    count = 0
    for line in process.stdout:
        output.append(line)
        if found := re.match(r"\s*Compiling (\S+)", line):
            count += 1
            show(f"cargo: {count} crates, now {found[1]} ({time.monotonic() - started:.0f} s)")
            if found[1] == "rmeinheld":
                show("cargo: rmeinheld itself; an optimised build takes about a minute", "\n")
    if count:
        show(f"cargo: done after {time.monotonic() - started:.0f} s", "\n")
    if status := process.wait():
        print(*output, sep="", end="", file=sys.stderr)
    if changed := changed_functions(output):
        print(
            f"cargo: {changed} functions have changed since `make profile`, and are compiled without it",
            file=sys.stderr,
        )
    return status


def changed_functions(output: list[str]) -> int:
    """The number of functions that rustc found changed since their branches were counted."""
    return len({found[1] for line in output if (found := re.search(r"\(hash mismatch\) (\S+)", line))})


def show(text: str, end: str = "") -> None:
    """Progress: over the line before on a terminal, else a line for each crate that takes long."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end=end, file=sys.stderr, flush=True)
    elif end:
        print(text, file=sys.stderr, flush=True)


def develop(directory: Path) -> int:
    """Build incrementally, and let the environment import the sources."""
    status = build_linked(directory, ["--profile", "dev-fast"])
    if status == 0 and not LINK.exists():
        link(directory.resolve())
    return status


def build_linked(directory: Path, arguments: list[str]) -> int:
    """Build the extension module by cargo alone, and put it into DIR/rmeinheld with links to the Python sources."""
    target = Path(os.environ["CARGO_TARGET_DIR"])
    command = ["cargo", "rustc", "--locked", "--lib", "--crate-type", "cdylib", *arguments]
    status = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYO3_BUILD_EXTENSION_MODULE": "1"}).returncode
    if status:
        return status
    package = directory.resolve() / "rmeinheld"
    package.mkdir(parents=True, exist_ok=True)
    for path in package.iterdir():
        if path.is_symlink():
            path.unlink()
    for name, source in PACKAGES.items():
        if name:
            (package / name).symlink_to(ROOT / source)
            continue
        for path in (ROOT / source).iterdir():
            if path.suffix != ".so" and path.name != "__pycache__":
                (package / path.name).symlink_to(path)
    # A running server keeps the old file.
    shutil.copy2(target / arguments[1] / "lib_rmeinheld.so", package / ".new.so")
    (package / ".new.so").replace(package / "_rmeinheld.so")
    return 0


def link(directory: Path) -> None:
    """Replace the installed package by a path, with the metadata and the command that pip would have written."""
    if (SITE / "rmeinheld").exists():
        subprocess.run([sys.executable, "-m", "pip", "uninstall", "--quiet", "--yes", "rmeinheld"], check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    name, version = project["name"], project["version"]
    metadata = directory / f"{name}-{version}.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    groups = {"console_scripts": project["scripts"], **project["entry-points"]}
    lines = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in rows.items()) for group, rows in groups.items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    for script, target in project["scripts"].items():
        module, _, function = target.partition(":")
        text = f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
        (SCRIPTS / script).write_text(text)
        (SCRIPTS / script).chmod(0o755)
    LINK.write_text(f"{directory}\n")


def unlink() -> None:
    """Take the path away; pip takes the rest."""
    if LINK.exists():
        LINK.unlink()
        (SCRIPTS / "rmeinheld").unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dev", type=Path, metavar="DIR", help="install for editing, with links in DIR")
    parser.add_argument("--wheel", type=Path, metavar="DIR", help="put a wheel into DIR instead of installing it")
    parser.add_argument("--counting", type=Path, metavar="DIR", help="make a server in DIR that counts its branches")
    arguments = parser.parse_args()
    if arguments.dev is not None:
        return develop(arguments.dev)
    if arguments.counting is not None:
        # The names of functions depend on the features of the dependencies, and setuptools-rust asks for this one.
        features = ["--features", "pyo3/extension-module"]
        return build_linked(arguments.counting, ["--profile", "release", *features, "--", "-Cprofile-generate"])
    return install(arguments.wheel)


if __name__ == "__main__":
    sys.exit(main())
