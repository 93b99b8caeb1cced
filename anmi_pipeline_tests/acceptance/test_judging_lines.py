"""Small versions of the acceptance scripts about judges: wire formats, failures, reuse, secrets."""

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wire(load):
    return load("4_1_wire")


@pytest.fixture
def keys(wire, monkeypatch):
    for name, key in wire.KEYS.items():
        monkeypatch.setenv(name, key)


def test_every_form_of_answer_of_one_provider(wire, keys, figures):
    wire.formats(figures, ("anthropic",))
    assert figures.checked and not figures.failed


@pytest.mark.parametrize("fault", ["400", "402", "413", "429", "broken", "garbage"])
def test_what_becomes_of_a_fault(wire, keys, figures, fault):
    wire.failures(figures, faults=(fault,))
    assert figures.checked and not figures.failed


def test_batches(wire, keys, figures):
    wire.batches(figures)
    assert figures.checked and not figures.failed


def test_the_sdks_are_as_published(wire, keys, figures):
    for provider in wire.PROVIDERS:
        wire.run(wire.Case(provider))
    wire.unpatched(figures)
    assert figures.checked and not figures.failed


def test_a_patched_sdk_is_noticed(load, monkeypatch):
    import openai

    sdks = load("sdks")
    monkeypatch.setattr(openai.AsyncOpenAI, "close", lambda self: None)
    changed, compared = sdks.patched(["openai", "openai._client"])
    assert changed and compared > len(changed)


def test_ratings_of_survivors_and_flagged_queries(load, figures, tmp_path):
    load("4_5_failures").fails(figures, tmp_path, "cycles, prior zero", 14, 12, 0)
    assert figures.checked and not figures.failed


def test_a_judge_that_mostly_fails_stops_the_run(load, figures, tmp_path):
    load("4_5_failures").most_fail(figures, tmp_path, 6, 6, 0)
    assert figures.checked and not figures.failed


def test_one_more_query_another_parser_another_judge(load, figures, tmp_path):
    load("4_6_reuse").reuse(figures, tmp_path, 6, 8)
    assert figures.checked and not figures.failed


@pytest.mark.parametrize("name", ["a refused request", "a ledger that cannot be written"])
def test_nothing_leaks(load, figures, tmp_path, name):
    script = load("4_9_secrets")
    script.secrets(figures, tmp_path, [case for case in script.CASES if case.name == name], queries=6)
    assert figures.checked and not figures.failed
