"""Bad input gives one clear error and leaves nothing half-written (small version of 2_9)."""

import pytest

pytestmark = pytest.mark.slow

CHOSEN = (
    "duplicate document id",
    "invalid UTF-8 in the corpus",
    "a YAML typo inside a block",
    "a verdict about an absent document",
)


@pytest.fixture(scope="module")
def bad(load):
    return load("2_9_bad_input")


@pytest.mark.parametrize("name", CHOSEN)
def test_one_clear_error(bad, figures, tmp_path, name):
    bad.bad_case(figures, tmp_path, next(case for case in bad.CASES if case.name == name))
    assert figures.checked and not figures.failed


def test_full_disk(bad, figures, tmp_path):
    bad.file_limit(figures, tmp_path)
    assert figures.checked and not figures.failed


def test_corpus_of_one_document(bad, figures, tmp_path):
    bad.one_document(figures, tmp_path)
    assert figures.checked and not figures.failed


def test_query_with_one_candidate_is_named_once(bad, figures, tmp_path):
    bad.few_candidates(figures, tmp_path, "a query with one candidate", 1)
    assert figures.checked and not figures.failed
