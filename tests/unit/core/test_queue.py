"""The fair queue: pure, so every rule is a plain example or a property."""

from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vectoll.core.batching.flow import Flow, Item, Job, bucket_of
from vectoll.core.batching.queue import BatchShape, FairQueue
from vectoll.domain.identity import Caller


def job(caller: str, *lengths: int) -> Job:
    return Job(Caller.keyless(caller), [[1] * length for length in lengths])


def queue_of(
    *jobs: Job, budget_tokens: int = 64, padded: bool = True, alike: bool = True, overhead_tokens: int = 8
) -> FairQueue:
    queue = FairQueue(BatchShape(budget_tokens, padded, alike, overhead_tokens))
    for each in jobs:
        queue.push(each)
    return queue


def drain(queue: FairQueue) -> list[list[Item]]:
    batches = []
    while batch := queue.next_batch():
        batches.append(batch)
    return batches


def test_empty_queue_has_no_batch() -> None:
    assert queue_of().next_batch() == []


def test_batch_holds_what_fits_the_padded_budget() -> None:
    batch = queue_of(job("a", *[16] * 10)).next_batch()
    assert len(batch) == 4


def test_packed_batch_counts_real_tokens() -> None:
    batch = queue_of(job("a", 16, 17, 15, 16), padded=False).next_batch()
    assert sum(item.length for item in batch) == 64


def queries_of(*jobs: Job, query_tokens: int = 16) -> FairQueue:
    queue = FairQueue(BatchShape(64, padded=False, alike=False, query_tokens=query_tokens))
    for each in jobs:
        queue.push(each)
    return queue


def test_queries_are_what_is_next_of_small_requests() -> None:
    queue = queries_of(job("a", 4), job("b", 5), job("c", 17), job("d", 3))
    assert [item.job.caller.key for item in queue.next_queries()] == ["a", "b"]
    assert queue.next_queries() == []
    assert [item.job.caller.key for item in queue.next_batch()] == ["c", "d"]


def test_queries_are_of_as_many_tokens_as_a_query_may_have() -> None:
    queue = queries_of(job("a", 9), job("b", 8), job("c", 8))
    assert [[item.job.caller.key for item in queue.next_queries()] for _ in range(3)] == [
        ["a"],
        ["b", "c"],
        [],
    ]


def test_queries_of_who_was_served_more_are_not_next() -> None:
    queue = queries_of(job("often", 16), job("bulk", *[8] * 10))
    assert [item.job.caller.key for item in queue.next_queries()] == ["often"]
    queue.push(job("often", 16))
    assert queue.next_queries() == []


def test_it_is_told_whether_a_query_is_next() -> None:
    queue = queries_of(job("a", 16), job("bulk", 10, 7))
    assert queue.is_query_next()
    queue.next_queries()
    assert not queue.is_query_next()
    queue.next_batch()
    assert not queue.is_query_next()


def test_what_is_known_of_a_query_is_not_counted_as_computed() -> None:
    queue = queries_of(job("a", 9), job("b", 7))
    batch = queue.next_queries(known=lambda item: 5)
    assert [item.to_compute for item in batch] == [4, 2]


def test_what_is_known_does_not_fill_a_batch() -> None:
    queue = queue_of(job("a", *[500] * 10), padded=False, alike=False)
    batch = queue.next_batch(known=lambda item: 488)
    assert [(item.length, item.to_compute) for item in batch] == [
        (500, 12)
    ] * 3  # and 488 that attention reads


def test_a_long_beginning_costs_something_although_it_is_known() -> None:
    queue = queue_of(job("a", *[8_000] * 10), padded=False, alike=False)
    assert len(queue.next_batch(known=lambda item: 7_999)) == 1


def test_what_is_known_is_still_spread_over_idle_workers() -> None:
    queue = queue_of(job("a", *[500] * 10), padded=False, alike=False)
    batch = queue.next_batch(idle_workers=2, known=lambda item: 488)
    assert [item.to_compute for item in batch] == [12]


def test_sequence_longer_than_the_budget_runs_alone() -> None:
    batches = drain(queue_of(job("a", 500), job("b", 500)))
    assert [len(batch) for batch in batches] == [1, 1]


def test_long_and_short_do_not_share_a_batch() -> None:
    batches = drain(queue_of(job("a", *[4] * 4, 60), budget_tokens=512))
    assert sorted(tuple(item.length for item in batch) for batch in batches) == [(4, 4, 4, 4), (60,)]


def test_padding_cheaper_than_a_batch_of_its_own_is_taken() -> None:
    batches = drain(queue_of(job("a", 10), job("b", 16), overhead_tokens=8))
    assert len(batches) == 1


def test_a_single_query_goes_before_another_callers_backlog() -> None:
    queue = queue_of(job("bulk", *[16] * 2048))
    queue.next_batch()
    queue.push(job("single", 16))
    assert "single" in {item.job.caller.key for item in queue.next_batch()}


def test_a_single_query_of_another_length_seeds_the_next_batch() -> None:
    queue = queue_of(job("bulk", *[60] * 2048))
    queue.next_batch()
    queue.push(job("single", 3))
    assert queue.next_batch()[0].job.caller.key == "single"


def test_where_length_does_not_matter_whoever_is_next_joins() -> None:
    queue = queue_of(job("a", 41, 3), job("b", 20), job("a", 40), padded=False, alike=False)
    assert [[item.length for item in batch] for batch in drain(queue)] == [[20, 40, 3], [41]]


def test_a_callers_equal_requests_are_finished_in_their_order() -> None:
    first, second = job("a", *[16] * 6), job("a", *[16] * 6)
    batches = drain(queue_of(first, second, padded=False, alike=False))
    assert [item.job for batch in batches for item in batch] == [first] * 6 + [second] * 6


def test_a_query_goes_before_the_rest_of_its_own_callers_bulk_request() -> None:
    bulk, query = job("a", *[16] * 100), job("a", 16)
    queue = queue_of(bulk, padded=False, alike=False)
    queue.next_batch()
    queue.push(query)
    assert queue.next_batch()[0].job is query


def test_a_query_goes_before_bulk_requests_however_many_and_however_far_they_are() -> None:
    queue = queue_of(*[job("a", *[16] * 100) for _ in range(3)], padded=False, alike=False)
    for _ in range(50):  # the first is done, the second half done
        queue.next_batch()
    query = job("a", 16)
    queue.push(query)
    assert queue.next_batch()[0].job is query


def test_what_a_caller_gave_up_is_forgotten_whole() -> None:
    queue = queue_of(job("a", *[16] * 100))
    for _ in range(50):
        given_up = job("a", *[16] * 1000)
        queue.push(given_up)
        queue.discard(given_up)
    (flow,) = queue._accounts.flows.values()
    assert isinstance(flow, Flow)
    assert (len(flow.jobs), len(flow.sharing), queue.tokens) == (1, 1, 1600)
    assert sum(len(batch) for batch in drain(queue)) == 100


def test_queries_without_end_do_not_hold_up_their_own_callers_bulk_request() -> None:
    """They alone are as much as is computed, and all of them are shorter than what is left of it."""
    bulk = job("a", *[16] * 10)
    queue = queue_of(bulk, budget_tokens=16, padded=False, alike=False)
    for _ in range(200):
        queue.push(job("a", 16))
        queue.next_batch()
    assert not bulk.waiting


def test_two_backlogs_share_the_engine_by_tokens() -> None:
    queue = queue_of(job("short", *[8] * 800), job("long", *[64] * 100))
    served: Counter[str] = Counter()
    for _ in range(60):
        for item in queue.next_batch():
            served[item.job.caller.key] += item.length
    assert abs(served["short"] - served["long"]) <= 2 * 64


@pytest.mark.parametrize("callers", [1, 2, 8])
@pytest.mark.parametrize("alike", [True, False])
def test_callers_who_send_one_query_after_the_other_leave_a_backlog_its_share(
    callers: int, *, alike: bool
) -> None:
    queries = [job(f"query {n}", 60) for n in range(callers)]
    queue = queue_of(job("bulk", *[60] * 1000), *queries, padded=False, alike=alike)
    served: Counter[str] = Counter()
    for _ in range(30 * (callers + 1)):
        for item in queue.next_batch():
            served[item.job.caller.key] += 1
            if item.job.caller.key != "bulk":
                queue.push(job(item.job.caller.key, 60))  # its answer is here, and the next goes out
    assert all(abs(count - 30) <= 1 for count in served.values())


def test_who_has_left_is_forgotten() -> None:
    queue = queue_of(job("bulk", *[16] * 5000), budget_tokens=16, padded=False)
    for n in range(2000):
        queue.push(job(f"query {n}", 16))
        queue.next_batch()  # the query's
        queue.next_batch()
    assert len(queue._accounts._left) < 200
    drain(queue)
    assert not queue._accounts._left


def test_an_idle_caller_saves_up_no_credit() -> None:
    queue = queue_of(job("steady", *[16] * 400), job("guest", 16))
    for _ in range(50):
        queue.next_batch()
    queue.push(job("guest", *[16] * 400))
    served: Counter[str] = Counter()
    for _ in range(20):
        for item in queue.next_batch():
            served[item.job.caller.key] += item.length
    assert abs(served["steady"] - served["guest"]) <= 2 * 64


def test_work_is_spread_over_idle_workers() -> None:
    queue = queue_of(job("a", 30, 30), budget_tokens=256)
    assert len(queue.next_batch(idle_workers=2)) == 1
    assert len(queue.next_batch(idle_workers=1)) == 1


def test_discarded_job_leaves_nothing_behind() -> None:
    gone = job("a", *[5] * 10)
    queue = queue_of(gone, job("b", 7))
    queue.next_batch()
    queue.discard(gone)
    drain(queue)
    assert queue.tokens == 0
    assert not queue._accounts.flows
    assert not queue._in_bucket


def test_tokens_ahead_are_few_for_a_newcomer_and_a_small_request_and_the_backlog_for_another_like_it() -> (
    None
):
    queue = queue_of(job("bulk", *[16] * 1000))
    assert queue.tokens_ahead(Caller.keyless("newcomer"), 16_000) == 64
    assert queue.tokens_ahead(Caller.keyless("bulk"), 16_000) == 16_000
    assert queue.tokens_ahead(Caller.keyless("bulk"), 16) == 16
    queue.next_batch()
    assert queue.tokens_ahead(Caller.keyless("bulk"), 16_000) == 16_000 - 64
    assert queue.has_room(Caller.keyless("bulk"), 64, 16_000)
    assert not queue.has_room(Caller.keyless("bulk"), 65, 16_000)


@given(
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=8),
    late=st.integers(1, 300),
    begun=st.integers(0, 40),
)
@example(
    sizes=[2, 2], late=1, begun=2
)  # the first is done, the second, which has its share of that, is not begun
def test_a_small_request_starts_after_the_tokens_that_are_said_to_be_ahead_of_it(
    sizes: list[int], late: int, begun: int
) -> None:
    queue = queue_of(*(job("a", *[1] * size) for size in sizes), budget_tokens=1, padded=False, alike=False)
    for _ in range(min(begun, sum(sizes) - 1)):
        queue.next_batch()
    last = job("a", *[1] * late)
    ahead = queue.tokens_ahead(Caller.keyless("a"), late)
    queue.push(last)
    waited = 0
    while queue.next_batch()[0].job is not last:
        waited += 1
    assert waited <= ahead


def test_room_that_many_small_callers_leave_is_anybodys_and_nobody_fills_the_queue_for_the_others() -> None:
    queue = queue_of(*(job(f"single{n}", 10) for n in range(100)), job("bulk", 10))
    assert queue.has_room(Caller.keyless("bulk"), 8_000, 10_000)
    queue.push(job("bulk", *[80] * 100))
    assert not queue.has_room(Caller.keyless("bulk"), 1_000, 10_000)
    queue.push(job("bulk", 980))
    assert queue.tokens == 9_990
    assert queue.has_room(Caller.keyless("single0"), 80, 10_000)
    assert queue.has_room(Caller.keyless("newcomer"), 8_000, 10_000)
    assert not queue.has_room(Caller.keyless("single0"), 100, 10_000)
    assert not queue.has_room(Caller.keyless("newcomer"), 9_100, 10_000)


def test_whose_first_request_is_given_up_stands_where_the_next_came_in() -> None:
    first, others, second = job("a", 16), job("b", 16), job("a", 16)
    queue = queue_of(first, others, second, budget_tokens=16, padded=False, alike=False)
    queue.discard(first)
    assert [item.job for batch in drain(queue) for item in batch] == [others, second]


@given(st.integers(1, 100_000), st.integers(1, 100_000))
def test_buckets_keep_the_order_of_lengths(a: int, b: int) -> None:
    low, high = sorted((a, b))
    assert bucket_of(low) <= bucket_of(high)
    if bucket_of(low) == bucket_of(high):
        assert high - low <= high / 8


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.lists(st.integers(1, 300), min_size=1, max_size=12)), max_size=8
    ),
    st.integers(1, 400),
    st.booleans(),
    st.integers(1, 3),
    st.sets(st.integers(0, 7)),
)
def test_every_sequence_is_taken_once_within_budget(
    requests: list[tuple[str, list[int]]], budget_tokens: int, padded: bool, workers: int, discarded: set[int]
) -> None:
    jobs = [job(caller, *lengths) for caller, lengths in requests]
    queue = queue_of(*jobs, budget_tokens=budget_tokens, padded=padded)
    dropped = [each for index, each in enumerate(jobs) if index in discarded]
    for each in dropped:
        queue.discard(each)
    taken: Counter[tuple[int, int]] = Counter()
    while batch := queue.next_batch(workers):
        cost = max(i.length for i in batch) * len(batch) if padded else sum(i.length for i in batch)
        assert len(batch) == 1 or cost <= budget_tokens
        taken.update((jobs.index(item.job), item.index) for item in batch)
    expected = {
        (n, i) for n, each in enumerate(jobs) if each not in dropped for i in range(len(each.sequences))
    }
    assert set(taken) == expected
    assert set(taken.values()) <= {1}
    assert queue.tokens == 0


_pushes = st.tuples(st.integers(0, 5), st.lists(st.integers(1, 40), min_size=1, max_size=4))


@given(st.lists(st.one_of(_pushes, st.none(), st.integers(0, 30)), max_size=80))
def test_whoever_was_served_least_is_next_whatever_came_and_went(
    steps: list[tuple[int, list[int]] | int | None],
) -> None:
    """A caller's lengths are a push, None takes a batch, a number discards a job."""
    queue = queue_of(padded=False, alike=False)
    served: dict[str, int] = {}
    jobs: list[Job] = []
    now = 0

    def waits(caller: str) -> bool:
        return any(each.caller.key == caller and each.waiting for each in jobs)

    for step in [*steps, *[None] * 200]:
        if isinstance(step, tuple):
            caller = f"caller {step[0]}"
            if not any(each.waiting for each in jobs):
                served.clear()
            if not waits(caller):
                served[caller] = max(now, served.get(caller, 0))
            jobs.append(job(caller, *step[1]))
            queue.push(jobs[-1])
        elif step is not None:
            for each in jobs[step : step + 1]:
                queue.discard(each)
        else:
            waiting = {each.caller.key: list(each.waiting) for each in jobs if each.waiting}
            left = Counter(dict.fromkeys(served, 0))
            for each in jobs:
                left[each.caller.key] += len(each.waiting)
            batch = queue.next_batch()
            assert bool(batch) == bool(waiting)
            for position, item in enumerate(batch):
                least = min(served[caller] for caller in served if left[caller])
                assert served[item.job.caller.key] == least
                if position == 0:
                    now = max(now, least)
                served[item.job.caller.key] += item.length
                left[item.job.caller.key] -= 1
    assert not any(each.waiting for each in jobs)


def test_places_that_were_left_are_swept_out() -> None:
    queue = queue_of(job("a", 40), padded=False, alike=False)
    for _ in range(1000):
        query = job("a", 1)
        queue.push(query)
        queue.discard(query)
    assert len(queue._accounts._places) < 100
