"""Sends responses and messages without end, and prints how far each came."""

import ssl
import tempfile

import rmeinheld
import rmeinheld.running
from rmeinheld import _rmeinheld
from rmeinheld.websocket import ConnectionClosed

SIZE = 12_000_000
CERTIFICATE = None
OPTIONS = {}


class Items:
    def __init__(self, path, size):
        self.path, self.size, self.left = path, size, SIZE

    def __iter__(self):
        return self

    def __next__(self):
        if not self.left:
            raise StopIteration
        self.left -= self.size
        return b"x" * self.size

    def close(self):
        print("closed", self.path, "with", self.left, "left", flush=True)


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/messages":
        try:
            while True:
                environ["wsgi.websocket"].send(bytes(100_000))
        except ConnectionClosed as error:
            print("closed", path, "with", error, flush=True)
        return []
    start_response("200 OK", [("Content-Length", str(SIZE))])
    if path == "/file":
        file = tempfile.TemporaryFile()
        file.truncate(SIZE)
        return environ["wsgi.file_wrapper"](file)
    return Items(path, SIZE if path == "/whole" else 4000)


def make_engine(app, listeners, settings, **others):
    context = None
    if CERTIFICATE:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
    sockets = [(listener.socket.fileno(), listener.server_name, listener.server_port) for listener in listeners]
    return _rmeinheld.Server(app, sockets, settings, context)


rmeinheld.running.make_engine = make_engine
rmeinheld.run(app, port=0, silent=False, **OPTIONS)
