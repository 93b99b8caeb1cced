"""The estimator: what it counts, what it learns from bills, and how sure it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anmi_pipeline.judging.estimating import (
    FEWEST,
    Tariff,
    cache_factor,
    input_ratio,
    judge_cost,
    local_cost,
    output_mean,
    total_usd,
)
from anmi_pipeline.judging.prices import LongConfig, ModelConfig, Price, PriceList, RatesConfig, cost
from anmi_pipeline.judging.probing import MOST, PROBE, next_size, probe_keys
from anmi_pipeline.judging.requests import Request
from anmi_pipeline.judging.requests import Usage as Billed
from anmi_pipeline.judging.spans import Span
from anmi_pipeline.judging.usage import Counted, Usage, billed_usage, count_calls
from anmi_pipeline.judging.worth import calls_within

MODEL = ModelConfig(
    input=Decimal("1"), cached=Decimal("0.1"), output=Decimal("4"), batch=RatesConfig(input=Decimal("0.5"), output=Decimal("2"))
)


def price_of(model: ModelConfig = MODEL, tier: str = "sync") -> Price:
    return PriceList(checked=date(2026, 1, 1), models={"m": model}).price("m", tier)


@dataclass(frozen=True)
class Lengths:
    """Writes requests whose counted length stands in their query id; one request per key."""

    limit: int = 100

    def requests(self, calls: pl.DataFrame) -> Sequence[Request]:
        once = calls.unique("call_key", maintain_order=True)
        return [
            Request(key, {}, self.limit, int(query.removeprefix("q")))
            for key, query in once.select("call_key", "query_id").rows()
        ]


def calls_of(lengths: Sequence[int]) -> pl.DataFrame:
    keys = [f"{number:064x}" for number in range(len(lengths))]
    return pl.DataFrame({"query_id": [f"q{length}" for length in lengths], "call_key": keys})


def usage_of(counted: Sequence[float], billed: Sequence[float], output: Sequence[float], price: Price | None = None) -> Usage:
    usd = [float(cost(Billed(int(i), 0, int(o)), price)) if price else np.nan for i, o in zip(billed, output, strict=True)]
    return Usage(*(np.array(column, dtype=np.float64) for column in (counted, billed, output, usd)), "probe")


def test_calls_that_share_a_key_are_one_call() -> None:
    calls = calls_of([10, 20, 30])
    counted = count_calls(Lengths(7), pl.concat([calls, calls.head(2)]), seed=0)
    assert sorted(counted.input) == [10, 20, 30]
    assert (counted.limit, counted.planned) == (7, 3)


def test_of_many_calls_a_seeded_sample_is_counted() -> None:
    calls = calls_of(np.random.default_rng(0).integers(100, 2000, 3_000).tolist())
    one, same, other = (count_calls(Lengths(), calls, seed, most=500) for seed in (1, 1, 2))
    assert len(one.input) == 500 and one.planned == 3_000
    assert (one.input == same.input).all() and (one.input != other.input).any()
    assert one.input.mean() == pytest.approx(1050, rel=0.1)


def test_no_call_costs_nothing() -> None:
    found = judge_cost("a", Span.exactly(0), count_calls(Lengths(), calls_of([]), 0), None, Tariff("sync", price_of()), "json")
    assert found.usd == Span(0, 0, 0) and found.usd_reserved == 0


def test_bills_are_put_beside_counts_and_what_was_not_billed_is_left_out() -> None:
    calls = calls_of([100, 200, 300])
    keys = calls["call_key"].to_list()
    stored = pl.DataFrame(
        {
            "call_key": keys,
            "input_tokens": [90, 0, 280],
            "output_tokens": [5, 0, 9],
            "cost_usd": [0.1, 0.0, 0.2],
            "latency_ms": [3.0, None, None],
        }
    )
    usage = billed_usage(Lengths(), calls, stored, "ledger")
    assert usage.counted.tolist() == [100, 300]
    assert usage.input.tolist() == [90, 280]
    assert usage.output.tolist() == [5, 9]
    assert usage.usd[0] == 0.1 and np.isnan(usage.usd[1])  # of a batch: another price list


def test_exact_bills_give_the_exact_price() -> None:
    counted = [100.0, 400, 250, 700, 90, 1200]
    price = price_of()
    usage = usage_of(counted, [0.9 * value for value in counted], [12.0] * 6, price)
    planned = np.array([500.0, 1500.0])
    found = judge_cost("a", Span.exactly(2), Counted(planned, 50, 2), usage, Tariff("sync", price), "json")
    assert found.usd is not None
    assert found.usd.expected == pytest.approx(float(cost(Billed(1800, 0, 24), price)))
    assert found.usd.low == pytest.approx(found.usd.expected) == found.usd.high
    assert found.usd_reserved == pytest.approx((2000 + 2 * 50 * 4) / 1e6)
    assert found.input_tokens.expected == pytest.approx(1800) and found.output_tokens.expected == pytest.approx(24)


def test_batch_is_priced_from_plain_bills() -> None:
    usage = usage_of([100.0] * 8, [100.0] * 8, [10.0] * 8, price_of())
    counted = Counted(np.full(8, 100.0), 20, 8)
    plain, batch = (
        judge_cost("a", Span.exactly(8), counted, usage, Tariff(tier, price_of(tier=tier), price_of()), "json")
        for tier in ("sync", "batch")
    )
    assert plain.usd is not None and batch.usd is not None
    assert batch.usd.expected == pytest.approx(plain.usd.expected / 2)


def test_what_a_cache_saves_is_read_off_the_bills() -> None:
    price = price_of()
    usd = [float(cost(Billed(1000, 500, 10), price))] * 8
    usage = Usage(*(np.full(8, value) for value in (1000.0, 1000.0, 10.0)), np.array(usd), "probe")
    assert cache_factor(usage, price) == pytest.approx(0.55)
    assert cache_factor(usage_of([1000.0] * 8, [1000.0] * 8, [10.0] * 8), price) == 1.0


def test_prices_that_have_changed_since_stay_within_what_the_list_allows() -> None:
    price = price_of()
    usage = Usage(*(np.full(8, value) for value in (1000.0, 1000.0, 0.0)), np.full(8, 1000 * 0.8e-6), "ledger")
    assert 0.1 <= cache_factor(usage, price) <= 1.0


def test_long_calls_have_their_own_price() -> None:
    model = ModelConfig(
        input=Decimal("1"), output=Decimal("4"), long=LongConfig(above=1000, input=Decimal("2"), output=Decimal("8"))
    )
    lengths, price = [500.0, 1500.0], price_of(model)
    usage = usage_of(lengths * 3, lengths * 3, [10.0] * 6)
    found = judge_cost("a", Span.exactly(2), Counted(np.array(lengths), 10, 2), usage, Tariff("sync", price), "json")
    true = sum(float(cost(Billed(int(length), 0, 10), price)) for length in lengths)
    assert found.usd is not None and found.usd.expected == pytest.approx(true)


def test_without_bills_defaults_are_wide_and_bounded_by_the_limit() -> None:
    counted = Counted(np.full(50, 1000.0), 80, 50)
    for usage in (None, usage_of([1.0] * (FEWEST - 1), [1.0] * (FEWEST - 1), [1.0] * (FEWEST - 1))):
        found = judge_cost("a", Span.exactly(50), counted, usage, Tariff("sync", price_of()), "json")
        assert found.source == "default" and found.billed == 0
        assert found.output_tokens.high == 50 * 80 and found.output_tokens.low == 50 * 8
        assert found.usd is not None and found.usd.high > 1.2 * found.usd.expected


def test_nobody_knows_the_price() -> None:
    usage = usage_of([100.0] * 8, [100.0] * 8, [10.0] * 8)
    found = judge_cost("a", Span.exactly(5), Counted(np.full(5, 100.0), 9, 5), usage, Tariff("sync", None), "json")
    assert found.usd is None and found.usd_reserved is None and found.output_tokens.expected == 50
    assert total_usd([found, local_cost("b", Span.exactly(3))]) is None
    assert total_usd([local_cost("b", Span.exactly(3))]) == Span(0, 0, 0)


def test_the_ratio_is_that_of_sums_and_its_error_the_samplers() -> None:
    rng = np.random.default_rng(3)
    population = rng.lognormal(6, 0.6, 20_000)
    billed = population * 0.93 + rng.normal(0, 20, len(population))
    true = billed.sum() / population.sum()
    inside = 0
    for _ in range(400):
        rows = rng.choice(len(population), 20, replace=False)
        found = input_ratio(usage_of(population[rows], billed[rows], np.ones(20)), 1e9)
        inside += found.low <= true <= found.high
    assert 0.91 <= inside / 400 <= 0.99


@pytest.mark.parametrize(("sigma", "least"), [(0.5, 0.92), (1.0, 0.91)])
def test_intervals_of_a_long_tail_hold_the_mean(sigma: float, least: float) -> None:
    rng = np.random.default_rng(5)
    true, inside, errors = 100 * np.exp(sigma**2 / 2), 0, []
    for _ in range(500):
        output = 100 * np.exp(sigma * rng.standard_normal(PROBE))
        found = output_mean(usage_of(np.ones(PROBE), np.ones(PROBE), output), 1e9, "json", 1e9)
        inside += found.low <= true <= found.high
        errors.append(found.expected / true - 1)
    assert inside / 500 >= least
    assert abs(np.mean(errors)) < 0.03  # the mean itself is unbiased


def test_more_bills_narrow_the_interval() -> None:
    rng = np.random.default_rng(1)
    output = rng.lognormal(3, 0.8, 320)
    widths = [output_mean(usage_of(np.ones(n), np.ones(n), output[:n]), 1e9, "json", 1e9).error for n in (20, 80, 320)]
    assert widths[0] > widths[1] > widths[2]


spans = st.tuples(st.floats(0, 1), st.floats(0, 100), st.floats(0, 1)).map(
    lambda parts: Span(parts[1] * (1 - parts[0]), parts[1], parts[1] * (1 + parts[2]))
)


@given(spans, spans)
def test_sums_of_spans_are_ordered_and_no_wider_than_end_by_end(one: Span, other: Span) -> None:
    total = one.plus(other)
    assert one.low + other.low - 1e-9 <= total.low <= total.expected <= total.high <= one.high + other.high + 1e-9
    assert one.plus(Span.exactly(0)).high == pytest.approx(one.high)


def test_a_probe_holds_short_and_long_calls_alike() -> None:
    lengths = np.random.default_rng(0).permutation(np.arange(1, 401)).tolist()
    calls = calls_of(lengths)
    known = dict(zip(calls["call_key"], lengths, strict=True))
    chosen = probe_keys(Lengths(), calls, PROBE, seed=4)
    assert len(set(chosen)) == PROBE
    assert [(known[key] - 1) * PROBE // 400 for key in chosen] == list(range(PROBE))
    assert chosen.equals(probe_keys(Lengths(), calls, PROBE, seed=4))
    assert not chosen.equals(probe_keys(Lengths(), calls, PROBE, seed=5))


def test_a_probe_of_few_or_many_calls() -> None:
    assert len(probe_keys(Lengths(), calls_of([5] * 7), PROBE, seed=0)) == 7
    assert len(set(probe_keys(Lengths(), calls_of([5] * 4_000), PROBE, seed=0))) == PROBE


@given(st.integers(PROBE, MOST), st.floats(0, 10))
def test_a_probe_grows_while_it_is_unsure_and_ends(size: int, error: float) -> None:
    wanted = next_size(size, error)
    assert size <= wanted <= MOST
    assert (wanted > size) == (error > 0.1 and size < MOST)


def test_calls_that_fit_under_a_cap() -> None:
    assert calls_within(10, 0.01, 50) == pytest.approx(20)
    assert calls_within(-1, 0.01, 50) == 0
