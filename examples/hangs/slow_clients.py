"""Clients fetch an export and read it slowly, or stop to read. Each keeps its request, and whatever that holds."""

EXPORT = b"row\n" * (4 << 20)


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/csv")])
    return [EXPORT] if environ["PATH_INFO"] == "/export" else [b"ok\n"]
