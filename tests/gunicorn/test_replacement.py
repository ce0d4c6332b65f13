"""The plan of replacing workers, as a pure function, and in a simulated service with random events."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from rmeinheld.gunicorn_worker.replacement import (
    FIRST_PAUSE_SECONDS,
    FORGET_SECONDS,
    LONGEST_PAUSE_SECONDS,
    GrowingPause,
    Member,
    Plan,
    plan,
)


def ready(age: int, *, is_stale: bool = False, asks: str = "") -> Member:
    return Member(age, "ready", is_stale, asks)


def booting(age: int, *, is_stale: bool = False) -> Member:
    return Member(age, "booting", is_stale)


def draining(age: int) -> Member:
    return Member(age, "draining")


@pytest.mark.parametrize(
    ("members", "wanted", "expected"),
    [
        # The first start, a complete service, and one that lacks a worker.
        ([], 2, Plan(2)),
        ([ready(1), ready(2)], 2, Plan()),
        ([ready(1)], 2, Plan(1)),
        ([ready(1), booting(3)], 2, Plan()),
        # A worker asks: its replacement starts, boots, and is ready.
        ([ready(1, asks="memory"), ready(2)], 2, Plan(1)),
        ([ready(1, asks="memory"), ready(2), booting(3)], 2, Plan()),
        ([ready(1, asks="memory"), ready(2), ready(3)], 2, Plan(0, (1,))),
        # One at a time: the next one waits until the last one has ended.
        ([ready(1, asks="memory"), ready(2, asks="requests")], 2, Plan(1)),
        ([draining(1), ready(2, asks="requests"), ready(3)], 2, Plan()),
        ([ready(2, asks="requests"), ready(3)], 2, Plan(1)),
        # A reload does not wait for that, and its workers go first.
        ([draining(1), ready(2, is_stale=True), ready(3)], 2, Plan(1)),
        ([ready(1, is_stale=True), ready(2, is_stale=True)], 2, Plan(1)),
        ([ready(1, asks="memory"), ready(2, is_stale=True), ready(3)], 2, Plan(0, (2,))),
        # A second reload while the replacement boots.
        ([ready(1, is_stale=True), ready(2, is_stale=True), booting(3, is_stale=True)], 2, Plan(1, (3,))),
        # The number is changed: the oldest leave, and workers that still boot before ready ones that are wanted.
        ([ready(1), ready(2), ready(3)], 2, Plan(0, (1,))),
        ([ready(1), booting(2), booting(3)], 1, Plan(0, (3, 2))),
        ([ready(1), booting(2), booting(3)], 2, Plan(0, (3,))),
        ([ready(1, asks="memory"), ready(2), booting(3)], 1, Plan(0, (1, 3))),
        ([ready(1, asks="memory"), ready(2), ready(3)], 0, Plan(0, (1, 2, 3))),
        ([booting(1)], 0, Plan(0, (1,))),
        # A worker has died while a replacement boots.
        ([ready(1, asks="memory"), booting(3)], 2, Plan()),
        ([ready(1, asks="memory"), ready(3)], 2, Plan(1)),
    ],
)
def test_the_next_step_of_a_service(members: list[Member], wanted: int, expected: Plan) -> None:
    assert plan(members, wanted, replace_first=True) == expected


@pytest.mark.parametrize(
    ("members", "wanted", "expected"),
    [
        ([], 2, Plan(2)),
        ([ready(1, asks="memory"), ready(2)], 2, Plan(0, (1,))),
        ([draining(1), ready(2)], 2, Plan()),
        ([ready(2)], 2, Plan(1)),
        ([ready(2, asks="memory"), booting(3)], 2, Plan()),
        ([ready(1, is_stale=True), ready(2, is_stale=True)], 2, Plan(0, (1,))),
        ([ready(1), ready(2), ready(3)], 2, Plan(0, (1,))),
    ],
)
def test_without_replace_first_there_is_never_a_worker_more(members: list[Member], wanted: int, expected: Plan) -> None:
    assert plan(members, wanted, replace_first=False) == expected


@dataclass
class Service:
    """A simulated service. Each step is the arbiter's, and one event."""

    wanted: int
    replace_first: bool
    chance: random.Random
    age: int = 0

    def __post_init__(self) -> None:
        self.members: dict[int, Member] = {}

    def arbiter(self) -> None:
        before = self.ready()
        step = plan(self.members.values(), self.wanted, replace_first=self.replace_first)
        for age in step.leave:
            self.members[age] = self.members[age]._replace(state="draining")
        for _ in range(step.start):
            self.age += 1
            self.members[self.age] = booting(self.age)
        if self.replace_first:
            assert self.ready() >= min(before, self.wanted)
            assert sum(one.state != "draining" for one in self.members.values()) <= max(self.wanted + 1, before)
        else:
            assert len(self.members) <= max(self.wanted, len(self.members) - step.start)

    def ready(self) -> int:
        return sum(member.state == "ready" for member in self.members.values())

    def event(self) -> None:
        if not self.members:
            return
        member = self.chance.choice(list(self.members.values()))
        match self.chance.randrange(10):
            case 0:
                self.members = {age: one._replace(is_stale=True) for age, one in self.members.items()}
            case 1:
                self.wanted = self.chance.randint(1, 4)
            case 2:
                del self.members[member.age]
            case 3 | 4 if member.state == "ready":
                self.members[member.age] = member._replace(asks="requests")
            case _:
                self.settle(member)

    def settle(self, member: Member) -> None:
        if member.state == "booting":
            self.members[member.age] = member._replace(state="ready")
        elif member.state == "draining":
            del self.members[member.age]


@pytest.mark.parametrize("replace_first", [True, False])
def test_a_service_settles_after_any_events(replace_first: bool) -> None:
    for seed in range(300):
        service = Service(2, replace_first, random.Random(seed))
        for _ in range(40):
            service.arbiter()
            service.event()
        for _ in range(60):
            service.arbiter()
            for member in list(service.members.values())[:1] + list(service.members.values())[-1:]:
                if member.age in service.members:
                    service.settle(service.members[member.age])
            for member in [one for one in service.members.values() if one.state != "ready"]:
                service.settle(member)
        assert [one.state for one in service.members.values()] == ["ready"] * service.wanted, seed
        assert not any(one.is_to_be_replaced for one in service.members.values()), seed


def test_the_pause_grows_and_is_short_again_after_a_quiet_time() -> None:
    pause = GrowingPause()
    assert pause.is_over(1000.0)
    assert [pause.fail(1000.0) for _ in range(3)] == [FIRST_PAUSE_SECONDS * factor for factor in (1, 2, 4)]
    assert not pause.is_over(1000.0 + 3.9 * FIRST_PAUSE_SECONDS)
    assert pause.is_over(1000.0 + 4 * FIRST_PAUSE_SECONDS)
    assert [pause.fail(1000.0) for _ in range(9)][-1] == LONGEST_PAUSE_SECONDS
    assert pause.fail(1001.0 + FORGET_SECONDS + LONGEST_PAUSE_SECONDS) == FIRST_PAUSE_SECONDS


def test_the_first_crash_of_a_worker_that_was_ready_costs_no_pause() -> None:
    pause = GrowingPause()
    assert pause.fail(1000.0, is_free=True) == 0
    assert pause.is_over(1000.0)
    assert pause.fail(1001.0, is_free=True) == FIRST_PAUSE_SECONDS
    pause.reset()
    assert pause.fail(1002.0) == FIRST_PAUSE_SECONDS
