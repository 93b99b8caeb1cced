"""The map: learns, keeps the seed's bytes, starts at the base, and refuses what does not fit."""

from pathlib import Path

import numpy as np
import pytest

from anmi_pipeline.errors import InputError
from anmi_pipeline.mining.config import MiningConfig
from anmi_pipeline.mining.curriculum import TrainingLists, compile_lists
from anmi_pipeline.mining.selection import training_set
from anmi_pipeline.tables import POOL
from anmi_pipeline.training.config import HybridLoss, InfoNceLoss, ListwiseKlLoss, LossConfig, MseLoss, TrainingConfig
from anmi_pipeline.training.map_retriever import MapCheckpoint, train_map

SHORT = TrainingConfig(steps=12, batch_queries=16)


def fitted(learnable, loss: LossConfig, seed: int = 0, **mining):
    elo, doc_ids, documents, query_ids, queries = learnable(noise=100.0)
    transform = "elo_400" if isinstance(loss, ListwiseKlLoss) else "z"
    lists = compile_lists(training_set(elo, POOL.frame(), MiningConfig(transform=transform, **mining)))
    config = TrainingConfig(loss=loss, steps=150, batch_queries=32, learning_rate=3e-3)
    checkpoint, report = train_map(lists, doc_ids, documents, query_ids, queries, config, seed)
    truth = {(q, d): e for q, d, e in elo.select("query_id", "doc_id", "elo").iter_rows()}
    return agreement(checkpoint, truth, doc_ids, documents, query_ids, queries), report


def agreement(checkpoint, truth, doc_ids, documents, query_ids, queries) -> float:
    """Correlation of cosines with Elo over all judged pairs."""
    mapped_d, mapped_q = checkpoint.apply(documents), checkpoint.apply(queries)
    at_d, at_q = ({identifier: row for row, identifier in enumerate(ids)} for ids in (doc_ids, query_ids))
    cosine = [float(mapped_q[at_q[q]] @ mapped_d[at_d[d]]) for q, d in truth]
    return float(np.corrcoef(cosine, list(truth.values()))[0, 1])


def untrained(learnable) -> float:
    elo, doc_ids, documents, query_ids, queries = learnable(noise=100.0)
    truth = {(q, d): e for q, d, e in elo.select("query_id", "doc_id", "elo").iter_rows()}
    return agreement(MapCheckpoint(np.eye(32, dtype=np.float32), 1, 0, 1), truth, doc_ids, documents, query_ids, queries)


@pytest.mark.parametrize("loss", [HybridLoss(), ListwiseKlLoss(), InfoNceLoss(), MseLoss()], ids=lambda loss: loss.kind)
def test_every_loss_learns_what_the_judge_knows(learnable, loss: LossConfig):
    correlation, report = fitted(learnable, loss)
    assert correlation > untrained(learnable) + 0.15
    assert report.metrics[-1]["loss"] < report.metrics[0]["loss"]


def test_the_placebo_learns_nothing(learnable):
    correlation, _ = fitted(learnable, HybridLoss(), labels="shuffled")
    assert correlation < untrained(learnable) + 0.05


def inputs(learnable):
    elo, doc_ids, documents, query_ids, queries = learnable()
    return compile_lists(training_set(elo, POOL.frame(), MiningConfig())), doc_ids, documents, query_ids, queries


def test_same_seed_same_bytes_other_seed_other_bytes(learnable, tmp_path: Path):
    given = inputs(learnable)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_map(*given, SHORT, seed)[0].save(tmp_path / name)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_order_of_the_rows_does_not_matter(learnable):
    lists, doc_ids, documents, query_ids, queries = inputs(learnable)
    first, _ = train_map(lists, doc_ids, documents, query_ids, queries, SHORT, 0)
    second, _ = train_map(lists, doc_ids[::-1], documents[::-1].copy(), query_ids, queries, SHORT, 0)
    assert first.weight.tobytes() == second.weight.tobytes()


def test_checkpoint_survives_a_round_trip(learnable, tmp_path: Path):
    checkpoint, _ = train_map(*inputs(learnable), SHORT, 0)
    checkpoint.save(tmp_path)
    loaded = MapCheckpoint.load(tmp_path)
    assert loaded.weight.tobytes() == checkpoint.weight.tobytes()
    assert (loaded.slope, loaded.offset, loaded.student_scale) == (checkpoint.slope, checkpoint.offset, checkpoint.student_scale)


def test_the_identity_is_the_base_encoder(rng: np.random.Generator):
    vectors = rng.normal(size=(5, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.allclose(MapCheckpoint(np.eye(8, dtype=np.float32), 1, 0, 1).apply(vectors), vectors, atol=1e-6)


def test_report_has_one_entry_per_step_with_the_schedule(learnable):
    config = TrainingConfig(loss=HybridLoss(), steps=30, batch_queries=32, warmup=0.2, decay="linear")
    _, report = train_map(*inputs(learnable), config, 0)
    assert [m["step"] for m in report.metrics] == list(range(1, 31))
    assert [m["epoch"] for m in report.metrics[:7]] == [1, 1, 1, 2, 2, 2, 3]
    assert report.metrics[0]["alpha"] == 0.5
    assert report.metrics[-1]["alpha"] == 0.8
    rates = [m["learning_rate"] for m in report.metrics]
    assert rates[0] < rates[5] <= config.learning_rate
    assert rates[-1] < rates[10]
    assert report.epochs == 10
    assert report.pairs > 30 * 20
    assert report.pairs_per_second > 0


def test_progress_and_metrics_are_told(learnable):
    from anmi_pipeline.training.loop import Watch

    told: list[tuple[int, int]] = []
    heard: list[float] = []
    watch = Watch(lambda done, total, unit: told.append((done, total)), lambda metrics: heard.append(metrics["loss"]))
    train_map(*inputs(learnable), SHORT, 0, watch)
    assert told[-1] == (12, 12)
    assert len(heard) == 12


def test_a_missing_vector_is_named(learnable):
    lists, doc_ids, documents, query_ids, queries = inputs(learnable)
    with pytest.raises(
        InputError, match=r"1 document\(s\) of the training set are not among the 199 that were given, first d199"
    ):
        train_map(lists, doc_ids[:-1], documents[:-1], query_ids, queries, SHORT, 0)


def test_vectors_of_another_encoder_are_refused():
    with pytest.raises(InputError, match="takes vectors of 8 dimensions"):
        MapCheckpoint(np.eye(8, dtype=np.float32), 1, 0, 1).apply(np.zeros((2, 9), dtype=np.float32))


def test_the_learnt_scale_moves_and_a_fixed_one_does_not(learnable):
    elo, doc_ids, documents, query_ids, queries = learnable()
    lists: TrainingLists = compile_lists(training_set(elo, POOL.frame(), MiningConfig(transform="elo_400")))
    scales = []
    for learn in (True, False):
        config = SHORT.model_copy(update={"loss": ListwiseKlLoss(learn_scale=learn)})
        scales.append(train_map(lists, doc_ids, documents, query_ids, queries, config, 0)[0].student_scale)
    assert scales[0] != pytest.approx(5.0)
    assert scales[1] == pytest.approx(5.0)
