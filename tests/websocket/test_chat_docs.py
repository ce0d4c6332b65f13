"""The code and the configuration of docs/chat.md run as they are."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pages
from frames import FIN, PING, PONG, TEXT, Client, frame, text
from proxying import nginx
from serving import TIMEOUT, Serve, request

EXAMPLES = Path(__file__).parents[2] / "examples"


def blocks(language: str) -> list[str]:
    """Return the blocks of the page in this language."""
    return [block.text for block in pages.blocks(pages.DOCS / "chat.md") if block.language == language]


def test_the_echo_of_the_readme_runs(serve: Serve) -> None:
    (echo,) = (block.text for block in pages.blocks(pages.ROOT / "README.md") if "wsgi.websocket" in block.text)
    with Client(serve(echo)) as client:
        client.send(text("hello"))
        assert client.text() == "hello"


def test_the_echo(serve: Serve) -> None:
    server = serve(blocks("python")[0])
    with server.connect() as connection:
        assert connection.request(request()).body == b"This is an echo over WebSocket.\n"
    with Client(server) as client:
        client.send(text("hello"))
        assert client.text() == "hello"


def test_the_cookie_of_the_handshake(serve: Serve) -> None:
    with Client(serve(blocks("python")[1])) as client:
        assert (client.cookies, client.headers["X-Room"]) == (["guest=7; HttpOnly; Path=/"], "lobby")
        client.send(text("hello"))
        assert client.text() == "hello"


def test_a_slow_client_in_the_room_holds_up_no_other(serve: Serve) -> None:
    # The slow client is closed early in the test, and reads what was sent to it at the end, which may be late.
    server = serve(blocks("python")[2], websocket_close_timeout=120)
    said = "x" * 10_000
    with Client(server) as reader, Client(server, receive_buffer=4096) as slow:
        slow.send(text("here"))
        assert (slow.text(), reader.text()) == ("here", "here")
        # This is far more than the kernel takes.
        for _ in range(2000):
            reader.send(text(said))
            assert reader.text() == said
        while (received := slow.frame()).first == FIN | TEXT:
            assert received.payload == said.encode()
        assert received.payload == b"\x03\xf5too slow"


def test_the_room_of_a_channel(serve: Serve) -> None:
    server = serve(blocks("python")[3])
    with Client(server) as ann, Client(server) as bob:
        # Each is in once it has heard a message of its own.
        for one in (ann, bob):
            one.send(text("here"))
            assert one.text() == "here"
        ann.send(text("hello"))
        bob.send(text("hello"))
        for one in (ann, bob):
            while one.text() != "hello":
                pass


def test_the_configuration_for_nginx_works(serve: Serve, tmp_path: Path) -> None:
    server = serve("app:app", chdir=str(EXAMPLES), forwarded_allow_ips="127.0.0.1", websocket_ping_interval=0.5)
    (configuration,) = blocks("nginx")
    configuration = configuration.replace("server 127.0.0.1:8000", f"server 127.0.0.1:{server.port}")
    # As in the page it is longer than the interval of pings, but the test waits less.
    configuration = configuration.replace("proxy_read_timeout 60s", "proxy_read_timeout 2s")
    found = re.fullmatch(
        r"(.*)^server \{\n    listen 80;\n    location / \{(.*)\n    \}\n\}\n", configuration, re.M | re.S
    )
    assert found
    with nginx(tmp_path, found[1], {"docs": found[2]}) as proxy:
        front = proxy.fronts["docs"]
        with front.connect() as connection:
            for _ in range(2):
                assert b"<title>Chat</title>" in connection.request(request("GET", "/chat/")).body
        with front.connect() as connection:
            connection.send(request("GET", "/events/feed"))
            connection.read_until(b"data: ")
        with Client(front, "/chat/socket?room=lobby&name=Ann") as ann:
            assert json.loads(ann.text())["members"] == ["Ann"]
            assert json.loads(ann.text())["came"] == ["Ann"]
            # Pings keep it open for longer than nginx waits.
            begun = time.monotonic()
            while time.monotonic() - begun < 3:
                received = ann.frame()
                assert received.first == FIN | PING
                ann.send(frame(FIN | PONG, received.payload))
            ann.send(text(json.dumps({"say": "hello"})))
            # Behind pings and the acknowledgement.
            while b'"text": "hello"' not in ann.frame().payload:
                assert time.monotonic() - begun < TIMEOUT
