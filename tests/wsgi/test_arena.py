"""The entry for HttpArena in benches/arena: the checks of its validate.sh, and the files that it reads."""

from __future__ import annotations

import gzip
import json
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import frames
from databases import PostgreSQL, running
from serving import Serve, Server, request

ARENA = Path(__file__).resolve().parents[2] / "benches" / "arena"
PROFILES = {
    "baseline", "pipelined", "limited-conn", "json", "json-comp", "json-tls", "upload", "api-4", "api-16", "static",
    "async-db", "echo-ws",
}  # fmt: skip
ITEM = {"name": "Alpha", "category": "tools", "active": True, "tags": ["new"], "rating": {"score": 48, "count": 127}}
SUM = "/baseline11?a=13&b=42"


def serve_arena(serve: Serve, limit: int) -> Server:
    return serve("app:app", chdir=str(ARENA), limit_request_body=limit)


@pytest.fixture(scope="module")
def server(serve_module: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("data")
    items = [{"id": number, **ITEM, "price": 10 + number, "quantity": 3} for number in range(50)]
    (directory / "dataset.json").write_text(json.dumps(items))
    (directory / "reset.css").write_bytes(b"body {}" * 1000)
    (directory / "reset.css.gz").write_bytes(gzip.compress(b"body {}" * 1000))
    (directory / "regular.woff2").write_bytes(b"\0" * 20)
    limit = tomllib.loads((ARENA / "rmeinheld.toml").read_text())["limit_request_body"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATASET_PATH", str(directory / "dataset.json"))
        patch.setenv("STATIC_PATH", str(directory))
        yield serve_arena(serve_module, limit)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (request("GET", SUM), b"55"),
        (request("POST", SUM, "Content-Type: text/plain", body=b"20"), b"75"),
        (request("POST", SUM, "Content-Type: text/plain", chunks=[b"2", b"0"]), b"75"),
        (request("GET", "/baseline11?a=731&b=264"), b"995"),
        (request("GET", "/pipeline"), b"ok"),
    ],
)
def test_numbers_are_added_whole_and_in_pieces(server: Server, sent: bytes, expected: bytes) -> None:
    for step in (None, 7):
        (response,) = server.exchange(sent, step=step)
        assert (response.status, response.body) == (200, expected)
        assert response.header("Content-Type") == "text/plain"


@pytest.mark.parametrize(("count", "factor"), [(12, 3), (22, 7), (50, 5)])
def test_items_have_their_totals(server: Server, count: int, factor: int) -> None:
    response = server.get(f"/json/{count}?m={factor}")
    assert response.header("Content-Type") == "application/json"
    assert response.header("Content-Encoding") is None
    answer = json.loads(response.body)
    assert answer["count"] == len(answer["items"]) == count
    assert all(item["total"] == item["price"] * item["quantity"] * factor for item in answer["items"])
    compressed = server.get(f"/json/{count}?m={factor}", "Accept-Encoding: gzip, br\r\n")
    assert compressed.header("Content-Encoding") == "gzip"
    assert json.loads(gzip.decompress(compressed.body)) == answer


@pytest.mark.parametrize("size", [17, 512_000, 20 * 1024 * 1024])
def test_uploaded_bytes_are_counted(server: Server, size: int) -> None:
    (response,) = server.exchange(request("POST", "/upload", body=bytes(size)), ["POST"])
    assert response.body == str(size).encode()


def test_files_come_compressed_only_to_clients_that_accept_it(server: Server) -> None:
    plain = server.get("/static/reset.css")
    assert plain.header("Content-Type") == "text/css"
    assert plain.header("Content-Encoding") is None
    compressed = server.get("/static/reset.css", "Accept-Encoding: br;q=1, gzip;q=0.8\r\n")
    assert compressed.header("Content-Encoding") == "gzip"
    assert gzip.decompress(compressed.body) == plain.body
    font = server.get("/static/regular.woff2", "Accept-Encoding: br;q=1, gzip;q=0.8\r\n")
    assert (font.header("Content-Type"), font.header("Content-Encoding")) == ("font/woff2", None)
    for missing in ("/static/nonexistent.txt", "/static/../app.py", "/static/", "/nothing"):
        assert server.get(missing).status == 404


def test_messages_of_a_websocket_come_back(server: Server) -> None:
    payload = os.urandom(256)
    with frames.Client(server, "/ws") as client:
        client.send(frames.text("hello") + frames.frame(frames.FIN | frames.BINARY, payload))
        assert client.text() == "hello"
        assert client.frame() == (frames.FIN | frames.BINARY, payload)
        client.send(frames.close())
        client.expect_close(1000)
    assert server.get("/ws").status == 400


def test_items_come_from_postgresql(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    psycopg = pytest.importorskip("psycopg")
    pytest.importorskip("psycopg_pool")
    with running(PostgreSQL) as database, psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE items AS SELECT i AS id, 'Alpha' AS name, 'tools' AS category, i AS price, 3 AS quantity,"
            " true AS active, '[\"new\"]'::jsonb AS tags, 48 AS rating_score, 127 AS rating_count"
            " FROM generate_series(1, 200) i"
        )
        monkeypatch.setenv("DATABASE_URL", database.dsn)
        server = serve_arena(serve, 0)
        answer = json.loads(server.get("/async-db?min=20&max=150&limit=18").body)
        assert answer["count"] == len(answer["items"]) == 18
        expected = ITEM | {"quantity": 3}
        assert all(20 <= item["price"] <= 150 and item | expected == item for item in answer["items"])
        assert json.loads(server.get("/async-db?min=9999&max=9999&limit=50").body) == {"items": [], "count": 0}
        assert len(json.loads(server.get("/async-db?max=1000&limit=500").body)["items"]) == 50
        database.kill()
        assert json.loads(server.get("/async-db").body) == {"items": [], "count": 0}


def test_the_entry_has_the_files_that_the_benchmark_reads() -> None:
    entry = json.loads((ARENA / "meta.json").read_text())
    keys = {"display_name", "language", "type", "engine", "description", "repo", "enabled", "tests", "maintainers"}
    assert set(entry) == keys
    assert set(entry["tests"]) == PROFILES
    assert entry["type"] in ("production", "tuned", "engine")
    dockerfile = (ARENA / "Dockerfile").read_text()
    assert "EXPOSE 8080 8081" in dockerfile
    assert "run.sh" in dockerfile
