"""Two requests take two locks in opposite order, and each waits for the other for ever."""

import threading
import time

audit = threading.Lock()
accounts = threading.Lock()


def transfer():
    with accounts:
        time.sleep(0.1)  # a query
        with audit:
            return b"transferred\n"


def report():
    with audit:
        time.sleep(0.1)  # a query
        with accounts:
            return b"reported\n"


def app(environ, start_response):
    result = transfer() if environ["PATH_INFO"] == "/transfer" else report()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [result]
