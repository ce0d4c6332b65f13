"""A driver of a database waits in C, where no patch can reach it. It lets go of the GIL meanwhile, as it should."""

import ctypes

libc = ctypes.CDLL(None)


def query(sql):
    """Stand in for `MySQLdb` and its like: `poll` waits for the answer."""
    libc.poll(None, 0, 800)
    return sql.encode()


def app(environ, start_response):
    rows = query("SELECT * FROM orders") if environ["PATH_INFO"] == "/orders" else b""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [rows + b"\n"]
