"""The end of a server: it waits `graceful_timeout` for the work that requests have started, and names the unfinished.

Such work is the threads other than daemons, and the jobs of each `ThreadPoolExecutor`. As coroutines (`patch_all()`)
they end with the loop, so the loop waits for them. If the process ends too (the command line, a Gunicorn worker), the
server also does the part of CPython: it runs the hooks of `threading._register_atexit` and waits for OS threads.

Three differences from the end of a CPython process are deliberate. A daemon thread that is a coroutine runs its
`finally` blocks, because CoroutineExit is raised in it; CPython stops it without them. A daemon thread that computes
holds up the other coroutines, and code that waits for one, as any computing coroutine does. Work that is left behind is
logged; CPython waits for it for ever, or drops a daemon without a word.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final

from . import _rmeinheld, error_log

__all__ = ["EXIT_SECONDS", "Grace", "finish", "leave", "leave_now", "name_loop_thread"]

EXIT_SECONDS: Final = 2.0
"""Time for the exit handlers of a process in which a request or thread still computes."""

LONGEST_LOOK: Final = 0.02
"""Most seconds between two checks for the end of the last thread."""

SIGNAL_LOOK: Final = 0.25
"""Most seconds until a signal that shortens the time is noticed."""

_logger: Final = logging.getLogger(error_log.LOGGER_NAME)
_is_leaving = False
_is_hurried = False


class Grace:
    """The time that a stop leaves to unfinished work: `graceful_timeout`, unless the stop named another time."""

    def __init__(self, graceful_timeout: float) -> None:
        self._graceful_timeout = graceful_timeout
        self._given = graceful_timeout
        self._deadline: float | None = None
        self.interrupted = False
        """Has Ctrl-C asked for the stop, so that a person waits?"""
        self.hurries = False
        """Has a second Ctrl-C asked for an end within a second?"""

    def begin(
        self, seconds: float | None, delay: float = 0.0, *, interrupted: bool = False, hurries: bool = False
    ) -> None:
        """Record a stop with `seconds` (None: `graceful_timeout`), which begins after `delay`.

        Of several stops, the earliest deadline counts. `interrupted` and `hurries` are those of
        `_rmeinheld.Server.stop`.
        """
        given = self._graceful_timeout if seconds is None else seconds
        deadline = time.monotonic() + delay + given
        if self._deadline is None or deadline < self._deadline:
            self._given, self._deadline = given, deadline
        self.interrupted |= interrupted
        self.hurries |= hurries
        if hurries:
            global _is_hurried
            _is_hurried = True

    def __str__(self) -> str:
        if self._given == self._graceful_timeout:
            return f"graceful_timeout ({self._given:g} s)"
        return f"the {self._given:g} s of the stop (graceful_timeout is {self._graceful_timeout:g} s)"


def finish(engine: _rmeinheld.Server, grace: Grace, *, process_ends: bool) -> None:
    """Wait, after `engine.run`, for the unfinished work of requests; when the time is over, end it.

    With `process_ends`, first run the hooks of `threading._register_atexit`, and wait for OS threads too. The loop goes
    on for exit handlers and daemon threads. Raises RuntimeError naming the coroutine that computes on the loop's thread
    and keeps the others from ending.
    """
    is_done = threading.Event()
    if process_ends or next(_unfinished(process_ends), None) is not None:
        # It needs a thread of its own, because this one handles signals.
        helper = threading.Thread(target=_work_off, args=(process_ends, is_done), name="rmeinheld-end", daemon=True)
        with suppress(RuntimeError):
            helper.start()
        is_said = False
        while not is_done.wait(min(SIGNAL_LOOK, left := engine.seconds_left or 0.0)) and left > 0:
            if grace.interrupted and not is_said:
                is_said = True
                _say_what_is_waited_for(process_ends)
    else:
        is_done.set()
    is_in_time = is_done.is_set() and engine.seconds_left != 0
    if not is_in_time:
        _end_the_rest(grace, process_ends)
    # In a hurry the process ends in time, whatever the handlers at exit do.
    if process_ends and not grace.hurries:
        _rmeinheld.disarm_exit()


def leave(status: int) -> None:
    """End the process with `status` while a request or thread computes. May be an exit handler itself.

    It runs the other exit handlers, for two seconds at most, and flushes the standard streams.
    """
    global _is_leaving
    if _is_leaving:
        return
    _is_leaving = True
    if not _is_hurried:
        _rmeinheld.arm_exit(EXIT_SECONDS, status)
    atexit._run_exitfuncs()
    _leave(status)


def leave_now(status: int) -> None:
    """End the process at its last moment, before CPython ends a computing thread in the middle of Rust code."""
    if not _is_leaving:
        _leave(status)


def name_loop_thread() -> None:
    """Mark the loop's OS thread as no daemon; threads that requests start inherit that.

    CPython treats the loop's thread as a foreign thread, which is a daemon. Runs in a coroutine. Under `patch_all()`
    each coroutine has a thread object of its own instead.
    """
    thread: Any = threading.current_thread()
    if not thread.daemon:
        return
    thread._daemonic = False
    # Python 3.13 and later forget the object with the thread state that asked for it first.
    with suppress(AttributeError):
        del threading._thread_local_info._track_dummy_thread_ref  # type: ignore[attr-defined]
    threading._active[thread.ident] = thread  # type: ignore[attr-defined]


def _leave(status: int) -> None:
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(status)


def _say_what_is_waited_for(process_ends: bool) -> None:
    if names := ", ".join(thread.name for thread in _unfinished(process_ends)):
        line = f"waiting for the threads {names}; press Ctrl-C again to stop now"
        with suppress(OSError, ValueError, AttributeError):
            if sys.stderr.isatty():
                print(f"rmeinheld: {line}\n", end="", file=sys.stderr, flush=True)
                return
        _logger.warning("%s", line)


def _end_the_rest(grace: Grace, process_ends: bool) -> None:
    threads = list(_unfinished(process_ends))
    coroutines = [thread.name for thread in threads if _is_coroutine(thread)]
    others = [thread.name for thread in threads if not _is_coroutine(thread)]
    if coroutines:
        _logger.warning("after %s, unfinished threads are ended by CoroutineExit: %s", grace, ", ".join(coroutines))
    _rmeinheld.end_awaited()
    if process_ends:
        # CPython would wait for threads that do not end.
        threading._shutdown = _nothing  # type: ignore[attr-defined]
        if others:
            _logger.warning("after %s, unfinished OS threads are left behind: %s", grace, ", ".join(others))


def _nothing() -> None:
    pass


def _work_off(process_ends: bool, is_done: threading.Event) -> None:
    if process_ends:
        for hook in _take_hooks():
            try:
                hook()
            except Exception:
                _logger.exception("a hook of threading._register_atexit failed")
    interval = 0.001
    while True:
        if next(_unfinished(process_ends), None) is None:
            # A worker may have a job that it has not begun.
            _rmeinheld.spawn(_nothing).join()
            if next(_unfinished(process_ends), None) is None:
                break
        time.sleep(interval)
        interval = min(2 * interval, LONGEST_LOOK)
    is_done.set()


def _take_hooks() -> list[Callable[[], object]]:
    """Take the hooks that CPython runs before it waits for threads, so that it does not run them again."""
    module: Any = threading
    module._SHUTTING_DOWN = True
    hooks: list[Callable[[], object]] = module._threading_atexits
    taken = hooks[::-1]
    hooks.clear()
    return taken


def _unfinished(process_ends: bool) -> Iterator[threading.Thread]:
    """Threads that the end waits for. OS threads count only if the process ends, because otherwise they go on."""
    idle = getattr(sys.modules.get("rmeinheld.patch._thread_pools"), "idle", ())
    jobs = _has_jobs()
    for thread in threading.enumerate():
        if thread.daemon or isinstance(thread, threading._DummyThread) or thread is threading.main_thread():
            continue
        if (process_ends or _is_coroutine(thread)) and (jobs or thread.ident not in idle):
            yield thread


def _has_jobs() -> bool:
    """Does an executor whose workers are coroutines have jobs in its queue?"""
    pools: Any = sys.modules.get("concurrent.futures.thread")
    queues = [] if pools is None else list(pools._threads_queues.items())
    return any(queue.qsize() for thread, queue in queues if _is_coroutine(thread))


def _is_coroutine(thread: threading.Thread) -> bool:
    return thread.ident in getattr(sys.modules.get("rmeinheld.patch._threading"), "coroutines", ())
