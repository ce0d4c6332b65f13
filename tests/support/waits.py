"""Scripts whose body checks that calls park, and what they return once they may go on."""

from __future__ import annotations

from serving import RunScript

PREAMBLE = """
{first}
from rmeinheld import patch
patch.patch_all()
from rmeinheld.coroutine import *
import fcntl, http.client, io, logging, os, pty, select, signal, socket, struct, subprocess, sys, threading, time

def waits(function, *arguments):
    coroutine = spawn(function, *arguments)
    for _ in range(5):
        sleep(0.002)
    assert not coroutine.join(0), "it did not wait"
    return coroutine

def released(function, release):
    coroutine = waits(function)
    release()
    assert coroutine.join(10), "it goes on waiting"
    return coroutine.result

def test():
{body}

coroutine = spawn(test)
assert coroutine.join(25), "the test hangs"
print(coroutine.result, file=sys.stderr if {to_stderr} else sys.stdout)
"""


def patched(script: RunScript, body: str, first: str = "import sys") -> str:
    """Run the body of a function in a coroutine of a patched process, after `first`; what it returns is printed."""
    indented = "\n".join(f"    {line}" for line in body.strip().splitlines())
    return script(PREAMBLE.format(body=indented, first=first, to_stderr=False)).strip().splitlines()[-1]
