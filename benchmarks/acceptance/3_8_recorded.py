"""Issue 3: on recorded GPT-4o preferences (TREC DL 2019) the Thurstone fit ranks the compared passages at nDCG@10 >= .850.

nDCG has linear gain and is computed here from the grades in the collection's own qrels file; sequential Elo and Bradley-Terry
stand beside it. The rating room is called directly (2_4_recorded.py runs the whole pipeline). A few seconds.
"""

import sys

import dl19
import numpy as np
import polars as pl
from harness import Figures, arguments, at_least, data_root, exactly

from anmi_pipeline.rating.sequential import sequential_elo

ORDERS = 5
K = 16.0


def sequential(recorded: pl.DataFrame, seed: int | None) -> pl.DataFrame:
    """Sequential Elo of every query, in file order or in an order drawn from the seed."""
    tables = []
    for (query,), own in recorded.group_by("query_id", maintain_order=True):
        names = sorted(set(own["first_id"]) | set(own["second_id"]))
        place = {name: number for number, name in enumerate(names)}
        i, j = ([place[name] for name in own[side]] for side in ("first_id", "second_id"))
        rng = None if seed is None else np.random.default_rng([seed, int(str(query))])
        ratings = sequential_elo(len(names), i, j, own["p_first"].to_numpy(), k=K, rng=rng)
        tables.append(pl.DataFrame({"query_id": [str(query)] * len(names), "doc_id": names, "elo": ratings}))
    return pl.concat(tables)


def main() -> int:
    """Fit and measure."""
    arguments(__doc__ or "")
    figures = Figures("3.8 recorded")
    root = data_root()
    recorded, truth = dl19.games(root), dl19.nist(root)
    pairs, pool = dl19.comparisons(recorded), dl19.documents(recorded)
    figures.check("queries with recorded preferences and grades", len(set(pool["query_id"]) & truth.keys()), exactly(43))
    name = "nDCG@10, linear gain, of the compared passages: "
    detail = f"{recorded.height} preferences, {pairs.height} pairs, {pool.height} passages"
    elo = dl19.fitted(pairs, pool)
    figures.check(name + "Thurstone fit", dl19.mean_ndcg(elo, truth), at_least(0.850), detail=detail)
    figures.note(name + "Bradley-Terry fit", dl19.mean_ndcg(dl19.fitted(pairs, pool, "bradley_terry"), truth))
    in_order = dl19.mean_ndcg(sequential(recorded, None), truth)
    figures.note(name + f"sequential Elo, K = {K:g}, file order", in_order)
    drawn = [dl19.mean_ndcg(sequential(recorded, seed), truth) for seed in range(ORDERS)]
    spread = f"{min(drawn):.4f} to {max(drawn):.4f}"
    figures.note(name + f"sequential Elo, K = {K:g}, drawn orders", sum(drawn) / ORDERS, seed=f"0-{ORDERS - 1}", detail=spread)
    return figures.finish()


if __name__ == "__main__":
    sys.exit(main())
