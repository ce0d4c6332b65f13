"""Unmodified libraries that bring WebSocket to WSGI themselves. Each echoes under its own path."""

from __future__ import annotations

from rmeinheld import patch

patch.patch_all()

from collections.abc import Iterable  # noqa: E402
from typing import Any  # noqa: E402
from wsgiref.types import StartResponse, WSGIApplication  # noqa: E402

import django  # noqa: E402
import simple_websocket  # noqa: E402
from django.conf import settings  # noqa: E402
from django.core.handlers.wsgi import WSGIHandler  # noqa: E402
from django.http import HttpRequest, HttpResponse  # noqa: E402
from django.urls import path  # noqa: E402
from flask import Flask  # noqa: E402
from flask_sock import Sock  # noqa: E402
from flask_socketio import SocketIO, emit  # noqa: E402


def echo(websocket: Any) -> None:
    """Sends messages back, and answers "close" with a close."""
    while (message := websocket.receive()) != "close":
        websocket.send(message)
    websocket.close(4001, "as you wish")


# --- Flask -----------------------------------------------------------------------------------------------------------

flask_app = Flask(__name__)
sock = Sock(flask_app)
sock.route("/flask-sock")(echo)

# Without async_mode engineio takes eventlet or gevent where it finds them.
socketio = SocketIO(flask_app, async_mode="threading")


@socketio.on("say")  # type: ignore[untyped-decorator, unused-ignore]
def say(data: Any) -> str:
    """Sends the data to all clients, and acknowledges it."""
    emit("said", data, broadcast=True)
    return "ok"


# --- Django ----------------------------------------------------------------------------------------------------------


def view(request: HttpRequest) -> HttpResponse:
    """A view that does not return a response."""
    websocket = simple_websocket.Server.accept(request.META)
    try:
        echo(websocket)
    except simple_websocket.ConnectionClosed:
        pass
    # flask-sock does the same under Gunicorn.
    raise StopIteration


urlpatterns = [path("django", view)]


def make_django() -> Any:
    """A site with one view. Errors pass through, since StopIteration has to."""
    settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], DEBUG_PROPAGATE_EXCEPTIONS=True)
    django.setup()
    return WSGIHandler()


django_app = make_django()

# --- without a framework ---------------------------------------------------------------------------------------------


def plain(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """simple-websocket in plain WSGI, with its own pings."""
    websocket = simple_websocket.Server.accept(environ, ping_interval=25)
    try:
        echo(websocket)
    except simple_websocket.ConnectionClosed:
        pass
    return []


APPLICATIONS: dict[str, WSGIApplication] = {"/django": django_app, "/simple-websocket": plain}


def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """Calls the application of the path."""
    return APPLICATIONS.get(environ["PATH_INFO"], flask_app)(environ, start_response)
