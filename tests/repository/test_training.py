"""The profile of the release build: which compiler makes it, and what is said if another one builds."""

from __future__ import annotations

import importlib.util
import re
import stat
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
OLDEST = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["rust-version"]


def loaded(path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script as a module."""
    monkeypatch.syspath_prepend(str(path.parent))
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, path.stem, module)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return loaded(ROOT / "benches" / "training.py", monkeypatch)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return loaded(ROOT / ".ci" / "install.py", monkeypatch)


def program(directory: Path, name: str, text: str) -> None:
    """A program that prints a text, whatever it is asked."""
    path = directory / name
    path.write_text(f"#!/bin/sh\necho '{text}'\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def profile_version() -> str:
    (profile,) = (ROOT / "src").glob("*.profdata")
    return profile.stem.removeprefix("rustc-")


def test_the_build_has_the_profile_of_the_oldest_compiler() -> None:
    flags = re.findall(r"-Cprofile-use=(\S+?)\"", (ROOT / "pyproject.toml").read_text())
    assert flags == [f"src/rustc-{profile_version()}.profdata"]
    assert f"{profile_version()}.".startswith(f"{OLDEST}.")


def test_a_newer_compiler_makes_no_profile(
    training: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    program(tmp_path, "rustc", "rustc 9.9.1 (0123 2030-01-01)")
    with pytest.raises(training.MissingTool, match=rf"rustc is 9\.9\.1, and rust-version in Cargo\.toml {OLDEST},"):
        training.oldest_rustc()


@pytest.mark.parametrize(("version", "fits"), [("19.1.7", False), ("22.1.2", True), ("23.0.0", True)])
def test_the_tool_for_profiles_is_not_older_than_the_compiler(
    training: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, fits: bool
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    program(tmp_path, "rustc", "LLVM version: 22.1.2")
    program(tmp_path, "llvm-profdata", f"LLVM version {version}")
    if fits:
        assert training.find_profdata() == str(tmp_path / "llvm-profdata")
    else:
        with pytest.raises(training.MissingTool, match="no llvm-profdata of LLVM 22 or newer: rustup component add"):
            training.find_profdata()


def test_a_build_without_the_profile_says_so(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    program(tmp_path, "rustc", f"rustc {profile_version()} (0123 2030-01-01)")
    assert install.profile_notice() == ""
    program(tmp_path, "rustc", "rustc 9.9.1 (0123 2030-01-01)")
    assert install.profile_notice().startswith(
        f"rustc 9.9.1 cannot use the profile of rustc {profile_version()} in src/"
    )


def test_a_build_counts_the_functions_that_have_changed_since_the_profile(install: ModuleType) -> None:
    line = (
        "  warning: _rmeinheld.2fc4-cgu.0: function control flow change detected (hash mismatch) {} Hash = 8 up to 2\n"
    )
    assert install.changed_functions([line.format(name) for name in ("_ZN4read", "_ZN4take", "_ZN4read")]) == 2
    assert install.changed_functions(["   Compiling rmeinheld v0.1.0\n"]) == 0
