"""A Flask application with the usual features: forms, files, cookies, streams, errors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from flask import Flask, Response, jsonify, redirect, request, send_file, session, stream_with_context
from flask.typing import ResponseReturnValue

app = Flask(__name__)
app.secret_key = "only for tests"


@app.get("/")
def index() -> ResponseReturnValue:
    return "<p>Gr\xfc\xdfe, \u4e16\u754c</p>"


@app.get("/args/<path:rest>")
def args(rest: str) -> ResponseReturnValue:
    return jsonify(rest=rest, query=request.args.to_dict(flat=False), agent=request.user_agent.string)


@app.post("/form")
def form() -> ResponseReturnValue:
    files = {name: [file.filename, hashlib.sha256(file.read()).hexdigest()] for name, file in request.files.items()}
    return jsonify(form=request.form.to_dict(flat=False), files=files)


@app.post("/json")
def echo_json() -> ResponseReturnValue:
    return jsonify(request.get_json())


@app.post("/body")
def body() -> ResponseReturnValue:
    return jsonify(
        size=len(request.get_data()), length=request.content_length, chunked=request.headers.get("X-Chunked")
    )


@app.get("/login/<name>")
def login(name: str) -> ResponseReturnValue:
    session["name"] = name
    return redirect("/whoami")


@app.get("/whoami")
def whoami() -> ResponseReturnValue:
    return str(session.get("name"))


@app.get("/stream")
def stream() -> ResponseReturnValue:
    def lines() -> Iterator[str]:
        for number in range(5):
            yield f"{request.path} {number}\n"

    return Response(stream_with_context(lines()), mimetype="text/plain")


@app.get("/file")
def file() -> ResponseReturnValue:
    return send_file(__file__, mimetype="text/x-python", conditional=True)


@app.get("/error")
def error() -> ResponseReturnValue:
    raise RuntimeError("on purpose")
