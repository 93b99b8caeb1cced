"""What the assets of rating decide: which errors a fit gives."""

import pytest

from anmi_pipeline.catalog.datasets import DatasetConfig
from anmi_pipeline.defs.rating import rating_of
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.rating.config import ErrorKind, RatingConfig


@pytest.mark.parametrize(
    ("design", "asked", "given"),
    [("lists", "hc3", "fisher"), ("lists", "dispersion", "fisher"), ("lists", "none", "none"), ("cycles", "hc3", "hc3")],
)
def test_comparisons_of_rankings_are_not_taken_for_independent(design: str, asked: ErrorKind, given: ErrorKind):
    dataset = DatasetConfig.model_validate(
        {
            "name": "made", "description": "made", "family": "made", "source": {"reader": "beir", "path": "made"},
            "judging": JudgingConfig(design=design),  # pyright: ignore[reportArgumentType]
            "rating": RatingConfig(std_error=asked),
        }
    )  # fmt: skip
    assert rating_of(dataset) == dataset.rating.model_copy(update={"std_error": given})
