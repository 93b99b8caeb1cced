"""The settings of a rating and the constants of the Elo scale; light enough for any configuration to import.

Belongs here: `RatingConfig`, the model names, the Elo constants. Does not: the fit (`fit.py`) and the tables (`elo.py`).
"""

from math import log
from typing import Literal

from pydantic import Field

from anmi_pipeline.settings import Config

Model = Literal["thurstone", "bradley_terry"]
ErrorKind = Literal["none", "fisher", "dispersion", "hc3"]
PriorKind = Literal["zero", "scores"]

ELO_START = 1500.0
"""Mean Elo of every query, in Elo points."""

LOGISTIC_ELO = 400.0 / log(10.0)
"""Elo points per unit of logistic theta (173.7): a gap of 400 points means odds of ten to one."""

PROBIT_ELO = 1.702 * LOGISTIC_ELO
"""Elo points per unit of probit theta (295.7): Phi(x) is close to the logistic function of 1.702 x."""

ELO_SCALES: dict[Model, float] = {"thurstone": PROBIT_ELO, "bradley_terry": LOGISTIC_ELO}


class RatingConfig(Config):
    """How comparisons become an Elo table."""

    model: Model = Field(
        default="thurstone",
        description="thurstone: P(i beats j) = Phi(theta_i - theta_j), case V; bradley_terry: the logistic function of it",
    )
    prior: PriorKind = Field(
        default="scores",
        description="mean of the Gaussian prior on theta. scores: a regression of theta on the retrievers' scores that all "
        "queries share, slopes and precision by empirical Bayes; zero: 0, with prior_precision",
    )
    prior_precision: float = Field(
        default=0.05,
        ge=1e-12,
        description="precision of the prior of mean zero, in 1/theta^2; it keeps undefeated, winless and disconnected "
        "documents finite. 1e-6 is maximum likelihood in practice",
    )
    std_error: ErrorKind = Field(
        default="hc3",
        description="standard errors. hc3: sandwich, which covers for soft preferences too; dispersion: Fisher's times the root "
        "of Pearson's dispersion; fisher: from the information alone, right for one 0/1 vote a pair; none: 0, no intervals. "
        "Under prior scores they are posterior standard deviations, whatever is asked for here. Under judging.design lists "
        "fisher takes the place of hc3 and dispersion, for which the comparisons of one ranking would be independent",
    )
    tolerance: float = Field(default=1e-6, gt=0, description="largest gradient component at which a query counts as converged")
    source: Literal["comparisons", "qrels"] = Field(
        default="comparisons",
        description="comparisons: fit the verdicts; qrels: take elo from the true labels (600 * grade - 2 * fused rank), a "
        "ceiling for experiments that is marked simulated",
    )
