"""Run as a process of its own: imports a file into a ledger and says a line after each statement, until it is killed."""

import sys
from pathlib import Path

from sqlalchemy import event

from anmi_pipeline.judging import imports, ledger_files, ledger_imports, ledger_transfers
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline_tests.judging.made import made_evidence

BLOCK = 100


def main(url: str, path: Path, dataset: str) -> None:
    """Import an export, or, with a dataset, verdicts of people."""
    for module in (imports, ledger_files, ledger_imports):
        module.BLOCK = BLOCK

    def tell(*_: object) -> None:
        sys.stdout.write("statement\n")
        sys.stdout.flush()

    with Books(url) as books:
        ledger_imports.prepare(books)
        event.listen(books._engine, "after_cursor_execute", tell)
        if dataset:
            evidence = made_evidence(6, 20)
            imports.import_verdicts(books, dataset, path, evidence, evidence.pool)
        else:
            ledger_transfers.import_export(books, path)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
