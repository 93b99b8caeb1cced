"""The client of chat completions, and what the clients of both providers have in common."""

import json
import math
from datetime import UTC, datetime, timedelta

import pytest

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.endpoint import wire_body
from anmi_pipeline.judging.openai_wire import OpenAIModel, answer_of, answer_token, sampling, usage_of
from anmi_pipeline.judging.parsing import grade, p_first, ranking
from anmi_pipeline.judging.prompts import PromptWriter, read_prompt
from anmi_pipeline.judging.requests import ANSWERED, Answer, Refused, Retryable, Usage
from anmi_pipeline_tests.judging.wire_answers import WireSettings, hashed_truth
from anmi_pipeline_tests.judging.wire_clients import PLANTED, PROVIDERS, VARIABLE, ask, call, writer_of

FORMS = [("openai", "token"), ("openai", "json"), ("openai", "tool"), ("anthropic", "json"), ("anthropic", "tool")]


@pytest.fixture(autouse=True)
def planted(monkeypatch):
    for provider in PROVIDERS:
        monkeypatch.setenv(VARIABLE[provider], PLANTED[provider])


def wanted(query, documents):
    gap = 2 * (hashed_truth(query, documents[0]) - hashed_truth(query, documents[1]))
    return 1 / (1 + math.exp(-gap))


@pytest.mark.parametrize(("provider", "form"), FORMS)
def test_a_pairwise_answer_is_the_models(provider, form):
    async def body(client, _):
        return await client.send(call(client))

    found = ask(provider, body, form=form)
    assert found.status == ANSWERED
    assert p_first(Answer.from_stored(found.text)) == pytest.approx(wanted("what is x", ("doc one", "doc two")), abs=0.02)
    assert found.request_id.startswith("req_")
    assert found.latency_ms > 0
    assert found.cost_usd == 0


@pytest.mark.parametrize(("provider", "form"), FORMS)
def test_grades_and_rankings_too(provider, form):
    documents = [f"text {number}" for number in range(5)]

    async def body(client, _):
        ranked = await client.send(call(client, "q", documents, "listwise")) if form != "token" else None
        return ranked, await client.send(call(client, "q", documents[:1], "pointwise"))

    ranked, graded = ask(provider, body, form=form)
    assert grade(Answer.from_stored(graded.text)) == pytest.approx(min(int((hashed_truth("q", "text 0") + 1) * 2), 3), abs=0.2)
    if ranked is not None:
        order = sorted(range(5), key=lambda at: -hashed_truth("q", documents[at]))
        assert ranking(Answer.from_stored(ranked.text), 5) == tuple((at + 1,) for at in order)


@pytest.mark.parametrize(("provider", "form"), FORMS)
@pytest.mark.parametrize("length", [1, 300])
def test_no_call_bills_more_than_its_request_reserves(provider, form, length):
    async def body(client, server):
        request = call(client, "what is x", ("alpha beta " * length, "gamma, delta!\n" * length))
        return request, await client.send(request), server.stats

    request, found, stats = ask(provider, body, form=form)
    assert 0 < found.usage.input <= request.input_tokens
    assert 0 < found.usage.output <= request.max_output_tokens
    assert (stats.input_tokens, stats.output_tokens) == (found.usage.input, found.usage.output)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_hidden_reasoning_is_billed_and_a_call_at_its_limit_has_no_answer(provider):
    async def body(client, _):
        return [await client.send(call(client, f"query {number}")) for number in range(30)]

    found = ask(provider, body, WireSettings(output_median=40, output_sigma=1.2), form="json", max_output_tokens=120)
    assert max(one.usage.output for one in found) == 120
    assert min(one.usage.output for one in found) < 40
    for one in found:
        assert (p_first(Answer.from_stored(one.text)) is None) == (one.usage.output == 120)


def test_what_is_sent_is_what_the_sampling_settings_say():
    bodies = []

    async def body(client, server):
        read = server.read

        async def spy(request, provider):
            found = await read(request, provider)
            bodies.append(found[0])
            return found

        server.read = spy
        await client.send(call(client))
        return client.sampling(writer_of(client), 2)

    for provider, form in FORMS:
        said = ask(provider, body, form=form, extra={"seed": 7} if provider == "openai" else {"top_k": 1}, temperature=0.0)
        sent = {name: value for name, value in bodies.pop().items() if name not in ("model", "messages", "system")}
        assert sent == wire_body(said)
        assert sent["temperature"] == 0.0


def test_output_limits_and_answer_fields_by_server():
    writer = PromptWriter(read_prompt("pairwise"), "token")
    assert sampling(OpenAIModel(model="m"), writer, 2) == {
        "max_completion_tokens": 4, "temperature": 0.0, "logprobs": True, "top_logprobs": 10,
    }  # fmt: skip
    assert "max_tokens" in sampling(OpenAIModel(model="m", base_url="http://localhost:8000/v1"), writer, 2)
    assert "temperature" not in sampling(OpenAIModel(model="o3", temperature=None), writer, 2)
    json_writer = PromptWriter(read_prompt("pairwise"), "json")
    kinds = {
        kind: sampling(OpenAIModel(model="m", structured=kind), json_writer, 2) for kind in ("json_schema", "json_object", "none")
    }
    assert kinds["json_schema"]["response_format"]["json_schema"]["strict"]
    assert kinds["json_object"]["response_format"] == {"type": "json_object"}
    assert "response_format" not in kinds["none"]


@pytest.mark.parametrize("name", ["temperature", "messages", "stream", "logprobs"])
def test_extra_fields_may_not_replace_the_judges_own(name):
    with pytest.raises(InputError, match=f'extra sets "{name}"'):
        sampling(OpenAIModel(model="m", extra={name: 1}), PromptWriter(read_prompt("pairwise"), "token"), 2)


@pytest.mark.parametrize(
    "body",
    [None, [], "text", {}, {"choices": []}, {"choices": None}, {"choices": ["x"]}, {"choices": [{"message": None}]}],
)
def test_what_is_no_completion(body):
    assert answer_of(body) is None


def test_completions_of_servers_that_leave_fields_out():
    assert answer_of({"choices": [{"message": {"content": None}}]}) == Answer("")
    assert answer_of({"choices": [{"message": {"content": "A"}, "logprobs": {"content": None}}]}) == Answer("A")
    assert usage_of(None) == Usage()
    assert usage_of({"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}) == Usage(9, 4, 2)


def test_the_answer_token_is_the_first_with_a_letter_or_digit():
    tokens = [
        {"token": token, "logprob": -0.1, "top_logprobs": [{"token": token, "logprob": -0.1}, {"token": "B", "logprob": -3.0}]}
        for token in ("\n", "**", "A", "**")
    ]
    assert answer_token({"content": tokens}) == (("A", -0.1), ("B", -3.0))
    unlisted = [{"token": "A", "logprob": -5.0, "top_logprobs": [{"token": "B", "logprob": -0.1}]}]
    assert answer_token({"content": unlisted}) == (("A", -5.0), ("B", -0.1))
    assert answer_token({"content": []}) is None


@pytest.mark.parametrize(("provider", "form"), FORMS)
def test_a_batch_is_submitted_listed_and_collected(provider, form):
    async def body(client, server):
        started = datetime.now(UTC) - timedelta(seconds=2)
        requests = [call(client, f"query {number}") for number in range(25)]
        made = await client.submit(requests, "intent-1")
        before = await client.retrieve(made.id)
        server.openai.finish()
        server.anthropic.finish()
        after = await client.retrieve(made.id)
        found = [one async for one in client.results(made.id)]
        single = await client.send(requests[3])
        return requests, made, before, after, found, single, await client.batches_since(started)

    requests, made, before, after, found, single, listed = ask(provider, body, WireSettings(batch_s=60), form=form)
    assert (made.status, before.status, after.status) == ("running", "running", "ended")
    assert made.token == ("intent-1" if provider == "openai" else None)
    assert (after.total, after.done) == (25, 25)
    assert [batch.id for batch in listed] == [made.id]
    assert sorted(one.key for one in found) == sorted(request.key for request in requests)
    # A batch and a single call of equal content have equal answers: the body is the same.
    by_key = {one.key: one for one in found}
    assert by_key[requests[3].key].text == single.text
    assert by_key[requests[3].key].usage == single.usage


@pytest.mark.parametrize("provider", PROVIDERS)
def test_lists_of_batches_are_paged_and_end_at_the_time_asked_for(provider):
    async def body(client, server):
        for number in range(7):
            await client.submit([call(client, f"query {number}")], f"t{number}")
        batches = (server.openai if provider == "openai" else server.anthropic).batches
        for number, batch in enumerate(batches):
            batch.created = 1_000_000.0 + 100 * number
        since = datetime.fromtimestamp(1_000_250, UTC)
        return (
            [batch.id for batch in batches],
            await client.batches_since(since),
            await client.batches_since(datetime(2000, 1, 1, tzinfo=UTC)),
        )

    ids, listed, none = ask(provider, body, WireSettings(page=2))
    assert [batch.id for batch in listed] == ids[:2:-1]
    assert listed[0].created_at == datetime.fromtimestamp(1_000_600, UTC)
    assert none == []


@pytest.mark.parametrize("provider", PROVIDERS)
def test_failed_and_expired_calls_of_a_batch_are_outcomes(provider):
    async def body(client, _):
        requests = [call(client, f"query {number}") for number in range(60)]
        made = await client.submit(requests, "t")
        return [one async for one in client.results(made.id)]

    found = ask(provider, body, WireSettings(faults={"500": 0.2, "garbage": 0.1}, batch_expired=0.2))
    kinds = {one.status for one in found}
    assert len(found) == 60
    assert kinds == {ANSWERED, "http_500", "batch_expired"}
    assert all((one.text is None) == (one.status != ANSWERED) for one in found)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_batch_whose_reply_is_lost_is_found_in_the_list(provider):
    async def body(client, server):
        request = call(client)
        with pytest.raises(Retryable, match="connection"):
            await client.submit([request], "intent-9")
        listed = await client.batches_since(datetime.now(UTC) - timedelta(seconds=5))
        results = [one async for one in client.results(listed[0].id)]
        return request, listed, results

    request, listed, results = ask(provider, body, WireSettings(lost_replies=1))
    assert len(listed) == 1
    assert listed[0].token == ("intent-9" if provider == "openai" else None)
    assert [one.key for one in results] == [request.key]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_batches_with_a_wrong_key_are_refused(provider):
    async def body(client, _):
        with pytest.raises(Refused, match=VARIABLE[provider]):
            await client.submit([call(client)], "t")
        with pytest.raises(Refused, match=VARIABLE[provider]):
            await client.retrieve("batch_1")

    ask(provider, body, WireSettings(key="another"))


def test_a_request_survives_json():
    """Batches write requests into files and databases."""

    async def body(client, _):
        return [call(client, "q", ("\ud800 lone", "nul \0 <|im_end|> é漢"))]

    for provider, form in FORMS:
        (request,) = ask(provider, body, form=form)
        assert json.loads(json.dumps(wire_body(request.body), ensure_ascii=False).encode()) == wire_body(request.body)
