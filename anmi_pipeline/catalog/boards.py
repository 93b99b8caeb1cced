"""Stored results of a dataset for people: its leaderboard and its search package.

Belongs here: reading them back by name. Does not: making them.
"""

from collections.abc import Sequence
from pathlib import Path

from anmi_pipeline import tables
from anmi_pipeline.catalog.datasets import load_dataset
from anmi_pipeline.errors import ArtifactError, InputError, nearest
from anmi_pipeline.evaluation.leaderboard import Leaderboard
from anmi_pipeline.evaluation.presentation import render_table
from anmi_pipeline.records import Records
from anmi_pipeline.settings import Settings
from anmi_pipeline.store import Store

SHOWN_METRICS = ("nDCG@10", "MRR@10", "Recall@100")
PACKAGE = "package"


def stored_board(dataset: str, settings: Settings) -> Leaderboard:
    """The leaderboard of a dataset as it was last materialised.

    Raises:
        InputError: no such dataset.
        ArtifactError: it has no leaderboard yet.
    """
    load_dataset(dataset, settings.conf)
    _, artifact = Records(Store(settings.store_url)).require("leaderboard", dataset)
    facts = artifact.facts
    systems = facts["systems"]
    return Leaderboard(
        metrics=artifact.table(tables.METRICS),
        per_query=artifact.table(tables.PER_QUERY),
        contrasts=artifact.table(tables.CONTRASTS),
        systems=tuple(str(name) for name in systems) if isinstance(systems, list) else (),
        reason=str(facts["no_labels"]),
    )


def board_tables(
    board: Leaderboard, split: str | None = None, metrics: Sequence[str] = SHOWN_METRICS
) -> list[tuple[str, list[dict[str, str]]]]:
    """(title, rows) of every query set: the raw board, the tuned board, the paired contrasts.

    Raises:
        InputError: the board has no query set of that name.
    """
    known = sorted(board.metrics["split"].unique())
    if split is not None and split not in known:
        raise InputError(f'the leaderboard has no query set "{split}".{nearest(split, known)}')
    sets = [split] if split is not None else known
    shown: list[tuple[str, list[dict[str, str]]]] = []
    for name in sets:
        shown.append((f"{name}: fixed inference settings", render_table(board, name, metrics)))
        shown.append((f"{name}: tuned inference settings", render_table(board, name, metrics, "tuned")))
        shown.append((f"{name}: nDCG@10 difference, 95 % paired bootstrap", contrast_rows(board, name)))
    return shown


def contrast_rows(board: Leaderboard, split: str) -> list[dict[str, str]]:
    """The paired differences of one query set, signed figures with intervals."""
    rows = board.contrasts.to_dicts()
    return [
        {
            "system": row["system"],
            "against": row["baseline"],
            "difference": f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]",
            "p (Holm)": f"{row['p_value']:.4f}",
            "queries": str(row["n_queries"]),
        }
        for row in rows
        if row["split"] == split and row["metric"] == SHOWN_METRICS[0]
    ]


def search_package(dataset: str, settings: Settings) -> Path:
    """Local folder of a dataset's search package.

    Raises:
        InputError: no such dataset.
        ArtifactError: it has no search model, or an empty one; says why.
    """
    load_dataset(dataset, settings.conf)
    _, artifact = Records(Store(settings.store_url)).require("search_model", dataset)
    if "empty_because" in artifact.facts:
        raise ArtifactError(f"dataset {dataset} has no search model: {artifact.facts['empty_because']}.")
    return artifact.local_folder(settings.home / "cache") / PACKAGE
