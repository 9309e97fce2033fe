"""The fair, length-aware queue: pure data, no threads, no clock.

Fairness is start-time fair queuing (Goyal et al., SIGCOMM 1996) over callers, counted in tokens: each batch is
seeded with a sequence of the caller who has been served least, so a caller's single query never waits behind another's
backlog; who comes back stands where they left, so that queries one after the other leave a backlog its share. Among one
caller's requests the one goes first that would finish first under processor sharing (Friedman and Henderson, SIGMETRICS
2003): equal ones in the order of arrival, a query before the rest of a bulk request. The rest of the batch is filled
with what would be next, or, where an engine pads, with sequences of similar length.
"""

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vectoll.core.batching.flow import Bucket, Flow, Item, Job, bucket_of

MAX_LEFT = 64
"""Places that nobody is at any more, and callers who have left: beyond so many, and as many as are needed, they are
swept out."""


@dataclass(frozen=True, slots=True)
class BatchShape:
    """What makes a good batch for an engine, in tokens."""

    budget_tokens: int
    """Most tokens to compute in one batch, padding included if ``padded``. A longer sequence runs alone."""
    padded: bool = True
    """Whether every sequence costs as much as the longest beside it."""
    alike: bool = True
    """Whether sequences of like length are faster together; else whoever is next joins."""
    overhead_tokens: int = 16
    """What starting a batch costs, as tokens: padding up to this is cheaper than a batch apart."""
    query_tokens: int = 0
    """Requests of at most so many tokens need not wait for a stream while all compute larger ones: the engine takes one
    call more, of at most so many. 0 where it does not."""


class FairQueue:
    """Sequences that wait for an engine. Not thread-safe: the batcher holds a lock."""

    def __init__(self, shape: BatchShape) -> None:
        self.shape = shape
        self.tokens = 0
        self._order = 0
        self._now = 0
        self._flows: dict[str, Flow] = {}
        self._left: dict[str, int] = {}
        """What callers of whom nothing waits have been served, while others wait: they may be back at once."""
        self._sweep_at = MAX_LEFT
        self._places: list[tuple[int, int, int, Flow]] = []
        """A heap of the flows' places, and of some that they have left. The third number tells equals apart."""
        self._placed = 0
        self._in_bucket: dict[Bucket, dict[str, Flow]] = {}

    def push(self, job: Job) -> None:
        """Add every sequence of a job, shortest first so that neighbours are alike."""
        flow = self._flows.get(job.caller)
        if flow is None:
            served = max(self._now, self._left.pop(job.caller, 0))
            flow = self._flows[job.caller] = Flow(job.caller, served)
        flow.enter(job, self._order)
        sequences = job.sequences
        for index in sorted(range(len(sequences)), key=lambda i: len(sequences[i])):
            self._add(flow, job, index, len(sequences[index]))
        self._place(flow)

    def _add(self, flow: Flow, job: Job, index: int, length: int) -> None:
        self._order += 1
        item = Item(job, index, length, self._order, bucket_of(length))
        job.waiting[item] = None
        flow.count += 1
        flow.tokens += length
        self.tokens += length
        if not self.shape.alike:
            return
        alike = flow.by_bucket.get(item.bucket)
        if alike is None:
            alike = flow.by_bucket[item.bucket] = OrderedDict()
            self._in_bucket.setdefault(item.bucket, {})[flow.caller] = flow
        alike[item.order] = item

    def discard(self, job: Job) -> None:
        """Forget what of a job still waits: its caller has left, or it has failed."""
        if not job.waiting:
            return
        flow = self._flows[job.caller]
        flow.leave(job)
        for item in job.waiting:
            self._remove(flow, item)
        job.waiting.clear()
        self._place(flow)

    def _remove(self, flow: Flow, item: Item) -> None:
        flow.count -= 1
        flow.tokens -= item.length
        self.tokens -= item.length
        if not flow.count:
            del self._flows[flow.caller]
            self._note_left(flow)
        if not self.shape.alike:
            return
        alike = flow.by_bucket[item.bucket]
        del alike[item.order]
        if not alike:
            del flow.by_bucket[item.bucket]
            flows = self._in_bucket[item.bucket]
            del flows[flow.caller]
            if not flows:
                del self._in_bucket[item.bucket]

    def _note_left(self, flow: Flow) -> None:
        """Nothing of a caller waits any more. Where nothing waits at all, nobody was served more than another."""
        if not self._flows:
            self._left.clear()
            return
        self._left[flow.caller] = flow.served
        if len(self._left) > self._sweep_at:
            self._left = {caller: served for caller, served in self._left.items() if served > self._now}
            self._sweep_at = 2 * len(self._left) + MAX_LEFT

    def _place(self, flow: Flow) -> None:
        """Note where a flow now stands, if anything of it waits."""
        item = flow.first()
        if item is None or flow.place == (flow.served, item.order):
            return
        flow.place = flow.served, item.order
        self._placed += 1
        heapq.heappush(self._places, (*flow.place, self._placed, flow))
        if len(self._places) > 2 * len(self._flows) + MAX_LEFT:
            self._places = [(*other.place, at, other) for at, other in enumerate(self._flows.values())]
            self._placed = len(self._places)
            heapq.heapify(self._places)

    def _least_served(self) -> Flow:
        """Whose turn it is."""
        places = self._places
        while True:
            served, order, _, flow = places[0]
            if flow.count and flow.place == (served, order):
                return flow
            heapq.heappop(places)

    def tokens_ahead(self, caller: str, tokens: int) -> int:
        """An upper bound on the tokens computed before a new request of this caller and size starts, unless the caller
        itself sends what goes before it.
        """
        flow = self._flows.get(caller)
        own = flow.ahead_of(tokens) if flow else 0
        lead = flow.served if flow else self._left.get(caller, 0)
        others = len(self._flows) - (flow is not None)
        return min(self.tokens, own + others * (own + max(0, lead - self._now) + self.shape.budget_tokens))

    def has_room(self, caller: str, tokens: int, limit_tokens: int) -> bool:
        """Whether a request of this size may wait.

        What is free is anybody's. Beyond that a caller who already waits has an equal share of the limit, and a
        newcomer is measured against what all but the largest caller have waiting, so nobody can fill the queue for
        everybody; on an otherwise empty queue a request of any size may wait.
        """
        if self.tokens + tokens <= limit_tokens:
            return True
        flow = self._flows.get(caller)
        if flow is not None:
            return flow.tokens + tokens <= limit_tokens // len(self._flows)
        rest = self.tokens - max((other.tokens for other in self._flows.values()), default=0)
        return rest == 0 or rest + tokens <= limit_tokens

    def next_batch(self, idle_workers: int = 1, known: Callable[[Item], int] = lambda _: 0) -> list[Item]:
        """Take the next batch; empty when nothing waits. What waits is spread over the idle workers.

        ``known`` says how many of an item's tokens need not be computed: only the others fill a batch, where no other
        worker is there to take what is left.
        """
        if not self._flows:
            return []
        budget = self.shape.budget_tokens
        if idle_workers > 1:
            share = -(-self.tokens // idle_workers)
            budget = min(budget, max(share, self.shape.overhead_tokens))

        def work_of(item: Item) -> int:
            item.known = known(item)
            return item.work if idle_workers == 1 else item.length

        seed = self._take_seed()
        batch, longest, total = [seed], seed.length, work_of(seed)
        for item in self._candidates(seed.bucket):
            longest_then = max(longest, item.length)
            total_then = total + work_of(item)
            cost_then = longest_then * (len(batch) + 1) if self.shape.padded else total_then
            if cost_then > budget or self._is_wasteful(batch, item, longest):
                break
            self._take(item)
            batch.append(item)
            longest, total = longest_then, total_then
        return batch

    def next_queries(self) -> list[Item]:
        """Take what is next of requests of at most ``query_tokens``; empty when a larger one is next, or nothing."""
        room = self.shape.query_tokens
        batch: list[Item] = []
        while self._flows:
            item = self._least_served().first()
            assert item is not None
            if item.job.tokens > room:
                break
            batch.append(self._take_seed())
            room -= item.length
        return batch

    def _is_wasteful(self, batch: list[Item], item: Item, longest: int) -> bool:
        """Whether the padding that an item of another length brings costs more than running it apart."""
        if not self.shape.padded or item.bucket == batch[0].bucket:
            return False
        longest_then = max(longest, item.length)
        waste = (longest_then - longest) * len(batch) + longest_then - item.length
        return waste > self.shape.overhead_tokens

    def _take_seed(self) -> Item:
        """The next sequence of the least-served caller. Virtual time follows the caller in service."""
        flow = self._least_served()
        self._now = max(self._now, flow.served)
        seed = flow.first()
        assert seed is not None
        self._take(seed)
        return seed

    def _candidates(self, bucket: Bucket) -> Iterator[Item]:
        """What may join: whoever is next, or alike first, then the neighbouring lengths. The consumer takes each before
        asking on.
        """
        if not self.shape.alike:
            while self._flows:
                item = self._least_served().first()
                assert item is not None
                yield item
            return
        yield from self._in(bucket)
        others = sorted((b for b in self._in_bucket if b != bucket), key=lambda b: (abs(b - bucket), b))
        for other in others:
            yield from self._in(other)

    def _in(self, bucket: Bucket) -> Iterator[Item]:
        """One bucket's sequences, least-served caller first, each caller's oldest first."""
        flows = self._in_bucket.get(bucket, {}).values()
        heap = [(*flow.place, flow) for flow in flows]
        heapq.heapify(heap)
        while heap:
            flow = heap[0][-1]
            item = flow.first_in(bucket)
            assert item is not None
            yield item
            if flow.first_in(bucket) is None:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, (*flow.place, flow))

    def _take(self, item: Item) -> None:
        flow = self._flows[item.job.caller]
        flow.served += item.length
        flow.serve(item.length)
        del item.job.waiting[item]
        self._remove(flow, item)
        self._place(flow)
