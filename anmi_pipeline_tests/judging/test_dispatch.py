import asyncio
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anmi_pipeline.errors import JudgeError
from anmi_pipeline.judging.budget import Budget, CapReached
from anmi_pipeline.judging.dispatch import Dispatcher, dispatch
from anmi_pipeline.judging.dispatch_config import DispatchConfig
from anmi_pipeline.judging.ledger import LedgerError
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.pacing import PaceConfig
from anmi_pipeline.judging.prices import PriceList, cost_units, dollars, worst_units
from anmi_pipeline.judging.requests import ANSWERED, Outcome, Refused, Request, Retryable
from anmi_pipeline_tests.judging.clock import play
from anmi_pipeline_tests.judging.fake_client import FakeClient, answer, faults, keys, made_requests

PRICE = PriceList.model_validate({"checked": "2026-01-01", "models": {"m": {"input": 1, "output": 4}}}).price("m", "sync")
ONE = made_requests(1)[0]
WORST, TRUE = worst_units(ONE, PRICE), cost_units(answer(ONE).usage, PRICE)


@pytest.fixture
def books(sqlite_url: str) -> Iterator[Books]:
    with Books(sqlite_url) as opened:
        yield opened


def run(client: FakeClient, count: int = 100, config: DispatchConfig | None = None, **options: object) -> list[Outcome]:
    """All outcomes; an error of the run is raised after them, so tests that expect one use `collected`."""
    outcomes, error = collected(client, count, config, **options)
    if error is not None:
        raise error
    return outcomes


def collected(
    client: FakeClient, count: int = 100, config: DispatchConfig | None = None, **options: object
) -> tuple[list[Outcome], BaseException | None]:
    async def scene() -> tuple[list[Outcome], BaseException | None]:
        outcomes: list[Outcome] = []
        try:
            async for outcome in dispatch(Dispatcher(client, config, **options), made_requests(count)):
                outcomes.append(outcome)
        except (JudgeError, CapReached, LedgerError) as error:
            return outcomes, error
        return outcomes, None

    return play(scene())


def test_every_request_has_one_outcome():
    client = FakeClient(faults)
    outcomes = run(client, 2000, price=PRICE)
    assert sorted(keys(outcomes)) == keys([answer(request) for request in made_requests(2000)])
    assert all(outcome.status == ANSWERED for outcome in outcomes)
    assert all(outcome.cost_usd == float(dollars(TRUE)) for outcome in outcomes)
    assert all(outcome.latency_ms == pytest.approx(50) for outcome in outcomes)
    assert sum(client.attempts.values()) > 2000
    assert client.most_in_flight <= 64


def test_the_clients_answer_is_handed_over_as_it_is():
    outcome = run(FakeClient(), 1)[0]
    assert (outcome.text, outcome.usage, outcome.cost_usd) == (answer(ONE).text, answer(ONE).usage, 0)


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529, None])
def test_what_may_pass_is_tried_again(status: int | None):
    client = FakeClient(lambda _, attempt: Retryable(status, kind=None if status else "timeout") if attempt < 3 else None)
    assert [outcome.status for outcome in run(client, 1)] == [ANSWERED]
    assert client.attempts[ONE.key] == 3


def test_when_attempts_run_out_the_request_is_a_failure():
    client = FakeClient(lambda request, _: Retryable(500) if request.key == ONE.key else None)
    outcomes = run(client, 50, DispatchConfig(attempts=4))
    failed = [outcome for outcome in outcomes if outcome.status != ANSWERED]
    assert [(one.key, one.status, one.text, one.cost_usd) for one in failed] == [(ONE.key, "http_500", None, 0)]
    assert client.attempts[ONE.key] == 4
    assert len(outcomes) == 50


def test_a_retry_waits_with_jitter_and_as_long_as_the_provider_asks():
    def times(seed: int, retry_after: float | None) -> list[float]:
        client = FakeClient(lambda _, attempt: Retryable(429, retry_after) if attempt < 4 else None, seconds=0)
        run(client, 1, seed=seed)
        return [later - sooner for sooner, later in zip(client.times, client.times[1:], strict=False)]

    first, second, third = times(0, None)
    assert 0.25 <= first <= 0.5
    assert 0.5 <= second <= 1
    assert 1 <= third <= 2
    assert times(0, None) == [first, second, third] != times(1, None)
    assert all(20 <= gap <= 20.3 for gap in times(0, 20))


def test_a_retry_holds_no_worker():
    client = FakeClient(lambda request, attempt: Retryable(429, 100) if request.key == ONE.key and attempt == 1 else None)
    run(client, 20, DispatchConfig(workers=1))
    assert client.times[-2] - client.times[0] < 2  # the 19 others did not wait for the first one's 100 s


def test_retries_go_through_the_same_pacer():
    client = FakeClient(lambda _, attempt: Retryable(500) if attempt == 1 else None)
    pace = PaceConfig(requests_per_minute=600, headroom=1, burst_seconds=0)
    run(client, 30, DispatchConfig(pace=pace, breaker_failures=99))
    gaps = [later - sooner for sooner, later in zip(client.times, client.times[1:], strict=False)]
    assert len(client.times) == 60
    assert min(gaps) > 0.1 - 1e-9


def test_throughput_under_faults_is_what_the_limit_allows():
    """10,000 requests at a server's 200/s, 50 ms: 4 % of the attempts go wrong and are made again."""
    client = FakeClient(faults)
    run(client, 10_000, DispatchConfig(pace=PaceConfig(requests_per_minute=12_000)))
    seconds = client.times[-1] - client.times[0]
    assert len(client.times) / seconds > 0.97 * 200
    assert 10_000 / seconds > 0.9 * 200


def test_a_refused_key_stops_the_run_with_one_error_and_keeps_what_was_answered():
    def fails(request: Request, _: int) -> Exception | None:
        return Refused("OPENAI_API_KEY is not accepted.") if int(request.key, 16) == 30 else None

    client = FakeClient(fails)
    outcomes, error = collected(client, 1000, DispatchConfig(workers=8))
    assert isinstance(error, Refused)
    assert str(error) == "OPENAI_API_KEY is not accepted."
    assert 30 <= len(outcomes) < 50
    assert sorted(keys(outcomes)) == sorted(keys([answer(request) for request in client.billed]))  # nothing paid is lost
    assert client.attempts[f"{30:064x}"] == 1


def test_an_unexpected_error_of_a_client_is_not_hidden():
    client = FakeClient(lambda request, _: ZeroDivisionError("bug") if int(request.key, 16) == 5 else None)
    with pytest.raises(ZeroDivisionError):
        run(client, 20)


def test_a_dead_provider_is_given_up_after_a_while_and_few_attempts_are_wasted():
    client = FakeClient(lambda request, _: Retryable(503) if int(request.key, 16) >= 100 else None)
    outcomes, error = collected(client, 500, DispatchConfig(workers=16))
    assert isinstance(error, JudgeError)
    assert error.retryable
    assert "does not answer (http_503)" in str(error)
    assert [outcome.status for outcome in outcomes] == [ANSWERED] * 100
    assert sum(client.attempts.values()) <= 100 + 16 + 20 + 16 + 8  # around the last answer, to open it, in flight then, trials
    assert client.times[-1] - client.times[0] > 200


def test_calls_that_wait_for_their_turn_do_not_leave_once_the_breaker_is_open():
    client = FakeClient(lambda *_: Retryable(503), seconds=0)
    pace = PaceConfig(requests_per_minute=600, headroom=1, burst_seconds=0)
    _, error = collected(client, 50, DispatchConfig(workers=16, pace=pace, breaker_failures=3, breaker_trials=2))
    assert isinstance(error, JudgeError)
    assert len([time for time in client.times if time < client.times[0] + 4]) == 3


def test_an_outage_costs_no_request_its_attempts():
    async def scene() -> tuple[list[Outcome], FakeClient]:
        clock = asyncio.get_running_loop().time
        started = clock()
        client = FakeClient(lambda *_: Retryable(None, kind="connection") if 1 < clock() - started < 60 else None)
        return [outcome async for outcome in dispatch(Dispatcher(client), made_requests(5000))], client

    outcomes, client = play(scene())
    assert {outcome.status for outcome in outcomes} == {ANSWERED}
    assert len(outcomes) == 5000
    assert sum(client.attempts.values()) <= 5000 + 20 + 64 + 5  # to open it, in flight then, trials


@pytest.mark.parametrize(("kind", "calls"), [("unreachable", 0), ("connection", 1), ("timeout", 1)])
def test_what_no_connection_was_made_for_costs_nothing(books: Books, kind: str, calls: int):
    client = FakeClient(lambda *_: Retryable(None, kind=kind))
    outcomes = run(client, 1, DispatchConfig(attempts=1), price=PRICE, budget=Budget(books, "s", max_usd=1))
    assert [outcome.status for outcome in outcomes] == [kind]
    assert Budget(books, "s").spending().usd == dollars(calls * WORST)


def test_requests_are_taken_as_workers_become_free():
    taken = 0

    def endless() -> Iterator[Request]:
        nonlocal taken
        for request in made_requests(1000):
            taken += 1
            yield request

    async def scene() -> int:
        dispatcher = Dispatcher(FakeClient(), DispatchConfig(workers=4))
        async for _ in dispatcher.parts(endless(), 1000):
            return taken
        return 0

    assert play(scene()) <= 8


@pytest.mark.parametrize("workers", [1, 4, 16])
def test_a_slow_committer_holds_the_workers_back(workers: int):
    """A kill costs fewer than twice `workers` calls: those that are paid or on their way, and not on record."""

    async def scene() -> int:
        client, committed, most = FakeClient(faults), 0, 0
        config = DispatchConfig(workers=workers, breaker_failures=999)
        async for part in Dispatcher(client, config).parts(made_requests(400)):
            await asyncio.sleep(committed % 7)
            most = max(most, len(client.billed) + client.in_flight - committed)
            committed += len(part)
        return most

    assert workers <= play(scene()) < 2 * workers


def test_parts_share_a_commit():
    async def scene() -> list[int]:
        return [len(part) async for part in Dispatcher(FakeClient()).parts(made_requests(640))]

    assert play(scene()) == [64] * 10


def cancelled_after(seconds: float, client: FakeClient, **settings: object) -> tuple[list[Outcome], float]:
    async def scene() -> tuple[list[Outcome], float]:
        kept: list[Outcome] = []

        async def consume() -> None:
            async for outcome in dispatch(Dispatcher(client, DispatchConfig(workers=8, **settings)), made_requests(1000)):
                kept.append(outcome)

        clock = asyncio.get_running_loop().time
        task = asyncio.create_task(consume())
        await asyncio.sleep(seconds)
        task.cancel()
        asked = clock()
        with pytest.raises(asyncio.CancelledError):
            await task
        return kept, clock() - asked

    return play(scene())


def test_cancellation_keeps_everything_finished_and_in_flight():
    client = FakeClient(seconds=3)
    kept, seconds = cancelled_after(10, client)
    assert sorted(keys(kept)) == sorted(keys([answer(request) for request in client.billed]))
    assert len(kept) == 32  # four waves of 8: the last was in flight
    assert seconds < 3


def test_calls_that_hang_are_awaited_only_so_long():
    kept, seconds = cancelled_after(10, FakeClient(seconds=500), grace_seconds=20)
    assert kept == []
    assert seconds == pytest.approx(20)


def test_stop_ends_the_run_after_what_is_in_flight():
    async def scene() -> tuple[int, FakeClient]:
        client = FakeClient(faults)
        dispatcher, done = Dispatcher(client, DispatchConfig(workers=8)), 0
        async for part in dispatcher.parts(made_requests(1000)):
            done += len(part)
            if done >= 100:
                dispatcher.stop()
        return done, client

    done, client = play(scene())
    assert 100 <= done <= 116
    assert done == len(client.billed)


def test_leaving_the_loop_leaves_no_task_behind(books: Books):
    async def scene() -> int:
        budget = Budget(books, "s", max_calls=50)
        parts = Dispatcher(FakeClient(), price=PRICE, budget=budget).parts(made_requests(100))
        async for _ in parts:
            break
        await parts.aclose()
        return len(asyncio.all_tasks())

    assert play(scene()) == 1


def test_the_cap_is_kept_and_what_was_answered_too(books: Books):
    client = FakeClient(faults)
    cap = dollars(100 * WORST)
    outcomes, error = collected(client, 1000, price=PRICE, budget=Budget(books, "s", max_usd=cap))
    assert isinstance(error, CapReached)
    spending = Budget(books, "s").spending()
    assert spending.usd <= cap
    assert spending.open_usd == 0
    assert len(client.billed) * TRUE <= cap * 10**12
    assert cap - spending.usd < dollars(WORST)  # not one call more fitted in
    assert sorted(keys(outcomes)) == sorted(keys([answer(request) for request in client.billed]))
    timeouts = sum(client.fails(request, n + 1) is not None and client.fails(request, n + 1).status is None
                   for request in made_requests(1000) for n in range(client.attempts[request.key]))  # fmt: skip
    assert spending.usd == dollars(len(client.billed) * TRUE + timeouts * WORST)
    assert spending.calls == len(client.billed) + timeouts


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 60), st.integers(1, 40), st.integers(0, 5))
def test_the_cap_in_calls_is_never_exceeded(cap: int, workers: int, seed: int):
    def fails(request: Request, attempt: int) -> Exception | None:
        return faults(Request(f"{seed}{request.key}", {}, 0, 0), attempt)

    client = FakeClient(fails)
    with Books("sqlite://") as books:
        config = DispatchConfig(workers=workers)
        outcomes, error = collected(client, 50, config, price=PRICE, budget=Budget(books, "s", max_calls=cap), seed=seed)
        assert len(client.billed) <= Budget(books, "s").spending().calls <= cap
        assert len(outcomes) == 50 or isinstance(error, CapReached)


def test_a_call_waits_for_money_that_is_in_flight(books: Books):
    """One worst price fits at a time, and every settlement makes room: all are asked, one after the other."""
    client = FakeClient()
    cap = dollars(WORST + 19 * TRUE)
    outcomes = run(client, 20, price=PRICE, budget=Budget(books, "s", max_usd=cap))
    assert len(outcomes) == 20
    assert Budget(books, "s").spending().usd == dollars(20 * TRUE)


def test_a_cap_in_money_needs_a_price(books: Books):
    with pytest.raises(JudgeError, match="price of the model must be known"):
        run(FakeClient(), 1, budget=Budget(books, "s", max_usd=1))
    assert len(run(FakeClient(), 3, budget=Budget(books, "s", max_calls=3))) == 3


def test_what_hung_at_the_end_counts_as_spent(books: Books):
    async def scene() -> None:
        dispatcher = Dispatcher(
            FakeClient(seconds=500), DispatchConfig(workers=8, grace_seconds=1), price=PRICE, budget=Budget(books, "s", max_usd=1)
        )

        async def consume() -> None:
            async for _ in dispatcher.parts(made_requests(100)):
                pass

        task = asyncio.create_task(consume())
        await asyncio.sleep(10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    play(scene())
    assert Budget(books, "s").spending().usd == dollars(8 * WORST)


def test_a_ledger_that_cannot_be_written_stops_the_run(books: Books, monkeypatch: pytest.MonkeyPatch):
    budget, turns = Budget(books, "s", max_usd=1), 0

    def turn(self: Budget, *args: object) -> object:
        nonlocal turns
        turns += 1
        if turns == 4:
            raise LedgerError("the disk is full.")
        return original(self, *args)

    original = Budget.turn
    monkeypatch.setattr(Budget, "turn", turn)
    client = FakeClient()
    outcomes, error = collected(client, 1000, DispatchConfig(workers=8), price=PRICE, budget=budget)
    assert isinstance(error, LedgerError)
    assert sorted(keys(outcomes)) == sorted(keys([answer(request) for request in client.billed]))
    assert 0 < len(outcomes) < 100


def test_workers_do_not_stop_the_loop_while_money_is_written(books: Books):
    """On a real clock: the transaction runs in another thread."""
    threads: set[int] = set()

    class Watched(Books):
        def transaction(self, action: str = "written"):
            threads.add(threading.get_ident())
            return super().transaction(action)

    async def scene(budget: Budget) -> int:
        return len(
            [one async for one in dispatch(Dispatcher(FakeClient(seconds=0), price=PRICE, budget=budget), made_requests(50))]
        )

    with Watched(books._engine.url.render_as_string()) as watched:
        budget = Budget(watched, "s", max_usd=1)
        threads.clear()
        assert asyncio.run(scene(budget)) == 50
    assert threading.get_ident() not in threads
