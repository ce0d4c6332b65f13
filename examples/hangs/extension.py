"""An extension in C computes, or waits, without letting go of the GIL: no Python code can run anywhere."""

import ctypes

# Unlike CDLL, PyDLL keeps the GIL during a call.
extension = ctypes.PyDLL(None)


def render(document):
    extension.usleep(900_000)
    return document


def app(environ, start_response):
    page = render(b"page\n") if environ["PATH_INFO"] == "/page" else b"ok\n"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [page]
