"""The loopback server does what tests of load and crashes take for granted."""

import asyncio
import json
from collections import Counter

import openai
import pytest

from anmi_pipeline.judging.requests import Retryable
from anmi_pipeline_tests.judging.wire_answers import (
    Asked,
    WireSettings,
    digest_of,
    fault_of,
    hidden_tokens,
)
from anmi_pipeline_tests.judging.wire_clients import PLANTED, VARIABLE, ask, call
from anmi_pipeline_tests.judging.wire_server import TokenBucket, WireServer, serving, spawned

DIGESTS = [digest_of({"n": number}) for number in range(20_000)]


@pytest.fixture(autouse=True)
def planted(monkeypatch):
    for provider, name in VARIABLE.items():
        monkeypatch.setenv(name, PLANTED[provider])


def test_faults_come_at_their_rates_and_are_functions_of_content_and_attempt():
    settings = WireSettings(faults={"429": 0.02, "500": 0.01, "timeout": 0.01, "garbage": 0.01})
    drawn = [fault_of(settings, digest, 1) for digest in DIGESTS]
    counts = Counter(drawn)
    for kind, share in settings.faults.items():
        assert counts[kind] / len(DIGESTS) == pytest.approx(share, rel=0.25)
    assert drawn == [fault_of(settings, digest, 1) for digest in DIGESTS]
    assert drawn != [fault_of(WireSettings(faults=settings.faults, seed=1), digest, 1) for digest in DIGESTS]


def test_garbage_is_the_fate_of_a_content_whatever_the_attempt():
    settings = WireSettings(faults={"500": 0.3, "garbage": 0.2})
    for digest in DIGESTS[:500]:
        final = {fault_of(settings, digest, attempt) for attempt in range(1, 30)} - {"500"}
        assert len(final) == 1


def test_unknown_faults_and_settings_are_refused():
    with pytest.raises(ValueError, match="unknown faults"):
        WireSettings(faults={"418": 1})
    with pytest.raises(ValueError, match="unknown settings"):
        WireSettings.from_json('{"latency": 1}')


def test_output_lengths_have_a_long_tail():
    asked = [Asked(digest, "pairwise", "json", "", (), 1, 1) for digest in DIGESTS[:5000]]
    lengths = sorted(hidden_tokens(one, WireSettings(output_median=100, output_sigma=1.0)) for one in asked)
    assert lengths[2500] == pytest.approx(100, rel=0.1)
    assert lengths[4950] / lengths[2500] == pytest.approx(10.2, rel=0.3)  # exp(2.33) at the 99th percentile
    assert hidden_tokens(asked[0], WireSettings()) == 0


def test_the_bucket_gives_its_rate_and_no_more():
    now = [0.0]
    bucket = TokenBucket(10, 5, lambda: now[0])
    given = 0
    for step in range(1000):
        now[0] = step / 100
        given += bucket.take(1) == 0
    assert given == pytest.approx(5 + 10 * 9.99, abs=1)
    assert bucket.take(5) == pytest.approx((5 - bucket._level) / 10)


def test_refusals_that_count_keep_the_bucket_empty():
    now = [0.0]
    bucket = TokenBucket(10, 5, lambda: now[0])
    answered = 0
    for step in range(1000):
        now[0] = step / 100
        answered += bucket.take(1, forced=True) == 0
    assert answered < 20


def test_refusals_are_counted_and_say_when_to_come_back():
    async def body(client, server):
        waits = []
        for number in range(10):
            try:
                await client.send(call(client, f"q{number}"))
            except Retryable as error:
                waits.append(error.retry_after)
        return waits, server.stats

    waits, stats = ask("openai", body, WireSettings(requests_per_s=0.01, burst=4))
    assert (stats.received, stats.answered, stats.refused) == (10, 4, 6)
    assert all(90 < wait <= 100 for wait in waits)
    waits, stats = ask("openai", body, WireSettings(tokens_per_min=1000))
    assert stats.refused == 10 - stats.answered > 0
    waits, _ = ask("openai", body, WireSettings(requests_per_s=0.01, burst=1, retry_after=False))
    assert waits == [None] * 9


def test_what_is_paid_twice_is_counted():
    async def body(client, server):
        for query in ("a", "b", "a", "a"):
            await client.send(call(client, query))
        return server.stats

    stats = ask("anthropic", body)
    assert (stats.answered, stats.paid_twice, len(stats.paid)) == (4, 2, 2)


def test_answers_do_not_depend_on_attempt_order_or_server():
    async def body(client, _):
        return {query: (await client.send(call(client, query))).text for query in "abc"}

    async def backwards(client, _):
        return {query: (await client.send(call(client, query))).text for query in "ccbaa"}

    assert ask("openai", body) == ask("openai", backwards)


def test_the_truth_and_the_bias_are_the_tests_own():
    async def body(client, _):
        return json.loads((await client.send(call(client, documents=("same", "same")))).text)["text"]

    assert ask("openai", body, WireSettings(position_bias=3.0)) == "A"
    assert ask("openai", body, WireSettings(position_bias=-3.0)) == "B"
    told = ask("openai", body, truth=lambda query, document: len(query + document), form="json")
    assert json.loads(told) == {"preference": 0.0}


def test_the_sdk_reads_every_answer_as_the_real_thing():
    """Typed, by the SDK's own models, which the clients do not use."""

    async def run():
        async with WireServer() as server:
            sdk = openai.AsyncOpenAI(api_key="k", base_url=server.openai_url, max_retries=0)
            answer = await sdk.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "hello"}], logprobs=True, top_logprobs=2
            )
            with pytest.raises(openai.BadRequestError):
                await sdk.chat.completions.create(model="m", messages=[])
            await sdk.close()
            return answer

    answer = asyncio.run(run())
    assert answer.object == "chat.completion"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_server_in_a_thread_and_one_in_a_process():
    async def one(client):
        return (await client.send(call(client))).text

    async def body(server):
        from anmi_pipeline_tests.judging.wire_clients import client_of

        client = client_of("openai", server)
        text = await one(client)
        await client.close()
        return text

    with serving() as server:
        inside = asyncio.run(body(server))
        assert server.stats.answered == 1
    with spawned(WireSettings(requests_per_s=1000.0)) as other:
        assert asyncio.run(body(other)) == inside
        report = other.report()
        assert (report["answered"], report["paid_twice"], report["batches"]) == (1, 0, [])
        other.change(WireSettings(faults={"500": 1.0}))
        with pytest.raises(Retryable):
            asyncio.run(body(other))
        other.finish()
        assert other.report()["faults"] == {"500": 1}
