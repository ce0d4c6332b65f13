"""`select`, `poll`, `epoll` and `selectors` under the patches, and the waits of libraries that are built on them."""

from __future__ import annotations

from serving import RunScript
from waits import patched


def test_an_epoll_object_made_before_the_patch_parks(script: RunScript) -> None:
    first = "import select\nearly = select.epoll()"
    body = """
read, write = os.pipe()
early.register(read, select.EPOLLIN)
assert isinstance(early, select.epoll)
found = [released(early.poll, lambda: os.write(write, b"x")), spawn(early.poll).join(10), early.poll(0)]
os.read(read, 1)
found.append(released(early.poll, lambda: os.write(write, b"x")))
os.read(read, 1)
closing = waits(early.poll)
early.close()
assert closing.join(10)
try:
    closing.result
except (OSError, ValueError):
    found.append("closed")
return found == [[(read, 1)], True, [(read, 1)], [(read, 1)], "closed"] or found
"""
    assert patched(script, body, first) == "True"


def test_a_poll_object_made_before_the_patch_parks(script: RunScript) -> None:
    first = """
import os, select, selectors
read, write = os.pipe()
early, selector = select.poll(), selectors.PollSelector()
early.register(read, select.POLLIN)
selector.register(read, selectors.EVENT_READ)
"""
    body = """
found = [early.poll(0), early.poll(1), released(early.poll, lambda: os.write(write, b"x")), early.poll(10)]
os.read(read, 1)
events = released(selector.select, lambda: os.write(write, b"x"))
return found == [[], [], [(read, 1)], [(read, 1)]] and [(key.fd, event) for key, event in events] == [(read, 1)]
"""
    assert patched(script, body, first) == "True"


def test_a_wait_for_descriptors_takes_none(script: RunScript) -> None:
    body = """
import resource
read, write = os.pipe()
poll = select.poll()
poll.register(read, select.POLLIN)
poll.register(write, 0)
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
# Nothing can be opened any more.
resource.setrlimit(resource.RLIMIT_NOFILE, (max(read, write) + 1, limits[1]))
kept = []
try:
    while True:
        kept.append(os.dup(0))
except OSError:
    pass
waiting = [waits(select.select, [read], [], []), waits(select.select, [], [], [read, write], 5), waits(poll.poll)]
os.write(write, b"x")
assert waiting[0].join(10) and waiting[2].join(10)
waiting[1].kill()
for each in kept:
    os.close(each)
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
return waiting[0].result == ([read], [], []) and waiting[2].result == [(read, select.POLLIN)]
"""
    assert patched(script, body) == "True"


def test_waits_for_one_descriptor_among_many_find_each_its_own(script: RunScript) -> None:
    body = """
pairs = [socket.socketpair() for _ in range(20)]
everyone = [near for near, _ in pairs]
waiting = [waits(select.select, everyone[i:] + everyone[:i], [], []) for i in range(20)]
one = waits(select.select, [everyone[7]], [], [])
pairs[3][1].sendall(b"x")
assert all(each.join(10) for each in waiting)
assert {tuple(each.result[0]) for each in waiting} == {(everyone[3],)}
pairs[7][1].sendall(b"x")
assert one.join(10)
file = open("file", "w+")
ended = select.select([file], [], [], 0)[0], one.result[0] == [everyone[7]]
closed, other = everyone[9], waits(select.select, [everyone[9], everyone[10]], [], [])
closed.close()
assert other.join(10)
try:
    other.result
except (OSError, ValueError):
    return ended[0] == [file], ended[1], "closed"
"""
    assert patched(script, body) == "(True, True, 'closed')"


def test_psycopg_learns_what_its_connection_is_ready_for(script: RunScript) -> None:
    body = """
from psycopg import waiting
near, far = socket.socketpair()
near.setblocking(False)
def fill():
    try:
        while True:
            near.send(b"x" * 65536)
    except BlockingIOError:
        pass
def ask(wanted):
    def generator():
        while not (ready := (yield wanted)):
            pass
        return int(ready)
    return waiting.wait(generator(), near.fileno(), 1.0)
found = [ask(waiting.WAIT_RW)]
far.sendall(b"x")
found += [ask(waiting.WAIT_RW), ask(waiting.WAIT_R), ask(waiting.WAIT_W)]
fill()
found += [ask(waiting.WAIT_RW), ask(waiting.WAIT_R)]
near.recv(1)
found.append(released(lambda: ask(waiting.WAIT_RW), lambda: far.sendall(b"x")))
far.close()
return [*found, ask(waiting.WAIT_RW) in (1, 3)]
"""
    assert patched(script, body) == repr([2, 3, 1, 2, 1, 1, 1, True])


def test_timeouts_that_no_clock_can_measure_are_refused_as_without_the_patch(script: RunScript) -> None:
    body = """
near, far = socket.socketpair()
poll, epoll = select.poll(), select.epoll()
poll.register(near, select.POLLIN)
epoll.register(near, select.EPOLLIN)
early = patch.get_original("select", "poll")()
early.register(near, select.POLLIN)
waits = {
    "select": (lambda value: select.select([near], [], [], value)),
    "poll": poll.poll,
    "early": early.poll,
    "epoll": epoll.poll,
}
def refusal(wait, value):
    try:
        return wait(value)
    except (OverflowError, ValueError, TypeError) as error:
        return type(error), str(error)
results = {}
def compare():
    for name, wait in waits.items():
        # From Python 3.15 on, poll takes 115 days.
        for value in (float("inf"), 2**70, 1e10 if sys.version_info < (3, 15) else 1e13, float("nan"), "1"):
            results.setdefault((name, str(value)), []).append(refusal(wait, value))
compare()
thread = patch.get_original("_thread", "start_new_thread")
thread(compare, ())
while any(len(found) < 2 for found in results.values()):
    sleep(0.005)
return {key: found for key, found in results.items() if found[0] != found[1] or not isinstance(found[0], tuple)}
"""
    assert patched(script, body) == "{}"
