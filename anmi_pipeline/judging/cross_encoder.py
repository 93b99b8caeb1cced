"""The cross-encoder judge: a pair's probability out of a reranker's two scores, through a fitted scale.

Belongs here: the judge, its scale. Does not: loading and running rerankers (`reranking/cross_encoder.py`), training them.
"""

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.distil_config import CrossEncoderSettings
from anmi_pipeline.judging.judges import CallSettings, JudgeEvidence
from anmi_pipeline.judging.local_judge import LocalJudge
from anmi_pipeline.judging.verdicts import OK, verdicts
from anmi_pipeline.rating.comparisons import PAIR, weighted_comparisons
from anmi_pipeline.rating.graphs import Floats
from anmi_pipeline.reranking.cross_encoder import CrossEncoder, load_cross_encoder
from anmi_pipeline.retrieval.lexical import document_texts
from anmi_pipeline.retrieval.weights import folder_digest, resolve_model

DECIMALS = 5
"""Decimals of a score on record: its last bits depend on the machine."""
LOG_RANGE = 8.0
"""The scale is sought within a factor exp(8) of the root mean square of the score differences."""


class CrossEncoderJudge(LocalJudge):
    """Answers from one score per document: P = Phi((s_first - s_second) / scale).

    The ledger keeps the two scores, and the scale is applied when they are read: another scale asks nothing and scores nothing
    again. Scores depend on weights and texts, which the call key covers, so a finished study is read without loading the model.

    The scale is, in this order: the configured one; the one under which verdicts of other judges about the same pairs are the
    most probable, where such verdicts are given; else sqrt(2) times the pooled standard deviation of the scores within their
    queries, under which two documents drawn from a query differ by one probit unit, root mean square. The last two depend on the
    pairs that are read first, and are frozen then, so that later rounds and queries move no verdict.
    """

    learns = True

    chunk = 5_000

    def __init__(
        self,
        name: str,
        settings: CrossEncoderSettings,
        evidence: JudgeEvidence,
        config: JudgingConfig,
        fitted: pl.DataFrame | None = None,
        freeze: Callable[[float], float] = lambda scale: scale,
    ) -> None:
        """Keep the texts.

        Args:
            name: judge id.
            settings: model, tokens, scale.
            evidence: the texts.
            config: weights of the other judges.
            fitted: JUDGMENTS frame of other judges, from which the scale may be fitted.
            freeze: puts an estimated scale on record and returns the one that was there first.

        Raises:
            InputError: the model cannot be found.
        """
        self._name = name
        self._settings = settings
        self._queries: dict[str, str] = dict(evidence.queries.select("query_id", "text").iter_rows())
        self._corpus = evidence.corpus
        self._config = config
        self._verdicts = fitted
        self._freeze = freeze
        self._frozen: float | None = settings.scale
        self._place = resolve_model(settings.model, settings.revision)
        self._encoder: CrossEncoder | None = None
        self._scores: dict[tuple[str, str], float] = {}

    @property
    def name(self) -> str:
        """Judge id."""
        return self._name

    def settings(self, judge_id: str) -> CallSettings:
        """Weights and tokens; not the scale, which is applied when an answer is read."""
        local = Path(self._place).is_dir()
        weights = folder_digest(Path(self._place)) if local else f"{self._place}@{self._settings.revision}"
        sampling = {"max_tokens": self._settings.max_tokens}
        return CallSettings(judge=judge_id, endpoint="local", model=f"cross-encoder-{weights}", sampling=sampling)

    def context(self, calls: pl.DataFrame) -> Sequence[bytes] | None:
        """Texts and model say everything."""
        return None

    async def answer(self, calls: pl.DataFrame) -> AsyncGenerator[pl.DataFrame]:
        """Score the documents of the calls, each once."""
        self.score(calls)
        sides = [
            np.array([self._scores[pair] for pair in calls.select("query_id", side).iter_rows()])
            for side in ("first_id", "second_id")
        ]
        raw = pl.Series([json.dumps([a, b]) for a, b in zip(*(side.tolist() for side in sides), strict=True)], dtype=pl.String())
        # Without a scale there is no probability yet: `read` makes it from the scores of all pairs together.
        yield verdicts(calls, probabilities(sides[0] - sides[1], self._settings.scale or 1.0), "model", raw_answer=raw)

    def read(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Make probabilities of the scores on record."""
        answered = rows.with_columns(weight=pl.lit(1.0))
        if not rows.height:
            return answered
        parsed = rows["raw_answer"].str.json_decode(pl.List(pl.Float64()))
        first, second = (parsed.list.get(side).to_numpy() for side in (0, 1))
        p = probabilities(first - second, self.scale(rows, first, second))
        return answered.with_columns(p_first=pl.when(pl.col("status") == OK).then(pl.Series(p)).otherwise(None))

    def score(self, calls: pl.DataFrame) -> None:
        """Score what has no score yet."""
        sides = [calls.select("query_id", doc_id=side) for side in ("first_id", "second_id")]
        wanted = [pair for pair in pl.concat(sides).unique().sort("query_id", "doc_id").iter_rows() if pair not in self._scores]
        if not wanted:
            return
        corpus = self._corpus.filter(pl.col("doc_id").is_in(sorted({document for _, document in wanted})))
        texts = dict(zip(corpus["doc_id"].to_list(), document_texts(corpus), strict=True))
        found = self.encoder().score(
            [(self._queries[query], texts[document]) for query, document in wanted], self._settings.batch_tokens
        )
        self._scores |= dict(zip(wanted, np.round(found.astype(np.float64), DECIMALS).tolist(), strict=True))

    def encoder(self) -> CrossEncoder:
        """The reranker, loaded on first use.

        Raises:
            InputError: it cannot be loaded, or it was never trained to rank.
        """
        if self._encoder is None:
            self._encoder = load_cross_encoder(self._settings.model, self._settings.max_tokens, self._settings.revision)
            refuse_without_head(self._place, self._settings)
        return self._encoder

    def learn(self, judgments: pl.DataFrame) -> None:
        """Take the verdicts of the other judges: the scale is fitted where they are about the same pairs."""
        self._verdicts = judgments

    def scale(self, rows: pl.DataFrame, first: Floats, second: Floats) -> float:
        """The scale: configured, or estimated from the pairs that are read first."""
        if self._frozen is None:
            self._frozen = self._freeze(self.estimated(rows, first, second))
        return self._frozen

    def estimated(self, rows: pl.DataFrame, first: Floats, second: Floats) -> float:
        """The scale of these pairs: fitted to other judges' verdicts, or from the spread of the scores."""
        if self._verdicts is not None and self._verdicts.height:
            own = rows.select("query_id", "first_id", "second_id").with_columns(gap=pl.Series(first - second))
            known = weighted_comparisons(self._verdicts.filter(pl.col("judge") != self._name), self._config.weights)
            swapped = pl.col("first_id") > pl.col("second_id")
            both = own.select(
                "query_id",
                doc_i=pl.min_horizontal("first_id", "second_id"),
                doc_j=pl.max_horizontal("first_id", "second_id"),
                gap=pl.when(swapped).then(-pl.col("gap")).otherwise("gap"),
            ).unique(PAIR, keep="first", maintain_order=True).join(known, on=PAIR, how="inner").sort(PAIR)  # fmt: skip
            if both.height:
                return fit_scale(*(both[name].to_numpy() for name in ("gap", "preference", "weight")))
        scores = pl.concat([
            rows.select("query_id", doc_id=side).with_columns(score=pl.Series(values))
            for side, values in (("first_id", first), ("second_id", second))
        ]).unique(["query_id", "doc_id"], keep="first", maintain_order=True)  # fmt: skip
        return spread_scale(scores)


def probabilities(gap: Floats, scale: float) -> Floats:
    """(n,) Phi(gap / scale)."""
    from scipy.special import ndtr

    return np.asarray(ndtr(gap / scale), dtype=np.float64)


def fit_scale(gap: Floats, preference: Floats, weight: Floats) -> float:
    """The scale under which verdicts are the most probable.

    Equation: argmax over s > 0 of the sum of w [p log Phi(d / s) + (1 - p) log Phi(-d / s)], d the difference of the scores.

    Args:
        gap: (m,) score of the first document minus that of the second.
        preference: (m,) folded probability that the first is preferred.
        weight: (m,) evidence, in verdicts.

    Returns:
        The scale; 1 where no scores differ: every verdict is then a tie, whatever the scale.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_ndtr

    typical = float(np.sqrt(np.mean(gap**2))) if len(gap) else 0.0
    if typical <= 0:
        return 1.0

    def misfit(log_scale: float) -> float:
        d = gap / (typical * np.exp(log_scale))
        return -float(np.sum(weight * (preference * log_ndtr(d) + (1 - preference) * log_ndtr(-d))))

    found = minimize_scalar(misfit, bounds=(-LOG_RANGE, LOG_RANGE), method="bounded", options={"xatol": 1e-8})
    return typical * float(np.exp(found.x))


def spread_scale(scores: pl.DataFrame) -> float:
    """Scale from the scores alone: sqrt(2) times their standard deviation within queries, pooled.

    Args:
        scores: query_id, doc_id, score.

    Returns:
        The scale; 1 where no scores differ.
    """
    centred = scores.select((pl.col("score") - pl.col("score").mean().over("query_id")) ** 2).to_series()
    freedom = scores.height - scores["query_id"].n_unique()
    pooled = float(centred.sum()) / freedom if freedom > 0 else 0.0
    return float(np.sqrt(2 * pooled)) if pooled > 0 else 1.0


def refuse_without_head(place: str, settings: CrossEncoderSettings) -> None:
    """Refuse weights without a scoring layer: a new, random one would be put on them, and its verdicts would be noise.

    Raises:
        InputError: no tensor of the file belongs to a scoring layer.
    """
    from safetensors import safe_open
    from transformers.utils.hub import cached_file

    folder = Path(place)
    if not folder.is_dir():
        found = cached_file(place, "config.json", revision=settings.revision)
        folder = Path(found).parent if found else folder
    files = sorted(folder.glob("*.safetensors"))
    names: list[str] = []
    for file in files:
        with safe_open(file, framework="np") as stored:
            names += list(stored.keys())
    if files and not any(name.split(".")[0] in ("classifier", "score") for name in names):
        raise InputError(
            f'model "{settings.model}" has no scoring layer, so it is no reranker and its scores would be random. Give a trained '
            "reranker: one of the Hub, or the folder seed-N/encoder of a checkpoint of kind cross_encoder."
        )
