"""The tables that pass between stages: column names, types, units and meanings, declared once.

Belongs here: `TableSpec` and the specs of every stored table. Does not: how a table is computed or stored. The parquet schema,
the Dagster column schema, the digest (only `content` columns count) and the validation all derive from these declarations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from anmi_pipeline.errors import InputError

Rows = Mapping[str, object] | Sequence[Mapping[str, object]] | pl.DataFrame | None
TEXT, INT, FLOAT, BOOL = pl.String(), pl.Int64(), pl.Float64(), pl.Boolean()


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: column name, the same in code, files and UI.
        dtype: polars type.
        meaning: one line, with the unit where there is one.
        nullable: whether a null may stand in it.
        content: False for incidental columns (times, latencies, costs), which are stored but never digested.
        default: what every row holds where the column is not given; None: the column must be given.
    """

    name: str
    dtype: pl.DataType
    meaning: str
    nullable: bool = False
    content: bool = True
    default: int | float | None = None


@dataclass(frozen=True)
class TableSpec:
    """A table between two stages: its columns and the key that makes a row unique and orders the rows."""

    name: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    @cached_property
    def schema(self) -> dict[str, pl.DataType]:
        """Column name -> polars type, in order."""
        return {column.name: column.dtype for column in self.columns}

    @cached_property
    def content(self) -> list[str]:
        """The columns that the digest covers."""
        return [column.name for column in self.columns if column.content]

    def frame(self, rows: Rows = None) -> pl.DataFrame:
        """Build a frame of this table: declared columns and types only, absent ones as their default or nulls, sorted by key.

        Raises:
            InputError: a column that must be there is absent, or a value does not fit its type.
        """
        given = self.given(rows)
        absent = [c.name for c in self.columns if c.name not in given.columns and not c.nullable and c.default is None]
        if absent and (given.width or given.height):
            raise InputError(f"table {self.name} lacks column(s) {', '.join(absent)}; it has {', '.join(given.columns)}.")
        columns = [
            pl.col(c.name).cast(c.dtype) if c.name in given.columns else pl.lit(c.default, dtype=c.dtype).alias(c.name)
            for c in self.columns
        ]
        try:
            shaped = given.select(columns) if given.width else pl.DataFrame(schema=self.schema)
        except pl.exceptions.PolarsError as error:
            raise InputError(f"table {self.name}: a value does not fit its column's type: {error}") from error
        self.refuse_cut(given, shaped)
        return shaped.sort(self.key)

    def given(self, rows: Rows) -> pl.DataFrame:
        """Rows in any form as a frame of whatever types they have.

        Raises:
            InputError: the values of one column have several types.
        """
        if isinstance(rows, pl.DataFrame):
            return rows
        try:
            return pl.DataFrame(rows if rows is not None else {}, infer_schema_length=None)
        except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
            raise InputError(f"table {self.name}: the values of a column do not have one type: {error}") from error

    def refuse_cut(self, given: pl.DataFrame, shaped: pl.DataFrame) -> None:
        """Refuse a number that a cast to whole numbers would cut: polars does so without a word.

        Raises:
            InputError: names the column and the first such value.
        """
        for name, dtype in self.schema.items():
            if name in given.columns and dtype.is_integer() and given.schema[name].is_float():
                cut = given[name].filter(given[name] != given[name].cast(dtype).cast(given.schema[name]))
                if len(cut):
                    raise InputError(f"table {self.name}: column {name} holds {cut[0]}, which is not a whole number.")

    def validate(self, table: pl.DataFrame) -> pl.DataFrame:
        """Return the table when it keeps the declaration: columns, types, no forbidden null, unique key.

        Raises:
            InputError: names the column or the duplicate key.
        """
        if dict(table.schema) != self.schema:
            raise InputError(f"table {self.name} has schema {dict(table.schema)}, expected {self.schema}.")
        for column in self.columns:
            nulls = table[column.name].null_count()
            if nulls and not column.nullable:
                raise InputError(f"table {self.name}: column {column.name} has {nulls} null(s); it must have none.")
        twice = table.select(self.key).is_duplicated()
        if twice.any():
            row = table.filter(twice).select(self.key).row(0)
            raise InputError(
                f"table {self.name}: {int(twice.sum())} rows share a key, first {dict(zip(self.key, row, strict=True))}."
            )
        return table


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
