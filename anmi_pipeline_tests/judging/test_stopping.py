import numpy as np
import polars as pl
import pytest
from scipy.stats import norm, spearmanr

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.beliefs import QueryBelief, query_beliefs
from anmi_pipeline.judging.stopping import OUTLOOKS, StopRule, gains, ndcg, outlook, outlooks, shrinkage
from anmi_pipeline.rating.adaptive import next_pairs
from anmi_pipeline.rating.designs import random_pairs

N = 30
IDS = np.array([f"d{number:02}" for number in range(N)])


class Simulated:
    """Queries of unlike spread and unlike numbers of verdicts, judged as the model says."""

    def __init__(self, queries: int, spreads: tuple[float, ...], degrees: tuple[int, ...], seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        spread = np.resize(spreads, queries)
        self.truth = self.rng.normal(size=(queries, N)) * spread[:, None]
        self.documents = pl.DataFrame({"query_id": np.repeat(self.names, N), "doc_id": np.tile(IDS, queries)})
        degree = self.rng.choice(degrees, queries)
        self.comparisons = self.ask([random_pairs(N, int(k), self.rng) for k in degree])

    @property
    def names(self) -> list[str]:
        return [f"q{number:04}" for number in range(len(self.truth))]

    def ask(self, pairs: list[np.ndarray]) -> pl.DataFrame:
        query = np.repeat(np.arange(len(pairs)), [len(own) for own in pairs])
        i, j = np.concatenate(pairs).T
        won = self.rng.random(len(query)) < norm.cdf(self.truth[query, i] - self.truth[query, j])
        return pl.DataFrame({
            "query_id": np.array(self.names)[query], "doc_i": IDS[i], "doc_j": IDS[j], "preference": won.astype(float),
            "weight": 1.0,
        })  # fmt: skip

    def quality(self, beliefs: list[QueryBelief]) -> np.ndarray:
        return ndcg(gains(self.truth), np.array([np.argsort(-b.theta, kind="stable")[:10] for b in beliefs]))


def test_predicted_gain_ranks_realised_gain():
    world = Simulated(240, (0.4, 0.8, 1.6), (2, 4, 8, 14), 0)
    seen = outlooks(world.comparisons, world.documents, StopRule(batch=30), 0)
    before = list(query_beliefs(world.comparisons, world.documents))
    quality, realised = world.quality(before), np.zeros(240)
    for _ in range(4):
        more = world.ask([next_pairs(b.theta, b.covariance, b.asked, 30) for b in before])
        after = list(query_beliefs(pl.concat([world.comparisons, more]), world.documents))
        realised += (world.quality(after) - quality) / 4
    predicted = seen["gain"].to_numpy()
    assert spearmanr(predicted, realised)[0] > 0.3  # one truth per query: a single query's gain is mostly luck
    groups = np.array_split(np.argsort(predicted), 8)
    means = [(predicted[own].mean(), realised[own].mean()) for own in groups]
    assert spearmanr(*zip(*means, strict=True))[0] > 0.8
    assert means[-1][1] > 2 * means[0][1]


def test_the_look_ahead_is_calibrated_where_the_prior_is_right():
    world = Simulated(300, (1.0,), (4, 10, 29), 1)
    sure = world.comparisons.with_columns(weight=pl.lit(1.0))
    rule = StopRule(tolerance=0.05)
    seen = outlooks(sure, world.documents, rule, 0, prior_precision=1.0)
    quality = world.quality(list(query_beliefs(sure, world.documents, prior_precision=1.0)))
    assert seen["expected_ndcg"].mean() == pytest.approx(quality.mean(), abs=0.015)
    settled, kept = seen["settled"].to_numpy(), quality >= 1 - rule.tolerance
    for low, high in ((0.0, 0.3), (0.3, 0.7), (0.7, 1.01)):
        own = (settled >= low) & (settled < high)
        if own.sum() >= 30:
            spread = np.sqrt(settled[own].mean() * (1 - settled[own].mean()) / own.sum())
            assert abs(kept[own].mean() - settled[own].mean()) < 3 * spread + 0.05


def test_more_verdicts_settle_a_query_and_make_further_calls_worth_less():
    world = Simulated(20, (1.5,), (2,), 2)
    every = world.ask([random_pairs(N, 29, world.rng) for _ in range(20)])
    known = every.with_columns(weight=pl.lit(40.0), preference=pl.Series(known_preferences(world, every)))
    few, many = (outlooks(table, world.documents, StopRule(), 0) for table in (world.comparisons, known))
    assert (many["settled"] >= few["settled"]).all()
    assert many["settled"].mean() > 0.9
    assert few["gain"].mean() > 10 * many["gain"].mean()
    assert many["stop"].mean() > 0.8
    assert not few["stop"].any()


def known_preferences(world: Simulated, pairs: pl.DataFrame) -> np.ndarray:
    query, i, j = (pairs[name].str.slice(1).cast(pl.Int64).to_numpy() for name in ("query_id", "doc_i", "doc_j"))
    return norm.cdf(world.truth[query, i] - world.truth[query, j])


def test_money_and_limits():
    world = Simulated(6, (1.0,), (4,), 3)
    rule = StopRule(min_gain_per_usd=1e9)
    seen = outlooks(world.comparisons, world.documents, rule, 0, usd_per_call=0.01, limits={"q0000": 0, "q0001": 7})
    assert dict(seen.schema) == OUTLOOKS
    assert seen["stop"].all()
    assert seen["calls"].to_list() == [0, 7, 50, 50, 50, 50]
    assert seen["gain"][0] == 0
    ratio = (seen["gain_per_usd"] / seen["gain_per_call"]).drop_nans()
    assert ratio.to_list() == pytest.approx([100.0] * len(ratio))
    free = outlooks(world.comparisons, world.documents, rule, 0)
    assert free["gain_per_usd"].null_count() == 6
    for wrong in ({"usd_per_call": 0.0}, {"weight": 0.0}):
        with pytest.raises(InputError, match="must be above 0"):
            outlooks(world.comparisons, world.documents, rule, 0, **wrong)


def test_a_query_depends_on_itself_alone_and_equal_inputs_give_equal_outlooks():
    world = Simulated(5, (1.0,), (4,), 4)
    whole = outlooks(world.comparisons, world.documents, StopRule(), 7)
    own = pl.col("query_id") == "q0003"
    alone = outlooks(world.comparisons.filter(own), world.documents.filter(own), StopRule(), 7)
    assert whole.filter(own).drop("query_id").row(0) == pytest.approx(alone.drop("query_id").row(0), nan_ok=True) or whole.filter(
        own
    ).equals(alone)
    assert whole.equals(outlooks(world.comparisons, world.documents, StopRule(), 7))
    assert not whole.equals(outlooks(world.comparisons, world.documents, StopRule(), 8))


def test_shrinkage_is_the_covariance_with_the_verdicts_in():
    world = Simulated(1, (0.7,), (6,), 5)
    (belief,) = query_beliefs(world.comparisons, world.documents)
    pairs = next_pairs(belief.theta, belief.covariance, belief.asked, 20)
    learnt, rest = shrinkage(belief, pairs, 1.0)
    assert learnt @ learnt.T + rest == pytest.approx(belief.covariance)
    assert np.linalg.eigvalsh(rest).min() > 0
    more = world.ask([pairs])
    (after,) = query_beliefs(pl.concat([world.comparisons, more]), world.documents)
    assert np.trace(rest) == pytest.approx(np.trace(after.covariance), rel=0.1)


def test_small_queries():
    one = QueryBelief("q", ["a"], np.zeros(1), np.eye(1), np.zeros((0, 2), np.int64), np.zeros(0), np.zeros(0))
    seen = outlook(one, StopRule(), np.random.default_rng(0), 10)
    assert (seen.settled, seen.calls, seen.gain) == (1.0, 0, 0.0)
    two = QueryBelief("q", ["a", "b"], np.array([1.0, -1.0]), np.eye(2), np.zeros((0, 2), np.int64), np.zeros(0), np.zeros(0))
    seen = outlook(two, StopRule(), np.random.default_rng(0), 10)
    assert seen.calls == 1
    assert seen.top_unchanged == 1.0  # with two documents the top 10 holds both, in whatever order
    assert 0 < seen.expected_ndcg < 1


def test_ndcg_by_hand():
    gain = np.array([[3.0, 1.0, 0.0]])
    assert ndcg(gain, np.array([[0, 1]]))[0] == 1
    assert ndcg(gain, np.array([[2, 1]]))[0] == pytest.approx((1 / np.log2(3)) / (3 + 1 / np.log2(3)))
    assert ndcg(np.zeros((1, 3)), np.array([[0, 1]]))[0] == 1
    assert gains(np.array([[0.0, 1.0, 2.0]]))[0].tolist() == [0.0, 1.0, 15.0]
