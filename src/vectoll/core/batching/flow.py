"""What one key has waiting, and in which order it is to be computed; and what an account has by several keys.

While only one key of an account waits, its ``Flow`` is scheduled among the accounts. With a second key, a ``KeyGroup``
takes its place there, and schedules both.
"""

import heapq
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from vectoll.core.batching.schedule import NOWHERE, Place, Schedule
from vectoll.domain.identity import Caller

Bucket = int

KNOWN_PER_TOKEN = 64
"""How many tokens that are known cost as much as one that is computed, or less: attention reads them (measured: 160
where the hidden size is 1,024)."""


@dataclass(slots=True, eq=False)
class Job:
    """One request's sequences, and how many of them are still to be computed."""

    caller: Caller
    sequences: Sequence[Sequence[int]]
    remaining: int = field(init=False)
    tokens: int = field(init=False)
    """Of all of them."""
    waiting: OrderedDict["Item", None] = field(init=False, default_factory=OrderedDict)
    """In the order in which they are to be computed."""

    def __post_init__(self) -> None:
        self.remaining = len(self.sequences)
        self.tokens = sum(map(len, self.sequences))


@dataclass(slots=True, eq=False)
class Item:
    """One sequence that waits."""

    job: Job
    flow: "Flow"
    index: int
    length: int
    order: int
    bucket: Bucket
    known: int = 0
    """How many of its tokens need not be computed, as it turned out when a batch was made."""

    @property
    def ids(self) -> Sequence[int]:
        """The token ids."""
        return self.job.sequences[self.index]

    @property
    def to_compute(self) -> int:
        """Tokens."""
        return self.length - self.known

    @property
    def work(self) -> int:
        """What it takes, as tokens to compute."""
        return self.to_compute + self.known // KNOWN_PER_TOKEN


@dataclass(slots=True, eq=False)
class Flow:
    """One key's waiting sequences."""

    caller: Caller
    served: int
    """Virtual time in the schedule that it is part of: tokens, ever growing while it waits."""
    began: int
    """What ``served`` was before the last of its sequences that was taken."""
    group: "KeyGroup | None" = None
    """What it is scheduled in, where several keys of its account wait."""
    place: Place = NOWHERE
    placed: int = 0
    """The number of its entry in ``Schedule``; 0 where it has none."""
    head: Item | None = None
    """What is to be computed next, as ``Schedule.place`` found it."""
    tokens: int = 0
    count: int = 0
    jobs: list[tuple[float, int, Job]] = field(default_factory=list)
    """A heap by when each would be finished if they shared the engine, then by arrival. Those with nothing left go when
    they are met."""
    shared: float = 0.0
    """Tokens that each job would have been given, had it been there from the first and were it still."""
    sharing: list[float] = field(default_factory=list)
    """A heap of what ``shared`` is when a job would be finished, of those that would not be yet."""
    by_bucket: dict[Bucket, OrderedDict[int, Item]] = field(default_factory=dict)

    def enter(self, job: Job, order: int) -> None:
        """Give a job its place."""
        finish = self.shared + job.tokens
        heapq.heappush(self.sharing, finish)
        heapq.heappush(self.jobs, (finish, order, job))

    def leave(self, job: Job) -> None:
        """Forget a job that is not to be finished."""
        for finish, _, other in self.jobs:
            if other is job and finish in self.sharing:
                self.sharing.remove(finish)
        self.jobs = [entry for entry in self.jobs if entry[-1] is not job]
        heapq.heapify(self.sharing)
        heapq.heapify(self.jobs)

    def serve(self, tokens: float) -> None:
        """Share out among the jobs what has been computed for one of them."""
        while self.sharing:
            until_next = (self.sharing[0] - self.shared) * len(self.sharing)
            if tokens < until_next:
                self.shared += tokens / len(self.sharing)
                return
            tokens -= until_next
            self.shared = heapq.heappop(self.sharing)

    def first(self) -> Item | None:
        """What is to be computed next."""
        while self.jobs:
            if item := next(iter(self.jobs[0][-1].waiting), None):
                return item
            heapq.heappop(self.jobs)
        return None

    def first_in(self, bucket: Bucket) -> Item | None:
        """The oldest of a bucket."""
        return next(iter(self.by_bucket.get(bucket, {}).values()), None)

    def tokens_ahead(self, key: str, tokens: int, slack: int) -> int:
        """How many of the account's are computed before a new job of this key and size, at most.

        Of the key's own jobs as many of each, also of those that are done before their time: the others wait for as
        much. Of another key's those of one batch, ``slack``.
        """
        own = tokens * max(len(self.jobs), len(self.sharing))
        return min(self.tokens, own if key == self.caller.key else slack)

    def has_room(self, key: str, tokens: int, share: int, *, is_alone: bool) -> bool:
        """Whether an account that has its share may have more. ``is_alone`` says that no other waits."""
        return key != self.caller.key and (is_alone or tokens <= share)


class KeyGroup:
    """An account's flows, from when a second key's joined the first's until nothing of the account waits."""

    def __init__(self, first: Flow) -> None:
        """In place of the first, which is from now on scheduled among the account's keys."""
        self.served = first.served
        self.tokens = first.tokens
        self.place: Place = NOWHERE
        self.placed = 0
        self.head: Item | None = None
        self.keys: Schedule[Flow] = Schedule(first.began)
        self.keys.flows[first.caller.key] = first
        first.group, first.place = self, NOWHERE
        self.keys.place(first)
        self.by_bucket: dict[Bucket, dict[Flow, None]] = {bucket: {first: None} for bucket in first.by_bucket}

    def flow_of(self, caller: Caller) -> Flow:
        """A key's, that one sequence at least will wait in."""
        flow = self.keys.flows.get(caller.key)
        if flow is None:
            start = self.keys.start_of(caller.key)
            flow = self.keys.flows[caller.key] = Flow(caller, start, start, self)
        return flow

    def serve(self, tokens: int) -> None:
        """So many tokens of the key whose turn it is will be computed. To be called before that key is served."""
        self.keys.now = self.keys.first().served
        self.served += tokens

    def remove(self, flow: Flow, tokens: int) -> None:
        """A sequence of a flow waits no more."""
        self.tokens -= tokens
        if not flow.count:
            flow.group = None
            self.keys.leave(flow.caller.key)

    def first(self) -> Item | None:
        """What is to be computed next."""
        return self.keys.first().head if self.keys.flows else None

    def first_in(self, bucket: Bucket) -> Item | None:
        """The oldest of a bucket, of the key that was served least."""
        flows = self.by_bucket.get(bucket)
        return min(flows, key=attrgetter("place")).first_in(bucket) if flows else None

    def enter_bucket(self, flow: Flow, bucket: Bucket) -> None:
        """A flow has something in it now."""
        self.by_bucket.setdefault(bucket, {})[flow] = None

    def leave_bucket(self, flow: Flow, bucket: Bucket) -> bool:
        """A flow has nothing in it any more; whether another has."""
        flows = self.by_bucket[bucket]
        del flows[flow]
        if not flows:
            del self.by_bucket[bucket]
        return bool(flows)

    def tokens_ahead(self, key: str, tokens: int, slack: int) -> int:
        """See ``Flow.tokens_ahead``."""
        flow = self.keys.flows.get(key)
        own = flow.tokens_ahead(key, tokens, slack) if flow else 0
        return min(self.tokens, self.keys.tokens_ahead(key, own, slack))

    def has_room(self, key: str, tokens: int, share: int, *, is_alone: bool) -> bool:
        """See ``Flow.has_room``."""
        flow = self.keys.flows.get(key)
        if flow is not None:
            return flow.tokens + tokens <= share // len(self.keys.flows)
        return self.keys.has_room_for_newcomer(tokens, share, is_alone=is_alone)


def bucket_of(length: int) -> Bucket:
    """Sequences in one bucket differ in length by less than about an eighth."""
    if length <= 8:
        return length
    shift = length.bit_length() - 4
    return (shift << 3) + (length >> shift)
