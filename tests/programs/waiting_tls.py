"""Serves over TLS with an ssl module that waits in each call."""

import ssl

import rmeinheld
import rmeinheld.running
from rmeinheld import _rmeinheld
from rmeinheld.coroutine import offload, sleep, spawn

CERTIFICATE = ""


class Waiting(ssl.SSLObject):
    def read(self, *arguments):
        sleep(0.003)
        return super().read(*arguments)

    def write(self, *arguments):
        sleep(0.003)
        return super().write(*arguments)

    def unwrap(self):
        sleep(0.003)
        return super().unwrap()


def app(environ, start_response):
    websocket = environ.get("wsgi.websocket")
    if websocket is None:
        body = environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"x" * 200_000, body]

    def send(name):
        for number in range(20):
            websocket.send(f"{name} {number}")

    websocket.accept()
    senders = [spawn(send, "coroutine"), spawn(offload, send, "thread")]
    for message in websocket:
        websocket.send(message)
    for sender in senders:
        sender.join()
    return []


def make_engine(app, listeners, settings, **others):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    context.sslobject_class = Waiting
    sockets = [(listener.socket.fileno(), listener.server_name, listener.server_port) for listener in listeners]
    return _rmeinheld.Server(app, sockets, settings, context)


rmeinheld.running.make_engine = make_engine
rmeinheld.run(app, port=0, silent=False)
