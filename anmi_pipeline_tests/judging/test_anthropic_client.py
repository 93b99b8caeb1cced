"""What is peculiar to Anthropic's messages; the rest is tested beside the other client, in test_openai_client.py."""

import pytest

from anmi_pipeline.judging.anthropic_wire import AnthropicModel, answer_of, sampling, usage_of
from anmi_pipeline.judging.openai_wire import OpenAIModel
from anmi_pipeline.judging.parsing import p_first
from anmi_pipeline.judging.prompts import PromptWriter, read_prompt
from anmi_pipeline.judging.requests import ANSWERED, Answer, Usage
from anmi_pipeline_tests.judging.wire_answers import WireSettings
from anmi_pipeline_tests.judging.wire_clients import PLANTED, ask, call


@pytest.fixture(autouse=True)
def planted(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", PLANTED["anthropic"])


def test_the_tool_is_forced_and_no_temperature_is_sent():
    sent = sampling(AnthropicModel(model="m"), PromptWriter(read_prompt("pairwise"), "tool"), 2)
    assert sent["tool_choice"] == {"type": "tool", "name": "record_preference", "disable_parallel_tool_use": True}
    assert set(sent) == {"max_tokens", "tools", "tool_choice"}


def test_a_temperature_is_an_extra_field_of_the_body():
    model = AnthropicModel(model="m", temperature=0.0, extra={"top_k": 1})
    assert sampling(model, PromptWriter(read_prompt("pairwise"), "json"), 2)["extra_body"] == {"temperature": 0.0, "top_k": 1}


def test_text_before_a_tool_call_is_kept_and_the_call_decides():
    content = [{"type": "text", "text": "Document B wins."}, {"type": "tool_use", "input": {"preference": 0.5}}]
    answer = answer_of({"content": content, "stop_reason": "tool_use"})
    assert answer == Answer("Document B wins.", '{"preference": 0.5}', stop="tool_use")
    assert p_first(answer) == 0.75


@pytest.mark.parametrize("arguments", [{}, {"preference": "high"}, {"preference": 7}, "text", None, [1]])
def test_a_tool_call_without_a_grade_is_no_vote(arguments):
    answer = answer_of({"content": [{"type": "tool_use", "input": arguments}], "stop_reason": "tool_use"})
    assert p_first(answer) is None


@pytest.mark.parametrize("body", [None, {}, {"content": None}, {"content": "text"}, {"content": ["x"]}, []])
def test_what_is_no_message(body):
    assert answer_of(body) is None


def test_cached_tokens_are_part_of_the_input():
    usage = {"input_tokens": 10, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 2, "output_tokens": 3}
    assert usage_of(usage) == Usage(17, 5, 3, written=2)
    assert usage_of({"input_tokens": 1, "output_tokens": None}) == Usage(1, 0, 0)


def test_an_environment_with_other_urls_and_tokens_changes_nothing(monkeypatch):
    """Equal call keys must stand for equal calls: only the settings say where a call goes."""
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "other")

    async def body(client, _):
        return (await client.send(call(client))).status

    assert ask("anthropic", body, WireSettings(key=PLANTED["anthropic"])) == ANSWERED


def test_the_same_for_openai(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", PLANTED["openai"])
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")

    async def body(client, _):
        return (await client.send(call(client))).status

    assert ask("openai", body, WireSettings(key=PLANTED["openai"])) == ANSWERED
    assert OpenAIModel(model="m").base_url == "https://api.openai.com/v1"
