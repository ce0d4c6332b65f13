"""The dump says what a coroutine waits for in `threading` and `queue`, whose own locks say nothing, and where."""

from __future__ import annotations

import re

import pytest

from serving import RunScript

WAITS = {
    "threading.Event().wait()": "event",
    "threading.Event().wait(9)": "event",
    "queue.Queue().get()": "item of queue",
    "queue.Queue().get(timeout=9)": "item of queue",
    "full.put(2)": "room in queue",
    "threading.Semaphore(0).acquire()": "semaphore",
    "threading.Barrier(2).wait()": "barrier",
    "Future().result()": "future",
    "wait_for_condition()": "condition",
}

PROGRAM = """
import rmeinheld.patch
rmeinheld.patch.patch_all()
import os, queue, threading
from concurrent.futures import Future
import rmeinheld
from rmeinheld.coroutine import sleep, spawn

full = queue.Queue(1)
full.put(1)

def wait_for_condition():
    condition = threading.Condition()
    with condition:
        condition.wait()

def waits():
    CALL

spawn(waits)

def look():
    sleep(0.05)
    print(rmeinheld.dump())

spawn(look).join()
os._exit(0)
"""


@pytest.mark.parametrize(("call", "expected"), WAITS.items(), ids=WAITS)
def test_a_dump_names_what_the_standard_library_waits_for(script: RunScript, call: str, expected: str) -> None:
    # `os._exit` writes no buffer out.
    output = script(PROGRAM.replace("CALL", call).replace("rmeinheld.dump())", "rmeinheld.dump(), flush=True)"))
    place = r"script\.py:15" if "condition" in call else r"script\.py:18"
    assert re.search(rf"coroutine 1 waits: waits for {expected} for 0\.\d s at {place}, ", output), output
    assert "DEADLOCK" not in output


def test_a_dump_names_the_line_that_has_called_an_installed_package(script: RunScript) -> None:
    output = script(
        """
        import rmeinheld.patch
        rmeinheld.patch.patch_all()
        import os, sys, types
        import rmeinheld
        from rmeinheld.coroutine import sleep, spawn

        package = types.ModuleType("package")
        code = "import time\\ndef call():\\n    time.sleep(9)\\n"
        exec(compile(code, "/usr/lib/python3/site-packages/package/driver.py", "exec"), package.__dict__)

        def waits():
            package.call()

        spawn(waits)

        def look():
            sleep(0.05)
            print(rmeinheld.dump(), flush=True)

        spawn(look).join()
        os._exit(0)
        """
    )
    assert re.search(r"coroutine 1 waits: waits for sleep, .* at driver\.py:3, called at script\.py:13, ", output), (
        output
    )
