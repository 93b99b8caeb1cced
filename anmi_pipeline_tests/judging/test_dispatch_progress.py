import asyncio
import logging
from decimal import Decimal

import pytest

from anmi_pipeline.judging.budget import Budget
from anmi_pipeline.judging.dispatch import Dispatcher
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.prices import PriceList
from anmi_pipeline_tests.judging.clock import play
from anmi_pipeline_tests.judging.fake_client import FakeClient, made_requests

PRICE = PriceList.model_validate({"checked": "2026-01-01", "models": {"m": {"input": 1, "output": 4}}}).price("m", "sync")


def test_about_twenty_lines_tell_rate_spend_and_time_left(sqlite_url: str, caplog: pytest.LogCaptureFixture):
    told: list[tuple[int, int, str]] = []

    async def scene(budget: Budget) -> None:
        dispatcher = Dispatcher(FakeClient(), price=PRICE, budget=budget, progress=lambda *report: told.append(report))
        async for _ in dispatcher.parts(made_requests(5000)):
            await asyncio.sleep(0)

    with Books(sqlite_url) as books, caplog.at_level(logging.INFO):
        play(scene(Budget(books, "scifact", max_usd=Decimal("2.5"))))
    assert 15 <= len(caplog.messages) <= 22
    assert "of 5,000 calls (0 failed" in caplog.messages[3]
    assert "(cap $2.5 for scifact)" in caplog.messages[3]
    assert "s left" in caplog.messages[3]
    assert told[-1][:2] == (5000, 5000)
    assert told[-1][2].startswith("calls, $0.6")
    assert "A0001" not in caplog.text  # no answer
