"""Fair among accounts first, then among an account's keys: nobody has more of the engine for having many keys."""

from collections import Counter
from collections.abc import Hashable, Iterable
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vectoll.core.batching.flow import Item, Job, KeyGroup
from vectoll.core.batching.queue import BatchShape, FairQueue
from vectoll.domain.identity import Caller

BUDGET, LONGEST = 64, 40
OVER = max(BUDGET, LONGEST) + LONGEST
"""How far two may be apart who both wait: one batch and the longest sequence."""


def job(account: str, key: str, *lengths: int) -> Job:
    return Job(Caller(account, key), [[1] * length for length in lengths])


def queue_of(*jobs: Job, budget_tokens: int = BUDGET, alike: bool = False) -> FairQueue:
    queue = FairQueue(BatchShape(budget_tokens, padded=alike, alike=alike, overhead_tokens=8))
    for each in jobs:
        queue.push(each)
    return queue


def serve(queue: FairQueue, batches: int) -> list[Item]:
    return [item for _ in range(batches) for item in queue.next_batch()]


def tokens_of(items: Iterable[Item]) -> Counter[str]:
    """By account, and by key."""
    found: Counter[str] = Counter()
    for item in items:
        found[item.job.caller.account] += item.length
        found[item.job.caller.key] += item.length
    return found


@pytest.mark.parametrize("alike", [True, False])
def test_an_account_with_twenty_keys_gets_as_much_as_one_with_one(*, alike: bool) -> None:
    many = [job("many", f"many/{n}", *[16] * 100) for n in range(20)]
    served = tokens_of(serve(queue_of(*many, job("one", "one/0", *[16] * 2000), alike=alike), 100))
    assert abs(served["many"] - served["one"]) <= BUDGET + 16
    shares = [served[f"many/{n}"] for n in range(20)]
    assert max(shares) - min(shares) <= 16


def test_keys_that_come_one_after_another_bring_their_account_no_more_than_its_share() -> None:
    """Each with a single query, which would be next if it were an account's."""
    queue = queue_of(job("one", "one/0", *[16] * 1000), budget_tokens=16)
    for n in range(200):
        queue.push(job("many", f"many/{n}", 16))
    served = tokens_of(serve(queue, 200))
    assert abs(served["many"] - served["one"]) <= 2 * 16


@pytest.mark.parametrize("alike", [True, False])
def test_a_query_goes_before_the_backlog_of_another_key_of_its_account(*, alike: bool) -> None:
    queue = queue_of(job("a", "bulk", *[60] * 1000), job("b", "b/0", *[60] * 1000), alike=alike)
    serve(queue, 10)
    query = job("a", "query", 3)
    queue.push(query)
    assert query in [item.job for item in serve(queue, 2)]


def test_of_an_account_that_is_alone_each_key_has_its_share_and_a_query_is_next() -> None:
    queue = queue_of(job("a", "bulk", *[60] * 1000))
    serve(queue, 10)
    query, other = job("a", "query", 60), job("a", "other", *[60] * 1000)
    queue.push(query)
    assert [item.job for item in serve(queue, 1)] == [query]
    queue.push(other)
    served = tokens_of(serve(queue, 100))
    assert abs(served["bulk"] - served["other"]) <= BUDGET + 60


def test_a_key_that_sends_one_query_after_the_other_leaves_its_accounts_backlog_its_share() -> None:
    queue = queue_of(job("a", "bulk", *[60] * 1000), job("a", "query", 60), job("b", "b/0", *[60] * 1000))
    items: list[Item] = []
    for _ in range(200):
        batch = queue.next_batch()
        items += batch
        for item in batch:
            if item.job.caller.key == "query":
                queue.push(job("a", "query", 60))  # its answer is here, and the next goes out
    served = tokens_of(items)
    assert abs(served["bulk"] - served["query"]) <= 60
    assert abs(served["a"] - served["b"]) <= BUDGET + 60


@pytest.mark.parametrize("alike", [True, False])
def test_an_idle_key_saves_up_no_credit(*, alike: bool) -> None:
    queue = queue_of(*(job("a", f"a/{n}", *[16] * 1000) for n in range(2)), alike=alike)
    serve(queue, 50)
    queue.push(job("a", "a/2", *[16] * 1000))
    served = tokens_of(serve(queue, 60))
    assert max(abs(served["a/2"] - served[f"a/{n}"]) for n in range(2)) <= 2 * 16


def test_nothing_is_kept_of_an_account_whose_keys_have_all_left() -> None:
    queue = queue_of(job("bulk", "bulk/0", *[16] * 5000), alike=True)
    for n in range(1000):
        both = [job("a", f"a/{n}", 16, 40), job("a", f"a/{n + 1}", 16)]
        for each in both:
            queue.push(each)
        queue.next_batch()
        for each in both:
            queue.discard(each)
    assert set(queue._accounts.flows) == {"bulk"}
    assert len(queue._accounts._places) < 100
    assert {account for accounts in queue._in_bucket.values() for account in accounts} == {
        queue._accounts.flows["bulk"]
    }
    while queue.next_batch():
        pass
    assert (queue.tokens, queue._accounts.flows, queue._in_bucket) == (0, {}, {})


@pytest.mark.parametrize("alike", [True, False])
def test_what_one_of_several_keys_gave_up_is_not_what_is_next_of_it(*, alike: bool) -> None:
    other, given_up, rest = job("a", "k1", 16), job("a", "k2", 16), job("a", "k2", 16)
    queue = queue_of(other, given_up, rest, budget_tokens=16, alike=alike)
    queue.discard(given_up)
    assert [item.job for item in serve(queue, 3)] == [other, rest]


def test_keys_that_have_left_are_forgotten() -> None:
    queue = queue_of(job("a", "bulk", *[16] * 5000), budget_tokens=16)
    for n in range(2000):
        queue.push(job("a", f"query {n}", 16))
        queue.next_batch()  # the query's
        queue.next_batch()
    (group,) = queue._accounts.flows.values()
    assert isinstance(group, KeyGroup)
    assert len(group.keys._left) < 200


def test_one_key_cannot_fill_the_queue_for_the_others_of_its_account() -> None:
    queue = queue_of(job("a", "bulk", *[10] * 1000))
    assert not queue.has_room(Caller("a", "bulk"), 10, 10_000)
    assert queue.has_room(Caller("a", "query"), 50_000, 10_000), "beside a single one a request of any size"
    queue.push(job("a", "query", 100))
    assert queue.has_room(Caller("a", "query"), 4_900, 10_000)
    assert not queue.has_room(Caller("a", "query"), 4_901, 10_000)
    assert queue.has_room(Caller("a", "third"), 9_900, 10_000)
    assert not queue.has_room(Caller("a", "third"), 9_901, 10_000)


def test_an_account_has_an_equal_share_of_a_full_queue_and_each_of_its_keys_of_that() -> None:
    queue = queue_of(job("a", "bulk", *[10] * 900), job("b", "b/0", *[10] * 100))
    assert queue.has_room(Caller("b", "b/0"), 4_000, 10_000)
    assert not queue.has_room(Caller("b", "b/0"), 4_001, 10_000)
    assert queue.has_room(Caller("b", "b/1"), 4_000, 10_000), "the share is the account's"
    assert queue.has_room(Caller("b", "b/1"), 5_000, 10_000), "and all of it a newcomer's beside one key"
    assert not queue.has_room(Caller("b", "b/1"), 5_001, 10_000)
    assert not queue.has_room(Caller("a", "bulk"), 10, 10_000)
    assert queue.has_room(Caller("a", "query"), 5_000, 10_000)
    assert not queue.has_room(Caller("a", "query"), 5_001, 10_000)
    queue.push(job("a", "query", 1_000))
    assert queue.has_room(Caller("a", "query"), 1_500, 10_000)
    assert not queue.has_room(Caller("a", "query"), 1_501, 10_000)


def test_many_keys_hold_at_most_twice_their_accounts_share_of_a_full_queue() -> None:
    """The largest all of it, and the others as much, as a queue holds twice its limit of all."""
    queue = queue_of(job("b", "b/0", *[10] * 1000))
    for n in range(500):
        while queue.has_room(Caller("a", f"a/{n}"), 100, 10_000):
            queue.push(job("a", f"a/{n}", *[10] * 10))
    assert queue._accounts.flows["a"].tokens <= 2 * 5_000 + 500


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from("abc"),
            st.integers(0, 2),
            st.lists(st.integers(1, LONGEST), min_size=1, max_size=6),
        ),
        st.integers(0, 20),
        st.none(),
        st.none(),
    ),
    max_size=80,
)
"""An account, a key's number and lengths are a push, a number discards a job, None takes a batch."""


class Run:
    """A queue, and what has come and gone."""

    def __init__(self, queue: FairQueue) -> None:
        self.queue = queue
        self.jobs: list[Job] = []

    def step(self, step: tuple[str, int, list[int]] | int | None) -> list[Item]:
        if isinstance(step, tuple):
            account, number, lengths = step
            self.jobs.append(job(account, f"{account}/{number}", *lengths))
            self.queue.push(self.jobs[-1])
        elif step is not None:
            for each in self.jobs[step : step + 1]:
                self.queue.discard(each)
        else:
            return self.queue.next_batch()
        return []

    def waiting(self) -> set[Caller]:
        return {each.caller for each in self.jobs if each.waiting}


@given(STEPS)
def test_two_who_both_wait_get_equally_many_tokens_whatever_the_number_of_keys(
    steps: list[tuple[str, int, list[int]] | int | None],
) -> None:
    """Over any time: two accounts, and two keys of one account."""
    run, served = Run(queue_of()), Counter[str]()
    apart: dict[tuple[str, str], tuple[int, int]] = {}
    for step in [*steps, *[None] * 100]:
        served += tokens_of(run.step(step))
        waiting = run.waiting()
        pairs = {*combinations(sorted({caller.account for caller in waiting}), 2)} | {
            (one.key, other.key)
            for one, other in combinations(sorted(waiting), 2)
            if one.account == other.account
        }
        apart = {pair: apart.get(pair, (10**9, -(10**9))) for pair in pairs}
        for (one, other), (least, most) in apart.items():
            now = served[one] - served[other]
            apart[one, other] = least, most = min(least, now), max(most, now)
            assert most - least <= OVER
    assert not run.waiting()


@given(STEPS)
def test_the_account_that_was_served_least_is_next_and_its_key_that_was(
    steps: list[tuple[str, int, list[int]] | int | None],
) -> None:
    run = Run(queue_of())
    accounts = Model()
    keys: dict[str, Model] = {}
    for step in [*steps, *[None] * 100]:
        waiting = run.waiting()
        left = Counter((each.caller, item.index) for each in run.jobs for item in each.waiting)
        items_left = Counter(caller for caller, _ in left.elements())
        if isinstance(step, tuple):
            account, key = step[0], f"{step[0]}/{step[1]}"
            if account not in {caller.account for caller in waiting}:
                accounts.enter(account, is_first=not waiting)
                keys[account] = Model()
            if (account, key) not in waiting:
                keys[account].enter(key, is_first=False)
        for position, item in enumerate(run.step(step)):
            account, key = item.job.caller
            accounts.take(account, {c.account for c in +items_left}, item.length, in_service=position == 0)
            keys[account].take(
                key, {c.key for c in +items_left if c.account == account}, item.length, in_service=True
            )
            items_left[item.job.caller] -= 1
    assert not run.waiting()


class Model:
    """Start-time fair queuing, by looking at everybody."""

    def __init__(self) -> None:
        self.now = 0
        self.served: dict[Hashable, int] = {}

    def enter(self, name: str, *, is_first: bool) -> None:
        if is_first:
            self.served.clear()
        self.served[name] = max(self.now, self.served.get(name, 0))

    def take(self, name: str, waiting: set[str], tokens: int, *, in_service: bool) -> None:
        least = min(self.served[each] for each in waiting)
        assert self.served[name] == least
        if in_service:
            self.now = max(self.now, least)
        self.served[name] += tokens


@given(STEPS, st.booleans(), st.integers(1, 3))
def test_every_sequence_is_taken_once_unless_it_was_given_up(
    steps: list[tuple[str, int, list[int]] | int | None], alike: bool, workers: int
) -> None:
    run = Run(queue_of(alike=alike))
    taken: Counter[tuple[int, int]] = Counter()
    given_up: set[tuple[int, int]] = set()
    for step in steps:
        if isinstance(step, int):
            given_up |= {(id(e), item.index) for e in run.jobs[step : step + 1] for item in e.waiting}
        taken.update((id(item.job), item.index) for item in run.step(step))
        accounts = run.queue._accounts.flows.values()
        assert sum(account.tokens for account in accounts) == run.queue.tokens
    while batch := run.queue.next_batch(workers):
        taken.update((id(item.job), item.index) for item in batch)
    assert set(taken.values()) <= {1}
    assert {*taken} | given_up == {(id(e), i) for e in run.jobs for i in range(len(e.sequences))}
    assert not {*taken} & given_up
    assert (run.queue.tokens, run.queue._accounts.flows, run.queue._in_bucket) == (0, {}, {})


@given(STEPS)
def test_a_batch_begins_with_the_account_that_was_served_least_where_lengths_matter_too(
    steps: list[tuple[str, int, list[int]] | int | None],
) -> None:
    run = Run(queue_of(alike=True))
    for step in [*steps, *[None] * 100]:
        waits = run.queue._accounts.flows
        least = min((account.served for account in waits.values()), default=0)
        served = {name: account.served for name, account in waits.items()}
        batch = run.step(step)
        assert all(served[item.job.caller.account] == least for item in batch[:1])


@given(STEPS)
def test_one_keys_sequences_are_in_the_order_that_they_have_without_other_keys(
    steps: list[tuple[str, int, list[int]] | int | None],
) -> None:
    """What comes when so many of its own are computed, each key has a queue for itself."""
    run = Run(queue_of())
    alone: dict[str, Run] = {}
    for step in [*steps, *[None] * 100]:
        if isinstance(step, tuple):
            key = f"{step[0]}/{step[1]}"
            alone.setdefault(key, Run(queue_of(budget_tokens=1))).step(step)
        elif step is not None:
            for each in run.jobs[step : step + 1]:
                of_key = [j for j in run.jobs if j.caller == each.caller]
                own = alone[each.caller.key]
                own.queue.discard(own.jobs[of_key.index(each)])
        for item in run.step(step):
            own = alone[item.job.caller.key]
            (other,) = own.step(None)
            of_key = [j for j in run.jobs if j.caller == item.job.caller]
            assert (own.jobs.index(other.job), other.index) == (of_key.index(item.job), item.index)


@given(
    others=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.integers(1, 300)), min_size=1, max_size=8
    ),
    late=st.integers(1, 300),
    begun=st.integers(0, 100),
)
def test_a_request_starts_after_the_tokens_that_are_said_to_be_ahead_of_it(
    others: list[tuple[str, int, int]], late: int, begun: int
) -> None:
    queue = queue_of(*(job(a, f"{a}/{n}", *[1] * size) for a, n, size in others), budget_tokens=1)
    for _ in range(min(begun, queue.tokens - 1)):
        queue.next_batch()
    last = job("a", "a/0", *[1] * late)
    ahead = queue.tokens_ahead(last.caller, late)
    queue.push(last)
    waited = 0
    while queue.next_batch()[0].job is not last:
        waited += 1
    assert waited <= ahead
