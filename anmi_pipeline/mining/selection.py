"""The training set: every judged document of every query with its role, label, weight and the reason.

Belongs here: choice of positives and negatives, label transforms and the placebo's permutation. Does not: drawing lists from
the set (`curriculum.py`) and losses (`training/`).
"""

import hashlib

import numpy as np
import polars as pl

from anmi_pipeline.errors import InputError
from anmi_pipeline.mining.config import MiningConfig
from anmi_pipeline.tables import ELO, TRAINING_SET

LEXICAL_TIER_WIDTH = 10


def training_set(elo: pl.DataFrame, pool: pl.DataFrame, config: MiningConfig) -> pl.DataFrame:
    """Choose positives and negatives of every query of an Elo table.

    Positives: the `max_positives` highest documents within `positive_window` Elo of the best. Negatives: what the miner says.
    A query that ends without a positive or without a negative is unused as a whole, with the reason.

    Args:
        elo: ELO frame of the training queries.
        pool: POOL frame; gives the lexical ranks of miner `lexical`.
        config: miner, bands, labels and transform.

    Returns:
        TRAINING_SET frame, one row per row of `elo`.

    Raises:
        InputError: an Elo or a standard error is not finite.
    """
    if elo.is_empty():
        return TRAINING_SET.frame()
    table = elo.select("query_id", "doc_id", "elo", "std_error").sort("query_id", "doc_id")
    refuse_non_finite(table)
    if config.labels == "shuffled":
        table = shuffled_labels(table, config.seed)
    ranked = with_gaps(with_label(table, config.transform))
    ranked = ranked.join(pool.select("query_id", "doc_id", "lexical_rank"), on=["query_id", "doc_id"], how="left")
    chosen = drop_unusable(with_roles(ranked, config))
    return TRAINING_SET.frame(with_false_negative(chosen).with_columns(miner=pl.lit(config.miner)))


def refuse_non_finite(table: pl.DataFrame) -> None:
    """Raise InputError naming the first row whose Elo or standard error is NaN or infinite."""
    wrong = table.filter(~(pl.col("elo").is_finite() & pl.col("std_error").is_finite()))
    if not wrong.is_empty():
        query, document, value, error = wrong.row(0)
        raise InputError(
            f"{ELO.name} has {wrong.height} row(s) that are not finite, first query {query}, document {document}: "
            f"elo {value}, std_error {error}. Materialize {ELO.name} again with a prior."
        )


def query_generator(seed: int, query_id: str) -> np.random.Generator:
    """A generator for one query's draws, independent of which other queries there are."""
    digest = hashlib.sha256(query_id.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])


def shuffled_labels(table: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Permute (elo, std_error) together inside each query: the placebo, which keeps every distribution and loses the meaning.

    Args:
        table: columns query_id, doc_id, elo, std_error, sorted by the first two.
        seed: with the query id, the seed of the query's permutation.

    Returns:
        The table with the two label columns permuted within queries.
    """
    source = np.arange(table.height)
    start = 0
    for query_id, n in table.group_by("query_id", maintain_order=True).len().iter_rows():
        source[start : start + n] = start + query_generator(seed, query_id).permutation(n)
        start += n
    labels = table.select("elo", "std_error")[source]
    return table.with_columns(labels["elo"], labels["std_error"])


def with_label(table: pl.DataFrame, transform: str) -> pl.DataFrame:
    """Add `label`, the scaled Elo a loss may see.

    Equation: elo_400 = (elo - 1500) / 400; z = (elo - mean_q) / sd_q; unit = (elo - min_q) / (max_q - min_q); a query whose
    documents all tie has z = unit = 0.
    """
    elo = pl.col("elo")
    if transform == "elo_400":
        return table.with_columns(label=(elo - 1500.0) / 400.0)
    centre, width = (elo.mean(), elo.std(ddof=0)) if transform == "z" else (elo.min(), elo.max() - elo.min())
    scaled = (elo - centre.over("query_id")) / width.over("query_id")
    spread = (elo.max() - elo.min()).over("query_id")
    return table.with_columns(label=pl.when(spread > 0).then(scaled).otherwise(0.0))


def with_gaps(table: pl.DataFrame) -> pl.DataFrame:
    """Add the rank in the query (1 = highest Elo, ties by document id), the gap to the best and the best's standard error."""
    ordered = table.sort("query_id", "elo", "doc_id", descending=[False, True, False])
    return ordered.with_columns(
        elo_rank=pl.int_range(1, pl.len() + 1).over("query_id"),
        gap=pl.col("elo").max().over("query_id") - pl.col("elo"),
        best_error=pl.col("std_error").first().over("query_id"),
    )


def with_roles(table: pl.DataFrame, config: MiningConfig) -> pl.DataFrame:
    """Add role, weight, tier and reason by the positives' rule and the miner."""
    positive = (pl.col("elo_rank") <= config.max_positives) & (pl.col("gap") <= config.positive_window)
    weight, tier, reason = {"elo_gap": by_gap, "lexical": by_lexical_rank, "all": everything}[config.miner](config)
    place = pl.format("positive: rank {} and {} Elo below the best", "elo_rank", pl.col("gap").round(0).cast(pl.Int64))
    first = pl.col("elo_rank") == 1
    return table.with_columns(
        role=pl.when(positive).then(pl.lit("positive")).when(weight > 0).then(pl.lit("negative")).otherwise(pl.lit("unused")),
        weight=pl.when(positive).then(1.0).otherwise(weight),
        tier=pl.when(positive).then(0).otherwise(tier),
        reason=pl.when(first).then(pl.lit("positive: highest Elo of the query")).when(positive).then(place).otherwise(reason),
    )


def by_gap(config: MiningConfig) -> tuple[pl.Expr, pl.Expr, pl.Expr]:
    """Weight, tier and reason of a non-positive by its band of Elo gaps."""
    weight, tier, reason = pl.lit(0.0), pl.lit(0), pl.lit("")
    highs = [band.low for band in config.bands[1:]] + [None]
    for band, high in zip(config.bands, highs, strict=True):
        inside = pl.col("gap") >= band.low
        span = f"Elo gap {band.low:g}-{high:g}" if high is not None else f"Elo gap {band.low:g} or more"
        verdict = f"negative of weight {band.weight:g}" if band.weight else "rejected, may be relevant"
        weight = pl.when(inside).then(band.weight).otherwise(weight)
        tier = pl.when(inside).then(band.tier).otherwise(tier)
        reason = pl.when(inside).then(pl.lit(f"{span}: {verdict}")).otherwise(reason)
    return weight, tier, reason


def by_lexical_rank(config: MiningConfig) -> tuple[pl.Expr, pl.Expr, pl.Expr]:
    """Weight 1 for the documents of the lexical run down to its depth; the tier falls every ten ranks."""
    rank = pl.col("lexical_rank")
    inside = (rank <= config.lexical_depth).fill_null(value=False)
    tier = pl.max_horizontal(4 - (rank - 1) // LEXICAL_TIER_WIDTH, 1)
    reason = pl.when(inside).then(pl.format("lexical rank {}", rank.fill_null(0)))
    outside = pl.lit(f"not among the first {config.lexical_depth} of the lexical run")
    return pl.when(inside).then(1.0).otherwise(0.0), pl.when(inside).then(tier).otherwise(0), reason.otherwise(outside)


def everything(config: MiningConfig) -> tuple[pl.Expr, pl.Expr, pl.Expr]:
    """Weight 1 for every judged document; the tier still tells the band of its gap."""
    _, tier, _ = by_gap(config)
    return pl.lit(1.0), pl.max_horizontal(tier, 1), pl.lit("judged document")


def drop_unusable(table: pl.DataFrame) -> pl.DataFrame:
    """Turn every row of a query that cannot train into `unused`, saying why."""
    role = pl.col("role")
    ties = pl.col("gap").max().over("query_id") == 0
    alone = pl.len().over("query_id") == 1
    bare = ~(role == "negative").any().over("query_id")
    why = (
        pl.when(alone).then(pl.lit("query unused: one judged document only"))
        .when(ties).then(pl.lit("query unused: all documents tie"))
        .otherwise(pl.lit("query unused: no negative; ") + pl.col("reason"))
    )  # fmt: skip
    unusable = alone | ties | bare
    return table.with_columns(
        role=pl.when(unusable).then(pl.lit("unused")).otherwise(role),
        weight=pl.when(unusable).then(0.0).otherwise(pl.col("weight")),
        tier=pl.when(unusable).then(0).otherwise(pl.col("tier")),
        reason=pl.when(unusable).then(why).otherwise(pl.col("reason")),
    )


def with_false_negative(table: pl.DataFrame) -> pl.DataFrame:
    """Add P(this negative beats the best positive); null for documents that are not negatives.

    Equation: Phi(-gap / sqrt(se_d^2 + se_p^2)), the two scores taken as independent normals (their posterior covariance is
    not stored, so this overstates the probability when both were compared with the same documents).
    """
    from scipy.special import ndtr

    gap, width = table["gap"].to_numpy(), np.hypot(table["std_error"].to_numpy(), table["best_error"].to_numpy())
    # A known gap without error is certain: 0 above it, one half at a tie.
    distance = np.divide(gap, width, out=np.where(gap > 0, np.inf, 0.0), where=width > 0)
    chance = pl.Series("p_false_negative", ndtr(-distance))
    return table.with_columns(chance).with_columns(
        p_false_negative=pl.when(pl.col("role") == "negative").then(pl.col("p_false_negative"))
    )
