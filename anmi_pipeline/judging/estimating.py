"""What judging will cost: calls, tokens and dollars of each judge in each tier, with an interval.

Belongs here: the estimator. It rests on the tokens of the planned requests themselves, so that long documents are no surprise,
and learns from some billed calls what a count cannot know: how the provider's tokenizer differs from the counter, and how much a
model writes. Does not: counting and bills (`usage.py`), prices (`prices.py`), caps (`budget.py`), reading artifacts and asking a
probe (`catalog/estimating.py`), what calls are worth (`worth.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from anmi_pipeline.judging.prices import PICO, Price, Rates, Tier
from anmi_pipeline.judging.prompts import AnswerForm
from anmi_pipeline.judging.spans import Floats, Span, around, scaled
from anmi_pipeline.judging.usage import Counted, Source, Usage

FEWEST = 5
"""Billed calls below which nothing is learnt from them."""
DEFAULT_INPUT = (0.6, 0.9, 1.2)
"""Billed per counted input token where no call was billed yet: low, expected, high. The counter is meant to err upwards: of the
shipped prompt on nfcorpus and scifact, GPT-4, GPT-5 and Claude 2 would bill .93 to .95; newer vocabularies up to a third more."""
LEAST_OUTPUT: dict[AnswerForm, int] = {"token": 1, "json": 8, "tool": 15}
"""Output tokens of the shortest answer in each form."""


@dataclass(frozen=True)
class JudgeCost:
    """What one judge will take in one tier, if all calls come to an answer.

    Attributes:
        judge: judge id.
        tier: sync or batch; "local" for judges without an API.
        configured: whether the dataset asks the judge in this tier.
        calls: calls still to be made.
        input_tokens: of all calls.
        output_tokens: of all calls.
        usd: price; None when nobody knows one.
        usd_per_call: price of one call; None when nobody knows one.
        usd_reserved: most that the calls can cost (counted input, most output): under a cap below it the last calls may have to
            wait for earlier ones to be settled; None when nobody knows a price.
        billed: calls that usage was learnt from.
        source: where usage was learnt from.
    """

    judge: str
    tier: Tier | Literal["local"]
    configured: bool
    calls: Span
    input_tokens: Span
    output_tokens: Span
    usd: Span | None
    usd_per_call: Span | None
    usd_reserved: float | None
    billed: int
    source: Source

    @property
    def error(self) -> float:
        """Relative error of the price of a call, or of its output tokens where nobody knows a price."""
        return (self.usd_per_call or self.output_tokens).error


@dataclass(frozen=True)
class Tariff:
    """What a judge is paid in a tier.

    Attributes:
        tier: tier.
        price: price in it; None when nobody knows one.
        plain: price in tier sync, in which usage was billed; None: `price` is that.
        configured: whether the dataset asks the judge in this tier.
    """

    tier: Tier
    price: Price | None
    plain: Price | None = None
    configured: bool = True


def local_cost(judge: str, calls: Span) -> JudgeCost:
    """The cost of a judge without an API: nothing."""
    nothing = Span.exactly(0.0)
    return JudgeCost(judge, "local", True, calls, nothing, nothing, nothing, nothing, 0.0, 0, "default")


def judge_cost(judge: str, calls: Span, counted: Counted, usage: Usage | None, tariff: Tariff, form: AnswerForm) -> JudgeCost:
    """Estimate one judge in one tier.

    Equation: input tokens of a call = mean counted tokens of the planned calls * ratio; output tokens = mean billed output;
    USD = calls * (input * p_in * f + output * p_out), f what the provider's cache adds to or takes from the price of input.

    Args:
        judge: judge id.
        calls: calls to be made.
        counted: tokens of the planned calls; those of the calls to be made are taken to be alike.
        usage: billed calls; None or fewer than FEWEST: documented defaults with a wide interval.
        tariff: tier and prices.
        form: how the model answers, for the defaults.
    """
    known = usage if usage is not None and len(usage) >= FEWEST else None
    price = tariff.price
    nothing = Span.exactly(0.0)
    if not len(counted.input) or calls.high <= 0:
        usd = nothing if price is not None else None
        return JudgeCost(
            judge, tariff.tier, tariff.configured, calls, nothing, nothing, usd, usd, 0.0 if price else None, 0, "default"
        )
    ratio = input_ratio(known, calls.expected)
    output = output_mean(known, counted.limit, form, calls.expected)
    mean = float(counted.input.mean())
    a_call = scaled(ratio, mean)
    usd = each = reserved = None
    if price is not None:
        rates = mean_rates(counted.input * ratio.expected, price)
        f = cache_factor(known, tariff.plain or price)
        each = scaled(a_call, rates.input * f / PICO).plus(scaled(output, rates.output / PICO))
        usd = each.times(calls)
        dearest = max(rates.input, rates.cached, rates.cache_write)
        reserved = calls.high * (mean * dearest + counted.limit * rates.output) / PICO
    return JudgeCost(
        judge, tariff.tier, tariff.configured, calls, a_call.times(calls), output.times(calls), usd, each, reserved,
        len(known) if known else 0, known.source if known else "default",
    )  # fmt: skip


def input_ratio(usage: Usage | None, planned: float) -> Span:
    """Billed input tokens per counted one.

    Equation: r = sum of billed / sum of counted; var r = sum of (billed - r counted)^2 / ((n - 1) n mean(counted)^2), the ratio
    estimator of survey sampling (Cochran, Sampling Techniques, 1977, chapter 6), here with 1/n + 1/N for the N calls to come.
    """
    if usage is None:
        return Span(*DEFAULT_INPUT)
    n, total = len(usage), float(usage.counted.sum())
    ratio = float(usage.input.sum()) / total
    rest = usage.input - ratio * usage.counted
    variance = float(rest @ rest) / (n - 1) / (total / n) ** 2 * (1 / n + 1 / max(planned, 1.0))
    return around(ratio, variance**0.5 / ratio, n)


def output_mean(usage: Usage | None, limit: float, form: AnswerForm, planned: float) -> Span:
    """Mean output tokens of a call.

    Equation: the sample mean, which is right on average however long the tail; its interval is mean * exp(+- t s), s the larger
    of the coefficient of variation's standard error and of the log-normal one, sqrt(v / n + v^2 / (2 (n - 1))), v the variance of
    the logarithms (Cox's method, in Zhou and Gao, Statistics in Medicine 16, 1997): a small sample has often not seen the tail
    yet, and s of the mean alone then is too small. Sampling of the N calls to come is included.
    """
    if usage is None:
        least = float(min(LEAST_OUTPUT[form], limit))
        # Nothing is known but the bounds: the geometric mean of the shortest answer and the limit.
        return Span(least, (least * limit) ** 0.5, limit)
    n, mean = len(usage), float(usage.output.mean())
    if mean <= 0:
        return Span.exactly(0.0)
    share = 1 / n + 1 / max(planned, 1.0)
    plain = float(usage.output.std(ddof=1)) / mean * share**0.5
    v = float(np.log(np.maximum(usage.output, 1.0)).var(ddof=1))
    found = around(mean, max(plain, (v * share + v * v / (2 * (n - 1))) ** 0.5), n)
    most = max(limit, mean)
    return Span(found.low, found.expected, min(found.high, most))


@dataclass(frozen=True)
class MeanRates:
    """Mean prices of a token over calls, in units of 1e-12 USD: input and its caches by input token, output by call."""

    input: float
    cached: float
    cache_write: float
    output: float


def mean_rates(tokens: Floats, price: Price) -> MeanRates:
    """Mean prices over calls of these input lengths: calls beyond a length may be dearer."""
    long = tokens > price.above if price.long is not None else np.zeros(len(tokens), dtype=bool)
    share_in, share_out = float(tokens[long].sum() / tokens.sum()), float(long.mean())

    def mixed(name: str, share: float) -> float:
        above: Rates = price.long or price.rates
        return (1 - share) * getattr(price.rates, name) + share * getattr(above, name)

    return MeanRates(
        mixed("input", share_in), mixed("cached", share_in), mixed("cache_write", share_in), mixed("output", share_out)
    )


def cache_factor(usage: Usage | None, price: Price) -> float:
    """What the provider's cache makes of the price of input: 1 without one.

    Read off the bills: f = 1 + sum of (billed - plain price) / sum of plain price of input. What the price list does not allow,
    as when prices have changed since, is cut off.

    Args:
        usage: billed calls.
        price: price in tier sync.
    """
    rates = price.rates
    if usage is None or not rates.input:
        return 1.0
    known = np.isfinite(usage.usd) & (usage.usd > 0)
    if not known.any():
        return 1.0
    long = usage.input[known] > price.above if price.long is not None else np.zeros(int(known.sum()), dtype=bool)
    above = price.long or rates
    paid = usage.input[known] * np.where(long, above.input, rates.input)
    plain = paid + usage.output[known] * np.where(long, above.output, rates.output)
    factor = 1 + float((usage.usd[known] * PICO - plain).sum() / paid.sum())
    ends = (rates.input, rates.cached, rates.cache_write)
    return float(np.clip(factor, min(ends) / rates.input, max(ends) / rates.input))


def total_usd(costs: Sequence[JudgeCost]) -> Span | None:
    """USD of all judges as the dataset asks them, None when the price of one is unknown; end by end, as errors may be alike."""
    spans = [cost.usd for cost in costs if cost.configured]
    known = [span for span in spans if span is not None]
    if len(known) < len(spans):
        return None
    return Span(sum(span.low for span in known), sum(span.expected for span in known), sum(span.high for span in known))
