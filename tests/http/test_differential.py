"""The same streams of requests read by this server, by h11 and by Gunicorn: those of the corpus, and generated ones.

differential.py says what a difference means, and differences.py lists the known ones. The generated streams are the
same in each run. More and other ones: RMEINHELD_DIFFERENTIAL_STREAMS=100000, perhaps with --hypothesis-seed; -rP shows
the counts.
"""

from __future__ import annotations

import os
from typing import Protocol

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from corpus_cases import ALL
from differences import KNOWN
from differential import MARKER, Census, Difference, End, Ours, Request, Seen, compare, read_by_gunicorn, read_by_h11
from serving import Serve, request

WANTED = os.environ.get("RMEINHELD_DIFFERENTIAL_STREAMS")

STREAMS = 5000
"""Number of generated streams by default, which takes about 20 seconds."""

LONGEST = 20_000
"""Bytes of the streams of the corpus that are taken: longer ones are about limits, which differ between servers."""


@pytest.fixture(scope="module")
def reader(serve_module: Serve) -> Ours:
    """The server as a reader of streams."""
    return Ours(lambda: serve_module("corpus_app:app", permit_connect=True))


# --- what streams are made of ----------------------------------------------------------------------------------------


def mostly(usual: str, *others: str, share: float = 0.04) -> st.SearchStrategy[str]:
    """The usual text, or in this share of the cases one of the others."""
    return st.sampled_from((usual,) * round(len(others) * (1 - share) / share) + others)


METHODS = mostly(
    "GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "CONNECT", "get", "Get", "M-SEARCH", "X", "!#$%&'*+-.^_`|~",
    "", "G@T", "GET:", "G\tT", "G\xc4T", "GETGETGETGETGETGETGETGET", "\x00GET", " GET", "\r\nGET", "\nGET",
    "\r\n\r\nGET",
)  # fmt: skip
TARGETS = mostly(
    "/", "/path?a=b", "*", "/%41%zz", "//a/b", "/a#b", "/a b", "", "/\x80", "/\x7f", "/\x00", "/\t", "a", "?a",
    "a:80", "[::1]:80", "a:", ":80", "http://b", "http://b/?c", "HTTP://b:80/c", "https://b?c", "http://",
    "http:///c", "ftp://b/", "http://u@b/", "http://b#c", "http://[::1]/", "http://b:x/", "http:/b", "/http://b/",
    '/"<>^`{|}\\', "/\xc3\xa9",
)  # fmt: skip
VERSIONS = mostly(
    "HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "HTTP/1.9", "HTTP/2.0", "HTTP/0.9", "HTTP/1.10", "HTTP/01.1", "HTTP/1",
    "http/1.1", "HTTP/1,1", "HTTP/ 1.1", "HTTP/+1.1", "HTTP/1.1 ", "HTTP/1.1\t", "HTTPS/1.1", "", "HTTP/1.1 HTTP/1.1",
)  # fmt: skip
SPACES = mostly(" ", "  ", "\t", "\x0b", "\x0c", "\xa0", "", "\r", "\x00")
LINE_ENDS = mostly("\r\n", "\n", "\r", "\r\r\n", "\n\r", "\r\n ", "\r\n\t", "\r\n\r\n", " \r\n", "")
AROUND = mostly(" ", "", "\t", "  ", " \t ", "\x0b", "\x0c", "\xa0", "\x85", "\x00", "\r\n ", "\x1f")
AFTER = mostly("", " ", "\t", " \t", "\x0b", "\xa0", "\x00", "\r", "\r\n ")
NAMES = mostly(
    "X-Other", "Host", "Content-Length", "Transfer-Encoding", "Connection", "Expect", "Content-Type", "Cookie",
    "Upgrade", "content-length", "TRANSFER-ENCODING", "Content_Length", "Transfer_Encoding", "X_Other", "Proxy",
    "x-other", "Te", "Content-Length ", "Transfer-Encoding\t", " Content-Length", "Content-Length\x00",
    "Content\x0b-Length", "\xc4", "", "(a)", "a b", "!#$%&'*+-.^_`|~", "Content-Leng\xdf", "Trailer",
    "X-Forwarded-For", "Keep-Alive", "Proxy-Connection", share=0.6,
)  # fmt: skip
COLONS = mostly(":", " :", "::", "", "\t:", ";")
VALUES = st.sampled_from((
    "", "a", "a b", "a, b", '"a"', "\x80\xff", "a\x01", "a\x7f", "a\x00", "a\rb", "a\nb", "a\r\n b", "a\tb", "a\x0bb",
    "close", "keep-alive", "Close", "close, x", "x,close", "keep-alive, close", "upgrade", "100-continue",
    "100-Continue", "200-ok", "100-continue, x", "close\x0b", "b:80", "b, c", "[::1]", "u@b", "b/c", "b:x",
))  # fmt: skip
LENGTHS = mostly(
    "{}", "", "+{}", "-{}", "0{}", "{} ", "{},{}", "{}, {}", "{}, 0", "{}.0", "0x{}", "{}_0", "{};", "{} {}",
    "\x0b{}", "\xb2", "{}" + "0" * 20, "1", "0", "7", '"{}"', "{}\x00", "00000000000000000000000{}", "{},", ",{}",
)  # fmt: skip
CODINGS = mostly(
    "chunked", "Chunked", "CHUNKED", "gzip, chunked", "chunked, gzip", "gzip", "identity", "identity, chunked",
    "chunked,", ",chunked", ", ,chunked", "chunked, chunked", "chunked;a=b", '"chunked"', "xchunked",
    "chunked chunked", "\x0bchunked", "chunked\x0b", "chunked\x00", "", " ", "chunke\xe4d", "deflate, chunked",
    "chunked\r\n ", "\r\n chunked", "chunked\xa0",
)  # fmt: skip
SIZES = mostly(
    "{:x}", "{:X}", "0{:x}", "0000000000000000000{:x}", "000000000000000000000000000{:x}", "+{:x}", "-{:x}", "0x{:x}",
    " {:x}", "{:x} ", "{:x}\t", "{:x}_0", "", "g", "{:x}\x0b", "{:x}\x00", "F" * 16, "1" + "0" * 16, "{:x}\r",
    "\n{:x}",
)  # fmt: skip
EXTENSIONS = mostly(
    "", ";a", ";a=b", ';a="b"', ';a="b;\\"c"', ";", ";;", "; a = b", " ;a", "\t; a", ";a=", ";=b", ";a b", ";a=b ",
    ';a="b', ";a\r", ";a\n", ";a=\x00", ";\xc4", ';a="\xc4"', ';a="\x7f"', ";a,b", ';a="\n"', ";a=b;c", " a",
    ';a="\\\x01"',
)  # fmt: skip
DATA_ENDS = mostly("\r\n", "\n", "\r", "", "xx", "\r\r\n", "\r\n\r\n")
CONTENTS = st.sampled_from((
    "", "a", "hello", "GET /in-body HTTP/1.1\r\nHost: b\r\n\r\n", "0\r\n\r\n", "\r\n", "\n\r\x00\xff",
))  # fmt: skip
TRAILERS = st.sampled_from((
    "", "", "", "", "A: b\r\n", "Content-Length: 1\r\n", "Host: c\r\n", "A : b\r\n", "A: b\r\n c\r\n",
    "TE: trailers\r\n", "Authorization: a\r\n", "Connection: close\r\n", "Content-Type: a/b\r\nContent-Type: c/d\r\n",
    "Expect: a\r\n",
))  # fmt: skip
STRAY = st.sampled_from(["", *map(chr, b'\x00\x01\t\n\x0b\r "#,:;0\x7f\x80\xff')])
HOSTS = mostly("Host: a\r\n", "", "Host:\r\n", "host: a:80\r\n", "Host: a\r\nHost: a\r\n", "Host: a b\r\n")
LENGTH_NAMES = mostly("Content-Length", "content-length", "Content-Length ", "Content_Length")
CODING_NAMES = mostly("Transfer-Encoding", "transfer-encoding", "Transfer-Encoding ", "Transfer_Encoding")
LAST_SIZES = mostly("0", "00", "-0", "0x0", "", "0;a")
FRAMINGS = st.sampled_from(("none",) * 3 + ("sized",) * 6 + ("chunked",) * 8 + ("both",))
ONCE = st.sampled_from((1,) * 15 + (2,))
RARELY = st.sampled_from((False, False, False, False, True))


class Draw(Protocol):
    """The function that Hypothesis gives to a composite strategy."""

    def __call__[T](self, strategy: st.SearchStrategy[T], /) -> T: ...


@st.composite
def fields(draw: Draw) -> str:
    """A field line."""
    return draw(NAMES) + draw(COLONS) + draw(AROUND) + draw(VALUES) + draw(AFTER) + draw(LINE_ENDS)


@st.composite
def chunked_bodies(draw: Draw, count: int) -> str:
    """A body in the chunked coding, or bytes that resemble one."""
    body = ""
    for _ in range(count):
        data = draw(CONTENTS)
        body += draw(SIZES).format(len(data)) + draw(EXTENSIONS) + draw(LINE_ENDS) + data + draw(DATA_ENDS)
    return body + draw(LAST_SIZES) + draw(LINE_ENDS) + draw(TRAILERS) + draw(LINE_ENDS)


@st.composite
def messages(draw: Draw) -> str:
    """A request, or nearly one. Most of its parts are right."""
    head = draw(METHODS) + draw(SPACES) + draw(TARGETS) + draw(SPACES) + draw(VERSIONS) + draw(LINE_ENDS)
    lines = [draw(HOSTS)]
    body = draw(CONTENTS)
    framing = draw(FRAMINGS)
    if framing in ("sized", "both"):
        value = draw(LENGTHS).replace("{}", str(len(body)))
        lines += [draw(LENGTH_NAMES) + ":" + draw(AROUND) + value + draw(LINE_ENDS)] * draw(ONCE)
    if framing in ("chunked", "both"):
        lines += [draw(CODING_NAMES) + ":" + draw(AROUND) + draw(CODINGS) + draw(LINE_ENDS)] * draw(ONCE)
        body = draw(chunked_bodies(draw(st.integers(0, 2))))
    for _ in range(draw(st.sampled_from((0, 0, 1, 2)))):
        lines.insert(draw(st.integers(0, len(lines))), draw(fields()))
    return head + "".join(lines) + draw(LINE_ENDS) + (body if framing != "none" else "")


@st.composite
def streams(draw: Draw) -> bytes:
    """One or two messages, sometimes with a stray, a lost or a changed byte, and a good request after them."""
    stream = "".join(draw(messages()) for _ in range(draw(st.sampled_from((1, 1, 2)))))
    if draw(RARELY):
        place = draw(st.integers(0, len(stream)))
        stream = stream[:place] + draw(STRAY) + stream[place + draw(st.integers(0, 1)) :]
    return stream.encode("latin-1") + MARKER


# --- the comparison --------------------------------------------------------------------------------------------------


def test_the_streams_of_the_corpus_are_read_alike(reader: Ours) -> None:
    census = Census(KNOWN)
    for case in (case for cases in ALL.values() for case in cases):
        # Bodies that the application does not read cannot be compared.
        if len(case.input) <= LONGEST and b"/unread" not in case.input:
            census.compare(reader, case.input + MARKER)
    print(*census.report(), sep="\n")


@pytest.mark.timeout(0 if WANTED else 240)
def test_generated_streams_are_read_alike(reader: Ours) -> None:
    census = Census(KNOWN)

    @settings(
        max_examples=int(WANTED or STREAMS),
        derandomize=not WANTED,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(streams())
    def check(stream: bytes) -> None:
        census.compare(reader, stream)

    check()
    print(*census.report(), sep="\n")


# --- the comparison itself -------------------------------------------------------------------------------------------


def sees(*bodies: bytes, end: End | None = None) -> Seen:
    requests = [Request("POST", "/", "HTTP/1.1", {"HTTP_HOST": "a"}, body) for body in bodies]
    return Seen(requests, end or End("closed"))


def test_a_smuggled_request_would_be_noticed() -> None:
    for ours, theirs in (
        (sees(b"one"), sees(b"on")),
        (sees(b"", b"two"), sees(b"")),
        (sees(b""), sees(b"", b"two")),
        (sees(b"", end=End("refused", "400: something new")), sees(b"", b"two")),
        (sees(b"", b"two"), sees(b"", end=End("refused", "something new"))),
        (sees(b"", b"two"), sees(b"", end=End("incomplete"))),
    ):
        with pytest.raises(Difference):
            compare("h11", ours, theirs, b"", KNOWN)


def test_the_readers_see_what_is_in_a_stream(reader: Ours) -> None:
    stream = (
        request("POST", "/one?a=b", "X-A: 1", "Cookie: a=b", "X-A: 2", "Cookie: c", chunks=[b"hel", b"lo"]) + MARKER
    )
    fields = {"HTTP_HOST": "test", "HTTP_X_A": "1,2", "HTTP_COOKIE": "a=b; c", "HTTP_TRANSFER_ENCODING": "chunked"}
    marker = Request("GET", "/after", "HTTP/1.1", {"HTTP_HOST": "after", "HTTP_CONNECTION": "close"}, b"")
    expected = Seen([Request("POST", "/one?a=b", "HTTP/1.1", fields, b"hello"), marker], End("closed"))
    assert reader.read(stream) == read_by_h11(stream) == read_by_gunicorn(stream) == expected
