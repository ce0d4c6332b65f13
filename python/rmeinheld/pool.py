"""Groups and pools of coroutines, and the priority queue and barrier for coroutines and OS threads."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from ._rmeinheld import Condition, Coroutine, CoroutineExit, Lock, Queue, Semaphore, spawn

__all__ = ["Barrier", "Group", "Pool", "PriorityQueue"]


class _Comparable(Protocol):
    def __lt__(self, other: Any, /) -> bool: ...


class PriorityQueue[T: _Comparable](queue.PriorityQueue[T]):
    """A `queue.PriorityQueue` for coroutines and OS threads."""

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        self.mutex: Any = Lock()
        self.not_empty: Any = Condition(self.mutex)
        self.not_full: Any = Condition(self.mutex)
        self.all_tasks_done: Any = Condition(self.mutex)


class Barrier(threading.Barrier):
    """A `threading.Barrier` for coroutines and OS threads."""

    def __init__(self, parties: int, action: Callable[[], None] | None = None, timeout: float | None = None) -> None:
        super().__init__(parties, action, timeout)
        self._cond: Any = Condition(Lock())


class Group:
    """Coroutines that are joined, or killed, together."""

    def __init__(self) -> None:
        self._members: dict[int, Coroutine[Any]] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Coroutine[Any]]:
        return iter(list(self._members.values()))

    def spawn[**P, T](self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[T]:
        """Run `func(*args, **kwargs)` in a coroutine of the group."""
        member = _Member(self._leave, lambda: func(*args, **kwargs))
        coroutine: Coroutine[T] = spawn(member.run)
        member.ident = coroutine.ident
        self._members[coroutine.ident] = coroutine
        if member.has_left:
            self._members.pop(coroutine.ident, None)
        return coroutine

    def _leave(self, member: _Member) -> None:
        member.has_left = True
        self._members.pop(member.ident, None)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until all have ended, at most `timeout` seconds (None: for ever). Returns whether they have ended."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._members:
            ident, coroutine = next(iter(self._members.items()))
            if not coroutine.join(None if deadline is None else max(0.0, deadline - time.monotonic())):
                return False
            self._members.pop(ident, None)
        return True

    def kill(self) -> None:
        """Raise CoroutineExit in each coroutine of the group. Use `join()` to wait for their end."""
        for coroutine in self:
            coroutine.kill()


class _Member:
    """A call in a group. It leaves the group when it is over, or when it is dropped before it has begun."""

    __slots__ = ("_call", "_leave", "has_left", "ident")

    def __init__(self, leave: Callable[[_Member], None], call: Callable[[], Any]) -> None:
        self._leave: Callable[[_Member], None] | None = leave
        self._call = call
        self.has_left = False
        # The number of the coroutine, which is known only after spawn(). It may have ended by then.
        self.ident = 0

    def __del__(self) -> None:
        leave, self._leave = self._leave, None
        if leave is not None:
            leave(self)

    def run(self) -> Any:
        """Run the call and leave the group."""
        try:
            return self._call()
        finally:
            self.__del__()


class _Delivery:
    """A call whose outcome goes into a queue. If it is dropped before it has begun, that is CoroutineExit."""

    __slots__ = ("_call", "_done")

    def __init__(self, done: Queue[tuple[bool, Any]], func: Callable[[Any], object], item: Any) -> None:
        self._done: Queue[tuple[bool, Any]] | None = done
        self._call: Callable[[], object] = lambda: func(item)

    def __del__(self) -> None:
        self._deliver(False, CoroutineExit())

    def run(self) -> None:
        """Run the call and deliver its outcome."""
        try:
            self._deliver(True, self._call())
        except BaseException as error:
            self._deliver(False, error)
            if isinstance(error, CoroutineExit):
                raise

    def _deliver(self, well: bool, value: object) -> None:
        done, self._done = self._done, None
        if done is not None:
            done.put((well, value))


class Pool(Group):
    """A group of at most `size` coroutines at once. `spawn` waits until there is room.

    Raises ValueError for a size below 1.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"a pool has room for 1 coroutine or more, not {size!r}")
        super().__init__()
        self.size = size
        self._room = Semaphore(size)

    def spawn[**P, T](self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[T]:
        """Run `func(*args, **kwargs)` in a coroutine of the pool. Parks until there is room."""
        self._room.acquire()
        return super().spawn(func, *args, **kwargs)

    def _leave(self, member: _Member) -> None:
        super()._leave(member)
        self._room.release()

    def map[A, T](self, func: Callable[[A], T], items: Iterable[A]) -> list[T]:
        """Return `[func(item) for item in items]`, with `size` calls at once. Raises the first exception of a call."""
        return list(self.imap(func, items))

    def imap[A, T](self, func: Callable[[A], T], items: Iterable[A]) -> Iterator[T]:
        """Yield the results in the order of the items, each as soon as it and all before it are there."""
        pending: Queue[Coroutine[T] | BaseException | None] = Queue(self.size)
        feeder = spawn(self._feed, func, items, pending)
        try:
            while (coroutine := pending.get()) is not None:
                if isinstance(coroutine, BaseException):
                    raise coroutine
                coroutine.join()
                yield coroutine.result
        finally:
            feeder.kill()

    def _feed(self, func: Callable[[Any], Any], items: Iterable[Any], pending: Queue[Any]) -> None:
        try:
            for item in items:
                pending.put(self.spawn(func, item))
        except CoroutineExit:
            raise
        except BaseException as error:
            pending.put(error)
        pending.put(None)

    def imap_unordered[A, T](self, func: Callable[[A], T], items: Iterable[A]) -> Iterator[T]:
        """Yield the results in the order in which the calls end."""
        done: Queue[tuple[bool, Any]] = Queue()

        def feed() -> None:
            count = 0
            try:
                for item in items:
                    self.spawn(_Delivery(done, func, item).run)
                    count += 1
            except CoroutineExit:
                raise
            except BaseException as error:
                done.put((False, error))
            counts.put(count)
            done.put((True, _END))

        counts: Queue[int] = Queue()
        feeder = spawn(feed)
        left: int | None = None
        try:
            while left != 0:
                well, value = done.get()
                if not well:
                    raise value
                if value is _END:
                    left = counts.get() + (left or 0)
                    continue
                left = (left or 0) - 1
                yield value
        finally:
            feeder.kill()


_END = object()
