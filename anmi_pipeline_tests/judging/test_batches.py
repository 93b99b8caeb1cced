import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from anmi_pipeline.errors import JudgeError
from anmi_pipeline.judging.batch_decisions import NO_RESULT, BatchConfig, Decision, next_attempt, packed, reconcile
from anmi_pipeline.judging.batches import Batcher, BatchPending
from anmi_pipeline.judging.budget import Budget, CapReached, Reservation
from anmi_pipeline.judging.intents import Intent, Tried
from anmi_pipeline.judging.ledger import LedgerError
from anmi_pipeline.judging.ledger_tables import BATCHES, Books
from anmi_pipeline.judging.prices import PriceList, cost_units, dollars, worst_units
from anmi_pipeline.judging.requests import ANSWERED, Batch, BatchStatus, Outcome, Refused, Request, Usage
from anmi_pipeline_tests.judging.fake_batches import FakeProvider, Killed, MortalBooks, World
from anmi_pipeline_tests.judging.fake_client import answer, chance, made_requests

BATCH = {"input": 0.5, "output": 2}
PRICE = PriceList.model_validate({"checked": "2026-01-01", "models": {"m": {"input": 1, "output": 4, "batch": BATCH}}}).price(
    "m", "batch"
)
ONE = made_requests(1)[0]
WORST, TRUE = worst_units(ONE, PRICE), cost_units(answer(ONE).usage, PRICE)
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
SMALL = BatchConfig(calls=4, settle_seconds=0, part=2)
INTENT = Intent("token", "written", None, ("a", "b"), Reservation("r", 1, 2), NOON)


def listed(name: str, token: str | None = None, status: BatchStatus = "running", total: int = 2) -> Batch:
    return Batch(name, token, status, NOON, total, 0)


@dataclass
class Life:
    """Processes that take turns until everything is filed, and what they filed."""

    url: str
    provider: FakeProvider
    config: BatchConfig = SMALL
    max_usd: float | None = None
    filed: dict[str, Outcome] = field(default_factory=dict)
    turns: int = 0
    repeated: int = 0

    def turn(self, requests: Sequence[Request]) -> None:
        """One turn of a new process."""
        world = self.provider.world
        self.turns += 1

        async def scene(books: Books) -> None:
            batcher = Batcher(self.provider, "m", Budget(books, "made", self.max_usd), PRICE, self.config, world.clock)
            async for part in batcher.turn([request for request in requests if request.key not in self.filed]):
                world.step()
                self.repeated += sum(outcome.key in self.filed for outcome in part)
                for outcome in part:
                    self.filed.setdefault(outcome.key, outcome)
                world.step()

        with MortalBooks(self.url, world) as books:
            asyncio.run(scene(books))

    def live(self, requests: Sequence[Request], limit: int = 50) -> None:
        """Turn after turn, whatever kills them."""
        for _ in range(limit):
            try:
                self.turn(requests)
                return
            except BatchPending:
                self.provider.world.passes(6)
            except Killed:
                self.provider.world.passes(0.1)
        raise AssertionError("it never ended")

    @property
    def budget(self) -> tuple[int, int, int]:
        """Spent and open units, calls."""
        with Books(self.url) as books:
            at = Budget(books, "made").spending()
        return int(at.usd * 10**12), int(at.open_usd * 10**12), at.calls


def life(url: str, **options: object) -> Life:
    return Life(url, FakeProvider(World(), **options))


@pytest.mark.parametrize("tokens", [True, False])
def test_submit_walk_away_come_back_collect(ledger_url: str, tokens: bool):
    one = life(ledger_url, tokens=tokens)
    with Books(ledger_url) as books, books.transaction() as connection:  # tables of the Postgres server outlive a test
        connection.execute(sa.text("DELETE FROM batches"))
        connection.execute(sa.text("DELETE FROM spend"))
        connection.execute(sa.text("DELETE FROM reservations"))
    requests = made_requests(10)
    with pytest.raises(BatchPending, match=r"10 calls in 3 batch\(es\) of made"):
        one.turn(requests)
    assert one.budget == (10 * WORST, 10 * WORST, 10)
    with pytest.raises(BatchPending):
        one.turn(requests)
    one.provider.world.passes(11)
    one.turn(requests)
    assert {key: outcome.status for key, outcome in one.filed.items()} == {request.key: ANSWERED for request in requests}
    assert {outcome.cost_usd for outcome in one.filed.values()} == {float(dollars(TRUE))}
    assert one.budget == (10 * TRUE, 0, 10)
    assert one.provider.asked == 3
    one.turn([])  # nothing is left to do
    assert one.provider.asked == 3


def flaky(request: Request, nth: int) -> Outcome | None:
    """A third of the calls goes wrong at the first submission, in all the ways there are."""
    drawn = chance(request.key)
    if nth > 1 or drawn > 0.35:
        return answer(request)
    status = ["http_500", "batch_expired", "batch_errored", "http_429"][int(drawn * 100) % 4]
    return None if drawn < 0.1 else Outcome(request.key, status, None, Usage())


@pytest.mark.parametrize("tokens", [True, False])
def test_only_what_failed_is_submitted_again(sqlite_url: str, tokens: bool):
    one = life(sqlite_url, tokens=tokens, result=flaky)
    requests = made_requests(40)
    one.live(requests)
    assert {outcome.status for outcome in one.filed.values()} == {ANSWERED}
    twice = {request.key for request in requests if flaky(request, 1) is None or flaky(request, 1).status != ANSWERED}
    assert 5 < len(twice) < 30
    assert one.provider.attempts == {request.key: 1 + (request.key in twice) for request in requests}
    assert one.budget == (40 * TRUE, 0, 40)


@pytest.mark.parametrize("tokens", [True, False])
def test_killed_at_any_step_nothing_is_lost_or_submitted_twice(tmp_path: Path, tokens: bool):
    requests = made_requests(6)
    quiet = life(f"sqlite:///{tmp_path / 'quiet.db'}", tokens=tokens, result=flaky)
    quiet.live(requests)
    steps = quiet.provider.world.steps
    assert steps > 50
    for kill_at in range(1, steps + 1, 2 if tokens else 1):
        one = life(f"sqlite:///{tmp_path / f'{kill_at}.db'}", tokens=tokens, result=flaky)
        one.provider.world.kill_at = kill_at
        one.live(requests)
        assert one.filed == quiet.filed, kill_at
        assert one.provider.attempts == quiet.provider.attempts, kill_at
        assert one.budget == quiet.budget, kill_at
        assert one.repeated <= len(requests)


@pytest.mark.parametrize("tokens", [True, False])
@pytest.mark.parametrize("how", ["lost", "accepted"])
def test_a_submission_without_an_answer_is_looked_for_before_it_is_repeated(sqlite_url: str, tokens: bool, how: str):
    one = life(sqlite_url, tokens=tokens, refuse=lambda nth: how if nth == 1 else "")
    one.live(made_requests(8))
    assert set(one.provider.attempts.values()) == {1}
    assert one.provider.asked == (3 if how == "lost" else 2)
    assert one.budget == (8 * TRUE, 0, 8)


def test_a_young_intent_waits_until_the_provider_would_list_it(sqlite_url: str):
    one = Life(sqlite_url, FakeProvider(World(), refuse=lambda nth: "lost" if nth == 1 else ""), BatchConfig(settle_seconds=60))
    for _ in range(2):
        with pytest.raises(BatchPending):
            one.turn(made_requests(2))
    assert one.provider.asked == 1
    one.provider.world.passes(2)
    with pytest.raises(BatchPending):
        one.turn(made_requests(2))
    assert one.provider.asked == 2


def test_an_intent_that_is_not_wanted_any_more_gives_its_money_back(sqlite_url: str):
    one = life(sqlite_url, refuse=lambda _: "lost")
    with pytest.raises(BatchPending):
        one.turn(made_requests(3))
    one.turn([])
    assert one.budget == (0, 0, 0)
    with Books(sqlite_url) as books, books.transaction("read") as connection:
        assert list(connection.execute(sa.select(BATCHES.c.state)).scalars()) == ["dropped"]


def test_others_batches_of_the_same_size_are_not_taken_for_ours(sqlite_url: str):
    one = life(sqlite_url, tokens=False)
    foreign = [Request(f"foreign-{i}", {}, 1, 1) for i in range(2)]
    asyncio.run(one.provider.submit(foreign, "x"))
    one.provider.world.passes(11)
    asyncio.run(one.provider.submit(foreign, "y"))
    one.provider.refuse = lambda nth: "lost" if nth == 3 else ""
    with pytest.raises(BatchPending):
        one.turn(made_requests(2))
    for _ in range(2):  # a foreign batch that runs may be ours, so the turn waits for its end
        with pytest.raises(BatchPending):
            one.turn(made_requests(2))
    assert one.provider.asked == 3
    one.live(made_requests(2))
    assert one.provider.asked == 4
    assert len(one.filed) == 2


def test_attempts_run_out(sqlite_url: str):
    one = life(sqlite_url, result=lambda request, _: None if request.key == ONE.key else answer(request))
    one.live(made_requests(3))
    assert one.provider.attempts[ONE.key] == 3
    assert one.filed[ONE.key] == Outcome(ONE.key, NO_RESULT, None, Usage())
    assert one.budget == (2 * TRUE, 0, 2)


def test_what_no_attempt_would_change_is_not_repeated(sqlite_url: str):
    one = life(sqlite_url, result=lambda request, _: Outcome(request.key, "too_long", None, Usage()))
    one.live(made_requests(3))
    assert set(one.provider.attempts.values()) == {1}


def test_an_answer_that_cannot_be_read_counts_at_its_worst_price(sqlite_url: str):
    one = life(sqlite_url, result=lambda request, _: Outcome(request.key, "bad_body", None, Usage()))
    one.live(made_requests(2))
    assert one.budget == (6 * WORST, 0, 6)


def test_a_batch_that_failed_whole_is_an_error_and_costs_nothing(sqlite_url: str):
    one = life(sqlite_url, fails=lambda nth: nth == 1)
    with pytest.raises(BatchPending):
        one.turn(made_requests(3))
    with pytest.raises(JudgeError, match="took none of the calls of batch batch-0"):
        one.turn(made_requests(3))
    one.live(made_requests(3))
    assert len(one.filed) == 3
    assert one.budget == (3 * TRUE, 0, 3)


def test_a_refused_key_stops_the_turn_and_keeps_the_intent(sqlite_url: str):
    one = life(sqlite_url)

    def refuse(_: int) -> str:
        raise Refused("ANTHROPIC_API_KEY is not accepted.")

    one.provider.refuse = refuse
    with pytest.raises(Refused):
        one.turn(made_requests(3))
    one.provider.refuse = lambda _: ""
    one.live(made_requests(3))
    assert set(one.provider.attempts.values()) == {1}


def test_the_cap_is_kept_over_batches(sqlite_url: str):
    requests = made_requests(30)
    cap = 17 * WORST + 1
    one = life(sqlite_url)
    one.max_usd = cap / 10**12
    for _ in range(40):
        try:
            one.turn(requests)
        except BatchPending:
            one.provider.world.passes(6)
        except CapReached:
            break
        assert one.budget[0] <= cap
    spent, held, calls = one.budget
    assert held == 0
    assert spent == calls * TRUE == len(one.filed) * TRUE
    assert cap - spent < WORST


def test_a_cap_in_money_needs_a_price(sqlite_url: str):
    with Books(sqlite_url) as books, pytest.raises(JudgeError, match="price of the model must be known"):
        Batcher(FakeProvider(World()), "m", Budget(books, "s", 1.0), None)


def test_two_processes_do_not_take_turns_at_once(sqlite_url: str):
    async def scene() -> None:
        with Books(sqlite_url) as one, Books(sqlite_url) as other:
            world = World()
            provider, config = FakeProvider(world), BatchConfig(settle_seconds=0)
            batcher, rival = (Batcher(provider, "m", Budget(books, "s"), PRICE, config, world.clock) for books in (one, other))
            with pytest.raises(BatchPending):
                _ = [part async for part in batcher.turn(made_requests(2))]
            world.passes(11)
            turn = batcher.turn(made_requests(2))
            assert await anext(turn)
            with pytest.raises(LedgerError, match="another process works on"):
                _ = [part async for part in rival.turn(made_requests(2))]
            await turn.aclose()
            assert [len(part) async for part in rival.turn(made_requests(2))] == [2]

    asyncio.run(scene())


def test_a_call_may_be_asked_anew_after_its_end(sqlite_url: str):
    one = life(sqlite_url)
    one.live(made_requests(2))
    one.filed.clear()  # a new epoch
    one.live(made_requests(2))
    assert one.provider.attempts[ONE.key] == 2


@pytest.mark.parametrize(
    ("batches", "age", "expected"),
    [
        ([], 99, "submit"),
        ([], 1, "wait"),
        ([listed("x", "token")], 1, "adopt"),
        ([listed("x", "token", "ended")], 99, "adopt"),
        ([listed("x", "another")], 99, "submit"),
        ([listed("known", "token")], 99, "submit"),
        ([listed("x")], 99, "wait"),
        ([listed("x", total=3)], 99, "submit"),
        ([listed("x", total=0)], 99, "wait"),  # not counted yet
        ([listed("x", status="ended")], 1, "inspect"),
        ([listed("x", status="ended"), listed("y")], 99, "inspect"),
        ([listed("x", status="failed")], 99, "submit"),
    ],
)
def test_what_a_list_of_batches_says_of_an_intent(batches: list[Batch], age: float, expected: str):
    decision = reconcile(INTENT, batches, {"known"}, timedelta(seconds=age), timedelta(seconds=10))
    assert decision.do == expected
    assert all(batch.id != "known" for batch in decision.batches)
    assert isinstance(decision, Decision)


def test_attempts_are_counted_from_the_last_final_outcome():
    assert next_attempt(None, 3) == 1
    assert next_attempt(Tried(1, "http_500"), 3) == 2
    assert next_attempt(Tried(3, "http_500"), 3) == 1
    assert next_attempt(Tried(2, ANSWERED), 3) == 1
    assert next_attempt(Tried(1, "http_400"), 3) == 1


@given(st.lists(st.integers(0, 3000), max_size=40), st.integers(1, 7))
def test_batches_are_filled_up_to_calls_and_bytes(sizes: list[int], calls: int):
    requests = [Request(f"{i:064x}", {"text": "x" * size}, 1, 1) for i, size in enumerate(sizes)]
    batches = packed(requests, BatchConfig(calls=calls, megabytes=0.005))
    assert [request for batch in batches for request in batch] == requests
    assert all(len(batch) <= calls for batch in batches)
    assert all(sum(len(str(request.body["text"])) for request in batch) <= 5000 for batch in batches)
