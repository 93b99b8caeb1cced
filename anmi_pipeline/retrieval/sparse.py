"""Learned sparse retrieval (such as SPLADE).

Belongs here: the sparse run of a dataset. Does not: BM25 (`lexical`). A dataset gives it as a recorded run or leaves it out.
"""

from pathlib import Path

import polars as pl

from anmi_pipeline.retrieval.config import RecordedRunConfig
from anmi_pipeline.retrieval.runs import ConfiguredRun, optional_run


def sparse_run(
    corpus: pl.DataFrame, queries: pl.DataFrame, config: RecordedRunConfig | None, *, data_root: Path | None = None
) -> ConfiguredRun:
    """Sparse run of a dataset, or an empty one that says why.

    Raises:
        InputError: the recorded run does not fit the collection.
    """
    return optional_run("sparse", config, queries, corpus, data_root)
