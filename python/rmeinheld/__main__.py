"""The command `rmeinheld`, which is `python -m rmeinheld` too."""

from __future__ import annotations

import sys

from . import collector


def main() -> int:
    """Run the command line of the process, and return the exit status."""
    collector.pause()
    try:
        from .cli import main as run_command

        return run_command()
    finally:
        collector.resume()


if __name__ == "__main__":
    sys.exit(main())
