"""`queue.SimpleQueue`, which blocks in C without the patch.

The other queues are written in Python with the locks of `threading`, and park when these locks do.
"""

from __future__ import annotations

import _queue
import queue

from ..coroutine import SimpleQueue
from . import _state


def patch() -> None:
    """Replace `SimpleQueue`."""
    _state.replace(_queue, "SimpleQueue", SimpleQueue)
    _state.replace(queue, "SimpleQueue", SimpleQueue)
