import logging
import subprocess
import sys
import uuid
from collections.abc import Iterator
from decimal import Decimal

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.budget import Budget, CapReached, Reservation, Settlement, Want
from anmi_pipeline.judging.ledger import LedgerError
from anmi_pipeline.judging.ledger_tables import RESERVATIONS, Books
from anmi_pipeline.judging.prices import PICO


@pytest.fixture
def books(ledger_url: str) -> Iterator[Books]:
    with Books(ledger_url) as opened:
        yield opened


def scope() -> str:
    return f"made/{uuid.uuid4().hex}"  # tables of the Postgres server outlive a test


def settled(reservation: Reservation, cost: int, calls: int = 1) -> Settlement:
    return Settlement(reservation, cost, calls)


def test_the_cap_is_kept_to_the_last_unit(books: Books):
    budget = Budget(books, scope(), max_usd=Decimal("0.000000000010"))  # 10 units
    assert [one.worst for one in budget.reserve([Want("a", 4), Want("b", 6)])] == [4, 6]
    assert budget.reserve([Want("c", 1)]) == []
    assert budget.reserve([Want("free", 0)])[0].worst == 0
    assert budget.spending().usd == budget.spending().open_usd == Decimal("1e-11")


def test_wishes_are_granted_in_order_until_one_does_not_fit(books: Books):
    budget = Budget(books, scope(), max_usd=10 / PICO)
    granted = budget.reserve([Want("a", 4), Want("b", 7), Want("c", 1)])
    assert [one.worst for one in granted] == [4]  # c would fit, but the order is kept


def test_settling_gives_back_what_was_not_spent(books: Books):
    budget = Budget(books, scope(), max_usd=10 / PICO, max_calls=2)
    first = budget.reserve([Want("a", 8)])[0]
    assert budget.reserve([Want("b", 8)]) == []
    second = budget.turn([settled(first, 2)], [Want("b", 8)])[0]
    assert budget.spending().usd == 10 / Decimal(PICO)
    budget.settle([settled(second, 0, 0)])  # a refused call: its place comes back, too
    assert budget.spending() == type(budget.spending())(2 / Decimal(PICO), Decimal(0), 1)
    assert budget.reserve([Want("b", 8)])


def test_calls_are_capped_too(books: Books):
    budget = Budget(books, scope(), max_calls=3)
    assert len(budget.reserve([Want(str(i), 10**9) for i in range(5)])) == 3
    assert budget.reserve([Want("batch", 0, calls=1)]) == []


def test_a_batch_reserves_all_its_calls_at_once(books: Books):
    budget = Budget(books, scope(), max_calls=10)
    assert budget.reserve([Want("token", 5, calls=8)])[0].calls == 8
    assert budget.reserve([Want("token2", 5, calls=3)]) == []


def test_what_a_dead_process_reserved_counts_for_ever(ledger_url: str):
    name = scope()
    with Books(ledger_url) as books:
        Budget(books, name, max_usd=10 / PICO).reserve([Want("a", 7)])
    with Books(ledger_url) as books:
        budget = Budget(books, name, max_usd=10 / PICO)
        assert budget.reserve([Want("a", 7)]) == []
        assert budget.spending().open_usd == 7 / Decimal(PICO)
        assert Budget(books, name, max_usd=14 / PICO).reserve([Want("a", 7)])  # a person may raise the cap


def test_scopes_do_not_touch_each_other(books: Books):
    one, other = Budget(books, scope(), max_calls=1), Budget(books, scope(), max_calls=1)
    assert one.reserve([Want("a", 1)])
    assert other.reserve([Want("a", 1)])


def test_without_a_cap_the_spend_is_still_on_record(books: Books):
    budget = Budget(books, scope())
    assert not budget.capped
    budget.settle([settled(one, 3) for one in budget.reserve([Want("a", 9), Want("b", 9)])])
    assert (budget.spending().usd, budget.spending().calls) == (6 / Decimal(PICO), 2)


def test_every_attempt_leaves_a_row(books: Books):
    budget = Budget(books, scope())
    held = budget.reserve([Want("a", 9), Want("b", 8)])
    budget.settle([settled(held[0], 5)])
    with books.transaction("read") as connection:
        columns = [RESERVATIONS.c[name] for name in ("subject", "worst", "cost", "calls")]
        rows = connection.execute(sa.select(*columns).where(RESERVATIONS.c.scope == budget.scope).order_by("subject")).all()
    assert [tuple(row) for row in rows] == [("a", 9, 5, 1), ("b", 8, None, 1)]


def test_a_call_that_cost_more_than_its_worst_is_told(books: Books, caplog: pytest.LogCaptureFixture):
    budget = Budget(books, scope(), max_usd=10 / PICO)
    with caplog.at_level(logging.WARNING):
        budget.settle([settled(budget.reserve([Want("a", 5)])[0], 12)])
    assert "counted too low" in caplog.text
    assert budget.reserve([Want("b", 0)]) == []  # nothing more leaves


def test_the_refusal_says_how_much_and_what_to_do(books: Books):
    budget = Budget(books, "scifact", max_usd=0.5, max_calls=100)
    error = budget.refusal()
    assert isinstance(error, CapReached)
    assert "cap of scifact ($0.5 or 100 calls)" in str(error)
    assert "judging.max_usd, judging.max_calls in the dataset's YAML" in str(error)
    # A refresh keeps the caps with which it was opened: the YAML would not raise them.
    refresh = Budget(books, "scifact:2026-10-05", max_calls=100).refusal()
    assert "`anmi refresh --dataset scifact --max-usd USD --max-calls CALLS`" in str(refresh)


@pytest.mark.parametrize("caps", [{"max_usd": -1}, {"max_calls": -1}, {"max_usd": 5e6}])
def test_a_cap_must_be_one(sqlite_url: str, caps: dict[str, float]):
    with Books(sqlite_url) as books, pytest.raises(InputError, match="must be 0 or more"):
        Budget(books, "s", **caps)


def test_a_transaction_that_fails_reserves_nothing(books: Books):
    budget = Budget(books, scope())
    with pytest.raises(LedgerError), books.transaction() as connection:
        assert budget.turn_in(connection, (), [Want("a", 5)])
        connection.execute(sa.text("SELECT * FROM nowhere"))
    assert budget.spending().calls == 0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.booleans()), max_size=30), st.integers(0, 20))
def test_never_above_the_cap_whatever_the_order(steps: list[tuple[int, int, bool]], cap: int):
    with Books("sqlite://") as books:
        budget = Budget(books, scope(), max_usd=cap / PICO)
        held: list[Reservation] = []
        true = 0
        for worst, cost, settle in steps:
            held.extend(budget.reserve([Want("x", worst)]))
            if settle and held:
                one = held.pop(0)
                true += min(cost, one.worst)
                budget.settle([settled(one, min(cost, one.worst))])
            at = budget.spending()
            assert at.usd * PICO == true + sum(one.worst for one in held)
            assert at.usd * PICO <= cap


def race(url: str, name: str, max_usd: str = "", max_calls: str = "") -> tuple[int, int, int]:
    command = [sys.executable, "-m", "anmi_pipeline_tests.judging.racing", url, name, max_usd, max_calls, "32", "9"]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    counts = [tuple(map(int, process.communicate(timeout=60)[0].split())) for process in both]
    assert all(process.returncode == 0 for process in both)
    calls, true, lost = (sum(column) for column in zip(*counts, strict=True))
    return calls, true, lost


def test_two_processes_of_32_workers_never_pass_the_cap_in_calls(ledger_url: str):
    name = scope()
    calls, _, lost = race(ledger_url, name, max_calls="300")
    assert calls == 300
    assert lost
    with Books(ledger_url) as books:
        assert Budget(books, name).spending().calls == 300


def test_two_processes_of_32_workers_never_pass_the_cap_in_money(ledger_url: str):
    name = scope()
    cap = 150 * 1_000_000 + 12_345
    _, true, lost = race(ledger_url, name, max_usd=repr(cap / PICO))
    assert lost
    assert cap - 1_000_000 - 7 * 40 < true <= cap  # not one call more fitted in
    with Books(ledger_url) as books:
        assert Budget(books, name).spending().usd * PICO == true


def test_a_lock_is_held_by_one(ledger_url: str):
    with Books(ledger_url) as one, Books(ledger_url) as other:
        with one.exclusive("batches of made"):
            with pytest.raises(LedgerError, match='works on "batches of made"'), other.exclusive("batches of made"):
                pass
            with other.exclusive("batches of another"):
                pass
        with other.exclusive("batches of made"):
            pass
