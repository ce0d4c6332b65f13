"""Each request starts a coroutine that nothing ends. Memory grows with the requests."""

import threading

from rmeinheld.coroutine import spawn


def listen(news):
    news.wait()


def app(environ, start_response):
    # The mistake: nothing sets the event when the client has gone.
    spawn(listen, threading.Event())
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok\n"]
