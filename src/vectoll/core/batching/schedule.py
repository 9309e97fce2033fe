"""Whose turn it is: start-time fair queuing over whatever waits: accounts, or one account's keys."""

import heapq
from itertools import count
from typing import Any, Generic, Protocol, TypeVar

MAX_LEFT = 64
"""Stale entries of the heap, and those who have left: beyond twice those in use and so many, they are swept out."""

Place = tuple[int, int]
"""Where somebody stands among the others, lowest first: by service, then by how long the next sequence has waited."""

NOWHERE: Place = (-1, -1)

_numbers = count(1)


class Ordered(Protocol):
    """What waits."""

    order: int
    """When it came."""


class Waiting(Protocol):
    """Somebody who is scheduled."""

    served: int
    """Virtual time: tokens, ever growing while it waits."""
    tokens: int
    """How many wait."""
    place: Place
    placed: int
    """The number of its entry in ``Schedule``; 0 where it has none."""
    head: Any
    """What is to be computed next, as ``Schedule.place`` found it."""

    def first(self) -> Ordered | None:
        """What is to be computed next."""
        ...


W = TypeVar("W", bound=Waiting)


class Schedule(Generic[W]):
    """The next is who was served least (Goyal et al., SIGCOMM 1996), and of equals whose sequence came first."""

    def __init__(self, now: int = 0) -> None:
        self.now = now
        """Virtual time: what who was last in turn had been served before. Who comes in starts there."""
        self.flows: dict[str, W] = {}
        """Who waits, by name."""
        self._left: dict[str, int] = {}
        """What those of whom nothing waits have been served, while others wait: they may be back at once."""
        self._sweep_at = MAX_LEFT
        self._places: list[tuple[int, int, int, W]] = []
        """A heap of places, and of some that were left. The third number tells one entry from all others."""

    def start_of(self, name: str) -> int:
        """Where who comes in starts: at virtual time, or where they left if that is later."""
        return max(self.now, self._left.pop(name, 0))

    def leave(self, name: str) -> None:
        """Nothing of somebody waits any more. Where nothing waits at all, nobody was served more than another."""
        flow = self.flows.pop(name)
        flow.placed = 0
        if not self.flows:
            self._left.clear()
            return
        self._left[name] = flow.served
        if len(self._left) > self._sweep_at:
            self._left = {name: served for name, served in self._left.items() if served > self.now}
            self._sweep_at = 2 * len(self._left) + MAX_LEFT

    def place(self, flow: W) -> None:
        """Note where one now stands, if anything of it waits. To be called whenever that may have changed."""
        flow.head = item = flow.first()
        if item is None or flow.place == (flow.served, item.order):
            return
        flow.place = flow.served, item.order
        flow.placed = next(_numbers)
        places, entry = self._places, (flow.served, item.order, flow.placed, flow)
        if places and places[0][-1] is flow:
            heapq.heapreplace(places, entry)
            return
        heapq.heappush(places, entry)
        if len(places) > 2 * len(self.flows) + MAX_LEFT:
            self._places = [(*other.place, other.placed, other) for other in self.flows.values()]
            heapq.heapify(self._places)

    def first(self) -> W:
        """Whose turn it is, of one at least who waits."""
        places = self._places
        while True:
            _, _, number, flow = places[0]
            if flow.placed == number:
                return flow
            heapq.heappop(places)

    def tokens_ahead(self, name: str, own: int, slack: int) -> int:
        """At most so many tokens are computed before somebody has had ``own``: of each other as many, what it may have
        been served less, and ``slack``.
        """
        flow = self.flows.get(name)
        lead = flow.served if flow else self._left.get(name, 0)
        others = len(self.flows) - (flow is not None)
        return own + others * (own + max(0, lead - self.now) + slack)

    def has_room_for_newcomer(self, tokens: int, limit: int, *, is_alone: bool) -> bool:
        """Whether a newcomer may wait although nothing is free. Only what all but the largest have waiting counts, so
        nobody can fill the queue for everybody. Beside a single one that ``is_alone``, a request of any size may.
        """
        waiting = [flow.tokens for flow in self.flows.values()]
        rest = sum(waiting) - max(waiting, default=0)
        return (is_alone and not rest) or rest + tokens <= limit
