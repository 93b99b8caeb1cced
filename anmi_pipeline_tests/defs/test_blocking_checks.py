"""A blocking check that stops a run of the command line: its name, its asset and what it found are what a person reads."""

import dagster as dg
import polars as pl
import pytest

from anmi_pipeline.defs.checks import after_failures, what_failed
from anmi_pipeline.defs.launch import failure


@dg.asset
def verdicts() -> None:
    """Verdicts of which something is wrong."""


@dg.asset(deps=[verdicts])
def scores() -> None:
    """What must not be built of them."""


def check(name: str, severity: dg.AssetCheckSeverity, description: str | None) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=verdicts, name=name, blocking=True)
    def found() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=False, severity=severity, description=description)

    return found


@pytest.mark.parametrize(("description", "said"), [("4 of 5 are lost.", "4 of 5 are lost."), (None, "it does not say why.")])
def test_the_check_its_asset_and_what_it_found_are_said(description: str | None, said: str) -> None:
    checks = [check("coverage", dg.AssetCheckSeverity.ERROR, description), check("odd", dg.AssetCheckSeverity.WARN, "Odd.")]
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([verdicts, scores, *checks], instance=instance, raise_on_error=False)
    assert str(failure(result)) == f"verdicts_coverage: blocking check coverage of verdicts failed: {said}"


def test_it_says_what_failed_and_what_to_do() -> None:
    frame = pl.DataFrame({"judge": ["x", "x", "x", "y"], "status": ["ok", "unparsed", "unparsed", "timeout"]})
    assert what_failed(frame) == "Failed: x unparsed 2, y timeout 1."
    assert "`anmi refresh --dataset mine` asks failed calls again" in after_failures(frame, "mine")
    capped = frame.with_columns(status=pl.lit("cap"))
    assert "Raise the cap and run again" in after_failures(capped, "mine")
