"""The rules of the source tree that no compiler checks: the order of the layers, `may` and `unsafe`, the size of files.

Every rule is a function from source text to complaints, and is first shown to complain.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from rust_source import (
    code_lines,
    code_of,
    is_test_file,
    line_of,
    module_of,
    named_from_root,
    sources_under,
    without_tests,
)

ROOT = Path(__file__).resolve().parents[2]

LAYERS = (
    ("sync", "kernel"),
    ("output",),
    ("coroutine",),
    ("event_loop",),
    ("net", "http"),
    ("interp", "websocket", "crew"),
    ("wsgi", "cooperative"),
    ("server",),
    ("api",),
)
"""From the bottom to the top. A layer may name itself and the layers in lower rows, but no other layer of its own
row."""

RANKS = {layer: rank for rank, row in enumerate(LAYERS) for layer in row}

HTTP_CRATES = {"httparse", "memchr"}
"""The crates that `http` may use, apart from std. It turns bytes into events and knows neither sockets nor Python."""

WEBSOCKET_CRATES = {"base64", "flate2", "sha1", "tungstenite"}
"""The further crates of `websocket`."""

MAY = {
    "may::config",
    "may::coroutine::Builder",
    "may::coroutine::yield_now",
    "may::sync::Blocker",
}
"""All that is used of `may`: its timed waits resume a coroutine on its timer thread; its cancelling unwinds Python."""

MAY_METHODS = ("cancel", "unsafe_cancel", "park_timeout", "wait_timeout", "recv_timeout", "set_timeout_ns")
"""Methods of `may`'s types that cancel or wait with a time limit."""

UNSAFE_DOORS = {
    "src/coroutine/mod.rs": "may marks spawn as unsafe",
    "src/coroutine/guard.rs": "guards within a mapping, by madvise(2)",
    "src/coroutine/parking.rs": "memory of a stack, by madvise(2)",
    "src/coroutine/overflow.rs": "signal handlers and alternate stacks",
    "src/coroutine/room.rs": "mmap(2), to see whether a stack can be had",
    "src/cooperative/builtin.rs": "built-in functions that call Python ones",
    "src/cooperative/native/call.rs": "functions of CPython's, called by their pointers",
    "src/cooperative/native/method.rs": "methods of CPython's locks, exchanged in place",
    "src/cooperative/classes.rs": "attributes of classes in C",
    "src/cooperative/socket_fields.rs": "two fields of socket.socket",
    "src/cooperative/file_methods.rs": "methods in C of buffered files",
    "src/crew/scoreboard/mapping.rs": "mmap(2), and memory that other processes write",
    "src/crew/seat.rs": "a slot of the scoreboard",
    "src/event_loop/leader.rs": "may asks for Send of what never leaves the thread",
    "src/interp/asynchronous.rs": "exceptions of thread states that compute",
    "src/interp/context.rs": "entering a context of contextvars",
    "src/interp/exit.rs": "std has no _exit(2)",
    "src/interp/few_frames.rs": "the memory for frames in CPython's structures",
    "src/interp/frame_memory.rs": "an allocator of CPython's",
    "src/interp/identity.rs": "the number that CPython knows a thread state by",
    "src/interp/inspection.rs": "frames of other thread states",
    "src/interp/lent.rs": "memory that Python objects lend",
    "src/interp/new_bytes.rs": "bytes objects that are written before Python sees them",
    "src/interp/on_thread.rs": "calls that the end of the interpreter may unwind",
    "src/interp/recursion.rs": "the recursion counters in CPython's structures",
    "src/interp/references.rs": "the count of references to an object",
    "src/interp/stack_signals.rs": "sigaction(2) and tgkill(2)",
    "src/interp/subject.rs": "objects noted by their addresses",
    "src/interp/thread_state.rs": "making, attaching and ending thread states",
    "src/kernel/free_memory.rs": "the allocator of the C library, which rustix does not wrap",
    "src/kernel/lent_descriptor.rs": "descriptors that the application names by their number",
    "src/net/forks.rs": "what pthread_atfork(3) calls in a child",
    "src/net/peer_credentials.rs": "a question of getsockopt(2) that rustix answers unsoundly",
    "src/net/room.rs": "memory without content that input is received into",
    "src/kernel/promptness.rs": "attributes of a thread, which rustix does not set",
    "src/net/unacknowledged.rs": "a question of ioctl(2) that rustix does not ask",
    "src/wsgi/text.rs": "the hot path: strings of the environ",
}
"""The files that may contain `unsafe`, each with its need."""

LONGEST_FILE = 400
"""Lines of code, without comments, blank lines and #[cfg(test)]."""


# --- the rules: each yields complaints -------------------------------------------------------------------------------


def imports_that_point_up(path: Path, source: str) -> Iterator[str]:
    code = code_of(source)
    module = module_of(path)
    if not module:
        return
    if module[0] not in RANKS:
        yield f"{path}: is in no layer"
        return
    if alias := re.search(r"\bcrate\s+as\b|\bextern\s+crate\b", code):
        yield f"{path}:{line_of(code, alias.start())}: renames a crate, which hides what is imported"
    for position, name in named_from_root(code, module):
        where = f"{path}:{line_of(code, position)}"
        if name not in RANKS:
            yield f"{where}: crate::{name} is not a layer"
        elif name != module[0] and RANKS[name] >= RANKS[module[0]]:
            yield f"{where}: {module[0]} names {name}, which is not below it"


def foreign_crates_in_http(path: Path, source: str, dependencies: set[str]) -> Iterator[str]:
    if module_of(path)[:1] != ("http",):
        return
    code = code_of(source)
    for crate in sorted(dependencies - HTTP_CRATES):
        for found in re.finditer(rf"(?<![\w:])(?:::)?{crate}\s*::|\buse\s+(?:::)?{crate}\b", code):
            yield f"{path}:{line_of(code, found.start())}: http names {crate}"


def forbidden_uses_of_may(path: Path, source: str) -> Iterator[str]:
    code = code_of(source)
    inside = module_of(path)[:1] == ("coroutine",)
    for found in re.finditer(r"\bmay\b(?:\s*::\s*\w+)*", code):
        where = f"{path}:{line_of(code, found.start())}"
        name = re.sub(r"\s", "", found[0])
        if not inside:
            yield f"{where}: {name} outside of coroutine"
        elif not any(name == allowed or name.startswith(allowed + "::") for allowed in MAY):
            yield f"{where}: {name} is not among what is used of may"
    if inside:
        for found in re.finditer(rf"\.\s*({'|'.join(MAY_METHODS)})\s*\(", code):
            yield f"{path}:{line_of(code, found.start())}: .{found[1]}() is forbidden"
        for found in re.finditer(r"\.\s*park\s*\(\s*(?!\)|None\s*\))", code):
            yield f"{path}:{line_of(code, found.start())}: .park() with a time limit is forbidden"


def unsafe_outside_of_doors(path: Path, source: str) -> Iterator[str]:
    code = code_of(source)
    for found in re.finditer(r"\bunsafe\b|\b(?:allow|expect)\s*\([^)]*\bunsafe_code\b", code):
        if path.as_posix() not in UNSAFE_DOORS:
            yield f"{path}:{line_of(code, found.start())}: unsafe in a file that UNSAFE_DOORS does not list"


def prints(path: Path, source: str) -> Iterator[str]:
    code = without_tests(code_of(source))
    for found in re.finditer(r"\b(?:e?print(?:ln)?|dbg)\s*!|\bpanic_any\b", code):
        yield f"{path}:{line_of(code, found.start())}: {found[0]} waits or panics where its stream is full or broken"


# --- the tree --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sources() -> dict[Path, str]:
    """Text of every Rust file under src, by its path from the root of the repository."""
    return sources_under(ROOT)


def test_imports_point_down(sources: dict[Path, str]) -> None:
    assert [text for path, source in sources.items() for text in imports_that_point_up(path, source)] == []


def test_http_needs_only_std_httparse_and_memchr(sources: dict[Path, str]) -> None:
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
    dependencies = {name.replace("-", "_") for name in manifest["dependencies"]}
    assert dependencies >= {*HTTP_CRATES, "may", "pyo3"}
    complaints = [
        text for path, source in sources.items() for text in foreign_crates_in_http(path, source, dependencies)
    ]
    assert complaints == []


def test_the_crates_of_http_and_websocket_are_fuzzed_as_they_are_shipped() -> None:
    shipped, fuzzed = (
        {package["name"]: package["version"] for package in tomllib.loads(path.read_text())["package"]}
        for path in (ROOT / "Cargo.lock", ROOT / "tests" / "fuzz" / "Cargo.lock")
    )
    crates = HTTP_CRATES | WEBSOCKET_CRATES
    assert {name: fuzzed[name] for name in crates} == {name: shipped[name] for name in crates}


def test_may_is_named_only_in_coroutine_and_nothing_forbidden_of_it(sources: dict[Path, str]) -> None:
    assert [text for path, source in sources.items() for text in forbidden_uses_of_may(path, source)] == []


def test_may_is_built_without_its_stealing_and_cancelling_features() -> None:
    may = tomllib.loads((ROOT / "Cargo.toml").read_text())["dependencies"]["may"]
    assert may["default-features"] is False
    assert may.get("features", []) == []


def test_unsafe_has_few_doors(sources: dict[Path, str]) -> None:
    assert [text for path, source in sources.items() for text in unsafe_outside_of_doors(path, source)] == []


def test_every_door_of_unsafe_is_still_needed(sources: dict[Path, str]) -> None:
    used = {path.as_posix() for path, source in sources.items() if re.search(r"\bunsafe\b", code_of(source))}
    assert set(UNSAFE_DOORS) - used == set()


def test_nothing_prints_by_a_macro(sources: dict[Path, str]) -> None:
    assert [text for path, source in sources.items() for text in prints(path, source)] == []


def test_no_file_is_longer_than_a_reader_can_hold(sources: dict[Path, str]) -> None:
    lengths = {path: code_lines(source) for path, source in sources.items() if not is_test_file(path, sources)}
    assert {str(path): length for path, length in lengths.items() if length > LONGEST_FILE} == {}


# --- the rules do complain -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "source", "complaints"),
    [
        ("src/net/stream.rs", "use crate::event_loop::wait;", []),
        ("src/net/stream.rs", "use crate::net::listener;", []),
        ("src/wsgi/mod.rs", "use crate::{http::{head, framing}, interp};", []),
        ("src/lib.rs", "pub mod api;\npub use crate::server::Server;", []),
        ("src/net/mod.rs", "\nuse crate::http::head;", ["src/net/mod.rs:2: net names http, which is not below it"]),
        ("src/net/mod.rs", "fn f() { crate::wsgi::g() }", ["src/net/mod.rs:1: net names wsgi, which is not below it"]),
        (
            "src/net/mod.rs",
            "use crate::{event_loop::{a, b}, server::c};",
            ["src/net/mod.rs:1: net names server, which is not below it"],
        ),
        ("src/net/mod.rs", "use crate::Settings;", ["src/net/mod.rs:1: crate::Settings is not a layer"]),
        ("src/net/mod.rs", "use crate::*;", ["src/net/mod.rs:1: crate::* is not a layer"]),
        ("src/net/mod.rs", "use super::wsgi;", ["src/net/mod.rs:1: net names wsgi, which is not below it"]),
        ("src/net/mod.rs", "use super::{event_loop};", []),
        ("src/net/stream.rs", "use super::Socket;", []),
        (
            "src/net/stream.rs",
            "use super::super::api::A;",
            ["src/net/stream.rs:1: net names api, which is not below it"],
        ),
        ("src/net/stream.rs", "mod tests { use super::super::Socket; }", []),
        ("src/net/mod.rs", "mod tests { use super::*; }", []),
        (
            "src/net/mod.rs",
            "fn f() {}\nmod tests { use super::super::api; }",
            ["src/net/mod.rs:2: net names api, which is not below it"],
        ),
        ("src/util.rs", "", ["src/util.rs: is in no layer"]),
        ("src/net/mod.rs", "use crate as c;", ["src/net/mod.rs:1: renames a crate, which hides what is imported"]),
        ("src/net/mod.rs", "// use crate::wsgi;\n/* /* */ crate::wsgi */\n/// [`crate::api::A`]\nfn f() {}", []),
        ("src/net/mod.rs", 'const A: &str = "crate::wsgi::a"; const B: &str = r#"" crate::api::b"#;', []),
    ],
)
def test_the_order_of_layers_is_seen_in_every_spelling(path: str, source: str, complaints: list[str]) -> None:
    assert list(imports_that_point_up(Path(path), source)) == complaints


@pytest.mark.parametrize(
    ("source", "complaints"),
    [
        ("use std::io;\nuse httparse::Request;\nuse memchr::memchr;", 0),
        ("// use pyo3::prelude\nfn f() { let libc = 1; }", 0),
        ("use pyo3::prelude::*;", 1),
        ("fn f() { ::libc::close(1) }", 1),
    ],
)
def test_a_foreign_crate_in_http_is_seen(source: str, complaints: int) -> None:
    found = list(foreign_crates_in_http(Path("src/http/head.rs"), source, {"httparse", "memchr", "libc", "pyo3"}))
    assert len(found) == complaints, found


@pytest.mark.parametrize(
    ("path", "source", "allowed"),
    [
        ("src/coroutine/mod.rs", "use may::coroutine::Builder;\nfn f() { may::coroutine::yield_now(); }", True),
        ("src/coroutine/mod.rs", "may::config().set_workers(1);", True),
        ("src/coroutine/mod.rs", "struct Parker(may::sync::Blocker);", True),
        ("src/coroutine/mod.rs", "let _ = self.0.park(None);\nself.parker.park();", True),
        ("src/event_loop/mod.rs", "// may::coroutine::sleep\nfn f() {}", True),
        ("src/event_loop/mod.rs", "sender.recv_timeout(limit)", True),
        ("src/event_loop/mod.rs", "may::coroutine::yield_now();", False),
        ("src/coroutine/mod.rs", "may::coroutine::park();", False),
        ("src/coroutine/mod.rs", "let _ = self.0.park(Some(limit));", False),
        ("src/coroutine/mod.rs", "let _ = self.0\n    .park(limit);", False),
        ("src/event_loop/mod.rs", "use may;", False),
        ("src/coroutine/mod.rs", "may::coroutine::sleep(limit);", False),
        ("src/coroutine/mod.rs", "may::coroutine::park_timeout(limit);", False),
        ("src/coroutine/mod.rs", "use may::coroutine::{yield_now, sleep};", False),
        ("src/coroutine/mod.rs", "use may::coroutine::*;", False),
        ("src/coroutine/mod.rs", "use may as m;", False),
        ("src/coroutine/mod.rs", "may::sync::mpsc::channel();", False),
        ("src/coroutine/mod.rs", "may::net::TcpStream::connect(a);", False),
        ("src/coroutine/mod.rs", "may::go!(|| ());", False),
        ("src/coroutine/mod.rs", "handle.0\n    .cancel();", False),
        ("src/coroutine/mod.rs", "unsafe { handle.unsafe_cancel() }", False),
    ],
)
def test_a_forbidden_use_of_may_is_seen(path: str, source: str, allowed: bool) -> None:
    found = list(forbidden_uses_of_may(Path(path), source))
    assert (found == []) is allowed, found


def test_unsafe_outside_of_the_doors_is_seen() -> None:
    block = "fn f() { unsafe { g() } }"
    assert list(unsafe_outside_of_doors(Path("src/coroutine/mod.rs"), block)) == []
    assert list(unsafe_outside_of_doors(Path("src/http/head.rs"), "// unsafe\nfn f() {}")) == []
    assert len(list(unsafe_outside_of_doors(Path("src/http/head.rs"), block))) == 1
    assert len(list(unsafe_outside_of_doors(Path("src/http/head.rs"), "#![allow(unsafe_code)]"))) == 1
    assert len(list(unsafe_outside_of_doors(Path("src/http/head.rs"), '#[expect(unsafe_code, reason = "x")]'))) == 1


def test_printing_by_a_macro_is_seen() -> None:
    for source in ('eprintln!("a");', "print ! (b)", "dbg!(c)", "std::println!()"):
        assert len(list(prints(Path("src/net/mod.rs"), source))) == 1
    for source in ('say("eprintln!");', "// println!", "#[cfg(test)]\nmod tests { fn f() { println!() } }"):
        assert list(prints(Path("src/net/mod.rs"), source)) == []


def test_lines_of_code_exclude_comments_blank_lines_and_tests() -> None:
    source = """\
//! Documentation.

use std::io; // a comment

/* a block
   comment */
fn f() -> [&'static str; 2] {
    ["{", "// not a comment"]
}

#[cfg(test)]
mod tests {
    #[test]
    fn g() {}
}

#[cfg(test)]
use std::fmt;

const TEXT: &str =
    "text";
"""
    assert code_lines(source) == 6


def test_a_file_of_tests_is_known_by_its_declaration() -> None:
    sources = {
        Path("src/http/mod.rs"): "mod head;\n#[cfg(test)]\nmod tests;",
        Path("src/http/head.rs"): "",
        Path("src/http/tests.rs"): "",
    }
    assert [is_test_file(path, sources) for path in sources] == [False, False, True]


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("a // b\nc", "a     \nc"),
        ("a /* b /* c */ d */ e", "a                   e"),
        ("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}"),
        ("'\"' + '\\'' + '\\u{1f600}'", '"   + "    + "          '),
        (r'"\"//" + a', '"      + a'),
        ('r##""#"## b', '"         b'),
    ],
)
def test_comments_and_literals_are_blanked(source: str, code: str) -> None:
    assert code_of(source) == code
