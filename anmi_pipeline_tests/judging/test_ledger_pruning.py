import uuid
from collections.abc import Iterator

import polars as pl
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.budget import Budget, Settlement, Want
from anmi_pipeline.judging.ledger import LedgerError
from anmi_pipeline.judging.ledger_pruning import Order, prune
from anmi_pipeline.judging.ledger_tables import RESERVATIONS, Books
from anmi_pipeline_tests.judging.filled import FUTURE, PAST, answers, append, contents, key

AT = "2026-01-01T00:00:00.000000Z"
OLD, SOON = "2010-01-01T00:00:00.000000Z", "2026-06-01T00:00:00.000000Z"


@pytest.fixture
def books(ledger_url: str) -> Iterator[Books]:
    with Books(ledger_url) as opened:
        yield opened


def left(books: Books) -> set[tuple[int, str]]:
    return {(int(str(row["call_key"]), 16), str(row["epoch"])) for row in contents(books)}


def removed(books: Books, **order: object) -> set[tuple[int, str]]:
    before = left(books)
    counted = prune(books, Order(**order), at=AT)
    assert left(books) == before  # a dry run touches nothing
    assert not counted.applied
    done = prune(books, Order(**order), apply=True, at=AT)
    assert (done.verdicts, done.rows) == (counted.verdicts, counted.rows)
    gone = before - left(books)
    assert len(gone) == done.rows
    assert prune(books, Order(**order), apply=True, at=AT).rows == 0
    return gone


def test_expired_rows_go_by_date(books: Books):
    append(books, answers([1], expires_at=PAST))
    append(books, answers([2], expires_at=OLD))
    append(books, answers([3], expires_at=SOON))
    append(books, answers([4]))
    assert removed(books, expired_before=OLD) == {(1, "1")}
    # What has not expired yet stays, whatever the date.
    assert removed(books, expired_before=FUTURE) == {(2, "1")}


def test_failures_go_where_an_answer_stands(books: Books):
    append(books, answers([1, 2, 3], None), "a")
    append(books, answers([1]), "b")
    append(books, answers([2], expires_at=PAST), "b")
    assert removed(books, failures=True) == {(1, "a")}
    assert books.look_up(pl.Series([key(1)]), "a", at=AT)["status"].to_list() == ["ok"]


def test_epochs_go_but_for_the_newest_answer_of_a_call(books: Books):
    append(books, answers([1, 2, 3], 0.25), "a")
    append(books, answers([4], None), "a")
    append(books, answers([5], expires_at=PAST), "a")
    append(books, answers([1], 0.75), "b")
    append(books, answers([2], None), "b")
    append(books, answers([3], 0.75, expires_at=PAST), "b")
    # 1 has a newer answer; of 2 a failure is newer, of 3 an expired answer: theirs stay.
    assert removed(books, epochs=("a",)) == {(1, "a"), (4, "a"), (5, "a")}
    assert removed(books, epochs=("b",)) == {(2, "b"), (3, "b")}


def test_the_list_says_why_and_what_it_cost(books: Books):
    append(books, answers([1], None, cost_usd=0.5), "a", "x")
    append(books, answers([1]), "b", "x")
    append(books, answers([2, 3], expires_at=PAST), "a", "y")
    found = prune(books, Order(expired_before=AT, failures=True, epochs=("a",)), at=AT)
    assert found.verdicts == [
        {"reason": "expired", "judge": "y", "epoch": "a", "status": "ok", "rows": 2, "cost_usd": 0.5},
        {"reason": "failure with an answer", "judge": "x", "epoch": "a", "status": "timeout", "rows": 1, "cost_usd": 0.5},
    ]
    assert found.summary == "3 verdict(s) would go, 0 settled reservation(s) be folded; nothing has changed (--apply)"


ROW = st.tuples(st.integers(0, 3), st.sampled_from("abc"), st.booleans(), st.sampled_from([None, PAST, SOON]))


@settings(max_examples=60)
@given(
    rows=st.lists(ROW, max_size=16, unique_by=lambda row: row[:2]),
    expired=st.sampled_from([None, AT, FUTURE]),
    failures=st.booleans(),
    epochs=st.sets(st.sampled_from("abc")),
)
def test_what_a_look_up_of_a_new_epoch_finds_is_never_removed(rows: list, expired: str | None, failures: bool, epochs: set):
    if expired is None and not failures and not epochs:
        return
    keys = pl.Series([key(number) for number in range(4)])
    with Books("sqlite://") as books:
        for number, epoch, ok, expiry in rows:
            append(books, answers([number], 0.5 if ok else None, expires_at=expiry), epoch)
        before = books.look_up(keys, "new", at=AT)
        prune(books, Order(expired, failures, tuple(sorted(epochs))), apply=True, at=AT)
        assert books.look_up(keys, "new", at=AT).equals(before)


def test_settled_reservations_are_folded_and_caps_hold(books: Books):
    budget = Budget(books, f"made/{uuid.uuid4().hex}", max_usd=1)
    held = budget.reserve([Want("a", 9), Want("b", 8), Want("c", 7)])
    budget.settle([Settlement(held[0], 5, 1), Settlement(held[1], 6, 0)])
    before = budget.spending()
    found = prune(books, Order(settled_before=FUTURE), apply=True)
    assert {"scope": budget.scope, "rows": 2} in found.reservations
    with books.transaction("read") as connection:
        columns = [RESERVATIONS.c[name] for name in ("subject", "calls", "worst", "cost")]
        rows = connection.execute(sa.select(*columns).where(RESERVATIONS.c.scope == budget.scope).order_by("worst")).all()
    assert [tuple(row) for row in rows] == [("c", 1, 7, None), ("folded", 1, 17, 11)]
    assert budget.spending() == before
    budget.settle([Settlement(held[2], 1, 1)])
    prune(books, Order(settled_before=FUTURE), apply=True)
    with books.transaction("read") as connection:
        again = connection.execute(sa.select(*columns).where(RESERVATIONS.c.scope == budget.scope)).all()
    assert [tuple(row) for row in again] == [("folded", 2, 24, 12)]


def test_an_order_must_name_something():
    with pytest.raises(InputError, match="nothing was named"):
        Order()


def test_a_removal_that_fails_removes_nothing(books: Books, monkeypatch: pytest.MonkeyPatch):
    from anmi_pipeline.judging import ledger_pruning

    def broken(connection: sa.Connection, _: Order) -> None:
        connection.execute(sa.text("SELECT * FROM nowhere"))

    append(books, answers([1], expires_at=PAST))
    monkeypatch.setattr(ledger_pruning, "fold", broken)
    with pytest.raises(LedgerError):
        prune(books, Order(expired_before=AT), apply=True, at=AT)
    assert books.count() == 1
