"""Fuzz HTTP, WebSocket and the messages of crews: `make fuzz`, or `python tests/fuzz/fuzz.py`.

Each target is built with the coverage that libFuzzer needs, on a stable compiler. It replays the inputs in
`regressions/`, and then goes on from seeds made of the requests in `tests/corpus` and from what earlier runs have kept
in the build directory. An input that fails is left there, too, with the command that runs it again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

DIRECTORY = Path(__file__).resolve().parent
ROOT = DIRECTORY.parents[1]
TARGETS = (
    "head",
    "repeated",
    "framing",
    "chunked",
    "connection",
    "response",
    "exchange",
    "forwarded",
    "proxy_protocol",
    "handshake",
    "websocket",
    "deflate",
    "closing",
    "crew",
)

LONGEST_INPUT_BYTES = 4096
LONGEST_SEED_BYTES = 3072
"""Seeds leave room to grow."""
HANG_SECONDS = 10
MEMORY_MB = 1024
GRACE_SECONDS = 120
"""A target that runs this much longer than its limit hangs."""

SHOWN_LINES = 20
"""The first lines of a target's output when it fails."""

RUST_FLAGS = (
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
)
"""The flags of cargo-fuzz without the sanitizers, which need a nightly compiler. The fuzzed code has no unsafe code of
its own."""


class Result(NamedTuple):
    """The result of one target."""

    executions: int
    per_second: int
    edges: int
    crashes: list[Path]
    is_passed: bool


@dataclass(frozen=True)
class Places:
    """The directories of a target."""

    target: str
    build: Path

    @property
    def regressions(self) -> Path:
        return DIRECTORY / "regressions" / self.target

    @property
    def seeds(self) -> Path:
        return self.build / "seeds" / self.target

    @property
    def kept(self) -> Path:
        """Inputs that have found something new, from this run and those before."""
        return self.build / "kept" / self.target

    @property
    def crashes(self) -> Path:
        return self.build / "crashes" / self.target

    @property
    def log(self) -> Path:
        return self.build / f"{self.target}.log"


# --- seeds: src/input.rs tells what the first bytes of an input mean -------------------------------------------------

DEFAULT_LIMITS = b"\xff\xff\xff\0\0"
DEFAULT_CHUNK_LIMITS = b"\xff\xff\xff"
LONGEST_BODY = b"\xff\xff"
LONGEST_MESSAGE = b"\xff\xff"
CUTS = b"\x10\x00\x06\x00"
"""A piece of 16 bytes, then of 7 bytes and of one in turn."""

HANDSHAKE_FIELDS = (
    b"Upgrade: websocket",
    b"Connection: keep-alive, Upgrade",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Protocol: a, b",
)


def text_of(value: Any) -> str:
    """A text of the corpus: a string, or a list of parts (see docs/development/testing.md)."""
    if isinstance(value, str):
        return value
    return "".join(part if isinstance(part, str) else part["repeat"] * part["times"] for part in value)


def corpus() -> Iterator[bytes]:
    """The input of each case in tests/corpus."""
    for path in sorted((ROOT / "tests" / "corpus").glob("*.json")):
        for case in json.loads(path.read_text()):
            yield text_of(case["input"]).encode("latin-1")


def head_seeds(request: bytes) -> Iterator[bytes]:
    yield DEFAULT_LIMITS + CUTS + request


def repeated_seeds(request: bytes) -> Iterator[bytes]:
    """The request's line and fields with two others, in turn: first each five times, then cut, then many sections."""
    line, end, section = request.partition(b"\r\n")
    lines = [(line + end)[:255], b"GET / HTTP/1.1\r\n", b"POST /a?b HTTP/1.0\r\n"]
    sections = [section[:2000], b"Host: a\r\nAccept: */*\r\n\r\n", b"Host: b\r\nContent-Length: 1\r\n\r\n"]
    parts = b"".join([bytes([len(each)]) + each for each in lines])
    parts += b"".join([len(each).to_bytes(2, "little") + each for each in sections])
    repeated = b"".join(bytes([choice, 0]) * 5 for choice in (0, 3, 9, 12, 27, 81 + 12))
    many = b"".join(bytes([9, 0x80 + number]) * 3 for number in range(80))
    yield DEFAULT_LIMITS + parts + repeated + bytes([54, 0, 93, 64, 93, 126]) + many + repeated


def connection_seeds(request: bytes) -> Iterator[bytes]:
    yield DEFAULT_LIMITS + DEFAULT_CHUNK_LIMITS + LONGEST_BODY + CUTS + request


def framing_seeds(request: bytes) -> Iterator[bytes]:
    head, _, _ = request.partition(b"\r\n\r\n")
    lines = []
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() in (b"content-length", b"transfer-encoding"):
            lines.append((b"l" if name.strip().lower() == b"content-length" else b"c") + value.replace(b"\n", b""))
    if lines:
        yield bytes([b"HTTP/1.0" in head]) + b"\n".join(lines)


def chunked_seeds(request: bytes) -> Iterator[bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    if b"transfer-encoding" in head.lower():
        yield DEFAULT_CHUNK_LIMITS + CUTS + b"\0" + body
        yield DEFAULT_CHUNK_LIMITS + CUTS + b"\3\4\x10\0" + body


def response_seeds(request: bytes) -> Iterator[bytes]:
    head, _, _ = request.partition(b"\r\n\r\n")
    texts = [b"200 OK"]
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        texts += [name, value]
    if all(len(text) < 256 for text in texts):
        yield b"\x0a\x05\x00" + b"".join(bytes([len(text)]) + text for text in texts)


def exchange_seeds(request: bytes) -> Iterator[bytes]:
    """The request's bytes choose the events; before them stand two whole exchanges, one with a body."""
    yield b"\x08\0" + bytes([7, 0, 8, 5, 9]) + request[:40]
    yield b"\x0b\x10" + bytes([0, 1, 5, 2, 11, 7, 2, 8, 16, 9]) + request[:40]


def forwarded_seeds(request: bytes) -> Iterator[bytes]:
    head, _, _ = request.partition(b"\r\n\r\n")
    values = [line.partition(b":")[2].strip() for line in head.split(b"\r\n") if b"forwarded" in line.lower()]
    yield b"\x80" + b"\n".join(values or [b'for="[2001:db8::1]:80";host=a;proto=https, for=192.0.2.2'])


def proxy_protocol_seeds(request: bytes) -> Iterator[bytes]:
    yield b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65535\r\n" + request[:100]
    yield b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + request[:100]


def handshake_seeds(request: bytes) -> Iterator[bytes]:
    head, _, _ = request.partition(b"\r\n\r\n")
    origin = b"\x0fhttp://a.test:8"
    yield b"\0" + origin + b"\r\n".join([head, *HANDSHAKE_FIELDS, b"Origin: http://a.test:8", b"", b""])
    line, _, fields = head.partition(b"\r\n")
    yield b"\1" + origin + line[:16].ljust(16) + b"Sec-WebSocket-Protocol: b, a\r\nOrigin: b\r\n" + fields


def websocket_seeds(request: bytes) -> Iterator[bytes]:
    mask = b"\x37\xfa\x21\x3d"
    text = request.decode("latin-1").encode()
    parts = [text[:40], text[40:41], text[41:141], b"\x03\xe8" + b"bye"]
    # A text in two fragments with a ping between them, then a close.
    firsts = [0x01, 0x89, 0x80, 0x88]
    pairs = list(zip(firsts, parts, strict=True))
    frames = (bytes([first, 0x80 | len(part)]) + mask + masked(part, mask) for first, part in pairs)
    yield b"\0" + LONGEST_MESSAGE + CUTS + b"".join(frames)
    made = (bytes([first, 0, len(part)]) + part for first, part in pairs)
    yield b"\1" + LONGEST_MESSAGE + CUTS + mask + b"".join(made)
    choices = zip((0, 3, 2, 5), parts, strict=True)
    messages = (bytes([choice]) + len(part).to_bytes(2, "little") + part for choice, part in choices)
    yield b"\2" + LONGEST_MESSAGE + CUTS + mask + b"\1\x10\x03" + b"".join(messages)


def deflate_seeds(request: bytes) -> Iterator[bytes]:
    """src/deflate.rs: any bytes as one message, and messages there and back with every choice of a context."""
    text = request[:1000]
    for wbits in (-9, -15):
        compressor = zlib.compressobj(wbits=wbits)
        payload = compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH)
        yield b"\0" + LONGEST_MESSAGE + CUTS + payload.removesuffix(b"\0\0\xff\xff")
    parts = [text[:100], text[100:140], text[:400], b""]
    messages = b"".join(len(part).to_bytes(2, "little") + part for part in parts)
    for choice in (1, 3, 5, 0x1F):
        yield bytes([choice]) + LONGEST_MESSAGE + CUTS + messages


def closing_seeds(request: bytes) -> Iterator[bytes]:
    # Steps of two bytes: 0 to 3 are ours, 4 to 7 the client's (src/closing.rs).
    yield b"\6a\7b\0\0\6c\4\1\2\0\3\0"
    yield b"\6a\5\0\0\0\1\0\2\0"
    yield request[:64]


def crew_seeds(request: bytes) -> Iterator[bytes]:
    def message(kind: int, payload: bytes, descriptors: int = 0) -> bytes:
        return len(payload).to_bytes(4, "little") + bytes([1, kind, descriptors, 0]) + payload

    hello = message(0, b"crew" + (3).to_bytes(4, "little") + (7).to_bytes(8, "little"))
    letters = message(1, request[:200]) + message(2, b"", 2) + message(255, request[200:400], 16)
    yield b"\0" + CUTS + hello + letters
    yield b"\1" + CUTS + bytes([0, 0, 2, 0, 0, 16, 0, 1]) + letters
    end = bytes(10) + b"\xff\xff\x7f\0\0\1\x1f\x90"
    for flags, ends in ((0, end), (1, end), (2, end * 3), (4, end), (6, end * 3)):
        moved = bytes([1, flags]) + bytes(12) + ends + (b"" if flags & 1 else request[:200])
        yield b"\0" + CUTS + hello + message(1, moved, 1)


def masked(payload: bytes, mask: bytes) -> bytes:
    return bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


SEEDS = {
    "head": head_seeds,
    "repeated": repeated_seeds,
    "framing": framing_seeds,
    "chunked": chunked_seeds,
    "connection": connection_seeds,
    "response": response_seeds,
    "exchange": exchange_seeds,
    "forwarded": forwarded_seeds,
    "proxy_protocol": proxy_protocol_seeds,
    "handshake": handshake_seeds,
    "websocket": websocket_seeds,
    "deflate": deflate_seeds,
    "closing": closing_seeds,
    "crew": crew_seeds,
}


def write_seeds(places: Places) -> None:
    shutil.rmtree(places.seeds, ignore_errors=True)
    places.seeds.mkdir(parents=True)
    seeds = {seed for request in corpus() for seed in SEEDS[places.target](request)}
    for number, seed in enumerate(sorted(seeds)):
        if len(seed) <= LONGEST_SEED_BYTES:
            (places.seeds / f"{number:05}").write_bytes(seed)


# --- building and running --------------------------------------------------------------------------------------------


def fail(text: str) -> NoReturn:
    print(f"fuzz: {text}", file=sys.stderr)
    sys.exit(2)


def built_targets(build: Path, targets: list[str]) -> dict[str, Path]:
    """Compiles the targets; gives their executables."""
    compiler = shlex.split(os.environ.get("CXX") or "c++")[0]
    for program, remedy in ((compiler, "libFuzzer is written in C++ (Debian: apt install g++)"), ("cargo", "")):
        if not shutil.which(program):
            fail(f"there is no {program}. {remedy}")
    version = subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True).stdout
    # With an explicit target, the flags are for the targets only, not for build scripts, which could not link.
    host = next(line.removeprefix("host: ") for line in version.splitlines() if line.startswith("host: "))
    environment = {
        **os.environ,
        "CARGO_TARGET_DIR": str(build / "target"),
        "CARGO_ENCODED_RUSTFLAGS": "\x1f".join(RUST_FLAGS),
    }
    command = ["cargo", "build", "--locked", "--release", "--target", host]
    for target in targets:
        command += ["--bin", target]
    if subprocess.run(command, cwd=DIRECTORY, env=environment).returncode != 0:
        fail("the targets cannot be built")
    return {target: build / "target" / host / "release" / target for target in targets}


def files_in(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("*") if path.is_file() and not path.name.startswith("."))


def run_target(program: Path, places: Places, seconds: int, jobs: int) -> Result:
    write_seeds(places)
    places.kept.mkdir(parents=True, exist_ok=True)
    places.crashes.mkdir(parents=True, exist_ok=True)
    found_before = files_in(places.crashes)
    common = [
        str(program),
        f"-timeout={HANG_SECONDS}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-artifact_prefix={places.crashes}/",
    ]

    with places.log.open("w") as log:
        # First what has once failed, each input on its own, as one that fails ends its process.
        failed = []
        for path in files_in(places.regressions) + found_before:
            if subprocess.run([*common, str(path)], stdout=log, stderr=subprocess.STDOUT).returncode != 0:
                failed.append(path)
        if failed:
            return Result(0, 0, 0, failed, False)
        command = [
            *common,
            f"-max_total_time={seconds}",
            f"-max_len={LONGEST_INPUT_BYTES}",
            f"-dict={DIRECTORY / 'dictionary.txt'}",
            "-print_final_stats=1",
            "-use_value_profile=1",
            *([f"-fork={jobs}"] if jobs > 1 else []),
            str(places.kept),
            str(places.seeds),
            *([str(places.regressions)] if places.regressions.is_dir() else []),
        ]
        log.flush()
        try:
            outcome = subprocess.run(
                command, stdout=log, stderr=subprocess.STDOUT, cwd=places.build, timeout=seconds + GRACE_SECONDS
            )
        except subprocess.TimeoutExpired:
            print(f"fuzz: {places.target} hangs", file=sys.stderr)
            return Result(0, 0, 0, [], False)

    crashes = [path for path in files_in(places.crashes) if path not in found_before]
    executions, edges = figures(places.log.read_text(errors="replace"))
    is_passed = outcome.returncode == 0 and not crashes and executions > 0
    return Result(executions, executions // max(seconds, 1), edges, crashes, is_passed)


def figures(log: str) -> tuple[int, int]:
    """Executions and covered edges, of the last line of libFuzzer's that tells them."""
    seen = re.findall(r"^#(\d+):?\s.*?\bcov: (\d+)", log, re.MULTILINE)
    executions, edges = map(int, seen[-1]) if seen else (0, 0)
    total = re.findall(r"^stat::number_of_executed_units:\s*(\d+)", log, re.MULTILINE)
    return max([executions, *map(int, total)]), edges


def report_failure(program: Path, places: Places, result: Result) -> None:
    print(f"  the whole log: {places.log}")
    if not result.crashes:
        print("\n".join(places.log.read_text(errors="replace").splitlines()[-SHOWN_LINES:]))
    minimise = ["-minimize_crash=1", "-max_total_time=60", f"-artifact_prefix={places.crashes}/"]
    for path in result.crashes:
        print(f"  input:        {path}")
        print(f"  to reproduce: {shlex.join([str(program), str(path)])}")
        print(f"  to minimise:  {shlex.join([str(program), *minimise, str(path)])}")
    for path in result.crashes[:1]:
        print(fault(program, path))


def fault(program: Path, path: Path) -> str:
    """The target's message about an input, without the backtrace."""
    command = [str(program), f"-timeout={HANG_SECONDS}", f"-rss_limit_mb={MEMORY_MB}", str(path)]
    environment = {**os.environ, "RUST_BACKTRACE": "0"}
    ended = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    lines = ended.stdout.splitlines()
    faults = (number for number, line in enumerate(lines) if "panicked at" in line or "ERROR: libFuzzer" in line)
    return "\n".join(lines[next(faults, 0) :][:SHOWN_LINES])


def at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz HTTP, WebSocket and the messages of crews.")
    parser.add_argument("--seconds", type=at_least_one, default=60, help="for each target (default 60)")
    parser.add_argument("--jobs", type=at_least_one, default=1, help="processes for each target (default 1)")
    parser.add_argument(
        "--target", action="append", choices=TARGETS, help="a target to run; may be repeated (default all)"
    )
    parser.add_argument("--build", type=Path, default=ROOT / ".build", help="what is built and found (default .build)")
    arguments = parser.parse_args()
    build = arguments.build.resolve() / "fuzz"
    build.mkdir(parents=True, exist_ok=True)
    programs = built_targets(build, arguments.target or list(TARGETS))

    total = crashes = 0
    failed = []
    for target, program in programs.items():
        places = Places(target, build)
        print(f"{target:<11} {arguments.seconds} s, {len(files_in(places.regressions))} regressions", flush=True)
        result = run_target(program, places, arguments.seconds, arguments.jobs)
        print(
            f"{target:<11} {result.executions} executions, {result.per_second}/s, "
            f"{result.edges} edges covered, {len(result.crashes)} crashes",
            flush=True,
        )
        total += result.executions
        crashes += len(result.crashes)
        if not result.is_passed:
            failed.append(target)
            report_failure(program, places, result)
    verdict = f"FAILED: {', '.join(failed)}" if failed else "passed"
    print(f"fuzz: {len(programs)} targets, {total} executions, {crashes} crashes: {verdict}")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
