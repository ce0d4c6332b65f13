"""`queue.SimpleQueue`, which is written in C and blocks there.

The other queues are Python over the locks of `threading`, and park when those do.
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
