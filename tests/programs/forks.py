"""Forks children in requests, in several ways."""

import ctypes
import gc
import multiprocessing
import os
import stat
import sys
import time

kept = []


def linger():
    time.sleep(60)
    os._exit(0)


def fork_in_c():
    return ctypes.PyDLL(None).fork() or linger()


def fork():
    return os.fork() or linger()


def multi():
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    return child.pid


def hold():
    """Keep duplicates of all connections, as a process would that inherited them by other means."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if stat.S_ISSOCK(os.stat(int(name)).st_mode):
                kept.append(os.dup(int(name)))
        except OSError:
            pass
    return os.getpid()


def use(environ, start_response):
    """A child's view of the client. It can neither write nor read, and its own files stay open."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        seen = []
        write = start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "7")])
        for action in (lambda: write(b"nothing"), environ["wsgi.input"].read):
            try:
                seen.append(action())
            except OSError as error:
                seen.append(type(error).__name__)
        with open(__file__) as file:
            environ.clear()
            gc.collect()
            seen.append(bool(file.read()))
        os.write(writer, repr(seen).encode())
        sys.exit(0)
    os.close(writer)
    with open(reader, "rb") as report:
        outcome = report.read()
    os.waitpid(child, 0)
    return outcome


def app(environ, start_response):
    kind, _, rest = environ["PATH_INFO"][1:].partition("/")
    if kind == "use":
        body = use(environ, start_response)
    else:
        body = b"%d" % globals()[kind]() if kind else b"hello"
    if rest == "cut":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return cut(body)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def cut(body):
    yield body
    raise RuntimeError("the rest is missing")
