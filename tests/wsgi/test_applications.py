"""Unmodified applications (Flask, Django, httpbin) served to unmodified clients (requests, httpx, curl)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from frameworks import FILE, FILE_HASH, check_djangos_admin, check_flask_with_requests, curl, make_django_site
from serving import APPLICATIONS, TIMEOUT, Serve, Server

httpx = pytest.importorskip("httpx")
requests = pytest.importorskip("requests")

DEMO = Path(__file__).parents[2] / "examples" / "demo"


# --- Flask -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flask(serve_module: Serve) -> Server:
    """The Flask application."""
    pytest.importorskip("flask")
    return serve_module("flask_app:app")


def test_flask_is_served_to_requests(flask: Server) -> None:
    with requests.Session() as session:
        session.trust_env = False
        for _ in range(2):  # the second time on a connection that was kept
            check_flask_with_requests(flask.url, session)


def test_flask_is_served_to_httpx(flask: Server) -> None:
    with httpx.Client(base_url=flask.url, timeout=TIMEOUT, trust_env=False) as client:
        assert client.get("/").text == "<p>Gr\xfc\xdfe, \u4e16\u754c</p>"
        answer = client.post("/form", data={"a": "b"}, files={"f": ("name", FILE)}).json()
        assert answer["files"]["f"][1] == FILE_HASH
        chunks = (FILE[start : start + 100_000] for start in range(0, len(FILE), 100_000))
        assert client.post("/body", content=chunks).json()["size"] == len(FILE)
        with client.stream("GET", "/stream") as response:
            assert list(response.iter_lines()) == [f"/stream {number}" for number in range(5)]
        assert client.get("/login/somebody", follow_redirects=True).text == "somebody"
        assert client.get("/error").status_code == 500


def test_flask_is_served_to_curl(flask: Server, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(FILE)
    assert curl(flask.url + "/").decode() == "<p>Gr\xfc\xdfe, \u4e16\u754c</p>"
    assert curl("--http1.0", flask.url + "/stream").count(b"\n") == 5
    # curl asks with Expect: 100-continue before it sends as much.
    answer = json.loads(curl("--form", f"f=@{file};filename=name", flask.url + "/form"))
    assert answer["files"]["f"] == ["name", FILE_HASH]
    chunked = ["--header", "Transfer-Encoding: chunked", "--data-binary", "@-"]
    assert json.loads(curl(*chunked, flask.url + "/body", data=FILE))["size"] == len(FILE)
    expecting = ["--header", "Expect: 100-continue", "--data-binary", "@-"]
    assert json.loads(curl(*expecting, flask.url + "/body", data=FILE))["size"] == len(FILE)
    assert curl("--location", "--cookie", "", flask.url + "/login/somebody") == b"somebody"
    assert len(curl(*[flask.url + "/"] * 5)) == 5 * len("<p>Gr\xfc\xdfe, \u4e16\u754c</p>".encode())


# --- Django ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def django(serve_module: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The Django project."""
    pytest.importorskip("django")
    variables = make_django_site(tmp_path_factory.mktemp("django"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield serve_module("django_site.wsgi:application")


def test_djangos_admin_is_served_to_requests(django: Server) -> None:
    check_djangos_admin(django.url)


def test_djangos_sessions_are_kept_apart(django: Server) -> None:
    faults: list[BaseException] = []

    def visit() -> None:
        try:
            with requests.Session() as session:
                session.trust_env = False
                for number in range(1, 6):
                    answer = session.get(django.url + "/visits", timeout=2 * TIMEOUT).json()
                    assert answer == {"visits": number}
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=visit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, faults


def test_djangos_transactions_wait_for_each_other_and_hold_up_no_other_request(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty requests hold a transaction for 50 ms each, and write their sessions, in one sqlite database."""
    pytest.importorskip("django")
    for name, value in make_django_site(tmp_path).items():
        monkeypatch.setenv(name, value)
    server = serve(
        """
        from rmeinheld import patch
        patch.patch_all()
        from django_site.wsgi import application as app
        """
    )
    answers: list[int] = []

    def get(path: str) -> Any:
        with requests.Session() as session:
            session.trust_env = False
            return session.get(server.url + path, timeout=2 * TIMEOUT)

    def transact(number: int) -> None:
        answers.append(get(f"/transact/{number}").json()["number"])
        answers.append(get("/visits").json()["visits"])

    waits: list[float] = []
    threads = [threading.Thread(target=transact, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        started = time.monotonic()
        assert get("/stream").status_code == 200
        waits.append(time.monotonic() - started)
    assert sorted(answers) == sorted([*range(1, 21), *[1] * 20]), server.log()
    # A lock that is waited for in SQLite stops everything for 5 s and more.
    assert sorted(waits)[len(waits) // 2] < 0.2 and max(waits) < 2, waits


def test_django_is_served_to_httpx_and_curl(django: Server, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(FILE)
    source = (APPLICATIONS / "django_site" / "urls.py").read_bytes()
    lines = b"".join(b"line %d\n" % number for number in range(5))
    with httpx.Client(base_url=django.url, timeout=TIMEOUT, trust_env=False) as client:
        answer = client.post("/upload", data={"note": "\xe4"}, files={"file": ("name", FILE)}).json()
        assert answer == {"sha256": FILE_HASH, "kind": "TemporaryUploadedFile", "note": "\xe4"}
        assert client.get("/stream").content == lines
        assert client.get("/file").content == source
        assert [client.get("/visits").json()["visits"] for _ in range(3)] == [1, 2, 3]
        assert client.get("/none").status_code == 404
    answer = json.loads(curl("--form", "note=x", "--form", f"file=@{file}", django.url + "/upload"))
    assert answer["sha256"] == FILE_HASH
    assert curl(django.url + "/stream") == lines
    assert curl(django.url + "/file") == source


# --- httpbin ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def httpbin(serve_module: Serve) -> Server:
    """httpbin from PyPI, an application that exercises HTTP."""
    pytest.importorskip("httpbin")
    return serve_module("httpbin:app")


def test_httpbin_is_served_to_requests(httpbin: Server) -> None:
    with requests.Session() as session:
        session.trust_env = False
        get = session.get
        assert get(httpbin.url + "/get", params={"a": "b"}, timeout=TIMEOUT).json()["args"] == {"a": "b"}
        assert session.post(httpbin.url + "/post", data={"a": "b"}, timeout=TIMEOUT).json()["form"] == {"a": "b"}
        for method in ("put", "patch", "delete"):
            assert session.request(method, f"{httpbin.url}/{method}", json=[1], timeout=TIMEOUT).json()["json"] == [1]
        for coding in ("gzip", "deflate"):
            assert get(f"{httpbin.url}/{coding}", timeout=TIMEOUT).json()["method"] == "GET"
        for status in (200, 204, 304, 404, 418, 500, 503):
            assert get(f"{httpbin.url}/status/{status}", timeout=TIMEOUT).status_code == status
        assert get(httpbin.url + "/redirect/3", timeout=TIMEOUT).url == httpbin.url + "/get"
        assert get(httpbin.url + "/cookies/set?a=b", timeout=TIMEOUT).json() == {"cookies": {"a": "b"}}
        assert get(httpbin.url + "/basic-auth/user/pass", auth=("user", "pass"), timeout=TIMEOUT).ok
        assert len(get(httpbin.url + "/stream-bytes/50000?seed=1", timeout=TIMEOUT).content) == 50_000
        assert len(get(httpbin.url + "/bytes/50000", timeout=TIMEOUT).content) == 50_000
        assert len(get(httpbin.url + "/stream/20", timeout=TIMEOUT).text.splitlines()) == 20
        assert get(httpbin.url + "/range/100", headers={"Range": "bytes=5-9"}, timeout=TIMEOUT).text == "fghij"
        assert get(httpbin.url + "/ip", timeout=TIMEOUT).json() == {"origin": "127.0.0.1"}
        assert get(httpbin.url + "/image/png", timeout=TIMEOUT).content.startswith(b"\x89PNG")
        headers = get(httpbin.url + "/response-headers", params={"X-A": "b"}, timeout=TIMEOUT).headers
        assert headers["X-A"] == "b"
        assert session.post(httpbin.url + "/post", data=b"onetwo", timeout=TIMEOUT).json()["data"] == "onetwo"
        # httpbin itself takes chunked requests from no server but Gunicorn.
        body = (piece for piece in (b"one", b"two"))
        assert session.post(httpbin.url + "/post", data=body, timeout=TIMEOUT).status_code == 501


def test_httpbin_is_served_to_httpx(httpbin: Server) -> None:
    with httpx.Client(base_url=httpbin.url, timeout=TIMEOUT, trust_env=False) as client:
        assert client.get("/get", params={"a": "b"}).json()["args"] == {"a": "b"}
        assert client.post("/post", files={"f": b"data"}).json()["files"] == {"f": "data"}
        assert client.get("/brotli").status_code in (200, 500)  # 500 without a brotli module
        assert client.head("/get").content == b""
        assert client.get("/digest-auth/auth/user/pass", auth=httpx.DigestAuth("user", "pass")).status_code == 200
        assert client.get("/absolute-redirect/2", follow_redirects=True).status_code == 200


def test_httpbin_is_served_to_curl(httpbin: Server) -> None:
    assert json.loads(curl(httpbin.url + "/get?a=b"))["args"] == {"a": "b"}
    assert json.loads(curl("--request", "PUT", "--data", "x=y", httpbin.url + "/put"))["form"] == {"x": "y"}
    assert json.loads(curl("--compressed", httpbin.url + "/gzip"))["gzipped"] is True
    assert curl("--head", httpbin.url + "/get").startswith(b"HTTP/1.1 200 ")
    assert curl("--range", "0-4", httpbin.url + "/range/100") == b"abcde"


# --- the demo --------------------------------------------------------------------------------------------------------


def test_the_demo_shows_500_requests_at_once_on_one_thread(serve: Serve) -> None:
    pytest.importorskip("flask")
    server = serve("app:app", chdir=str(DEMO))
    with httpx.Client(base_url=server.url, timeout=2 * TIMEOUT, trust_env=False) as client:
        assert "Send 500 requests" in client.get("/").text
        assert "rmeinheld" in client.get("/hello").text
        answer = client.put("/upload", content=FILE).json()
        assert (answer["bytes"], answer["sha256"]) == (len(FILE), FILE_HASH)
        with client.stream("GET", "/stream") as response:
            assert next(response.iter_lines()).endswith("line 1 of 10")
        burst = client.post("/burst").json()
        assert (burst["requests"], burst["answered"], burst["most_at_once"]) == (500, 500, 500)
        assert len(burst["os_threads"]) == 1
        assert 2 <= burst["seconds"] < 10
        assert client.get("/counter").json()["running"] == 0
