"""Answering queries from a search package.

Belongs here: loading a package, applying the tuned settings, hits with titles and snippets. Does not: how each kind of system
ranks (`rankers.py`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from pydantic import ValidationError

from anmi_pipeline.errors import ArtifactError, InputError
from anmi_pipeline.evaluation.metrics import with_seed
from anmi_pipeline.evaluation.tuning import Cached
from anmi_pipeline.retrieval.lexical import LexicalIndex
from anmi_pipeline.retrieval.runs import Groups
from anmi_pipeline.serving.config import PackageSettings
from anmi_pipeline.serving.rankers import Asked, LexicalRanker, Rank, load_ranker
from anmi_pipeline.tables import RUN

SNIPPET_WORDS = 30


@dataclass(frozen=True)
class Hit:
    """One answer.

    Attributes:
        doc_id: document.
        title: its title, may be empty.
        score: the system's score, its own scale.
        rank: 1 = best.
        snippet: part of the text with most of the query's words.
    """

    doc_id: str
    title: str
    score: float
    rank: int
    snippet: str


@dataclass(frozen=True)
class SearchPipeline:
    """A loaded package.

    Attributes:
        settings: how it answers.
        documents: document id -> (title, text).
        doc_groups: document id -> group.
        rank_fixed: the system at its fixed settings.
        lexical: BM25; None when nothing uses it.
    """

    settings: PackageSettings
    documents: dict[str, tuple[str, str]]
    doc_groups: dict[str, str | None]
    rank_fixed: Rank
    lexical: LexicalRanker | None

    @classmethod
    def load(cls, folder: Path) -> "SearchPipeline":
        """Read a package.

        Raises:
            ArtifactError: it is incomplete or of another version.
        """
        settings = read_settings(folder)
        try:
            corpus = pl.read_parquet(folder / "corpus.parquet")
        except (OSError, pl.exceptions.PolarsError) as error:
            raise ArtifactError(
                f"search package {folder} has no readable corpus: {error}. Materialize search_model again."
            ) from error
        lexical = LexicalRanker(LexicalIndex.load(folder / "lexical")) if settings.needs_lexical else None
        rows = corpus.select("doc_id", "title", "text", "group_id").rows()
        return cls(
            settings,
            {doc_id: (title, text) for doc_id, title, text, _ in rows},
            {doc_id: group for doc_id, _, _, group in rows},
            load_ranker(folder, settings, corpus, lexical),
            lexical,
        )

    def rank(self, query_ids: Sequence[str], texts: Sequence[str], groups: Sequence[str] | None = None) -> pl.DataFrame:
        """Rank documents for queries as the evaluated system did.

        Args:
            query_ids: (n,) distinct ids.
            texts: (n,) texts.
            groups: (n,) group of each query; for packages of scope group.

        Returns:
            RUN frame; a query below the threshold has no row.

        Raises:
            InputError: the package confines queries to groups and none, or an unknown one, is given.
        """
        if not query_ids:
            return RUN.frame()
        asked = Asked(list(query_ids), list(texts), self.confined(query_ids, groups))
        tuned = self.settings.tuned
        fixed = self.rank_fixed(asked)
        lexical = self.lexical(asked).run if tuned.fusion != "none" and self.lexical is not None else None
        cached = Cached(with_seed(fixed.run), lexical, fixed.pool, self.settings.depth)
        return RUN.frame(cached.apply(tuned).drop("seed"))

    def confined(self, query_ids: Sequence[str], groups: Sequence[str] | None) -> Groups | None:
        """Return which documents each query may find; None when it may find all."""
        if self.settings.scope == "corpus":
            return None
        known = set(self.doc_groups.values()) - {None}
        given = groups or []
        if len(given) != len(query_ids) or any(group not in known for group in given):
            raise InputError(
                f"system {self.settings.system} searches within one group of documents, and was given {list(given)}. "
                f"Give one of the {len(known)} groups of its corpus with each query."
            )
        return Groups(self.doc_groups, dict(zip(query_ids, given, strict=True)))

    def search(self, query: str, k: int = 10, group: str | None = None) -> list[Hit]:
        """Answer one query.

        Args:
            query: text of the query.
            k: hits wanted, at most.
            group: group of documents to search; for packages of scope group.

        Returns:
            Hits, best first; none when nothing matches or the best match is below the threshold.

        Raises:
            InputError: the query is empty, k is not positive, or a group is missing.
        """
        if not query.strip():
            raise InputError("the query is empty; write what you look for.")
        if k < 1:
            raise InputError(f"k is {k}; ask for at least one hit.")
        run = self.rank(["query"], [query], None if group is None else [group]).filter(pl.col("rank") <= k)
        return [self.hit(query, doc_id, rank, score) for doc_id, rank, score in run.select("doc_id", "rank", "score").iter_rows()]

    def hit(self, query: str, doc_id: str, rank: int, score: float) -> Hit:
        """Dress one row of a run with title and snippet.

        Raises:
            ArtifactError: index and corpus of the package do not belong together.
        """
        if doc_id not in self.documents:
            raise ArtifactError(f'the package ranks document "{doc_id}", which its corpus lacks. Materialize search_model again.')
        title, text = self.documents[doc_id]
        return Hit(doc_id, title, score, rank, snippet(text, query))


def read_settings(folder: Path) -> PackageSettings:
    """Read `package.json`.

    Raises:
        ArtifactError: it is absent or not of this version.
    """
    try:
        return PackageSettings.model_validate_json((folder / "package.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"{folder} is no search package: {error}. Materialize search_model.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(
            f"{folder / 'package.json'} does not fit this version ({where}: {first['msg']}). Materialize search_model again."
        ) from error


def snippet(text: str, query: str, words: int = SNIPPET_WORDS) -> str:
    """Cut the window of `words` words that holds most distinct query words; the earliest of equals.

    >>> snippet("one two three four five six", "five", words=3)
    '... three four five ...'
    """
    parts = text.split()
    if len(parts) <= words:
        return " ".join(parts)
    wanted = set(re.findall(r"\w+", query.lower()))
    folded = [set(re.findall(r"\w+", part.lower())) & wanted for part in parts]
    starts = range(len(parts) - words + 1)
    best = max(starts, key=lambda start: (len(set[str]().union(*folded[start : start + words])), -start))
    cut = " ".join(parts[best : best + words])
    return f"{'... ' if best else ''}{cut}{' ...' if best + words < len(parts) else ''}"
