"""From sparse comparisons to scores with standard errors: graph designs, certificates, fits, Elo.

Belongs here: which pairs to compare, how good that graph is, and the fit that turns preferences into `elo_table`. Does not: who
answers a pair (`judging/`), what is trained on the scores (`mining/`, `training/`).
"""

from anmi_pipeline.rating.config import RatingConfig

__all__ = ["RatingConfig"]
