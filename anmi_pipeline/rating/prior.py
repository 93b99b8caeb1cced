"""The informative prior of the scores: what the retrievers' scores say about theta before any verdict, fitted over all queries.

Belongs here: the prior, its form in files and its empirical Bayes fit on frames. Does not: the features (`features.py`), the two
estimators (`prior_gaussian.py`, `prior_mixture.py`) and the fit of one query's scores (`fit.py`), which takes mean and precision.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, cast

import numpy as np
import polars as pl

from anmi_pipeline.errors import InputError, nearest
from anmi_pipeline.rating.comparisons import flatten
from anmi_pipeline.rating.config import Model
from anmi_pipeline.rating.features import FUSED, feature_matrix
from anmi_pipeline.rating.graphs import Floats, GraphBatch
from anmi_pipeline.rating.mixture import Mixture
from anmi_pipeline.rating.posterior import Evidence
from anmi_pipeline.rating.prior_gaussian import fit_gaussian
from anmi_pipeline.rating.prior_mixture import MixtureParameters, fit_mixture

Shape = Literal["mixture", "gaussian"]
SHAPES: tuple[Shape, ...] = ("mixture", "gaussian")


@dataclass(frozen=True)
class Lift:
    """Few documents are relevant, and those lie higher.

    Attributes:
        odds: log odds of being relevant: the intercept, then one slope per feature of the prior.
        height: how far the relevant lie above the others, theta.
        precision: of the relevant around their mean, 1/theta^2.
    """

    odds: tuple[float, ...]
    height: float
    precision: float


@dataclass(frozen=True)
class ScorePrior:
    """theta ~ N(X beta, 1 / precision), independent given the features; with a `lift`, relevant documents lie higher.

    Attributes:
        features: names of the features that are used.
        coefficients: beta, theta per unit of each feature.
        precision: 1 / variance of theta around X beta, 1/theta^2.
        lift: the second component of the mixture; None for a Gaussian prior.
    """

    features: tuple[str, ...]
    coefficients: tuple[float, ...]
    precision: float
    lift: Lift | None = None

    def __post_init__(self) -> None:
        """Refuse a prior that no fit can use."""
        more = () if self.lift is None else (*self.lift.odds, self.lift.height, self.lift.precision)
        fits = len(self.features) == len(self.coefficients) and (
            self.lift is None or (len(self.lift.odds) == 1 + len(self.features) and self.lift.precision > 0)
        )
        if not fits or not np.isfinite((*self.coefficients, self.precision, *more)).all() or self.precision <= 0:
            raise InputError(
                f"{self} was given; a prior needs one finite coefficient per feature, an intercept and one log odds per feature "
                "where it has a lift, and finite precisions above 0."
            )

    def mean(self, features: pl.DataFrame) -> Floats:
        """(n,) prior means of theta, in the frame's order of rows; only differences within a query mean something."""
        matrix = feature_matrix(features, self.features)
        if self.lift is None:
            return matrix @ np.array(self.coefficients, dtype=np.float64)
        return self.parameters(self.lift).mixture(matrix).moments()[0]

    def mixture(self, features: pl.DataFrame) -> Mixture | None:
        """The two components of each document's prior; None for a Gaussian prior."""
        return None if self.lift is None else self.parameters(self.lift).mixture(feature_matrix(features, self.features))

    def parameters(self, lift: Lift) -> MixtureParameters:
        """The numbers of the mixture as arrays."""
        slopes, odds = (np.array(values, dtype=np.float64) for values in (self.coefficients, lift.odds))
        return MixtureParameters(slopes, odds, lift.height, self.precision, lift.precision)

    def as_json(self) -> dict[str, object]:
        """The prior as JSON values."""
        lift = None if self.lift is None else asdict(self.lift) | {"odds": list(self.lift.odds)}
        return {
            "features": list(self.features),
            "coefficients": list(self.coefficients),
            "precision": self.precision,
            "lift": lift,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> "ScorePrior":
        """Read what `as_json` wrote.

        Raises:
            InputError: a field is absent or of another type.
        """
        try:
            names = tuple(str(name) for name in cast("Sequence[str]", value["features"]))
            stored = cast("Mapping[str, object] | None", value.get("lift"))
            lift = (
                None if stored is None else Lift(numbers(stored["odds"]), number(stored["height"]), number(stored["precision"]))
            )
            return cls(names, numbers(value["coefficients"]), number(value["precision"]), lift)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{value!r} is not a stored prior: it needs features (names), coefficients (numbers), precision (a number) and "
                "lift (null, or odds, height and precision)."
            ) from error


def number(value: object) -> float:
    """Read a number of a stored prior."""
    return float(cast("float", value))


def numbers(value: object) -> tuple[float, ...]:
    """Read numbers of a stored prior."""
    return tuple(float(entry) for entry in cast("Sequence[float]", value))


def starting_prior(slope: float = 1.0, precision: float = 1.0) -> ScorePrior:
    """The prior before any verdict: theta ~ N(slope * z of the fused score, 1 / precision)."""
    return ScorePrior((FUSED,), (slope,), precision)


def fit_prior(
    comparisons: pl.DataFrame,
    features: pl.DataFrame,
    *,
    names: Sequence[str] | None = None,
    start: ScorePrior | None = None,
    model: Model = "thurstone",
    shape: Shape = "mixture",
    max_queries: int = 600,
) -> ScorePrior:
    """Learn the prior from the verdicts of all queries: empirical Bayes.

    `gaussian`: slopes and variance that maximise the marginal likelihood (`prior_gaussian.fit_gaussian`). `mixture`: most
    documents of a pool are not relevant, and a Gaussian wide enough for the few that are says nothing about the others; so the
    share of relevant documents follows the features too (`prior_mixture.fit_mixture`). Fit it to verdicts on pairs that were not
    chosen by earlier verdicts, that is to the first round. No draw is made: equal inputs give equal bits.

    Without any verdict the starting prior is returned, with slope 0 for the features it does not have; a feature without spread
    keeps the slope it starts with; few verdicts leave the result near the start.

    Args:
        comparisons: `tables.COMPARISONS` (query_id, doc_i, doc_j, preference, weight are read).
        features: `features.score_features` of the documents that could be compared.
        names: features to regress on; all columns of the frame by default.
        start: the Gaussian prior that few verdicts are drawn to; `starting_prior()` by default.
        model: link.
        shape: `mixture` or `gaussian`.
        max_queries: most queries that are read, evenly spaced in the order of their ids; what all queries share needs no more.

    Returns:
        The prior.

    Raises:
        InputError: a comparison names a document without features, the starting prior uses a feature that is not in `names`, or
            the shape is unknown.
    """
    if shape not in SHAPES:
        raise InputError(f'prior shape "{shape}" does not exist.{nearest(shape, SHAPES)}')
    chosen = tuple(names) if names is not None else tuple(name for name in features.columns if name not in ("query_id", "doc_id"))
    origin = start if start is not None else starting_prior()
    slopes = aligned(origin, chosen)
    judged = comparisons.filter(pl.col("weight") > 0)
    if judged.is_empty():
        return ScorePrior(chosen, tuple(slopes.tolist()), origin.precision)
    evidence = gather(judged, features, spaced(judged["query_id"], max_queries), chosen, model)
    if shape == "gaussian":
        fitted, precision = fit_gaussian(evidence, slopes, origin.precision)
        return ScorePrior(chosen, tuple(fitted.tolist()), precision)
    found = fit_mixture(evidence, slopes)
    lift = Lift(tuple(found.odds.tolist()), found.lift, found.lift_precision)
    return ScorePrior(chosen, tuple(found.slopes.tolist()), found.precision, lift)


def aligned(prior: ScorePrior, names: tuple[str, ...]) -> Floats:
    """(p,) slopes of a prior for these features, 0 for those it does not have."""
    absent = sorted(set(prior.features) - set(names))
    if absent:
        raise InputError(f"the starting prior uses feature {absent[0]}, which is not among the fitted ones: {', '.join(names)}.")
    slopes = dict(zip(prior.features, prior.coefficients, strict=True))
    return np.array([slopes.get(name, 0.0) for name in names])


def spaced(query_ids: pl.Series, most: int) -> pl.Series:
    """At most so many different queries, evenly spaced in the order of their ids."""
    queries = query_ids.unique().sort()
    return queries[np.unique(np.linspace(0, len(queries) - 1, min(most, len(queries))).astype(np.int64))]


def gather(
    comparisons: pl.DataFrame, features: pl.DataFrame, queries: pl.Series, names: tuple[str, ...], model: Model
) -> Evidence:
    """Lay out the chosen queries on flat arrays."""
    mine = pl.col("query_id").is_in(queries.implode())
    pairs = comparisons.filter(mine).sort("query_id", "doc_i", "doc_j")
    known = features.filter(mine).sort("query_id", "doc_id")
    batch, _ = flatten(pairs, known.select("query_id", "doc_id"))
    matrix = centred(feature_matrix(known, names), batch)
    return Evidence(batch, pairs["preference"].cast(pl.Float64()).to_numpy(), matrix, model)


def centred(values: Floats, batch: GraphBatch) -> Floats:
    """Take each query's mean off each column: verdicts tell nothing about a query's constant."""
    sums = np.add.reduceat(values, batch.offsets[:-1], axis=0)  # every query here has documents
    return values - np.repeat(sums / batch.n_items[:, None], batch.n_items, axis=0)
