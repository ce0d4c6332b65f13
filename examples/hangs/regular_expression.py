"""A regular expression tries every way to divide a text that does not match. The module re keeps the GIL meanwhile."""

import re

NAME = re.compile(r"(\w+\s?)+$")


def app(environ, start_response):
    is_name = NAME.match(environ["QUERY_STRING"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"a name\n" if is_name else b"no name\n"]
