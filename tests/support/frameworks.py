"""Flask and Django sites, and the checks that every way to serve them has to pass."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving import APPLICATIONS, TIMEOUT, environment_of_child

requests = pytest.importorskip("requests")

FILE = os.urandom(1_500_000)
FILE_HASH = hashlib.sha256(FILE).hexdigest()


def curl(*arguments: str, data: bytes | None = None) -> bytes:
    """The output of curl, which must not fail."""
    program = shutil.which("curl")
    if program is None:
        pytest.skip("curl is not installed (Debian: apt-get install curl)")
    command = [program, "--silent", "--show-error", "--fail", "--max-time", str(int(TIMEOUT)), *arguments]
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True, timeout=2 * TIMEOUT).stdout


def check_flask_with_requests(url: str, session: Any) -> None:
    """Forms, files, JSON, chunked bodies, cookies, ranges and errors."""
    get, post = session.get, session.post
    assert get(url + "/", timeout=TIMEOUT).text == "<p>Gr\xfc\xdfe, \u4e16\u754c</p>"
    answer = get(url + "/args/a b/\xfc", params={"x": ["1", "2"], "y": "\u20ac"}, timeout=TIMEOUT).json()
    assert (answer["rest"], answer["query"]) == ("a b/\xfc", {"x": ["1", "2"], "y": ["\u20ac"]})
    answer = post(url + "/form", data={"a": "\xe4"}, files={"f": ("name", FILE)}, timeout=TIMEOUT).json()
    assert answer == {"form": {"a": ["\xe4"]}, "files": {"f": ["name", FILE_HASH]}}
    assert post(url + "/json", json={"k": [1, None]}, timeout=TIMEOUT).json() == {"k": [1, None]}

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(FILE), 100_000):
            yield FILE[start : start + 100_000]

    answer = post(url + "/body", data=pieces(), timeout=TIMEOUT).json()
    assert (answer["size"], answer["length"]) == (len(FILE), None)
    answer = get(url + "/login/somebody", timeout=TIMEOUT)
    assert (answer.text, answer.history[0].status_code) == ("somebody", 302)
    lines = list(get(url + "/stream", stream=True, timeout=TIMEOUT).iter_lines())
    assert lines == [b"/stream %d" % number for number in range(5)]
    source = (APPLICATIONS / "flask_app.py").read_bytes()
    answer = get(url + "/file", timeout=TIMEOUT)
    assert answer.content == source
    part = get(url + "/file", headers={"Range": "bytes=10-19"}, timeout=TIMEOUT)
    assert (part.status_code, part.content) == (206, source[10:20])
    same = get(url + "/file", headers={"If-None-Match": answer.headers["ETag"]}, timeout=TIMEOUT)
    assert (same.status_code, same.content) == (304, b"")
    assert session.head(url + "/file", timeout=TIMEOUT).headers["Content-Length"] == str(len(source))
    assert session.options(url + "/form", timeout=TIMEOUT).headers["Allow"]
    assert get(url + "/none", timeout=TIMEOUT).status_code == 404
    assert get(url + "/error", timeout=TIMEOUT).status_code == 500


def make_django_site(directory: Path) -> dict[str, str]:
    """A fresh database in which admin:secret may do everything. Returns what a server's environment needs for it."""
    variables = {"DJANGO_SITE_DIRECTORY": str(directory), "DJANGO_SETTINGS_MODULE": "django_site.settings"}
    environment = environment_of_child(directory) | variables | {"DJANGO_SUPERUSER_PASSWORD": "secret"}
    for command in (
        ["migrate", "--verbosity", "0"],
        ["createsuperuser", "--noinput", "--username", "admin", "--email", "admin@example.org"],
    ):
        subprocess.run([sys.executable, "-m", "django", *command], env=environment, check=True, timeout=60)
    return variables


def token_in(page: str) -> str:
    """The CSRF token of a form."""
    match = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    assert match
    return match[1]


def check_djangos_admin(url: str) -> None:
    """Log in, and add and find a user."""
    with requests.Session() as session:
        session.trust_env = False
        page = session.get(url + "/admin/", timeout=TIMEOUT)
        assert page.url.endswith("/admin/login/?next=/admin/")
        form = {"username": "admin", "password": "secret", "csrfmiddlewaretoken": token_in(page.text)}
        wrong = session.post(page.url, data=form | {"password": "wrong"}, timeout=TIMEOUT)
        assert "Please enter the correct username" in wrong.text
        page = session.post(page.url, data=form, timeout=TIMEOUT)
        assert page.history[0].status_code == 302
        assert "Site administration" in page.text
        # A user is added, found, and deleted again.
        page = session.get(url + "/admin/auth/user/add/", timeout=TIMEOUT)
        form = {
            "csrfmiddlewaretoken": token_in(page.text),
            "username": "s\xf8mebody",
            "password1": "a long passphrase",
            "password2": "a long passphrase",
            "usable_password": "true",
        }
        page = session.post(page.url, data=form, timeout=TIMEOUT)
        assert "was added successfully" in page.text
        page = session.get(url + "/admin/auth/user/?q=s\xf8me", timeout=TIMEOUT)
        assert "s\xf8mebody" in page.text
        assert session.post(url + "/admin/logout/", timeout=TIMEOUT).status_code == 403  # without the token
