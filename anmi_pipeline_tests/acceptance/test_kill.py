"""A killed run leaves nothing half-done and the next one finishes it (small version of 2_6)."""

from dataclasses import replace

import numpy as np
import pytest

pytestmark = pytest.mark.slow

DATASET = "quick"


@pytest.fixture(scope="module")
def kill(load):
    return load("2_6_kill")


@pytest.fixture(scope="module")
def homes(harness, made, tmp_path_factory):
    return harness.Installation(tmp_path_factory.mktemp("homes"), made.conf)


@pytest.fixture(scope="module")
def reference(kill, homes):
    return kill.refer(replace(homes, home=homes.home / "reference"), DATASET, homes.home / "hook")


@pytest.mark.parametrize("kind", ["judging", "training", "store write"])
def test_next_run_finishes_what_a_killed_one_began(kill, homes, reference, figures, kind):
    rng, outcome = np.random.default_rng(0), kill.Outcome()
    first, last = reference.steps[0].begin, reference.steps[-1].end
    moments = (reference.moment(float(rng.uniform(first, last))) for _ in range(kill.MOST_DRAWS))
    moment = next(moment for moment in moments if moment.span.kind == kind)
    killed = replace(homes, home=homes.home / kind.replace(" ", "-"))
    landed = kill.kill_at(killed, DATASET, moment, homes.home / "hook")
    assert landed, "the run had ended before the moment"
    outcome.landed[landed] += 1
    kill.examine(killed, DATASET, reference, f"kill in {landed}", outcome)
    kill.report(figures, outcome, reference, 1, 0, 0)
    assert figures.checked and not figures.failed
