"""Issue 3: the fit agrees with an independent optimiser to 1e-6 on 10,000 random problems, links with mpmath on 200 cases.

Problems: n in 2..300, k in 2..20, weights over six decades, preferences 0, 1, 1/2 and soft, both links, a prior mean, tol 1e-10.
The reference is scipy's trust-region Newton in formulas written here, polished to a gradient of 1e-12 where rounding lets it. The
properties (shift, swap, permutation, split, doubled evidence) and online updates are checked on problems of the same law.
About five minutes.
"""

import sys

import numpy as np
from harness import Figures, arguments, at_most
from scipy.optimize import minimize
from scipy.sparse import coo_array
from scipy.special import erfcx, expit, log_ndtr
from threadpoolctl import threadpool_limits

from anmi_pipeline.rating.config import Model, RatingConfig
from anmi_pipeline.rating.designs import cycles
from anmi_pipeline.rating.fit import FitStatus, fit_batch
from anmi_pipeline.rating.graphs import graph_batch
from anmi_pipeline.rating.online import update_batch

SEED, PROBLEMS, CHECKED, CASES = 0, 10_000, 1_000, 200
MODELS: tuple[Model, ...] = ("thurstone", "bradley_terry")
PRECISION, TOLERANCE = 0.05, 1e-10
Problem = dict[str, np.ndarray]


def draw(rng: np.random.Generator) -> Problem:
    """One query of the stated law; small ones are as frequent as large ones."""
    n, k = int(np.exp(rng.uniform(np.log(2), np.log(301)))), int(rng.integers(2, 21))
    edges = cycles(max(n, 2), k, rng)
    kinds = rng.integers(0, 4, len(edges))
    w = np.select([kinds == 0, kinds == 1, kinds == 2], [0.0, 1.0, 0.5], rng.random(len(edges)))
    return {
        "n": np.array([max(n, 2)]), "i": edges[:, 0], "j": edges[:, 1], "w": w, "weight": 10.0 ** rng.uniform(-3, 3, len(edges)),
        "mean": rng.normal(size=max(n, 2)),
    }  # fmt: skip


def terms(d: np.ndarray, w: np.ndarray, model: Model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-likelihood, slope and curvature of each edge in d."""
    if model == "bradley_terry":
        p = expit(d)
        return -w * np.logaddexp(0, -d) - (1 - w) * np.logaddexp(0, d), w - p, p * expit(-d)
    up, down = (2 / np.pi) ** 0.5 / erfcx(-d / 2**0.5), (2 / np.pi) ** 0.5 / erfcx(d / 2**0.5)
    won, lost = np.where(w > 0, w * log_ndtr(d), 0), np.where(w < 1, (1 - w) * log_ndtr(-d), 0)
    return won + lost, w * up - (1 - w) * down, w * up * (up + d) + (1 - w) * down * (down - d)


def reference(problem: Problem, model: Model) -> np.ndarray:
    """Centred optimum by scipy, then Newton steps until the gradient stops falling."""
    n, i, j = int(problem["n"][0]), problem["i"], problem["j"]
    w, weight, mean = problem["w"], problem["weight"], problem["mean"]

    def loss(theta: np.ndarray) -> float:
        return float(-weight @ terms(theta[i] - theta[j], w, model)[0] + PRECISION / 2 * ((theta - mean) ** 2).sum())

    def gradient(theta: np.ndarray) -> np.ndarray:
        s = weight * terms(theta[i] - theta[j], w, model)[1]
        return PRECISION * (theta - mean) - np.bincount(i, s, n) + np.bincount(j, s, n)

    def hessian(theta: np.ndarray) -> np.ndarray:
        c = weight * terms(theta[i] - theta[j], w, model)[2]
        off = coo_array((-c, (i, j)), shape=(n, n)).toarray()
        full = off + off.T
        full[np.arange(n), np.arange(n)] += PRECISION + np.bincount(i, c, n) + np.bincount(j, c, n)
        return full

    theta = minimize(loss, mean, jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-9, "maxiter": 500}).x
    best, smallest = theta, np.inf
    for _ in range(8):  # a trust region stops where the loss no longer resolves the step
        g = gradient(theta)
        if np.abs(g).max() < smallest:
            best, smallest = theta, float(np.abs(g).max())
        if smallest < 1e-12:
            break
        theta = theta - np.linalg.solve(hessian(theta), g)
    return best - best.mean()


def fit(problem: Problem, model: Model, *, kind: str = "none", precision: float = PRECISION, tol: float = TOLERANCE):
    """Our fit of one problem."""
    return fit_batch(
        problem["n"], np.array([0, len(problem["i"])]), problem["i"], problem["j"], problem["w"], weight=problem["weight"],
        model=model, prior_mean=problem["mean"], prior_precision=precision, tol=tol, std_error=kind,
    )  # fmt: skip


def agreement(problems: int, figures: Figures) -> None:
    """Compare with the reference."""
    rng, worst, open_queries = np.random.default_rng(SEED), 0.0, 0
    for number in range(problems):
        problem, model = draw(rng), MODELS[number % 2]
        found = fit(problem, model)
        open_queries += not found.status[0] & FitStatus.CONVERGED
        worst = max(worst, float(np.abs(found.theta - reference(problem, model)).max()))
    figures.check(f"largest difference in theta over {problems} problems", worst, at_most(1e-6), seed=SEED, detail=f"{worst:.2e}")
    figures.check("problems whose gradient stayed above 1e-10", open_queries, at_most(0), seed=SEED)


def properties(problems: int, figures: Figures) -> None:
    """The identities that every right solver keeps, worst over the problems."""
    rng = np.random.default_rng(SEED + 1)
    worst = dict.fromkeys(("shift of the prior mean", "swapped i and j", "permuted documents", "an edge split in two"), 0.0)
    halved = 0.0
    for number in range(problems):
        problem, model = draw(rng), MODELS[number % 2]
        names, share = rng.permutation(int(problem["n"][0])), float(rng.uniform(0.01, 0.99))
        plain = fit(problem, model).theta
        inverse = np.argsort(names)
        parts = np.concatenate((problem["weight"][:1] * share, problem["weight"][:1] * (1 - share), problem["weight"][1:]))
        twice = {key: np.concatenate((problem[key][:1], problem[key])) for key in ("i", "j", "w")}
        swapped = {**problem, "i": problem["j"], "j": problem["i"], "w": 1 - problem["w"]}
        renamed = {**problem, "i": names[problem["i"]], "j": names[problem["j"]], "mean": problem["mean"][inverse]}
        others = {
            "shift of the prior mean": fit({**problem, "mean": problem["mean"] + 7.5}, model).theta,
            "swapped i and j": fit(swapped, model).theta,
            "permuted documents": fit(renamed, model).theta[names],
            "an edge split in two": fit({**problem, **twice, "weight": parts}, model).theta,
        }
        for name, theta in others.items():
            worst[name] = max(worst[name], float(np.abs(theta - plain).max()))
        # Finite maximum likelihood, so that the prior can vanish.
        soft = {
            **problem,
            "w": np.clip(problem["w"], 0.2, 0.8),
            "weight": np.ones(len(problem["w"])),
            "mean": 0 * problem["mean"],
        }
        once = fit(soft, model, kind="fisher", precision=1e-9).std_error
        double = fit({**soft, "weight": 2 * soft["weight"]}, model, kind="fisher", precision=1e-9).std_error
        if once is not None and double is not None:
            halved = max(halved, float(np.abs((once / double) ** 2 - 2).max()))
    for name, value in worst.items():
        figures.check(f"{name}: largest change of theta", value, at_most(1e-6), seed=SEED + 1, detail=f"{value:.1e}")
    figures.check("doubled evidence: distance of the Fisher variance ratio from 2", halved, at_most(1e-5), seed=SEED + 1)


def links(cases: int, figures: Figures) -> None:
    """Gradient and Hessian of small problems against mpmath at 40 digits."""
    import mpmath as mp

    from anmi_pipeline.rating.kernels.newton import gradient, weighted_terms

    mp.mp.dps = 40
    rng, worst = np.random.default_rng(SEED + 2), {"gradient": 0.0, "Hessian": 0.0}
    for number in range(cases):
        model, n, size = MODELS[number % 2], int(rng.integers(2, 6)), 6
        i = rng.integers(0, n, size)
        j = (i + rng.integers(1, n, size)) % n
        theta = rng.normal(0, 10.0 ** rng.uniform(-2, 1.2), n)
        w = rng.choice(np.array([0.0, 1.0, 0.5, rng.random()]), size)
        weight, mean = 10.0 ** rng.uniform(-3, 3, size), np.zeros(n)
        d, slope, curvature, g = np.empty(size), np.empty(size), np.empty(size), np.empty(n)
        ends = (i.astype(np.uint32), j.astype(np.uint32))
        weighted_terms(theta, *ends, w, weight, True, model == "thurstone", d, slope, curvature)
        gradient(n, *ends, slope, theta, mean, PRECISION, g)
        exact_g = [-mp.mpf(PRECISION) * mp.mpf(t) for t in theta]
        scale = mp.mpf(1)
        for e in range(size):
            s, c = exact_terms(mp, mp.mpf(theta[i[e]]) - mp.mpf(theta[j[e]]), mp.mpf(w[e]), model)
            exact_g[i[e]] += mp.mpf(weight[e]) * s
            exact_g[j[e]] -= mp.mpf(weight[e]) * s
            scale = max(scale, abs(mp.mpf(weight[e]) * s))
            bend = float(abs(mp.mpf(curvature[e]) - mp.mpf(weight[e]) * c) / mp.mpf(weight[e]))
            worst["Hessian"] = max(worst["Hessian"], bend)
        miss = max(float(abs(mp.mpf(own) - exact) / scale) for own, exact in zip(g, exact_g, strict=True))
        worst["gradient"] = max(worst["gradient"], miss)
    for name, value in worst.items():
        text = f"{name} against mpmath, {cases} cases: largest error relative to the largest term"
        figures.check(text, value, at_most(1e-12), seed=SEED + 2, detail=f"{value:.1e}")


def exact_terms(mp, d, w, model: Model):
    """Slope and curvature of one edge at 40 digits."""
    if model == "bradley_terry":
        p = 1 / (1 + mp.exp(-d))
        return w - p, p * (1 - p)
    density = mp.exp(-d * d / 2) / mp.sqrt(2 * mp.pi)
    up, down = density / (mp.erfc(-d / mp.sqrt(2)) / 2), density / (mp.erfc(d / mp.sqrt(2)) / 2)
    return w * up - (1 - w) * down, w * up * (up + d) + (1 - w) * down * (down - d)


def online(problems: int, figures: Figures) -> None:
    """A fit of the first edges, brought up to date with the last ones, against a refit of all from nothing."""
    rng, worst = np.random.default_rng(SEED + 3), 0.0
    for number in range(problems):
        problem, model = draw(rng), MODELS[number % 2]
        old = int(rng.integers(0, len(problem["i"])))
        before = fit({**problem, **{key: problem[key][:old] for key in ("i", "j", "w", "weight")}}, model, tol=1e-6)
        batch = graph_batch(problem["n"], np.array([0, len(problem["i"])]), problem["i"], problem["j"], problem["weight"])
        config = RatingConfig(model=model, std_error="none", prior="zero")
        updated = update_batch(batch, problem["w"], before.theta, config, problem["mean"], PRECISION)
        worst = max(worst, float(np.abs(updated.theta - fit(problem, model).theta).max()))
    name = "online update against the refit: largest difference"
    figures.check(name, worst, at_most(1e-6), seed=SEED + 3, detail=f"{worst:.1e}")


def main() -> int:
    """Check everything at full size."""
    arguments(__doc__ or "")
    figures = Figures("3.2 agreement")
    with threadpool_limits(1):  # threads of the reference's small dense solves get in each other's way
        links(CASES, figures)
        properties(CHECKED, figures)
        online(CHECKED, figures)
        agreement(PROBLEMS, figures)
    return figures.finish()


if __name__ == "__main__":
    sys.exit(main())
