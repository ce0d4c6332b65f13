"""Third-party libraries: installs wait hooks, and warns about libraries that block.

Each library is handled when it is imported, or at once if it has been imported.
"""

from __future__ import annotations

import select
from collections.abc import Iterator
from time import monotonic
from types import ModuleType
from typing import Any

from .. import _rmeinheld
from ..coroutine import can_park, wait_readable, wait_writable
from ._imports import Action, when_imported
from ._signal import is_coroutine
from ._state import Finding

OFFLOAD = "call it through rmeinheld.coroutine.offload"

BLOCKING = {
    "MySQLdb": f"use PyMySQL (pymysql.install_as_MySQLdb()), or {OFFLOAD}",
    "_mysql_connector": f"connect with use_pure=True, or {OFFLOAD}",
    "confluent_kafka": f"use kafka-python, or {OFFLOAD}",
    "apsw": f"use sqlite3, or {OFFLOAD}",
    "cx_Oracle": f"use oracledb in its thin mode, or {OFFLOAD}",
    "grpc": OFFLOAD,
    "ibm_db": OFFLOAD,
    "lmdb": f"hold no transaction over a wait, or {OFFLOAD}",
    "ldap": f"use ldap3, or {OFFLOAD}",
    "pycurl": f"use requests, urllib3 or httpx, or {OFFLOAD}",
    "pylibmc": f"use pymemcache, or {OFFLOAD}",
    "pymssql": f"use python-tds, or {OFFLOAD}",
    "pyodbc": OFFLOAD,
    "pysqlite3": f"use sqlite3, or {OFFLOAD}",
    "uvloop": "use the event loop of asyncio itself",
    "zmq": "wait with rmeinheld.coroutine.wait_readable(socket.FD) and use zmq.NOBLOCK",
}
"""Modules that block in C and cannot be made to park, each with the cure."""

GREENLETS = {
    "eventlet": "use the patched standard library",
    "gevent": "use the patched standard library",
    "playwright.sync_api": f"use playwright.async_api within asyncio.run(), or {OFFLOAD}",
    "sqlalchemy.ext.asyncio": f"use SQLAlchemy's ordinary Engine and Session, or {OFFLOAD}",
}
"""Modules that switch greenlets, each with the cure. All coroutines of an OS thread share one set of greenlets."""


def patch() -> Iterator[Finding]:
    """Handle the libraries that are imported, and those that will be."""
    for name, action in _actions().items():
        finding = when_imported(name, action)
        if finding is not None:
            yield finding


def _actions() -> dict[str, Action]:
    actions: dict[str, Action] = {
        "OpenSSL.SSL": _set_up_pyopenssl,
        "lxml.etree": _set_up_lxml,
        "psycopg2": _set_up_psycopg2,
        "psycopg.waiting": _set_up_psycopg,
        "trio._core._thread_cache": _set_up_trio,
    }
    for name, cure in BLOCKING.items():
        actions[name] = _warning(f"blocks in C, and with it all coroutines: {cure}")
    for name, cure in GREENLETS.items():
        actions[name] = _warning(f"switches greenlets, which must not be done in several coroutines at once: {cure}")
    return actions


def _warning(text: str) -> Action:
    return lambda module: Finding(module.__name__, text, fixed=False)


def _set_up_pyopenssl(module: ModuleType) -> Finding:
    from ._pyopenssl import set_up

    return set_up(module)


def _set_up_lxml(module: ModuleType) -> Finding:
    from ._lxml import set_up

    return set_up(module)


# --- psycopg ---------------------------------------------------------------------------------------------------------


def _set_up_psycopg2(module: ModuleType) -> Finding:
    """Give psycopg2 a wait callback, with which it uses libpq without blocking."""
    extensions: Any = module.extensions
    extensions.set_wait_callback(_wait_for_psycopg2)
    return Finding(module.__name__, "has got a wait callback", fixed=True)


def _wait_for_psycopg2(connection: Any) -> None:
    # The numbers are psycopg2.extensions.POLL_OK, POLL_READ and POLL_WRITE.
    while (state := connection.poll()) != 0:
        (wait_readable if state == 1 else wait_writable)(connection.fileno())


def _directions(fileno: int) -> int:
    """Return READY_R (1), READY_W (2) or both: the directions in which `fileno` is ready."""
    events = _rmeinheld.events_now(fileno, select.POLLIN | select.POLLOUT)
    if events & ~(select.POLLIN | select.POLLOUT):
        # An error, or the end of the stream: libpq reports it when it reads or writes.
        return 3
    return (events & select.POLLIN and 1) | (events & select.POLLOUT and 2)


def _set_up_psycopg(module: ModuleType) -> Finding:
    """Replace the function with which psycopg 3 waits during a query; by default it is one in C."""
    waiting: Any = module
    blocking = waiting.wait
    waits = {1: wait_readable, 2: wait_writable, 3: _rmeinheld.wait_either}

    def wait(gen: Any, fileno: int, interval: float = 0.0, timeout: float | None = None) -> Any:
        """Run the generator `gen`, which waits for `fileno`, for at most `timeout` seconds.

        After each `interval` seconds without an event the generator is resumed with 0.
        """
        if not can_park():
            return blocking(gen, fileno, interval, **({} if timeout is None else {"timeout": timeout}))
        deadline = None if timeout is None else monotonic() + timeout
        try:
            state = next(gen)
            while True:
                left = interval if deadline is None else max(0.0, min(interval, deadline - monotonic()))
                if not waits[state](fileno, left):
                    gen.send(0)
                elif state != 3:
                    state = gen.send(state)
                elif ready := _directions(fileno):
                    state = gen.send(ready)
                if deadline is not None and monotonic() >= deadline:
                    raise waiting.e._WaitTimeout("wait timeout expired")
        except StopIteration as end:
            return end.value

    waiting.wait = wait
    # Connections are made by another function, which uses `selectors` and parks anyway.
    return Finding(module.__name__, "waits through rmeinheld", fixed=True)


# --- trio ------------------------------------------------------------------------------------------------------------


def _set_up_trio(module: ModuleType) -> Finding:
    """Make trio name OS threads only: pthread_setname_np takes the number of a thread as an address."""
    cache: Any = module
    name_thread = cache.set_os_thread_name

    def set_os_thread_name(ident: int | None, name: str) -> None:
        """Name an OS thread."""
        if ident is not None and not is_coroutine(ident):
            name_thread(ident, name)

    if name_thread is not None:
        cache.set_os_thread_name = set_os_thread_name
    return Finding(module.__name__, "names OS threads only", fixed=True)
