"""Running again computes nothing, edits reach only what is downstream, every flipped byte is found (small version of 2_5)."""

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reuse(load):
    return load("2_5_reuse")


@pytest.fixture(scope="module")
def built(reuse, installation):
    done = installation.anmi("run", "--dataset", reuse.DATASET)
    assert done.code == 0, done.text
    return installation


def test_again_with_an_empty_dagster_instance_computes_nothing(reuse, built, figures):
    reuse.empty_dagster(figures, built)
    assert figures.checked and not figures.failed


def test_edited_verdict_reaches_only_what_is_downstream_and_history_stays(reuse, built, made, figures):
    reuse.edit_verdict(figures, built, made)
    assert figures.checked and not figures.failed


def test_equal_content_stops_the_chain(reuse, built, made, figures):
    reuse.equal_content(figures, built, made)
    assert figures.checked and not figures.failed


def test_edited_question_judges_and_trains_nothing(reuse, built, made, figures):
    reuse.edit_question(figures, built, made, (reuse.DATASET,))
    assert figures.checked and not figures.failed


def test_verify_names_every_flipped_file(reuse, built, figures):
    reuse.flip_bytes(figures, built, count=40, seed=1)
    assert figures.checked and not figures.failed
