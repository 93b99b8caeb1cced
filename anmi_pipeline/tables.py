"""The tables that pass between stages: column names, types, units and meanings, declared once.

Belongs here: the specs of every stored table. Does not: what a spec is (`table_specs.py`), how a table is computed or stored.
"""

import polars as pl

from anmi_pipeline.table_specs import BOOL, FLOAT, INT, TEXT, Column, TableSpec

QUERY_ID = Column("query_id", TEXT, "query")
DOC_ID = Column("doc_id", TEXT, "document")
SPLITS = ("train", "dev_select", "dev_final", "test", "held_out")
"""Query splits. `held_out`: queries drawn like the training queries (docstring sentences) but never trained on."""

CORPUS = TableSpec(
    "corpus",
    ("doc_id",),
    (
        DOC_ID,
        Column("title", TEXT, "title, may be empty"),
        Column("text", TEXT, "body text, without the title"),
        Column("group_id", TEXT, "group of the document when queries are scoped to one (a post, a thread)", nullable=True),
    ),
)
QUERIES = TableSpec(
    "queries",
    ("query_id",),
    (
        QUERY_ID,
        Column("text", TEXT, "query text"),
        Column("split", TEXT, "train, dev_select, dev_final, test or held_out"),
        Column("group_id", TEXT, "group whose documents alone are candidates (scope: group)", nullable=True),
        Column("has_evidence", BOOL, "False when the collection is known to hold no answer; null when unknown", nullable=True),
        Column(
            "source_ids",
            pl.List(pl.String()),
            "documents this query was taken from: known provenance, not a judgment",
            nullable=True,
        ),
    ),
)
QRELS = TableSpec(
    "qrels",
    ("query_id", "doc_id"),
    (
        QUERY_ID,
        DOC_ID,
        Column("grade", INT, "relevance grade, 0 = judged not relevant"),
    ),
)
RUN = TableSpec(
    "run",
    ("query_id", "rank"),
    (
        QUERY_ID,
        DOC_ID,
        Column("rank", INT, "1 = best; ties broken by document id"),
        Column("score", FLOAT, "retriever score, its own scale"),
    ),
)
RETRIEVERS = ("lexical", "dense", "sparse", "late_interaction")
GENERATORS = ("dense", "sparse", "recall", "rrf", "weighted")
"""Candidate generators G1..G5 in this order."""

POOL = TableSpec(
    "candidate_pool",
    ("query_id", "doc_id"),
    (
        QUERY_ID,
        DOC_ID,
        *(Column(f"{r}_rank", INT, f"rank in the {r} run; null when it is not in it", nullable=True) for r in RETRIEVERS),
        *(Column(f"{r}_score", FLOAT, f"score in the {r} run; null when it is not in it", nullable=True) for r in RETRIEVERS),
        *(
            Column(f"{g}_pool_rank", INT, f"rank in generator {g}'s pool; null beyond its depth", nullable=True)
            for g in GENERATORS
        ),
        *(Column(f"{g}_pool_score", FLOAT, f"score in the pool of generator {g}", nullable=True) for g in ("rrf", "weighted")),
    ),
)
LIST = Column("list", INT, "call of several documents: its number within query and round, from 1; 0 for a call of two", default=0)

PLAN = TableSpec(
    "comparison_plan",
    ("query_id", "first_id", "second_id", "judge", "round", "list"),
    (
        QUERY_ID,
        Column("first_id", TEXT, "document shown first"),
        Column("second_id", TEXT, "document shown second"),
        Column("judge", TEXT, "judge that is asked"),
        Column("round", INT, "1 = first round"),
        LIST,
        Column("audit", BOOL, "True for the audit slice, asked in both orders"),
    ),
)
CERTIFICATES = TableSpec(
    "certificates",
    ("query_id",),
    (
        QUERY_ID,
        Column("n_documents", INT, "documents compared"),
        Column("n_pairs", INT, "distinct unordered pairs"),
        Column("components", INT, "connected components; 1 = all scores comparable"),
        Column("min_degree", INT, "fewest comparisons of a document"),
        Column("max_degree", INT, "most comparisons of a document"),
        Column("diameter", INT, "longest shortest path, in edges; -1 when disconnected"),
        Column("algebraic_connectivity", FLOAT, "second smallest Laplacian eigenvalue"),
        Column("mean_resistance", FLOAT, "mean effective resistance over pairs; NaN-free, -1 when disconnected"),
        Column("max_resistance", FLOAT, "largest effective resistance over pairs; -1 when disconnected"),
        Column("resistance_bound", FLOAT, "(n - 1) / m, which no design with m edges can beat on average"),
    ),
)
JUDGMENTS = TableSpec(
    "pairwise_judgments",
    ("query_id", "first_id", "second_id", "judge", "round", "list"),
    (
        QUERY_ID,
        Column("first_id", TEXT, "document shown first"),
        Column("second_id", TEXT, "document shown second"),
        Column("judge", TEXT, "judge id"),
        Column("epoch", TEXT, "refresh epoch of the ledger row"),
        Column("round", INT, "round of the plan"),
        LIST,
        Column("audit", BOOL, "True for the audit slice"),
        Column("p_first", FLOAT, "P(first is more relevant), 0..1; null when the call failed", nullable=True),
        Column("status", TEXT, "ok, or the kind of failure"),
        Column(
            "weight",
            FLOAT,
            "evidence in this verdict, in independent ones: 1 for a call of two, less for comparisons folded out of one ranking",
            default=1.0,
        ),
        Column("call_key", TEXT, "sha256 of the whole call (judge, prompt, sampling, texts, order)"),
        Column("provenance", TEXT, "known_source when the verdict used the query's known source, simulated, recorded or model"),
        Column("input_tokens", INT, "tokens sent", content=False),
        Column("output_tokens", INT, "tokens received", content=False),
        Column("cost_usd", FLOAT, "price paid, USD", content=False),
        Column("latency_ms", FLOAT, "wall time of the call", nullable=True, content=False),
    ),
)
ANCHORS = TableSpec(
    "anchors",
    ("query_id", "doc_id"),
    (
        QUERY_ID,
        DOC_ID,
        Column("judge", TEXT, "grader"),
        Column("grade", INT, "absolute grade, 0 = not relevant; null when there is none", nullable=True),
        Column("status", TEXT, "ok, or the kind of failure"),
        Column("provenance", TEXT, "recorded, simulated or model"),
    ),
)
COMPARISONS = TableSpec(
    "comparison_graph",
    ("query_id", "doc_i", "doc_j"),
    (
        QUERY_ID,
        Column("doc_i", TEXT, "document with the smaller id"),
        Column("doc_j", TEXT, "document with the larger id"),
        Column("preference", FLOAT, "w_ij, folded preference for doc_i, 0..1"),
        Column("weight", FLOAT, "evidence, in verdicts"),
        Column("n_verdicts", INT, "verdicts folded"),
        Column("component", INT, "connected component of the pair within its query, from 0"),
        Column("degree_i", INT, "comparisons of doc_i"),
        Column("degree_j", INT, "comparisons of doc_j"),
        Column("effective_resistance", FLOAT, "between doc_i and doc_j, in 1/verdicts"),
    ),
)
JUDGED = TableSpec("judged_comparisons", COMPARISONS.key, COMPARISONS.columns)
"""The comparisons of the verdicts alone, where clicks are added to them."""
CLICKED = TableSpec(
    "click_comparisons",
    ("query_id", "doc_i", "doc_j"),
    (
        QUERY_ID,
        Column("doc_i", TEXT, "document with the smaller id"),
        Column("doc_j", TEXT, "document with the larger id"),
        Column("preference", FLOAT, "preference for doc_i that the clicks show, position bias taken out, 0..1"),
        Column("weight", FLOAT, "evidence, in verdicts"),
        Column("n_verdicts", INT, "impressions that compare the two"),
    ),
)
ELO = TableSpec(
    "elo_table",
    ("query_id", "doc_id"),
    (
        QUERY_ID,
        DOC_ID,
        Column("theta", FLOAT, "latent score, probit (thurstone) or logistic units, sum 0 per query"),
        Column("elo", FLOAT, "1500 + c * theta, Elo points"),
        Column("std_error", FLOAT, "standard error of elo, Elo points"),
        Column("elo_low", FLOAT, "lower end of the 95 % interval: elo - 1.96 std_error; null without errors", nullable=True),
        Column("elo_high", FLOAT, "upper end: elo + 1.96 std_error; null without errors", nullable=True),
        Column("prior_mean", FLOAT, "elo that the retrievers' scores alone give; null without such a prior", nullable=True),
        Column("relevance", FLOAT, "calibrated probability comparable across queries; null without anchors", nullable=True),
        Column("rank", INT, "1 = highest elo of the query; ties by document id"),
        Column("n_comparisons", INT, "comparisons of this document"),
        Column("status", TEXT, "flags of the query's fit joined by '+': converged, separable, disconnected, too_few"),
    ),
)
ROLES = ("positive", "negative", "unused")
TRAINING_SET = TableSpec(
    "training_set",
    ("query_id", "doc_id"),
    (
        QUERY_ID,
        DOC_ID,
        Column("role", TEXT, "positive, negative or unused"),
        Column("elo", FLOAT, "Elo used as the label source (shuffled within the query for the placebo)"),
        Column("std_error", FLOAT, "standard error of elo, Elo points"),
        Column("label", FLOAT, "scaled label a loss may see (declared transform)"),
        Column("gap", FLOAT, "elo of the query's best positive minus elo of this document, Elo points"),
        Column("weight", FLOAT, "weight of the document in the contrastive loss, 0..1"),
        Column("tier", INT, "0 not a negative, 1 easy .. 4 hard"),
        Column("miner", TEXT, "which rule chose it"),
        Column("p_false_negative", FLOAT, "P(this negative beats the positive) from elo and std_error", nullable=True),
        Column("reason", TEXT, "why it has its role and weight"),
    ),
)
CURRICULUM = TableSpec(
    "curriculum",
    ("epoch",),
    (
        Column("epoch", INT, "1-based epoch"),
        Column("min_gap", FLOAT, "smallest Elo gap of a negative that may be drawn"),
        Column("alpha", FLOAT, "weight of the contrastive loss in the hybrid loss"),
        Column("n_queries", INT, "queries with a positive and a negative at this gap"),
        Column("index_digest", TEXT, "sha256 of the epoch's (query, positive, negatives) index list"),
    ),
)
SCORES = TableSpec(
    "scores",
    ("query_id", "seed", "rank"),
    (
        QUERY_ID,
        Column("seed", INT, "training seed; 0 for untrained systems"),
        DOC_ID,
        Column("rank", INT, "1 = best"),
        Column("score", FLOAT, "system score, its own scale"),
    ),
)
TRIALS = TableSpec(
    "trials",
    ("trial",),
    (
        Column("trial", INT, "trial number, from 0"),
        Column("settings", TEXT, "inference settings as canonical JSON"),
        Column("ndcg_dev_select", FLOAT, "mean nDCG@10 on dev_select"),
        Column("chosen", BOOL, "True for the settings confirmed on dev_final"),
    ),
)
METRICS = TableSpec(
    "metrics",
    ("system", "variant", "split", "metric"),
    (
        Column("system", TEXT, "system name = recipe name"),
        Column("dataset", TEXT, "dataset whose labels trained it"),
        Column("recipe", TEXT, "recipe"),
        Column("variant", TEXT, "raw (fixed inference settings; the only rows that claims compare) or tuned"),
        Column("split", TEXT, "query set: a split, or splits joined by '+'"),
        Column("labels", TEXT, "human, judged or simulated"),
        Column("metric", TEXT, "nDCG@10, MRR@10, Recall@k, false_evidence"),
        Column("value", FLOAT, "mean over queries of the mean over seeds"),
        Column("low", FLOAT, "lower end of the 95 % bootstrap interval over queries"),
        Column("high", FLOAT, "upper end"),
        Column("n_queries", INT, "answerable queries in the set"),
        Column("seeds", INT, "training seeds averaged"),
        Column(
            "rank", INT, "rank group within (variant, split, metric); systems that cannot be told apart share it", nullable=True
        ),
        Column("checkpoint", TEXT, "digest of the checkpoint; null for untrained systems", nullable=True),
        Column("elo_table", TEXT, "digest of the Elo table it was trained on", nullable=True),
    ),
)
PER_QUERY = TableSpec(
    "per_query",
    ("system", "variant", "metric", "query_id"),
    (
        Column("system", TEXT, "system name"),
        Column("variant", TEXT, "raw or tuned"),
        Column("metric", TEXT, "metric"),
        QUERY_ID,
        Column("split", TEXT, "split of the query"),
        Column("value", FLOAT, "metric of the query, mean over seeds"),
    ),
)
CONTRASTS = TableSpec(
    "contrasts",
    ("system", "baseline", "split", "metric"),
    (
        Column("system", TEXT, "system"),
        Column("baseline", TEXT, "system it is compared with"),
        Column("split", TEXT, "query set"),
        Column("metric", TEXT, "metric"),
        Column("difference", FLOAT, "mean paired difference, system minus baseline, raw variants"),
        Column("low", FLOAT, "lower end of its 95 % paired bootstrap interval"),
        Column("high", FLOAT, "upper end"),
        Column("p_value", FLOAT, "paired randomisation test, two-sided, Holm-corrected within (baseline, split, metric)"),
        Column("n_queries", INT, "queries compared"),
    ),
)
LINEAGE = TableSpec(
    "lineage",
    ("system", "artifact", "digest"),
    (
        Column("system", TEXT, "recipe"),
        Column("artifact", TEXT, "asset, with #part where only a part was read"),
        Column("digest", TEXT, "digest"),
        Column("built_for", TEXT, "partition it was built for"),
        Column("rows", INT, "rows, when it is a table", nullable=True),
        Column("judges", TEXT, "judges, for artifacts that hold verdicts", nullable=True),
        Column("cost_usd", FLOAT, "what the verdicts cost, USD", nullable=True, content=False),
        Column("created_at", TEXT, "when it was built, UTC", content=False),
    ),
)
REPORT = TableSpec(
    "judge_report",
    ("judge", "measure"),
    (
        Column("judge", TEXT, "judge id, or 'all'"),
        Column("measure", TEXT, "flip_rate, position_bias, agreement, intransitivity, failures, calls, ..."),
        Column("value", FLOAT, "value; its unit is in the measure's name"),
        Column("low", FLOAT, "lower end of a 95 % interval", nullable=True),
        Column("high", FLOAT, "upper end", nullable=True),
        Column("n", INT, "observations"),
    ),
)
