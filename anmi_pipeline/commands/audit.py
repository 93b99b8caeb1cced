"""`anmi audit`: have people settle the most valuable disagreements of a dataset's judges.

Belongs here: arguments. Does not: work (`catalog/auditing.py`).
"""

from pathlib import Path
from typing import Annotated

import typer

from anmi_pipeline.commands.options import AsJson, Dataset, console, settings

audit_app = typer.Typer(no_args_is_help=True, help="Have people settle the most valuable disagreements of a dataset's judges.")


@audit_app.command("export")
def audit_export_command(
    dataset: Dataset,
    path: Annotated[Path, typer.Argument(help="CSV file that is not there yet")],
    count: Annotated[int, typer.Option(min=1, help="most pairs")] = 100,
    as_json: AsJson = False,
) -> None:
    """Write the disagreements whose answer by a human is worth the most."""
    from anmi_pipeline.catalog.auditing import audit_export
    from anmi_pipeline.console import print_json, print_rows

    rows = audit_export(dataset, settings(), path, count)
    print_json({"rows": rows}) if as_json else print_rows(console(), path.name, rows)


@audit_app.command("import")
def audit_import_command(
    dataset: Dataset,
    path: Annotated[Path, typer.Argument(help="the file, filled in")],
    judge: Annotated[str, typer.Option(help="who answered, such as human/anna")] = "human",
    as_json: AsJson = False,
) -> None:
    """File a human's answers as verdicts; the next run of pairwise_judgments takes them up."""
    from anmi_pipeline.catalog.auditing import audit_import
    from anmi_pipeline.console import print_json, print_rows

    rows = audit_import(dataset, settings(), path, judge).rows()
    print_json({"rows": rows}) if as_json else print_rows(console(), path.name, rows)
