"""Files under the patches: pipes, FIFOs, terminals, sockets as files, the standard streams, and file locks.

Each test first shows that the wait parks: other coroutines run until the awaited event happens.
"""

from __future__ import annotations

import pytest

from serving import RunScript
from waits import patched

# --- one file, several coroutines ------------------------------------------------------------------------------------


def test_two_coroutines_read_one_buffered_file_line_by_line(script: RunScript) -> None:
    body = """
def both(make):
    near, far = socket.socketpair()
    read = make(near)
    first, second = waits(read), waits(read)
    far.sendall(b"one\\n")
    assert first.join(10)
    far.sendall(b"two\\n")
    assert second.join(10)
    return first.result, second.result
class Own(io.BufferedReader): pass
found = [both(make) for make in (
    lambda near: near.makefile("rb").readline,
    lambda near: near.makefile("rwb").readline,
    lambda near: near.makefile("rb").__next__,
    lambda near: os.fdopen(near.detach(), "rb").readline,
    lambda near: Own(near.makefile("rb", 0)).readline,
    lambda near: io.BufferedRWPair(near.makefile("rb", 0), near.makefile("wb", 0)).readline,
)]
return found == [(b"one\\n", b"two\\n")] * 6 or found
"""
    assert patched(script, body) == "True"


def test_two_coroutines_write_one_buffered_file(script: RunScript) -> None:
    body = """
near, far = socket.socketpair()
file = near.makefile("wb")
writing = [waits(lambda line=line: (file.write(line), file.flush())) for line in (b"a" * 10**6, b"b" * 10**6)]
received = b""
while len(received) < 2 * 10**6:
    received += far.recv(1 << 20)
assert all(each.join(10) for each in writing)
return [each.result for each in writing], received == b"a" * 10**6 + b"b" * 10**6
"""
    assert patched(script, body) == repr(([(10**6, None)] * 2, True))


def test_closing_a_file_waits_for_the_coroutine_that_reads_it_as_for_a_thread(script: RunScript) -> None:
    body = """
def close(file, write):
    reading = waits(file.readline)
    closing = waits(file.close)
    write(b"line\\n")
    assert reading.join(10) and closing.join(10)
    return reading.result, closing.result, file.closed
near, far = socket.socketpair()
pipe = os.pipe()
child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
found = [
    close(near.makefile("rb"), far.sendall),
    close(os.fdopen(pipe[0], "rb"), lambda data: os.write(pipe[1], data)),
    close(child.stdout, lambda data: (child.stdin.write(data), child.stdin.flush())),
]
child.kill()
child.communicate()
return found == [(b"line\\n", None, True)] * 3 or found
"""
    assert patched(script, body) == "True"


def test_a_response_of_http_client_is_closed_while_another_coroutine_reads_it(script: RunScript) -> None:
    body = """
server = socket.create_server(("127.0.0.1", 0))
client = http.client.HTTPConnection(*server.getsockname())
client.request("GET", "/")
peer, _ = server.accept()
peer.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 9\\r\\n\\r\\none")
response = client.getresponse()
assert response.read(3) == b"one"
reading = waits(response.read1)
closing = waits(response.close)
peer.sendall(b"two")
assert reading.join(10) and closing.join(10)
return reading.result, closing.result
"""
    assert patched(script, body) == repr((b"two", None))


def test_a_buffered_file_over_any_object_that_parks_is_shared(script: RunScript) -> None:
    body = """
class Raw(io.RawIOBase):
    def readable(self): return True
    def writable(self): return True
    def readinto(self, buffer):
        sleep(0.005)
        buffer[:1] = b"x"
        return 1
    def write(self, data):
        sleep(0.005)
        return len(data)
reader, writer = io.BufferedReader(Raw(), 1), io.BufferedWriter(Raw(), 10)
reads = [spawn(reader.read, 3) for _ in range(3)]
writes = [spawn(writer.write, b"y" * 30) for _ in range(3)]
assert all(each.join(10) for each in reads + writes)
return [each.result for each in reads], [each.result for each in writes]
"""
    assert patched(script, body) == repr(([b"xxx"] * 3, [30] * 3))


def test_a_coroutine_waits_for_an_os_thread_that_reads_the_same_file(script: RunScript) -> None:
    body = """
read, write = os.pipe()
file = os.fdopen(read, "rb")
lines = []
start = patch.get_original("_thread", "start_new_thread")
start(lambda: lines.append(file.readline()), ())
while not file.__dict__:
    sleep(0.002)
second = waits(file.readline)
os.write(write, b"one\\ntwo\\n")
assert second.join(10)
return lines + [second.result]
"""
    assert patched(script, body) == repr([b"one\n", b"two\n"])


def test_a_handler_that_reenters_its_own_file_gets_the_usual_error(script: RunScript) -> None:
    body = """
class Raw(io.RawIOBase):
    def writable(self): return True
    def write(self, data):
        file.write(b"within")
        return len(data)
file = io.BufferedWriter(Raw(), 10)
try:
    file.write(b"x" * 30)
except RuntimeError as error:
    return str(error).partition(" <")[0]
"""
    assert patched(script, body) == "reentrant call inside"


def test_classes_of_files_stay_the_same(script: RunScript) -> None:
    output = script(
        """
        import inspect, io, os
        before = {name: inspect.signature(getattr(io.BufferedReader, name)) for name in ("read", "readline", "peek")}
        doc = io.BufferedWriter.write.__doc__, io.FileIO.readall.__doc__
        from rmeinheld import patch
        print(patch.patch_all())
        assert before == {name: inspect.signature(getattr(io.BufferedReader, name)) for name in before}
        assert doc == (io.BufferedWriter.write.__doc__, io.FileIO.readall.__doc__)
        assert type(open("/dev/null", "rb")) is io.BufferedReader
        assert patch.get_original("io", "FileIO.read") is not io.FileIO.read
        for wrong in (lambda: setattr(io.FileIO, "read", 1), lambda: open("/dev/null", "rb").read(1, 2, 3, 4, 5)):
            try:
                wrong()
            except TypeError as error:
                print(error)
        with open("lines", "wb+") as file:
            file.write(b"one\\ntwo\\n")
            file.seek(0)
            print(list(file), next(file, None))
        """
    )
    assert output.splitlines() == [
        "[]",
        "cannot set 'read' attribute of immutable type '_io.FileIO'",
        "read expected at most 1 argument, got 5",
        "[b'one\\n', b'two\\n'] None",
    ]


# --- files that wait -------------------------------------------------------------------------------------------------


def test_a_file_that_waits_parks_its_reader(script: RunScript) -> None:
    body = """
def pipe(*mode):
    near, far = os.pipe()
    return os.fdopen(near, *mode), far
def terminal(*mode):
    far, near = pty.openpty()
    return open(near, *mode), far
def connection(*mode):
    near, far = socket.socketpair()
    return os.fdopen(near.detach(), *mode), far.detach()
def into(file):
    room = bytearray(9)
    return bytes(room[:file.readinto(room)])
for make in (pipe, terminal, connection):
    for mode, read in (
        (("rb",), lambda file: file.readline()),
        (("r",), lambda file: next(file).encode()),
        (("rb", 0), lambda file: file.read(9)),
        (("rb", 0), into),
    ):
        near, far = make(*mode)
        found = released(lambda: read(near), lambda: os.write(far, b"line\\n"))
        assert found == b"line\\n", (make, mode, found)
return "all"
"""
    assert patched(script, body) == "all"


def test_reading_a_pipe_to_its_end_parks(script: RunScript) -> None:
    body = """
def read_all(buffering, name):
    pipe = os.pipe()
    near = os.fdopen(pipe[0], "rb", buffering)
    def write():
        os.write(pipe[1], b"x" * 60_000)
        sleep(0.01)
        os.write(pipe[1], b"x" * 60_000)
        os.close(pipe[1])
    return len(released(getattr(near, name), write))
return [read_all(-1, "read"), read_all(0, "read"), read_all(0, "readall")]
"""
    assert patched(script, body) == repr([120_000] * 3)


def test_writing_to_a_full_pipe_parks_until_all_is_written(script: RunScript) -> None:
    body = """
def write_all(data, *mode):
    pipe = os.pipe()
    far = os.fdopen(pipe[1], *mode)
    def drain():
        left = len(data)
        while left:
            left -= len(os.read(pipe[0], left))
    return released(lambda: (far.write(data), far.close()), drain)[0]
return [write_all(b"x" * 300_000, "wb"), write_all(b"x" * 300_000, "wb", 0), write_all("x" * 300_000, "w")]
"""
    assert patched(script, body) == repr([300_000] * 3)


def test_a_pipes_flags_stay_where_linux_has_no_nonblocking_write(script: RunScript) -> None:
    body = """
def refuse(*arguments):
    raise OSError(95, "Operation not supported")
os.pwritev = refuse
os.set_blocking = lambda fd, blocking: changed.append(fd)
changed = []
read, write = os.pipe()
def drain():
    left = 200_000
    while left:
        left -= len(os.read(read, left))
return released(lambda: os.write(write, b"x" * 200_000), drain), changed
"""
    assert patched(script, body) == "(200000, [])"


def test_files_opened_before_the_patch_park(script: RunScript) -> None:
    first = "import os, sys\npipe = os.pipe(); near = os.fdopen(pipe[0], 'r'); also = open(os.dup(pipe[0]), 'rb')"
    body = """
one = released(near.readline, lambda: os.write(pipe[1], b"one\\n"))
first, second = waits(also.readline), waits(also.readline)
os.write(pipe[1], b"two\\nthree\\n")
assert first.join(10) and second.join(10)
return one, first.result, second.result
"""
    assert patched(script, body, first) == repr(("one\n", b"two\n", b"three\n"))


def test_closing_a_file_without_a_buffer_wakes_its_reader(script: RunScript) -> None:
    body = """
pipe = os.pipe()
near = os.fdopen(pipe[0], "rb", 0)
def read():
    try:
        return near.read(1)
    except OSError as error:
        return error.errno == 9
return released(read, near.close)
"""
    assert patched(script, body) == "True"


def test_print_and_logging_to_a_full_pipe_park(script: RunScript) -> None:
    body = """
read, write = os.pipe()
kept = os.dup(1), os.dup(2)
os.dup2(write, 1)
os.dup2(write, 2)
logging.basicConfig(stream=sys.stderr, format="%(message)s")
printing = waits(print, "p" * 200_000)
others = [spawn(print, "q" * 10, flush=True), spawn(logging.warning, "l" * 100_000), spawn(logging.warning, "end")]
sleep(0.01)
total = 0
while total < 300_017:
    total += len(os.read(read, 1 << 16))
assert printing.join(10) and all(each.join(10) for each in others)
sys.stdout.flush()
os.dup2(kept[0], 1)
os.dup2(kept[1], 2)
return [each.result for each in [printing, *others]]
"""
    assert patched(script, body) == "[None, None, None, None]"


def test_reading_the_standard_input_parks(script: RunScript) -> None:
    body = """
found = []
for near, far in (os.pipe(), reversed(pty.openpty())):
    os.dup2(near, 0)
    for read in (sys.stdin.readline, input, lambda: input("? "), sys.stdin.buffer.readline):
        found.append(released(read, lambda: os.write(far, b"line\\n")))
return found == ["line\\n", "line", "line", b"line\\n"] * 2 or found
"""
    assert patched(script, body).removeprefix("? ").removeprefix("? ") == "True"


def test_input_at_the_end_of_a_file_is_an_error(script: RunScript) -> None:
    body = """
os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
try:
    input()
except EOFError as error:
    return error
"""
    assert patched(script, body) == "EOF when reading a line"


def test_opening_a_fifo_parks_until_the_other_end_is_opened(script: RunScript) -> None:
    body = """
os.mkfifo("fifo")
def meet(one, other):
    opened = []
    files = released(one, lambda: opened.append(other())), opened[0]
    reader, writer = files if files[0].readable() else reversed(files)
    writer.write("text" if isinstance(writer, io.TextIOBase) else b"text")
    writer.close()
    return reader.read()
return [
    meet(lambda: open("fifo", "rb"), lambda: open("fifo", "wb")),
    meet(lambda: open("fifo", "w"), lambda: open("fifo")),
    meet(lambda: os.fdopen(os.open("fifo", os.O_RDONLY)), lambda: os.fdopen(os.open("fifo", os.O_WRONLY), "w")),
]
"""
    assert patched(script, body) == repr([b"text", "text", "text"])


def test_an_interrupted_open_of_a_fifo_leaves_no_descriptor(script: RunScript) -> None:
    body = """
os.mkfifo("fifo")
opening = waits(open, "fifo", "rb")
opening.kill()
assert opening.join(10)
before = len(os.listdir("/proc/self/fd"))
try:
    writer = open("fifo", "wb", 0)
    writer.write(b"x")
except BrokenPipeError:
    pass
writer.close()
deadline = time.monotonic() + 10
while len(os.listdir("/proc/self/fd")) > before and time.monotonic() < deadline:
    sleep(0.01)
return len(os.listdir("/proc/self/fd")) - before
"""
    assert patched(script, body) == "0"


def test_sendfile_and_splice_park(script: RunScript) -> None:
    body = """
with open("file", "wb") as file:
    file.write(b"x" * 3_000_000)
near, far = socket.socketpair()
source = os.open("file", os.O_RDONLY)
def drain(left):
    while left:
        left -= len(far.recv(left))
    return "drained"
sent = released(lambda: os.sendfile(near.fileno(), source, 0, 3_000_000), lambda: drain(3_000_000))
at_the_end = os.sendfile(near.fileno(), source, 3_000_000, 10)
results = [sent, at_the_end, os.get_blocking(near.fileno())]
if hasattr(os, "splice"):
    read, write = os.pipe()
    results.append(released(lambda: os.splice(near.fileno(), write, 100), lambda: far.sendall(b"spliced")))
    results.append(os.read(read, 100))
    os.write(write, b"x" * 65536)
    far.sendall(b"more")
    results.append(released(lambda: os.splice(near.fileno(), write, 100), lambda: os.read(read, 65536)))
    results.append(os.get_blocking(read))
return results
"""
    splice = sys_splice()
    assert patched(script, body) == repr([3_000_000, 0, True, *splice])


def sys_splice() -> list[object]:
    """The results of the test above, where Python has `os.splice`."""
    import os

    return [7, b"spliced", 4, True] if hasattr(os, "splice") else []


# --- locks of files --------------------------------------------------------------------------------------------------

OWN_OPEN_FILE = {
    "flock": "fcntl.flock(file, fcntl.LOCK_EX)",
    "an open file's": "fcntl.fcntl(file, fcntl.F_OFD_SETLKW, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 0, 0))",
}
"""Locks that exclude coroutines of one process."""

OWN_PROCESS = {
    "lockf": "fcntl.lockf(file, fcntl.LOCK_EX)",
    "os.lockf": "os.lockf(file.fileno(), os.F_LOCK, 0)",
    "fcntl": "fcntl.fcntl(file, fcntl.F_SETLKW, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 0, 0))",
}
"""Locks that belong to the process."""


@pytest.mark.parametrize("kind", OWN_OPEN_FILE)
def test_a_lock_of_a_file_excludes_coroutines_and_parks_them(script: RunScript, kind: str) -> None:
    body = f"""
inside, most = 0, 0
def work():
    nonlocal inside, most
    with open("lock", "w") as file:
        {OWN_OPEN_FILE[kind]}
        inside += 1
        most = max(most, inside)
        sleep(0.01)
        inside -= 1
workers = [spawn(work) for _ in range(10)]
assert all(each.join(20) for each in workers)
return most, [each.result for each in workers] == [None] * 10
"""
    assert patched(script, body) == "(1, True)"


def test_a_lock_of_a_file_that_another_process_has_parks(script: RunScript) -> None:
    body = f"""
holder = "import fcntl, os, struct, sys; file = open('lock', 'w'); exec(sys.argv[1]); print(flush=True); input()"
def work(lock):
    with open("lock", "w") as file:
        exec(lock, globals(), {{"file": file}})
        return "locked"
found = []
for lock in {[*OWN_OPEN_FILE.values(), *OWN_PROCESS.values()]}:
    child = subprocess.Popen([sys.executable, "-Sc", holder, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout.readline()
    found.append(released(lambda: work(lock), child.communicate))
return found
"""
    assert patched(script, body) == repr(["locked"] * 5)


def test_a_lock_of_the_process_does_not_exclude_its_coroutines_as_it_does_not_exclude_threads(
    script: RunScript,
) -> None:
    body = f"""
def work(lock):
    with open("lock", "w") as file:
        exec(lock, globals(), {{"file": file}})
        everyone.wait(10)
for lock in {[*OWN_PROCESS.values()]}:
    everyone = Barrier(10)
    workers = [spawn(work, lock) for _ in range(10)]
    assert all(each.join(20) for each in workers)
    [each.result for each in workers]
return "all"
"""
    assert patched(script, body) == "all"


def test_trying_a_lock_of_a_file_does_not_wait(script: RunScript) -> None:
    body = """
holder, other = open("lock", "w"), open("lock", "w")
fcntl.flock(holder, fcntl.LOCK_EX)
try:
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    pass
else:
    return "locked twice"
waiting = waits(fcntl.flock, other, fcntl.LOCK_SH)
waiting.kill()
assert waiting.join(10)
fcntl.flock(holder, fcntl.LOCK_UN)
fcntl.flock(other.fileno(), fcntl.LOCK_EX)
errors = []
for wrong in (lambda: fcntl.flock(-1, fcntl.LOCK_EX), lambda: fcntl.flock("x", fcntl.LOCK_EX), lambda: fcntl.flock()):
    try:
        wrong()
    except (ValueError, TypeError) as error:
        errors.append(type(error).__name__)
return errors
"""
    assert patched(script, body) == repr(["ValueError", "TypeError", "TypeError"])
