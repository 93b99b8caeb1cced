from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.prices import (
    ModelConfig,
    PriceList,
    cost,
    cost_units,
    dollars,
    load_prices,
    price_of,
    read_prices,
    units_of,
    worst_units,
)  # fmt: skip
from anmi_pipeline.judging.requests import Request, Usage

COUNT = st.integers(0, 2_000_000)
RATE = st.decimals(0, 200, places=6, allow_nan=False)


def listed(**prices: object) -> PriceList:
    return PriceList.model_validate({"checked": "2026-01-01", "models": {"m": prices}})


@given(COUNT, COUNT, COUNT, RATE, RATE, RATE)
def test_cost_is_exact(fresh: int, cached: int, output: int, p_in: Decimal, p_cached: Decimal, p_out: Decimal):
    price = listed(input=p_in, cached=p_cached, output=p_out).price("m", "sync")
    expected = (fresh * p_in + cached * p_cached + output * p_out) / 10**6
    assert cost(Usage(fresh + cached, cached, output), price) == expected


def test_a_million_calls_do_not_drift():
    price, usage = listed(input=0.1, output=0.7).price("m", "sync"), Usage(1001, 0, 3)
    total = sum(cost_units(usage, price) for _ in range(100_000))
    assert dollars(total) == 100_000 * (1001 * Decimal("0.1") + 3 * Decimal("0.7")) / 10**6
    assert sum([float(cost(usage, price))] * 100_000) != float(dollars(total))  # floats do


@given(COUNT, COUNT, COUNT, st.floats(0, 1))
def test_no_call_costs_more_than_its_worst(counted: int, limit: int, output: int, share: float):
    for model in load_prices().models:
        price = price_of(model, "sync")
        usage = Usage(counted, int(counted * share), min(output, limit))
        assert cost_units(usage, price) <= worst_units(Request("k", {}, limit, counted), price)


def test_the_shipped_list():
    prices = load_prices()
    assert prices.checked.year >= 2026
    for name, model in prices.models.items():
        assert prices.price(name, "sync").rates.output >= prices.price(name, "sync").rates.input > 0
        assert model.batch is not None
        batch, sync = prices.price(name, "batch"), prices.price(name, "sync")
        assert 2 * batch.rates.input == sync.rates.input
        assert 2 * batch.rates.output == sync.rates.output
        if sync.long is not None:
            assert batch.long is not None
            assert 2 * batch.long.input == sync.long.input


def test_cached_input_without_a_price_costs_as_input():
    price = listed(input=2, output=8).price("m", "sync")
    assert cost(Usage(1000, 900, 0), price) == Decimal("0.002")


def test_input_that_may_be_written_to_a_cache_is_reserved_at_that_price():
    price = listed(input=2, cached=0.2, cache_write=2.5, output=8).price("m", "sync")
    assert dollars(worst_units(Request("k", {}, 0, 10**6), price)) == Decimal("2.5")


def test_a_long_call_has_the_long_prices_whole():
    price = listed(input=1, output=2, long={"above": 100, "input": 3, "output": 4}).price("m", "sync")
    assert cost(Usage(100, 0, 1), price) == Decimal("0.000102")
    assert cost(Usage(101, 0, 1), price) == Decimal("0.000307")


@pytest.mark.parametrize("name", ["gpt-5-2025-08-07", "claude-haiku-4-5-20251001"])
def test_a_dated_name_has_the_price_of_the_name(name: str):
    assert price_of(name, "batch").rates == price_of(name[: name.index("-20")], "batch").rates


def test_a_dated_name_of_its_own_stands_above():
    assert price_of("gpt-4o-2024-05-13", "sync").rates.input == 2 * price_of("gpt-4o", "sync").rates.input


def test_an_unknown_model_is_an_error_that_says_where_to_put_it():
    with pytest.raises(InputError, match=r'"gpt-5-minni".*Did you mean "gpt-5-mini"\?.*prices.yaml in the folder ANMI_CONF'):
        price_of("gpt-5-minni", "sync")
    with pytest.raises(InputError, match="no batch price"):
        listed(input=1, output=1).price("m", "batch")


def test_a_users_file_overrides_model_by_model(tmp_path: Path):
    (tmp_path / "prices.yaml").write_text(
        "checked: 2027-01-01\nmodels: {gpt-5: {input: 0.000001, output: 7}, mine: {input: 0, output: 0}}\n"
    )
    assert price_of("gpt-5", "sync", tmp_path).rates.input == 1
    assert price_of("mine", "sync", tmp_path).rates.output == 0
    assert price_of("gpt-5-mini", "sync", tmp_path) == price_of("gpt-5-mini", "sync")
    with pytest.raises(InputError, match="no batch price"):  # an entry replaces the shipped one whole
        price_of("gpt-5", "batch", tmp_path)
    assert price_of("gpt-5", "sync", tmp_path / "absent") == price_of("gpt-5", "sync")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "must hold `checked"),
        ("checked: 2026-01-01\nmodels: {m: {input: 1}}", r"models.m.output: Field required"),
        ("checked: 2026-01-01\nmodels: {m: {input: -1, output: 1}}", r"models.m.input"),
        ("checked: 2026-01-01\nmodels: {m: {input: 0.0000001, output: 1}}", "at most 6 decimals"),
        ("checked: 2026-01-01\nmodels: {m: {input: 2, output: 1, long: {above: 9, input: 1, output: 1}}}", "lower than"),
        ("models: {", "is not YAML"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, message: str):
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_prices(path)
    assert str(path) in str(caught.value)


def test_units_round_down():
    assert units_of("0.0000000000019") == 1
    assert units_of(200) == 200 * 10**12
    assert dollars(units_of(0.1) * 3) == Decimal("0.3")


def test_every_price_is_described():
    assert all(field.description for field in ModelConfig.model_fields.values())
