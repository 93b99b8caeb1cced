"""What the judges of a run may spend: one cap over all of them, and the price of each.

Belongs here: putting a dataset's caps, the ledger's books and the price list together. Does not: reserving (`budget.py`) and the
list itself (`prices.py`).
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from anmi_pipeline.judging.budget import Budget
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.prices import Price, Tier, load_prices, price_of

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Money:
    """The purse of a run.

    Attributes:
        books: the ledger.
        scope: what the caps are for: a dataset, or one refresh of it. Every process that names it shares the caps.
        max_usd: most that may ever be spent in this scope, USD; None: no cap.
        max_calls: most calls that may ever be billed in it; None: no cap.
        conf: the user's configuration folder, whose prices.yaml stands above the shipped one.
    """

    books: Books
    scope: str
    max_usd: float | None = None
    max_calls: int | None = None
    conf: Path | None = None

    def budget(self) -> Budget:
        """The cap, as reservations are made under it."""
        return Budget(self.books, self.scope, self.max_usd, self.max_calls)

    def price(self, model: str, tier: Tier) -> Price | None:
        """The price of a model; None, with a warning, when nobody knows it and nothing is capped in money.

        Raises:
            InputError: the price is not known, and the scope is capped in money.
        """
        if self.max_usd is not None:
            return price_of(model, tier, self.conf)
        if load_prices(self.conf).knows(model, tier):
            return price_of(model, tier, self.conf)
        LOG.warning(
            'no %s price is known for model "%s": its calls are counted as $0. Add it to prices.yaml in the folder ANMI_CONF.',
            tier, model,
        )  # fmt: skip
        return None
