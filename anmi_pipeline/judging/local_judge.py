"""What judges that run here have in common.

Belongs here: the parts of `Judge` that a judge without an API need not say. Does not: any one judge.
"""

import polars as pl

from anmi_pipeline.judging.call_keys import Settled, call_keys
from anmi_pipeline.judging.judges import JudgeEvidence


class LocalJudge(Settled):
    """What judges that run here have in common: one call per row, no key, nothing to open; the two of `Settled` are its own."""

    folds = False
    late = False
    learns = False

    def keys(self, plan: pl.DataFrame, evidence: JudgeEvidence) -> list[str]:
        """One call key per row."""
        return call_keys(plan, self, evidence)

    def read(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Take the votes as they were filed."""
        return rows.with_columns(weight=pl.lit(1.0))

    def learn(self, judgments: pl.DataFrame) -> None:
        """Nothing to learn from others."""

    async def open(self) -> None:
        """Nothing to open."""

    def stop(self) -> None:
        """Nothing is in flight between two parts."""

    async def close(self) -> None:
        """Nothing to close."""
