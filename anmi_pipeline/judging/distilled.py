"""The distilled judge: answers from another dataset's pairwise model; and the verdicts that a dataset's own model gave.

Belongs here: the judge, where its model comes from, reading `pairwise_judge` as evidence. Does not: the model
(`pairwise_model.py`) and its training.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.distil_config import DistilledSettings
from anmi_pipeline.judging.judges import CallSettings, JudgeEvidence
from anmi_pipeline.judging.local_judge import LocalJudge
from anmi_pipeline.judging.pairwise_model import PairwiseModel, load_pairwise_model
from anmi_pipeline.judging.verdicts import verdicts
from anmi_pipeline.records import Records
from anmi_pipeline.retrieval.lexical import document_texts
from anmi_pipeline.store import Artifact
from anmi_pipeline.tables import JUDGMENTS

ASSET = "pairwise_judge"


@dataclass(frozen=True)
class DistilledSource:
    """A stored pairwise model.

    Attributes:
        folder: local folder of the artifact.
        digest: digest of the artifact.
    """

    folder: Path
    digest: str


def distilled_source(records: Records, dataset: str, cache: Path) -> DistilledSource:
    """Find the pairwise model of a dataset.

    Args:
        records: records of the installation.
        dataset: name of the dataset that trained it.
        cache: folder for local copies of remote objects.

    Raises:
        ArtifactError: the dataset has no `pairwise_judge` yet.
        InputError: its artifact holds no model.
    """
    _, artifact = records.require(ASSET, dataset)
    if not holds_model(artifact):
        raise InputError(
            f"the {ASSET} of dataset {dataset} is empty: {artifact.facts.get('empty_because', 'it holds no model')}. "
            f"Set judging.distil in that dataset and run it up to {ASSET}."
        )
    return DistilledSource(artifact.local_folder(cache), artifact.digest)


def holds_model(artifact: Artifact) -> bool:
    """Whether a dataset asked for a distilled judge."""
    return JUDGMENTS.name in artifact.rows


def distilled_judgments(artifact: Artifact) -> pl.DataFrame:
    """Verdicts of a `pairwise_judge`: its own, and those that its second pass bought.

    Returns:
        JUDGMENTS frame, empty when there is no model. Its own verdicts on pairs that a judge answered have weight 0.
    """
    return artifact.table(JUDGMENTS) if holds_model(artifact) else JUDGMENTS.frame()


class DistilledJudge(LocalJudge):
    """Answers every pair with the model's probability. Its weights are loaded when the first call is answered."""

    chunk = 2_000

    def __init__(
        self, name: str, settings: DistilledSettings, evidence: JudgeEvidence, source: DistilledSource, dataset: str | None = None
    ) -> None:
        """Keep the texts.

        Args:
            name: judge id.
            settings: which dataset's model, and its batches.
            evidence: the texts.
            source: the stored model.
            dataset: dataset under study; it cannot be judged by the model that learns from its own verdicts.

        Raises:
            InputError: the model would be that of the dataset itself.
        """
        if dataset is not None and dataset == settings.dataset:
            raise InputError(
                f'judge "{name}" of dataset {dataset} answers from that dataset\'s own pairwise_judge, which learns from its '
                "verdicts. Name another dataset, or set judging.distil."
            )
        self._name = name
        self._settings = settings
        self._source = source
        self._queries: dict[str, str] = dict(evidence.queries.select("query_id", "text").iter_rows())
        self._corpus = evidence.corpus
        self._model: PairwiseModel | None = None

    @property
    def name(self) -> str:
        """Judge id."""
        return self._name

    def settings(self, judge_id: str) -> CallSettings:
        """The digest of the stored model says everything: weights, tokens, temperature."""
        return CallSettings(judge=judge_id, endpoint="local", model=f"{ASSET}-{self._source.digest}")

    def context(self, calls: pl.DataFrame) -> Sequence[bytes] | None:
        """Texts and model say everything."""
        return None

    async def answer(self, calls: pl.DataFrame) -> AsyncGenerator[pl.DataFrame]:
        """Answer all calls at once."""
        if self._model is None:
            self._model = load_pairwise_model(self._source.folder)
        model = self._model
        ids = pl.concat([calls["first_id"], calls["second_id"]]).unique()
        corpus = self._corpus.filter(pl.col("doc_id").is_in(ids.implode()))
        documents = dict(zip(corpus["doc_id"].to_list(), document_texts(corpus), strict=True))
        asked = {query: self._queries[query] for query in calls["query_id"].unique()}
        pairs = list(calls.select("query_id", "first_id", "second_id").iter_rows())
        logits = model.logits(model.read_texts(asked, documents), pairs, self._settings.batch_tokens)
        yield verdicts(calls, model.probabilities(logits), "model")
