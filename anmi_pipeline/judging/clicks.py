"""Clicks as a judge: click logs become comparisons, without a call of any LLM.

Belongs here: reading logs, preferences with their position bias taken out. Does not: the click model (`propensities.py`), adding
comparisons to an Elo table (`rating/online.py`). Clicks measure what attracts a searcher in a result list, which is not quite
relevance; they are marked by the judge `clicks` wherever they show.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import polars as pl
from pydantic import Field

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.propensities import Estimator, Propensities, fit_propensities
from anmi_pipeline.rating.graphs import Floats
from anmi_pipeline.settings import Config

CLICKS = {
    "impression": pl.String(),  # one ranking shown to one person
    "query_id": pl.String(),
    "doc_id": pl.String(),
    "position": pl.Int64(),  # from 1
    "clicked": pl.Boolean(),
    "dwell_s": pl.Float64(),  # seconds until the searcher came back; null when not known
}
"""Columns of a click log: one row per document shown."""

COMPARED = {
    "query_id": pl.String(),
    "doc_i": pl.String(),
    "doc_j": pl.String(),
    "preference": pl.Float64(),
    "weight": pl.Float64(),
    "n_verdicts": pl.Int64(),
}
"""Columns of click comparisons, as `rating.online.update` takes them."""

BLOCK_ROWS = 200_000
"""Rows of the log whose pairs are formed at once."""
MOST_COMPLAINTS = 20


class ClickConfig(Config):
    """How clicks are read."""

    min_dwell_s: float = Field(
        default=0.0,
        ge=0,
        description="a click whose known dwell is shorter counts as a look that rejected the document, not as a preference",
    )
    evidence: float = Field(
        default=0.2,
        gt=0,
        description="weight of one observed preference, in verdicts; below 1, because the pairs of one click are not independent",
    )
    min_weight: float = Field(default=0.2, ge=0, description="comparisons with less evidence are left out")
    examination: tuple[float, ...] | None = Field(
        default=None,
        description="P(looked at) by position, relative to the first, where it is known; null: estimated from the log, which "
        "takes rankings that change",
    )
    estimator: Estimator = Field(default="ratios", description="how examination is estimated")
    attraction_prior: float = Field(default=1.0, ge=0, description="pseudo-impressions behind each document's attraction")


@dataclass(frozen=True)
class ClickEvidence:
    """What a log says.

    Attributes:
        comparisons: COMPARED columns, sorted.
        propensities: the click model.
        impressions: rankings shown.
        clicks: documents clicked.
        left_out: documents shown at positions whose examination the log cannot tell.
    """

    comparisons: pl.DataFrame
    propensities: Propensities
    impressions: int
    clicks: int
    left_out: int


def click_comparisons(log: pl.DataFrame, config: ClickConfig) -> ClickEvidence:
    """Turn a click log into comparisons.

    Skip-above (Joachims, KDD 2002) prefers a clicked document to those above it that were not clicked. Taken alone it can only
    ever contradict the ranking that was shown. Here its mirror counts too, a clicked document against one below that was looked
    at and not clicked, and each pair counts by the probability that the unclicked one was looked at.

    Equation: with t examination, g attraction, won = a satisfied click, lost = (not clicked) * t (1 - g) / (1 - t g) + (clicked,
    not satisfied): A = sum over impressions of won_i lost_j, B = sum of won_j lost_i; preference = A / (A + B), weight =
    evidence * (A + B). In the position-based model E[won_i lost_j] = t_i t_j g_i (1 - g_j): both directions carry the same
    examination, whatever the positions, so the preference estimates g_i (1 - g_j) / (g_i (1 - g_j) + g_j (1 - g_i)): logistic in
    logit g, a Bradley-Terry scale.

    Args:
        log: CLICKS frame.
        config: how clicks are read.

    Raises:
        InputError: a log that breaks the rules of CLICKS, or whose ranking never changes, so that positions cannot be told apart.
    """
    check_log(log)
    model = known_model(log, config) if config.examination is not None else estimated_model(log, config)
    positions = np.flatnonzero(model.identified) + 1
    usable = log.filter(pl.col("position").is_in(positions))
    votes = sides(usable, model, config)
    parts = [pl.DataFrame(schema=COMPARED)]
    parts += [paired(block) for block in blocks(votes)]
    sums = (
        pl.concat(parts)
        .group_by("query_id", "doc_i", "doc_j")
        .agg(pl.col("preference").sum(), pl.col("weight").sum(), pl.col("n_verdicts").sum())
    )
    comparisons = sums.with_columns(
        preference=(pl.col("preference") / pl.col("weight")).clip(0.0, 1.0), weight=config.evidence * pl.col("weight")
    ).filter(pl.col("weight") >= config.min_weight)
    return ClickEvidence(
        comparisons.sort("query_id", "doc_i", "doc_j"), model, log["impression"].n_unique(), int(log["clicked"].sum()),
        log.height - usable.height,
    )  # fmt: skip


def check_log(log: pl.DataFrame) -> None:
    """Refuse a log that breaks the rules of CLICKS.

    Raises:
        InputError: other columns, a position below 1 or taken twice, or a document twice in one ranking.
    """
    if dict(log.schema) != CLICKS:
        raise InputError(f"the click log has columns {dict(log.schema)}, expected {CLICKS}.")
    if log.is_empty():
        raise InputError("the click log is empty.")
    low = log.filter((pl.col("position") < 1) | pl.any_horizontal(pl.exclude("dwell_s").is_null()))
    if low.height:
        raise InputError(
            f"{low.height} row(s) of the click log lack a value or have a position below 1, first: {low.row(0, named=True)}."
        )
    for column in ("position", "doc_id"):
        twice = log.filter(log.select("impression", column).is_duplicated())
        if twice.height:
            row = twice.row(0, named=True)
            raise InputError(f'impression "{row["impression"]}" of the click log has {column} {row[column]} twice.')


def known_model(log: pl.DataFrame, config: ClickConfig) -> Propensities:
    """The click model with examination as it was given."""
    given = np.array(config.examination or (), dtype=np.float64)
    if not len(given) or not ((given > 0) & (given <= 1)).all():
        raise InputError(f"examination is {config.examination}; give one number in (0, 1] per position, 1 for the first.")
    return fit_propensities(log, prior=config.attraction_prior, examination=given)


def estimated_model(log: pl.DataFrame, config: ClickConfig) -> Propensities:
    """The click model as the log gives it."""
    model = fit_propensities(log, estimator=config.estimator, prior=config.attraction_prior)
    if model.identified.sum() < min(2, len(model.identified)):
        raise InputError(
            "the rankings of the click log never change: no clicked document was shown at two positions, so what a position does "
            "cannot be told from what a document does. Give `examination` by position, or log a while with neighbours swapped at "
            "random."
        )
    return model


def sides(log: pl.DataFrame, model: Propensities, config: ClickConfig) -> pl.DataFrame:
    """What each document shown can count for: impression, query_id, doc_id, won, lost; impressions with a click only."""
    joined = log.join(
        model.attraction.select("query_id", "doc_id", "attraction"), on=["query_id", "doc_id"], how="left", maintain_order="left"
    )
    t, g = model.examination[joined["position"].to_numpy() - 1], joined["attraction"].to_numpy()
    clicked = joined["clicked"].to_numpy()
    short = (joined["dwell_s"] < config.min_dwell_s).fill_null(False).to_numpy()
    looked = looked_at(t, g)
    won = (clicked & ~short).astype(np.float64)
    votes = joined.select("impression", "query_id", "doc_id").with_columns(
        won=pl.Series(won), lost=pl.Series(np.where(clicked, short.astype(np.float64), looked))
    )
    return votes.filter(pl.col("won").max().over("impression") > 0).sort("query_id", "impression", "doc_id")


def looked_at(t: Floats, g: Floats) -> Floats:
    """P(a document that was not clicked was examined): t (1 - g) / (1 - t g); 1 where the position is always examined."""
    unclicked = 1 - t * g
    return np.where(unclicked > 1e-9, t * (1 - g) / np.maximum(unclicked, 1e-9), 1.0)


def blocks(votes: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Cut sorted rows into parts of whole impressions."""
    starts = votes["impression"].rle_id()
    at = 0
    while at < votes.height:
        end = min(at + BLOCK_ROWS, votes.height)
        while end < votes.height and starts[end] == starts[end - 1]:
            end += 1
        yield votes[at:end]
        at = end


def paired(votes: pl.DataFrame) -> pl.DataFrame:
    """COMPARED sums of one part: `preference` holds A, `weight` A + B."""
    keys = ["impression", "query_id"]
    pairs = votes.join(votes, on=keys, how="inner", suffix="_j").filter(pl.col("doc_id") < pl.col("doc_id_j"))
    a, b = pl.col("won") * pl.col("lost_j"), pl.col("won_j") * pl.col("lost")
    told = pairs.select("query_id", doc_i="doc_id", doc_j="doc_id_j", a=a, both=a + b).filter(pl.col("both") > 0)
    return told.group_by("query_id", "doc_i", "doc_j").agg(
        preference=pl.col("a").sum(), weight=pl.col("both").sum(), n_verdicts=pl.len().cast(pl.Int64())
    )


def read_click_log(path: Path) -> pl.DataFrame:
    """Read a click log.

    `.jsonl`: one ranking per line: {"query_id": "q", "ranking": ["d3", "d1"], "clicks": [{"doc_id": "d1", "dwell_s": 40}]}; a
    click may be the document id alone, "impression" names the line, else its number does. `.csv` and `.parquet`: the columns
    of CLICKS, dwell_s optional.

    Raises:
        InputError: the file is absent or of another kind, or lines are wrong: all of them are named, up to 20.
    """
    if not path.is_file():
        raise InputError(f"click log {path} does not exist.")
    if path.suffix == ".jsonl":
        return read_rankings(path)
    if path.suffix not in (".csv", ".parquet"):
        raise InputError(f"click log {path} is of kind {path.suffix!r}; .jsonl, .csv and .parquet are read.")
    try:
        rows = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"click log {path} cannot be read: {error}") from error
    absent = [name for name in CLICKS if name not in rows.columns and name != "dwell_s"]
    if absent:
        raise InputError(f"click log {path} lacks column(s) {', '.join(absent)}; it has {', '.join(rows.columns)}.")
    if "dwell_s" not in rows.columns:
        rows = rows.with_columns(dwell_s=pl.lit(None))
    if rows.schema["clicked"] == pl.String():
        words = {"1": True, "true": True, "0": False, "false": False}
        rows = rows.with_columns(
            pl.col("clicked").str.to_lowercase().replace_strict(words, default=None, return_dtype=pl.Boolean())
        )
    try:
        shaped = rows.select(pl.col(name).cast(dtype) for name, dtype in CLICKS.items())
    except pl.exceptions.PolarsError as error:
        raise InputError(f"click log {path}: a value does not fit its column: {error}") from error
    check_log(shaped)
    return shaped


def read_rankings(path: Path) -> pl.DataFrame:
    """Read a log with one ranking per line."""
    rows: list[tuple[str, str, str, int, bool, float | None]] = []
    complaints: list[str] = []
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                rows.extend(ranking(json.loads(line), number))
            except (ValueError, RecursionError) as error:
                complaints.append(f"line {number}: {error}")
    if complaints:
        more = f" and {len(complaints) - MOST_COMPLAINTS} more" if len(complaints) > MOST_COMPLAINTS else ""
        raise InputError(
            f"click log {path} has {len(complaints)} wrong line(s): {'; '.join(complaints[:MOST_COMPLAINTS])}{more}."
        )
    log = pl.DataFrame(rows, schema=CLICKS, orient="row")
    check_log(log)
    return log


def ranking(value: object, number: int) -> list[tuple[str, str, str, int, bool, float | None]]:
    """Rows of one ranking.

    Raises:
        ValueError: says what is wrong with it.
    """
    fields = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    query, shown, clicks = fields.get("query_id"), fields.get("ranking"), fields.get("clicks", [])
    if not isinstance(query, str) or not isinstance(shown, list) or not isinstance(clicks, list):
        raise ValueError("needs query_id (a text), ranking (a list of document ids) and clicks (a list)")
    documents = cast("list[object]", shown)
    if not all(isinstance(doc, str) for doc in documents) or len(set(documents)) < len(documents):
        raise ValueError("ranking must hold document ids, each once")
    dwell = dict(click(one) for one in cast("list[object]", clicks))
    lost = sorted(set(dwell) - set(documents))
    if lost:
        raise ValueError(f'clicked document "{lost[0]}" is not in the ranking')
    name = str(fields.get("impression", number))
    return [
        (name, query, str(doc), position, doc in dwell, dwell.get(str(doc))) for position, doc in enumerate(documents, start=1)
    ]


def click(value: object) -> tuple[str, float | None]:
    """Document and dwell of one click."""
    if isinstance(value, str):
        return value, None
    fields = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    document, dwell = fields.get("doc_id"), fields.get("dwell_s")
    seconds = float(dwell) if isinstance(dwell, (int, float)) and not isinstance(dwell, bool) else None
    if not isinstance(document, str) or (dwell is not None and (seconds is None or not seconds >= 0)):
        raise ValueError(f"click {value!r} is neither a document id nor an object with doc_id and dwell_s (seconds)")
    return document, seconds
