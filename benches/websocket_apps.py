"""The same two services on each server: /echo sends every message back, /broadcast sends it to all who are there.

A plain request gets what the other benchmarks ask for first.
"""

from __future__ import annotations

import asyncio
import http
import sys
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

HELLO = b"Hello, world!"

# --- environ["wsgi.websocket"]: rmeinheld, and gevent-websocket ------------------------------------------------------

everybody: set[Any] = set()
members: Any = None  # rmeinheld's set with a broadcast of its own
with suppress(ImportError):
    from rmeinheld.websocket import Members

    members = Members()


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """A WSGI application."""
    websocket = environ.get("wsgi.websocket")
    if websocket is None:
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(HELLO)))])
        return [HELLO]
    if environ["PATH_INFO"] == "/echo":
        while (message := websocket.receive()) is not None:
            websocket.send(message)
        return []
    if environ["PATH_INFO"] == "/broadcast" and members is not None:
        members.add(websocket)
        while (message := websocket.receive()) is not None:
            members.broadcast(message)
        return []
    everybody.add(websocket)
    try:
        while (message := websocket.receive()) is not None:
            for one in everybody:
                one.send(message)
    finally:
        everybody.discard(websocket)
    return []


news: Any = None


def channel_app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The broadcast to the clients of all workers, by a channel of rmeinheld."""
    from rmeinheld.channel import Channel

    global news
    websocket = environ.get("wsgi.websocket")
    if websocket is None:
        return app(environ, start_response)
    news = news or Channel("news")
    news.attach(websocket)
    while (message := websocket.receive()) is not None:
        news.publish(message)
    return []


def serve_gevent(port: int) -> None:
    """gevent's server with gevent-websocket's handler."""
    from gevent.pywsgi import WSGIServer
    from geventwebsocket.handler import WebSocketHandler

    WSGIServer(("127.0.0.1", port), app, handler_class=WebSocketHandler, log=None, backlog=4096).serve_forever()


# --- uWSGI -----------------------------------------------------------------------------------------------------------


def uwsgi_app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """uWSGI's own functions, in its gevent mode. It has no way to send to another connection."""
    import uwsgi

    if "HTTP_UPGRADE" not in environ:
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(HELLO)))])
        return [HELLO]
    uwsgi.websocket_handshake(environ["HTTP_SEC_WEBSOCKET_KEY"], environ.get("HTTP_ORIGIN", ""))
    try:
        while True:
            uwsgi.websocket_send(uwsgi.websocket_recv())
    except OSError:
        return []


# --- asyncio: websockets ---------------------------------------------------------------------------------------------


def serve_websockets(port: int) -> None:
    """The `websockets` library, without compression, as the client asks for none."""
    from websockets.asyncio.server import broadcast, serve
    from websockets.exceptions import ConnectionClosed

    async def handler(connection: Any) -> None:
        try:
            if connection.request.path == "/echo":
                async for message in connection:
                    await connection.send(message)
                return
            everybody.add(connection)
            async for message in connection:
                broadcast(everybody, message)
        except ConnectionClosed:
            pass
        finally:
            everybody.discard(connection)

    def hello(connection: Any, request: Any) -> Any:
        if "Upgrade" not in request.headers:
            return connection.respond(http.HTTPStatus.OK, HELLO.decode())
        return None

    async def main() -> None:
        async with serve(
            handler, "127.0.0.1", port, process_request=hello, compression=None, ping_interval=None, backlog=4096
        ):
            await asyncio.Future()

    asyncio.run(main())


# --- ASGI: Granian ---------------------------------------------------------------------------------------------------


async def asgi_app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """An ASGI application."""
    if scope["type"] == "http":
        headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(HELLO)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": HELLO})
        return
    if scope["type"] != "websocket":
        return
    await receive()
    await send({"type": "websocket.accept"})
    is_echo = scope["path"] == "/echo"
    if not is_echo:
        everybody.add(send)
    try:
        while (event := await receive())["type"] == "websocket.receive":
            answer = {"type": "websocket.send", "text": event["text"]}
            for one in (send,) if is_echo else tuple(everybody):
                await one(answer)
    finally:
        everybody.discard(send)


if __name__ == "__main__":
    {"gevent": serve_gevent, "websockets": serve_websockets}[sys.argv[1]](int(sys.argv[2]))
