"""Late-interaction retrieval (such as ColBERT).

Belongs here: the late-interaction run of a dataset. Does not: single-vector search (`dense`). A dataset gives it as a recorded
run or leaves it out.
"""

from pathlib import Path

import polars as pl

from anmi_pipeline.retrieval.config import RecordedRunConfig
from anmi_pipeline.retrieval.runs import ConfiguredRun, optional_run


def late_interaction_run(
    corpus: pl.DataFrame, queries: pl.DataFrame, config: RecordedRunConfig | None, *, data_root: Path | None = None
) -> ConfiguredRun:
    """Late-interaction run of a dataset, or an empty one that says why.

    Raises:
        InputError: the recorded run does not fit the collection.
    """
    return optional_run("late_interaction", config, queries, corpus, data_root)
