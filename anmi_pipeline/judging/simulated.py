"""The simulated judge: human grades with a stated error rate. Its verdicts are marked simulated wherever they show.

Belongs here: the law of its answers and its draws. Does not: any claim about real judges.
"""

import hashlib
from collections.abc import AsyncGenerator, Sequence

import numpy as np
import polars as pl

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.call_keys import text_digest
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.evidence import judged_pool, pair_rows, scores_or_nan, within_query_z
from anmi_pipeline.judging.judge_configs import SimulatedJudge
from anmi_pipeline.judging.judges import CallSettings, JudgeEvidence
from anmi_pipeline.judging.local_judge import LocalJudge
from anmi_pipeline.judging.verdicts import verdicts

VERSION = 1


class Simulated(LocalJudge):
    """Answers each ordered pair with one 0/1 outcome, drawn as a pure function of seed, judge and pair."""

    chunk = 20_000

    def __init__(self, settings: SimulatedJudge, evidence: JudgeEvidence, config: JudgingConfig, seed: int) -> None:
        """Look up grades and standardise the fused scores once.

        Raises:
            InputError: the dataset has no grades.
        """
        if evidence.qrels is None or not evidence.qrels.height:
            raise InputError(
                f'judge "{settings.name}" is simulated from human grades, but the dataset has no qrels. Choose another judge.'
            )
        self._settings = settings
        self._seed = seed
        pool = judged_pool(evidence.pool, config)
        self._documents = pool.select("query_id", "doc_id")
        grades = self._documents.join(evidence.qrels, on=["query_id", "doc_id"], how="left", maintain_order="left")["grade"]
        self._grades = grades.fill_null(0).to_numpy()
        self._z = within_query_z(pool["query_id"], scores_or_nan(pool, "rrf_pool_score"))

    @property
    def name(self) -> str:
        """Judge id."""
        return self._settings.name

    def settings(self, judge_id: str) -> CallSettings:
        """Error rate, slope and the seed of the draws."""
        sampling = {**self._settings.model_dump(mode="json", exclude={"name", "kind", "weight"}), "seed": self._seed}
        return CallSettings(judge=judge_id, endpoint="local", model=f"simulated-{VERSION}", sampling=sampling)

    def context(self, calls: pl.DataFrame) -> Sequence[bytes]:
        """The probability of the outcome (float64) and the ids, which the draw depends on."""
        probabilities = self.probability(calls)
        pairs = calls.select("query_id", "first_id", "second_id").iter_rows()
        return [p.tobytes() + pair_bytes(*pair) for p, pair in zip(probabilities, pairs, strict=True)]

    async def answer(self, calls: pl.DataFrame) -> AsyncGenerator[pl.DataFrame]:
        """Answer all calls at once."""
        won = self.uniform(calls) < self.probability(calls)
        yield verdicts(calls, won.astype(np.float64), "simulated")

    def probability(self, calls: pl.DataFrame) -> np.ndarray:
        """P(first wins) of each call.

        Equation: 1 - e if grade(first) > grade(second), e if lower, .5 + t * tanh(z_first - z_second) if equal; e the error
        rate (.15), t the tie slope (.1), z the RRF score standardised within the query's judged pool, ungraded = 0.

        Returns:
            (n,) probabilities.
        """
        first, second = pair_rows(calls, self._documents)
        error, slope = self._settings.error_rate, self._settings.tie_slope
        difference = self._grades[first] - self._grades[second]
        tied = 0.5 + slope * np.tanh(self._z[first] - self._z[second])
        return np.where(difference > 0, 1.0 - error, np.where(difference < 0, error, tied))

    def uniform(self, calls: pl.DataFrame) -> np.ndarray:
        """Draw one number in [0, 1) for each ordered pair: the top 53 bits of a sha256 of seed, judge, query and ids.

        A hash and not a generator: the draw of a pair must not depend on which other pairs are asked, or in which order.
        """
        head = text_digest(str(self._seed), self._settings.name)
        pairs = calls.select("query_id", "first_id", "second_id").iter_rows()
        sha256 = hashlib.sha256
        bits = np.frombuffer(b"".join(sha256(head + pair_bytes(*pair)).digest()[:8] for pair in pairs), dtype="<u8")
        return (bits >> np.uint64(11)) * 2.0**-53


def pair_bytes(query_id: str, first_id: str, second_id: str) -> bytes:
    """Write an ordered pair so that no two pairs give equal bytes (lengths in front)."""
    return f"{len(query_id)},{len(first_id)}:{query_id}{first_id}{second_id}".encode()
