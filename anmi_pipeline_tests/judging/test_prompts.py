import json

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.fencing import fenced_texts
from anmi_pipeline.judging.prompts import PromptLimits, PromptWriter, document_text, labels_of, read_prompt
from anmi_pipeline.judging.ranking import comparisons, dependence
from anmi_pipeline.judging.tokens import default_counter
from anmi_pipeline_tests.judging.wire_answers import TAG, billed

KINDS = ("pairwise", "listwise", "pointwise")
FORMS = {"pairwise": ("token", "json", "tool"), "listwise": ("json", "tool"), "pointwise": ("token", "json", "tool")}
SHOWN = {"pairwise": 2, "listwise": 5, "pointwise": 1}
ALL = [(kind, form) for kind in KINDS for form in FORMS[kind]]


def texts_in(messages):
    tag = TAG.search(messages.user)[1]
    assert tag in messages.user.splitlines()[0]
    return fenced_texts(messages.user, tag)


@pytest.mark.parametrize(("kind", "form"), ALL)
def test_every_text_is_fenced_and_every_place_filled(kind, form):
    documents = [f"text {number}" for number in range(SHOWN[kind])]
    messages = PromptWriter(read_prompt(kind), form, "Find the evidence.").write("the query", documents)
    labels = labels_of(kind, len(documents))
    assert texts_in(messages) == {"query": "the query", **dict(zip(labels, documents, strict=True))}
    assert "Find the evidence." in messages.system
    assert "{" not in (messages.system + messages.user).replace('{"', "")


@pytest.mark.parametrize("text", ["{answer}", "{query} {tag} {documents}", "{0}", "%s", "$query", "\\1", "{instruction}"])
def test_a_document_that_looks_like_a_template_is_text(text):
    messages = PromptWriter(read_prompt("pairwise"), "token").write("q", [text, "other"])
    assert texts_in(messages)["document A"] == text


def test_the_system_message_is_equal_for_all_calls():
    writer = PromptWriter(read_prompt("pairwise"), "token", "x")
    assert writer.write("q", ["a", "b"]).system == writer.write("r", ["c", "d"]).system


def test_equal_calls_are_written_equally_and_orders_are_not():
    first, second = (PromptWriter(read_prompt("pairwise"), "token") for _ in range(2))
    assert first.write("q", ["a", "b"]) == second.write("q", ["a", "b"])
    assert first.write("q", ["a", "b"]) != first.write("q", ["b", "a"])


@given(st.text(max_size=300), st.text(max_size=300), st.sampled_from(ALL))
@settings(max_examples=150, deadline=None)
def test_counted_tokens_are_at_least_the_billed_ones_and_close(query, document, kind_form):
    kind, form = kind_form
    messages = PromptWriter(read_prompt(kind), form, "An instruction.").write(query, [document] * SHOWN[kind])
    paid = billed(messages.system) + billed(messages.user)
    assert paid <= messages.tokens


def test_counted_tokens_of_prose_are_within_five_percent():
    prose = "Deep learning is a class of machine learning algorithms that uses multiple layers. " * 20
    messages = PromptWriter(read_prompt("pairwise"), "token").write("what is deep learning", [prose, prose])
    assert messages.tokens == pytest.approx(billed(messages.system) + billed(messages.user), rel=0.05)


def test_long_documents_and_queries_are_cut_in_the_middle():
    limits = PromptLimits(document_tokens=64, query_tokens=40)
    writer = PromptWriter(read_prompt("pairwise"), "token", limits=limits)
    shown = texts_in(writer.write("query word " * 200, ["first " + "word " * 500 + "last", "short"]))
    assert shown["document A"].startswith("first ")
    assert shown["document A"].endswith("last")
    assert "tokens left out" in shown["document A"]
    assert writer.counter.count(shown["document A"]) <= 64
    assert writer.counter.count(shown["query"]) <= 40
    assert shown["document B"] == "short"


def test_the_identity_holds_everything_that_decides_what_is_sent(tmp_path):
    shipped = read_prompt("pairwise")
    base = PromptWriter(shipped, "token")
    changed = {
        "form": PromptWriter(shipped, "json"),
        "instruction": PromptWriter(shipped, "token", "Find it."),
        "limits": PromptWriter(shipped, "token", limits=PromptLimits(document_tokens=99)),
        "system": PromptWriter(shipped.model_copy(update={"system": shipped.system + "!"}), "token"),
        "answer": PromptWriter(shipped.model_copy(update={"answer": {"token": "A or B?"}}), "token"),
    }
    identities = {writer.identity() for writer in (base, *changed.values())}
    assert len(identities) == 1 + len(changed)
    assert base.identity() == PromptWriter(read_prompt("pairwise"), "token").identity()
    # Another schema matters only to forms that send it.
    other = shipped.model_copy(update={"schema_": {"type": "object"}})
    assert PromptWriter(other, "token").identity() == base.identity()
    assert PromptWriter(other, "tool").identity() != PromptWriter(shipped, "tool").identity()
    assert base.version == "pairwise/1"


@pytest.mark.parametrize("kind", KINDS)
def test_the_schemas_are_strict(kind):
    schema = read_prompt(kind).schema_
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == set(schema["properties"])
    json.dumps(schema)


def test_a_form_that_a_prompt_lacks_is_refused():
    with pytest.raises(InputError, match=r'"listwise" asks for no answer of form "token"\. It has: json, tool'):
        PromptWriter(read_prompt("listwise"), "token")


@pytest.mark.parametrize(
    ("kind", "count"), [("pairwise", 3), ("pairwise", 1), ("listwise", 1), ("pointwise", 2), ("pointwise", 0)]
)
def test_a_wrong_number_of_documents_is_refused(kind, count):
    with pytest.raises(InputError, match=f"a {kind} prompt takes .* documents, not {count}"):
        PromptWriter(read_prompt(kind), "json").write("q", ["d"] * count)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user": "{query} {documents} {answer}"}, r"user must hold \{tag\} once"),
        ({"user": "{tag} {query} {query} {documents} {answer}"}, r"user must hold \{query\} once; it holds it 2 times"),
        ({"user": "{tag} {query} {documents} {answer} {dcuments}"}, r"holds \{dcuments\}, which stands for nothing"),
        ({"version": 0}, "version"),
        ({"colour": "red"}, "colour"),
        ({"name": "listwise"}, 'its name is "listwise"'),
        ({"answer": {}}, "answer"),
    ],
)
def test_a_wrong_prompt_file_is_refused(tmp_path, change, message):
    good = {**read_prompt("pairwise").model_dump(mode="json", by_alias=True), **change}
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "pairwise.yaml").write_text(yaml.safe_dump(good))
    with pytest.raises(InputError, match=message):
        read_prompt("pairwise", tmp_path)


def test_a_users_prompt_stands_above_the_shipped_one(tmp_path):
    own = read_prompt("pairwise").model_dump(mode="json", by_alias=True) | {"version": 7}
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "pairwise.yaml").write_text(yaml.safe_dump(own))
    assert read_prompt("pairwise", tmp_path).version == 7
    assert read_prompt("pointwise", tmp_path).version == 1
    with pytest.raises(InputError, match=r'unknown prompt "pairwize"\. Did you mean "pairwise"'):
        read_prompt("pairwize", tmp_path)


def test_title_and_text():
    assert document_text(None, "text") == document_text("", "text") == "text"


def test_a_ranking_folds_into_all_its_comparisons():
    folded = comparisons(((3,), (1, 4), (2,)))
    assert [(one.first, one.second, one.p_first) for one in folded] == [
        (3, 1, 1), (3, 4, 1), (3, 2, 1), (1, 4, 0.5), (1, 2, 1), (4, 2, 1),
    ]  # fmt: skip
    assert {one.weight for one in folded} == {3 / 5}
    assert comparisons(((2,), (1,)))[0].weight == 1


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_the_discount_makes_the_stated_variance_the_real_one(count, rng):
    """Rankings of equal documents: the variance of the scores that they are fitted to is that of discounted comparisons.

    One Newton step from equal scores: score of a document = sum over its comparisons of (w - 1/2), divided by the curvature
    d m / 4 that `calls` rankings with discount d state. Its variance over data sets must be 1 / (calls * d * m / 4) on contrasts.
    """
    calls, sets = 20, 4000
    ranks = rng.permuted(np.tile(np.arange(count), (sets * calls, 1)), axis=1).reshape(sets, calls, count)
    wins = (count - 1) - ranks  # documents below
    score = (wins - (count - 1) / 2).sum(axis=1)
    estimate = score / (calls * count / 4)
    real = estimate.var(axis=0).mean() * count / (count - 1)  # on contrasts: the scores sum to 0
    stated = 1 / (calls * dependence(count) * count / 4)
    assert real == pytest.approx(stated, rel=0.05)


@given(st.text(max_size=300))
def test_a_count_is_the_sum_of_the_pieces(text):
    counter = default_counter()
    assert counter.count(text) == sum(tokens for _, _, tokens in counter._pieces(text))
