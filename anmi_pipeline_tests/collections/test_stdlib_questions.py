"""The questions file: what is refused, what is dropped."""

import pytest

from anmi_pipeline.collections.stdlib_questions import keep_answerable, parse_questions, questions_bytes
from anmi_pipeline.errors import InputError

GOOD = "- {id: q1, split: test, text: turn a dict into text, relevant: {json.dumps: 2, json.dump: 1}}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "UTF-8"),
        (b"a: [", "YAML"),
        (b"a: 1", "must be a YAML list"),
        (b"[]", "must be a YAML list"),
        (b"- {id: q1, split: train, text: abc, relevant: {}}", "question 1 q1: split"),
        (b"- {id: q1, split: test, text: abc, relevant: {open: 3}}", "question 1 q1: relevant.open"),
        (b"- {id: q1, split: test, text: abc, relevent: {open: 2}}", 'relevent.*Did you mean "relevant"'),
        (b"- 5", "question 1"),
        ((GOOD + GOOD).encode(), 'id "q1" occurs twice'),
        ((GOOD + GOOD.replace("q1", "q2")).encode(), "text .* occurs twice"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(content, message):
    with pytest.raises(InputError, match=message) as error:
        parse_questions(content, "mine.yaml")
    assert "mine.yaml" in str(error.value)


def test_an_absent_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        questions_bytes("none.yaml", tmp_path)


def test_names_of_other_versions_are_dropped_and_questions_without_an_answer_with_them():
    questions = parse_questions(
        (GOOD + GOOD.replace("q1", "q2").replace("a dict", "one").replace("json.dumps", "gone.name")).encode(), "f"
    )
    answerable = keep_answerable(questions, {"json.dumps", "json.dump"})
    assert [question.id for question in answerable.questions] == ["q1"]
    assert answerable.absent == ["gone.name"]
    assert answerable.dropped == ["q2"]


def test_a_question_without_names_is_kept_as_unanswerable():
    questions = parse_questions(b"- {id: n1, split: test, text: bake a cake, relevant: {}}", "f")
    assert keep_answerable(questions, set()).questions == questions
