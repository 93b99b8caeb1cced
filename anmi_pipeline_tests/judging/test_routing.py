import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError
from scipy.stats import norm

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.beliefs import pair_beliefs
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.judge_configs import SimulatedJudge
from anmi_pipeline.judging.routing import (
    ESCALATIONS,
    RoutingConfig,
    Tier,
    escalate,
    estimated_weights,
    plan_escalations,
    plan_tier,
    savings,
)
from anmi_pipeline.judging.stopping import gains, ndcg
from anmi_pipeline.rating.comparisons import flatten, weighted_comparisons
from anmi_pipeline.rating.designs import cycles
from anmi_pipeline.rating.posterior import modes
from anmi_pipeline.tables import JUDGMENTS, PLAN

ACCURACY = {"s": 0.75, "m": 0.85, "l": 0.95}
PRICE = {"s": 1.0, "m": 10.0, "l": 50.0}
PAIR = ["query_id", "doc_i", "doc_j"]


def config(shares=(1.0, 1.0, 1.0), **more) -> RoutingConfig:
    tiers = [Tier(name=name, judges=(judge,), share=share, usd=PRICE[judge]) for name, judge, share in
             zip(("small", "medium", "large"), "sml", shares, strict=True)]  # fmt: skip
    return RoutingConfig(tiers=tuple(tiers), **more)


def judged(rows: list[tuple]) -> pl.DataFrame:
    """Rows of (query, first, second, judge, p_first); None is a failure."""
    made = pl.DataFrame(rows, schema=["query_id", "first_id", "second_id", "judge", "p_first"], orient="row")
    rest = {
        "epoch": "1",
        "round": 1,
        "audit": False,
        "call_key": "k",
        "provenance": "simulated",
        "input_tokens": 0,
        "output_tokens": 0,
    }
    made = made.with_columns(
        **{name: pl.lit(value) for name, value in rest.items()},
        status=pl.when(pl.col("p_first").is_null()).then(pl.lit("timeout")).otherwise(pl.lit("ok")),
        cost_usd=pl.col("judge").replace_strict(PRICE, default=0.0, return_dtype=pl.Float64),
    )
    return JUDGMENTS.frame(made)


def moved(rows: list[tuple], settings: RoutingConfig) -> dict[tuple[str, str], tuple[str, str]]:
    found = escalate(judged(rows), settings)
    assert found.schema == ESCALATIONS
    return {(row["doc_i"], row["doc_j"]): (row["tier"], row["reasons"]) for row in found.iter_rows(named=True)}


def test_a_pair_moves_up_for_a_reason_and_stays_without_one():
    rows = [
        ("q", "a", "b", "s", 0.6),  # near one half
        ("q", "a", "c", "s", 0.95),  # certain
        ("q", "a", "d", "s", 0.97), ("q", "d", "a", "s", 0.93),  # flips: the document shown first wins
        ("q", "a", "e", "s", 0.97), ("q", "e", "a", "s", 0.03),  # holds
        ("q", "b", "c", "s", 0.99), ("q", "b", "c", "m", 0.01),  # judges disagree
        ("q", "b", "d", "s", 0.5), ("q", "d", "b", "m", 0.02),  # settled by the medium judge
        ("q", "c", "d", "s", None),  # nobody answered
        ("q", "c", "e", "s", 0.5), ("q", "c", "e", "m", 0.5), ("q", "c", "e", "l", 0.5),  # the last tier was asked
    ]  # fmt: skip
    settings = config().model_copy(update={"tiers": tuple(t.model_copy(update={"near_half": 0.2}) for t in config().tiers)})
    assert moved(rows, settings) == {
        ("a", "b"): ("medium", "near_half"),
        ("a", "d"): ("medium", "near_half+orders"),
        ("b", "c"): ("large", "near_half+judges"),
        ("c", "d"): ("medium", "no_answer"),
    }
    deaf = settings.model_copy(
        update={"orders": False, "judges": False, "tiers": tuple(t.model_copy(update={"near_half": 0.0}) for t in settings.tiers)}
    )
    assert moved(rows, deaf) == {("c", "d"): ("medium", "no_answer")}


def test_the_target_mix_limits_what_moves_up_and_doubt_comes_first():
    rows = [("q", "a", f"b{number}", "s", 0.5 + 0.03 * number) for number in range(10)]
    assert set(moved(rows, config((1, 0.3, 0.1)))) == {("a", "b0"), ("a", "b1"), ("a", "b2")}
    asked = [*rows, ("q", "a", "b9", "m", 0.5), ("q", "a", "b8", "m", 0.5)]
    found = moved(asked, config((1, 0.3, 0.1)))
    assert {pair: tier for pair, (tier, _) in found.items()} == {("a", "b0"): "medium", ("a", "b8"): "large"}
    assert not escalate(judged(rows), config((1, 0.0, 0.0))).height


def test_shares_fill_in_steps():
    rows = [("q", "a", f"b{number}", "s", 0.5) for number in range(10)]
    settings = config((1, 0.6, 0.3), passes=3)
    assert settings.steps == 4
    counts = [escalate(judged(rows), settings, step=step).height for step in range(1, 5)]
    assert counts == [2, 4, 6, 6]
    asked = [*rows, *(("q", "a", f"b{number}", "m", 0.5) for number in range(2))]
    second = escalate(judged(asked), settings, step=2)
    assert second["tier"].value_counts().sort("tier").rows() == [("large", 1), ("medium", 2)]


def test_other_queries_change_nothing():
    own = [("q", "a", f"b{number}", "s", 0.5 + 0.02 * number) for number in range(8)]
    other = [("r", "a", f"b{number}", "s", 0.5) for number in range(40)]
    alone = escalate(judged(own), config((1, 0.25, 0.1)))
    assert escalate(judged(own + other), config((1, 0.25, 0.1))).filter(pl.col("query_id") == "q").equals(alone)


def test_beliefs_decide_where_verdicts_are_hard():
    rows = [("q", "a", "b", "s", 1.0), ("q", "a", "c", "s", 1.0)]
    believed = pl.DataFrame({
        "query_id": ["q", "q"], "doc_i": ["a", "a"], "doc_j": ["b", "c"], "probability": [0.98, 0.6], "priority": [1.0, 2.0],
    })  # fmt: skip
    assert not escalate(judged(rows), config()).height
    assert escalate(judged(rows), config(), believed)["doc_j"].to_list() == ["c"]
    with pytest.raises(InputError, match=r"1 judged pair\(s\) have no belief"):
        escalate(judged(rows), config(), believed.head(1))


def test_a_human_counts_but_is_no_tier():
    rows = [("q", "a", "b", "s", 0.97), ("q", "a", "b", "human", 0.0), ("q", "a", "c", "human", 0.5)]
    assert moved(rows, config()) == {("a", "b"): ("medium", "near_half+judges")}


def test_plans_rotate_judges_and_show_both_orders_where_asked():
    judging = JudgingConfig(judges=tuple(SimulatedJudge(name=name) for name in ("s", "m", "m2", "l")), audit_share=0.3)
    settings = RoutingConfig(
        tiers=(
            Tier(name="small", judges=("s",), both_orders=True),
            Tier(name="medium", judges=("m", "m2")),
            Tier(name="large", judges=("l",)),
        )
    )
    rows = [("q", "a", f"b{number:02}", "s", 0.5) for number in range(20)]
    plan = plan_escalations(escalate(judged(rows), settings), settings, judging, 0, 2)
    PLAN.validate(plan)
    assert plan["judge"].value_counts().sort("judge").rows() == [("m", 10), ("m2", 10)]
    assert not plan["audit"].any()
    pairs = pl.DataFrame({"query_id": ["q"] * 4, "doc_i": ["a"] * 4, "doc_j": list("bcde")})
    both = plan_tier(pairs, settings.tiers[0], judging, 0, 1)
    assert both.height == 8
    assert both.select("first_id", "second_id").unique().height == 8
    with pytest.raises(InputError, match='judge "x", which the dataset does not configure'):
        plan_tier(pairs, Tier(name="t", judges=("x",)), judging, 0, 1)
    assert not plan_escalations(escalate(JUDGMENTS.frame(), settings), settings, judging, 0, 2).height


def test_settings_that_make_no_cascade_are_refused():
    small, large = Tier(name="small", judges=("s",)), Tier(name="large", judges=("l",))
    for tiers, text in (
        ((small,), "at least 2"),
        ((small, small), "tier small is listed twice"),
        ((small, Tier(name="large", judges=("s",))), "judge s is listed twice"),
        ((Tier(name="small", judges=("s",), share=0.5), large), "it must be 1"),
    ):
        with pytest.raises(ValidationError, match=text):
            RoutingConfig(tiers=tiers)
    with pytest.raises(InputError, match='no tier "huge"'):
        RoutingConfig(tiers=(small, large)).tier("huge")


def test_savings_count_calls_and_money():
    rows = [("q", "a", f"b{n}", "s", 0.5) for n in range(10)] + [("q", "a", "b1", "m", 0.5), ("q", "a", "b1", "l", 1.0)]
    audited = judged([("q", "a", "z", "l", 1.0)]).with_columns(audit=pl.lit(True))
    spent = savings(JUDGMENTS.frame(pl.concat([judged(rows), audited])), config())
    assert spent.calls == {"small": 10, "medium": 1, "large": 1}
    assert spent.mix == {"small": 1.0, "medium": 0.1, "large": 0.1}
    assert (spent.usd, spent.usd_all_last, spent.usd_audit) == (70, 500, 50)
    assert spent.saved == pytest.approx(0.86)
    unpaid = judged(rows).with_columns(cost_usd=pl.lit(0.0))
    assert savings(unpaid, config()).saved == pytest.approx(0.86)
    assert savings(JUDGMENTS.frame(), config()).saved == 0


class World:
    """Queries with a truth, cycles graphs over them, and judges whose answers are functions of judge and ordered pair."""

    def __init__(self, queries: int, documents: int, degree: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        shape = (queries, documents)
        self.truth = np.where(rng.random(shape) < 0.1, rng.normal(1.5, 0.6, shape), rng.normal(-0.2, 0.8, shape))
        drawn = [cycles(documents, degree, rng) for _ in range(queries)]
        self.query = np.repeat(np.arange(queries), [len(own) for own in drawn])
        self.i, self.j = np.concatenate(drawn).T
        self.right = {judge: rng.random((2, len(self.query))) < accuracy for judge, accuracy in ACCURACY.items()}
        self.turned = {judge: rng.random(len(self.query)) < 0.5 for judge in ACCURACY}
        names = {"query_id": [f"q{q:03}" for q in range(queries) for _ in range(documents)]}
        self.documents = pl.DataFrame({**names, "doc_id": [f"d{d:03}" for _ in range(queries) for d in range(documents)]})
        self.pairs = pl.DataFrame({
            "query_id": [f"q{q:03}" for q in self.query],
            "doc_i": [f"d{d:03}" for d in self.i],
            "doc_j": [f"d{d:03}" for d in self.j],
        }).with_row_index("row")  # fmt: skip

    def ask(self, pairs: pl.DataFrame, judge: str, *, both: bool = False, audit: bool = False) -> pl.DataFrame:
        rows = pairs.select(PAIR).join(self.pairs, on=PAIR, how="left")["row"].to_numpy()
        names = self.pairs.select(PAIR).rows()
        asked: list[tuple] = []
        for row in rows:
            query, a, b = names[row]
            wins = bool(self.truth[self.query[row], self.i[row]] > self.truth[self.query[row], self.j[row]])
            for order in (0, 1) if both else (int(self.turned[judge][row]),):
                vote = wins == bool(self.right[judge][order, row])
                asked.append((query, b, a, judge, float(not vote)) if order else (query, a, b, judge, float(vote)))
        return judged(asked).with_columns(audit=pl.lit(audit))

    def ndcg(self, judgments: pl.DataFrame, settings: RoutingConfig) -> float:
        pairs = weighted_comparisons(judgments, settings.weights)
        batch, _ = flatten(pairs, self.documents)
        theta = modes(batch, pairs["preference"].to_numpy(), None, 0.05, "thurstone").reshape(self.truth.shape)
        return float(ndcg(gains(self.truth), np.argsort(-theta, axis=1, kind="stable")[:, :10]).mean())

    def cascade(self, settings: RoutingConfig) -> pl.DataFrame:
        table = self.ask(self.pairs, "s", both=True)
        for step in range(1, settings.steps + 1):
            believed = pair_beliefs(weighted_comparisons(table, settings.weights), self.documents)
            up = escalate(table, settings, believed, step)
            parts = [
                self.ask(own, settings.tier(str(name)).judges[0])
                for (name,), own in up.partition_by("tier", as_dict=True).items()
            ]
            table = JUDGMENTS.frame(pl.concat([table, *parts]))
        return table


def routed() -> RoutingConfig:
    tiers = [
        Tier(
            name=name, judges=(judge,), share=share, near_half=near, usd=PRICE[judge], both_orders=judge == "s",
            weight=float((norm.ppf(ACCURACY[judge]) / norm.ppf(ACCURACY["l"])) ** 2),
        )
        for name, judge, share, near in (("small", "s", 1, 0.35), ("medium", "m", 0.45, 0.25), ("large", "l", 0.165, 0.0))
    ]  # fmt: skip
    return RoutingConfig(tiers=tuple(tiers))


def test_the_cascade_is_seventy_percent_cheaper_at_no_loss():
    world, settings = World(40, 100, 8, 1), routed()
    table = world.cascade(settings)
    assert savings(table, settings).saved >= 0.70
    loss = world.ndcg(world.ask(world.pairs, "l"), settings) - world.ndcg(table, settings)
    assert loss <= 0.01
    cheap = world.ndcg(world.ask(world.pairs, "s", both=True), settings)
    assert world.ndcg(table, settings) > cheap + 0.1


def test_weights_are_found_from_the_audit_slice():
    world, settings = World(20, 60, 8, 2), routed()
    sample = world.pairs.sample(n=1500, seed=0)
    audit = JUDGMENTS.frame(pl.concat([world.ask(sample, judge, audit=True) for judge in ACCURACY]))
    flat = settings.model_copy(update={"tiers": tuple(tier.model_copy(update={"weight": 1.0}) for tier in settings.tiers)})
    found = estimated_weights(audit, flat)
    for tier, true in zip(found.tiers, settings.tiers, strict=True):
        assert tier.weight == pytest.approx(true.weight, abs=0.12)
    few = audit.filter(pl.col("query_id") == "q000")
    assert estimated_weights(few, flat) == flat  # too few pairs tell nothing
    assert estimated_weights(audit.with_columns(audit=pl.lit(False)), flat) == flat
