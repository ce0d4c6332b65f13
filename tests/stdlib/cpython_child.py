"""Runs one of CPython's own test files in a coroutine, under the patches; `cpython_tests.py` starts it.

    python cpython_child.py DESCRIPTOR UNDER FILE PATTERN...

UNDER is `rmeinheld`, `gevent` or `nothing`. Each PATTERN names tests that are not to be run. The descriptor gets
a line for each test: how it ended, and its name.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fnmatch
import os
import signal
import sys
import unittest
from importlib import import_module
from typing import TYPE_CHECKING, Any

DESCRIPTOR = int(sys.argv[1])
RESOURCES = ["network", "cpu", "subprocess", "walltime"]


def say(*words: str) -> None:
    os.write(DESCRIPTOR, (" ".join(words) + "\n").encode())


def name_of(test: unittest.TestCase) -> str:
    """`test_socket.GeneralModuleTests.test_repr`, whatever describes the test."""
    return test.id().split(" ")[0].removeprefix("test.")


if TYPE_CHECKING:
    _Base = unittest.TextTestResult[Any]
else:
    _Base = unittest.TextTestResult


class Result(_Base):
    """Tells of every test as it begins and ends."""

    def startTest(self, test: Any) -> None:
        super().startTest(test)
        self._outcome = "passed"
        say("begins", name_of(test))

    def stopTest(self, test: Any) -> None:
        super().stopTest(test)
        say(self._outcome, name_of(test))

    def _ended(self, outcome: str, test: Any) -> None:
        if hasattr(test, "_testMethodName"):
            self._outcome = outcome
        else:
            # setUpClass, tearDownModule: no test has begun.
            say(outcome, name_of(test).replace(" ", ""))

    def addError(self, test: Any, err: Any) -> None:
        super().addError(test, err)
        self._ended("failed", test)

    def addFailure(self, test: Any, err: Any) -> None:
        super().addFailure(test, err)
        self._ended("failed", test)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._ended("failed", test)

    def addSkip(self, test: Any, reason: str) -> None:
        super().addSkip(test, reason)
        self._ended("skipped", test)


def without(suite: Any, patterns: list[str]) -> unittest.TestSuite:
    """The tests that no pattern names."""
    kept = unittest.TestSuite()
    for each in suite:
        if isinstance(each, unittest.TestSuite):
            kept.addTest(without(each, patterns))
        elif any(fnmatch.fnmatchcase(name_of(each), pattern) for pattern in patterns):
            say("left", name_of(each))
        else:
            kept.addTest(each)
    return kept


def run(name: str, patterns: list[str]) -> None:
    """Load the file and run what is in it."""
    import_module("test.support").use_resources = RESOURCES  # type: ignore[attr-defined]
    try:
        module = import_module(f"test.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"test.{name}":
            raise
        # Python 3.12.1 was installed without its test_concurrent_futures.
        say("end", name)
        return
    suite = without(unittest.defaultTestLoader.loadTestsFromModule(module), patterns)
    unittest.TextTestRunner(stream=sys.stderr, verbosity=2, resultclass=Result).run(suite)
    say("end", name)


def main() -> None:
    """Patch, and run in a thread that is a coroutine."""
    faulthandler.enable()
    # A shell's background jobs ignore it, and children would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    under, name, *patterns = sys.argv[2:]
    if under == "nothing":
        run(name, patterns)
        return
    if under == "gevent":
        import_module("gevent.monkey").patch_all()
        run(name, patterns)
        return
    from rmeinheld.coroutine import spawn
    from rmeinheld.patch import patch_all

    patch_all()
    import threading

    def in_a_coroutine() -> None:
        # A request's coroutine counts as a daemon, and so would the threads that the tests start in it.
        thread = threading.Thread(target=run, args=(name, patterns), daemon=False)
        thread.start()
        thread.join()

    coroutine = spawn(in_a_coroutine)
    while not coroutine.done:
        # Some tests interrupt the main thread, which they expect to be in.
        with contextlib.suppress(KeyboardInterrupt):
            coroutine.join()


if __name__ == "__main__":
    main()
