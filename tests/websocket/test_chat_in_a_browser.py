"""The page of the chat in a real browser: two people talk, also after a restart of the server."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving import TIMEOUT, Process, Serve

pytest.importorskip("websockets", reason="wheels of this library are missing for this Python")
from websockets.sync.client import ClientConnection, connect

CHAT = Path(__file__).parents[2] / "examples" / "chat"

PICTURE = os.environ.get("CHAT_PICTURE")
"""The path for a picture of the page, such as the one in the documentation."""


class Page:
    """A page of the browser, driven by the DevTools protocol."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.numbers = itertools.count(1)

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send the browser a command. Returns its answer."""
        number = next(self.numbers)
        self.connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (message := json.loads(self.connection.recv(timeout=TIMEOUT))).get("id") != number:
            pass
        assert "error" not in message, message
        result: dict[str, Any] = message["result"]
        return result

    def run(self, script: str) -> Any:
        """Return the value of an expression."""
        result = self.command("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, script: str, seconds: float = TIMEOUT) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < deadline, (script, self.run("document.body.innerText"))
            time.sleep(0.02)

    def come_in(self, name: str) -> None:
        """Fill in the form for name and room."""
        self.wait_for("document.getElementById('door')?.open")
        self.run(f"document.getElementById('name').value = {json.dumps(name)}")
        self.run("document.querySelector('#door form').requestSubmit(); 0")
        self.wait_for("document.getElementById('state').textContent === 'connected'")

    def say(self, text: str) -> None:
        """Write and send a message."""
        self.run(f"document.getElementById('text').value = {json.dumps(text)}")
        self.run("document.getElementById('say').requestSubmit(); 0")

    def has(self, text: str) -> str:
        """Return an expression for whether a message or note is on the page."""
        messages = "[...document.querySelectorAll('#messages li')]"
        return f"{messages}.some((one) => one.textContent.includes({json.dumps(text)}))"


class Browser(Process):
    """A headless Chromium. Each page has a context of its own, as in another browser."""

    def __init__(self, program: str, directory: Path) -> None:
        profile = directory / "profile"
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        options += [f"--user-data-dir={profile}", "--remote-debugging-port=0", "--window-size=900,620", "about:blank"]
        super().__init__([program, *options], directory, {**os.environ, "HOME": str(directory)})
        self.port = int(self.wait_for_log(r"DevTools listening on ws://127\.0\.0\.1:(\d+)/", timeout=60)[1])
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/json/version") as answer:
            self.control = Page(connect(json.load(answer)["webSocketDebuggerUrl"], max_size=None, legacy=True))

    def open(self, url: str) -> Page:
        """A page in a context of its own."""
        context = self.control.command("Target.createBrowserContext")["browserContextId"]
        target = self.control.command("Target.createTarget", url=url, browserContextId=context)["targetId"]
        address = f"ws://127.0.0.1:{self.port}/devtools/page/{target}"
        return Page(connect(address, max_size=None, legacy=True))


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """A Chromium, where there is one."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("needs Chromium (apt install chromium)")
    browser = Browser(program, tmp_path)
    yield browser
    browser.kill()


def test_two_browsers_talk_and_reconnect_after_a_restart(browser: Browser, serve: Serve) -> None:
    server = serve("app:app", chdir=str(CHAT), graceful_timeout=3)
    ann, bob = browser.open(server.url), browser.open(server.url)
    ann.come_in("Ann")
    bob.come_in("Bob")
    ann.wait_for(ann.has("Bob has come in."))
    assert bob.run("document.getElementById('members').innerText") == "Ann\nBob"

    ann.say("Good morning!")
    bob.wait_for(bob.has("Good morning!"))
    for who, text in ((ann, "Is anybody coming for lunch?"), (bob, "Yes: at noon, in the caf\u00e9.")):
        who.say(text)
        for page in (ann, bob):
            page.wait_for(page.has(text))
    if PICTURE:
        shot = bob.command("Page.captureScreenshot", format="png")
        Path(PICTURE).write_bytes(base64.b64decode(shot["data"]))

    bob.say("<img src=x onerror=\"document.title='broken in'\"> and <b>tags</b>")
    ann.wait_for(ann.has("<b>tags</b>"))
    assert ann.run("document.title") == "Chat"
    assert ann.run("document.querySelector('#messages li.mine b').textContent") == "Ann"
    # The form comes back if the name is taken.
    other = browser.open(server.url)
    other.wait_for("document.getElementById('door')?.open")
    other.run("document.getElementById('name').value = 'Ann'")
    other.run("document.querySelector('#door form').requestSubmit(); 0")
    other.wait_for("document.getElementById('problem').textContent === 'this name is taken'")

    server.stop()
    for page in (ann, bob):
        page.wait_for("document.getElementById('state').className === 'closed'")
        assert page.run("document.getElementById('text').disabled")
    serve("app:app", chdir=str(CHAT), bind=f"127.0.0.1:{server.port}")
    for page in (ann, bob):
        page.wait_for("document.getElementById('state').textContent === 'connected'", 60)
        # The history was in the memory of the old server.
        page.wait_for(page.has("Messages may be missing here."))
    bob.say("Still there?")
    ann.wait_for(ann.has("Still there?"))
    ann.say("Of course.")
    bob.wait_for(bob.has("Of course."))


def test_a_page_retries_while_its_lost_connection_still_holds_the_name(browser: Browser, serve: Serve) -> None:
    server = serve("app:app", chdir=str(CHAT))
    ann = browser.open(server.url)
    ann.come_in("Ann")
    # The page knows that its connection is lost. The server does not yet, so the name is still taken.
    ann.run("window.lost = socket; socket.onclose({ code: 1006 }); lost.onclose = lost.onmessage = null; 0")
    ann.wait_for("tries > 1")
    assert not ann.run("document.getElementById('door').open")
    ann.run("lost.close(); 0")
    ann.wait_for("document.getElementById('state').textContent === 'connected'")
    ann.say("Here again.")
    ann.wait_for(ann.has("Here again."))
