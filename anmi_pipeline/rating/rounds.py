"""Rounds of the adaptive design on frames: the pairs of many queries, first round and later ones.

Belongs here: from comparisons and features to the pairs of the next round. Does not: the choice within one query (`adaptive.py`),
orders, judges and calls (`judging/`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from anmi_pipeline.errors import InputError
from anmi_pipeline.progress import Progress, silent
from anmi_pipeline.rating.adaptive import CAP, Discount, first_cycle, next_pairs
from anmi_pipeline.rating.comparisons import flatten
from anmi_pipeline.rating.config import Model
from anmi_pipeline.rating.designs import Ints, cycles
from anmi_pipeline.rating.graphs import Floats, GraphBatch
from anmi_pipeline.rating.mixture import mixture_posterior
from anmi_pipeline.rating.posterior import laplace, modes
from anmi_pipeline.rating.prior import ScorePrior

FLAT_PRECISION = 0.3
"""Precision of the flat prior under which pairs are chosen: a spread of 1.8 theta. The ridge of the final fit (.05) makes the
first verdicts look more certain than they are: on notes/judging.md's simulation it costs .015 nDCG@10 at 400 calls."""

PAIRS = {"query_id": pl.String(), "doc_i": pl.String(), "doc_j": pl.String()}
"""Schema of the pairs of a round: doc_i has the smaller id."""


def first_round(
    features: pl.DataFrame, prior: ScorePrior | None, generator: Callable[[str], np.random.Generator]
) -> pl.DataFrame:
    """Draw the first round: one Hamiltonian cycle per query, through neighbours of the noisily sorted prior order.

    Args:
        features: `features.score_features` of the documents to compare.
        prior: the prior that orders them; None for random cycles.
        generator: the random generator of a query, by its id.

    Returns:
        query_id, doc_i, doc_j, sorted; a query with one document has no rows.
    """
    known = features.sort("query_id", "doc_id")
    mean = prior.mean(known) if prior is not None else np.zeros(known.height)
    sizes = known.group_by("query_id", maintain_order=True).len()
    names: list[str] = sizes["query_id"].to_list()
    counts = sizes["len"].cast(pl.Int64()).to_numpy()
    ends = np.cumsum(counts)
    drawn: list[Ints] = []
    for name, count, end in zip(names, counts.tolist(), ends.tolist(), strict=True):
        rng = generator(name)
        drawn.append(cycles(count, 2, rng) if prior is None else first_cycle(mean[end - count : end], prior.precision, rng))
    return pair_frame(known, names, ends - counts, drawn)


def next_round(  # noqa: PLR0913  (the settings of the design and of the fit)
    comparisons: pl.DataFrame,
    features: pl.DataFrame,
    prior: ScorePrior | None,
    counts: Mapping[str, int],
    *,
    cap: int = CAP,
    discount: Discount = "both",
    model: Model = "thurstone",
    prior_precision: float = FLAT_PRECISION,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Choose the next batch of every query from its verdicts so far.

    What is chosen for a query depends on its own comparisons and features and on the prior alone: not on the other queries.

    Args:
        comparisons: `tables.COMPARISONS` of all rounds so far (query_id, doc_i, doc_j, preference, weight are read). A pair
            whose calls all failed must be left out of `comparisons` to be asked again, or kept with weight 0 to be left alone.
        features: `features.score_features` of the documents that may be compared.
        prior: the frozen prior of the scores; None for a flat one.
        counts: query id -> pairs wanted; a query without an entry gets none.
        cap: most pairs of one document in this round.
        discount: see `adaptive.next_pairs`.
        model: link of the fit.
        prior_precision: precision of the flat prior; unused with a prior, which has its own.
        progress: told the queries done.

    Returns:
        query_id, doc_i, doc_j, sorted: pairs that were not asked before.

    Raises:
        InputError: counts name a query without features, or a comparison names a document without.
    """
    open_queries = [name for name, count in counts.items() if count > 0]
    known = features.filter(pl.col("query_id").is_in(open_queries)).sort("query_id", "doc_id")
    lost = sorted(set(open_queries) - set(known["query_id"]))
    if lost:
        raise InputError(f'pairs were asked for query "{lost[0]}", which has no documents in the features ({len(lost)} such).')
    if not open_queries:
        return pl.DataFrame(schema=PAIRS)
    pairs = comparisons.filter(pl.col("query_id").is_in(open_queries)).sort("query_id", "doc_i", "doc_j")
    batch, names = flatten(pairs, known.select("query_id", "doc_id"))
    preference = pairs["preference"].cast(pl.Float64()).to_numpy()
    belief = Belief(batch, preference, known, prior, model, prior_precision)
    drawn: list[Ints] = [np.zeros((0, 2), dtype=np.int64)] * len(names)
    done = 0
    for queries, theta, covariance in belief.stacks():
        for slot, query in enumerate(queries.tolist()):
            edges = slice(int(batch.edge_ptr[query]), int(batch.edge_ptr[query + 1]))
            asked = np.column_stack((batch.i[edges], batch.j[edges]))
            count = counts[names[query]]
            drawn[query] = next_pairs(theta[slot], covariance[slot], asked, count, cap=cap, discount=discount, model=model)
        done += len(queries)
        progress(done, len(names), "queries")
    return pair_frame(known, names, batch.offsets[:-1], drawn)


@dataclass(frozen=True)
class Belief:
    """What is known about the scores of many queries after their verdicts.

    Attributes:
        batch: the graphs.
        preference: (E,) preference for i.
        features: of the documents, sorted by query and document.
        prior: the prior; None for a flat one.
        model: link.
        flat_precision: precision of the flat prior.
    """

    batch: GraphBatch
    preference: Floats
    features: pl.DataFrame
    prior: ScorePrior | None
    model: Model
    flat_precision: float

    def stacks(self) -> Iterator[tuple[Ints, Floats, Floats]]:
        """Queries (B,), theta (B, n) and covariance (B, n, n) of one stack of equally large queries after the other."""
        mixture = self.prior.mixture(self.features) if self.prior is not None else None
        if mixture is not None:
            for stack in mixture_posterior(self.batch, self.preference, mixture, self.model):
                yield stack.block.queries, stack.sites.theta, stack.covariance
            return
        mean = self.prior.mean(self.features) if self.prior is not None else None
        precision = self.prior.precision if self.prior is not None else self.flat_precision
        theta = modes(self.batch, self.preference, mean, precision, self.model)
        for stack in laplace(self.batch, self.preference, theta, precision, self.model):
            yield stack.block.queries, stack.theta, stack.covariance


def pair_frame(known: pl.DataFrame, names: Sequence[str], offsets: Ints, drawn: Sequence[Ints]) -> pl.DataFrame:
    """Write the pairs of all queries as a frame; `known` holds their documents, sorted, from `offsets` on."""
    rows = np.array([len(pairs) for pairs in drawn], dtype=np.int64)
    local = np.concatenate([np.zeros((0, 2), dtype=np.int64), *drawn])
    base = np.repeat(offsets, rows)
    return pl.DataFrame(
        {
            "query_id": pl.Series(names, dtype=pl.String())[np.repeat(np.arange(len(names)), rows)],
            "doc_i": known["doc_id"][base + local[:, 0]],
            "doc_j": known["doc_id"][base + local[:, 1]],
        },
        schema=PAIRS,
    )
