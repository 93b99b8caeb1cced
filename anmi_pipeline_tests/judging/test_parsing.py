import gzip
import json
import math
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anmi_pipeline.judging.parsing import (
    expected,
    grade,
    p_first,
    parse_listwise,
    parse_pairwise,
    parse_pointwise,
    ranking,
)
from anmi_pipeline.judging.requests import Answer

GRADES = st.floats(-1, 1, allow_nan=False).map(lambda value: round(value, 3))
TEMPLATES = (
    "{}", "Score: {}", "**Score:** {}", "The preference is {}.", '{{"preference": {}}}', '```json\n{{"preference": {}}}\n```',
    "Document A covers x, document B covers y.\nFinal answer: {}", "<think>A is better, say 0.9</think>{}", "Preference = {}",
    'Sure! Here it is: {{"Preference": "{}"}} Hope that helps.', "<answer>{}</answer>", "\\boxed{{{}}}",
)  # fmt: skip
SIDES = (
    "{}", "{}.", "**{}**", "({})", "Document {}", "document {}", "Answer: {}", "The answer is {}.", "[[{}]]",
    "My verdict is: {}!",
    "Document {} is more relevant because it names the drug.", "I think document {} is slightly better.", '{{"winner": "{}"}}',
    '{{"answer": "Document {}"}}', "<answer>{}</answer>", "Final decision: document {}", "\\boxed{{{}}}",
)  # fmt: skip
TIES = ("T", "tie", "It's a tie.", "0", "0.00", "-0.0", '{"preference": 0}', "Both documents are equally relevant.", "A = B")
NOTHING = (
    "", " ", "\n\n[] > []", "20 passages are provided.", "I'm sorry, but I can't help with that.", "I cannot say whether A",
    "A or B? Both have merits.", "A and B", "score: 7/10", "Score: 7", "2", "-1.5", "nan", '{"preference": NaN}',
    '{"preference": 1e999}',
    '{"preference": null}', '{"preference": true}', '{"preference": {}}', '{"preference": 3}',
    "Document A is not more relevant.",
    "Document A would be more relevant if it named the drug.", "Document A score: 0.9, document B score: 0.2",
    "Preference: 0.3 for B",
    "answer: A\nanswer: B", '{"preference": 1} {"preference": -1}', "<think>Document A is more relevant", "[1] > [2]",
    "0.7 or 0.8",
    "sorry, version 0.5 does not support this", '{"preference": ' + "9" * 400 + "}", "The answer is a matter of taste.",
    "Answer: Document A is not better", "80%", "score 0.9 out of 1", "{" * 5000, '{"a":' * 3000, "A bit of both", "B2",
    "[[C]]", "😊",
)  # fmt: skip


@given(GRADES, st.sampled_from(TEMPLATES))
def test_a_grade_is_read_from_json_and_prose(value, template):
    assert parse_pairwise(template.format(value)) == pytest.approx((1 + value) / 2)


@pytest.mark.parametrize("template", SIDES)
def test_a_letter_is_read_and_swapping_the_sides_swaps_the_vote(template):
    assert (parse_pairwise(template.format("A")), parse_pairwise(template.format("B"))) == (1.0, 0.0)


@pytest.mark.parametrize("text", TIES)
def test_a_stated_tie_is_one_half(text):
    assert parse_pairwise(text) == 0.5


@pytest.mark.parametrize("text", NOTHING)
def test_what_says_nothing_is_none_and_never_a_vote(text):
    assert parse_pairwise(text) is None


@given(st.text(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_vote_or_nothing(text):
    for value, top in ((parse_pairwise(text), 1), (parse_pointwise(text), 3)):
        assert value is None or 0 <= value <= top
    found = parse_listwise(text, 5)
    assert found is None or len({label for group in found for label in group}) >= 2


@given(st.text(alphabet=st.characters(exclude_characters="ABTabt0123456789", max_codepoint=0x2FF), max_size=200))
def test_a_text_without_numbers_and_names_is_no_vote(text):
    words = ("first", "second", "equal", "same", "neither", "draw", "1st", "2nd")
    assert any(word in text.lower() for word in words) or parse_pairwise(text) is None


@given(st.floats(0.02, 0.98), st.floats(0, 0.3), st.sampled_from((("A", "B", "T"), (" A", " B", " T"), ("▁A", "ĠB", "**T"))))
def test_logprobs_are_renormalised_over_the_answer_tokens(first, rest, tokens):
    mass = 1 - rest
    probabilities = (mass * 0.9 * first, mass * 0.9 * (1 - first), mass * 0.1)
    logprobs = [(token, math.log(p)) for token, p in zip(tokens, probabilities, strict=True)] + [("The", math.log(rest + 1e-9))]
    assert parse_pairwise("ignored: B", logprobs) == pytest.approx(0.9 * first + 0.05)


def test_spellings_of_one_answer_token_add_up():
    logprobs = [("A", math.log(0.3)), (" A", math.log(0.3)), ("B", math.log(0.3)), ("B", -9999.0), ("a", math.log(0.1))]
    assert parse_pairwise("", logprobs) == pytest.approx(2 / 3)


def test_logprobs_of_something_else_leave_the_text_to_decide():
    wordy = [("Document", math.log(0.9)), ("A", math.log(0.05)), ("B", math.log(0.02))]
    assert parse_pairwise("Document B is more relevant.", wordy) == 0.0
    assert parse_pairwise("I would rather not.", wordy) is None
    assert parse_pairwise("A", [("A", math.nan)]) == 1.0
    assert expected([], {"A": 1.0}) is None


def test_tool_arguments_decide_over_the_text_before_them():
    answer = Answer("Document B is better.", arguments='{"preference": 0.5}', stop="tool_use")
    assert p_first(answer) == 0.75


@pytest.mark.parametrize(
    "answer",
    [
        Answer("A", refusal="I cannot help with that."),
        Answer("A", stop="content_filter"),
        Answer("0.5", stop="refusal"),
        Answer('{"preference": 0', stop="length"),
        Answer("My score is 0", stop="max_tokens"),
        Answer("", stop="length"),
        Answer("", arguments="", stop="tool_calls"),
        Answer("", arguments="{}", stop="tool_use"),
    ],
)
def test_a_refusal_or_an_answer_cut_off_is_no_vote(answer):
    assert p_first(answer) is None


def test_one_token_at_the_limit_is_whole():
    assert p_first(Answer("A", stop="length")) == 1.0
    assert grade(Answer("2", stop="length")) == 2.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", 2), ("Grade: 3", 3), ('{"grade": 0}', 0), ("**Grade:** 1", 1), ("I would grade it as a 2.", 2),
        ("The rating is 1", 1),
        ("4", None), ("2.5", None), ("Grade: 2/3", None), ("1-2", None), ("Document 1 is off topic", None), ("", None),
        ("grade: 1, no, grade: 2", None), ('{"grade": "2"}', 2), ('{"grade": true}', None), ("Grade: 2 to 3", None),
    ],
)  # fmt: skip
def test_grades(text, value):
    assert parse_pointwise(text) == value


def test_the_grade_under_logprobs_is_its_mean():
    assert parse_pointwise("3", [("3", math.log(0.6)), ("2", math.log(0.2)), (" 0", math.log(0.2))]) == pytest.approx(2.2)


@given(st.permutations(range(1, 8)), st.integers(2, 7), st.data())
def test_rankings_are_read_in_every_usual_form(order, length, data):
    order = list(order)[:length]
    forms = {
        "signs": " > ".join(f"[{label}]" for label in order), "tight": ">".join(f"[{label}]" for label in order),
        "bare": " > ".join(map(str, order)), "json": json.dumps({"ranking": order}),
        "texts": json.dumps({"ranking": [f"[{label}]" for label in order]}),
        "preamble": "Here is the ranking:\n\n" + " > ".join(f"[{label}]" for label in order) + "\n",
        "numbered": "\n".join(f"{at}. [{label}]" for at, label in enumerate(order, 1)),
        "numbered with titles": "\n".join(f"{at}. [{label}] About cells" for at, label in enumerate(order, 1)),
        "numbered signs": " > ".join(f"{at}. [{label}]" for at, label in enumerate(order, 1)),
        "one number": "1. " + " > ".join(f"[{label}]" for label in order),
        "arrows": " → ".join(f"[{label}]" for label in order),
    }  # fmt: skip
    name = data.draw(st.sampled_from(sorted(forms)))
    assert parse_listwise(forms[name], 7) == tuple((label,) for label in order), name


@pytest.mark.parametrize(
    "text",
    [
        "[1] > [2] > [1]", "[1] > [8]", "[0] > [1] > [2]", "[1]", "[1] and [2] are relevant", "[1], [2] are off topic",
        '{"ranking": [1, 1, 2]}', '{"ranking": [0, 1]}', '{"ranking": []}', '{"ranking": [1]}', '{"ranking": [[1, [2]], 3]}',
        '{"ranking": [1.5, 2]}', '{"ranking": [[], 1, 2]}', "1. [1] > [2] 2. [1] > [3]", "[1] > [2], while [3] is off topic",
        "[] > []",
    ],
)  # fmt: skip
def test_what_is_no_ranking(text):
    assert parse_listwise(text, 7) is None


def test_ties_in_rankings():
    assert parse_listwise("[3] > [1] = [2]", 3) == ((3,), (1, 2))
    assert parse_listwise('{"ranking": [[3, 1], 2]}', 3) == ((3, 1), (2,))


def test_a_ranking_cut_off_loses_its_last_number():
    assert ranking(Answer("12 > 3 > 1", stop="length"), 15) == ((12,), (3,))
    assert ranking(Answer("[12] > [3] > [1", stop="length"), 15) == ((12,), (3,))


@pytest.fixture(scope="module")
def real_answers(data_root):
    with gzip.open(data_root / "llm-raw" / "listwise.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in lines]


def numbers_of(record):
    return [int(number) for number in re.findall(r"\[(\d+)\]", record["response"])]


def structure(record):
    """What an answer of the file is, by its bracketed numbers alone: an oracle that knows nothing of the parser."""
    numbers = numbers_of(record)
    if not numbers:
        return "no numbers"
    if len(set(numbers)) < len(numbers):
        return "repeats"
    return "ok" if len(numbers) == record["n"] else "missing"


def test_the_real_answers_are_those_of_the_source(real_answers):
    by_model = Counter((record["model"], structure(record)) for record in real_answers)
    assert by_model == {
        ("vicuna-7b-v1.5", "ok"): 365, ("vicuna-7b-v1.5", "missing"): 16, ("vicuna-7b-v1.5", "no numbers"): 3,
        ("vicuna-7b-v1.5", "repeats"): 3, ("vicuna-13b-v1.5", "no numbers"): 384, ("vicuna-13b-v1.5", "missing"): 3,
        ("rank_vicuna_7b", "ok"): 387,
    }  # fmt: skip


def test_every_well_formed_real_answer_parses_to_its_numbers_in_order(real_answers):
    for record in real_answers:
        found = parse_listwise(record["response"], record["n"])
        if structure(record) == "ok":
            assert found == tuple((number,) for number in numbers_of(record))
        elif structure(record) in ("no numbers", "repeats"):
            assert found is None


def test_769_of_the_1161_real_answers_parse(real_answers):
    found = Counter((structure(record), parse_listwise(record["response"], record["n"]) is not None) for record in real_answers)
    # 752 whole rankings and 17 that leave documents out; 387 without a number, 3 that contradict themselves, 2 that only quote a
    # label in front of prose.
    assert found == {
        ("ok", True): 752, ("missing", True): 17, ("missing", False): 2, ("no numbers", False): 387, ("repeats", False): 3,
    }  # fmt: skip


HAND_CHECKED = {  # place in the file: labels as a person reads them, None where there is no ranking
    "missing": [7, 7, 7, 7, 8, 9, 14, 18, 14, 10, 12, 7, 7, 19, 9, 7],
    "rest": [2, None, None],
}


def test_a_hand_checked_sample_of_thirty(real_answers):
    """Read by a person: the 19 that leave documents out, the 3 that repeat, 3 empty ones, and 5 whole ones at fixed places."""
    missing = [record for record in real_answers if structure(record) == "missing"]
    lengths = {
        model: [
            len(parsed) if (parsed := parse_listwise(record["response"], 20)) else None
            for record in missing
            if record["model"] == model
        ]
        for model in ("vicuna-7b-v1.5", "vicuna-13b-v1.5")
    }
    assert sorted(lengths["vicuna-7b-v1.5"]) == sorted(HAND_CHECKED["missing"])
    assert sorted(lengths["vicuna-13b-v1.5"], key=str) == sorted(HAND_CHECKED["rest"], key=str)
    for record in missing:
        parsed = parse_listwise(record["response"], 20)
        assert parsed is None or [group[0] for group in parsed] == numbers_of(record)
    odd = [
        record
        for record in real_answers
        if structure(record) in ("repeats", "no numbers") and record["model"] == "vicuna-7b-v1.5"
    ]
    assert len(odd) == 6
    assert all(parse_listwise(record["response"], 20) is None for record in odd)
    whole = [record for record in real_answers if record["model"] == "rank_vicuna_7b"]
    for at, first, last in ((0, 12, 15), (1, 11, 20), (2, 5, 2), (100, 11, 20), (386, 11, 20)):
        parsed = parse_listwise(whole[at]["response"], 20)
        assert (parsed[0], parsed[-1], len(parsed)) == ((first,), (last,), 20)


def test_no_real_answer_to_another_question_is_a_pairwise_vote_or_a_grade(real_answers):
    assert [record["response"] for record in real_answers if parse_pairwise(record["response"]) is not None] == []
    assert [record["response"] for record in real_answers if parse_pointwise(record["response"]) is not None] == []


@pytest.mark.parametrize(
    "answer",
    [
        Answer("A", logprobs=(("A", -0.25), ("B", -1.5)), stop="stop"),
        Answer("", arguments='{"preference": 0.5}', stop="tool_use"),
        Answer("caf\u00e9 \u2028 \ud800", stop="length"),
        Answer("No.", refusal="No."),
    ],
)
def test_a_stored_answer_is_read_back_whole(answer):
    assert Answer.from_stored(answer.stored()) == answer


def test_a_stored_text_of_another_kind_is_an_answer_of_that_text():
    for text in ("A", "[1]", '{"preference": 0.5}', "{", '{"text": 3}', "[" * 100_000):
        assert Answer.from_stored(text) == Answer(text)
