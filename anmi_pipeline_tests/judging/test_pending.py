"""Whether it is time to run again: asked of the providers over the wire, and of nobody when nothing is open."""

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from anmi_pipeline.judging.budget import Budget
from anmi_pipeline.judging.intents import IntentBook
from anmi_pipeline.judging.judge_configs import AnthropicJudge, OpenAIJudge
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.pending import OpenBatch, Waiting, open_batches, waiting
from anmi_pipeline_tests.judging.wire_answers import WireSettings
from anmi_pipeline_tests.judging.wire_clients import PLANTED, PROVIDERS, VARIABLE, call, client_of
from anmi_pipeline_tests.judging.wire_server import WireServer

AT = datetime(2026, 10, 5, tzinfo=UTC)
MODELS = {"openai": "gpt-4o-mini", "anthropic": "claude-haiku-4-5"}


def judge_of(provider, server):
    kind, url = (OpenAIJudge, server.openai_url) if provider == "openai" else (AnthropicJudge, server.url)
    return kind(name=provider, model=MODELS[provider], base_url=url, batch={})


def named(judge):
    return f"{judge.name}: {judge.model} at {judge.base_url} (pairwise)"


@asynccontextmanager
async def submitted(provider, count=1):
    """A server that has some batches, their judge and their ids."""
    async with WireServer(WireSettings(batch_s=3600)) as server:
        client = client_of(provider, server)
        try:
            ids = [(await client.submit([call(client, f"q{number}")], f"t{number}")).id for number in range(count)]
        finally:
            await client.close()
        yield server, judge_of(provider, server), ids


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    for provider in PROVIDERS:
        monkeypatch.setenv(VARIABLE[provider], PLANTED[provider])


@pytest.mark.parametrize("provider", PROVIDERS)
def test_batches_run_and_then_are_over(provider):
    async def body():
        async with submitted(provider, 2) as (server, judge, ids):
            batches = [OpenBatch(f"t{number}", named(judge), batch) for number, batch in enumerate(ids)]
            first = await waiting(batches, [judge])
            server.finish()
            return first, await waiting(batches, [judge])

    first, later = asyncio.run(body())
    assert (len(first.running), first.ready) == (2, False)
    assert (len(later.over), later.ready) == (2, True)
    assert later.said() == "2 over, 0 running, 0 not confirmed"


def test_a_provider_that_does_not_know_the_batch_is_told_and_nothing_is_launched():
    async def body():
        async with submitted("openai") as (_, judge, _ids):
            return await waiting([OpenBatch("t", named(judge), "batch_unknown")], [judge])

    state = asyncio.run(body())
    assert not state.ready
    assert state.said().startswith("0 over, 0 running, 0 not confirmed, batch_unknown: ")


def test_without_its_key_a_judge_is_not_asked_and_the_variable_is_named(monkeypatch):
    monkeypatch.delenv(VARIABLE["openai"])

    async def body():
        async with WireServer() as server:
            judge = judge_of("openai", server)
            return await waiting([OpenBatch("t", named(judge), "b1")], [judge])

    state = asyncio.run(body())
    assert not state.ready
    assert "OPENAI_API_KEY" in state.said()


def test_a_batch_of_a_judge_that_is_gone_is_told():
    batch = OpenBatch("t", "old: model at http://127.0.0.1:1 (pairwise)", "b1")
    state = asyncio.run(waiting([batch], []))
    assert not state.ready
    assert "no judge" in state.said()


def test_what_is_not_confirmed_wants_a_run_unless_others_are_working():
    unsure, other = OpenBatch("t", "p", None), OpenBatch("u", "p", "b")
    assert Waiting((), (), (unsure,), ()).ready
    assert not Waiting((), (other,), (unsure,), ()).ready
    assert not Waiting((), (), (), ()).ready


def test_a_state_is_named_by_its_batches():
    one, two = OpenBatch("t", "p", "b1"), OpenBatch("u", "p", "b2")
    assert Waiting((one, two), (), (), ()).name == Waiting((two, one), (), (), ()).name
    assert Waiting((one,), (), (), ()).name != Waiting((one, two), (), (), ()).name
    assert Waiting((), (), (OpenBatch("t", "p", None),), ()).name != Waiting((one,), (), (), ()).name


def test_open_batches_are_those_of_the_scopes_that_are_not_collected(sqlite_url):
    with Books(sqlite_url) as books:
        book = IntentBook(Budget(books, "small"), "p")
        written = book.write([("k1", 1)], 0, AT)
        submitted_ = book.write([("k2", 1)], 0, AT)
        done = book.write([("k3", 1)], 0, AT)
        refresh = IntentBook(Budget(books, "small:2"), "p").write([("k4", 1)], 0, AT)
        IntentBook(Budget(books, "other"), "p").write([("k5", 1)], 0, AT)
        book.accepted(submitted_, "b2", AT)
        book.accepted(done, "b3", AT)
        book.collected(done, {"k3": "ok"}, 0, 1, AT)
        found = open_batches(books, ["small", "small:2", "small"])
    assert {batch.token: batch.batch_id for batch in found} == {written.token: None, submitted_.token: "b2", refresh.token: None}
