"""What servers other than OpenAI's really answer: bodies and headers as `benchmarks/real_server.py` met them."""

import asyncio
import logging

import pytest
from aiohttp import web

from anmi_pipeline.judging.api_errors import error_of, retry_after
from anmi_pipeline.judging.openai_client import OpenAIClient
from anmi_pipeline.judging.openai_wire import OpenAIModel
from anmi_pipeline.judging.parsing import p_first
from anmi_pipeline.judging.requests import ANSWERED, Answer, Refused, Retryable
from anmi_pipeline_tests.judging.wire_clients import call

MODEL = "models/tiny"
USAGE = {"completion_tokens": 1, "prompt_tokens": 812, "total_tokens": 813}
SERVE = {
    "id": "0facea55-5258-48b8-911d-3d946a57d682", "created": 1795191284, "model": f"{MODEL}@main", "object": "chat.completion",
    "choices": [{"finish_reason": "stop", "index": 0, "message": {"content": "A", "role": "assistant"}}], "usage": USAGE,
}  # fmt: skip
"""`transformers serve`: no log-probabilities, no refusal, though it was asked for the former."""
CALLED = {
    "id": "1_tool_call_0",
    "type": "function",
    "function": {"name": "record_preference", "arguments": '{"preference": 0.75}'},
}
TOOL = SERVE | {
    "choices": [
        {"finish_reason": "tool_calls", "index": 0, "message": {"content": "", "role": "assistant", "tool_calls": [CALLED]}}
    ]
}
LITELLM_KEY = {"error": {"message": "No connected db.", "type": "no_db_connection", "param": None, "code": "400"}}
LITELLM_MODEL = {
    "error": {
        "message": "/chat/completions: Invalid model name passed in model=nope. Call `/v1/models` "
        "to view available models for your key.",
        "type": "invalid_request_error", "param": None, "code": "400",
    }
}  # fmt: skip
LITELLM_RATE = {
    "error": {
        "message": "litellm.RateLimitError: Model rate limit exceeded. RPM limit=3, current usage=4\n\nLiteLLM: model group "
        "'limited' failed with the error above. No fallback was attempted.",
        "type": "throttling_error", "param": None, "code": "429",
    }
}  # fmt: skip


def answered(reply, form="token", key_env=None):
    """Outcome and request of one call to a server that says one thing; or the error."""

    async def run():
        app = web.Application()
        app.router.add_post("/v1/chat/completions", lambda _: asyncio.sleep(0, reply()))
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        client = OpenAIClient(OpenAIModel(model=MODEL, base_url=url, api_key_env=key_env, form=form))
        try:
            request = call(client)
            return request, [await client.send(request) for _ in range(3)]
        finally:
            await client.close()
            await runner.cleanup()

    return asyncio.run(run())


def test_an_answer_without_the_log_probabilities_asked_for_is_certain_and_said_so_once(caplog):
    with caplog.at_level(logging.WARNING):
        _, found = answered(lambda: web.json_response(SERVE))
    assert [one.status for one in found] == [ANSWERED] * 3
    assert p_first(Answer.from_stored(found[0].text)) == 1.0
    assert (found[0].usage.input, found[0].usage.output) == (812, 1)
    warnings = [record.getMessage() for record in caplog.records if "log-probabilities" in record.getMessage()]
    assert len(warnings) == 1
    assert MODEL in warnings[0]


def test_one_answer_without_log_probabilities_is_not_the_servers_way(caplog):
    tokens = {"content": [{"token": "A", "logprob": -0.1, "top_logprobs": [{"token": "A", "logprob": -0.1}]}]}
    choice = SERVE["choices"][0]
    bodies = iter([SERVE, {**SERVE, "choices": [{**choice, "logprobs": tokens}]}, SERVE])
    with caplog.at_level(logging.WARNING):
        _, found = answered(lambda: web.json_response(next(bodies)))
    assert [one.status for one in found] == [ANSWERED] * 3
    assert "log-probabilities" not in caplog.text


def test_nothing_is_said_of_log_probabilities_that_nobody_asked_for(caplog):
    _, found = answered(lambda: web.json_response(TOOL), form="tool")
    assert p_first(Answer.from_stored(found[0].text)) == 0.875
    assert not caplog.records


def test_the_id_of_a_call_comes_from_where_a_server_puts_it():
    given = {"x-litellm-call-id": "ef2c664a-9c68-4a9b-9a65-b706334e0fcf"}
    assert answered(lambda: web.json_response(SERVE, headers=given))[1][0].request_id == given["x-litellm-call-id"]
    both = given | {"request-id": "req_cefb"}
    assert answered(lambda: web.json_response(SERVE, headers=both))[1][0].request_id == "req_cefb"
    assert answered(lambda: web.json_response(SERVE))[1][0].request_id == SERVE["id"]


@pytest.mark.parametrize("usage", [{}, {"usage": None}, {"usage": {"prompt_tokens": 0, "completion_tokens": 0}}])
def test_an_answer_that_nobody_counted_costs_what_was_reserved(usage):
    body = {name: value for name, value in SERVE.items() if name != "usage"} | usage
    request, found = answered(lambda: web.json_response(body))
    assert (found[0].usage.input, found[0].usage.output) == (request.input_tokens, request.max_output_tokens)


def test_a_refusal_of_a_server_on_fastapi_says_why():
    pinned = {"detail": "Server is pinned to 'models/tiny'; requested 'nope'."}
    with pytest.raises(Refused, match=r"\(400\): Server is pinned to 'models/tiny'; requested 'nope'\. Correct"):
        answered(lambda: web.json_response(pinned, status=400))
    with pytest.raises(Refused, match=r"\(422\): Unexpected fields in the request: \{'guided_choice'\}\. Correct"):
        answered(lambda: web.json_response({"detail": "Unexpected fields in the request: {'guided_choice'}"}, status=422))


def test_a_refused_body_is_named_by_its_fields_never_by_what_was_sent():
    wrong = [
        {"type": "missing", "loc": ["body", "messages"], "msg": "Field required", "input": {"secret": "text of a document"}},
        {"type": "int", "loc": ["body", "seed"], "msg": "Input should be a valid integer", "input": "text of a document"},
        "text of a document",
    ]
    assert error_of({"detail": wrong}) == ("", "body.messages: Field required; body.seed: Input should be a valid integer")


def test_the_proxys_word_for_a_wrong_key_names_the_variable(monkeypatch):
    monkeypatch.setenv("PROXY_KEY", "sk-wrong-key-0123456789")
    with pytest.raises(Refused, match=r"the key in PROXY_KEY was refused .* \(401\)\. Set it to a valid key"):
        answered(lambda: web.json_response(LITELLM_KEY, status=400), key_env="PROXY_KEY")


def test_the_proxys_word_for_an_unknown_model_is_quoted():
    with pytest.raises(Refused, match=r"\(400\): /chat/completions: Invalid model name passed in model=nope\. Call"):
        answered(lambda: web.json_response(LITELLM_MODEL, status=400))


def test_a_long_message_ends_with_a_mark():
    with pytest.raises(Refused) as caught:
        answered(lambda: web.json_response({"detail": "word" * 100}, status=422))
    assert "word…" in str(caught.value)
    assert len(str(caught.value)) < 400


def test_the_proxy_passes_on_when_to_come_back_under_a_name_of_its_own():
    headers = {"llm_provider-retry-after": "60", "x-litellm-call-id": "51d00018"}
    with pytest.raises(Retryable) as caught:
        answered(lambda: web.json_response(LITELLM_RATE, status=429, headers=headers))
    assert (caught.value.kind, caught.value.retry_after) == ("http_429", 60.0)
    assert retry_after({"llm_provider-retry-after": "0.05", "retry-after": "2"}) == 2.0


def test_a_plain_text_500_is_tried_again():
    with pytest.raises(Retryable) as caught:
        answered(lambda: web.Response(text="Internal Server Error", status=500))
    assert caught.value.kind == "http_500"
