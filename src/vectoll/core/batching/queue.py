"""The fair, length-aware queue: pure data, no threads, no clock.

Fairness is hierarchical start-time fair queuing (Goyal et al., SIGCOMM 1996; Bennett and Zhang, IEEE/ACM Transactions
on Networking 1997), counted in tokens: first over accounts, then over an account's keys, so that who sends by many keys
has no more than who sends by one. Each batch is seeded with a sequence of the account that has been served least, and
in it of such a key: a single query never waits behind another's backlog. Who comes back stands where they left, so that
queries one after the other leave a backlog its share. Among one key's requests the one goes first that would finish
first under processor sharing (Friedman and Henderson, SIGMETRICS 2003): equal ones in the order of arrival, a query
before the rest of a bulk request. The rest of the batch is filled with what would be next, or, where an engine pads,
with sequences of similar length.
"""

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vectoll.core.batching.flow import Bucket, Flow, Item, Job, KeyGroup, bucket_of
from vectoll.core.batching.schedule import Schedule
from vectoll.domain.identity import Caller


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
        self._accounts: Schedule[Flow | KeyGroup] = Schedule()
        self._in_bucket: dict[Bucket, dict[Flow | KeyGroup, None]] = {}

    def push(self, job: Job) -> None:
        """Add every sequence of a job, shortest first so that neighbours are alike."""
        flow = self._flow_of(job.caller)
        lengths = list(map(len, job.sequences))
        is_sorted = self.shape.alike or self.shape.padded
        flow.enter(job, self._order)
        flow.count += len(lengths)
        flow.tokens += job.tokens
        self.tokens += job.tokens
        for index in sorted(range(len(lengths)), key=lengths.__getitem__):
            self._order += 1
            length = lengths[index]
            item = Item(job, flow, index, length, self._order, bucket_of(length) if is_sorted else 0)
            job.waiting[item] = None
            if self.shape.alike:
                self._sort_in(flow, item)
        group = flow.group
        if group is not None:
            group.tokens += job.tokens
            group.keys.place(flow)
        self._accounts.place(group or flow)

    def _flow_of(self, caller: Caller) -> Flow:
        """A key's, that one sequence at least will wait in."""
        waits = self._accounts.flows.get(caller.account)
        if waits is None:
            start = self._accounts.start_of(caller.account)
            flow = self._accounts.flows[caller.account] = Flow(caller, start, start)
            return flow
        if isinstance(waits, Flow):
            if waits.caller.key == caller.key:
                return waits
            waits = self._group(waits)
        return waits.flow_of(caller)

    def _group(self, first: Flow) -> KeyGroup:
        """Make room for an account's second key: the group takes the place of the first."""
        group = self._accounts.flows[first.caller.account] = KeyGroup(first)
        for bucket in first.by_bucket:
            accounts = self._in_bucket[bucket]
            del accounts[first]
            accounts[group] = None
        return group

    def _sort_in(self, flow: Flow, item: Item) -> None:
        """Put a sequence beside those of like length."""
        alike = flow.by_bucket.get(item.bucket)
        if alike is None:
            alike = flow.by_bucket[item.bucket] = OrderedDict()
            group = flow.group
            if group is not None:
                group.enter_bucket(flow, item.bucket)
            self._in_bucket.setdefault(item.bucket, {})[group or flow] = None
        alike[item.order] = item

    def discard(self, job: Job) -> None:
        """Forget what of a job still waits: its caller has left, or it has failed."""
        if not job.waiting:
            return
        flow = next(iter(job.waiting)).flow
        group = flow.group
        flow.leave(job)
        for item in job.waiting:
            self._remove(flow, item)
        job.waiting.clear()
        if group is not None:
            group.keys.place(flow)
        self._accounts.place(group or flow)

    def _remove(self, flow: Flow, item: Item) -> None:
        group = flow.group
        flow.count -= 1
        flow.tokens -= item.length
        self.tokens -= item.length
        if group is not None:
            group.remove(flow, item.length)
        if not flow.count and (group is None or not group.keys.flows):
            self._accounts.leave(flow.caller.account)
        if self.shape.alike:
            self._sort_out(flow, group, item)

    def _sort_out(self, flow: Flow, group: KeyGroup | None, item: Item) -> None:
        """Take a sequence from those of like length."""
        alike = flow.by_bucket[item.bucket]
        del alike[item.order]
        if alike:
            return
        del flow.by_bucket[item.bucket]
        if group is not None and group.leave_bucket(flow, item.bucket):
            return
        accounts = self._in_bucket[item.bucket]
        del accounts[group or flow]
        if not accounts:
            del self._in_bucket[item.bucket]

    def tokens_ahead(self, caller: Caller, tokens: int) -> int:
        """An upper bound on the tokens computed before a new request of this caller and size starts, unless the caller
        itself sends what goes before it.
        """
        slack = self.shape.budget_tokens
        account = self._accounts.flows.get(caller.account)
        own = account.tokens_ahead(caller.key, tokens, slack) if account else 0
        if len(self._accounts.flows) == (account is not None):
            return own  # no other waits
        return min(self.tokens, self._accounts.tokens_ahead(caller.account, own, slack))

    def has_room(self, caller: Caller, tokens: int, limit_tokens: int) -> bool:
        """Whether a request of this size may wait.

        What is free is anybody's. Beyond that an account of which something waits has an equal share of the limit, and
        within that share each of its keys likewise. Newcomers, accounts and keys, are measured against what all but the
        largest have waiting, so nobody can fill the queue for everybody, nor one key an account's share for the others;
        beside a single one that waits a request of any size may.
        """
        if self.tokens + tokens <= limit_tokens:
            return True
        account = self._accounts.flows.get(caller.account)
        if account is None:
            return self._accounts.has_room_for_newcomer(tokens, limit_tokens, is_alone=True)
        accounts = len(self._accounts.flows)
        share = limit_tokens // accounts
        if account.tokens + tokens <= share:
            return True
        return account.has_room(caller.key, tokens, share, is_alone=accounts == 1)

    def next_batch(self, idle_workers: int = 1, known: Callable[[Item], int] = lambda _: 0) -> list[Item]:
        """Take the next batch; empty when nothing waits. What waits is spread over the idle workers.

        ``known`` says how many of an item's tokens need not be computed: only the others fill a batch, where no other
        worker is there to take what is left.
        """
        if not self._accounts.flows:
            return []
        budget = self.shape.budget_tokens
        if idle_workers > 1:
            share = -(-self.tokens // idle_workers)
            budget = min(budget, max(share, self.shape.overhead_tokens))

        seed = self._take_seed()
        seed.known = known(seed)
        batch, longest, total = [seed], seed.length, seed.work if idle_workers == 1 else seed.length
        for item in self._candidates(seed.bucket):
            item.known = known(item)
            total += item.work if idle_workers == 1 else item.length
            if self.shape.padded:
                longest_then = max(longest, item.length)
                if longest_then * (len(batch) + 1) > budget or self._is_wasteful(batch, item, longest):
                    break
                longest = longest_then
            elif total > budget:
                break
            self._take(item)
            batch.append(item)
        return batch

    def is_query_next(self, room: int | None = None) -> bool:
        """Whether what is next is of a request of at most ``room`` tokens, or else of ``query_tokens``."""
        if not self._accounts.flows:
            return False
        item = self._accounts.first().head
        assert item is not None
        return item.job.tokens <= (self.shape.query_tokens if room is None else room)

    def next_queries(self, known: Callable[[Item], int] = lambda _: 0) -> list[Item]:
        """Take what is next of requests of at most ``query_tokens``; empty when a larger one is next, or nothing.

        ``known`` says how many of an item's tokens need not be computed. They count all the same: the limit is small.
        """
        room = self.shape.query_tokens
        batch: list[Item] = []
        while self.is_query_next(room):
            item = self._take_seed()
            item.known = known(item)
            batch.append(item)
            room -= item.length
        return batch

    def _is_wasteful(self, batch: list[Item], item: Item, longest: int) -> bool:
        """Whether the padding that an item of another length brings costs more than running it apart."""
        if item.bucket == batch[0].bucket:
            return False
        longest_then = max(longest, item.length)
        waste = (longest_then - longest) * len(batch) + longest_then - item.length
        return waste > self.shape.overhead_tokens

    def _take_seed(self) -> Item:
        """The next sequence of the least-served account. Virtual time follows the one in service."""
        accounts = self._accounts
        account = accounts.first()
        accounts.now = max(accounts.now, account.served)
        seed = account.head
        assert seed is not None
        self._take(seed)
        return seed

    def _candidates(self, bucket: Bucket) -> Iterator[Item]:
        """What may join: whoever is next, or alike first, then the neighbouring lengths. The consumer takes each before
        asking on.
        """
        if not self.shape.alike:
            while self._accounts.flows:
                item = self._accounts.first().head
                assert item is not None
                yield item
            return
        yield from self._in(bucket)
        others = sorted((b for b in self._in_bucket if b != bucket), key=lambda b: (abs(b - bucket), b))
        for other in others:
            yield from self._in(other)

    def _in(self, bucket: Bucket) -> Iterator[Item]:
        """One bucket's sequences, least-served account first, in it the least-served key, each key's oldest first."""
        heap = [(*account.place, account) for account in self._in_bucket.get(bucket, ())]
        heapq.heapify(heap)
        while heap:
            account = heap[0][-1]
            item = account.first_in(bucket)
            assert item is not None
            yield item
            if account.first_in(bucket) is None:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, (*account.place, account))

    def _take(self, item: Item) -> None:
        flow, length = item.flow, item.length
        group = flow.group
        if group is not None:
            group.serve(length)
        flow.began = flow.served
        flow.served += length
        flow.serve(length)
        del item.job.waiting[item]
        self._remove(flow, item)
        if group is not None:
            group.keys.place(flow)
        self._accounts.place(group or flow)
