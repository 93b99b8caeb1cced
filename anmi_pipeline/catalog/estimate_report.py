"""What an estimate says: a row per judge and tier, and what they add up to.

Belongs here: the report for people and programs. Does not: the estimate (`judging/estimating.py`) and reading (`estimating.py`).
"""

from dataclasses import dataclass

from anmi_pipeline.judging.estimating import JudgeCost
from anmi_pipeline.judging.spans import Span
from anmi_pipeline.judging.worth import Worth, calls_within


@dataclass(frozen=True)
class EstimateReport:
    """What judging a dataset will still cost.

    Attributes:
        dataset: the dataset.
        costs: a row per judge and tier.
        on_record: planned calls whose verdict the ledger has.
        queries: judged queries.
        total: USD of all judges as configured; None when the price of one is unknown.
        max_usd: cap of the dataset, USD; None without one.
        spent_usd: what counts against it already.
        worth: what the next calls are expected to bring; None before there are verdicts.
        probed: calls that were asked for this estimate.
        calls_left: calls that `max_calls` still allows; None without that cap.
    """

    dataset: str
    costs: tuple[JudgeCost, ...]
    on_record: int
    queries: int
    total: Span | None
    max_usd: float | None
    spent_usd: float
    worth: Worth | None
    probed: int
    calls_left: int | None = None

    @property
    def calls(self) -> Span:
        """Calls to be made, of all judges."""
        spans = [cost.calls for cost in self.costs if cost.configured]
        return Span(sum(one.low for one in spans), sum(one.expected for one in spans), sum(one.high for one in spans))

    @property
    def usd_per_call(self) -> float | None:
        """Mean price of a call over the judges as configured; None where it is unknown or nothing."""
        return self.total.expected / self.calls.expected if self.total is not None and self.calls.expected else None

    @property
    def calls_per_query(self) -> float | None:
        """Calls per query that fit under what is left of the cap; None without a cap or a price."""
        if self.max_usd is None or not self.usd_per_call or not self.queries:
            return None
        return calls_within(self.max_usd - self.spent_usd, self.usd_per_call, self.queries)

    def rows(self) -> list[dict[str, object]]:
        """A row per judge and tier, for people."""
        return [
            {
                "judge": cost.judge,
                "tier": f"{cost.tier}{' *' if cost.configured else ''}",
                "calls": counted(cost.calls),
                "input tokens": f"{cost.input_tokens.expected:,.0f}",
                "output tokens": f"{cost.output_tokens.expected:,.0f}",
                **{f"USD {end}": dollars(cost.usd, end) for end in ("low", "expected", "high")},
                "most": "unknown" if cost.usd_reserved is None else f"{cost.usd_reserved:,.2f}",
                "from": learnt(cost),
            }
            for cost in self.costs
        ]

    def lines(self) -> list[str]:
        """What the table adds up to, in sentences."""
        said = [f"{self.on_record:,} planned calls are on record and cost nothing; * is how the dataset asks."]
        if self.probed:
            said.append(f"{self.probed:,} planned calls were asked for this estimate; their verdicts are kept and count.")
        if self.total is None:
            said.append("the total is unknown: a model has no price. Add it to prices.yaml in the folder ANMI_CONF.")
        else:
            low, expected, high = (f"${value:,.2f}" for value in (self.total.low, self.total.expected, self.total.high))
            said.append(f"all judges: {expected} expected, {low} to {high} (95 %), for {counted(self.calls)} calls.")
        if any(cost.configured and cost.source == "default" and cost.tier != "local" and cost.calls.high for cost in self.costs):
            said.append("no call of a judge was billed yet: the interval is wide. `anmi estimate --probe` asks 20 planned calls.")
        fitting = self.calls_per_query
        if fitting is not None:
            left = (self.max_usd or 0.0) - self.spent_usd
            wanted = self.calls.expected / self.queries
            said.append(
                f"under the cap ${left:,.2f} are left: about {fitting:,.1f} calls per query fit, {wanted:,.1f} are planned."
            )
        if self.calls_left is not None:
            said.append(f"under the cap {self.calls_left:,} calls are left, {counted(self.calls)} are planned.")
        return said + ([worth_line(self.worth)] if self.worth is not None else [])

    def as_json(self) -> dict[str, object]:
        """The same for programs: plain numbers."""
        return {
            "dataset": self.dataset,
            "rows": [plain(cost) for cost in self.costs],
            "total_usd": ends(self.total),
            "on_record": self.on_record,
            "queries": self.queries,
            "max_usd": self.max_usd,
            "spent_usd": self.spent_usd,
            "calls_per_query_under_cap": self.calls_per_query,
            "calls_left": self.calls_left,
            "probed": self.probed,
            "worth": None if self.worth is None else vars(self.worth) | {"gain_per_usd": self.worth.gain_per_usd},
        }


def counted(calls: Span) -> str:
    """Calls as people write them, with their ends where they differ."""
    if round(calls.low) == round(calls.high):
        return f"{calls.expected:,.0f}"
    return f"{calls.expected:,.0f} ({calls.low:,.0f} to {calls.high:,.0f})"


def dollars(usd: Span | None, end: str) -> str:
    """An end of an amount."""
    return "unknown" if usd is None else f"{getattr(usd, end):,.2f}"


def learnt(cost: JudgeCost) -> str:
    """Where the usage of a row comes from."""
    if cost.tier == "local":
        return "runs here"
    if not cost.calls.high:
        return "nothing left to ask"
    return f"{cost.billed:,} billed calls ({cost.source})" if cost.billed else "defaults, no call billed"


def ends(span: Span | None) -> dict[str, float] | None:
    """A span as plain numbers."""
    return None if span is None else vars(span)


def plain(cost: JudgeCost) -> dict[str, object]:
    """A row as plain numbers."""
    return {name: vars(value) if isinstance(value, Span) else value for name, value in vars(cost).items()}


def worth_line(worth: Worth) -> str:
    """What the next calls bring, in a sentence."""
    price = "" if worth.usd is None else f" for ${worth.usd:,.2f}"
    per = "" if not worth.gain_per_usd else f" ({worth.gain_per_usd:.2g} per dollar)"
    return (
        f"{worth.settled:.0%} of {worth.queries:,} judged queries are settled, expected nDCG@10 {worth.ndcg:.3f}; the next "
        f"{worth.calls:,.0f} calls{price} are expected to raise it by {worth.gain:.4f}{per}."
    )
