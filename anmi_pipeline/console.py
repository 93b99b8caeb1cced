"""What the command line shows: a progress bar, tables, trees.

Belongs here: rendering for a terminal. Does not: any command (`cli.py`) or result.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.tree import Tree

from anmi_pipeline.tables import SPLITS

if TYPE_CHECKING:
    from anmi_pipeline.defs.reporting import Step
    from anmi_pipeline.lineage import Node

SHORT = 12
SEARCHED_ROWS = 200


class StepBar:
    """Shows the steps of a run: a bar on a terminal, a line per built artifact elsewhere."""

    def __init__(self, console: Console, steps: int) -> None:
        """Prepare for a number of steps."""
        self.console, self.steps = console, steps
        self.done = self.built = self.reused = 0
        self.changed: list[Step] = []
        self.started = time.monotonic()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self.all: TaskID = self.bar.add_task("all steps", total=steps)
        self.one: TaskID = self.bar.add_task("", total=None, visible=False)

    def __enter__(self) -> "StepBar":
        """Show the bar where there is a terminal."""
        if self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away."""
        self.bar.stop()

    def step(self, step: "Step", /) -> None:
        """A step started or ended."""
        if step.phase == "start":
            self.bar.update(self.one, description=f"{step.asset} {step.partition}", completed=0, total=None, visible=True)
            return
        self.done += 1
        self.bar.update(self.all, completed=self.done)
        self.bar.update(self.one, visible=False)
        self.built += step.phase == "built"
        self.reused += step.phase == "reused"
        if step.previous is not None and step.digest != step.previous:
            self.changed.append(step)
        if step.phase == "built":
            digest = (step.digest or "")[:SHORT]
            self.console.print(
                f"[{self.done}/{self.steps}] {step.asset} {step.partition} {digest} {step.seconds:.1f} s", markup=False
            )

    def progress(self, asset: str, done: int, total: int, unit: str, /) -> None:
        """A step is `done` of `total` units far."""
        self.bar.update(self.one, description=f"{asset}: {unit}", completed=done, total=total, visible=True)

    def warning(self, text: str, /) -> None:
        """Something a person should know although the run goes on."""
        self.console.print(f"warning: {text}", markup=False, soft_wrap=True)

    def summary(self) -> None:
        """Say what was built, what was known, and which contents changed."""
        for step in self.changed:
            old, new = (step.previous or "")[:SHORT], (step.digest or "")[:SHORT]
            self.console.print(f"changed: {step.asset} {step.partition} {old} -> {new}", markup=False)
        seconds = time.monotonic() - self.started
        self.console.print(
            f"{self.built} built, {self.reused} known already, {len(self.changed)} changed, {seconds:.0f} s", markup=False
        )


def print_json(value: object) -> None:
    """Write JSON to standard output."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False, default=str)
    sys.stdout.write("\n")


def print_rows(console: Console, title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """A table of equal rows; nothing for none."""
    if not rows:
        return
    table = Table(title=escape(title), title_justify="left")
    for name in rows[0]:
        table.add_column(escape(name))
    for row in rows:
        table.add_row(*(escape("" if value is None else str(value)) for value in row.values()))
    console.print(table)


def print_frame(console: Console, frame: pl.DataFrame) -> None:
    """A frame as a table, its first rows when it is long."""
    print_rows(console, f"{frame.height:,} row(s)", frame.head(SEARCHED_ROWS).to_dicts())
    if frame.height > SEARCHED_ROWS:
        console.print(f"the first {SEARCHED_ROWS} of {frame.height:,} rows; use --json for all", markup=False)


def node_facts(node: "Node") -> str:
    """What a lineage tree says of an artifact beside its name: partition, rows, time, judge, cost."""
    if node.record is None:
        return "(its record is gone)"
    record = node.record
    facts = [f"{sum(record.rows.values()):,} rows"] if record.rows else []
    facts += [record.created_at[:19] + "Z", f"{record.seconds:.1f} s"]
    judging = record.config.get("judging")
    if node.name == "pairwise_judgments" and isinstance(judging, dict):
        facts.append("judges " + ", ".join(judge["name"] for judge in judging["judges"]))
        facts.append(f"${record.notes.get('cost_usd', 0):.2f}")
    return f"[{record.partition}] {', '.join(facts)}"


def lineage_tree(node: "Node") -> Tree:
    """The tree of a model down to its corpus.

    Parts of one build stand on one line, and an artifact that was shown is not opened again: pools read five parts of five runs.
    """
    shown: set[str] = set()

    def grow(tree: Tree, node: "Node") -> None:
        for label, parent in grouped_parents(node):
            known = parent.record is not None and parent.record.build_key in shown
            branch = tree.add(escape(f"{label} (above)" if known else f"{label} {node_facts(parent)}"))
            if parent.record is not None and not known:
                shown.add(parent.record.build_key)
                grow(branch, parent)

    tree = Tree(escape(f"{node.name} {node.digest[:SHORT]} {node_facts(node)}"))
    grow(tree, node)
    return tree


def grouped_parents(node: "Node") -> list[tuple[str, "Node"]]:
    """(label, parent) of what a node was built from, the parts of one build together."""
    groups: dict[str, list[Node]] = {}
    for parent in node.parents:
        key = parent.record.build_key if parent.record is not None else parent.name + parent.digest
        groups.setdefault(key, []).append(parent)
    labels: list[tuple[str, Node]] = []
    for parts in groups.values():
        asset, *_ = parts[0].name.partition("#")
        names = [part.name.partition("#")[2] for part in parts]
        whole = len(parts) == len(SPLITS) or not names[0]
        digest = parts[0].record.digest if whole and parts[0].record is not None else parts[0].digest
        labels.append((f"{asset}{'' if whole else '#' + '+'.join(names)} {digest[:SHORT]}", parts[0]))
    return labels


def lineage_json(node: "Node") -> list[dict[str, object]]:
    """Every artifact of a lineage once, with its record and the names of its parents."""
    return [
        {
            "name": one.name,
            "digest": one.digest,
            "parents": {parent.name: parent.digest for parent in one.parents},
            "record": None if one.record is None else one.record.model_dump(mode="json"),
        }
        for one in node.walk()
    ]
