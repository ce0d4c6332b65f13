"""SIGUSR2 writes a dump: standalone, in the workers of a service and under Gunicorn, also while a request computes."""

from __future__ import annotations

import os
import re
import signal
import socket

import pytest

from serving import Serve, Server

APP = """
import os, signal, threading, time
from rmeinheld.coroutine import sleep

lock = threading.Lock()

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/spin":
        until = time.monotonic() + 2
        while time.monotonic() < until:
            pass
    if path == "/lock":
        with lock:
            sleep(30)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "%d" % len(str(os.getpid())))])
    return [str(os.getpid()).encode()]
"""
