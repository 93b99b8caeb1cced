"""What a call costs: the price list and exact arithmetic on it.

Belongs here: reading `prices.yaml`, the price of a model in a tier, the cost of tokens. Does not: caps (`budget.py`), estimates.
Amounts are whole numbers of 1e-12 USD: a price per million tokens with six decimals is a whole number per token, so that a
million calls add up without drift, in Python and in both databases.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from anmi_pipeline.errors import InputError, nearest
from anmi_pipeline.judging.requests import Request, Usage
from anmi_pipeline.settings import Config

PICO = 10**12
"""Units of an amount in one dollar."""
PER_TOKEN = 10**6
"""Units per token in a price of one dollar per million tokens."""

Tier = Literal["sync", "batch"]
DATED = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8})$")


class RatesConfig(Config):
    """Prices of one kind of call, USD per million tokens."""

    input: Decimal = Field(ge=0, decimal_places=6, description="input tokens")
    cached: Decimal | None = Field(
        default=None, ge=0, decimal_places=6, description="input tokens read from the provider's cache; absent: as input"
    )
    cache_write: Decimal | None = Field(
        default=None, ge=0, decimal_places=6, description="input tokens put into the provider's cache; absent: as input"
    )
    output: Decimal = Field(ge=0, decimal_places=6, description="output tokens, hidden reasoning included")


class LongConfig(RatesConfig):
    """Prices of calls with a long input."""

    above: int = Field(ge=1, description="input tokens above which the whole call has these prices")


class ModelConfig(RatesConfig):
    """Prices of one model; its own fields are those of a plain call."""

    batch: RatesConfig | None = Field(default=None, description="in the Batch API; absent: the model takes no batches")
    long: LongConfig | None = Field(default=None, description="of calls with a long input; absent: as any call")

    @model_validator(mode="after")
    def dearer(self) -> Self:
        """Refuse long calls that cost less than short ones: the worst price of a call would not be the worst."""
        if self.long is not None and (self.long.input < self.input or self.long.output < self.output):
            raise ValueError("prices of long calls must not be lower than the plain ones.")
        return self


class PriceList(Config):
    """A file of prices."""

    checked: date = Field(description="day on which the prices were last compared with the providers' pages")
    models: dict[str, ModelConfig] = Field(description="model name -> prices")

    def found(self, model: str) -> ModelConfig | None:
        """The prices of a model; a dated name falls back on the name without its date."""
        return self.models.get(model) or self.models.get(DATED.sub("", model))

    def knows(self, model: str, tier: Tier) -> bool:
        """Whether the list has a price of a model in a tier."""
        found = self.found(model)
        return found is not None and (tier == "sync" or found.batch is not None)

    def price(self, model: str, tier: Tier) -> "Price":
        """The price of a model; a dated name falls back on the name without its date.

        Raises:
            InputError: the model is not in the list, or takes no batches.
        """
        found = self.found(model)
        if found is None:
            raise InputError(
                f'no price is known for model "{model}", so no cap can hold and no cost be told.{nearest(model, self.models)} '
                "Add it to prices.yaml in the folder ANMI_CONF; its form is that of the shipped conf/prices.yaml."
            )
        if tier == "batch" and found.batch is None:
            raise InputError(f'prices.yaml has no batch price for model "{model}". Add one, or use tier sync.')
        plain = found.batch if tier == "batch" and found.batch is not None else found
        long = None if found.long is None else Rates.of(found.long).scaled(plain.input, found.input)
        return Price(model, tier, Rates.of(plain), long, found.long.above if found.long else 0)


@dataclass(frozen=True)
class Rates:
    """Prices per token, in units of 1e-12 USD."""

    input: int
    cached: int
    cache_write: int
    output: int

    @classmethod
    def of(cls, config: RatesConfig) -> "Rates":
        """Whole units per token; exact, because a price has at most six decimals."""
        cached = config.input if config.cached is None else config.cached
        written = config.input if config.cache_write is None else config.cache_write
        return cls(*(int(price * PER_TOKEN) for price in (config.input, cached, written, config.output)))

    def scaled(self, numerator: Decimal, denominator: Decimal) -> "Rates":
        """The same at another tier's ratio of prices, rounded up: long calls of the Batch API have the batch discount, too."""
        if numerator == denominator:
            return self
        share = numerator / denominator
        return Rates(*(-int(-(price * share) // 1) for price in (self.input, self.cached, self.cache_write, self.output)))


@dataclass(frozen=True)
class Price:
    """What the calls of a model in a tier cost.

    Attributes:
        model: name of the model.
        tier: "sync" or "batch".
        rates: of a plain call.
        long: of a call with more than `above` input tokens; None: as any call.
        above: see `long`.
    """

    model: str
    tier: Tier
    rates: Rates
    long: Rates | None = None
    above: int = 0

    def rates_at(self, input_tokens: int) -> Rates:
        """The rates of a call of that length."""
        return self.rates if self.long is None or input_tokens <= self.above else self.long


def cost_units(usage: Usage, price: Price) -> int:
    """Cost of one call in units of 1e-12 USD: each token at its price, plain, cached, written to the cache, output."""
    rates = price.rates_at(usage.input)
    plain = usage.input - usage.cached - usage.written
    read = plain * rates.input + usage.cached * rates.cached + usage.written * rates.cache_write
    return read + usage.output * rates.output


def worst_units(request: Request, price: Price) -> int:
    """The most a call can cost, in units of 1e-12 USD: all input at its dearest, as many output tokens as may come."""
    rates = price.rates_at(request.input_tokens)
    return request.input_tokens * max(rates.input, rates.cached, rates.cache_write) + request.max_output_tokens * rates.output


def cost(usage: Usage, price: Price) -> Decimal:
    """Cost of the tokens of one call, USD, exact.

    >>> price = PriceList(checked=date(2026, 1, 1), models={"m": ModelConfig(input=Decimal("0.15"), output=Decimal("0.6"))})
    >>> cost(Usage(input=1000, output=1), price.price("m", "sync"))
    Decimal('0.000150600000')
    """
    return dollars(cost_units(usage, price))


def dollars(units: int) -> Decimal:
    """An amount in USD, exact."""
    return Decimal(units).scaleb(-12)


def units_of(usd: Decimal | float | str) -> int:
    """USD as units of 1e-12 USD, rounded down, a float read as it is written.

    >>> units_of(0.1)
    100000000000
    """
    return int(Decimal(str(usd)) * PICO)


def price_of(model: str, tier: Tier, conf: Path | None = None) -> Price:
    """The price of a model in a tier.

    Args:
        model: name as the provider's API takes it.
        tier: "sync" or "batch".
        conf: the user's configuration folder, whose prices.yaml stands above the shipped one.

    Raises:
        InputError: a file is wrong, or the model is in neither.
    """
    return load_prices(conf).price(model, tier)


@lru_cache(maxsize=8)
def load_prices(conf: Path | None = None) -> PriceList:
    """The shipped prices under those of a user's file, model by model. Read once per process.

    Raises:
        InputError: a file cannot be read or does not hold prices.
    """
    shipped = read_prices(Path(str(resources.files("anmi_pipeline"))) / "conf" / "prices.yaml")
    own = None if conf is None else conf / "prices.yaml"
    if own is None or not own.exists():
        return shipped
    above = read_prices(own)
    return PriceList(checked=above.checked, models={**shipped.models, **above.models})


def read_prices(path: Path) -> PriceList:
    """Read one file.

    Raises:
        InputError: names the file and the field.
    """
    try:
        content: object = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(content, Mapping):
            raise InputError(f"{path} must hold `checked: <date>` and `models:`.")
        return PriceList.model_validate(content)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: {where}: {first['msg']}. Prices are USD per million tokens, at most 6 decimals.") from error
