"""Show the stacks of parked coroutines: `gdb -p PID -batch -x .ci/gdb_coroutines.py`.

gdb unwinds the stacks of OS threads, and a parked coroutine is none. This script finds the mappings that have the size
of a coroutine's stack (`stack_size`, 8 MiB by default) and prints the functions whose return addresses lie on them,
innermost first. Some are left from calls that have returned.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from contextlib import suppress

import gdb  # type: ignore[import-untyped]

STACK_KIB = int(os.environ.get("STACK_KIB", "8192"))
PAGE = os.sysconf("SC_PAGE_SIZE")
MAPPING = re.compile(
    r"^[0-9a-f]+-([0-9a-f]+) rw-p 00000000 00:00 0 *\nSize: +(\d+) kB\n(?:(?!Rss)[^\n]*\n)*Rss: +(\d+) kB", re.MULTILINE
)
HIDDEN = re.compile(r"/rustc/|/library/|pyo3-|crossbeam")


def stacks(pid: int) -> Iterator[tuple[int, int]]:
    """Highest address and touched bytes of each stack. Guard pages may be part of the mapping."""
    with open(f"/proc/{pid}/smaps") as file:
        for end, size, touched in MAPPING.findall(file.read()):
            if abs(int(size) - STACK_KIB) <= 64 and int(touched):
                yield int(end, 16), int(touched) * 1024


def read_touched(process: gdb.Inferior, end: int, touched: int) -> bytes:
    """The highest pages that can be read, as many as were touched. Guard pages cannot be read."""
    pages: list[bytes] = []
    for address in range(end - PAGE, end - STACK_KIB * 1024, -PAGE):
        if len(pages) * PAGE >= touched:
            break
        with suppress(gdb.MemoryError):
            pages.insert(0, bytes(process.read_memory(address, PAGE)))
    return b"".join(pages)


def functions(memory: bytes) -> Iterator[str]:
    """Functions with their lines, for the words in `memory` that are addresses of code."""
    for (word,) in struct.iter_unpack("Q", memory):
        if not 0x10000 < word < 1 << 47:
            continue
        block = gdb.block_for_pc(word - 1)
        while block is not None and block.function is None:
            block = block.superblock
        line = gdb.find_pc_line(word - 1)
        if block is not None and line.symtab is not None and not HIDDEN.search(line.symtab.filename):
            file = re.sub(r".*/registry/src/[^/]+/", "", line.symtab.filename)
            yield f"    {str(block.function)[:60]:60}  {file}:{line.line}"


def main() -> None:
    process = gdb.selected_inferior()
    for end, touched in stacks(process.pid):
        lines = list(functions(read_touched(process, end, touched)))
        if lines:
            print(f"== stack that ends at {end:#x}, {touched // 1024} KiB touched", *lines, sep="\n")


main()
