"""`rmeinheld.dump` and the functions below it: every coroutine, what it waits for, and its stack."""

from __future__ import annotations

from serving import RunScript

START = """
import os, threading, time
import rmeinheld.patch
rmeinheld.patch.patch_all()
import rmeinheld
from rmeinheld import _rmeinheld
from rmeinheld.coroutine import sleep, spawn

def rest():
    sleep(60)

def soon(condition):
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)

def state(name):
    return [facts for facts in _rmeinheld.inspect_coroutines() if facts["label"] == name]

def leave():
    print("done", flush=True)
    os._exit(0)
"""


def test_five_thousand_coroutines_take_less_than_a_second_and_one_entry(script: RunScript) -> None:
    assert script(
        START
        + """
for _ in range(5000):
    spawn(rest)
soon(lambda: len([one for one in state("rest") if one["state"] == "waiting"]) == 5000)
begun = time.monotonic()
text = rmeinheld.dump()
assert time.monotonic() - begun < 1, time.monotonic() - begun
assert "5000 coroutines: waits for sleep at script.py:" in text, text[:2000]
assert len(text) < 5000
leave()
"""
    ).endswith("done\n")


def test_two_locks_that_are_taken_crosswise_are_a_deadlock_with_owners(script: RunScript) -> None:
    assert script(
        START
        + """
first, second = threading.Lock(), threading.Lock()
def one():
    with first:
        sleep(0.01)
        second.acquire()
def two():
    with second:
        sleep(0.01)
        first.acquire()
spawn(one), spawn(two)
soon(lambda: all(found and (found[0]["wait"] or {}).get("reason") == "lock" for found in map(state, ("one", "two"))))
text = rmeinheld.dump()
assert "DEADLOCK: each of these waits for the next, and the last one for the first: coroutine" in text, text
assert state("one")[0]["wait"]["owner"] == state("two")[0]["ident"]
leave()
"""
    ).endswith("done\n")


def test_a_local_variable_whose_repr_raises_does_not_end_the_dump(script: RunScript) -> None:
    assert script(
        START
        + """
class Bad:
    def __repr__(self):
        raise SystemExit("no")
def holds():
    bad, good = Bad(), 4711
    sleep(60)
spawn(holds)
soon(lambda: state("holds"))
text = rmeinheld.dump(locals=True)
assert "bad = <repr raised SystemExit>" in text, text
assert "good = 4711" in text
assert "4711" not in rmeinheld.dump()
leave()
"""
    ).endswith("done\n")


def test_a_forked_child_sees_no_coroutine_of_its_parent(script: RunScript) -> None:
    assert script(
        START
        + """
spawn(rest)
soon(lambda: state("rest"))
def forks():
    child = os.fork()
    if child == 0:
        os._exit(len(_rmeinheld.inspect_coroutines()) + len(_rmeinheld.coroutine_frames()))
    assert os.waitpid(child, 0)[1] == 0
forks()
done = spawn(forks)
done.join()
done.result
leave()
"""
    ).endswith("done\n")


def test_a_coroutine_that_computes_is_seen_from_another_thread(script: RunScript) -> None:
    assert script(
        START
        + """
def spins():
    until = time.monotonic() + 1
    while time.monotonic() < until:
        pass
spawn(spins)
soon(lambda: state("spins"))
facts = state("spins")[0]
assert facts["state"] == "running", facts
assert facts["stack"][0][2] == "spins", facts
assert _rmeinheld.stack_of(facts["work"])[0][2] == "spins"
assert _rmeinheld.stack_of(10**6) is None
leave()
"""
    ).endswith("done\n")
