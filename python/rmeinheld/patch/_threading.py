"""`threading` and `_thread`: a thread started in a coroutine is a coroutine, and locks tell coroutines apart.

The patch replaces functions and classes of `_thread`; the code of `threading` stays the same. A thread that is started
outside a coroutine is still an OS thread.
"""

from __future__ import annotations

import _thread
import functools
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .. import offload
from .._rmeinheld import _locks_park, forget_followed_request, give_way_quietly, set_awaited
from ..coroutine import Coroutine, CoroutineExit, Lock, RLock, can_park, current, get_ident, spawn
from . import _dummies, _state
from ._pauses import poll
from ._state import Finding

_counted = 0
_not_daemons: set[ThreadHandle] = set()

coroutines: set[int] = set()
"""The numbers of the threads that are coroutines and have not ended."""

_start_new_thread = _thread.start_new_thread
_count = _thread._count


class NativeThread(threading.Thread):
    """A thread that is an OS thread, even if a coroutine starts it."""


def _is_coroutine(function: Callable[..., object]) -> bool:
    """Whether a new thread that runs `function` is a coroutine."""
    return can_park() and not isinstance(getattr(function, "__self__", None), NativeThread)


class ThreadHandle:
    """The `_thread._ThreadHandle` of Python 3.13 and later, for a coroutine, or as a wrapper for an OS thread."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._ident: int | None = None
        self._coroutine: Coroutine[None] | None = None
        self._real: Any = None
        self._running: Lock | None = None
        self._done = False

    def __repr__(self) -> str:
        return f"<rmeinheld ThreadHandle ident={self.ident}>"

    @property
    def ident(self) -> int | None:
        """The thread's number; None until it has started."""
        return self._ident if self._real is None else self._real.ident

    def is_done(self) -> bool:
        """Whether the thread has ended."""
        if self._real is not None:
            return bool(self._real.is_done())
        if self._done or (self._coroutine is not None and self._coroutine.done):
            return True
        # In a forked child only the thread that called fork exists.
        return self._ident is not None and os.getpid() != self._pid and get_ident() != self._ident

    def _set_done(self) -> None:
        if self._real is not None:
            self._real._set_done()
        elif self._ident is None:
            raise RuntimeError("thread not started")
        self._done = True

    def join(self, timeout: float | None = None) -> None:
        """Wait until the thread has ended, for at most `timeout` seconds (None or negative: for ever). Parks.

        Raises RuntimeError if the thread has not started, or is the caller.
        """
        if timeout is not None and timeout < 0:
            timeout = None
        if self._real is not None:
            self._join_real(timeout)
        elif not self.is_done():
            if self._coroutine is None:
                raise RuntimeError("thread not started")
            if self._ident == get_ident():
                raise RuntimeError("Cannot join current thread")
            self._coroutine.join(timeout)

    def _join_real(self, timeout: float | None) -> None:
        if not can_park():
            self._real.join(timeout)
        elif self._running is not None:
            if self._running.acquire(timeout=-1 if timeout is None else timeout):
                self._running.release()
                self._real.join()
        elif poll(self._real.is_done, timeout):
            self._real.join()


class Sentinel:
    """The lock that `_thread._set_sentinel()` returns in Python 3.12, for a coroutine. It is free after the end."""

    def __init__(self, coroutine: Coroutine[Any]) -> None:
        self._coroutine = coroutine
        self._pid = os.getpid()
        self._begun = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Wait until the thread has ended. The first call, by the thread itself, only marks the beginning. Parks."""
        if os.getpid() != self._pid:
            return True
        if not self._begun:
            self._begun = True
            return True
        if self._coroutine is current():
            return False
        return self._coroutine.join(0 if not blocking else None if timeout < 0 else timeout)

    def release(self) -> None:
        """Do nothing: only the thread itself ever holds the lock."""

    def locked(self) -> bool:
        """Whether the thread is running."""
        return os.getpid() == self._pid and not self._coroutine.done

    def _at_fork_reinit(self) -> None:
        self._begun = False


class ThreadSentinel:
    """The lock that `_thread._set_sentinel()` returns in Python 3.12, for an OS thread. A coroutine polls it."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Acquire the lock. Parks."""
        if blocking and can_park():
            return poll(lambda: self._lock.acquire(False), None if timeout < 0 else timeout)
        return bool(self._lock.acquire(blocking, timeout))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lock, name)


def _run(function: Callable[..., object], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Run the function of a new thread, and report its exception, as the first C function of a thread does."""
    global _counted
    ident = get_ident()
    coroutines.add(ident)
    # A thread of a pool works for many requests.
    forget_followed_request()
    thread = getattr(function, "__self__", None)
    if isinstance(thread, threading.Thread) and not thread.daemon:
        set_awaited()
    try:
        function(*args, **kwargs)
    except (SystemExit, CoroutineExit):
        pass
    except BaseException as error:
        what = f"Exception ignored in thread started by {function!r}"
        sys.unraisablehook(_unraisable_arguments()((type(error), error, error.__traceback__, what, None)))
    finally:
        _counted -= 1
        coroutines.discard(ident)


@functools.cache
def _unraisable_arguments() -> Any:
    """Return the type of the argument of `sys.unraisablehook`, which has no public name."""
    types: list[Any] = []

    class Fails:
        def __del__(self) -> None:
            raise RuntimeError

    hook, sys.unraisablehook = sys.unraisablehook, lambda arguments: types.append(type(arguments))
    try:
        Fails()
    finally:
        sys.unraisablehook = hook
    return types[0]


def _spawn(function: Callable[..., object], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Coroutine[None]:
    global _counted
    coroutine = spawn(_run, function, args, kwargs)
    _counted += 1
    return coroutine


def start_new_thread(
    function: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any] | None = None, /
) -> int:
    """Start a new thread and return its number. If the caller is a coroutine, the thread is one too.

    Raises TypeError as `_thread.start_new_thread` does.
    """
    if not _is_coroutine(function):
        return _start_new_thread(function, args) if kwargs is None else _start_new_thread(function, args, kwargs)
    if not callable(function):
        raise TypeError("first arg must be callable")
    if not isinstance(args, tuple):
        raise TypeError("2nd arg must be a tuple")
    if kwargs is not None and not isinstance(kwargs, dict):
        raise TypeError("optional 3rd arg must be a dictionary")
    sys.audit("_thread.start_new_thread", function, args, kwargs)
    return _spawn(function, args, kwargs or {}).ident


def start_joinable_thread(
    function: Callable[[], object], handle: ThreadHandle | None = None, daemon: bool = True
) -> ThreadHandle:
    """Start a new thread and return its handle (Python 3.13 and later).

    If the caller is a coroutine, the thread is one too.
    """
    if not callable(function):
        raise TypeError("thread function must be callable")
    if handle is None:
        handle = ThreadHandle()
    elif isinstance(handle, _state.get_original("_thread", "_ThreadHandle")):
        # The handle was made before the patch, which did not find it. Only an OS thread can use it.
        original: ThreadHandle = _state.get_original("_thread", "start_joinable_thread")(function, handle, daemon)
        return original
    elif not isinstance(handle, ThreadHandle):
        raise TypeError("'handle' must be a _ThreadHandle")
    if handle._real is not None or handle._coroutine is not None:
        raise RuntimeError("thread already started")
    if _is_coroutine(function):
        sys.audit("_thread.start_joinable_thread", function, daemon, handle)
        _start_coroutine(function, handle, daemon)
    else:
        _start_os_thread(function, handle, daemon)
    return handle


def _start_coroutine(function: Callable[[], object], handle: ThreadHandle, daemon: bool) -> None:
    def run() -> None:
        try:
            if not daemon:
                set_awaited()
            function()
        finally:
            _not_daemons.discard(handle)

    if not daemon:
        _not_daemons.add(handle)
    try:
        coroutine = _spawn(run, (), {})
    except BaseException:
        _not_daemons.discard(handle)
        raise
    handle._ident = coroutine.ident
    handle._coroutine = coroutine


def _start_os_thread(function: Callable[[], object], handle: ThreadHandle, daemon: bool) -> None:
    running = Lock()
    running.acquire()

    def run() -> None:
        try:
            function()
        finally:
            running.release()

    real = _state.get_original("_thread", "_ThreadHandle")()
    _state.get_original("_thread", "start_joinable_thread")(run, handle=real, daemon=daemon)
    handle._running = running
    handle._real = real


def _make_thread_handle(ident: int) -> ThreadHandle:
    """Make a handle for a thread that `threading` did not start."""
    handle = ThreadHandle()
    handle._ident = ident
    if not can_park() and ident != get_ident():
        handle._real = _state.get_original("_thread", "_make_thread_handle")(ident)
    return handle


def _wrapped_handle(real: Any) -> ThreadHandle:
    handle = ThreadHandle()
    handle._real = real
    return handle


def _get_main_thread_ident() -> int:
    """Return the number of the main thread. In a child that a coroutine has forked, this is that coroutine."""
    if os.getpid() != _patched_in:
        return get_ident()
    return int(_state.get_original("_thread", "_get_main_thread_ident")())


def _shutdown() -> None:
    """Wait for all threads that are not daemons (Python 3.13 and later)."""
    while _not_daemons:
        for handle in list(_not_daemons):
            handle.join()
            _not_daemons.discard(handle)
    _state.get_original("_thread", "_shutdown")()


def _set_sentinel() -> Any:
    """Return a lock that is free when the caller has ended (Python 3.12)."""
    coroutine = current()
    if coroutine is not None:
        return Sentinel(coroutine)
    return ThreadSentinel(_state.get_original("_thread", "_set_sentinel")())


def _set_name(name: str) -> None:
    """Name the OS thread (Python 3.14 and later), unless the caller is a coroutine."""
    if not can_park():
        _state.get_original("_thread", "set_name")(name)


def _become_main_thread() -> None:
    """Prepare the main thread's lock in a child that a coroutine has forked (Python 3.12).

    The coroutine is the main thread there, which ends with the process.
    """
    main: Any = threading.main_thread()
    if main.ident == get_ident() and (main._tstate_lock is None or isinstance(main._tstate_lock, Sentinel)):
        main._tstate_lock = Lock()
        main._tstate_lock.acquire()


def _is_set(event: Any) -> bool:
    """`threading.Event.is_set`. It may switch, since code may call it in a loop. `Thread.is_alive` calls it too."""
    give_way_quietly()
    return bool(event._flag)


def _number_of_threads() -> int:
    """Return the number of threads that the application has started, including coroutines."""
    return _count() + _counted - offload.number_of_threads()


def _excepthook(args: Any, /) -> None:
    """`threading.excepthook`, which ignores CoroutineExit."""
    if not isinstance(args.exc_value, CoroutineExit):
        _state.get_original("threading", "excepthook")(args)


_patched_in = os.getpid()


def patch() -> list[Finding]:
    """Replace the functions that start threads, and the locks."""
    findings = [] if _locks_park() else list(_early_locks())
    global _patched_in
    _patched_in = os.getpid()
    both = {"start_new_thread": start_new_thread, "get_ident": get_ident, "allocate_lock": Lock, "RLock": RLock}
    only = {
        "start_new": start_new_thread,
        "allocate": Lock,
        "lock": Lock,
        "LockType": Lock,
        "_count": _number_of_threads,
    }
    if sys.version_info >= (3, 13):
        both |= {
            "start_joinable_thread": start_joinable_thread,
            "_ThreadHandle": ThreadHandle,
            "_make_thread_handle": _make_thread_handle,
            "_get_main_thread_ident": _get_main_thread_ident,
        }
        only["_shutdown"] = _shutdown
        _state.replace(threading, "_thread_shutdown", _shutdown)
        if hasattr(_thread, "set_name"):
            both["set_name"] = _set_name
    else:
        both["_set_sentinel"] = _set_sentinel
        # It runs after the hook of `threading`, and after the hook that switches the loop off in the child.
        os.register_at_fork(after_in_child=_become_main_thread)
        _dummies.patch()
    # Trio checks by the name of the module that a lock is one of CPython.
    Lock.__module__ = RLock.__module__ = "_thread"
    # Pickle finds the class by this name, in this process and in one that is not patched.
    Lock.__qualname__ = "allocate_lock"
    for name, new in {**both, **only}.items():
        if hasattr(_thread, name):
            _state.replace(_thread, name, new)
    # `threading` has imported them under other names.
    for name, new in both.items():
        for own in (name, f"_{name.lstrip('_')}"):
            if name != "RLock" and hasattr(threading, own):
                _state.replace(threading, own, new)
    _state.replace(threading, "Lock", Lock)
    _state.replace(threading.Event, "is_set", _is_set)
    if hasattr(threading, "_LockType"):
        _state.replace(threading, "_LockType", Lock)
    _state.replace(threading, "_CRLock", RLock)
    _state.replace(threading, "excepthook", _excepthook)
    threading.__excepthook__ = threading.excepthook
    _adopt_threads()
    _state.replace(threading._DummyThread, "__init__", _start_dummy)
    if sys.version_info >= (3, 13):
        _renew_handles()
    _renew_locks()
    return findings


def _early_locks() -> Iterator[Finding]:
    """Find locks that third-party modules and the application have made, on a Python where such locks do not park."""
    kinds = (type(_thread.allocate_lock()), type(_thread.RLock()))
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in {*sys.stdlib_module_names, "rmeinheld"}:
            continue
        for attribute, value in list(vars(module).items()):
            if isinstance(value, kinds):
                what = f"{attribute} is a lock made before the patch: if held over a wait, it blocks all coroutines"
                yield Finding(name, what, fixed=False)


def _adopt_threads() -> None:
    """Make threads that are running already joinable in coroutines."""
    for thread in threading.enumerate():
        if sys.version_info >= (3, 13):
            name = "_handle" if sys.version_info < (3, 14) else "_os_thread_handle"
            setattr(thread, name, _wrapped_handle(getattr(thread, name)))
        elif thread is not threading.main_thread() and thread._tstate_lock is not None:  # type: ignore[attr-defined]
            thread._tstate_lock = ThreadSentinel(thread._tstate_lock)  # type: ignore[attr-defined]


def _renew_handles() -> None:
    """Give threads and timers that were made but not started before the patch its handles (Python 3.13 and later)."""
    name = "_handle" if sys.version_info < (3, 14) else "_os_thread_handle"
    for thread in _state.instances(threading.Thread):
        if thread.__dict__.get("_initialized") and thread.ident is None:
            setattr(thread, name, ThreadHandle())


def _start_dummy(self: Any) -> None:
    """`_DummyThread.__init__`, by which a coroutine is not a daemon. Threads started in a request inherit this."""
    _state.get_original("threading", "_DummyThread.__init__")(self)
    if current() is not None:
        self._daemonic = False


def _renew_locks() -> None:
    """Replace locks of the standard library that were made before the patch and are held over waits."""
    threading._active_limbo_lock = RLock()  # type: ignore[attr-defined]
    logging._lock = RLock()  # type: ignore[attr-defined]
    for reference in list(logging._handlerList):  # type: ignore[attr-defined]
        handler = reference()
        if handler is not None and handler.lock is not None:
            handler.createLock()
