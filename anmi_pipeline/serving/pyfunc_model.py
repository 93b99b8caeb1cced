"""The search model as MLflow loads it: models-from-code, so this file itself is logged as the model.

Belongs here: the pyfunc that answers from the artifact `package`. Does not: writing the package (`package.py`) or logging
(`registration.py`). Running this file registers the model with MLflow; that is what MLflow expects of it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from anmi_pipeline.serving.config import DEFAULT_HITS, HIT_COLUMNS
from anmi_pipeline.serving.pipeline import SearchPipeline


def answer(pipeline: SearchPipeline, model_input: pd.DataFrame | list[str], params: Mapping[str, Any] | None) -> pd.DataFrame:
    """Answer every query of the input.

    Args:
        pipeline: loaded package.
        model_input: frame with the column `query` (and `group` for packages of scope group), or a list of queries.
        params: `k`, hits per query (10).

    Returns:
        Frame with one row per hit, columns HIT_COLUMNS, queries in the order given; a query without an answer has no row.
    """
    frame = model_input if isinstance(model_input, pd.DataFrame) else pd.DataFrame({"query": model_input})
    k = int((params or {}).get("k", DEFAULT_HITS))
    groups = frame["group"].tolist() if "group" in frame.columns else [None] * len(frame)
    rows = [
        (query, hit.rank, hit.doc_id, hit.title, hit.score, hit.snippet)
        for query, group in zip(frame["query"].tolist(), groups, strict=True)
        for hit in pipeline.search(query, k, group)
    ]
    return pd.DataFrame.from_records(rows, columns=list(HIT_COLUMNS))


def register() -> None:
    """Tell MLflow which model this file holds."""
    from mlflow.models import set_model
    from mlflow.pyfunc.model import PythonModel, PythonModelContext

    class SearchModel(PythonModel):
        """Answers queries from a search package."""

        def load_context(self, context: PythonModelContext) -> None:
            """Load the package once, when MLflow loads the model."""
            self.pipeline = SearchPipeline.load(Path(context.artifacts["package"]))

        def predict(  # pyright: ignore[reportIncompatibleMethodOverride]  MLflow's stub says that the base returns None
            self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
        ) -> pd.DataFrame:
            """Answer; see `answer`."""
            return answer(self.pipeline, model_input, params)

    set_model(SearchModel())


register()
