"""Training: a rule is learnt and holds on unseen queries, equal seeds give equal weights, the split goes by the query alone."""

from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.distil_config import DistilConfig
from anmi_pipeline.judging.pairwise_training import epoch_batches, rate_factor, split, thinned, train_pairwise
from anmi_pipeline_tests.judging.tiny_models import WORDS, tiny_encoder

COUNTED = WORDS[0]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_encoder(tmp_path_factory.mktemp("tiny")))


def ruled(queries: int, per_query: int = 8) -> tuple[pl.DataFrame, dict[str, str], dict[str, str]]:
    """Comparisons under one rule, the document with the word wins, with their texts."""
    draw = np.random.default_rng(2)
    asked = {f"q{number:03d}": " ".join(draw.choice(WORDS[1:], 2)) for number in range(queries)}
    documents: dict[str, str] = {}
    rows: list[dict[str, object]] = []
    for query in asked:
        own = [f"{query}-{number}" for number in range(per_query)]
        for number, name in enumerate(own):
            words = draw.choice(WORDS[1:], 5)
            if number % 2:
                words[int(draw.integers(5))] = COUNTED
            documents[name] = " ".join(words)
        for a, b in combinations(own, 2):
            has = [COUNTED in documents[name].split() for name in (a, b)]
            if has[0] != has[1]:
                rows.append({"query_id": query, "doc_i": a, "doc_j": b, "preference": float(has[0]), "weight": 1.0})
    return pl.DataFrame(rows), asked, documents


def settings(encoder: str, **more: object) -> DistilConfig:
    chosen = {"model": encoder, "max_tokens": 32, "query_tokens": 4, "precision": "float32", "learning_rate": 3e-3}
    return DistilConfig.model_validate(chosen | {"head_learning_rate": 1e-2, "epochs": 3, "similarity": 1.0} | more)


def test_a_rule_is_learnt_and_holds_on_unseen_queries(encoder: str) -> None:
    comparisons, queries, documents = ruled(40)
    told: list[float] = []
    made = train_pairwise(
        comparisons, queries, documents, settings(encoder, epochs=6), 0, on_metrics=lambda metrics: told.append(metrics["loss"])
    )
    assert made.figures is not None
    assert made.figures.agreement > 0.95
    assert made.figures.ece_scaled < 0.1
    assert np.mean(told[-5:]) < 0.2 < told[0]
    assert len(told) == len(made.steps)
    assert not set(made.held_out["query_id"]) & set(split(comparisons, settings(encoder), 0)[0]["query_id"])


def test_equal_seeds_give_equal_verdicts_and_others_do_not(encoder: str) -> None:
    comparisons, queries, documents = ruled(6)
    config = settings(encoder, epochs=1)
    logits = [train_pairwise(comparisons, queries, documents, config, seed).held_out["logit"] for seed in (1, 1)]
    assert logits[0].to_list() == logits[1].to_list()
    other = train_pairwise(comparisons, queries, documents, settings(encoder, epochs=1, seed=7), 1, held_out=None)
    assert other.held_out["logit"].to_list() != logits[0].to_list()


def test_only_the_top_layers_move(encoder: str) -> None:
    comparisons, queries, documents = ruled(4)
    made = train_pairwise(comparisons, queries, documents, settings(encoder, epochs=1, layers=1), 0)
    before = train_pairwise(comparisons, queries, documents, settings(encoder, epochs=1, learning_rate=1e-12), 0)
    new, old = made.model.encoder.model.state_dict(), before.model.encoder.model.state_dict()
    moved = {name for name in new if not np.allclose(new[name].numpy(), old[name].numpy(), atol=1e-6)}
    assert any(".layer.1." in name for name in moved)
    assert not any(".layer.0." in name or "embeddings" in name for name in moved)
    with pytest.raises(InputError, match="has 2 transformer layers"):
        train_pairwise(comparisons, queries, documents, settings(encoder, layers=3), 0)


def test_an_earlier_ruler_is_kept(encoder: str) -> None:
    comparisons, queries, documents = ruled(6)
    _, ruler = split(comparisons, settings(encoder), 0)
    made = train_pairwise(comparisons, queries, documents, settings(encoder, epochs=1), 0, held_out=ruler.head(3))
    assert made.held_out.height == 3


def test_another_query_moves_none_to_the_other_part(encoder: str) -> None:
    comparisons, _, _ = ruled(30)
    config = settings(encoder)
    train, held = split(comparisons, config, 0)
    fewer = comparisons.filter(pl.col("query_id") != held["query_id"][0])
    less_train, less_held = split(fewer, config, 0)
    assert less_train.equals(train)
    assert set(less_held["query_id"]) < set(held["query_id"])
    assert 0 < held["query_id"].n_unique() < 15


@pytest.mark.parametrize(("queries", "parts"), [(1, (1, 0)), (2, (1, 1))])
def test_small_datasets_keep_a_query_to_train_on(queries: int, parts: tuple[int, int]) -> None:
    comparisons, _, _ = ruled(queries)
    for seed in range(10):
        found = split(comparisons, DistilConfig(holdout=0.5), seed)
        assert tuple(part["query_id"].n_unique() for part in found) == parts


def test_nothing_held_out_gives_no_figures(encoder: str) -> None:
    made = train_pairwise(*ruled(1), settings(encoder, epochs=1), 0)
    assert made.figures is None
    assert made.model.temperature == 1.0


def test_nothing_to_train_on_is_said(encoder: str) -> None:
    comparisons, queries, documents = ruled(2)
    with pytest.raises(InputError, match="no query has verdicts"):
        train_pairwise(comparisons.clear(), queries, documents, settings(encoder), 0)


def test_thinning_is_even_over_the_queries() -> None:
    comparisons, _, _ = ruled(10)
    kept = thinned(comparisons, 45, 0)
    counts = kept.group_by("query_id").len()["len"]
    assert (kept.height, counts.min(), counts.max()) == (45, 4, 5)
    assert thinned(comparisons, 45, 1)["doc_i"].to_list() != kept["doc_i"].to_list()


def test_an_epoch_sees_every_pair_once_in_an_order_of_its_own() -> None:
    lengths = np.random.default_rng(0).integers(5, 50, 333).tolist()
    epochs = [[batch.tolist() for batch in epoch_batches(lengths, 8, 0, epoch)] for epoch in (0, 1)]
    for batches in epochs:
        assert sorted(member for batch in batches for member in batch) == list(range(333))
        assert max(len(batch) for batch in batches) <= 8
    assert epochs[0] != epochs[1]


def test_the_rate_rises_and_falls() -> None:
    rates = [rate_factor(step, 100, 0.1) for step in range(100)]
    assert max(rates) == rates[10] == 1.0
    assert rates[0] < rates[5] < rates[10] > rates[50] > rates[99] > 0


def test_a_model_folder_is_left_as_it_was(encoder: str) -> None:
    before = {file.name: file.read_bytes() for file in Path(encoder).iterdir()}
    comparisons, queries, documents = ruled(2)
    train_pairwise(comparisons, queries, documents, settings(encoder, epochs=1), 0)
    assert before == {file.name: file.read_bytes() for file in Path(encoder).iterdir()}
