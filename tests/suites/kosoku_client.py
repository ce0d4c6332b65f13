"""kosoku's command, with cases of compression that run on Python 3 and that end soon.

kosoku gives a message to its cases as str, where those of sections 12 and 13 expect bytes. They send 1,000 messages
each, 10 GB in all. Here a case sends fewer, each size of message still several times.
"""

from __future__ import annotations

import os
from typing import Any

from kosoku._cli import main
from kosoku.cases import CASES

CASE_BYTES = int(os.environ["AUTOBAHN_CASE_BYTES"])
"""About the payload that a case sends."""
FEWEST_MESSAGES = 3
MOST_MESSAGES = 100

SECTIONS = ("12", "13")


def adapt(case: Any) -> None:
    """Bound a case of compression, and give it bytes."""
    original = case.onMessage

    def on_message(self: Any, message: str | bytes, binary: bool) -> None:
        original(
            self, message.encode("latin-1" if binary else "utf-8") if isinstance(message, str) else message, binary
        )

    case.onMessage = on_message
    case.COUNT = min(max(CASE_BYTES // case.LEN, FEWEST_MESSAGES), MOST_MESSAGES)


for name, one in CASES.items():
    if name.partition(".")[0] in SECTIONS:
        adapt(one)

if __name__ == "__main__":
    main()
