"""BM25 over title and text.

Belongs here: the lexical index, its search and its files. Does not: learned sparse retrieval (`sparse`).
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import polars as pl

from anmi_pipeline.errors import ArtifactError, InputError, nearest
from anmi_pipeline.progress import Progress, silent
from anmi_pipeline.retrieval.config import LexicalConfig, Scope
from anmi_pipeline.retrieval.runs import Groups, best_positions, collect_run, read_groups, recorded_run

if TYPE_CHECKING:
    from bm25s.tokenization import Tokenized

ARRAYS = ("weights", "postings", "offsets")


def document_texts(corpus: pl.DataFrame) -> list[str]:
    """What a retriever reads of each document: title and text, joined by a space."""
    return (corpus["title"] + " " + corpus["text"]).str.strip_chars().to_list()


@dataclass(frozen=True)
class LexicalIndex:
    """BM25 weights of every (term, document), by term.

    Equation: weight(t, d) = ln(1 + (N - n_t + .5) / (n_t + .5)) * f / (f + k1 (1 - b + b |d| / avgdl)); score(q, d) = sum of
    weight(t, d) over the occurrences of terms t in q. Lucene's variant of BM25 (Robertson & Zaragoza 2009, section 3; Kamphuis
    et al., ECIR 2020, table 1): no factor k1 + 1, exact document lengths. N, n_t and avgdl are those of the whole corpus even
    when queries are confined to groups.

    Attributes:
        config: settings it was built with.
        doc_ids: document ids, ascending.
        vocabulary: stem -> term number, terms in alphabetical order.
        weights: (n_postings,) float32 BM25 weights.
        postings: (n_postings,) int32 positions in `doc_ids`.
        offsets: (n_terms + 1,) where each term's postings start.
    """

    config: LexicalConfig
    doc_ids: list[str]
    vocabulary: dict[str, int]
    weights: npt.NDArray[np.float32]
    postings: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]

    @classmethod
    def build(cls, corpus: pl.DataFrame, config: LexicalConfig) -> "LexicalIndex":
        """Index a corpus.

        Args:
            corpus: CORPUS frame.
            config: BM25 settings.

        Raises:
            InputError: the corpus is empty or the stemmer is unknown.
        """
        if corpus.is_empty():
            raise InputError("the corpus has no document, so there is nothing to index. Check the dataset's corpus file.")
        ordered = corpus.sort("doc_id")
        stems = stem_texts(document_texts(ordered), config)
        # bm25s numbers stems in the order of a Python set, which changes with the hash seed: they are numbered here instead.
        vocabulary = {stem: number for number, stem in enumerate(sorted({stem for text in stems for stem in text}))}
        numbers = [[vocabulary[stem] for stem in text] for text in stems]
        doc_ids = ordered["doc_id"].to_list()
        if not vocabulary:
            empty = np.zeros(0)
            return cls(config, doc_ids, {}, empty.astype(np.float32), empty.astype(np.int32), np.zeros(1, np.int64))
        import bm25s

        model = bm25s.BM25(k1=config.k1, b=config.b, method="lucene")
        model.index((numbers, dict(vocabulary)), create_empty_token=False, show_progress=False)
        matrix = model.scores
        return cls(
            config,
            doc_ids,
            vocabulary,
            np.asarray(matrix["data"], np.float32),
            np.asarray(matrix["indices"], np.int32),
            np.asarray(matrix["indptr"], np.int64),
        )

    def scores(self, terms: Sequence[str]) -> npt.NDArray[np.float32]:
        """BM25 score of every document for the stems of one query, (n_docs,)."""
        totals = np.zeros(len(self.doc_ids), dtype=np.float32)
        for term in terms:
            number = self.vocabulary.get(term)
            if number is not None:
                part = slice(self.offsets[number], self.offsets[number + 1])
                totals[self.postings[part]] += self.weights[part]
        return totals

    def search(
        self,
        query_ids: Sequence[str],
        texts: Sequence[str],
        depth: int | None = None,
        groups: Groups | None = None,
        progress: Progress = silent,
    ) -> pl.DataFrame:
        """Rank the documents of each query; documents that share no term with it are left out.

        Args:
            query_ids: (n_queries,) ids.
            texts: (n_queries,) query texts.
            depth: documents per query; None takes the configured depth.
            groups: confine each query to its own group.
            progress: told after every query.

        Returns:
            RUN frame.
        """
        members = groups.members(self.doc_ids) if groups else {}
        kept = depth or self.config.depth
        lists: dict[str, tuple[Sequence[str], npt.NDArray[np.floating]]] = {}
        for done, (query_id, terms) in enumerate(zip(query_ids, stem_texts(texts, self.config), strict=True), start=1):
            scores = self.scores(terms)
            candidates = members[groups.queries[query_id]] if groups else np.arange(len(scores))
            candidates = candidates[scores[candidates] > 0]
            best = candidates[best_positions(scores[candidates], kept)]
            lists[query_id] = ([self.doc_ids[position] for position in best], scores[best])
            progress(done, len(query_ids), "queries")
        return collect_run(lists)

    def save(self, folder: Path) -> None:
        """Write the index into a folder; equal indexes give equal bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name), allow_pickle=False)
        content = {"config": self.config.model_dump(mode="json"), "doc_ids": self.doc_ids, "vocabulary": list(self.vocabulary)}
        (folder / "lexical.json").write_text(json.dumps(content, ensure_ascii=False, sort_keys=True), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "LexicalIndex":
        """Read an index that `save` wrote.

        Raises:
            ArtifactError: a file is absent or unreadable.
        """
        try:
            content = json.loads((folder / "lexical.json").read_text(encoding="utf-8"))
            weights, postings, offsets = (
                np.load(io.BytesIO((folder / f"{name}.npy").read_bytes()), allow_pickle=False) for name in ARRAYS
            )
            config = LexicalConfig.model_validate(content["config"])
        except (OSError, ValueError, KeyError) as error:
            raise ArtifactError(f"lexical index in {folder} cannot be read: {error}. Build it again.") from error
        vocabulary = {stem: number for number, stem in enumerate(content["vocabulary"])}
        return cls(config, content["doc_ids"], vocabulary, weights, postings, offsets)


def stem_texts(texts: Sequence[str], config: LexicalConfig) -> list[list[str]]:
    """Lower-case words of two characters or more, without stop words, stemmed.

    Raises:
        InputError: no such stemmer.
    """
    if not texts:
        return []
    import bm25s
    import Stemmer

    stopwords = [] if config.stopwords == "none" else config.stopwords
    tokenized = cast("Tokenized", bm25s.tokenize(list(texts), stopwords=stopwords, return_ids=True, show_progress=False))
    words = list(tokenized.vocab)
    if config.stemmer == "none":
        stems = words
    else:
        if config.stemmer not in Stemmer.algorithms():
            raise InputError(f'stemmer "{config.stemmer}" is unknown.{nearest(config.stemmer, [*Stemmer.algorithms(), "none"])}')
        stems = Stemmer.Stemmer(config.stemmer).stemWords(words)
    stem_of = {tokenized.vocab[word]: stem for word, stem in zip(words, stems, strict=True)}
    # bm25s stands "" in for a text without words; it is no term.
    return [[stem_of[number] for number in numbers if stem_of[number]] for numbers in tokenized.ids]


def lexical_run(
    corpus: pl.DataFrame,
    queries: pl.DataFrame,
    config: LexicalConfig,
    *,
    scope: Scope = "corpus",
    data_root: Path | None = None,
    progress: Progress = silent,
) -> pl.DataFrame:
    """BM25 run of a collection, or the recorded run that stands in for it.

    Args:
        corpus: CORPUS frame.
        queries: QUERIES frame.
        config: BM25 settings.
        scope: "group" confines each query to the documents of its own group.
        data_root: folder that a relative recorded path starts from.
        progress: told after every query.

    Returns:
        RUN frame; a query that matches nothing has no row.

    Raises:
        InputError: an empty corpus, an unknown stemmer, a query without its group, or a recorded run that does not fit.
    """
    if config.recorded is not None:
        return recorded_run(config.recorded, queries, corpus, depth=config.depth, data_root=data_root)
    groups = read_groups(corpus, queries, scope)
    index = LexicalIndex.build(corpus, config)
    return index.search(queries["query_id"].to_list(), queries["text"].to_list(), groups=groups, progress=progress)
