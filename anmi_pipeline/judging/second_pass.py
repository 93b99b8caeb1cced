"""The second pass: pairs about which the pairwise model and the fit disagree where it matters, worth a verdict that costs money.

Belongs here: the choice, and keeping it through a kill. Does not: the value of a disagreement (`audit_queue.py`), buying
verdicts, training again.
"""

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from anmi_pipeline.errors import ArtifactError, InputError
from anmi_pipeline.judging.audit_queue import QUEUE, valued
from anmi_pipeline.judging.beliefs import QueryBelief
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.distil_config import DISTILLED
from anmi_pipeline.judging.plan import plan_pairs
from anmi_pipeline.rating.comparisons import PAIR
from anmi_pipeline.tables import PLAN

BOUGHT = 100
"""Round of the verdicts that a second pass buys: beyond every round of a plan."""


def second_pass_pairs(
    student: pl.DataFrame, beliefs: Iterable[QueryBelief], asked: pl.DataFrame, count: int, weight: float = 1.0
) -> pl.DataFrame:
    """Choose the pairs whose verdict pays the most.

    Equation: as `audit_queue.audit_queue`, value = disagreement * discount * effect, the two voices being the pairwise model and
    the fit of the judges' verdicts: bits between them, times the rank discounts of both documents, times the share of the top 10
    that one verdict against the fit would move.

    Args:
        student: query_id, doc_i, doc_j, p = P(doc_i wins) of the pairs that the model judged.
        beliefs: `beliefs.query_beliefs` of the judges' verdicts.
        asked: query_id, doc_i, doc_j of every pair that a judge was asked about, answered or not; none of them is chosen.
        count: most pairs.
        weight: evidence in a verdict.

    Returns:
        query_id, doc_i, doc_j, the most valuable first; pairs without any disagreement are left out.

    Raises:
        InputError: a count below 1, or a pair of a document that no fit has scored.
    """
    if count < 1:
        raise InputError(f"a second pass of {count} pairs was asked for; ask for 1 or more, or for none at all.")
    said = pl.format("{}: {}", pl.lit(DISTILLED), pl.col("p").round(3))
    fresh = student.join(asked.select(PAIR), on=PAIR, how="anti").sort(PAIR)
    voices = fresh.select(*PAIR, p=pl.concat_list("p"), judges=said).partition_by("query_id", as_dict=True)
    parts = [pl.DataFrame(schema=QUEUE)]
    for belief in beliefs:
        own = voices.get((belief.query_id,))
        if own is not None and len(belief.documents) > 1:
            parts.append(valued(own, belief, weight))
    queue = pl.concat(parts).filter(pl.col("disagreement") > 0)
    order = [pl.col("value"), pl.col("disagreement") * pl.col("discount"), *(pl.col(name) for name in PAIR)]
    return queue.sort(order, descending=[True, True, False, False, False]).head(count).select(PAIR)


def plan_second_pass(
    student: pl.DataFrame,
    beliefs: Iterable[QueryBelief],
    asked: pl.DataFrame,
    calls: int,
    judging: JudgingConfig,
    seed: int,
) -> pl.DataFrame:
    """Plan the second pass: each chosen pair once per vote, in a random order, none audited.

    Args:
        student: as `second_pass_pairs`.
        beliefs: as `second_pass_pairs`.
        asked: as `second_pass_pairs`.
        calls: most calls; a pair takes `judging.votes_per_pair`.
        judging: judges and votes.
        seed: seed of the dataset.

    Returns:
        PLAN frame, its round BOUGHT.
    """
    pairs = calls // judging.votes_per_pair
    chosen = second_pass_pairs(student, beliefs, asked, pairs) if pairs else student.select(PAIR).clear()
    return plan_pairs(chosen, judging.model_copy(update={"audit_share": 0.0}), seed, BOUGHT)


def kept_plan(path: Path) -> pl.DataFrame | None:
    """The plan that a killed build had made; None when there is none.

    A GPU need not train the same weights again, and other weights would choose other pairs and pay twice.

    Raises:
        ArtifactError: the file is no plan.
    """
    if not path.is_file():
        return None
    try:
        return PLAN.validate(pl.read_parquet(path))
    except (OSError, pl.exceptions.PolarsError, InputError) as error:
        raise ArtifactError(f"{path} should hold the plan of a second pass but cannot be read: {error} Delete it.") from error


def keep_plan(path: Path, plan: pl.DataFrame) -> None:
    """Write a plan whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    plan.write_parquet(draft)
    draft.replace(path)
