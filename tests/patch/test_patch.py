"""The patches as such: what is patched, what was too late, what threads and forked children get, closing under waiters.

CPython's own tests show that the patched standard library still works; see `tests/stdlib`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scripts import patched
from serving import RunScript

# --- the patching itself ---------------------------------------------------------------------------------------------


def test_patching_first_finds_nothing_and_says_nothing(script: RunScript) -> None:
    output = script(
        """
        from rmeinheld import patch
        print(patch.patch_all(), patch.patch_all())
        """
    )
    assert output == "[] []\n"


def test_a_builtin_function_that_an_agent_has_wrapped_is_patched(script: RunScript) -> None:
    """Agents of tracing replace functions by proxies, whose `__class__` is that of the function."""
    output = script(
        """
        import os, types
        class Proxy:
            def __init__(self, wrapped):
                self.wrapped = wrapped
            def __call__(self, *args, **named):
                return self.wrapped(*args, **named)
            def __getattr__(self, name):
                return getattr(self.wrapped, name)
            @property
            def __class__(self):
                return types.BuiltinFunctionType
        os.system = Proxy(os.system)
        os.read = Proxy(os.read)
        from rmeinheld import patch
        patch.patch_all()
        from rmeinheld.coroutine import spawn
        import time
        def test():
            inside, outside = os.pipe()
            reader = spawn(os.read, inside, 9)
            time.sleep(0.01)
            os.write(outside, b"read")
            reader.join()
            return reader.result, os.system("exit 3") >> 8
        tested = spawn(test)
        tested.join(20)
        print(tested.result)
        """
    )
    assert output == "(b'read', 3)\n"


def test_a_process_whose_parts_were_imported_before_the_patch_ends_in_order(script: RunScript) -> None:
    """The interpreter closes the standard streams at its very end, and their methods are patched."""
    output = script(
        """
        import importlib
        from rmeinheld import patch
        for part in patch.PARTS.values():
            importlib.import_module(f"rmeinheld.patch.{part}")
        patch.patch_all()
        print("patched")
        """
    )
    assert output == "patched\n"


def test_what_was_imported_by_name_before_is_exchanged_and_reported(script: RunScript) -> None:
    output = script(
        """
        import logging, sys, types
        logging.basicConfig(level="INFO", format="%(levelname)s %(message)s")
        early = types.ModuleType("early")
        sys.modules["early"] = early
        exec("from time import sleep\\nfrom threading import Lock", vars(early))
        from rmeinheld import patch
        findings = patch.patch_all()
        import threading, time
        assert early.sleep is time.sleep and early.Lock is threading.Lock
        print(sorted((finding.module, finding.fixed) for finding in findings))
        """
    )
    assert "[('early', True), ('early', True)]" in output
    assert "INFO patched late, after these were imported or made: early: had imported" in output


def test_a_default_argument_is_exchanged_too(script: RunScript) -> None:
    output = script(
        """
        import sys, time, types
        early = types.ModuleType("early")
        sys.modules["early"] = early
        function = "def wait(seconds, sleep=sleep, *, again=sleep, other=1): return sleep, again, other"
        exec(f"from time import sleep\\n{function}", vars(early))
        del early.sleep
        # A connection of multiprocessing reads with the `os.read` that existed when the module was imported.
        import multiprocessing.connection
        from rmeinheld import patch
        print(*patch.patch_all())
        assert early.wait(0) == (time.sleep, time.sleep, 1)
        from rmeinheld.coroutine import sleep, spawn
        near, far = multiprocessing.Pipe()
        reading = spawn(near.recv)
        spawn(lambda: (sleep(0.01), far.send("sent")))
        assert reading.join(10)
        print(reading.result)
        """
    )
    assert output.splitlines() == ["early: wait had sleep, sleep as a default (repaired in place)", "sent"]


def test_executors_imported_or_made_before_work_in_coroutines(script: RunScript) -> None:
    output = script(
        """
        from concurrent.futures import ThreadPoolExecutor
        made, used = ThreadPoolExecutor(2), ThreadPoolExecutor(2)
        used.submit(int).result()
        from rmeinheld import patch
        for finding in patch.patch_all():
            print(finding)
        from rmeinheld.coroutine import sleep, spawn
        def calculate(number):
            sleep(0.01)
            return 2 * number
        def ask(number):
            with ThreadPoolExecutor(2) as own:
                return own.submit(calculate, number).result() + made.submit(calculate, number).result()
        asking = [spawn(ask, number) for number in range(10)]
        assert all(each.join(10) for each in asking), "an executor hangs"
        print([each.result for each in asking] == [4 * number for number in range(10)])
        """
    )
    assert output.splitlines()[-3:] == [
        "concurrent.futures: 1 executors had been made before the patch (repaired in place)",
        "concurrent.futures: 1 executors with workers, made before the patch, may block every coroutine that submits",
        "True",
    ]


def test_what_was_made_before_is_repaired_or_named(script: RunScript) -> None:
    output = script(
        """
        import selectors, socket, ssl, sys, threading, types
        early = types.ModuleType("early")
        # Locks that were made before the patch park: tests/coroutine/test_locks_before_the_patch.py
        early.lock, early.guard = threading.Lock(), threading.RLock()
        sys.modules["early"] = early
        selector, poller = selectors.EpollSelector(), selectors.PollSelector()
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        left, right = socket.socketpair()
        secured = context.wrap_socket(left, do_handshake_on_connect=False)
        selector.register(right, selectors.EVENT_READ)
        from rmeinheld import patch
        for finding in patch.patch_all():
            print(finding)
        from rmeinheld.coroutine import sleep, spawn
        ticks = []
        def tick():
            while True:
                ticks.append(1)
                sleep(0.01)
        def wait():
            assert selector.select(0.1) == []
            secured.settimeout(0.1)
            try:
                secured.do_handshake()
            except TimeoutError as error:
                print(error)
        spawn(tick)
        waiting = spawn(wait)
        waiting.join()
        waiting.result
        print(len(ticks) > 5)
        """
    )
    assert "early: " not in output
    assert output.splitlines()[-4:] == [
        "ssl: 1 TLS connections had been made before the patch (repaired in place)",
        "selectors: 1 selectors had been made before the patch (repaired in place)",
        "The handshake operation timed out",
        "True",
    ]


def test_originals_can_be_had(script: RunScript) -> None:
    output = script(
        """
        import time
        kept = [time.sleep]
        from rmeinheld import patch
        print(patch.is_patched("time"), patch.get_original("time", "sleep") is kept[0])
        patch.patch_time()
        print(patch.is_patched("time"), patch.is_patched("socket"), time.sleep is kept[0])
        print(patch.get_original("time", "sleep") is kept[0], patch.get_original("os.path", "join").__name__)
        patch.patch_all()
        import socket
        print(patch.get_original("socket", "socket.recv") is socket.socket.__mro__[1].recv)
        """
    )
    assert output.splitlines() == ["False True", "True False False", "True join", "True"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("patch_all(sockets=True)", "TypeError: patch_all() knows no part 'sockets'; the parts are thread, time,"),
        ("patch_all(futures='threads')", "ValueError: futures must be one of coroutines, native, not 'threads'"),
    ],
)
def test_what_makes_no_sense_is_an_error(script: RunScript, call: str, message: str) -> None:
    output = script(
        f"""
        from rmeinheld.patch import *
        try:
            {call}
        except (TypeError, ValueError) as error:
            print(f"{{type(error).__name__}}: {{error}}")
        """
    )
    assert message in output


def test_meinhelds_arguments_are_taken(script: RunScript) -> None:
    output = script(
        """
        from rmeinheld import patch
        patch.patch_all(socket=True, aggressive=True)
        patch.patch_socket(aggressive=False)
        print(patch.is_patched("socket"))
        """
    )
    assert output == "True\n"


def test_ssl_is_patched_when_the_application_imports_it(script: RunScript) -> None:
    output = script(
        """
        import sys
        from rmeinheld import patch
        print(patch.patch_all(), "ssl" in sys.modules, patch.is_patched("ssl"))
        import ssl
        original = patch.get_original("ssl", "SSLContext._wrap_socket")
        print(ssl.SSLContext._wrap_socket is not original is ssl.SSLContext.__mro__[1]._wrap_socket)
        print(ssl.__spec__.loader.__class__.__name__, ssl.__loader__ is ssl.__spec__.loader)
        """
    )
    assert output == "[] False True\nTrue\nSourceFileLoader True\n"


def test_the_original_of_ssl_is_found_before_ssl_is_imported(script: RunScript) -> None:
    output = script(
        """
        from rmeinheld import patch
        patch.patch_ssl()
        original = patch.get_original("ssl", "SSLContext._wrap_socket")
        import ssl
        print(ssl.SSLContext._wrap_socket is not original is ssl.SSLContext.__mro__[1]._wrap_socket)
        """
    )
    assert output == "True\n"


def test_a_part_can_be_left_out(script: RunScript) -> None:
    output = script(
        """
        from rmeinheld import patch
        patch.patch_all(thread=False, ssl=False)
        print(*(patch.is_patched(name) for name in ("threading", "ssl", "socket", "time")))
        """
    )
    assert output == "False False True True\n"


def test_classes_stay_the_classes_that_they_were(script: RunScript) -> None:
    output = script(
        """
        import selectors, socket, ssl
        before = socket.socket, ssl.SSLContext, ssl.SSLSocket, selectors.DefaultSelector, socket.SocketType
        from rmeinheld import patch
        patch.patch_all()
        print(before == (socket.socket, ssl.SSLContext, ssl.SSLSocket, selectors.DefaultSelector, socket.SocketType))
        """
    )
    assert output == "True\n"


# --- waits of many coroutines ----------------------------------------------------------------------------------------


def test_what_used_to_block_waits_side_by_side(script: RunScript) -> None:
    body = """
import queue
def from_socket():
    left, right = socket.socketpair()
    with left, right:
        spawn(lambda: (time.sleep(0.2), right.sendall(b"x")))
        return left.recv(1)
def from_pipe():
    read, write = os.pipe()
    spawn(lambda: (time.sleep(0.2), os.write(write, b"x")))
    return os.read(read, 1)
def from_select():
    read, write = os.pipe()
    spawn(lambda: (time.sleep(0.2), os.write(write, b"x")))
    return select.select([read], [], [], 5)[0] == [read]
def from_poll():
    read, write = os.pipe()
    spawn(lambda: (time.sleep(0.2), os.write(write, b"x")))
    poller = select.poll()
    poller.register(read, select.POLLIN)
    return poller.poll(5000) == [(read, select.POLLIN)]
def from_epoll():
    read, write = os.pipe()
    spawn(lambda: (time.sleep(0.2), os.write(write, b"x")))
    with select.epoll() as poller:
        poller.register(read, select.EPOLLIN)
        return poller.poll(5) == [(read, select.EPOLLIN)]
def from_event():
    event = threading.Event()
    threading.Timer(0.2, event.set).start()
    return event.wait(5)
def from_queue():
    items = queue.SimpleQueue()
    threading.Thread(target=lambda: (time.sleep(0.2), items.put(1))).start()
    return items.get(timeout=5)
def from_child():
    return subprocess.run(["sh", "-c", "sleep 0.2; echo x"], capture_output=True).stdout
def from_system():
    return os.system("sleep 0.2") == 0
def from_sleep():
    time.sleep(0.2)
    return True
waits = [from_socket, from_pipe, from_select, from_poll, from_epoll, from_event, from_queue, from_child, from_system,
         from_sleep]
before = time.monotonic()
coroutines = [spawn(wait) for wait in waits * 3]
for coroutine in coroutines:
    coroutine.join()
    assert coroutine.result, coroutine
return time.monotonic() - before < 3 * 0.2 * len(waits) / 2
"""
    assert patched(script, body) == "True"


def test_descriptors_that_are_no_files_let_others_run(script: RunScript) -> None:
    body = """
import ctypes
def from_eventfd(read):
    fd = os.eventfd(0)
    spawn(lambda: (time.sleep(0.05), os.eventfd_write(fd, 7)))
    return read(fd)
def from_inotify():
    c = ctypes.CDLL(None)
    fd = c.inotify_init()
    c.inotify_add_watch(fd, b".", 0x100)
    spawn(lambda: (time.sleep(0.05), open("created", "w").close()))
    return b"created" in os.read(fd, 4096)
def from_timerfd():
    fd = os.timerfd_create(time.CLOCK_MONOTONIC)
    # Time for the others to end, unless this coroutine blocks them.
    os.timerfd_settime(fd, initial=0.3)
    return int.from_bytes(os.read(fd, 8), sys.byteorder)
order = []
def run(name, action, *arguments):
    result = action(*arguments)
    order.append(name)
    return result
timer = spawn(run, "timerfd", from_timerfd) if hasattr(os, "timerfd_create") else spawn(lambda: 1)
others = [
    spawn(run, "eventfd", from_eventfd, lambda fd: int.from_bytes(os.read(fd, 8), sys.byteorder)),
    spawn(run, "eventfd", from_eventfd, os.eventfd_read),
    spawn(run, "inotify", from_inotify),
]
for each in (timer, *others):
    each.join()
assert order[:3] == ["eventfd", "eventfd", "inotify"], order
return [each.result for each in (*others, timer)]
"""
    assert patched(script, body) == "[7, 7, True, 1]"


def test_select_for_a_file_that_is_never_ready_lets_others_run(script: RunScript) -> None:
    body = """
ticks = []
def tick():
    while True:
        ticks.append(1)
        sleep(0.01)
spawn(tick)
with open(__file__) as file:
    before = time.monotonic()
    assert select.select([], [], [file], 0.3) == ([], [], [])
    return time.monotonic() - before >= 0.3, len(ticks) > 5
"""
    assert patched(script, body) == "(True, True)"


@pytest.mark.parametrize("events", ["select.POLLRDNORM", "select.POLLIN | select.POLLRDNORM", "select.POLLWRNORM"])
def test_poll_knows_the_events_with_longer_names(script: RunScript, events: str) -> None:
    body = f"""
near, far = socket.socketpair()
near.setblocking(False)
try:
    while True:
        near.send(bytes(100_000))
except BlockingIOError:
    pass
poller = select.poll()
poller.register(near, {events})
def help():
    sleep(0.01)
    far.send(b"x")
    far.setblocking(False)
    try:
        while far.recv(1_000_000):
            pass
    except BlockingIOError:
        pass
spawn(help)
before = time.monotonic()
found = poller.poll(10_000)
return [fd == near.fileno() and bool(event & ({events})) for fd, event in found], time.monotonic() - before < 5
"""
    assert patched(script, body) == "([True], True)"


def test_numbers_that_only_look_like_ints_are_timeouts_too(script: RunScript) -> None:
    body = """
class One:
    def __index__(self):
        return 1
ticks = []
def tick():
    while True:
        ticks.append(1)
        sleep(0.01)
spawn(tick)
read, write = os.pipe()
poller, epoller = select.poll(), select.epoll()
for each in (poller, epoller):
    each.register(read, select.POLLIN)
waits = [lambda: time.sleep(One()), lambda: select.select([read], [], [], One()), lambda: epoller.poll(One())]
enough = []
for wait in waits:
    ticks.clear()
    wait()
    enough.append(len(ticks) > 10)
return enough, poller.poll(One())
"""
    assert patched(script, body) == "([True, True, True], [])"


def test_one_socket_is_read_and_written_at_once(script: RunScript) -> None:
    body = """
left, right = socket.socketpair()
size = 4_000_000
def write(end):
    end.sendall(bytes(size))
def read(end):
    got = 0
    while got < size:
        got += len(end.recv(100_000))
    return got
coroutines = [spawn(action, end) for end in (left, right) for action in (write, read)]
for coroutine in coroutines:
    coroutine.join()
return [coroutine.result for coroutine in coroutines]
"""
    assert patched(script, body) == "[None, 4000000, None, 4000000]"


def test_fifty_coroutines_accept_on_one_socket(script: RunScript) -> None:
    body = """
listener = socket.create_server(("127.0.0.1", 0), backlog=100)
def accept():
    connection, _ = listener.accept()
    with connection:
        connection.sendall(connection.recv(10))
    return 1
acceptors = [spawn(accept) for _ in range(50)]
def ask(number):
    with socket.create_connection(listener.getsockname(), timeout=5) as connection:
        connection.sendall(b"%d" % number)
        return connection.recv(10)
clients = [spawn(ask, number) for number in range(50)]
for coroutine in clients + acceptors:
    coroutine.join()
return sorted(int(client.result) for client in clients) == list(range(50)), sum(each.result for each in acceptors)
"""
    assert patched(script, body) == "(True, 50)"


@pytest.mark.parametrize("close", ["sock.close()", "os.close(sock.detach())", "os.dup2(other.fileno(), sock.fileno())"])
def test_closing_wakes_who_waits_with_an_error(script: RunScript, close: str) -> None:
    body = f"""
import errno
sock, other = socket.socketpair()
def wait():
    try:
        sock.recv(1)
    except OSError as error:
        return error.errno
waiting = [spawn(wait) for _ in range(3)]
sleep(0)
{close}
for coroutine in waiting:
    assert coroutine.join(5), "still waits"
return {{coroutine.result for coroutine in waiting}} == {{errno.EBADF}}
"""
    assert patched(script, body) == "True"


def test_closing_in_a_thread_wakes_who_waits(script: RunScript) -> None:
    body = """
sock, other = socket.socketpair()
def wait():
    try:
        sock.recv(1)
    except OSError as error:
        return "closed"
waiting = spawn(wait)
sleep(0)
offload(sock.close)
assert waiting.join(5), "still waits"
return waiting.result
"""
    assert patched(script, body) == "closed"


def test_a_descriptor_that_is_used_again_is_another_one(script: RunScript) -> None:
    body = """
numbers = set()
for round in range(200):
    left, right = socket.socketpair()
    numbers.add(left.fileno())
    spawn(right.sendall, b"%d" % round)
    assert int(left.recv(10)) == round
    # Closed behind the socket's back, as a C library does.
    for end in (left, right):
        get_original("os", "close")(end.detach())
return len(numbers) < 10
"""
    assert patched(script, body) == "True"


def test_timeouts_of_sockets_are_kept(script: RunScript) -> None:
    body = """
left, right = socket.socketpair()
took = []
for timeout in (0.05, 0.1):
    left.settimeout(timeout)
    before = time.monotonic()
    try:
        left.recv(1)
    except TimeoutError as error:
        assert str(error) == "timed out"
        took.append(timeout <= time.monotonic() - before < timeout + 5)
left.settimeout(0)
try:
    left.recv(1)
except BlockingIOError as error:
    took.append(error.errno == 11)
left.setblocking(True)
return took, left.gettimeout(), os.get_blocking(left.fileno())
"""
    assert patched(script, body) == "([True, True, True], None, True)"


def test_a_timeout_that_is_set_during_a_wait_is_kept(script: RunScript) -> None:
    body = """
kept = []
for timeout in (3.0, 0.0, None):
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("127.0.0.1", 0))
    receiver.settimeout(10)
    waiting = spawn(receiver.recvfrom, 10)
    sleep(0)
    receiver.settimeout(timeout)
    receiver.sendto(b"x", receiver.getsockname())
    assert waiting.join(5) and waiting.result[0] == b"x"
    kept.append((receiver.gettimeout(), os.get_blocking(receiver.fileno())))
return kept
"""
    assert patched(script, body) == "[(3.0, False), (0.0, False), (None, True)]"


def test_a_timeout_that_is_set_while_tls_waits_is_kept(script: RunScript, certificate: Path) -> None:
    body = f"""
context = ssl.create_default_context(cafile="{certificate}.crt")
serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
serving.load_cert_chain("{certificate}")
left, right = socket.socketpair()
accepting = spawn(serving.wrap_socket, right, server_side=True)
secured = context.wrap_socket(left, server_hostname="localhost")
assert accepting.join(5)
waiting = spawn(secured.recv, 10)
sleep(0)
secured.settimeout(3)
accepting.result.sendall(b"x")
assert waiting.join(5)
return waiting.result, secured.gettimeout()
"""
    assert patched(script, body) == "(b'x', 3.0)"


def test_a_timeout_that_is_set_during_a_wait_does_not_make_it_block(script: RunScript) -> None:
    body = """
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind(("127.0.0.1", 0))
waiting = [spawn(receiver.recvfrom, 10) for _ in range(2)]
sleep(0)
receiver.settimeout(2)
# Both coroutines are woken, and only one finds data.
receiver.sendto(b"first", receiver.getsockname())
sleep(0)
sleep(0)
receiver.sendto(b"second", receiver.getsockname())
assert all(coroutine.join(5) for coroutine in waiting)
return sorted(coroutine.result[0] for coroutine in waiting)
"""
    assert patched(script, body) == "[b'first', b'second']"


@pytest.mark.parametrize("call", ["recv", "recv_into", "recvfrom", "recvfrom_into"])
def test_a_call_that_wants_all_waits_for_all(script: RunScript, call: str) -> None:
    body = f"""
into, flags = {call.endswith("into")}, socket.MSG_WAITALL
def receive(end, size, flags=flags):
    buffer = bytearray(10)
    got = getattr(end, {call!r})(buffer, size, flags) if into else getattr(end, {call!r})(size, flags)
    got = got[0] if isinstance(got, tuple) else got
    return bytes(buffer[:got]) if into else got
left, right = socket.socketpair()
got = []
# The data arrives in parts, and then the stream ends.
for parts, end in (((b"abc", b"defgh"), lambda: None), ((b"abc",), lambda: right.shutdown(socket.SHUT_WR))):
    coroutine = spawn(receive, left, 8)
    for part in parts:
        sleep(0)
        assert not coroutine.done
        right.sendall(part)
    sleep(0)
    end()
    assert coroutine.join(5), "more was waited for"
    got.append(coroutine.result)
# With a timeout, or for datagrams, recv(2) returns the data that has arrived.
left, right = socket.socketpair()
left.settimeout(5)
right.sendall(b"abc")
got.append(receive(left, 8))
left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
right.send(b"abc")
got.append(receive(left, 8))
# The next call reports an error that follows a part.
with socket.create_server(("127.0.0.1", 0)) as listener:
    left = socket.create_connection(listener.getsockname())
    right, _ = listener.accept()
coroutine = spawn(receive, left, 8)
right.sendall(b"abc")
while select.select([left], [], [], 0)[0]:
    sleep(0)
right.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
right.close()
assert coroutine.join(5)
got.append(coroutine.result)
try:
    got.append(receive(left, 8))
except ConnectionResetError:
    got.append("reset")
return got
"""
    assert patched(script, body) == "[b'abcdefgh', b'abc', b'abc', b'abc', b'abc', 'reset']"


def test_nothing_is_received_at_once(script: RunScript) -> None:
    body = """
left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
left.settimeout(5)
before = time.monotonic()
nothing = left.recv(0), left.recv_into(bytearray()), left.recv(0, socket.MSG_WAITALL)
at_once = time.monotonic() - before < 5
right.send(b"whole")
nothing += left.recv(0), left.recv_into(bytearray())
received = left.recv(10)
left.close()
return nothing, at_once, received, left.recv(0)
"""
    assert patched(script, body) == "((b'', 0, b'', b'', 0), True, b'whole', b'')"


def test_a_tls_socket_without_references_is_closed_without_a_collection(script: RunScript) -> None:
    body = """
import gc
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
left, right = socket.socketpair()
gc.collect()
gc.disable()
secured = context.wrap_socket(left, do_handshake_on_connect=False)
del secured
return right.recv(1)
"""
    assert patched(script, body) == "b''"


def test_the_longest_timeouts_are_taken(script: RunScript) -> None:
    body = """
thread = threading.Thread(target=sleep, args=(0,))
thread.start()
thread.join(threading.TIMEOUT_MAX)
left, right = socket.socketpair()
left.settimeout(4e9)
coroutine, other = spawn(left.recv, 1), spawn(left.recvfrom, 1)
sleep(0)
right.sendall(b"xx")
assert coroutine.join(4e9) and other.join(9_223_372_036.0)
errors = []
for bad in (-1, float("nan"), float("inf"), 1e10):
    try:
        coroutine.join(bad)
    except (ValueError, OverflowError) as error:
        errors.append(type(error).__name__)
return coroutine.result, other.result[0], errors
"""
    expected = "(b'x', b'x', ['ValueError', 'ValueError', 'ValueError', 'OverflowError'])"
    assert patched(script, body) == expected


def test_buffers_from_a_generator_outlast_a_wait(script: RunScript) -> None:
    body = """
left, right = socket.socketpair()
left.setblocking(False)
filled = 0
try:
    while True:
        filled += left.send(bytes(65536))
except BlockingIOError:
    left.setblocking(True)
sending = spawn(lambda: left.sendmsg(part for part in (b"hello ", b"world")))
sleep(0)
while filled:
    filled -= len(right.recv(min(filled, 65536)))
assert sending.join(5)
hello, world = bytearray(6), bytearray(5)
receiving = spawn(lambda: right.recvmsg_into(part for part in (hello, world)))
sleep(0)
assert receiving.join(5)
first = receiving.result[0], bytes(hello + world)
receiving = spawn(lambda: right.recvmsg_into(part for part in (hello, world)))
sleep(0)
left.sendall(b"HELLO WORLD")
assert receiving.join(5)
return sending.result, first, receiving.result[0], bytes(hello + world)
"""
    assert patched(script, body) == "(11, (11, b'hello world'), 11, b'HELLO WORLD')"


def test_names_are_asked_for_on_threads_and_numbers_are_not(script: RunScript) -> None:
    body = """
from rmeinheld.offload import number_of_threads
before = number_of_threads()
socket.getaddrinfo("127.0.0.1", 80)
socket.getaddrinfo("::1", 80)
numbers = number_of_threads() - before
found = socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
return numbers, number_of_threads() - before, found[0][4][1]
"""
    assert patched(script, body) == "(0, 1, 80)"


def test_connect_does_not_call_a_getaddrinfo_that_a_test_has_put_in_its_place(script: RunScript) -> None:
    body = """
def fail(*arguments):
    raise AssertionError(arguments)
socket.getaddrinfo = fail
listener = socket.create_server(("127.0.0.1", 0))
with socket.socket() as client, socket.socket(type=socket.SOCK_DGRAM) as other:
    client.connect(("localhost", listener.getsockname()[1]))
    return client.getpeername() == listener.getsockname(), other.sendto(b"x", ("localhost", 9))
"""
    assert patched(script, body) == "(True, 1)"


def test_a_thread_is_a_coroutine_in_a_coroutine_and_a_thread_elsewhere(script: RunScript) -> None:
    body = """
def where():
    seen.append((threading.get_native_id() == here, threading.current_thread().name, can_park()))
seen, here = [], threading.get_native_id()
threads = [threading.Thread(target=where, name="inner")]
threads[0].start()
threads[0].join()
def start_another():
    thread = threading.Thread(target=where, name="outer")
    thread.start()
    thread.join()
offload(start_another)
return seen, threads[0].ident != threading.get_ident(), threads[0].is_alive()
"""
    assert patched(script, body) == "([(True, 'inner', True), (False, 'outer', False)], True, False)"


def test_a_thread_knows_that_it_is_alive(script: RunScript) -> None:
    body = """
seen = []
def look():
    seen.append((threading.current_thread().is_alive(), repr(threading.current_thread()).count("started")))
thread = threading.Thread(target=look)
thread.start()
thread.join()
return seen, thread.is_alive()
"""
    assert patched(script, body) == "([(True, 1)], False)"


def test_executors_work_in_coroutines_or_in_threads(script: RunScript) -> None:
    for option, expected in (("'coroutines'", True), ("'native'", False)):
        output = script(
            f"""
            from rmeinheld.patch import patch_all
            patch_all(futures={option})
            import threading
            from concurrent.futures import ThreadPoolExecutor
            from rmeinheld.coroutine import spawn

            def test():
                with ThreadPoolExecutor(2) as executor:
                    return set(executor.map(lambda _: threading.get_native_id(), range(4)))

            here = spawn(threading.get_native_id)
            found = spawn(test)
            here.join(), found.join()
            print(found.result == {{here.result}})
            """
        )
        assert output == f"{expected}\n"


def test_workers_of_executors_end_quietly_with_the_server_and_are_replaced_after_it(script: RunScript) -> None:
    output = script(
        """
        from rmeinheld.patch import patch_all
        patch_all()
        import rmeinheld, threading
        from concurrent.futures import ThreadPoolExecutor
        from rmeinheld.coroutine import sleep, spawn
        from rmeinheld.meinheld import server

        idle, busy = ThreadPoolExecutor(3), ThreadPoolExecutor(1)
        jobs = []

        def work():
            list(idle.map(lambda _: sleep(0.01), range(3)))
            jobs.append(busy.submit(sleep, 100))
            server.stop(0)

        for round in range(2):
            spawn(work)
            rmeinheld.run(lambda environ, start_response: [], port=0)
            print(repr(jobs[-1].exception(0)))
            print(idle.submit(lambda: "idle").result(10), busy.submit(lambda: "busy").result(10))
            # These two workers are OS threads. With them, the next round would start no coroutines.
            idle.shutdown(), busy.shutdown()
            idle, busy = ThreadPoolExecutor(3), ThreadPoolExecutor(1)
        """
    )
    lines = [line for line in output.splitlines() if "listening at" not in line and "unfinished threads" not in line]
    assert lines == ["CoroutineExit('the server stops')", "idle busy"] * 2, output


def test_a_forked_child_gets_the_real_thing(script: RunScript) -> None:
    body = """
read, write = os.pipe()
pid = os.fork()
if pid == 0:
    try:
        left, right = socket.socketpair()
        threading.Timer(0.05, right.sendall, [b"x"]).start()
        time.sleep(0.01)
        lock = threading.Lock()
        with lock:
            os.write(write, left.recv(1) + b"%d" % can_park() + b"%d" % len(threading.enumerate()))
    finally:
        os._exit(0)
os.close(write)
said = os.read(read, 10)
return said, os.waitpid(pid, 0)[1]
"""
    assert patched(script, body) in ("(b'x01', 0)", "(b'x02', 0)")


def test_signals_to_a_coroutines_number_reach_its_thread(script: RunScript) -> None:
    body = """
import signal
signal.pthread_kill(threading.get_ident(), 0)
time.clock_gettime(time.pthread_getcpuclockid(threading.get_ident()))
try:
    offload(signal.pthread_kill, threading.get_ident(), 0)
except ProcessLookupError as error:
    return str(error)
"""
    assert patched(script, body) == "[Errno 3] a coroutine's number means nothing outside of its thread"


def test_waits_for_signals_park(script: RunScript) -> None:
    output = script(
        """
        import signal
        # Every thread blocks the signal, as sigwait(3) requires.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        from rmeinheld import patch
        patch.patch_all()
        import os
        from rmeinheld.coroutine import sleep, spawn
        def await_signal(wait):
            waiting = spawn(wait)
            for _ in range(5):
                sleep(0.002)
            assert not waiting.join(0)
            os.kill(os.getpid(), signal.SIGUSR1)
            assert waiting.join(10)
            return waiting.result
        def test():
            assert await_signal(lambda: signal.sigwait({signal.SIGUSR1})) is signal.SIGUSR1
            assert await_signal(lambda: signal.sigwaitinfo(iter([signal.SIGUSR1]))).si_signo == signal.SIGUSR1
            assert await_signal(lambda: signal.sigtimedwait([signal.SIGUSR1], 10)).si_pid == os.getpid()
            assert signal.sigtimedwait([signal.SIGUSR1], 0.01) is None
            for wrong in (lambda: signal.sigtimedwait([signal.SIGUSR1], -1), lambda: signal.sigwait([1000])):
                try:
                    wrong()
                except ValueError as error:
                    print("refused")
        testing = spawn(test)
        assert testing.join(20)
        testing.result
        """
    )
    assert output.splitlines() == ["refused", "refused"]


def test_sleeps_that_no_clock_can_measure_are_refused_as_without_the_patch(script: RunScript) -> None:
    body = """
original = patch.get_original("time", "sleep")
def refusal(sleep, value):
    try:
        sleep(value)
    except (OverflowError, ValueError, TypeError) as error:
        return type(error), str(error)
large = (float("inf"), 2**70, 10**400, 9223372036.854776, 9223372037)
values = (*large, float("nan"), float("-inf"), -1, -(2**70), "1", None)
sleeping = spawn(time.sleep, 9223372036.854774)
sleep(0)
assert not sleeping.join(0)
return [value for value in values if (found := refusal(time.sleep, value)) is None or found != refusal(original, value)]
"""
    assert patched(script, body) == "[]"


def test_a_coroutines_number_is_no_address_however_many_there_were(script: RunScript) -> None:
    body = """
import signal
signal.pthread_kill(1 << 30, 0)
time.clock_gettime(time.pthread_getcpuclockid(1 << 30))
return "no crash"
"""
    assert patched(script, body) == "no crash"


def test_a_coroutine_leaves_no_dummy_thread(script: RunScript) -> None:
    body = """
names = []
def ask():
    thread = threading.current_thread()
    assert thread is threading.current_thread() and thread in threading.enumerate()
    names.append(thread.name)
before = len(threading.enumerate())
for _ in range(3):
    for coroutine in [spawn(ask) for _ in range(50)]:
        coroutine.join()
sleep(0)
return len(set(names)), len(threading.enumerate()) - before
"""
    assert patched(script, body) == "(150, 0)"


def test_locks_bear_the_name_of_their_module(script: RunScript) -> None:
    """Trio checks the module of the class."""
    body = "return [type(make()).__module__ for make in (threading.Lock, threading.RLock)]"
    assert patched(script, body) == "['_thread', '_thread']"


def test_a_hundred_children_at_once(script: RunScript) -> None:
    body = """
def run(number):
    return subprocess.run(["sh", "-c", f"sleep 0.1; echo {number}"], capture_output=True, check=True).stdout
coroutines = [spawn(run, number) for number in range(100)]
for coroutine in coroutines:
    coroutine.join()
return sum(int(coroutine.result) for coroutine in coroutines)
"""
    assert patched(script, body) == "4950"


def test_the_pipe_of_a_child_that_was_started_before_parks(script: RunScript) -> None:
    output = script(
        """
        from rmeinheld.patch import patch_all
        patch_all()
        import subprocess
        from rmeinheld.coroutine import sleep, spawn
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        reading = spawn(child.stdout.readline)
        # The parent reads the state of the process, which cannot report it itself.
        spawn(lambda: (sleep(0.01), child.stdin.write(b"said\\n"), child.stdin.flush()))
        assert reading.join(10)
        print(reading.result)
        child.communicate()
        """
    )
    assert output == "b'said\\n'\n"


def test_coroutines_share_the_pipes_of_a_child(script: RunScript) -> None:
    body = """
child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
line = b"x" * 999 + b"\\n"
def write():
    child.stdin.write(line * 200)
    child.stdin.flush()
def read():
    return sum(each == line for each in child.stdout)
readers, writers = [spawn(read) for _ in range(2)], [spawn(write) for _ in range(3)]
for each in writers:
    each.join()
    each.result
child.stdin.close()
for each in readers:
    each.join()
return sum(each.result for each in readers), child.wait()
"""
    assert patched(script, body) == "(600, 0)"


def test_a_write_leaves_the_flags_of_a_shared_pipe_alone(script: RunScript) -> None:
    body = """
set_blocking, changes = os.set_blocking, []
os.set_blocking = lambda fd, blocking: (changes.append(blocking), set_blocking(fd, blocking))
read, write = os.pipe()
try:
    os.pwritev(write, [b"x"], -1, os.RWF_NOWAIT)
    expected = []
except OSError:
    # Linux before 6.4.
    expected = changes
spawn(lambda: [sleep(0.01) or os.read(read, 100_000) for _ in range(20)])
return os.write(write, bytes(300_000)), changes == expected
"""
    assert patched(script, body) == "(300000, True)"


def test_looking_into_a_queue_in_a_loop_lets_others_fill_it(script: RunScript) -> None:
    body = """
import queue
items = queue.Queue()
def fill():
    time.sleep(0.01)
    items.put("filled")
spawn(fill)
while True:
    try:
        return items.get_nowait()
    except queue.Empty:
        continue
"""
    assert patched(script, body) == "filled"


@pytest.mark.skipif(sys.version_info < (3, 13), reason="3.12 has no exception for a queue that is shut down")
def test_waits_of_shut_down_queues_end(script: RunScript) -> None:
    body = """
import queue
from rmeinheld import coroutine as primitives
seen = []
for kind in (primitives.Queue, primitives.LifoQueue, primitives.PriorityQueue, queue.Queue):
    items = kind()
    waiting = spawn(items.get)
    sleep(0)
    items.shutdown()
    waiting.join()
    try:
        waiting.result
    except queue.ShutDown:
        seen.append(kind.__name__)
return seen
"""
    assert patched(script, body) == "['Queue', 'LifoQueue', 'PriorityQueue', 'Queue']"


def test_a_patched_function_binds_no_instance_where_the_original_did_not(script: RunScript) -> None:
    output = script(
        """
        import inspect, os, pickle, select, sys, threading, time
        before = {name: getattr(time.sleep, name) for name in ("__name__", "__qualname__", "__module__", "__doc__")}
        from rmeinheld.patch import _state, patch_all
        patch_all()

        class Holder:
            sleep, close, select, waitpid, ident, lock = (
                time.sleep, os.close, select.select, os.waitpid, threading.get_ident, threading.Lock
            )

        holder = Holder()
        print(holder.sleep(0.001), holder.close(os.open(os.devnull, flags=os.O_RDONLY)), holder.select([], [], [], 0))
        print(holder.ident() == threading.get_ident(), holder.lock().locked())
        try:
            holder.waitpid(-1, 0)
        except ChildProcessError:
            print("no child")

        for (module, name), original in _state._originals.items():
            if "." not in name and module in sys.modules and callable(original):
                new = getattr(sys.modules[module], name, None)
                if hasattr(type(new), "__get__") != hasattr(type(original), "__get__"):
                    print("binds", module, name)
        print({name: getattr(time.sleep, name) for name in before} == before, inspect.isbuiltin(time.sleep))
        print(pickle.loads(pickle.dumps([time.sleep, os.read, select.select])) == [time.sleep, os.read, select.select])
        """
    )
    assert output.splitlines() == [
        "None None ([], [], [])",
        "True False",
        "no child",
        "True True",
        "True",
    ]
