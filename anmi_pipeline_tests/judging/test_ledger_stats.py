import uuid
from datetime import UTC, datetime

from anmi_pipeline.judging.budget import Budget, Settlement, Want
from anmi_pipeline.judging.intents import IntentBook
from anmi_pipeline.judging.ledger_stats import ledger_stats
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.prices import PICO
from anmi_pipeline_tests.judging.filled import PAST, answers, append, key


def test_verdicts_by_judge_epoch_and_status(ledger_url: str):
    with Books(ledger_url) as books:
        append(books, answers([1, 2], cost_usd=0.1), "1", "a")
        append(books, answers([3], expires_at=PAST), "1", "a")
        append(books, answers([4], None), "1", "a")
        append(books, answers([1]), "2", "a")
        rows = ledger_stats(books).verdicts
    shown = [(row["judge"], row["epoch"], row["status"], row["calls"], row["failures"], row["expired"]) for row in rows]
    assert shown == [("a", "1", "ok", 3, 0, 1), ("a", "1", "timeout", 1, 1, 0), ("a", "2", "ok", 1, 0, 0)]
    assert (rows[0]["input_tokens"], rows[0]["output_tokens"], rows[0]["cost_usd"]) == (90, 6, 0.45)
    assert str(rows[0]["first"]) < str(rows[0]["last"])


def test_money_and_open_batches(ledger_url: str):
    scope = f"made/{uuid.uuid4().hex}"
    with Books(ledger_url) as books:
        budget = Budget(books, scope, max_usd=100)
        held = budget.reserve([Want("x", 3 * PICO), Want("y", 2 * PICO)])
        budget.settle([Settlement(held[0], PICO, 1)])
        book = IntentBook(budget, "here/model")
        at = datetime(2026, 1, 31, tzinfo=UTC)
        first, second = (book.write([(key(n), 1), (key(n + 1), 1)], PICO, at) for n in (1, 5))
        assert first and second
        book.accepted(first, "b1", at)
        book.dropped(second, at)
        stats = ledger_stats(books)
    money = [row for row in stats.money if row["scope"] == scope]
    assert money == [{"scope": scope, "spent_usd": 1.0, "reserved_usd": 3.0, "calls": 4}]
    (batch,) = [row for row in stats.batches if row["scope"] == scope]
    assert (batch["provider"], batch["state"], batch["batches"], batch["calls"]) == ("here/model", "submitted", 1, 2)
    assert str(batch["oldest"]).startswith("2026-01-31")


def test_an_empty_ledger(sqlite_url: str):
    with Books(sqlite_url) as books:
        stats = ledger_stats(books)
    assert all(rows == [] for _, rows in stats.tables())
