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


NARROW_PICTURE = os.environ.get("CHAT_NARROW_PICTURE")
"""The path for a picture of the page on a telephone."""


class Page:
    """A page of the browser, driven by the DevTools protocol."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.numbers = itertools.count(1)
        self.answered: list[int] = []
        """The status of each response to the page, once `Network.enable` is sent."""

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send the browser a command. Returns its answer."""
        number = next(self.numbers)
        self.connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (message := json.loads(self.connection.recv(timeout=TIMEOUT))).get("id") != number:
            if message.get("method") == "Network.responseReceived":
                self.answered.append(message["params"]["response"]["status"])
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


def press(page: Page, key: str) -> None:
    """Press and release a key, as a person does: the page cannot tell it from the real one."""
    code = {"Escape": 27, "Enter": 13, "Tab": 9}[key]
    text = {"text": "\r"} if key == "Enter" else {}
    page.command("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, **text)
    page.command("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)


def type_text(page: Page, text: str) -> None:
    """Type into the element that has the focus."""
    page.command("Input.insertText", text=text)


def await_state(page: Page, state: str) -> None:
    """Wait until the page shows this state of its connection."""
    page.wait_for(f"document.getElementById('state').textContent === {json.dumps(state)}")


def test_escape_is_no_way_in_and_the_keyboard_does_the_rest(browser: Browser, serve: Serve) -> None:
    server = serve("app:app", chdir=str(CHAT))
    ann = browser.open(server.url)
    ann.wait_for("document.getElementById('door')?.open")
    for _ in range(3):
        press(ann, "Escape")
    ann.wait_for("!document.getElementById('door').open")
    assert ann.run("[socket, document.getElementById('room').textContent]") == [None, "none"]
    await_state(ann, "not connected")
    # The button has the focus again after the dialog; or it is the first after the heading.
    ann.run("document.getElementById('change').focus(); 0")
    press(ann, "Enter")
    ann.wait_for("document.getElementById('door').open")
    # An empty name is refused by the form.
    press(ann, "Enter")
    assert ann.run("document.getElementById('door').open")
    type_text(ann, "Ann")
    press(ann, "Enter")
    await_state(ann, "connected")
    ann.wait_for("document.activeElement.id === 'text'")
    type_text(ann, "By keyboard alone.")
    press(ann, "Enter")
    ann.wait_for(ann.has("By keyboard alone."))
    # Escape at the door keeps the room.
    ann.run("document.getElementById('change').click(); 0")
    press(ann, "Escape")
    ann.wait_for("!document.getElementById('door').open")
    await_state(ann, "connected")


def test_a_page_leaves_changes_its_room_and_comes_back_after_a_reload(browser: Browser, serve: Serve) -> None:
    server = serve("app:app", chdir=str(CHAT))
    ann, bob = browser.open(server.url), browser.open(server.url)
    ann.come_in("Ann")
    bob.come_in("Bob")
    ann.wait_for(ann.has("Bob has come in."))
    ann.run("document.getElementById('change').click(); document.getElementById('where').value = 'attic'; 0")
    ann.run("document.querySelector('#door form').requestSubmit(); 0")
    ann.wait_for("document.getElementById('room').textContent === 'attic'")
    await_state(ann, "connected")
    bob.wait_for(bob.has("Ann has left."))
    ann.say("Alone here.")
    ann.wait_for(ann.has("Alone here."))
    ann.command("Page.reload")
    ann.wait_for("document.getElementById('state')?.textContent === 'connected'")
    assert ann.run("[room, name]") == ["attic", "Ann"]
    ann.wait_for(ann.has("Alone here."))
    ann.run("document.getElementById('leave').click(); 0")
    await_state(ann, "not connected")
    # After leaving, a reload asks, and still knows the name.
    ann.command("Page.reload")
    ann.wait_for("document.getElementById('door')?.open")
    assert ann.run("document.getElementById('name').value") == "Ann"


def test_the_pages_lead_back_and_ask_for_nothing_that_is_missing(browser: Browser, serve: Serve) -> None:
    server = serve("app:app", chdir=str(CHAT.parent))
    for path in ("/chat/?name=Ann", "/events/"):
        page = browser.open("about:blank")
        page.command("Network.enable")
        page.command("Page.enable")
        page.answered.clear()
        page.command("Page.navigate", url=server.url.rstrip("/") + path)
        page.wait_for("document.getElementById('state')?.textContent === 'connected'")
        assert page.run("getComputedStyle(document.getElementById('back')).display") != "none"
        assert page.run("document.querySelector('a[href=\"../\"]').href") == server.url.rstrip("/") + "/"
        assert [status for status in page.answered if status not in (200, 101)] == []
        assert 200 in page.answered


def test_the_page_fits_on_a_narrow_screen(browser: Browser, serve: Serve) -> None:
    server = serve("app:app", chdir=str(CHAT))
    page = browser.open(server.url + "?name=Ann")
    page.command("Emulation.setDeviceMetricsOverride", width=320, height=568, deviceScaleFactor=1, mobile=True)
    await_state(page, "connected")
    page.say("x" * 300)
    page.wait_for(page.has("x" * 300))
    assert page.run("document.documentElement.scrollWidth") <= 320
    for thing in ("text", "change", "leave", "messages"):
        box = page.run(f"JSON.stringify(document.getElementById('{thing}').getBoundingClientRect())")
        place = json.loads(box)
        assert place["left"] >= 0, thing
        assert place["right"] <= 320, thing
        assert place["width"] > 20, thing
    if NARROW_PICTURE:
        shot = page.command("Page.captureScreenshot", format="png")
        Path(NARROW_PICTURE).write_bytes(base64.b64decode(shot["data"]))
