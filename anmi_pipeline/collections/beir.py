"""Read a folder in BEIR's layout (Thakur et al. 2021): corpus.jsonl, queries.jsonl and one grades file per split.

Belongs here: that layout. Does not: JSON lines (`fields.py`) and splits (`splits.py`). A query belongs to the split whose grades
name it; a query that no grades file names is a training query without labels.
"""

from pathlib import Path

from anmi_pipeline.collections.collection import Parts
from anmi_pipeline.collections.fields import DOCUMENT_FIELDS, QUERY_FIELDS, read_json_table
from anmi_pipeline.collections.files import Inputs, listed, one_of, resolve, text_lines
from anmi_pipeline.collections.grades import GradeRows
from anmi_pipeline.collections.sources import BeirSource
from anmi_pipeline.collections.splits import DeclaredSplit
from anmi_pipeline.errors import InputError, nearest

HEADER = ("query-id", "corpus-id", "score")
USUAL_SPLITS: tuple[DeclaredSplit, ...] = ("train", "dev", "test")
ID_COLUMN = "_id"


def read_beir(source: BeirSource, data_root: Path | None) -> Parts:
    """Read the folder.

    Raises:
        InputError: a file is absent or a line of it cannot be read: names file and line.
    """
    corpus_path, queries_path, grade_paths = beir_files(source, data_root)
    corpus = read_json_table(corpus_path, DOCUMENT_FIELDS[:3], {"doc_id": ID_COLUMN})
    queries = read_json_table(queries_path, QUERY_FIELDS[:2], {"query_id": ID_COLUMN})
    grades = GradeRows()
    for split, path in grade_paths.items():
        read_beir_grades(path, split, grades)
    notes: dict[str, str] = {}
    folder = resolve(source.path, data_root) / "qrels"
    unread = [name for name in listed(folder) if folder / name not in grade_paths.values()] if folder.is_dir() else []
    if unread:
        notes["files not read"] = f"in {folder.name}/: {', '.join(unread)} (name them under qrels to use them)"
    places = {
        "corpus": str(corpus_path),
        "queries": str(queries_path),
        "qrels": ", ".join(map(str, grade_paths.values())) or "no qrels",
    }
    return Parts(corpus, queries, grades.frame(), places, notes)


def beir_inputs(source: BeirSource, data_root: Path | None) -> Inputs:
    """Say which bytes each table depends on."""
    corpus, queries, grade_paths = beir_files(source, data_root)
    grades = {f"qrels {split}": path for split, path in grade_paths.items()}
    return Inputs(files={"corpus": {"corpus": corpus}, "queries": {"queries": queries, **grades}, "qrels": grades})


def beir_files(source: BeirSource, data_root: Path | None) -> tuple[Path, Path, dict[DeclaredSplit, Path]]:
    """Return the corpus file, the queries file and split -> grades file.

    Raises:
        InputError: one of them is not there.
    """
    folder = resolve(source.path, data_root)
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; reader beir needs the folder that holds corpus.jsonl, queries.jsonl and qrels/.")
    corpus = one_of(folder, ("corpus.jsonl", "corpus.jsonl.gz"))
    queries = one_of(folder, ("queries.jsonl", "queries.jsonl.gz"))
    if source.qrels is not None:
        return corpus, queries, {split: resolve(str(folder / path), data_root) for split, path in source.qrels.items()}
    usual: dict[DeclaredSplit, Path] = {split: folder / "qrels" / f"{split}.tsv" for split in USUAL_SPLITS}
    return corpus, queries, {split: path for split, path in usual.items() if path.is_file()}


def read_beir_grades(path: Path, split: DeclaredSplit, grades: GradeRows) -> None:
    """Read one grades file: query id, document id and grade, by tabs; the header line may be left out.

    Raises:
        InputError: another number of columns, another header, or a grade that is no whole number: names the line.
    """
    for number, line in text_lines(path):
        if not line.strip():
            continue
        cells = line.split("\t")
        place = f"{path} line {number}"
        if len(cells) != 3:
            raise InputError(f"{place}: has {len(cells)} column(s), expected 3 by tabs: {', '.join(HEADER)}.{other_layout(line)}")
        if number == 1 and is_header(cells, place):
            continue
        grades.add(cells[0], cells[1], cells[2], split, place)


def is_header(cells: list[str], place: str) -> bool:
    """Tell whether the first line names the columns.

    Raises:
        InputError: it names other columns, or the right ones in another order.
    """
    names = [cell.strip().lower().replace("_", "-") for cell in cells]
    if names == list(HEADER):
        return True
    if names[2].lstrip("+-").replace(".", "", 1).isdigit():
        return False
    wrong = next(name for name, expected in zip(names, HEADER, strict=True) if name != expected)
    raise InputError(
        f'{place}: the columns are {", ".join(cells)}, expected {", ".join(HEADER)}; "{wrong}" is not.{nearest(wrong, HEADER)}'
    )


def other_layout(line: str) -> str:
    """Say what the line looks like when it is another well-known layout."""
    if len(line.split()) == 4:
        return " It looks like a TREC grades file: use reader: trec."
    return " The columns are separated by something else than tabs." if len(line.split()) == 3 or line.count(",") == 2 else ""
