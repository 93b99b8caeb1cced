"""`anmi ledger`: look at the ledger of verdicts, copy it, bring verdicts into it, clean it.

Belongs here: arguments. Does not: work (`catalog/ledgering.py`).
"""

from pathlib import Path
from typing import Annotated

import typer

from anmi_pipeline.commands.options import AsJson, Dataset, console, settings

ledger_app = typer.Typer(no_args_is_help=True, help="Look at the ledger of verdicts, copy it, bring verdicts into it, clean it.")


@ledger_app.command("stats")
def ledger_stats(as_json: AsJson = False) -> None:
    """Add up verdicts, money, open batches and imports."""
    from dataclasses import asdict

    from anmi_pipeline.catalog.ledgering import stats
    from anmi_pipeline.console import print_json, print_rows

    found = stats(settings())
    if as_json:
        print_json(asdict(found))
        return
    for title, rows in found.tables():
        print_rows(console(), title, rows)


@ledger_app.command("export")
def ledger_export(
    path: Annotated[Path, typer.Argument(help=".csv, .csv.gz or .parquet; replaced when it is there")],
    judge: Annotated[str | None, typer.Option(help="only this judge: an id, or the name in front of its slash")] = None,
    epoch: Annotated[str | None, typer.Option(help="only this epoch")] = None,
    status: Annotated[str | None, typer.Option(help="only this status, such as ok")] = None,
) -> None:
    """Write verdicts to a file."""
    from anmi_pipeline.catalog.ledgering import export
    from anmi_pipeline.judging.ledger_transfers import Choice

    count = export(settings(), path, Choice(judge, epoch, status))
    console().print(f"{count:,} verdicts in {path}", markup=False)


@ledger_app.command("import")
def ledger_import(
    path: Annotated[Path, typer.Argument(help="an export of a ledger; with --dataset a table of verdicts")],
    dataset: Annotated[
        str | None, typer.Option("--dataset", "-d", help="dataset that the verdicts of the file are about")
    ] = None,
    judge: Annotated[str | None, typer.Option(help="judge of lines that name none; default human")] = None,
    provenance: Annotated[str | None, typer.Option(help="human (default), model or recorded")] = None,
    as_json: AsJson = False,
) -> None:
    """Add verdicts of a file: all of them, or none when a line is wrong."""
    from anmi_pipeline.catalog.ledgering import bring_file
    from anmi_pipeline.console import print_json, print_rows

    rows = bring_file(settings(), path, dataset, judge, provenance)
    print_json({"rows": rows}) if as_json else print_rows(console(), path.name, rows)


@ledger_app.command("withdraw")
def ledger_withdraw(
    dataset: Dataset, judge: Annotated[str, typer.Option(help="judge id, or the name in front of its slash")]
) -> None:
    """Take the imported verdicts of a judge back from a dataset."""
    from anmi_pipeline.catalog.ledgering import withdraw

    count = withdraw(dataset, settings(), judge)
    console().print(f"{count:,} verdicts of {judge} no longer count for {dataset}", markup=False)


@ledger_app.command("prune")
def ledger_prune(
    expired_before: Annotated[str | None, typer.Option(metavar="DATE", help="rows that expired before this date")] = None,
    failures: Annotated[bool, typer.Option("--failures", help="failures of calls that have an answer")] = False,
    epoch: Annotated[list[str] | None, typer.Option(help="rows of this epoch; repeat for more")] = None,
    settled_before: Annotated[
        str | None, typer.Option(metavar="DATE", help="fold reservations settled before this date into one per scope")
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="remove them; without it they are only listed")] = False,
    as_json: AsJson = False,
) -> None:
    """List the rows that nothing needs, or remove them; the newest good answer of a call always stays."""
    from dataclasses import asdict

    from anmi_pipeline.catalog.ledgering import clean, date_time
    from anmi_pipeline.console import print_json, print_rows
    from anmi_pipeline.judging.ledger_pruning import Order

    order = Order(date_time(expired_before), failures, tuple(epoch or ()), date_time(settled_before))
    found = clean(settings(), order, apply=apply)
    if as_json:
        print_json(asdict(found))
        return
    for title, rows in found.tables():
        print_rows(console(), title, rows)
    console().print(found.summary, markup=False)
