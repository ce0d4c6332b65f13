"""Scripts in a process of their own, whose body is a function that runs in a coroutine."""

from __future__ import annotations

from serving import RunScript

IN_A_COROUTINE = """
from rmeinheld.coroutine import *
import threading, time

def test():
{body}

coroutine = spawn(test)
assert coroutine.join(20), "the test hangs"
print(coroutine.result)
"""

IN_A_PATCHED_COROUTINE = """
from rmeinheld.patch import *
from rmeinheld import patch
findings = patch.patch_all()
from rmeinheld.coroutine import *
import os, select, socket, ssl, subprocess, sys, threading, time

def test():
{body}

coroutine = spawn(test)
assert coroutine.join(25), "the test hangs"
print(coroutine.result)
"""


def in_a_coroutine(script: RunScript, body: str) -> str:
    """Run the body of a function in a coroutine of a fresh process; what it returns is printed last."""
    return output_of(script, body).splitlines()[-1]


def output_of(script: RunScript, body: str) -> str:
    """Run the body of a function as `in_a_coroutine` does, and return the whole output."""
    indented = "\n".join(f"    {line}" for line in body.strip().splitlines())
    return script(IN_A_COROUTINE.format(body=indented)).strip()


def patched(script: RunScript, body: str) -> str:
    """Run the body of a function in a coroutine of a fresh, patched process; what it returns is printed."""
    indented = "\n".join(f"    {line}" for line in body.strip().splitlines())
    return script(IN_A_PATCHED_COROUTINE.format(body=indented)).strip().splitlines()[-1]
