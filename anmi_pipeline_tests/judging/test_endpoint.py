"""What errors mean and where keys may not appear, for both providers, against the loopback server."""

import asyncio
import logging
import re
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from anmi_pipeline.judging import endpoint
from anmi_pipeline.judging.api_errors import Place, retry_after
from anmi_pipeline.judging.endpoint import call_settings, quiet_libraries
from anmi_pipeline.judging.openai_wire import OpenAIModel, sampling
from anmi_pipeline.judging.parsing import p_first
from anmi_pipeline.judging.prompts import PromptWriter, read_prompt
from anmi_pipeline.judging.requests import ANSWERED, DECLINED, TOO_LONG, Answer, Refused, Retryable, Usage
from anmi_pipeline_tests.judging.wire_answers import WireSettings
from anmi_pipeline_tests.judging.wire_clients import PLANTED, PROVIDERS, VARIABLE, ask, call, client_of
from anmi_pipeline_tests.judging.wire_server import WireServer

FORMS = [("openai", "token"), ("openai", "json"), ("openai", "tool"), ("anthropic", "json"), ("anthropic", "tool")]


@pytest.fixture(autouse=True)
def planted(monkeypatch):
    for provider in PROVIDERS:
        monkeypatch.setenv(VARIABLE[provider], PLANTED[provider])


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("kind", "status"), [("429", 429), ("500", 500), ("529", 529)])
def test_a_fault_is_retryable_and_not_retried_here(provider, kind, status):
    async def body(client, server):
        with pytest.raises(Retryable) as caught:
            await client.send(call(client))
        return caught.value, server.stats.received

    error, received = ask(provider, body, WireSettings(faults={kind: 1.0}))
    assert (error.status, error.retry_after, error.kind, received) == (status, 0.05, f"http_{status}", 1)
    assert error.retryable


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("kind", "named"), [("timeout", "timeout"), ("disconnect", "connection"), ("broken", "bad_body")])
def test_no_response_or_half_of_one_is_retryable(provider, kind, named):
    async def body(client, _):
        with pytest.raises(Retryable) as caught:
            await client.send(call(client))
        return caught.value

    error = ask(provider, body, WireSettings(faults={kind: 1.0}), timeout_s=0.2)
    assert (error.kind, error.status, error.retry_after) == (named, None, None)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_server_that_is_not_there_is_retryable(provider):
    class Absent:
        url = "http://127.0.0.1:9"
        openai_url = "http://127.0.0.1:9/v1"

    async def run():
        client = client_of(provider, Absent)
        with pytest.raises(Retryable, match="unreachable"):
            await client.send(call(client))
        await client.close()

    asyncio.run(run())


@pytest.mark.parametrize("provider", PROVIDERS)
def test_garbage_is_an_answer_that_says_nothing(provider):
    async def body(client, _):
        return [await client.send(call(client, f"query {number}")) for number in range(10)]

    for one in ask(provider, body, WireSettings(faults={"garbage": 1.0})):
        assert one.status == ANSWERED
        assert p_first(Answer.from_stored(one.text)) is None


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_prompt_too_long_is_a_failure_of_that_call_only(provider):
    async def body(client, _):
        return [await client.send(call(client, "q", ("word " * length, "b"))) for length in (900, 1)]

    long, short = ask(provider, body, WireSettings(context_tokens=900))
    assert (long.status, long.text, long.usage) == (TOO_LONG, None, Usage())
    assert short.status == ANSWERED


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (WireSettings(key="another"), "the key in {variable} was refused"),
        (WireSettings(models=("other",)), r'model "{model}" at http://127.*does not exist \(404\)'),
    ],
)
def test_what_no_retry_can_mend_is_one_clear_sentence(provider, settings, message):
    async def body(client, server):
        with pytest.raises(Refused) as caught:
            await client.send(call(client))
        return caught, server.stats.received, client._settings.model

    caught, received, model = ask(provider, body, settings)
    assert caught.match(message.format(variable=VARIABLE[provider], model=model))
    assert received == 1
    assert not caught.value.retryable
    # Nothing hangs on the error that could print what the provider quoted.
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_setting_that_the_model_refuses_is_quoted(provider):
    model = {"openai": "o3-mini", "anthropic": "claude-opus-4-7"}[provider]

    async def body(client, _):
        with pytest.raises(Refused, match=f'model "{model}".*refused the request .400.: Unsupported parameter: .temperature'):
            await client.send(call(client))

    ask(provider, body, model=model, temperature=0.5)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("value", [None, "", "  \n"])
def test_a_missing_key_names_its_variable(provider, value, monkeypatch):
    monkeypatch.delenv(VARIABLE[provider])
    if value is not None:
        monkeypatch.setenv(VARIABLE[provider], value)
    with pytest.raises(Refused, match=f"{VARIABLE[provider]} is not set; model .* needs the key"):
        client_of(provider, WireServer())


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_key_from_another_variable_and_none_at_all(provider, monkeypatch):
    monkeypatch.delenv(VARIABLE[provider])
    monkeypatch.setenv("OWN_KEY", " the-key \n")

    async def body(client, _):
        return (await client.send(call(client))).status

    assert ask(provider, body, WireSettings(key="the-key"), api_key_env="OWN_KEY") == ANSWERED
    assert ask(provider, body, WireSettings(key="none"), api_key_env=None) == ANSWERED
    monkeypatch.setenv("OWN_KEY", "kéy\u2028PLANTED")
    with pytest.raises(Refused, match="OWN_KEY holds characters") as caught:
        client_of(provider, WireServer(), api_key_env="OWN_KEY")
    assert "PLANTED" not in str(caught.value)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_planted_key_and_texts_are_in_no_repr_log_or_error(provider, caplog):
    """Every kind of failure, logs of every library, at DEBUG for the key and at INFO for texts."""
    marked = ("SECRETQUERY about x", ("SECRETDOCUMENT one", "SECRETDOCUMENT two"))
    said = []

    async def body(client, server):
        said.extend([repr(client), str(client), repr(client._place), repr(client._settings)])
        for settings in (
            WireSettings(), WireSettings(key="another"), WireSettings(models=("m",)), WireSettings(faults={"500": 1.0}),
            WireSettings(faults={"broken": 1.0}), WireSettings(context_tokens=1), WireSettings(faults={"disconnect": 1.0}),
        ):  # fmt: skip
            server.change(settings)
            try:
                said.append(repr(await client.send(call(client, *marked)))[:0])
            except (Retryable, Refused) as error:
                said.extend([str(error), repr(error), repr(error.__cause__), repr(error.__context__)])
            with pytest.raises((Retryable, Refused)) if settings.key else caplog.at_level(logging.INFO):
                await client.batches_since(datetime.now(UTC))

    with caplog.at_level(logging.INFO):
        ask(provider, body)
    assert len(said) > 20
    for place in (*said, caplog.text):
        assert "SECRET" not in place
        assert "PLANTEDKEY" not in place
    assert len(caplog.records) < 20, "a line per call"
    caplog.clear()
    for name in ("openai", "anthropic", "httpx2"):
        caplog.set_level(logging.DEBUG, logger=name)

    async def once(client, _):
        await client.send(call(client, *marked))

    ask(provider, once)
    assert "PLANTEDKEY" not in caplog.text


def test_messages_that_quote_the_key_or_a_document_are_not_repeated():
    place = Place(OpenAIModel(model="m", base_url="http://localhost/v1"), "sk-abcdef-0123456789")
    text = "The quick brown fox jumps over the lazy dog and runs away."
    for body in (
        {"error": {"message": "bad key sk-abc*****6789", "code": "x y"}},
        {"error": {"message": f"cannot parse: '{text[:40]}'"}},
        {"error": text},
    ):
        said = str(place.failure(400, {}, body, [text]))
        assert said == 'model "m" at http://localhost/v1 refused the request (400). Correct the settings of the judge.'
    assert "key" not in repr(place) and "sk-" not in repr(place)
    assert "max_tokens: at most 4096" in str(place.failure(400, {}, {"error": {"message": "max_tokens: at most 4096"}}, [text]))


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (429, {"error": {"code": "insufficient_quota", "message": "Quota exceeded"}}, "no credit left"),
        (
            400,
            {"type": "error", "error": {"type": "invalid_request_error", "message": "credit balance is too low"}},
            "no credit",
        ),
        (402, "", "no credit left"),
        (403, {}, 'may not use model "m"'),
        (422, {"error": {"code": "wrong_field", "message": ""}}, "wrong_field"),
    ],
)
def test_errors_that_end_a_run(status, body, kind):
    place = Place(OpenAIModel(model="m", base_url="http://localhost/v1"), "k" * 20)
    failure = place.failure(status, {}, body, ())
    assert isinstance(failure, Refused)
    assert re.search(kind, str(failure))


def test_errors_of_one_call():
    place = Place(OpenAIModel(model="m", base_url="http://localhost/v1"), "k" * 20)
    assert place.failure(400, {}, {"error": {"code": "content_filter", "message": "no"}}, ()) == DECLINED
    assert place.failure(413, {}, "too big", ()) == TOO_LONG
    assert place.failure(408, {}, None, ()).kind == "http_408"


def test_retry_after_in_every_form():
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert retry_after({"retry-after": "Thu, 01 Jan 2026 00:00:07 GMT"}, now) == 7
    assert retry_after({"retry-after": "Wed, 31 Dec 2025 00:00:00 GMT"}, now) == 0
    assert retry_after({"retry-after": "1.5", "retry-after-ms": "20"}) == 0.02
    assert retry_after({"retry-after": "9" * 11}) == 24 * 3600
    for text in ("", "-1", "nan", "inf", "soon", "1e9"):
        assert retry_after({"retry-after": text}) is None


@pytest.mark.parametrize("url", ["ftp://x", "localhost:8000", "", "http://user:PLANTEDKEY@host/v1", "http://"])
def test_a_wrong_base_url_is_refused_without_repeating_it(url):
    with pytest.raises(ValidationError) as caught:
        OpenAIModel(model="m", base_url=url)
    assert "PLANTEDKEY" not in str(caught.value)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("faults", "kind"), [({}, None), ({"timeout": 1.0}, "timeout"), ({"disconnect": 1.0}, "connection")])
def test_without_aiohttp_everything_is_the_same(provider, faults, kind, monkeypatch):
    monkeypatch.setattr(endpoint, "find_spec", lambda _: None)

    async def body(client, _):
        try:
            return (await client.send(call(client))).status
        except Retryable as error:
            return error.kind

    assert ask(provider, body, WireSettings(faults=faults), timeout_s=0.3) == (kind or ANSWERED)


def test_a_level_that_someone_has_set_stays():
    logger = logging.getLogger("httpcore2")
    before = logger.level
    try:
        for level in (logging.DEBUG, logging.ERROR):
            logger.setLevel(level)
            quiet_libraries()
            assert logger.level == level
        logger.setLevel(logging.NOTSET)
        quiet_libraries()
        assert logger.level == logging.WARNING
    finally:
        logger.setLevel(before)


def test_call_settings_change_with_what_is_sent_and_with_nothing_else():
    prompt = read_prompt("pairwise")

    def digest(instruction="", **changes):
        model = OpenAIModel(**{"model": "m", **changes})
        writer = PromptWriter(prompt, model.form, instruction)
        return call_settings("judge", model, writer, sampling(model, writer, 2)).digest()

    base = digest()
    for same in ({"timeout_s": 5.0}, {"api_key_env": "OTHER"}, {"token_factor": 2.0}):
        assert digest(**same) == base
    changes = (
        {"model": "n"}, {"base_url": "http://localhost/v1"}, {"temperature": 1.0}, {"form": "json"}, {"instruction": "Find it."},
        {"max_output_tokens": 9}, {"extra": {"seed": 1}}, {"top_logprobs": 5},
    )  # fmt: skip
    assert len({base, *(digest(**change) for change in changes)}) == 1 + len(changes)
