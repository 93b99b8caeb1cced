"""Small versions of the acceptance scripts of the fit: agreement, properties, degenerate queries, coverage."""

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def agreement(load):
    return load("3_2_agreement")


def test_agrees_with_scipy_and_mpmath(agreement, figures) -> None:
    agreement.links(60, figures)
    agreement.agreement(150, figures)
    assert figures.checked and not figures.failed


def test_keeps_the_identities(agreement, figures) -> None:
    agreement.properties(60, figures)
    agreement.online(60, figures)
    assert figures.checked and not figures.failed


def test_degenerate_queries_and_bad_edges(load, figures) -> None:
    script = load("3_3_degenerate")
    for model in script.MODELS:
        assert script.wrong_cases(script.fit_cases(model, "hc3", 0.05)) == []
    assert all(script.refused(change, text) for change, text in script.BAD.values())
    script.separated(5, figures)
    assert figures.checked and not figures.failed


def test_intervals_cover(load) -> None:
    script = load("3_4_coverage")
    covered, _ = script.cell("three", 6, 0.8, 150, "hc3")
    assert script.BETWEEN.holds(covered)
    attenuated, raw = script.cell("soft", 8, 1.5, 150, "hc3")
    assert script.BETWEEN.holds(attenuated)
    assert raw < attenuated  # noise inside the link is bias, and no error formula hides it
