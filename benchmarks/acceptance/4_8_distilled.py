"""Issue 4: the distilled judge on held-out queries: agreement with verdicts it has not seen, calibration error, pairs a second.

TREC DL 2019 with recorded GPT-4o preferences (43 queries, about 30 % of them held out), and scifact with simulated verdicts on
pairs whose human grades differ (a relevant abstract against one of BM25's top 50; 15 % of the verdicts are wrong, so no judge can
agree with more than .85 of them but by luck). Three layers of all-MiniLM-L6-v2 are trained on few pairs and few tokens, to fit
one core in about eight quiet minutes. It must beat chance and the same model untrained, which knows only its cosines. The
retrieval score stands beside it without a bound: so small a training does not reach it (RRF of three runs, two of them of models
trained on MS MARCO; BM25). `--long` trains all layers on up to 20,000 pairs of 192 tokens, twice: hours on a core.
"""

import gzip
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import dl19
import numpy as np
import polars as pl
from harness import Figures, above, arguments, at_least, at_most, bootstrap, data_root

from anmi_pipeline.judging.distil_config import DistilConfig
from anmi_pipeline.judging.pairwise_measures import agreement
from anmi_pipeline.judging.pairwise_model import new_pairwise_model
from anmi_pipeline.judging.pairwise_training import PairwiseTraining, split, train_pairwise, triples
from anmi_pipeline.rating.comparisons import PAIR
from anmi_pipeline.retrieval.config import LexicalConfig
from anmi_pipeline.retrieval.lexical import LexicalIndex, document_texts
from anmi_pipeline.retrieval.weights import EMBEDDED_MODEL, pick_device, resolve_precision
from anmi_pipeline.tables import CORPUS

SEED = 0
RUNS = ("bm25", "d_bert_kd_tasb", "splade_p_p_ensemble_distil")
COMMON = {"epochs": 1, "learning_rate": 1e-4, "layers": 3, "holdout": 0.3}
DL19 = DistilConfig.model_validate(COMMON | {"max_tokens": 100, "query_tokens": 12, "max_pairs": 1600, "max_held_out": 500})
SCIFACT = DistilConfig.model_validate(COMMON | {"max_tokens": 160, "query_tokens": 24, "max_pairs": 600, "max_held_out": 300})
LONG = {"max_tokens": 192, "max_pairs": 20_000, "max_held_out": 2_000, "epochs": 2, "layers": None, "learning_rate": 5e-5}
ERROR_RATE, DEPTH, PER_QUERY = 0.15, 50, 4

Score = Callable[[str, str], float]


@dataclass(frozen=True)
class Study:
    """Verdicts with their texts, and the score that was there before any verdict."""

    name: str
    comparisons: pl.DataFrame
    queries: Mapping[str, str]
    documents: Mapping[str, str]
    retrieval: Score
    config: DistilConfig


def recorded(root: Path) -> Study:
    """GPT-4o's preferences of TREC DL 2019, and RRF of three recorded runs."""
    comparisons = dl19.comparisons(dl19.games(root))
    folder = root / dl19.DATASET
    queries = {row["_id"]: row["text"] for row in map(json.loads, (folder / "queries.jsonl").open(encoding="utf-8"))}
    with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
        documents = {row["_id"]: f"{row.get('title', '')} {row['text']}".strip() for row in map(json.loads, lines)}
    fused: dict[tuple[str, str], float] = defaultdict(float)
    for run in RUNS:
        with gzip.open(folder / "runs" / f"{run}.trec.gz", "rt") as lines:
            for line in lines:
                query, _, document, rank = line.split()[:4]
                fused[query, document] += 1 / (60 + int(rank))
    return Study("dl19, GPT-4o", comparisons, queries, documents, lambda query, doc: fused.get((query, doc), 0.0), DL19)


def simulated(root: Path) -> Study:
    """Noisy verdicts on relevant against not relevant abstracts, and BM25."""
    folder = root / "scifact"
    with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
        read = [{"doc_id": row["_id"], "title": row["title"], "text": row["text"]} for row in map(json.loads, lines)]
    corpus = CORPUS.frame(read)
    documents = dict(zip(corpus["doc_id"].to_list(), document_texts(corpus), strict=True))
    queries = {row["_id"]: row["text"] for row in map(json.loads, (folder / "queries.jsonl").open(encoding="utf-8"))}
    grades = dl19.grades(folder / "qrels" / "train.tsv")
    names = sorted(grades)
    run = LexicalIndex.build(corpus, LexicalConfig()).search(names, [queries[name] for name in names], 1000)
    scores = {(query, document): score for query, document, score in run.select("query_id", "doc_id", "score").iter_rows()}
    top = run.filter(pl.col("rank") <= DEPTH).partition_by("query_id", as_dict=True)
    rng = np.random.default_rng(SEED)
    rows: list[dict[str, object]] = []
    for query in names:
        right = {name for name, grade in grades[query].items() if grade > 0}
        others = [name for name in top[(query,)]["doc_id"].to_list() if name not in right]
        for relevant in sorted(right):
            for other in rng.choice(others, PER_QUERY, replace=False).tolist():
                first = min(relevant, other)
                said = float((first == relevant) == (rng.random() >= ERROR_RATE))
                rows.append({"query_id": query, "doc_i": first, "doc_j": max(relevant, other), "preference": said, "weight": 1.0})
    table = pl.DataFrame(rows).unique(PAIR, keep="first", maintain_order=True)
    return Study("scifact, simulated", table, queries, documents, lambda q, doc: scores.get((q, doc), 0.0), SCIFACT)


def by_query(held_out: pl.DataFrame, logits: np.ndarray) -> np.ndarray:
    """(Q,) agreement of each held-out query, in the order of the ids."""
    table = held_out.with_columns(own=pl.Series(logits)).filter(pl.col("preference") != 0.5)
    parts = table.sort("query_id").partition_by("query_id", maintain_order=True)
    return np.array([agreement(part["own"].to_numpy(), part["preference"].to_numpy()) for part in parts])


def untrained(study: Study, held_out: pl.DataFrame, texts: tuple[Mapping[str, str], Mapping[str, str]]) -> np.ndarray:
    """Logits of the same encoder with a new scoring layer and no training."""
    config = study.config
    model = new_pairwise_model(
        EMBEDDED_MODEL,
        config.max_tokens,
        config.query_tokens,
        seed=SEED,
        similarity=config.similarity,
        precision=resolve_precision(config.precision, pick_device()),
    )
    return model.logits(model.read_texts(*texts), triples(held_out))


def measured(figures: Figures, study: Study) -> PairwiseTraining:
    """Train, and compare with what needs no training."""
    parts = split(study.comparisons, study.config, SEED)
    both = pl.concat(parts)
    used = sorted({name for end in ("doc_i", "doc_j") for name in both[end]})
    texts = (
        {query: study.queries[query] for query in both["query_id"].unique().sort()},
        {name: study.documents[name] for name in used},
    )
    made = train_pairwise(study.comparisons, *texts, study.config, SEED)
    held, found = made.held_out, made.figures
    if found is None:
        raise RuntimeError("no query was held out")
    start = untrained(study, held, texts)
    fused = np.array([study.retrieval(query, i) - study.retrieval(query, j) for query, i, j in triples(held)])
    name, said = study.name, held["preference"].to_numpy()
    trained = f"{made.pairs} pairs of {made.queries} queries trained on; {found.pairs} pairs of {found.queries} queries held out"
    base = {"retrieval score": agreement(fused, said), "untrained model": agreement(start, said)}
    for label, value in base.items():
        figures.note(f"{name}: agreement of the {label}", value, seed=SEED)
    bound = above(base["untrained model"])
    figures.check(f"{name}: agreement of the distilled judge", found.agreement, bound, seed=SEED, detail=trained)
    ahead = bootstrap(by_query(held, held["logit"].to_numpy()) - by_query(held, fused))
    figures.say(f"{name}: agreement minus that of the retrieval score, mean over queries, 95 % interval: {ahead}")
    mean = bootstrap(by_query(held, held["logit"].to_numpy()) - by_query(held, start))
    figures.say(f"{name}: agreement minus that of the untrained model, mean over queries, 95 % interval: {mean}")
    low = bootstrap(by_query(held, held["logit"].to_numpy())).low
    figures.check(f"{name}: low end of the agreement's 95 % interval over queries", low, above(0.5), seed=SEED)
    detail = f"temperature {found.temperature:.2f}; by chance {found.chance:.4f}; log-loss {found.log_loss_scaled:.4f}"
    figures.note(f"{name}: ECE before the temperature", found.ece, seed=SEED)
    # The temperature of each half of the held-out queries was fitted to the other half.
    figures.check(f"{name}: ECE after the temperature", found.ece_scaled, at_most(0.1), seed=SEED, detail=detail)
    return made


def speed(figures: Figures, study: Study, made: PairwiseTraining) -> None:
    """Pairs a second, both orders read."""
    pairs = triples(made.held_out)
    started = perf_counter()
    logits = made.model.logits(made.texts, pairs)
    rate = len(pairs) / (perf_counter() - started)
    precision = f"{study.config.max_tokens} tokens a row, {made.model.precision}, one thread, {made.model.encoder.device}"
    figures.note(f"{study.name}: pairs judged a second", rate, seed=SEED, detail=precision)
    figures.note(f"{study.name}: pairs trained a second", made.pairs_per_second, seed=SEED)
    other = made.model.logits(made.texts, [(query, j, i) for query, i, j in pairs])
    figures.check(f"{study.name}: largest |logit(A, B) + logit(B, A)|", float(np.abs(logits + other).max()), at_most(1e-3))
    figures.check(f"{study.name}: pairs judged", len(pairs), at_least(1))


def main() -> int:
    """Distil both."""
    import torch

    chosen = arguments(__doc__ or "", add=lambda parser: parser.add_argument("--long", action="store_true", help="see above"))
    torch.set_num_threads(1)
    figures = Figures("4.8 distilled judge")
    root = data_root()
    for study in (recorded(root), simulated(root)):
        taken = replace(study, config=study.config.model_copy(update=LONG)) if chosen.long else study
        speed(figures, taken, measured(figures, taken))
    return figures.finish()


if __name__ == "__main__":
    sys.exit(main())
