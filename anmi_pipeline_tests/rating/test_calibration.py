import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from anmi_pipeline.errors import InputError
from anmi_pipeline.rating.anchors import choose_anchors
from anmi_pipeline.rating.calibration import CalibrationConfig, calibrate
from anmi_pipeline.rating.elo import ranked
from anmi_pipeline.rating.maps import fit_line, fit_map
from anmi_pipeline.tables import ELO

NO_GRADES = pl.DataFrame(schema={"query_id": pl.String, "doc_id": pl.String, "grade": pl.Int64})


def elo_table(theta: list[list[float]]) -> pl.DataFrame:
    rows = [(f"q{q:03}", f"d{d:03}", value) for q, values in enumerate(theta) for d, value in enumerate(values)]
    frame = pl.DataFrame(rows, schema={"query_id": pl.String, "doc_id": pl.String, "theta": pl.Float64}, orient="row")
    return ranked(
        frame.with_columns(
            elo=1500 + 295.7 * pl.col("theta"), std_error=pl.lit(50.0), n_comparisons=pl.lit(6), status=pl.lit("converged")
        )
    )


class World:
    """Queries whose bars differ: theta is centred per query, the log-odds of relevance are theta * slope + bar."""

    def __init__(self, queries: int, documents: int, spread: float, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        theta = rng.normal(0, 1, (queries, documents))
        theta -= theta.mean(axis=1, keepdims=True)
        self.bar = rng.normal(-0.5, spread, queries)
        self.p = expit(1.5 * theta + self.bar[:, None])
        self.elo = elo_table(theta.tolist())
        grades = (rng.random(self.p.shape) < self.p).astype(np.int64)
        self.qrels = (
            self.elo.select("query_id", "doc_id").sort("query_id", "doc_id").with_columns(grade=pl.Series(grades.ravel()))
        )

    def grades(self, chosen: pl.DataFrame) -> pl.DataFrame:
        return self.qrels.join(chosen, on=["query_id", "doc_id"], how="semi")

    def error(self, table: pl.DataFrame) -> float:
        return float(np.abs(table.sort("query_id", "doc_id")["relevance"].to_numpy() - self.p.ravel()).mean())


@pytest.fixture(scope="module")
def world() -> World:
    return World(60, 15, 1.5)


def test_anchors_recover_the_bars(world: World) -> None:
    """Five anchors a query take away much of what the mean bar alone gets wrong."""
    anchors = world.grades(choose_anchors(world.elo, 5, expected_share=0.4))
    table, report = calibrate(world.elo, anchors)
    ELO.validate(table)
    few, _ = calibrate(world.elo, anchors.filter(pl.col("query_id") < "q030"))
    anchored = pl.col("query_id") < "q030"
    blind, _ = calibrate(world.elo, NO_GRADES, labels=world.qrels)
    assert world.error(table) < 0.7 * world.error(blind)
    means = table.group_by("query_id", maintain_order=True).agg(pl.col("relevance").mean()).sort("query_id")
    assert np.corrcoef(means["relevance"].to_numpy(), world.p.mean(axis=1))[0, 1] > 0.8
    # Queries without anchors share one curve.
    rest = few.filter(~anchored).sort("theta")
    assert rest["relevance"].is_sorted()
    assert rest["relevance"].null_count() == 0
    assert (report.anchored, report.anchors, report.labels, report.final) == (60, 300, 0, "line")


def test_it_beats_one_global_logistic(world: World) -> None:
    anchors = world.grades(choose_anchors(world.elo, 4, expected_share=0.4))
    _, report = calibrate(world.elo, anchors, labels=world.qrels)
    assert report.reliability is not None
    assert report.raw is not None
    assert report.final == "line"
    assert report.reliability.brier < report.raw.brier - 0.02
    assert report.reliability.query_gap < 0.7 * report.raw.query_gap
    assert report.reliability.ece < 0.04
    assert report.predictions.height == world.qrels.height == report.reliability.rows


def test_another_judges_level_is_discounted(world: World) -> None:
    """Anchors of a judge whose bars have nothing to do with the labels' get no say."""
    rng = np.random.default_rng(5)
    anchors = choose_anchors(world.elo, 4)
    lenient = dict(zip(sorted(set(anchors["query_id"])), rng.integers(0, 2, 60).tolist(), strict=True))
    invented = anchors.with_columns(grade=pl.col("query_id").replace_strict(lenient, return_dtype=pl.Int64))
    _, report = calibrate(world.elo, invented, labels=world.qrels)
    assert report.label_level is not None
    assert report.reliability is not None
    assert report.raw is not None
    assert abs(report.label_level.gain) * report.anchor_level.offset_sd < 1.0  # type: ignore[union-attr]
    assert report.reliability.brier < report.raw.brier + 0.01


def test_cross_validation_never_sees_its_own_query(world: World) -> None:
    """Turning the labels of one query round changes its score, not its prediction."""
    one, other = World(20, 12, 1.0, seed=3), World(20, 12, 1.0, seed=3)
    anchors = one.grades(choose_anchors(one.elo, 3))
    turned = other.qrels.with_columns(
        grade=pl.when(pl.col("query_id") == "q007").then(1 - pl.col("grade")).otherwise(pl.col("grade"))
    )
    before, after = (calibrate(one.elo, anchors, labels=labels)[1].predictions for labels in (one.qrels, turned))
    own = pl.col("query_id") == "q007"
    assert before.filter(own)["relevance"].to_list() == after.filter(own)["relevance"].to_list()
    assert before.filter(own)["raw"].to_list() == after.filter(own)["raw"].to_list()
    assert before.filter(~own)["relevance"].to_list() != after.filter(~own)["relevance"].to_list()


@pytest.mark.parametrize("final", ["isotonic", "line"])
def test_order_within_a_query_is_kept(world: World, final: str) -> None:
    anchors = world.grades(choose_anchors(world.elo, 3))
    table, _ = calibrate(world.elo, anchors, CalibrationConfig(final=final), labels=world.qrels)  # type: ignore[arg-type]
    for _, own in table.sort("theta").group_by("query_id"):
        assert own["relevance"].is_sorted()
    assert table["relevance"].is_between(0, 1, closed="none").all()


def test_equal_inputs_equal_bytes_in_any_order(world: World) -> None:
    anchors = world.grades(choose_anchors(world.elo, 3))
    table, _ = calibrate(world.elo, anchors)
    mixed = [frame.sample(fraction=1.0, shuffle=True, seed=4) for frame in (world.elo, anchors)]
    assert calibrate(*mixed)[0].equals(table)


def test_without_any_grade_relevance_is_null_never_zero(world: World) -> None:
    table, report = calibrate(world.elo, NO_GRADES)
    assert table["relevance"].null_count() == table.height
    assert (report.final, report.reliability, report.anchors) == ("none", None, 0)
    ELO.validate(table)
    assert calibrate(world.elo, NO_GRADES, labels=NO_GRADES)[0]["relevance"].null_count() == table.height


def test_labels_alone_are_enough_for_a_shared_curve(world: World) -> None:
    table, report = calibrate(world.elo, NO_GRADES, labels=world.qrels)
    assert table["relevance"].null_count() == 0
    assert table.sort("theta")["relevance"].is_sorted()
    assert (report.anchors, report.labels) == (0, 900)


@settings(max_examples=15, deadline=None)
@given(
    theta=st.lists(st.lists(st.floats(-5, 5), min_size=1, max_size=5), min_size=1, max_size=4),
    grade=st.sampled_from(["all", "none", "mixed"]),
)
def test_degenerate_worlds_stay_finite(theta: list[list[float]], grade: str) -> None:
    """One query, one document, constant theta, all or no anchor relevant."""
    elo = elo_table(theta)
    value = {"all": pl.lit(1), "none": pl.lit(0), "mixed": pl.int_range(pl.len()) % 2}[grade]
    anchors = choose_anchors(elo, 2).with_columns(grade=value.cast(pl.Int64))
    table, report = calibrate(elo, anchors)
    relevance = table["relevance"]
    assert relevance.null_count() == 0
    assert relevance.is_between(0, 1, closed="none").all()
    if grade != "mixed":
        assert (float(relevance.to_numpy().mean()) > 0.5) == (grade == "all")
    assert (report.reliability is None) == (len(theta) == 1)


def test_constant_theta_leaves_the_bars() -> None:
    elo = elo_table([[0.0] * 6] * 30)
    anchors = elo.select("query_id", "doc_id").with_columns(grade=(pl.col("query_id") < "q010").cast(pl.Int64))
    table, _ = calibrate(elo, anchors)
    own = table.group_by("query_id").agg(pl.col("relevance").mean()).sort("query_id")["relevance"].to_numpy()
    assert own[:10].min() > 0.8
    assert own[10:].max() < 0.2


def test_has_evidence() -> None:
    """Queries without any relevant document lie low: anchors show it."""
    rng = np.random.default_rng(9)
    theta = rng.normal(0, 1, (40, 12))
    bar = np.where(np.arange(40) % 2, -6.0, 0.0)
    elo = elo_table((theta - theta.mean(axis=1, keepdims=True)).tolist())
    p = expit(1.5 * (theta - theta.mean(axis=1, keepdims=True)) + bar[:, None])
    labels = elo.select("query_id", "doc_id").sort("query_id", "doc_id")
    labels = labels.with_columns(grade=pl.Series((rng.random(p.size) < p.ravel()).astype(np.int64)))
    anchors = labels.join(choose_anchors(elo, 4, strategy="top"), on=["query_id", "doc_id"], how="semi")
    _, report = calibrate(elo, anchors, labels=labels)
    assert report.evidence_auc is not None
    assert report.evidence_auc > 0.9
    _, alike = calibrate(elo, anchors, labels=labels.with_columns(grade=pl.lit(1)))
    assert alike.evidence_auc is None


def test_offsets_move_whole_queries(world: World) -> None:
    """Known levels leave nothing for the anchors to explain."""
    names = sorted(set(world.elo["query_id"]))
    offsets = pl.DataFrame({"query_id": names, "offset": world.bar / 1.5})
    anchors = world.grades(choose_anchors(world.elo, 3)).filter(pl.col("query_id") < "q030")
    told, report = calibrate(world.elo, anchors, offsets=offsets)
    blind, unaware = calibrate(world.elo, anchors)
    assert world.error(told) < 0.5 * world.error(blind)
    assert report.anchor_level is not None
    assert unaware.anchor_level is not None
    assert report.anchor_level.offset_sd < 0.7 * unaware.anchor_level.offset_sd
    with pytest.raises(InputError, match="query q059 has no offset"):
        calibrate(world.elo, anchors, offsets=offsets.head(59))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("q000", "nope", 1)], "nope of query q000 has no Elo"),
        ([("q000", "d001", 1), ("q000", "d001", 0)], "d001 of query q000 is graded twice"),
        ([("q000", "d001", None)], "d001 of query q000 has no grade"),
    ],
)
def test_bad_anchors_are_named(world: World, rows: list[tuple[str, str, int | None]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        calibrate(world.elo, pl.DataFrame(rows, schema=NO_GRADES.schema, orient="row"))


def test_the_last_step_is_scikit_learns_isotonic(rng: np.random.Generator) -> None:
    p = rng.random(300)
    y = (rng.random(300) < p**2).astype(float)
    found = fit_map(p, y, "isotonic")(p)
    expected = IsotonicRegression(y_min=1 / 302, y_max=301 / 302, out_of_bounds="clip").fit_transform(p, y)
    assert found == pytest.approx(expected)


def test_the_line_is_scikit_learns_logistic(rng: np.random.Generator) -> None:
    x = rng.normal(size=500)
    y = (rng.random(500) < expit(0.5 + 2 * x)).astype(float)
    oracle = LogisticRegression(C=1e6, tol=1e-10).fit(x[:, None], y).predict_proba(x[:, None])[:, 1]
    assert fit_line(x, y)(x) == pytest.approx(oracle, abs=1e-4)


def test_a_falling_line_becomes_flat() -> None:
    line = fit_line(np.array([0.0, 1.0, 2.0]), np.array([1.0, 1.0, 0.0]))
    assert line(np.array([0.0, 5.0])).tolist() == pytest.approx([2.5 / 4] * 2)
