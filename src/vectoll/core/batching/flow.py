"""What one caller has waiting, and in which order it is to be computed."""

import heapq
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

Bucket = int

KNOWN_PER_TOKEN = 64
"""How many tokens that are known cost as much as one that is computed, or less: attention reads them (measured: 160
where the hidden size is 1,024)."""


@dataclass(slots=True, eq=False)
class Job:
    """One request's sequences, and how many of them are still to be computed."""

    caller: str
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
    """One caller's waiting sequences. ``served`` is its virtual time: tokens, ever growing while it waits."""

    caller: str
    served: int
    place: tuple[int, int] = (-1, -1)
    """Where it stands among the others, lowest first: by service, then by how long its next sequence has waited."""
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

    def ahead_of(self, tokens: int) -> int:
        """How many of its tokens are computed before a new job of this size, at most: as many of each job."""
        return min(self.tokens, tokens * len(self.jobs))

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


def bucket_of(length: int) -> Bucket:
    """Sequences in one bucket differ in length by less than about an eighth."""
    if length <= 8:
        return length
    shift = length.bit_length() - 4
    return (shift << 3) + (length >> shift)
