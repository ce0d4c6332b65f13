"""Addresses, and the sockets made from addresses: TCP v4 and v6, Unix, abstract, inherited."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import select
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import rmeinheld
from rmeinheld import _rmeinheld
from rmeinheld.addresses import Address, Descriptor, TcpAddress, UnixAddress, address_of, parse_address
from rmeinheld.listeners import Listener, close_all, open_all, open_listener, systemd_descriptors
from rmeinheld.meinheld import server
from rmeinheld.process_state import state
from rmeinheld.settings import Settings
from serving import Connection, RunScript, Serve, request

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


@pytest.fixture(autouse=True)
def _no_pending_sockets() -> Iterator[None]:
    yield
    for listener in state.take_pending():
        listener.close()


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
ANY_PORT = TcpAddress("127.0.0.1", 0)


# --- descriptors that are none ---------------------------------------------------------------------------------------


def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [])
    return []


def closed_descriptor() -> int:
    # Not the lowest one, which another test may open.
    number = fcntl.fcntl(0, fcntl.F_DUPFD, 700)
    os.close(number)
    return number


@pytest.mark.parametrize("number", [-1, closed_descriptor(), 2**31 - 1, -(2**31)])
def test_a_server_on_a_descriptor_that_is_none_names_it(number: int) -> None:
    with pytest.raises(OSError, match=rf"descriptor {number}, for a listening socket, cannot be used") as raised:
        _rmeinheld.Server(app, [(number, "host", "1")], Settings())
    assert raised.value.errno == errno.EBADF
    settings = Settings(access_logfile="access.log")
    with pytest.raises(OSError, match=rf"descriptor {number}, for the access log, cannot be used") as raised:
        _rmeinheld.Server(app, [], settings, access_log=number)
    assert raised.value.errno == errno.EBADF


@pytest.mark.parametrize("number", [-1, closed_descriptor(), 2**31 - 1, -(2**31)])
def test_every_call_takes_a_descriptor_that_is_none_for_a_bad_one(number: int, script: RunScript) -> None:
    with pytest.raises(OSError, match=rf"descriptor {number}, for the error log, cannot be used"):
        _rmeinheld.ErrorStream(number)
    for wait in (_rmeinheld.wait_readable, _rmeinheld.wait_writable, _rmeinheld.wait_either):
        with pytest.raises(OSError, match=r"\[Errno 9\]"):
            wait(number, 0.01)
    assert _rmeinheld.events_now(number, select.POLLIN) == select.POLLNVAL
    assert not _rmeinheld.may_wait(number)
    source = f"""
from rmeinheld import _rmeinheld
from rmeinheld.coroutine import spawn

def look():
    assert not _rmeinheld.may_wait({number})
    _rmeinheld.descriptor_closes({number})
    for wait in (_rmeinheld.wait_readable, _rmeinheld.wait_writable, _rmeinheld.wait_either):
        try:
            wait({number}, 1)
        except OSError as error:
            assert error.errno == 9, error
        else:
            raise AssertionError(wait)
    return True

looking = spawn(look)
looking.join()
print(looking.result)
"""
    assert script(source) == "True\n"


# --- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", TcpAddress("127.0.0.1", 80)),
        ("localhost:0", TcpAddress("localhost", 0)),
        ("localhost", TcpAddress("localhost", 8000)),
        ("127.0.0.1", TcpAddress("127.0.0.1", 8000)),
        (":8080", TcpAddress("", 8080)),
        ("8080", TcpAddress("127.0.0.1", 8080)),
        ("tcp://0.0.0.0:80", TcpAddress("0.0.0.0", 80)),
        ("[::1]:80", TcpAddress("::1", 80)),
        ("[::]", TcpAddress("::", 8000)),
        ("unix:/run/app.sock", UnixAddress("/run/app.sock")),
        ("unix:///run/app.sock", UnixAddress("/run/app.sock")),
        ("unix:app.sock", UnixAddress("app.sock")),
        ("/run/app.sock", UnixAddress("/run/app.sock")),
        ("unix:@app", UnixAddress("\0app")),
        ("@app", UnixAddress("\0app")),
        ("fd://3", Descriptor(3)),
    ],
)
def test_an_address_is_read(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        ("localhost:", "has no valid port: '' is not an integer from 0 to 65535"),
        ("localhost:http", "has no valid port: 'http' is not"),
        ("localhost:65536", "has no valid port: '65536' is not"),
        ("localhost:-1", "has no valid port: '-1' is not"),
        ("localhost:٨٠", "has no valid port"),
        ("::1:8000", "is ambiguous: write an IPv6 address in brackets, as in [::1]:8000"),
        ("[::1]8000", "is ambiguous"),
        ("[localhost]:80", "has no IPv6 address between its brackets"),
        ("[::1]:", "has no valid port"),
        ("http://localhost:80", "is ambiguous"),
        ("local host:80", "has no valid host: 'local host'"),
        ("unix:", "has no path after unix:"),
        ("unix:@", "has no name after @"),
        ("@", "has no name after @"),
        ("unix:/a\0b", "has a NUL character in its path"),
        ("fd://", "has no descriptor number after fd://"),
        ("fd://-1", "has no descriptor number after fd://"),
        ("fd://x", "has no descriptor number after fd://"),
    ],
)
def test_an_address_that_cannot_be_read_is_refused_by_name(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"address {text!r} {why}")):
        parse_address(text)


@pytest.mark.parametrize(
    ("host", "port", "kind", "sentence"),
    [
        (None, 80, TypeError, "host must be a str, not NoneType None"),
        ("localhost", "80", TypeError, "port must be an integer from 0 to 65535, not str '80'"),
        ("localhost", True, TypeError, "port must be an integer from 0 to 65535, not bool True"),
        ("localhost", 65536, ValueError, "port must be an integer from 0 to 65535, not 65536"),
        ("localhost:80", 80, ValueError, "host must be a host name or an address without a port, not 'localhost:80'"),
    ],
)
def test_a_bad_host_or_port_is_refused_with_its_value(
    host: object, port: object, kind: type[Exception], sentence: str
) -> None:
    with pytest.raises(kind, match=f"^{re.escape(sentence)}$"):
        address_of(host, port)
    with pytest.raises(kind, match=f"^{re.escape(sentence)}$"):
        rmeinheld.run(lambda environ, start_response: [], host, port)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("::1", TcpAddress("::1", 80)),
        ("[::1]", TcpAddress("::1", 80)),
        ("", TcpAddress("", 80)),
        ("unix:/a", UnixAddress("/a")),
        ("@a", UnixAddress("\0a")),
        ("fd://4", Descriptor(4)),
    ],
)
def test_host_may_be_a_literal_address_or_a_unix_socket(host: str, address: Address) -> None:
    assert address_of(host, 80) == address


# --- TCP -------------------------------------------------------------------------------------------------------------


def test_a_tcp_listener_listens_without_blocking_and_knows_its_names() -> None:
    with closing(open_listener(ANY_PORT)) as listener:
        port = listener.socket.getsockname()[1]
        assert (listener.server_name, listener.server_port) == ("127.0.0.1", str(port))
        assert listener.url == f"http://127.0.0.1:{port}"
        assert not listener.socket.getblocking()
        with pytest.raises(BlockingIOError):
            listener.socket.accept()
        assert listener.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        assert listener.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        socket.create_connection(("127.0.0.1", port), timeout=10).close()


def test_server_name_is_the_host_that_was_given() -> None:
    with closing(open_listener(TcpAddress("localhost", 0))) as listener:
        assert listener.server_name == "localhost"
        assert listener.url.startswith("http://127.0.0.1:")


def test_server_name_of_all_addresses_is_the_wildcard_address() -> None:
    with closing(open_listener(TcpAddress("", 0))) as listener:
        assert listener.server_name == "0.0.0.0"


@needs_ipv6
def test_an_ipv6_listener_has_brackets_in_its_name() -> None:
    with closing(open_listener(TcpAddress("::1", 0))) as listener:
        port = listener.socket.getsockname()[1]
        assert (listener.server_name, listener.url) == ("[::1]", f"http://[::1]:{port}")


def is_for_ipv6_only(listener: Listener) -> bool:
    return bool(listener.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))


def reaches(host: str, port: str) -> bool:
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except ConnectionRefusedError:
        return False
    return True


@contextmanager
def listening(*addresses: Address) -> Iterator[list[Listener]]:
    listeners = open_all(addresses)
    try:
        yield listeners
    finally:
        close_all(listeners)


@needs_ipv6
@pytest.mark.parametrize("host", ["::", "0::0", "0:0:0:0:0:0:0:0"])
def test_the_ipv6_wildcard_alone_is_every_address_as_under_gunicorn(host: str) -> None:
    with listening(TcpAddress(host, 0), ANY_PORT, UnixAddress(f"\0rmeinheld-{os.getpid()}")) as (listener, *_):
        assert not is_for_ipv6_only(listener)
        assert listener.url == f"http://[::]:{listener.server_port}"
        assert reaches("::1", listener.server_port)
        assert reaches("127.0.0.1", listener.server_port)


@needs_ipv6
def test_an_ipv4_client_of_the_ipv6_wildcard_goes_by_its_ipv4_address(serve: Serve) -> None:
    server = serve("http_app:app", bind="[::]:0", forwarded_allow_ips="127.0.0.1")
    port = int(server.wait_for_log(r"http://\[::\]:(\d+)")[1])
    with Connection(("127.0.0.1", port)) as connection:
        seen = json.loads(connection.request(request("GET", "/environ", "X-Forwarded-Proto: https")).body)
    assert (seen["REMOTE_ADDR"], seen["wsgi.url_scheme"]) == ("127.0.0.1", "https")


@needs_ipv6
@pytest.mark.parametrize("host", ["", "0.0.0.0", "127.0.0.1", "localhost"])
def test_the_ipv6_wildcard_next_to_ipv4_of_the_same_port_is_for_ipv6_only(host: str) -> None:
    with listening(TcpAddress(host, 0)) as (taken,):
        port = int(taken.server_port)
    first, wildcard = TcpAddress(host, port), TcpAddress("::", port)
    for addresses in ([first, wildcard], [wildcard, first]):
        with listening(*addresses) as listeners:
            assert [listener.server_port for listener in listeners] == [str(port)] * 2
            families = [listener.socket.family for listener in listeners]
            assert families.index(socket.AF_INET6) == addresses.index(wildcard)
            assert is_for_ipv6_only(listeners[addresses.index(wildcard)])
            assert reaches("::1", str(port))
            assert reaches("127.0.0.1", str(port))


@needs_ipv6
def test_the_ipv6_wildcard_next_to_an_inherited_ipv4_socket_is_for_ipv6_only() -> None:
    with closing(open_listener(TcpAddress("0.0.0.0", 0))) as parent:
        inherited = Descriptor(parent.socket.fileno())
        with listening(TcpAddress("::", int(parent.server_port)), inherited) as (listener, _):
            assert is_for_ipv6_only(listener)


@needs_ipv6
@pytest.mark.parametrize("only_ipv6", [True, False])
def test_an_inherited_ipv6_socket_stays_as_it_is(only_ipv6: bool) -> None:
    with closing(open_listener(TcpAddress("::", 0), only_ipv6=only_ipv6)) as parent:
        inherited = Descriptor(parent.socket.fileno())
        beside = TcpAddress("127.0.0.1", int(parent.server_port) if only_ipv6 else 0)
        with listening(inherited, beside) as (listener, _):
            assert is_for_ipv6_only(listener) == only_ipv6


def test_a_port_in_use_is_an_oserror_that_names_the_address() -> None:
    with closing(open_listener(ANY_PORT)) as listener:
        port = int(listener.server_port)
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: ") as caught:
            open_listener(TcpAddress("127.0.0.1", port))
        assert caught.value.errno == errno.EADDRINUSE


def test_reuse_port_lets_two_listeners_share_a_port() -> None:
    with closing(open_listener(ANY_PORT, reuse_port=True)) as first:
        address = TcpAddress("127.0.0.1", int(first.server_port))
        open_listener(address, reuse_port=True).close()
        with pytest.raises(OSError, match="cannot listen on"):
            open_listener(address)


def test_an_address_of_another_machine_is_refused_by_name() -> None:
    # 192.0.2.0/24 is for documentation (RFC 5737): no machine has it.
    with pytest.raises(OSError, match=r"cannot listen on 192\.0\.2\.1:0: ") as caught:
        open_listener(TcpAddress("192.0.2.1", 0))
    assert caught.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.parametrize("host", ["name.invalid", "a" * 64 + ".invalid"])
def test_a_host_that_does_not_exist_is_refused_by_name(host: str) -> None:
    with pytest.raises(OSError, match=f"cannot listen on {host}:0: "):
        open_listener(TcpAddress(host, 0))


def test_when_one_address_fails_the_others_are_closed() -> None:
    with closing(open_listener(ANY_PORT)) as taken:
        path = f"unix:@rmeinheld-test-{os.getpid()}"
        with pytest.raises(OSError, match="cannot listen on"):
            open_all([parse_address(path), TcpAddress("127.0.0.1", int(taken.server_port))])
        open_listener(parse_address(path)).close()


# --- Unix ------------------------------------------------------------------------------------------------------------


def test_a_unix_listener_makes_its_path_and_removes_it(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    listener = open_listener(UnixAddress(str(path)))
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert listener.url == f"unix:{path}"
    # PEP 3333: neither can be empty.
    assert listener.server_name == "localhost"
    assert listener.server_port == "80"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listener.close()
    listener.close()
    assert not path.exists()


def test_the_mask_of_permissions_is_that_of_the_option_and_only_for_the_socket(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with (
            closing(open_listener(UnixAddress(str(tmp_path / "a")), umask=0o117)),
            closing(open_listener(UnixAddress(str(tmp_path / "b")))),
        ):
            assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o660
            assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o755
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_a_path_that_a_dead_server_has_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    assert path.exists()
    open_listener(UnixAddress(str(path))).close()


@pytest.mark.parametrize("backlog", [5, 0])
def test_a_path_on_which_another_server_listens_stays_its_own(tmp_path: Path, backlog: int) -> None:
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as living, socket.socket(socket.AF_UNIX) as client:
        living.bind(str(path))
        living.listen(backlog)
        # With a backlog of 0 one connection fills the queue, and the next does not get through.
        client.connect(str(path))
        with pytest.raises(OSError, match=f"cannot listen on unix:{path}: another process listens there") as caught:
            open_listener(UnixAddress(str(path)))
        assert caught.value.errno == errno.EADDRINUSE
        assert path.exists()


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: path.symlink_to("elsewhere")])
def test_a_path_that_is_no_socket_is_left_alone(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = tmp_path / "app.sock"
    make(path)
    with pytest.raises(FileExistsError, match="the path exists and is not a socket"):
        open_listener(UnixAddress(str(path)))
    assert os.path.lexists(path)


def test_a_path_that_another_server_has_made_anew_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    first = open_listener(UnixAddress(str(path)))
    path.rename(tmp_path / "moved")
    with closing(open_listener(UnixAddress(str(path)))):
        first.close()
        assert path.exists()


def test_a_forked_child_does_not_remove_the_path_of_its_parent(script: RunScript, tmp_path: Path) -> None:
    printed = script(
        """
        import os
        from rmeinheld.addresses import UnixAddress
        from rmeinheld.listeners import open_listener

        listener = open_listener(UnixAddress("app.sock"))
        child = os.fork()
        if child == 0:
            listener.close()
            os._exit(0)
        print(os.waitpid(child, 0)[1], os.path.exists("app.sock"))
        listener.close()
        """
    )
    assert printed == "0 True\n"
    assert not (tmp_path / "app.sock").exists()


def test_a_socket_that_is_never_served_leaves_no_path_behind(script: RunScript, tmp_path: Path) -> None:
    script("import os, rmeinheld.server as s; s.listen('unix:app.sock'); assert os.path.exists('app.sock')")
    assert not (tmp_path / "app.sock").exists()


def test_a_relative_path_is_removed_after_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    listener = open_listener(UnixAddress("app.sock"))
    monkeypatch.chdir("/")
    listener.close()
    assert not (tmp_path / "app.sock").exists()


def test_a_path_that_is_too_long_or_has_no_directory_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"cannot listen on unix:.*: the path is longer than 107 bytes"):
        open_listener(UnixAddress(str(tmp_path / ("x" * 108))))
    with pytest.raises(FileNotFoundError, match=r"cannot listen on unix:.*missing/app.sock: "):
        open_listener(UnixAddress(str(tmp_path / "missing" / "app.sock")))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="abstract sockets exist on Linux only")
def test_an_abstract_socket_has_no_path_and_can_be_in_use() -> None:
    address = UnixAddress(f"\0rmeinheld-test-{os.getpid()}")
    with closing(open_listener(address)) as listener:
        assert listener.url == f"unix:@{address.path[1:]}"
        with pytest.raises(OSError, match="cannot listen on unix:@rmeinheld-test-") as caught:
            open_listener(address)
        assert caught.value.errno == errno.EADDRINUSE


# --- inherited -------------------------------------------------------------------------------------------------------


def test_an_inherited_socket_is_served_under_its_own_names_and_stays_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        port = given.getsockname()[1]
        listener = open_listener(Descriptor(given.fileno()))
        assert listener.is_inherited
        assert (listener.server_name, listener.server_port) == ("127.0.0.1", str(port))
        assert listener.url == f"http://127.0.0.1:{port}"
        listener.close()
        os.fstat(given.fileno())
        socket.create_connection(("127.0.0.1", port), timeout=10).close()


def test_the_path_of_an_inherited_unix_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as given:
        given.bind(str(path))
        given.listen()
        listener = open_listener(Descriptor(given.fileno()))
        assert listener.url == f"unix:{path}"
        listener.close()
        assert path.exists()


def test_a_descriptor_that_is_not_open_is_refused_by_number() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    with pytest.raises(OSError, match=f"^.*cannot listen on fd://{writer}: descriptor {writer} is not open$"):
        open_listener(Descriptor(writer))


def test_a_descriptor_that_is_no_socket_is_refused_by_number() -> None:
    with open(os.devnull) as file, pytest.raises(OSError, match=f"descriptor {file.fileno()} is not a socket"):
        open_listener(Descriptor(file.fileno()))


def test_a_socket_that_does_not_listen_is_refused_by_number() -> None:
    with socket.socket() as idle:
        idle.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match=f"the socket of descriptor {idle.fileno()} is not listening"):
            open_listener(Descriptor(idle.fileno()))


def test_a_datagram_socket_is_refused_by_number() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as datagram:
        with pytest.raises(OSError, match=f"descriptor {datagram.fileno()} is not a TCP or Unix stream socket"):
            open_listener(Descriptor(datagram.fileno()))


def test_descriptors_of_systemd_count_only_for_the_process_they_are_meant_for() -> None:
    environ = {"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "2"}
    assert systemd_descriptors(environ) == []
    assert len(environ) == 2
    assert systemd_descriptors({}) == []


def test_descriptors_of_systemd_begin_at_three_and_are_taken_once() -> None:
    # In a process of its own, since descriptors 3 and 4 of this one belong to others.
    code = (
        "import os; from rmeinheld.listeners import systemd_descriptors as s\n"
        "e = {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '2', 'LISTEN_FDNAMES': 'a:b', 'HOME': '/'}\n"
        "print([d.number for d in s(e)], e)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert ended.stdout == "[3, 4] {'HOME': '/'}\n", ended.stderr


def test_a_bad_count_of_systemd_is_refused_with_its_value() -> None:
    with pytest.raises(ValueError, match="LISTEN_FDS must be a number of descriptors, not 'two'"):
        systemd_descriptors({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "two"})


# --- listen() --------------------------------------------------------------------------------------------------------


def urls() -> list[str]:
    return [listener.url for listener in state.pending]


@pytest.mark.parametrize("address", [("127.0.0.1", 0), ["127.0.0.1", 0], "127.0.0.1:0"])
def test_listen_takes_a_tuple_or_a_text(address: Any) -> None:
    server.listen(address)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", urls()[0])


def test_listen_takes_host_and_port_as_two_arguments() -> None:
    server.listen("127.0.0.1", 0)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", urls()[0])


@pytest.mark.parametrize("form", [str, os.fsencode, "unix:{}".format])
def test_listen_takes_the_path_of_a_unix_socket(tmp_path: Path, form: Callable[[Path], Any]) -> None:
    path = tmp_path / "app.sock"
    server.listen(form(path))
    assert urls() == [f"unix:{path}"]


@pytest.mark.parametrize("call", [lambda fd: server.listen(socket_fd=fd), server.set_listen_socket])
@pytest.mark.parametrize("form", [int, lambda fd: [fd], lambda fd: (fd,)])
def test_listen_takes_descriptors(call: Callable[[Any], None], form: Callable[[int], Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        call(form(given.fileno()))
        assert urls() == [f"http://127.0.0.1:{given.getsockname()[1]}"]


def test_a_second_listen_before_run_is_refused_with_the_first_address() -> None:
    server.listen(("127.0.0.1", 0))
    with pytest.raises(RuntimeError, match=re.escape(f"there is a listening socket already ({urls()[0]})")):
        server.listen(("127.0.0.1", 0))
    assert len(urls()) == 1


@pytest.mark.parametrize(
    ("arguments", "kind", "sentence"),
    [
        ({}, TypeError, "listen() needs an address or socket_fd"),
        ({"address": 8000}, TypeError, "address must be a tuple (host, port), a str such as"),
        ({"address": ("a", 1, 2)}, TypeError, "address must be a tuple (host, port), a str such as"),
        ({"address": ("127.0.0.1", "80")}, TypeError, "port must be an integer from 0 to 65535, not str '80'"),
        ({"address": ("127.0.0.1", 0), "socket_fd": 3}, TypeError, "listen() takes an address or socket_fd, not both"),
        ({"address": b""}, ValueError, "the path of a Unix socket must not be empty: b''"),
        ({"socket_fd": "3"}, TypeError, "socket_fd must be an int or a list of ints, not str '3'"),
        ({"socket_fd": []}, TypeError, "socket_fd must be an int or a list of ints, not list []"),
        ({"socket_fd": [True]}, TypeError, "socket_fd must be an int or a list of ints, not list [True]"),
        ({"socket_fd": -1}, ValueError, "socket_fd must be a descriptor, from 0, not -1"),
        ({"address": "127.0.0.1:0", "backlog": 0}, ValueError, "backlog must be an integer from 1 to 65535, not 0"),
    ],
)
def test_listen_refuses_what_it_does_not_understand(
    arguments: dict[str, object], kind: type[Exception], sentence: str
) -> None:
    with pytest.raises(kind, match=re.escape(sentence)):
        server.listen(**arguments)  # type: ignore[arg-type]
    assert urls() == []


@pytest.mark.parametrize("call", [server.stop, server.shutdown])
def test_stop_without_a_server_does_nothing_but_checks_its_argument(call: Callable[..., None]) -> None:
    call()
    call(0)
    with pytest.raises(ValueError, match="timeout must be a number of seconds from 0 to 31536000, not -1"):
        call(-1)
    with pytest.raises(TypeError, match="timeout must be a number of seconds from 0 to 31536000, not str 'now'"):
        call("now")
