"""The `anmi` command: thin, one function per subcommand.

Belongs here: arguments, exit codes. Does not: work (the packages), looks (`console.py`). Dagster is imported by the commands
that run something, through `defs/launch.py`. Exit codes: 0 done, 1 a run or the store failed, 2 the input is wrong.
"""

import sys
import time
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from anmi_pipeline.commands.audit import audit_app
from anmi_pipeline.commands.ledger import ledger_app
from anmi_pipeline.commands.options import AsJson, Dataset, console, settings
from anmi_pipeline.errors import AnmiError, InputError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Rerankers and retrievers from pairwise judgments.")
dataset_app = typer.Typer(no_args_is_help=True, help="List and check datasets.")
app.add_typer(dataset_app, name="dataset")

app.add_typer(ledger_app, name="ledger")
app.add_typer(audit_app, name="audit")

BATCH_POLL_SECONDS = 60
WIDE = 120


def main() -> None:
    """Run a command; every error of ours is one sentence."""
    warnings.filterwarnings("ignore", message=r".*is currently in (beta|preview)")
    try:
        app()
    except AnmiError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, soft_wrap=True)
        if getattr(error, "pending", False):
            Console(stderr=True).print(f"the same command goes on later; --wait looks every {BATCH_POLL_SECONDS} s", markup=False)
        sys.exit(2 if isinstance(error, InputError) or getattr(error, "bad_input", False) else 1)
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped; finished artifacts are kept, run the command again to go on", markup=False)
        sys.exit(130)


@app.command()
def demo() -> None:
    """Build everything on the embedded dataset, print the leaderboard and how to open the UI."""
    execute("stdlib", [], None, rebuild=False)
    show_board("stdlib")
    here, out = settings(), console()
    out.print(f"state: {here.home} (objects, records, refs, ledger.db, mlflow.db, dagster)", markup=False)
    out.print("look: `make ui` (or `anmi ui`) opens Dagster and MLflow on this state", markup=False)
    out.print('search: anmi search --dataset stdlib "how do I read a file line by line"', markup=False)
    out.print("lineage: anmi lineage 'checkpoint:stdlib|anmi'", markup=False)


@app.command()
def run(
    dataset: Dataset,
    recipe: Annotated[list[str] | None, typer.Option("--recipe", "-r", help="recipe to build; repeat for more")] = None,
    until: Annotated[str | None, typer.Option(help="last asset to build")] = None,
    rebuild: Annotated[bool, typer.Option(help="compute again even where the build is known")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="wait for batches of judges and go on, instead of ending until later")
    ] = False,
) -> None:
    """Materialise the assets of a dataset, in process; what is known already is not computed again."""
    execute(dataset, recipe or [], until, rebuild=rebuild, wait=wait)
    if until is None:
        show_board(dataset)


def execute(
    dataset: str, recipes: list[str], until: str | None, *, rebuild: bool, wait: bool = False, out: Console | None = None
) -> None:
    """Run the stages behind a progress bar, on standard output unless that is kept for JSON."""
    from anmi_pipeline.console import StepBar
    from anmi_pipeline.defs.launch import run_pipeline, run_waiting, stages

    here, out = settings(), out or console()
    planned = stages(here, dataset, recipes, until)
    with StepBar(out, sum(len(stage.assets) for stage in planned)) as bar:
        if wait:
            run_waiting(here, planned, lambda reason: pause_for_batches(reason, out), rebuild=rebuild, listener=bar)
        else:
            run_pipeline(here, planned, rebuild=rebuild, listener=bar)
    bar.summary()


def pause_for_batches(reason: str, out: Console) -> None:
    """Say what is waited for, and wait a while."""
    out.print(f"{reason} Looking again in {BATCH_POLL_SECONDS} s.", markup=False)
    time.sleep(BATCH_POLL_SECONDS)


@app.command()
def ui(
    dagster_port: Annotated[int, typer.Option(help="port of the Dagster UI")] = 3000,
    mlflow_port: Annotated[int, typer.Option(help="port of the MLflow UI")] = 5000,
) -> None:
    """Start Dagster and MLflow on loopback over the state of ANMI_HOME, until Ctrl-C."""
    from anmi_pipeline.defs.servers import serve

    serve(settings(), dagster_port=dagster_port, mlflow_port=mlflow_port, say=lambda text: console().print(text, markup=False))


@dataset_app.command("list")
def dataset_list(as_json: AsJson = False) -> None:
    """List the datasets, shipped and your own."""
    from anmi_pipeline.catalog.datasets import load_dataset
    from anmi_pipeline.catalog.files import names
    from anmi_pipeline.console import print_json, print_rows

    here = settings()
    found = [load_dataset(name, here.conf) for name in names("datasets", here.conf)]
    rows = [{"dataset": one.name, "family": one.family, "labels": one.labels, "description": one.description} for one in found]
    print_json({"rows": rows}) if as_json else print_rows(console(), "datasets", rows)


@dataset_app.command("check")
def dataset_check(
    file: Annotated[str, typer.Argument(help="a dataset's YAML file, or its name")], as_json: AsJson = False
) -> None:
    """Read a dataset's file and its collection, and say what is in it, before anything runs."""
    from anmi_pipeline.catalog.checking import check_dataset
    from anmi_pipeline.catalog.files import names
    from anmi_pipeline.console import print_json, print_rows

    rows = check_dataset(file, settings())
    if as_json:
        print_json({"rows": rows})
    else:
        print_rows(console(), file, rows)
        name = Path(file).stem
        console().print(f"ok: `anmi run --dataset {name}` can start", markup=False)
        if name not in names("datasets", settings().conf):
            console().print(
                "put the file into datasets/ of your ANMI_CONF folder first: that is where runs look for it", markup=False
            )


@app.command("leaderboard")
def leaderboard_command(
    dataset: Dataset,
    split: Annotated[str | None, typer.Option(help="only this query set, such as test or dev_final+test")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the leaderboard of a dataset."""
    show_board(dataset, split, as_json=as_json)


def show_board(dataset: str, split: str | None = None, *, as_json: bool = False) -> None:
    """Print a stored leaderboard."""
    from anmi_pipeline.catalog.boards import SHOWN_METRICS, board_tables, stored_board
    from anmi_pipeline.console import print_json, print_rows
    from anmi_pipeline.evaluation.presentation import rows_json

    board = stored_board(dataset, settings())
    if as_json:
        print_json(rows_json(board) | {"contrasts": board.contrasts.to_dicts()})
        return
    out = console()
    # An interval that is broken over three lines cannot be read: a narrow terminal shows the primary metric alone.
    metrics = SHOWN_METRICS if out.width >= WIDE else SHOWN_METRICS[:1]
    for title, rows in board_tables(board, split, metrics):
        print_rows(out, title, rows)
    if board.reason:
        console().print(board.reason, markup=False)


@app.command()
def lineage(
    wanted: Annotated[str | None, typer.Argument(help="digest, path in the store, or asset:partition")] = None,
    as_json: AsJson = False,
) -> None:
    """Print what an artifact was built from, down to the corpus; without an argument, list what there is."""
    from anmi_pipeline.console import lineage_json, lineage_tree, print_json, print_rows
    from anmi_pipeline.lineage import find_record
    from anmi_pipeline.lineage import lineage as walk
    from anmi_pipeline.records import Records
    from anmi_pipeline.store import Store

    records = Records(Store(settings().store_url))
    if wanted is None:
        current = [(asset, partition, records.current(asset, partition)) for asset, partition in records.refs()]
        rows = [{"artifact": f"{asset}:{partition}", "digest": record.digest} for asset, partition, record in current if record]
        print_json({"rows": rows}) if as_json else print_rows(console(), "artifacts", rows)
        return
    tree = walk(records, find_record(records, wanted))
    print_json({"rows": lineage_json(tree)}) if as_json else console().print(lineage_tree(tree))


@app.command()
def verify(as_json: AsJson = False) -> None:
    """Recompute every hash, digest and build key of the store and name what is damaged."""
    from anmi_pipeline.console import print_json
    from anmi_pipeline.lineage import verify as check
    from anmi_pipeline.records import Records
    from anmi_pipeline.store import Store

    damaged = list(check(Records(Store(settings().store_url))))
    if as_json:
        print_json({"rows": [{"path": one.path, "problem": one.problem} for one in damaged]})
    else:
        for one in damaged:
            console().print(f"{one.path}: {one.problem}", markup=False)
        console().print(f"{len(damaged)} damaged" if damaged else "nothing damaged", markup=False)
    if damaged:
        raise typer.Exit(1)


@app.command()
def estimate(
    dataset: Dataset,
    probe: Annotated[
        bool, typer.Option("--probe", help="ask 20 planned pairs, more while unsure, and learn from their bills")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what judging a dataset will still cost: calls, tokens and dollars by judge and tier."""
    from anmi_pipeline.catalog.estimating import estimate as look
    from anmi_pipeline.console import print_json, print_rows

    report = look(dataset, settings(), probe=probe)
    if as_json:
        print_json(report.as_json())
        return
    out = console()
    print_rows(out, f"estimate of {dataset}", report.rows())
    for line in report.lines():
        out.print(line, markup=False)


@app.command()
def replan(dataset: Dataset, as_json: AsJson = False) -> None:
    """Say what estimating the frozen prior of an adaptive dataset anew would cost; asks nobody and changes nothing."""
    from anmi_pipeline.catalog.replanning import replan as compare
    from anmi_pipeline.console import print_json, print_rows

    rows = compare(dataset, settings()).rows()
    if as_json:
        print_json({"rows": rows})
    else:
        print_rows(console(), f"re-plan of {dataset}", rows)


@app.command()
def refresh(
    dataset: Dataset,
    epoch: Annotated[str | None, typer.Option(help="name of the epoch; default: today (UTC), or the one under way")] = None,
    max_usd: Annotated[float | None, typer.Option(min=0, help="most it may spend, USD; default: as the dataset says")] = None,
    max_calls: Annotated[int | None, typer.Option(min=0, help="most calls; default: as the dataset says")] = None,
    train: Annotated[bool, typer.Option(help="train again when the Elo table has moved enough")] = True,
    wait: Annotated[bool, typer.Option("--wait", help="wait for batches of judges and go on, instead of ending")] = False,
    as_json: AsJson = False,
) -> None:
    """Buy verdicts on new queries and documents and for expired ones, as a new epoch; train again if that moved the Elo table."""
    from anmi_pipeline.catalog.refreshing import open_refresh, refresh_report
    from anmi_pipeline.console import print_json, print_rows

    opened = open_refresh(dataset, settings(), epoch, max_usd, max_calls)
    out = console(stderr=as_json)
    execute(dataset, [], "elo_table", rebuild=False, wait=wait, out=out)
    report = refresh_report(opened, settings())
    if as_json:
        print_json(report.as_json())
    else:
        for title, rows in report.sections():
            print_rows(out, title, rows)
    if train and report.retrain:
        execute(dataset, report.retrain, None, rebuild=False, out=out)


@app.command()
def sql(statement: Annotated[str, typer.Argument(help="one SQL statement")], as_json: AsJson = False) -> None:
    """Answer a SQL statement over the current artifacts; `select * from tables` lists them."""
    from anmi_pipeline.console import print_frame, print_json
    from anmi_pipeline.records import Records
    from anmi_pipeline.sql import query
    from anmi_pipeline.store import Store

    frame = query(Records(Store(settings().store_url)), statement)
    print_json({"rows": frame.to_dicts()}) if as_json else print_frame(console(), frame)


@app.command()
def search(
    dataset: Dataset,
    query: Annotated[str, typer.Argument(help="what to look for")],
    k: Annotated[int, typer.Option("-k", min=1, help="hits")] = 10,
    group: Annotated[str | None, typer.Option(help="group of the query, for datasets of scope group")] = None,
    as_json: AsJson = False,
) -> None:
    """Answer a query with the winning system of a dataset."""
    from anmi_pipeline.catalog.boards import search_package
    from anmi_pipeline.console import print_json, print_rows
    from anmi_pipeline.serving.pipeline import SearchPipeline

    pipeline = SearchPipeline.load(search_package(dataset, settings()))
    hits = [
        {"rank": hit.rank, "doc_id": hit.doc_id, "score": round(hit.score, 4), "title": hit.title, "snippet": hit.snippet}
        for hit in pipeline.search(query, k, group)
    ]
    if as_json:
        print_json({"system": pipeline.settings.system, "rows": hits})
        return
    print_rows(console(), f"{pipeline.settings.system}: {query}", hits)
    if not hits:
        console().print("no answer above the system's threshold", markup=False)


@app.command()
def gc(
    history: Annotated[
        bool, typer.Option(help="also what no current artifact was made from; old models lose their lineage")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="only name it")] = False,
) -> None:
    """Remove what nothing needs: unfinished objects, partial files, objects without a record."""
    from anmi_pipeline.defs.launch import active_runs
    from anmi_pipeline.lineage import garbage, remove
    from anmi_pipeline.records import Records
    from anmi_pipeline.store import Store

    here = settings()
    running = active_runs(here)
    if running:
        raise InputError(
            f"run {running[0]} is under way and may be writing what looks unfinished. Wait for its end, then collect."
        )
    found = list(garbage(Records(Store(here.store_url)), history=history))
    for path in found:
        console().print(str(path), markup=False)
        if not dry_run:
            remove(path)
    console().print(f"{len(found)} {'would be ' if dry_run else ''}removed", markup=False)


if __name__ == "__main__":
    main()
