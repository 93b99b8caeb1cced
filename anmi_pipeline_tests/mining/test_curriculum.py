"""Index lists: who is drawn, padding, equal epochs, hashes."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anmi_pipeline.errors import InputError
from anmi_pipeline.mining.config import ANMI_CURRICULUM, NO_CURRICULUM, CurriculumStage, MiningConfig
from anmi_pipeline.mining.curriculum import (
    PADDING,
    TrainingLists,
    compile_lists,
    curriculum_table,
    epoch_digest,
    epoch_lists,
    stage_at,
    step_rows,
    steps_per_epoch,
)
from anmi_pipeline.mining.selection import training_set
from anmi_pipeline.tables import CURRICULUM, POOL, TRAINING_SET
from anmi_pipeline_tests.mining.test_selection import elo_table, random_elo


def lists_of(seed: int = 0, n_queries: int = 9, n_documents: int = 20) -> TrainingLists:
    return compile_lists(training_set(random_elo(seed, n_queries, n_documents), POOL.frame(), MiningConfig()))


def test_compiled_lists_hold_every_judged_document_of_the_usable_queries():
    lists = lists_of()
    assert len(lists.query) == 9 * 20
    assert lists.starts.tolist() == list(range(0, 181, 20))
    assert lists.positive[lists.starts[:-1, None] + np.arange(20)].any(axis=1).all()


def test_unused_queries_are_left_out():
    table = pl.concat([random_elo(0, 2), elo_table([("tied", "a", 1500.0, 1.0), ("tied", "b", 1500.0, 1.0)])])
    assert compile_lists(training_set(table, POOL.frame(), MiningConfig())).query_ids == ("q0", "q1")


def test_no_usable_query_is_refused_with_the_reason():
    table = elo_table([("tied", "a", 1500.0, 1.0), ("tied", "b", 1500.0, 1.0)])
    with pytest.raises(InputError, match="query unused: all documents tie"):
        compile_lists(training_set(table, POOL.frame(), MiningConfig()))
    with pytest.raises(InputError, match="no training query was judged"):
        compile_lists(TRAINING_SET.frame())


@pytest.mark.parametrize(
    ("epoch", "gap", "alpha"), [(1, 300, 0.5), (2, 300, 0.5), (4, 200, 0.6), (6, 150, 0.7), (7, 100, 0.8), (40, 100, 0.8)]
)
def test_schedule_is_the_published_one(epoch: int, gap: float, alpha: float):
    assert (stage_at(ANMI_CURRICULUM, epoch).min_gap, stage_at(ANMI_CURRICULUM, epoch).alpha) == (gap, alpha)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 12), st.integers(2, 10))
def test_epochs_read_every_query_once_and_only_eligible_documents(seed: int, epoch: int, list_size: int):
    lists = lists_of(seed)
    drawn = epoch_lists(lists, list_size, ANMI_CURRICULUM, epoch, seed)
    assert sorted(drawn.query.tolist()) == list(range(len(lists.query_ids)))
    rows = {(q, d): row for row, (q, d) in enumerate(zip(lists.query.tolist(), lists.document.tolist(), strict=True))}
    for query, documents, weights in zip(drawn.query.tolist(), drawn.document.tolist(), drawn.weight.tolist(), strict=True):
        there = [d for d in documents if d != PADDING]
        assert lists.positive[rows[query, documents[0]]]
        assert len(set(there)) == len(there) >= 2
        assert all(lists.negative[rows[query, d]] for d in there[1:])
        assert all(w == 0 for d, w in zip(documents, weights, strict=True) if d == PADDING)
        at_gap = [d for d in there[1:] if lists.gap[rows[query, d]] >= drawn.stage.min_gap]
        n_at_gap = int((lists.negative & (lists.query == query) & (lists.gap >= drawn.stage.min_gap)).sum())
        assert len(at_gap) == min(n_at_gap, list_size - 1)


def test_a_query_without_a_negative_at_the_gap_takes_its_widest_gaps():
    table = elo_table([("q", f"d{i:02}", 1600.0 - 12.5 * i, 20.0) for i in range(17)])
    lists = compile_lists(training_set(table, POOL.frame(), MiningConfig()))
    drawn = epoch_lists(lists, 4, ANMI_CURRICULUM, 1, 0)
    assert drawn.n_at_gap == 0
    assert sorted(lists.doc_ids[d] for d in drawn.document[0, 1:]) == ["d14", "d15", "d16"]


def test_too_few_negatives_are_padded():
    table = elo_table([("q", "a", 1900.0, 20.0), ("q", "b", 1500.0, 20.0)])
    drawn = epoch_lists(compile_lists(training_set(table, POOL.frame(), MiningConfig())), 8, NO_CURRICULUM, 1, 0)
    assert drawn.mask.tolist() == [[True, True] + [False] * 6]
    assert drawn.label[0].tolist() == [1.0, -1.0] + [0.0] * 6


def test_same_seed_same_lists_other_seed_or_epoch_other_lists():
    lists = lists_of()
    digests = [epoch_digest(lists, epoch_lists(lists, 8, NO_CURRICULUM, e, s)) for e, s in [(1, 0), (1, 0), (2, 0), (1, 1)]]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


@given(st.integers(1, 500), st.integers(1, 70), st.integers(0, 2000))
def test_steps_cut_an_epoch_into_nearly_equal_batches(n_queries: int, batch: int, step: int):
    per_epoch = steps_per_epoch(n_queries, batch)
    epoch, _ = step_rows(n_queries, batch, step)
    parts = [step_rows(n_queries, batch, (epoch - 1) * per_epoch + i)[1] for i in range(per_epoch)]
    assert [i for part in parts for i in range(n_queries)[part]] == list(range(n_queries))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) <= batch
    assert max(sizes) - min(sizes) <= 1


def test_curriculum_table_names_every_epoch():
    lists = lists_of()
    table = curriculum_table(lists, 8, ANMI_CURRICULUM, 8, seeds=(0, 1))
    CURRICULUM.validate(table)
    assert table["min_gap"].to_list() == [300, 300, 200, 200, 150, 150, 100, 100]
    assert table["index_digest"].n_unique() == 8
    assert table.equals(curriculum_table(lists, 8, ANMI_CURRICULUM, 8, seeds=(0, 1)))
    assert not table.equals(curriculum_table(lists, 8, ANMI_CURRICULUM, 8, seeds=(1, 0)))


def test_membership_finds_judged_documents_and_positives():
    lists = lists_of(3)
    queries, documents = np.array([0, 5]), np.arange(len(lists.doc_ids))
    assert lists.membership(queries, documents, positives_only=False).all()
    found = lists.membership(queries, documents, positives_only=True)
    for row, query in enumerate(queries):
        mine = lists.document[(lists.query == query) & lists.positive]
        assert np.flatnonzero(found[row]).tolist() == mine.tolist()


def test_stages_before_the_first_one_use_it():
    late = (CurriculumStage(first_epoch=5, min_gap=10, alpha=0.5),)
    assert stage_at(late, 1) == late[0]
