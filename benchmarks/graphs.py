"""What comparison graphs really are: diameter, repeated edges, connectivity, resistance (`make benchmark NAME=graphs`).

Belongs here: the figures behind docs/rating.md on what the literature says about unions of random cycles. Does not: quality after
verdicts (`designs.py`). Seed 0; seconds.
"""

import numpy as np

from anmi_pipeline.rating.certificates import certificate
from anmi_pipeline.rating.designs import cycles, random_pairs

SEED, DRAWS, N = 0, 100, 100


def plain_union(n: int, k: int, rng: np.random.Generator) -> tuple[int, int, int]:
    """Independent random cycles as published: edges drawn, edges drawn twice, smallest degree."""
    tours = [rng.permutation(n) for _ in range(k // 2)]
    ends = np.concatenate([np.sort(np.column_stack((tour, np.roll(tour, -1))), axis=1) for tour in tours])
    distinct = np.unique(ends, axis=0)
    return len(ends), len(ends) - len(distinct), int(np.bincount(distinct.ravel(), minlength=n).min())


def main() -> None:
    """Print the tables."""
    rng = np.random.default_rng(SEED)
    print(f"n = {N}, {DRAWS} draws, seed {SEED}\n\nunion of k/2 edge-disjoint cycles")
    print("k   diameter (draws with it)           mean resistance   bound   largest")
    for k in (4, 6, 8, 12, 20):
        found = [certificate(N, cycles(N, k, rng)) for _ in range(DRAWS)]
        values, counts = np.unique([one.diameter for one in found], return_counts=True)
        seen = ", ".join(f"{value} ({count})" for value, count in zip(values, counts, strict=True))
        mean, largest = np.mean([one.mean_resistance for one in found]), np.mean([one.max_resistance for one in found])
        print(f"{k:<3} {seen:34s} {mean:.3f}             {found[0].resistance_bound:.3f}   {largest:.3f}")
    print("\nindependent cycles, k = 8: edges drawn, repeated on average, draws in which a document has fewer than k")
    for n in (100, 50, 25, 10):
        drawn = [plain_union(n, 8, rng) for _ in range(DRAWS)]
        short = sum(least < 8 for _, _, least in drawn)
        print(f"n = {n:<4} {drawn[0][0]:4d}   {np.mean([repeated for _, repeated, _ in drawn]):5.1f}   {short}")
    print("\nrandom pairs: share of draws that fall apart, mean resistance of the others")
    for k in (4, 6, 8, 16):
        found = [certificate(N, random_pairs(N, k, rng)) for _ in range(DRAWS)]
        whole = [one.mean_resistance for one in found if one.components == 1]
        shown = f"{np.mean(whole):.3f}" if whole else "-"
        print(f"{N * k // 2:4d} pairs   {1 - len(whole) / DRAWS:.2f}   {shown}   bound {(N - 1) / (N * k // 2):.3f}")
    pairs = N * (N - 1) // 2
    print(f"\n400 pairs of {N} documents are {400 / pairs:.1%} of the {pairs} unordered pairs")


if __name__ == "__main__":
    main()
