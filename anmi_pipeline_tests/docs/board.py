"""Write the demo's leaderboard into the README: `python -m anmi_pipeline_tests.docs.board`, with ANMI_HOME of a finished demo.

Belongs here: the block between the two markers, figures and the sentences that follow from them. Does not: any other text. The
sentences are made from the intervals, so that no figure can change without the claim about it.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from anmi_pipeline.catalog.boards import stored_board
from anmi_pipeline.evaluation.leaderboard import Leaderboard
from anmi_pipeline.evaluation.presentation import BoardRow, board_rows, with_interval
from anmi_pipeline.settings import Settings

README = Path(__file__).resolve().parents[2] / "README.md"
BEGIN, END = "<!-- board:begin -->", "<!-- board:end -->"
SETS = {
    "held_out": "Held-out docstring sentences (the main number): {n} sentences, each to be matched with its own document",
    "dev_final+test": "Written questions (the second number): {n} questions with an answer",
}
METRIC, BASE, CONTROL = "nDCG@10", "minilm", "placebo"
TRAINED = ("anmi", "default", "infonce", "features")


def main() -> None:
    """Replace the block in the README."""
    text = README.read_text(encoding="utf-8")
    README.write_text(replaced(text, block(stored_board("stdlib", Settings.from_environment(os.environ)))), encoding="utf-8")


def replaced(text: str, inner: str) -> str:
    """The text with a new block between the markers."""
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    return f"{before}{BEGIN}\n{inner}\n{END}{after}"


def block(board: Leaderboard) -> str:
    """Both tables with the sentences that follow from them."""
    return "\n\n".join(part for split in SETS for part in (table(board, split), sentences(board, split)))


def table(board: Leaderboard, split: str) -> str:
    """Raw rows of one query set, best first, with the paired differences from the untrained encoder and from the placebo."""
    rows = [row for row in board_rows(board) if row["split"] == split and row["variant"] == "raw"]
    head = f"**{SETS[split].format(n=rows[0]['n_queries'])}**"
    lines = [head, "", f"| system | {METRIC} | minus {BASE} | minus {CONTROL} | seeds |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *(line(board, row, split) for row in rows)])


def line(board: Leaderboard, row: BoardRow, split: str) -> str:
    """One system as a row of the table."""
    name = row["system"]
    differences = [shown(contrast(board, name, against, split)) for against in (BASE, CONTROL)]
    return " | ".join([f"| {name}", with_interval(row["metrics"][METRIC]), *differences, f"{row['seeds']} |"])


def contrast(board: Leaderboard, system: str, against: str, split: str) -> tuple[float, float, float] | None:
    """(difference, low, high) of a paired comparison; None where a system would be compared with itself."""
    found = board.contrasts.filter(
        (pl.col("system") == system) & (pl.col("baseline") == against) & (pl.col("split") == split) & (pl.col("metric") == METRIC)
    )
    return found.select("difference", "low", "high").row(0) if found.height else None


def shown(difference: tuple[float, float, float] | None) -> str:
    """A difference with its interval, bold where the interval does not hold zero."""
    if difference is None:
        return ""
    text = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*difference)
    return text if difference[1] <= 0 <= difference[2] else f"**{text}**"


def sentences(board: Leaderboard, split: str) -> str:
    """What the intervals of the trained systems allow to be said, against the untrained encoder and against the placebo."""
    said: list[str] = []
    for against, name in ((BASE, f"the untrained encoder (`{BASE}`)"), (CONTROL, "the placebo")):
        found = {system: contrast(board, system, against, split) for system in TRAINED}
        known = {system: values for system, values in found.items() if values is not None}
        above = [system for system, (_, low, _) in known.items() if low > 0]
        below = [system for system, (_, _, high) in known.items() if high < 0]
        rest = [system for system in known if system not in (*above, *below)]
        groups = ((above, "above it"), (below, "**below** it"), (rest, "not told apart from it"))
        said.append(f"Against {name}: " + "; ".join(f"{listed(names)} {verdict}" for names, verdict in groups if names) + ".")
    return " ".join(said)


def listed(names: Sequence[str]) -> str:
    """Names in a sentence, with the verb."""
    quoted = [f"`{name}`" for name in names]
    return f"{quoted[0]} is" if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]} are"


if __name__ == "__main__":
    main()
