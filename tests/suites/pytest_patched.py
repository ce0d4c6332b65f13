"""pytest, with the options of the command line, in a coroutine of a process whose standard library is patched."""

from __future__ import annotations

import sys

from rmeinheld import patch

patch.patch_all()

import pytest  # noqa: E402

from rmeinheld.coroutine import spawn  # noqa: E402

if __name__ == "__main__":
    running = spawn(pytest.main, sys.argv[1:])
    running.join()
    sys.exit(int(running.result))
