"""The settings of a cascade of judges: its tiers and when a pair moves up.

Belongs here: the configuration models. Does not: the decisions (`routing.py`).
"""

from typing import Annotated, Self

from pydantic import Field, model_validator

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.judge_configs import Name
from anmi_pipeline.settings import Config


class Tier(Config):
    """Judges of about one price."""

    name: Name = Field(description="name of the tier: small, medium, large")
    judges: tuple[Name, ...] = Field(min_length=1, description="judges of the tier, rotated over its pairs")
    share: Annotated[float, Field(ge=0, le=1)] = Field(
        default=1.0, description="target mix: largest share of a query's pairs that reach this tier; the first tier has 1"
    )
    near_half: Annotated[float, Field(ge=0, le=0.5)] = Field(
        default=0.35, description="a pair leaves this tier upwards while its probability is within this of one half"
    )
    weight: float = Field(
        default=1.0,
        gt=0,
        description="evidence in one of its verdicts, in verdicts of the last tier: (probit of its accuracy / probit of the last "
        "tier's) squared",
    )
    both_orders: bool = Field(
        default=False,
        description="ask every pair of the tier in both orders: for cheap judges, whose flips show where they guess",
    )
    usd: float = Field(default=1.0, ge=0, description="price of one call, where none was paid yet; any unit that all tiers share")


class RoutingConfig(Config):
    """A cascade: cheap judges first, dearer ones only where these leave doubt."""

    tiers: tuple[Tier, ...] = Field(min_length=2, description="tiers, cheapest first")
    orders: bool = Field(default=True, description="a pair moves up when one judge's two orders disagree")
    judges: bool = Field(default=True, description="a pair moves up when its judges disagree")
    passes: int = Field(
        default=3,
        ge=1,
        description="in how many parts a tier's share is filled: later parts are chosen knowing what the earlier ones said. The "
        "cascade waits for judges passes + tiers - 2 times after the first tier",
    )

    @model_validator(mode="after")
    def consistent(self) -> Self:
        """Refuse tiers that cannot be told apart, and a first tier that leaves pairs out."""
        names = [tier.name for tier in self.tiers]
        judges = [judge for tier in self.tiers for judge in tier.judges]
        for what, given in (("tier", names), ("judge", judges)):
            twice = sorted({name for name in given if given.count(name) > 1})
            if twice:
                raise ValueError(f"{what} {', '.join(twice)} is listed twice; each belongs to one place of the cascade.")
        if self.tiers[0].share != 1:
            raise ValueError(f"share of the first tier is {self.tiers[0].share}; it judges every pair, so it must be 1.")
        return self

    @property
    def steps(self) -> int:
        """How often pairs move up after the first tier has answered: tier t fills part s of its share in step s + t - 1."""
        return self.passes + len(self.tiers) - 2

    @property
    def places(self) -> dict[str, int]:
        """Judge -> place of its tier, from 0."""
        return {judge: place for place, tier in enumerate(self.tiers) for judge in tier.judges}

    @property
    def weights(self) -> dict[str, float]:
        """Judge -> evidence of one of its verdicts."""
        return {judge: tier.weight for tier in self.tiers for judge in tier.judges}

    def tier(self, name: str) -> Tier:
        """The tier of a name.

        Raises:
            InputError: there is none.
        """
        for tier in self.tiers:
            if tier.name == name:
                return tier
        raise InputError(f'the cascade has no tier "{name}"; it has {", ".join(tier.name for tier in self.tiers)}.')
