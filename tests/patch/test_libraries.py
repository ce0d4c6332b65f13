"""Third-party libraries on the patched standard library, in many coroutines: one test for each line of
docs/libraries.md. Clients of databases are in test_databases.py.
"""

from __future__ import annotations

import re
import signal
import sys
import zipfile
from pathlib import Path

import pytest

from rmeinheld.patch._libraries import BLOCKING, GREENLETS
from serving import RunScript, Serve, Server

HEADER = """
from rmeinheld import patch
patch.patch_all()
import time
from rmeinheld.coroutine import Timeout, sleep, spawn, timeout
from side_by_side import main, together
"""

PAUSE = 0.3
"""Seconds that the backend takes for an answer. One after the other, 100 answers would take half a minute."""

LATE = 2.0
"""Seconds that it takes for paths that begin with `/late`."""

BACKEND = f"""
    from rmeinheld.coroutine import sleep

    def app(environ, start_response):
        sleep({LATE} if environ["PATH_INFO"].startswith("/late") else {PAUSE})
        body = environ["wsgi.input"].read() or environ["PATH_INFO"].encode()
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]
"""


@pytest.fixture
def backend(serve: Serve) -> Server:
    """A server that answers with the path of the request, after a pause."""
    return serve(BACKEND)


class Certificates:
    """A server's certificate for localhost, and the certificate of the authority that signed it."""

    def __init__(self, directory: Path) -> None:
        trustme = pytest.importorskip("trustme")
        authority = trustme.CA()
        self.authority = str(directory / "authority.pem")
        self.server = str(directory / "server.pem")
        authority.cert_pem.write_to_path(self.authority)
        authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(self.server)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates for a TLS server on this machine."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


def skip_with_assertions() -> None:
    """Skip the test on an interpreter with assertions."""
    if hasattr(sys, "gettotalrefcount"):
        pytest.skip("wheels with C in them are not meant for an interpreter that is built with assertions")


# --- HTTP clients ----------------------------------------------------------------------------------------------------

HTTP_CLIENTS = {
    "requests": "requests.get(url + path, timeout=30).text",
    "requests_session": "session.get(url + path, timeout=30).text",
    "urllib3": "pool.request('GET', url + path, timeout=30).data.decode()",
    "httpx": "client.get(url + path).text",
    "urllib": "urllib.request.urlopen(url + path, timeout=30).read().decode()",
    "http.client": "connection_get(path)",
}

HTTP_SETUP = """
import http.client, importlib.util, urllib.request
url = {url!r}
if importlib.util.find_spec("requests"):
    import requests
    session = requests.Session()
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=200))
if importlib.util.find_spec("urllib3"):
    import urllib3
    pool = urllib3.PoolManager(maxsize=20, block=True)
if importlib.util.find_spec("httpx"):
    import httpx
    client = httpx.Client(timeout=30, limits=httpx.Limits(max_connections=200))

def connection_get(path):
    connection = http.client.HTTPConnection("127.0.0.1", int(url.rpartition(":")[2]), timeout=30)
    connection.request("GET", path)
    return connection.getresponse().read().decode()
"""


@pytest.mark.parametrize("client", HTTP_CLIENTS)
def test_http_clients(script: RunScript, backend: Server, client: str) -> None:
    package = client.partition("_")[0]
    if package in ("requests", "urllib3", "httpx"):
        pytest.importorskip(package)
    output = script(
        f"""{HEADER}{HTTP_SETUP.format(url=backend.url)}
def get(number):
    path = f"/{{number}}"
    return {HTTP_CLIENTS[client]} == path

def test():
    started = time.monotonic()
    assert all(together(get, range(100)))
    taken = time.monotonic() - started
    return taken < 15 or taken

main(test)
"""
    )
    assert output == "True\n"


def test_an_http_client_is_interrupted_by_a_timeout_and_its_connection_not_used_again(
    script: RunScript, backend: Server
) -> None:
    pytest.importorskip("urllib3")
    output = script(
        f"""{HEADER}{HTTP_SETUP.format(url=backend.url)}
pool = urllib3.HTTPConnectionPool("127.0.0.1", {backend.port}, maxsize=20, block=True)

def get(number):
    try:
        # On a busy machine, all requests have to be under way by then: urllib3 miscounts its pool if it is interrupted
        # before it has taken a connection.
        with timeout(1):
            pool.request("GET", f"/late/{{number}}")
        return "no timeout"
    except Timeout:
        pass
    path = f"/{{number}}"
    return pool.request("GET", path).data.decode() == path

def test():
    return set(together(get, range(20)))

main(test)
"""
    )
    assert output == "{True}\n"


# --- TLS -------------------------------------------------------------------------------------------------------------

TLS_SERVER = """
import socket, ssl
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain({server!r})

def answer(connection):
    with context.wrap_socket(connection, server_side=True) as tls:
        stream = tls.makefile("rwb")
        while True:
            line = stream.readline()
            if not line:
                return
            path = line.split()[1]
            length = 0
            while (field := stream.readline().strip()):
                name, _, value = field.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            stream.read(length)
            sleep(0.2)
            stream.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(path), path))
            stream.flush()

def serve_tls():
    while True:
        connection, _ = listener.accept()
        spawn(answer, connection)

listener = socket.create_server(("127.0.0.1", 0), backlog=512)
port = listener.getsockname()[1]
url = f"https://localhost:{{port}}"
authority = {authority!r}
spawn(serve_tls)
"""

TLS_CLIENTS = {
    "requests": "session.get(url + path, timeout=30).text",
    "urllib3": "pool.request('GET', url + path, timeout=30).data.decode()",
    "httpx": "client.get(url + path).text",
    "http.client": "connection_get(path)",
    "boto3": "s3.get_object(Bucket='bucket', Key=path[1:])['Body'].read().decode().removeprefix('/bucket')",
}

TLS_SETUP = {
    "requests": """
import requests
session = requests.Session()
session.trust_env = False
session.verify = authority
session.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=100))
""",
    "urllib3": """
import urllib3
pool = urllib3.PoolManager(maxsize=20, block=True, ca_certs=authority)
""",
    "httpx": """
import httpx
trusted = ssl.create_default_context(cafile=authority)
client = httpx.Client(timeout=30, verify=trusted, limits=httpx.Limits(max_connections=100))
""",
    "http.client": """
import http.client
trusted = ssl.create_default_context(cafile=authority)
def connection_get(path):
    connection = http.client.HTTPSConnection("localhost", port, timeout=30, context=trusted)
    connection.request("GET", path)
    return connection.getresponse().read().decode()
""",
    "boto3": """
import boto3, botocore.config
config = botocore.config.Config(max_pool_connections=50, s3={"addressing_style": "path"})
s3 = boto3.client("s3", region_name="us-east-1", aws_access_key_id="key", aws_secret_access_key="secret",
    endpoint_url=url, verify=authority, config=config)
""",
}


@pytest.mark.parametrize("client", TLS_CLIENTS)
def test_tls_clients(script: RunScript, certificates: Certificates, client: str) -> None:
    if client != "http.client":
        pytest.importorskip(client)
    setup = TLS_SERVER.format(server=certificates.server, authority=certificates.authority) + TLS_SETUP[client]
    output = script(
        f"""{HEADER}{setup}
def get(number):
    path = f"/{{number}}"
    return {TLS_CLIENTS[client]} == path

def test():
    started = time.monotonic()
    assert all(together(get, range(50)))
    taken = time.monotonic() - started
    # One after the other: 10 s.
    return taken < 8 or taken

# Handshakes compute; many of them in a row take their time.
main(test, standstill=2)
"""
    )
    assert output == "True\n"


# --- pyOpenSSL -------------------------------------------------------------------------------------------------------


def test_pyopenssl_without_a_timeout_parks(script: RunScript, certificates: Certificates) -> None:
    skip_with_assertions()
    pytest.importorskip("OpenSSL")
    output = script(
        f"""{HEADER}
import socket
from OpenSSL import SSL

context = SSL.Context(SSL.TLS_METHOD)
context.use_certificate_chain_file({certificates.server!r})
context.use_privatekey_file({certificates.server!r})
SIZE = 2_000_000

def serve(sock):
    connection = SSL.Connection(context, sock)
    connection.set_accept_state()
    connection.do_handshake()
    sleep(0.05)
    received = 0
    while received < SIZE:
        received += len(connection.recv(65536))
    connection.sendall(b"x" * SIZE)
    while not connection.shutdown():
        pass

def talk(number):
    ours, theirs = socket.socketpair()
    serving = spawn(serve, theirs)
    connection = SSL.Connection(SSL.Context(SSL.TLS_METHOD), ours)
    connection.set_connect_state()
    connection.do_handshake()
    try:
        with timeout(0.02):
            connection.recv(1)
    except Timeout:
        pass
    assert connection.sendall(b"y" * SIZE) == SIZE
    buffer = bytearray(65536)
    received = 0
    while received < SIZE:
        received += connection.recv_into(buffer)
    while not connection.shutdown():
        pass
    serving.join()
    ours.settimeout(0)
    try:
        connection.recv(1)
    except SSL.ZeroReturnError:
        pass
    return ours.gettimeout(), serving.result

def test():
    return set(together(talk, range(5)))

main(test, standstill=2)
"""
    )
    assert output == "{(0.0, None)}\n"


def test_pyopenssl_with_a_timeout_asks_its_caller_to_wait(script: RunScript) -> None:
    skip_with_assertions()
    pytest.importorskip("OpenSSL")
    output = script(
        f"""{HEADER}
import socket
from OpenSSL import SSL

def test():
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    connection = SSL.Connection(SSL.Context(SSL.TLS_METHOD), ours)
    connection.set_connect_state()
    try:
        connection.do_handshake()
    except SSL.WantReadError:
        pass
    in_memory = SSL.Connection(SSL.Context(SSL.TLS_METHOD))
    in_memory.set_connect_state()
    try:
        in_memory.do_handshake()
    except SSL.WantReadError:
        return ours.gettimeout()

main(test)
"""
    )
    assert output == "5.0\n"


# --- mail, children --------------------------------------------------------------------------------------------------


def test_smtplib(script: RunScript) -> None:
    output = script(
        f"""{HEADER}
import smtplib, socket
from email.message import EmailMessage

received = []

def answer(connection):
    stream = connection.makefile("rwb")
    def say(line):
        stream.write(line + b"\\r\\n")
        stream.flush()
    say(b"220 ready")
    while True:
        command = stream.readline().strip()
        sleep(0.05)
        if command.upper().startswith(b"DATA"):
            say(b"354 go on")
            lines = list(iter(stream.readline, b".\\r\\n"))
            received.append(lines[-1].strip())
            say(b"250 taken")
        elif command.upper() == b"QUIT":
            say(b"221 bye")
            return
        else:
            say(b"250 fine")

def serve():
    while True:
        spawn(answer, listener.accept()[0])

listener = socket.create_server(("127.0.0.1", 0), backlog=512)
spawn(serve)

def send(number):
    message = EmailMessage()
    message["From"], message["To"] = "from@example.org", "to@example.org"
    message.set_content(str(number))
    with smtplib.SMTP("127.0.0.1", listener.getsockname()[1], "localhost", timeout=30) as client:
        client.send_message(message)

def test():
    started = time.monotonic()
    together(send, range(100))
    assert sorted(map(int, received)) == list(range(100))
    # 0.3 s each.
    return time.monotonic() - started < 15

main(test)
"""
    )
    assert output == "True\n"


def test_subprocess(script: RunScript) -> None:
    output = script(
        f"""{HEADER}
import subprocess

def child(number):
    done = subprocess.run(["sh", "-c", "sleep 0.5; cat; exit 3"], input=str(number), capture_output=True, text=True)
    return done.stdout == str(number) and done.returncode == 3

def test():
    started = time.monotonic()
    assert all(together(child, range(100)))
    # 0.5 s each.
    return time.monotonic() - started < 25

# Starting a child takes its time.
main(test, standstill=3)
"""
    )
    assert output == "True\n"


def test_pymongo_waits_for_a_server(script: RunScript) -> None:
    """No server exists. The test shows that PyMongo's monitors, and waits for them, do not block the loop."""
    pytest.importorskip("pymongo")
    skip_with_assertions()
    output = script(
        f"""{HEADER}
import pymongo

def ask(number):
    with pymongo.MongoClient("127.0.0.1", 1, serverSelectionTimeoutMS=500, connectTimeoutMS=500) as client:
        try:
            client.admin.command("ping")
        except pymongo.errors.ServerSelectionTimeoutError:
            return True

def test():
    started = time.monotonic()
    assert all(together(ask, range(20)))
    return time.monotonic() - started < 8

main(test, standstill=1)
"""
    )
    assert output == "True\n"


# --- trio and lxml ---------------------------------------------------------------------------------------------------


def test_trio(script: RunScript) -> None:
    """Trio's threads are coroutines, and are not named: pthread_setname_np takes a thread's number as an address."""
    pytest.importorskip("trio")
    output = script(
        f"""{HEADER}
import trio

async def echo(stream):
    await stream.send_all(await stream.receive_some())

async def job(number):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 0.05)
        call = lambda: (time.sleep(0.05), trio.from_thread.run_sync(lambda: number))
        _, back = await trio.to_thread.run_sync(call)
    process = await trio.run_process(["sh", "-c", f"sleep 0.1; echo {{number}}"], capture_stdout=True)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, echo, listeners)
        stream = await trio.open_tcp_stream("127.0.0.1", listeners[0].socket.getsockname()[1])
        await stream.send_all(b"%d" % number)
        received = await stream.receive_some()
        nursery.cancel_scope.cancel()
    return back, int(process.stdout), int(received)

def test():
    started = time.monotonic()
    assert together(lambda number: trio.run(job, number), range(20)) == [(number,) * 3 for number in range(20)]
    # 0.2 s each.
    return time.monotonic() - started < 4

main(test, standstill=3)
"""
    )
    assert output == "True\n"


LXML = """
import lxml.etree as etree, lxml.html, lxml.objectify

class Slow:
    def __init__(self, number):
        self.parts = [b"<a>", b"<b>%d</b>" % number, b"</a>", b""]
    def read(self, size=-1):
        sleep(0.01)
        return self.parts.pop(0)

class Resolver(etree.Resolver):
    def resolve(self, url, name, context):
        sleep(0.01)
        return self.resolve_string("<!ENTITY entity 'text'>", context)

class Target:
    def start(self, tag, attributes):
        sleep(0.01)
    def end(self, tag):
        pass
    def data(self, data):
        self.text = data
    def close(self):
        return self.text

def wait(context, value):
    sleep(0.01)
    return value

shared = etree.XMLParser()
resolving = etree.XMLParser(load_dtd=True)
resolving.resolvers.add(Resolver())
target = etree.XMLParser(target=Target())
xpath = etree.XPath("w:wait(string(//b))", namespaces={"w": "urn:wait"}, extensions={("urn:wait", "wait"): wait})

def use_default(number):
    etree.set_default_parser(shared)
    return etree.parse(Slow(number)).findtext("b")

WAYS = {
    "parse": lambda number: etree.parse(Slow(number), shared).findtext("b"),
    "by keyword": lambda number: etree.parse(Slow(number), parser=shared).findtext("b"),
    "ElementTree": lambda number: etree.ElementTree(file=Slow(number), parser=shared).findtext("b"),
    "html": lambda number: lxml.html.parse(Slow(number)).findtext(".//b"),
    "objectify": lambda number: str(lxml.objectify.parse(Slow(number)).getroot().b),
    "iterparse": lambda number: next(etree.iterparse(Slow(number), tag="b"))[1].text,
    "default": use_default,
    "resolver": lambda number:
        etree.fromstring(f'<!DOCTYPE a SYSTEM "{number}"><a><b>{number}</b></a>', resolving).findtext("b"),
    "target": lambda number: etree.fromstring(f"<a><b>{number}</b></a>", target),
    "xpath": lambda number: xpath(etree.XML(f"<a><b>{number}</b></a>")),
}
"""


def test_lxml(script: RunScript) -> None:
    """Parsers of lxml hold a lock in C while Python functions of the application wait."""
    pytest.importorskip("lxml")
    skip_with_assertions()
    output = script(
        f"""{HEADER}{LXML}
from rmeinheld.patch import _lxml

def use(number):
    return [name for name, way in WAYS.items() if way(number) != str(number)]

def test():
    assert together(use, range(5)) == [[]] * 5
    assert isinstance(etree.ElementTree(etree.XML("<a/>")), etree.ElementTree)
    assert isinstance(xpath, etree.XPath) and repr(etree.XPath) == "<class 'lxml.etree.XPath'>"
    return len(_lxml._in_use)

main(test)
"""
    )
    assert output == "0\n"


# --- libraries that wait in C ----------------------------------------------------------------------------------------


def warnings_of(script: RunScript, directory: Path, module: str, before: bool) -> str:
    """The log's lines about a module of this name, imported before the patch or after it."""
    path = directory.joinpath(*module.split("."))
    path.parent.mkdir(parents=True, exist_ok=True)
    for parent in path.relative_to(directory).parents:
        if parent.name:
            (directory / parent / "__init__.py").touch()
    path.with_suffix(".py").write_text("")
    lines = ["from rmeinheld import patch; patch.patch_all()", f"import {module}"]
    return script("\n".join(reversed(lines) if before else lines))


@pytest.mark.parametrize("before", [True, False], ids=["imported before", "imported after"])
@pytest.mark.parametrize("module", sorted({**BLOCKING, **GREENLETS}))
def test_a_library_that_blocks_is_reported_with_the_cure(
    script: RunScript, tmp_path: Path, module: str, before: bool
) -> None:
    output = warnings_of(script, tmp_path, module, before)
    assert re.search(rf"{re.escape(module)}: (blocks in C|switches greenlets), .*: .*", output), output
    assert "use " in output or "rmeinheld.coroutine.offload" in output
    assert output.count("\n") == 1


def test_the_stacks_show_where_a_library_blocks(serve: Serve) -> None:
    """The handler of faulthandler runs even while no Python code can run, as docs/libraries.md says."""
    server = serve(
        """
        import ctypes, faulthandler, signal
        faulthandler.register(signal.SIGUSR2)
        usleep = ctypes.CDLL(None).usleep

        def query(errors):
            print("begins", file=errors, flush=True)
            usleep(2_000_000)

        def app(environ, start_response):
            query(environ["wsgi.errors"])
            start_response("204 No Content", [])
            return []
        """
    )
    with server.connect() as connection:
        connection.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        server.wait_for_log("begins\n")
        server.signal(signal.SIGUSR2)
        server.wait_for_log(r"line \d+ in query")
        assert connection.read_response().status == 204


def test_libraries_can_be_left_unpatched(script: RunScript, tmp_path: Path) -> None:
    (tmp_path / "MySQLdb.py").touch()
    assert script("from rmeinheld import patch; patch.patch_all(libraries=False); import MySQLdb") == ""


def test_a_module_that_is_hooked_is_an_ordinary_one(script: RunScript, tmp_path: Path) -> None:
    (tmp_path / "zmq.py").write_text("NUMBER = 7\n")
    output = script(
        """
        import importlib, inspect, logging
        from rmeinheld import patch
        patch.patch_all()
        logging.getLogger("rmeinheld.patch").disabled = True
        import zmq
        assert zmq.NUMBER == 7
        assert inspect.getsource(zmq) == "NUMBER = 7\\n"
        assert "exec_module" not in vars(zmq.__loader__)
        importlib.reload(zmq)
        print(zmq.__spec__.name)
        """
    )
    assert output == "zmq\n"


def test_modules_that_share_a_loader_are_hooked_each_for_itself(script: RunScript, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        for name in ("zmq", "grpc", "another"):
            archive.writestr(f"{name}.py", "")
    output = script(
        """
        import importlib.util, logging, sys
        sys.path.insert(0, "archive.zip")
        logging.basicConfig(format="%(message)s")
        from rmeinheld import patch
        patch.patch_all()
        # This only finds the first module. It is imported later, after another with the same loader.
        for name in ("zmq", "zmq", "grpc"):
            assert importlib.util.find_spec(name)
        import another, grpc, zmq
        assert another.__loader__ is grpc.__loader__ is zmq.__loader__
        """
    )
    assert [line.partition(":")[0] for line in output.splitlines()] == ["grpc", "zmq"]


@pytest.mark.parametrize("library", ["psycopg2", "psycopg"])
def test_a_postgresql_library_outside_of_coroutines_still_blocks(script: RunScript, library: str) -> None:
    pytest.importorskip(library)
    skip_with_assertions()
    output = script(
        f"""
        from rmeinheld import patch
        patch.patch_all()
        import {library}
        try:
            {library}.connect("host=127.0.0.1 port=1 user=nobody", connect_timeout=2)
        except {library}.OperationalError as error:
            print(type(error).__name__)
        """
    )
    assert output == "OperationalError\n"


# --- the page --------------------------------------------------------------------------------------------------------


def test_each_line_of_the_page_names_tests_that_exist() -> None:
    tests = Path(__file__).parents[1]
    page = (tests.parent / "docs" / "libraries.md").read_text(encoding="utf-8")
    lines = page.splitlines()
    heads = {place for place, line in enumerate(lines[1:]) if line.startswith("| ---")}
    rows = [
        line
        for place, line in enumerate(lines)
        if line.startswith("| ") and place not in heads and not line.startswith("| ---")
    ]
    assert len(rows) > 20
    for row in rows:
        names = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row)
        assert names, row
        for file, name in names:
            (path,) = tests.glob(f"*/{file}")
            assert f"def {name}(" in path.read_text(), f"{file} has no {name}"
