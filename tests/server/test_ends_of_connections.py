"""Connections at the stop of a server: no request is lost that had reached the kernel."""

from __future__ import annotations

import select
import signal
import socket
import ssl
import struct
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from certificates import Certificate, make_certificate, open_tls
from frames import CLOSE, FIN, Client, frame, text
from proxying import nginx
from serving import TIMEOUT, Connection, RunScript, Serve, Server, request, takes

ECHO = """
    from rmeinheld.coroutine import sleep

    def app(environ, start_response):
        path, _, seconds = environ["RAW_URI"].partition("?")
        if seconds:
            print("waits", flush=True)
            sleep(float(seconds))
        body = environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [path.encode() + b" " + body]
    """


def wait_until_it_stops(server: Server) -> None:
    """Wait until the server accepts no more connections."""
    deadline = time.monotonic() + TIMEOUT
    with suppress(OSError):
        while time.monotonic() < deadline:
            server.connect().close()
            time.sleep(0.01)


def kept(server: Server) -> Connection:
    """A connection that is idle after a request."""
    connection = server.connect()
    response = connection.request(request("GET", "/kept"))
    assert (response.body, response.ends_connection) == (b"/kept ", False)
    return connection


# --- idle connections ------------------------------------------------------------------------------------------------


def test_an_idle_connection_gets_one_more_answer_which_ends_it(serve: Serve) -> None:
    server = serve(ECHO)
    with kept(server) as one, kept(server) as other:
        server.signal(signal.SIGTERM)
        wait_until_it_stops(server)
        for connection in (one, other):
            assert not connection.has_input(0)
            response = connection.request(request("POST", "/last", body=b"body"))
            assert (response.body, response.ends_connection) == (b"/last body", True)
            connection.expect_end()
        with takes(0, 3):
            assert server.wait() == 0


@pytest.mark.parametrize(
    ("options", "least", "most"),
    [
        ({"keep_alive": 0.5}, 0.0, 3),
        # Shortly before the end of the grace period.
        ({"keep_alive": 60, "graceful_timeout": 1}, 0.6, 4),
    ],
)
def test_an_idle_connection_ends_after_keep_alive_or_the_grace_period(
    serve: Serve, options: dict[str, float], least: float, most: float
) -> None:
    server = serve(ECHO, **options)
    with kept(server) as connection:
        server.signal(signal.SIGTERM)
        with takes(least, most):
            connection.expect_end()
            assert server.wait() == 0
    assert "unfinished" not in server.log()


def test_ctrl_c_closes_idle_connections_at_once(serve: Serve) -> None:
    server = serve(ECHO, keep_alive=60)
    with kept(server) as idle, server.connect() as new:
        with takes(0, 3):
            server.signal(signal.SIGINT)
            idle.expect_end()
            new.expect_end()
            assert server.wait() == 0


def test_ctrl_c_closes_connections_that_a_term_has_kept(serve: Serve) -> None:
    server = serve(ECHO, keep_alive=60, graceful_timeout=60)
    with kept(server) as idle:
        server.signal(signal.SIGTERM)
        wait_until_it_stops(server)
        assert not idle.has_input(0.1)
        with takes(0, 3):
            server.signal(signal.SIGINT)
            assert server.wait() == 0


def test_a_connection_without_any_request_is_not_waited_for(serve: Serve) -> None:
    server = serve(ECHO, keep_alive=60, graceful_timeout=60)
    with server.connect() as new, kept(server) as half_closed:
        half_closed.finish_sending()
        with takes(0, 5):
            server.signal(signal.SIGTERM)
            new.expect_end()
            assert server.wait() == 0


def test_a_connection_that_finishes_late_in_the_grace_period_is_kept_after_its_answer(serve: Serve) -> None:
    # The head of the answer went out before the stop and did not end the connection.
    server = serve(
        """
        from rmeinheld.coroutine import sleep

        def app(environ, start_response):
            start_response("200 OK", [("Content-Type", "text/plain")])
            yield b"first"
            sleep(1.5)
            yield b"second"
        """,
        keep_alive=1,
    )
    with server.connect() as connection:
        connection.send(request("GET", "/"))
        response, _ = connection.read_head()
        assert not response.ends_connection
        server.signal(signal.SIGTERM)
        assert b"".join(connection.read_chunks()) == b"firstsecond"
        time.sleep(0.3)
        response = connection.request(request("GET", "/"))
        assert (response.body, response.ends_connection) == (b"firstsecond", True)
        assert server.wait() == 0


@pytest.mark.parametrize("how", ["stop", "timeout"])
def test_no_request_is_lost_that_arrives_while_idle_connections_are_closed(serve: Serve, how: str) -> None:
    # Each client writes around the moment at which the server closes. A client that has not seen the end of the
    # connection after its write has written in time: on the loopback interface both are immediate.
    keep_alive, count = 0.6, 100
    answered = late = 0
    while not (answered and late):  # on a busy machine all may miss the moment
        server = serve(ECHO, keep_alive=keep_alive, graceful_timeout=20)
        with ExitStack() as stack:
            connections = [(stack.enter_context(kept(server)), time.monotonic()) for _ in range(count)]
            if how == "stop":
                server.signal(signal.SIGTERM)
            for number, (connection, rested) in enumerate(connections):
                offset = 0.2 * (2 * number / count - 1)
                time.sleep(max(0.0, rested + keep_alive + offset - time.monotonic()))
                try:
                    connection.send(request("POST", "/raced", body=b"x"))
                    in_time = not has_ended(connection)
                except OSError:
                    in_time = False
                if in_time:
                    assert connection.read_response().body == b"/raced x"
                    answered += 1
                else:
                    late += 1
        # A second SIGTERM could come at the last moment of the process, when nothing handles it any more.
        if how == "timeout":
            server.signal(signal.SIGTERM)
        assert server.wait() == 0


def has_ended(connection: Connection) -> bool:
    """Has the end of the connection arrived?"""
    poll = select.poll()
    poll.register(connection.socket, select.POLLRDHUP)
    return bool(poll.poll(0))


# --- requests that are under way -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("behind", ["in one piece", "later"])
def test_every_request_of_a_pipeline_is_answered_and_the_last_one_ends_it(
    serve: Serve, version: str, behind: str
) -> None:
    server = serve(ECHO)
    keep = ["Connection: keep-alive"] if version == "1.0" else []
    pipeline = [
        request("GET", "/first?0.5", *keep, version=version),
        request("GET", "/second", *keep, version=version),
        request("POST", "/third", *keep, body=b"sized", version=version),
        request("GET", "/fourth", *keep, version=version),
    ]
    if version == "1.1":
        pipeline[3:3] = [request("POST", "/chunked", chunks=[b"in ", b"chunks"]), request("GET", "/behind")]
    with server.connect() as connection:
        connection.send(b"".join(pipeline) if behind == "in one piece" else pipeline[0])
        server.wait_for_log("waits")
        server.signal(signal.SIGTERM)
        wait_until_it_stops(server)
        if behind == "later":
            connection.send(b"".join(pipeline[1:]))
        responses = [connection.read_response() for _ in pipeline]
        bodies = [response.body for response in responses]
        between = [b"/chunked in chunks", b"/behind "] if version == "1.1" else []
        assert bodies == [b"/first ", b"/second ", b"/third sized", *between, b"/fourth "]
        assert [response.ends_connection for response in responses] == [False] * (len(pipeline) - 1) + [True]
        connection.expect_end()
        assert server.wait() == 0


def test_a_client_that_sends_for_ever_is_bounded_by_the_grace_period(serve: Serve) -> None:
    server = serve(ECHO, graceful_timeout=2)
    with kept(server) as connection:
        is_over = threading.Event()

        def flood() -> None:
            with suppress(OSError):
                while not is_over.is_set():
                    connection.send(request("GET", "/flood") * 100)

        def swallow() -> None:
            with suppress(OSError):
                while connection.socket.recv(65536):
                    pass

        threads = [threading.Thread(target=flood), threading.Thread(target=swallow)]
        for thread in threads:
            thread.start()
        with takes(0, 8):
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
        is_over.set()
        with suppress(OSError):
            connection.socket.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


def test_half_a_head_and_half_a_body_are_in_progress(serve: Serve) -> None:
    server = serve(ECHO)
    whole = request("POST", "/slow", body=b"whole")
    with kept(server) as head, server.connect() as body, server.connect() as new:
        head.send(whole[:20])
        body.send(whole[:-3])
        assert server.get("/").body == b"/ "
        server.signal(signal.SIGTERM)
        wait_until_it_stops(server)
        time.sleep(1.2)
        for connection, rest in ((head, whole[20:]), (body, whole[-3:])):
            response = connection.request(rest)
            assert (response.body, response.ends_connection) == (b"/slow whole", True)
            connection.expect_end()
        new.expect_end()
        assert server.wait() == 0


def test_connections_in_the_queue_of_the_kernel_wait_for_descriptors_at_a_stop(serve: Serve) -> None:
    server = serve(
        """
        import os, resource
        from rmeinheld.coroutine import sleep

        def app(environ, start_response):
            seconds = float(environ["QUERY_STRING"] or 0)
            if seconds:
                # As many descriptors as are open.
                resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, 9000))
                print("full", flush=True)
                sleep(seconds)
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"answer"]
        """
    )
    with server.connect() as busy, ExitStack() as stack:
        busy.send(request("GET", "/?1"))
        server.wait_for_log("full")
        waiting = [stack.enter_context(server.connect()) for _ in range(5)]
        for connection in waiting:
            connection.send(request("GET", "/"))
        server.signal(signal.SIGTERM)
        for connection in [busy, *waiting]:
            response = connection.read_response()
            assert (response.body, response.ends_connection) == (b"answer", True)
        assert server.wait() == 0


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


def serve_tls(serve: Serve, certificate: Certificate, **options: float) -> Server:
    return serve(ECHO, certfile=str(certificate.certificate), keyfile=str(certificate.key), **options)


def ask(connection: ssl.SSLSocket, data: bytes, end: bytes) -> bytes:
    """Send `data` and read to `end`, the end of the last response."""
    connection.sendall(data)
    received = b""
    while not received.endswith(end):
        more = connection.recv(65536)
        assert more, received
        received += more
    return received


def expect_closing_alert(connection: ssl.SSLSocket) -> None:
    """Assert that the server ends the connection with the alert of TLS (RFC 8446 6.1)."""
    # Otherwise the end of TCP alone would do.
    vars(connection)["suppress_ragged_eofs"] = False
    assert connection.recv(1) == b""


def test_over_tls_idle_connections_end_after_one_more_answer_and_with_the_alert(
    serve: Serve, certificate: Certificate
) -> None:
    server = serve_tls(serve, certificate, keep_alive=2)
    with (
        open_tls(server.port, certificate) as used,
        open_tls(server.port, certificate) as unused,
        open_tls(server.port, certificate) as pipelined,
        open_tls(server.port, certificate) as new,
    ):
        for connection in (used, unused, pipelined):
            assert b"Connection: close" not in ask(connection, request("GET", "/kept"), b"/kept ")
        server.signal(signal.SIGTERM)
        wait_until_it_stops(server)
        answer = ask(used, request("POST", "/last", body=b"body"), b"/last body")
        assert b"/last body" in answer and b"Connection: close" in answer
        expect_closing_alert(used)
        three = request("GET", "/1") + request("POST", "/2", body=b"body") + request("GET", "/3")
        answers = ask(pipelined, three, b"/3 ")
        assert answers.count(b"Connection: close") == 1
        expect_closing_alert(pipelined)
        expect_closing_alert(new)
        expect_closing_alert(unused)
        assert server.wait() == 0


def test_a_handshake_of_tls_that_has_begun_at_a_stop_may_go_on(serve: Serve, certificate: Certificate) -> None:
    server = serve_tls(serve, certificate)
    context = ssl.create_default_context(cafile=certificate.certificate)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        session.do_handshake()
    with server.connect() as connection:
        hello = outgoing.read()
        connection.send(hello[:100])
        # Accepted after the first one, and so is what came before.
        with open_tls(server.port, certificate):
            pass
        server.signal(signal.SIGTERM)
        time.sleep(0.8)
        connection.send(hello[100:])
        answer = b""
        has_asked = False
        while b"/late" not in answer:
            incoming.write(connection.socket.recv(65536))
            with suppress(ssl.SSLWantReadError):
                session.do_handshake()
                if not has_asked:
                    has_asked = True
                    session.write(request("GET", "/late"))
                answer += session.read()
            connection.send(outgoing.read())
        assert b"Connection: close" in answer
    assert server.wait() == 0


# --- the drain delay -------------------------------------------------------------------------------------------------


def test_during_the_drain_delay_the_server_goes_on_as_before(serve: Serve) -> None:
    server = serve(ECHO, drain_delay=1, graceful_timeout=20)
    with kept(server) as idle, takes(0.9, 8):
        server.signal(signal.SIGTERM)
        time.sleep(0.3)
        with kept(server):
            assert not idle.request(request("GET", "/")).ends_connection
        wait_until_it_stops(server)
        assert idle.request(request("GET", "/")).ends_connection
        assert server.wait() == 0


def test_the_path_of_a_unix_socket_stays_during_the_drain_delay(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    server = serve.script(
        f"""
        import rmeinheld

        def app(environ, start_response):
            start_response("200 OK", [("Content-Length", "2")])
            return [b"ok"]

        rmeinheld.run(app, bind=["127.0.0.1:0", "unix:{path}"], drain_delay=0.8)
        """
    )
    server.signal(signal.SIGTERM)
    time.sleep(0.2)
    assert path.exists()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(TIMEOUT)
        client.connect(str(path))
        client.sendall(request("GET", "/"))
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        wait_until_it_stops(server)
        assert not path.exists()
        client.sendall(request("GET", "/"))
        assert b"\r\nConnection: close\r\n" in client.recv(65536)
        assert client.recv(1) == b""
    assert server.wait() == 0


def test_ctrl_c_during_the_drain_delay_ends_the_server(serve: Serve) -> None:
    server = serve(ECHO, drain_delay=3600)
    server.signal(signal.SIGTERM)
    time.sleep(0.2)
    assert server.get("/").status == 200
    with takes(0, 3):
        server.signal(signal.SIGINT)
        assert server.wait() == 0


# --- WebSockets ------------------------------------------------------------------------------------------------------

CHAT = """
    def app(environ, start_response):
        websocket = environ["wsgi.websocket"]
        for message in websocket:
            websocket.send(message)
        return []
    """


def test_websockets_are_closed_over_half_of_the_grace_period_and_serve_until_then(serve: Serve) -> None:
    server = serve(CHAT, graceful_timeout=4)
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(server)) for _ in range(4)]
        server.signal(signal.SIGTERM)
        began = time.monotonic()
        times = []
        left = dict.fromkeys(clients)
        while left:
            sockets = {client.connection.socket: client for client in left}
            for ready in select.select(list(sockets), [], [], TIMEOUT)[0]:
                client = sockets[ready]
                client.expect_close_from_server(1001, "the server stops")
                times.append(time.monotonic() - began)
                del left[client]
            if len(left) == 2:
                for client in left:
                    client.send(text("still there"))
                    assert client.text() == "still there"
        assert times[0] < 0.45
        assert 1.2 < times[-1] < 3.5, times
        assert server.wait() == 0


def test_ctrl_c_closes_all_websockets_at_once(serve: Serve) -> None:
    server = serve(CHAT, graceful_timeout=60)
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(server)) for _ in range(4)]
        with takes(0, 5):
            server.signal(signal.SIGINT)
            for client in clients:
                client.expect_close_from_server(1001, "the server stops")
            assert server.wait() == 0


def test_websockets_of_a_server_that_is_replaced_are_closed_with_1012(serve: Serve) -> None:
    server = serve.script(
        """
        import rmeinheld
        from rmeinheld import _rmeinheld, running

        def make_engine(*arguments, **options):
            global engine
            engine = make(*arguments, **options)
            return engine

        def app(environ, start_response):
            websocket = environ["wsgi.websocket"]
            websocket.send("accepted")
            if environ["PATH_INFO"] == "/stop":
                engine.stop(restarts=True)
            while websocket.receive() is not None:
                pass
            return []

        make, running.make_engine = running.make_engine, make_engine
        rmeinheld.run(app, port=0, graceful_timeout=2)
        """
    )
    with Client(server, "/") as one, Client(server, "/stop") as other:
        for client in (one, other):
            assert client.text() == "accepted"
        first, payload = one.frame()
        assert (first, payload) == (FIN | CLOSE, struct.pack("!H", 1012) + b"the server restarts")
        one.send(frame(FIN | CLOSE, payload[:2]))
        other.expect_close_from_server(1012, "the server restarts")
        assert server.wait() == 0


# --- Ctrl-C ----------------------------------------------------------------------------------------------------------


def test_an_interrupt_without_a_terminal_logs_what_is_waited_for(serve: Serve) -> None:
    server = serve(ECHO, graceful_timeout=3600)
    with server.connect() as one, server.connect() as other:
        for connection in (one, other):
            connection.send(request("GET", "/slow?3600"))
        server.wait_for_log("waits\n(.*\n)*waits")
        server.signal(signal.SIGINT)
        with takes(0, 3):
            server.wait_for_log(
                r"\[WARNING\] waiting for 2 requests, oldest \d+ s: GET /slow\?3600; press Ctrl-C again to stop now$"
            )
        server.signal(signal.SIGINT)
        assert server.wait() == 0
        assert one.read_response().status == other.read_response().status == 503
    assert "Traceback" not in server.log()


@pytest.mark.parametrize(
    "application",
    [
        # It computes in C, and no Python code runs meanwhile.
        """
        import re

        def app(environ, start_response):
            print("begun", flush=True)
            re.match(r"(a+)+$", "a" * 60 + "b")
        """,
        # Its end is swallowed.
        """
        from rmeinheld.coroutine import sleep

        def app(environ, start_response):
            print("begun", flush=True)
            while True:
                try:
                    sleep(3600)
                except BaseException:
                    pass
        """,
        # It computes.
        """
        def app(environ, start_response):
            print("begun", flush=True)
            while True:
                pass
        """,
        # A thread of it goes on.
        """
        from rmeinheld.patch import patch_all
        patch_all()
        import threading, time

        def forever():
            while True:
                try:
                    time.sleep(3600)
                except BaseException:
                    pass

        def app(environ, start_response):
            threading.Thread(target=forever, name="export").start()
            print("begun", flush=True)
            start_response("200 OK", [("Content-Length", "0")])
            return []
        """,
        # Its handler at exit hangs.
        """
        import atexit, time
        from rmeinheld.coroutine import sleep

        atexit.register(time.sleep, 3600)

        def app(environ, start_response):
            print("begun", flush=True)
            sleep(3600)
        """,
    ],
)
def test_the_second_ctrl_c_ends_what_does_not_end_by_itself(serve: Serve, application: str) -> None:
    server = serve(application, graceful_timeout=3600)
    with server.connect() as connection:
        connection.send(request("GET", "/slow"))
        server.wait_for_log("begun")
        server.signal(signal.SIGINT)
        if "re.match" in application:
            time.sleep(0.3)
        else:
            server.wait_for_log("waiting for .*; press Ctrl-C again to stop now$")
        # A second, and time for a machine that is busy.
        with takes(0, 2.5):
            server.signal(signal.SIGINT)
            server.wait()
    assert "Traceback" not in server.log()
    assert "panicked" not in server.log()


def test_run_returns_within_a_second_of_the_second_ctrl_c(script: RunScript) -> None:
    output = script(
        """
        import os, signal, socket, threading, time
        import rmeinheld
        from rmeinheld.coroutine import sleep

        def app(environ, start_response):
            stubborn.set()
            while True:
                try:
                    sleep(3600)
                except BaseException:
                    pass

        def interrupt():
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"GET / HTTP/1.1\\r\\nHost: test\\r\\n\\r\\n")
                stubborn.wait()
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.5)
                began.append(time.monotonic())
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(3)

        stubborn, began = threading.Event(), []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            threading.Thread(target=interrupt).start()
            rmeinheld.run(app, f"fd://{listener.fileno()}", graceful_timeout=3600)
            print("returned", time.monotonic() - began[0] < 2)
        """
    )
    assert "returned True" in output
    assert "waiting for 1 request, oldest" in output


# --- behind nginx ----------------------------------------------------------------------------------------------------


def test_nginx_in_front_sees_no_request_lost_when_one_of_two_servers_stops(serve: Serve, tmp_path: Path) -> None:
    # POST with a body: nginx does not send such a request again by itself.
    servers = [serve(ECHO, keep_alive=1) for _ in range(2)]
    members = " ".join(f"server 127.0.0.1:{server.port} max_fails=0;" for server in servers)
    upstreams = f"upstream both {{ {members} keepalive 16; }}"
    location = 'proxy_pass http://both; proxy_http_version 1.1; proxy_set_header Connection "";'
    with nginx(tmp_path, upstreams, {"front": location}) as proxy:
        failures, count, is_over = list[str](), [0], threading.Event()

        def load() -> None:
            with proxy.fronts["front"].connect() as connection:
                while not is_over.is_set():
                    response = connection.request(request("POST", "/?0.001", body=b"body"))
                    count[0] += 1
                    if response.body != b"/ body":
                        failures.append(f"{response.status} {response.body!r}")

        threads = [threading.Thread(target=load) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        servers[0].signal(signal.SIGTERM)
        assert servers[0].wait() == 0
        time.sleep(0.2)
        is_over.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert count[0] > 50
